// A WebGPU device for as long as it lives: what it is and can do, its pipelines by their text, its memory with a count of
// bytes, and its failures as errors of two kinds, so that a process outlives them. The same in Node and in a page.
// Not here: where a GPU object comes from (open.ts, the page), kernels (codegen.ts), models (backend.ts).

/// <reference types="@webgpu/types" />

import type { Unavailable } from "../backend.ts";

/** The device is gone: another process reset it, its driver failed, or it was unplugged. Open it anew. */
export class GpuLost extends Error {
  override readonly name = "GpuLost";
}

/** The device has no more memory for what was asked. */
export class GpuOutOfMemory extends Error {
  override readonly name = "GpuOutOfMemory";
}

/** An adapter as its driver describes it. */
export interface AdapterFacts {
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  /** Whether it computes on the CPU. */
  readonly software: boolean;
}

/** A buffer of a kernel: its place in group 0 and how it is used. */
export interface Binding {
  readonly binding: number;
  readonly use: "uniform" | "read" | "write";
}

/** One entry point of a module, with the buffers that it takes. */
export interface KernelText {
  readonly label: string;
  readonly code: string;
  readonly entry: string;
  readonly bindings: readonly Binding[];
  /** Values of `override` declarations. */
  readonly constants: Readonly<Record<string, number>>;
}

export interface Gpu extends AsyncDisposable {
  readonly device: GPUDevice;
  readonly adapter: AdapterFacts;
  /** Lanes of a subgroup, where shaders may use subgroups and their sizes are known. */
  readonly subgroup: { readonly least: number; readonly most: number } | null;
  readonly hasF16: boolean;
  /** Bytes of one buffer that a kernel can be handed at once. */
  readonly maxBindingBytes: number;
  /** Bytes of the buffers that are held. */
  readonly bytes: number;
  /**
   * Zeroed memory. Free it with `free`.
   * @throws GpuOutOfMemory, RangeError where it is more than a buffer can have, GpuLost
   */
  buffer(label: string, bytes: number, usage: GPUBufferUsageFlags): Promise<GPUBuffer>;
  free(buffer: GPUBuffer): void;
  /**
   * The pipeline of a kernel, made once for each text, entry and constants.
   * @throws Error with the compiler's messages where the text is wrong, GpuLost
   */
  pipeline(kernel: KernelText): Promise<GPUComputePipeline>;
  /** The result of work on the device; where it fails because the device is gone or a call was invalid, says so. */
  settle<T>(work: Promise<T>): Promise<T>;
}

/**
 * WebGPU as an environment offers it. Where the environment asks the driver over and over what has ended, as fast as its
 * event loop turns, and so takes a core, `pause` is a short sleep between two turns; a browser is told and needs none.
 */
export interface GpuSource extends GPU {
  readonly pause?: () => Promise<void>;
}

/** Buffers hold weights of whole matrices; a device gets what its adapter has, but no more than this is useful. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxStorageBuffersPerShaderStage",
] as const;
const WANTED_FEATURES: readonly GPUFeatureName[] = ["shader-f16", "subgroups"];

/** The adapter that computes on the CPU, by what Mesa and SwiftShader call themselves. */
const SOFTWARE = /llvmpipe|lavapipe|swiftshader|software|basic render/i;

/**
 * Opens the adapter that a browser or Dawn prefers.
 * @param gpu kept alive by what is returned: Dawn ends the process when it is collected earlier
 */
export async function openGpu(gpu: GpuSource): Promise<Gpu | Unavailable> {
  let adapter: GPUAdapter | null;
  let device: GPUDevice;
  try {
    adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
    if (adapter === null) return { unavailable: "no adapter: no Vulkan, Metal or D3D12 driver answers" };
    const { limits, features } = adapter;
    device = await adapter.requestDevice({
      requiredFeatures: WANTED_FEATURES.filter((name) => features.has(name)),
      requiredLimits: Object.fromEntries(WANTED_LIMITS.map((name) => [name, limits[name]])),
    });
  } catch (error) {
    return { unavailable: `the driver refuses a device: ${error instanceof Error ? error.message : String(error)}` };
  }
  return new OpenGpu(gpu, factsOf(adapter.info), device);
}

/** What a driver says of itself. */
export function factsOf({ vendor, architecture, device, description }: GPUAdapterInfo): AdapterFacts {
  const text = description || device || vendor || "an adapter without a name";
  return { vendor, architecture, description: text, software: SOFTWARE.test(`${vendor} ${architecture} ${text}`) };
}

class OpenGpu implements Gpu {
  readonly device: GPUDevice;
  readonly adapter: AdapterFacts;
  readonly subgroup: Gpu["subgroup"];
  readonly hasF16: boolean;
  readonly maxBindingBytes: number;
  /** For as long as this lives: see openGpu. */
  readonly kept: GpuSource;
  readonly #pipelines = new Map<string, Promise<GPUComputePipeline>>();
  readonly #held = new Map<GPUBuffer, number>();
  #bytes = 0;
  /** Why the device is gone, or what a call did wrong that no one waited for. */
  #failure: Error | null = null;

