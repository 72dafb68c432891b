// out = a . w^T where both sides are integer codes with scales: the codes are multiplied and summed in 32-bit integers,
// four products to an instruction, and every piece of k with the same scales is scaled once.
// A workgroup takes four rows of w and M_TILE rows of a; its lanes share the pieces, and add up at the end.
// Needs the dot part of the prelude. dot4I8Packed wants the language feature packed_4x8_integer_dot_product.

const LANES = 64u;
const ONES = 0x01010101u;

var<workgroup> parts: array<vec4<Acc>, LANES>;

@compute @workgroup_size(LANES)
fn dot_product(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n = (tile.x + tile.y * tiles.x) * 4u;
  if (n >= N) { return; }
  let m = tile.z * M_TILE;
  var sums: array<vec4<Acc>, M_TILE>;
  for (var k0 = lane * PIECE; k0 < K; k0 += LANES * PIECE) {
    var products: array<vec4i, M_TILE>;
    var a_sums: array<i32, M_TILE>;
    var w_sums: vec4i;
    for (var k = k0; k < k0 + PIECE; k += 4u) {
      var w: vec4u;
      for (var r = 0u; r < 4u; r++) {
        w[r] = w_quad(min(n + r, N - 1u), k);
        if (A_OFFSET) { w_sums[r] += dot4I8Packed(w[r], ONES); }
      }
      for (var i = 0u; i < M_TILE; i++) {
        let a = a_quad(min(m + i, M - 1u), k);
        for (var r = 0u; r < 4u; r++) { products[i][r] += dot4I8Packed(a, w[r]); }
        if (W_OFFSET) { a_sums[i] += dot4I8Packed(a, ONES); }
      }
    }
    for (var i = 0u; i < M_TILE; i++) {
      for (var r = 0u; r < 4u; r++) {
        sums[i][r] += scaled(products[i][r], a_sums[i], w_sums[r], min(m + i, M - 1u), min(n + r, N - 1u), k0);
      }
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
