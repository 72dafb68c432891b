// When arithmetic in doubles is exact: ranges of numbers, carried through sums and products.
// A value whose operands never round gives the double nearest to the exact one, whatever the bytes.
// Not here: the decoding itself (codec.ts).

import { elementValue, toNumber } from "./exact.ts";
import type { FloatField, MappedCodes, MappedStructure, MappedTerm } from "./layout.ts";
import type { Element, Value } from "./type.ts";

/** Bits of an integer that is read into a double. */
const MAX_READ_BITS = 53;

/** Numbers that are doubles: multiples of 2^low of size below 2^high, with at most `bits` significant bits. */
interface Range {
  readonly low: number;
  readonly high: number;
  readonly bits: number;
}

/**
 * Whether an expression in doubles rounds at its last operation at most: then it gives the double nearest to the exact
 * value, whatever the bytes.
 */
export function operandsAreExact(value: Value): boolean {
  if (value.kind === "choose") return operandsAreExact(value.yes) && operandsAreExact(value.no);
  if (value.kind === "negate") return operandsAreExact(value.operand);
  if (value.kind !== "binary") return rangeOf(value) !== null;
  return rangeOf(value.left) !== null && rangeOf(value.right) !== null;
}

/** The same for scale * (code - zero), or for that plus offset. */
export function roundsOnce({ codes, zero, scale, offset }: MappedStructure): boolean {
  const steps = plus(codesRange(codes), numberRange(zero));
  const factor = termRange(scale);
  if (offset === null) return steps !== null && factor !== null;
  return times(factor, steps) !== null && termRange(offset) !== null;
}

const FIELD_RANGES: Readonly<Record<FloatField["format"], Range>> = {
  f16: { low: -24, high: 16, bits: 11 },
  bf16: { low: -133, high: 128, bits: 8 },
  f32: { low: -149, high: 128, bits: 24 },
};

/** The range of a term multiplied out from left to right, as termReader does. */
function termRange({ constant, fields, codes }: MappedTerm): Range | null {
  let range = numberRange(constant);
  for (const { format } of fields) range = times(range, FIELD_RANGES[format]);
  return codes === null ? range : times(range, plus(codesRange(codes), numberRange(codes.bias)));
}

function codesRange({ bits, map }: MappedCodes): Range | null {
  return map === null ? unsignedRange(bits) : listRange(map);
}

/** A range that holds all of the numbers that are finite. */
function listRange(numbers: Iterable<number>): Range | null {
  let [low, high, bits] = [0, 1, 1];
  for (const x of numbers) {
    if (!Number.isFinite(x)) continue;
    const one = numberRange(x);
    if (one === null) return null;
    [low, high, bits] = [Math.min(low, one.low), Math.max(high, one.high), Math.max(bits, one.bits)];
  }
  // The numbers are doubles each, so none has more bits than its own.
  return exactRange({ low, high, bits });
}

function unsignedRange(bits: number): Range | null {
  return exactRange({ low: 0, high: bits, bits });
}

/** The range that holds nothing but 0, which adds nothing. */
const ZERO: Range = { low: 0, high: 0, bits: 0 };
const isZero = ({ low, high, bits }: Range): boolean => low === 0 && high === 0 && bits === 0;

/** The range of one double. */
function numberRange(x: number): Range | null {
  if (x === 0) return ZERO;
  let low = 0;
  let whole = Math.abs(x);
  for (; !Number.isInteger(whole); low--) whole *= 2;
  const digits = whole.toString(2);
  const bits = digits.replace(/0+$/, "").length;
  return exactRange({ low: low + digits.length - bits, high: low + digits.length, bits });
}

function times(a: Range | null, b: Range | null): Range | null {
  if (a === null || b === null) return null;
  return exactRange({ low: a.low + b.low, high: a.high + b.high, bits: a.bits + b.bits });
}

function plus(a: Range | null, b: Range | null): Range | null {
  if (a === null || b === null) return null;
  if (isZero(a)) return b;
  if (isZero(b)) return a;
  const low = Math.min(a.low, b.low);
  const high = Math.max(a.high, b.high) + 1;
  return exactRange({ low, high, bits: high - low });
}

/** The range of a value whose evaluation in doubles never rounds, whatever the bytes; null where it may. */
function rangeOf(value: Value): Range | null {
  switch (value.kind) {
    case "negate":
      return rangeOf(value.operand);
    case "constant": {
      const bits = value.significand.toString(2).length;
      return exactRange({ low: value.exponent, high: value.exponent + bits, bits });
    }
    case "code":
      return unsignedRange(value.code.bits.width);
    case "element":
      return elementRange(value.field.element);
    case "apply":
      return elementRange(value.element);
    case "round":
      return null;
    case "choose": {
      const [a, b] = [rangeOf(value.yes), rangeOf(value.no)];
      if (a === null || b === null) return null;
      const bits = Math.max(a.bits, b.bits);
      return exactRange({ low: Math.min(a.low, b.low), high: Math.max(a.high, b.high), bits });
    }
    case "binary": {
      const combine = value.operator === "*" ? times : plus;
      return combine(rangeOf(value.left), rangeOf(value.right));
    }
  }
}

/** The range of an element's finite values; null for integers too wide to be read as one double. */
function elementRange(element: Element): Range | null {
  if (element.kind === "int") {
    if (element.bits > MAX_READ_BITS) return null;
    const bits = Math.max(element.zero, 2 ** element.bits - 1 - element.zero).toString(2).length;
    return exactRange({ low: 0, high: bits, bits });
  }
  if (element.kind !== "float") return listRange(numbersOf(element));
  const { exponent, mantissa, bias, special, subnormals } = element;
  const top = 2 ** exponent - (special === "ieee" ? 2 : 1);
  const least = subnormals === "normal" ? 0 : 1;
  return exactRange({ low: least - bias - mantissa, high: Math.max(top, 1) - bias + 1, bits: mantissa + 1 });
}

const lists = new WeakMap<Element, Float64Array>();

/** All values of an element of at most 16 bits: that of `code` at `lane` is the entry code * lanes + lane. */
export function numbersOf(element: Element): Float64Array {
  const known = lists.get(element);
  if (known !== undefined) return known;
  const lanes = element.kind === "table" ? element.lanes : 1;
  const list = Float64Array.from({ length: lanes * 2 ** element.bits }, (_, k) =>
    toNumber(elementValue(element, BigInt(Math.floor(k / lanes)), k % lanes)),
  );
  lists.set(element, list);
  return list;
}

function exactRange(range: Range): Range | null {
  const bits = Math.min(range.bits, range.high - range.low);
  return bits <= 53 && range.low >= -1074 && range.high <= 1024 ? { ...range, bits } : null;
}
