// Synthesis end to end: Verilog through Yosys to gates and to cells, simulated against arithmetic, proven equal, kept.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

import { writeLiberty } from "../../../sim/synth/liberty.ts";
import { type Model, type Netlist, readNetlist, YOSYS_GATES } from "../../../sim/synth/netlist.ts";
import { makeSimulator, pack, STREAMS, unpack } from "../../../sim/synth/simulate.ts";
import { FLAT } from "../../../sim/synth/script.ts";
import { openYosys, proveEqual, synthesise, toGates, USUAL_LIMITS } from "../../../sim/synth/yosys.ts";
import { modelsOf, MULTIPLY_ADD, multiplyAdd, RIPPLE, shipped, yosysOfTests } from "./designs.ts";

const yosys = await yosysOfTests();
const folder = mkdtempSync(join(tmpdir(), "lutra-synth-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SEED = 20_261_123;

/** xorshift64*, for test vectors; the seed is in the names of tests. */
function randomBits(seed: number): (bits: number) => bigint {
  let x = BigInt(seed);
  return (bits) => {
    x ^= BigInt.asUintN(64, x << 13n);
    x ^= x >> 7n;
    x ^= BigInt.asUintN(64, x << 17n);
    return BigInt.asUintN(bits, x >> 3n);
  };
}

/** Runs the accumulator for `cycles` on 32 streams; whether every sum is what JavaScript says. */
function expectMultiplyAdd(netlist: Netlist<Model>, cycles: number, delays: "zero" | "unit"): void {
  const random = randomBits(SEED);
  const simulator = makeSimulator(netlist, delays);
  let sums: readonly bigint[] = Array.from({ length: STREAMS }, () => 0n);
  for (let cycle = 0; cycle < cycles; cycle++) {
    const inputs = sums.map(() => ({ clear: random(4) === 0n, minus: random(1) === 1n, a: random(6), w: random(6) }));
    simulator.settle({
      clear: pack(
        inputs.map(({ clear }) => (clear ? 1n : 0n)),
        1,
      ),
      minus: pack(
        inputs.map(({ minus }) => (minus ? 1n : 0n)),
        1,
      ),
      a: pack(
        inputs.map(({ a }) => a),
        6,
      ),
      w: pack(
        inputs.map(({ w }) => w),
        6,
      ),
    });
    expect(unpack(simulator.read("sum")), `cycle ${cycle}`).toEqual(sums);
    simulator.tick();
    sums = sums.map((sum, i) => multiplyAdd(sum, inputs[i]!.clear, inputs[i]!.minus, inputs[i]!.a, inputs[i]!.w));
  }
}

describe.each(["45nm", "7nm"] as const)("at %s", (node) => {
  const library = shipped(node);

  test("a ripple of full adders becomes the library's adders, and adds all 256 pairs", async () => {
    const { netlist } = await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, folder);
    const mapped = readNetlist(netlist, modelsOf(library));
    const kinds = mapped.gates.map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind.startsWith("FA"))).toHaveLength(3);
    expect(kinds.filter((kind) => kind.startsWith("HA"))).toHaveLength(1);
    const simulator = makeSimulator(mapped, "zero");
    for (let x = 0n; x < 16n; x++)
      for (const ys of [0n, 8n]) {
        const pairs = Array.from({ length: 8 }, (_, i) => ys + BigInt(i));
        simulator.settle({
          x: pack(
            pairs.map(() => x),
            4,
          ),
          y: pack(pairs, 4),
        });
        expect(unpack(simulator.read("sum")).slice(0, 8)).toEqual(pairs.map((y) => x + y));
      }
  });

  test(`the mapped accumulator computes 20,480 random steps of seed ${SEED} as JavaScript does`, async () => {
    const { netlist } = await synthesise(yosys, MULTIPLY_ADD, library, FLAT, USUAL_LIMITS, folder);
    const mapped = readNetlist(netlist, modelsOf(library));
    expectMultiplyAdd(mapped, 640, "zero");
    expectMultiplyAdd(mapped, 20, "unit");
  });

  test("the mapped ripple is proven equal to its Verilog", async () => {
    const { mapped } = await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, folder);
    const proof = await proveEqual(yosys, RIPPLE, library, mapped, USUAL_LIMITS);
    expect(proof.unproven).toBe(0);
    expect(proof.proven).toBeGreaterThanOrEqual(5);
  });
});

