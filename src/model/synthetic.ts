// Model files without a model: llama networks of known shapes with random weights, in any type, for benchmarks. They
// say nothing, but every number in them is finite and of the usual size, so that they take the time of the real ones.
// Not here: where the file goes (files.ts). Shapes: the config.json of each model named; the types of embedding and
// head are those that llama.cpp's quantize tool gives them.

import type { Program, Type } from "../ladder/type.ts";
import { type CarriedTypes, carriedPairs, FIRST_CARRIED_ID } from "./carried.ts";
import { encode } from "./encode.ts";
import { type GgufContent, type GgufPair, ggufPieces, type GgufTensor } from "./gguf-writer.ts";

export interface Shape {
  readonly about: string;
  readonly width: number;
  readonly blocks: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly feedForward: number;
  readonly vocabulary: number;
  /** Whether the embedding is the head too. */
  readonly isTied: boolean;
  readonly ropeBase: number;
  readonly context: number;
}

export const SHAPES: Readonly<Record<string, Shape>> = {
  "135M": {
    about: "SmolLM2-135M",
    width: 576,
    blocks: 30,
    heads: 9,
    kvHeads: 3,
    feedForward: 1536,
    vocabulary: 49_152,
    isTied: true,
    ropeBase: 100_000,
    context: 8192,
  },
  "135M-256": {
    about: "as many weights in rows that are multiples of 256, for types with blocks of 256",
    width: 768,
    blocks: 16,
    heads: 12,
    kvHeads: 4,
    feedForward: 2048,
    vocabulary: 49_152,
    isTied: true,
    ropeBase: 100_000,
    context: 8192,
  },
  "1B": {
    about: "Llama 3.2 1B",
    width: 2048,
    blocks: 16,
    heads: 32,
    kvHeads: 8,
    feedForward: 8192,
    vocabulary: 128_256,
    isTied: true,
    ropeBase: 500_000,
    context: 131_072,
  },
  "7B": {
    about: "Llama 2 7B",
    width: 4096,
    blocks: 32,
    heads: 32,
    kvHeads: 32,
    feedForward: 11_008,
    vocabulary: 32_000,
    isTied: false,
    ropeBase: 10_000,
    context: 4096,
  },
};

export interface Synthetic {
  readonly content: GgufContent;
  /** The bytes of the file, in order; the same for the same arguments. */
  pieces(): AsyncGenerator<Uint8Array, void>;
}

/** Values drawn and encoded once for a type and a size; tensors are put together from stretches of them. */
const POOL_VALUES = 65_536;

/**
 * A model file with random weights.
 * @param type of all matrices of the blocks
 * @param carried the texts of `type` where it is no type of the standard ones with an id
 * @throws Error where rows of the shape are no multiple of the type's block, or the type cannot be written
 */
export function synthetic(shape: Shape, type: Type, carried: CarriedTypes | null, standard: Program): Synthetic {
  const { width, blocks, heads, kvHeads, feedForward, vocabulary } = shape;
  const headDim = width / heads;
  const f32 = standardType("F32", standard);
  const head = headType(type, width, standard);
  const tensors: (GgufTensor & { readonly type: Type })[] = [];
  const add = (name: string, of: Type, ...lengths: readonly number[]): void => {
    const row = lengths.at(-1) ?? 0;
    if (row % of.blockSize !== 0)
      throw new Error(
        `${name}: rows of ${row} are no multiple of ${of.name}'s block of ${of.blockSize}; take another shape`,
      );
    const byteLength = (lengths.reduce((x, y) => x * y, 1) / of.blockSize) * of.blockBytes;
    const typeId = of.ids.get("gguf") ?? FIRST_CARRIED_ID + (carried?.types.indexOf(of) ?? 0);
    tensors.push({ name: `${name}.weight`, type: of, typeId, shape: lengths, byteLength });
  };
  add("token_embd", head, vocabulary, width);
  for (let block = 0; block < blocks; block++) {
    const name = (part: string): string => `blk.${block}.${part}`;
    add(name("attn_norm"), f32, width);
    add(name("attn_q"), type, width, width);
    add(name("attn_k"), type, kvHeads * headDim, width);
    add(name("attn_v"), type, kvHeads * headDim, width);
    add(name("attn_output"), type, width, width);
    add(name("ffn_norm"), f32, width);
    add(name("ffn_gate"), type, feedForward, width);
    add(name("ffn_up"), type, feedForward, width);
    add(name("ffn_down"), type, width, feedForward);
  }
  add("output_norm", f32, width);
  if (!shape.isTied) add("output", head, vocabulary, width);
  const content = { pairs: [...pairsOf(shape), ...(carried ? carriedPairs(carried) : [])], tensors, alignment: 32 };
  return {
    content,
    pieces() {
      const pools = new Map<string, Uint8Array>();
      const random = xorshift(1);
      return ggufPieces(content, async function* (index) {
        const { type: of, shape: lengths, byteLength } = tensors[index]!;
        const [n = 0, k = null] = lengths;
        if (k === null) return yield new Uint8Array(new Float32Array(n).fill(1).buffer);
        // Rows of this size keep a product's numbers as large as its input's.
        const size = 1 / Math.sqrt(k);
        const key = `${of.name} ${size}`;
        let pool = pools.get(key);
        if (pool === undefined) pools.set(key, (pool = poolOf(of, size, random)));
        const inPool = pool.length / of.blockBytes;
        for (let left = byteLength; left > 0;) {
          const begin = (random() % inPool) * of.blockBytes;
          const piece = pool.subarray(begin, Math.min(pool.length, begin + left));
          left -= piece.length;
          yield piece;
        }
      });
    },
  };
}

