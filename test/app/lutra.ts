// The built command line as a child process, and a folder for its files.

import { type ChildProcessWithoutNullStreams, spawn, spawnSync, type SpawnSyncOptions } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";

import { gguf, type FileToWrite } from "../model/write-gguf.ts";

export const root: string = fileURLToPath(new URL("../../", import.meta.url));
/** The program, as `npm run build:ts` makes it. */
export const cli: string = join(root, "dist/src/app/cli.js");
if (!existsSync(cli)) throw new Error(`no ${cli}: these tests run the built program; npm run build:ts builds it`);

/** Far longer than any command here takes on a busy machine. */
const LIMIT_MS = 100_000;

export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a command to its end. Without input its stdin is empty, and no terminal. */
export function lutra(args: readonly string[], options: SpawnSyncOptions & { program?: string } = {}): Ended {
  const { env, program = cli, ...others } = options;
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    timeout: LIMIT_MS,
    killSignal: "SIGKILL",
    env: { ...process.env, LUTRA_MODELS: "", ...env },
    ...others,
  });
  return { code: status, out: String(stdout), err: String(stderr) };
}

/** A command under way, for signals and pipes. */
export function startLutra(args: readonly string[]): {
  readonly child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<Ended & { readonly signal: NodeJS.Signals | null }>;
} {
  const child = spawn(process.execPath, [cli, ...args], { timeout: LIMIT_MS, killSignal: "SIGKILL" });
  let out = "";
  let err = "";
  child.stdout.on("data", (part: Buffer) => (out += String(part)));
  child.stderr.on("data", (part: Buffer) => (err += String(part)));
  const ended = new Promise<Ended & { signal: NodeJS.Signals | null }>((resolve) => {
    child.on("close", (code, signal) => resolve({ code, signal, out, err }));
  });
  return { child, ended };
}

/** A folder of this test file's own. */
export const folder: string = mkdtempSync(join(tmpdir(), "lutra-app-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Writes bytes, or a model file, into the folder; its absolute path. */
export function place(name: string, content: Uint8Array | string | FileToWrite): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === "string" || content instanceof Uint8Array ? content : gguf(content));
  return path;
}
