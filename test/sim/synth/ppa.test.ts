// lutra ppa as people call it: figures with all that belongs to them, other nodes and libraries, errors.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import { writeLiberty } from "../../../sim/synth/liberty.ts";
import { folder, lutra, place, startLutra } from "../../app/lutra.ts";
import { shipped } from "./designs.ts";

const cache = join(folder, "cache");
const config = place(
  "unit.json",
  JSON.stringify({ kind: "lut", activation: "int8", weightBits: 1, accumulator: "int16" }),
);

function ppa(...args: readonly string[]): ReturnType<typeof lutra> {
  return lutra(["ppa", ...args], { env: { XDG_CACHE_HOME: cache } });
}

interface Shown {
  readonly value: number;
  readonly unit: string;
  readonly provenance: string;
  readonly uncertaintyPercent: number;
}

interface Reported {
  readonly node: string;
  readonly boundary: string;
  readonly clockNs: number;
  readonly area: Shown;
  readonly gateEquivalents: Shown;
  readonly energy: Shown;
  readonly period: Shown & { readonly unavailable?: string };
  readonly leakage: Shown & { readonly unavailable?: string };
  readonly density: Shown & { readonly unavailable?: string };
  readonly modules: readonly { readonly kind: string; readonly areaUm2: number }[];
  readonly library: { readonly name: string; readonly provenance: string };
  readonly synthesis: { readonly cached: boolean };
}

function reported(...args: readonly string[]): Reported {
  const { code, out, err } = ppa(config, "--json", ...args);
  expect([code, err]).toEqual([0, ""]);
  return JSON.parse(out) as Reported;
}

test("an example is named without a folder, as for lutra rtl", () => {
  // The configuration is read first, so that what is missed is the library, or the configuration itself.
  expect(ppa("lut-m2n64k4-int8.json", "--liberty", join(folder, "none.lib")).err).toMatch(/none\.lib: no such file/);
  expect(ppa("no-example.json", "--liberty", join(folder, "none.lib")).err).toMatch(/no-example\.json: no such file/);
});

test("a unit has figures, each with unit, provenance and uncertainty, at a node, a clock and a boundary", () => {
  const report = reported();
  expect(report).toMatchObject({
    node: "45nm",
    boundary: "datapath + accumulator + table registers + weight registers (plane)",
    area: { unit: "um2", provenance: "synthesised", uncertaintyPercent: 19 },
    gateEquivalents: { unit: "GE", provenance: "synthesised" },
    energy: { unit: "fJ/cycle", provenance: "simulated", uncertaintyPercent: 40 },
    period: { unit: "ns", provenance: "synthesised", uncertaintyPercent: 25 },
    density: { unit: "TOPS/mm2" },
    library: { name: "45nm", provenance: "literature" },
  });
  expect(report.clockNs).toBe(report.period.value);
  expect(report.gateEquivalents.value).toBeCloseTo(report.area.value / 0.798, 6);
  // Eight operations a cycle of a one-bit unit with four values.
  expect(report.density.value).toBeCloseTo((8 / report.clockNs / report.area.value) * 1000, 6);
  const apart = report.modules.reduce((sum, { areaUm2 }) => sum + areaUm2, 0);
  expect(apart).toBeGreaterThan(0.95 * report.area.value);
  expect(report.modules.map(({ kind }) => kind)).toContain("lane_*");
  expect(reported().synthesis.cached).toBe(true);
});

test("the text says the same, and where the longest path goes", () => {
  const { code, out, err } = ppa(config);
  expect([code, err]).toEqual([0, ""]);
  expect(out).toMatch(
    /^lut, 1 x 1 lanes of 4, int8, weights of 1 bits, sums of int16\nnode 45nm \(1\.1 V, 25 C, typical\), clock \d/,
  );
  expect(out).toMatch(/\narea +\d+(\.\d+)? +um2 +synthesised +19 %\n/);
  expect(out).toMatch(/\nthe longest path goes from \S+ to acc\[1[45]\] through \d+ cells\n/);
  expect(out).toContain("area by module, mapped apart:");
  for (const line of out.split("\n")) expect(line.length, line).toBeLessThanOrEqual(140);
});

test("at 28 nm area and energy are scaled, with a wider band, and what has no factor is left out with its reason", () => {
  const [own, scaled] = [reported("--clock", "2"), reported("--clock", "2", "--node", "28nm")];
  expect(scaled.area.value / own.area.value).toBeCloseTo(0.377, 3);
  expect(scaled.area).toMatchObject({ provenance: "scaled", uncertaintyPercent: 58 });
  expect(scaled.gateEquivalents).toEqual(own.gateEquivalents);
  const reason = "no factor of delay from 45nm to 28nm; a node file can state one";
  expect(scaled.period).toEqual({ unavailable: reason });
  expect(scaled.leakage).toEqual({ unavailable: reason.replace("delay", "leakage") });
  expect(scaled.energy.value).toBeLessThan(0.36 * own.energy.value);
});

