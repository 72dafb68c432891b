// Energy counters, on folders that look like the kernel's.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";

import { type EnergyMeter, openEnergy } from "../../src/app/energy.ts";

const home = mkdtempSync(join(tmpdir(), "lutra-energy-"));
afterAll(() => rmSync(home, { recursive: true }));
let folders = 0;

interface Zone {
  readonly name: string;
  readonly energy: number | string;
  readonly range?: number;
}

function tree(zones: Readonly<Record<string, Zone>>): string {
  const folder = join(home, String(folders++));
  mkdirSync(folder);
  for (const [zone, { name, energy, range = 65_532_610_987 }] of Object.entries(zones)) {
    mkdirSync(join(folder, zone));
    writeFileSync(join(folder, zone, "name"), `${name}\n`);
    writeFileSync(join(folder, zone, "max_energy_range_uj"), `${range}\n`);
    set(folder, zone, energy);
  }
  return folder;
}

function set(folder: string, zone: string, energy: number | string): void {
  writeFileSync(join(folder, zone, "energy_uj"), `${energy}\n`);
}

function opened(folder: string): EnergyMeter {
  const meter = openEnergy(folder);
  if ("unavailable" in meter) throw new Error(meter.unavailable);
  return meter;
}

describe("energy", () => {
  test("is the sum of all packages and their memory; cores are in them, and the board is them again", () => {
    const folder = tree({
      "intel-rapl:0": { name: "package-0", energy: 1_000_000 },
      "intel-rapl:0:0": { name: "core", energy: 5 },
      "intel-rapl:0:1": { name: "dram", energy: 100 },
      "intel-rapl:1": { name: "package-1", energy: 0 },
      "intel-rapl:2": { name: "psys", energy: 0 },
      "intel-rapl-mmio:0": { name: "package-0", energy: 0 },
      "intel-rapl": { name: "control", energy: 0 },
    });
    const meter = opened(folder);
    expect(meter.domains).toEqual(["package-0", "dram", "package-1"]);
    expect(meter.lap()).toBe(0);
    for (const zone of ["intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"]) set(folder, zone, 9e9);
    set(folder, "intel-rapl:0", 3_500_000);
    set(folder, "intel-rapl:0:1", 250_100);
    set(folder, "intel-rapl:1", 1_000_000);
    expect(meter.lap()).toBe(2.5 + 0.25 + 1);
    expect(meter.lap()).toBe(0);
  });

  test("is counted on where a counter begins again", () => {
    const range = 1_000_000;
    const folder = tree({ "intel-rapl:0": { name: "package-0", energy: 0, range } });
    const meter = opened(folder);
    meter.lap();
    let shown = 0;
    fc.assert(
      fc.property(fc.integer({ min: 0, max: range - 1 }), (spent) => {
        shown = (shown + spent) % range;
        set(folder, "intel-rapl:0", shown);
        expect(meter.lap()).toBeCloseTo(spent / 1e6, 9);
      }),
    );
  });

  test("says why it is not counted", () => {
    const folder = join(home, "nowhere");
    expect(openEnergy(folder)).toEqual({
      unavailable: `${folder}: not there; energy counters need Linux and a processor that shows them`,
    });
    const empty = tree({ "intel-rapl": { name: "control", energy: 0 } });
    expect(openEnergy(empty)).toEqual({
      unavailable: `${empty}: no package is counted here, as on most virtual machines`,
    });
    const strange = tree({ "intel-rapl:0": { name: "package-0", energy: "-3" } });
    expect(openEnergy(strange)).toEqual({
      unavailable: `${strange}/intel-rapl:0/energy_uj: "-3"; a number of microjoules is needed`,
    });
    const partial = tree({ "intel-rapl:0": { name: "package-0", energy: 1 } });
    rmSync(join(partial, "intel-rapl:0", "energy_uj"));
    expect(openEnergy(partial)).toEqual({ unavailable: `${partial}/intel-rapl:0/energy_uj: not there` });
  });
});
