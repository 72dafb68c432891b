// Refutations of claims between formats of blocks: what is said to be absent is so, by trying every block of small
// formats; and nothing is refuted that holds.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { findAbsent } from "../../src/ladder/prove/absence.ts";
import { type Exact, exactValue } from "../../src/ladder/exact.ts";
import { prove } from "../../src/ladder/prove/prove.ts";
import { shapesOf, storedIn } from "../../src/ladder/prove/stored.ts";
import type { Program, Type } from "../../src/ladder/type.ts";
import { same } from "../../src/ladder/prove/window.ts";
import { programWith, typeNamed } from "./program.ts";
import { imports, provedOne } from "./proved.ts";

const numbers = [-2, -1, -0.5, 0, 0.5, 1, 2, 3];

/** A format of two values in a byte: codes of two bits for a scale, two levels and an offset, in some order. */
interface Small {
  readonly scales: readonly number[];
  readonly levels: readonly number[];
  readonly offsets: readonly number[] | null;
  readonly order: readonly number[];
}

const four = fc.array(fc.constantFrom(...numbers), { minLength: 4, maxLength: 4 });
const small: fc.Arbitrary<Small> = fc.record({
  scales: four,
  levels: four,
  offsets: fc.oneof(fc.constant(null), four),
  order: fc.shuffledSubarray([0, 2, 4, 6], { minLength: 4, maxLength: 4 }),
});

function textOf(name: string, { scales, levels, offsets, order }: Small): string {
  const [s, a, b, m] = order;
  const list = (of: string, values: readonly number[]): string =>
    `element ${of}${name} = table(bits: 2) [${values.join(", ")}]\n`;
  return `${list("S", scales)}${list("L", levels)}${list("M", offsets ?? levels)}block ${name}[2] {
  x : U8
  code s[g < 1] = x.bits(${s} +: 2)
  code q[i < 2] = x.bits(if i == 0 then ${a} else ${b} +: 2)
  code m[g < 1] = x.bits(${m} +: 2)
  value[i] = S${name}(s[0]) * L${name}(q[i])${offsets === null ? "" : ` + M${name}(m[0])`}
}\n`;
}

function programOf(a: Small, b: Small): Program {
  return programWith(`${imports}\n${textOf("A", a)}${textOf("B", b)}convert A -> B : value`);
}

function valuesOf(type: Type, byte: number): readonly Exact[] {
  return [0, 1].map((i) => exactValue(type, Uint8Array.of(byte), i));
}

const bytes = Array.from({ length: 256 }, (_, byte) => byte);

/** The bytes of A that no byte of B is like. */
function lostBytes(a: Type, b: Type): readonly number[] {
  const all = bytes.map((byte) => valuesOf(b, byte));
  return bytes.filter((byte) => {
    const wanted = valuesOf(a, byte);
    return !all.some((values) => values.every((value, i) => same(value, wanted[i]!)));
  });
}

describe("formats of one byte, all of whose blocks can be tried:", () => {
  test("what is proved holds, what is refuted does not, and the witness is lost", () => {
    const counts = { proof: 0, refuted: 0, undecided: 0 };
    fc.assert(
      fc.property(small, small, fc.nat(3), (a, other, kept) => {
        // Some pairs have much in common, so that claims hold too.
        const b = { ...other, ...(kept > 0 ? { scales: a.scales } : {}), ...(kept > 1 ? { levels: a.levels } : {}) };
        const program = programOf(a, kept > 2 ? { ...b, offsets: a.offsets } : b);
        const claim = program.claims.find(({ span }) => span.file === "own.ladder")!;
        const result = prove(claim, program);
        const lost = lostBytes(typeNamed(program, "A"), typeNamed(program, "B"));
        counts[result.kind === "proof" ? "proof" : result.verdict]++;
        if (result.kind === "proof") expect(lost).toEqual([]);
        else if (result.verdict === "refuted") expect(lost).toContain(result.witness?.block?.[0]);
      }),
      { numRuns: 150 },
    );
    expect(counts.proof).toBeGreaterThan(10);
    expect(counts.refuted).toBeGreaterThan(60);
    // Most of what is lost is found.
    expect(counts.undecided).toBeLessThan(counts.refuted);
  });
});

