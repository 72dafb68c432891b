// The declared value in doubles, operation by operation, and a proof by ranges that no operand rounds: what emitted
// decodes are compared with where the exact evaluator would take hours. It shares nothing with them but the type.
// Not here: types that the proof does not reach; for those exactValue is asked, value by value.

import { exactNumber, exactValue, toNumber } from "../../src/ladder/exact.ts";
import { conditionAt, firstBit, indexOver, readsData } from "../../src/ladder/expr.ts";
import { numbersOf } from "../../src/ladder/listed.ts";
import type { Bits, Condition, Element, FloatElement, Index, Type, Value } from "../../src/ladder/type.ts";

/** toNumber(exactValue(...)) for every value of consecutive blocks. */
export function plainDecode(type: Type, bytes: Uint8Array): Float64Array {
  const { blockSize, blockBytes } = type;
  const out = new Float64Array((bytes.length / blockBytes) * blockSize);
  const evaluate = operandsAreExact(type.value)
    ? compileValue(type.value, blockSize)
    : (all: Uint8Array, base: number, i: number): number =>
        toNumber(exactValue(type, all.subarray(base, base + blockBytes), i));
  for (let n = 0; n < out.length; n++) {
    out[n] = evaluate(bytes, Math.floor(n / blockSize) * blockBytes, n % blockSize);
  }
  return out;
}

/** Elements of up to this width are decoded by a list of their values. */
const LISTED_BITS = 16;

/** A number out of the block at `base`, for its element i. */
type Read = (bytes: Uint8Array, base: number, i: number) => number;

/** Blocks whose places are worked out ahead; larger ones are bound tensors, whose places are worked out as they come. */
const MAX_LISTED = 65_536;

/** The value in doubles, operation by operation as declared; operandsAreExact has shown that this is right. */
function compileValue(value: Value, size: number): Read {
  switch (value.kind) {
    case "constant": {
      const constant = toNumber(exactNumber(value.significand, value.exponent));
      return () => constant;
    }
    case "code":
      return compileBits({ kind: "code", code: value.code, index: value.index, width: value.code.bits.width }, size);
    case "element": {
      const { field, index } = value;
      const { element } = field;
      const part = (low: number, width: number): Read =>
        compileSlice(field, index, { kind: "constant", value: low }, width, size);
      if (element.kind !== "float" || element.bits <= LISTED_BITS)
        return compileElement(element, part(0, element.bits), null);
      // In two parts, since 64 bits are more than a double holds.
      const { mantissa, bits } = element;
      return compileFloat(element, part(0, mantissa), part(mantissa, bits - mantissa));
    }
    case "apply": {
      const lane = value.element.kind === "table" && value.element.lanes > 1 ? compileIndex(value.lane, size) : null;
      return compileElement(value.element, compileBits(value.bits, size), lane);
    }
    case "negate": {
      const operand = compileValue(value.operand, size);
      return (bytes, base, i) => -operand(bytes, base, i);
    }
    case "choose": {
      const [yes, no] = [compileValue(value.yes, size), compileValue(value.no, size)];
      const holds = compileCondition(value.condition, size);
      return (bytes, base, i) => (holds(bytes, base, i) ? yes : no)(bytes, base, i);
    }
    case "round":
      throw new Error("a value is exact; round stands in a reference only");
    case "binary": {
      const left = compileValue(value.left, size);
      const right = compileValue(value.right, size);
      if (value.operator === "*") return (bytes, base, i) => left(bytes, base, i) * right(bytes, base, i);
      if (value.operator === "+") return (bytes, base, i) => left(bytes, base, i) + right(bytes, base, i);
      return (bytes, base, i) => left(bytes, base, i) - right(bytes, base, i);
    }
  }
}

/** What an element makes of its code, by the list of its values where it is small. */
function compileElement(element: Element, raw: Read, lane: Read | null): Read {
  if (element.kind === "int") {
    const { flip, zero } = element;
    if (flip === 0) return (bytes, base, i) => raw(bytes, base, i) - zero;
    // The flip is the top bit; added or taken away, since xor ends at 31 bits.
    return (bytes, base, i) => {
      const code = raw(bytes, base, i);
      return (code < flip ? code + flip : code - flip) - zero;
    };
  }
  if (element.kind === "float" && element.bits > LISTED_BITS) {
    const one = 2 ** element.mantissa;
    const rest: Read = (bytes, base, i) => Math.floor(raw(bytes, base, i) / one);
    return compileFloat(element, (bytes, base, i) => raw(bytes, base, i) % one, rest);
  }
  const numbers = numbersOf(element);
  if (lane === null) return (bytes, base, i) => numbers[raw(bytes, base, i)]!;
  const lanes = element.kind === "table" ? element.lanes : 1;
  return (bytes, base, i) => numbers[raw(bytes, base, i) * lanes + lane(bytes, base, i)]!;
}

/** A float too wide to list, from its fraction and what lies above it. */
function compileFloat({ exponent, mantissa, bias, special }: FloatElement, fractionOf: Read, restOf: Read): Read {
  const [one, top] = [2 ** mantissa, 2 ** exponent - 1];
  const units = Float64Array.from({ length: 2 ** exponent }, (_, power) =>
    toNumber(exactNumber(1n, Math.max(power, 1) - bias - mantissa)),
  );
  return (bytes, base, i) => {
    const fraction = fractionOf(bytes, base, i);
    const rest = restOf(bytes, base, i);
    const power = rest % (top + 1);
    const sign = rest > top ? -1 : 1;
    if (special === "ieee" && power === top) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    if (special === "fn" && power === top && fraction === one - 1) return Number.NaN;
    if (special === "fnuz" && sign === -1 && power === 0 && fraction === 0) return Number.NaN;
    return sign * (power === 0 ? fraction : fraction + one) * units[power]!;
  };
}

