// The mode `rtl`: what the public circuit does, quirk by quirk. With none it is `paper`; each differs from that where it
// says, and nowhere else.

import fc from "fast-check";
import { expect, test } from "vitest";

import { PLANES, type Weight } from "../../src/lutcore/fragment.ts";
import { type Lmma, ZERO } from "../../src/lutcore/instruction.ts";
import { type Mode, type Quirks, STAGE1, STAGE2 } from "../../src/lutcore/mode.ts";
import { valuesOf, encoderOf } from "../../src/lutcore/number.ts";
import { packTile } from "../../src/lutcore/weights.ts";
import { define } from "./definition.ts";
import { legalWords, smallest } from "./instructions.ts";
import { inputsOf, numbersOf, PAPER, runOne } from "./machine.ts";

const NONE: Quirks = {
  narrowSums: false,
  exponentAdd: false,
  zeroEntries: false,
  firstSign: false,
  flush: false,
  wordShift: false,
};
const rtl = (quirks: Partial<Quirks>): Mode => ({ kind: "rtl", quirks: { ...NONE, ...quirks } });
const half = encoderOf("fp16");
const halves = valuesOf("fp16");

const floats = legalWords("lmma").filter(({ accumulate }) => accumulate !== "int32");
/** Products of floats of all types, three K-groups, with special numbers. */
const products = fc
  .tuple(fc.constantFrom(...floats), fc.constantFrom(0, 1, 4, 12), fc.boolean())
  .map(([words, special, plain]) => {
    const i = { ...smallest("lmma", words), k: 8, table: 100, weights: 200, addend: plain ? ZERO : 300 } as Lmma;
    return { i, special };
  })
  .chain(({ i, special }) => fc.tuple(fc.constant(i), inputsOf(i, special)));

function results(i: Lmma, inputs: Readonly<Record<string, Uint8Array>>, mode: Mode): number[] {
  return numbersOf(i, runOne(i, inputs, mode))["to"]!;
}

test("with any of the quirks each sum is the circuit's, word by word, for all floats and special numbers", () => {
  const quirks = fc.record(
    Object.fromEntries(Object.keys(NONE).map((quirk) => [quirk, fc.boolean()])),
  ) as fc.Arbitrary<Quirks>;
  const any = fc.oneof(quirks, fc.constantFrom(STAGE1, STAGE2));
  fc.assert(
    fc.property(products, any, ([i, inputs], chosen) => {
      const mode: Mode = { kind: "rtl", quirks: chosen };
      expect(results(i, inputs, mode)).toEqual(define(i, inputs, mode)["to"]);
    }),
    { numRuns: 800 },
  );
});

test("without quirks rtl is paper, bit for bit", () => {
  fc.assert(
    fc.property(products, ([i, inputs]) => {
      expect(runOne(i, inputs, rtl({}))).toEqual(runOne(i, inputs, PAPER));
    }),
    { numRuns: 400 },
  );
});

/** The fields of the entries of a table: the exponents as they are stored. */
function exponentsOf({ entry }: Lmma, table: Uint8Array): { readonly fields: number[]; readonly top: number } {
  const single = entry === "fp32";
  const words = single ? new Uint32Array(table.slice().buffer) : new Uint16Array(table.slice().buffer);
  const [shift, top] = single ? [23, 255] : entry === "fp16" ? [10, 31] : [7, 255];
  return { fields: Array.from(words, (word) => (word >>> shift) & top), top };
}

function isZeroWord({ entry }: Lmma, table: Uint8Array): boolean[] {
  const words = entry === "fp32" ? new Uint32Array(table.slice().buffer) : new Uint16Array(table.slice().buffer);
  return Array.from(words, (word) => (entry === "fp32" ? word << 1 === 0 : (word & 0x7fff) === 0));
}

const maxPower = (weight: Weight): number => Math.max(...PLANES[weight]);

/** How many random products a quirk, beside others, does not change: all to which it does not apply. */
function unchanged(
  quirk: keyof Quirks,
  beside: Partial<Quirks>,
  applies: (i: Lmma, inputs: Readonly<Record<string, Uint8Array>>) => boolean,
): number {
  let checked = 0;
  fc.assert(
    fc.property(products, ([i, inputs]) => {
      if (applies(i, inputs)) return;
      checked++;
      expect(results(i, inputs, rtl({ ...beside, [quirk]: true }))).toEqual(results(i, inputs, rtl(beside)));
    }),
    { numRuns: 400 },
  );
  return checked;
}

