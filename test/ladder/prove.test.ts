// Properties of proofs: what is proved holds for random blocks with corner values, and says how it was found out.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { encode } from "../../src/ladder/encode.ts";
import { elementValue, exactValue, toNumber } from "../../src/ladder/exact.ts";
import { firstBroken, provedStructure } from "../../src/ladder/prove/equation.ts";
import { decide, typeSource } from "../../src/ladder/prove/exactness.ts";
import { mappedStructureOf } from "../../src/ladder/layout.ts";
import { profileOf } from "../../src/ladder/prove/profile.ts";
import { prove } from "../../src/ladder/prove/prove.ts";
import { same, targetOf } from "../../src/ladder/prove/window.ts";
import { blockOf, oddTypes, programWith, typeNamed } from "./program.ts";
import { provedIn, provedOne, told } from "./proved.ts";

const program = programWith(oddTypes.replaceAll(/import "[a-z]+.ladder"/g, (line) => line));
const targets = ["F16", "BF16", "F32", "F64"].map((name) => program.elements.get(name)!);

describe("what is proved exact", () => {
  const exact = [...program.types.values()].flatMap((type) => {
    const source = typeSource(type);
    return targets
      .filter((target) => source !== null && decide(source, targetOf(target)!, []).kind === "exact")
      .map((target) => ({ name: `${type.name} in ${target.name}`, type, target }));
  });

  test("is much of the library, but not all", () => {
    expect(exact.length).toBeGreaterThan(100);
    expect(exact.length).toBeLessThan(4 * program.types.size);
  });

  test("comes back from the target as it was, for random blocks", () => {
    for (const { name, type, target } of exact) {
      fc.assert(
        fc.property(blockOf(type), fc.nat(type.blockSize - 1), (block, i) => {
          const value = exactValue(type, block, i);
          expect(same(elementValue(target, encode(target, value), 0), value), name).toBe(true);
        }),
        { numRuns: 12 },
      );
    }
  });
});

describe("the equation of a structure", () => {
  test("is proved for every structure that is derived, of the library and of odd types", () => {
    const found = [...program.types.values()].filter((type) =>
      ["affine", "mapped"].includes(mappedStructureOf(type).kind),
    );
    expect(found.length).toBeGreaterThan(40);
    const open = found.filter((type) => provedStructure(type).kind !== "proved").map(({ name }) => name);
    expect(open).toEqual([]);
  });
});

describe("a structure that is not what is declared", () => {
  const type = typeNamed(program, "Q4_K");
  const found = provedStructure(type);
  if (found.kind !== "proved") throw new Error(found.reason);
  const { structure } = found;
  const [run, ...runs] = structure.codes.runs;
  const wrong = (change: Partial<typeof structure>): number | null => firstBroken(type, { ...structure, ...change });

  test("is found at the first value that it gets wrong", () => {
    expect(wrong({})).toBe(null);
    expect(wrong({ zero: structure.zero + 1 })).toBe(0);
    expect(wrong({ groupSize: structure.groupSize / 2 })).not.toBe(null);
    expect(wrong({ offset: null })).toBe(0);
    expect(wrong({ scale: { ...structure.scale, constant: -structure.scale.constant } })).toBe(0);
    expect(wrong({ codes: { ...structure.codes, flip: 8 } })).toBe(0);
    expect(wrong({ codes: { ...structure.codes, runs: [{ ...run!, bit: run!.bit + 1 }, ...runs] } })).toBe(run!.first);
    expect(wrong({ codes: { ...structure.codes, runs: [{ ...run!, step: run!.step + 1 }, ...runs] } })).toBe(
      run!.first + 1,
    );
  });
});

describe("formats into formats", () => {
  test.each([
    ["Q4_0 -> Q5_0 : value"],
    ["Q4_0 -> Q8_0 : value"],
    ["TQ2_0 -> Q8_0 : value"],
    ["Q2_0 -> Q2_0_128 : value when d in 0 .. 0"],
    ["OCP_MXFP4 -> MXFP4_beside : repack"],
    ["MXFP8_E4M3_beside -> OCP_MXFP8_E4M3 : repack"],
    ["I2_S.arm_64 -> I2_S.x86_1x4 : repack"],
    ["TQ2_0 -> Q2_0 : value"],
  ])("%s", (claim) => {
    const { result } = provedOne(`convert ${claim}`);
    // Two scales of Q2_0 are one of Q2_0_128, so that one does not go into the other.
    expect(result.kind).toBe(claim.includes("Q2_0_128") ? "refutation" : "proof");
  });

  test("bits that nothing reads are kept in a field of the same name, or declared as padding", () => {
    const block = (name: string, fields: string): string =>
      `block ${name}[2] { ${fields} d : F16 q : U8[2] value[i] = d * q[i] }\n`;
    const move = (from: string, to: string): string =>
      told(`${block("A", from)}${block("B", to)}convert A -> B : repack`).split("\n")[0]!;
    expect(move("s : U16", "s : U16")).toBe("proved: bit provenance: 48 of 48 bits go one to one");
    expect(move("s : U16", "s : U8[2]")).toContain("no value reads s of A, and B has no such field to keep it in");
    expect(move("pad : U16", "")).toBe("proved: bit provenance: 32 of 48 bits go one to one, 16 of padding dropped");
    expect(move("", "room : U8")).toBe("proved: bit provenance: 32 of 32 bits go one to one, 8 bits of B left 0");
  });

  test("a bit that two values share goes to one place only", () => {
    const text = `block A[2] { q : U8 d : F16 code c[i < 2] = q.bits(2 * i +: 4) value[i] = d * c[i] }
block B[2] { q : U8 d : F16 code c[i < 2] = q.bits(4 * i +: 4) value[i] = d * c[i] }\n`;
    expect(told(`${text}convert A -> B : repack`)).toContain(
      "bit 2 of q of A would go to two places, bit 2 of q of B and bit 4 of q of B, by value 1",
    );
    expect(told(`${text}convert B -> A : repack`)).toContain(
      "bit 2 of q of A would get two bits, bit 2 of q of B and bit 4 of q of B, by value 1",
    );
  });
});