function compileBits(bits: Bits, size: number): Read {
  switch (bits.kind) {
    case "slice":
      return compileSlice(bits.field, bits.element, bits.low, bits.width, size);
    case "concat": {
      const [high, low] = [compileBits(bits.high, size), compileBits(bits.low, size)];
      const up = 2 ** bits.low.width;
      return (bytes, base, i) => high(bytes, base, i) * up + low(bytes, base, i);
    }
    case "choose": {
      const [yes, no] = [compileBits(bits.yes, size), compileBits(bits.no, size)];
      const holds = compileCondition(bits.condition, size);
      return (bytes, base, i) => (holds(bytes, base, i) ? yes : no)(bytes, base, i);
    }
    case "code": {
      const of = compileBits(bits.code.bits, bits.code.count);
      if (bits.index.kind === "variable") return of;
      const index = compileIndex(bits.index, size);
      return (bytes, base, i) => of(bytes, base, index(bytes, base, i));
    }
  }
}

function compileCondition(condition: Condition, size: number): (bytes: Uint8Array, base: number, i: number) => boolean {
  if (readsData(condition.left) || readsData(condition.right))
    return (bytes, base, i) => conditionAt(condition, i, bytes.subarray(base));
  if (size > MAX_LISTED) return (_bytes, _base, i) => conditionAt(condition, i);
  const holds = Uint8Array.from({ length: size }, (_, i) => Number(conditionAt(condition, i)));
  return (_bytes, _base, i) => holds[i] === 1;
}

function compileSlice(field: Type["fields"][number], element: Index, low: Index, width: number, size: number): Read {
  const [at, shift] = [compileIndex(element, size), compileIndex(low, size)];
  if (readsData(element) || size > MAX_LISTED) {
    // Not every place has been checked before: firstBit does.
    return (bytes, base, i) =>
      unsigned(bytes, base, firstBit(field, at(bytes, base, i)) + shift(bytes, base, i), width);
  }
  const domain = Array.from({ length: size }, (_, i) => i);
  const entries = indexOver(element, domain).slice(0, size);
  const lows = indexOver(low, domain);
  // An entry outside lies in the arm of a condition that is not taken, or where a bound tensor was not checked.
  const start = entries.map((entry, i) =>
    entry >= 0 && entry < field.count ? field.bit + entry * field.element.bits + lows[i]! : Number.NaN,
  );
  return (bytes, base, i) => {
    const first = start[i]!;
    return unsigned(bytes, base, Number.isNaN(first) ? firstBit(field, at(bytes, base, i)) : first, width);
  };
}

function compileIndex(index: Index, size: number): Read {
  if (index.kind === "constant") return () => index.value;
  if (index.kind === "variable") return (_bytes, _base, i) => i;
  if (readsData(index) || size > MAX_LISTED) return compileArithmetic(index, size);
  const domain = Array.from({ length: size }, (_, i) => i);
  const listed = indexOver(index, domain).slice(0, size);
  return (_bytes, _base, i) => listed[i]!;
}

/** An index worked out as it comes: the same as indexAt, but for sums beyond 2^31, which no place reaches. */
function compileArithmetic(index: Index, size: number): Read {
  switch (index.kind) {
    case "constant":
    case "variable":
      return compileIndex(index, size);
    case "stored": {
      const raw = compileSlice(
        index.field,
        index.index,
        { kind: "constant", value: 0 },
        index.field.element.bits,
        size,
      );
      return compileElement(index.field.element, raw, null);
    }
    case "choose": {
      const [yes, no] = [compileIndex(index.yes, size), compileIndex(index.no, size)];
      const holds = compileCondition(index.condition, size);
      return (bytes, base, i) => (holds(bytes, base, i) ? yes : no)(bytes, base, i);
    }
    case "binary": {
      const [left, right] = [compileIndex(index.left, size), compileIndex(index.right, size)];
      switch (index.operator) {
        case "+":
          return (bytes, base, i) => left(bytes, base, i) + right(bytes, base, i);
        case "-":
          return (bytes, base, i) => left(bytes, base, i) - right(bytes, base, i);
        case "*":
          return (bytes, base, i) => left(bytes, base, i) * right(bytes, base, i);
        case "div":
          return (bytes, base, i) => Math.floor(left(bytes, base, i) / right(bytes, base, i));
        case "mod":
          return (bytes, base, i) => {
            const [a, b] = [left(bytes, base, i), right(bytes, base, i)];
            return a - b * Math.floor(a / b);
          };
      }
    }
  }
}

/** `width` bits from bit `start` of the block at `base`, as a number below 2^53. */
function unsigned(bytes: Uint8Array, base: number, start: number, width: number): number {
  let at = base + Math.floor(start / 8);
  const down = start % 8;
  let raw = bytes[at]! >> down;
  if (width < 8 - down) return raw & ((1 << width) - 1);
  for (let have = 8 - down; have < width; have += 8) {
    const byte = bytes[++at]!;
    // What is not wanted of the last byte is left out, so that nothing goes beyond 53 bits.
    raw += (width - have < 8 ? byte & ((1 << (width - have)) - 1) : byte) * 2 ** have;
  }
  return raw;
}

// --- when doubles are exact ------------------------------------------------------------------------------------------

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

function exactRange(range: Range): Range | null {
  const bits = Math.min(range.bits, range.high - range.low);
  return bits <= 53 && range.low >= -1074 && range.high <= 1024 ? { ...range, bits } : null;
}
