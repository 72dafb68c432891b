// Joules that the processor has taken, from the kernel's powercap counters: the packages and, where they are counted
// apart, their memory. Everything that runs on the machine is in them, this program or not.
// Not here: what the energy was spent on (bench-model.ts).
// Source: Documentation/power/powercap/powercap.rst of Linux; the driver intel-rapl serves AMD's processors too.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import type { Unavailable } from "../backend.ts";

export interface EnergyMeter {
  /** Names of what is counted: "package-0", "dram" ... */
  readonly domains: readonly string[];
  /**
   * Joules since the last call, or since the meter was opened. A counter begins again at 0 after some minutes of full
   * load (at 100 W and 65 kJ after 11); one such turn is noticed, so that laps have to be shorter than that.
   * @throws Error where a counter has gone away
   */
  lap(): number;
}

/** Zones are listed side by side: intel-rapl:0 is a package, intel-rapl:0:1 a part of it. */
const PACKAGE = /^intel-rapl:\d+$/;
const PART = /^intel-rapl:\d+:\d+$/;

const DEFAULT_FOLDER = "/sys/class/powercap";

/** The counters of `folder`, or why there are none to be read. */
export function openEnergy(folder: string = DEFAULT_FOLDER): EnergyMeter | Unavailable {
  let zones: readonly string[];
  try {
    // A part is counted in its package, but for memory. The zone "psys" is the whole board and counts packages twice.
    zones = readdirSync(folder)
      .filter((zone) => {
        const isPackage = PACKAGE.test(zone);
        if (!isPackage && !PART.test(zone)) return false;
        return isPackage ? nameOf(folder, zone).startsWith("package") : nameOf(folder, zone) === "dram";
      })
      .toSorted();
  } catch (error) {
    return { unavailable: `${reasonOf(error, folder)}; energy counters need Linux and a processor that shows them` };
  }
  if (zones.length === 0) return { unavailable: `${folder}: no package is counted here, as on most virtual machines` };
  try {
    const counters = zones.map((zone) => counterOf(join(folder, zone)));
    return {
      domains: zones.map((zone) => nameOf(folder, zone)),
      lap: () => counters.reduce((sum, lap) => sum + lap(), 0) / 1e6,
    };
  } catch (error) {
    return { unavailable: reasonOf(error, folder) };
  }
}

function nameOf(folder: string, zone: string): string {
  return readFileSync(join(folder, zone, "name"), "utf8").trim();
}

/** Microjoules since the last call. */
function counterOf(zone: string): () => number {
  const range = microjoules(join(zone, "max_energy_range_uj"));
  const file = join(zone, "energy_uj");
  let last = microjoules(file);
  return () => {
    const now = microjoules(file);
    const spent = now >= last ? now - last : now - last + range;
    last = now;
    return spent;
  };
}

function microjoules(file: string): number {
  const text = readFileSync(file, "utf8").trim();
  if (!/^\d{1,15}$/.test(text)) throw new Error(`${file}: ${JSON.stringify(text)}; a number of microjoules is needed`);
  return Number(text);
}

function reasonOf(error: unknown, folder: string): string {
  if (!(error instanceof Error)) return String(error);
  const path = "path" in error ? String(error.path) : folder;
  const code = "code" in error ? error.code : null;
  if (code === "ENOENT") return `${path}: not there`;
  if (code === "EACCES" || code === "EPERM") return `${path}: only root may read it; chmod a+r lets everybody`;
  return error.message;
}
