// Exact binary numbers; the number that each code of an element stands for; what the bytes of a block mean. Slow, and the
// definition: codec.ts and layout.ts are fast or symbolic views that must agree with it.
// Signed zeros, infinities and NaN follow IEEE 754 for exact operations rounded to nearest.
// Not here: the way back from numbers to codes (encode.ts), references (rounded.ts).

import { bitOf, bitsAt, conditionAt, elementBits, indexAt } from "./expr.ts";
import type { Element, FloatElement, PositElement, Type, Value } from "./type.ts";

/** (-1)^negative * significand * 2^exponent, or infinity, or NaN. The significand is odd, or 0 with exponent 0. */
export type Exact =
  | {
      readonly kind: "finite";
      readonly negative: boolean;
      readonly significand: bigint;
      readonly exponent: number;
    }
  | { readonly kind: "infinite"; readonly negative: boolean }
  | { readonly kind: "nan" };

/**
 * The value of element `i` of one block.
 * @param block at least `type.blockBytes` bytes; only the first `blockBytes` are read
 * @param i in [0, type.blockSize)
 * @throws RangeError where the block is too short or `i` is out of range
 */
export function exactValue(type: Type, block: Uint8Array, i: number): Exact {
  checkPlace(type, block, i);
  return evaluate(type.value, block, i, refuseToRound);
}

function refuseToRound({ name }: Element): Exact {
  throw new Error(`a value is exact, and this one rounds to ${name}`);
}

/**
 * That a block and an index are those of a type.
 * @throws RangeError as exactValue
 */
export function checkPlace(type: Type, block: Uint8Array, i: number): void {
  if (block.length < type.blockBytes) {
    throw new RangeError(`a block of ${type.name} has ${type.blockBytes} bytes, and ${block.length} were given`);
  }
  if (!(Number.isInteger(i) && i >= 0 && i < type.blockSize)) {
    throw new RangeError(`a block of ${type.name} has values 0 to ${type.blockSize - 1}, and ${i} was asked for`);
  }
}

/**
 * The value that an element gives to one of its codes.
 * @param raw the code, in [0, 2^bits)
 * @param lane of a table of tuples; 0 for all other elements
 */
export function elementValue(element: Element, raw: bigint, lane: number): Exact {
  switch (element.kind) {
    case "int":
      return exactNumber((raw ^ BigInt(element.flip)) - BigInt(element.zero));
    case "float":
      return floatValue(element, raw);
    case "exponent":
      return Number(raw) === element.nan ? { kind: "nan" } : exactNumber(1n, Number(raw) - element.bias);
    case "posit":
      return positValue(element, raw);
    case "table":
      return fromNumber(element.values[Number(raw) * element.lanes + lane]!);
  }
}

/** A double, exactly. */
export function fromNumber(x: number): Exact {
  if (Number.isNaN(x)) return { kind: "nan" };
  const negative = x < 0 || Object.is(x, -0);
  if (!Number.isFinite(x)) return { kind: "infinite", negative };
  let whole = Math.abs(x);
  let exponent = 0;
  // What is no whole number is below 2^53, so that this is exact; zeros at the end are dropped in any case.
  for (; !Number.isInteger(whole); exponent -= 32) whole *= 2 ** 32;
  return finite(negative, BigInt(whole), exponent);
}

/** significand * 2^exponent; the sign of a zero is plus. */
export function exactNumber(significand: bigint, exponent = 0): Exact {
  return finite(significand < 0n, significand < 0n ? -significand : significand, exponent);
}

/** The exact product; infinity times zero is NaN. */
export function multiply(a: Exact, b: Exact): Exact {
  if (a.kind === "nan" || b.kind === "nan") return { kind: "nan" };
  const negative = a.negative !== b.negative;
  if (a.kind === "finite" && b.kind === "finite") {
    return finite(negative, a.significand * b.significand, a.exponent + b.exponent);
  }
  return isZero(a) || isZero(b) ? { kind: "nan" } : { kind: "infinite", negative };
}

/** The exact sum; opposite infinities give NaN, and a zero sum is -0 only where both terms are -0. */
export function add(a: Exact, b: Exact): Exact {
  if (a.kind === "nan" || b.kind === "nan") return { kind: "nan" };
  if (a.kind === "infinite") return b.kind === "infinite" && a.negative !== b.negative ? { kind: "nan" } : a;
  if (b.kind === "infinite") return b;
  const exponent = Math.min(a.exponent, b.exponent);
  const scaled = (x: typeof a): bigint =>
    (x.negative ? -x.significand : x.significand) << BigInt(x.exponent - exponent);
  const sum = scaled(a) + scaled(b);
  // Two negative numbers with the sum 0 are both -0.
  if (sum === 0n) return finite(a.negative && b.negative, 0n, 0);
  return exactNumber(sum, exponent);
}

/** The same number with the other sign; NaN stays NaN. */
export function negate(a: Exact): Exact {
  return a.kind === "nan" ? a : { ...a, negative: !a.negative };
}