test("narrow sums change nothing where the accumulator has the table's format", () => {
  expect(unchanged("narrowSums", {}, ({ entry, accumulate }) => entry !== accumulate)).toBeGreaterThan(50);
});

test("the exponent add changes nothing where the field has room and is not 0", () => {
  expect(
    unchanged("exponentAdd", {}, (i, { table }) => {
      const { fields, top } = exponentsOf(i, table!);
      return fields.some((field) => field + maxPower(i.weight) >= top);
    }),
  ).toBeGreaterThan(50);
});

test("zero entries matter only beside the exponent add, where a field is 0 and a plane weighs more than 1", () => {
  expect(unchanged("zeroEntries", {}, () => false)).toBeGreaterThan(50);
  expect(
    unchanged("zeroEntries", { exponentAdd: true }, (i, { table }) => {
      return maxPower(i.weight) > 0 && exponentsOf(i, table!).fields.includes(0);
    }),
  ).toBeGreaterThan(50);
});

test("the first sign matters only where an entry is a zero", () => {
  const beside = { exponentAdd: true, zeroEntries: true };
  expect(unchanged("firstSign", beside, (i, { table }) => isZeroWord(i, table!).includes(true))).toBeGreaterThan(50);
});

test("the word shift changes nothing for weights whose planes all weigh 1", () => {
  expect(unchanged("wordShift", {}, ({ weight }) => maxPower(weight) > 0)).toBeGreaterThan(50);
});

/** One table of fp16 and 8 columns, of which column 0 has the codes and the others have 0. */
function column(
  entries: readonly number[],
  codes: readonly number[],
  mode: Mode,
  more: Partial<Lmma> = {},
  addend: readonly number[] = [],
): number {
  const words = { activation: "fp16", weight: "int2", entry: "fp16", accumulate: "fp16", out: "fp16", ...more };
  const i = {
    ...smallest("lmma", words),
    addend: addend.length > 0 ? 300 : ZERO,
    ...more,
  } as Lmma;
  const table = new Uint8Array(Uint16Array.from(entries, half).buffer);
  const weights = packTile(
    Uint8Array.from({ length: 32 }, (_, x) => codes[x] ?? 0),
    i,
  );
  const start = Array.from({ length: 8 }, () => addend[0] ?? 0);
  const numbers = i.accumulate === "fp16" ? Uint16Array.from(start, half) : Float32Array.from(start);
  return results(i, { table, weights, addend: new Uint8Array(numbers.buffer) }, mode)[0]!;
}

const ZEROS = [0, 0, 0, 0, 0, 0, 0, 0];
const entries = (index: number, value: number): number[] => ZEROS.map((_, i) => (i === index ? value : 1));

test("FP16 sums lose what FP32 sums keep: 2048 + 1 + 2", () => {
  const single = { accumulate: "fp32", out: "fp32" } as const;
  // Codes 3 3 3 0: planes 0111 and 0111, entry 7 twice, of weight 1 and 2.
  expect(column(entries(7, 1), [3, 3, 3, 0], PAPER, single, [2048])).toBe(2051);
  // 2049 is a tie, which goes to 2048; 2050 is an FP16 number.
  expect(column(entries(7, 1), [3, 3, 3, 0], rtl({ narrowSums: true }), single, [2048])).toBe(2050);
});

test("an entry of 40000 doubles to 80000 in FP32 sums; with the exponent add its field overflows to that of NaN", () => {
  const single = { accumulate: "fp32", out: "fp32" } as const;
  // Codes 2 2 2 0: plane 0 is 0000, entry 0; plane 1 is 0111, entry 7.
  expect(column(entries(7, 40000), [2, 2, 2, 0], PAPER, single)).toBe(80001);
  expect(column(entries(7, 40000), [2, 2, 2, 0], rtl({ exponentAdd: true }), single)).toBe(NaN);
  // The adder takes NaN as infinity.
  expect(column(entries(7, 40000), [2, 2, 2, 0], rtl({ exponentAdd: true, flush: true }), single)).toBe(Infinity);
  // An infinity's field goes round to 0, that of zeros.
  expect(column(entries(7, Infinity), [2, 2, 2, 0], rtl({ exponentAdd: true }), single)).toBe(1);
});

