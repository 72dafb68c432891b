import fc from "fast-check";
import { expect, test } from "vitest";

import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { mappedStructureOf } from "../../src/ladder/layout.ts";
import type { Type } from "../../src/ladder/type.ts";
import { formOf, type OfflineWeights, offlineWeights } from "../../src/lutcore/offline.ts";
import { centreOf, unpackTile } from "../../src/lutcore/weights.ts";
import { programWith, typeNamed } from "../ladder/program.ts";

const program = programWith();
const types = [...program.types.values()].filter((type) => type.blockSize > 1);

function typeOf(name: string): Type {
  return typeNamed(program, name);
}

/** q' of every weight, (n, k) row-major. */
function integersOf({ form, codes }: OfflineWeights, n: number, k: number, tile: number): Int16Array {
  const out = new Int16Array(n * k);
  if (form.kind === "bytes") return out.map((_, at) => (codes[at]! << 24) >> 24);
  const { weight } = form;
  const bytes = codes.length / Math.ceil(n / tile);
  for (let t = 0; t * tile < n; t++) {
    const some = unpackTile(codes.subarray(t * bytes, (t + 1) * bytes), { weight, n: tile, k });
    for (const [at, q] of some.entries())
      if (t * tile * k + at < n * k) out[t * tile * k + at] = 2 * q - centreOf(weight);
  }
  return out;
}

/** Sets the stored floats of every block to what is not too large, so that a matrix is finite. */
function tamed(type: Type, bytes: Uint8Array): Uint8Array {
  const structure = mappedStructureOf(type);
  if (structure.kind === "float" || structure.kind === "none") return bytes;
  const fields = [structure.scale, structure.offset].flatMap((term) => term?.fields ?? []);
  for (let block = 0; block < bytes.length; block += type.blockBytes)
    for (const { format, byte } of fields) {
      // The highest bit of the exponent: without it a float is below 2.
      const at = block + byte + (format === "f32" ? 3 : 1);
      bytes[at]! &= 0xbf;
    }
  return bytes;
}

test("the forms of all types that come with Lutra", () => {
  const lines = types.map((type) => {
    const form = formOf(type);
    if (form.kind === "none") return `${type.name}: ${form.reason}`;
    const codes = form.kind === "planes" ? form.weight : `int8, zero ${form.zero}`;
    return `${type.name}: ${codes}, a scale for ${form.group ?? "all"}${form.corrected ? ", corrected" : ""}`;
  });
  expect(lines.join("\n")).toMatchInlineSnapshot(`
    "Q4_0: int4, a scale for 32, corrected
    Q4_1: int4, a scale for 32, corrected
    Q5_0: int8, zero 16, a scale for 32
    Q5_1: int8, zero 0, a scale for 32, corrected
    Q8_0: int8, zero 128, a scale for 32
    Q8_1: int8, zero 128, a scale for 32
    Q1_0: int1, a scale for 128
    Q2_0: int2, a scale for 64, corrected
    Q2_0_128: int2, a scale for 128, corrected
    Q2_K: int2, a scale for 16, corrected
    Q3_K: int3, a scale for 16, corrected
    Q4_K: int4, a scale for 32, corrected
    Q5_K: int8, zero 0, a scale for 32, corrected
    Q6_K: int8, zero 32, a scale for 16
    TQ2_0: int2, a scale for 256, corrected
    Q8_K: int8, zero 128, a scale for 256
    TQ1_0: TritFraction stands for 5 numbers at once
    IQ4_NL: int8, zero 0, a scale for 32
    IQ4_XS: int8, zero 0, a scale for 32
    MXFP4: int8, zero 0, a scale for 32
    NVFP4: int8, zero 0, a scale for 16
    IQ2_XXS: GridIQ2XXS stands for 8 numbers at once
    IQ2_XS: GridIQ2XS stands for 8 numbers at once
    IQ2_S: GridIQ2S stands for 8 numbers at once
    IQ3_XXS: GridIQ3XXS stands for 4 numbers at once
    IQ3_S: GridIQ3S stands for 4 numbers at once
    IQ1_S: GridIQ1 stands for 8 numbers at once
    IQ1_M: d is put together from bits as F16
    OCP_MXFP8_E4M3: e stands for numbers that are no small multiples of one number
    OCP_MXFP8_E5M2: e stands for numbers that are no small multiples of one number
    OCP_MXFP6_E3M2: its integers are -448 to 448, and eight bits hold 256 of them
    OCP_MXFP6_E2M3: int8, zero 0, a scale for 32
    OCP_MXFP4: int8, zero 0, a scale for 32
    OCP_MXINT8: int8, zero 128, a scale for 32"
  `);
});

