// out = a . w^T where both sides are integer codes with scales, as dot.wgsl, for machines that multiply no bytes and where a
// lane's own loads are dear and shuffles are not: software ones (lavapipe). Each lane of a subgroup reads 16 activations of
// M_TILE rows of a, and hands them on to all by shuffles; a lane takes four neighbouring rows of w and all of k.
// Codes of few bits are multiplied two values of k at a time: with both in one word on either side, the middle of a product
// of words is the sum of two (two 8-bit products in one multiplier of an FPGA are of the same kind: Fu et al., "Deep Learning
// with INT8 Optimization on Xilinx Devices", WP486, 2016). The prelude says how values lie in words, the body does not.
// Rows of a are a queue, moved on by one for each, so that what reads and stores them, which compilers take long for, is in
// the text once. Needs the packed and the sums part of the prelude, a_bytes, a_scale with the same scale for 16 values, no
// offsets of a, and the feature subgroups, of at least 4 lanes; any number of them does.

const LANES = 32u;
const ONES = 0x01010101u;

/** 16 values of a row of a. */
struct Row {
  q0: Input,
  q1: Input,
  q2: Input,
  q3: Input,
  scale: f32,
  /** What their sums begin with. */
  seed: i32,
  /** The sum of the values: what an offset of w is multiplied by. */
  total: f32,
}

fn row_of(m: u32, k: u32) -> Row {
  let codes = a_bytes(m, k);
  let scale = a_scale(m, k);
  let pairs = vec2i(
    dot4I8Packed(codes.x, ONES) + dot4I8Packed(codes.y, ONES),
    dot4I8Packed(codes.z, ONES) + dot4I8Packed(codes.w, ONES),
  );
  let sum = pairs.x + pairs.y;
  let total = select(0f, f32(sum) * scale, W_OFFSET);
  return Row(w_input(codes.x), w_input(codes.y), w_input(codes.z), w_input(codes.w), scale, w_seed(sum), total);
}

/** Products of four values of k, which lane i has. */
fn four(a: Input, i: u32, w: Four) -> vec4i { return w_products(subgroupShuffle(a, i), w); }

/** Adds the products of the 16 values of lane i to four outputs. */
fn add(sum: ptr<function, vec4f>, a: Row, i: u32, w: Factors, scale: vec4f, offset: vec4f) {
  let sums = vec4i(subgroupShuffle(a.seed, i))
    + ((four(a.q0, i, w.q0) + four(a.q1, i, w.q1)) + (four(a.q2, i, w.q2) + four(a.q3, i, w.q3)));
  *sum += vec4f(w_sums(sums)) * (subgroupShuffle(a.scale, i) * scale);
  if (W_OFFSET) { *sum += subgroupShuffle(a.total, i) * offset; }
}

@compute @workgroup_size(LANES)
fn dot_subgroup(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_size) width: u32,
  @builtin(subgroup_invocation_id) own: u32,
) {
  let n0 = (tile.x + tile.y * tiles.x) * LANES * 4u;
  if (n0 >= N) { return; }
  // Lanes beyond the last row do as its lane does, and store nothing.
  let n = n0 + lane * 4u;
  let row = min(n, (N - 1u) / 4u * 4u);
  let m0 = tile.z * M_TILE;
  let last = rows() - 1u;
  // A workgroup may be smaller than a subgroup: there are no more lanes than it has.
  let size = min(width, LANES);
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  var s0 = vec4f();
  var s1 = vec4f();
  var s2 = vec4f();
  var s3 = vec4f();
  var s4 = vec4f();
  var s5 = vec4f();
  var s6 = vec4f();
  var s7 = vec4f();
  var units: Units;
  var scale = vec4f();
  var offset = vec4f();
  for (var k0 = 0u; k0 < K * one; k0 += 16u * size) {
    // Nobody takes anything from lanes that lie beyond the row.
    let at = min(k0 + 16u * own, (K - 1u) / 16u * 16u);
    var a0: Row;
    var a1: Row;
    var a2: Row;
    var a3: Row;
    var a4: Row;
    var a5: Row;
    var a6: Row;
    var a7: Row;
    for (var i = M_TILE * one; i > 0u; i--) {
      if (M_TILE > 7u) { a7 = a6; }
      if (M_TILE > 6u) { a6 = a5; }
      if (M_TILE > 5u) { a5 = a4; }
      if (M_TILE > 4u) { a4 = a3; }
      if (M_TILE > 3u) { a3 = a2; }
      if (M_TILE > 2u) { a2 = a1; }
      if (M_TILE > 1u) { a1 = a0; }
      a0 = row_of(min(m0 + i - 1u, last), at);
    }
    for (var i = 0u; i < size && k0 + 16u * i < K; i++) {
      let k = k0 + 16u * i;
      if (k % W_UNIT == 0u) { units = w_units(row, k / W_UNIT); }
      if (k % W_GROUP == 0u) {
        scale = w_scale4(row, k);
        offset = w_offset4(row, k);
      }
      let w = w_factors(units, k / 16u % (W_UNIT / 16u));
      add(&s0, a0, i, w, scale, offset);
      if (M_TILE > 1u) { add(&s1, a1, i, w, scale, offset); }
      if (M_TILE > 2u) { add(&s2, a2, i, w, scale, offset); }
      if (M_TILE > 3u) { add(&s3, a3, i, w, scale, offset); }
      if (M_TILE > 4u) { add(&s4, a4, i, w, scale, offset); }
      if (M_TILE > 5u) { add(&s5, a5, i, w, scale, offset); }
      if (M_TILE > 6u) { add(&s6, a6, i, w, scale, offset); }
      if (M_TILE > 7u) { add(&s7, a7, i, w, scale, offset); }
    }
  }
  if (n < N) {
    for (var m = m0; m < min(m0 + M_TILE, last + 1u) * one; m++) {
      store4(m, n, s0);
      if (M_TILE > 1u) { s0 = s1; }
      if (M_TILE > 2u) { s1 = s2; }
      if (M_TILE > 3u) { s2 = s3; }
      if (M_TILE > 4u) { s3 = s4; }
      if (M_TILE > 5u) { s4 = s5; }
      if (M_TILE > 6u) { s5 = s6; }
      if (M_TILE > 7u) { s6 = s7; }
    }
  }
}