test("a node of one's own states its factors", () => {
  const node = {
    name: "ours",
    from: "45nm",
    voltageV: 0.8,
    areaFactor: 0.5,
    energyFactor: 0.25,
    delayFactor: 0.5,
    leakageFactor: 1,
    uncertaintyPercent: 0,
    source: "measured",
  };
  const [own, ours] = [reported(), reported("--node", place("node.json", JSON.stringify(node)))];
  expect(ours.node).toBe("ours");
  expect(ours.area.value).toBeCloseTo(own.area.value / 2, 9);
  expect(ours.period.value).toBeCloseTo(own.period.value / 2, 9);
  expect(ours.leakage.value).toBeCloseTo(own.leakage.value, 9);
});

test("a liberty file of one's own gives the figures of its cells", () => {
  const library = shipped("45nm");
  const twice = { ...library, name: "twice", cells: library.cells.map((c) => ({ ...c, areaUm2: 2 * c.areaUm2 })) };
  const file = join(folder, "twice.lib");
  writeFileSync(file, writeLiberty(twice));
  const [own, ours] = [reported(), reported("--liberty", file)];
  expect(ours.library).toMatchObject({ name: "twice", provenance: "liberty file" });
  expect(ours.area.value).toBeCloseTo(2 * own.area.value, 6);
  expect(ours.gateEquivalents.value).toBeCloseTo(own.gateEquivalents.value, 6);
  expect(ours.period.value).toBeCloseTo(own.period.value, 6);
});

test("the breakdown is drawn: a bar a module, as long as its area", () => {
  const file = join(folder, "unit.svg");
  const { modules } = reported("--svg", file);
  const svg = readFileSync(file, "utf8");
  const widths = [...svg.matchAll(/<rect x="190" [^>]*width="([\d.]+)"/g)].map(([, width]) => Number(width));
  expect(widths).toHaveLength(modules.length);
  for (const [i, { kind, areaUm2 }] of modules.entries()) {
    expect(svg).toContain(`>${kind || "(top)"}</text>`);
    expect(widths[i]).toBeCloseTo((360 * areaUm2) / modules[0]!.areaUm2, 2);
  }
  expect(svg).toContain("45nm, mapped apart, synthesised within 19 %; datapath + accumulator");
});

test("a clock that the longest path does not allow has no density", () => {
  const { density, period } = reported("--clock", "0.5");
  expect(density).toEqual({
    unavailable: `its longest path takes ${period.value.toFixed(3)} ns, more than the clock's 0.5 ns`,
  });
});

test("Ctrl-C ends it with 130, and nothing on stdout", async () => {
  const { child, ended } = startLutra(["ppa", place("mac.json", '{"kind": "mac", "activation": "int16"}')]);
  setTimeout(() => child.kill("SIGINT"), 1000);
  expect(await ended).toMatchObject({ code: 130, out: "" });
});

describe("an error names", () => {
  test.each<[string, readonly string[], number, string]>([
    ["no file", [], 2, "no configuration; see lutra ppa --help"],
    [
      "two technologies",
      [config, "--node", "7nm", "--liberty", "x.lib"],
      2,
      "--liberty: not together with --node; leave one of them out",
    ],
    [
      "a node that is none",
      [config, "--node", "45"],
      2,
      '--node: "45"; one of 45nm, 7nm, another one as 28nm, or a JSON file is needed',
    ],
    [
      "a voltage that is not free",
      [config, "--voltage", "1"],
      2,
      "--voltage: it is for nodes that are scaled, as with --node 28nm; others state their own",
    ],
    ["a node beyond the table", [config, "--node", "5nm"], 1, "5 nm; the table of factors goes from 45 to 7 nm"],
    [
      "a field of the configuration",
      [place("bad.json", '{"kind": "lut"}')],
      1,
      `${join(folder, "bad.json")}: activation: `,
    ],
    ["JSON that is none", [place("none.json", "{")], 1, `${join(folder, "none.json")}: no JSON: `],
    [
      "the line of a liberty file",
      [config, "--liberty", place("bad.lib", "library (x) {\n")],
      1,
      `${join(folder, "bad.lib")}:1: library (x) { is not closed by }`,
    ],
    [
      "the field of a node file",
      [config, "--node", place("node2.json", '{"name": "x"}')],
      1,
      `${join(folder, "node2.json")}: from is nothing; it should be a text`,
    ],
  ])("%s", (_, args, code, reason) => {
    const ended = ppa(...args);
    expect([ended.code, ended.out]).toEqual([code, ""]);
    expect(ended.err.startsWith(`lutra: ${reason}`), ended.err).toBe(true);
    expect(ended.err.split("\n")).toHaveLength(2);
  });
});
