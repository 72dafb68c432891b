// out = a . w^T where both sides are integer codes with scales: the codes are multiplied and summed in 32-bit integers,
// four products to an instruction, and every piece of k with the same scales is scaled once.
// A workgroup takes four rows of w and M_TILE rows of a; 16 lanes share each row's pieces, and add up at the end.
// Needs the dot part of the prelude. dot4I8Packed is the language feature packed_4x8_integer_dot_product.
// Sums lie in workgroup memory, since compilers unroll every loop that indexes a private array.

const LANES = 64u;
const SHARES = LANES / 4u;
const ONES = 0x01010101u;

var<workgroup> sums: array<Acc, LANES * M_TILE>;

@compute @workgroup_size(LANES)
fn dot_product(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n = (tile.x + tile.y * tiles.x) * 4u;
  if (n >= N) { return; }
  let m0 = tile.z * M_TILE;
  let rows = min(M_TILE, M - m0);
  let row = min(n + lane / SHARES, N - 1u);
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  let depth = K * one;
  for (var k0 = lane % SHARES * PIECE; k0 < depth; k0 += SHARES * PIECE) {
    let end = min(k0 + PIECE, depth);
    for (var i = 0u; i < rows; i++) {
      let m = m0 + i;
      var products = 0i;
      var a_sum = 0i;
      var w_sum = 0i;
      for (var k = k0; k < end; k += 4u) {
        let a = a_quad(m, k);
        let w = w_quad(row, k);
        products += dot4I8Packed(a, w);
        if (W_OFFSET) { a_sum += dot4I8Packed(a, ONES); }
        if (A_OFFSET) { w_sum += dot4I8Packed(w, ONES); }
      }
      sums[i * LANES + lane] += scaled(products, a_sum, w_sum, m, row, k0);
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
    store4(m0 + lane, n, vec4(sums[at], sums[at + SHARES], sums[at + 2u * SHARES], sums[at + 3u * SHARES]));
  }
}
