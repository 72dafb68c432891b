// The floats of the machine: the values of their codes, rounding to nearest with ties to even, and sums without loss.
// A value is a double throughout; every float here is one, and so is each product of two.
// Not here: what is summed (lut.ts), the formats of model files (dsl/, src/ladder), whose values these agree with.
// Sums without loss are after Shewchuk, "Adaptive precision floating-point arithmetic" (1997); rounding to odd is after
// Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd" (2008).

/** A binary float of a sign, an exponent field and a fraction field, with subnormals. */
interface FloatFormat {
  readonly exponentBits: number;
  readonly fractionBits: number;
  /**
   * infinity: the highest exponent is infinity and NaN, as in IEEE 754. finite: it holds numbers, and NaN where the fraction
   * has all bits set (E4M3 of the OCP). What is too large becomes infinity, or NaN where there is none.
   */
  readonly top: "infinity" | "finite";
}

export type Float = "fp32" | "fp16" | "bf16" | "e4m3" | "e5m2";

/** The floats of the machine; e4m3 is E4M3FN of dsl/float.ladder, and the others are what IEEE 754 has of their sizes. */
export const FLOATS: Readonly<Record<Float, FloatFormat>> = {
  fp32: { exponentBits: 8, fractionBits: 23, top: "infinity" },
  fp16: { exponentBits: 5, fractionBits: 10, top: "infinity" },
  bf16: { exponentBits: 8, fractionBits: 7, top: "infinity" },
  e4m3: { exponentBits: 4, fractionBits: 3, top: "finite" },
  e5m2: { exponentBits: 5, fractionBits: 2, top: "infinity" },
};

export function isFloat(element: string): element is Float {
  return Object.hasOwn(FLOATS, element);
}

const doubles = new Float64Array(1);
const words = new Uint32Array(doubles.buffer);
const quads = new BigInt64Array(doubles.buffer);

/** The exponent of the leading bit of a finite double that is no subnormal. */
function exponentOf(x: number): number {
  doubles[0] = x;
  return ((words[1]! >>> 20) & 0x7ff) - 1023;
}

function rangeOf({ exponentBits, fractionBits, top }: FloatFormat): {
  readonly bias: number;
  readonly least: number;
  readonly largest: number;
} {
  const bias = 2 ** (exponentBits - 1) - 1;
  const largest =
    top === "infinity" ? (2 - 2 ** -fractionBits) * 2 ** bias : (2 - 2 ** (1 - fractionBits)) * 2 ** (bias + 1);
  return { bias, least: 1 - bias, largest };
}

/** The values of all codes of a float of at most 16 bits, in the order of the codes; NaN keeps the sign of its code. */
export function valuesOf(float: Exclude<Float, "fp32">): Float32Array {
  const { exponentBits, fractionBits, top } = FLOATS[float];
  const { bias, least } = rangeOf(FLOATS[float]);
  const highest = 2 ** exponentBits - 1;
  const half = 2 ** (exponentBits + fractionBits);
  const values = new Float32Array(2 * half);
  const bits = new Uint32Array(values.buffer);
  for (let code = 0; code < half; code++) {
    const exponent = code >>> fractionBits;
    const fraction = code & (2 ** fractionBits - 1);
    let value =
      exponent === 0
        ? fraction * 2 ** (least - fractionBits)
        : (1 + fraction * 2 ** -fractionBits) * 2 ** (exponent - bias);
    if (exponent === highest && top === "infinity") value = fraction === 0 ? Infinity : NaN;
    if (code === half - 1 && top === "finite") value = NaN;
    values[code] = value;
    values[code + half] = -value;
    // The sign of a NaN is nothing that arithmetic keeps, so that it is written as bits.
    if (Number.isNaN(value)) {
      bits[code] = 0x7fc00000;
      bits[code + half] = 0xffc00000;
    }
  }
  return values;
}

