// Choices of kernels that were measured on this machine, kept in the person's cache: {version, processor, kernels}. A
// file that is damaged, or of another processor or version of lutra, counts as none, and is replaced by the next one.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";

import type { Kernel } from "../cpu/tuner.ts";
import { packageVersion } from "./version.ts";

/** What was measured, by caseName of cpu/tuner.ts. */
export type Choices = ReadonlyMap<string, Kernel>;

/** More than any model of today has kinds of matrices, on many instruction sets and numbers of threads. */
const MAX_BYTES = 2 ** 20;

/** Where choices are kept, as the XDG base directory specification has it. */
export function choicesFile(): string {
  const cache = process.env["XDG_CACHE_HOME"];
  return join(cache?.startsWith("/") ? cache : join(homedir(), ".cache"), "lutra", "kernels.json");
}

export function readChoices(processor: string, file: string = choicesFile()): Choices {
  try {
    const text = readFileSync(file, "utf8");
    const known: unknown = text.length > MAX_BYTES ? null : JSON.parse(text);
    if (!isRecord(known) || known["version"] !== packageVersion() || known["processor"] !== processor) return new Map();
    const kernels = known["kernels"];
    if (!isRecord(kernels)) return new Map();
    return new Map(Object.entries(kernels).flatMap(([name, kernel]) => (isKernel(kernel) ? [[name, kernel]] : [])));
  } catch {
    return new Map(); // there is none, or it is no JSON
  }
}

/** Adds choices to those that are there. Throws what the file system says. */
export function addChoices(processor: string, more: Choices, file: string = choicesFile()): void {
  const kernels = Object.fromEntries([...readChoices(processor, file), ...more]);
  mkdirSync(join(file, ".."), { recursive: true });
  const temporary = `${file}.${process.pid}`;
  try {
    writeFileSync(temporary, `${JSON.stringify({ version: packageVersion(), processor, kernels }, null, 1)}\n`);
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
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
