// The sampler against its definition, written out the slow way: sort everything, cut, normalise.

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { chooseFrom, makeSampler, type Sampling } from "../../src/model/sampler.ts";

const OFF: Sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, seed: 1n };

/** Tokens from the likeliest down, equal ones by id. */
function ranking(logits: Float32Array): number[] {
  return [...logits.keys()].toSorted((a, b) => logits[b]! - logits[a]! || a - b);
}

/** Softmax over some tokens at temperature 1. */
function softmax(logits: Float32Array, tokens: readonly number[]): number[] {
  const top = Math.max(...tokens.map((token) => logits[token]!));
  const weights = tokens.map((token) => Math.exp(logits[token]! - top));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

function ascending(tokens: readonly number[]): number[] {
  return tokens.toSorted((a, b) => a - b);
}

// Few distinct values, so that ties are common; a spread that fills many classes; and masked tokens.
const someLogits: fc.Arbitrary<Float32Array> = fc
  .array(
    fc.oneof(
      fc.integer({ min: -8, max: 8 }).map((x) => x / 2),
      fc.float({ min: -90, max: 90, noNaN: true }),
      fc.constant(-Infinity),
    ),
    { minLength: 1, maxLength: 300 },
  )
  .map((list) => Float32Array.from(list))
  .filter((logits) => logits.some((logit) => logit !== -Infinity));

describe("filters", () => {
  test("top-k keeps the k largest logits, the first of equals", () => {
    fc.assert(
      fc.property(someLogits, fc.integer({ min: 1, max: 320 }), (logits, topK) => {
        const { tokens } = chooseFrom(logits, { ...OFF, topK }, []);
        expect([...tokens]).toEqual(ascending(ranking(logits).slice(0, topK)));
      }),
    );
  });

  test("top-p keeps the fewest likeliest tokens whose probabilities reach it", () => {
    fc.assert(
      fc.property(someLogits, fc.double({ min: 0, max: 0.999, noNaN: true }), (logits, topP) => {
        const kept = [...chooseFrom(logits, { ...OFF, topP }, []).tokens];
        const ranked = ranking(logits);
        expect(kept).toEqual(ascending(ranked.slice(0, kept.length)));
        const sums = softmax(logits, ranked).slice(0, kept.length);
        const all = sums.reduce((a, b) => a + b, 0);
        // At most 300 additions of numbers up to 1, in two orders: 600 roundings.
        const rounding = 600 * Number.EPSILON;
        expect(all).toBeGreaterThanOrEqual(topP - rounding);
        if (kept.length > 1) expect(all - sums.at(-1)!).toBeLessThan(topP + rounding);
      }),
    );
  });

  test("min-p keeps the tokens of at least that share of the likeliest", () => {
    fc.assert(
      fc.property(someLogits, fc.double({ min: 1e-6, max: 1, noNaN: true }), (logits, minP) => {
        const top = Math.max(...logits);
        const expected = [...logits.keys()].filter((token) => logits[token]! >= top + Math.log(minP));
        expect([...chooseFrom(logits, { ...OFF, minP }, []).tokens]).toEqual(expected);
      }),
    );
  });

  test("top-k comes before top-p, which sees only what top-k left", () => {
    // Probabilities .4 .3 .2 .1; of the first two, the first has 4/7.
    const logits = Float32Array.from([0.4, 0.3, 0.2, 0.1], Math.log);
    expect([...chooseFrom(logits, { ...OFF, topK: 2, topP: 0.56 }, []).tokens]).toEqual([0]);
    expect([...chooseFrom(logits, { ...OFF, topP: 0.56 }, []).tokens]).toEqual([0, 1]);
  });

  test("filters look at probabilities before the temperature", () => {
    const logits = Float32Array.from([0.4, 0.3, 0.2, 0.1], Math.log);
    for (const temperature of [0.01, 1, 100]) {
      expect([...chooseFrom(logits, { ...OFF, temperature, topP: 0.65 }, []).tokens]).toEqual([0, 1]);
      expect([...chooseFrom(logits, { ...OFF, temperature, minP: 0.45 }, []).tokens]).toEqual([0, 1, 2]);
    }
  });

  test("without filters every token is left, with its softmax", () => {
    fc.assert(
      fc.property(someLogits, (logits) => {
        const { tokens, probabilities } = chooseFrom(logits, OFF, []);
        expect([...tokens]).toEqual([...logits.keys()]);
        const expected = softmax(logits, [...tokens]);
        probabilities.forEach((p, i) => expect(Math.abs(p - expected[i]!)).toBeLessThan(300 * Number.EPSILON));
      }),
    );
  });
});

describe("repeat penalty", () => {
  test("divides positive logits of the last tokens and multiplies the others, once each", () => {
    const logits = Float32Array.of(2, -1, 0, 3, -0.5);
    const penalised = Float32Array.of(1, -2, 0, 3, -0.5);
    const { probabilities } = chooseFrom(logits, { ...OFF, repeatPenalty: 2 }, [0, 1, 2, 0, 0]);
    expect([...probabilities]).toEqual([...chooseFrom(penalised, OFF, []).probabilities]);
    expect([...logits]).toEqual([2, -1, 0, 3, -0.5]);
  });

  test("holds for greedy choice too, and forgets after the window", () => {
    const sampler = makeSampler({ ...OFF, temperature: 0, repeatPenalty: 2 });
    const logits = Float32Array.of(3, 2);
    expect(sampler.draw(logits)).toBe(0);
    sampler.accept(0);
    expect(sampler.draw(logits)).toBe(1);
    for (let i = 1; i < 64; i++) sampler.accept(1); // llama.cpp's window
    expect(sampler.draw(Float32Array.of(3, 2.5))).toBe(0); // 1.5 against 1.25
    expect(sampler.draw(Float32Array.of(3, 3.5))).toBe(1); // 1.5 against 1.75
    sampler.accept(1);
    expect(sampler.draw(Float32Array.of(3, 3.5))).toBe(0); // 3 against 1.75: 64 tokens since
  });
});

describe("draws", () => {
  test("temperature 0 takes the largest logit, the first of equals", () => {
    fc.assert(
      fc.property(someLogits, (logits) => {
        expect(makeSampler({ ...OFF, temperature: 0 }).draw(logits)).toBe(ranking(logits)[0]);
      }),
    );
  });

  test("follow the distribution, by the chi-square of many draws with fixed seeds", () => {
    const logits = Float32Array.of(1, 0.5, 2, -1, 0, 1.5, -0.5, 3);
    const draws = 20_000;
    for (const temperature of [0.5, 1, 1.7]) {
      for (const seed of [1n, 2n, 3n, 2n ** 64n - 1n]) {
        const sampling = { ...OFF, temperature, seed };
        const sampler = makeSampler(sampling);
        const counts = new Float64Array(logits.length);
        for (let i = 0; i < draws; i++) counts[sampler.draw(logits)]! += 1;
        const { probabilities } = chooseFrom(logits, sampling, []);
        let chiSquare = 0;
        probabilities.forEach((p, token) => (chiSquare += (counts[token]! - draws * p) ** 2 / (draws * p)));
        // 7 degrees of freedom: exceeded by chance once in a million (chi-square quantile 0.999999 is 40.5).
        expect(chiSquare, `seed ${seed}, temperature ${temperature}`).toBeLessThan(40.5);
        expect(chiSquare).toBeGreaterThan(0.05); // less than one in a million is as suspicious
      }
    }
  });

  test("are the same for the same seed and others for another", () => {
    const logits = new Float32Array(1000).map((_, i) => Math.sin(i));
    const run = (seed: bigint): number[] => {
      const sampler = makeSampler({ ...OFF, seed });
      return Array.from({ length: 20 }, () => sampler.draw(logits));
    };
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (seed) => {
        expect(run(seed)).toEqual(run(seed));
        expect(run(seed)).not.toEqual(run(seed ^ (1n << 63n)));
        expect(run(seed)).not.toEqual(run(seed ^ 1n));
      }),
      { numRuns: 50 },
    );
  });

  test("of seed 42 are these for ever", () => {
    const sampler = makeSampler({ ...OFF, seed: 42n });
    const even = new Float32Array(1000);
    expect(Array.from({ length: 8 }, () => sampler.draw(even))).toMatchInlineSnapshot(`
      [
        615,
        380,
        774,
        996,
        626,
        581,
        234,
        333,
      ]
    `);
  });

  test("never give a masked token", () => {
    const logits = Float32Array.of(-Infinity, 0, -Infinity, 0, -Infinity);
    const sampler = makeSampler(OFF);
    const drawn = new Set(Array.from({ length: 200 }, () => sampler.draw(logits)));
    expect(ascending([...drawn])).toEqual([1, 3]);
  });
});

describe("damaged logits", () => {
  test.each([
    [
      Float32Array.of(0, NaN, 1),
      "the logit of token 1 is NaN; the model file is damaged, or its weights are too large for its type",
    ],
    [
      Float32Array.of(0, 1, Infinity),
      "the logit of token 2 is Infinity; the model file is damaged, or its weights are too large for its type",
    ],
    [
      Float32Array.of(-Infinity, -Infinity),
      "the logit of token 0 is -Infinity; the model file is damaged, or its weights are too large for its type",
    ],
  ])("%j are an error at any temperature", (logits, message) => {
    for (const temperature of [0, 1])
      expect(() => makeSampler({ ...OFF, temperature }).draw(logits)).toThrow(
        expect.objectContaining({ name: "LogitsError", message }),
      );
  });
});
