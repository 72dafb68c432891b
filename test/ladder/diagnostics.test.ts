// What a person reads when a .ladder text is wrong, word for word; and that one run finds what there is to find.

import { expect, test } from "vitest";

import type { Expr } from "../../src/ladder/ast.ts";
import { didYouMean, renderDiagnostic } from "../../src/ladder/diagnostic.ts";
import { grammarErrors, parse } from "../../src/ladder/grammar.ts";
import { resolveProgram } from "../../src/ladder/resolve.ts";
import { builtinTexts, findings, programWith } from "./program.ts";

const elements = `element U8 = int(bits: 8, coding: unsigned)
element U3 = int(bits: 3, coding: unsigned)
element F16 = float(exponent: 5, mantissa: 10, bias: 15, special: ieee)
`;

/** The one finding about a block whose items are given, without the place and the source line. */
function finding(items: string): string {
  const [heading, , , ...remarks] = findings({ "a.ladder": `${elements}block A[32] {\n${items}\n}\n` }).split("\n");
  return [heading?.replace(/^a\.ladder:/, ""), ...remarks.map((remark) => remark.trim())].join("\n");
}

test("the grammar is unambiguous with one token of lookahead", () => {
  expect(grammarErrors()).toEqual([]);
});

test("the built-in files resolve, each also without the files that it does not import", () => {
  expect(programWith().types.get("Q4_0")?.ids.get("gguf")).toBe(2);
  for (const file of ["float.ladder", "int.ladder"]) {
    expect(findings({ [file]: builtinTexts.get(file)! })).toBe("");
  }
});

test("one run reports the syntax errors of all lines, but for those right behind another", async () => {
  const broken = `// Many mistakes, of which one run finds nearly all.
import float.ladder
element B = int(bits 8)
element 4B = int(bits: 8, coding: unsigned)
block A[2] {
  x : : U8
  code q[i 2] = x.bits(0 +: 4)
  code : U8
  y : U8[16
  value[i] = q[i] *
}
block [3] {
  value = 2 # two
  value[i] = (1 + 2
}
]
block C[2] { x : U8[2] value[i] = if i then x[0] else x[1] }
block D[2] {
  value[i] = x[0].low(0 +: 4)
`;
  await expect(`${findings({ "broken.ladder": broken })}\n`).toMatchFileSnapshot("../golden/ladder/syntax-errors.txt");
});

test("one run reports what is wrong with every declaration", async () => {
  const wrong = `import "flot.ladder"
element F = float(exponent: 5, mantissa: 10, bias: 15, specials: ieee)
element G = flot(exponent: 5)
element H = int(bits: 8, coding: tows)
element I = int(bits: eight, bits: 3, coding: unsigned)
element J = int(bits: 8.5, coding: unsigned, zero: 3)
element K = float(exponent: 8, mantissa: 0, bias: 127, special: ieee)
@gguf(2)
element U3 = int(bits: 3, coding: unsigned)
element U8 = int(bits: 8, coding: unsigned)
element U8 = int(bits: 7, coding: unsigned)

@gguf(2) @gguf(3)
block A[32] {
  qs : U8[16]
  sc : U3[5]
  m  : U9
  qs : U8
  code q[i < 32] = qs[i mod 17].bits(4 * (i div 16) +: 4)
  code r[i < 32] = qs[i div 2].bits(4 * (i mod 3) +: 4)
  value[i] = 0.1 * q[i] + sc[i] + m
}
@gguf(3)
block B[2] {
  x : A
  value[x] = x
}
block C[0] {}
`;
  await expect(`${findings({ "wrong.ladder": wrong })}\n`).toMatchFileSnapshot("../golden/ladder/meaning-errors.txt");
});

