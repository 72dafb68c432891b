// Causal softmax attention over the cache: a workgroup takes one head of one row, and its positions in tiles as large as
// the workgroup, with the running maximum and sum of FlashAttention (Dao et al. 2022), so that no row of scores is stored.
// Scores: a lane takes one position. Sums: a lane takes one word (two numbers) of the head for a share of the positions.
// The query is turned by its position as it is read (rope.wgsl says how), and what comes out is made ready for products
// where it goes straight into them (activations.wgsl says how), since each pass of its own over so few numbers costs more
// than the work. Query head h reads key head floor(h * KV_HEADS / HEADS). Scores and sums are f32.

override HEADS: u32 = 4u;
override KV_HEADS: u32 = 2u;
override HEAD_DIM: u32 = 8u;
override CONTEXT: u32 = 16u;
override SCALE: f32 = 0.5;
/** Of queries that are to be turned; 0 where they are as they shall be. */
override PAIRS: u32 = 4u;
override ADJACENT: bool = true;
/** Whether codes are wanted; heads are whole groups then. */
override QUANTISED: bool = false;
/** Words of a head, and how many shares of a tile's positions as many lanes can take. */
override WORDS: u32 = (HEAD_DIM + 1u) / 2u;
override SHARES: u32 = max(1u, LANES / WORDS);

const LANES = 64u;
const GROUP = 16u;
/** As in activations.wgsl. */
const LEAST = 4e-37;
/** Below every score that is a number. */
const LOWEST = -3.4e38;

struct Step { rows: u32, wanted: u32 }

@group(0) @binding(0) var<uniform> step: Step;
/** Token, slot, position, and the row's number among those whose logits are wanted. */
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
/** (rows, PAIRS): cosine and sine. */
@group(0) @binding(2) var<storage, read> turns: array<vec2f>;
/** (rows, HEADS, HEAD_DIM). */
@group(0) @binding(3) var<storage, read> q: array<f32>;
/** (slot, KV_HEADS, CONTEXT, WORDS), two f16 to a word. */
@group(0) @binding(4) var<storage, read> keys: array<u32>;
@group(0) @binding(5) var<storage, read> values: array<u32>;
/** (rows, HEADS, HEAD_DIM). */
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read_write> codes: array<u32>;
@group(0) @binding(8) var<storage, read_write> scales: array<f32>;

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

/** Number i of the query that begins at `base`, turned. */
fn turned(base: u32, i: u32, row: u32) -> f32 {
  let x = q[base + i];
  if (i >= 2u * PAIRS) { return x; }
  let pair = select(i % max(PAIRS, 1u), i / 2u, ADJACENT);
  let first = select(i < PAIRS, i % 2u == 0u, ADJACENT);
  let apart = select(PAIRS, 1u, ADJACENT);
  let turn = turns[row * PAIRS + pair];
  let y = q[base + select(i - apart, i + apart, first)];
  return x * turn.x + select(y, -y, first) * turn.y;
}

/** Sixteen numbers of what came out as a group of codes. */
fn quantise(first: u32, group: u32, one: u32) {
  var most = 0f;
  var special = false;
  for (var i = 0u; i < GROUP * one; i++) {
    let x = query[first + i];
    most = max(most, abs(x));
    special = special || (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u;
  }
  let inverse = select(127f / most, 0f, most < LEAST);
  for (var word = 0u; word < GROUP / 4u * one; word++) {
    var four = 0u;
    for (var j = 0u; j < 4u; j++) {
      four |= (u32(i32(round(query[first + word * 4u + j] * inverse))) & 255u) << (8u * j);
    }
    codes[group * (GROUP / 4u) + word] = select(four, 0x01010101u, special);
  }
  scales[group] = select(select(most / 127f, 0f, most < LEAST), bitcast<f32>(0x7fc00000u * one), special);
}
