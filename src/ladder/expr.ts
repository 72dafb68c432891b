// The index and bit expressions of a type, worked out for one value of the index variable.
// Not here: the numbers that the bits stand for (exact.ts).

import type { Bits, Condition, Field, Index } from "./type.ts";

/** Index expressions stay within +-2^31, so that every step is exact in a double. */
const MAX_INDEX = 2 ** 31;

type BinaryIndex = Index & { readonly kind: "binary" };

/** What the operators of an index do. */
export const ARITHMETIC: Readonly<Record<BinaryIndex["operator"], (left: number, right: number) => number>> = {
  "+": (left, right) => left + right,
  "-": (left, right) => left - right,
  "*": (left, right) => left * right,
  div: (left, right) => Math.floor(left / right),
  mod: (left, right) => left - right * Math.floor(left / right),
};

/** What the comparisons of a condition do. */
export const COMPARISON: Readonly<Record<Condition["operator"], (left: number, right: number) => boolean>> = {
  "<": (left, right) => left < right,
  "<=": (left, right) => left <= right,
  ">": (left, right) => left > right,
  ">=": (left, right) => left >= right,
  "==": (left, right) => left === right,
  "!=": (left, right) => left !== right,
};

/** No bytes at hand: what the data give cannot be worked out. */
const NO_DATA: Uint8Array = new Uint8Array(0);

/**
 * The integer that an index expression gives at `i`; NaN where it divides by zero or leaves +-2^31.
 * @param block the bytes that stored indices are read from; an index that reads any is NaN without them
 */
export function indexAt(index: Index, i: number, block: Uint8Array = NO_DATA): number {
  switch (index.kind) {
    case "constant":
      return index.value;
    case "variable":
      return i;
    case "choose":
      return indexAt(conditionAt(index.condition, i, block) ? index.yes : index.no, i, block);
    case "stored":
      return block === NO_DATA ? Number.NaN : storedAt(index.field, indexAt(index.index, i, block), block);
    case "binary": {
      const { operator } = index;
      const result = ARITHMETIC[operator](indexAt(index.left, i, block), indexAt(index.right, i, block));
      return Math.abs(result) <= MAX_INDEX ? result : Number.NaN;
    }
  }
}

/**
 * Bounds of indexAt for every i from `low` to `high`, by interval arithmetic: all results lie in them, though they need
 * not reach them. Null where none are found this way, as where it may divide by zero or leave +-2^31.
 */
export function boundsOf(index: Index, low: number, high: number): readonly [least: number, most: number] | null {
  switch (index.kind) {
    case "constant":
      return [index.value, index.value];
    case "variable":
      return [low, high];
    case "stored":
      return null;
    case "choose": {
      const [yes, no] = [boundsOf(index.yes, low, high), boundsOf(index.no, low, high)];
      return yes === null || no === null ? null : [Math.min(yes[0], no[0]), Math.max(yes[1], no[1])];
    }
    case "binary": {
      const [left, right] = [boundsOf(index.left, low, high), boundsOf(index.right, low, high)];
      if (left === null || right === null) return null;
      const bounds = boundsOfBinary(index.operator, left, right);
      return bounds !== null && bounds[0] >= -MAX_INDEX && bounds[1] <= MAX_INDEX ? bounds : null;
    }
  }
}

function boundsOfBinary(
  operator: BinaryIndex["operator"],
  [a, b]: readonly [number, number],
  [c, d]: readonly [number, number],
): readonly [number, number] | null {
  if (operator === "+") return [a + c, b + d];
  if (operator === "-") return [a - d, b - c];
  if (operator === "*") {
    const corners = [a * c, a * d, b * c, b * d];
    return [Math.min(...corners), Math.max(...corners)];
  }
  // By one positive number, which is what formats divide by.
  if (c !== d || c < 1) return null;
  const [first, last] = [Math.floor(a / c), Math.floor(b / c)];
  if (operator === "div") return [first, last];
  return first === last ? [a - c * first, b - c * first] : [0, c - 1];
}

/** Room for the operands of nested operations, one for each depth; made once, since most texts have thousands. */
const rooms: Float64Array[] = [];

function room(depth: number, size: number): Float64Array {
  const known = rooms[depth];
  if (known !== undefined && known.length >= size) return known;
  return (rooms[depth] = new Float64Array(Math.max(size, 256)));
}

/**
 * indexAt at every i of a domain, one operation over all of them at a time: an order of magnitude faster. The result
 * has at least as many numbers as the domain, and holds until the next call with the same depth or a lower one.
 */