test.each([
  ["x : U8 value[i] = y", "5:19: error[unknown-name]: this block has no field or code y"],
  [
    "x : U8 value[i] = i",
    "5:19: error[wrong-kind]: the index i is no number of the block; it can only stand in brackets",
  ],
  [
    "qs : U8[32] value[i] = qs",
    "5:24: error[wrong-kind]: qs has 32 entries, and none is chosen here\n= write qs[i], or another index below 32",
  ],
  ["d : F16 value[i] = d[i]", "5:22: error[wrong-kind]: d is a single element and takes no index"],
  [
    "qs : U8[31] value[i] = qs[i]",
    "5:27: error[index-range]: qs[i] reads entry 31 at i = 31\n= qs has entries 0 to 30",
  ],
  [
    "qs : U8[32] value[i] = qs[i - 1]",
    "5:27: error[index-range]: qs[i - 1] reads entry -1 at i = 0\n= qs has entries 0 to 31",
  ],
  [
    "qs : U8[32] value[i] = qs[i div (i - 2)]",
    "5:27: error[index-range]: qs[i div (i - 2)] reads entry -1 at i = 1\n= qs has entries 0 to 31",
  ],
  [
    "qs : U8[32] value[i] = qs[31 mod i]",
    "5:27: error[index-range]: 31 mod i divides by zero or leaves +-2^31 at i = 0\n= qs has entries 0 to 31",
  ],
  [
    "qs : U8[32] value[i] = qs[2147483647 * 2 * i]",
    "5:27: error[index-range]: 2147483647 * 2 * i divides by zero or leaves +-2^31 at i = 0\n= qs has entries 0 to 31",
  ],
  [
    "qs : U8[32] value[i] = qs[qs[0]]",
    "5:27: error[wrong-kind]: an index is made of numbers and i with +, -, *, div, mod and if",
  ],
  [
    "qs : U8[32] value[i] = qs[if i < 30 then i + 2 else i + 1]",
    "5:27: error[index-range]: qs[if i < 30 then i + 2 else i + 1] reads entry 32 at i = 31\n= qs has entries 0 to 31",
  ],
  [
    "qs : U8[32] value[i] = qs[0.5 + i]",
    "5:27: error[number]: a number in an index must be a whole number from 0 to 2147483647, not 0.5",
  ],
  ["x : U8 value[i] = x div 2", "5:19: error[wrong-kind]: div is only for indices; a value is made with +, - and *"],
  [
    "x : U8 value[i] = x.bits(0 +: 4)",
    "5:19: error[wrong-kind]: a value is a number, and these are bits\n= give the bits a name with a line such as code q[i < 32] = ..., and use q[i]",
  ],
  [
    "x : U8 value[i] = x ++ x",
    "5:19: error[wrong-kind]: a value is a number, and these are bits\n= give the bits a name with a line such as code q[i < 32] = ..., and use q[i]",
  ],
  [
    "x : U8 value[i] = 0.1 * x",
    "5:19: error[number]: 0.1 has no exact binary value, and a value is exact\n= write a fraction of a power of two, such as 0.5 or 0.375, or a hexadecimal one, such as 0x1.8p-3",
  ],
  ["x : U8 value[i] = x value[i] = x", "5:21: error[duplicate-name]: the value is already given above"],
  ["x : U8 value[x] = x", "5:14: error[duplicate-name]: the index x has the name of a field or code of this block"],
  ["x : U8 x : U8 value[i] = x", "5:8: error[duplicate-name]: x is already a name of this block"],
  [
    "x : U8",
    "4:7: error[missing-value]: block A does not say what its values are\n= add a line such as value[i] = d * q[i]",
  ],
  ["value[i] = 1", "4:7: error[size]: block A has no fields to store"],
  [
    "x : U3[3] value[i] = x[0]",
    "5:1: error[size]: x is 3 x 3 bits = 9 bits, which is no whole number of bytes\n= 8 x 3 bits would fill 3 bytes",
  ],
  ["x : U8[0] value[i] = 1", "5:8: error[number]: the count of a field must be a whole number from 1 to 65536, not 0"],
  [
    "x : U8 code q[i < 4] = x.bits(i +: 6) value[i] = 1",
    "5:31: error[bit-range]: x.bits(i +: 6) reads bits 3 to 8 at i = 3\n= an element of x is U8, with bits 0 to 7",
  ],
  [
    "x : U8 code q[i < 4] = x.bits(1 div i +: 6) value[i] = 1",
    "5:31: error[bit-range]: 1 div i divides by zero or leaves +-2^31 at i = 0\n= an element of x is U8, with bits 0 to 7",
  ],
  [
    "x : U8 code q[i < 4] = x.bits(0 +: 9) value[i] = 1",
    "5:36: error[number]: the width of this slice must be a whole number from 1 to 8, not 9",
  ],
  [
    "x : U8 code q[i < 4] = 3 value[i] = 1",
    "5:24: error[wrong-kind]: a code is made of bits, and this is a number\n= write a slice such as qs[i].bits(0 +: 4), or slices joined by ++",
  ],
  [
    "x : U8 code q[i < 4] = x.bits(0 +: 4) code r[i < 4] = q[i].bits(0 +: 1) value[i] = 1",
    "5:55: error[wrong-kind]: q is a code; bits are taken from fields",
  ],
  [
    "x : U8 code q[i < 4] = if i < 2 then x.bits(0 +: 4) else x.bits(0 +: 5) value[i] = 1",
    "5:24: error[size]: the two arms differ in width: 4 bits after then, 5 bits after else",
  ],
  [
    "x : U8 code q[i < 4] = if 1 div i < 2 then x.bits(0 +: 4) else x.bits(0 +: 4) value[i] = 1",
    "5:27: error[index-range]: 1 div i divides by zero or leaves +-2^31 at i = 0",
  ],
  [
    "x : U8 code q[x < 4] = x.bits(0 +: 4) value[i] = 1",
    "5:15: error[duplicate-name]: the index x has the name of a field or code of this block",
  ],
  [
    "x : U8 code q[i < 4097] = x.bits(0 +: 4) value[i] = 1",
    "5:19: error[number]: the count of code q must be a whole number from 1 to 4096, not 4097",
  ],
  [
    "x : U8 code q[i < 4] = x.bits(0 +: 8) ++ x.bits(0 +: 8) ++ x.bits(0 +: 8) ++ x.bits(0 +: 8) ++ x.bits(0 +: 8) value[i] = 1",
    "5:24: error[size]: these are 40 bits; at most 32 can be joined",
  ],
])("a block with %s", (items, expected) => {
  expect(finding(items)).toBe(expected);
});

