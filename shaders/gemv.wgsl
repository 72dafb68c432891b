// out = a . w^T for a few rows of a: the weights are decoded as they are read, each of them once for M_TILE rows of a.
// A workgroup takes four rows of w; 16 lanes share each, four values of k at a time, and add up at the end.
// For many rows of a, gemm.wgsl; for integers on both sides, dot.wgsl. Needs the decode part of the prelude.
// Sums lie in workgroup memory, since compilers unroll every loop that indexes a private array.

const LANES = 64u;
const SHARES = LANES / 4u;

var<workgroup> sums: array<Acc, LANES * M_TILE>;

@compute @workgroup_size(LANES)
fn gemv(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n = (tile.x + tile.y * tiles.x) * 4u;
  if (n >= N) { return; }
  let m = tile.z * M_TILE;
  let rows = min(M_TILE, M - m);
  let row = min(n + lane / SHARES, N - 1u);
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  let depth = K * one;
  for (var k = lane % SHARES * 4u; k < depth; k += SHARES * 4u) {
    let w = vec4<Acc>(w_load4(row, k));
    for (var i = 0u; i < rows; i++) {
      sums[i * LANES + lane] += dot(vec4<Acc>(a_load4(m + i, k)), w);
    }
  }
  for (var half = SHARES / 2u * one; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane % SHARES < half) {
      for (var i = 0u; i < rows; i++) { sums[i * LANES + lane] += sums[i * LANES + lane + half]; }
    }
  }
  workgroupBarrier();
  if (lane < rows) {
    let at = lane * LANES;
    store4(m + lane, n, vec4(sums[at], sums[at + SHARES], sums[at + 2u * SHARES], sums[at + 3u * SHARES]));
  }
}
