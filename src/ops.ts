// The closed set of operations a Plan is made of, with the shape rule of each.
// What an op computes is defined by reference.ts; how fast, by the other backends.
// Notation: out(m,n) = a(m,k) . w(n,k)^T, all values row-major, one row per token of the step.

/** Index into Plan.values: one named activation of `width` numbers per token. */
export type ValueId = number;

/** RMS norm of a row: x * weight / sqrt(mean(x^2) + eps). */
export interface Norm {
  readonly weight: string;
  readonly eps: number;
}

/** What a Gemm does with its products before it stores them. */
export type Epilogue =
  | { readonly kind: "store" }
  /** out = from + product */
  | { readonly kind: "add"; readonly from: ValueId }
  /** Two weights; out = silu(product 0) * product 1 */
  | { readonly kind: "silu-mul" };

export interface Linear {
  readonly weight: string;
  readonly bias: string | null;
}

/** Rows of `weight` (vocab, width) chosen by the token ids. */
export interface Embed {
  readonly kind: "embed";
  readonly weight: string;
  readonly out: ValueId;
}

/** Keeps only the rows whose logits are wanted; every op after it sees those rows alone. */
export interface Select {
  readonly kind: "select";
  readonly input: ValueId;
  readonly out: ValueId;
}

/** Several weights on one input; the norm and the conversion of the input are done once for all of them. */
export interface Gemm {
  readonly kind: "gemm";
  readonly input: ValueId;
  readonly norm: Norm | null;
  readonly linears: readonly Linear[];
  readonly epilogue: Epilogue;
  /** One per linear; one in all for "silu-mul". */
  readonly out: readonly ValueId[];
}

/**
 * Rotary position embedding in place on `heads` heads of `headDim`: pair p of the first 2 * frequencies.length
 * numbers of a head turns by position * frequencies[p] and is multiplied by `magnitude` (YaRN's; else 1).
 * "adjacent" pairs (2p, 2p+1); "split" pairs (p, p + frequencies.length).
 */
export interface Rope {
  readonly kind: "rope";
  readonly value: ValueId;
  readonly heads: number;
  readonly headDim: number;
  readonly pairing: "adjacent" | "split";
  readonly frequencies: readonly number[];
  readonly magnitude: number;
}

/**
 * Appends k and v to the cache of `layer` at each row's (slot, position), then causal softmax attention of q
 * over positions 0..position of the slot. Query head h reads key head floor(h * kvHeads / heads).
 */
export interface Attention {
  readonly kind: "attention";
  readonly layer: number;
  readonly q: ValueId;
  readonly k: ValueId;
  readonly v: ValueId;
  readonly out: ValueId;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Factor on q.k before the softmax. */
  readonly scale: number;
}

export type Op = Embed | Select | Gemm | Rope | Attention;
