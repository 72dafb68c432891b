// The prover against tables that were worked out by exhaustive enumeration in exact rational arithmetic by others:
// which elements are exact in which, the scales at which MX formats are, and how many bits blocks take.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { encode, encodeDouble } from "../../src/ladder/encode.ts";
import { elementValue, fromNumber, toNumber } from "../../src/ladder/exact.ts";
import { decide, elementSource, exactCodes, exactRun, typeSource } from "../../src/ladder/prove/exactness.ts";
import { choicesOf } from "../../src/ladder/prove/form.ts";
import { longestSums, prove } from "../../src/ladder/prove/prove.ts";
import { targetOf } from "../../src/ladder/prove/window.ts";
import { programWith, typeNamed } from "./program.ts";
import { imports, provedOne } from "./proved.ts";

const program = programWith(`${imports}
element I5  = int(bits: 5, coding: twos)
element I6  = int(bits: 6, coding: twos)
element I7  = int(bits: 7, coding: twos)
element I12 = int(bits: 12, coding: twos)
`);

function elementNamed(name: string): NonNullable<ReturnType<typeof program.elements.get>> {
  const element = program.elements.get(name);
  if (element === undefined) throw new Error(`the program has no element ${name}`);
  return element;
}

test("every claim of the standard library is proved", () => {
  const failed = program.claims.map((claim) => prove(claim, program)).filter(({ kind }) => kind !== "proof");
  expect(failed).toEqual([]);
  expect(program.claims.length).toBeGreaterThan(150);
});

test("the domains of the standard library are as wide as can be: the prover finds the same by itself", () => {
  const domains = program.claims.flatMap(({ from, to, guarantee, domain: [first, ...more], by }) => {
    if (guarantee !== "value" || by !== null || from.kind !== "type" || to.kind !== "element") return [];
    if (first?.kind !== "codes" || more.length > 0) return [];
    const { field, low, high } = first;
    return [{ found: exactRun(typeSource(from.type)!, targetOf(to.element)!, []), claimed: { field, low, high } }];
  });
  expect(domains.length).toBeGreaterThan(15);
  for (const { found, claimed } of domains) expect(found).toEqual(claimed);
});

// Finite codes that are exact in F16, BF16, F32, E4M3FN, E5M2; null where all are.
test.each([
  ["E4M3FN", 254, [null, null, null, null, 136]],
  ["E5M2", 248, [null, null, null, 136, null]],
  ["E4M3FNUZ", 255, [null, null, null, 239, 135]],
  ["E5M2FNUZ", 255, [null, null, null, 135, 247]],
  ["E3M2", 64, [null, null, null, null, null]],
  ["E2M1", 16, [null, null, null, null, null]],
  ["E2M3", 64, [null, null, null, null, 40]],
  ["Posit8", 255, [247, null, null, 195, 177]],
  ["Posit8es0", 255, [null, null, null, 127, 79]],
  ["Posit16", 65_535, [45_567, 12_287, null, 253, 247]],
  ["I4", 16, [null, null, null, null, null]],
  ["I5", 32, [null, null, null, null, 24]],
  ["I6", 64, [null, null, null, 48, 32]],
  ["I7", 128, [null, null, null, 64, 40]],
  ["I8", 256, [null, null, null, 80, 48]],
  ["U8", 256, [null, null, null, 48, 28]],
  ["I12", 4096, [null, 1280, null, 109, 80]],
  ["I16", 65_536, [12_288, 2304, null, 109, 112]],
  ["NF4", 16, [3, 3, null, 3, 3]],
])("codes of %s: %i finite, of which F16, BF16, F32, E4M3FN, E5M2 have %j", (name, finite, counts) => {
  const element = elementNamed(name);
  for (const [t, target] of ["F16", "BF16", "F32", "E4M3FN", "E5M2"].entries()) {
    const to = targetOf(elementNamed(target))!;
    expect(exactCodes(element, to), target).toEqual({ exact: counts[t] ?? finite, finite });
    const finiteOnly = [{ kind: "finite", field: null }] as const;
    const decision = decide(elementSource(element), to, finiteOnly);
    expect(decision.kind, target).toBe(counts[t] === null ? "exact" : "lost");
  }
});

