// WebGPU in Node, which is Dawn, of the optional package `webgpu`. Where it cannot be had it says why.
// Not here: adapters and devices (gpu/device.ts), which are the same in a page.

/// <reference types="@webgpu/types" />

import type { Unavailable } from "./backend.ts";
import type { GpuSource } from "./gpu/device.ts";

/** What a person without a driver can do; a page has other advice. */
export const DRIVER_HINT =
  "Debian and Ubuntu: apt-get install mesa-vulkan-drivers libvulkan1, which compute on the CPU where there is no GPU";

/** Between two questions to the driver: a step takes milliseconds, and a wait this short adds next to nothing to it. */
const PAUSE_MS = 0.1;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** One turn of the event loop, in which Dawn's package asks the driver what has ended, and a short sleep. */
export async function pause(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
  Atomics.wait(sleeper, 0, 0, PAUSE_MS);
}

/** The same object each time. */
export async function openDawn(): Promise<GpuSource | Unavailable> {
  const kept = globalThis as { lutraGpu?: GpuSource };
  if (kept.lutraGpu !== undefined) return kept.lutraGpu;
  try {
    const { create } = await import("webgpu");
    // Dawn ends the process when this object is collected before its devices, and a variable of a module may be.
    return (kept.lutraGpu = Object.assign(create([]), { pause }));
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : null;
    if (code === "ERR_MODULE_NOT_FOUND")
      return { unavailable: "the package webgpu is not installed: npm install webgpu" };
    const why = error instanceof Error ? error.message : String(error);
    return { unavailable: `the package webgpu does not load: ${why}; npm install webgpu` };
  }
}
