// What the Ladder tests share: the built-in texts, a resolver that insists, and random blocks with corner values.

import { readdirSync, readFileSync } from "node:fs";
import * as fc from "fast-check";

import { renderDiagnostic } from "../../src/ladder/diagnostic.ts";
import { resolveProgram } from "../../src/ladder/resolve.ts";
import type { Program, Type } from "../../src/ladder/type.ts";

const folder = new URL("../../dsl/", import.meta.url);

/** The files of dsl/ by name. */
export const builtinTexts: ReadonlyMap<string, string> = new Map(
  readdirSync(folder)
    .filter((file) => file.endsWith(".ladder"))
    .map((file) => [file, readFileSync(new URL(file, folder), "utf8")]),
);

/** All findings about the given files, as a person sees them; "" where there are none. */
export function findings(files: Readonly<Record<string, string>>): string {
  const texts = new Map(Object.entries(files));
  const resolution = resolveProgram(texts);
  if (resolution.kind === "program") return "";
  return resolution.diagnostics.map((diagnostic) => renderDiagnostic(diagnostic, texts)).join("\n");
}

const head = `element U8 = int(bits: 8, coding: unsigned)
element U3 = int(bits: 3, coding: unsigned)
element F16 = float(exponent: 5, mantissa: 10, bias: 15, special: ieee)
`;

/** What is found in a text behind three lines of elements, U8, U3 and F16, without the source lines. */
export function remarks(text: string): string {
  const lines = findings({ "a.ladder": head + text }).split("\n");
  return lines
    .filter((line) => !/^ +\d+ \||^ +\| +\^/.test(line))
    .map((line) => line.trim().replace(/^a\.ladder:/, ""))
    .join("\n");
}

/** The built-in files with a text of one's own, which must be right. */
export function programWith(text = ""): Program {
  const files = { ...Object.fromEntries(builtinTexts), "own.ladder": text };
  const resolution = resolveProgram(new Map(Object.entries(files)));
  if (resolution.kind === "program") return resolution.program;
  throw new Error(findings(files));
}

/** A type of a program, which must be there. */
export function typeNamed(program: Program, name: string): Type {
  const type = program.types.get(name);
  if (type === undefined) throw new Error(`the program has no type ${name}`);
  return type;
}

// Ends of the ranges of codes, and the high bytes of infinity, NaN, -0, the largest and smallest numbers of f16 and f32.
const corners = [0, 1, 0x0f, 0xf0, 0x7b, 0x7c, 0x7e, 0x7f, 0x80, 0xfb, 0xfc, 0xff];

/** Bytes of one block, corner values as likely as others. */
export function blockOf(type: Type): fc.Arbitrary<Uint8Array> {
  const byte = fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(...corners));
  const length = { minLength: type.blockBytes, maxLength: type.blockBytes };
  const uniform = byte.map((value) => new Uint8Array(type.blockBytes).fill(value));
  return fc.oneof({ weight: 9, arbitrary: fc.array(byte, length).map((bytes) => Uint8Array.from(bytes)) }, uniform);
}

/**
 * Formats that nobody uses, one for each turn that the derivation or the decoder can take: codes split over fields
 * and out of order, packed across bytes, wide, with odd group sizes; scales that are no plain float; no structure.
 */
