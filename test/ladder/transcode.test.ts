// Bits moved from one format to another: for every pair that a claim of the library names, and some that nobody claims,
// random blocks decode to the same values before and after. The decoder knows nothing of the moves.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { endpointName } from "../../src/ladder/prove/endpoint.ts";
import { prove } from "../../src/ladder/prove/prove.ts";
import { type Transcoder, transcoderOf } from "../../src/ladder/prove/transcode.ts";
import type { Claim, Type } from "../../src/ladder/type.ts";
import { blockOf, programWith, typeNamed } from "./program.ts";

const SEED = 20_261_123;

const program = programWith(`import "float.ladder"
import "int.ladder"
import "gguf.ladder"

// Q4_0 with its parts in another order.
block Turned[32] {
  q : U4[32]
  d : F16
  value[i] = d * (q[31 - i] - 8)
}
// The same with the codes as signed numbers.
element S4 = int(bits: 4, coding: offset)
block Signed[32] {
  d : F16
  q : S4[32]
  value[i] = d * q[i]
}
// TQ2_0 with its codes by the list of their numbers, the highest first.
element Trit = table(bits: 2) [2, 1, 0, -1]
block Listed[64] {
  d : F16
  t : Trit[64]
  value[i] = d * t[i]
}
// What no value reads stays where the name is the same.
block Kept[4] {
  x : U8[4]
  tag : U16
  value[i] = x[i]
}
block KeptToo[4] {
  tag : U16
  pad : U8[2]
  x : U8[4]
  value[i] = x[i]
}
`);

function decoded(type: Type, bytes: Uint8Array): Float64Array {
  const out = new Float64Array((bytes.length / type.blockBytes) * type.blockSize);
  decode(type, bytes, out);
  return out;
}

function expectSame(from: Type, to: Type, transcoder: Transcoder): void {
  const units = fc.array(blockOf(from), {
    minLength: transcoder.unitValues / from.blockSize,
    maxLength: transcoder.unitValues / from.blockSize,
  });
  fc.assert(
    fc.property(fc.array(units, { minLength: 1, maxLength: 3 }), (all) => {
      const before = Uint8Array.from(all.flat().flatMap((block) => [...block]));
      const after = transcoder.transcode(before);
      expect(decoded(to, after)).toEqual(decoded(from, before));
    }),
    { seed: SEED, numRuns: 60 },
  );
}

const claimed = program.claims.filter(
  ({ from, to, guarantee, domain }) =>
    from.kind === "type" &&
    to.kind === "type" &&
    domain.length === 0 &&
    (guarantee === "value" || guarantee === "repack"),
);

const more = (
  [
    ["Q4_0", "Turned", "repack"],
    ["Turned", "Q4_0", "repack"],
    ["Q4_0", "Signed", "value"],
    ["Signed", "Q4_0", "value"],
    ["Turned", "Q8_0", "value"],
    ["Q2_0_128", "Q2_0", "value"],
    ["TQ2_0", "Q2_0", "value"],
    ["TQ2_0", "Listed", "value"],
    ["Q1_0", "Q8_0", "value"],
    ["IQ4_NL", "Q8_0", "value"],
    ["Kept", "KeptToo", "repack"],
  ] as const
).map(([from, to, guarantee]): Claim => {
  const end = (name: string): Claim["from"] => ({ kind: "type", type: typeNamed(program, name) });
  return { from: end(from), to: end(to), guarantee, domain: [], by: null, span: { file: "", start: 0, end: 0 } };
});

describe("what is proved can be carried out, and keeps every value of random blocks:", () => {
  const cases = [...claimed, ...more].map((claim) => ({
    name: `${endpointName(claim.from)} -> ${endpointName(claim.to)} : ${claim.guarantee}`,
    claim,
  }));
  test.each(cases)("$name", ({ claim: { from, to, guarantee, ...rest } }) => {
    if (from.kind !== "type" || to.kind !== "type") throw new Error("a claim of two types");
    expect(prove({ from, to, guarantee, ...rest }, program).kind).toBe("proof");
    // The prover takes the bits where they can be taken, and so does whoever converts.
    const byBits = prove({ from, to, ...rest, guarantee: "repack" }, program).kind === "proof";
    const transcoder = transcoderOf(from.type, to.type, byBits ? "repack" : "value");
    if (transcoder === null) throw new Error("no way");
    expectSame(from.type, to.type, transcoder);
  });
});

test("a repack can be undone byte for byte, and keeps what no value reads", () => {
  const [there, back] = [
    ["Q4_0", "Turned"],
    ["Turned", "Q4_0"],
  ].map(([a, b]) => transcoderOf(typeNamed(program, a!), typeNamed(program, b!), "repack")!);
  fc.assert(
    fc.property(blockOf(typeNamed(program, "Q4_0")), (block) => {
      expect(back!.transcode(there!.transcode(block))).toEqual(block);
    }),
    { seed: SEED },
  );
  const kept = transcoderOf(typeNamed(program, "Kept"), typeNamed(program, "KeptToo"), "repack")!;
  expect(kept.transcode(Uint8Array.from([1, 2, 3, 4, 0xab, 0xcd]))).toEqual(
    Uint8Array.from([0xab, 0xcd, 0, 0, 1, 2, 3, 4]),
  );
});

test("formats that compute their values in other sums and products have no way", () => {
  expect(transcoderOf(typeNamed(program, "Q4_0"), typeNamed(program, "Q4_1"), "value")).toBeNull();
  expect(transcoderOf(typeNamed(program, "Q4_0"), typeNamed(program, "Q8_0"), "repack")).toBeNull();
});

test("a number that the target does not have is an error, and so are bytes that are no whole units", () => {
  const transcoder = transcoderOf(typeNamed(program, "Q8_0"), typeNamed(program, "Q4_0"), "value")!;
  const block = new Uint8Array(34).fill(3);
  expect(transcoder.transcode(block)).toHaveLength(18);
  block[5] = 100;
  expect(() => transcoder.transcode(block)).toThrow(new RangeError("Q4_0 has nothing for qs[3] = 100 of Q8_0"));
  expect(() => transcoder.transcode(new Uint8Array(33))).toThrow(
    new RangeError("33 bytes are no whole number of units of 34 bytes of Q8_0"),
  );
});
