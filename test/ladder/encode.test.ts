// Codes and numbers: every number that an element has comes back from its code, and all others go to the nearest.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { encode, encodeDouble } from "../../src/ladder/encode.ts";
import { add, elementValue, type Exact, exactNumber, fromNumber, negate, toNumber } from "../../src/ladder/exact.ts";
import type { Element } from "../../src/ladder/type.ts";
import { programWith } from "./program.ts";

const odd = `
import "int.ladder"
import "float.ladder"
element SignMagnitude5 = int(bits: 5, coding: sign_magnitude)
element PlusMinus3 = int(bits: 3, coding: plus_minus_one)
element Offset9 = int(bits: 9, coding: offset, zero: 100)
type I12 = Int<12>
type U13 = UInt<13>
element Middle6 = int(bits: 6, coding: offset)
element NoSubnormals = float(exponent: 4, mantissa: 3, bias: 7, special: ieee, subnormals: zero)
element NoZero = float(exponent: 4, mantissa: 2, bias: 7, special: none, subnormals: normal)
element Unsigned = float(exponent: 4, mantissa: 4, bias: 7, special: ieee, sign: no)
element Saturating = float(exponent: 4, mantissa: 3, bias: 7, special: fn, overflow: saturate)
element TF32 = float(exponent: 8, mantissa: 10, bias: 127, special: ieee)
element FN24 = float(exponent: 7, mantissa: 16, bias: 63, special: fn)
element FNUZ20 = float(exponent: 6, mantissa: 13, bias: 32, special: fnuz)
element Plain18 = float(exponent: 5, mantissa: 12, bias: 15, special: none)
element Posit6 = posit(bits: 6, es: 1)
element Posit12 = posit(bits: 12, es: 3)
element Offset5 = int(bits: 4, coding: offset, zero: 5)
element Zeros = int(bits: 1, coding: sign_magnitude)
element Twos1 = int(bits: 1, coding: twos)
element LeastIeee = float(exponent: 2, mantissa: 2, bias: 8, special: ieee, sign: no, subnormals: normal)
element LeastFN = float(exponent: 2, mantissa: 2, bias: 8, special: fn, sign: no, subnormals: normal)
element UnsignedFN = float(exponent: 4, mantissa: 4, bias: 7, special: fn, sign: no)
element UnsignedFN18 = float(exponent: 6, mantissa: 12, bias: 31, special: fn, sign: no)
element NanBeyond = float(exponent: 4, mantissa: 3, bias: 7, special: ieee, overflow: nan)
element NanBeyond19 = float(exponent: 8, mantissa: 10, bias: 127, special: ieee, overflow: nan)
element Signed0 = table(bits: 2) [0, -0, 0x1.8p-3, inf]
`;
const elements = [...programWith(odd).elements.values()].filter(
  (element) => !(element.kind === "table" && element.lanes > 1),
);
const named = (name: string): Element => elements.find((element) => element.name === name)!;
const codesOf = (element: Element): fc.Arbitrary<bigint> =>
  fc.bigInt({ min: 0n, max: 2n ** BigInt(element.bits) - 1n });
const encoded = (name: string, x: number): number => Number(encode(named(name), fromNumber(x)));
const rounded = (name: string, x: number): number =>
  toNumber(elementValue(named(name), encode(named(name), fromNumber(x)), 0));

test.each(elements.filter(({ bits }) => bits <= 16))("$name: every number comes back from its code", (element) => {
  for (let code = 0n; code < 2n ** BigInt(element.bits); code++) {
    const value = elementValue(element, code, 0);
    const back = elementValue(element, encode(element, value), 0);
    // One comparison that fails for the first wrong code; toEqual for each would take minutes.
    if (!same(value, back)) expect({ code, value: back }).toEqual({ code, value });
  }
  expect(element.bits).toBeGreaterThan(0);
});

