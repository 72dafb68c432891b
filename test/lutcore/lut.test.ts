// Instructions that compute, one at a time: the definition for all types, and for integers the dot product itself.

import fc from "fast-check";
import { expect, test } from "vitest";

import { PLANES, type Weight } from "../../src/lutcore/fragment.ts";
import { type Instruction, type Opcode, ZERO } from "../../src/lutcore/instruction.ts";
import { operandsOf } from "../../src/lutcore/isa.ts";
import { type Mode, STAGE1 } from "../../src/lutcore/mode.ts";
import { checkInstruction } from "../../src/lutcore/program.ts";
import { centreOf, codeCount, packTile } from "../../src/lutcore/weights.ts";
import { define } from "./definition.ts";
import { legalWords, smallest } from "./instructions.ts";
import { IDEAL, inputsOf, numbersOf, PAPER, runOne } from "./machine.ts";

const WEIGHTS = Object.keys(PLANES) as Weight[];
const RTL: Mode = { kind: "rtl", quirks: STAGE1 };
const MODES: readonly Mode[] = [IDEAL, PAPER, RTL];
const COMPUTING: readonly Opcode[] = [
  "lut",
  "lutq",
  "lmma",
  "lmmaq",
  "mma",
  "asum",
  "sacc",
  "zacc",
  "clr",
  "cvt",
  "quant",
];

/** Instructions of a kind with all legal words, in small sizes, so that exact numbers are quick enough. */
function smallOnes(kind: Opcode): fc.Arbitrary<Instruction> {
  const sizes = fc.record({
    m: fc.constantFrom(1, 2, 4),
    n: fc.constantFrom(8, 16),
    k: fc.constantFrom(4, 8, 16),
    share: fc.constantFrom(1, 2, 4),
    rows: fc.constantFrom(1, 2, 3),
    columns: fc.constantFrom(4, 8, 16),
    group: fc.constantFrom(4, 8),
    isPlain: fc.boolean(),
  });
  return fc.tuple(fc.constantFrom(...legalWords(kind)), sizes).map(([words, { isPlain, ...sized }]) => {
    const k = Math.max(sized.k, 4 * sized.share);
    const columns = Math.max(sized.columns, sized.group);
    const least = smallest(kind, words);
    const taken = Object.entries({ ...sized, k, columns }).filter(([field]) => field in least);
    const i = { ...least, ...Object.fromEntries(taken) } as unknown as Record<string, string | number>;
    let next = 0;
    for (const { field, registers } of operandsOf(i as unknown as Instruction)) {
      i[field] = next;
      next += registers;
    }
    if (isPlain && "addend" in i) i["addend"] = ZERO;
    return i as unknown as Instruction;
  });
}

/** What the machine gives, as numbers. */
function machine(i: Instruction, inputs: Readonly<Record<string, Uint8Array>>, mode: Mode): unknown {
  return numbersOf(i, runOne(i, inputs, mode));
}

for (const kind of COMPUTING) {
  test(`${kind} gives what the table of instructions says, for all types in all modes, special numbers among them`, () => {
    const cases = smallOnes(kind).chain((i) =>
      fc.tuple(
        fc.constant(i),
        fc.constantFrom(0, 0, 1, 8).chain((special) => inputsOf(i, special)),
        fc.constantFrom(...MODES),
      ),
    );
    fc.assert(
      fc.property(cases, ([i, inputs, mode]) => {
        expect(machine(i, inputs, mode)).toEqual(define(i, inputs, mode));
      }),
      { numRuns: kind === "lmma" || kind === "lmmaq" || kind === "mma" ? 400 : 150 },
    );
  });
}

test("in ideal a scaled number less its own rounding is what rounding took, to the last bit", () => {
  const float = fc.integer({ min: 2 ** 23, max: 2 ** 24 - 1 }).map((q) => q * 2 ** -23);
  const whole = fc.integer({ min: 2 ** 30, max: 2 ** 31 - 1 });
  const factors = fc.oneof(
    fc.tuple(fc.constant("fp32"), float, float, float),
    fc.tuple(fc.constant("int32"), whole, float, float),
  );
  fc.assert(
    fc.property(factors, ([from, x, byRow, byColumn]) => {
      const i = smallest("sacc", { product: from });
      const all = (value: number): Uint8Array => new Uint8Array(new Float32Array(8).fill(value).buffer);
      const inputs = {
        from: from === "fp32" ? all(x) : new Uint8Array(new Int32Array(8).fill(x).buffer),
        byRow: all(byRow).slice(0, 4),
        byColumn: all(byColumn),
        addend: all(-Math.fround(x * byRow * byColumn)),
      };
      expect(machine(i, inputs, IDEAL)).toEqual(define(i, inputs, IDEAL));
    }),
    { numRuns: 500 },
  );
});

