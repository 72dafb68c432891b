// The sum of floats as a dot product unit computes it, in exact integers: the definition that float.ts is made to equal.
// Terms are cut some places below the leading one of the term with the largest exponent, summed without loss, and rounded
// once. With two terms, enough places and a sticky one that is the exact sum rounded once.
// Not here: when terms are summed (golden.ts). Formats and their codes are those of the machine's number.ts.

import { FLOATS, type Float } from "../../src/lutcore/number.ts";
import type { FloatOptions } from "./config.ts";

/** A number on its way: (-1)^negative mantissa 2^(exponent - places), whatever the mantissa's size. */
export type Value =
  | {
      readonly kind: "finite";
      readonly negative: boolean;
      readonly mantissa: bigint;
      readonly exponent: number;
      readonly places: number;
    }
  | { readonly kind: "infinite"; readonly negative: boolean }
  | { readonly kind: "nan" };

type Finite = Extract<Value, { readonly kind: "finite" }>;

/** Facts about codes that both sides, this one and the gates, need. */
export interface Codes {
  readonly exponentBits: number;
  readonly fractionBits: number;
  readonly bias: number;
  /** Of the largest finite number. */
  readonly largest: bigint;
  /** What results beyond it become, without their sign. */
  readonly beyond: bigint;
  readonly nan: bigint;
  /** Whether the highest exponent is no number; else only the code with all bits set is none, or all codes are some. */
  readonly top: "special" | "one special" | "ordinary";
}

export function codesOf(float: Float, { specials, rounding }: FloatOptions): Codes {
  const { exponentBits, fractionBits, top } = FLOATS[float];
  const all = (1n << BigInt(exponentBits + fractionBits)) - 1n;
  const infinity = (all >> BigInt(fractionBits)) << BigInt(fractionBits);
  const kind = specials === "none" ? "ordinary" : top === "finite" ? "one special" : "special";
  const largest = kind === "ordinary" ? all : kind === "special" ? infinity - 1n : all - 1n;
  return {
    exponentBits,
    fractionBits,
    bias: 2 ** (exponentBits - 1) - 1,
    largest,
    // Toward zero no finite sum becomes infinite, as in IEEE 754.
    beyond: specials === "none" || rounding === "toward-zero" ? largest : kind === "special" ? infinity : all,
    nan: kind === "special" ? infinity | (1n << BigInt(fractionBits - 1)) : all,
    top: kind,
  };
}

/** The number of a code. */
export function decoded(word: bigint, float: Float, options: FloatOptions): Value {
  const { exponentBits, fractionBits, bias, top } = codesOf(float, options);
  const size = exponentBits + fractionBits;
  const negative = ((word >> BigInt(size)) & 1n) === 1n;
  const fraction = word & ((1n << BigInt(fractionBits)) - 1n);
  const field = Number((word >> BigInt(fractionBits)) & ((1n << BigInt(exponentBits)) - 1n));
  const isTop = field === 2 ** exponentBits - 1;
  const isFull = isTop && fraction === (1n << BigInt(fractionBits)) - 1n;
  if (top === "special" ? isTop : top === "one special" && isFull) {
    const isNan = options.specials === "ieee" && (top === "one special" || fraction !== 0n);
    return isNan ? { kind: "nan" } : { kind: "infinite", negative };
  }
  const hidden = field === 0 ? 0n : 1n << BigInt(fractionBits);
  const mantissa = field === 0 && options.subnormals === "flush" ? 0n : hidden + fraction;
  return { kind: "finite", negative, mantissa, exponent: Math.max(field, 1) - bias, places: fractionBits };
}

/** a b, exactly. */
export function product(a: Value, b: Value, { specials }: FloatOptions): Value {
  if (a.kind === "finite" && b.kind === "finite")
    return {
      kind: "finite",
      negative: a.negative !== b.negative,
      mantissa: a.mantissa * b.mantissa,
      exponent: a.exponent + b.exponent,
      places: a.places + b.places,
    };
  if (a.kind === "nan" || b.kind === "nan") return { kind: "nan" };
  const isZero = [a, b].some((value) => value.kind === "finite" && value.mantissa === 0n);
  return specials === "ieee" && isZero ? { kind: "nan" } : { kind: "infinite", negative: a.negative !== b.negative };
}