describe("no counter-example is found to what holds:", () => {
  const library = programWith();
  const held = library.claims.filter(
    ({ guarantee, to, domain }) => guarantee === "value" && to.kind !== "element" && domain.length === 0,
  );
  test("the library claims much of blocks", () => expect(held.length).toBeGreaterThan(10));
  for (const { from, to } of held) {
    if (from.kind !== "type" || to.kind !== "type") continue;
    test(`${from.type.name} in ${to.type.name}`, () => {
      const [shape] = shapesOf(from, to);
      const [a, b] = [storedIn(from, shape!)!, storedIn(to, shape!)!];
      expect(findAbsent(a, b, shape!.rows * shape!.columns, []).kind).toBe("unknown");
    });
  }
});

describe("each is found by its own argument:", () => {
  test.each([
    ["Q8_0 -> Q4_0", "it has 15 significant bits, and those of Q4_0 at most 14"],
    ["Q4_1 -> Q4_0", "it has 25 significant bits, and those of Q4_0 at most 14"],
    ["Q5_0 -> Q4_0", "it is beyond the ends of Q4_0"],
    ["MXFP4 -> Q4_0", "it has parts of 2^-128, and Q4_0 none below 2^-24"],
    ["OCP_MXFP4 -> MXFP4", "MXFP4 has no NaN there"],
    ["OCP_MXFP4 -> MXFP4 when s finite", "MXFP4 has no -0 there"],
    ["Q2_0 -> Q2_0_128", "make values 1 and 64 together"],
    ["Q4_0 -> Q4_1", "no d, q[1], m, q[0] of Q4_1 make values 0 and 1 together"],
    ["TQ2_0 -> I2_S.x86_128", "make values 1 and 256 together"],
  ])("%s: %s", (claim, why) => {
    const [ends, domain = ""] = claim.split(/(?= when)/);
    const { claim: made, result } = provedOne(`convert ${ends} : value${domain}`);
    expect(result).toMatchObject({ kind: "refutation", verdict: "refuted", reason: expect.stringContaining(why) });
    if (result.kind !== "refutation" || result.witness === null || made.from.kind !== "type") throw new Error(claim);
    // The bytes make the values that are told of.
    const { type } = made.from;
    const { at, value, together, block } = result.witness;
    for (const one of [{ at, value }, ...together]) {
      const first = Math.floor(one.at / type.blockSize) * type.blockBytes;
      expect(exactValue(type, block!.subarray(first), one.at % type.blockSize)).toEqual(one.value);
    }
  });
});

test("more values than a target has codes are found too many, whatever its scales are", () => {
  const text = `block Sixteen[16] { d : F16 q : U4[16] value[i] = d * q[i] }
block Four[16] { a : F32 b : F32 q : U2[16] value[i] = a * b * q[i] }\n`;
  const { result } = provedOne(`${text}convert Sixteen -> Four : value`);
  expect(result).toMatchObject({
    verdict: "refuted",
    reason: expect.stringContaining("these are 5 numbers, and so many values of Four can be 4 at most"),
  });
});

test("a wider scale, and a power of two that goes from the codes to the scale, are no loss", () => {
  const wide = "block Q8_32[32] { d : F32 qs : I8[32] value[i] = d * qs[i] }\n";
  expect(provedOne(`${wide}convert Q8_0 -> Q8_32 : value`).result.kind).toBe("proof");
  expect(provedOne("convert MXFP4 -> OCP_MXFP4 : value when e in 0 .. 254").result.kind).toBe("proof");
  expect(provedOne("convert MXFP4 -> OCP_MXFP4 : value").result).toMatchObject({ verdict: "refuted" });
});
