import fc from "fast-check";
import { expect, test } from "vitest";

import { bytesOf, fragmentName, MAX_FRAGMENT_REGISTERS, REGISTER_BYTES, rowsOf } from "../../src/lutcore/fragment.ts";
import type { Instruction, Lmma } from "../../src/lutcore/instruction.ts";
import { instructionText } from "../../src/lutcore/asm.ts";
import { OPCODES, operandsOf, rowOf } from "../../src/lutcore/isa.ts";
import { checkInstruction, checkProgram, type Program } from "../../src/lutcore/program.ts";
import { proved, type Rows, slotsOf, WORD_BITS } from "../../src/lutcore/row.ts";
import { instructions, legalWords, smallest } from "./instructions.ts";

const LMMA: Lmma = {
  kind: "lmma",
  m: 2,
  n: 64,
  k: 32,
  activation: "fp16",
  weight: "int2",
  accumulate: "fp32",
  out: "fp32",
  entry: "fp16",
  to: 0,
  table: 8,
  weights: 16,
  addend: 1023,
};

const PROGRAM: Program = { gridX: 1, gridY: 1, swizzle: 1, warps: 1, registers: 64, shared: 0, buffers: 2, code: [] };

test("the fields of every row lie one behind the other in a word of 128 bits", () => {
  for (const kind of OPCODES) {
    let end = 8;
    for (const { low, width } of slotsOf(rowOf(kind))) {
      expect(low, kind).toBe(end);
      end += width;
    }
    expect(end, kind).toBeLessThanOrEqual(WORD_BITS);
  }
});

test("every row has legal words, and for each of them a smallest instruction that is legal", () => {
  for (const kind of OPCODES) {
    const words = legalWords(kind);
    expect(words.length, kind).toBeGreaterThan(0);
    for (const one of words) expect(checkInstruction(smallest(kind, one)), JSON.stringify(one)).toBeNull();
  }
});

test("every type of the paper is a legal operand of lmma: five weights by six activations, with each table and sum", () => {
  const pairs = new Set(legalWords("lmma").map(({ activation, weight }) => `${activation} ${weight}`));
  expect(pairs.size).toBe(30);
  const sums = new Set(
    legalWords("lmma").map((w) => `${w["activation"]} ${w["entry"]} ${w["accumulate"]} ${w["out"]}`),
  );
  expect([...sums].toSorted()).toMatchInlineSnapshot(`
    [
      "bf16 bf16 fp32 bf16",
      "bf16 bf16 fp32 fp16",
      "bf16 bf16 fp32 fp32",
      "bf16 fp32 fp32 bf16",
      "bf16 fp32 fp32 fp16",
      "bf16 fp32 fp32 fp32",
      "e4m3 fp16 fp16 fp16",
      "e4m3 fp16 fp32 bf16",
      "e4m3 fp16 fp32 fp16",
      "e4m3 fp16 fp32 fp32",
      "e4m3 fp32 fp32 bf16",
      "e4m3 fp32 fp32 fp16",
      "e4m3 fp32 fp32 fp32",
      "e5m2 bf16 fp32 bf16",
      "e5m2 bf16 fp32 fp16",
      "e5m2 bf16 fp32 fp32",
      "e5m2 fp32 fp32 bf16",
      "e5m2 fp32 fp32 fp16",
      "e5m2 fp32 fp32 fp32",
      "fp16 fp16 fp16 fp16",
      "fp16 fp16 fp32 bf16",
      "fp16 fp16 fp32 fp16",
      "fp16 fp16 fp32 fp32",
      "fp16 fp32 fp32 bf16",
      "fp16 fp32 fp32 fp16",
      "fp16 fp32 fp32 fp32",
      "int16 int32 int32 int32",
      "int8 int16 int32 int32",
    ]
  `);
});