export const oddTypes = `
import "float.ladder"
import "int.ladder"

element Z3 = int(bits: 3, coding: offset, zero: 3)
element S5 = int(bits: 5, coding: twos)
element U12 = int(bits: 12, coding: unsigned)
element S32 = int(bits: 32, coding: twos)
element E4M3 = float(exponent: 4, mantissa: 3, bias: 7, special: fn)

// A 3-bit code in two fields, groups of 8, a signed scale plus one, the float field last.
block TwoFields[24] {
  hi : U8[3]
  sc : I8[3]
  lo : U8[6]
  d  : BF16
  code q[i < 24] = hi[i div 8].bits(i mod 8 +: 1) ++ lo[i div 4].bits(2 * (i mod 4) +: 2)
  value[i] = d * (sc[i div 8] + 1) * (q[i] - 4)
}
// Elements across bytes; values in units of d / 2.
block Straddle[16] {
  q : Z3[16]
  d : F32
  value[i] = 0.5 * d * q[i]
}
block Twos5[8] {
  q : S5[8]
  d : F16
  value[i] = (q[i] + 3) * d
}
// The high nibble first.
block HighFirst[8] {
  qs : U8[4]
  m  : F16
  d  : F16
  code q[i < 8] = qs[i div 2].bits(4 - 4 * (i mod 2) +: 4)
  value[i] = m + d * q[i]
}
// One bit of the code lies elsewhere for the second half only.
block Mixed[16] {
  qs : U8[8]
  h  : U8
  d  : F16
  code q[i < 16] = if i < 8 then h.bits(i +: 1) ++ qs[i].bits(0 +: 4)
                   else qs[i - 8].bits(0 +: 1) ++ qs[i - 8].bits(4 +: 4)
  value[i] = d * q[i]
}
// div and mod round down: -1 mod 4 is 3, and -1 div 2 is -1.
block Rotated[4] {
  q : U8[4]
  s : I8[2]
  d : F16
  value[i] = d * s[1 + (i - 2) div 2] * q[(i - 1) mod 4]
}
block HalfZero[2] {
  q : U8[2]
  d : F16
  value[i] = d * (q[i] - 7.5)
}
// The sign of the code turned, two fields in the scale, the offset a lone constant.
block Turned[2] {
  q : U8[2]
  d : F16
  e : BF16
  value[i] = -(d * e * (8 - q[i])) + 3
}
// Equal to d * (q - 8), but for the sign of zero and for infinity.
block Expanded[4] {
  q : U8[4]
  d : F16
  value[i] = d * q[i] - 8 * d
}
block SameField[4] {
  q : U8[4]
  d : F16
  s : U8
  value[i] = d * q[i] + d * (s - 4)
}
// No zero serves both products of the slope, so the rest is an offset.
block SharedScale[4] {
  q : U8[4]
  d : F16
  s : U8
  value[i] = d * (s - 1) * q[i] - 2 * d * s
}
block Unscaled[4] {
  q : U12[4]
  value[i] = q[i]
}
// Three 24-bit significands make 72 bits: the nearest double.
block Wide[2] {
  a : F32
  b : F32
  c : F32
  q : U8[2]
  value[i] = a * b * c * q[i]
}
block FarApart[2] {
  d : F32
  m : F32
  q : U8[2]
  value[i] = d * q[i] + m
}
block WideProduct[1] {
  a : F32
  b : F32
  m : F32
  q : U8
  value[i] = a * b * q + m
}
// The scale alone has 56 significant bits, though the declared order never rounds before its last product.
block WideScale[2] {
  a : F32
  b : F32
  s : U8
  q : U8[2]
  value[i] = a * (b * s * q[i])
}
block SmallFloatScale[4] {
  d : E4M3
  q : U8[4]
  value[i] = d * q[i]
}
block SmallFloats[4] {
  d : F16
  x : E4M3[4]
  value[i] = d * x[i]
}
block ChangingScale[4] {
  d : F16[2]
  q : U8[4]
  value[i] = d[i div 2] * q[i]
}
block Square[2] {
  q : U8[2]
  value[i] = q[i] * q[i]
}
block TwoCodes[2] {
  a : U8[2]
  b : U8[2]
  value[i] = a[i] * b[i]
}
block ManyScales[4] {
  q : U8[4]
  s : U8
  t : U8
  d : F16
  value[i] = d * s * t * q[i]
}
block SumOffset[4] {
  q : U8[4]
  d : F16
  m : F16
  value[i] = d * q[i] + m + m * m
}
block TooWide[2] {
  q : S32[2]
  value[i] = q[i]
}
block Constant[2] {
  pad : U8
  value[i] = -2.25
}
block Cancels[2] {
  q : U8[2]
  value[i] = q[i] - q[i]
}
block Halves[4] {
  x : F16[4]
  value[i] = x[i]
}
block Reversed[4] {
  x : F16[4]
  value[i] = x[3 - i]
}
block Scaled[4] {
  x : F16[4]
  value[i] = 2 * x[i]
}
`;
