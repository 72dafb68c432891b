// Matrices of plain floats as the machine has them: sums of numbers of 16 bits that are the values exactly, as few of
// them as do, and products of which nothing but activations and sums is rounded.

import fc from "fast-check";
import { expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { openLmma, workOf } from "../../src/lutcore/backend.ts";
import { matrixOf } from "../../src/lutcore/matrix.ts";
import { VALUES } from "../../src/lutcore/registers.ts";
import type { FloatsForm } from "../../src/lutcore/tiling.ts";
import { openReference } from "../../src/reference.ts";
import { f32Weight, PLAIN_GEMM, Random, smallPlan, typeNamed, weightFile } from "../small-plan.ts";

const [N, K] = [8, 16];
const F32 = typeNamed("F32");

/** The form of a matrix of these values, its first ones, and the sums of the numbers that stand for all of them. */
function madeOf(values: readonly number[]): { readonly form: FloatsForm; readonly sums: readonly number[] } {
  const all = Float32Array.from({ length: N * K }, (_, i) => values[i] ?? 0);
  const matrix = matrixOf({ type: F32, shape: [N, K] }, new Uint8Array(all.buffer));
  if (matrix.kind === "none") throw new Error(matrix.reason);
  const { form } = matrix.right;
  if (form.kind !== "floats") throw new Error(`f32 became ${form.kind}`);
  const codes = new Uint16Array(matrix.codes.buffer);
  const sums = Array.from({ length: N * K }, (_, at) => {
    let sum = 0;
    for (let part = 0; part < form.parts; part++)
      sum += VALUES[form.element][codes[(Math.floor(at / K) * form.parts + part) * K + (at % K)]!]!;
    return sum;
  });
  return { form, sums };
}

test("an f32 is the sum of the numbers that stand for it, exactly", () => {
  // No place is below 2^-133, the smallest number of bf16.
  const value = fc
    .tuple(fc.integer({ min: -(2 ** 24), max: 2 ** 24 }), fc.integer({ min: -124, max: 100 }))
    .map(([fraction, exponent]) => fraction * 2 ** exponent);
  fc.assert(
    fc.property(fc.array(value, { minLength: N * K, maxLength: N * K }), (values) => {
      expect(madeOf(values).sums).toEqual(values.map((x) => (x === 0 ? 0 : x)));
    }),
  );
});

test.each([
  ["fp16 holds, one of fp16", [1 + 2 ** -10, -65504, 2 ** -24, 0, -0], { element: "fp16", parts: 1 }],
  ["bf16 holds, one of bf16", [1 + 2 ** -7, 2 ** 100, 2 ** -133], { element: "bf16", parts: 1 }],
  ["have 16 places, two of bf16", [0x8155, 2 ** 60], { element: "bf16", parts: 2 }],
  ["have 24 places, three of bf16", [0x815421, 2 ** 60], { element: "bf16", parts: 3 }],
] as const)("values that %s are as few numbers", (_, values, form) => {
  expect(madeOf(values).form).toEqual({ kind: "floats", ...form });
});

test.each([2 ** -149, NaN])("a matrix with %d is refused by name, with where it is", async (value) => {
  const inputs = [f32Weight("x", [1, K], new Float32Array(K))];
  const weight = f32Weight(
    "w",
    [N, K],
    Float32Array.from({ length: N * K }, (_, at) => (at === 35 ? value : 1)),
  );
  using source = weightFile([...inputs, weight]);
  const plan = smallPlan(inputs, [weight], [N], [PLAIN_GEMM], 1);
  const backend = openLmma({ mode: "paper", activation: "int8", tables: "exact" });
  await expect(backend.prepare(plan, source)).rejects.toThrow(
    `tensor w (F32): its value ${value} at row 2, column 3 is no sum of three bf16, ` +
      "and the machine multiplies floats of 16 bits; --device cpu runs it",
  );
});

/** Random blocks of a type with an f16 at a byte of each, which is made a number of middling size. */
function blocks(name: string, count: number, scale: number, random: Random): Uint8Array {
  const { blockSize, blockBytes } = typeNamed(name);
  const bytes = Uint8Array.from({ length: (count / blockSize) * blockBytes }, () => random.bits());
  for (let block = 0; block < bytes.length; block += blockBytes)
    new DataView(bytes.buffer).setUint16(block + scale, random.integer(0x2800, 0x3400), true);
  return bytes;
}

const WEIGHTS: readonly (readonly [string, (count: number, random: Random) => Uint8Array])[] = [
  ["F32", (count, random) => new Uint8Array(random.normals(count).buffer)],
  ["E5M2", (count, random) => Uint8Array.from({ length: count }, () => random.bits() & 0xbf)],
  ["TQ1_0", (count, random) => blocks("TQ1_0", count, 52, random)],
  ["IQ2_XXS", (count, random) => blocks("IQ2_XXS", count, 0, random)],
  ["IQ3_S", (count, random) => blocks("IQ3_S", count, 0, random)],
];

test.each(WEIGHTS)("products of %s are the reference's where bf16 holds the activations", async (name, make) => {
  const random = new Random(11);
  const [n, k, rows] = [72, 256, 5];
  const x = Float32Array.from({ length: rows * k }, () => random.integer(-255, 255) / 16);
  const inputs = [f32Weight("x", [rows, k], x)];
  const type = typeNamed(name);
  const weight = { name: "w", type, shape: [n, k], bytes: make(n * k, random) };
  const values = new Float64Array(n * k);
  decode(type, weight.bytes, values);
  using source = weightFile([...inputs, weight]);
  const plan = smallPlan(inputs, [weight], [n], [PLAIN_GEMM], 1);
  const chunk = { slot: 0, pos: 0, tokens: Int32Array.from({ length: rows }, (_, r) => r), logits: "all" } as const;
  await using reference = await openReference().prepare(plan, source);
  const [truth] = await reference.step([chunk]);
  for (const mode of ["ideal", "paper", "rtl"] as const) {
    await using mine = await openLmma({ mode, activation: "int8", tables: "exact" }).prepare(plan, source);
    const [found] = await mine.step([chunk]);
    expect(workOf(mine).map(({ kind }) => kind)).toEqual(["rows", "tables", "products"]);
    for (let at = 0; at < rows * n; at++) {
      const [row, column] = [Math.floor(at / n), at % n];
      let size = 0;
      for (let i = 0; i < k; i++) size += Math.abs(x[row * k + i]! * values[column * k + i]!);
      // Three products for each of k, whose sums of fp32 are rounded one after the other, and the segments' sums.
      expect(Math.abs(found![at]! - truth![at]!)).toBeLessThanOrEqual(4 * k * 2 ** -24 * size);
    }
  }
});
