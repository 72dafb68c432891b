// What the code generators take and give: a product whose operands are bound to their shapes and whose method is
// decided, and the text that computes it with what a caller has to know of it.
// Not here: which combinations are possible (compile.ts), any text (kernel-wgsl.ts, kernel-cpp.ts).

import type { IntegerOperand, Packing } from "./packing.ts";
import type { Element, Type } from "../type.ts";

/** One operand: `rows` rows of k values. */
export interface Side {
  /** Of a tensor it is the whole matrix as one block. */
  readonly type: Type;
  readonly rows: number;
  /** As the file has them. */
  readonly bytes: number;
}

export type Method =
  | { readonly kind: "decode" }
  | { readonly kind: "dot"; readonly a: IntegerOperand; readonly w: IntegerOperand }
  | { readonly kind: "lookup"; readonly w: IntegerOperand };

/** out(m,n) = a(m,k) . w(n,k)^T. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Side;
  readonly w: Side;
  readonly accumulate: Element;
  readonly out: Element;
  readonly method: Method;
}

/** Memory that a kernel is handed. */
export interface KernelBuffer {
  /** Of WGSL the binding in group 0; of C++ the place among the arguments. */
  readonly binding: number;
  readonly name: string;
  /** tables: constants of a decode, too many for the text. */
  readonly role: "activations" | "weights" | "tables" | "out";
  readonly bytes: number;
  readonly layout:
    /** As files of the type have it, row by row. */
    | { readonly kind: "file"; readonly type: string }
    /** Codes, scales or offsets as the packing of that name says. */
    | { readonly kind: "packed"; readonly packing: string; readonly part: string }
    /** Little-endian words of 32 bits. */
    | { readonly kind: "words"; readonly words: readonly number[] }
    /** Elements, each row beginning at a multiple of row_bytes. */
    | { readonly kind: "rows"; readonly element: string; readonly row_bytes: number };
}

/** A function that a caller may call. pack and load turn weights as a file has them into what the kernel reads. */
export interface KernelEntry {
  readonly name: string;
  readonly role: "kernel" | "pack" | "load";
  /** In order; none of WGSL, which is handed buffers. */
  readonly arguments: readonly { readonly name: string; readonly type: string }[];
}

export interface Kernel {
  readonly kind: "kernel";
  readonly file: string;
  readonly text: string;
  /** The first computes the product. */
  readonly entries: readonly KernelEntry[];
  readonly buffers: readonly KernelBuffer[];
  readonly packings: Readonly<Partial<Record<"activations" | "weights", Packing>>>;
  readonly dispatch: { readonly workgroup: readonly number[]; readonly counts: readonly number[] } | null;
  /** Additions that a product goes through on its way to the output, at most; each may round. */
  readonly additions: number;
  /** Operands that the bound does not hold for on some machines, and why. */
  readonly exceptions: readonly string[];
  /** Bytes that one call takes for itself. */
  readonly scratch: number;
}
