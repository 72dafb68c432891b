// Compiling as such: what is refused and in which words, manifests that are complete, and the lowering for LMMA, carried
// out here as a machine of lookups would.

import { describe, expect, test } from "vitest";

import type { Manifest } from "../../src/ladder/emit/compile.ts";
import { type Asked, boundType, compiled, kernelOf, operandOf, OWN, pack, referenceOf, uniform } from "./compiled.ts";
import { programWith } from "./program.ts";

const program = programWith(OWN);
const SEED = 20_261_126;
const USUAL: Asked = { activation: "F16", weight: "Q4_0", m: 1, n: 64, k: 256, target: "wgsl", method: null };

describe("what cannot be had says why, and what would work", () => {
  const refusals: readonly (readonly [Partial<Asked>, string])[] = [
    [{ k: 100 }, "weights: k of 100 is no whole number of the 32 values of a block of Q4_0; 96 and 128 would be"],
    [{ k: 8 }, "weights: k of 8 is no whole number of the 32 values of a block of Q4_0; 32 would be"],
    [{ accumulate: "F16" }, "webgpu does not sum in F16; sum in F32, or compile for webgpu_f16"],
    [{ accumulate: "BF16" }, "nothing sums in BF16 for wgsl; sum in F32, or in I32 where both sides are integers"],
    [
      { accumulate: "I32", method: "dot" },
      "I32 sums products of integers, and F16 has none: it is a plain float; sum in F32",
    ],
    [
      { activation: "Q8_0", accumulate: "I32", out: "I32", method: "dot" },
      "the scales of Q8_0 are no part of a sum in I32; sum in F32, whose pieces are summed in I32 all the same",
    ],
    [
      { activation: "Q8_0", accumulate: "I32", out: "F32", method: "dot" },
      "the scales of Q8_0 are no part of a sum in I32; sum in F32, whose pieces are summed in I32 all the same",
    ],
    [
      { accumulate: "I32", method: "decode" },
      "decoded values are floats, and I32 sums integers; sum in F32, or take the method dot",
    ],
    [
      { activation: "I8", weight: "I8", accumulate: "I32", out: "I32", k: 2 ** 18, method: "dot" },
      "I32 holds 131071 products of I8 and I8, and k is 262144; sum in F32",
    ],
    [{ out: "I8" }, "outputs in I8 are not rounded to; I32 holds sums in I32, and F32, F16 or BF16 any other"],
    [
      { out: "Posit8" },
      "Posit8 is no float; outputs are floats of 8, 16 or 32 bits with a sign and subnormals, or I32",
    ],
    [
      { out: "E2M1" },
      "there is no rounding to E2M1; outputs are floats of 8, 16 or 32 bits with a sign and subnormals, or I32",
    ],
    [{ activation: "E2M1" }, "activations: E2M1 has 4 bits, and operands are whole bytes; a block of several has"],
    [
      { weight: "OCP_MXFP8_E4M3", method: "lookup" },
      "the method lookup takes integer codes, and OCP_MXFP8_E4M3 has none: e stands for numbers that are no small multiples of one number; the method decode takes any type",
    ],
    [{ target: "cpu", method: "lookup" }, "there are kernels with tables for wgsl only; decode or dot work"],
    [
      { weight: "GPTQ4", activation: "Q8_0", n: 32, method: "dot" },
      "the method dot takes integer codes of blocks, and GPTQ4 is a format of whole matrices; the method decode takes any type",
    ],
    [{ weight: "GPTQ4", k: 32, n: 30 }, "weights: GPTQ4 requires N mod 32 == 0, and the matrix is 30 x 32"],
    [
      { weight: "F32", n: 2 ** 16, k: 4096, method: "decode" },
      "w_words takes 1073741824 bytes, and a buffer of webgpu has 134217728; 8192 rows of weights fit, and more can be had by as many calls",
    ],
    [
      { target: "lmma", device: "a100" },
      "a100 has no LMMA instruction: no multiply takes weights of 1 bit; the device lut_tensor_core has",
    ],
    [
      { target: "lmma", weight: "F16" },
      "LMMA takes bit planes of integer codes, and F16 has none: it is a plain float",
    ],
    [{ target: "lmma", method: "dot" }, "an LMMA machine looks tables up, and has no method dot; leave the method out"],
  ];
  test.each(refusals)("%j", (partial, reason) => {
    expect(compiled(program, { ...USUAL, ...partial })).toEqual({ kind: "refused", reason });
  });
});

// --- manifests ------------------------------------------------------------------------------------------------------

/** A type by name, a list of one schema, an object of schemas, or null where there may be none. */
type Schema = string | readonly [Schema] | { readonly [key: string]: Schema } | { readonly maybe: Schema };

