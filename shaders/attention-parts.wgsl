// What kernels of attention have in common, before whose bodies this text stands: their numbers and buffers, how a query is
// turned by its position (rope.wgsl says how), and how what comes out is made ready for products where it goes straight into
// them (activations.wgsl says how), since passes of their own over so few numbers cost more than the work. Query head h reads
// key head floor(h * KV_HEADS / HEADS). A body has `made(i)`, number i of what came out of its workgroup.

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
/** Words of a head. */
override WORDS: u32 = (HEAD_DIM + 1u) / 2u;

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
    let x = made(first + i);
    most = max(most, abs(x));
    special = special || (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u;
  }
  let inverse = select(127f / most, 0f, most < LEAST);
  for (var word = 0u; word < GROUP / 4u * one; word++) {
    var four = 0u;
    for (var j = 0u; j < 4u; j++) {
      four |= (u32(i32(round(made(first + word * 4u + j) * inverse))) & 255u) << (8u * j);
    }
    codes[group * (GROUP / 4u) + word] = select(four, 0x01010101u, special);
  }
  scales[group] = select(select(most / 127f, 0f, most < LEAST), bitcast<f32>(0x7fc00000u * one), special);
}
