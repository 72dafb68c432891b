// The derived Structure: its equation holds exactly, its runs are what native code may assume, and it reads as expected.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { add, type Exact, exactNumber, exactValue, fromNumber, multiply, negate } from "../../src/ladder/exact.ts";
import {
  type AffineStructure,
  type Codes,
  type FloatField,
  type GroupTerm,
  type MappedStructure,
  mappedStructureOf,
  type MappedTerm,
  type Structure,
  structureOf,
} from "../../src/ladder/layout.ts";
import { levelsOf, type LevelStructure } from "../../src/ladder/levels.ts";
import type { FloatElement, Type } from "../../src/ladder/type.ts";
import { blockOf, oddTypes, programWith, typeNamed } from "./program.ts";

const program = programWith(oddTypes);
const affine = [...program.types.values()].flatMap((type) => {
  const structure = structureOf(type);
  return structure.kind === "affine" ? [{ name: type.name, type, structure }] : [];
});

// The interpreter below reads a structure as its declaration in layout.ts says, and shares no code with the derivation.

function codeAt(codes: Codes, block: Uint8Array, entry: number): bigint {
  let code = 0;
  for (const { first, count, bit, step, width, shift } of codes.runs) {
    if (entry < first || entry >= first + count) continue;
    const at = bit + (entry - first) * step;
    code += ((block[Math.floor(at / 8)]! >> (at % 8)) & (2 ** width - 1)) * 2 ** shift;
  }
  return BigInt(code ^ codes.flip);
}

/** A double, exactly. */
function exactly(x: number): Exact {
  let exponent = 0;
  while (!Number.isInteger(x * 2 ** -exponent)) exponent--;
  return exactNumber(BigInt(x * 2 ** -exponent), exponent);
}

const usual = { sign: "yes", subnormals: "yes", overflow: "infinity" } as const;
const FORMATS: Readonly<Record<FloatField["format"], FloatElement>> = {
  f16: { kind: "float", name: "f16", bits: 16, exponent: 5, mantissa: 10, bias: 15, special: "ieee", ...usual },
  bf16: { kind: "float", name: "bf16", bits: 16, exponent: 8, mantissa: 7, bias: 127, special: "ieee", ...usual },
  f32: { kind: "float", name: "f32", bits: 32, exponent: 8, mantissa: 23, bias: 127, special: "ieee", ...usual },
};

function fieldValue({ format, byte }: FloatField, block: Uint8Array): Exact {
  const element = FORMATS[format];
  const field = { name: "x", element, count: 1, bit: 0 };
  const value = { kind: "element", field, index: { kind: "constant", value: 0 } } as const;
  const blockBytes = element.bits / 8;
  const type: Type = {
    name: format,
    blockSize: 1,
    blockBytes,
    ids: new Map(),
    fields: [field],
    value,
    reference: null,
  };
  return exactValue(type, block.subarray(byte, byte + blockBytes), 0);
}

function termAt(term: GroupTerm, block: Uint8Array, group: number): Exact {
  let product = exactly(term.constant);
  for (const field of term.fields) product = multiply(product, fieldValue(field, block));
  if (term.codes === null) return product;
  const code = exactNumber(codeAt(term.codes, block, group));
  return multiply(product, add(code, negate(exactly(term.codes.bias))));
}

function structureValue(
  { codes, groupSize, zero, scale, offset }: AffineStructure,
  block: Uint8Array,
  i: number,
): Exact {
  const group = Math.floor(i / groupSize);
  const steps = add(exactNumber(codeAt(codes, block, i)), negate(exactly(zero)));
  const product = multiply(termAt(scale, block, group), steps);
  return offset === null ? product : add(product, termAt(offset, block, group));
}

function mapped(codes: Codes & { readonly map: readonly number[] | null }, block: Uint8Array, entry: number): Exact {
  const code = codeAt(codes, block, entry);
  return codes.map === null ? exactNumber(code) : fromNumber(codes.map[Number(code)]!);
}

function mappedTerm(term: MappedTerm, block: Uint8Array, group: number): Exact {
  const plain = termAt({ ...term, codes: null }, block, group);
  if (term.codes === null) return plain;
  return multiply(plain, add(mapped(term.codes, block, group), negate(exactly(term.codes.bias))));
}

function mappedValue({ codes, groupSize, zero, scale, offset }: MappedStructure, block: Uint8Array, i: number): Exact {
  const group = Math.floor(i / groupSize);
  const product = multiply(mappedTerm(scale, block, group), add(mapped(codes, block, i), negate(exactly(zero))));
  return offset === null ? product : add(product, mappedTerm(offset, block, group));
}

