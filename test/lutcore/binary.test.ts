import fc from "fast-check";
import { expect, test } from "vitest";

import { assemble } from "../../src/lutcore/asm.ts";
import { decode, encode, HEADER_BYTES, INSTRUCTION_BYTES, problemText } from "../../src/lutcore/binary.ts";
import { OPCODES, rowOf } from "../../src/lutcore/isa.ts";
import { checkProgram, type Program } from "../../src/lutcore/program.ts";
import { slotsOf } from "../../src/lutcore/row.ts";
import { legalWords, programs, smallest } from "./instructions.ts";

function program(text: string): Program {
  const result = assemble(text);
  if (result.kind === "program") return result.program;
  throw new Error(result.findings.map(({ message }) => message).join("\n"));
}

/** What is wrong with the bytes. */
function told(bytes: Uint8Array): string {
  const result = decode(bytes);
  return result.kind === "program" ? "legal" : problemText(result.problem);
}

const EXAMPLE = `.warps 2
lut.m2k4.int8int16 r1, r0
lmma.m2n64k4.int8int2int32int32.int16 r4, r1, r2, zero
lea s3, bx * -64 + nil + 7
`;

test("a program's bytes make the same program again, and the same bytes", () => {
  fc.assert(
    fc.property(programs(12), (one) => {
      const bytes = encode(one);
      expect(bytes).toHaveLength(HEADER_BYTES + INSTRUCTION_BYTES * one.code.length);
      const result = decode(bytes);
      expect(result).toEqual({ kind: "program", program: one });
      if (result.kind === "program") expect(encode(result.program)).toEqual(bytes);
    }),
    { numRuns: 300 },
  );
});

test("every legal combination of words of every instruction is encoded and decoded", () => {
  for (const kind of OPCODES) {
    if (kind === "loop" || kind === "end") continue;
    const one = { ...program(".shared 4096"), code: legalWords(kind).map((words) => smallest(kind, words)) };
    expect(decode(encode(one))).toEqual({ kind: "program", program: one });
  }
});

test("bytes are what the table says: fixed examples", () => {
  const hex = (text: string): string => {
    const bytes = encode(program(text));
    return Array.from(bytes.subarray(HEADER_BYTES), (byte) => byte.toString(16).padStart(2, "0")).join("");
  };
  expect(hex("bar")).toBe("04".padEnd(32, "0"));
  // opcode 02, then scalar 31 in 5 bits and 3 in 32.
  expect(BigInt(`0x${hex("loop nil + 3\nend").slice(0, 14).match(/../g)!.toReversed().join("")}`)).toBe(
    0x02n | (31n << 8n) | (3n << 13n),
  );
  expect(hex(EXAMPLE).match(/.{32}/g)).toMatchInlineSnapshot(`
    [
      "20414d00000000000000000000000000",
      "30192a6486800004f81f000000000000",
      "018303ffffffff030000000000000000",
    ]
  `);
  expect(Array.from(encode(program(EXAMPLE)).subarray(0, HEADER_BYTES))).toMatchInlineSnapshot(`
    [
      76,
      77,
      77,
      65,
      1,
      0,
      0,
      0,
      1,
      0,
      0,
      0,
      1,
      0,
      0,
      0,
      1,
      0,
      0,
      0,
      2,
      0,
      0,
      0,
      255,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      16,
      0,
      0,
      0,
      3,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
    ]
  `);
});

test("bytes that are changed, cut or random make a legal program or a finding with its place", () => {
  const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(programs(6), changes, fc.nat(40), (one, edits, cut) => {
      const bytes = encode(one);
      for (const [at, value] of edits) bytes[at % bytes.length] = value;
      const result = decode(bytes.subarray(0, bytes.length - (cut < 20 ? 0 : cut)));
      if (result.kind === "program") {
        expect(checkProgram(result.program)).toBeNull();
        expect(encode(result.program)).toEqual(bytes);
      } else expect(problemText(result.problem)).toMatch(/^(?:instruction \d+, )?field [a-zA-Z]+: .+/);
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      expect(told(bytes)).not.toBe("legal");
    }),
  );
});

test("every bit of an instruction either belongs to a field or must be 0", () => {
  for (const kind of OPCODES) {
    if (kind === "end" || kind === "loop") continue;
    const one = { ...program(".shared 4096"), code: [smallest(kind, legalWords(kind)[0]!)] };
    const end = Math.max(8, ...slotsOf(rowOf(kind)).map(({ low, width }) => low + width));
    for (let bit = end; bit < 128; bit++) {
      const bytes = encode(one);
      bytes[HEADER_BYTES + (bit >> 3)]! ^= 1 << (bit % 8);
      expect(told(bytes)).toBe(`instruction 0, field reserved: bits behind the fields of ${kind} are not 0`);
    }
  }
});

test("what is wrong with bytes is said with the instruction and the field", () => {
  const bytes = encode(program(EXAMPLE));
  const changed = (at: number, ...values: readonly number[]): string => {
    const copy = bytes.slice();
    copy.set(values, at);
    return told(copy);
  };
  const at = (instruction: number): number => HEADER_BYTES + INSTRUCTION_BYTES * instruction;
  expect(
    [
      told(bytes),
      told(new Uint8Array(7)),
      told(bytes.subarray(0, bytes.length - 1)),
      changed(0, 0x4d),
      changed(4, 2),
      changed(20, 99),
      changed(36, 0xff, 0xff, 0xff, 0xff),
      changed(36, 9),
      changed(44, 1),
      changed(at(1), 0x7f),
      changed(at(1), 0),
      changed(at(1) + 1, 0x07),
      changed(at(1) + 2, 0xff),
      changed(at(0) + 15, 1),
      changed(at(2) + 1, 0x1c),
    ].join("\n"),
  ).toMatchInlineSnapshot(`
    "legal
    field header: 7 bytes, and a header has 48
    field length: 95 bytes, and 3 instructions with their header have 96
    field magic: the bytes do not begin with "LMMA"
    field version: version 2, and this reads version 1
    field warps: 99 is not 1 to 32 (warps of a block)
    field length: 4294967295 instructions, and 1048576 is the most
    field length: 96 bytes, and 9 instructions with their header have 192
    field reserved: bits behind the header's fields are not 0
    instruction 1, field opcode: 0x7f is no opcode
    instruction 1, field opcode: 0x00 is no opcode
    instruction 1, field m: code 7, and lmma has 0 to 6
    instruction 1, field activation: code 15, and lmma has 0 to 5
    instruction 0, field reserved: bits behind the fields of lut are not 0
    instruction 2, field to: only s0 to s27 can be written"
  `);
});

test("a program that is not legal has no bytes", () => {
  const one = program(EXAMPLE);
  expect(() => encode({ ...one, registers: 4 })).toThrowErrorMatchingInlineSnapshot(
    `[RangeError: instruction 1 (lmma), field to: matrix 2x64.int32 fills r4 to r7, and the program has 4 registers]`,
  );
});