test("what a wrong field or code would have meant is let pass, so that one mistake is one finding", () => {
  expect(finding("x : U9 code q[i < 32] = x.bits(i +: 8) value[i] = x * q[i]")).toBe(
    '5:5: error[unknown-name]: there is no element U9\n= did you mean "U8"?',
  );
});

test("an index is checked only where its arm is taken", () => {
  const arms =
    "qs : U8[8] code q[i < 16] = if i >= 8 then qs[i - 8].bits(0 +: 4) else qs[i].bits(4 +: 4) value[i] = q[i div 2]";
  expect(findings({ "a.ladder": `${elements}block A[32] { ${arms} }` })).toBe("");
});

test("imports: a missing file, a name that is not imported, a cycle, the same name twice", () => {
  expect(
    findings({
      "a.ladder": 'import "b.ladder"\nimport "bb.ladder"\nblock A[1] { x : C8 value[i] = x }\nblock A[2] {}',
      "b.ladder": 'import "c.ladder"\nelement U8 = int(bits: 8, coding: unsigned)',
      "c.ladder": 'import "a.ladder"\nelement C8 = int(bits: 8, coding: unsigned)',
    }),
  ).toBe(`a.ladder:2:8: error[import]: there is no file "bb.ladder" among the files given
   2 | import "bb.ladder"
     |        ^^^^^^^^^^^
     = did you mean "b.ladder"?
a.ladder:3:18: error[unknown-name]: C8 is declared in c.ladder, which this file does not import
   3 | block A[1] { x : C8 value[i] = x }
     |                  ^^
     = add import "c.ladder"
a.ladder:4:7: error[duplicate-name]: A is already declared in a.ladder
   4 | block A[2] {}
     |       ^
c.ladder:1:8: error[import]: this import closes a cycle: a.ladder -> b.ladder -> c.ladder -> a.ladder
   1 | import "a.ladder"
     |        ^^^^^^^^^^`);
});

/** The value of a block, with the brackets that the parser saw. */
function shape(source: string): string {
  const text = `block A[1] { value[i] = ${source} }`;
  const parsed = parse("a", text);
  if (parsed.kind === "rejected") return parsed.diagnostics.map(({ message }) => message).join();
  const [block] = parsed.ast.declarations;
  const [item] = block?.kind === "block" ? block.items : [];
  if (item?.kind !== "value") return "no value";
  const { start, end } = item.number.span;
  return text.slice(start, end) === source ? show(item.number, text) : `a span of ${start} to ${end}`;
}

function show(expr: Expr, text: string): string {
  if (expr.kind === "binary") return `(${show(expr.left, text)} ${expr.operator} ${show(expr.right, text)})`;
  if (expr.kind === "negate") return `-${show(expr.operand, text)}`;
  if (expr.kind !== "choose") return text.slice(expr.span.start, expr.span.end);
  const { left, operator, right } = expr.condition;
  return `(${show(left, text)} ${operator} ${show(right, text)} ? ${show(expr.yes, text)} : ${show(expr.no, text)})`;
}

test("operators bind as in arithmetic, if and ++ loosest, and spans cover what they name", () => {
  expect(shape("a ++ b - c * - d mod 2 - e")).toBe("(a ++ ((b - ((c * -d) mod 2)) - e))");
  expect(shape("if a + 1 <= b then c ++ d else if e != 2 then f else g + 1")).toBe(
    "((a + 1) <= b ? (c ++ d) : (e != 2 ? f : (g + 1)))",
  );
  expect(shape("a[b + 1].bits(c * 2 +: 3) - -bits.bits(0 +: 1)")).toBe(
    "(a[b + 1].bits(c * 2 +: 3) - -bits.bits(0 +: 1))",
  );
});

test("a name is suggested for small slips only", () => {
  const names = ["float", "int", "scales", "qs"];
  expect(didYouMean("flaot", names)).toBe('did you mean "float"?');
  expect(didYouMean("SCALES", names)).toBe('did you mean "scales"?');
  expect(didYouMean("scle", names)).toBe(null);
  expect(didYouMean("sq", names)).toBe('did you mean "qs"?');
  expect(didYouMean("mantissa", names)).toBe(null);
});

test("a finding about a text that is not at hand is shown without its line", () => {
  const resolution = resolveProgram(new Map([["a.ladder", "block A[1] { x : B value[i] = x }"]]));
  const diagnostics = resolution.kind === "rejected" ? resolution.diagnostics : [];
  expect(diagnostics.map((d) => renderDiagnostic(d, new Map()))).toEqual([
    "a.ladder: error[unknown-name]: there is no element B",
  ]);
});