/** From a value of a float of at most 16 bits to its code; NaN has one, quiet and positive. */
export function encoderOf(float: Exclude<Float, "fp32">): (value: number) => number {
  const { exponentBits, fractionBits, top } = FLOATS[float];
  const { bias, least } = rangeOf(FLOATS[float]);
  const half = 2 ** (exponentBits + fractionBits);
  const infinity = (2 ** exponentBits - 1) * 2 ** fractionBits;
  const nan = top === "finite" ? half - 1 : infinity + 2 ** (fractionBits - 1);
  const smallest = 2 ** (least - fractionBits);
  const normal = 2 ** least;
  return (value) => {
    if (Number.isNaN(value)) return nan;
    const size = Math.abs(value);
    const sign = value < 0 || Object.is(value, -0) ? half : 0;
    if (size < normal) return sign + size / smallest;
    if (size === Infinity) return sign + infinity;
    const exponent = exponentOf(size);
    return sign + (exponent + bias - 1) * 2 ** fractionBits + size * 2 ** (fractionBits - exponent);
  };
}

/** From any double to the nearest value of a float, ties to the even code; the sign of zero and NaN are kept. */
export function rounderOf(float: Float): (x: number) => number {
  if (float === "fp32") return Math.fround;
  const { fractionBits, top } = FLOATS[float];
  const { least, largest } = rangeOf(FLOATS[float]);
  const beyond = top === "infinity" ? Infinity : NaN;
  // Of numbers with one exponent: 2^52 units in their last place. Added to one, it leaves the sum no smaller place, so
  // that the one addition rounds to it; it is an even number of units, so that ties are those of the number.
  const count = exponentOf(largest) - least + 1;
  const anchors = Float64Array.from({ length: count }, (_, i) => 2 ** (52 + least + i - fractionBits));
  return (x) => {
    const size = Math.abs(x);
    if (!(size <= 2 * largest)) return Number.isNaN(x) ? NaN : x < 0 ? -beyond : beyond;
    const anchor = anchors[Math.min(Math.max(exponentOf(size) - least, 0), count - 1)]!;
    const rounded = size + anchor - anchor;
    const kept = rounded > largest ? beyond : rounded;
    return x < 0 || (x === 0 && 1 / x < 0) ? -kept : kept;
  };
}

/**
 * The sum of finite doubles, exact but for its last bit: where it is no double, the one of the two doubles beside it
 * whose last bit is 1. Rounding that to a format of at most 51 bits is rounding the exact sum once, as no such number lies
 * halfway between two of the format. Infinities and NaN follow IEEE 754; no sum of the finite terms may overflow.
 * @param terms their first `count` are summed, and are lost
 */
export function sumToOdd(terms: Float64Array, count: number): number {
  let plain = -0;
  let isExact = true;
  for (let i = 0; i < count; i++) {
    const x = terms[i]!;
    const sum = plain + x;
    const shift = sum - plain;
    isExact &&= plain - (sum - shift) + (x - shift) === 0;
    plain = sum;
  }
  // An infinite sum makes differences of infinities above, so that it is never taken for exact; NaN is neither.
  if (isExact || !Number.isFinite(plain)) return plain;
  // parts[0 .. used) do not overlap, rise in size, and have the sum of all terms so far.
  const parts = terms;
  let used = 0;
  for (let i = 0; i < count; i++) {
    let carried = terms[i]!;
    let kept = 0;
    for (let j = 0; j < used; j++) {
      const part = parts[j]!;
      const sum = carried + part;
      const shift = sum - carried;
      const rest = carried - (sum - shift) + (part - shift);
      if (rest !== 0) parts[kept++] = rest;
      carried = sum;
    }
    parts[kept++] = carried;
    used = kept;
  }
  let high = parts[--used]!;
  while (used > 0) {
    const part = parts[--used]!;
    const sum = high + part;
    const rest = part - (sum - high);
    high = sum;
    if (rest !== 0) return toOdd(high, rest);
  }
  return high;
}

/** What a product of two doubles lost when it was rounded to `product`, exactly, far from the ends of their range (Dekker). */
export function lossOf(a: number, b: number, product: number): number {
  const split = 2 ** 27 + 1;
  const highA = a * split - (a * split - a);
  const highB = b * split - (b * split - b);
  const lowA = a - highA;
  const lowB = b - highB;
  return lowA * lowB - (product - highA * highB - lowA * highB - highA * lowB);
}

/** A double that something was rounded to, or, where its last bit is 0, the next one in the direction of what is left. */
function toOdd(high: number, rest: number): number {
  doubles[0] = high;
  if ((words[0]! & 1) === 0) quads[0] = quads[0]! + (high > 0 === rest > 0 ? 1n : -1n);
  return doubles[0];
}
