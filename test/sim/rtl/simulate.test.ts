// What is written, simulated by Icarus Verilog, equals its golden model: every kind with every activation, the options of
// random configurations, and not so when a gate is changed.

import fc from "fast-check";
import { describe, expect } from "vitest";

import { ACTIVATIONS, KINDS } from "../../../sim/rtl/config.ts";
import { testWith } from "../../oracle/oracle.ts";
import { configs } from "./configs.ts";
import { icarus, simulated } from "./simulate.ts";

const simulator = icarus();
const COUNT = 20_000;

// Registers keep changes of early gates from running through all later ones, which is what simulation takes its time for;
// units without registers are among the random ones below.
describe("20,000 random steps and corner values, beside the golden model:", () => {
  for (const kind of KINDS) {
    for (const activation of ACTIVATIONS) {
      testWith(simulator, `${kind}, ${activation}`, () => {
        const isFloat = !activation.startsWith("int");
        const pipeline = isFloat ? (kind === "add" ? 3 : 4) : kind === "mac" ? 2 : 1;
        const number = isFloat ? { accumulator: "fp16", float: { specials: "ieee", subnormals: "keep" } } : {};
        const weights = kind === "mac" ? {} : { weightBits: 2 };
        const { last, steps, unchecked } = simulated(
          { kind, activation, k: 2, pipeline, ...weights, ...number },
          COUNT,
          7,
        );
        expect(steps - unchecked).toBeGreaterThanOrEqual(COUNT);
        expect(last).toBe(`lutra: PASS, ${steps - unchecked} checks`);
      });
    }
  }
});

testWith(simulator, "units of random configurations equal their golden models", () => {
  fc.assert(
    fc.property(configs, fc.nat(1000), (config, seed) => {
      const { last, steps, unchecked } = simulated(config, 60, seed);
      expect(last, JSON.stringify(config)).toBe(`lutra: PASS, ${steps - unchecked} checks`);
    }),
    { numRuns: 40 },
  );
});

testWith(simulator, "the paper's array of 2 x 64 lanes equals its golden model", () => {
  const { last, steps, unchecked } = simulated({ kind: "lut", activation: "int8", m: 2, n: 64, weightBits: 2 }, 200, 3);
  expect(last).toBe(`lutra: PASS, ${steps - unchecked} checks`);
});

testWith(simulator, "a gate that is changed is found by the testbench", () => {
  const faults: readonly (readonly [string, string])[] = [
    ["assign s = half ^ c", "assign s = half | c"],
    ["(a & b) | (half & c)", "(a & b)"],
    ["assign co = a & b", "assign co = 1'b0"],
  ];
  for (const [from, to] of faults) {
    const { last } = simulated({ kind: "mac", activation: "int8" }, 200, 1, (verilog) => verilog.replace(from, to));
    expect(last, from).toMatch(/^lutra: FAIL, \d+ of \d+ checks$/);
  }
});
