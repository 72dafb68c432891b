// Small vocabularies for tests, as the metadata of a GGUF file, and text that is hard to tokenise.
// llama.cpp loads the files for their vocabulary alone, so they hold no tensors.

import type { Pair } from "./write-gguf.ts";

/** A pseudo-random sequence: numbers in [0, limit), the same for the same seed. */
export function random(seed: number): (limit: number) => number {
  let state = seed >>> 0 || 1;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % limit;
  };
}

/** What llama.cpp wants to know of any model. */
const LLAMA: readonly Pair[] = [
  ["general.architecture", "string", "llama"],
  ["llama.block_count", "u32", 1],
  ["llama.context_length", "u32", 64],
  ["llama.embedding_length", "u32", 32],
  ["llama.feed_forward_length", "u32", 32],
  ["llama.attention.head_count", "u32", 1],
  ["llama.attention.layer_norm_rms_epsilon", "f32", 1e-5],
];

const kept = (byte: number): boolean => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);

/** Byte-level characters in the order of their bytes, as GPT-2 defines them. */
function byteCharacters(): readonly string[] {
  const moved = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !kept(byte));
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(kept(byte) ? byte : 256 + moved.indexOf(byte)));
}

/** A byte-level BPE vocabulary whose merges are those of `text`'s frequent pairs, with some control tokens. */
export function bytePairs(pre: string, text: string, merges: number): readonly Pair[] {
  const characters = byteCharacters();
  const words = [...text.matchAll(/ ?\p{L}+| ?\p{N}+|\s+|[^\s\p{L}\p{N}]+/gu)].map(([word]) =>
    [...Buffer.from(word)].map((byte) => characters[byte] ?? ""),
  );
  const tokens = [...characters];
  const list: string[] = [];
  while (list.length < merges) {
    const counts = new Map<string, number>();
    for (const word of words) {
      for (let i = 1; i < word.length; i++) {
        const pair = `${word[i - 1]} ${word[i]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const [best] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a), ["", 0]);
    const [left = "", right = ""] = best.split(" ");
    list.push(best);
    if (!tokens.includes(left + right)) tokens.push(left + right);
    for (const word of words) {
      for (let i = 1; i < word.length; i++) {
        if (word[i - 1] === left && word[i] === right) word.splice(i - 1, 2, left + right);
      }
    }
  }
  const control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
  const user = ["<tool>", "  \n"];
  return [
    ...LLAMA,
    ["tokenizer.ggml.model", "string", "gpt2"],
    ["tokenizer.ggml.pre", "string", pre],
    ["tokenizer.ggml.tokens", "string", [...tokens, ...control, ...user]],
    ["tokenizer.ggml.token_type", "i32", [...tokens.map(() => 1), ...control.map(() => 3), ...user.map(() => 4)]],
    ["tokenizer.ggml.merges", "string", list],
    ["tokenizer.ggml.bos_token_id", "u32", tokens.length],
    ["tokenizer.ggml.eos_token_id", "u32", tokens.length],
  ];
}

/** An SPM vocabulary: byte tokens, characters, and random pieces of `text` with scores, some of them equal. */
export function sentencePieces(text: string, pieces: number, seed: number): readonly Pair[] {
  const next = random(seed);
  // llama.cpp ends a token at a NUL.
  const escaped = Array.from(text.replaceAll(" ", "\u2581").replaceAll("\0", ""));
  const tokens = new Map<string, { type: number; score: number }>([
    ["<unk>", { type: 2, score: 0 }],
    ["<s>", { type: 3, score: 0 }],
    ["</s>", { type: 3, score: 0 }],
  ]);
  for (let byte = 0; byte < 256; byte++) {
    tokens.set(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, { type: 6, score: 0 });
  }
  for (const character of "\u2581etaoinshrdlu,.") tokens.set(character, { type: 1, score: -1000 - next(50) });
  while (tokens.size < pieces) {
    // Pieces of two characters and of longer ones whose beginning is there: merges can reach them.
    const begin = next(escaped.length - 8);
    const piece = escaped.slice(begin, begin + 2 + next(5));
    // A piece with a bracket could lead to "<s>" by merging, which llama.cpp allows and Lutra does not.
    if (/[^\u2581]\u2581|[<>]/.test(piece.join(""))) continue;
    for (let end = 2; end <= piece.length; end++) {
      const part = piece.slice(0, end).join("");
      if (!tokens.has(part)) tokens.set(part, { type: 1, score: -next(300) });
    }
  }
  tokens.set("<tool>", { type: 4, score: 0 });
  return [
    ...LLAMA,
    ["tokenizer.ggml.model", "string", "llama"],
    ["tokenizer.ggml.tokens", "string", [...tokens.keys()]],
    ["tokenizer.ggml.scores", "f32", [...tokens.values()].map(({ score }) => score)],
    ["tokenizer.ggml.token_type", "i32", [...tokens.values()].map(({ type }) => type)],
    ["tokenizer.ggml.bos_token_id", "u32", 1],
    ["tokenizer.ggml.eos_token_id", "u32", 2],
    ["tokenizer.ggml.unknown_token_id", "u32", 0],
  ];
}

const SAMPLES: readonly string[] = [
  "function add(a, b) { return a + b; } // O(1)\n\tif (x !== y) x ??= [1, 2e-3, 0xff];\r\n",
  "The year 1984, 3.14159, 1,000,000 and 12345678901234567890 are numbers; so are \u0663\u0664 and \u2167.",
  "I'll say it's fine, we've DON'T I'D you're he'd they'Ve \u2019tis.",
  "\u{1f600}\u{1f468}\u200d\u{1f469}\u200d\u{1f467}\u{1f1e9}\u{1f1ea} emoji \u2764\ufe0f!!! ??? ... ---",
  "\u4e2d\u6587\u5b57\u7b26\u3001\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002\ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1",
  "  two   three\u00a0nbsp\u2003em\u3000ideographic \t\t tabs\n\n\n  newline\r\n\r\n end   ",
  "\u0915\u094d\u0937 \u0928\u092e\u0938\u094d\u0924\u0947 e\u0301 n\u0303 \ufb01 \u00df \u0130 \u01c5 \u2126",
  "a\u0000b\u0007c\u007f \u0085 \ufeff bom \u200b zero \u2028 line",
  "snake_case camelCase PascalCase SCREAMING_CASE kebab-case path/to/file.ext http://example.org/?q=1&r=%20#x",
  "$100 + \u20ac50 = \u00a3? 50% <= 2^10 ~ |x| `code` \u2264\u2260\u221e\u2211",
  "<|im_start|>user\nhello<|im_end|>\n<|endoftext|><s>x</s><unk><tool> <tool>{}</tool><|im_end",
  "It is a truth universally acknowledged, that a single man in possession of a good fortune",
];

/** Text of at least `length` characters out of all that trips tokenisers, joined at random. */
export function hardText(length: number, seed: number): string {
  const next = random(seed);
  const glue = ["", " ", "\n", "  ", "\n\n", "\t", ". "];
  let text = "";
  while (text.length < length) {
    const sample = Array.from(SAMPLES[next(SAMPLES.length)] ?? "");
    const begin = next(4) === 0 ? next(sample.length) : 0;
    text += sample.slice(begin).join("") + (glue[next(glue.length)] ?? "");
  }
  return text;
}
