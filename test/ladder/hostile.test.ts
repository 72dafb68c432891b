// Texts made to break the compiler end in a finding, in less than a second each.

import { expect, test } from "vitest";

import { structureOf } from "../../src/ladder/layout.ts";
import { findings, programWith, typeNamed } from "./program.ts";

const u8 = "element U8 = int(bits: 8, coding: unsigned)\n";
const block = (value: string): Readonly<Record<string, string>> => ({
  "a.ladder": `${u8}block A[2] {\n  x : U8[2]\n  value[i] = ${value}\n}\n`,
});
const lone = (text: string): Readonly<Record<string, string>> => ({ "a.ladder": u8 + text });

/** Time of the processor, since the tests share the machine. */
const milliseconds = ({ user, system }: NodeJS.CpuUsage): number => (user + system) / 1000;

test.each([
  ["10,000 nested brackets", block("(".repeat(10_000)), "error[limit]: an expression may nest at most 40 deep"],
  ["10,000 nested indices", block("x[".repeat(10_000)), "error[limit]: an expression may nest at most 40 deep"],
  ["10,000 nested ifs", block("if i < 1 then ".repeat(10_000)), "error[limit]: an expression may nest at most 40 deep"],
  ["100,000 minus signs", block("-".repeat(100_000)), "error[limit]: an expression may have at most 500 terms"],
  [
    "50,000 additions",
    block(`x[i]${"+x[i]".repeat(50_000)}`),
    "error[limit]: an expression may have at most 500 terms",
  ],
  [
    "a name of 1 MB",
    lone(`block ${"a".repeat(1_000_000)}[2] {}`),
    "the file has 1000056 characters; at most 262144 are read",
  ],
  [
    "a name of 200 KB",
    lone(`block ${"a".repeat(200_000)}[2] {}`),
    "the name aaaaaaaaaaaaaaaaaaaa... has 200000 characters; at most 64 are allowed",
  ],
  [
    "a use of a name of 200 KB",
    lone(`block A[2] { x : ${"a".repeat(200_000)} }`),
    "there is no element aaaaaaaaaaaaaaaaaaaa...",
  ],
  [
    "a name of 200 KB out of place",
    lone(`block A[2] { x ${"a".repeat(200_000)} }`),
    'expected ":" in this field, found "aaaaaaaaaaaaaaaaaaaa..."',
  ],
  [
    "a width of 2^31 bits",
    lone("element A = int(bits: 2147483648, coding: unsigned)"),
    "bits must be a whole number from 1 to 64, not 2147483648",
  ],
  [
    "a number of 10,000 digits",
    lone(`element A = int(bits: ${"9".repeat(10_000)}, coding: unsigned)`),
    "bits must be a whole number from 1 to 64, not 99999999999999999999...",
  ],
  ["a constant of 10,000 digits", block("9".repeat(10_000)), "a number may have at most 32 characters; this has 10000"],
  ["a block of itself", lone("block A[2] { x : A value[i] = x }"), "A is a block; a field is made of elements"],
  [
    "a block of 10^6 elements",
    lone("block A[1000000] { x : U8[1000000] value[i] = x[i] }"),
    "the size of block A must be a whole number from 1 to 4096, not 1000000",
  ],
  ["250,000 strange characters", lone("#$%^&".repeat(50_000)), 'unexpected characters "#$%^&#$%^&#$%^&#$%^&"'],
  ["a strange character on each of 80,000 lines", lone("#a\n".repeat(80_000)), 'unexpected character "#"'],
  [
    "a syntax error on each of 30,000 lines",
    lone("\nblock".repeat(30_000)),
    "after 50 errors the rest of the file is not read",
  ],
  [
    "10,000 nested parameters",
    lone(`type A = ${"U8<".repeat(10_000)}`),
    "error[limit]: a type may nest at most 40 deep",
  ],
  [
    "10,000 nested storages",
    lone(`tensor A[n < N, k < K] ${"{ storage s ".repeat(10_000)}`),
    "error[limit]: a storage may nest at most 40 deep",
  ],
  [
    "10,000 nested joins",
    lone(`block A[2] { x : U8[2] code c[i < 2] = ${"join j < 2 : ".repeat(10_000)} }`),
    "error[limit]: an expression may nest at most 40 deep",
  ],
  [
    "joins that multiply to 2^30 bits",
    lone(
      `block A[2] { x : U8[2] code c[i < 2] = ${Array.from({ length: 30 }, (_, j) => `join j${j} < 2 : `).join("")} x[i].bits(0 +: 1) value[i] = c[i] }`,
    ),
    "these are 64 bits; at most 32 can be joined",
  ],
  [
    "codes that double their width 60 times",
    lone(
      `block A[2] { x : U8[2] code c0[i < 2] = x[i].bits(0 +: 1) ${Array.from({ length: 60 }, (_, j) => `code c${j + 1}[i < 2] = c${j}[i] ++ c${j}[i] `).join("")} value[i] = c60[i] }`,
    ),
    "these are 64 bits; at most 32 can be joined",
  ],
  [
    "codes that ask each other twice, 60 times",
    lone(
      `block A[2] { x : U8[2] code c0[i < 2] = x[i] ${Array.from({ length: 60 }, (_, j) => `code c${j + 1}[i < 2] = if i < 1 then c${j}[i] else c${j}[1 - i] `).join("")} value[i] = c60[i] + y }`,
    ),
    "this block has no field or code y",
  ],
  [
    "a table of 2^20 literals",
    lone(`element T = table(bits: 16) [${"0,".repeat(2 ** 20)}0]`),
    "at most 262144 are read",
  ],
  [
    "a table of 120,000 literals",
    lone(`element T = table(bits: 16) [${"0,".repeat(120_000)}0]`),
    "2^16 codes are 65536 values, and 120001 are listed",
  ],
  [
    "a table of 200,000 digits",
    lone(`element T = table(bits: 16) [0] "${"0".repeat(200_000)}"`),
    "a table has at most 65536 values",
  ],
  [
    "a table of 2^16 codes and 64 lanes",
    lone("element T = table(bits: 16, lanes: 64) [0]"),
    "2^16 codes of 64 lanes are 4194304 values; at most 65536 are allowed",
  ],
  ["a constant of 2^1000000", block("0x1p1000000"), "0x1p1000000 is outside the powers of two from 2^-1100 to 2^1100"],
  [
    "types in a circle of 1,000",
    lone(Array.from({ length: 1000 }, (_, k) => `type A${k} = A${(k + 1) % 1000}`).join("\n")),
    "A0 is made of itself",
  ],
  [
    "2,000 elements of 2^16 values",
    lone(
      Array.from({ length: 2000 }, (_, k) => `element T${k} = digits(base: 2, count: 1, bits: 16, order: first)`).join(
        "\n",
      ),
    ),
    "the tables up to T16 have 1114112 values; at most 1048576 are allowed",
  ],
  [
    "a matrix of 2^31 columns",
    lone("tensor A[n < N, k < K] requires K == 2147483647 { x : U8[N, K] value = x[n, k] }"),
    "no matrix of up to 1024 x 8192 has the shape that A requires here",
  ],
  [
    "a buffer of 2^62 bytes",
    lone("tensor A[n < N, k < K] { x : U8[K * 2147483647, K * 2147483647] value = x[n, k] }"),
    "",
  ],
  [
    "an import outside the folder",
    { "a.ladder": 'import "../../etc/passwd"' },
    'an import is the name of a file beside this one, without a folder, and not "../../etc/passwd"',
  ],
  [
    "a chain of 2,000 imports that ends where it begins",
    Object.fromEntries(Array.from({ length: 2000 }, (_, k) => [`f${k}`, `import "f${(k + 1) % 2000}"`])),
    "f1999:1:8: error[import]: this import closes a cycle: f0 -> f1 -> f2",
  ],
])("%s: a finding in under a second", (_, files, finding) => {
  const start = process.cpuUsage();
  const found = findings(files);
  expect(milliseconds(process.cpuUsage(start))).toBeLessThan(1000);
  expect(found).toContain(finding);
  expect(found.length).toBeLessThan(30_000);
});

test("the structure of a large block with many fields comes in under a second", () => {
  const fields = Array.from({ length: 60 }, (_, k) => `x${k} : U8[4096]\n`).join("");
  const value = Array.from({ length: 60 }, (_, k) => `x${k}[i]`).join(" + ");
  const large = typeNamed(
    programWith(`import "int.ladder"\nblock Large[4096] { ${fields} value[i] = ${value} }`),
    "Large",
  );
  const start = process.cpuUsage();
  expect(structureOf(large).kind).toBe("none");
  expect(milliseconds(process.cpuUsage(start))).toBeLessThan(1000);
});

test("a long line is shown cut around the caret", () => {
  const source = `${" ".repeat(300)}block A[2] { x : B value[i] = x }${" ".repeat(300)}`;
  expect(findings({ "a.ladder": source })).toBe(
    [
      "a.ladder:1:318: error[unknown-name]: there is no element B",
      "   1 |    block A[2] { x : B value[i] = x }",
      "     |                     ^",
    ].join("\n"),
  );
});
