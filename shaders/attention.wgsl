// Causal softmax attention over the cache: a workgroup takes one head of one row, and its positions in tiles as large as
// the workgroup, with the running maximum and sum of FlashAttention (Dao et al. 2022), so that no row of scores is stored.
// Scores: a lane takes one position. Sums: a lane takes one word (two numbers) of the head for a share of the positions.
// Scores and sums are f32. Needs attention-parts.wgsl.

/** How many shares of a tile's positions as many lanes can take. */
override SHARES: u32 = max(1u, LANES / WORDS);

const LANES = 64u;

var<workgroup> query: array<f32, 2u * WORDS>;
var<workgroup> scores: array<f32, LANES>;
var<workgroup> weights: array<f32, LANES>;
var<workgroup> sums: array<vec2f, WORDS * SHARES>;

@compute @workgroup_size(LANES)
fn attention(
  @builtin(workgroup_id) place: vec3u,
  @builtin(num_workgroups) all: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let head = place.x;
  let r = place.y;
  if (r >= step.rows) { return; }
  let row = rows[r];
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(all.x, 1u);
  let words = WORDS * one;
  let start = (r * HEADS + head) * HEAD_DIM;
  for (var i = lane; i < 2u * words; i += LANES) {
    var x = 0f;
    if (i < HEAD_DIM) { x = turned(start, i, r); }
    query[i] = x * SCALE;
  }
  for (var i = lane; i < WORDS * SHARES * one; i += LANES) { sums[i] = vec2f(); }
  let base = (row.y * KV_HEADS + head * KV_HEADS / HEADS) * CONTEXT * WORDS;
  let count = row.z + 1u;
  var largest = LOWEST;
  var total = 0f;
  workgroupBarrier();
  for (var first = 0u; first < count; first += LANES) {
    let end = min(LANES, count - first);
    var score = LOWEST;
    if (lane < end) {
      score = 0f;
      let at = base + (first + lane) * WORDS;
      for (var w = 0u; w < words; w++) {
        let key = unpack2x16float(keys[at + w]);
        score += query[2u * w] * key.x + query[2u * w + 1u] * key.y;
      }
    }
    scores[lane] = score;
    workgroupBarrier();
    // All lanes go through the same numbers, which costs less than halving with a barrier each time.
    var top = largest;
    for (var p = 0u; p < end; p++) { top = max(top, scores[p]); }
    let shrink = exp(largest - top);
    largest = top;
    weights[lane] = exp(score - top);
    workgroupBarrier();
    total *= shrink;
    for (var p = 0u; p < end; p++) { total += weights[p]; }
    for (var i = lane; i < WORDS * SHARES * one; i += LANES) {
      let word = i % WORDS;
      var sum = sums[i] * shrink;
      for (var p = i / WORDS; p < end; p += SHARES) {
        sum += weights[p] * unpack2x16float(values[base + (first + p) * WORDS + word]);
      }
      sums[i] = sum;
    }
  }
  workgroupBarrier();
  for (var w = lane; w < words; w += LANES) {
    var sum = vec2f();
    for (var share = 0u; share < SHARES * one; share++) { sum += sums[share * WORDS + w]; }
    sum /= total;
    out[start + 2u * w] = sum.x;
    query[2u * w] = sum.x;
    if (2u * w + 1u < HEAD_DIM) {
      out[start + 2u * w + 1u] = sum.y;
      query[2u * w + 1u] = sum.y;
    }
  }
  if (!QUANTISED) { return; }
  workgroupBarrier();
  for (var group = lane; group < HEAD_DIM / GROUP * one; group += LANES) {
    quantise(group * GROUP, start / GROUP + group, one);
  }
}

fn made(i: u32) -> f32 { return query[i]; }