test.each(elements.filter(({ bits }) => bits > 16))("$name: numbers come back from their codes", (element) => {
  fc.assert(
    fc.property(codesOf(element), (code) => {
      const value = elementValue(element, code, 0);
      expect(elementValue(element, encode(element, value), 0)).toEqual(value);
    }),
    { numRuns: 500 },
  );
});

function same(a: Exact, b: Exact): boolean {
  return Object.is(toNumber(a), toNumber(b));
}

// Posits round in their codes, so that the nearest number is another where the exponent is cut off.
test.each(elements.filter(({ kind }) => kind !== "posit"))("$name: no other number is nearer", (element) => {
  fc.assert(
    fc.property(codesOf(element), codesOf(element), fc.double({ min: -1, max: 2, noNaN: true }), (a, b, part) => {
      const [from, to] = [toNumber(elementValue(element, a, 0)), toNumber(elementValue(element, b, 0))];
      const x = from + (to - from) * part;
      fc.pre(Number.isFinite(x));
      const nearest = elementValue(element, encode(element, fromNumber(x)), 0);
      fc.pre(nearest.kind === "finite");
      for (const code of [a, b, encode(element, nearest) ^ 1n]) {
        const other = elementValue(element, code, 0);
        if (other.kind === "finite") expect(compareDistance(nearest, other, x)).toBeLessThanOrEqual(0);
      }
    }),
    { numRuns: 200 },
  );
  expect.hasAssertions();
});

/** Negative where `a` is nearer to x than `b` is. */
function compareDistance(a: Exact, b: Exact, x: number): number {
  const distance = (y: Exact): Exact => {
    const d = add(fromNumber(x), negate(y));
    return d.kind === "finite" ? { ...d, negative: false } : d;
  };
  const d = add(distance(a), negate(distance(b)));
  return d.kind === "finite" && d.significand === 0n ? 0 : d.kind !== "nan" && d.negative ? -1 : 1;
}

test("halves go to the even code", () => {
  expect([0.5, 1.5, 2.5, -0.5, -1.5].map((x) => encoded("I8", x))).toEqual([0, 2, 2, 0, 254]);
  expect([0.25, 0.75, 2.5, 3.5, 5].map((x) => rounded("E2M1", x))).toEqual([0, 1, 2, 4, 4]);
  expect(rounded("F32", 1 + 2 ** -24)).toBe(1);
  expect(rounded("F32", 1 + 3 * 2 ** -24)).toBe(1 + 2 ** -22);
  expect(rounded("TF32", 1 + 2 ** -11)).toBe(1);
  // Where zero is the code 5, the even codes are those of the odd numbers.
  expect([-4.5, -0.5, 0.5, 1.5, 2.5].map((x) => rounded("Offset5", x))).toEqual([-5, -1, 1, 1, 3]);
  expect([-4.5, -0.5, 0.5, 1.5, 2.5].map((x) => encoded("Offset5", x))).toEqual([0, 4, 6, 6, 8]);
  expect(encoded("Twos1", -0.5)).toBe(0);
});

test("a double has the code that the exact number has", () => {
  const narrow = elements.filter(({ bits }) => bits <= 16);
  const special = fc.constantFrom(0, -0, 2 ** -1074, -(2 ** -1074), Number.MAX_VALUE, Infinity, -Infinity);
  const number = fc.oneof(fc.double({ noNaN: true }), fc.double({ min: -600, max: 600, noNaN: true }), special);
  fc.assert(
    fc.property(fc.constantFrom(...narrow), number, (element, x) => {
      expect(encodeDouble(element, x), element.name).toBe(encode(element, fromNumber(x)));
    }),
    { numRuns: 5000 },
  );
});

