// lutra doctor: what this machine offers, which of it lutra uses, and how to get what is missing.

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { cpus, release, totalmem, type as system } from "node:os";
import process from "node:process";
import { fileURLToPath } from "node:url";

import type { Unavailable } from "../backend.ts";
import { availableMemory, loadAddon, usableCores } from "../cpu/native.ts";
import type { Adapter } from "./adapters.ts";
import { command, type Command, type Values } from "./command.ts";
import { bytes } from "./figures.ts";
import { modelFolders } from "./models.ts";
import { printJson, table } from "./terminal.ts";
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

/** Drivers that take longer to answer hang. */
const ANSWER_MS = 20_000;

// oxlint-disable-next-line require-await -- every command is asynchronous
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
    gpu: gpuAdapters(),
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
      : gpu.map(({ vendor, description, software }) => [
          "GPU",
          `${description} (${vendor})${software ? ", which computes on the CPU" : ""}`,
        ])),
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

/** Asked of a process of its own: drivers print what they like, and one that crashes ends that process alone. */
function gpuAdapters(): readonly Adapter[] | Unavailable {
  const script = fileURLToPath(import.meta.resolve("./adapters.js"));
  const { status, signal, stdout } = spawnSync(process.execPath, [script], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    timeout: ANSWER_MS,
  });
  if (status !== 0) return { unavailable: `a driver failed when it was asked: ${signal ?? `exit code ${status}`}` };
  const answer: readonly Adapter[] | Unavailable = JSON.parse(stdout);
  return answer;
}
