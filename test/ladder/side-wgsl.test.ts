// The weights' side of WGSL products, put together as a backend does: its own activations and number of rows, the
// compiler's weights and a body. On lavapipe each body differs from the product of exactly decoded values by no more than
// the roundings that it counts.

import { describe, expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { integerOperand, type IntegerOperand } from "../../src/ladder/emit/packing.ts";
import {
  bestBody,
  type BodyName,
  bodyOf,
  dotPiece,
  scaledText,
  weightSide,
  type WeightSide,
} from "../../src/ladder/emit/side-wgsl.ts";
import type { Method } from "../../src/ladder/emit/kernel.ts";
import type { Type } from "../../src/ladder/type.ts";
import { lavapipe } from "../gpu.ts";
import { testWith } from "../oracle/oracle.ts";
import { bodies, boundType, operandOf, OWN, pack, uniform } from "./compiled.ts";
import { programWith } from "./program.ts";

const program = programWith(OWN);
const SEED = 20_261_207;
/** Values of a that share a scale: less than a unit of most codes. */
const GROUP = 16;
/** Activations as numbers, or as bytes with a scale for each GROUP. */
type Activations = "floats" | "bytes";

interface Case {
  readonly body: BodyName;
  readonly weight: string;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

const CASES: readonly Case[] = [
  // Codes of 1, 2, 3, 4, 5, 6 and 8 bits, groups of 16, 32 and 256 values and of the whole matrix, with offsets and without.
  ...["Q1_0", "TQ2_0", "Q3_K", "Q4_0", "Q5_1", "Q6_K", "Q8_0", "IQ4_NL", "Q4_K", "Lumen"].flatMap((weight, w) =>
    (["gemm-subgroup", "dot"] as const).map((body) => ({ body, weight, m: 1 + w, n: 131 - 3 * w, k: 512 })),
  ),
  ...["Q1_0", "TQ2_0", "Q3_K", "Q4_0", "Q5_1", "IQ4_NL", "Lumen"].map((weight, w) => ({
    body: "lookup-subgroup" as const,
    weight,
    m: 2,
    n: 130 + w,
    k: 512,
  })),
  // The same where two rows share a word (codes of up to 15) and where not; with one row of a, with tiles that are full
  // and not, and rows of w that are no whole groups of four.
  ...["Q1_0", "TQ2_0", "Q3_K", "Q4_0", "Q5_1", "Q6_K", "Q8_0", "IQ4_NL", "Q4_K", "MXFP4", "NVFP4"].map((weight, w) => ({
    body: "dot-subgroup" as const,
    weight,
    m: 1 + w,
    n: 131 - 3 * w,
    k: 512,
  })),
  { body: "dot-subgroup", weight: "Whole", m: 17, n: 9, k: 1008 },
  { body: "dot-subgroup", weight: "Q4_0", m: 2, n: 300, k: 32 },
  // Rows that end within a unit, a subgroup's values and a word of a plane.
  { body: "gemm-subgroup", weight: "Whole", m: 17, n: 9, k: 1000 },
  { body: "dot", weight: "Whole", m: 17, n: 9, k: 1008 },
  { body: "lookup-subgroup", weight: "Whole", m: 3, n: 9, k: 1000 },
  { body: "lookup-subgroup", weight: "NVFP4", m: 1, n: 9, k: 64 },
  { body: "gemm-subgroup", weight: "Q4_0", m: 2, n: 300, k: 32 },
];

interface Operands {
  readonly type: Type;
  readonly operand: IntegerOperand;
  readonly side: WeightSide;
  readonly bytes: Uint8Array;
  /** (m, k). */
  readonly codes: Int8Array;
  /** (m, k / GROUP). */
  readonly scales: Float32Array;
  /** (m, k): what the kernel is given, or what codes and scales stand for. */
  readonly values: Float64Array;
}

function operandsOf({ body, weight, m, n, k }: Case, seed: number): Operands {
  const next = uniform(seed);
  const type = boundType(program, weight, n, k);
  const operand = integerOperand(type, body.startsWith("lookup") ? "planes" : "bytes");
  if (operand.kind !== "integers") throw new Error(operand.reason);
  const side = weightSide(type, n, k, operand, { group: 0, binding: 4 });
  if (side.kind === "refused") throw new Error(side.reason);
  const codes = Int8Array.from({ length: m * k }, () => Math.floor(next() * 255) - 127);
  const scales = Float32Array.from({ length: m * Math.ceil(k / GROUP) }, () => 2 ** -7 * (next() + 0.5));
  const values = Float64Array.from(codes, (code, at) =>
    body.startsWith("dot") ? code * scales[Math.floor(at / GROUP)]! : Math.fround(code * 0.37),
  );
  return { type, operand, side, bytes: operandOf(type, (n * k) / type.blockSize, next), codes, scales, values };
}

/** The module, as a backend makes it: rows from a uniform. */
function moduleOf({ body: name, m, n, k }: Case, { operand, side }: Operands): { code: string; given: Activations } {
  const piece = dotPiece(k, { group: GROUP, offset: [] }, operand);
  const body = bodyOf(name, m, { n, k }, operand, piece);
  const consts = Object.entries({ N: n, K: k, ...body.constants });
  const given = name.startsWith("dot") ? "bytes" : "floats";
  const activations = {
    bytes: `@group(0) @binding(0) var<storage, read> a_codes: array<vec4u>;
@group(0) @binding(1) var<storage, read> a_scales: array<f32>;
fn a_bytes(m: u32, k: u32) -> vec4u { return a_codes[(m * K + k) / 16u]; }
fn a_scale(m: u32, k: u32) -> f32 { return a_scales[(m * K + k) / ${GROUP}u]; }
${scaledText(piece, { group: GROUP, offset: [] }, operand, program.elements.get("F32")!)}`,
    floats: `@group(0) @binding(0) var<storage, read> a_floats: array<vec4f>;
fn a_load4(m: u32, k: u32) -> vec4f { return a_floats[(m * K + k) / 4u]; }`,
  };
  const code = [
    ...body.features.map((feature) => `enable ${feature};`),
    ...consts.map(([of, value]) => `const ${of} = ${value}u;`),
    `alias Acc = f32;
@group(0) @binding(2) var<uniform> count: vec4u;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
fn rows() -> u32 { return count.x; }
fn store4(m: u32, n: u32, sums: vec4f) {
  for (var i = 0u; i < 4u && n + i < N; i++) { out[m * N + n + i] = sums[i]; }
}`,
    activations[given],
    side.text,
    bodies.get(body.file),
  ].join("\n");
  return { code, given };
}

async function run(device: GPUDevice, one: Case, operands: Operands): Promise<Float32Array> {
  const { m, n, k } = one;
  const { code, given } = moduleOf(one, operands);
  const body = bodyOf(one.body, m, { n, k }, operands.operand, 16);
  const packed = pack(operands.side.packing!, operands.bytes);
  const content = new Map<number, ArrayBufferView>([[2, Uint32Array.of(m, 0, 0, 0)]]);
  if (given === "bytes") content.set(0, operands.codes).set(1, operands.scales);
  else content.set(0, Float32Array.from(operands.values));
  for (const { binding, part } of operands.side.buffers)
    content.set(binding, packed[part as "codes" | "scales" | "offsets"]);
  for (const { part, bytes } of operands.side.buffers)
    expect(packed[part as "codes" | "scales" | "offsets"].byteLength).toBe(bytes);

  device.pushErrorScope("validation");
  const storage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffers = new Map<number, GPUBuffer>([[3, device.createBuffer({ size: 4 * m * n, usage: storage })]]);
  for (const [binding, { buffer, byteOffset, byteLength }] of content) {
    const usage = binding === 2 ? GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST : storage;
    const made = device.createBuffer({ size: Math.ceil(byteLength / 4) * 4, usage });
    const padded = new Uint8Array(made.size);
    padded.set(new Uint8Array(buffer, byteOffset, byteLength));
    device.queue.writeBuffer(made, 0, padded);
    buffers.set(binding, made);
  }
  const module = device.createShaderModule({ code });
  const layout = device.createBindGroupLayout({
    entries: [...buffers.keys()].map((binding) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: binding === 2 ? "uniform" : binding === 3 ? "storage" : "read-only-storage" },
    })),
  });
  const pipeline = await device.createComputePipelineAsync({
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module, entryPoint: body.entry },
  });
  const entries = [...buffers].map(([binding, buffer]) => ({ binding, resource: { buffer } }));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
  pass.dispatchWorkgroups(Math.ceil(n / body.tile.n), 1, Math.ceil(m / body.tile.m));
  pass.end();
  const out = buffers.get(3)!;
  const back = device.createBuffer({ size: out.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  encoder.copyBufferToBuffer(out, 0, back, 0, out.size);
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (error !== null) throw new Error(error.message);
  await back.mapAsync(GPUMapMode.READ);
  const got = new Float32Array(back.getMappedRange().slice(0));
  for (const buffer of [back, ...buffers.values()]) buffer.destroy();
  return got;
}

const U = 2 ** -24;
/** Of a scale, an offset, their product and sum with a code, and the product with an activation and its scale. */
const OWN_ROUNDINGS = 7;

/** The first output that is off by more than its roundings: gamma_r times the sum of the sizes of all products (Higham, 3.1). */
function firstOff({ body: name, m, n, k }: Case, operands: Operands, got: Float32Array): string | null {
  const { type, operand, side, bytes, values } = operands;
  const w = new Float64Array(n * k);
  decode(type, bytes, w);
  const { scales, offsets, groupOf } = pack(side.packing!, bytes);
  const size = w.map((x, at) => {
    const offset = Math.abs(offsets[groupOf(at)]!);
    const ofScale = name.startsWith("lookup")
      ? (2 ** operand.bits - 1) * Math.abs(scales[groupOf(at)]!)
      : Math.abs(x - offsets[groupOf(at)]!);
    return ofScale + offset;
  });
  const piece = dotPiece(k, { group: GROUP, offset: [] }, operand);
  const roundings = OWN_ROUNDINGS + bodyOf(name, m, { n, k }, operand, piece).additions;
  const gamma = (roundings * U) / (1 - roundings * U);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let [sum, sizes] = [0, 0];
      for (let l = 0; l < k; l++) {
        sum += values[i * k + l]! * w[j * k + l]!;
        sizes += Math.abs(values[i * k + l]!) * size[j * k + l]!;
      }
      const off = Math.abs(got[i * n + j]! - sum);
      // The reference adds doubles, which round too.
      if (!(off <= (gamma + k * 2 ** -53) * sizes))
        return `(${i}, ${j}): ${got[i * n + j]}, and not ${sum}, sizes ${sizes}`;
    }
  }
  return null;
}

