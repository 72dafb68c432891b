// Index expressions: many at a time is the same as one at a time, and bounds hold.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { boundsOf, indexAt, indexOver } from "../../src/ladder/expr.ts";
import type { Condition, Index } from "../../src/ladder/type.ts";

const constant = fc
  .oneof(fc.integer({ min: -3, max: 40 }), fc.constantFrom(2 ** 31 - 1, 65536))
  .map((value): Index => ({ kind: "constant", value }));
const { index } = fc.letrec<{ index: Index; condition: Condition }>((tie) => ({
  condition: fc.record({
    operator: fc.constantFrom("<", "<=", ">", ">=", "==", "!="),
    left: tie("index"),
    right: tie("index"),
  }),
  index: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.constant<Index>({ kind: "variable" }),
    constant,
    fc.record({
      kind: fc.constant("binary"),
      operator: fc.constantFrom("+", "-", "*", "div", "mod"),
      left: tie("index"),
      right: fc.oneof(constant, tie("index")),
    }),
    fc.record({ kind: fc.constant("choose"), condition: tie("condition"), yes: tie("index"), no: tie("index") }),
  ),
}));
const range = fc.tuple(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 1, max: 40 }));

test("an index over a domain is the index at each of it", () => {
  fc.assert(
    fc.property(index, range, (of, [first, count]) => {
      const domain = Array.from({ length: count }, (_, d) => first + d);
      expect([...indexOver(of, domain).subarray(0, count)]).toEqual(domain.map((i) => indexAt(of, i)));
    }),
    { numRuns: 3000 },
  );
});

test("where there are bounds, every value is a number and lies in them", () => {
  let bounded = 0;
  fc.assert(
    fc.property(index, range, (of, [first, count]) => {
      const bounds = boundsOf(of, first, first + count - 1);
      if (bounds === null) return;
      bounded++;
      for (let i = first; i < first + count; i++) {
        expect(indexAt(of, i)).toBeGreaterThanOrEqual(bounds[0]);
        expect(indexAt(of, i)).toBeLessThanOrEqual(bounds[1]);
      }
    }),
    { numRuns: 3000 },
  );
  expect(bounded).toBeGreaterThan(1000);
});

test("the bounds of what formats use are exact", () => {
  const i: Index = { kind: "variable" };
  const by = (operator: "div" | "mod" | "*", left: Index, value: number): Index => ({
    kind: "binary",
    operator,
    left,
    right: { kind: "constant", value },
  });
  expect(boundsOf(by("mod", i, 16), 0, 255)).toEqual([0, 15]);
  expect(boundsOf(by("mod", i, 16), 35, 37)).toEqual([3, 5]);
  expect(boundsOf(by("*", by("div", i, 64), 4), 0, 255)).toEqual([0, 12]);
  expect(boundsOf(by("div", i, 0), 0, 255)).toBe(null);
});
