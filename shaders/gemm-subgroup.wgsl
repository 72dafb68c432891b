// out = a . w^T for packed integer codes with scales on the side of w and numbers on that of a: the codes are decoded once
// for M_TILE rows of a, and each lane of a subgroup reads other activations and hands them on to all by shuffles.
// A lane takes four neighbouring rows of w and all of k; sums stay in registers. It is for machines where a lane's own loads
// are dear and shuffles are not, software ones (lavapipe) first of all; dot.wgsl is for those that multiply bytes.
// Rows of a are a queue, moved on by one for each, so that what reads and stores them, which compilers take long for, is in
// the text once. Needs the packed part of the prelude, a_load4 and store4, and the feature subgroups, of at least 4 lanes;
// any number of them does. How lanes of a workgroup are numbered within subgroups does not matter.

const LANES = 32u;

/** Adds 16 products to each of four outputs; lane i and the three behind it have the 16 activations. */
fn add(sum: ptr<function, vec4f>, a: vec4f, i: u32, w: Values) {
  let a0 = subgroupShuffle(a, i);
  let a1 = subgroupShuffle(a, i + 1u);
  let a2 = subgroupShuffle(a, i + 2u);
  let a3 = subgroupShuffle(a, i + 3u);
  *sum += w.k0 * a0 + w.k1 * a1 + w.k2 * a2 + w.k3 * a3;
}

@compute @workgroup_size(LANES)
fn gemm_subgroup(
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
  for (var k0 = 0u; k0 < K * one; k0 += 4u * size) {
    let at = min(k0 + 4u * own, K - 4u);
    // What lies beyond the row counts as 0.
    let inside = k0 + 4u * own < K;
    var a0: vec4f;
    var a1: vec4f;
    var a2: vec4f;
    var a3: vec4f;
    var a4: vec4f;
    var a5: vec4f;
    var a6: vec4f;
    var a7: vec4f;
    for (var i = M_TILE * one; i > 0u; i--) {
      if (M_TILE > 7u) { a7 = a6; }
      if (M_TILE > 6u) { a6 = a5; }
      if (M_TILE > 5u) { a5 = a4; }
      if (M_TILE > 4u) { a4 = a3; }
      if (M_TILE > 3u) { a3 = a2; }
      if (M_TILE > 2u) { a2 = a1; }
      if (M_TILE > 1u) { a1 = a0; }
      a0 = select(vec4f(), a_load4(min(m0 + i - 1u, last), at), inside);
    }
    for (var i = 0u; i < size && k0 + 4u * i < K; i += 4u) {
      let k = k0 + 4u * i;
      if (k % W_UNIT == 0u) { units = w_units(row, k / W_UNIT); }
      let w = w_values(units, row, k);
      add(&s0, a0, i, w);
      if (M_TILE > 1u) { add(&s1, a1, i, w); }
      if (M_TILE > 2u) { add(&s2, a2, i, w); }
      if (M_TILE > 3u) { add(&s3, a3, i, w); }
      if (M_TILE > 4u) { add(&s4, a4, i, w); }
      if (M_TILE > 5u) { add(&s5, a5, i, w); }
      if (M_TILE > 6u) { add(&s6, a6, i, w); }
      if (M_TILE > 7u) { add(&s7, a7, i, w); }
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