/** A number times 2^power. */
export function scaled(value: Value, power: number): Value {
  return value.kind === "finite" ? { ...value, exponent: value.exponent + power } : value;
}

/**
 * The sum of terms and of an addend in the format of the result, as a code. A term that is zero does not take part in the
 * alignment; an addend always does, and so does the result's least exponent.
 */
export function sum(terms: readonly Value[], addend: Value | null, to: Float, options: FloatOptions): bigint {
  const codes = codesOf(to, options);
  const least = 1 - codes.bias;
  const all = addend === null ? terms : [...terms, addend];
  const special = specialSum(all, codes, options);
  if (special !== null) return special;
  const finite = all.filter((value): value is Finite => value.kind === "finite");
  let anchor = least;
  for (const value of finite) if (value.mantissa !== 0n || value === addend) anchor = Math.max(anchor, value.exponent);
  const unit = anchor - options.window;
  let exact = 0n;
  for (const value of finite) {
    const kept = cutAt(value, unit, options.sticky);
    exact += value.negative ? -kept : kept;
  }
  if (exact === 0n)
    return signed(
      0n,
      finite.every(({ negative }) => negative),
      codes,
    );
  return signed(rounded(exact < 0n ? -exact : exact, unit, codes, options), exact < 0n, codes);
}

function signed(code: bigint, negative: boolean, { exponentBits, fractionBits }: Codes): bigint {
  return negative ? code | (1n << BigInt(exponentBits + fractionBits)) : code;
}

/** What infinities and NaN make of a sum; null where there are none. */
function specialSum(all: readonly Value[], codes: Codes, { specials }: FloatOptions): bigint | null {
  const isInfinite = (sign: boolean): boolean => all.some((v) => v.kind === "infinite" && v.negative === sign);
  const [plus, minus] = [isInfinite(false), isInfinite(true)];
  if (all.some(({ kind }) => kind === "nan") || (specials === "ieee" && plus && minus)) return codes.nan;
  if (!plus && !minus) return null;
  return infiniteCode(!plus, codes, specials);
}

/** E4M3 of ieee has NaN and no infinity. */
function infiniteCode(negative: boolean, codes: Codes, specials: FloatOptions["specials"]): bigint {
  if (codes.top === "one special") return specials === "ieee" ? codes.nan : signed(codes.nan, negative, codes);
  return signed(codes.largest + 1n, negative, codes);
}

/** A mantissa in units of 2^unit, cut. */
function cutAt({ mantissa, exponent, places }: Finite, unit: number, sticky: boolean): bigint {
  const shift = exponent - places - unit;
  if (shift >= 0) return mantissa << BigInt(shift);
  const kept = mantissa >> BigInt(-shift);
  return sticky && kept << BigInt(-shift) !== mantissa ? kept | 1n : kept;
}

/** The code of size 2^unit, which is not 0, without its sign. */
function rounded(size: bigint, unit: number, codes: Codes, { subnormals, rounding }: FloatOptions): bigint {
  const { fractionBits, bias, largest, beyond } = codes;
  const least = 1 - bias;
  const leading = size.toString(2).length - 1 + unit;
  const exponent = subnormals === "keep" ? Math.max(leading, least) : leading;
  // Place 0 of the rounded mantissa is 2^(exponent - fractionBits).
  const drop = exponent - fractionBits - unit;
  let mantissa = drop <= 0 ? size << BigInt(-drop) : size >> BigInt(drop);
  if (drop > 0 && rounding === "nearest-even") {
    const [rest, half] = [size - (mantissa << BigInt(drop)), 1n << BigInt(drop - 1)];
    if (rest > half || (rest === half && (mantissa & 1n) === 1n)) mantissa += 1n;
  }
  // A mantissa that was rounded up to the next power of two carries into the exponent's field.
  const code = (BigInt(exponent - least) << BigInt(fractionBits)) + mantissa;
  if (subnormals === "flush" && code < 1n << BigInt(fractionBits)) return 0n;
  return code > largest ? beyond : code;
}
