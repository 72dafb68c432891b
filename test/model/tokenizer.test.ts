// Tokenizers without an outside oracle: what comes back, what cannot be forged, what is refused, and how long it takes.

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { readGguf } from "../../src/model/gguf.ts";
import { mergePairs } from "../../src/model/merge.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import { embeddedModel, models, testWith } from "../oracle/oracle.ts";
import { load, program, source } from "./types.ts";
import { bytePairs, hardText, sentencePieces } from "./vocabularies.ts";
import { gguf } from "./write-gguf.ts";
import type { Pair } from "./write-gguf.ts";

const SEED = 20_260_726;
const none = (): never => {
  throw new Error("no such file");
};
const from = (pairs: readonly Pair[]): Promise<Tokenizer> =>
  loadTokenizer(readGguf(source(gguf({ pairs })), program, none).metadata);

const BPE = bytePairs("llama-bpe", hardText(4000, SEED), 200);
const SPM = sentencePieces(hardText(4000, SEED), 900, SEED);
const both: readonly (readonly [string, readonly Pair[]])[] = [
  ["byte-level BPE", BPE],
  ["SPM", SPM],
];
const anyText = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string({ unit: "grapheme" }),
  fc.nat(1000).map((n) => hardText(40, n + 1)),
);

describe.each(both)("%s", (_name, pairs) => {
  test("gives back any text, with its control tokens as text, and any lone surrogate as U+FFFD", async () => {
    const tokenizer = await from(pairs);
    fc.assert(
      fc.property(anyText, (text) => {
        // SPM puts a space before what follows a user-defined token, as llama.cpp does.
        fc.pre(!text.includes("<tool>"));
        const wellFormed = text.replaceAll(/[\ud800-\udfff]/gu, "\ufffd");
        expect(tokenizer.decode(tokenizer.encode(text, { special: false, bos: false }))).toBe(wellFormed);
      }),
      { seed: SEED, numRuns: 500 },
    );
  });

  test("has no control token in text that is encoded without, however it is merged", async () => {
    const tokenizer = await from(pairs);
    const control = tokenizer.pieces.flatMap((_piece, id) =>
      tokenizer.decode([id]) === tokenizer.decode([id], { special: true }) ? [] : [id],
    );
    expect(control).toHaveLength(3);
    for (const id of control) {
      const text = tokenizer.pieces[id] ?? "";
      expect([...tokenizer.encode(`a${text}b`, { special: true, bos: false })]).toContain(id);
      expect([...tokenizer.encode(`a${text}b`, { special: false, bos: false })]).not.toContain(id);
      expect([...tokenizer.encode(tokenizer.shield(`a${text}b`), { special: true, bos: false })]).not.toContain(id);
    }
  });

  test("encodes shielded text as it encodes it without control tokens", async () => {
    const tokenizer = await from(pairs);
    fc.assert(
      fc.property(anyText, (text) => {
        expect(tokenizer.encode(tokenizer.shield(text), { special: true, bos: false })).toEqual(
          tokenizer.encode(text.replaceAll("\ufdd0", "\ufffd"), { special: false, bos: false }),
        );
      }),
      { seed: SEED, numRuns: 500 },
    );
  });

  test("streams the text that it decodes at once, and never a part of a character", async () => {
    const tokenizer = await from(pairs);
    const tokens = tokenizer.encode(hardText(500, SEED), { special: false, bos: false });
    const stream = tokenizer.stream();
    const parts = [...tokens].map((token) => stream.push(token));
    expect(parts.join("") + stream.end()).toBe(
      tokenizer.decode(Int32Array.from([...tokenizer.encode("a", { special: false, bos: false }), ...tokens])).slice(1),
    );
    expect(parts.join("")).not.toContain("\ufffd");
    const cut = tokenizer.stream();
    const [first = 0] = tokenizer.encode("\u{1f600}", { special: false, bos: false }).slice(-4);
    expect([cut.push(first), cut.end()]).toEqual(["", "\ufffd"]);
  });

  test("takes time in proportion to a text without spaces, of any character", async () => {
    const tokenizer = await from(pairs);
    for (const character of ["a", " ", "7", "\u4e2d", "\u{1f600}", "\ud800", "\0"]) {
      const text = character.repeat(200_000 / character.length);
      const begin = performance.now();
      const tokens = tokenizer.encode(text, { special: true, bos: false });
      expect({ character, isFast: performance.now() - begin < 5000 }).toEqual({ character, isFast: true });
      expect(tokenizer.decode(tokens) === text.replaceAll(/[\ud800-\udfff]/gu, "\ufffd")).toBe(true);
    }
  });
});

