// Each architecture against llama.cpp, on a small F32 model of it: the reference backend and the CPU's must give
// llama.cpp's distributions, and a model that lacks what the architecture adds must give other ones.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

import { openCpu } from "../../src/cpu/backend.ts";
import { openReference } from "../../src/reference.ts";
import { tiny } from "../app/tiny-model.ts";
import { llama, testWith } from "../oracle/oracle.ts";
import { distributions, divergence } from "./distributions.ts";
import { random } from "./vocabularies.ts";
import type { FileToWrite, Pair, TensorToWrite } from "./write-gguf.ts";

const folder = mkdtempSync(join(tmpdir(), "lutra-architecture-"));
const path = join(folder, "model.gguf");
const VOCABULARY = tiny.tensors[0]?.dims[1] as number;
const TOKENS = Array.from({ length: 48 }, (_, i) => (i * 37) % (VOCABULARY - 2));
afterAll(() => rmSync(folder, { recursive: true }));

interface Architecture {
  readonly name: string;
  /** Tensors that the tiny model of a llama lacks, (name, dims). Each must be there, and each must matter. */
  readonly added: readonly (readonly [name: string, ...dims: number[]])[];
}
const ARCHITECTURES: readonly Architecture[] = [
  {
    name: "qwen2",
    added: [
      ["blk.0.attn_q.bias", 32],
      ["blk.0.attn_k.bias", 16],
      ["blk.0.attn_v.bias", 16],
    ],
  },
];

/** The tiny model as one of the architecture, with random weights so loud that the softmax of attention is sharp. */
function model({ name, added }: Architecture): Required<Pick<FileToWrite, "pairs" | "tensors">> {
  const pairs = tiny.pairs.map(([key, ...rest]) => [key.replace(/^llama\./, `${name}.`), ...rest] as Pair);
  const draw = random(7);
  const noise = (tensor: string, ...dims: readonly number[]): TensorToWrite => {
    const centre = tensor.endsWith("norm.weight") ? 1 : 0;
    const size = tensor.startsWith("token_embd") || tensor.includes("attn_") ? 1 : 0.5;
    return f32(tensor, dims, () => centre + size * (draw(2 ** 20) / 2 ** 19 - 1));
  };
  return {
    pairs: pairs.map((pair) => (pair[0] === "general.architecture" ? [pair[0], "string", name] : pair)),
    tensors: [...tiny.tensors.map((t) => noise(t.name, ...t.dims.map(Number))), ...added.map((t) => noise(...t))],
  };
}

function f32(name: string, dims: TensorToWrite["dims"], at: () => number): TensorToWrite {
  const values = Float32Array.from({ length: dims.map(Number).reduce((a, b) => a * b, 1) }, at);
  return { name, dims: [...dims], type: 0, bytes: new Uint8Array(values.buffer) };
}

for (const architecture of ARCHITECTURES) {
  const file = model(architecture);
  testWith(llama(), `${architecture.name} gives llama.cpp's distributions`, async (peer) => {
    const reference = await distributions(openReference(), file, path, TOKENS);
    const theirs = Float64Array.from(peer.probabilities(path, TOKENS, VOCABULARY).flatMap((row) => [...row]));
    const backend = openCpu();
    if ("unavailable" in backend) throw new Error(backend.unavailable);
    const cpu = await distributions(backend, file, path, TOKENS);
    await backend[Symbol.asyncDispose]();
    // llama.cpp computes in f32 and keeps keys and values in f16, so it is near, but not there.
    expect(divergence(reference.probabilities, theirs, VOCABULARY)).toBeLessThan(1e-5);
    expect(divergence(reference.probabilities, cpu.probabilities, VOCABULARY)).toBeLessThan(1e-5);
    const mean = reference.logits.reduce((a, b) => a + b, 0) / reference.logits.length;
    const variance = reference.logits.reduce((sum, x) => sum + (x - mean) ** 2, 0) / reference.logits.length;
    expect(Math.sqrt(variance)).toBeGreaterThan(2);
  });

  for (const [added] of architecture.added) {
    test(`${architecture.name} is another model without ${added}, and is refused where it is missing`, async () => {
      const neutral = (t: TensorToWrite): TensorToWrite => (t.name === added ? f32(t.name, t.dims, () => 0) : t);
      const whole = await distributions(openReference(), file, path, TOKENS);
      const without = await distributions(
        openReference(),
        { ...file, tensors: file.tensors.map(neutral) },
        path,
        TOKENS,
      );
      expect(divergence(whole.probabilities, without.probabilities, VOCABULARY)).toBeGreaterThan(1e-3);
      const missing = { ...file, tensors: file.tensors.filter((t) => t.name !== added) };
      await expect(distributions(openReference(), missing, path, TOKENS)).rejects.toThrow(`tensor ${added}: missing`);
    });
  }
}