const device = await lavapipe();

describe("on lavapipe", () => {
  for (const [c, one] of CASES.entries()) {
    const { body, weight, m, n, k } = one;
    testWith(device, `${body}: ${m} x ${n} x ${k} of ${weight} is within its roundings`, async (gpu) => {
      const operands = operandsOf(one, SEED + c);
      const got = await run(gpu, one, operands);
      expect(firstOff(one, operands, got), `seed ${SEED + c}`).toBeNull();
      expect(got.filter((x) => x !== 0 && Number.isFinite(x)).length).toBeGreaterThan(got.length / 2);
    });
  }
});

/** Blocks of 32 values with a scale of 1: its bytes, those of the codes, and the bytes of the codes of either end. */
const EXTREMES = {
  // -8 and 7, two rows to a word.
  Q4_0: { scale: [0x00, 0x3c], codes: 16, ends: [0x00, 0xff] },
  // -6 and 6, as integers -12 and 12, and two rows to a word though each has a byte.
  MXFP4: { scale: [0x7f], codes: 16, ends: [0xff, 0x77] },
  // -128 and 127, a word for each row.
  Q8_0: { scale: [0x00, 0x3c], codes: 32, ends: [0x80, 0x7f] },
};
for (const [weight, { scale, codes: count, ends }] of Object.entries(EXTREMES)) {
  testWith(device, `dot-subgroup: the largest products of ${weight} fit their sums, to the bit`, async (gpu) => {
    const [m, n, k] = [5, 12, 64];
    const one: Case = { body: "dot-subgroup", weight, m, n, k };
    const next = uniform(SEED);
    const end = <T>([low, high]: readonly T[]): T => (next() < 0.5 ? low! : high!);
    const blocks = Array.from({ length: (n * k) / 32 }, () => {
      const byte = end(ends);
      return [...scale, ...Array.from({ length: count }, () => byte)];
    });
    const given = operandsOf(one, SEED);
    const bytes = Uint8Array.from(blocks.flat());
    const groups = Array.from({ length: (m * k) / GROUP }, () => end([-128, 127]));
    const codes = Int8Array.from({ length: m * k }, (_, at) => groups[Math.floor(at / GROUP)]!);
    const operands = { ...given, bytes, codes, scales: new Float32Array(given.scales.length).fill(1) };
    const got = await run(gpu, one, operands);
    const w = new Float64Array(n * k);
    decode(given.type, bytes, w);
    const sum = (i: number, j: number): number =>
      w.subarray(j * k, (j + 1) * k).reduce((total, x, l) => total + x * codes[i * k + l]!, 0);
    const want = Array.from({ length: m * n }, (_, at) => sum(Math.floor(at / n), at % n));
    expect([...got], `seed ${SEED}`).toEqual(want);
  });
}