/** As llama.cpp's tool has it: six bits, eight where blocks of 256 do not fit, never fewer than the matrices have. */
function headType(type: Type, width: number, standard: Program): Type {
  const bits = (t: Type): number => t.blockBytes / t.blockSize;
  const q6 = standardType("Q6_K", standard);
  const usual = width % q6.blockSize === 0 ? q6 : standardType("Q8_0", standard);
  return bits(type) > bits(usual) ? type : usual;
}

function standardType(name: string, { types }: Program): Type {
  const type = types.get(name);
  if (type === undefined) throw new Error(`the .ladder files of this installation do not declare ${name}`);
  return type;
}

/** Blocks of normally distributed numbers of that standard deviation. */
function poolOf(type: Type, size: number, random: () => number): Uint8Array {
  const blocks = Math.ceil(POOL_VALUES / type.blockSize);
  const values = Float64Array.from({ length: blocks * type.blockSize }, () => {
    const radius = Math.sqrt(-2 * Math.log((random() + 1) / 2 ** 32)); // Box and Muller
    return size * radius * Math.cos((2 * Math.PI * random()) / 2 ** 32);
  });
  const bytes = new Uint8Array(blocks * type.blockBytes);
  encode(type, values, bytes);
  return bytes;
}

/** Whole numbers in [1, 2^32). Marsaglia, "Xorshift RNGs" (2003): 13, 17, 5. */
function xorshift(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>>= 0);
  };
}

function pairsOf(shape: Shape): readonly GgufPair[] {
  const u32 = (key: string, value: number): GgufPair => ({ key, type: "u32", value });
  const text = (key: string, value: string): GgufPair => ({ key, type: "string", value });
  const tokens = vocabularyOf(shape.vocabulary);
  return [
    text("general.architecture", "llama"),
    text("general.name", `random weights in the shape of ${shape.about}`),
    u32("general.quantization_version", 2),
    u32("llama.block_count", shape.blocks),
    u32("llama.context_length", shape.context),
    u32("llama.embedding_length", shape.width),
    u32("llama.feed_forward_length", shape.feedForward),
    u32("llama.attention.head_count", shape.heads),
    u32("llama.attention.head_count_kv", shape.kvHeads),
    u32("llama.rope.dimension_count", shape.width / shape.heads),
    u32("llama.vocab_size", shape.vocabulary),
    { key: "llama.attention.layer_norm_rms_epsilon", type: "f32", value: 1e-5 },
    { key: "llama.rope.freq_base", type: "f32", value: shape.ropeBase },
    text("tokenizer.ggml.model", "llama"),
    { key: "tokenizer.ggml.tokens", type: "[string]", value: tokens.map(([token]) => token) },
    { key: "tokenizer.ggml.scores", type: "[f32]", value: Float32Array.from(tokens, (_, id) => -id) },
    { key: "tokenizer.ggml.token_type", type: "[i32]", value: Int32Array.from(tokens, ([, kind]) => kind) },
    u32("tokenizer.ggml.unknown_token_id", 0),
    u32("tokenizer.ggml.bos_token_id", 1),
    u32("tokenizer.ggml.eos_token_id", 2),
  ];
}

/** A vocabulary in SentencePiece's form, with its kinds of tokens: 1 normal, 2 unknown, 3 control, 6 byte. */
function vocabularyOf(count: number): readonly (readonly [token: string, kind: number])[] {
  const special = [["<unk>", 2] as const, ["<s>", 3] as const, ["</s>", 3] as const];
  const bytes = Array.from({ length: 256 }, (_, byte) => {
    const hex = byte.toString(16).toUpperCase().padStart(2, "0");
    return [`<0x${hex}>`, 6] as const;
  });
  const words = Array.from(
    { length: count - special.length - bytes.length },
    (_, n) => [`\u2581${n.toString(36)}`, 1] as const,
  );
  return [...special, ...bytes, ...words];
}
