// What the language describes once names are resolved: elements, types, tensors, claims and devices as data.
// Nothing here is computed yet, and nothing is text any more but for a tensor's body, which waits for its shape.
// Not here: the text (grammar.ts, ast.ts), what a value is (exact.ts), bytes to numbers (codec.ts), layouts (layout.ts).
// A block is one string of bits: bit k is bit k mod 8 (0 = least significant) of byte k div 8.

import type { Span, TensorDeclaration } from "./ast.ts";

/** Sign, exponent, mantissa from the top bit down; the codes that are no ordinary numbers are named by `special`. */
export interface FloatElement {
  readonly kind: "float";
  readonly name: string;
  /** sign + exponent + mantissa. */
  readonly bits: number;
  readonly exponent: number;
  readonly mantissa: number;
  readonly bias: number;
  /**
   * ieee: the top exponent is infinity (mantissa 0) and NaN; fn: all ones below the sign is NaN, no infinity;
   * fnuz: the code of -0 is NaN, no infinity; none: every code is a number.
   */
  readonly special: "ieee" | "fn" | "fnuz" | "none";
  /** What the top bit is: a sign, nothing (there is none), or a bit without a meaning. */
  readonly sign: "yes" | "no" | "ignored";
  /** What the codes with exponent 0 are: yes, 0.mantissa; zero, all of them 0; normal, 1.mantissa as any other. */
  readonly subnormals: "yes" | "zero" | "normal";
  /** What a number beyond the largest becomes when it is encoded. */
  readonly overflow: "saturate" | "infinity" | "nan";
}

/** An integer: (code xor flip) - zero. Two's complement of b bits has flip = zero = 2^(b-1). */
export interface IntElement {
  readonly kind: "int";
  readonly name: string;
  readonly bits: number;
  readonly flip: number;
  readonly zero: number;
}

/** A power of two: 2^(code - bias), but for the code `nan` where there is one. */
export interface ExponentElement {
  readonly kind: "exponent";
  readonly name: string;
  readonly bits: number;
  readonly bias: number;
  readonly nan: number | null;
}

/** A posit as in the standard of 2022: two's complement for negatives, regime run, `es` exponent bits, fraction. */
export interface PositElement {
  readonly kind: "posit";
  readonly name: string;
  readonly bits: number;
  readonly es: number;
}

/** Any finite map: the value of `code` at `lane` is values[code * lanes + lane]. Lanes are 1 but for tuples. */
export interface TableElement {
  readonly kind: "table";
  readonly name: string;
  readonly bits: number;
  readonly lanes: number;
  readonly values: readonly number[];
}

/** A finite map from codes of `bits` bits to numbers. Up to 16 bits every value is a double. */
export type Element = FloatElement | IntElement | ExponentElement | PositElement | TableElement;

/** `count` elements, one after another from bit `bit` of the block, each with its least significant bit first. */
export interface Field {
  readonly name: string;
  readonly element: Element;
  readonly count: number;
  readonly bit: number;
}

/** An integer expression in one index variable; div and mod round down. */
export type Index =
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "variable" }
  | {
      readonly kind: "binary";
      readonly operator: "+" | "-" | "*" | "div" | "mod";
      readonly left: Index;
      readonly right: Index;
    }
  | { readonly kind: "choose"; readonly condition: Condition; readonly yes: Index; readonly no: Index }
  /** The integer that a field holds: an index that depends on the data, such as a group index. */
  | { readonly kind: "stored"; readonly field: Field; readonly index: Index };

export interface Condition {
  readonly operator: "<" | "<=" | ">" | ">=" | "==" | "!=";
  readonly left: Index;
  readonly right: Index;
}

/** `width` bits of a block, chosen by the index variable. */
export type Bits =
  | {
      readonly kind: "slice";
      readonly field: Field;
      readonly element: Index;
      readonly low: Index;
      readonly width: number;
    }
  | { readonly kind: "concat"; readonly high: Bits; readonly low: Bits; readonly width: number }
  | {
      readonly kind: "choose";
      readonly condition: Condition;
      readonly yes: Bits;
      readonly no: Bits;
      readonly width: number;
    }
  /** All bits of another code. */
  | { readonly kind: "code"; readonly code: Code; readonly index: Index; readonly width: number };

/** `count` unsigned integers, each gathered from bits of the fields. */
export interface Code {
  readonly name: string;
  readonly count: number;
  readonly bits: Bits;
}

/** The number at index i of a block; a constant is significand * 2^exponent. */
export type Value =
  | { readonly kind: "constant"; readonly significand: bigint; readonly exponent: number }
  | { readonly kind: "element"; readonly field: Field; readonly index: Index }
  | { readonly kind: "code"; readonly code: Code; readonly index: Index }
  /** The value that an element gives to bits that are no field of it; `lane` where it is a table of tuples. */
  | { readonly kind: "apply"; readonly element: Element; readonly bits: Bits; readonly lane: Index }
  | { readonly kind: "negate"; readonly operand: Value }
  | {
      readonly kind: "binary";
      readonly operator: "+" | "-" | "*";
      readonly left: Value;
      readonly right: Value;
    }
  | { readonly kind: "choose"; readonly condition: Condition; readonly yes: Value; readonly no: Value }
  /** The number of the element nearest to the operand, as encode.ts has it. Only in references. */
  | { readonly kind: "round"; readonly element: Element; readonly operand: Value };

