// Rotary scalings against llama.cpp, on a small F32 model whose text depends strongly on positions: the reference
// backend must give llama.cpp's distributions, and no scaling at all must give other ones.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect } from "vitest";

import { openReference } from "../../src/reference.ts";
import { tiny } from "../app/tiny-model.ts";
import { llama, testWith } from "../oracle/oracle.ts";
import { distributions, divergence } from "./distributions.ts";
import type { FileToWrite, Pair } from "./write-gguf.ts";

const folder = mkdtempSync(join(tmpdir(), "lutra-rope-"));
const path = join(folder, "rope.gguf");
const VOCABULARY = tiny.tensors[0]?.dims[1] as number;
const TOKENS = Array.from({ length: 48 }, (_, i) => (i * 37) % (VOCABULARY - 2));

/** Scalings and what llama.cpp is asked to make of them. `factors` is the tensor rope_freqs.weight. */
const CASES: readonly { name: string; pairs: readonly Pair[]; factors?: readonly number[] }[] = [
  {
    name: "linear",
    pairs: [
      ["llama.rope.scaling.type", "string", "linear"],
      ["llama.rope.scaling.factor", "f32", 4],
    ],
  },
  { name: "a factor without a type", pairs: [["llama.rope.scaling.factor", "f32", 4]] },
  { name: "the old key of linear scaling", pairs: [["llama.rope.scale_linear", "f32", 4]] },
  {
    name: "YaRN",
    pairs: [
      ["llama.rope.scaling.type", "string", "yarn"],
      ["llama.rope.scaling.factor", "f32", 4],
      ["llama.rope.scaling.original_context_length", "u32", 16],
    ],
  },
  {
    name: "YaRN with an attention factor",
    pairs: [
      ["llama.rope.scaling.type", "string", "yarn"],
      ["llama.rope.scaling.factor", "f32", 8],
      ["llama.rope.scaling.original_context_length", "u32", 32],
      ["llama.rope.scaling.attn_factor", "f32", 0.7],
    ],
  },
  { name: "another base", pairs: [["llama.rope.freq_base", "f32", 50]] },
  { name: "one factor a pair", pairs: [], factors: [1, 1.5, 2, 4, 8, 8, 16, 32] },
];

/** The tiny model with queries and keys so large that the softmax is sharp, and `pairs` added. */
function model(pairs: readonly Pair[], factors?: readonly number[]): FileToWrite {
  const louder = (name: string): number => (/attn_[qk]\.weight/.test(name) ? 8 : /attn_(v|output)/.test(name) ? 6 : 1);
  const tensors = tiny.tensors.map((t) => {
    const values = Float32Array.from(new Float32Array(t.bytes.slice().buffer), (x) => x * louder(t.name));
    return { ...t, bytes: new Uint8Array(values.buffer) };
  });
  const frequencies = factors && {
    name: "rope_freqs.weight",
    dims: [factors.length],
    type: 0,
    bytes: new Uint8Array(Float32Array.from(factors).buffer),
  };
  return { pairs: [...tiny.pairs, ...pairs], tensors: frequencies ? [...tensors, frequencies] : tensors };
}

const probabilities = async (file: FileToWrite): Promise<Float64Array> =>
  (await distributions(openReference(), file, path, TOKENS)).probabilities;

let unscaled: Float64Array;
beforeAll(async () => {
  unscaled = await probabilities(model([]));
});
afterAll(() => rmSync(folder, { recursive: true }));

for (const { name, pairs, factors } of CASES)
  testWith(llama(), `positions are turned as llama.cpp turns them: ${name}`, async (peer) => {
    const ours = await probabilities(model(pairs, factors));
    const theirs = Float64Array.from(peer.probabilities(path, TOKENS, VOCABULARY).flatMap((row) => [...row]));
    // llama.cpp computes in f32 and keeps keys and values in f16, so it is near, but not there.
    expect(divergence(ours, theirs, VOCABULARY)).toBeLessThan(1e-5);
    expect(divergence(ours, unscaled, VOCABULARY)).toBeGreaterThan(1e-3);
  });
