// The index and bit expressions of a type, worked out for one value of the index variable.
// Not here: the numbers that the bits stand for (exact.ts).

import type { Bits, Condition, Field, Index } from "./type.ts";

/** Index expressions stay within +-2^31, so that every step is exact in a double. */
const MAX_INDEX = 2 ** 31;

type BinaryIndex = Index & { readonly kind: "binary" };

const ARITHMETIC: Readonly<Record<BinaryIndex["operator"], (left: number, right: number) => number>> = {
  "+": (left, right) => left + right,
  "-": (left, right) => left - right,
  "*": (left, right) => left * right,
  div: (left, right) => Math.floor(left / right),
  mod: (left, right) => left - right * Math.floor(left / right),
};

const COMPARISON: Readonly<Record<Condition["operator"], (left: number, right: number) => boolean>> = {
  "<": (left, right) => left < right,
  "<=": (left, right) => left <= right,
  ">": (left, right) => left > right,
  ">=": (left, right) => left >= right,
  "==": (left, right) => left === right,
  "!=": (left, right) => left !== right,
};

/** The integer that an index expression gives at `i`; NaN where it divides by zero or leaves +-2^31. */
export function indexAt(index: Index, i: number): number {
  if (index.kind === "constant") return index.value;
  if (index.kind === "variable") return i;
  const result = ARITHMETIC[index.operator](indexAt(index.left, i), indexAt(index.right, i));
  return Math.abs(result) <= MAX_INDEX ? result : Number.NaN;
}

/** Whether a condition holds at `i`. */
export function conditionAt(condition: Condition, i: number): boolean {
  return COMPARISON[condition.operator](indexAt(condition.left, i), indexAt(condition.right, i));
}

/** The positions in the block of the bits at `i`, the least significant first. */
export function bitsAt(bits: Bits, i: number): readonly number[] {
  if (bits.kind === "choose") return bitsAt(conditionAt(bits.condition, i) ? bits.yes : bits.no, i);
  if (bits.kind === "concat") return [...bitsAt(bits.low, i), ...bitsAt(bits.high, i)];
  const { field } = bits;
  const first = field.bit + indexAt(bits.element, i) * field.element.bits + indexAt(bits.low, i);
  return Array.from({ length: bits.width }, (_, k) => first + k);
}

/** The positions in the block of the bits of element `index` of a field, the least significant first. */
export function elementBits(field: Field, index: number): readonly number[] {
  const first = field.bit + index * field.element.bits;
  return Array.from({ length: field.element.bits }, (_, k) => first + k);
}
