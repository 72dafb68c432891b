// The instructions of the LMMA machine as types: one interface for each, `kind` being its name in assembly.
// Registers and scalars are numbers; every other field is a word or a number of a short list, which isa.ts holds.
// Not here: what is legal, how it is written and what it computes (isa.ts).

import type { Element, Weight } from "./fragment.ts";

export const ACTIVATIONS = ["fp16", "bf16", "e4m3", "e5m2", "int16", "int8"] as const;
export const ENTRIES = ["fp16", "bf16", "fp32", "int16", "int32"] as const;
export const ACCUMULATORS = ["fp32", "fp16", "int32"] as const;
export const OUTPUTS = ["fp32", "fp16", "bf16", "int32"] as const;
export const DENSE = ["fp16", "bf16", "e4m3", "e5m2", "int8"] as const;

export type Activation = (typeof ACTIVATIONS)[number];
/** Global buffers of a launch, or the memory that the warps of a block share. */
export type Space = `g${number}` | "shared";
export type Entry = (typeof ENTRIES)[number];
export type Accumulator = (typeof ACCUMULATORS)[number];
export type Output = (typeof OUTPUTS)[number];
export type Dense = (typeof DENSE)[number];

/** A warp's register 0 to 1021, the first of a fragment, or one of the two that hold no bytes. */
export type Register = number;
export const REGISTER_COUNT = 1022;
/** Reads as 1 in every element; where a factor may be left out. */
export const ONE: Register = 1022;
/** Reads as 0 in every element; where an addend may be left out. */
export const ZERO: Register = 1023;

/** One of 32 scalars of a warp, unsigned, 32 bits. 0 to 27 can be written; at the start they hold the launch's parameters. */
export type Scalar = number;
export const WRITABLE_SCALARS = 28;
/** Global buffers of a launch: g0 to g15. */
export const MAX_BUFFERS = 16;
/** Loops in loops. */
export const MAX_LOOPS = 8;
/** Scalars with a meaning: the block's column and row in the grid, the warp's number in its block, and 0. */
export const NAMED_SCALARS: Readonly<Record<"bx" | "by" | "warp" | "nil", Scalar>> = {
  bx: 28,
  by: 29,
  warp: 30,
  nil: 31,
};

/** Byte scalar[base] + offset of a space, a multiple of 4. */
interface Place {
  readonly space: Space;
  readonly base: Scalar;
  readonly offset: number;
}

/** Row r of a fragment lies r * stride bytes behind the first; a stride of 0 reads the first row again. */
interface Rows extends Place {
  readonly stride: number;
}

/** scalar[to] = scalar[left] * factor + scalar[right] + addend, modulo 2^32. */
export interface Lea {
  readonly kind: "lea";
  readonly to: Scalar;
  readonly left: Scalar;
  readonly factor: number;
  readonly right: Scalar;
  readonly addend: number;
}

/** Runs what follows, to its `end`, scalar[count] + times times. */
export interface Loop {
  readonly kind: "loop";
  readonly count: Scalar;
  readonly times: number;
}

export interface End {
  readonly kind: "end";
}

/** All warps of a block come here before one goes on. */
export interface Barrier {
  readonly kind: "bar";
}

/** `columns`: memory holds the transpose, column c at c * stride. */
export interface LoadMatrix extends Rows {
  readonly kind: "ld.mat";
  readonly rows: number;
  readonly columns: number;
  readonly element: Element;
  readonly order: "rows" | "columns";
  readonly to: Register;
}

export interface StoreMatrix extends Rows {
  readonly kind: "st.mat";
  readonly rows: number;
  readonly columns: number;
  readonly element: Element;
  readonly from: Register;
}

export interface LoadTable extends Rows {
  readonly kind: "ld.tab";
  readonly m: number;
  readonly k: number;
  readonly entry: Entry | "int8";
  readonly to: Register;
}

export interface StoreTable extends Rows {
  readonly kind: "st.tab";
  readonly m: number;
  readonly k: number;
  readonly entry: Entry | "int8";
  readonly from: Register;
}

