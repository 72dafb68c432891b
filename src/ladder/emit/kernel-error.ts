// What a kernel may lose where numbers become small, and when a sum is stored in a narrower element: the parts of a
// manifest's guarantee that no relative error covers. A machine may flush: an operand or a result below the least normal
// number counts as 0, so that each operation is off by less than that number besides its rounding (WGSL 15.7.3;
// Higham, Accuracy and Stability of Numerical Algorithms, 2.8, has the smaller term of machines that do not).
// Not here: how often a sum is rounded (compile.ts), whether subnormals arise in a decode at all (guarantee.ts).

import type { LoweredTerm } from "./lowering.ts";
import type { IntegerOperand } from "./packing.ts";
import { numbersOf } from "../listed.ts";
import type { Element, Type, Value } from "../type.ts";

/** The least normal numbers of what is summed in. */
const LEAST_NORMAL: Readonly<Record<string, number>> = { F32: 2 ** -126, F16: 2 ** -14 };
const FLUSHED = 2 ** -126;

/** What is added to the relative part of a bound. */
export interface AbsoluteError {
  readonly absolute_error: number;
  /** What the absolute error is multiplied by: 1, or 1 and the largest sizes of one side or both. */
  readonly absolute_magnitude: string;
  readonly underflow: string;
}

/** How far a decoded or packed operand may be from its value when small numbers are flushed, beside its roundings. */
export interface Loss {
  readonly off: number;
  /** What its size is called, as the magnitude of the relative error has it. */
  readonly size: string;
}

/**
 * The absolute part of the bound of one output, that of sums of no products being 0.
 * For operands off by at most x and y a product is off by |a| y + |w| x + x y, and `operations` for each product, its
 * additions included, each by at most the least normal number: joining k terms takes k - 1 additions of anything but 0.
 * What follows an operation multiplies it by 1 + the relative error at most, which is below 2 where the bound says
 * anything. So 2 k max(operations * least + x y, x, y) (1 + max |a| + max |w|) is enough, without a size that nothing
 * is lost for.
 * @param k products of an output
 * @param operations of one product that may underflow
 * @param element what is summed in
 */
export function absoluteError(k: number, operations: number, element: string, a: Loss, w: Loss): AbsoluteError {
  const least = LEAST_NORMAL[element] ?? FLUSHED;
  // Operands of sums in F16 are rounded to it, and may be flushed there.
  const [x, y] = [a, w].map(({ off }) => off + (least > FLUSHED ? least : 0)) as [number, number];
  const error = 2 * k * Math.max(operations * least + x * y, x, y);
  const sizes = ["1", ...(y > 0 ? [`max over k of ${a.size}`] : []), ...(x > 0 ? [`max over k of ${w.size}`] : [])];
  return {
    absolute_error: Math.min(error, Number.MAX_VALUE),
    absolute_magnitude: sizes.join(" + "),
    underflow: `results below 2^${Math.log2(least)} lose digits, or are 0 on machines that flush them: absolute_error`,
  };
}

/**
 * The same where weights are bits and sums of activations are looked up: what a table's sums lose, three additions for
 * four activations and one for each plane and table, is multiplied by the scale that follows, as if two least normal
 * numbers were lost of each activation.
 */
export function lookupError(k: number, element: string, a: Loss, w: Loss): AbsoluteError {
  const least = LEAST_NORMAL[element] ?? FLUSHED;
  return absoluteError(k, 2, element, { ...a, off: a.off + 2 * least }, w);
}

/** That of nothing but whole numbers. */
export const NO_UNDERFLOW: AbsoluteError = {
  absolute_error: 0,
  absolute_magnitude: "1",
  underflow: "nothing is so small that it could be lost",
};

/** A value decoded to f32 as its declaration says; nothing is lost where the guarantee excludes subnormals. */
export function decodedLoss({ value }: Type, subnormals: boolean, size: string): Loss {
  return { off: subnormals ? lossOf(value).off : 0, size };
}

