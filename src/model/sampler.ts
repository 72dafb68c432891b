// From logits to the next token: repeat penalty, top-k, top-p, min-p, temperature, in this order, then one draw.
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
}

/** Draws tokens; remembers what came before, and the state of its generator. */
export interface Sampler {
  /** Counts a token, of the prompt or drawn, as one of the last. */
  accept(token: number): void;
  /**
   * A token for the logits (vocabulary); they are left as they are. The token is not accepted yet.
   * @throws LogitsError where a logit is NaN or +Infinity, or all are -Infinity
   */
  draw(logits: Float32Array): number;
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
  return {
    accept(token) {
      recent.push(token);
      if (recent.length > REPEAT_WINDOW) recent.shift();
    },
    draw(logits) {
      if (sampling.temperature === 0) return largest(penalized(logits, sampling, recent));
      const { tokens, probabilities } = chooseFrom(logits, sampling, recent);
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
 * @throws LogitsError as `Sampler.draw`
 */
export function chooseFrom(logits: Float32Array, sampling: Sampling, recent: readonly number[]): Choice {
  const { temperature } = sampling;
  const scores = penalized(logits, sampling, recent);
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

/** The logits with the repeat penalty; the same array where there is none. */
function penalized(logits: Float32Array, { repeatPenalty }: Sampling, recent: readonly number[]): Float32Array {
  if (repeatPenalty === 1) return logits;
  const scores = logits.slice();
  for (const token of new Set(recent)) {
    const logit = scores[token] ?? 0;
    scores[token] = logit > 0 ? logit / repeatPenalty : logit * repeatPenalty;
  }
  return scores;
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