test("merging finds what looking for the best pair anew each time finds", () => {
  const words = fc.array(fc.constantFrom("a", "b", "c"), { minLength: 1, maxLength: 40 });
  // Ranks by a pair's text, with many that are equal, as SPM scores may be.
  const tables = fc.dictionary(
    fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 2, maxLength: 5 }),
    fc.nat(3),
  );
  fc.assert(
    fc.property(words, tables, (word, table) => {
      const rank = (left: string, right: string): number | undefined => table[left + right];
      const slow: string[] = [...word];
      for (;;) {
        let best = -1;
        for (let i = 0; i + 1 < slow.length; i++) {
          const found = rank(slow[i] ?? "", slow[i + 1] ?? "");
          const lowest = best < 0 ? Infinity : (rank(slow[best] ?? "", slow[best + 1] ?? "") ?? Infinity);
          if (found !== undefined && found < lowest) best = i;
        }
        if (best < 0) break;
        slow.splice(best, 2, `${slow[best]}${slow[best + 1]}`);
      }
      expect(mergePairs([...word], rank)).toEqual(slow);
    }),
    { seed: SEED, numRuns: 1000 },
  );
});

describe("BOS and end tokens", () => {
  test("are those of the file", async () => {
    const tokenizer = await from([...BPE, ["tokenizer.ggml.add_bos_token", "bool", false]]);
    const bos = tokenizer.bos ?? -1;
    expect(tokenizer.pieces[bos]).toBe("<|endoftext|>");
    expect(tokenizer.addBos).toBe(false);
    expect([...tokenizer.encode("", { special: false })]).toEqual([]);
    expect([...tokenizer.encode("", { special: false, bos: true })]).toEqual([bos]);
    expect([...(await from(BPE)).encode("", { special: false })]).toEqual([bos]);
    expect([...tokenizer.ends].map((id) => tokenizer.pieces[id])).toEqual(["<|im_end|>", "<|endoftext|>"]);
    expect(tokenizer.decode([bos])).toBe("");
    expect(tokenizer.decode([bos], { special: true })).toBe("<|endoftext|>");
  });

  test("an id outside of the vocabulary cannot be decoded", async () => {
    const tokenizer = await from(SPM);
    expect(() => tokenizer.decode([tokenizer.pieces.length])).toThrow(
      new RangeError(`token ${tokenizer.pieces.length}: the vocabulary has ids 0 to ${tokenizer.pieces.length - 1}`),
    );
  });
});

