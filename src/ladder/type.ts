// What the language describes once names are resolved: types as data, nothing computed yet.
// Not here: the text (grammar.ts, ast.ts), what a value is (exact.ts), bytes to numbers (codec.ts), layouts (layout.ts).
// A block is one string of bits: bit k is bit k mod 8 (0 = least significant) of byte k div 8.

/** Sign, exponent, mantissa from the top bit down; the codes that are no ordinary numbers are named by `special`. */
export interface FloatElement {
  readonly kind: "float";
  readonly name: string;
  /** 1 + exponent + mantissa. */
  readonly bits: number;
  readonly exponent: number;
  readonly mantissa: number;
  readonly bias: number;
  /**
   * ieee: the top exponent is infinity (mantissa 0) and NaN; fn: all ones below the sign is NaN, no infinity;
   * fnuz: the code of -0 is NaN, no infinity; none: every code is a number.
   */
  readonly special: "ieee" | "fn" | "fnuz" | "none";
}

/** An integer: (code xor flip) - zero. Two's complement of b bits has flip = zero = 2^(b-1). */
export interface IntElement {
  readonly kind: "int";
  readonly name: string;
  readonly bits: number;
  readonly flip: number;
  readonly zero: number;
}

export type Element = FloatElement | IntElement;

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
    };

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
    };

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
  | { readonly kind: "negate"; readonly operand: Value }
  | {
      readonly kind: "binary";
      readonly operator: "+" | "-" | "*";
      readonly left: Value;
      readonly right: Value;
    };

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
  /** Every index that `value` and the codes use is in range, for every i below their counts. */
  readonly value: Value;
}

/** All that a set of `.ladder` files declares. */
export interface Program {
  readonly types: ReadonlyMap<string, Type>;
}
