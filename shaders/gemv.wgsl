// out = a . w^T for a few rows of a: the weights are decoded as they are read, each of them once for M_TILE rows of a.
// A workgroup takes four rows of w; 16 lanes share each, four values of k at a time, and add up at the end.
// For many rows of a, gemm.wgsl; for integers on both sides, dot.wgsl. Needs the decode part of the prelude.
// Sums lie in workgroup memory, since compilers unroll every loop that indexes a private array.

const LANES = 64u;
const SPLIT = LANES / 4u;

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
  let count = min(M_TILE, rows() - m);
  let row = min(n + lane / SPLIT, N - 1u);
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  let depth = K * one;
  for (var k = lane % SPLIT * 4u; k < depth; k += SPLIT * 4u) {
    let w = vec4<Acc>(w_load4(row, k));
    for (var i = 0u; i < count; i++) {
      sums[i * LANES + lane] += dot(vec4<Acc>(a_load4(m + i, k)), w);
    }
  }
  for (var half = SPLIT / 2u * one; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane % SPLIT < half) {
      for (var i = 0u; i < count; i++) { sums[i * LANES + lane] += sums[i * LANES + lane + half]; }
    }
  }
  workgroupBarrier();
  if (lane < count) {
    let at = lane * LANES;
    store4(m + lane, n, vec4(sums[at], sums[at + SPLIT], sums[at + 2u * SPLIT], sums[at + 3u * SPLIT]));
  }
}