describe("a damaged vocabulary is refused in words", () => {
  const change = (pairs: readonly Pair[], ...changes: readonly Pair[]): readonly Pair[] => [
    ...pairs.filter(([key]) => !changes.some(([changed]) => changed === key)),
    ...changes,
  ];
  const without = (pairs: readonly Pair[], gone: string): readonly Pair[] => pairs.filter(([key]) => key !== gone);
  const small = change(
    BPE,
    ["tokenizer.ggml.tokens", "string", ["a", "b", "ab", "<|im_end|>"]],
    ["tokenizer.ggml.token_type", "i32", [1, 1, 1, 3]],
    ["tokenizer.ggml.merges", "string", ["a b"]],
    ["tokenizer.ggml.bos_token_id", "u32", 3],
    ["tokenizer.ggml.eos_token_id", "u32", 3],
  );

  test.each<[string, readonly Pair[], string]>([
    [
      "no vocabulary",
      without(small, "tokenizer.ggml.tokens"),
      "tokenizer.ggml.tokens: absent; an array of strings is needed",
    ],
    [
      "no tokens",
      change(small, ["tokenizer.ggml.tokens", "string", []]),
      "tokenizer.ggml.tokens: no tokens; at least one is needed",
    ],
    [
      "a token twice",
      change(small, ["tokenizer.ggml.tokens", "string", ["a", "b", "a", "c"]]),
      'tokenizer.ggml.tokens[2]: "a"; each token is given once, and 0 is the same',
    ],
    [
      "a control token twice",
      change(small, ["tokenizer.ggml.tokens", "string", ["a", "b", "c", "a"]]),
      'tokenizer.ggml.tokens[3]: "a"; each token is given once, and 0 is the same',
    ],
    [
      "types missing",
      change(small, ["tokenizer.ggml.token_type", "i32", [1, 1]]),
      "tokenizer.ggml.token_type: 2 types; one for each of the 4 tokens is needed",
    ],
    [
      "a type unknown",
      change(small, ["tokenizer.ggml.token_type", "i32", [1, 1, 7, 3]]),
      "tokenizer.ggml.token_type[2]: 7; types are 1 to 6, and 0 for undefined",
    ],
    [
      "bos outside",
      change(small, ["tokenizer.ggml.bos_token_id", "u32", 4]),
      "tokenizer.ggml.bos_token_id: 4; ids are 0 to 3",
    ],
    [
      "eos outside",
      change(small, ["tokenizer.ggml.eos_token_id", "i32", -2]),
      "tokenizer.ggml.eos_token_id: -2; ids are 0 to 3",
    ],
    [
      "no merges",
      without(small, "tokenizer.ggml.merges"),
      "tokenizer.ggml.merges: absent; an array of strings is needed",
    ],
    [
      "a merge without a space",
      change(small, ["tokenizer.ggml.merges", "string", ["a b", "ab"]]),
      'tokenizer.ggml.merges[1]: "ab"; a merge is two parts with a space between',
    ],
    [
      "an unknown kind",
      change(small, ["tokenizer.ggml.model", "string", "rwkv"]),
      'tokenizer.ggml.model: "rwkv"; "gpt2" (byte-level BPE) and "llama" (SPM) can be read',
    ],
    [
      "scores missing",
      change(SPM, ["tokenizer.ggml.scores", "f32", [1]]),
      "tokenizer.ggml.scores: 1 scores; one for each of the 901 tokens is needed",
    ],
  ])("%s", async (_name, pairs, message) => {
    await expect(from(pairs)).rejects.toThrow(`m.gguf: ${message}`);
  });

  test("an unknown way to cut words, with those that are known", async () => {
    await expect(from(change(small, ["tokenizer.ggml.pre", "string", "x"]))).rejects.toThrow(
      /^m\.gguf: tokenizer\.ggml\.pre: "x"; known are default, gpt-2, .*qwen2.*$/,
    );
  });

  test("but empty tokens, merges that lead nowhere, and bytes without a token are lived with", async () => {
    const tokenizer = await from(
      change(
        small,
        ["tokenizer.ggml.tokens", "string", ["a", "b", "", "", "ab", "<|im_end|>"]],
        ["tokenizer.ggml.token_type", "i32", [1, 1, 1, 1, 1, 3]],
        ["tokenizer.ggml.merges", "string", ["ab a", "a b"]],
      ),
    );
    expect([...tokenizer.encode("abaz", { special: false, bos: false })]).toEqual([4, 0]);
  });
});

test("the embedded model's vocabulary is ready in a moment", async () => {
  const { metadata } = readGguf(load(embeddedModel), program, none);
  const tokenizer = await loadTokenizer(metadata);
  expect(tokenizer.pieces).toHaveLength(2048);
  expect([tokenizer.bos, tokenizer.eos, tokenizer.addBos]).toEqual([0, 0, true]);
});

testWith(models(), "SmolLM2's vocabulary has all its pieces", async ({ smollm2 }) => {
  const { metadata } = readGguf(load(smollm2), program, none);
  const { pieces } = await loadTokenizer(metadata);
  // oxlint-disable-next-line vitest/no-standalone-expect -- testWith is a test
  expect(pieces).toHaveLength(49_152);
});
