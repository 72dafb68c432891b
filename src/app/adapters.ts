// A program for lutra doctor to run: which GPU adapters the optional package webgpu finds, as JSON on stdout.
// Not here: what is done with them.

import process from "node:process";

import type { Unavailable } from "../backend.ts";
import { DRIVER_HINT, openDawn } from "../dawn.ts";
import { type AdapterFacts, factsOf } from "../gpu/device.ts";

export type Adapter = AdapterFacts;

async function adapters(): Promise<readonly Adapter[] | Unavailable> {
  const gpu = await openDawn();
  if ("unavailable" in gpu) return gpu;
  const found = new Map<string, Adapter>();
  for (const powerPreference of ["high-performance", "low-power"] as const) {
    const adapter = await gpu.requestAdapter({ powerPreference });
    if (adapter === null) continue;
    const facts = factsOf(adapter.info);
    found.set(`${facts.vendor} ${facts.description}`, facts);
  }
  if (found.size > 0) return [...found.values()];
  return { unavailable: `no adapter: no Vulkan, Metal or D3D12 driver answers; ${DRIVER_HINT}` };
}

process.stdout.write(JSON.stringify(await adapters()));