test("operands are as large as m, n, k and their types say, and within registers", () => {
  expect(
    operandsOf(LMMA).map(
      ({ field, register, registers, fragment }) =>
        `${field} r${register} ${registers} ${fragmentName(fragment)} ${bytesOf(fragment)}`,
    ),
  ).toMatchInlineSnapshot(`
    [
      "to r0 4 matrix 2x64.fp32 512",
      "table r8 2 table m2k32.fp16 256",
      "weights r16 4 weights n64k32.int2 512",
    ]
  `);
  fc.assert(
    fc.property(fc.constantFrom(...OPCODES).chain(instructions), (i) => {
      for (const { register, registers, fragment } of operandsOf(i)) {
        const { rows, rowBytes } = rowsOf(fragment);
        expect(rowBytes % 4).toBe(0);
        expect(registers).toBe(Math.ceil((rows * rowBytes) / REGISTER_BYTES));
        expect(registers).toBeLessThanOrEqual(MAX_FRAGMENT_REGISTERS);
        expect(register + registers).toBeLessThanOrEqual(1022);
      }
    }),
  );
});

test("a destination overlaps nothing but an operand that is read number by number, at the same place", () => {
  fc.assert(
    fc.property(fc.constantFrom(...OPCODES).chain(instructions), fc.nat(1000), fc.nat(20), (i, pick, by) => {
      const operands = operandsOf(i);
      const to = operands.find(({ access }) => access === "write");
      const other = operands.filter((one) => one !== to)[pick % Math.max(1, operands.length - 1)];
      fc.pre(to !== undefined && other !== undefined);
      const moved = { ...i, [to.field]: other.register + (by % other.registers) } as Instruction;
      const field = rowOf(i.kind).fields[other.field]!;
      const fits =
        field.kind === "register" &&
        field.inPlace &&
        by % other.registers === 0 &&
        bytesOf(to.fragment) === bytesOf(other.fragment);
      const problem = checkInstruction(moved);
      if (fits) expect(problem?.message ?? "legal", instructionText(moved)).not.toContain(`overlaps ${other.field},`);
      expect(fits || problem !== null, instructionText(moved)).toBe(true);
    }),
  );
});

test("what is illegal is refused with what is legal", () => {
  const told = (change: Partial<Lmma>): string => {
    const problem = checkInstruction({ ...LMMA, ...change });
    return problem === null ? "legal" : `${problem.field}: ${problem.message}`;
  };
  expect(
    [
      told({}),
      told({ m: 3 }),
      told({ n: 12 }),
      told({ k: 2 }),
      told({ n: 256, m: 64 }),
      told({ entry: "int16" }),
      told({ entry: "bf16" }),
      told({ activation: "int8" }),
      told({ entry: "fp32", accumulate: "fp16" }),
      told({ accumulate: "int32" }),
      told({ accumulate: "fp16" }),
      told({ out: "int32" }),
      told({ to: 1020 }),
      told({ to: 1022 }),
      told({ weights: 1023 }),
      told({ addend: 1022 }),
      told({ to: 8 }),
      told({ to: 17 }),
      told({ weights: 2.5 }),
      told({ weight: "int5" as "int4" }),
    ].join("\n"),
  ).toMatchInlineSnapshot(`
    "legal
    m: 3 is none of 1, 2, 4, 8, 16, 32, 64
    n: 12 is none of 8, 16, 32, 64, 128, 256
    k: 2 is none of 4, 8, 16, 32, 64, 128, 256
    to: matrix 64x256.fp32 fills 512 registers, and an operand has at most 64; legal here: m 1, 2, 4, 8; or n 8, 16, 32
    entry: a table of fp16 takes fp16 or fp32 as entry, not int16
    entry: a table of fp16 takes fp16 or fp32 as entry, not bf16
    entry: a table of int8 takes int16 as entry, not fp16
    accumulate: a table of fp32 takes fp32 as accumulate, not fp16
    accumulate: a table of fp16 takes fp32 or fp16 as accumulate, not int32
    out: a sum in fp16 takes fp16 as out, not fp32
    out: a sum in fp32 takes fp32 or fp16 or bf16 as out, not int32
    to: r1020 to r1023 of matrix 2x64.fp32 is beyond r1021
    to: one is not r0 to r1021
    weights: zero is not r0 to r1021
    addend: one is not r0 to r1021 or zero
    to: r8 to r11 overlaps table, r8 to r9, and is written while that is in use
    to: r17 to r20 overlaps weights, r16 to r19, and is written while that is in use
    weights: 2.5 is not r0 to r1021
    weight: int5 is none of int1, int2, int3, int4, ternary"
  `);
});

