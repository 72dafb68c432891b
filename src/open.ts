// Opens a machine by name: the only file that knows all backends. A machine that cannot be used is a value with the
// reason, which tests print when they skip and the command line shows to the user.

import type { Backend, Unavailable } from "./backend.ts";
import type { Choose } from "./cpu/backend.ts";
import type { Average } from "./cpu/native.ts";
import type { Arithmetic } from "./lutcore/tiling.ts";

export interface OpenOptions {
  /** Worker threads of the CPU backend; the default is one for each usable physical core. */
  readonly threads?: number;
  /** Instruction set of the CPU backend: "avx512-vbmi", "avx2", "scalar" ...; the default is the best there is. */
  readonly isa?: string;
  /** Whether the CPU backend's lookups are summed by averages, of 2, 4 or 8: faster and less exact. */
  readonly fastAggregation?: Average;
  /** How the CPU backend chooses its kernels; the default is a fixed rule. */
  readonly choose?: Choose;
  /** How the LMMA machine computes; the default is its definition in the paper, on int8 activations and exact tables. */
  readonly arithmetic?: Arithmetic;
}

/** Names that `open` takes. */
export const DEVICES: readonly string[] = ["auto", "cpu", "reference", "gpu", "lmma"];

/**
 * Opens a backend. "auto" is the CPU backend, and the reference backend where that cannot be had.
 * A device that is not in DEVICES is an Error.
 */
export async function open(device: string, options: OpenOptions = {}): Promise<Backend | Unavailable> {
  switch (device) {
    case "auto": {
      const cpu = await open("cpu", options);
      return "unavailable" in cpu ? await open("reference") : cpu;
    }
    case "cpu":
      return (await import("./cpu/backend.ts")).openCpu(options);
    case "reference":
      return (await import("./reference.ts")).openReference();
    case "gpu":
      return { unavailable: "this version of lutra has no GPU backend; --device cpu is the fastest it has" };
    case "lmma": {
      const { openLmma } = await import("./lutcore/backend.ts");
      return openLmma(options.arithmetic ?? { mode: "paper", activation: "int8", tables: "exact" });
    }
    default:
      throw new Error(`unknown device ${JSON.stringify(device)}; known: ${DEVICES.join(", ")}`);
  }
}
