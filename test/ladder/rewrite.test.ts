// Rewrites are used where their proofs hold, and refused, with the code that breaks them, where they do not.

import { expect, test } from "vitest";

import { emit } from "../../src/ladder/emit/emit.ts";
import { makeGraph } from "../../src/ladder/emit/ir.ts";
import { loweringOf } from "../../src/ladder/emit/lowering.ts";
import { numbersOf } from "../../src/ladder/listed.ts";
import {
  compileFloat,
  CPP,
  JAVASCRIPT,
  magicNumber,
  type Machine,
  proveRewrite,
  REWRITES,
  type RewriteProof,
  WGSL,
} from "../../src/ladder/emit/rewrite.ts";
import type { Element } from "../../src/ladder/type.ts";
import { programWith, typeNamed } from "./program.ts";

const program = programWith();

function elementNamed(name: string): Element {
  const element = program.elements.get(name);
  if (element === undefined) throw new Error(`the library has no element ${name}`);
  return element;
}

function proofOf(rewrite: string, element: string, machine: Machine = WGSL): RewriteProof {
  const found = REWRITES.find(({ name }) => name === rewrite);
  if (found === undefined) throw new Error(`there is no rewrite ${rewrite}`);
  return proveRewrite(found, elementNamed(element), machine);
}

const HALF = "a half, and a power of two";
const FIELDS = "the fields of a float in a single";
const LINE = "evenly spaced numbers as a line";

test("all codes that a proof speaks of are evaluated", () => {
  const all = (count: number): RewriteProof => ({ kind: "proved", method: `all ${count} codes evaluated` });
  expect(proofOf(HALF, "E5M2")).toEqual(all(256));
  expect(proofOf("the top bits of a single", "BF16")).toEqual({
    kind: "proved",
    method: "by definition: its parameters are those of an IEEE single",
  });
  expect(proofOf("a posit by counting its regime", "Posit16")).toEqual(all(65_536));
  expect(proofOf("a power of two as the exponent of a single", "E8M0")).toEqual(all(256));
  expect(proofOf("digits of a fraction by multiplication", "TritFraction")).toEqual(all(1280));
  expect(proofOf("a packed list of few numbers", "GridIQ1")).toEqual(all(16_384));
});

test("a rewrite that would be wrong is refused with the code that shows it", () => {
  const refused = (reason: string): RewriteProof => ({ kind: "refused", reason });
  // A half has infinity and NaN where E4M3FN has numbers, and the other way round.
  expect(proofOf(HALF, "E4M3FN")).toEqual(refused("code 127 is NaN, not 480"));
  expect(proofOf(HALF, "E4M3FNUZ")).toEqual(refused("code 128 is NaN, not -0"));
  expect(proofOf(LINE, "IQ4")).toEqual(refused("code 2 is -83, not -81"));
  expect(proofOf(LINE, "E2M1")).toEqual(refused("code 5 is 3, not 2.5"));
  expect(proofOf(FIELDS, "NF4")).toEqual(refused("NF4 is none of its kind"));
  expect(proofOf("a table", "F32")).toEqual(refused("F32 has 32 bits, and codes are enumerated up to 16"));
});

test("every rewrite that is proved for an element gives all its numbers, as computed here once more", () => {
  let proved = 0;
  for (const element of program.elements.values()) {
    if (element.bits > 12 || (element.kind === "table" && element.lanes > 1)) continue;
    for (const rewrite of REWRITES) {
      if (proveRewrite(rewrite, element, CPP).kind === "refused") continue;
      proved++;
      const graph = makeGraph();
      const code = graph.variable("code", 0, 2 ** element.bits - 1);
      const compute = compileFloat(rewrite.build(graph, element, code, graph.integer(0))!, Math.fround);
      const got = Array.from({ length: 2 ** element.bits }, (_, c) => compute(() => c));
      expect(got, `${rewrite.name} of ${element.name}`).toEqual([...numbersOf(element)].map(Math.fround));
    }
  }
  expect(proved).toBeGreaterThan(30);
});

