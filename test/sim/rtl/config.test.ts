// Configurations: what is filled in, and what is refused in which words.

import fc from "fast-check";
import { expect, test } from "vitest";

import { ConfigError, readConfig } from "../../../sim/rtl/config.ts";
import { configs } from "./configs.ts";

test("what is left out is filled in, and reading it again changes nothing", () => {
  expect(readConfig({ kind: "lut", activation: "fp16", weightBits: 2 })).toEqual({
    kind: "lut",
    m: 1,
    n: 1,
    k: 4,
    weightBits: 2,
    activation: "fp16",
    table: "fp16",
    accumulator: "fp32",
    shift: "exponent",
    adder: "ripple",
    pipeline: 0,
    float: {
      rounding: "nearest-even",
      subnormals: "flush",
      specials: "none",
      window: 26,
      sticky: true,
      planeAdd: "exact",
    },
    steps: { reinterpretation: true, offlineNegation: true, precomputeSplit: true },
    registers: { operands: false, tables: true, weights: "plane", accumulator: true, doubleBuffer: false },
  });
  fc.assert(
    fc.property(configs, (config) => {
      const whole = readConfig(config);
      expect(readConfig(JSON.parse(JSON.stringify(whole)))).toEqual(whole);
    }),
    { numRuns: 300 },
  );
});

function refusal(value: unknown): string {
  try {
    readConfig(value);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return "it was taken";
}

const lut = { kind: "lut", activation: "int8" };
const mac = { kind: "mac", activation: "int8" };
test.each([
  [[], '[]; an object is needed, as in {"kind": "mac"}'],
  [{}, "kind: not given; one of mac, add, lut, lut-conventional, unpu is needed"],
  [{ kind: "mac" }, "activation: not given; one of fp16, bf16, fp8-e4m3, fp8-e5m2, int16, int8 is needed"],
  [{ kind: "cam" }, 'kind: "cam"; one of mac, add, lut, lut-conventional, unpu is needed'],
  [{ ...lut, k: 9 }, "k: 9; a whole number from 1 to 8 is needed"],
  [{ ...mac, k: 2.5 }, "k: 2.5; a whole number from 1 to 64 is needed"],
  [{ ...mac, m: 64, n: 512, k: 1 }, "n: 64 x 512 lanes of 1 values are 32768; at most 16384 can be built"],
  [{ ...lut, weightBits: 9 }, "weightBits: 9; a whole number from 1 to 8 is needed"],
  [{ ...lut, weight_bits: 2 }, 'weight_bits: there is no such field; did you mean "weightBits"?'],
  [{ kind: "mac", activation: "bf16", weightBits: 8 }, "weightBits: 8; 16 is needed"],
  [{ ...lut, table: "fp16" }, 'table: "fp16"; int2 to int24 is needed'],
  [{ ...mac, table: "int8" }, 'table: "int8"; a mac has none; leave it out'],
  [
    { kind: "unpu", activation: "int8", table: "int8" },
    'table: "int8"; int10 to int24 is needed where the array makes its tables',
  ],
  [{ ...lut, accumulator: "fp32" }, 'accumulator: "fp32"; one of int16, int20, int24, int32, int48 is needed'],
  [{ ...lut, shift: "exponent" }, 'shift: "exponent"; one of accumulator, operand is needed'],
  [{ ...lut, pipeline: 2 }, "pipeline: 2; a whole number from 0 to 1 is needed"],
  [{ ...lut, float: { window: 3 } }, "float: all of this unit is integer; leave it out"],
  [{ kind: "mac", activation: "fp16", float: { window: 3 } }, "float.window: 3; a whole number from 4 to 64 is needed"],
  [
    { kind: "lut", activation: "fp16", shift: "accumulator", float: { planeAdd: "field" } },
    'float.planeAdd: "field"; only tables of floats whose shift is "exponent" have that',
  ],
  [
    { ...lut, steps: { reinterpretation: false, offlineNegation: true } },
    "steps.offlineNegation: true; a whole table negates no index: false is needed where steps.reinterpretation is false",
  ],
  [
    { ...lut, registers: { operands: true } },
    "registers.operands: true; no activations arrive where tables arrive ready: false is needed",
  ],
  [{ ...mac, registers: { tables: true } }, "registers.tables: true; a mac has no tables: false is needed"],
  [
    { ...lut, registers: { tables: false, weights: "none", doubleBuffer: true } },
    "registers.doubleBuffer: true; there is no register of operands, tables or weights to double: false is needed",
  ],
])("%j is refused: %s", (config, message) => {
  expect(refusal(config)).toBe(message);
});
