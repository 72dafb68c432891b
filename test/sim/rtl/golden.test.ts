// The golden models alone: against exact integers, and against the LMMA machine's own arithmetic.

import fc from "fast-check";
import { expect, test } from "vitest";

import { decoded, sum } from "../../../sim/rtl/aligned.ts";
import { readConfig } from "../../../sim/rtl/config.ts";
import { designOf } from "../../../sim/rtl/design.ts";
import type { Lmma } from "../../../src/lutcore/instruction.ts";
import { ZERO } from "../../../src/lutcore/instruction.ts";
import { type Mode, STAGE1 } from "../../../src/lutcore/mode.ts";
import { encoderOf, rounderOf, valuesOf } from "../../../src/lutcore/number.ts";
import { symmetrised } from "../../../src/lutcore/weights.ts";
import { PAPER, runOne } from "../../lutcore/machine.ts";

const bare = { operands: false, weights: "none" };

/** Numbers one behind the other. */
function packed(parts: readonly number[], bits: number): bigint {
  return parts.reduceRight((all, part) => (all << BigInt(bits)) | BigInt.asUintN(bits, BigInt(part)), 0n);
}

const integers = fc.constantFrom("mac", "add", "lut", "lut-conventional", "unpu").chain((kind) =>
  fc.record({
    kind: fc.constant(kind),
    shift: fc.constantFrom("accumulator", "operand"),
    bits: fc.integer({ min: 2, max: 4 }),
    a: fc.array(fc.array(fc.integer({ min: -127, max: 127 }), { minLength: 4, maxLength: 4 }), {
      minLength: 1,
      maxLength: 4,
    }),
    codes: fc.array(fc.nat(15), { minLength: 16, maxLength: 16 }),
  }),
);

test("integer units of all kinds give the product of activations and weights, whatever the steps and the shift", () => {
  fc.assert(
    fc.property(integers, ({ kind, shift, bits, a, codes }) => {
      const isMac = kind === "mac";
      const made = kind === "unpu" || kind === "lut-conventional";
      const common = { kind, activation: "int8", weightBits: bits, accumulator: "int24" };
      const registers = kind === "mac" || kind === "add" ? bare : { tables: false, weights: "none" };
      const config = readConfig({ ...common, ...(isMac ? {} : { shift }), registers });
      const design = designOf(config);
      const golden = design.golden();
      const odd = config.steps?.reinterpretation === true;
      const code = (g: number, j: number): number => codes[4 * g + j]! % 2 ** bits;
      // Two's complement, or the odd numbers around 0.
      const weight = (g: number, j: number): number =>
        odd ? 2 * code(g, j) - (2 ** bits - 1) : code(g, j) - (code(g, j) >= 2 ** (bits - 1) ? 2 ** bits : 0);
      let expected = 0;
      for (const [g, row] of a.entries()) for (const [j, x] of row.entries()) expected += x * weight(g, j);
      const planes = isMac ? [0] : Array.from({ length: bits }, (_, p) => bits - 1 - p);
      let acc = 0n;
      // Planes from the highest down, so that sums may be doubled in between; all groups within a plane.
      for (const [p, plane] of planes.entries()) {
        for (const [g, row] of a.entries()) {
          const four = row.reduce((all, _, j) => all | (((code(g, j) >> plane) & 1) << j), 0);
          const index = kind === "lut" ? symmetrised(four) : four;
          const w = isMac
            ? packed(
                row.map((_, j) => code(g, j)),
                bits,
              )
            : BigInt(index);
          const entries = Array.from({ length: 8 }, (_, i) =>
            row.reduce((total, x, j) => total + (((i >> j) & 1) === 1 ? x : -x), 0),
          );
          const inputs = {
            ...(kind === "lut" ? { entries: packed(entries, 10) } : { a: packed(row, 8) }),
            w,
            ...(design.ports.some(({ name }) => name === "plane") ? { plane: BigInt(plane) } : {}),
            ...(design.ports.some(({ name }) => name === "subtract") ? { subtract: BigInt(p === 0) } : {}),
            ...(design.ports.some(({ name }) => name === "double") ? { double: BigInt(p > 0 && g === 0) } : {}),
            clear: BigInt(p === 0 && g === 0),
            enable: 1n,
          };
          acc = golden.step(inputs)["acc"]!;
        }
      }
      expect(Number(BigInt.asIntN(24, acc)), `${kind} ${made}`).toBe(expected);
    }),
    { numRuns: 400 },
  );
});

/** The codes that a lut of eight columns ends with: four groups of four, the planes from the lowest up. */
function lutOf(config: object, table: Uint16Array, nibbles: Uint8Array, planes: number): bigint[] {
  const registers = { tables: false, weights: "none" };
  const design = designOf(
    readConfig({ kind: "lut", activation: "fp16", n: 8, weightBits: planes, registers, ...config }),
  );
  const golden = design.golden();
  let acc = 0n;
  for (let group = 0; group < 4; group++) {
    for (let plane = 0; plane < planes; plane++) {
      const indices = Array.from({ length: 8 }, (_, column) => {
        const byte = nibbles[((group * planes + plane) * 8 + column) >> 1]!;
        return (byte >> (4 * (column % 2))) & 15;
      });
      const entries = packed([...table.subarray(group * 8, group * 8 + 8)], 16);
      const told = { clear: BigInt(group === 0 && plane === 0), enable: 1n, plane: BigInt(plane) };
      acc = golden.step({ entries, w: packed(indices, 4), ...told })["acc"]!;
    }
  }
  const width = BigInt(design.ports.find(({ name }) => name === "acc")!.width / 8);
  return Array.from({ length: 8 }, (_, column) => BigInt.asUintN(Number(width), acc >> (BigInt(column) * width)));
}

