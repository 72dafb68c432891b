// What OpenAI's API asks of a sampler beside llama.cpp's filters: bias, counted penalties, masks, likelihoods.

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { likelihoods, makeSampler, type Sampling } from "../../src/model/sampler.ts";

const GREEDY: Sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, seed: 0n };
const logits = fc
  .array(fc.double({ min: -30, max: 30, noNaN: true }), { minLength: 1, maxLength: 70 })
  .map((values) => Float32Array.from(values));

describe("a mask", () => {
  test("leaves the tokens whose bits are set, at any temperature", () => {
    fc.assert(
      fc.property(
        logits,
        fc.infiniteStream(fc.boolean()),
        fc.double({ min: 0, max: 3, noNaN: true }),
        (all, bits, t) => {
          const allowed = new Int32Array(Math.ceil(all.length / 32));
          const open = new Set<number>();
          for (let i = 0; i < all.length; i++) {
            if (i > 0 && bits.next().value !== true) continue;
            open.add(i);
            allowed[i >> 5]! |= 1 << (i & 31);
          }
          const before = all.slice();
          expect(open).toContain(makeSampler({ ...GREEDY, temperature: t, seed: 3n }).draw(all, allowed));
          expect(all).toEqual(before);
        },
      ),
    );
  });

  test("that leaves nothing is an error", () => {
    expect(() => makeSampler(GREEDY).draw(Float32Array.of(1, 2), new Int32Array(1))).toThrow(
      "the logit of token 0 is -Infinity",
    );
  });
});

describe("penalties", () => {
  const all = Float32Array.of(3, 2.5, 0);

  test("count what was drawn, and not the prompt", () => {
    const sampler = makeSampler({ ...GREEDY, frequencyPenalty: 0.3 });
    for (let i = 0; i < 10; i++) sampler.accept(0);
    const drawn = Array.from({ length: 6 }, () => {
      const token = sampler.draw(all);
      sampler.accept(token, "draw");
      return token;
    });
    // 3, 2.7, then 2.4 is less than 2.5; 2.2 less than 2.4; 2.1 less than 2.2.
    expect(drawn).toEqual([0, 0, 1, 0, 1, 0]);
  });

  test("of presence count a token once", () => {
    const sampler = makeSampler({ ...GREEDY, presencePenalty: 1 });
    const drawn = Array.from({ length: 4 }, () => {
      const token = sampler.draw(all);
      sampler.accept(token, "draw");
      return token;
    });
    expect(drawn).toEqual([0, 1, 0, 0]);
  });

  test("come after the bias, which is added", () => {
    const sampler = makeSampler({ ...GREEDY, logitBias: new Map([[2, 3.1]]), presencePenalty: 0.5 });
    expect(sampler.draw(all)).toBe(2);
    sampler.accept(2, "draw");
    expect(sampler.draw(all)).toBe(0);
  });
});

test("likelihoods are the logarithms of the softmax, the likeliest first, of equals the lower id", () => {
  fc.assert(
    fc.property(logits, fc.nat({ max: 20 }), fc.nat(), (all, count, any) => {
      const token = any % all.length;
      const exact = Array.from(all, (logit) => Math.exp(logit - 30));
      const total = exact.reduce((a, b) => a + b, 0);
      const { drawn, likeliest } = likelihoods(all, token, count);
      // Sums of up to 70 positive doubles, and one logarithm: some hundred roundings of 2^-53.
      const near = (logprob: number, id: number): void =>
        expect(Math.abs(logprob - Math.log(exact[id]! / total))).toBeLessThan(1e-12 * (1 + Math.abs(logprob)));
      expect(drawn.token).toBe(token);
      near(drawn.logprob, token);
      const ranked = Array.from(all, (_, i) => i).toSorted((a, b) => all[b]! - all[a]! || a - b);
      expect(likeliest.map((one) => one.token)).toEqual(ranked.slice(0, count));
      for (const one of likeliest) near(one.logprob, one.token);
    }),
  );
});
