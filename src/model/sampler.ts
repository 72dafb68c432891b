// From logits to the next token: what a grammar allows, logit bias, repeat penalty, frequency and presence penalty,
// top-k, top-p, min-p, temperature, in this order, then one draw.
// The filters and their order are llama.cpp's; the generator is ours, so that a seed means the same text for ever.
// Not here: the loop over tokens (generate.ts). Equal logits rank by token id, so that every set is defined exactly.

/** How the next token is chosen. Filters that are off: topK 0, topP 1, minP 0, repeatPenalty 1. */
export interface Sampling {
  /** Logits are divided by it before the draw; 0 takes the most likely token and needs no other option. */
  readonly temperature: number;
  /** Keeps the k most likely tokens. */
  readonly topK: number;
  /** Keeps the fewest most likely tokens whose probabilities, at temperature 1 among those left, reach this sum. */
  readonly topP: number;
  /** Keeps tokens at least this many times as likely as the most likely one, at temperature 1. */
  readonly minP: number;
  /** Positive logits of the last 64 tokens are divided by it, the others multiplied. */
  readonly repeatPenalty: number;
  /** Any 64-bit number, 0 to 2^64 - 1. */
  readonly seed: bigint;
  /** Subtracted from a token's logit for each time that it was drawn, as in OpenAI's API; 0 where it is not given. */
  readonly frequencyPenalty?: number;
  /** Subtracted once from the logits of tokens that were drawn; 0 where it is not given. */
  readonly presencePenalty?: number;
  /** Added to the logits of these tokens, before any penalty. */
  readonly logitBias?: ReadonlyMap<number, number>;
}

/** Draws tokens; remembers what came before, and the state of its generator. */
export interface Sampler {
  /** Counts a token as one of the last; `from` says whether it was drawn, and did not stand in the prompt. */
  accept(token: number, from?: "prompt" | "draw"): void;
  /**
   * A token for the logits (vocabulary); they are left as they are. The token is not accepted yet.
   * @param allowed (vocabulary / 32) bit t % 32 of word t / 32 says whether token t may be drawn; all where it is null
   * @throws LogitsError where a logit is NaN or +Infinity, or all that are allowed are -Infinity
   */
  draw(logits: Float32Array, allowed?: Int32Array | null): number;
}

/** A token with the natural logarithm of its probability. */
export interface Likelihood {
  readonly token: number;
  readonly logprob: number;
}

/** Logits that give no distribution. Which file is damaged is known to those who opened it. */
export class LogitsError extends RangeError {
  override readonly name = "LogitsError";

  /** @param logit which one, and its value, as in "the logit of token 7 is NaN" */
  constructor(logit: string) {
    super(`${logit}; the model file is damaged, or its weights are too large for its type`);
  }
}

/** Tokens that are left after all filters, in ascending order, with their probabilities after temperature. */
export interface Choice {
  readonly tokens: Int32Array;
  readonly probabilities: Float64Array;
}

/** llama.cpp's default: penalties look at the last 64 tokens. */
const REPEAT_WINDOW = 64;

/** Logits fall into classes by their distance (in nats) from the largest, so that only the first ones are sorted. */
const CLASSES_PER_NAT = 16;
/** 64 nats: what is further below shares the last class. */
const CLASSES = 1024;

/** A sampler at its beginning; the same options give the same tokens for the same logits. */
export function makeSampler(sampling: Sampling): Sampler {
  const random = generator(sampling.seed);
  const recent: number[] = [];
  const drawn = new Map<number, number>();
  return {
    accept(token, from = "prompt") {
      recent.push(token);
      if (recent.length > REPEAT_WINDOW) recent.shift();
      if (from === "draw") drawn.set(token, (drawn.get(token) ?? 0) + 1);
    },
    draw(logits, allowed = null) {
      const left = allowed === null ? logits : masked(logits, allowed);
      if (sampling.temperature === 0) return largest(penalized(left, sampling, recent, drawn));
      const { tokens, probabilities } = chooseFrom(left, sampling, recent, drawn);
      let rest = random();
      let last = 0;
      for (let i = 0; i < tokens.length; i++) {
        const probability = probabilities[i]!;
        if (probability === 0) continue;
        last = tokens[i]!;
        rest -= probability;
        if (rest < 0) break;
      }
      return last; // also where probabilities sum to a little less than 1
    },
  };
}

