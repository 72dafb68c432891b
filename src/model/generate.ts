// The loop from a prompt to text: prefill in pieces, then draw, step, draw, until something ends it.
// Not here: what a sequence is (sequence.ts), many of them at once (slots.ts), how a token is chosen (sampler.ts), chat
// templates (template.ts), what is printed (app/).

import type { Session } from "../backend.ts";
import { type Interruption, unlessAborted } from "./interrupt.ts";
import { type Generated, makeSequence, type SequenceOptions, type StopReason } from "./sequence.ts";
import type { Tokenizer } from "./tokenizer.ts";

export type { Generated, StopReason };

export interface GenerateOptions extends SequenceOptions {
  /** The slot to use, from position 0 on; 0 where it is not given. */
  readonly slot?: number;
  /** An AbortSignal: ends the generation at once, with reason "aborted". The step under way runs to its end unheard. */
  readonly signal?: Interruption;
}

export type GenerateEvent =
  | { readonly kind: "prefill"; readonly done: number; readonly total: number }
  /** More of the text, not empty. */
  | { readonly kind: "text"; readonly text: string }
  /** The last event. */
  | ({ readonly kind: "end" } & Generated);

/** Prompt tokens of one step: longer steps are no faster on the CPU, and shorter ones show progress and stop sooner. */
export const PREFILL_STEP = 64;

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
  const { signal, slot = 0 } = options;
  const sequence = makeSequence(tokenizer, prompt, options, 0);
  for (;;) {
    const work = signal?.aborted ? null : session.step([{ slot, ...sequence.next(PREFILL_STEP) }]);
    const result = work === null ? "aborted" : await unlessAborted(work, signal);
    const isAborted = result === "aborted";
    const events = isAborted ? [sequence.abort()] : await sequence.take(result[0] ?? new Float32Array(0));
    for (const event of events) {
      if (event.kind === "prefill") yield event;
      else if (event.text !== "") yield { kind: "text", text: event.text };
      if (event.kind === "end") return yield { kind: "end", ...event.generated };
    }
  }
}
