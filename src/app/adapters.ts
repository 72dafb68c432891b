// A program for lutra doctor to run: which GPU adapters the optional package webgpu finds, as JSON on stdout.
// Not here: what is done with them.

import process from "node:process";

import type { Unavailable } from "../backend.ts";

export interface Adapter {
  readonly vendor: string;
  readonly description: string;
}

/** The part of the optional package `webgpu` in use; it is not installed where lutra is built. */
interface WebGpu {
  create(flags: readonly string[]): {
    requestAdapter(options: { readonly powerPreference: string }): Promise<{ readonly info: Adapter } | null>;
  };
}

async function adapters(): Promise<readonly Adapter[] | Unavailable> {
  const name = "webgpu";
  let library: WebGpu;
  try {
    library = await import(name);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : null;
    if (code === "ERR_MODULE_NOT_FOUND") return { unavailable: "not installed: npm install webgpu" };
    return {
      unavailable: `the package webgpu does not load: ${error instanceof Error ? error.message : String(error)}`,
    };
  }
  const gpu = library.create([]);
  // Dawn ends the process when this object is collected while anything of it lives, so it stays reachable.
  Object.assign(globalThis, { lutraGpu: gpu });
  const found = new Map<string, Adapter>();
  for (const powerPreference of ["high-performance", "low-power"]) {
    const adapter = await gpu.requestAdapter({ powerPreference });
    if (adapter === null) continue;
    const { vendor, description } = adapter.info;
    found.set(`${vendor} ${description}`, { vendor, description });
  }
  if (found.size > 0) return [...found.values()];
  return { unavailable: "no adapter: the package webgpu is installed, but no Vulkan, Metal or D3D12 driver answers" };
}

process.stdout.write(JSON.stringify(await adapters()));