const unsignedZero = (x: Exact): Exact => (x.kind === "finite" && x.significand === 0n ? exactNumber(0n) : x);

test("the formats in use and most odd ones have an integer structure", () => {
  const builtin = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 Q1_0 Q2_0 Q2_0_128 Q2_K Q3_K Q4_K Q5_K Q6_K TQ2_0 Q8_K U8 U16 I8 I16";
  const odd =
    "TwoFields Straddle Twos5 HighFirst Mixed Rotated HalfZero Turned Expanded SameField SharedScale Unscaled Wide FarApart WideProduct WideScale";
  expect(affine.map(({ name }) => name).join(" ")).toBe(`${builtin} ${odd}`);
});

test.each(affine)("$name: scale(g) * (code(i) - zero) + offset(g) is the value, exactly", ({ type, structure }) => {
  const { scale, offset } = structure;
  const fields = [...scale.fields, ...(offset?.fields ?? [])];
  expect(mappedStructureOf(type)).toEqual(structure);
  fc.assert(
    fc.property(blockOf(type), fc.nat(type.blockSize - 1), (block, i) => {
      fc.pre(fields.every((field) => fieldValue(field, block).kind === "finite"));
      const expected = unsignedZero(exactValue(type, block, i));
      expect(unsignedZero(structureValue(structure, block, i))).toEqual(expected);
    }),
  );
});

test.each(affine)(
  "$name: every bit of every code is filled once, and no slice crosses a byte",
  ({ type, structure }) => {
    const groups = type.blockSize / structure.groupSize;
    expect(Number.isInteger(groups)).toBe(true);
    for (const [codes, entries] of [
      [structure.codes, type.blockSize],
      [structure.scale.codes, groups],
      [structure.offset?.codes ?? null, groups],
    ] as const) {
      if (codes === null) continue;
      const shifts = codes.runs.map(({ shift }) => shift);
      expect(shifts).toEqual(shifts.toSorted((a, b) => a - b));
      const filled = new Map<string, number>();
      for (const { first, count, bit, step, width, shift } of codes.runs) {
        for (let j = 0; j < count; j++) {
          const at = bit + j * step;
          expect(at).toBeGreaterThanOrEqual(0);
          expect(at + width).toBeLessThanOrEqual(type.blockBytes * 8);
          expect((at % 8) + width).toBeLessThanOrEqual(8);
          for (let k = 0; k < width; k++)
            filled.set(`${first + j} ${shift + k}`, (filled.get(`${first + j} ${shift + k}`) ?? 0) + 1);
        }
      }
      expect(filled.size).toBe(entries * codes.bits);
      expect([...filled.values()].every((times) => times === 1)).toBe(true);
    }
  },
);

const tabled = [...program.types.values()].flatMap((type) => {
  const structure = mappedStructureOf(type);
  return structure.kind === "mapped" ? [{ name: type.name, type, structure }] : [];
});

test("formats with codebooks of integers or small scales have a mapped structure", () => {
  expect(tabled.map(({ name }) => name).join(" ")).toBe(
    "IQ4_NL IQ4_XS MXFP4 NVFP4 OCP_MXFP6_E3M2 OCP_MXFP6_E2M3 OCP_MXFP4 OCP_MXINT8 SmallFloatScale",
  );
});

test.each(tabled)("$name: with the tables, the same equation holds exactly", ({ type, structure }) => {
  expect(structureOf(type).kind).toBe("none");
  fc.assert(
    fc.property(blockOf(type), fc.nat(type.blockSize - 1), (block, i) => {
      const expected = exactValue(type, block, i);
      fc.pre(expected.kind === "finite");
      expect(unsignedZero(mappedValue(structure, block, i))).toEqual(unsignedZero(expected));
    }),
  );
});

// --- levels: values that several codes make together -----------------------------------------------------------------

const leveled = [...program.types.values()].flatMap((type) => {
  const structure = levelsOf(type);
  return structure.kind === "levels" ? [{ name: type.name, type, structure }] : [];
});