/** Any code, and often small ones, large ones and such as cancel. */
const word = fc.oneof(
  fc.nat(0xffff),
  fc.constantFrom(0, 0x8000, 1, 0x3ff, 0x400, 0x8400, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00),
  fc.nat(0xfff).map((low) => 0x3800 + low),
);
const words = fc.array(word, { minLength: 32, maxLength: 32 }).map((list) => Uint16Array.from(list));
const nibbleBytes = fc.uint8Array({ minLength: 32, maxLength: 32 });

function lmma(table: Uint16Array, nibbles: Uint8Array, accumulate: "fp16" | "fp32", mode: Mode): Uint8Array {
  const i: Lmma = {
    kind: "lmma",
    m: 1,
    n: 8,
    k: 16,
    activation: "fp16",
    weight: "int2",
    accumulate,
    out: accumulate,
    entry: "fp16",
    to: 0,
    table: 64,
    weights: 128,
    addend: ZERO,
  };
  return runOne(i, { table: new Uint8Array(table.buffer), weights: nibbles }, mode)["to"]!;
}

test("a lut of FP16 set as the public circuit equals the machine's rtl mode, bit by bit", () => {
  const mode: Mode = { kind: "rtl", quirks: { ...STAGE1, firstSign: false } };
  const float = { specials: "infinity", subnormals: "flush", planeAdd: "field" };
  fc.assert(
    fc.property(words, nibbleBytes, (table, nibbles) => {
      const expected = new Uint16Array(lmma(table, nibbles, "fp16", mode).slice().buffer);
      const ours = lutOf({ accumulator: "fp16", float }, table, nibbles, 2);
      expect(ours.map(Number)).toEqual([...expected]);
    }),
    { numRuns: 1500 },
  );
});

test("a lut of FP16 that keeps all IEEE 754 has equals the machine's paper mode", () => {
  const float = { specials: "ieee", subnormals: "keep" };
  for (const [accumulator, bits] of [
    ["fp32", 32],
    ["fp16", 16],
  ] as const) {
    const nan = (code: number): boolean => (bits === 32 ? (code & 0x7fffffff) > 0x7f800000 : (code & 0x7fff) > 0x7c00);
    const clean = (code: number): number | string => (nan(code) ? "NaN" : code);
    fc.assert(
      fc.property(words, nibbleBytes, (table, nibbles) => {
        const bytes = lmma(table, nibbles, accumulator, PAPER).slice().buffer;
        const expected = [...(bits === 32 ? new Uint32Array(bytes) : new Uint16Array(bytes))];
        const ours = lutOf({ accumulator, float }, table, nibbles, 2);
        expect(ours.map((code) => clean(Number(code)))).toEqual(expected.slice(0, 8).map(clean));
      }),
      { numRuns: 800 },
    );
  }
});

test("the sum of two FP16 in E4M3, E5M2 and BF16 is the double's, rounded once", () => {
  const options = {
    rounding: "nearest-even",
    subnormals: "keep",
    specials: "ieee",
    window: 40,
    sticky: true,
    planeAdd: "exact",
  } as const;
  const values = valuesOf("fp16");
  for (const to of ["e4m3", "e5m2", "bf16", "fp16"] as const) {
    const [round, encode] = [rounderOf(to), encoderOf(to)];
    fc.assert(
      fc.property(word, word, (x, y) => {
        // Sums of two FP16 have at most 41 bits and are exact in a double.
        const exact = round(values[x]! + values[y]!);
        const ours = Number(
          sum([decoded(BigInt(x), "fp16", options), decoded(BigInt(y), "fp16", options)], null, to, options),
        );
        const code = encode(exact);
        if (Number.isNaN(exact)) expect(ours & (to === "bf16" || to === "fp16" ? 0x7fff : 0x7f)).toBe(code);
        else expect(ours).toBe(code);
      }),
      { numRuns: 3000 },
    );
  }
});

test("a missing input, one that is too wide and a plane that weights do not have are refused", () => {
  const golden = designOf(
    readConfig({ kind: "add", activation: "int8", weightBits: 3, shift: "operand", registers: bare }),
  ).golden();
  const inputs = { a: 0n, w: 0n, plane: 2n, clear: 1n, enable: 1n };
  expect(golden.step(inputs)).toEqual({ acc: BigInt.asUintN(32, 0n) });
  expect(() => golden.step({ ...inputs, plane: 3n })).toThrow("plane: 3; 0 to 2 is needed");
  expect(() => golden.step({ ...inputs, w: 16n })).toThrow("w: 16; a number of 4 bits from 0 up is needed");
  const { a: _, ...others } = inputs;
  expect(() => golden.step(others)).toThrow("a: no value; a number of 32 bits from 0 up is needed");
});
