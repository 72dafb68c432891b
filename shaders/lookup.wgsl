// out = a . w^T by table: all sums +-a0 +-a1 +-a2 +-a3 of four activations are worked out once and shared by all rows of
// w, whose bit planes are the indices (LUT Tensor Core, ISCA'25, 3.1; T-MAC, EuroSys'25). The sum for a pattern is minus
// that for the opposite one, so that 8 of the 16 are kept, in workgroup memory. A lane takes four neighbouring rows of w, a
// workgroup one row of a. For tables in the lanes of a subgroup, lookup-subgroup.wgsl.
// Needs a_load4, and the packed and the lookup part of the prelude for w; K is a multiple of 4.

const LANES = 32u;
const CHUNK = 256u;           // values of k whose tables are in workgroup memory together
const TABLES = CHUNK / 4u;

var<workgroup> tables: array<f32, TABLES * 8u>;

/** Entry of one table: bit j of the pattern is the sign of a_j, 1 for plus. */
fn entry(table: u32, pattern: u32) -> f32 {
  let positive = pattern >= 8u;
  let kept = tables[table * 8u + select(7u - pattern, pattern - 8u, positive)];
  return select(-kept, kept, positive);
}

@compute @workgroup_size(LANES)
fn lookup(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n0 = (tile.x + tile.y * tiles.x) * LANES * 4u;
  if (n0 >= N) { return; }
  // Lanes beyond the last row do as its lane does, and store nothing.
  let n = n0 + lane * 4u;
  let row = min(n, (N - 1u) / 4u * 4u);
  let m = tile.z;
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  let depth = K * one;
  var sum = vec4f();
  for (var k0 = 0u; k0 < depth; k0 += CHUNK) {
    for (var t = lane; t < TABLES && k0 + t * 4u < depth; t += LANES) {
      let a = a_load4(m, k0 + t * 4u);
      for (var j = 0u; j < 8u * one; j++) {
        let signs = select(vec3f(-1), vec3f(1), (vec3u(j) & vec3u(1, 2, 4)) != vec3u());
        tables[t * 8u + j] = (signs.x * a.x + signs.y * a.y) + (signs.z * a.z + a.w);
      }
    }
    workgroupBarrier();
    let end = min(k0 + CHUNK, depth);
    for (var k = k0; k < end; k += SEGMENT) {
      // A segment has one scale, and its bits of a plane are in one word.
      let last = min(k + SEGMENT, end);
      var codes = vec4f();
      for (var p = 0u; p < PLANES * one; p++) {
        let words = w_planes(row, k, p);
        var part = vec4f();
        for (var at = k; at < last; at += 4u) {
          let t = (at - k0) / 4u;
          let patterns = (words >> vec4u(at % 32u)) & vec4u(15u);
          part += vec4f(entry(t, patterns.x), entry(t, patterns.y), entry(t, patterns.z), entry(t, patterns.w));
        }
        codes += f32(1u << p) * part;
      }
      sum += codes * w_scale4(row, k);
      if (W_OFFSET) {
        var total = 0f;
        for (var at = k; at < last; at += 4u) { total += entry((at - k0) / 4u, 15u); }
        sum += total * w_offset4(row, k);
      }
    }
    workgroupBarrier();
  }
  if (n < N) { store4(m, n, sum); }
}
