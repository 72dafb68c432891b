// A design in Icarus Verilog, against the vectors of its golden model.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { designOf } from "../../../sim/rtl/design.ts";
import { readConfig } from "../../../sim/rtl/config.ts";
import { testbenchOf, vectorsOf } from "../../../sim/rtl/testbench.ts";
import type { Unavailable } from "../../../src/backend.ts";

/** The simulator, or why there is none. */
export function icarus(): { readonly command: string } | Unavailable {
  const { error } = spawnSync("iverilog", ["-h"]);
  return error === undefined ? { command: "iverilog" } : { unavailable: "no iverilog; apt-get install iverilog" };
}

/** What the simulation says last. @param change made to the Verilog before it is simulated */
export function simulated(
  config: object,
  count: number,
  seed: number,
  change: (verilog: string) => string = (verilog) => verilog,
): { readonly last: string; readonly steps: number; readonly unchecked: number } {
  const design = designOf(readConfig(config));
  const steps = vectorsOf(design, count, seed);
  const { testbench, vectors } = testbenchOf(design, steps, "vectors.hex");
  const folder = mkdtempSync(join(tmpdir(), "lutra-rtl-"));
  try {
    writeFileSync(join(folder, "design.v"), change(design.verilog));
    writeFileSync(join(folder, "testbench.v"), testbench);
    writeFileSync(join(folder, "vectors.hex"), vectors);
    execFileSync("iverilog", ["-g2005", "-Wall", "-Wno-timescale", "-o", "sim", "design.v", "testbench.v"], {
      cwd: folder,
    });
    const out = execFileSync("vvp", ["sim"], { cwd: folder, encoding: "utf8" }).trim();
    return {
      last: out.slice(out.lastIndexOf("\n") + 1),
      steps: steps.length,
      unchecked: steps.filter(({ checked }) => !checked).length,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