test("an instruction of any kind is refused where it makes no sense, with the field", () => {
  const told = (i: Instruction): string => {
    const problem = checkInstruction(i);
    return problem === null ? "legal" : `${problem.field}: ${problem.message}`;
  };
  const at = { space: "g0", base: 31, offset: 0, stride: 64 } as const;
  expect(
    [
      told({ kind: "lea", to: 28, left: 0, factor: 1, right: 31, addend: 0 }),
      told({ kind: "lea", to: 0, left: 32, factor: 1, right: 31, addend: 0 }),
      told({ kind: "lea", to: 0, left: 0, factor: 2 ** 31, right: 31, addend: 0 }),
      told({ kind: "ld.mat", rows: 1, columns: 3, element: "int8", order: "rows", to: 0, ...at }),
      told({ kind: "ld.mat", rows: 3, columns: 4, element: "int8", order: "columns", to: 0, ...at }),
      told({ kind: "ld.mat", rows: 64, columns: 64, element: "fp32", order: "rows", to: 0, ...at }),
      told({ kind: "ld.mat", rows: 4, columns: 4, element: "int8", order: "rows", to: 0, ...at, offset: 2 }),
      told({ kind: "ld.mat", rows: 4, columns: 4, element: "int8", order: "rows", to: 0, ...at, space: "g16" }),
      told({ kind: "st.mat", rows: 2, columns: 32, element: "fp32", from: 0, ...at }),
      told({ kind: "st.tab", m: 2, k: 32, entry: "int8", from: 0, ...at, stride: 60 }),
      told({ kind: "lut", m: 2, k: 4, activation: "int8", entry: "int32", to: 0, from: 4 }),
      told({ kind: "lutq", m: 2, k: 16, entry: "int16", share: 8, to: 0, scales: 4, from: 8 }),
      told({ kind: "lutq", m: 2, k: 4, entry: "int16", share: 2, to: 0, scales: 4, from: 8 }),
      told({ kind: "lutq", m: 2, k: 16, entry: "int16", share: 4, to: 0, scales: 0, from: 8 }),
      told({
        kind: "mma",
        m: 2,
        n: 8,
        k: 16,
        activation: "fp16",
        weight: "int8",
        accumulate: "fp32",
        out: "fp32",
        to: 0,
        left: 4,
        right: 8,
        addend: 1023,
      }),
      told({
        kind: "mma",
        m: 2,
        n: 8,
        k: 16,
        activation: "e4m3",
        weight: "e5m2",
        accumulate: "fp16",
        out: "fp16",
        to: 0,
        left: 4,
        right: 8,
        addend: 1023,
      }),
      told({ kind: "quant", rows: 1, columns: 36, target: "int8", group: 16, to: 0, scales: 4, from: 8 }),
      told({ kind: "sacc", m: 1, n: 64, product: "int32", to: 0, from: 4, byRow: 1023, byColumn: 1022, addend: 1023 }),
    ].join("\n"),
  ).toMatchInlineSnapshot(`
    "to: only s0 to s27 can be written
    left: 32 is no scalar: there are s0 to s27, bx, by, warp and nil
    factor: 2147483648 is not -2147483648 to 2147483647
    to: a row of matrix 1x3.int8 has 3 bytes, no whole words of 4
    rows: a column of 3 bytes does not fill whole words of 4
    to: matrix 64x64.fp32 fills 128 registers, and an operand has at most 64
    offset: 2 is no multiple of 4
    space: g16 is none of g0, g1, g2, g3, g4, g5, g6, g7, g8, g9, g10, g11, g12, g13, g14, g15, shared
    stride: rows of 128 bytes overlap at a stride of 64
    stride: rows of 64 bytes overlap at a stride of 60
    entry: a table of int8 takes int16 as entry, not int32
    share: 8 tables cannot share a scale: k16 is 4 tables
    share: 2 tables cannot share a scale: k4 is 1 table
    to: r0 overlaps scales, r0, and is written while that is in use
    weight: fp16 takes fp16 as weight, not int8
    accumulate: a product of e4m3 takes fp32 as accumulate, not fp16
    group: 36 columns are no whole groups of 16
    byRow: zero is not r0 to r1021 or one"
  `);
});