describe("rounding", () => {
  test.each([
    ["F32 -> E4M3FN : rounded", "768 numbers at and next to every boundary compared"],
    ["F64 -> E2M1 : rounded when code finite", "numbers at and next to every boundary compared"],
    ["Posit16 -> E5M2FNUZ : rounded", "all 65536 codes compared"],
    ["F16 -> Posit8 : rounded", "all 65536 codes compared"],
    ["I16 -> I8 : rounded", "all 65536 codes compared"],
    ["E4M3FN -> I4 : rounded when code finite", "all 254 codes compared"],
    ["Q4_K -> F32 : rounded", "every value is a double (window: at most 50 significant bits"],
    ["F64 -> F32 : rounded", "the rest is argued"],
    ["Q8_0 -> F16 : rounded", "every value is a double (window: at most 18 significant bits"],
    ["Q8_0 -> E2M1 : rounded when d finite", "none is NaN: 54 numbers at and next to every boundary compared"],
    ["Q4_K -> I4 : rounded when d finite and dmin finite", "none is NaN: 57 numbers"],
    ["I32 -> I8 : rounded", "none is NaN: 777 numbers"],
  ])("%s: %s", (claim, method) => {
    expect(told(`convert ${claim}`)).toMatch(new RegExp(`^proved: .*${method.replaceAll(/[()]/g, "\\$&")}`));
  });

  test("of a format asks what may arise in its blocks, not what doubles there are", () => {
    const integers = "block INTS[8] { q : I8[8] value[i] = q[i] }\nconvert INTS -> I4 : rounded";
    expect(told(integers)).toMatch(/^proved: .*, and none is NaN: /);
    // Infinity goes to the largest; it takes a zero to make NaN of it.
    const scaled = "block SCALED[8] { d : F16 q : U4[8] value[i] = d * (q[i] + 1) }\nconvert SCALED -> E2M1 : rounded";
    expect(told(`${scaled} when d in 0 .. 0x7C00`)).toMatch(/^proved: .*, and none is NaN: /);
    expect(told(`${scaled} when d in 0 .. 0x7C01`)).toContain("d = NaN (code 31745)");
  });

  const small = ["ieee", "fn", "fnuz", "none"].flatMap((special) =>
    ["yes", "no", "ignored"].flatMap((sign) =>
      ["yes", "zero", "normal"].flatMap((subnormals) =>
        ["saturate", "infinity", "nan"].flatMap((overflow) => {
          const isDeclared =
            (overflow !== "infinity" || special === "ieee") &&
            (overflow !== "nan" || special !== "none") &&
            (sign === "yes" || special !== "fnuz");
          const rest = `bias: 8, special: ${special}, sign: ${sign}, subnormals: ${subnormals}, overflow: ${overflow}`;
          return isDeclared
            ? [`float(exponent: 2, mantissa: 2, ${rest})`, `float(exponent: 1, mantissa: 1, ${rest})`]
            : [];
        }),
      ),
    ),
  );
  const others = [
    ...[0, 1, 4, 5, 8, 15, 40].map((zero) => `int(bits: 4, coding: offset, zero: ${zero})`),
    ...["unsigned", "twos", "offset", "sign_magnitude", "plus_minus_one"].flatMap((coding) =>
      [1, 2, 5].map((bits) => `int(bits: ${bits}, coding: ${coding})`),
    ),
    "table(bits: 2) [-0, 1, 2, inf]",
    "table(bits: 2) [0, -0, 0x1.8p-3, inf]",
    "exponent(bits: 3, bias: 5, nan: 2)",
    "posit(bits: 5, es: 1)",
  ];

  test("is proved for every small element: the encoder agrees with the sorted list", () => {
    const elements = [...small, ...others].map((text, k) => `element Small${k} = ${text}`);
    const claims = elements.flatMap((_, k) => [
      `convert Any -> Small${k} : rounded when code in 0 .. 0x7C0`,
      `convert Any -> Small${k} : rounded when code in 0x800 .. 0xFC0`,
    ]);
    const any = "element Any = float(exponent: 5, mantissa: 6, bias: 15, special: ieee)";
    const results = provedIn([any, ...elements, ...claims].join("\n"));
    expect(results.length).toBe(2 * elements.length);
    const wrong = results.filter(({ result }) => result.kind !== "proof");
    expect(
      wrong.map(({ claim }) => claim.to.kind === "element" && elements[Number(claim.to.element.name.slice(5))]),
    ).toEqual([]);
  });
});

