// out = a . w^T for many rows of a: a workgroup decodes a tile of either side into its memory, and each of its lanes
// multiplies two rows of a by four of w in registers. All of k is summed by one lane, in order.
// For a few rows of a, gemv.wgsl. Needs the decode part of the prelude.

const SIDE = 8u;              // lanes along m and along n
const A_ROWS = 2u * SIDE;
const W_ROWS = 4u * SIDE;
const DEPTH = 16u;            // values of k
const QUADS = DEPTH / 4u;

var<workgroup> a_tile: array<vec4<Acc>, A_ROWS * QUADS>;
var<workgroup> w_tile: array<vec4<Acc>, W_ROWS * QUADS>;

@compute @workgroup_size(SIDE, SIDE)
fn gemm(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_id) lane: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let n0 = (tile.x + tile.y * tiles.x) * W_ROWS;
  if (n0 >= N) { return; }
  let m0 = tile.z * A_ROWS;
  // The quads of one row lie side by side; a row beyond the last is the last, and is not stored.
  let row = index / QUADS;
  var upper = vec4<Acc>();
  var lower = vec4<Acc>();
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  let depth = K * one;
  for (var k0 = 0u; k0 < depth; k0 += DEPTH) {
    let k = k0 + index % QUADS * 4u;
    if (k < K) {
      a_tile[index] = vec4<Acc>(a_load4(min(m0 + row, rows() - 1u), k));
    } else {
      a_tile[index] = vec4<Acc>();
    }
    for (var r = row; r < W_ROWS * one; r += A_ROWS) {
      var w = vec4f();
      if (k < K) { w = w_load4(min(n0 + r, N - 1u), k); }
      w_tile[r * QUADS + index % QUADS] = vec4<Acc>(w);
    }
    workgroupBarrier();
    for (var quad = 0u; quad < QUADS * one; quad++) {
      let at = lane.x * 4u * QUADS + quad;
      let a0 = a_tile[lane.y * 2u * QUADS + quad];
      let a1 = a_tile[(lane.y * 2u + 1u) * QUADS + quad];
      let w0 = w_tile[at];
      let w1 = w_tile[at + QUADS];
      let w2 = w_tile[at + 2u * QUADS];
      let w3 = w_tile[at + 3u * QUADS];
      upper += vec4(dot(a0, w0), dot(a0, w1), dot(a0, w2), dot(a0, w3));
      lower += vec4(dot(a1, w0), dot(a1, w1), dot(a1, w2), dot(a1, w3));
    }
    workgroupBarrier();
  }
  let m = m0 + lane.y * 2u;
  let n = n0 + lane.x * 4u;
  if (n < N && m < rows()) { store4(m, n, upper); }
  if (n < N && m + 1u < rows()) { store4(m + 1u, n, lower); }
}
