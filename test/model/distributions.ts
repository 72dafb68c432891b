// What a backend makes of a model file that a test writes: the distribution after each token.

import { writeFileSync } from "node:fs";

import type { Backend } from "../../src/backend.ts";
import { load } from "../../src/load.ts";
import { type FileToWrite, gguf } from "./write-gguf.ts";

export interface Distributions {
  /** (tokens, vocabulary), as `probabilities`. */
  readonly logits: Float32Array;
  readonly probabilities: Float64Array;
}

/** Writes the file to `path` and runs all tokens through it in one step. */
export async function distributions(
  backend: Backend,
  file: FileToWrite,
  path: string,
  tokens: readonly number[],
): Promise<Distributions> {
  writeFileSync(path, gguf(file));
  const loaded = load(path);
  const session = await backend.prepare(loaded.plan, loaded.weights);
  const [found] = await session.step([{ slot: 0, pos: 0, tokens: Int32Array.from(tokens), logits: "all" }]);
  const logits = Float32Array.from(found as Float32Array);
  await session[Symbol.asyncDispose]();
  loaded.close();
  const probabilities = Float64Array.from(logits, Math.exp);
  const vocabulary = logits.length / tokens.length;
  for (let at = 0; at < probabilities.length; at += vocabulary) {
    const row = probabilities.subarray(at, at + vocabulary);
    const total = row.reduce((a, b) => a + b, 0);
    row.forEach((x, i) => (row[i] = x / total));
  }
  return { logits, probabilities };
}

/** The mean Kullback-Leibler divergence of `other` from `truth`, in nats. */
export function divergence(truth: Float64Array, other: Float64Array, vocabulary: number): number {
  const rows = truth.length / vocabulary;
  return truth.reduce((sum, p, i) => sum + p * Math.log(p / (other[i] ?? 0)), 0) / rows;
}
