// out = a . w^T by table: all sums +-a0 +-a1 +-a2 +-a3 of four activations are worked out once and shared by all rows of
// w, whose bit planes are the indices (LUT Tensor Core, ISCA'25, 3.1; T-MAC, EuroSys'25). The sum for a pattern is minus
// that for the opposite one, so that 8 of the 16 are kept. A lane takes one row of w, a workgroup one row of a.
// Needs the decode part of the prelude for a, and the lookup part for w; K is a multiple of 4.

const LANES = 64u;
const CHUNK = 256u;           // values of k whose tables are in workgroup memory together
const TABLES = CHUNK / 4u;

var<workgroup> tables: array<f32, TABLES * 8u>;
var<workgroup> sums: array<f32, LANES>;

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
  let n0 = (tile.x + tile.y * tiles.x) * LANES;
  if (n0 >= N) { return; }
  let n = min(n0 + lane, N - 1u);
  let m = tile.z;
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(tiles.z, 1u);
  let depth = K * one;
  var sum = 0f;
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
      var codes = 0f;
      for (var p = 0u; p < PLANES * one; p++) {
        let word = w_plane(n, k, p);
        var part = 0f;
        for (var at = k; at < last; at += 4u) { part += entry((at - k0) / 4u, (word >> (at % 32u)) & 15u); }
        codes += f32(1u << p) * part;
      }
      sum += codes * w_scale(n, k);
      if (W_OFFSET) {
        var total = 0f;
        for (var at = k; at < last; at += 4u) { total += entry((at - k0) / 4u, 15u); }
        sum += total * w_offset(n, k);
      }
    }
    workgroupBarrier();
  }
  sums[lane] = sum;
  workgroupBarrier();
  let at = lane * 4u;
  if (at < LANES && n0 + at < N) {
    store4(m, n0 + at, vec4f(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]));
  }
}