export function indexOver(index: Index, domain: readonly number[], depth = 0): Float64Array {
  const all = room(depth, domain.length);
  const count = domain.length;
  if (index.kind === "constant") return all.fill(index.value, 0, count);
  if (index.kind !== "binary") {
    for (let d = 0; d < count; d++) all[d] = indexAt(index, domain[d]!);
    return all;
  }
  const { operator, right } = index;
  indexOver(index.left, domain, depth);
  if (operator === "+" || operator === "-" || operator === "*") {
    const other = indexOver(right, domain, depth + 1);
    if (operator === "+") for (let d = 0; d < count; d++) all[d]! += other[d]!;
    else if (operator === "-") for (let d = 0; d < count; d++) all[d]! -= other[d]!;
    else for (let d = 0; d < count; d++) all[d]! *= other[d]!;
    for (let d = 0; d < count; d++) if (Math.abs(all[d]!) > MAX_INDEX) all[d] = Number.NaN;
    return all;
  }
  const other = indexOver(right, domain, depth + 1);
  const isMod = operator === "mod";
  for (let d = 0; d < count; d++) {
    const quotient = Math.floor(all[d]! / other[d]!);
    const result = isMod ? all[d]! - other[d]! * quotient : quotient;
    all[d] = Math.abs(result) <= MAX_INDEX ? result : Number.NaN;
  }
  return all;
}

/** Whether a condition holds at `i`. */
export function conditionAt(condition: Condition, i: number, block: Uint8Array = NO_DATA): boolean {
  return COMPARISON[condition.operator](indexAt(condition.left, i, block), indexAt(condition.right, i, block));
}

/** The integer in entry `entry` of a field of at most 32 bits an element. */
function storedAt(field: Field, entry: number, block: Uint8Array): number {
  const { element } = field;
  let raw = 0;
  for (const position of elementBits(field, entry).toReversed()) raw = raw * 2 + bitOf(block, position);
  if (element.kind !== "int") return raw;
  // The flip is 0 or the top bit; added or taken away, since xor ends at 31 bits.
  return (element.flip === 0 ? raw : raw < element.flip ? raw + element.flip : raw - element.flip) - element.zero;
}

/** One bit of a block. */
export function bitOf(block: Uint8Array, position: number): number {
  return (block[Math.floor(position / 8)]! >> (position % 8)) & 1;
}

/** Whether an index depends on the data: it reads a stored one. */
export function readsData(index: Index): boolean {
  if (index.kind === "binary") return readsData(index.left) || readsData(index.right);
  if (index.kind !== "choose") return index.kind === "stored";
  const { condition, yes, no } = index;
  return [condition.left, condition.right, yes, no].some(readsData);
}

/** Whether which bits they are depends on the data. */
export function bitsReadData(bits: Bits): boolean {
  switch (bits.kind) {
    case "slice":
      return readsData(bits.element);
    case "concat":
      return bitsReadData(bits.high) || bitsReadData(bits.low);
    case "choose": {
      const { condition, yes, no } = bits;
      return readsData(condition.left) || readsData(condition.right) || bitsReadData(yes) || bitsReadData(no);
    }
    case "code":
      return readsData(bits.index) || bitsReadData(bits.code.bits);
  }
}

/**
 * The positions in the block of the bits at `i`, the least significant first.
 * @throws RangeError where an index that the data give is out of range
 */
export function bitsAt(bits: Bits, i: number, block: Uint8Array = NO_DATA): readonly number[] {
  if (bits.kind === "choose") return bitsAt(conditionAt(bits.condition, i, block) ? bits.yes : bits.no, i, block);
  if (bits.kind === "concat") return [...bitsAt(bits.low, i, block), ...bitsAt(bits.high, i, block)];
  if (bits.kind === "code") return bitsAt(bits.code.bits, indexAt(bits.index, i, block), block);
  const low = firstBit(bits.field, indexAt(bits.element, i, block)) + indexAt(bits.low, i, block);
  return Array.from({ length: bits.width }, (_, k) => low + k);
}

/** The positions in the block of the bits of element `index` of a field, the least significant first. */
export function elementBits(field: Field, index: number): readonly number[] {
  const first = firstBit(field, index);
  return Array.from({ length: field.element.bits }, (_, k) => first + k);
}

/**
 * The position of the lowest bit of element `index` of a field.
 * @throws RangeError where the field has no such element
 */
export function firstBit({ name, element, count, bit }: Field, index: number): number {
  if (index >= 0 && index < count) return bit + index * element.bits;
  const asked = Number.isNaN(index) ? "one beyond 2^31" : `entry ${index}`;
  throw new RangeError(`${name} has entries 0 to ${count - 1}, and the data ask for ${asked}`);
}