/** One resolved number type: how a block of `blockSize` values is stored in `blockBytes` bytes. */
export interface Type {
  readonly name: string;
  /** Values in one block; 1 for a plain element such as F16. */
  readonly blockSize: number;
  /** Bytes of one block. */
  readonly blockBytes: number;
  /** Numbers that other worlds give this type, from its annotations: `@gguf(2)` is `ids.get("gguf") === 2`. */
  readonly ids: ReadonlyMap<string, number>;
  /** In storage order. */
  readonly fields: readonly Field[];
  /** Exact. Every index that it and the codes use is in range for every i, but for those that the data give. */
  readonly value: Value;
  /** The value as some decoder outside rounds it, operation by operation; null where none is declared. */
  readonly reference: Value | null;
}

/**
 * A format of whole matrices of n rows and k columns, whose layout knows more than one row or more than one buffer.
 * Its sizes depend on the shape: bindTensor (tensor.ts) makes it a Type for one.
 */
export interface Tensor {
  readonly name: string;
  readonly ids: ReadonlyMap<string, number>;
  /** The names of its layouts, the first being the usual one; [""] where it has one without a name. */
  readonly storages: readonly string[];
  readonly declaration: TensorDeclaration;
  /** The text of its file, which its declaration has spans of. */
  readonly source: string;
  /** What the names in its text stand for: elements (as used: "Int<4>") and the numbers of its parameters. */
  readonly names: ReadonlyMap<string, Element | number>;
}

/** One side of a claim. */
export type Endpoint =
  | { readonly kind: "element"; readonly element: Element }
  | { readonly kind: "type"; readonly type: Type }
  | { readonly kind: "tensor"; readonly tensor: Tensor; readonly storage: string };

/** Which blocks a claim speaks of. Codes are raw; `field` is null where the source is a single element. */
export type Restriction =
  | { readonly kind: "codes"; readonly field: string | null; readonly low: number; readonly high: number }
  | { readonly kind: "finite"; readonly field: string | null };

/**
 * What a `convert` states and the prover must discharge. repack: the stored bits map one to one. value: every value is
 * the same number. structure: the values are integers of the target times exact scale terms. rounded: the nearest.
 */
export interface Claim {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly guarantee: "repack" | "value" | "structure" | "rounded";
  /** All must hold. */
  readonly domain: readonly Restriction[];
  /** The target's code as a function of the source's, where the claim names one; both ends are elements then. */
  readonly by: Index | null;
  /** Where it stands, for the message when it does not hold. */
  readonly span: Span;
}

/** One level of a device's memory, a Ladder tile-device layer. */
export interface Memory {
  readonly name: string;
  /** Bytes that are read or written as one. */
  readonly granularity: number;
  /** Granules that one access takes together: lanes that coalesce, banks, registers of a fragment. */
  readonly width: number;
  /** Bytes that one core has of it; null where it counts as endless. */
  readonly capacity: number | null;
  /** MB/s that all cores together read out of it, towards the next level; null where that is never what one waits for. */
  readonly bandwidth: number | null;
}

/** out(m,n) of `accumulate` += a(m,k) of `activation` * w(n,k) of `weight`, m x n x k at once. */
export interface Multiply {
  readonly activation: Element;
  readonly weight: Element;
  readonly accumulate: Element;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Products of one a with one w, in millions a second, by all cores; null where it is not known. */
  readonly rate: number | null;
}

/** `lanes` reads at once from a table with an entry for each code of `index`. */
export interface Lookup {
  readonly index: Element;
  readonly entry: Element;
  readonly lanes: number;
  /** Activations whose sums one table holds, one for each bit of an index; one more where tables are symmetric. */
  readonly k: number;
  /** Entries read and added, in millions a second, by all cores; null where it is not known. */
  readonly rate: number | null;
}

/** Simple operations on lanes of an element: a shift, mask, addition, product or conversion. */
export interface Operate {
  readonly element: Element;
  /** In millions a second, by all cores. */
  readonly rate: number;
}

/** What works at the same time, each on tiles of its own. */
export interface Cores {
  readonly count: number;
  /** From the call until the cores are at work, in ns. */
  readonly start: number;
}

/** Where the device's arithmetic on an element is not that of IEEE 754. */
export interface Caveat {
  readonly kind: "flush_subnormals" | "no_nan" | "no_infinity" | "fuse_multiply_add";
  readonly element: Element;
  readonly certainty: "always" | "maybe";
}

/** What the scheduler may assume of a machine. */
export interface DeviceModel {
  readonly name: string;
  /** From the farthest to the nearest. */
  readonly memories: readonly Memory[];
  readonly natives: readonly Element[];
  readonly multiplies: readonly Multiply[];
  readonly lookups: readonly Lookup[];
  readonly operates: readonly Operate[];
  readonly cores: Cores;
  readonly caveats: readonly Caveat[];
}

/** A matrix product by name: out(m,n) = a(m,k) . w(n,k)^T, summed in `accumulate`. */
export interface GemmSignature {
  readonly name: string;
  readonly activations: Endpoint;
  readonly weights: Endpoint;
  readonly accumulate: Element;
  readonly out: Element;
  /** The memory at which weights are converted, where it is pinned. */
  readonly place: string | null;
}

/** All that a set of `.ladder` files declares. */
export interface Program {
  /** Blocks, and elements of whole bytes. */
  readonly types: ReadonlyMap<string, Type>;
  /** Every element without parameters, also those that are types. */
  readonly elements: ReadonlyMap<string, Element>;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly claims: readonly Claim[];
  readonly devices: ReadonlyMap<string, DeviceModel>;
  readonly gemms: ReadonlyMap<string, GemmSignature>;
}
