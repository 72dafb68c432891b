// The GPU of a browser: what it is, or why there is none and what would help, in words for the browser at hand.
// Which versions have WebGPU: the GPU for the Web group's implementation status and MDN's compatibility data, 2026.
// Not here: the device and what runs on it (gpu/).

/// <reference types="@webgpu/types" />

import type { Unavailable } from "../../backend.ts";
import { factsOf } from "../../gpu/device.ts";
import type { Machine } from "./message.ts";

/** Those that kernels ask for (gpu/device.ts). */
const FEATURES = ["shader-f16", "subgroups"] as const;

/** The adapter that the backend will open; it is asked for in a worker, for that is where models run. */
export async function describeMachine(): Promise<Machine | Unavailable> {
  if (!isSecureContext)
    return {
      unavailable:
        `Browsers have WebGPU only for pages that come by https, or from this computer; this one comes from ` +
        `${location.origin}. Open it by https, or run it on this computer with npm run page.`,
    };
  // The types say that it is always there.
  if (!("gpu" in navigator))
    return {
      unavailable:
        "This browser has no WebGPU. Chrome and Edge have it from 113 on (Android: 121; Linux: 144), Safari from 26 on, " +
        "Firefox from 141 on Windows and 145 on Macs with Apple silicon.",
    };
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null)
    return {
      unavailable:
        "This browser has WebGPU, but finds no GPU for it. A newer graphics driver may help, and so may turning " +
        "hardware acceleration on in the browser's settings. Chrome and Edge on Linux need a Vulkan driver (Debian and " +
        "Ubuntu: apt install mesa-vulkan-drivers), and with some GPUs the flag chrome://flags/#enable-unsafe-webgpu; " +
        "chrome://gpu says what is missing.",
    };
  const { vendor, architecture, device, description } = adapter.info;
  return {
    // Browsers tell the family of a GPU; which one of it, some tell nobody.
    name: description || device || `${vendor} ${architecture}`.trim() || "an adapter without a name",
    isSoftware: factsOf(adapter.info).software,
    features: FEATURES.filter((name) => adapter.features.has(name)),
    bindingBytes: Math.min(adapter.limits.maxStorageBufferBindingSize, adapter.limits.maxBufferSize),
  };
}
