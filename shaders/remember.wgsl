// Puts the keys and values of a step's rows into the cache of their slots, two f16 to a word, (slot, head, position, word),
// keys turned by their position first (rope.wgsl says how). A lane takes one word of both; of an odd number of values the
// last word is half empty.

override HEADS: u32 = 2u;
override HEAD_DIM: u32 = 8u;
override CONTEXT: u32 = 16u;
/** Of keys that are to be turned; 0 where they are as they shall be. */
override PAIRS: u32 = 4u;
override ADJACENT: bool = true;

struct Step { rows: u32, wanted: u32 }

@group(0) @binding(0) var<uniform> step: Step;
/** Token, slot, position, and the row's number among those whose logits are wanted. */
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
/** (rows, PAIRS): cosine and sine. */
@group(0) @binding(2) var<storage, read> turns: array<vec2f>;
/** (rows, HEADS, HEAD_DIM), as the values. */
@group(0) @binding(3) var<storage, read> keys: array<f32>;
@group(0) @binding(4) var<storage, read> values: array<f32>;
@group(0) @binding(5) var<storage, read_write> key_cache: array<u32>;
@group(0) @binding(6) var<storage, read_write> value_cache: array<u32>;

/** Beyond the largest f16 it is infinite, as a conversion that rounds would have it; WGSL's own leaves that open. */
fn half(x: f32) -> u32 {
  let bits = pack2x16float(vec2f(clamp(x, -65504f, 65504f), 0f));
  let size = bitcast<u32>(x) & 0x7fffffffu;
  if (size > 0x7f800000u) { return 0x7e00u; }
  if (size >= 0x477ff000u) { return select(0x7c00u, 0xfc00u, x < 0f); }
  return bits & 0xffffu;
}

/** Number i of the key that begins at `base`, turned. */
fn turned(base: u32, i: u32, row: u32) -> f32 {
  let x = keys[base + i];
  if (i >= 2u * PAIRS) { return x; }
  let pair = select(i % max(PAIRS, 1u), i / 2u, ADJACENT);
  let first = select(i < PAIRS, i % 2u == 0u, ADJACENT);
  let apart = select(PAIRS, 1u, ADJACENT);
  let turn = turns[row * PAIRS + pair];
  let y = keys[base + select(i - apart, i + apart, first)];
  return x * turn.x + select(y, -y, first) * turn.y;
}

@compute @workgroup_size(64)
fn remember(@builtin(global_invocation_id) id: vec3u) {
  let words = (HEAD_DIM + 1u) / 2u;
  let word = id.x % words;
  let head = id.x / words;
  if (head >= HEADS || id.y >= step.rows) { return; }
  let row = rows[id.y];
  let base = (id.y * HEADS + head) * HEAD_DIM;
  let i = 2u * word;
  var key = half(turned(base, i, id.y));
  var value = half(values[base + i]);
  if (i + 1u < HEAD_DIM) {
    key |= half(turned(base, i + 1u, id.y)) << 16u;
    value |= half(values[base + i + 1u]) << 16u;
  }
  let at = ((row.y * HEADS + head) * CONTEXT + row.z) * words + word;
  key_cache[at] = key;
  value_cache[at] = value;
}
