import fc from "fast-check";
import { expect, test } from "vitest";

import { assemble, disassemble, findingText, instructionText } from "../../src/lutcore/asm.ts";
import { OPCODES, rowOf } from "../../src/lutcore/isa.ts";
import { checkInstruction, type Program, SETTINGS } from "../../src/lutcore/program.ts";
import { instructions, legalWords, programs, smallest } from "./instructions.ts";

const PLAIN = Object.fromEntries(
  Object.entries(SETTINGS).map(([name, { plain }]) => [name, plain]),
) as unknown as Program;

/** What is wrong with a text, one finding a line. */
function findings(text: string): string {
  const result = assemble(text);
  return result.kind === "program" ? "legal" : result.findings.map(findingText).join("\n");
}

test("a program's text makes the same program again, and the same text", () => {
  fc.assert(
    fc.property(programs(12), (program) => {
      const text = disassemble(program);
      const result = assemble(text);
      expect(result, text).toEqual({ kind: "program", program });
      if (result.kind === "program") expect(disassemble(result.program)).toBe(text);
    }),
    { numRuns: 300 },
  );
});

test("every legal combination of words of every instruction is written and read", () => {
  for (const kind of OPCODES) {
    if (kind === "loop" || kind === "end") continue;
    for (const words of legalWords(kind)) {
      const i = smallest(kind, words);
      const text = instructionText(i);
      expect(assemble(`.shared 4096\n${text}`), text).toEqual({
        kind: "program",
        program: { ...PLAIN, shared: 4096, code: [i] },
      });
    }
  }
});

test("LMMA is written as the paper writes it, with the entries of its tables behind", () => {
  const text = "lmma.m2n64k4.fp16int2fp32fp16.fp16 r0, r4, r8, zero";
  const result = assemble(text);
  expect(result.kind === "program" && result.program.code).toEqual([
    {
      kind: "lmma",
      m: 2,
      n: 64,
      k: 4,
      activation: "fp16",
      weight: "int2",
      accumulate: "fp32",
      out: "fp16",
      entry: "fp16",
      to: 0,
      table: 4,
      weights: 8,
      addend: 1023,
    },
  ]);
});

test("blanks, remarks and ends of lines do not matter, where words stay apart", () => {
  const text = "// a remark\r\n\r\n  .warps   2 // two\r\n\tloop nil+3\r\nlea s0 , s0*1+nil+64//x\r\n end \r\nbar";
  const tidy = ".warps 2\nloop nil + 3\n  lea s0, s0 * 1 + nil + 64\nend\nbar\n";
  const result = assemble(text.replace("s0 ,", "s0,"));
  expect(result.kind === "program" && disassemble(result.program)).toBe(tidy);
  expect(findings("lut.m2k4.int8int16r0, r1")).toMatchInlineSnapshot(`"line 1, column 19: a blank must stand here"`);
});

test("what is wrong is said with line, column and field, for every line", () => {
  expect(
    findings(
      [
        ".warp 4",
        ".warps 0",
        ".warps x",
        ".warps",
        ".registers 64",
        ".registers 32",
        "lmma.m3n64k4.fp16int2fp32fp32.fp16 r0, r4, r8, zero",
        "lmma.m2n64k4.fp12int2fp32fp32.fp16 r0, r4, r8, zero",
        "lmma.m2n64k4.fp16int5fp32fp32.fp16 r0, r4, r8, zero",
        "lmma.m2n64k4.fp16int2fp32fp32 r0, r4, r8, zero",
        "lmma.m2n64k4.fp16int2fp32fp32.int16 r0, r4, r8, zero",
        "  lmma.m2n64k4.fp16int2fp32fp32.fp16 r0, s4, r8, zero",
        "lmma.m2n64k4.fp16int2fp32fp32.fp16 r0, r4, r8",
        "lmma.m2n64k4.fp16int2fp32fp32.fp16 r0, r4, r8, zero, r9",
        "lmma.m2n64k4.fp16int2fp32fp32.fp16 r0, r4, r3000, zero",
        "lmma.m64n256k4.fp16int2fp32fp32.fp16 r0, r4, r8, zero",
        "hmma.m2n64k4 r0",
        "lmmb",
        "lea s28, nil * 0 + nil + 1",
        "lea s1, s99 * 0 + nil + 1",
        "lea s1, nil * 0 + nil + 99999999999",
        "ld.mat.2x16.int8.rows r0, [g0 + nil + 2], 16",
        "ld.mat.2x16.int8.rows r0, [g17 + nil + 4], 16",
        "ld.mat.2x16.int8.diagonal r0, [g0 + nil + 4], 16",
        "ld.mat.2x16.int8.rows r0, g0 + nil + 4, 16",
        "bar 3",
        "§",
      ].join("\n"),
    ),
  ).toMatchInlineSnapshot(`
    "line 1, column 1: .warp is no setting; there are .gridX .gridY .swizzle .warps .registers .shared .buffers
    line 2, column 8, field warps: "0" is not 1 to 32 (warps of a block)
    line 3, column 8, field warps: "x" is not 1 to 32 (warps of a block)
    line 4, column 7, field warps: the end of the line is not 1 to 32 (warps of a block)
    line 6, column 1, field registers: .registers is in line 5 already
    line 7, column 7, field m: "3" is none of 1, 2, 4, 8, 16, 32, 64
    line 8, column 14, field activation: "fp12int2fp32fp32.fp16" is none of fp16, bf16, e4m3, e5m2, int16, int8
    line 9, column 18, field weight: "int5fp32fp32.fp16" is none of int1, int2, int3, int4, ternary
    line 10, column 30: "." must stand here, not " ": lmma.m{m}n{n}k{k}.{activation}{weight}{accumulate}{out}.{entry} {to}, {table}, {weights}, {addend}
    line 11, column 31, field entry: a table of fp16 takes fp16 or fp32 as entry, not int16
    line 12, column 42, field table: "s4" is no register: r0, r1 and so on, zero or one
    line 13, column 46: "," must stand here, not the end of the line: lmma.m{m}n{n}k{k}.{activation}{weight}{accumulate}{out}.{entry} {to}, {table}, {weights}, {addend}
    line 14, column 52: the instruction is over, and "," follows
    line 15, column 44, field weights: 3000 is not r0 to r1021
    line 16, column 38, field to: matrix 64x256.fp32 fills 512 registers, and an operand has at most 64; legal here: m 1, 2, 4, 8; or n 8, 16, 32
    line 17, column 1: "hmma.m2n64k4" is no instruction; there are lea loop end bar ld.mat st.mat ld.tab st.tab ld.wgt lut lutq lmma lmmaq mma asum sacc zacc clr cvt quant
    line 18, column 1: "lmmb" is no instruction; there are lea loop end bar ld.mat st.mat ld.tab st.tab ld.wgt lut lutq lmma lmmaq mma asum sacc zacc clr cvt quant
    line 19, column 5, field to: "s28" is no scalar: s0 to s27, bx, by, warp or nil
    line 20, column 9, field left: "s99" is no scalar: s0 to s27, bx, by, warp or nil
    line 21, column 25, field addend: "99999999999" is no whole number of at most ten digits
    line 22, column 39, field offset: 2 is no multiple of 4
    line 23, column 28, field space: "g17" is none of g0, g1, g2, g3, g4, g5, g6, g7, g8, g9, g10, g11, g12, g13, g14, g15, shared
    line 24, column 18, field order: "diagonal" is none of rows, columns
    line 25, column 27: "[" must stand here, not "g0": ld.mat.{rows}x{columns}.{element}.{order} {to}, [{space} + {base} + {offset}], {stride}
    line 26, column 4: the instruction is over, and " " follows
    line 27, column 1: "§" is no instruction; there are lea loop end bar ld.mat st.mat ld.tab st.tab ld.wgt lut lutq lmma lmmaq mma asum sacc zacc clr cvt quant"
  `);
});

