// out = a . w^T for a few rows of a: the weights are decoded as they are read, each of them once.
// A workgroup takes four rows of w and M_TILE rows of a; its lanes share k, four values at a time, and add up at the
// end. For many rows of a, gemm.wgsl; for integers on both sides, dot.wgsl. Needs the decode part of the prelude.

const LANES = 64u;

var<workgroup> parts: array<vec4<Acc>, LANES>;

@compute @workgroup_size(LANES)
fn gemv(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n = (tile.x + tile.y * tiles.x) * 4u;
  if (n >= N) { return; }
  let m = tile.z * M_TILE;
  var sums: array<vec4<Acc>, M_TILE>;
  for (var k = lane * 4u; k < K; k += LANES * 4u) {
    // Row i of the transposed weights holds value k + i of all four rows, so that each step is a multiply-add.
    var w: mat4x4f;
    for (var r = 0u; r < 4u; r++) { w[r] = w_load4(min(n + r, N - 1u), k); }
    w = transpose(w);
    for (var i = 0u; i < M_TILE; i++) {
      let a = a_load4(min(m + i, M - 1u), k);
      for (var j = 0u; j < 4u; j++) { sums[i] += vec4<Acc>(w[j]) * Acc(a[j]); }
    }
  }
  for (var i = 0u; i < M_TILE; i++) {
    parts[lane] = sums[i];
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
      workgroupBarrier();
      if (lane < half) { parts[lane] += parts[lane + half]; }
    }
    if (lane == 0u && m + i < M) { store4(m + i, n, parts[0]); }
    workgroupBarrier();
  }
}