/**
 * The distribution that a token is drawn from, for a temperature above 0.
 * @param recent the last tokens, for the repeat penalty
 * @param drawn how often each token was drawn, for the frequency and presence penalties
 * @throws LogitsError as `Sampler.draw`
 */
export function chooseFrom(
  logits: Float32Array,
  sampling: Sampling,
  recent: readonly number[],
  drawn: ReadonlyMap<number, number> = new Map(),
): Choice {
  const { temperature } = sampling;
  const scores = penalized(logits, sampling, recent, drawn);
  const tokens = filtered(scores, sampling);
  let top = -Infinity;
  for (let i = 0; i < tokens.length; i++) top = Math.max(top, scores[tokens[i]!]!);
  const probabilities = new Float64Array(tokens.length);
  let sum = 0;
  for (let i = 0; i < tokens.length; i++) {
    const weight = Math.exp((scores[tokens[i]!]! - top) / temperature);
    probabilities[i] = weight;
    sum += weight;
  }
  for (let i = 0; i < tokens.length; i++) probabilities[i] = probabilities[i]! / sum;
  return { tokens, probabilities };
}

/**
 * How likely a token was, and which were the likeliest: of the model's own distribution, before penalties and filters
 * and at temperature 1, in descending order, of equals the lower id first.
 */
export function likelihoods(
  logits: Float32Array,
  token: number,
  count: number,
): { readonly drawn: Likelihood; readonly likeliest: readonly Likelihood[] } {
  const best: number[] = [];
  const top = logits[largest(logits)]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i]!;
    sum += Math.exp(logit - top);
    if (best.length === count && !(count > 0 && logit > logits[best[count - 1]!]!)) continue;
    const at = best.findIndex((other) => logit > logits[other]!);
    best.splice(at === -1 ? best.length : at, 0, i);
    best.length = Math.min(best.length, count);
  }
  const base = top + Math.log(sum);
  const of = (id: number): Likelihood => ({ token: id, logprob: (logits[id] ?? -Infinity) - base });
  return { drawn: of(token), likeliest: best.map(of) };
}

/** The logits with bias and penalties; the same array where there are none. */
function penalized(
  logits: Float32Array,
  { repeatPenalty, frequencyPenalty = 0, presencePenalty = 0, logitBias }: Sampling,
  recent: readonly number[],
  drawn: ReadonlyMap<number, number>,
): Float32Array {
  const isCounted = frequencyPenalty !== 0 || presencePenalty !== 0;
  if (repeatPenalty === 1 && !isCounted && logitBias === undefined) return logits;
  const scores = logits.slice();
  for (const [token, bias] of logitBias ?? []) scores[token] = (scores[token] ?? 0) + bias;
  for (const token of repeatPenalty === 1 ? [] : new Set(recent)) {
    const logit = scores[token] ?? 0;
    scores[token] = logit > 0 ? logit / repeatPenalty : logit * repeatPenalty;
  }
  for (const [token, times] of isCounted ? drawn : [])
    scores[token] = (scores[token] ?? 0) - times * frequencyPenalty - presencePenalty;
  return scores;
}

/** The logits with -Infinity where the bit of a token is 0. */
function masked(logits: Float32Array, allowed: Int32Array): Float32Array {
  const left = logits.slice();
  for (let i = 0; i < left.length; i++) if (((allowed[i >> 5]! >>> (i & 31)) & 1) === 0) left[i] = -Infinity;
  return left;
}