test("a program has the registers, buffers and shared memory that its instructions name, and its loops close", () => {
  const told = (change: Partial<Program>): string => {
    const problem = checkProgram({ ...PROGRAM, ...change });
    return problem === null ? "legal" : `${problem.at} ${problem.field}: ${problem.message}`;
  };
  const load = { kind: "ld.wgt", n: 64, k: 32, weight: "int2", to: 16, space: "g1", base: 31, offset: 0 } as const;
  const loop = { kind: "loop", count: 31, times: 2 } as const;
  const end = { kind: "end" } as const;
  expect(
    [
      told({ code: [load, LMMA] }),
      told({ code: [load, { ...LMMA, m: 3 }] }),
      told({ code: [LMMA], registers: 18 }),
      told({ code: [load], buffers: 1 }),
      told({ code: [{ ...load, space: "shared" }] }),
      told({ code: [{ ...load, space: "shared" }], shared: 1024 }),
      told({ code: [loop, loop, end] }),
      told({ code: [loop, end, end] }),
      told({ code: [...Array.from({ length: 9 }, () => loop), ...Array.from({ length: 9 }, () => end)] }),
      told({ warps: 33 }),
      told({ gridX: 0 }),
      told({ shared: 200_000 }),
    ].join("\n"),
  ).toMatchInlineSnapshot(`
    "legal
    1 m: 3 is none of 1, 2, 4, 8, 16, 32, 64
    0 weights: weights n64k32.int2 fills r16 to r19, and the program has 18 registers
    0 space: g1 is not there: the program has 1 buffer
    0 space: the program has no shared memory: .shared gives it some
    legal
    0 kind: this loop has no end
    2 kind: this end has no loop before it
    8 kind: 9 loops in one another, and 8 is the most
    null warps: 33 is not 1 to 32 (warps of a block)
    null gridX: 0 is not 1 to 65535 (columns of the grid of blocks)
    null shared: 200000 is not 0 to 167936 (bytes that the warps of a block share; an A100 has 164 KiB)"
  `);
});

test("a row that contradicts itself or another is refused when the table is built", () => {
  const rows = Object.fromEntries(OPCODES.map((kind) => [kind, rowOf(kind)])) as unknown as Rows;
  const told = (change: object): string => {
    try {
      proved({ ...rows, ...change });
    } catch (error) {
      return String(error);
    }
    return "consistent";
  };
  const { lut, loop } = rows;
  expect(
    [
      told({}),
      told({ lut: { ...lut, opcode: loop.opcode } }),
      told({ lut: { ...lut, opcode: 256 } }),
      told({ lut: { ...lut, syntax: "lutq.m{m}k{k}.{activation}{entry} {to}, {from}" } }),
      told({ lut: { ...lut, syntax: "lut.m{m}k{k}.{activation}{entry} {to}" } }),
      told({ lut: { ...lut, syntax: "lut.m{m}k{k}.{activation}{entry} {to}, {from}, {share}" } }),
      told({ lut: { ...lut, syntax: "lut.m{m}k{k}.{activation}{entry} {to}, {from}, {from}" } }),
      told({ lut: { ...lut, fields: { ...lut.fields, m: { kind: "choice", bits: 2, values: [1, 2, 4, 8, 16] } } } }),
      told({
        loop: {
          ...loop,
          fields: { ...loop.fields, times: { kind: "number", bits: 32, least: -1, most: 2 ** 32 - 1, multipleOf: 1 } },
        },
      }),
      told({
        loop: {
          ...loop,
          fields: { ...loop.fields, times: { kind: "number", bits: 120, least: 0, most: 1, multipleOf: 1 } },
        },
      }),
    ].join("\n"),
  ).toMatchInlineSnapshot(`
    "consistent
    Error: instruction lut: opcode 2 is that of loop
    Error: instruction lut: opcode 256 is no byte
    Error: instruction lut: its syntax begins otherwise
    Error: instruction lut: its syntax names from 0 times, and fields have it 1 times
    Error: instruction lut: its syntax names share 1 times, and fields have it 0 times
    Error: instruction lut: its syntax names from 2 times, and fields have it 1 times
    Error: instruction lut: m has 5 values in 2 bits
    Error: instruction loop: times has 8589934592 values in 32 bits
    Error: instruction loop: times ends at bit 133 of 128"
  `);
});
