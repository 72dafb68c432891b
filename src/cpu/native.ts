// The native addon as a value: what it offers, or why it is not there. The only file of src/cpu that touches the
// file system or the operating system.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus, freemem } from "node:os";
import process from "node:process";

import type { Unavailable } from "../backend.ts";
import { packageFile } from "../files.ts";
import type { Method } from "./layout.ts";

/** A loaded model in native memory. Mirrors `Session` in native/addon.cpp. */
export interface NativeSession {
  /** rows: (token, slot, position, wanted) each; out: (wanted, vocab). */
  step(rows: Int32Array, out: Float32Array): Promise<void>;
  /** Tile `tile` (64 rows) of a matrix that was described as converted, or a whole vector, as it is kept. */
  give(isVector: boolean, index: number, tile: number, bytes: Uint8Array): void;
  close(): void;
  readonly bytes: { readonly weights: number; readonly cache: number; readonly scratch: number };
}

/** How many lookups fast aggregation sums by a tree of rounding averages; see native/kernels_scalar.cpp. */
export type Average = 2 | 4 | 8;

/** A matrix of n rows and k columns, timed with `tokens` vectors. */
export interface BenchCase {
  /** 1 to 6, or 8. */
  readonly bits: number;
  readonly group: number;
  readonly n: number;
  readonly k: number;
  readonly tokens: number;
  /** Whether groups have an offset beside their scale. */
  readonly offset: boolean;
  /** Of a type's tiles (layout.ts); without it codes are integers and scales f16. */
  readonly layout?: {
    readonly steps: readonly number[] | null;
    readonly table: readonly number[] | null;
    readonly scales: "half" | "two-level" | "nibbles" | "float";
    /** Groups that share an f16 where there are two levels, else 1. */
    readonly blockGroups: number;
    /** Whether ternary kernels can run it. */
    readonly ternary: boolean;
  };
  /** As in tuner.ts. */
  readonly method: Method;
  readonly ahead: number;
  /** Lookups are summed by averages of so many; exactly if not given. */
  readonly average?: Average;
  /** What vectors come as; f32 if not given. */
  readonly activations?: "f32" | "f16";
  readonly rounds: number;
  /** Copies of the matrix fill so many bytes and are used in turn. */
  readonly poolBytes: number;
}

/** Microseconds a product and a plain read of the same bytes took, round by round; `bytes` of the matrix. */
export interface BenchTimes {
  readonly kernelUs: readonly number[];
  readonly readUs: readonly number[];
  readonly bytes: number;
}

/** A matrix of integers with an f16 scale for each group of a multiple of 32, for native/ablation.h. */
export type AblationCase = Pick<BenchCase, "bits" | "group" | "n" | "k" | "ahead" | "rounds" | "poolBytes">;

/** One ablation, by its name in native/ablation.cpp; `nmse` of its product against float64. */
export interface AblationTimes extends BenchTimes {
  readonly name: string;
  readonly nmse: number;
}

export interface NativeEngine {
  prepare(description: object): Promise<NativeSession>;
  /** Rejects where there is not as much memory. */
  bench(what: BenchCase): Promise<BenchTimes>;
  /** Those that the instruction set has, in turn; none where it is not in AVERAGING of tuner.ts. */
  ablate(what: AblationCase): Promise<readonly AblationTimes[]>;
  close(): void;
  /** Bytes of weights in place so far. */
  readonly loaded: number;
}

export interface Addon {
  readonly Engine: new (isa: string, threads: number) => NativeEngine;
  /** Instruction sets that this processor has kernels for, best first; "scalar" is always among them. */
  isas(): readonly [string, ...string[]];
}

/** Loads the addon built by native/build.mjs. */
export function loadAddon(): Addon | Unavailable {
  const file = packageFile(`build/lutra-${process.platform}-${process.arch}.node`);
  const remedy =
    "install a C++20 compiler (Debian and Ubuntu: apt-get install g++), then run `npm rebuild lutra`, or `npm run build` in a checkout";
  if (!existsSync(file)) return { unavailable: `the native CPU backend is not built: ${remedy}` };
  try {
    return createRequire(import.meta.url)(file) as Addon;
  } catch (error) {
    const reason = (error instanceof Error ? error.message : String(error)).split("\n")[0];
    return { unavailable: `the native CPU backend does not load (${reason}): ${remedy}` };
  }
}

/** Threads worth using: physical cores, no more than the affinity mask and the control group's quota allow. */
export function usableCores(): number {
  return Math.max(1, Math.min(availableParallelism(), physicalCores(), quotaOfGroup()));
}

function physicalCores(): number {
  const folder = "/sys/devices/system/cpu";
  try {
    const siblings = readdirSync(folder)
      .filter((name) => /^cpu\d+$/.test(name))
      .map((name) => readFileSync(`${folder}/${name}/topology/thread_siblings_list`, "utf8"));
    return new Set(siblings).size || Infinity;
  } catch {
    return Infinity; // another system than Linux: the affinity mask decides
  }
}

function quotaOfGroup(): number {
  try {
    const [quota, period] = readFileSync("/sys/fs/cgroup/cpu.max", "utf8").trim().split(" ");
    return quota === "max" ? Infinity : Math.ceil(Number(quota) / Number(period)) || Infinity;
  } catch {
    return Infinity;
  }
}

/** The processor's name, as the system gives it. */
export function processorName(): string {
  return cpus()[0]?.model.trim() ?? "unknown";
}

/** Bytes of memory that this process may still take. */
export function availableMemory(): number {
  return typeof process.availableMemory === "function" ? process.availableMemory() : freemem();
}
