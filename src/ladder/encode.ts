// Numbers to codes: the code of an element whose value is nearest to a number, ties to the even code.
// Beyond the largest number an element saturates or goes to its infinity or NaN, as its declaration says. What is
// below the least of an element without a sign is not too large, and goes to the least.
// Not here: how a quantiser chooses scales (model/quantize.ts).

import { add, elementValue, type Exact, exactNumber, fromNumber, multiply, negate, toNumber } from "./exact.ts";
import { numbersOf } from "./listed.ts";
import type { Element, FloatElement, IntElement } from "./type.ts";

/**
 * The code of `element` nearest to `x`; between two, the even one. Posits round as their standard says: in the code
 * with one bit more, and never to zero or NaR. NaN goes to the lowest NaN code, -0 to -0 where there is one.
 * @throws RangeError where `x` is NaN and the element has none, or where the element is a table of tuples
 */
export function encode(element: Element, x: Exact): bigint {
  if (element.kind === "table" && element.lanes > 1) {
    throw new RangeError(`a code of ${element.name} stands for ${element.lanes} numbers, and one was given`);
  }
  if (element.kind === "int") return encodeInteger(element, x);
  if (element.kind === "float" && element.bits > LISTED_BITS) return encodeFloat(element, x);
  return BigInt(encodeListed(element, toNumber(x), x));
}

/**
 * What encode gives for a double; for an element of up to 16 bits without exact arithmetic, but where a middle is none.
 * @throws RangeError as encode
 */
export function encodeDouble(element: Element, x: number): bigint {
  const isListed = element.kind !== "int" && element.bits <= LISTED_BITS;
  if (!isListed || (element.kind === "table" && element.lanes > 1)) return encode(element, fromNumber(x));
  return BigInt(encodeListed(element, x, null));
}

/** Up to this width all values of an element are listed and sorted. */
const LISTED_BITS = 16;

function encodeInteger({ name, bits, flip, zero }: IntElement, x: Exact): bigint {
  if (x.kind === "nan") throw new RangeError(`${name} has no NaN`);
  const least = -BigInt(zero);
  const most = 2n ** BigInt(bits) - 1n + least;
  let value = x.negative ? least : most;
  if (x.kind === "finite") {
    // Where zero is odd, the odd codes are those of the even numbers.
    const odd = BigInt(((zero ^ flip) & 1) ^ 1);
    const nearest = roundInteger(x.negative ? -x.significand : x.significand, x.exponent, odd);
    value = nearest < least ? least : nearest > most ? most : nearest;
  }
  return (value + BigInt(zero)) ^ BigInt(flip);
}

/**
 * significand * 2^exponent to the nearest whole number.
 * @param odd the last bit of the whole numbers whose codes are odd, to which no tie goes
 */
function roundInteger(significand: bigint, exponent: number, odd: bigint): bigint {
  if (exponent >= 0) return significand << BigInt(Math.min(exponent, 4096));
  const drop = BigInt(-exponent);
  const kept = significand >> drop;
  const twice = (significand - (kept << drop)) * 2n;
  const one = 1n << drop;
  return twice > one || (twice === one && (kept & 1n) === odd) ? kept + 1n : kept;
}

/** A float too wide to list, with subnormals: the fields of an IEEE number follow each other, so a carry is right. */
function encodeFloat({ name, exponent, mantissa, bias, special, sign, overflow }: FloatElement, x: Exact): bigint {
  const fields = 1n << BigInt(exponent + mantissa);
  const top = ((1n << BigInt(exponent)) - 1n) << BigInt(mantissa);
  // The code of infinity, or the first beyond the largest number.
  const end = special === "ieee" ? top : special === "fn" ? fields - 1n : fields;
  const nan = special === "ieee" ? top | (1n << BigInt(mantissa - 1)) : special === "fn" ? fields - 1n : fields;
  if (x.kind === "nan") {
    if (special === "none") throw new RangeError(`${name} has no NaN`);
    return nan;
  }
  if (x.negative && sign === "no") return 0n;
  let code = end;
  if (x.kind === "finite") {
    const size = x.significand === 0n ? Number.NEGATIVE_INFINITY : x.significand.toString(2).length + x.exponent;
    const power = Math.max(size - 1 + bias, 1);
    // In units of the last place of this size; a subnormal has no leading one to take away.
    const scaled = roundInteger(x.significand, x.exponent - (power - bias - mantissa), 1n);
    code = (BigInt(power - 1) << BigInt(mantissa)) + scaled;
  }
  if (code >= end) {
    const isInfinite = overflow === "infinity" || (x.kind === "infinite" && special === "ieee");
    if (overflow === "nan" && !isInfinite) return nan;
    code = isInfinite ? end : end - 1n;
  }
  // The code of -0 is NaN where special is fnuz.
  return x.negative && !(code === 0n && special === "fnuz") ? code | fields : code;
}

/** The finite numbers of an element, ascending and each once, with the codes that stand for them. */
interface Listing {
  readonly values: Float64Array;
  readonly codes: readonly number[];
  readonly minusZero: number | null;
  readonly nan: number | null;
  readonly infinities: { readonly plus: number | null; readonly minus: number | null };
}

const listings = new WeakMap<Element, Listing>();