function levelValue(
  { parts, order, levels, numbers, groupSize, ...terms }: LevelStructure,
  block: Uint8Array,
  i: number,
): Exact {
  const digit = ({ codes, lanes, lane, digits }: LevelStructure["parts"][number]): number => {
    const place = Number(codeAt(codes, block, i)) * lanes + (lane?.[i] ?? 0);
    return digits === null ? place : digits[place]!;
  };
  const level = fromNumber(levels[order[parts.reduce((sum, part) => sum + digit(part), 0)]!]!);
  const group = numbers.map(({ codes, stands }): Exact => {
    const code = codeAt(codes, block, Math.floor(i / groupSize));
    if (stands.kind === "integer") return exactNumber(code);
    if (stands.kind === "table") return fromNumber(stands.numbers[Number(code)]!);
    const size = stands.format === "f32" ? 4 : 2;
    const bytes = Uint8Array.from({ length: size }, (_, b) => Number((code >> BigInt(8 * b)) & 255n));
    return fieldValue({ format: stands.format, byte: 0 }, bytes);
  });
  const sumOf = (products: LevelStructure["scale"]): Exact =>
    products
      .map(({ constant, factors }) => factors.reduce((x, f) => multiply(x, group[f]!), exactly(constant)))
      .reduce(add);
  const product = multiply(sumOf(terms.scale), level);
  return terms.offset.length === 0 ? product : add(product, sumOf(terms.offset));
}

test("all types of the library but wide numbers have levels, and each has as few as there are", () => {
  const without = [...programWith().types.values()].filter((type) => levelsOf(type).kind === "none");
  expect(without.map(({ name }) => name).join(" ")).toBe("F64 U16 U32 I16 I32 I64 Posit16");
  const counts = Object.fromEntries(leveled.map(({ name, structure }) => [name, structure.levels.length]));
  expect(counts).toMatchObject({ TQ1_0: 3, IQ1_S: 3, IQ1_M: 6, IQ2_XXS: 6, IQ3_XXS: 16, IQ3_S: 16, E4M3FN: 255 });
});

test.each(leveled)(
  "$name: scale(g) * level(i) + offset(g) is the value, exactly, NaN and infinities too",
  ({ type, structure }) => {
    const blocks = structure.blockSize / type.blockSize;
    expect([structure.blockSize % 16, structure.groupSize % 16, structure.blockBytes]).toEqual([
      0,
      0,
      blocks * type.blockBytes,
    ]);
    const several = { ...type, blockBytes: structure.blockBytes };
    fc.assert(
      fc.property(blockOf(several), fc.nat(structure.blockSize - 1), (bytes, i) => {
        const own = bytes.subarray(Math.floor(i / type.blockSize) * type.blockBytes);
        const expected = exactValue(type, own, i % type.blockSize);
        const got = levelValue(structure, bytes, i);
        // Scales that are no numbers may meet a zero in one form and not in the other.
        const isPlain = structure.numbers.every(({ stands }) => stands.kind !== "float");
        fc.pre(isPlain || (expected.kind === "finite" && got.kind === "finite"));
        expect(got.kind).toBe(expected.kind);
        expect(add(unsignedZero(got), negate(unsignedZero(expected)))).toEqual(
          expected.kind === "finite" ? exactNumber(0n) : { kind: "nan" },
        );
      }),
    );
  },
);

test.each(["E4M3FN", "E5M2", "Posit8", "OCP_MXFP8_E4M3", "OCP_MXFP6_E3M2", "IQ4_NL", "TQ1_0"])(
  "%s: every code of every part has its level",
  (name) => {
    const { type, structure } = leveled.find((entry) => entry.name === name)!;
    const block = new Uint8Array(structure.blockBytes).fill(0x38);
    for (let code = 0; code < 256; code++) {
      block.fill(code, type.blockSize === 1 ? 0 : 2);
      for (let i = 0; i < structure.blockSize; i++) {
        const own = block.subarray(Math.floor(i / type.blockSize) * type.blockBytes);
        const expected = exactValue(type, own, i % type.blockSize);
        if (expected.kind !== "finite") expect(levelValue(structure, block, i).kind).toBe(expected.kind);
        else expect(unsignedZero(levelValue(structure, block, i))).toEqual(unsignedZero(expected));
      }
    }
  },
);

test("the structures of the built-in types read as written down", async () => {
  const builtin = [...programWith().types.values()];
  const text = builtin.map((type) => `${type.name}: ${describe(mappedStructureOf(type))}`).join("\n");
  await expect(`${text}\n`).toMatchFileSnapshot("../golden/ladder/structures.txt");
});

test("an odd format gets the structure that a person would derive", () => {
  expect(described("TwoFields")).toBe(`value = scale * (code - 4), groups of 8
  code, 3 bits: 24 x 2 at bit 48 step 2; 24 x 1 at bit 0 step 1 shift 2
  scale = bf16 at byte 12 * (code - 127)
    code, 8 bits xor 128: 3 x 8 at bit 24 step 8`);
  expect(described("Straddle")).toBe(`value = scale * (code - 3), groups of 16
  code, 3 bits: 16 x 1 at bit 0 step 3; 16 x 1 at bit 1 step 3 shift 1; 16 x 1 at bit 2 step 3 shift 2
  scale = 0.5 * f32 at byte 6`);
  expect(described("Turned")).toBe(`value = scale * (code - 8) + offset, groups of 2
  code, 8 bits: 2 x 8 at bit 0 step 8
  scale = f16 at byte 2 * bf16 at byte 4
  offset = 3`);
  expect(described("Rotated")).toBe(`value = scale * (code - 0), groups of 2
  code, 8 bits: 1 x 8 at bit 24 step 0; 3 x 8 from 1 at bit 0 step 8
  scale = f16 at byte 6 * (code - 128)
    code, 8 bits xor 128: 2 x 8 at bit 32 step 8`);
  expect(described("HalfZero")).toContain("value = scale * (code - 7.5), groups of 2");
});