/** The nearest double, ties to even; overflow gives infinity, and -0 and NaN are kept. */
export function toNumber(a: Exact): number {
  if (a.kind === "nan") return Number.NaN;
  const sign = a.negative ? -1 : 1;
  if (a.kind === "infinite") return sign * Number.POSITIVE_INFINITY;
  if (a.significand === 0n) return sign * 0;
  const bits = a.significand.toString(2).length;
  if (bits + a.exponent > 1024) return sign * Number.POSITIVE_INFINITY;
  // The last place that a double of this size has: 53 bits down from the top, and never below 2^-1074.
  const last = Math.max(bits + a.exponent - 53, -1074);
  const drop = last - a.exponent;
  let kept = a.significand;
  if (drop > 0) {
    const half = 1n << BigInt(drop - 1);
    const rest = kept & ((half << 1n) - 1n);
    kept >>= BigInt(drop);
    if (rest > half || (rest === half && (kept & 1n) === 1n)) kept += 1n;
  }
  // kept has at most 53 bits (or is 2^53), so each step is exact, and the last overflows only where the value does.
  const exponent = Math.max(last, a.exponent);
  const step = Math.trunc(exponent / 2);
  return sign * Number(kept) * 2 ** step * 2 ** (exponent - step);
}

function finite(negative: boolean, significand: bigint, exponent: number): Exact {
  if (significand === 0n) return { kind: "finite", negative, significand, exponent: 0 };
  // An exponent of -0 is 0, so that equal numbers are equal records.
  if ((significand & 1n) === 1n) return { kind: "finite", negative, significand, exponent: exponent + 0 };
  const zeros = trailingZeros(significand);
  return { kind: "finite", negative, significand: significand >> BigInt(zeros), exponent: exponent + zeros };
}

/** How many zeros a number that is not 0 ends with in binary, 32 bits at a time. */
function trailingZeros(x: bigint): number {
  let zeros = 0;
  let rest = x;
  let low = Number(BigInt.asUintN(32, rest));
  for (; low === 0; low = Number(BigInt.asUintN(32, rest))) {
    rest >>= 32n;
    zeros += 32;
  }
  return zeros + 31 - Math.clz32(low & -low);
}

function isZero(a: Exact): boolean {
  return a.kind === "finite" && a.significand === 0n;
}

/** What a number is rounded to where an expression says so. */
export type Round = (element: Element, x: Exact) => Exact;

/** The value of an expression at `i`, its indices known to be in range; `round` is asked in references only. */
export function evaluate(value: Value, block: Uint8Array, i: number, round: Round): Exact {
  switch (value.kind) {
    case "constant":
      return exactNumber(value.significand, value.exponent);
    case "code":
      return exactNumber(gather(bitsAt(value.code.bits, indexAt(value.index, i, block), block), block));
    case "element": {
      const positions = elementBits(value.field, indexAt(value.index, i, block));
      return elementValue(value.field.element, gather(positions, block), 0);
    }
    case "apply": {
      const raw = gather(bitsAt(value.bits, i, block), block);
      return elementValue(value.element, raw, indexAt(value.lane, i, block));
    }
    case "choose":
      return evaluate(conditionAt(value.condition, i, block) ? value.yes : value.no, block, i, round);
    case "negate":
      return negate(evaluate(value.operand, block, i, round));
    case "round":
      return round(value.element, evaluate(value.operand, block, i, round));
    case "binary": {
      const left = evaluate(value.left, block, i, round);
      const right = evaluate(value.right, block, i, round);
      if (value.operator === "*") return multiply(left, right);
      return add(left, value.operator === "+" ? right : negate(right));
    }
  }
}

function gather(positions: readonly number[], block: Uint8Array): bigint {
  let raw = 0n;
  for (const [k, position] of positions.entries()) raw |= BigInt(bitOf(block, position)) << BigInt(k);
  return raw;
}

function floatValue(element: FloatElement, raw: bigint): Exact {
  const { exponent, mantissa, bias, special, sign, subnormals } = element;
  const fraction = raw & ((1n << BigInt(mantissa)) - 1n);
  const power = Number((raw >> BigInt(mantissa)) & ((1n << BigInt(exponent)) - 1n));
  const negative = sign === "yes" && raw >> BigInt(exponent + mantissa) === 1n;
  const top = power === 2 ** exponent - 1;
  if (special === "ieee" && top) return fraction === 0n ? { kind: "infinite", negative } : { kind: "nan" };
  if (special === "fn" && top && fraction === (1n << BigInt(mantissa)) - 1n) return { kind: "nan" };
  if (special === "fnuz" && negative && power === 0 && fraction === 0n) return { kind: "nan" };
  if (power === 0 && subnormals === "zero") return finite(negative, 0n, 0);
  const isSubnormal = power === 0 && subnormals === "yes";
  const significand = isSubnormal ? fraction : fraction | (1n << BigInt(mantissa));
  return finite(negative, significand, Math.max(power, subnormals === "normal" ? 0 : 1) - bias - mantissa);
}

/** Posit standard 2022, with any es: (1 + fraction) * 2^(2^es * regime + exponent); bits cut off count as 0. */
function positValue({ bits, es }: PositElement, raw: bigint): Exact {
  const code = Number(raw);
  const half = 2 ** (bits - 1);
  if (code === 0) return exactNumber(0n);
  if (code === half) return { kind: "nan" };
  const negative = code > half;
  // Behind the sign: a run of equal bits and the bit that ends it, then es bits, then the fraction.
  const body = (negative ? 2 * half - code : code).toString(2).padStart(bits - 1, "0");
  const run = body.match(/^(?:1+|0+)/)![0].length;
  const regime = body[0] === "1" ? run - 1 : -run;
  const rest = body.slice(run + 1);
  const exponent = Number.parseInt(`0${rest.slice(0, es).padEnd(es, "0")}`, 2);
  const fraction = rest.slice(es);
  return finite(negative, BigInt(`0b1${fraction}`), regime * 2 ** es + exponent - fraction.length);
}