/** An operand as integers: the value is off by that of its scale times the largest integer, and that of its offset. */
export function packedLoss({ scale, offset, least, most }: IntegerOperand, size: string): Loss {
  const small = (terms: readonly LoweredTerm[]): number =>
    terms.some((term) => unitOfTerm(term) < FLUSHED) ? FLUSHED : 0;
  return { off: Math.max(-least, most) * small([scale]) + small(offset), size };
}

interface Size {
  readonly most: number;
  readonly off: number;
}

function lossOf(value: Value): Size {
  switch (value.kind) {
    case "constant":
      return { most: Math.abs(Number(value.significand)) * 2 ** value.exponent, off: 0 };
    case "element":
      return sizeOf(value.field.element);
    case "code":
      return { most: 2 ** value.code.bits.width, off: 0 };
    case "apply":
      return sizeOf(value.element);
    case "negate":
      return lossOf(value.operand);
    case "choose": {
      const [yes, no] = [lossOf(value.yes), lossOf(value.no)];
      return { most: Math.max(yes.most, no.most), off: Math.max(yes.off, no.off) };
    }
    case "binary": {
      const [l, r] = [lossOf(value.left), lossOf(value.right)];
      if (value.operator !== "*") return { most: l.most + r.most, off: l.off + r.off + FLUSHED };
      return { most: l.most * r.most, off: l.off * r.most + r.off * l.most + l.off * r.off + FLUSHED };
    }
    case "round":
      throw new Error("a value is exact; round stands in a reference only");
  }
}

function sizeOf(element: Element): Size {
  if (element.bits > 16) {
    if (element.kind !== "float") return { most: 2 ** element.bits, off: 0 };
    const { exponent, bias } = element;
    return { most: 2 ** Math.min(1023, 2 ** exponent - bias), off: bias > 126 ? FLUSHED : 0 };
  }
  const sizes = [...numbersOf(element)].map(Math.abs).filter((x) => Number.isFinite(x));
  const isSmall = sizes.some((x) => x > 0 && x < FLUSHED);
  return { most: sizes.reduce((x, y) => Math.max(x, y), 0), off: isSmall ? FLUSHED : 0 };
}

/** A power of two that every number of a term is a multiple of: what is not 0 is no smaller. */
function unitOfTerm({ constant, fields, codes }: LoweredTerm): number {
  const units = { f16: 2 ** -24, bf16: 2 ** -133, f32: 2 ** -149 };
  const floats = fields.reduce((product, { format }) => product * units[format], 1);
  const numbers = codes === null ? [1] : [codes.bias, ...(codes.map ?? [1]).map(Number)];
  const code = numbers.filter((x) => Number.isFinite(x)).reduce((unit, x) => Math.min(unit, unitOf(x)), Infinity);
  return unitOf(constant) * floats * code;
}

/** The largest power of two that a double is a multiple of. */
function unitOf(x: number): number {
  if (x === 0) return Infinity;
  let unit = 1;
  while (!Number.isInteger(x / unit)) unit /= 2;
  while (Number.isInteger(x / (2 * unit))) unit *= 2;
  return unit;
}

/**
 * What storing a sum in an element loses: of a float half a unit in the last place, which is relative above its least
 * normal number and absolute below, and what is beyond its largest.
 */
export function storedText(out: Element, accumulate: Element): string {
  if (out.name === accumulate.name || out.kind !== "float") return `${out.name}: as it is summed`;
  const { mantissa, bias, overflow } = out;
  if (accumulate.name === "F16" && out.bits === 32) return `${out.name}: exact`;
  // Of 32 bits there is F32 alone.
  const most =
    out.bits > 16
      ? "2^128 - 2^104"
      : `${numbersOf(out)
          .filter(Number.isFinite)
          .reduce((x, y) => Math.max(x, y))}`;
  const beyond = { saturate: most, infinity: "infinity", nan: "NaN" }[overflow];
  const half = `off by 2^${-mantissa - 1} of itself at most, or by 2^${-bias - mantissa} below 2^${1 - bias}`;
  return `${out.name}: to the nearest, ties to even; ${half}; what rounds beyond ${most} is ${beyond}`;
}