describe("hostile formats are decided, or given up, in bounded time:", () => {
  const many = (count: number, element: string, operator: string): string => {
    const fields = Array.from({ length: count }, (_, n) => `f${n} : ${element}`).join(" ");
    return `{ ${fields} value[i] = ${Array.from({ length: count }, (_, n) => `f${n}`).join(` ${operator} `)} }\n`;
  };
  test.each([
    ["a product of 60 floats", `block A[1] ${many(60, "F16", "*")}convert A -> F16 : value`, "refuted"],
    ["a sum of 60 floats", `block A[1] ${many(60, "F16", "+")}convert A -> F64 : value`, "proof"],
    ["a product of 40 doubles", `block A[1] ${many(40, "F64", "*")}convert A -> F64 : value`, "refuted"],
    [
      "two sums of 40",
      `block A[1] ${many(40, "U8", "+")}block B[1] ${many(40, "U8", "-")}convert A -> B : repack`,
      "refuted",
    ],
    ["a power", "block A[1] { x : U8 value[i] = (x * x - x * x) * x }\nconvert A -> U1 : value", "proof"],
  ])(
    "%s",
    (_, text, wanted) => {
      const { result } = provedOne(text);
      expect(result.kind === "proof" ? "proof" : result.verdict).toBe(wanted);
    },
    10_000,
  );
});

test("a proof has an id that stays, and changes with what it is about", () => {
  const claims = `convert Q4_0 -> F32 : value
convert Q4_0 -> F64 : value
convert Q5_0 -> F32 : value
convert OCP_MXFP4 -> F16 : value when s in 104 .. 140
convert OCP_MXFP4 -> F16 : value when s in 105 .. 140
convert I2_S.x86_128 -> I2_S.arm_64 : repack`;
  const ids = (text: string): readonly string[] =>
    provedIn(text).map(({ result }) => (result.kind === "proof" ? result.id : ""));
  const first = ids(claims);
  expect(new Set(first).size).toBe(6);
  for (const id of first) expect(id).toMatch(/^[0-9a-f]{16}$/);
  expect(ids(`element Unrelated = int(bits: 3, coding: twos)\n${claims}`)).toEqual(first);
});

test("the guard of a proof is the domain of its claim", () => {
  expect(provedOne("convert OCP_MXFP4 -> F16 : value when s in 104 .. 140").result).toMatchObject({
    kind: "proof",
    claim: "OCP_MXFP4 -> F16 : value when s in 104 .. 140",
    guards: [{ kind: "codes", field: "s", low: 104, high: 140 }],
    method: "all 592 combinations of s, e computed",
  });
  expect(provedOne("convert Q4_0 -> U4 : structure").result).toMatchObject({
    accumulation: { f32: 8738, i32: 1_118_481 },
  });
});

test("a profile says what the prover finds", () => {
  const profile = profileOf({ kind: "type", type: typeNamed(program, "OCP_MXFP4") }, targets);
  expect(profile).toEqual({
    name: "OCP_MXFP4",
    bitsPerValue: 4.25,
    low: -6 * 2 ** 127,
    high: 6 * 2 ** 127,
    fits: [
      { kind: "run", run: { field: "s", low: 104, high: 140 }, normal: { field: "s", low: 114, high: 140 } },
      { kind: "run", run: { field: "s", low: 0, high: 252 }, normal: { field: "s", low: 2, high: 252 } },
      { kind: "run", run: { field: "s", low: 0, high: 252 }, normal: { field: "s", low: 2, high: 252 } },
      { kind: "exact" },
    ],
    integers: { low: -12, high: 12, groupSize: 32, offset: false },
  });
  expect(
    toNumber(exactValue(typeNamed(program, "OCP_MXFP4"), Uint8Array.from([254, 0xff, ...Array(15).fill(0)]), 0)),
  ).toBe(-6 * 2 ** 127);
});

test("the program is asked for nothing but what would work instead", () => {
  const { claim, result } = provedOne("convert Q4_1 -> F32 : value");
  const bare = { ...program, elements: new Map() };
  expect(prove(claim, bare)).toEqual({
    ...result,
    suggestion: "claim Q4_1 -> F32 : rounded, which asks for the nearest only",
  });
});
