// WebGPU in tests: Dawn without a driver, which checks WGSL and executes nothing, and Mesa's lavapipe, which runs it on
// the CPU. Where there is no adapter it says why. Adapters of real GPUs are not taken: results would depend on them.

import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { create, globals } from "webgpu";

import type { Unavailable } from "../src/backend.ts";

const LAVAPIPE = "/usr/share/vulkan/icd.d";

// The objects of create() must outlive every device, or the process crashes: a global keeps them.
const kept: GPU[] = [];
Object.assign(globalThis, globals, { lutraTestGpus: kept });

let checking: Promise<GPUDevice> | null = null;

/** A device that parses, validates and makes pipelines, and computes nothing. */
export function checker(): Promise<GPUDevice> {
  return (checking ??= deviceOf(["backend=null"]).then((device) => {
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
  const file = [`${LAVAPIPE}/lvp_icd.json`, `${LAVAPIPE}/lvp_icd.x86_64.json`].find((path) => existsSync(path));
  if (file === undefined)
    return Promise.resolve({
      unavailable: `no lavapipe in ${LAVAPIPE}: apt-get install mesa-vulkan-drivers libvulkan1`,
    });
  process.env["VK_DRIVER_FILES"] = file;
  process.env["XDG_RUNTIME_DIR"] ??= mkdtempSync(join(tmpdir(), "lutra-xdg-"));
  return deviceOf(["adapter=llvmpipe"]);
}

async function deviceOf(options: string[]): Promise<GPUDevice | Unavailable> {
  const gpu = create(options);
  kept.push(gpu);
  try {
    const adapter = await gpu.requestAdapter();
    if (adapter === null) return { unavailable: `no adapter for ${options.join(" ")}` };
    const requiredFeatures: GPUFeatureName[] = adapter.features.has("shader-f16") ? ["shader-f16"] : [];
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
