// One sequence as a state machine: which tokens to run next, and what follows from their logits. It runs nothing
// itself, so that a loop over one sequence (generate.ts) and a loop over many (slots.ts) are the same generation.
// The text comes as it can be shown: never half a character, nothing of a stop string, the same text however tokens
// cut it. Not here: how a token is chosen (sampler.ts), chat templates (template.ts), what a grammar allows (app/).

import type { Chunk } from "../backend.ts";
import { likelihoods, makeSampler, type Sampling } from "./sampler.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What a text must be like, token by token. */
export interface Constraint {
  /** Which tokens may come next, as `Sampler.draw` takes them. */
  allowed(): Promise<Int32Array>;
  /** Goes on with a token that was allowed. */
  accept(token: number): void;
}

export interface SequenceOptions {
  readonly sampling: Sampling;
  /** Tokens to draw at most. */
  readonly maxTokens: number;
  /** Texts that end the generation when they are complete; they are not part of the text. */
  readonly stop: readonly string[];
  /** Positions that the session keeps for a slot: `plan.cache.context`. */
  readonly context: number;
  /** With each token its likelihood and so many of the likeliest; none of it where it is not given. */
  readonly likeliest?: number;
  readonly constraint?: Constraint;
}

/** end: an end-of-generation token; stop: a stop string; length: maxTokens drawn, or the context is full. */
export type StopReason = "end" | "stop" | "length" | "aborted";

export interface Generated {
  readonly reason: StopReason;
  /** Whether the reason is that the context has no position left. */
  readonly isContextFull: boolean;
  /** What was drawn, without an end-of-generation token; tokens of a stop string are among them. */
  readonly tokens: Int32Array;
  readonly promptTokens: number;
  /** Tokens of the prompt per second, to the first logits; null where those did not come. */
  readonly prefillTps: number | null;
  /** Tokens after the first per second; null where there are none. */
  readonly decodeTps: number | null;
  /** `performance.now()` when the first token was drawn; null where none was. */
  readonly firstTokenAtMs: number | null;
}

export type SequenceEvent =
  | { readonly kind: "prefill"; readonly done: number; readonly total: number }
  /** A token was drawn; `text` is what can be shown now, which may be nothing. */
  | { readonly kind: "token"; readonly text: string; readonly likelihood: ReturnType<typeof likelihoods> | null }
  /** The last event, with the text that was held back. */
  | { readonly kind: "end"; readonly text: string; readonly generated: Generated };

export interface Sequence {
  /** Tokens of the prompt that have not been run; 0 once tokens are drawn one by one. */
  readonly promptLeft: number;
  /** The tokens whose keys and values the cache holds, from position 0 on. */
  readonly cached: readonly number[];
  /** What to run next: at most `room` tokens of the prompt, or the one that was drawn last. */
  next(room: number): Omit<Chunk, "slot">;
  /**
   * What follows once the chunk that `next` gave has been run.
   * @throws LogitsError as `Sampler.draw`, and as `Constraint.allowed`
   */
  take(logits: Float32Array): Promise<readonly SequenceEvent[]>;
  /** Ends it where it is. */
  abort(): SequenceEvent;
}

/**
 * A sequence at its beginning.
 * @param prompt token ids, at least one, with whatever the model wants at the beginning
 * @param reused positions, fewer than the prompt has, that the cache holds already
 * @throws RangeError where the prompt is empty or does not fit the context, or a stop string is empty
 */
