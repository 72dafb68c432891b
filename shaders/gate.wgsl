// The two products of a gated feed-forward joined: silu(gate) * up (Shazeer 2020, SwiGLU). A lane takes one number.

override WIDTH: u32 = 8u;
/** Whether only rows whose logits are wanted are left. */
override SELECTED: bool = false;

struct Step { rows: u32, wanted: u32 }

@group(0) @binding(0) var<uniform> step: Step;
/** (rows, WIDTH), as all three. */
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn join(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= WIDTH || id.y >= select(step.rows, step.wanted, SELECTED)) { return; }
  let at = id.y * WIDTH + id.x;
  let x = gate[at];
  out[at] = x / (1f + exp(-x)) * up[at];
}