const RUN = { first: "number", count: "number", bit: "number", step: "number", width: "number", shift: "number" };
const CODES = { runs: [RUN], bits: "number", flip: "number", map: { maybe: ["any"] } } as const;
const TERM = {
  constant: "number",
  fields: [{ format: "string", byte: "number" }],
  codes: { maybe: { ...CODES, bias: "number" } },
} as const;
const PACKING = {
  rows: "number",
  columns: "number",
  block_values: "number",
  block_bytes: "number",
  codes: CODES,
  times: "number",
  subtract: "number",
  width: "number",
  unit_values: "number",
  unit_bytes: "number",
  units_per_row: "number",
  tile_rows: "number",
  parts: [{ shift: "number", width: "number", bits: ["number"] }],
  group_values: { maybe: "number" },
  scale: [TERM],
  offset: [TERM],
} as const;
const SIZES = { m: "number", n: "number", k: "number" };
const INTEGERS = {
  low: "number",
  high: "number",
  step: "number",
  shift: "number",
  least: "number",
  most: "number",
  group: { maybe: "number" },
  scale: [TERM],
  offset: [TERM],
} as const;
const MANIFEST: Schema = {
  version: "number",
  gemm: { signature: "string", activation: "string", weight: "string", accumulate: "string", out: "string", ...SIZES },
  target: "string",
  device: "string",
  method: "string",
  schedule: { maybe: { name: "string", time_ns: "number" } },
  guarantee: {
    text: "string",
    activations: "string",
    weights: "string",
    roundings: "number",
    unit_roundoff: "number",
    relative_error: "number",
    magnitude: "string",
    absolute_error: "number",
    absolute_magnitude: "string",
    underflow: "string",
    out: "string",
  },
  exact_sums: { maybe: { i32: "number", f32: "number" } },
  buffers: [{ binding: "number", name: "string", role: "string", bytes: "number", layout: "any" }],
  layouts: "any",
  dispatch: { maybe: { workgroup: ["number"], counts: ["number"] } },
  entry_points: [{ name: "string", role: "string", arguments: [{ name: "string", type: "string" }] }],
  sizes: { activations: "number", weights: "number", out: "number", scratch: "number" },
  lmma: {
    maybe: {
      tile: SIZES,
      tiles: SIZES,
      padded: SIZES,
      segment: "number",
      counts: { tables: "number", instructions: "number", passes: "number" },
      table: { entries: "number", element: "string" },
      accumulate: "string",
      weights: { ...INTEGERS, planes: "number" },
      activations: "any",
      exact_sums: { maybe: { i32: "number", f32: "number" } },
      outside: ["string"],
    },
  },
  proofs: [{ id: "string", claim: "string", method: "string" }],
};

/** Where a value is not of a schema, the first such place; null where it is. */
function misfit(value: unknown, schema: Schema, at = "manifest"): string | null {
  if (schema === "any") return null;
  if (typeof schema === "string") return typeof value === schema ? null : `${at} is ${typeof value}, not ${schema}`;
  if (Array.isArray(schema)) {
    if (!Array.isArray(value)) return `${at} is no list`;
    return value.map((one, i) => misfit(one, schema[0], `${at}[${i}]`)).find((found) => found !== null) ?? null;
  }
  if ("maybe" in schema) return value === null ? null : misfit(value, schema["maybe"], at);
  if (typeof value !== "object" || value === null) return `${at} is no object`;
  const [own, wanted] = [Object.keys(value), Object.keys(schema)];
  const odd = own.find((key) => !wanted.includes(key)) ?? wanted.find((key) => !own.includes(key));
  if (odd !== undefined) return `${at}.${odd} is there in one of both only`;
  const fields = value as Readonly<Record<string, unknown>>;
  const inner = Object.entries(schema as Readonly<Record<string, Schema>>);
  return inner.map(([key, of]) => misfit(fields[key], of, `${at}.${key}`)).find((found) => found !== null) ?? null;
}

const PRODUCTS: readonly Asked[] = [
  USUAL,
  { ...USUAL, activation: "Q8_0", method: "dot" },
  { ...USUAL, weight: "TQ2_0", method: "lookup" },
  { ...USUAL, weight: "IQ2_XS", method: "decode" },
  { ...USUAL, weight: "GPTQ4", method: "decode" },
  { ...USUAL, target: "cpu", method: "decode" },
  { ...USUAL, target: "cpu", activation: "Q8_0", weight: "Q4_K", method: "dot" },
  { ...USUAL, target: "lmma" },
  { ...USUAL, target: "lmma", activation: "Q8_0", weight: "Lumen" },
  { ...USUAL, target: "lmma", activation: "OCP_MXFP8_E4M3", weight: "I2_S.arm_64" },
];

