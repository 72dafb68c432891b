// Many sequences over one session: each gets what it would get alone, in fair turns, and nothing of the others.

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { Chunk, Session } from "../../src/backend.ts";
import { load, type Model } from "../../src/load.ts";
import { generate } from "../../src/model/generate.ts";
import type { Constraint, SequenceEvent, SequenceOptions } from "../../src/model/sequence.ts";
import { makeSlots, QueueFull, type Slots, type Started } from "../../src/model/slots.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import { open } from "../../src/open.ts";
import { embeddedModel } from "../oracle/oracle.ts";

const VOCABULARY = 1000;

/** Token t is the text "t ", and none ends a generation. */
const numbers: Pick<Tokenizer, "ends" | "stream"> = {
  ends: new Set(),
  stream: () => ({ push: (token) => `${token} `, end: () => "" }),
};

/** A session whose next token follows from all tokens of its slot: their sum, and one. */
function summing(slots: number): Session & { readonly steps: (readonly Chunk[])[] } {
  const held = Array.from({ length: slots }, (): number[] => []);
  const steps: (readonly Chunk[])[] = [];
  return {
    steps,
    async step(batch) {
      steps.push(batch);
      await new Promise((resolve) => setImmediate(resolve));
      return batch.map(({ slot, pos, tokens, logits }) => {
        const own = held[slot]!;
        expect(pos).toBeLessThanOrEqual(own.length); // or a position would be read that nobody has written
        own.splice(pos, own.length, ...tokens);
        if (logits === "none") return new Float32Array(0);
        const out = new Float32Array(VOCABULARY);
        out[own.reduce((sum, token) => sum + token, 1) % VOCABULARY] = 1;
        return out;
      });
    },
    bytes: { weights: 0, cache: 0, scratch: 0 },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

const GREEDY: SequenceOptions = {
  sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, seed: 0n },
  maxTokens: 5,
  stop: [],
  context: 100_000,
};

interface Told {
  readonly text: string;
  readonly reused: number;
  readonly end: Extract<SequenceEvent, { kind: "end" }>;
}

async function collect(events: AsyncIterable<Started | SequenceEvent>): Promise<Told> {
  let [text, reused] = ["", 0];
  for await (const event of events) {
    if (event.kind === "start") reused = event.reused;
    if (event.kind === "token" || event.kind === "end") text += event.text;
    if (event.kind === "end") return { text, reused, end: event };
  }
  throw new Error("the events have no end");
}

/** The first tokens of what `summing` gives after a prompt. */
function expected(prompt: ArrayLike<number>, count: number): string {
  let sum = Array.from(prompt).reduce((a, b) => a + b, 1);
  let text = "";
  for (let i = 0; i < count; i++) {
    const token = sum % VOCABULARY;
    text += `${token} `;
    sum += token;
  }
  return text;
}

const prompts = fc.array(
  fc.record({
    prompt: fc.array(fc.nat({ max: 3 }), { minLength: 1, maxLength: 150 }),
    maxTokens: fc.integer({ min: 1, max: 20 }),
    afterTurns: fc.nat({ max: 30 }),
  }),
  { minLength: 1, maxLength: 12 },
);

describe("each request", () => {
  test("gets the text of its own prompt, whatever came before and beside it", async () => {
    await fc.assert(
      fc.asyncProperty(prompts, fc.integer({ min: 1, max: 4 }), async (requests, count) => {
        const slots = makeSlots(summing(count), numbers, { slots: count, queue: 100 });
        const told = requests.map(async ({ prompt, maxTokens, afterTurns }) => {
          for (let i = 0; i < afterTurns; i++) await new Promise((resolve) => setImmediate(resolve));
          return collect(slots.generate(Int32Array.from(prompt), { ...GREEDY, maxTokens }));
        });
        const texts = (await Promise.all(told)).map(({ text }) => text);
        expect(texts).toEqual(requests.map(({ prompt, maxTokens }) => expected(prompt, maxTokens)));
        expect([slots.busy, slots.waiting, slots.room]).toEqual([0, 0, count + 100]);
      }),
    );
  });

  test("that begins as one before it reads what is new alone", async () => {
    const session = summing(2);
    const slots = makeSlots(session, numbers, { slots: 2, queue: 0 });
    const shared = Array.from({ length: 512 }, (_, i) => i % 7);
    await collect(slots.generate(Int32Array.from(shared), GREEDY));
    const other = await collect(slots.generate(Int32Array.of(9, 9, 9), GREEDY));
    const again = [...shared, ...Array.from({ length: 16 }, () => 8)];
    const read = session.steps.length;
    const told = await collect(slots.generate(Int32Array.from(again), GREEDY));
    expect([other.reused, told.reused, told.text]).toEqual([0, 512, expected(again, 5)]);
    const tokens = session.steps.slice(read).map(([chunk]) => chunk!.tokens.length);
    expect(tokens).toEqual([16, 1, 1, 1, 1]);
    // The same once more: one token is run, for its logits.
    expect((await collect(slots.generate(Int32Array.from(again), GREEDY))).reused).toBe(527);
  });
});

describe("a step", () => {
  test("runs every token that is drawn, and of prompts no more than one alone is read by", async () => {
    const session = summing(4);
    const slots = makeSlots(session, numbers, { slots: 4, queue: 0 });
    const lengths = [1, 40, 400, 400];
    const all = lengths.map((length, i) =>
      collect(slots.generate(new Int32Array(length).fill(i), { ...GREEDY, maxTokens: 30 })),
    );
    await Promise.all(all);
    for (const batch of session.steps) {
      const read = batch.reduce((sum, { tokens }) => sum + (tokens.length > 1 ? tokens.length : 0), 0);
      expect(read).toBeLessThanOrEqual(64);
    }
    // The short ones are through with their prompts while the long ones share the rest alike.
    const firstOf = (slot: number): number =>
      session.steps.findIndex((batch) => batch.some((chunk) => chunk.slot === slot && chunk.logits === "last"));
    expect([firstOf(0), firstOf(1)]).toEqual([0, 2]);
    expect(firstOf(3) - firstOf(2)).toBeLessThanOrEqual(1);
    expect(firstOf(3)).toBeLessThanOrEqual(Math.ceil((1 + 40 + 800) / 60) + 1);
  });
});

describe("the end", () => {
  test("by a signal comes at the next step, and the slot goes to who waits", async () => {
    const session = summing(1);
    const slots = makeSlots(session, numbers, { slots: 1, queue: 1 });
    const controller = new AbortController();
    const long = collect(slots.generate(Int32Array.of(1), { ...GREEDY, maxTokens: 1e6, signal: controller.signal }));
    const next = collect(slots.generate(Int32Array.of(2), GREEDY));
    while (session.steps.length < 10) await new Promise((resolve) => setImmediate(resolve));
    controller.abort();
    const { end } = await long;
    expect(end.generated.reason).toBe("aborted");
    expect(end.generated.tokens.length).toBeGreaterThanOrEqual(9);
    expect((await next).text).toBe(expected([2], 5));
    expect(session.steps.filter(([chunk]) => chunk!.pos > 0 && chunk!.tokens[0] === 0)).toEqual([]);
  });

  test("by one who stops to listen frees the slot", async () => {
    const slots = makeSlots(summing(1), numbers, { slots: 1, queue: 1 });
    for await (const event of slots.generate(Int32Array.of(1), { ...GREEDY, maxTokens: 1e6 }))
      if (event.kind === "token") break;
    expect((await collect(slots.generate(Int32Array.of(2), GREEDY))).text).toBe(expected([2], 5));
  });

  test("by a signal reaches one who waits", async () => {
    const slots = makeSlots(summing(1), numbers, { slots: 1, queue: 1 });
    const first = collect(slots.generate(Int32Array.of(1), { ...GREEDY, maxTokens: 50 }));
    const waiting = collect(slots.generate(Int32Array.of(2), { ...GREEDY, signal: AbortSignal.abort() }));
    expect((await waiting).end.generated).toMatchObject({ reason: "aborted", firstTokenAtMs: null });
    expect((await first).end.generated.reason).toBe("length");
  });

  test("of the slots ends all, and no step comes after", async () => {
    const session = summing(2);
    const slots = makeSlots(session, numbers, { slots: 2, queue: 5 });
    const all = [1, 2, 3].map((token) => collect(slots.generate(Int32Array.of(token), { ...GREEDY, maxTokens: 1e6 })));
    while (session.steps.length < 3) await new Promise((resolve) => setImmediate(resolve));
    await slots[Symbol.asyncDispose]();
    const steps = session.steps.length;
    for (const { end } of await Promise.all(all)) expect(end.generated.reason).toBe("aborted");
    expect(() => slots.generate(Int32Array.of(1), GREEDY)).toThrow("the slots are closed; nothing more is generated");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(session.steps).toHaveLength(steps);
  });

  test("comes at once where as many wait as may", () => {
    const slots = makeSlots(summing(1), numbers, { slots: 1, queue: 1 });
    const begin = (): unknown => slots.generate(Int32Array.of(1), GREEDY);
    begin();
    begin();
    expect(slots.room).toBe(0);
    expect(begin).toThrow(new QueueFull("1 requests wait already; try again later"));
  });
});

describe("what fails", () => {
  const failing: Constraint = { allowed: () => Promise.reject(new Error("no grammar")), accept: () => undefined };

  test("hurts nobody else: a constraint, a prompt, logits that are no numbers", async () => {
    const session = summing(3);
    const step = session.step.bind(session);
    let isDamaged = true;
    session.step = async (batch) => {
      const results = await step(batch);
      return results.map((logits, i) =>
        isDamaged && batch[i]!.tokens.includes(999) ? logits.fill(Number.NaN) : logits,
      );
    };
    const slots = makeSlots(session, numbers, { slots: 3, queue: 9 });
    const good = collect(slots.generate(Int32Array.of(5), { ...GREEDY, maxTokens: 60 }));
    const bad = [
      collect(slots.generate(Int32Array.of(6), { ...GREEDY, constraint: failing })),
      collect(slots.generate(new Int32Array(0), GREEDY)),
      collect(slots.generate(Int32Array.of(999), GREEDY)),
    ];
    const reasons = (await Promise.allSettled(bad)).map((one) => (one.status === "rejected" ? one.reason.message : ""));
    expect(reasons).toEqual([
      "no grammar",
      "the prompt has no tokens; at least one is needed",
      "the logit of token 0 is NaN; the model file is damaged, or its weights are too large for its type",
    ]);
    expect((await good).text).toBe(expected([5], 60));
    // What the cache holds of the wrong numbers is not read again.
    isDamaged = false;
    const again = await collect(slots.generate(Int32Array.of(999, 1), GREEDY));
    expect([again.text, again.reused]).toEqual([expected([999, 1], 5), 0]);
  });

  test("in a step is an error of all that were in it, and the next request goes on", async () => {
    const session = summing(2);
    const step = session.step.bind(session);
    let fails = true;
    session.step = async (batch) => {
      if (fails) throw new Error("out of memory");
      return step(batch);
    };
    const slots = makeSlots(session, numbers, { slots: 2, queue: 0 });
    const both = [1, 2].map((token) => collect(slots.generate(Int32Array.of(token), GREEDY)));
    await expect(Promise.all(both)).rejects.toThrow("out of memory");
    await Promise.allSettled(both);
    fails = false;
    expect((await collect(slots.generate(Int32Array.of(3), GREEDY))).text).toBe(expected([3], 5));
  });

  test("or is slow, as a grammar that never answers, lets the others go on", async () => {
    const slots = makeSlots(summing(2), numbers, { slots: 2, queue: 0 });
    const never: Constraint = { allowed: () => new Promise(() => undefined), accept: () => undefined };
    void collect(slots.generate(Int32Array.of(1), { ...GREEDY, constraint: never }));
    expect((await collect(slots.generate(Int32Array.of(2), { ...GREEDY, maxTokens: 40 }))).text).toBe(
      expected([2], 40),
    );
  });
});

describe("on the CPU", () => {
  let model: Model;
  let session: Session;
  let tokenizer: Tokenizer;
  let close = (): Promise<void> => Promise.resolve();
  let slots: Slots;

  beforeAll(async () => {
    model = load(embeddedModel, { slots: 9 });
    tokenizer = await model.tokenizer();
    const backend = await open("cpu");
    if ("unavailable" in backend) throw new Error(backend.unavailable);
    session = await backend.prepare(model.plan, model.weights);
    slots = makeSlots(session, tokenizer, { slots: 9, queue: 9 });
    close = async () => {
      await slots[Symbol.asyncDispose]();
      await session[Symbol.asyncDispose]();
      await backend[Symbol.asyncDispose]();
      model.close();
    };
  });
  afterAll(() => close());

  const beginnings = [
    "Emma was not",
    "It is a truth",
    "Mr. Darcy",
    "The ball",
    "She had",
    "A letter",
    "In the",
    "Anne",
  ];

  test.each([
    ["greedy", { ...GREEDY.sampling }],
    ["seeded", { temperature: 1, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, seed: 7n }],
  ])("a request gives the same text alone and among eight others, %s", async (_, sampling) => {
    const options = { ...GREEDY, sampling, maxTokens: 48, context: model.plan.cache.context };
    const prompt = tokenizer.encode("Elizabeth looked at her sister, who was ", { special: false });
    let alone = "";
    for await (const event of generate(session, tokenizer, prompt, options))
      if (event.kind === "text") alone += event.text;
    expect(alone.length).toBeGreaterThan(50);
    const others = beginnings.map((text, i) => {
      const long = tokenizer.encode(`${text} `.repeat(1 + 5 * i), { special: false });
      return collect(slots.generate(long, { ...options, sampling: { ...sampling, temperature: 1, seed: BigInt(i) } }));
    });
    const among = await collect(slots.generate(prompt, options));
    expect(among.text).toBe(alone);
    await Promise.all(others);
    // And once more, on what the cache holds by now.
    const again = await collect(slots.generate(prompt, options));
    expect([again.text, again.reused]).toEqual([alone, prompt.length - 1]);
  });
});