test.each([
  ["SmallFloatScale", "its scales stand for numbers through a table"],
  ["SmallFloats", "x stands for numbers that are no small multiples of one number"],
  ["E4M3", "x stands for numbers that are no small multiples of one number"],
  ["ChangingScale", "the float field d changes inside the block"],
  ["Square", "its value has q to the power of 2"],
  ["TwoCodes", "both a and b change every value"],
  ["ManyScales", "the scale of q is no product of float fields and one code"],
  ["SumOffset", "its offset is no product of float fields and one code"],
  ["TooWide", "q has 32 bits, and codes have at most 16"],
  ["Constant", "its value reads nothing that is stored"],
  ["Cancels", "its value reads nothing that is stored"],
  ["Reversed", "its values are f16 numbers that do not lie in order, one after another"],
  ["Scaled", "its value is computed from float fields alone"],
])("%s has no structure: %s", (name, reason) => {
  expect(structureOf(typeNamed(program, name))).toEqual({ kind: "none", reason });
});

test("a value of a billion products is refused before it is multiplied out", () => {
  const names = Array.from({ length: 30 }, (_, k) => k);
  const fields = names.map((k) => `a${k} : U8\nb${k} : U8\n`).join("");
  const value = names.map((k) => `(a${k} + b${k})`).join(" * ");
  const huge = typeNamed(programWith(`import "int.ladder"\nblock Huge[1] { ${fields} value[i] = ${value} }`), "Huge");
  expect(structureOf(huge)).toEqual({ kind: "none", reason: "its value multiplies out to more than 64 products" });
});

test("floats are known by their parameters, whatever their names, and also in blocks", () => {
  const own = programWith(`element Half = float(exponent: 5, mantissa: 10, bias: 15, special: ieee)
    element F17 = float(exponent: 8, mantissa: 7, bias: 126, special: ieee)`);
  expect(structureOf(typeNamed(own, "Half"))).toEqual({ kind: "float", format: "f16" });
  expect(structureOf(typeNamed(own, "F17")).kind).toBe("none");
  expect(structureOf(typeNamed(program, "Halves"))).toEqual({ kind: "float", format: "f16" });
});

function described(name: string): string {
  return describe(structureOf(typeNamed(program, name)));
}

function gathered(codes: Codes & { readonly map?: readonly number[] | null }): string {
  const { runs, bits, flip } = codes;
  const list = runs.map(({ first, count, bit, step, width, shift }) => {
    const from = first === 0 ? "" : ` from ${first}`;
    return `${count} x ${width}${from} at bit ${bit} step ${step}${shift === 0 ? "" : ` shift ${shift}`}`;
  });
  const entries = codes.map?.length === 16 ? codes.map.join(" ") : `${codes.map?.length} entries`;
  const through = codes.map ? ` through ${entries}` : "";
  return `code, ${bits} bits${flip === 0 ? "" : ` xor ${flip}`}: ${list.join("; ")}${through}`;
}

/** A structure as a person would write it down. */
function describe(structure: Structure | MappedStructure): string {
  if (structure.kind === "float") return `${structure.format} as it is`;
  if (structure.kind === "none") return `none, ${structure.reason}`;
  const { codes, groupSize, zero, scale, offset } = structure;
  const term = (name: string, { constant, fields, codes: own }: GroupTerm | MappedTerm): string[] => {
    const factors = fields.map(({ format, byte }) => `${format} at byte ${byte}`);
    if (own !== null) factors.push(`(code - ${own.bias})`);
    if (constant !== 1 || factors.length === 0) factors.unshift(String(constant));
    return [`  ${name} = ${factors.join(" * ")}`, ...(own === null ? [] : [`    ${gathered(own)}`])];
  };
  return [
    `value = scale * (code - ${zero})${offset === null ? "" : " + offset"}, groups of ${groupSize}`,
    `  ${gathered(codes)}`,
    ...term("scale", scale),
    ...(offset === null ? [] : term("offset", offset)),
  ].join("\n");
}