test("what only the whole program shows is said at its line too", () => {
  expect(findings("bar\n  loop nil + 1\nbar")).toMatchInlineSnapshot(
    `"line 2, column 3, field kind: this loop has no end"`,
  );
  expect(findings("bar\n end")).toMatchInlineSnapshot(`"line 2, column 2, field kind: this end has no loop before it"`);
  expect(findings("\nbar\n.warps 2")).toMatchInlineSnapshot(
    `"line 3, column 1, field warps: .warps stands behind the first instruction"`,
  );
  expect(findings(".registers 2\nlut.m8k4.int8int16 r0, r2")).toMatchInlineSnapshot(
    `"line 2, column 24, field from: matrix 8x4.int8 fills r2, and the program has 2 registers"`,
  );
  expect(findings(".buffers 1\nst.mat.1x4.fp32 r0, [g1 + nil + 0], 0")).toMatchInlineSnapshot(
    `"line 2, column 22, field space: g1 is not there: the program has 1 buffer"`,
  );
});

test("an illegal instruction is found at the field that is wrong, and a text of any characters is read to its end", () => {
  const wrong = fc
    .constantFrom(...OPCODES)
    .chain((kind) =>
      fc.tuple(instructions(kind), fc.constantFrom("kind", ...Object.keys(rowOf(kind).fields)), fc.integer()),
    );
  fc.assert(
    fc.property(wrong, ([i, name, value]) => {
      const field = rowOf(i.kind).fields[name];
      fc.pre(field !== undefined && field.kind === "number");
      const changed = { ...i, [name]: value };
      const problem = checkInstruction(changed);
      const text = instructionText(changed);
      fc.pre(problem !== null);
      const result = assemble(`.shared 4\n${text}`);
      expect(result.kind, text).toBe("findings");
      if (result.kind !== "findings") return;
      expect(result.findings[0], text).toMatchObject({ line: 2, field: problem.field, message: problem.message });
      expect(result.findings[0]!.column, text).toBeGreaterThan(0);
    }),
  );
  const pieces = fc.array(
    fc.oneof(fc.constantFrom("lmma.m2n64", "k4.", "fp16", " r0", ", ", "[g0", " + ", "\n", "."), fc.string()),
  );
  fc.assert(
    fc.property(pieces, (parts) => {
      expect(["program", "findings"]).toContain(assemble(parts.join("")).kind);
    }),
  );
});

test("a text of millions of wrong characters is refused at once", () => {
  const start = performance.now();
  for (const text of [
    "x".repeat(2 ** 22),
    "\n".repeat(2 ** 20),
    ".warps ".padEnd(2 ** 22, "9"),
    `lea s0, ${"9".repeat(2 ** 22)}`,
    "bad\n".repeat(2 ** 20),
  ]) {
    const result = assemble(text);
    if (result.kind === "findings") expect(result.findings.length).toBeLessThanOrEqual(100);
    if (result.kind === "findings") expect(result.findings.map(findingText).join("\n").length).toBeLessThan(100 * 300);
  }
  expect(performance.now() - start).toBeLessThan(5000);
});