/** A tile of weights is one piece of memory. */
export interface LoadWeights extends Place {
  readonly kind: "ld.wgt";
  readonly n: number;
  readonly k: number;
  readonly weight: Weight;
  readonly to: Register;
}

/** Table precompute. */
export interface Precompute {
  readonly kind: "lut";
  readonly m: number;
  readonly k: number;
  readonly activation: Activation;
  readonly entry: Entry;
  readonly to: Register;
  readonly from: Register;
}

/** Table quantisation: `share` neighbouring tables of a row have one scale. */
export interface QuantiseTable {
  readonly kind: "lutq";
  readonly m: number;
  readonly k: number;
  readonly entry: Entry;
  readonly share: number;
  readonly to: Register;
  readonly scales: Register;
  readonly from: Register;
}

export interface Lmma {
  readonly kind: "lmma";
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly activation: Activation;
  readonly weight: Weight;
  readonly accumulate: Accumulator;
  readonly out: Output;
  readonly entry: Entry;
  readonly to: Register;
  readonly table: Register;
  readonly weights: Register;
  readonly addend: Register;
}

/** On tables of int8. */
export interface LmmaQuantised {
  readonly kind: "lmmaq";
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly activation: Activation;
  readonly weight: Weight;
  readonly accumulate: "fp32";
  readonly out: Output;
  readonly share: number;
  readonly to: Register;
  readonly table: Register;
  readonly scales: Register;
  readonly weights: Register;
  readonly addend: Register;
}

/** The ordinary matrix product of the machine, for weights of 8 bits and more and for attention. */
export interface Mma {
  readonly kind: "mma";
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly activation: Dense;
  readonly weight: Dense;
  readonly accumulate: Accumulator;
  readonly out: Output;
  readonly to: Register;
  readonly left: Register;
  readonly right: Register;
  readonly addend: Register;
}

/** Sums of rows of activations, which zero points are multiplied with. */
export interface SumActivations {
  readonly kind: "asum";
  readonly m: number;
  readonly k: number;
  readonly activation: Activation;
  readonly to: Register;
  readonly from: Register;
  readonly addend: Register;
}

/** to = addend + product * rows[m] * columns[n]: the scales of a group, and the sum over groups. */
export interface Scale {
  readonly kind: "sacc";
  readonly m: number;
  readonly n: number;
  readonly product: "int32" | "fp32" | "fp16" | "bf16";
  readonly to: Register;
  readonly from: Register;
  readonly byRow: Register;
  readonly byColumn: Register;
  readonly addend: Register;
}

/** to = addend + sums[m] * rows[m] * columns[n]: zero-point correction. */
export interface ZeroPoint {
  readonly kind: "zacc";
  readonly m: number;
  readonly n: number;
  readonly sum: "int32" | "fp32";
  readonly to: Register;
  readonly sums: Register;
  readonly byRow: Register;
  readonly byColumn: Register;
  readonly addend: Register;
}

/** Each number to the nearest of another element. */
export interface Convert {
  readonly kind: "cvt";
  readonly rows: number;
  readonly columns: number;
  readonly source: Element;
  readonly target: "fp32" | "fp16" | "bf16" | "e4m3" | "e5m2";
  readonly to: Register;
  readonly from: Register;
}

/** A matrix of zeros, such as an accumulator before a loop. */
export interface Clear {
  readonly kind: "clr";
  readonly rows: number;
  readonly columns: number;
  readonly element: Element;
  readonly to: Register;
}

/** Floats to integers with a scale for each `group` columns of a row. */
export interface Quantise {
  readonly kind: "quant";
  readonly rows: number;
  readonly columns: number;
  readonly target: "int8" | "int16";
  readonly group: number;
  readonly to: Register;
  readonly scales: Register;
  readonly from: Register;
}

export type Instruction =
  | Lea
  | Loop
  | End
  | Barrier
  | LoadMatrix
  | StoreMatrix
  | LoadTable
  | StoreTable
  | LoadWeights
  | Precompute
  | QuantiseTable
  | Lmma
  | LmmaQuantised
  | Mma
  | SumActivations
  | Scale
  | ZeroPoint
  | Clear
  | Convert
  | Quantise;

export type Opcode = Instruction["kind"];
