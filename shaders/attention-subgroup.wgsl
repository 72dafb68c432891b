// The same attention for many queries: a workgroup, which is one subgroup, takes up to eight queries that read the same key
// head, be they several heads of a row or several rows, so that each key and value is read once for all of them. Positions
// come four to a lane. Scores: a lane takes its positions, and queries are handed on by shuffles; sums: a lane takes words of
// the head, and weights are handed on. Queries of other slots wait for a round of their own. HEADS are a multiple of
// KV_HEADS. Needs attention-parts.wgsl and the feature subgroups.

override LANES: u32 = 32u;
/** Query heads that read one key head. */
override SHARE: u32 = HEADS / KV_HEADS;

const QUERIES = 8u;

/** (QUERIES, WORDS). */
var<workgroup> queries: array<vec2f, QUERIES * WORDS>;
var<workgroup> sums: array<vec2f, QUERIES * WORDS>;
var<workgroup> totals: array<f32, QUERIES>;

@compute @workgroup_size(LANES)
fn attention_subgroup(
  @builtin(workgroup_id) place: vec3u,
  @builtin(num_workgroups) all: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = place.y * QUERIES;
  let count = step.rows * SHARE;
  if (first >= count) { return; }
  let live = min(QUERIES, count - first);
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(all.x, 1u);
  for (var i = lane; i < QUERIES * WORDS * one; i += LANES) {
    let q = first + min(i / WORDS, live - 1u);
    let start = start_of(q, place.x);
    let at = i % WORDS * 2u;
    var pair = vec2f(turned(start, at, q / SHARE), 0f);
    if (at + 1u < HEAD_DIM) { pair.y = turned(start, at + 1u, q / SHARE); }
    queries[i] = pair * SCALE;
    sums[i] = vec2f();
  }
  var ends: array<u32, QUERIES>;
  var slots: array<u32, QUERIES>;
  var largest: array<f32, QUERIES>;
  var total: array<f32, QUERIES>;
  for (var r = 0u; r < QUERIES; r++) {
    let row = rows[(first + min(r, live - 1u)) / SHARE];
    slots[r] = row.y;
    ends[r] = row.z + 1u;
    largest[r] = LOWEST;
    total[r] = 0f;
  }
  workgroupBarrier();
  for (var left = live * one; left > 0u; ) {
    // The queries of one slot: the first that is left and those after it.
    let slot = rows[(first + live - left) / SHARE].y;
    var until: array<u32, QUERIES>;
    var most = 0u;
    var same = 0u;
    for (var r = 0u; r < QUERIES; r++) {
      let is_of = r < live && r == live - left + same && slots[r] == slot;
      same += u32(is_of);
      until[r] = select(0u, ends[r], is_of);
      most = max(most, until[r]);
    }
    left -= same;
    let base = (slot * KV_HEADS + place.x) * CONTEXT * WORDS;
    for (var tile = 0u; tile < most; tile += 4u * LANES) {
      let own = vec4u(tile + lane) + LANES * vec4u(0u, 1u, 2u, 3u);
      let at = base + min(own, vec4u(most - 1u)) * WORDS;
      // Said, since Dawn takes what an array of the tile before had for its beginning.
      var s = array<vec4f, QUERIES>();
      for (var w = 0u; w < WORDS * one; w += LANES) {
        var q: array<vec2f, QUERIES>;
        for (var r = 0u; r < QUERIES; r++) { q[r] = queries[r * WORDS + min(w + lane, WORDS - 1u)]; }
        for (var i = 0u; i < LANES && w + i < WORDS; i++) {
          let a = unpack2x16float(keys[at.x + w + i]);
          let b = unpack2x16float(keys[at.y + w + i]);
          let c = unpack2x16float(keys[at.z + w + i]);
          let d = unpack2x16float(keys[at.w + w + i]);
          let even = vec4f(a.x, b.x, c.x, d.x);
          let odd = vec4f(a.y, b.y, c.y, d.y);
          for (var r = 0u; r < QUERIES; r++) {
            let pair = subgroupShuffle(q[r], i);
            s[r] += even * pair.x + odd * pair.y;
          }
        }
      }
      var shrink: array<f32, QUERIES>;
      for (var r = 0u; r < QUERIES; r++) {
        let is_seen = own < vec4u(until[r]);
        let seen = select(vec4f(LOWEST), s[r], is_seen);
        let top = max(largest[r], subgroupMax(max(max(seen.x, seen.y), max(seen.z, seen.w))));
        shrink[r] = exp(largest[r] - top);
        largest[r] = top;
        s[r] = select(vec4f(), exp(seen - top), is_seen);
        total[r] = total[r] * shrink[r] + ((s[r].x + s[r].y) + (s[r].z + s[r].w));
      }
      for (var w = 0u; w < WORDS * one; w += LANES) {
        let word = min(w + lane, WORDS - 1u);
        var sum: array<vec2f, QUERIES>;
        for (var r = 0u; r < QUERIES; r++) { sum[r] = sums[r * WORDS + word] * shrink[r]; }
        for (var j = 0u; j < 4u * one; j++) {
          let begin = tile + j * LANES;
          for (var i = 0u; i < LANES && begin + i < most; i++) {
            let value = unpack2x16float(values[base + (begin + i) * WORDS + word]);
            for (var r = 0u; r < QUERIES; r++) { sum[r] += subgroupShuffle(s[r].x, i) * value; }
          }
          // The next of a lane's four positions; after all four the first again.
          for (var r = 0u; r < QUERIES; r++) { s[r] = s[r].yzwx; }
        }
        // Lanes beyond the head would store what its last has.
        if (w + lane < WORDS) {
          for (var r = 0u; r < QUERIES; r++) { sums[r * WORDS + word] = sum[r]; }
        }
      }
    }
  }
  for (var r = 0u; r < QUERIES; r++) {
    let sum = subgroupAdd(total[r]);
    if (lane == 0u) { totals[r] = sum; }
  }
  workgroupBarrier();
  for (var i = lane; i < live * WORDS * one; i += LANES) {
    let sum = sums[i] / totals[i / WORDS];
    let at = i % WORDS * 2u;
    let start = start_of(first + i / WORDS, place.x);
    out[start + at] = sum.x;
    if (at + 1u < HEAD_DIM) { out[start + at + 1u] = sum.y; }
    sums[i] = sum;
  }
  if (!QUANTISED) { return; }
  workgroupBarrier();
  let groups = HEAD_DIM / GROUP;
  for (var i = lane; i < live * groups * one; i += LANES) {
    quantise(i * GROUP, start_of(first + i / groups, place.x) / GROUP + i % groups, one);
  }
}

/** Where query q of those of a key head begins, among (rows, HEADS, HEAD_DIM). */
fn start_of(q: u32, key_head: u32) -> u32 {
  return (q / SHARE * HEADS + key_head * SHARE + q % SHARE) * HEAD_DIM;
}

fn made(i: u32) -> f32 {
  let pair = sums[i / 2u];
  return select(pair.x, pair.y, i % 2u == 1u);
}
