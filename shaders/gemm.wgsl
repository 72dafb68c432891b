// out = a . w^T for many rows of a: a workgroup decodes a tile of either side into its memory, and each of its lanes
// multiplies 4 x 4 of it in registers. All of k is summed by one lane, in order. For a few rows of a, gemv.wgsl.
// Needs the decode part of the prelude.

const SIDE = 8u;              // lanes along m and along n
const TILE = 4u * SIDE;       // rows of either side
const DEPTH = 16u;            // values of k
const QUADS = DEPTH / 4u;

var<workgroup> a_tile: array<vec4f, TILE * QUADS>;
var<workgroup> w_tile: array<vec4f, TILE * QUADS>;

@compute @workgroup_size(SIDE, SIDE)
fn gemm(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_id) lane: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let n0 = (tile.x + tile.y * tiles.x) * TILE;
  if (n0 >= N) { return; }
  let m0 = tile.z * TILE;
  var sums: array<vec4<Acc>, 4>;
  for (var k0 = 0u; k0 < K; k0 += DEPTH) {
    for (var quad = index; quad < TILE * QUADS; quad += SIDE * SIDE) {
      let k = k0 + quad % QUADS * 4u;
      var a = vec4f();
      var w = vec4f();
      if (k < K) {
        a = a_load4(min(m0 + quad / QUADS, M - 1u), k);
        w = w_load4(min(n0 + quad / QUADS, N - 1u), k);
      }
      a_tile[quad] = a;
      w_tile[quad] = w;
    }
    workgroupBarrier();
    for (var quad = 0u; quad < QUADS; quad++) {
      var w: mat4x4f;
      for (var r = 0u; r < 4u; r++) { w[r] = w_tile[(lane.x * 4u + r) * QUADS + quad]; }
      w = transpose(w);
      for (var i = 0u; i < 4u; i++) {
        let a = a_tile[(lane.y * 4u + i) * QUADS + quad];
        for (var j = 0u; j < 4u; j++) { sums[i] += vec4<Acc>(w[j]) * Acc(a[j]); }
      }
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 4u; i++) {
    let m = m0 + lane.y * 4u + i;
    let n = n0 + lane.x * 4u;
    if (m < M && n < N) { store4(m, n, sums[i]); }
  }
}
