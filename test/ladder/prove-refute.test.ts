// Claims that are wrong, each refused with a witness: decoders that were published and shipped, and small slips of the
// kind that tests with random inputs and tolerances let through. The texts are what a person sees.

import { describe, expect, test } from "vitest";

import { referenceValue } from "../../src/ladder/prove/rounded.ts";
import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { imports, provedIn, provedOne, told } from "./proved.ts";

/** The decoders as their own sources had them, written as declarations or as the codes that they make. */
const defects: Readonly<Record<string, string>> = {
  "an E4M3 is an F16 after a shift and a new bias: zeros, subnormals and NaN are not":
    "convert E4M3FN -> F16 : value by x -> 32768 * (x div 128) + 128 * (x mod 128) + 8192",
  "an E2M1 read as a sign and three bits of exponent":
    "element Fp4Decoded = float(exponent: 3, mantissa: 0, bias: 7, special: none)\nconvert E2M1 -> Fp4Decoded : repack",
  "NF4 in F16 without loss": "convert NF4 -> F16 : value",
  "an MXFP8 whose mantissa is taken from its exponent": `element Mantissaless = table(bits: 8) [${mantissaFromExponent().join(", ")}]
block ArtifactMXFP8[32] { s : E8M0 e : Mantissaless[32] value[i] = s * e[i] }
convert OCP_MXFP8_E5M2 -> ArtifactMXFP8 : repack`,
  "weights clamped to +8 that shall fit four bits":
    "element Clamped = int(bits: 5, coding: offset, zero: 8)\nconvert Clamped -> I4 : value when code in 0 .. 16",
};

/** The exponent with no bias taken off, and its own low bits as the mantissa. */
function mantissaFromExponent(): readonly number[] {
  return Array.from({ length: 256 }, (_, code) => {
    const exponent = (code >> 2) & 31;
    return (code < 128 ? 1 : -1) * (1 + (exponent & 3) / 4) * 2 ** exponent;
  });
}

const mutations: Readonly<Record<string, string>> = {
  "nibbles of a byte swapped": `element LowFirst  = digits(base: 16, count: 2, bits: 8, order: first)
element HighFirst = digits(base: 16, count: 2, bits: 8, order: last)
convert LowFirst -> HighFirst : repack`,
  "GPTQ's zero points with and without one taken off": "convert GPTQ4 -> GPTQ4_v2 : repack",
  "no minus zero": `element NoMinusZero = table(bits: 4) [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
convert E2M1 -> NoMinusZero : repack`,
  "the bias of FN in FNUZ": `element WrongBias = float(exponent: 4, mantissa: 3, bias: 7, special: fnuz)
convert E4M3FNUZ -> WrongBias : repack`,
  "a range with one code too many": "convert OCP_MXFP4 -> F16 : value when s in 104 .. 141",
  "a field that has no place to go": "convert Q8_1 -> Q8_0 : repack",
  "two codes that become one": "convert I4 -> I4 : value by x -> x div 2 * 2",
  "truncation for rounding": "convert F16 -> E5M2 : rounded by x -> x div 256",
};

const others: Readonly<Record<string, string>> = {
  "a sum of two products in F32": "convert Q4_K -> F32 : value",
  "the top scales of MX in F32": "convert OCP_MXFP8_E4M3 -> F32 : value",
  "wide integers in F32": "convert I32 -> F32 : value",
  "codes that do not fit": "convert Q8_0 -> I4 : structure",
  "no codes at all": "convert E4M3FN -> I8 : structure\nconvert F32 -> I8 : structure",
  "an element and a block": "convert E4M3FN -> Q4_0 : value",
  "a code of several numbers": "convert I4 -> TritPair : value\nconvert Trits5 -> I8 : structure",
  "an order of columns that the data give": "convert GPTQ4_act -> F16 : value",
  "bits for numbers": "convert F16 -> E4M3FN : repack",
  "a scale that ggml has and OCP has not": "convert OCP_MXFP4 -> MXFP4 : repack",
  "a NaN where there is none": "convert E4M3FN -> I4 : rounded",
  "codes among fewer": "convert Q8_0 -> Q4_0 : value",
  "a sum in a product": "convert Q4_1 -> Q4_0 : value",
  "a product of three in one of two": "convert Q6_K -> Q8_0 : value",
  "two scales in one": "convert Q2_0 -> Q2_0_128 : value",
  "zero where there is none": "convert TQ1_0 -> Q1_0 : value",
  "what cannot be decided": "convert AWQ4 -> GPTQ4 : value",
};

