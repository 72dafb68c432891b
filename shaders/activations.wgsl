// The input of matrix products, made ready once for all matrices that read it: the norm of a row, or the two products of a
// gate joined, as f32 for weights that are decoded, and as codes of 8 bits with a scale for every 16 values for those that
// are multiplied as integers. A workgroup takes a row. value = scale * code; codes are padded with zeros to whole groups.
// Not here: products (dot.wgsl, gemv.wgsl ...). Norm: x * weight / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019).
// Gate: silu(x) * other (Shazeer 2020, SwiGLU).

override WIDTH: u32 = 40u;
override NORM: bool = true;
override EPS: f32 = 1e-5;
override GATED: bool = false;
/** Whether only rows whose logits are wanted are left. */
override SELECTED: bool = false;

const LANES = 64u;
/** Its root. */
const FEW = 8u;
const GROUP = 16u;
const WORDS = GROUP / 4u;
/** The largest value of a group below which 127 divided by it is no finite f32: its codes are zeros. */
const LEAST = 4e-37;

struct Step { rows: u32, wanted: u32 }

@group(0) @binding(0) var<uniform> step: Step;
/** (rows, WIDTH). */
@group(0) @binding(1) var<storage, read> input: array<f32>;
/** The norm's (WIDTH), or what is gated (rows, WIDTH). */
@group(0) @binding(2) var<storage, read> other: array<f32>;
@group(0) @binding(3) var<storage, read_write> floats: array<f32>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;

var<workgroup> squares: array<f32, LANES>;
var<workgroup> sums: array<f32, FEW>;

@compute @workgroup_size(LANES)
fn activations(
  @builtin(workgroup_id) place: vec3u,
  @builtin(num_workgroups) all: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = place.x;
  if (row >= select(step.rows, step.wanted, SELECTED)) { return; }
  let base = row * WIDTH;
  // Bounds that compilers cannot count to: they would unroll the loops, and take seconds for it.
  let one = min(all.x, 1u);
  var factor = 1f;
  if (NORM) {
    var part = 0f;
    for (var i = lane; i < WIDTH * one; i += LANES) { part += input[base + i] * input[base + i]; }
    squares[lane] = part;
    workgroupBarrier();
    // In two levels, all lanes adding the same numbers in the second: halving would need a barrier each time.
    if (lane < FEW) {
      part = 0f;
      for (var i = lane * FEW; i < (lane + 1u) * FEW * one; i++) { part += squares[i]; }
      sums[lane] = part;
    }
    workgroupBarrier();
    var sum = 0f;
    for (var i = 0u; i < FEW * one; i++) { sum += sums[i]; }
    factor = 1f / sqrt(sum / f32(WIDTH) + EPS);
  }
  let groups = (WIDTH + GROUP - 1u) / GROUP;
  for (var group = lane; group < groups * one; group += LANES) {
    let first = group * GROUP;
    let end = min(first + GROUP, WIDTH);
    var most = 0f;
    var special = false;
    // A queue of four words, so that what is made of values is in the text once, and values are loaded once.
    var q0 = vec4f();
    var q1 = vec4f();
    var q2 = vec4f();
    var q3 = vec4f();
    for (var word = 0u; word < WORDS * one; word++) {
      q0 = q1;
      q1 = q2;
      q2 = q3;
      q3 = vec4f();
      for (var j = 0u; j < 4u; j++) {
        let i = first + word * 4u + j;
        if (i >= end) { break; }
        var x = input[base + i];
        if (NORM) { x *= factor * other[i]; }
        if (GATED) { x = x / (1f + exp(-x)) * other[base + i]; }
        floats[base + i] = x;
        q3[j] = x;
      }
      let sizes = abs(q3);
      most = max(most, max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)));
      special = special || any((bitcast<vec4u>(q3) & vec4u(0x7f800000u)) == vec4u(0x7f800000u));
    }
    // A group with what is no finite number becomes one of NaN, as the sum would be.
    let inverse = select(127f / most, 0f, most < LEAST);
    for (var word = 0u; word < WORDS * one; word++) {
      let bytes = bitcast<vec4u>(vec4i(round(q0 * inverse))) & vec4u(255u);
      let four = bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
      q0 = q1;
      q1 = q2;
      q2 = q3;
      codes[(row * groups + group) * WORDS + word] = select(four, 0x01010101u, special);
    }
    scales[row * groups + group] = select(select(most / 127f, 0f, most < LEAST), bitcast<f32>(0x7fc00000u * one), special);
  }
}
