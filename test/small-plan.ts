// Plans of one op, with random weights in a temporary file: how the conformance tests reach a backend's ops.
// The input of the op under test is an embedding of F32 rows, one row per token id, so that tests choose it freely.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { WeightSource, WeightTensor } from "../src/backend.ts";
import { openFile, standardTexts } from "../src/files.ts";
import { type MappedTerm, mappedStructureOf } from "../src/ladder/layout.ts";
import { resolveProgram } from "../src/ladder/resolve.ts";
import type { Program, Type } from "../src/ladder/type.ts";
import type { Op, ValueId } from "../src/ops.ts";
import { type CacheShape, makePlan, type Plan } from "../src/plan.ts";

function standardProgram(): Program {
  const resolved = resolveProgram(new Map(standardTexts().map((s) => [s.name, s.text])));
  if (resolved.kind !== "program") throw new Error("the standard declarations do not resolve");
  return resolved.program;
}

const program = standardProgram();

/** The product of the input and of a matrix "w", as it is, into value 1. */
export const PLAIN_GEMM: Op = {
  kind: "gemm",
  input: 0,
  norm: null,
  linears: [{ weight: "w", bias: null }],
  epilogue: { kind: "store" },
  out: [1],
};

export function typeNamed(name: string): Type {
  const type = program.types.get(name);
  if (type === undefined) throw new Error(`no type ${name}`);
  return type;
}

/** A small generator (mulberry32) with its draws; tests print the seed they use. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** Uniform in [0, 2^32). */
  bits(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** Uniform integer in [low, high]. */
  integer(low: number, high: number): number {
    return low + (this.bits() % (high - low + 1));
  }

  /** About standard normal: the sum of twelve uniforms, less six. */
  normal(): number {
    let sum = -6;
    for (let i = 0; i < 12; i++) sum += this.bits() / 2 ** 32;
    return sum;
  }

  normals(count: number): Float32Array {
    return Float32Array.from({ length: count }, () => this.normal());
  }

  pick<T>(items: readonly T[]): T {
    return items[this.integer(0, items.length - 1)] as T;
  }
}

/** Above every scale that randomBytes makes. */
export const LARGEST_FIELD: number = 2 ** -3;

/** Bytes of `count` values with random codes, and finite scales of magnitude 2^-7 to 2^-3, of either sign. */
export function randomBytes(type: Type, count: number, random: Random): Uint8Array {
  const bytes = new Uint8Array((count / type.blockSize) * type.blockBytes);
  const structure = mappedStructureOf(type);
  if (structure.kind === "none") throw new Error(structure.reason);
  if (structure.kind === "float") {
    const size = type.blockBytes / type.blockSize;
    for (let i = 0; i < count; i++) bytes.set(floatBytes(structure.format, random.normal()), i * size);
    return bytes;
  }
  for (let i = 0; i < bytes.length; i++) bytes[i] = random.bits();
  for (let block = 0; block < bytes.length; block += type.blockBytes)
    for (const { byte, format } of [...structure.scale.fields, ...(structure.offset?.fields ?? [])])
      bytes.set(
        floatBytes(format, (random.bits() & 1 ? 1 : -1) * 2 ** (-7 + random.integer(0, 4000) / 1000)),
        block + byte,
      );
  if (structure.kind === "mapped")
    for (let block = 0; block < bytes.length; block += type.blockBytes)
      for (let g = 0; g < type.blockSize / structure.groupSize; g++)
        tame(bytes.subarray(block, block + type.blockBytes), structure.scale, g, random);
  return bytes;
}

/** Writes a code whose number is of the size of other tests' scales into group g: any at all would overflow floats. */
function tame(block: Uint8Array, { codes }: MappedTerm, g: number, random: Random): void {
  if (codes === null || codes.map === null) return;
  const usual = codes.map.flatMap((x, code) => (Math.abs(x) >= 2 ** -7 && Math.abs(x) <= LARGEST_FIELD ? [code] : []));
  const code = random.pick(usual) ^ codes.flip;
  for (const { first, count, bit, step, width, shift } of codes.runs) {
    if (g < first || g >= first + count) continue;
    const at = bit + (g - first) * step;
    const mask = ((1 << width) - 1) << (at % 8);
    const old = block[at >> 3] as number;
    block[at >> 3] = (old & ~mask) | (((code >> shift) << (at % 8)) & mask);
  }
}

function floatBytes(format: "f16" | "bf16" | "f32", x: number): Uint8Array {
  const f32 = new Uint32Array(Float32Array.of(x).buffer)[0] as number;
  if (format === "f32") return new Uint8Array(Uint32Array.of(f32).buffer);
  if (format === "bf16") return new Uint8Array(Uint16Array.of(f32 >>> 16).buffer);
  // Normal halves only, cut rather than rounded: any half will do here.
  const exponent = ((f32 >>> 23) & 255) - 112;
  const half = exponent <= 0 ? 0 : ((f32 >>> 16) & 0x8000) | (exponent << 10) | ((f32 >>> 13) & 1023);
  return new Uint8Array(Uint16Array.of(half).buffer);
}

export interface SmallWeight {
  readonly name: string;
  readonly type: Type;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export function f32Weight(name: string, shape: readonly number[], data: Float32Array): SmallWeight {
  return { name, type: typeNamed("F32"), shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

/** Weights in one temporary file; `dispose` removes it. */
export function weightFile(weights: readonly SmallWeight[]): WeightSource & Disposable {
  const folder = mkdtempSync(join(tmpdir(), "lutra-plan-"));
  const path = join(folder, "weights.bin");
  const tensors = new Map<string, WeightTensor>();
  let byteOffset = 0;
  for (const { name, type, shape, bytes } of weights) {
    tensors.set(name, { name, type, shape, file: 0, byteOffset, byteLength: bytes.length });
    byteOffset += bytes.length;
  }
  writeFileSync(path, Buffer.concat(weights.map((w) => w.bytes)));
  const source = openFile(path);
  return {
    files: [path],
    tensor: (name) => tensors.get(name),
    read: (tensor, begin, length) => source.read(tensor.byteOffset + begin, length),
    [Symbol.dispose]: () => {
      source.close();
      rmSync(folder, { recursive: true });
    },
  };
}

/**
 * A plan that embeds tokens through the F32 weights `inputs` (one value each), runs `ops`, and returns value `result`
 * of the wanted rows as the logits. `widths` are those of further values, numbered after the inputs.
 */
export function smallPlan(
  inputs: readonly SmallWeight[],
  others: readonly SmallWeight[],
  widths: readonly number[],
  ops: readonly Op[],
  result: ValueId,
  cache: CacheShape = { layers: 0, width: 0, context: 64, slots: 1 },
): Plan {
  const values = [...inputs.map((w) => w.shape[1] as number), ...widths];
  const logits = values.length;
  return makePlan({
    values: [...values, values[result] as number].map((width, i) => ({ name: `v${i}`, width })),
    weights: new Map([...inputs, ...others].map(({ name, shape }) => [name, { name, shape }])),
    ops: [
      ...inputs.map((w, out) => ({ kind: "embed" as const, weight: w.name, out })),
      ...ops,
      { kind: "select", input: result, out: logits },
    ],
    logits,
    cache,
  });
}