test("the text of weights is the same for all numbers of rows, and their buffers have whole tiles of 32", () => {
  const type = program.types.get("Q4_0")!;
  const operand = integerOperand(type, "bytes") as IntegerOperand;
  const sides = [1, 33].map((rows) => weightSide(type, rows, 64, operand, { group: 1, binding: 3 }) as WeightSide);
  expect(sides[0]!.text).toBe(sides[1]!.text);
  expect(sides.map(({ buffers }) => buffers.map(({ binding, part, bytes }) => [binding, part, bytes]))).toEqual([
    [
      [3, "codes", 32 * 32],
      [4, "scales", 32 * 2 * 4],
    ],
    [
      [3, "codes", 64 * 32],
      [4, "scales", 64 * 2 * 4],
    ],
  ]);
});

test("the best body needs no more of a device than it has", () => {
  const operand = (weight: string, form: "bytes" | "planes"): IntegerOperand =>
    integerOperand(program.types.get(weight)!, form) as IntegerOperand;
  const bytes = operand("Q4_0", "bytes");
  const best = (method: Method["kind"], of: IntegerOperand | null, software: boolean): readonly (BodyName | null)[] =>
    [0, 4, 8, 32].map((subgroup) => bestBody(method, 1, of, { software, subgroup }));
  for (const software of [false, true]) {
    expect(best("decode", bytes, software)).toEqual([null, "gemm-subgroup", "gemm-subgroup", "gemm-subgroup"]);
    expect(best("lookup", operand("Q4_0", "planes"), software)).toEqual([
      "lookup",
      "lookup",
      "lookup-subgroup",
      "lookup-subgroup",
    ]);
  }
  expect(best("dot", bytes, false)).toEqual(["dot", "dot", "dot", "dot"]);
  expect(best("dot", bytes, true)).toEqual(["dot", "dot-subgroup", "dot-subgroup", "dot-subgroup"]);
  expect([1, 8, 9].map((rows) => bestBody("decode", rows, null, { software: false, subgroup: 32 }))).toEqual([
    "gemv",
    "gemv",
    "gemm",
  ]);
});
