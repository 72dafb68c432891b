// Elements and fragments of the LMMA machine: what a register range of a warp holds, and how many bytes that is.
// A register of a warp is 32 lanes of 4 bytes. A fragment begins at a register and fills as many as its bytes need.
// Not here: the instructions that read and write fragments (isa.ts), how weights become planes of indices (weights.ts).
// Sources: LUT Tensor Core (ISCA'25), 3.1.2 for half tables and indices whose negation is done offline, 3.2 for K = 4.

export type Element = "fp32" | "fp16" | "bf16" | "e4m3" | "e5m2" | "int32" | "int16" | "int8";
export type Weight = "int1" | "int2" | "int3" | "int4" | "ternary";

/** Bits of one number; e4m3 is OCP's, without infinities (E4M3FN of dsl/float.ladder). Integers are two's complement. */
export const ELEMENT_BITS: Readonly<Record<Element, 8 | 16 | 32>> = {
  fp32: 32,
  fp16: 16,
  bf16: 16,
  e4m3: 8,
  e5m2: 8,
  int32: 32,
  int16: 16,
  int8: 8,
};

/**
 * The power of two of each bit plane of a weight, in the order in which planes lie in memory and are added. The integer
 * is the sum over planes of 2^power * (2 bit - 1): the odd numbers from -(2^b - 1) to 2^b - 1, or -2, 0, 2 of ternary,
 * whose two planes weigh the same, so that it needs no zero point.
 */
export const PLANES: Readonly<Record<Weight, readonly number[]>> = {
  int1: [0],
  int2: [0, 1],
  int3: [0, 1, 2],
  int4: [0, 1, 2, 3],
  ternary: [0, 0],
};

/** Activations of one table; the paper's K of the dot product unit (its figure 11: best for integers). */
export const TABLE_K = 4;
/** Half of the 2^4 sums are kept, since the others are their negatives (equation 4). */
export const TABLE_ENTRIES = 8;
/** 32 lanes of 4 bytes. */
export const REGISTER_BYTES = 128;
/** What one operand may fill: 8 KiB, a quarter of a warp's share of an A100's register file. */
export const MAX_FRAGMENT_REGISTERS = 64;

/** Row-major numbers, without gaps between rows. A vector is a matrix of one row or one column. */
export interface MatrixFragment {
  readonly kind: "matrix";
  readonly rows: number;
  readonly columns: number;
  readonly element: Element;
}

/**
 * (m, k / 4, 8) entries, row-major. Entry i of a table is -a3 + sum over j < 3 of (2 i_j - 1) a_j, i_j being bit j of i:
 * the sum for the weights' bits (w3 w2 w1 w0) = (0 i2 i1 i0).
 */
export interface TableFragment {
  readonly kind: "table";
  readonly m: number;
  readonly k: number;
  readonly entry: Element;
}

/**
 * (k / 4, planes, n) nibbles, row-major, n even in the low half of a byte. Bit 3 of a nibble is the sign, bits 0 to 2
 * are the index: it stands for entry[index], or for its negative where the sign is 1.
 */
export interface WeightFragment {
  readonly kind: "weights";
  readonly n: number;
  readonly k: number;
  readonly weight: Weight;
}

export type Fragment = MatrixFragment | TableFragment | WeightFragment;

/** Rows of a fragment as memory has them, each without gaps, and the bytes of one; weights are a single row. */
export function rowsOf(fragment: Fragment): { readonly rows: number; readonly rowBytes: number } {
  switch (fragment.kind) {
    case "matrix":
      return { rows: fragment.rows, rowBytes: (fragment.columns * ELEMENT_BITS[fragment.element]) / 8 };
    case "table":
      return {
        rows: fragment.m,
        rowBytes: ((fragment.k / TABLE_K) * TABLE_ENTRIES * ELEMENT_BITS[fragment.entry]) / 8,
      };
    case "weights":
      return { rows: 1, rowBytes: (((fragment.k / TABLE_K) * fragment.n) / 2) * PLANES[fragment.weight].length };
  }
}

export function bytesOf(fragment: Fragment): number {
  const { rows, rowBytes } = rowsOf(fragment);
  return rows * rowBytes;
}

/** Registers that a fragment fills, the last perhaps in part. */
export function registersOf(fragment: Fragment): number {
  return Math.ceil(bytesOf(fragment) / REGISTER_BYTES);
}

/** A fragment in the words of the assembly: `matrix 16x64.fp16`, `table m2k32.int16`, `weights n64k32.int2`. */
export function fragmentName(fragment: Fragment): string {
  switch (fragment.kind) {
    case "matrix":
      return `matrix ${fragment.rows}x${fragment.columns}.${fragment.element}`;
    case "table":
      return `table m${fragment.m}k${fragment.k}.${fragment.entry}`;
    case "weights":
      return `weights n${fragment.n}k${fragment.k}.${fragment.weight}`;
  }
}
