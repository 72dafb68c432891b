// Perplexity against its definition on made-up logits, and against llama.cpp's probabilities on a real model.

import fc from "fast-check";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

import type { Session, Unavailable } from "../../src/backend.ts";
import { load } from "../../src/load.ts";
import { logProbability, perplexity } from "../../src/model/perplexity.ts";
import { open } from "../../src/open.ts";
import { embeddedModel, type Llama, llama, models, testWith } from "../oracle/oracle.ts";

const VOCABULARY = 7;

/** Logits that depend on position, token and the chunk's first token, so that every mistake in them shows. */
function logitsAt(pos: number, token: number, first: number): Float32Array {
  return new Float32Array(VOCABULARY).map((_, i) => 3 * Math.sin(1 + pos * 5 + token * 11 + first * 3 + i * 17));
}

/** A session that remembers the first token of the chunk, as a cache does. */
function madeUp(): Session {
  let first = 0;
  return {
    async step([chunk]) {
      if (chunk === undefined) throw new Error("no chunk");
      if (chunk.pos === 0) first = chunk.tokens[0]!;
      if (chunk.logits === "none") return [new Float32Array(0)];
      const rows = [...chunk.tokens].flatMap((token, i) => [...logitsAt(chunk.pos + i, token, first)]);
      return [Float32Array.from(rows)];
    },
    bytes: { weights: 0, cache: 0, scratch: 0 },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

test("is exp of the mean over the second halves of whole chunks, each with BOS in front", async () => {
  const token = fc.integer({ min: 0, max: VOCABULARY - 1 });
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 4, max: 150 }),
      fc.option(token),
      fc.array(token, { minLength: 8, maxLength: 700 }),
      async (context, bos, list) => {
        fc.pre(list.length >= 2 * context);
        const scores: number[] = [];
        for (let begin = 0; begin + context <= list.length; begin += context) {
          const chunk = list.slice(begin, begin + context);
          if (bos !== null) chunk[0] = bos;
          for (let pos = Math.floor(context / 2); pos < context - 1; pos++) {
            const weights = [...logitsAt(pos, chunk[pos]!, chunk[0]!)].map(Math.exp);
            scores.push(-Math.log(weights[chunk[pos + 1]!]! / weights.reduce((a, b) => a + b)));
          }
        }
        const mean = scores.reduce((a, b) => a + b) / scores.length;
        const variance = scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length;
        const result = await perplexity(madeUp(), Int32Array.from(list), { context, bos });
        expect(result).toMatchObject({ chunks: Math.floor(list.length / context), scored: scores.length });
        expect(result?.perplexity).toBeCloseTo(Math.exp(mean), 9);
        const error = scores.length < 2 ? 0 : Math.exp(mean) * Math.sqrt(variance / (scores.length - 1));
        expect(result?.error).toBeCloseTo(error, 5);
      },
    ),
  );
});

test("of a text shorter than two chunks is an error that says how many tokens are needed", async () => {
  await expect(perplexity(madeUp(), new Int32Array(19), { context: 10, bos: null })).rejects.toThrow(
    new RangeError("the text has 19 tokens; two chunks of 10 need 20: use a longer text or a smaller context"),
  );
});

test("is null once the signal aborts, even while a step hangs", async () => {
  const controller = new AbortController();
  const hanging = { ...madeUp(), step: () => new Promise<never>(() => undefined) };
  const pending = perplexity(hanging, new Int32Array(20), { context: 10, bos: null, signal: controller.signal });
  controller.abort();
  expect(await pending).toBeNull();
});

test("progress ends with all tokens but the last, and the estimate becomes the result", async () => {
  const seen: unknown[][] = [];
  const tokens = Int32Array.from({ length: 400 }, (_, i) => i % VOCABULARY);
  const progress = (...args: unknown[]): void => void seen.push(args);
  const result = await perplexity(madeUp(), tokens, { context: 200, bos: null, progress });
  expect(seen[0]).toEqual([64, 400, null]);
  expect(seen.at(-1)).toEqual([399, 400, result]);
});

test("the log softmax neither overflows nor underflows", () => {
  expect(logProbability(Float32Array.of(1000, 1000), 0)).toBeCloseTo(-Math.LN2, 12);
  expect(logProbability(Float32Array.of(-1000, 0), 0)).toBe(-1000);
  expect(() => logProbability(Float32Array.of(0, NaN), 0)).toThrow(
    expect.objectContaining({
      name: "LogitsError",
      message: "a logit is NaN; the model file is damaged, or its weights are too large for its type",
    }),
  );
});

function llamaAndText(): { readonly llama: Llama; readonly heldout: string } | Unavailable {
  const cpp = llama();
  const files = models();
  if ("unavailable" in cpp) return cpp;
  return "unavailable" in files ? files : { llama: cpp, heldout: files.heldout };
}

testWith(llamaAndText(), "equals llama.cpp's probabilities in float64 arithmetic", async ({ llama: cpp, heldout }) => {
  const context = 64;
  const model = load(embeddedModel, { context });
  const tokenizer = await model.tokenizer();
  const text = readFileSync(heldout, "utf8").slice(0, 3000);
  const tokens = tokenizer.encode(text, { special: false }).subarray(0, 2 * context);
  const backend = await open("reference");
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  await using session = await backend.prepare(model.plan, model.weights);
  const result = await perplexity(session, tokens, { context, bos: tokenizer.bos });

  let sum = 0;
  let count = 0;
  for (let begin = 0; begin < 2 * context; begin += context) {
    const chunk = [tokenizer.bos ?? 0, ...tokens.subarray(begin + 1, begin + context)];
    const rows = cpp.probabilities(embeddedModel, chunk, tokenizer.pieces.length);
    for (let pos = context / 2; pos < context - 1; pos++) {
      sum -= Math.log(rows[pos]![chunk[pos + 1]!] ?? Number.NaN);
      count++;
    }
  }
  expect(result?.scored).toBe(count);
  // llama.cpp rounds activations to 8 bits: differences of some 1e-2 a token, which largely cancel in the mean.
  expect(Math.abs((result?.nll ?? 0) - sum / count)).toBeLessThan(0.02);
  model.close();
});
