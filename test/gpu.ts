// WebGPU in tests: Dawn without a driver, which checks WGSL and executes nothing, and two drivers that run it on the CPU,
// Mesa's lavapipe and Google's SwiftShader. Where there is none it says why. Adapters of real GPUs are not taken: results
// would depend on them.

import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { create, globals } from "webgpu";

import type { Unavailable } from "../src/backend.ts";
import { pause } from "../src/dawn.ts";

interface Driver {
  /** What Dawn finds its adapter by. */
  readonly adapter: string;
  /** Manifests that Vulkan's loader may find it by, the first that exists counts. */
  readonly manifests: readonly string[];
  readonly packages: string;
}

/** A driver that computes on the CPU. */
export type SoftwareDriver = "lavapipe" | "SwiftShader";

const DRIVERS: Readonly<Record<SoftwareDriver, Driver>> = {
  lavapipe: {
    adapter: "llvmpipe",
    manifests: ["lvp_icd.json", "lvp_icd.x86_64.json", "lvp_icd.aarch64.json"].map(
      (name) => `/usr/share/vulkan/icd.d/${name}`,
    ),
    packages: "mesa-vulkan-drivers libvulkan1",
  },
  // Chromium brings it, and so does Chrome.
  SwiftShader: {
    adapter: "SwiftShader",
    manifests: ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"].map(
      (folder) => `${folder}/vk_swiftshader_icd.json`,
    ),
    packages: "chromium libvulkan1",
  },
};

// The objects of create() must outlive every device, or the process crashes: a global keeps them.
const kept: GPU[] = [];
Object.assign(globalThis, globals, { lutraTestGpus: kept });

/** WebGPU on one of the drivers alone, or why it cannot be had. */
export function softwareGpu(name: SoftwareDriver): GPU | Unavailable {
  const { adapter, manifests, packages } = DRIVERS[name];
  if (!manifests.some((path) => existsSync(path)))
    return { unavailable: `no ${name}: none of ${manifests.join(", ")} exists; apt-get install ${packages}` };
  const files = Object.values(DRIVERS).flatMap((driver) => driver.manifests.find((path) => existsSync(path)) ?? []);
  process.env["VK_DRIVER_FILES"] = files.join(":");
  process.env["XDG_RUNTIME_DIR"] ??= mkdtempSync(join(tmpdir(), "lutra-xdg-"));
  return created([`adapter=${adapter}`]);
}

function created(options: string[]): GPU {
  const gpu = Object.assign(create(options), { pause });
  kept.push(gpu);
  return gpu;
}

let checking: Promise<GPUDevice> | null = null;

/** A device that parses, validates and makes pipelines, and computes nothing. */
export function checker(): Promise<GPUDevice> {
  return (checking ??= deviceOf(created(["backend=null"])).then((device) => {
    if ("unavailable" in device) throw new Error(device.unavailable);
    return device;
  }));
}

let running: Promise<GPUDevice | Unavailable> | null = null;

/** A device on lavapipe, or why there is none. */
export function lavapipe(): Promise<GPUDevice | Unavailable> {
  return (running ??= openLavapipe());
}

function openLavapipe(): Promise<GPUDevice | Unavailable> {
  const gpu = softwareGpu("lavapipe");
  return "unavailable" in gpu ? Promise.resolve(gpu) : deviceOf(gpu);
}

async function deviceOf(gpu: GPU): Promise<GPUDevice | Unavailable> {
  try {
    const adapter = await gpu.requestAdapter();
    if (adapter === null) return { unavailable: "there is no adapter, though its driver is installed" };
    const wanted = ["shader-f16", "subgroups"] as const;
    const requiredFeatures = wanted.filter((name) => adapter.features.has(name));
    return await adapter.requestDevice({ requiredFeatures });
  } catch (error) {
    return { unavailable: String(error) };
  }
}

/** What is wrong with a module and the pipeline of one of its entry points. */
export async function errorsOf(device: GPUDevice, text: string, entry: string): Promise<readonly string[]> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: text });
  const { messages } = await module.getCompilationInfo();
  await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: entry } }).catch(() => null);
  const error = await device.popErrorScope();
  const found = messages
    .filter(({ type }) => type === "error")
    .map(({ lineNum, message }) => `line ${lineNum}: ${message}`);
  return error === null ? found : [...found, error.message];
}