test("the mapped accumulator is proven equal to its Verilog, over all inputs and states", async () => {
  const library = shipped("45nm");
  const { mapped } = await synthesise(yosys, MULTIPLY_ADD, library, FLAT, USUAL_LIMITS, folder);
  const proof = await proveEqual(yosys, MULTIPLY_ADD, library, mapped, USUAL_LIMITS);
  expect(proof.unproven).toBe(0);
  expect(proof.proven).toBeGreaterThanOrEqual(16);
});

test(`the unmapped accumulator computes 20,480 random steps of seed ${SEED} as JavaScript does`, async () => {
  const { netlist } = await toGates(yosys, MULTIPLY_ADD, USUAL_LIMITS, folder);
  expectMultiplyAdd(readNetlist(netlist, YOSYS_GATES), 640, "zero");
});

test("a wrong netlist is not proven equal", async () => {
  const library = shipped("45nm");
  const { mapped } = await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, folder);
  const wrong = mapped
    .replace(/\.S\(sum\[1\]\)/, ".S(sum[2])")
    .replace(/\.S\(sum\[2\]\)(?![\s\S]*\.S\(sum\[2\]\))/, ".S(sum[1])");
  expect(wrong).not.toBe(mapped);
  const proof = await proveEqual(yosys, RIPPLE, library, wrong, USUAL_LIMITS);
  expect(proof.unproven).toBeGreaterThan(0);
});

test("modules that are kept name their cells, and cost some area", async () => {
  const library = shipped("45nm");
  const area = async (keep: "none" | "all"): Promise<number> => {
    const { netlist } = await synthesise(yosys, MULTIPLY_ADD, library, { ...FLAT, keep }, USUAL_LIMITS, folder);
    const { gates, flipFlops } = readNetlist(netlist, modelsOf(library));
    expect(gates.some(({ name }) => name.startsWith("u_product."))).toBe(keep === "all");
    return [...gates, ...flipFlops].reduce((sum, { model }) => sum + model.areaUm2, 0);
  };
  const [flat, apart] = [await area("none"), await area("all")];
  expect(apart).toBeGreaterThanOrEqual(flat * 0.98);
});

test("areas are those that Yosys itself counts", async () => {
  const library = shipped("45nm");
  const { netlist, mapped } = await synthesise(yosys, MULTIPLY_ADD, library, FLAT, USUAL_LIMITS, folder);
  const { gates, flipFlops } = readNetlist(netlist, modelsOf(library));
  const { log } = await yosys.run({
    script: "read_verilog mapped.v\nstat -liberty cells.lib\n",
    files: { "mapped.v": mapped, "cells.lib": writeLiberty(library) },
    wanted: [],
    limits: USUAL_LIMITS,
  });
  const [, counted] = /Chip area for module '\\mac': ([\d.]+)/.exec(log) ?? [];
  expect([...gates, ...flipFlops].reduce((sum, { model }) => sum + model.areaUm2, 0)).toBeCloseTo(Number(counted), 4);
});

test("without yosys on PATH the program is unavailable, and says what would get it", async () => {
  const path = process.env["PATH"];
  process.env["PATH"] = folder;
  try {
    expect(await openYosys(true)).toEqual({
      unavailable: "no yosys on PATH; install it, as with: apt-get install yosys",
    });
  } finally {
    process.env["PATH"] = path;
  }
});

describe("the cache", () => {
  const library = shipped("45nm");
  const cache = join(folder, "cache");

  test("gives a result again, and not for another design, script or library", async () => {
    const first = await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, cache);
    expect(first.cached).toBe(false);
    const again = await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, cache);
    expect(again).toEqual({ ...first, cached: true });
    expect(readdirSync(cache)).toHaveLength(1);
    await synthesise(yosys, RIPPLE, library, { ...FLAT, keep: "all" }, USUAL_LIMITS, cache);
    const cells = library.cells.map((cell) => (cell.name === "INV_X1" ? { ...cell, areaUm2: 0.6 } : cell));
    expect((await synthesise(yosys, RIPPLE, { ...library, cells }, FLAT, USUAL_LIMITS, cache)).cached).toBe(false);
    expect(readdirSync(cache)).toHaveLength(3);
  });

  test("that is damaged counts as none, and is replaced", async () => {
    const known = await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, cache);
    for (const file of readdirSync(cache)) {
      const text = readFileSync(join(cache, file), "utf8");
      writeFileSync(join(cache, file), text.replace("ripple", "ripplf"));
    }
    const made = await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, cache);
    expect(made).toEqual({ ...known, cached: false });
    for (const file of readdirSync(cache)) writeFileSync(join(cache, file), "{");
    expect((await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, cache)).cached).toBe(false);
    expect((await synthesise(yosys, RIPPLE, library, FLAT, USUAL_LIMITS, cache)).cached).toBe(true);
  });
});