  constructor(gpu: GpuSource, adapter: AdapterFacts, device: GPUDevice) {
    this.kept = gpu;
    this.device = device;
    this.adapter = adapter;
    const { subgroupMinSize: least = 0, subgroupMaxSize: most = 0 } = device.adapterInfo;
    this.subgroup = device.features.has("subgroups") && least > 0 ? { least, most } : null;
    this.hasF16 = device.features.has("shader-f16");
    this.maxBindingBytes = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
    device.addEventListener("uncapturederror", ({ error }) => {
      this.#failure ??=
        "GPUOutOfMemoryError" in globalThis && error instanceof GPUOutOfMemoryError
          ? new GpuOutOfMemory(`${adapter.description}: ${error.message}`)
          : new Error(`${adapter.description}: ${error.message}`);
    });
    void device.lost.then(({ reason, message }) => {
      this.#failure = new GpuLost(
        `${adapter.description}: the device is gone (${reason}${message === "" ? "" : `: ${message}`}); open it anew`,
      );
    });
  }

  get bytes(): number {
    return this.#bytes;
  }

  async buffer(label: string, bytes: number, usage: GPUBufferUsageFlags): Promise<GPUBuffer> {
    if (this.#failure !== null) throw this.#failure;
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const { maxBufferSize } = this.device.limits;
    if (size > maxBufferSize)
      throw new RangeError(
        `${label}: ${size} bytes, and a buffer of ${this.adapter.description} has at most ${maxBufferSize} (maxBufferSize)`,
      );
    this.device.pushErrorScope("out-of-memory");
    const buffer = this.device.createBuffer({ label, size, usage });
    const error = await this.settle(this.device.popErrorScope());
    if (error !== null) {
      buffer.destroy();
      throw new GpuOutOfMemory(
        `${this.adapter.description} has no ${(size / 2 ** 20).toFixed(0)} MiB for ${label}; ` +
          `${(this.#bytes / 2 ** 20).toFixed(0)} MiB are held already`,
      );
    }
    this.#held.set(buffer, size);
    this.#bytes += size;
    return buffer;
  }

  free(buffer: GPUBuffer): void {
    const size = this.#held.get(buffer);
    if (size === undefined) return;
    this.#held.delete(buffer);
    this.#bytes -= size;
    buffer.destroy();
  }

  pipeline(kernel: KernelText): Promise<GPUComputePipeline> {
    const { code, entry, constants, bindings } = kernel;
    const key = JSON.stringify([entry, constants, bindings, code]);
    let made = this.#pipelines.get(key);
    if (made === undefined) this.#pipelines.set(key, (made = this.#compile(kernel)));
    return made;
  }

  async #compile({ label, code, entry, bindings, constants }: KernelText): Promise<GPUComputePipeline> {
    if (this.#failure !== null) throw this.#failure;
    const { device } = this;
    const types = { uniform: "uniform", read: "read-only-storage", write: "storage" } as const;
    const group = device.createBindGroupLayout({
      label,
      entries: bindings.map(({ binding, use }) => ({
        binding,
        visibility: 4, // GPUShaderStage.COMPUTE, a global that Node has not
        buffer: { type: types[use] },
      })),
    });
    // What is wrong with the text is told by the pipeline's rejection, and is no failure of the device.
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label, code });
    const scope = device.popErrorScope();
    const layout = device.createPipelineLayout({ label, bindGroupLayouts: [group] });
    try {
      await scope;
      return await this.settle(
        device.createComputePipelineAsync({ label, layout, compute: { module, entryPoint: entry, constants } }),
      );
    } catch (error) {
      if (error instanceof GpuLost) throw error;
      const { messages } = await module.getCompilationInfo();
      const found = messages.map(({ lineNum, message }) => `line ${lineNum}: ${message}`);
      throw new Error(
        `${this.adapter.description} refuses the kernel ${label}: ${[...found, error instanceof Error ? error.message : String(error)].join("; ")}`,
        { cause: error },
      );
    }
  }

  async settle<T>(work: Promise<T>): Promise<T> {
    const { pause } = this.kept;
    try {
      if (pause !== undefined) {
        const state = { isOver: false };
        const end = (): void => void (state.isOver = true);
        work.then(end, end);
        while (!state.isOver) await pause();
      }
      const result = await work;
      if (this.#failure !== null) throw this.#failure;
      return result;
    } catch (error) {
      // What waits for a device that goes away is rejected a moment before `lost` settles.
      if (error instanceof Error && error.name === "AbortError")
        await Promise.race([this.device.lost, new Promise((resolve) => setTimeout(resolve, 100))]);
      throw this.#failure ?? error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const buffer of this.#held.keys()) buffer.destroy();
    this.#held.clear();
    this.#bytes = 0;
    this.#pipelines.clear();
    this.device.destroy();
    await this.device.lost;
  }
}