test.each(PRODUCTS)(
  "the manifest of $activation x $weight for $target, $method, is of its schema and plain JSON",
  (asked) => {
    const { manifest } = kernelOf(program, asked);
    expect(JSON.parse(JSON.stringify(manifest))).toEqual(manifest);
    expect(misfit(manifest, MANIFEST)).toBeNull();
    for (const packing of Object.values(manifest.layouts)) expect(misfit(packing, PACKING)).toBeNull();
    expect(manifest.proofs.length).toBeGreaterThan(0);
  },
);

test("functions come with their roles, and those of C++ with arguments", () => {
  const entries = (asked: Partial<Asked>) => kernelOf(program, { ...USUAL, ...asked }).manifest.entry_points;
  expect(entries({})).toEqual([{ name: "gemv", role: "kernel", arguments: [] }]);
  const [kernel, prepare] = entries({ target: "cpu", activation: "Q8_0", method: "dot" });
  const name = "gemm_q8_0_q4_0_f32_f32_1x64x256_dot";
  const args = ["a: const uint8_t*", "w: const uint8_t*", "out: float*", "first: size_t", "last: size_t"];
  expect([kernel!.name, kernel!.role, prepare!.name, prepare!.role]).toEqual([name, "kernel", `${name}_pack`, "pack"]);
  expect(kernel!.arguments.map((one) => `${one.name}: ${one.type}`)).toEqual(args);
  expect(entries({ target: "cpu", weight: "GPTQ4", method: "decode" })[1]!.role).toBe("load");
});

describe("what is lost near the least numbers is in the bound", () => {
  const promised = (asked: Partial<Asked>) => kernelOf(program, { ...USUAL, ...asked }).manifest.guarantee;
  const least = 2 ** -126;

  test("F16 and Q4_0 are no subnormals of f32: only products and sums may be lost", () => {
    const { absolute_error: error, absolute_magnitude: size } = promised({ method: "decode" });
    expect([error, size]).toEqual([2 * 256 * 2 * least, "1"]);
  });

  test("a scale that may be a subnormal is lost with the largest code, and the other side multiplies it", () => {
    const { absolute_error: error, absolute_magnitude: size } = promised({
      activation: "Q8_0",
      weight: "Power",
      method: "dot",
    });
    // Codes of Power are -7 to 8, and a product has eight operations.
    expect([error, size]).toEqual([2 * 256 * 8 * least, "1 + max over k of (|s_a q_a| + |o_a|)"]);
  });

  test("sums in F16 are lost below 2^-14, and both sides are", () => {
    const asked = { method: "decode", accumulate: "F16", out: "F16", device: "webgpu_f16" } as const;
    const { absolute_error: error, absolute_magnitude: size } = promised(asked);
    const wanted = 2 * 256 * (2 * 2 ** -14 + 2 ** -28);
    expect([error, size]).toEqual([wanted, "1 + max over k of |a| + max over k of |w|"]);
  });

  test("whole numbers are not lost", () => {
    const whole = { activation: "I8", weight: "Whole", accumulate: "I32", out: "I32", method: "dot" } as const;
    expect(promised(whole)).toMatchObject({
      absolute_error: 0,
      underflow: "nothing is so small that it could be lost",
    });
  });

  test("where WGSL unpacks F16, its subnormals are named as the end of the bound", () => {
    const small = "results below 2^-126 lose digits, or are 0 on machines that flush them: absolute_error";
    const unpacked = (name: string): string =>
      `${name} is unpacked from f16, whose subnormals WGSL lets a machine take as 0: there, the bound does not hold for F16 fields below 2^-14 and for subnormals of narrower floats`;
    expect(promised({ method: "decode" }).underflow).toBe(`${small}; ${unpacked("F16")}; ${unpacked("Q4_0")}`);
    expect(promised({ method: "decode", target: "cpu" }).underflow).toBe(small);
    expect(promised({ activation: "F32", weight: "BF16", method: "decode" }).underflow).toBe(small);
  });

  test.each([
    ["F32", "F32: as it is summed"],
    [
      "F16",
      "F16: to the nearest, ties to even; off by 2^-11 of itself at most, or by 2^-25 below 2^-14; what rounds beyond 65504 is infinity",
    ],
    [
      "E4M3FN",
      "E4M3FN: to the nearest, ties to even; off by 2^-4 of itself at most, or by 2^-10 below 2^-6; what rounds beyond 448 is NaN",
    ],
  ])("a result in %s loses what it says", (out, text) => {
    expect(promised({ method: "decode", out }).out).toBe(text);
  });
});