test("what is too large saturates, or goes to infinity or NaN, as declared", () => {
  expect([464, 465, Infinity].map((x) => rounded("E4M3FN", x))).toEqual([448, NaN, NaN]);
  expect([464, 465, -Infinity].map((x) => rounded("Saturating", x))).toEqual([448, 448, -448]);
  expect([61439, 61440, -1e9].map((x) => rounded("E5M2", x))).toEqual([57344, Infinity, -Infinity]);
  expect([240, 248, 1e9].map((x) => rounded("E4M3FNUZ", x))).toEqual([240, NaN, NaN]);
  expect([7, -1e9, Infinity].map((x) => rounded("E2M1", x))).toEqual([6, -6, 6]);
  expect([1e9, -1e9, -Infinity].map((x) => rounded("I8", x))).toEqual([127, -128, -128]);
  expect([1e300, -1e300].map((x) => rounded("F32", x))).toEqual([Infinity, -Infinity]);
  expect([2 ** 200, -(2 ** 200)].map((x) => rounded("Plain18", x))).toEqual([2 ** 17 - 16, -(2 ** 17) + 16]);
  expect(rounded("FN24", 2 ** 200)).toBeNaN();
  expect(rounded("FNUZ20", 2 ** 200)).toBeNaN();
});

test("what is below the least of an element without a sign goes to the least, and is not too large", () => {
  // Without a zero: the least number is 2^-8.
  for (const name of ["LeastIeee", "LeastFN"])
    expect([0, -0, 2 ** -30, -1, -Infinity].map((x) => rounded(name, x))).toEqual(Array(5).fill(2 ** -8));
  expect([1, Infinity].map((x) => rounded("LeastIeee", x))).toEqual([Infinity, Infinity]);
  expect([1, Infinity].map((x) => rounded("LeastFN", x))).toEqual([NaN, NaN]);
  for (const name of ["Unsigned", "UnsignedFN", "UnsignedFN18"])
    expect([-0, -1, -1e300, -Infinity].map((x) => rounded(name, x))).toEqual([0, 0, 0, 0]);
});

test("an infinity is itself where there is one, whatever happens to numbers that are too large", () => {
  for (const name of ["NanBeyond", "NanBeyond19"])
    expect([1e300, -1e300, Infinity, -Infinity].map((x) => rounded(name, x))).toEqual([NaN, NaN, Infinity, -Infinity]);
});

test("signs of zero are kept where the element has them", () => {
  expect(["F16", "F32", "E2M1", "E4M3FN"].map((name) => rounded(name, -0))).toEqual([-0, -0, -0, -0]);
  expect(["E4M3FNUZ", "FNUZ20", "I8"].map((name) => rounded(name, -0))).toEqual([0, 0, 0]);
  expect(["E2M1", "F32", "NoSubnormals"].map((name) => rounded(name, -1e-300))).toEqual([-0, -0, -0]);
  expect([1, 0, -0, -1, -Infinity].map((x) => rounded("Zeros", x))).toEqual([0, 0, -0, -0, -0]);
});

test("a posit rounds in its code with one bit more, and never to zero or NaR", () => {
  expect([1e-30, 1e30, -1e30].map((x) => rounded("Posit8", x))).toEqual([2 ** -24, 2 ** 24, -(2 ** 24)]);
  // 0b01111110 is 2^20 and 0b01111111 2^24: half way in the code is 0b011111101, 2^22.
  expect([2 ** 22 - 1, 2 ** 22, 2 ** 22 + 1].map((x) => rounded("Posit8", x))).toEqual([2 ** 20, 2 ** 20, 2 ** 24]);
});

test("what has no code is refused by name", () => {
  expect(() => encode(named("E2M1"), { kind: "nan" })).toThrow(new RangeError("E2M1 has no NaN"));
  expect(() => encode(named("I8"), { kind: "nan" })).toThrow(new RangeError("I8 has no NaN"));
  expect(() => encode(named("Plain18"), { kind: "nan" })).toThrow(new RangeError("Plain18 has no NaN"));
  const pair = programWith().elements.get("TritPair")!;
  expect(() => encode(pair, exactNumber(0n))).toThrow(
    new RangeError("a code of TritPair stands for 2 numbers, and one was given"),
  );
});
