// Every family of elements: the numbers of its codes, and what a person reads where its declaration is wrong.

import { describe, expect, test } from "vitest";

import { elementValue, toNumber } from "../../src/ladder/exact.ts";
import { programWith, remarks } from "./program.ts";

describe("elements", () => {
  const values = (element: string, lanes = 1): readonly number[] => {
    const parsed = programWith(`element A = ${element}`).elements.get("A")!;
    return Array.from({ length: lanes * 2 ** parsed.bits }, (_, k) =>
      toNumber(elementValue(parsed, BigInt(Math.floor(k / lanes)), k % lanes)),
    );
  };

  test.each([
    ["int(bits: 3, coding: sign_magnitude)", [0, 1, 2, 3, -0, -1, -2, -3]],
    ["int(bits: 3, coding: plus_minus_one)", [-7, -5, -3, -1, 1, 3, 5, 7]],
    ["int(bits: 2, coding: offset)", [-2, -1, 0, 1]],
    ["int(bits: 2, coding: offset, zero: 3)", [-3, -2, -1, 0]],
    ["exponent(bits: 2, bias: 1, nan: 3)", [0.5, 1, 2, NaN]],
    ["float(exponent: 2, mantissa: 1, bias: 1, special: none, sign: no)", [0, 0.5, 1, 1.5, 2, 3, 4, 6]],
    ["float(exponent: 2, mantissa: 1, bias: 1, special: none, sign: no, subnormals: zero)", [0, 0, 1, 1.5, 2, 3, 4, 6]],
    [
      "float(exponent: 2, mantissa: 1, bias: 1, special: none, sign: no, subnormals: normal)",
      [0.5, 0.75, 1, 1.5, 2, 3, 4, 6],
    ],
    ["float(exponent: 1, mantissa: 1, bias: 0, special: none, sign: ignored)", [0, 1, 2, 3, 0, 1, 2, 3]],
    [
      "float(exponent: 1, mantissa: 1, bias: 0, special: none, sign: no) override [0: 9, 3: -inf]",
      [9, 1, 2, -Infinity],
    ],
    ["table(bits: 2) [0x1.8p-1, -3, nan, inf]", [0.75, -3, NaN, Infinity]],
    ["table(bits: 2, rounding: f32) [0.1, -0.7, 1, 0]", [Math.fround(0.1), Math.fround(-0.7), 1, 0]],
    ["table(bits: 2, rest: nan) [1, 2, 3]", [1, 2, 3, NaN]],
    ["posit(bits: 4, es: 1)", [0, 1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16, NaN, -16, -4, -2, -1, -1 / 2, -1 / 4, -1 / 16]],
  ])("%s", (element, expected) => {
    expect(values(element)).toEqual(expected);
  });

  test.each([
    ['table(bits: 1, lanes: 3) [-1, 1] "001" "110"', 3, [-1, -1, 1, 1, 1, -1]],
    ["digits(base: 2, count: 2, bits: 2, order: first)", 2, [0, 0, 1, 0, 0, 1, 1, 1]],
    ["digits(base: 2, count: 2, bits: 2, order: last, zero: 1)", 2, [-1, -1, -1, 0, 0, -1, 0, 0]],
    ["digits(base: 2, count: 2, bits: 2, order: fraction)", 2, [0, 0, 0, 1, 1, 0, 1, 1]],
  ])("%s", (element, lanes, expected) => {
    expect(values(element, lanes)).toEqual(expected);
  });

  test.each([
    ["table(bits: 2) [1, 2, 3]", "4:9: error[argument]: 2^2 codes are 4 values, and 3 are listed"],
    ["table(bits: 2)", "4:9: error[argument]: a table lists its values in square brackets, such as [0, 0.5, 1, 1.5]"],
    [
      "table(bits: 1) [0.1, 1]",
      "4:29: error[number]: 0.1 has no exact binary value, and a value is exact\n= write a fraction of a power of two, such as 0.5 or 0.375, or a hexadecimal one, such as 0x1.8p-3",
    ],
    ["table(bits: 1) [0x1p1024, 1]", "4:29: error[number]: 0x1p1024 is no double, and the values of elements are"],
    [
      "table(bits: 1) [0x1p2000, 1]",
      "4:29: error[limit]: 0x1p2000 is outside the powers of two from 2^-1100 to 2^1100",
    ],
    ["table(bits: 1) [big, 1]", "4:29: error[number]: big is no number; there are nan and inf"],
    ['table(bits: 1) [0, 1] "02"', "4:35: error[number]: the digit 2 names none of the 2 values listed"],
    [
      "table(bits: 16, lanes: 2) [0]",
      "4:9: error[argument]: 2^16 codes of 2 lanes are 131072 values; at most 65536 are allowed",
    ],
    ["int(bits: 2, coding: unsigned) [1]", "4:9: error[argument]: a list of values follows a table; this is a int"],
    [
      "int(bits: 17, coding: plus_minus_one)",
      "4:9: error[argument]: coding: plus_minus_one has at most 16 bits, and this has 17",
    ],
    [
      "int(bits: 8, coding: unsigned) override [256: 1]",
      "4:54: error[number]: an overridden code must be a whole number from 0 to 255, not 256",
    ],
    ["int(bits: 8, coding: unsigned) override [5: 1, 5: 2]", "4:60: error[duplicate-name]: code 5 is overridden twice"],
    [
      "float(exponent: 8, mantissa: 23, bias: 127, special: ieee) override [0: 1]",
      "4:82: error[argument]: only single values of at most 16 bits can be overridden",
    ],
    [
      "float(exponent: 11, mantissa: 2, bias: 100, special: none)",
      "4:9: error[argument]: its largest numbers reach 2^1947, and the largest double is below 2^1024",
    ],
    [
      "float(exponent: 4, mantissa: 3, bias: 7, special: none, overflow: nan)",
      "4:9: error[argument]: special: none has no NaN to overflow to",
    ],
    [
      "float(exponent: 4, mantissa: 3, bias: 7, special: fn, overflow: infinity)",
      "4:9: error[argument]: only special: ieee has an infinity",
    ],
    [
      "float(exponent: 4, mantissa: 3, bias: 7, special: fnuz, sign: no)",
      "4:9: error[argument]: special: fnuz needs a sign: its NaN is the code of -0",
    ],
    [
      "float(exponent: 8, mantissa: 20, bias: 127, special: ieee, subnormals: zero)",
      "4:9: error[argument]: subnormals: zero, sign: yes go with at most 16 bits, not 29",
    ],
    ["exponent(bits: 4, bias: 0, nan: 16)", "4:9: error[argument]: nan: 16 is no code of 4 bits"],
    [
      "exponent(bits: 11, bias: 0)",
      "4:9: error[argument]: its largest number is 2^2047, and the largest double is below 2^1024",
    ],
    [
      "digits(base: 3, count: 6, bits: 8, order: first)",
      "4:9: error[argument]: 6 digits below 3 have 729 values, and 8 bits have 256",
    ],
    [
      "digits(base: 2, count: 16, bits: 16, order: first)",
      "4:9: error[argument]: 16 x 2^16 values are more than the 65536 that are allowed",
    ],
  ])("element A = %s", (element, expected) => {
    expect(remarks(`element A = ${element}`)).toBe(expected);
  });
});
