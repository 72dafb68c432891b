// Numbers into the bits of a block: the nearest code of a floating-point element, and codes into their places.
// The opposite of what ladder/exact.ts and ladder/emit/codec.ts read. Not here: which number is best (encode-search.ts ...).

import type { Codes, FloatField } from "../ladder/layout.ts";
import type { FloatElement } from "../ladder/type.ts";

/** What decides which numbers a floating-point element can hold. */
export type FloatShape = Pick<FloatElement, "exponent" | "mantissa" | "bias" | "special">;

/** The fields of a code, each an unsigned number. */
export interface FloatCode {
  readonly negative: boolean;
  readonly power: number;
  readonly fraction: number;
}

/** The formats of layout.ts by their parameters. */
export const FLOAT_SHAPES: Readonly<Record<FloatField["format"], FloatShape>> = {
  f16: { exponent: 5, mantissa: 10, bias: 15, special: "ieee" },
  bf16: { exponent: 8, mantissa: 7, bias: 127, special: "ieee" },
  f32: { exponent: 8, mantissa: 23, bias: 127, special: "ieee" },
};

/**
 * The code nearest to a finite number, ties to the even code, numbers beyond the largest finite one to that one;
 * never a code of infinity or NaN, and no -0.
 */
export function floatCode({ exponent, mantissa, bias, special }: FloatShape, x: number): FloatCode {
  const size = Math.abs(x);
  // Below 2^exponent of the size, and not below its half; of 0 and subnormals the exponent matters no more.
  double[0] = size;
  const below = (doubleWords[1]! >>> 20) - 1023;
  const topPower = powerOfTwo(exponent) - (special === "ieee" ? 2 : 1);
  const topFraction = powerOfTwo(mantissa) - (special === "fn" ? 2 : 1);
  let power = Math.max(below + bias, 1);
  const one = powerOfTwo(mantissa);
  let fraction = roundEven(scaled(size, mantissa + bias - power)) - one;
  if (fraction === one) [power, fraction] = [power + 1, 0];
  // Below 1.0 of the smallest power: subnormal, which has power 0.
  if (fraction < 0) [power, fraction] = [0, fraction + one];
  if (power > topPower || (power === topPower && fraction > topFraction)) {
    [power, fraction] = topFraction < 0 ? [topPower - 1, 0] : [topPower, topFraction];
  }
  return { negative: x < 0 && (power > 0 || fraction > 0), power, fraction };
}

const double = new Float64Array(1);
const doubleWords = new Uint32Array(double.buffer);

/** 2^-1074 to 2^1023; raising to a power takes longer than all else that rounding does. */
const POWERS = Float64Array.from({ length: 2098 }, (_, n) => 2 ** (n - 1074));

function powerOfTwo(exponent: number): number {
  return POWERS[exponent + 1074]!;
}

/** size * 2^exponent in two steps, of which neither overflows where the result does not. */
function scaled(size: number, exponent: number): number {
  const half = exponent >> 1;
  return size * powerOfTwo(half) * powerOfTwo(exponent - half);
}

function roundEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}

/** The number of a code. */
export function floatNumber({ mantissa, bias }: FloatShape, { negative, power, fraction }: FloatCode): number {
  const significand = power === 0 ? fraction : fraction + powerOfTwo(mantissa);
  const size = scaled(significand, Math.max(power, 1) - bias - mantissa);
  return negative ? -size : size;
}

/** Writes a code from bit `bit` of the bytes on, which are zero there. */
export function putFloat(shape: FloatShape, code: FloatCode, bytes: Uint8Array, bit: number): void {
  putBits(code.fraction, shape.mantissa, bytes, bit);
  putBits(code.power, shape.exponent, bytes, bit + shape.mantissa);
  putBits(code.negative ? 1 : 0, 1, bytes, bit + shape.mantissa + shape.exponent);
}

/** Writes a number below 2^width, with width at most 53, from bit `bit` of the bytes on, which are zero there. */
export function putBits(value: number, width: number, bytes: Uint8Array, bit: number): void {
  let rest = value;
  for (let k = bit, left = width; left > 0;) {
    const room = Math.min(8 - (k & 7), left);
    const low = rest % (1 << room);
    bytes[k >> 3]! |= low << (k & 7);
    rest = (rest - low) / (1 << room);
    k += room;
    left -= room;
  }
}

/** Writes codes into the block that begins at byte `base`, where the bytes are zero: what codec.ts gathers. */
export function putCodes({ runs, flip }: Codes, codes: Uint16Array, bytes: Uint8Array, base: number): void {
  for (const { first, count, bit, step, width, shift } of runs) {
    const mask = (1 << width) - 1;
    let at = base * 8 + bit;
    for (let j = first; j < first + count; j++, at += step) {
      bytes[at >> 3]! |= (((codes[j]! ^ flip) >> shift) & mask) << (at & 7);
    }
  }
}
