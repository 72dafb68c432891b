// How fast a machine reads memory when it does nothing else, which is what products with one vector and the writing of
// tokens are compared with. Not here: what is compared.

import { type NativeEngine, loadAddon } from "../cpu/native.ts";
import { openDawn } from "../dawn.ts";
import { shaderTexts } from "../files.ts";
import { openGpu } from "../gpu/device.ts";

export interface Reader {
  /** The fastest of some reads of far more than caches hold, in GB/s. */
  gbps(): Promise<number>;
  close(): Promise<void>;
}

/** By the threads of the CPU backend. */
export function openCpuReader(isa: string, threads: number): Reader {
  const addon = loadAddon();
  if ("unavailable" in addon) throw new Error(addon.unavailable);
  const engine: NativeEngine = new addon.Engine(isa, threads);
  return {
    // A rotation through 1 GiB, as before and after each round of bench gemv.
    gbps: async () => {
      const matrix = { bits: 8, group: 128, n: 4096, k: 4096, tokens: 1, offset: false };
      const { readUs, bytes } = await engine.bench({
        ...matrix,
        rounds: 0,
        method: "dot",
        ahead: 0,
        poolBytes: 2 ** 30,
      });
      return bytes / Math.min(...readUs) / 1000;
    },
    close: () => Promise.resolve(engine.close()),
  };
}

/** Workgroups of 64 lanes: some thousands of lanes for each processor of a large GPU. */
const WORKGROUPS = 4096;
/** More than the caches of today's GPUs hold, as far as a binding can have it. */
const READ_BYTES = 2 ** 30;
const READS = 5;

/** By a kernel on the GPU. Throws an Error with the reason where there is none. */
export async function openGpuReader(): Promise<Reader> {
  const dawn = await openDawn();
  const gpu = "unavailable" in dawn ? dawn : await openGpu(dawn);
  if ("unavailable" in gpu) throw new Error(gpu.unavailable);
  const bytes = Math.min(READ_BYTES, gpu.maxBindingBytes);
  const storage = 128; // GPUBufferUsage.STORAGE, a global that Node has not
  const words = await gpu.buffer("what is read", bytes, storage);
  const sums = await gpu.buffer("sums", 4 * 64 * WORKGROUPS, storage);
  const bindings = [
    { binding: 0, use: "read" },
    { binding: 1, use: "write" },
  ] as const;
  const code = shaderTexts().get("read") ?? "";
  const pipeline = await gpu.pipeline({ label: "read", code, entry: "read_all", bindings, constants: {} });
  const entries = [words, sums].map((buffer, binding) => ({ binding, resource: { buffer } }));
  const group = gpu.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  const once = async (): Promise<number> => {
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(WORKGROUPS);
    pass.end();
    const fromMs = performance.now();
    gpu.device.queue.submit([encoder.finish()]);
    await gpu.settle(gpu.device.queue.onSubmittedWorkDone());
    return performance.now() - fromMs;
  };
  await once();
  return {
    gbps: async () => {
      let best = Infinity;
      for (let i = 0; i < READS; i++) best = Math.min(best, await once());
      return bytes / best / 1e6;
    },
    close: async () => {
      await gpu[Symbol.asyncDispose]();
    },
  };
}