describe.each([
  ["published defects", defects],
  ["mutations", mutations],
  ["other wrong claims", others],
])("%s", (group, claims) => {
  test("are refused, with a witness that a person can follow", async () => {
    const texts = Object.entries(claims).map(([what, text]) => {
      const lines = text.split("\n");
      const wrong = lines.filter((line) => line.startsWith("convert"));
      const declared = lines.filter((line) => !line.startsWith("convert")).join("\n");
      return `${what}\n${wrong.map((claim) => told(`${declared}\n${claim}`)).join("\n")}\n`;
    });
    await expect(texts.join("\n")).toMatchFileSnapshot(`../golden/ladder/refuted-${group.replaceAll(" ", "-")}.txt`);
  });
});

test("the fast decode of E4M3 that shipped is wrong for 18 of 256 codes", () => {
  const formula = "32768 * (x div 128) + 128 * (x mod 128) + 8192";
  const wrong = Array.from({ length: 256 }, (_, code) => code).filter(
    (code) =>
      provedOne(`convert E4M3FN -> F16 : value when code in ${code} .. ${code} by x -> ${formula}`).result.kind !==
      "proof",
  );
  expect(wrong).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 127, 128, 129, 130, 131, 132, 133, 134, 135, 255]);
}, 60_000);

test("a counter-example is one: the bytes make the value, and the target has another", () => {
  for (const { claim, result } of provedIn(`
    convert Q4_1 -> F32 : value
    convert Q5_K -> F32 : value
    convert Q8_K -> F32 : value
    convert IQ4_XS -> BF16 : value
    convert OCP_MXFP4 -> F16 : value when s in 100 .. 200
    convert Q6_K -> F16 : value when d finite`)) {
    if (result.kind !== "refutation" || result.witness === null || claim.from.kind !== "type")
      throw new Error(`${result.claim} has no witness`);
    const { block, at, value, instead } = result.witness;
    expect(exactValue(claim.from.type, block!, at)).toEqual(value);
    const rounded = toNumber(instead!);
    expect(rounded).not.toBe(toNumber(value));
    if (claim.from.type.reference !== null && claim.to.kind === "element" && claim.to.element.name === "F32")
      expect(toNumber(referenceValue(claim.from.type, block!, at)!)).toBe(rounded);
  }
});

test("what is suggested holds", () => {
  for (const text of ["Q4_K -> F32", "OCP_MXFP8_E5M2 -> F16", "NF4 -> F16", "I16 -> BF16", "Q2_0 -> F16"]) {
    const { result } = provedOne(`convert ${text} : value`);
    const suggestion = result.kind === "refutation" ? (result.suggestion ?? "") : "";
    const wider = suggestion.match(/convert .* : value/)![0];
    expect(provedOne(wider).result.kind, wider).toBe("proof");
    const narrower = suggestion.match(/add (when .*)/);
    if (narrower !== null) expect(provedOne(`convert ${text} : value ${narrower[1]}`).result.kind, text).toBe("proof");
  }
});

test("a format is refused its rounding by a block of its own, and the domain that is suggested holds", () => {
  const claims: Readonly<Record<string, string>> = {
    "Q8_0 -> E2M1": `own.ladder:2:1: error[claim]: not every number of Q8_0 goes to the nearest of E2M1
   2 | convert Q8_0 -> E2M1 : rounded
     | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
     = d = infinity (code 31744), qs[0] = 0 make value 0 NaN; E2M1 has nothing for it
     = the block is 00 7c (32 x 00)
     = add when d finite`,
    "OCP_MXFP4 -> I4": `own.ladder:2:1: error[claim]: not every number of OCP_MXFP4 goes to the nearest of I4
   2 | convert OCP_MXFP4 -> I4 : rounded
     | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
     = s = NaN (code 255), e[0] = 0 make value 0 NaN; I4 has nothing for it
     = the block is ff (16 x 00)
     = add when s finite`,
    "Q4_1 -> I4": `own.ladder:2:1: error[claim]: not every number of Q4_1 goes to the nearest of I4
   2 | convert Q4_1 -> I4 : rounded
     | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
     = d = 0, q[0] = 0, m = NaN (code 31745) make value 0 NaN; I4 has nothing for it
     = the block is 00 00 01 7c (16 x 00)
     = add when d finite and m finite`,
  };
  for (const [pair, text] of Object.entries(claims)) {
    expect(told(`convert ${pair} : rounded`).trimEnd()).toBe(text);
    const { claim, result } = provedOne(`convert ${pair} : rounded`);
    if (result.kind !== "refutation" || result.witness === null || claim.from.kind !== "type")
      throw new Error(`${result.claim} has no witness`);
    const { block, at } = result.witness;
    expect(exactValue(claim.from.type, block!, at)).toEqual({ kind: "nan" });
    const narrower = result.suggestion!.replace("add ", "");
    expect(provedOne(`convert ${pair} : rounded ${narrower}`).result.kind, pair).toBe("proof");
  }
});

test("a claim is found by its place in its own file", () => {
  const [{ claim }] = provedIn("\n\nconvert Q4_1 -> F32 : value") as [ReturnType<typeof provedOne>];
  expect(claim.span).toMatchObject({ file: "own.ladder", start: imports.length + 3 });
});
