// Times and energies of netlists that can be worked out by hand, properties of both, and the unit times of the literature.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

import { readConfig } from "../../../sim/rtl/config.ts";
import { designOf } from "../../../sim/rtl/design.ts";
import { type Activity, energyOf, turnsOf } from "../../../sim/synth/energy.ts";
import type { Cell, Library } from "../../../sim/synth/library.ts";
import { type Netlist, readNetlist } from "../../../sim/synth/netlist.ts";
import { reportOf } from "../../../sim/synth/report.ts";
import { FLAT } from "../../../sim/synth/script.ts";
import { timingOf, usualAssumptions } from "../../../sim/synth/timing.ts";
import { synthesise, USUAL_LIMITS } from "../../../sim/synth/yosys.ts";
import { modelsOf, MULTIPLY_ADD, shipped, yosysOfTests } from "./designs.ts";

const yosys = await yosysOfTests();
const folder = mkdtempSync(join(tmpdir(), "lutra-timing-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const library = shipped("45nm");

type Wires = Readonly<Record<string, readonly number[]>>;

/** A netlist from ports and cells, as Yosys would write it. */
function netlistOf(
  inputs: Wires,
  outputs: Wires,
  cells: Readonly<Record<string, readonly [string, Wires]>>,
): Netlist<Cell> {
  const port = (direction: string, wires: Wires): object =>
    Object.fromEntries(Object.entries(wires).map(([name, bits]) => [name, { direction, bits }]));
  const ports = { ...port("input", inputs), ...port("output", outputs) };
  const made = Object.fromEntries(
    Object.entries(cells).map(([name, [type, connections]]) => [name, { type, connections }]),
  );
  const all = Object.entries({ ...inputs, ...outputs });
  const netnames = Object.fromEntries(all.map(([name, bits]) => [name, { bits }]));
  return readNetlist(JSON.stringify({ modules: { top: { ports, cells: made, netnames } } }), modelsOf(library));
}

/** Delay of an arc of the library, as the definition has it. */
function delayPs(kind: string, from: string, to: string, edge: "rise" | "fall", loadFf: number): number {
  const arc = library.cells
    .find(({ name }) => name === kind)!
    .outputs.find(({ name }) => name === to)!
    .arcs.find((a) => a.from === from)!;
  const line = edge === "rise" ? arc.risePs : arc.fallPs;
  return line.intrinsic + line.perFf * loadFf;
}

const NO_WIRES = { wireFfPerPin: 0, outputFf: 5, maxFanout: 8 };

describe("the longest path", () => {
  test("of two inverters is the sum of opposite edges at their loads", () => {
    const netlist = netlistOf(
      { a: [2] },
      { y: [4] },
      { u1: ["INV_X1", { A: [2], ZN: [3] }], u2: ["INV_X1", { A: [3], ZN: [4] }] },
    );
    const timing = timingOf(netlist, NO_WIRES);
    // y falls after net 3 rose, or rises after it fell; 1.7 fF is the pin of an inverter.
    const falls = delayPs("INV_X1", "A", "ZN", "rise", 1.7) + delayPs("INV_X1", "A", "ZN", "fall", 5);
    const rises = delayPs("INV_X1", "A", "ZN", "fall", 1.7) + delayPs("INV_X1", "A", "ZN", "rise", 5);
    expect(timing.periodPs).toBeCloseTo(Math.max(falls, rises), 9);
    expect(timing).toMatchObject({ start: "a", end: "y", setupPs: 0 });
    expect(timing.logicPs).toBe(timing.periodPs);
    expect(timing.path.map(({ cell, kind, from, to }) => [cell, kind, from, to])).toEqual([
      ["u1", "INV_X1", "A", "ZN"],
      ["u2", "INV_X1", "A", "ZN"],
    ]);
  });

  test("of an exclusive or takes either edge of its inputs", () => {
    const netlist = netlistOf({ a: [2], b: [3] }, { y: [4] }, { u1: ["XOR2_X1", { A: [2], B: [3], Z: [4] }] });
    const all = ["A", "B"].flatMap((pin) =>
      (["rise", "fall"] as const).map((edge) => delayPs("XOR2_X1", pin, "Z", edge, 5)),
    );
    expect(timingOf(netlist, NO_WIRES).periodPs).toBeCloseTo(Math.max(...all), 9);
  });

  test("from register to register counts the clock's delay and the set-up time", () => {
    const netlist = netlistOf(
      { clk: [2] },
      { q: [3] },
      { ff: ["DFF_X1", { D: [4], CK: [2], Q: [3] }], u1: ["INV_X1", { A: [3], ZN: [4] }] },
    );
    const timing = timingOf(netlist, { ...NO_WIRES, outputFf: 0 });
    const clocked = (edge: "rise" | "fall"): number => delayPs("DFF_X1", "CK", "Q", edge, 1.7);
    const inverter = (edge: "rise" | "fall"): number => delayPs("INV_X1", "A", "ZN", edge, 1.14);
    const worst = Math.max(clocked("rise") + inverter("fall"), clocked("fall") + inverter("rise"));
    expect(timing.periodPs).toBeCloseTo(worst + 42, 9);
    expect(timing).toMatchObject({ start: "q", end: "q", setupPs: 42 });
    expect(timing.logicPs).toBeCloseTo(inverter(timing.path[1]!.edge), 9);
  });

  test("grows with wires, and with readers until they count as buffered", () => {
    const fan = (readers: number): Netlist<Cell> =>
      netlistOf(
        { a: [2] },
        { y: [4] },
        Object.fromEntries([
          ["u0", ["INV_X1", { A: [2], ZN: [3] }]],
          ["u1", ["INV_X1", { A: [3], ZN: [4] }]],
          ...Array.from({ length: readers - 1 }, (_, i) => [`v${i}`, ["INV_X1", { A: [3], ZN: [10 + i] }]]),
        ] as [string, readonly [string, Wires]][]),
      );
    const at = (readers: number, wireFfPerPin = 0): number =>
      timingOf(fan(readers), { ...NO_WIRES, wireFfPerPin }).periodPs;
    expect(at(2)).toBeGreaterThan(at(1));
    expect(at(8)).toBeGreaterThan(at(7));
    expect(at(20)).toBeCloseTo(at(8), 9);
    expect(at(2, 1)).toBeGreaterThan(at(2));
  });

  test("that is none is refused", () => {
    expect(() => timingOf(netlistOf({ a: [2] }, {}, {}), NO_WIRES)).toThrow(
      "top: no output or register depends on an input or a register",
    );
  });
});

const still = (held: Readonly<Record<string, bigint>>): Activity => ({
  kind: "random",
  seed: 1,
  cycles: 20,
  held,
  pulsed: {},
});

describe("energy", () => {
  const inverter = netlistOf({ a: [2] }, { y: [3] }, { u1: ["INV_X1", { A: [2], ZN: [3] }] });
  const HALF_SQUARE = 0.5 * 1.1 * 1.1;

  test("of an inverter that turns each cycle is what it takes inside, its pin's charge and its leakage", () => {
    const cycles = Array.from({ length: 11 }, (_, i) => ({ a: BigInt(i & 1) }));
    const energy = energyOf(inverter, library, turnsOf(inverter, { kind: "trace", cycles }, "zero"), 1000, 0);
    expect(energy.internalFj).toBeCloseTo(0.91, 9);
    expect(energy.switchingFj).toBeCloseTo(HALF_SQUARE * 1.7, 9);
    expect(energy.clockFj).toBe(0);
    expect(energy.leakageFj).toBeCloseTo(14.35 * 1e-3, 12); // nW times a nanosecond
    expect(energy.turnsPerCycle).toBe(1);
  });

  test("of nothing that moves is the clock's and leakage, and proportional to the period", async () => {
    const { netlist: text } = await synthesise(yosys, MULTIPLY_ADD, library, FLAT, USUAL_LIMITS, folder);
    const netlist = readNetlist(text, modelsOf(library));
    const zero = { clear: 0n, minus: 0n, a: 0n, w: 0n };
    for (const delays of ["zero", "unit"] as const) {
      const energy = energyOf(netlist, library, turnsOf(netlist, still(zero), delays), 1000, 0);
      expect([energy.internalFj, energy.switchingFj, energy.turnsPerCycle]).toEqual([0, 0, 0]);
      expect(energy.clockFj).toBeCloseTo(16 * 2 * (3.6 + HALF_SQUARE * 0.95), 6);
      const slower = energyOf(netlist, library, turnsOf(netlist, still(zero), delays), 2000, 0);
      expect(slower.leakageFj).toBeCloseTo(2 * energy.leakageFj, 9);
      expect(slower.clockFj).toBe(energy.clockFj);
    }
  });

  test("is the same for the same seed, grows with glitches, rate and wires, and its shares add up", async () => {
    const { netlist: text } = await synthesise(yosys, MULTIPLY_ADD, library, FLAT, USUAL_LIMITS, folder);
    const netlist = readNetlist(text, modelsOf(library));
    const of = (activity: Activity, delays: "zero" | "unit" = "zero", wire = 0): ReturnType<typeof energyOf> =>
      energyOf(netlist, library, turnsOf(netlist, activity, delays), 1000, wire);
    const random = of(still({ clear: 0n }));
    expect(of(still({ clear: 0n }))).toEqual(random);
    expect(of({ ...still({ clear: 0n }), seed: 2 } as Activity).totalFj).not.toBe(random.totalFj);
    expect(of(still({ clear: 0n }), "unit").totalFj).toBeGreaterThan(random.totalFj);
    expect(of(still({ clear: 0n }), "zero", 0.5).totalFj).toBeGreaterThan(random.totalFj);
    const rate = (turnsPerCycle: number): number => of({ kind: "rate", turnsPerCycle }).totalFj;
    expect(rate(0.2) - rate(0.1)).toBeCloseTo(rate(0.1) - rate(0), 6);
    const { internalFj, switchingFj, clockFj, leakageFj, totalFj, byModule } = random;
    expect(internalFj + switchingFj + clockFj + leakageFj).toBeCloseTo(totalFj, 6);
    expect(byModule.reduce((sum, { dynamicFj }) => sum + dynamicFj, 0)).toBeCloseTo(totalFj - leakageFj, 6);
    expect(random.turnsPerCycle).toBeGreaterThan(0.2);
    expect(random.turnsPerCycle).toBeLessThan(0.7);
  });
});

/**
 * Times of units at 45 nm, typical, light load, of a synthesis by ABC alone, which sees neither registers nor the cells of
 * full adders: so logic alone, adders of gates. The tolerance is the goal for iso-frequency comparisons.
 */
const FP16 = {
  activation: "fp16",
  accumulator: "fp16",
  adder: "prefix",
  float: { rounding: "toward-zero", sticky: false, window: 14 },
};
describe("units take as long as their kind does in the literature, within 15 %", () => {
  test.each([
    ["MAC INT8", { kind: "mac", activation: "int8", weightBits: 8 }, 1.8, 2.0],
    ["ADD INT8", { kind: "add", activation: "int8", weightBits: 1, accumulator: "int16" }, 1.1, 1.25],
    ["LUT INT8", { kind: "lut", activation: "int8", weightBits: 1, accumulator: "int16" }, 0.85, 1.0],
    ["MAC FP16", { ...FP16, kind: "mac", weightBits: 16 }, 3.5, 3.5],
  ])("%s", async (_, config, lowestNs, highestNs) => {
    const design = designOf(readConfig(config));
    const flow = { ...FLAT, adders: "gates" } as const;
    const { netlist: text } = await synthesise(yosys, design, library, flow, USUAL_LIMITS, folder);
    const { logicPs } = timingOf(readNetlist(text, modelsOf(library)), usualAssumptions(library));
    expect(logicPs / 1000).toBeGreaterThan(lowestNs * 0.85);
    expect(logicPs / 1000).toBeLessThan(highestNs * 1.15);
  });
});

describe("a report", () => {
  test("changes area, energy and time with the node and with the weights' bits", async () => {
    const of = async (weightBits: number, cells: Library): Promise<readonly number[]> => {
      const design = designOf(readConfig({ kind: "mac", activation: "int8", weightBits }));
      const { netlist: text } = await synthesise(yosys, design, cells, FLAT, USUAL_LIMITS, folder);
      const netlist = readNetlist(text, modelsOf(cells));
      const report = reportOf({
        library: cells,
        netlist,
        apart: netlist,
        scaled: null,
        clockNs: null,
        activity: { kind: "rate", turnsPerCycle: 0.1 },
        delays: "zero",
        operationsPerCycle: 8,
      });
      const period = "value" in report.period ? report.period.value : 0;
      return [report.area.value, report.energy.value, period];
    };
    const [wide, narrow, small] = [await of(4, library), await of(2, library), await of(4, shipped("7nm"))];
    for (const [i, value] of wide.entries()) {
      expect(narrow[i]!).toBeLessThan(value);
      expect(small[i]!).toBeLessThan(value);
    }
  });
});