// Codes of the scale at which every element is exact; in the second pair, also without subnormals of the target.
test.each([
  ["OCP_MXFP4", "F16", [104, 140], [114, 140]],
  ["OCP_MXFP4", "BF16", [0, 252], [2, 252]],
  ["OCP_MXFP4", "F32", [0, 252], [2, 252]],
  ["OCP_MXFP8_E4M3", "F16", [112, 134], [122, 134]],
  ["OCP_MXFP8_E4M3", "BF16", [3, 246], [10, 246]],
  ["OCP_MXFP8_E4M3", "F32", [0, 246], [10, 246]],
  ["OCP_MXFP8_E5M2", "F16", [119, 127], null],
  ["OCP_MXFP8_E5M2", "BF16", [10, 239], [17, 239]],
  ["OCP_MXFP8_E5M2", "F32", [0, 239], [17, 239]],
  ["OCP_MXFP6_E3M2", "F16", [107, 138], [117, 138]],
  ["OCP_MXFP6_E3M2", "BF16", [0, 250], [5, 250]],
  ["OCP_MXFP6_E3M2", "F32", [0, 250], [5, 250]],
  ["OCP_MXFP6_E2M3", "F16", [106, 140], [116, 140]],
  ["OCP_MXFP6_E2M3", "BF16", [0, 252], [4, 252]],
  ["OCP_MXFP6_E2M3", "F32", [0, 252], [4, 252]],
  ["OCP_MXINT8", "F16", [109, 141], [119, 141]],
  ["OCP_MXINT8", "BF16", [0, 253], [7, 253]],
  ["OCP_MXINT8", "F32", [0, 253], [7, 253]],
])("%s is exact in %s at the scales %j, and without subnormals at %j", (name, target, run, normal) => {
  const source = typeSource(typeNamed(program, name))!;
  const to = targetOf(elementNamed(target))!;
  const guard = (pair: readonly number[] | null): unknown => pair && { field: "s", low: pair[0], high: pair[1] };
  expect(exactRun(source, to, [])).toEqual(guard(run));
  expect(exactRun(source, to, [], true)).toEqual(guard(normal));
  const within = [{ kind: "codes", field: "s", low: run[0]!, high: run[1]! }] as const;
  expect(decide(source, to, within).kind).toBe("exact");
});

test("a run of codes is the first of the longest in which every single code is kept, in products as in elements", () => {
  const small = [...program.elements.values()].filter((one) => one.bits <= 8 && targetOf(one) !== null);
  const products = ["OCP_MXFP4", "OCP_MXFP8_E5M2", "OCP_MXINT8"].map((name) => typeSource(typeNamed(program, name))!);
  const sources = [...small.map(elementSource), ...products];
  let found = 0;
  for (const source of sources) {
    for (const to of ["F16", "BF16", "E4M3FN", "I8", "NF4"].map((name) => targetOf(elementNamed(name))!)) {
      const field = source.type === null ? null : "s";
      const bits = source.type === null ? source.forms[0]!.leaves[0]!.bits : 8;
      const kept = Array.from({ length: 2 ** bits }, (_, code) => {
        const only = { kind: "codes", field, low: code, high: code } as const;
        const finite = { kind: "finite", field } as const;
        const isFinite = choicesOf(
          source.forms[0]!.leaves.find((leaf) => leaf.field === field)!,
          [only, finite],
        );
        return isFinite.codes.length === 1 && decide(source, to, [only]).kind === "exact" ? "y" : "n";
      }).join("");
      const longest = (kept.match(/y+/g) ?? []).toSorted((a, b) => b.length - a.length)[0] ?? null;
      const low = longest === null ? -1 : kept.indexOf(longest);
      const wanted = longest && { field, low, high: low + longest.length - 1 };
      if (wanted !== null) found++;
      expect(exactRun(source, to, []), `${source.name} in ${to.element.name}`).toEqual(wanted);
    }
  }
  expect(found).toBeGreaterThan(50);
});