describe("Yosys is stopped", () => {
  const library = shipped("45nm");

  test("when its time is up", async () => {
    const limits = { ...USUAL_LIMITS, timeMs: 50 };
    await expect(synthesise(yosys, MULTIPLY_ADD, library, FLAT, limits, null)).rejects.toThrow(
      "Yosys took more than 0.05 s and was stopped; allow it more, or make the design smaller",
    );
  });

  test("when the signal says so, with the signal's reason", async () => {
    const controller = new AbortController();
    const passes: string[] = [];
    const progress = (pass: string): void => {
      passes.push(pass);
      controller.abort(new Error("enough"));
    };
    const limits = { ...USUAL_LIMITS, signal: controller.signal, progress };
    await expect(synthesise(yosys, MULTIPLY_ADD, library, FLAT, limits, null)).rejects.toThrow("enough");
    expect(passes[0]).toBe("Verilog");
  });

  test("by a design that it refuses, in its own words", async () => {
    const bad = { top: "top", verilog: "module top(input a, output b);\n  assign b = a +;\nendmodule\n" };
    await expect(synthesise(yosys, bad, library, FLAT, USUAL_LIMITS, null)).rejects.toThrow(
      "Yosys: design.v:2: ERROR: syntax error, unexpected ';'",
    );
  });
});

describe("a netlist is refused", () => {
  const cell = (type: string, connections: object): object => ({ type, connections });
  const text = (ports: object, cells: object): string =>
    JSON.stringify({ modules: { top: { ports, cells, netnames: { p: { bits: [5] } } } } });
  const a = { direction: "input", bits: [2] };
  const y = { direction: "output", bits: [3] };
  const inverter = cell("$_NOT_", { A: [2], Y: [3] });
  test.each([
    ["no JSON", "{", /^a netlist that is no JSON: /],
    ["no modules", "{}", "modules is no object"],
    ["no ports", JSON.stringify({ modules: { top: {} } }), "0 modules with ports (); a flat netlist has one"],
    [
      "an unknown kind",
      text({ a, y }, { u1: cell("NAND9", {}) }),
      "the cell u1 is a NAND9, which none of 17 known kinds is",
    ],
    ["a missing pin", text({ a, y }, { u1: cell("$_NOT_", { Y: [3] }) }), "u1.A is no list of bits"],
    ["a bit that is none", text({ a, y }, { u1: cell("$_NOT_", { A: ["q"], Y: [3] }) }), 'u1.A: the bit "q"'],
    ["two drivers", text({ a, y }, { u1: inverter, u2: inverter }), "net 3 is driven by u1 and by u2"],
    ["no driver", text({ a, y }, { u1: cell("$_NOT_", { A: [5], Y: [3] }) }), "p is read, and nothing drives it"],
    [
      "a loop",
      text({ a, y }, { u1: cell("$_AND_", { A: [2], B: [3], Y: [5] }), u2: cell("$_NOT_", { A: [5], Y: [3] }) }),
      "gates form a loop without a flip-flop: net 3 (u2) -> p (u1); put a register into it",
    ],
    [
      "two clocks",
      text(
        { a, y, c: { direction: "input", bits: [6] } },
        { u1: cell("$_DFF_P_", { C: [2], D: [6], Q: [3] }), u2: cell("$_DFF_P_", { C: [6], D: [2], Q: [5] }) },
      ),
      "flip-flops have 2 clocks (net 2, net 6); one is simulated",
    ],
  ])("with %s", (_, json, reason) => {
    expect(() => readNetlist(json, YOSYS_GATES)).toThrow(reason);
  });
});
