// The loop over tokens on a session that says what the test wants: text, stop strings, ends, limits, Ctrl-C.

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import type { Chunk, Session } from "../../src/backend.ts";
import { generate, type GenerateEvent, type GenerateOptions } from "../../src/model/generate.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";

const VOCABULARY = 257;
/** Token 256 ends a generation; every other is one byte. */
const END = 256;

/** A tokenizer of bytes. */
const bytewise: Pick<Tokenizer, "ends" | "stream"> = {
  ends: new Set([END]),
  stream() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (token) => decoder.decode(Uint8Array.of(token), { stream: true }),
      end: () => decoder.decode(),
    };
  },
};

/** A tokenizer whose token i is the i-th piece. */
function piecewise(pieces: readonly string[]): Pick<Tokenizer, "ends" | "stream"> {
  return { ends: new Set([END]), stream: () => ({ push: (token) => pieces[token] ?? "", end: () => "" }) };
}

/** A session whose logits make the given tokens the likeliest, one after another, and then END. */
function saying(tokens: ArrayLike<number>, steps: Chunk[] = []): Session {
  let next = 0;
  return {
    async step(batch) {
      steps.push(...batch);
      await new Promise((resolve) => setImmediate(resolve));
      return batch.map((chunk) => {
        if (chunk.logits === "none") return new Float32Array(0);
        const logits = new Float32Array(VOCABULARY);
        logits[tokens[next++] ?? END] = 1;
        return logits;
      });
    },
    bytes: { weights: 0, cache: 0, scratch: 0 },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

const GREEDY: GenerateOptions = {
  sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, seed: 0n },
  maxTokens: 10_000,
  stop: [],
  context: 100_000,
};

async function collect(
  session: Session,
  tokenizer: Pick<Tokenizer, "ends" | "stream">,
  options: Partial<GenerateOptions> = {},
  prompt: Int32Array = Int32Array.of(1),
): Promise<{ texts: string[]; text: string; end: Extract<GenerateEvent, { kind: "end" }>; events: GenerateEvent[] }> {
  const events: GenerateEvent[] = [];
  for await (const event of generate(session, tokenizer, prompt, { ...GREEDY, ...options })) events.push(event);
  const texts = events.flatMap((event) => (event.kind === "text" ? [event.text] : []));
  const end = events.at(-1);
  if (end?.kind !== "end") throw new Error("the last event is no end");
  return { texts, text: texts.join(""), end, events };
}

describe("text", () => {
  test("comes whole, and no piece of it splits a character", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "binary", maxLength: 40 }), async (text) => {
        const { texts, text: got } = await collect(saying(new TextEncoder().encode(text)), bytewise);
        expect(got).toBe(text);
        for (const piece of texts) expect(piece).not.toMatch(/\p{Surrogate}/u);
        expect(texts).not.toContain("");
      }),
    );
  });

  test("ends with U+FFFD where the last character is cut off", async () => {
    const { text } = await collect(saying(new TextEncoder().encode("aé").subarray(0, 2)), bytewise);
    expect(text).toBe("a\ufffd");
  });
});

describe("stop strings", () => {
  /** What the definition says: the text before the stop string that is complete first, or all of it. */
  function expected(text: string, stops: readonly string[]): { text: string; isStopped: boolean } {
    for (let end = 1; end <= text.length; end++) {
      const found = stops.filter((stop) => text.slice(0, end).endsWith(stop));
      if (found.length > 0) {
        const longest = Math.max(...found.map((stop) => stop.length));
        return { text: text.slice(0, end - longest), isStopped: true };
      }
    }
    return { text, isStopped: false };
  }

  // Few letters, so that stop strings, their beginnings and their overlaps are common.
  const letters = fc.string({ unit: fc.constantFrom("a", "b", "é"), minLength: 1, maxLength: 4 });

  test("end the text, however tokens cut it, and are never shown in part", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(letters, { maxLength: 12 }),
        fc.array(letters, { maxLength: 3 }),
        async (pieces, stop) => {
          const tokens = pieces.map((_, i) => i);
          const { text, end } = await collect(saying(tokens), piecewise(pieces), { stop });
          const wanted = expected(pieces.join(""), stop);
          expect(text).toBe(wanted.text);
          expect(end.reason).toBe(wanted.isStopped ? "stop" : "end");
        },
      ),
      { numRuns: 500 },
    );
  });

  test("hold text back only while they may still come", async () => {
    const pieces = ["one ", "tw", "o", " thr", "e!", "three"];
    const { texts } = await collect(saying([0, 1, 2, 3, 4, 5]), piecewise(pieces), { stop: ["three"] });
    expect(texts).toEqual(["one ", "tw", "o", " ", "thre!"]);
  });

  test("that are empty are an error", async () => {
    await expect(collect(saying([]), bytewise, { stop: [""] })).rejects.toThrow(
      new RangeError("a stop string is empty; it needs at least one character"),
    );
  });
});

