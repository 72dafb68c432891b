// A model file of some 70 kB that lutra can run: one block of width 32, a token for each byte. Tests damage it.
// Not here: sense in what it says.

import type { FileToWrite, Pair, TensorToWrite } from "../model/write-gguf.ts";

const WIDTH = 32;
const KV_WIDTH = 16;
const FEED_FORWARD = 32;
const F32 = 0;

/** GPT-2's character for each byte, then one merge, then the end of text. */
const TOKENS: readonly string[] = (() => {
  let next = 256;
  const bytes = Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(isPrintable ? byte : next++);
  });
  return [...bytes, "th", "<|endoftext|>"];
})();

const END = TOKENS.length - 1;

const PAIRS: readonly Pair[] = [
  ["general.architecture", "string", "llama"],
  ["general.name", "string", "tiny"],
  ["llama.block_count", "u32", 1],
  ["llama.embedding_length", "u32", WIDTH],
  ["llama.feed_forward_length", "u32", FEED_FORWARD],
  ["llama.attention.head_count", "u32", 2],
  ["llama.attention.head_count_kv", "u32", 1],
  ["llama.attention.layer_norm_rms_epsilon", "f32", 1e-5],
  ["llama.context_length", "u32", 64],
  ["tokenizer.ggml.model", "string", "gpt2"],
  ["tokenizer.ggml.pre", "string", "gpt-2"],
  ["tokenizer.ggml.tokens", "string", TOKENS],
  ["tokenizer.ggml.token_type", "i32", TOKENS.map((_, id) => (id === END ? 3 : 1))],
  ["tokenizer.ggml.merges", "string", ["t h"]],
  ["tokenizer.ggml.bos_token_id", "u32", END],
  ["tokenizer.ggml.eos_token_id", "u32", END],
  ["tokenizer.ggml.add_bos_token", "bool", true],
];

/** Numbers without a pattern that a person would see; about 1/4 in size. */
function tensor(name: string, ...dims: number[]): TensorToWrite {
  const values = new Float32Array(dims.reduce((a, b) => a * b, 1));
  const isNorm = name.endsWith("norm.weight");
  for (let i = 0; i < values.length; i++) values[i] = isNorm ? 1 : Math.sin(i * 12.9898 + name.length * 78.233) / 4;
  return { name, dims, type: F32, bytes: new Uint8Array(values.buffer) };
}

export const tiny: Required<Pick<FileToWrite, "pairs" | "tensors">> = {
  pairs: PAIRS,
  tensors: [
    tensor("token_embd.weight", WIDTH, TOKENS.length),
    tensor("output_norm.weight", WIDTH),
    tensor("blk.0.attn_norm.weight", WIDTH),
    tensor("blk.0.attn_q.weight", WIDTH, WIDTH),
    tensor("blk.0.attn_k.weight", WIDTH, KV_WIDTH),
    tensor("blk.0.attn_v.weight", WIDTH, KV_WIDTH),
    tensor("blk.0.attn_output.weight", WIDTH, WIDTH),
    tensor("blk.0.ffn_norm.weight", WIDTH),
    tensor("blk.0.ffn_gate.weight", WIDTH, FEED_FORWARD),
    tensor("blk.0.ffn_up.weight", WIDTH, FEED_FORWARD),
    tensor("blk.0.ffn_down.weight", FEED_FORWARD, WIDTH),
  ],
};

/** The tiny model with other pairs for those of the same key; further ones are added, null takes one out. */
export function withPairs(changes: readonly (Pair | readonly [key: string, type: null])[]): FileToWrite {
  const changed = new Map<string, Pair | null>(tiny.pairs.map((pair) => [pair[0], pair]));
  for (const change of changes) changed.set(change[0], change[1] === null ? null : change);
  return { ...tiny, pairs: [...changed.values()].filter((pair) => pair !== null) };
}

/** The tiny model with each tensor changed, or left out for null. */
export function withTensors(change: (tensor: TensorToWrite) => TensorToWrite | null): FileToWrite {
  return { ...tiny, tensors: tiny.tensors.map((t) => change(t)).filter((t) => t !== null) };
}
