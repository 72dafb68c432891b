// Keeps the rows whose logits are wanted, in their order. A lane takes one number of one row.

override WIDTH: u32 = 8u;
/** What stands for a row that is not wanted. */
const UNWANTED = 0xffffffffu;

struct Step { rows: u32, wanted: u32 }

@group(0) @binding(0) var<uniform> step: Step;
/** Token, slot, position, and the row's number among those whose logits are wanted. */
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
/** (rows, WIDTH). */
@group(0) @binding(2) var<storage, read> input: array<f32>;
/** (wanted, WIDTH). */
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn keep(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= WIDTH || id.y >= step.rows) { return; }
  let to = rows[id.y].w;
  if (to != UNWANTED) { out[to * WIDTH + id.x] = input[id.y * WIDTH + id.x]; }
}