test.each([
  ["single", 2 ** 23],
  ["half", 2 ** 10],
] as const)("a magic number as a %s holds exactly below its fraction, and is refused from there on", (kind, one) => {
  const graph = makeGraph();
  const below = graph.variable("q", 0, one - 1);
  const compute = compileFloat(magicNumber(graph, below, kind)!, Math.fround);
  for (const q of [0, 1, 2, 3, one / 2, one - 2, one - 1]) expect(compute(() => q)).toBe(q);
  expect(magicNumber(graph, graph.variable("r", 0, one), kind)).toBeNull();
  expect(magicNumber(graph, graph.variable("s", -1, 3), kind)).toBeNull();
  expect(magicNumber(graph, graph.variable("t", 0, 2 ** 24 - 1), kind)).toBeNull();
});

test("a code of 24 bits is emitted without a magic number, and one of 23 with it", () => {
  const of = (bits: number): readonly string[] => {
    const text = `import "int.ladder"\nelement W = int(bits: ${bits}, coding: unsigned)
block B[8] { q : W[8] value[i] = q[i] }`;
    const target = { kind: "wgsl", prefix: "w_", group: 0, binding: 0, columns: null } as const;
    const emission = emit(typeNamed(programWith(text), "B"), target);
    return emission.kind === "refused" ? [emission.reason] : emission.rewrites;
  };
  expect(of(23)).toEqual(["integers by a magic number"]);
  expect(of(24)).toEqual([]);
});

test("machines use what suits them", () => {
  const used = (name: string, machine: "javascript" | "cpp"): readonly string[] => {
    const emission = emit(
      typeNamed(program, name),
      machine === "cpp" ? { kind: machine, name: "x" } : { kind: machine },
    );
    return emission.kind === "refused" ? [emission.reason] : emission.rewrites;
  };
  expect(used("TQ1_0", "cpp")).toContain("digits of a fraction by multiplication");
  expect(used("IQ4_NL", "cpp")).toContain("a table of up to 256 numbers");
  expect(used("BF16", "javascript")).toEqual(["the top bits of a single"]);
  expect(
    [JAVASCRIPT, CPP, WGSL].flatMap(({ prefers }) => prefers).filter((p) => !REWRITES.some(({ name }) => name === p)),
  ).toEqual([]);
});

test("a lowering is what JSON holds, and its odd codes give the same integers", () => {
  for (const type of program.types.values()) {
    const lowering = loweringOf(type);
    expect(JSON.parse(JSON.stringify(lowering)), type.name).toEqual(
      lowering.kind === "integers" ? plain(lowering) : lowering,
    );
    if (lowering.kind !== "integers" || lowering.symmetric === null) continue;
    const { half, range, shift } = lowering.symmetric;
    const numbers = lowering.codes.map ?? Array.from({ length: 2 ** lowering.codes.bits }, (_, code) => code);
    expect(numbers.filter((x) => half * (2 * x - range) + shift !== x - lowering.zero)).toEqual([]);
    expect(
      [...numbers]
        .map((x) => x - lowering.zero)
        .toSorted((a, b) => a - b)
        .at(-1),
    ).toBe(lowering.most);
  }
});

/** The sign of a zero is no part of a structure, and JSON does not keep it. */
function plain(lowering: object): unknown {
  return JSON.parse(JSON.stringify(lowering), (_key, x: unknown) => (Object.is(x, -0) ? 0 : x));
}

test("a lowering says what a machine needs, or why there is none", () => {
  expect(loweringOf(typeNamed(program, "Q4_0"))).toMatchObject({
    kind: "integers",
    least: -8,
    most: 7,
    zero: 8,
    planes: 4,
    symmetric: { half: 0.5, range: 15, shift: -0.5 },
    groupSize: 32,
  });
  expect(loweringOf(typeNamed(program, "F16"))).toEqual({ kind: "float", format: "f16" });
  expect(loweringOf(typeNamed(program, "IQ1_S"))).toEqual({
    kind: "none",
    reason: "GridIQ1 stands for 8 numbers at once",
  });
});
