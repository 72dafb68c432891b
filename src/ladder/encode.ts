// Numbers to codes: the code of an element whose value is nearest to a number, ties to the even code.
// Beyond the largest number an element saturates or goes to its infinity or NaN, as its declaration says.
// Not here: how a quantiser chooses scales (model/quantize.ts).

import { add, elementValue, type Exact, exactNumber, fromNumber, multiply, negate, toNumber } from "./exact.ts";
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
  return BigInt(encodeListed(element, x));
}

/** Up to this width all values of an element are listed and sorted. */
const LISTED_BITS = 16;

function encodeInteger({ name, bits, flip, zero }: IntElement, x: Exact): bigint {
  if (x.kind === "nan") throw new RangeError(`${name} has no NaN`);
  const least = -BigInt(zero);
  const most = 2n ** BigInt(bits) - 1n + least;
  let value = x.negative ? least : most;
  if (x.kind === "finite") {
    const nearest = roundInteger(x.negative ? -x.significand : x.significand, x.exponent);
    value = nearest < least ? least : nearest > most ? most : nearest;
  }
  return (value + BigInt(zero)) ^ BigInt(flip);
}

/** significand * 2^exponent to the nearest whole number, ties to even. */
function roundInteger(significand: bigint, exponent: number): bigint {
  if (exponent >= 0) return significand << BigInt(Math.min(exponent, 4096));
  const drop = BigInt(-exponent);
  const kept = significand >> drop;
  const twice = (significand - (kept << drop)) * 2n;
  const one = 1n << drop;
  return twice > one || (twice === one && (kept & 1n) === 1n) ? kept + 1n : kept;
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
    const scaled = roundInteger(x.significand, x.exponent - (power - bias - mantissa));
    code = (BigInt(power - 1) << BigInt(mantissa)) + scaled;
  }
  if (code >= end) {
    if (overflow === "nan") return nan;
    const isInfinite = overflow === "infinity" || (x.kind === "infinite" && special === "ieee");
    code = isInfinite ? end : end - 1n;
  }
  // The code of -0 is NaN where special is fnuz.
  return x.negative && !(code === 0n && special === "fnuz") ? code | fields : code;
}

/** The finite numbers of an element, ascending and each once, with the codes that stand for them. */
interface Listing {
  readonly values: readonly number[];
  readonly codes: readonly number[];
  readonly minusZero: number | null;
  readonly nan: number | null;
  readonly infinities: { readonly plus: number | null; readonly minus: number | null };
}

const listings = new WeakMap<Element, Listing>();

function listingOf(element: Element): Listing {
  const known = listings.get(element);
  if (known !== undefined) return known;
  const all = Array.from({ length: 2 ** element.bits }, (_, code) => ({
    code,
    value: toNumber(elementValue(element, BigInt(code), 0)),
  }));
  const codeOf = (wanted: number): number | null => all.find(({ value }) => Object.is(value, wanted))?.code ?? null;
  const minusZero = codeOf(-0);
  const plusZero = codeOf(0);
  const finite = all
    .filter(({ code, value }) => Number.isFinite(value) && !(code === minusZero && plusZero !== null))
    .toSorted((a, b) => a.value - b.value || a.code - b.code)
    .filter(({ value }, k, sorted) => k === 0 || value !== sorted[k - 1]!.value);
  const listing: Listing = {
    values: finite.map(({ value }) => value),
    codes: finite.map(({ code }) => code),
    minusZero,
    nan: codeOf(Number.NaN),
    infinities: { plus: codeOf(Number.POSITIVE_INFINITY), minus: codeOf(Number.NEGATIVE_INFINITY) },
  };
  listings.set(element, listing);
  return listing;
}

function encodeListed(element: Element, x: Exact): number {
  const listing = listingOf(element);
  const { values, codes, minusZero, nan, infinities } = listing;
  if (x.kind === "nan") {
    if (nan === null) throw new RangeError(`${element.name} has no NaN`);
    return nan;
  }
  const { negative } = x;
  if (x.kind === "finite" && x.significand === 0n && negative && minusZero !== null) return minusZero;
  const last = values.length - 1;
  const double = toNumber(x);
  // The first value that is at least x.
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(values[middle]!, x, double) < 0) low = middle + 1;
    else high = middle;
  }
  if (low <= last && compare(values[low]!, x, double) === 0) return codes[low]!;
  if (low > 0 && low <= last) {
    const side = sideOf(element, listing, low, x);
    const nearest = side < 0 || (side === 0 && codes[low - 1]! % 2 === 0) ? low - 1 : low;
    // A negative number that goes to zero goes to -0.
    return values[nearest] === 0 && negative && minusZero !== null ? minusZero : codes[nearest]!;
  }
  const infinite = negative ? infinities.minus : infinities.plus;
  if (x.kind === "infinite" && infinite !== null) return infinite;
  const end = low === 0 ? 0 : last;
  const overflow = element.kind === "float" ? element.overflow : "saturate";
  if (overflow === "saturate" || !isBeyond(values, codes, end, x)) return codes[end]!;
  if (overflow === "nan") return nan ?? codes[end]!;
  return infinite ?? codes[end]!;
}

/** Below 0 where x is nearer to values[at - 1], above 0 where it is nearer to values[at], 0 in the middle. */
function sideOf(element: Element, { values, codes }: Listing, at: number, x: Exact): number {
  if (element.kind !== "posit") return compareTwice(values[at - 1]!, values[at]!, x);
  // Never to zero; else the middle is the posit between the two that has one bit more.
  if (values[at - 1] === 0) return 1;
  if (values[at] === 0) return -1;
  const wider = { ...element, bits: element.bits + 1 };
  const middle = toNumber(elementValue(wider, BigInt(2 * codes[at - 1]! + 1), 0));
  return -compare(middle, x, toNumber(x));
}

/** Whether x rounds to what would be the next value beyond the one at `end`: it is at least half a step further. */
function isBeyond(values: readonly number[], codes: readonly number[], end: number, x: Exact): boolean {
  if (x.kind !== "finite" || values.length < 2) return true;
  const edge = values[end]!;
  const next = 2 * edge - values[end === 0 ? 1 : end - 1]!;
  const side = compareTwice(edge, next, x) * (end === 0 ? -1 : 1);
  return side > 0 || (side === 0 && codes[end]! % 2 === 1);
}

/** The sign of value - x, of which `double` is the nearest double: rounding is monotone, so other doubles lie as it does. */
function compare(value: number, x: Exact, double: number): number {
  if (value !== double) return value < double ? -1 : 1;
  return -signOf(add(x, negate(fromNumber(value))));
}

/** The sign of 2x - (a + b). */
function compareTwice(a: number, b: number, x: Exact): number {
  return signOf(add(multiply(x, exactNumber(2n)), negate(add(fromNumber(a), fromNumber(b)))));
}

function signOf(x: Exact): number {
  if (x.kind === "nan") return 0;
  if (x.kind === "finite" && x.significand === 0n) return 0;
  return x.negative ? -1 : 1;
}
