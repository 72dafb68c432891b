// Token ids against llama.cpp: the two models that there are, and made-up vocabularies of every kind.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect } from "vitest";

import { openFile } from "../../src/files.ts";
import { readGguf } from "../../src/model/gguf.ts";
import { PRE_TOKENIZERS } from "../../src/model/pretokenizer.ts";
import { loadTokenizer } from "../../src/model/tokenizer.ts";
import { embeddedModel, llama, models, testWith } from "../oracle/oracle.ts";
import type { Llama } from "../oracle/oracle.ts";
import { program } from "./types.ts";
import { bytePairs, hardText, sentencePieces } from "./vocabularies.ts";
import { gguf } from "./write-gguf.ts";
import type { Pair } from "./write-gguf.ts";

/** The peer and, where it is there, the real model. */
const oracle = llama();
const files = models();
const SEED = 20_260_726;
/** One long text, and short ones so that a difference is seen where it is. */
const texts = [hardText(24_000, SEED), ...Array.from({ length: 40 }, (_, i) => hardText(60, SEED + i))];

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "lutra-tokenizer-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** Encodes the texts in every way with both, for each model. */
async function compare(peer: Llama, paths: readonly string[]): Promise<void> {
  for (const [i, theirs] of peer.vocabularies(paths, texts).entries()) {
    const path = paths[i] ?? "";
    const file = readGguf(openFile(path), program, openFile);
    const tokenizer = await loadTokenizer(file.metadata);
    file.close();
    for (const [j, text] of texts.entries()) {
      const where = { path, text: text.slice(0, 200) };
      const plain = [...tokenizer.encode(text, { special: false, bos: false })];
      const special = [...tokenizer.encode(text, { special: true, bos: false })];
      expect({ ...where, plain, special }).toEqual({ ...where, plain: theirs.plain[j], special: theirs.special[j] });
    }
    const ends = [...tokenizer.ends].toSorted((a, b) => a - b);
    expect({ path, ends }).toEqual({ path, ends: theirs.ends });
  }
}

describe("token ids and end tokens equal llama.cpp's", () => {
  testWith(oracle, "in the embedded model", (peer) => compare(peer, [embeddedModel]));

  testWith("unavailable" in oracle ? oracle : files, "in SmolLM2-135M", async ({ smollm2 }) => {
    if (!("unavailable" in oracle)) await compare(oracle, [smollm2]);
  });

  testWith(oracle, "in SPM vocabularies of random pieces and scores", async (peer) => {
    const paths = [1, 2, 3].map((seed) => {
      const path = join(folder, `spm-${seed}.gguf`);
      writeFileSync(path, gguf({ pairs: sentencePieces(hardText(6000, seed), 1500, seed) }));
      return path;
    });
    await compare(peer, paths);
  });

  testWith(oracle, "for every way to cut words that is known", async (peer) => {
    const vocabulary = bytePairs("", hardText(4000, SEED), 300);
    const paths = [...PRE_TOKENIZERS.keys()].map((pre) => {
      const path = join(folder, `${pre}.gguf`);
      const pairs = vocabulary.map((pair): Pair =>
        pair[0] === "tokenizer.ggml.pre" ? [pair[0], "string", pre] : pair,
      );
      writeFileSync(path, gguf({ pairs }));
      return path;
    });
    await compare(peer, paths);
  });
});
