// The floats of the machine are those of the language, rounding is that of exact integers, and sums lose nothing.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { add, elementValue, type Exact, fromNumber, multiply, toNumber } from "../../src/ladder/exact.ts";
import { encoderOf, lossOf, rounderOf, sumToOdd, valuesOf } from "../../src/lutcore/number.ts";
import { programWith } from "../ladder/program.ts";
import { nearest } from "./definition.ts";

const program = programWith();
const narrow = ["fp16", "bf16", "e4m3", "e5m2"] as const;
const all = [...narrow, "fp32"] as const;
const NAMES = { fp16: "F16", bf16: "BF16", e4m3: "E4M3FN", e5m2: "E5M2" } as const;

/** A sum of doubles as whole numbers add them; a zero has the sign of a sum of doubles. */
function exactSum(terms: readonly number[]): Exact {
  return terms.map(fromNumber).reduce(add, fromNumber(-0));
}

test("every code of FP16, BF16, E4M3 and E5M2 has the value that dsl/float.ladder gives it, and comes back from it", () => {
  for (const float of narrow) {
    const element = program.elements.get(NAMES[float])!;
    const encode = encoderOf(float);
    const values = valuesOf(float);
    expect(values.length).toBe(2 ** element.bits);
    const wrong = Array.from(values, (value, code) => {
      const same = Object.is(value, toNumber(elementValue(element, BigInt(code), 0)));
      const back = Number.isNaN(value) ? Number.isNaN(values[encode(value)]!) : encode(value) === code;
      return same && back ? null : `${float} ${code}: ${value}`;
    });
    expect(wrong.filter((line) => line !== null)).toEqual([]);
  }
});

test("every point halfway between two neighbours, and the doubles beside it, round to the nearest, ties to even", () => {
  const bits = new BigInt64Array(1);
  const double = new Float64Array(bits.buffer);
  for (const float of narrow) {
    const round = rounderOf(float);
    const wrong: string[] = [];
    const values = [...new Set(valuesOf(float))].filter((x) => Number.isFinite(x) && x >= 0).toSorted((a, b) => a - b);
    values.push(2 * values.at(-1)! - values.at(-2)!);
    for (const [i, low] of values.slice(0, -1).entries()) {
      double[0] = (low + values[i + 1]!) / 2;
      for (const step of [-1n, 2n, 0n]) {
        const x = double[0];
        for (const signed of [x, -x]) {
          const expected = nearest(fromNumber(signed), float);
          if (!Object.is(round(signed), expected)) wrong.push(`${float} ${signed}: ${round(signed)}, not ${expected}`);
        }
        bits[0] = bits[0]! + step;
      }
    }
    expect(wrong).toEqual([]);
  }
});

const anyDouble = fc.oneof(
  fc.double(),
  fc.double({ min: -70000, max: 70000 }),
  fc.tuple(fc.integer({ min: -4095, max: 4095 }), fc.integer({ min: -160, max: 130 })).map(([q, e]) => q * 2 ** e),
);

test("any double rounds to what whole numbers say, infinities and NaN included", () => {
  fc.assert(
    fc.property(anyDouble, fc.constantFrom(...all), (x, float) => {
      expect(rounderOf(float)(x)).toBe(nearest(fromNumber(x), float));
    }),
    { numRuns: 5000 },
  );
});

// Products of two floats of the machine: far apart in size, near cancelling, with zeros of both signs.
const term = fc.oneof(
  fc.tuple(fc.integer({ min: -255, max: 255 }), fc.integer({ min: -270, max: 250 })).map(([q, e]) => q * 2 ** e),
  fc
    .tuple(fc.integer({ min: -(2 ** 48), max: 2 ** 48 }), fc.integer({ min: -60, max: 60 }))
    .map(([q, e]) => q * 2 ** e),
  fc.constantFrom(0, -0, 1, -1, 2 ** 53, -(2 ** 53), 2 ** -149),
);

test("a sum rounded once is the exact sum rounded once, for every format", () => {
  fc.assert(
    fc.property(fc.array(term, { maxLength: 40 }), fc.constantFrom(...all), (terms, float) => {
      const sum = sumToOdd(Float64Array.from(terms), terms.length);
      expect(rounderOf(float)(sum)).toBe(nearest(exactSum(terms), float));
    }),
    { numRuns: 5000 },
  );
});

test("a sum and what makes it a tie, or just not one, round to different sides", () => {
  const round = rounderOf("fp16");
  const sum = (...terms: number[]): number => round(sumToOdd(Float64Array.from(terms), terms.length));
  expect(sum(1, 2 ** -11)).toBe(1);
  expect(sum(1, 2 ** -11, 2 ** -200)).toBe(1 + 2 ** -10);
  expect(sum(1, 2 ** -11, -(2 ** -200))).toBe(1);
  expect(sum(1, 3 * 2 ** -11, -(2 ** -200))).toBe(1 + 2 ** -10);
  expect(sum(2 ** -200, 2 ** 100, -(2 ** 100), 1, 2 ** -11)).toBe(1 + 2 ** -10);
});

test("a product and what it lost are the exact product", () => {
  fc.assert(
    fc.property(term, term, (a, b) => {
      const product = a * b;
      const exact = multiply(fromNumber(a), fromNumber(b));
      expect(toNumber(add(exact, fromNumber(-product)))).toBe(lossOf(a, b, product) + 0);
    }),
    { numRuns: 5000 },
  );
});

test("infinities and NaN in a sum are as in sums of doubles", () => {
  for (const [terms, expected] of [
    [[Infinity, 1], Infinity],
    [[-Infinity, 2 ** 60, 2 ** -60], -Infinity],
    [[Infinity, -Infinity], NaN],
    [[NaN, 1], NaN],
    [[2 ** -80, 2 ** 80, NaN], NaN],
    [[-0, -0], -0],
    [[-0, 0], 0],
  ] as const) {
    expect(sumToOdd(Float64Array.from(terms), terms.length)).toBe(expected);
  }
});

test("a sum of two floats of 16 bits rounds the same from a single as from the exact sum: no double rounding", () => {
  for (const float of ["fp16", "bf16"] as const) {
    const values = valuesOf(float).filter((x) => Number.isFinite(x));
    const round = rounderOf(float);
    fc.assert(
      fc.property(fc.nat(values.length - 1), fc.nat(values.length - 1), (i, j) => {
        const [a, b] = [values[i]!, values[j]!];
        expect(round(Math.fround(a + b))).toBe(round(sumToOdd(Float64Array.of(a, b), 2)));
      }),
      { numRuns: 20_000 },
    );
  }
});
