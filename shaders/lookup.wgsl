// out = a . w^T by table: all sums +-a0 +-a1 +-a2 +-a3 of four activations are worked out once and shared by all rows of
// w, whose bit planes are the indices (LUT Tensor Core, ISCA'25, 3.1; T-MAC, EuroSys'25). The sum for a pattern is minus
// that for the opposite one, so that 8 of the 16 are kept. A lane takes four rows of w and one row of a.
// Needs the decode part of the prelude for a, and the lookup part for w; K is a multiple of 4.

const LANES = 64u;
const CHUNK = 256u;           // values of k whose tables are in workgroup memory together
const TABLES = CHUNK / 4u;

var<workgroup> tables: array<array<f32, 8>, TABLES>;

/** Entry of one table: bit j of the pattern is the sign of a_j, 1 for plus. */
fn entry(table: u32, pattern: u32) -> f32 {
  let positive = pattern >= 8u;
  let kept = tables[table][select(7u - pattern, pattern & 7u, positive)];
  return select(-kept, kept, positive);
}

@compute @workgroup_size(LANES)
fn lookup(
  @builtin(workgroup_id) tile: vec3u,
  @builtin(num_workgroups) tiles: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let n = ((tile.x + tile.y * tiles.x) * LANES + lane) * 4u;
  let m = tile.z;
  var sums = vec4f();
  for (var k0 = 0u; k0 < K; k0 += CHUNK) {
    for (var t = lane; t < TABLES; t += LANES) {
      if (k0 + t * 4u >= K) { break; }
      let a = a_load4(m, k0 + t * 4u);
      for (var j = 0u; j < 8u; j++) {
        let signs = select(vec4f(-1), vec4f(1), vec4<bool>((j & 1u) != 0u, (j & 2u) != 0u, (j & 4u) != 0u, true));
        tables[t][j] = (signs.x * a.x + signs.y * a.y) + (signs.z * a.z + signs.w * a.w);
      }
    }
    workgroupBarrier();
    for (var r = 0u; r < 4u && n + r < N; r++) {
      var codes = 0f;
      var total = 0f;
      for (var k32 = k0; k32 < min(k0 + CHUNK, K); k32 += 32u) {
        var planes: array<u32, PLANES>;
        for (var p = 0u; p < PLANES; p++) { planes[p] = w_plane(n + r, k32, p); }
        for (var k = k32; k < min(k32 + 32u, K); k += 4u) {
          let table = (k - k0) / 4u;
          for (var p = 0u; p < PLANES; p++) {
            codes += f32(1u << p) * entry(table, (planes[p] >> (k % 32u)) & 15u);
          }
          if (W_OFFSET) { total += tables[table][7]; }
          // A group ends here, or the chunk does: it is scaled as far as it has come.
          let next = k + 4u;
          if (next % GROUP == 0u || next == min(k0 + CHUNK, K)) {
            sums[r] += codes * w_scale(n + r, k);
            if (W_OFFSET) { sums[r] += total * w_offset(n + r, k); }
            codes = 0f;
            total = 0f;
          }
        }
      }
    }
    workgroupBarrier();
  }
  if (n < N) { store4(m, n, sums); }
}
