// Numbers as the language spells them: whole numbers in a range, exact binary values, literals of tables.
// Not here: arithmetic (exact.ts), expressions (term.ts).

import type * as Ast from "./ast.ts";
import type { Diagnostic } from "./diagnostic.ts";

/** Takes a finding; the place, the message, and what else there is to say. */
export type Report = (
  code: Diagnostic["code"],
  span: Ast.Span,
  message: string,
  more?: { readonly notes?: readonly string[]; readonly suggestion?: string | null },
) => void;

const MAX_NAME = 64;
const MAX_DIGITS = 32;
/** Powers of two in hexadecimal literals: the range of a double. */
const MAX_POWER = 1100;

/** A name for a message: whole up to 64 characters, else its beginning. */
export function shortName(text: string): string {
  return text.length <= MAX_NAME ? text : `${text.slice(0, 20)}...`;
}

/** The whole number that a literal spells, or null after a report that it is not one in [least, most]. */
export function readInteger(
  literal: Ast.NumberLiteral,
  least: number,
  most: number,
  what: string,
  report: Report,
): number | null {
  const { text } = literal;
  const value = /^(?:0x[0-9a-fA-F]+|[0-9]+)$/.test(text) && text.length <= MAX_DIGITS ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  const message = `${what} must be a whole number from ${least} to ${most}, not ${shortName(text)}`;
  report("number", literal.span, message);
  return null;
}

/** significand * 2^exponent, as a literal spells it; null after a report where it has no such value or is too long. */
export function readExact(
  literal: Ast.NumberLiteral,
  report: Report,
): { readonly significand: bigint; readonly exponent: number } | null {
  const { text, span } = literal;
  if (text.length > MAX_DIGITS) {
    report("limit", span, `a number may have at most ${MAX_DIGITS} characters; this has ${text.length}`);
    return null;
  }
  const [digits = "0", power = "0"] = text.startsWith("0x") ? text.split("p") : [text];
  const [whole = "0", fraction = ""] = digits.split(".");
  if (text.startsWith("0x")) {
    const exponent = Number(power) - 4 * fraction.length;
    if (Math.abs(exponent) <= MAX_POWER) return { significand: BigInt(whole + fraction), exponent };
    report("limit", span, `${text} is outside the powers of two from 2^-${MAX_POWER} to 2^${MAX_POWER}`);
    return null;
  }
  // n / 10^k is a binary number only where 5^k divides n.
  const fives = 5n ** BigInt(fraction.length);
  const decimal = BigInt(whole + fraction);
  if (decimal % fives === 0n) return { significand: decimal / fives, exponent: -fraction.length };
  const suggestion = "write a fraction of a power of two, such as 0.5 or 0.375, or a hexadecimal one, such as 0x1.8p-3";
  report("number", span, `${text} has no exact binary value, and a value is exact`, { suggestion });
  return null;
}

/**
 * The double that a literal stands for, nan and inf included; null after a report.
 * @param rounding exact: only what is a double; f32: the nearest f32 (taken from the nearest double)
 */
export function readLiteral(literal: Ast.Literal, rounding: "exact" | "f32", report: Report): number | null {
  const { value, negative } = literal;
  const sign = negative ? -1 : 1;
  if (value.kind === "word") {
    if (value.text === "inf") return sign * Number.POSITIVE_INFINITY;
    if (value.text === "nan") return Number.NaN;
    report("number", value.span, `${shortName(value.text)} is no number; there are nan and inf`);
    return null;
  }
  if (rounding === "f32" && /^[0-9.]{1,32}$/.test(value.text)) return sign * Math.fround(Number(value.text));
  const exact = readExact(value, report);
  if (exact === null) return null;
  const { significand, exponent } = exact;
  const half = Math.trunc(exponent / 2);
  const double = Number(significand) * 2 ** half * 2 ** (exponent - half);
  if (BigInt(Number(significand)) === significand && Number.isFinite(double) && (double !== 0 || significand === 0n)) {
    return sign * double;
  }
  report("number", value.span, `${shortName(value.text)} is no double, and the values of elements are`);
  return null;
}
