// Choices of kernels that were measured on this machine, kept in the person's cache: {version, machine, kernels}, a file
// for the processor and one for each GPU adapter. A file that is damaged, or of another machine or version of lutra,
// counts as none, and is replaced by the next one.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";

import type { Kernel } from "../cpu/tuner.ts";
import type { Method, Methods } from "../gpu/method.ts";
import { packageVersion } from "./version.ts";

/** What was measured, by caseName of cpu/tuner.ts or gpuCaseName of gpu/tuner.ts. */
export type Choices<T> = ReadonlyMap<string, T>;

/** More than any model of today has kinds of matrices, on many instruction sets and numbers of threads. */
const MAX_BYTES = 2 ** 20;

/** A file of choices: of whom, where, and which of its entries are choices. */
export interface Kept<T> {
  /** The processor's or adapter's name. */
  readonly machine: string;
  readonly file: string;
  readonly isChoice: (value: unknown) => value is T;
}

/** Kernels of the CPU backend on a processor. */
export function processorChoices(machine: string): Kept<Kernel> {
  return { machine, file: cacheFile("kernels.json"), isChoice: isKernel };
}

/** Methods of the GPU backend on an adapter, by its description. */
export function adapterChoices(machine: string): Kept<Methods> {
  const name = createHash("sha256").update(machine).digest("hex").slice(0, 16);
  return { machine, file: cacheFile(`gpu-${name}.json`), isChoice: isMethods };
}

/** Where choices are kept, as the XDG base directory specification has it. */
function cacheFile(name: string): string {
  const cache = process.env["XDG_CACHE_HOME"];
  return join(cache?.startsWith("/") ? cache : join(homedir(), ".cache"), "lutra", name);
}

export function readChoices<T>({ machine, file, isChoice }: Kept<T>): Choices<T> {
  try {
    const text = readFileSync(file, "utf8");
    const known: unknown = text.length > MAX_BYTES ? null : JSON.parse(text);
    if (!isRecord(known) || known["version"] !== packageVersion() || known["machine"] !== machine) return new Map();
    const kernels = known["kernels"];
    if (!isRecord(kernels)) return new Map();
    return new Map(Object.entries(kernels).flatMap(([name, kernel]) => (isChoice(kernel) ? [[name, kernel]] : [])));
  } catch {
    return new Map(); // there is none, or it is no JSON
  }
}

/** Adds choices to those that are there. Throws an Error with the file's name where it cannot be written. */
export function addChoices<T>(kept: Kept<T>, more: Choices<T>): void {
  const { machine, file } = kept;
  const kernels = Object.fromEntries([...readChoices(kept), ...more]);
  const temporary = `${file}.${process.pid}`;
  let written = false;
  try {
    mkdirSync(join(file, ".."), { recursive: true });
    written = true;
    writeFileSync(temporary, `${JSON.stringify({ version: packageVersion(), machine, kernels }, null, 1)}\n`);
    renameSync(temporary, file);
  } catch (error) {
    if (written) rmSync(temporary, { force: true });
    throw new Error(`${file}: cannot keep what was measured: ${(error as Error).message}`, { cause: error });
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isKernel(value: unknown): value is Kernel {
  if (!isRecord(value)) return false;
  const { method, ahead } = value;
  const isMethod = method === "dot" || method === "lookup" || method === "ternary";
  return isMethod && Number.isInteger(ahead) && Number(ahead) >= 0 && Number(ahead) <= 65_536;
}

const METHODS: readonly unknown[] = ["dot", "decode", "lookup"] satisfies readonly Method[];

function isMethods(value: unknown): value is Methods {
  return isRecord(value) && METHODS.includes(value["one"]) && METHODS.includes(value["more"]);
}