function listingOf(element: Element): Listing {
  const known = listings.get(element);
  if (known !== undefined) return known;
  const numbers = numbersOf(element);
  const codeOf = (wanted: number): number | null => {
    const code = numbers.findIndex((x) => Object.is(x, wanted));
    return code === -1 ? null : code;
  };
  const minusZero = codeOf(-0);
  const plusZero = codeOf(0);
  const codes = Array.from(numbers.keys())
    .filter((code) => Number.isFinite(numbers[code]) && !(code === minusZero && plusZero !== null))
    .toSorted((a, b) => numbers[a]! - numbers[b]! || a - b)
    .filter((code, k, sorted) => k === 0 || numbers[code] !== numbers[sorted[k - 1]!]);
  const listing: Listing = {
    values: Float64Array.from(codes, (code) => numbers[code]!),
    codes,
    minusZero,
    nan: codeOf(Number.NaN),
    infinities: { plus: codeOf(Number.POSITIVE_INFINITY), minus: codeOf(Number.NEGATIVE_INFINITY) },
  };
  listings.set(element, listing);
  return listing;
}

/** @param x the number of which `double` is the nearest double; null where it is that double */
function encodeListed(element: Element, double: number, x: Exact | null): number {
  const listing = listingOf(element);
  const { values, codes, minusZero, nan, infinities } = listing;
  if (Number.isNaN(double)) {
    if (nan === null) throw new RangeError(`${element.name} has no NaN`);
    return nan;
  }
  // Rounding to a double keeps the sign, of zeros too.
  const negative = double < 0 || Object.is(double, -0);
  const isZero = x === null ? double === 0 : x.kind === "finite" && x.significand === 0n;
  if (isZero && negative && minusZero !== null) return minusZero;
  // A negative number that goes to zero goes to -0.
  const codeAt = (at: number): number => (values[at] === 0 && negative && minusZero !== null ? minusZero : codes[at]!);
  const last = values.length - 1;
  // The first value that is at least x.
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(values[middle]!, double, x) < 0) low = middle + 1;
    else high = middle;
  }
  if (low <= last && compare(values[low]!, double, x) === 0) return codes[low]!;
  if (low > 0 && low <= last) {
    const side = sideOf(element, listing, low, double, x);
    const nearest = side < 0 || (side === 0 && codes[low - 1]! % 2 === 0) ? low - 1 : low;
    return codeAt(nearest);
  }
  const infinite = negative ? infinities.minus : infinities.plus;
  const isInfinite = x === null ? !Number.isFinite(double) : x.kind === "infinite";
  if (isInfinite && infinite !== null) return infinite;
  const end = low === 0 ? 0 : last;
  const overflow = overflowAt(element, low === 0);
  if (overflow === "saturate" || !(isInfinite || isBeyond(listing, end, double, x))) return codeAt(end);
  return (overflow === "nan" ? nan : infinite) ?? codeAt(end);
}

/** What becomes of a number beyond the largest or, where `below`, the least; below a float without a sign it saturates. */
function overflowAt(element: Element, below: boolean): FloatElement["overflow"] {
  return element.kind !== "float" || (below && element.sign !== "yes") ? "saturate" : element.overflow;
}

/** Below 0 where x is nearer to values[at - 1], above 0 where it is nearer to values[at], 0 in the middle. */
function sideOf(element: Element, { values, codes }: Listing, at: number, double: number, x: Exact | null): number {
  if (element.kind !== "posit") return compareTwice(values[at - 1]!, values[at]!, double, x);
  // Never to zero; else the middle is the posit between the two that has one bit more.
  if (values[at - 1] === 0) return 1;
  if (values[at] === 0) return -1;
  const wider = { ...element, bits: element.bits + 1 };
  const middle = toNumber(elementValue(wider, BigInt(2 * codes[at - 1]! + 1), 0));
  return -compare(middle, double, x);
}

/** Whether x rounds to what would be the next value beyond the one at `end`: it is at least half a step further. */
function isBeyond({ values, codes }: Listing, end: number, double: number, x: Exact | null): boolean {
  if (values.length < 2) return true;
  const edge = values[end]!;
  const next = 2 * edge - values[end === 0 ? 1 : end - 1]!;
  const side = compareTwice(edge, next, double, x) * (end === 0 ? -1 : 1);
  return side > 0 || (side === 0 && codes[end]! % 2 === 1);
}

/** The sign of value - x, of which `double` is the nearest double: rounding is monotone, so other doubles lie as it does. */
function compare(value: number, double: number, x: Exact | null): number {
  if (value !== double) return value < double ? -1 : 1;
  return x === null ? 0 : -signOf(add(x, negate(fromNumber(value))));
}

/** The sign of 2x - (a + b). */
function compareTwice(a: number, b: number, double: number, x: Exact | null): number {
  const sum = a + b;
  // What is left of one term is the other where nothing was rounded; half of the sum may be too small for a double.
  const isExact = sum - a === b && sum - b === a && (sum / 2) * 2 === sum;
  if (isExact) return -compare(sum / 2, double, x);
  const twice = multiply(x ?? fromNumber(double), exactNumber(2n));
  return signOf(add(twice, negate(add(fromNumber(a), fromNumber(b)))));
}

function signOf(x: Exact): number {
  if (x.kind === "nan") return 0;
  if (x.kind === "finite" && x.significand === 0n) return 0;
  return x.negative ? -1 : 1;
}