test("a table of zeros gives 2^-14 for plane 1, 2^-13 for plane 2 and 2^-12 for plane 3, and 0 without the quirk", () => {
  const codes = (code: number): number[] => [code, code, code, 0];
  for (const [weight, sum] of [
    ["int1", 0],
    ["int2", 2 ** -14],
    ["int3", 2 ** -14 + 2 ** -13],
    ["int4", 2 ** -14 + 2 ** -13 + 2 ** -12],
  ] as const) {
    const all = codes(2 ** PLANES[weight].length - 1);
    expect(column(ZEROS, all, rtl({ exponentAdd: true, zeroEntries: true }), { weight })).toBe(sum);
    expect(column(ZEROS, all, rtl({ exponentAdd: true }), { weight })).toBe(0);
    expect(column(ZEROS, all, PAPER, { weight })).toBe(0);
  }
});

test("the sign of a zero entry is that of element 0 in the circuit, and of element 3 on paper", () => {
  const stage = { exponentAdd: true, zeroEntries: true };
  const [first, last] = [
    [3, 0, 0, 0],
    [0, 0, 0, 3],
  ];
  expect(column(ZEROS, first, rtl({ ...stage, firstSign: true }))).toBe(-(2 ** -14));
  expect(column(ZEROS, last, rtl({ ...stage, firstSign: true }))).toBe(2 ** -14);
  expect(column(ZEROS, first, rtl(stage))).toBe(2 ** -14);
  expect(column(ZEROS, last, rtl(stage))).toBe(-(2 ** -14));
});

test("a subnormal is a zero for the adder, as an entry, as an addend and as a sum", () => {
  const tiny = 3 * 2 ** -24;
  const one = { weight: "int1" } as const;
  expect(column(entries(7, tiny), [1, 1, 1, 0], rtl({}), one)).toBe(tiny);
  expect(column(entries(7, tiny), [1, 1, 1, 0], rtl({ flush: true }), one)).toBe(0);
  expect(column(entries(7, 0), [1, 1, 1, 0], rtl({ flush: true }), one, [tiny])).toBe(0);
  expect(column(entries(7, 2 ** -14), [1, 1, 1, 0], rtl({ flush: true }), one, [-(2 ** -14) - 2 ** -24])).toBe(-0);
  expect(column(entries(7, 2 ** -14), [1, 1, 1, 0], rtl({}), one, [-(2 ** -14) - 2 ** -24])).toBe(-(2 ** -24));
});

test("opposite infinities are NaN on paper and the positive infinity in the circuit", () => {
  const one = { weight: "int1" } as const;
  expect(column(entries(7, -Infinity), [1, 1, 1, 0], PAPER, one, [Infinity])).toBe(NaN);
  expect(column(entries(7, -Infinity), [1, 1, 1, 0], rtl({ flush: true }), one, [Infinity])).toBe(Infinity);
  expect(column(entries(7, -Infinity), [1, 1, 1, 0], rtl({ flush: true }), one, [-Infinity])).toBe(-Infinity);
});

test("stage 2 shifts the word of plane 0 by the last plane's number and that of plane 1 by 0", () => {
  // 1.0 is 0x3c00, and one place to the left 0x7800, 2^15. Plane 1 is 2 as without the shift.
  expect(halves[0x7800]).toBe(2 ** 15);
  expect(column(entries(7, 1), [3, 3, 3, 0], rtl({ wordShift: true, exponentAdd: true }))).toBe(2 ** 15);
  expect(column(entries(7, 1), [2, 2, 2, 0], rtl({ wordShift: true, exponentAdd: true }), {}, [-(2 ** 15)])).toBe(2);
});

test("the modes differ on integers in nothing, whatever the quirks", () => {
  const words = fc.constantFrom(...legalWords("lmma").filter(({ accumulate }) => accumulate === "int32"));
  const cases = words
    .map((w) => ({ ...smallest("lmma", w), k: 8, table: 100, weights: 200, addend: 300 }) as Lmma)
    .chain((i) => fc.tuple(fc.constant(i), inputsOf(i, 4)));
  fc.assert(
    fc.property(cases, ([i, inputs]) => {
      expect(runOne(i, inputs, { kind: "rtl", quirks: STAGE2 })).toEqual(runOne(i, inputs, PAPER));
      expect(runOne(i, inputs, { kind: "ideal" })).toEqual(runOne(i, inputs, PAPER));
    }),
  );
});
