// Rotary position embedding in place (Su et al. 2021): pair p of a head turns by the angle of its row and pair, whose
// cosine and sine, times the magnitude, are worked out in double precision before.
// A lane takes one pair. "adjacent" pairs (2p, 2p + 1); "split" pairs (p, p + PAIRS).

override HEADS: u32 = 2u;
override HEAD_DIM: u32 = 8u;
override PAIRS: u32 = 4u;
override ADJACENT: bool = true;

struct Step { rows: u32, wanted: u32 }

@group(0) @binding(0) var<uniform> step: Step;
/** (rows, PAIRS): cosine and sine. */
@group(0) @binding(1) var<storage, read> turns: array<vec2f>;
/** (rows, HEADS, HEAD_DIM). */
@group(0) @binding(2) var<storage, read_write> value: array<f32>;

@compute @workgroup_size(64)
fn rope(@builtin(global_invocation_id) id: vec3u) {
  let pair = id.x % PAIRS;
  let head = id.x / PAIRS;
  if (head >= HEADS || id.y >= step.rows) { return; }
  let base = (id.y * HEADS + head) * HEAD_DIM;
  let turn = turns[id.y * PAIRS + pair];
  let a = base + select(pair, 2u * pair, ADJACENT);
  let b = select(a + PAIRS, a + 1u, ADJACENT);
  let x = value[a];
  let y = value[b];
  value[a] = x * turn.x - y * turn.y;
  value[b] = x * turn.y + y * turn.x;
}