test("scale q' + correction is every type's value, but for the rounding of the two to f32", () => {
  const formed = types.filter((type) => formOf(type).kind !== "none");
  expect(formed.length).toBeGreaterThan(20);
  fc.assert(
    fc.property(
      fc.constantFrom(...formed),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 2 }),
      fc.infiniteStream(fc.nat(255)),
      (type, n, blocks, numbers) => {
        const k = blocks * type.blockSize;
        const tile = 4;
        const bytes = tamed(
          type,
          Uint8Array.from({ length: n * blocks * type.blockBytes }, () => numbers.next().value),
        );
        const weights = offlineWeights(type, bytes, { n, k, tile });
        if ("reason" in weights) throw new Error(weights.reason);
        const { form, scales, corrections } = weights;
        const width = Math.ceil(n / tile) * tile;
        const q = integersOf(weights, n, k, tile);
        for (let column = 0; column < n; column++)
          for (let i = 0; i < k; i++) {
            const block = bytes.subarray((column * blocks + Math.floor(i / type.blockSize)) * type.blockBytes);
            const value = toNumber(exactValue(type, block, i % type.blockSize));
            if (!Number.isFinite(value)) continue;
            const at = (form.group === null ? 0 : Math.floor(i / form.group)) * width + column;
            const [product, correction] = [scales[at]! * q[column * k + i]!, corrections?.[at] ?? 0];
            // Half a unit in the last place of each, or of the least subnormal.
            const off =
              2 ** -24 * (Math.abs(product) + Math.abs(correction)) * (1 + 2 ** -20) +
              2 ** -150 * (Math.abs(q[column * k + i]!) + 1);
            if (!(Math.abs(product + correction - value) <= off))
              expect(product + correction, `${type.name} value ${i}`).toBe(value);
          }
        for (let column = n; column < width; column++) expect(scales[column]).toBe(0);
      },
    ),
    { numRuns: 300 },
  );
});

test("where the scale of a type is an F16 alone, nothing is rounded at all", () => {
  fc.assert(
    fc.property(
      fc.constantFrom("Q4_0", "Q2_0", "Q1_0", "TQ2_0", "Q8_0"),
      fc.infiniteStream(fc.nat(255)),
      (name, numbers) => {
        const type = typeOf(name);
        const bytes = tamed(
          type,
          Uint8Array.from({ length: type.blockBytes }, () => numbers.next().value),
        );
        const weights = offlineWeights(type, bytes, { n: 1, k: type.blockSize, tile: 2 });
        if ("reason" in weights) throw new Error(weights.reason);
        const q = integersOf(weights, 1, type.blockSize, 2);
        // A scale of -0 or 0 gives zeros of either sign, which the addition of 0 makes one.
        const found = Array.from(q, (x) => weights.scales[0]! * x + (weights.corrections?.[0] ?? 0) + 0);
        expect(found).toEqual(Array.from(q, (_, i) => toNumber(exactValue(type, bytes, i)) + 0));
      },
    ),
  );
});

test("a ternary model in two bits becomes ternary, unless one code is the fourth", () => {
  const type = typeOf("TQ2_0");
  const bytes = Uint8Array.from({ length: 2 * type.blockBytes }, (_, at) =>
    at % type.blockBytes < 64 ? 0b10_01_00_10 : 0x3c,
  );
  const shape = { n: 2, k: 256, tile: 2 };
  const ternary = offlineWeights(type, bytes, shape);
  expect("form" in ternary && ternary.form).toEqual({
    kind: "planes",
    weight: "ternary",
    group: 256,
    corrected: false,
  });
  expect("form" in ternary && ternary.corrections).toBeNull();
  bytes[type.blockBytes + 5] = 0b11_00_00_00;
  const four = offlineWeights(type, bytes, shape);
  expect("form" in four && four.form).toEqual({ kind: "planes", weight: "int2", group: 256, corrected: true });
});

test("what is no matrix of the type is refused", () => {
  const told = (name: string, length: number, n: number, k: number, tile: number): string => {
    try {
      const found = offlineWeights(typeOf(name), new Uint8Array(length), { n, k, tile });
      return "reason" in found ? found.reason : "weights";
    } catch (error) {
      return String(error);
    }
  };
  expect(
    [
      told("Q4_0", 36, 2, 32, 2),
      told("Q4_0", 36, 2, 48, 2),
      told("Q4_0", 35, 2, 32, 2),
      told("Q4_0", 36, 2, 32, 3),
      told("IQ2_S", 82, 1, 256, 2),
    ].join("\n"),
  ).toMatchInlineSnapshot(`
    "weights
    RangeError: rows of 48 values are no whole blocks of Q4_0, which have 32
    RangeError: 35 bytes, and 2 rows of 32 Q4_0 have 36
    RangeError: no tile of int4: n 3 is not even
    GridIQ2S stands for 8 numbers at once"
  `);
});
