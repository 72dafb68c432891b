// What every machine offers: prepare a Plan once, then step it. Types only, and the one error they share.

import type { Type } from "./ladder/type.ts";
import type { Plan } from "./plan.ts";

/** One tensor as it lies in a model file. */
export interface WeightTensor {
  readonly name: string;
  readonly type: Type;
  /** (n, k) or (n): the last dimension is contiguous (the reverse of GGUF's order). */
  readonly shape: readonly number[];
  /** Index into WeightSource.files. */
  readonly file: number;
  /** First byte in that file, checked to lie inside with all its bytes. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface WeightSource {
  /** Absolute paths (or names, where the source is no file) of the file and its further splits. */
  readonly files: readonly string[];
  tensor(name: string): WeightTensor | undefined;
  /** Bytes [begin, begin + length) of a tensor; throws if the file no longer has them. */
  read(tensor: WeightTensor, begin: number, length: number): Uint8Array;
}

/** One sequence's next tokens: position `pos` is that of the first. Earlier positions of the slot stay valid. */
export interface Chunk {
  readonly slot: number;
  readonly pos: number;
  readonly tokens: Int32Array;
  readonly logits: "none" | "last" | "all";
}

export interface Session extends AsyncDisposable {
  /** Per chunk (wanted tokens, vocab) row-major; empty for "none". */
  step(batch: readonly Chunk[]): Promise<readonly Float32Array[]>;
  /** Bytes held for weights, cache and scratch. */
  readonly bytes: { readonly weights: number; readonly cache: number; readonly scratch: number };
}

/** What is known of the machine under a backend, for people and for reports. */
export interface Device {
  /** "cpu", "reference" ... */
  readonly name: string;
  /** Instruction set in use, e.g. "avx512-vnni", "avx2", "scalar", "float64". */
  readonly isa: string;
  readonly threads: number;
}

export interface Backend extends AsyncDisposable {
  readonly name: "reference" | "cpu" | "gpu" | "lmma";
  readonly device: Device;
  /** Slow: schedules, repacks, compiles. Throws UnsupportedOp where the plan asks for what the machine lacks. */
  prepare(plan: Plan, weights: WeightSource, progress?: (done: number, total: number) => void): Promise<Session>;
}

/** A machine that cannot be used here, and why; a value, so that callers must look at it. */
export interface Unavailable {
  readonly unavailable: string;
}

/** The plan needs something that this backend does not do: names the op or tensor, and what would work. */
export class UnsupportedOp extends Error {
  override readonly name = "UnsupportedOp";
}

/** One token of a step with the place of its logits. */
export interface Row {
  readonly token: number;
  readonly slot: number;
  readonly position: number;
  readonly wanted: boolean;
}

/**
 * The rows of a batch in order, checked against the plan: tokens of the vocabulary, slots and positions of the cache.
 * Throws a RangeError that names chunk and value.
 */
export function rowsOf(plan: Plan, batch: readonly Chunk[]): readonly Row[] {
  const { slots, context } = plan.cache;
  const embed = plan.ops.find((op) => op.kind === "embed");
  const vocabulary = (embed && plan.weights.get(embed.weight)?.shape[0]) ?? 0;
  const rows: Row[] = [];
  batch.forEach((chunk, c) => {
    const { slot, pos, tokens } = chunk;
    if (!Number.isInteger(slot) || slot < 0 || slot >= slots)
      throw new RangeError(`chunk ${c}: slot ${slot} does not exist; there are ${slots}`);
    if (!Number.isInteger(pos) || pos < 0 || pos + tokens.length > context)
      throw new RangeError(
        `chunk ${c}: positions ${pos} to ${pos + tokens.length - 1} do not fit the context of ${context} tokens`,
      );
    tokens.forEach((token, i) => {
      if (token < 0 || token >= vocabulary)
        throw new RangeError(`chunk ${c}: token ${token} is not in the vocabulary of ${vocabulary}`);
      const wanted = chunk.logits === "all" || (chunk.logits === "last" && i === tokens.length - 1);
      rows.push({ token, slot, position: pos + i, wanted });
    });
  });
  return rows;
}

/** Cuts the logits of all wanted rows, (wanted, vocab), into one array a chunk. */
export function logitsByChunk(batch: readonly Chunk[], logits: Float32Array, vocabulary: number): Float32Array[] {
  let at = 0;
  return batch.map(({ logits: want, tokens }) => {
    const rows = want === "all" ? tokens.length : want === "last" ? Math.min(1, tokens.length) : 0;
    return logits.subarray(at, (at += rows * vocabulary));
  });
}