/** The token of the largest logit, the first of equals. */
function largest(logits: Float32Array): number {
  let token = 0;
  let top = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i]!;
    if (logit > top) {
      top = logit;
      token = i;
    } else if (Number.isNaN(logit)) damaged(i, logit);
  }
  if (!Number.isFinite(top)) damaged(token, top);
  return token;
}

function damaged(token: number, logit: number): never {
  throw new LogitsError(`the logit of token ${token} is ${logit}`);
}

/** What the filters leave, in ascending order. */
function filtered(logits: Float32Array, { topK, topP, minP }: Sampling): Int32Array {
  const top = logits[largest(logits)]!;
  const limit = topK === 0 ? logits.length : Math.min(topK, logits.length);
  const massOf = (token: number): number => Math.exp(logits[token]! - top);
  const lowest = minP === 0 ? -Infinity : top + Math.log(minP);
  if (limit === logits.length && topP === 1) return above(logits, lowest);

  // The whole vocabulary is only put into classes; what they leave is ranked and cut exactly.
  const isCut = limit < logits.length;
  const sums = classSums(logits, top, isCut ? "tokens" : "mass");
  const total = sums.reduce((a, b) => a + b, 0);
  const ranked = rankedAbove(logits, floorOf(sums, isCut ? limit : topP * total, top)).subarray(0, limit);
  const mass = isCut ? ranked.reduce((sum, token) => sum + massOf(token), 0) : total;
  let count = ranked.length;
  if (topP < 1) {
    let sum = massOf(ranked[0]!);
    for (count = 1; count < ranked.length && sum < topP * mass; count++) sum += massOf(ranked[count]!);
  }
  return ranked
    .subarray(0, count)
    .filter((token) => logits[token]! >= lowest)
    .toSorted();
}

/** The number of tokens in each class, or the sum of their exp(logit - top). */
function classSums(logits: Float32Array, top: number, of: "tokens" | "mass"): Float64Array {
  const sums = new Float64Array(CLASSES);
  for (let i = 0; i < logits.length; i++) {
    const below = top - logits[i]!;
    const at = below * CLASSES_PER_NAT < CLASSES ? (below * CLASSES_PER_NAT) | 0 : CLASSES - 1;
    sums[at] = sums[at]! + (of === "mass" ? Math.exp(-below) : 1);
  }
  return sums;
}

/** A logit that is lower than all those whose classes, from the first on, add up to `goal`. */
function floorOf(sums: Float64Array, goal: number, top: number): number {
  let last = 0;
  for (let sum = sums[0]!; sum < goal && last < CLASSES - 1;) sum += sums[++last]!;
  // One class more than needed, for what rounding puts on the other side of a border.
  return last >= CLASSES - 2 ? -Infinity : top - (last + 2) / CLASSES_PER_NAT;
}

/** Tokens of logits not below `lowest`, in ascending order. */
function above(logits: Float32Array, lowest: number): Int32Array {
  const tokens = new Int32Array(logits.length);
  let count = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i]! >= lowest) tokens[count++] = i;
  return tokens.subarray(0, count);
}

/** The same from the largest logit down, equal ones by id. */
function rankedAbove(logits: Float32Array, lowest: number): Int32Array {
  return above(logits, lowest).toSorted((a, b) => logits[b]! - logits[a]! || a - b);
}

/**
 * Uniform numbers in [0, 1) with 53 random bits: xoshiro128++ (Blackman and Vigna, 2019), its state filled from the
 * seed by splitmix64 as its authors advise.
 */
function generator(seed: bigint): () => number {
  let mix = BigInt.asUintN(64, seed);
  const split = (): [number, number] => {
    mix = BigInt.asUintN(64, mix + 0x9e3779b97f4a7c15n);
    let z = mix;
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    z ^= z >> 31n;
    return [Number(z & 0xffffffffn) | 0, Number(z >> 32n) | 0];
  };
  let [a, b] = split();
  let [c, d] = split();
  const next = (): number => {
    const result = (rotated((a + d) | 0, 7) + a) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotated(d, 11);
    return result;
  };
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}

function rotated(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}