test("doubles have the codes that exact numbers have, in the middle of two and beyond the largest too", () => {
  const listed = [...program.elements.values()].filter((one) => one.bits <= 16 && targetOf(one) !== null);
  fc.assert(
    fc.property(
      fc.constantFrom(...listed),
      fc.nat(),
      fc.constantFrom(0, 1, 2),
      fc.double(),
      (element, at, part, any) => {
        const near = (code: number): number => toNumber(elementValue(element, BigInt(code % 2 ** element.bits), 0));
        const x = part === 2 ? any : (near(at) + near(at + part)) / 2;
        const code = (of: () => bigint): string => {
          try {
            return String(of());
          } catch (error) {
            return String(error);
          }
        };
        for (const y of [x, 2 * x, x * (1 + Number.EPSILON), -x])
          expect(code(() => encodeDouble(element, y))).toBe(code(() => encode(element, fromNumber(y))));
      },
    ),
    { numRuns: 5000 },
  );
});

describe("blocks", () => {
  test.each([
    ["Q4_1", 44],
    ["Q5_1", 45],
    ["Q2_K", 46],
    ["Q4_K", 50],
    ["Q5_K", 51],
    ["BnbNF4", 48],
    ["GPTQ4", 15],
    ["GPTQ8", 19],
    ["AWQ4", 15],
  ])("of %s take at most %i significant bits, and fit a double", (name, bits) => {
    const { result } = provedOne(`convert ${name} -> F64 : value`);
    expect(result).toMatchObject({
      kind: "proof",
      method: expect.stringContaining(`at most ${bits} significant bits`),
    });
  });

  test.each([
    "Q4_0",
    "Q5_0",
    "Q8_0",
    "IQ4_NL",
    "TQ1_0",
    "TQ2_0",
    "Q3_K",
    "Q6_K",
    "IQ4_XS",
    "Q1_0",
    "Q2_0",
    "GPTQ4",
    "GPTQ8_act",
  ])("of %s are exact in F32", (name) => expect(provedOne(`convert ${name} -> F32 : value`).result.kind).toBe("proof"));

  test.each([
    ["Q4_1", { d: 1, q: 1, m: 0x3c00 }],
    ["Q5_1", { d: 1, q: 1, m: 0x3c00 }],
    ["Q2_K", { d: 1, sc: 1, q: 1, dmin: 0x4000, m: 1 }],
    ["Q4_K", { d: 1, sc: 1, q: 1, dmin: 0x4000, m: 1 }],
    ["Q5_K", { d: 1, sc: 1, q: 1, dmin: 0x4000, m: 1 }],
  ])("of %s are not all exact in F32: the smallest counter-example is %j", (name, wanted) => {
    const { result } = provedOne(`convert ${name} -> F32 : value`);
    const codes = result.kind === "refutation" && result.verdict === "refuted" ? (result.witness?.codes ?? []) : [];
    const found = Object.fromEntries(codes.map(({ label, code }) => [label.replace(/\[.*/, ""), Number(code)]));
    expect(found).toEqual(wanted);
  });

  test("of ternary formats are exact in F16, with twice the scale as long as that is a number", () => {
    expect(provedOne("convert TQ1_0 -> F16 : value").result.kind).toBe("proof");
    expect(provedOne("convert Q1_0 -> F16 : value").result.kind).toBe("proof");
    expect(provedOne("convert TQ2_0 -> F16 : value when d in 0 .. 0x77FF").result.kind).toBe("proof");
    expect(provedOne("convert TQ2_0 -> F16 : value").result).toMatchObject({
      run: { field: "d", low: 0, high: 0x77ff },
    });
  });
});

test("sums of products with int8 activations: as many as stay exact, and not one more", () => {
  expect(longestSums(-8, 7)).toEqual({ f32: 16_384, i32: 2_097_151 });
  expect(longestSums(-1, 1)).toEqual({ f32: 131_072, i32: 16_777_215 });
  for (const [low, high] of [
    [-8, 7],
    [0, 15],
    [-127, 113],
    [0, 0],
  ] as const) {
    const { f32, i32 } = longestSums(low, high);
    const most = Math.max(0, ...[low, high].flatMap((w) => [-128 * w, 127 * w]));
    const least = Math.min(0, ...[low, high].flatMap((w) => [-128 * w, 127 * w]));
    if (most === 0) continue;
    expect(f32 * Math.max(most, -least)).toBeLessThanOrEqual(2 ** 24);
    expect((f32 + 1) * Math.max(most, -least)).toBeGreaterThan(2 ** 24);
    const inRange = (k: number): boolean => k * most < 2 ** 31 && k * least >= -(2 ** 31);
    expect([inRange(i32), inRange(i32 + 1)]).toEqual([true, false]);
  }
});
