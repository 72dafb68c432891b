// out = a . w^T by table, as lookup.wgsl, with each table in eight lanes of a subgroup: lane e works out entry e, and a
// shuffle is the lookup. A lane takes four neighbouring rows of w, a workgroup one row of a.
// Needs a_load4, the packed and the lookup part of the prelude for w with segments of 16 or 32 values, and the feature
// subgroups, of at least 8 lanes; K is a multiple of 4.

const LANES = 32u;

/** What the table looked up by four rows' patterns, which lie in their words from bit `first` on, is. */
fn look(table: f32, words: vec4u, first: u32) -> vec4f {
  // All ones where the sign of the last activation is minus: then it is minus the entry for the opposite pattern.
  let minus = ~bitcast<vec4u>(bitcast<vec4i>(words << vec4u(28u - first)) >> vec4u(31u));
  let at = ((words >> vec4u(first)) ^ minus) & vec4u(7u);
  let kept = vec4f(
    subgroupShuffle(table, at.x),
    subgroupShuffle(table, at.y),
    subgroupShuffle(table, at.z),
    subgroupShuffle(table, at.w),
  );
  return bitcast<vec4f>(bitcast<vec4u>(kept) ^ (minus & vec4u(0x80000000u)));
}

@compute @workgroup_size(LANES)
fn lookup_subgroup(
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
  let m = tile.z;
  // A workgroup may be smaller than a subgroup: there are no more lanes than it has.
  let size = min(width, LANES);
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  // Of the last activation the sign is plus: its own factor is 1.
  let signs = vec4f(select(vec3f(-1), vec3f(1), (vec3u(own) & vec3u(1, 2, 4)) != vec3u()), 1);
  var sum = vec4f();
  for (var k0 = 0u; k0 < K * one; k0 += 4u * size) {
    // What lies beyond the row counts as 0.
    let a = select(vec4f(), a_load4(m, min(k0 + 4u * own, K - 4u)), k0 + 4u * own < K);
    for (var i = 0u; i < size && k0 + 4u * i < K; i += 8u) {
      let k = k0 + 4u * i;
      let t0 = dot(signs, subgroupShuffle(a, i));
      let t1 = dot(signs, subgroupShuffle(a, i + 1u));
      let t2 = dot(signs, subgroupShuffle(a, i + 2u));
      let t3 = dot(signs, subgroupShuffle(a, i + 3u));
      let t4 = dot(signs, subgroupShuffle(a, i + 4u));
      let t5 = dot(signs, subgroupShuffle(a, i + 5u));
      let t6 = dot(signs, subgroupShuffle(a, i + 6u));
      let t7 = dot(signs, subgroupShuffle(a, i + 7u));
      var low = vec4f();
      var high = vec4f();
      for (var p = 0u; p < PLANES * one; p++) {
        let words = w_planes(row, k, p);
        let weight = f32(1u << p);
        low += weight * (look(t0, words, 0u) + look(t1, words, 4u) + look(t2, words, 8u) + look(t3, words, 12u));
        high += weight * (look(t4, words, 16u) + look(t5, words, 20u) + look(t6, words, 24u) + look(t7, words, 28u));
      }
      // The last entry of a table is the sum of its activations.
      var low_sum = 0f;
      var high_sum = 0f;
      if (W_OFFSET) {
        low_sum = subgroupShuffle(t0 + t1 + t2 + t3, 7u);
        high_sum = subgroupShuffle(t4 + t5 + t6 + t7, 7u);
      }
      if (SEGMENT == 32u) {
        sum += (low + high) * w_scale4(row, k);
        if (W_OFFSET) { sum += (low_sum + high_sum) * w_offset4(row, k); }
      } else {
        sum += low * w_scale4(row, k);
        if (W_OFFSET) { sum += low_sum * w_offset4(row, k); }
        if (k + 16u < K) {
          sum += high * w_scale4(row, k + 16u);
          if (W_OFFSET) { sum += high_sum * w_offset4(row, k + 16u); }
        }
      }
    }
  }
  if (n < N) { store4(m, n, sum); }
}
