// lutra doctor: what this machine offers, which of it lutra uses, and how to get what is missing.

import { readdirSync } from "node:fs";
import { cpus, release, totalmem, type as system } from "node:os";
import process from "node:process";

import type { Unavailable } from "../backend.ts";
import { availableMemory, loadAddon, usableCores } from "../cpu/native.ts";
import { command, type Command, type Values } from "./command.ts";
import { modelFolders } from "./models.ts";
import { bytes, printJson, table } from "./terminal.ts";
import { packageVersion } from "./version.ts";

const OPTIONS = { json: { kind: "flag", about: "one JSON object on stdout" } } as const;

export const doctor: Command = command({
  name: "doctor",
  usage: ["doctor [options]"],
  about: [
    "Says what this machine offers and what lutra uses of it: versions, processor, native backend, GPU adapters,",
    "and the folders of LUTRA_MODELS, in which models are found by name.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra doctor", "for people"],
    ["lutra doctor --json", "for a bug report"],
  ],
  positionals: 0,
  run: examine,
});

/** A folder of LUTRA_MODELS, with how many GGUF files it has or why it cannot be read. */
type Folder = { readonly folder: string; readonly models: number } | ({ readonly folder: string } & Unavailable);

interface Adapter {
  readonly vendor: string;
  readonly description: string;
}

async function examine(values: Values<typeof OPTIONS>): Promise<number> {
  const addon = loadAddon();
  const facts = {
    lutra: packageVersion(),
    node: process.version,
    system: `${system()} ${release()} ${process.arch}`,
    processor: cpus()[0]?.model.trim() ?? "unknown",
    memory_bytes: totalmem(),
    memory_available_bytes: availableMemory(),
    threads: usableCores(),
    native: "unavailable" in addon ? addon : { instruction_sets: addon.isas() },
    gpu: await gpuAdapters(),
    model_folders: modelFolders().map(examineFolder),
  };
  if (values.json) {
    printJson(facts);
    return 0;
  }
  const { native, gpu } = facts;
  const rows = [
    ["lutra", facts.lutra],
    ["node", facts.node],
    ["system", facts.system],
    ["processor", facts.processor],
    ["memory", `${bytes(facts.memory_bytes)}, ${bytes(facts.memory_available_bytes)} available`],
    ["threads", String(facts.threads)],
    ["native backend", "unavailable" in native ? native.unavailable : inUse(native.instruction_sets)],
    ...("unavailable" in gpu
      ? [["GPU", gpu.unavailable]]
      : gpu.map(({ vendor, description }) => ["GPU", `${description} (${vendor})`])),
    ...(facts.model_folders.length === 0 ? [["models", "LUTRA_MODELS names no folder"]] : []),
    ...facts.model_folders.map((entry) => [
      "models",
      `${entry.folder}: ${"unavailable" in entry ? entry.unavailable : `${entry.models} GGUF files`}`,
    ]),
  ];
  process.stdout.write(table(rows));
  return 0;
}

function inUse([best, ...others]: readonly string[]): string {
  return others.length === 0 ? `uses ${best}` : `uses ${best}; also has ${others.join(", ")}`;
}

function examineFolder(folder: string): Folder {
  try {
    return { folder, models: readdirSync(folder).filter((name) => name.endsWith(".gguf")).length };
  } catch (error) {
    return { folder, unavailable: error instanceof Error ? error.message : String(error) };
  }
}

/** The part of the optional package `webgpu` in use; it is not installed where lutra is built. */
interface WebGpu {
  create(flags: readonly string[]): {
    requestAdapter(options: { readonly powerPreference: string }): Promise<{ readonly info: Adapter } | null>;
  };
}

async function gpuAdapters(): Promise<readonly Adapter[] | Unavailable> {
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
