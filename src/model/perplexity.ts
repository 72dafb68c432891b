// How well a model predicts a text: exp of the mean negative log likelihood a token, as llama.cpp's perplexity tool
// counts it, so that figures compare: disjoint chunks of one context, each begun afresh, and of each chunk the second
// half only, where every token has at least half a context before it. Not here: reading the text, printing.

import type { Session } from "../backend.ts";
import { type Interruption, unlessAborted } from "./interrupt.ts";
import { LogitsError } from "./sampler.ts";

export interface PerplexityOptions {
  /** Tokens of a chunk. */
  readonly context: number;
  /** Takes the place of the first token of each chunk; null where the model's sequences do not begin with one. */
  readonly bos: number | null;
  /** An AbortSignal. */
  readonly signal?: Interruption;
  /** After each step: tokens done, tokens in all, and the estimate so far where a token has been scored. */
  readonly progress?: (done: number, total: number, estimate: Perplexity | null) => void;
}

export interface Perplexity {
  readonly perplexity: number;
  /** One standard error of the perplexity, from the spread of the scores; 0 for a single score. */
  readonly error: number;
  /** Mean negative log likelihood a token, in nats. */
  readonly nll: number;
  readonly chunks: number;
  /** Tokens that the mean is over. */
  readonly scored: number;
}

/** The shortest chunk of which a token is scored. */
export const SHORTEST_CHUNK = 4;

/** Tokens of one step; the logits of a step must fit in memory beside the model. */
const STEP = 64;

/**
 * Perplexity of a text.
 * @param tokens of the whole text, two chunks at least; what is left after the last whole chunk is not used
 * @returns null where the signal ended it
 * @throws RangeError where there are too few tokens, LogitsError where a logit is not a number
 */
export async function perplexity(
  session: Session,
  tokens: Int32Array,
  options: PerplexityOptions,
): Promise<Perplexity | null> {
  const { context, bos, signal, progress } = options;
  if (context < SHORTEST_CHUNK) throw new RangeError(`chunks of ${context} tokens; ${SHORTEST_CHUNK} are the least`);
  if (tokens.length < 2 * context)
    throw new RangeError(
      `the text has ${tokens.length} tokens; two chunks of ${context} need ${2 * context}: use a longer text or a smaller context`,
    );
  const chunks = Math.floor(tokens.length / context);
  const first = Math.floor(context / 2);
  const scores: Score = { count: 0, sum: 0, squares: 0 };
  for (let c = 0; c < chunks; c++) {
    const chunk = tokens.slice(c * context, (c + 1) * context);
    if (bos !== null) chunk[0] = bos;
    // The last token is only predicted, and the step before `first` wants no logits.
    for (let pos = 0; pos < context - 1;) {
      if (signal?.aborted) return null;
      const end = Math.min(pos + STEP, pos < first ? first : context - 1);
      const logits = pos < first ? "none" : "all";
      const work = session.step([{ slot: 0, pos, tokens: chunk.subarray(pos, end), logits }]);
      const result = await unlessAborted(work, signal);
      if (result === "aborted") return null;
      const [rows] = result;
      if (logits === "all" && rows !== undefined) score(rows, chunk.subarray(pos + 1, end + 1), scores);
      pos = end;
      progress?.(c * context + pos, chunks * context, scores.count === 0 ? null : summary(scores, c + 1));
    }
  }
  return summary(scores, chunks);
}

interface Score {
  count: number;
  sum: number;
  squares: number;
}

/** Adds the negative log likelihoods of `next` under the rows of logits, (next.length, vocabulary). */
function score(rows: Float32Array, next: Int32Array, scores: Score): void {
  const vocabulary = rows.length / next.length;
  next.forEach((token, i) => {
    const nll = -logProbability(rows.subarray(i * vocabulary, (i + 1) * vocabulary), token);
    scores.count++;
    scores.sum += nll;
    scores.squares += nll ** 2;
  });
}

/** log softmax(logits)[token] in float64. */
export function logProbability(logits: Float32Array, token: number): number {
  let top = -Infinity;
  for (let i = 0; i < logits.length; i++) top = Math.max(top, logits[i]!);
  if (!Number.isFinite(top)) throw new LogitsError(`a logit is ${top}`);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - top);
  return logits[token]! - top - Math.log(sum);
}

function summary({ count, sum, squares }: Score, chunks: number): Perplexity {
  const nll = sum / count;
  const variance = Math.max(0, squares / count - nll ** 2);
  const result = Math.exp(nll);
  return {
    perplexity: result,
    error: count < 2 ? 0 : result * Math.sqrt(variance / (count - 1)),
    nll,
    chunks,
    scored: count,
  };
}