/** lut and lmma as one product of integers: tables, then sums. */
function product(
  lmma: Extract<Instruction, { kind: "lmma" }>,
  activations: Uint8Array,
  weights: Uint8Array,
  mode: Mode,
): number[] {
  const { m, k, activation, entry } = lmma;
  const tables = runOne({ kind: "lut", m, k, activation, entry, to: 100, from: 0 }, { from: activations }, mode);
  return numbersOf(lmma, runOne(lmma, { table: tables["to"]!, weights }, mode))["to"]!;
}

function lmmaOf(
  weight: Weight,
  activation: "int8" | "int16",
  m: number,
  n: number,
  k: number,
): Extract<Instruction, { kind: "lmma" }> {
  const entry = activation === "int8" ? "int16" : "int32";
  const types = { activation, weight, entry, accumulate: "int32", out: "int32" } as const;
  return { kind: "lmma", m, n, k, ...types, to: 0, table: 100, weights: 200, addend: ZERO };
}

/** sum over k of a (2 q - centre), which is twice the sum of a (q - centre / 2). */
function dot(
  activations: ArrayLike<number>,
  codes: Uint8Array,
  { weight, m, n, k }: Extract<Instruction, { kind: "lmma" }>,
): number[] {
  const sums: number[] = [];
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let sum = 0;
      for (let x = 0; x < k; x++) sum += activations[row * k + x]! * (2 * codes[column * k + x]! - centreOf(weight));
      sums.push(sum);
    }
  }
  return sums;
}

test("four weights of every width, all their values, give the dot product with four integers exactly, in all modes", () => {
  const fours = [
    [127, -128, 127, -128],
    [-128, -128, -128, -128],
    [1, 10, 100, -77],
    [0, 0, 0, 5],
  ];
  for (const weight of WEIGHTS) {
    const count = codeCount(weight);
    const all = Array.from({ length: count ** 4 }, (_, x) =>
      [0, 1, 2, 3].map((j) => Math.floor(x / count ** j) % count),
    );
    for (let first = 0; first < all.length; first += 256) {
      // The last columns of 16 or 81 tuples are any.
      const columns = Array.from({ length: 256 }, (_, c) => all[first + c] ?? all[0]!);
      const codes = Uint8Array.from(columns.flat());
      const i = lmmaOf(weight, "int8", 4, 256, 4);
      const weights = packTile(codes, i);
      const activations = Int8Array.from(fours.flat());
      for (const mode of MODES)
        expect(product(i, new Uint8Array(activations.buffer), weights, mode)).toEqual(dot(activations, codes, i));
    }
  }
});

test("tiles of integers of all sizes give the dot products exactly, in all modes", () => {
  const sizes = fc
    .record({
      weight: fc.constantFrom(...WEIGHTS),
      activation: fc.constantFrom("int8" as const, "int16" as const),
      m: fc.constantFrom(1, 2, 8, 64),
      n: fc.constantFrom(8, 16, 64, 256),
      k: fc.constantFrom(4, 8, 32, 128, 256),
      seed: fc.integer(),
      mode: fc.constantFrom(...MODES),
    })
    .map(({ weight, activation, m, n, k, ...rest }) => ({ i: lmmaOf(weight, activation, m, n, k), ...rest }))
    .filter(({ i }) => checkInstruction(i) === null);
  fc.assert(
    fc.property(sizes, ({ i, seed, mode }) => {
      const { weight, m, n, k, activation } = i;
      const random = (x: number): number => Math.imul(x + seed, 0x9e3779b1) ^ (Math.imul(x ^ seed, 0x85ebca6b) >>> 7);
      const Integers = activation === "int8" ? Int8Array : Int16Array;
      const activations = new Integers(Array.from({ length: m * k }, (_, x) => random(x) >> 9));
      const codes = Uint8Array.from({ length: n * k }, (_, x) => (random(~x) >>> 8) % codeCount(weight));
      const sums = product(i, new Uint8Array(activations.buffer), packTile(codes, i), mode);
      expect(sums).toEqual(dot(activations, codes, i));
    }),
    { numRuns: 150 },
  );
});

test("the largest tiles of floats are what small ones are, in all modes", () => {
  const words = { activation: "fp16", entry: "fp16" } as const;
  for (const [weight, n, k] of [
    ["int2", 8, 256],
    ["int4", 32, 64],
    ["ternary", 256, 4],
  ] as const) {
    for (const accumulate of ["fp16", "fp32"] as const) {
      const least = smallest("lmma", { ...words, weight, accumulate, out: accumulate });
      const i = { ...least, n, k, to: 0, table: 100, weights: 200, addend: 300 } as Instruction;
      const [inputs] = fc.sample(inputsOf(i, 1), { seed: n, numRuns: 1 });
      for (const mode of MODES) expect(machine(i, inputs!, mode)).toEqual(define(i, inputs!, mode));
    }
  }
});
