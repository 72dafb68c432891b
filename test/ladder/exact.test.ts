// The exact numbers obey IEEE 754 where doubles do, and a few values of each format are checked by hand.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { add, type Exact, exactNumber, exactValue, multiply, negate, toNumber } from "../../src/ladder/exact.ts";
import { oddTypes, programWith, typeNamed } from "./program.ts";

const program = programWith(oddTypes);

/** Any double, exactly: by its bits, so that nothing here depends on the code under test. */
function exactly(x: number): Exact {
  const bits = new BigUint64Array(Float64Array.of(x).buffer)[0]!;
  const negative = bits >> 63n === 1n;
  const power = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & ((1n << 52n) - 1n);
  if (power === 0x7ff) return fraction === 0n ? { kind: "infinite", negative } : { kind: "nan" };
  const significand = power === 0 ? fraction : fraction | (1n << 52n);
  const plus = exactNumber(significand, Math.max(power, 1) - 1075);
  return negative ? negate(plus) : plus;
}

// Neighbours in size as well as any two doubles, so that sums cancel, round and overflow.
const pair = fc.oneof(
  fc.tuple(fc.double(), fc.double()),
  fc.tuple(fc.double(), fc.double({ min: -2, max: 2 })).map(([a, f]): [number, number] => [a, a * f]),
  fc.tuple(fc.constantFrom(0, -0, Infinity, -Infinity, NaN, 2 ** -1074, Number.MAX_VALUE), fc.double()),
);

test("an exact sum rounded once is the double sum, for all doubles", () => {
  fc.assert(
    fc.property(pair, ([a, b]) => {
      expect(toNumber(add(exactly(a), exactly(b)))).toBe(a + b);
    }),
    { numRuns: 3000 },
  );
});

test("an exact product rounded once is the double product, for all doubles", () => {
  fc.assert(
    fc.property(pair, ([a, b]) => {
      expect(toNumber(multiply(exactly(a), exactly(b)))).toBe(a * b);
    }),
    { numRuns: 3000 },
  );
});

test("every double comes back from its exact form, and two equal numbers have one form", () => {
  fc.assert(
    fc.property(fc.double(), (x) => {
      expect(toNumber(exactly(x))).toBe(x);
      expect(multiply(exactly(x), exactNumber(8n, -3))).toEqual(exactly(x));
    }),
  );
});

test("a value halfway between two doubles goes to the even one, and just below 2^1024 to infinity", () => {
  expect(toNumber(exactNumber(2n ** 53n + 1n))).toBe(2 ** 53);
  expect(toNumber(exactNumber(2n ** 53n + 3n))).toBe(2 ** 53 + 4);
  expect(toNumber(exactNumber(-(2n ** 54n - 1n), 970))).toBe(-Infinity);
  expect(toNumber(exactNumber(1n, -1075))).toBe(0);
  expect(toNumber(exactNumber(3n, -1076))).toBe(2 ** -1074);
});

test.each([
  // d = 0.5; byte j holds elements j (low nibble) and j + 16 (high nibble).
  { name: "Q4_0", head: [0x00, 0x38, 0x9f], values: { 0: 3.5, 16: 0.5, 1: -4 } },
  // d = 1; qh = 1 sets the top bit of element 0.
  { name: "Q5_0", head: [0x00, 0x3c, 1, 0, 0, 0, 0x21], values: { 0: 1, 16: -14, 1: -16 } },
  { name: "Q8_0", head: [0x00, 0xc0, 0x80, 0x7f], values: { 0: 256, 1: -254, 2: -0 } },
  // d = 1, m = -2.
  { name: "Q4_1", head: [0x00, 0x3c, 0x00, 0xc0, 0x0f], values: { 0: 13, 1: -2 } },
  { name: "BF16", head: [0x80, 0xbf], values: { 0: -1 } },
])("$name: values worked out by hand", ({ name, head, values }) => {
  const type = typeNamed(program, name);
  const block = new Uint8Array(type.blockBytes);
  block.set(head);
  for (const [i, value] of Object.entries(values)) expect(toNumber(exactValue(type, block, Number(i)))).toBe(value);
});

test("a value outside the doubles is exact all the same", () => {
  const wide = typeNamed(program, "Wide");
  // a = b = c = 1 + 2^-23, q = 3
  const one = [1, 0, 0x80, 0x3f];
  const value = exactValue(wide, Uint8Array.from([...one, ...one, ...one, 3, 0]), 0);
  expect(value).toEqual(exactNumber(3n * (2n ** 23n + 1n) ** 3n, -69));
});

test("a block that is cut short and an index outside are refused with the numbers", () => {
  const q4 = typeNamed(program, "Q4_0");
  expect(() => exactValue(q4, new Uint8Array(17), 0)).toThrow(
    new RangeError("a block of Q4_0 has 18 bytes, and 17 were given"),
  );
  expect(() => exactValue(q4, new Uint8Array(18), 32)).toThrow(
    new RangeError("a block of Q4_0 has values 0 to 31, and 32 was asked for"),
  );
});