describe("the end", () => {
  const abc = Uint8Array.from("abcdef", (c) => c.charCodeAt(0));

  test("comes with an end-of-generation token, which is no token of the text", async () => {
    const { end } = await collect(saying(abc), bytewise);
    expect(end).toMatchObject({ reason: "end", isContextFull: false, promptTokens: 1, tokens: Int32Array.from(abc) });
  });

  test("comes after maxTokens, without a step for the token after", async () => {
    const steps: Chunk[] = [];
    const { text, end } = await collect(saying(abc, steps), bytewise, { maxTokens: 3 });
    expect(text).toBe("abc");
    expect(end).toMatchObject({ reason: "length", isContextFull: false });
    expect(steps.map(({ pos }) => pos)).toEqual([0, 1, 2]);
  });

  test("comes when the context is full, after the token that needs no position any more", async () => {
    const steps: Chunk[] = [];
    const { text, end } = await collect(saying(abc, steps), bytewise, { context: 3 }, Int32Array.of(1, 2));
    expect(text).toBe("ab");
    expect(end).toMatchObject({ reason: "length", isContextFull: true });
    expect(steps.map(({ pos }) => pos)).toEqual([0, 2]);
  });

  test("is at once when the signal aborts, even while a step hangs", async () => {
    const controller = new AbortController();
    const hanging = { ...saying([]), step: () => new Promise<never>(() => undefined) };
    const pending = collect(hanging, bytewise, { signal: controller.signal });
    controller.abort();
    const { events } = await pending;
    expect(events).toEqual([
      {
        kind: "end",
        reason: "aborted",
        isContextFull: false,
        tokens: new Int32Array(0),
        promptTokens: 1,
        prefillTps: null,
        decodeTps: null,
        firstTokenAtMs: null,
      },
    ]);
  });

  test("keeps the text so far when the signal aborts between tokens", async () => {
    const controller = new AbortController();
    const texts: string[] = [];
    const options = { ...GREEDY, signal: controller.signal };
    for await (const event of generate(saying(abc), bytewise, Int32Array.of(1), options)) {
      if (event.kind === "text") texts.push(event.text);
      if (event.kind === "end") expect(event).toMatchObject({ reason: "aborted", tokens: Int32Array.of(97, 98) });
      if (texts.length === 2) controller.abort();
    }
    expect(texts).toEqual(["a", "b"]);
  });
});

describe("the prompt", () => {
  test("is read in pieces of 64 tokens, of which only the last asks for logits", async () => {
    const steps: Chunk[] = [];
    const prompt = new Int32Array(150).fill(7);
    const { events } = await collect(saying([], steps), bytewise, { slot: 3 }, prompt);
    expect(steps.map(({ slot, pos, tokens, logits }) => [slot, pos, tokens.length, logits])).toEqual([
      [3, 0, 64, "none"],
      [3, 64, 64, "none"],
      [3, 128, 22, "last"],
    ]);
    expect(events.filter(({ kind }) => kind === "prefill")).toEqual([
      { kind: "prefill", done: 64, total: 150 },
      { kind: "prefill", done: 128, total: 150 },
      { kind: "prefill", done: 150, total: 150 },
    ]);
  });

  test("may fill the context, and not more", async () => {
    const { end } = await collect(saying([97, 98]), bytewise, { context: 2 }, Int32Array.of(1, 2));
    expect(end).toMatchObject({ reason: "length", isContextFull: true, tokens: Int32Array.of(97) });
    await expect(collect(saying([]), bytewise, { context: 2 }, Int32Array.of(1, 2, 3))).rejects.toThrow(
      new RangeError(
        "the prompt has 3 tokens, but the context has room for 2; shorten the prompt or make the context larger (--ctx)",
      ),
    );
  });

  test("has at least one token", async () => {
    await expect(collect(saying([]), bytewise, {}, new Int32Array(0))).rejects.toThrow(
      new RangeError("the prompt has no tokens; at least one is needed"),
    );
  });

  test("counts for the repeat penalty", async () => {
    const session: Session = {
      ...saying([]),
      step: () => Promise.resolve([Float32Array.of(0, 3, 2)]),
    };
    const options = { sampling: { ...GREEDY.sampling, repeatPenalty: 2 }, maxTokens: 1 };
    const { end } = await collect(session, bytewise, options, Int32Array.of(1));
    expect(end.tokens).toEqual(Int32Array.of(2));
  });
});
