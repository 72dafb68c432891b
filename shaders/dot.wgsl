// out = a . w^T where both sides are integer codes with scales: the codes are multiplied and summed in 32-bit integers,
// four products to an instruction, and every piece of k with the same scales is scaled once.
// A lane takes four neighbouring rows of w and M_TILE rows of a; TILE lanes lie along n, and SHARES of them share k and
// add up at the end. An activation's address is the same for all lanes of a share. Sums of several rows of a lie in
// workgroup memory, so that the text, which compilers take long for, is there once.
// Needs the packed and the dot part of the prelude; dot4I8Packed is the language feature packed_4x8_integer_dot_product.

const LANES = TILE * SHARES;
const ONES = 0x01010101u;

var<workgroup> sums: array<vec4<Acc>, LANES * M_TILE>;

/** Products of one word of codes of a with that of each of four rows of w. */
fn dot4(a: u32, w: vec4u) -> vec4i {
  return vec4i(dot4I8Packed(a, w.x), dot4I8Packed(a, w.y), dot4I8Packed(a, w.z), dot4I8Packed(a, w.w));
}

/** What 16 values from k on add to the outputs of row m. */
fn part_of(m: u32, n: u32, k: u32, w: Codes) -> vec4<Acc> {
  let a = a_bytes(m, k);
  if (PIECE == 16u) {
    let products = dot4(a.x, w.k0) + dot4(a.y, w.k1) + dot4(a.z, w.k2) + dot4(a.w, w.k3);
    var a_sum = 0i;
    if (W_OFFSET) {
      a_sum = dot4I8Packed(a.x, ONES) + dot4I8Packed(a.y, ONES) + dot4I8Packed(a.z, ONES) + dot4I8Packed(a.w, ONES);
    }
    var w_sum = vec4i();
    if (A_OFFSET) { w_sum = dot4(ONES, w.k0) + dot4(ONES, w.k1) + dot4(ONES, w.k2) + dot4(ONES, w.k3); }
    return scaled(products, a_sum, w_sum, m, n, k);
  }
  // Scales of so few values: each word for itself, those beyond the row left out.
  var sum = four(a.x, w.k0, m, n, k);
  if (k + 4u < K) { sum += four(a.y, w.k1, m, n, k + 4u); }
  if (k + 8u < K) { sum += four(a.z, w.k2, m, n, k + 8u); }
  if (k + 12u < K) { sum += four(a.w, w.k3, m, n, k + 12u); }
  return sum;
}

fn four(a: u32, w: vec4u, m: u32, n: u32, k: u32) -> vec4<Acc> {
  return scaled(dot4(a, w), dot4I8Packed(a, ONES), dot4(ONES, w), m, n, k);
}

@compute @workgroup_size(LANES)
fn dot_product(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n0 = (tile.x + tile.y * tiles.x) * TILE * 4u;
  if (n0 >= N) { return; }
  // Lanes beyond the last row do as its lane does, and store nothing.
  let n = n0 + lane % TILE * 4u;
  let row = min(n, (N - 1u) / 4u * 4u);
  let m0 = tile.z * M_TILE;
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  let count = min(M_TILE, rows() - m0) * one;
  var sum = vec4<Acc>();
  for (var unit = lane / TILE; unit * W_UNIT < K * one; unit += SHARES) {
    let units = w_units(row, unit);
    for (var part = 0u; part < W_UNIT / 16u * one; part++) {
      let k = unit * W_UNIT + part * 16u;
      if (k < K) {
        let w = w_codes(units, part);
        if (M_TILE == 1u) {
          sum += part_of(m0, row, k, w);
        } else {
          for (var i = 0u; i < count; i++) { sums[i * LANES + lane] += part_of(m0 + i, row, k, w); }
        }
      }
    }
  }
  if (M_TILE == 1u) { sums[lane] = sum; }
  for (var half = SHARES / 2u * one; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half * TILE) {
      for (var i = 0u; i < count; i++) { sums[i * LANES + lane] += sums[i * LANES + lane + half * TILE]; }
    }
  }
  if (lane < TILE && n < N) {
    for (var i = 0u; i < count; i++) { store4(m0 + i, n, sums[i * LANES + lane]); }
  }
}