test("the scheduler's choice is the method, and its plan is named", () => {
  const { manifest } = kernelOf(program, { ...USUAL, activation: "Q8_0" });
  expect(manifest.method).toBe("dot");
  expect(manifest.schedule?.name).toMatch(/^dot I8 x I8, /);
});

test("compiling twice gives the same text and manifest", () => {
  expect(kernelOf(program, USUAL)).toEqual(kernelOf(program, USUAL));
});

// --- LMMA -----------------------------------------------------------------------------------------------------------

/** The product by tables of four activations, looked up by bit planes: all that it knows is the manifest. */
function byTables(
  { gemm, lmma, layouts }: Manifest,
  activations: Float64Array,
  weights: Uint8Array,
  scaleA: (m: number, k: number) => number,
): Float64Array {
  const { m, n, k } = gemm;
  const { planes, group, offset } = lmma!.weights;
  const packing = layouts.weights!;
  const { codes, scales, offsets } = pack(packing, weights);
  const step = lmma!.tile.k;
  const size = lmma!.segment;
  const bit = (row: number, at: number, p: number): number => {
    const unit = (row * packing.units_per_row + Math.floor(at / packing.unit_values)) * packing.unit_bytes;
    const place = packing.parts[p]!.bits[at % packing.unit_values]!;
    return (codes[unit + (place >> 3)]! >> (place & 7)) & 1;
  };
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let g = 0; g < k / size; g++) {
      const tables = Array.from({ length: size / step }, (_, t) => {
        const four = activations.subarray(i * k + g * size + t * step, i * k + g * size + (t + 1) * step);
        return Array.from({ length: 2 ** step }, (_entry, e) =>
          four.reduce((sum, a, j) => sum + ((e >> j) & 1 ? a : -a), 0),
        );
      });
      for (let j = 0; j < n; j++) {
        let [products, total] = [0, 0];
        for (const [t, entries] of tables.entries()) {
          total += entries.at(-1)!;
          for (let p = 0; p < planes; p++) {
            let index = 0;
            for (let b = 0; b < step; b++) index |= bit(j, g * size + t * step + b, p) << b;
            products += 2 ** p * entries[index]!;
          }
        }
        const s = group === null ? 0 : Math.floor((j * k + g * size) / group);
        const shift = offset.length === 0 ? 0 : offsets[s]! * total;
        out[i * n + j]! += scaleA(i, g * size) * (scales[s]! * products + shift);
      }
    }
  }
  return out;
}

test.each(["Q4_0", "TQ2_0", "Lumen", "IQ4_NL", "Q5_1", "Q1_0"])(
  "LMMA: tables and bit planes of %s as the manifest has them give the product",
  (weight) => {
    const [m, n, k] = [3, 5, 256];
    const { manifest } = kernelOf(program, { ...USUAL, weight, activation: "Q8_0", m, n, k, target: "lmma" });
    const { lmma, layouts, guarantee } = manifest;
    const next = uniform(SEED);
    const [a, w] = [boundType(program, "Q8_0", m, k), boundType(program, weight, n, k)];
    const aBytes = operandOf(a, (m * k) / a.blockSize, next);
    const wBytes = operandOf(w, (n * k) / w.blockSize, next);
    const packed = pack(layouts.activations!, aBytes);
    const integers = lmma!.activations;
    if (integers.kind !== "integers") throw new Error("Q8_0 has integer codes");
    const q = packed.integers.map((v) => integers.step * v - integers.shift);
    expect(Math.min(...q)).toBeGreaterThanOrEqual(integers.least);
    expect(Math.max(...q)).toBeLessThanOrEqual(integers.most);
    const scaleOf = (i: number, at: number): number => packed.scales[Math.floor((i * k + at) / 32)]!;
    const got = byTables(manifest, q, wBytes, scaleOf);
    const { out } = referenceOf({ ...manifest, layouts: {} }, a, w, aBytes, wBytes);
    const { magnitude } = referenceOf(manifest, a, w, aBytes, wBytes);
    for (const [at, x] of got.entries()) {
      const off = Math.abs(x - out[at]!);
      // Sums here are doubles: what is left is that packed scales are the nearest f32.
      expect(off, `output ${at}`).toBeLessThanOrEqual(guarantee.relative_error * magnitude[at]!);
    }
    const { tile, tiles, counts, weights } = lmma!;
    expect(tiles).toEqual({ m: Math.ceil(m / tile.m), n: Math.ceil(n / tile.n), k: Math.ceil(k / tile.k) });
    expect(counts.instructions).toBe(tiles.m * tiles.n * tiles.k * weights.planes);
  },
);
