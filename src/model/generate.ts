// The loop from a prompt to text: prefill in pieces, then draw, step, draw, until something ends it.
// The text comes as it can be shown: never half a character, nothing of a stop string, the same text however tokens
// cut it. Not here: how a token is chosen (sampler.ts), chat templates (template.ts), what is printed (app/).

import type { Session } from "../backend.ts";
import { type Interruption, unlessAborted } from "./interrupt.ts";
import { makeSampler, type Sampling } from "./sampler.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface GenerateOptions {
  readonly sampling: Sampling;
  /** Tokens to draw at most. */
  readonly maxTokens: number;
  /** Texts that end the generation when they are complete; they are not part of the text. */
  readonly stop: readonly string[];
  /** Positions that the session keeps for a slot: `plan.cache.context`. */
  readonly context: number;
  /** The slot to use, from position 0 on; 0 where it is not given. */
  readonly slot?: number;
  /** An AbortSignal: ends the generation at once, with reason "aborted". The step under way runs to its end unheard. */
  readonly signal?: Interruption;
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

export type GenerateEvent =
  | { readonly kind: "prefill"; readonly done: number; readonly total: number }
  /** More of the text, not empty. */
  | { readonly kind: "text"; readonly text: string }
  /** The last event. */
  | ({ readonly kind: "end" } & Generated);

/** Prompt tokens of one step: longer steps are no faster on the CPU, and shorter ones show progress and stop sooner. */
const PREFILL_STEP = 64;

/**
 * Generates text after a prompt.
 * @param prompt token ids, at least one, with whatever the model wants at the beginning
 * @throws RangeError where the prompt is empty or does not fit the context, and as `Sampler.draw`
 */
export async function* generate(
  session: Session,
  tokenizer: Pick<Tokenizer, "ends" | "stream">,
  prompt: Int32Array,
  options: GenerateOptions,
): AsyncGenerator<GenerateEvent, void, undefined> {
  const { context, maxTokens, signal, slot = 0 } = options;
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
  const startMs = performance.now();
  let firstTokenAtMs: number | null = null;
  let lastTokenAtMs = 0;

  const step = async (pos: number, input: Int32Array, last: boolean): Promise<Float32Array | "aborted"> => {
    if (signal?.aborted) return "aborted";
    const work = session.step([{ slot, pos, tokens: input, logits: last ? "last" : "none" }]);
    const result = await unlessAborted(work, signal);
    return result === "aborted" ? result : (result[0] ?? new Float32Array(0));
  };

  let logits: Float32Array | "aborted" = new Float32Array(0);
  for (let at = 0; at < prompt.length && logits !== "aborted"; at += PREFILL_STEP) {
    const until = Math.min(at + PREFILL_STEP, prompt.length);
    logits = await step(at, prompt.subarray(at, until), until === prompt.length);
    if (logits !== "aborted") yield { kind: "prefill", done: until, total: prompt.length };
  }
  const prefillMs = performance.now() - startMs;
  const prefillTps = logits === "aborted" ? null : (1000 * prompt.length) / prefillMs;

  let reason: StopReason = "length";
  let isContextFull = false;
  while (logits !== "aborted" && tokens.length < maxTokens) {
    const token = sampler.draw(logits);
    if (tokenizer.ends.has(token)) {
      reason = "end";
      break;
    }
    sampler.accept(token);
    tokens.push(token);
    lastTokenAtMs = performance.now();
    firstTokenAtMs ??= lastTokenAtMs;
    const { shown, isStopped } = gate.push(text.push(token));
    if (shown !== "") yield { kind: "text", text: shown };
    if (isStopped) {
      reason = "stop";
      break;
    }
    if (tokens.length === maxTokens) break;
    const pos = prompt.length + tokens.length - 1;
    if (pos === context) {
      isContextFull = true;
      break;
    }
    logits = await step(pos, Int32Array.of(token), true);
  }
  if (logits === "aborted") reason = "aborted";
  if (reason !== "stop") {
    // What was held back: a character that is not complete, a stop string that did not come.
    const { shown, isStopped } = gate.push(text.end());
    const rest = isStopped ? shown : shown + gate.end();
    if (rest !== "") yield { kind: "text", text: rest };
    if (isStopped) reason = "stop";
  }
  yield {
    kind: "end",
    reason,
    isContextFull: isContextFull && reason === "length",
    tokens: Int32Array.from(tokens),
    promptTokens: prompt.length,
    prefillTps,
    decodeTps: tokens.length < 2 ? null : (1000 * (tokens.length - 1)) / (lastTokenAtMs - (firstTokenAtMs ?? 0)),
    firstTokenAtMs,
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