export function makeSequence(
  tokenizer: Pick<Tokenizer, "ends" | "stream">,
  prompt: Int32Array,
  options: SequenceOptions,
  reused: number,
): Sequence {
  const { context, maxTokens, likeliest, constraint } = options;
  if (prompt.length === 0) throw new RangeError("the prompt has no tokens; at least one is needed");
  if (prompt.length > context)
    throw new RangeError(
      `the prompt has ${prompt.length} tokens, but the context has room for ${context}; ` +
        "shorten the prompt or make the context larger (--ctx)",
    );
  const sampler = makeSampler(options.sampling);
  for (const token of prompt) sampler.accept(token);
  const text = tokenizer.stream();
  const gate = makeGate(options.stop);
  const tokens: number[] = [];
  const cached = Array.from(prompt.subarray(0, reused));
  let running: Int32Array = new Int32Array(0);
  const startMs = performance.now();
  let prefillMs: number | null = null;
  let firstTokenAtMs: number | null = null;
  let lastTokenAtMs = 0;

  function end(reason: StopReason, isContextFull = false): SequenceEvent {
    let rest = "";
    let isStopped = false;
    if (reason !== "stop") {
      // What was held back: a character that is not complete, a stop string that did not come.
      const last = gate.push(text.end());
      isStopped = last.isStopped;
      rest = isStopped ? last.shown : last.shown + gate.end();
    }
    const generated: Generated = {
      reason: isStopped ? "stop" : reason,
      isContextFull: isContextFull && !isStopped,
      tokens: Int32Array.from(tokens),
      promptTokens: prompt.length,
      prefillTps: prefillMs === null ? null : (1000 * (prompt.length - reused)) / prefillMs,
      decodeTps: tokens.length < 2 ? null : (1000 * (tokens.length - 1)) / (lastTokenAtMs - (firstTokenAtMs ?? 0)),
      firstTokenAtMs,
    };
    return { kind: "end", text: rest, generated };
  }

  /** Draws a token, and says whether it was the last. */
  async function draw(logits: Float32Array): Promise<readonly SequenceEvent[]> {
    if (tokens.length >= maxTokens) return [end("length")];
    const token = sampler.draw(logits, constraint === undefined ? null : await constraint.allowed());
    if (tokenizer.ends.has(token)) return [end("end")];
    constraint?.accept(token);
    sampler.accept(token, "draw");
    tokens.push(token);
    lastTokenAtMs = performance.now();
    firstTokenAtMs ??= lastTokenAtMs;
    const { shown, isStopped } = gate.push(text.push(token));
    const likelihood = likeliest === undefined ? null : likelihoods(logits, token, likeliest);
    const drawn: SequenceEvent = { kind: "token", text: shown, likelihood };
    if (isStopped) return [drawn, end("stop")];
    if (tokens.length === maxTokens) return [drawn, end("length")];
    return cached.length === context ? [drawn, end("length", true)] : [drawn];
  }

  return {
    get promptLeft() {
      return Math.max(0, prompt.length - cached.length);
    },
    cached,
    next(room) {
      const pos = cached.length;
      if (pos >= prompt.length) {
        running = Int32Array.of(tokens.at(-1) ?? 0);
        return { pos, tokens: running, logits: "last" };
      }
      running = prompt.subarray(pos, pos + Math.max(1, room));
      return { pos, tokens: running, logits: pos + running.length === prompt.length ? "last" : "none" };
    },
    async take(logits) {
      const isPrompt = cached.length < prompt.length;
      for (const token of running) cached.push(token);
      if (!isPrompt) return draw(logits);
      const progress: SequenceEvent = { kind: "prefill", done: cached.length, total: prompt.length };
      if (cached.length < prompt.length) return [progress];
      prefillMs = performance.now() - startMs;
      return [progress, ...(await draw(logits))];
    },
    abort: () => end("aborted"),
  };
}

/** Lets text through, but for what is or may become a stop string. */
interface Gate {
  /** What can be shown now; after `isStopped` nothing more is to come. */
  push(text: string): { readonly shown: string; readonly isStopped: boolean };
  /** What was held back, once no more text comes. */
  end(): string;
}

/** Of several stop strings the one that is complete first counts, so that the cuts between tokens do not matter. */
function makeGate(stops: readonly string[]): Gate {
  if (stops.includes("")) throw new RangeError("a stop string is empty; it needs at least one character");
  const longestFirst = stops.toSorted((a, b) => b.length - a.length);
  let held = "";
  return {
    push(text) {
      const pending = held + text;
      for (let end = held.length + 1; end <= pending.length; end++) {
        const stop = longestFirst.find((s) => pending.endsWith(s, end));
        if (stop !== undefined) {
          held = "";
          return { shown: pending.slice(0, end - stop.length), isStopped: true };
        }
      }
      let from = Math.max(0, pending.length - (longestFirst[0]?.length ?? 1) + 1);
      while (!stops.some((s) => s.startsWith(pending.slice(from))) && from < pending.length) from++;
      held = pending.slice(from);
      return { shown: pending.slice(0, from), isStopped: false };
    },
    end() {
      const rest = held;
      held = "";
      return rest;
    },
  };
}
