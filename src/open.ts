// Opens a machine by name: the only file that knows all backends. A machine that cannot be used is a value with the
// reason, which tests print when they skip and the command line shows to the user.

import type { Backend, Unavailable } from "./backend.ts";
import type { Choose } from "./cpu/backend.ts";
import type { Average } from "./cpu/native.ts";
import { DRIVER_HINT, openDawn } from "./dawn.ts";
import { shaderTexts } from "./files.ts";
import type { ChooseMethods } from "./gpu/method.ts";
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
  /** For an adapter by its description, how the GPU backend computes a matrix's products; the default is a fixed rule. */
  readonly chooseOnGpu?: (adapter: string) => ChooseMethods;
  /** How the LMMA machine computes; the default is its definition in the paper, on int8 activations and exact tables. */
  readonly arithmetic?: Arithmetic;
}

/** Names that `open` takes. */
export const DEVICES: readonly string[] = ["auto", "cpu", "reference", "gpu", "lmma", "lmma-gpu"];

const USUAL_ARITHMETIC: Arithmetic = { mode: "paper", activation: "int8", tables: "exact" };

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
      return openGpuHere(options.chooseOnGpu);
    case "lmma": {
      const { openLmma } = await import("./lutcore/backend.ts");
      return openLmma(options.arithmetic ?? USUAL_ARITHMETIC);
    }
    case "lmma-gpu":
      return openLmmaOnGpu(options.arithmetic ?? USUAL_ARITHMETIC);
    default:
      throw new Error(`unknown device ${JSON.stringify(device)}; known: ${DEVICES.join(", ")}`);
  }
}

async function openGpuHere(choose: OpenOptions["chooseOnGpu"]): Promise<Backend | Unavailable> {
  const dawn = await openDawn();
  if ("unavailable" in dawn) return dawn;
  const { openGpuBackend } = await import("./gpu/backend.ts");
  return withHint(await openGpuBackend(dawn, shaderTexts(), choose));
}

/** The LMMA machine whose programs a GPU runs. */
async function openLmmaOnGpu(arithmetic: Arithmetic): Promise<Backend | Unavailable> {
  const dawn = await openDawn();
  if ("unavailable" in dawn) return dawn;
  const { openGpu } = await import("./gpu/device.ts");
  const gpu = withHint(await openGpu(dawn));
  if ("unavailable" in gpu) return gpu;
  const { LMMA_BODIES, lmmaMachine } = await import("./gpu/lmma.ts");
  const { openLmma } = await import("./lutcore/backend.ts");
  const bodies = shaderTexts();
  const { load } = await lmmaMachine(gpu.device, LMMA_BODIES.map((name) => bodies.get(name) ?? "").join(""));
  const backend = openLmma(arithmetic, load);
  const isa = `${backend.device.isa}, ${gpu.adapter.description}`;
  return {
    ...backend,
    device: { ...backend.device, name: "lmma-gpu", isa },
    [Symbol.asyncDispose]: () => gpu[Symbol.asyncDispose](),
  };
}

/** A reason why there is no adapter, with what a person at a command line can do. */
function withHint<T extends object>(opened: T | Unavailable): T | Unavailable {
  return "unavailable" in opened ? { unavailable: `${opened.unavailable}; ${DRIVER_HINT}` } : opened;
}
