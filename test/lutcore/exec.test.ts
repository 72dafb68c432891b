// The machine around its arithmetic: addresses, loops, barriers, blocks, what stops a program, and what is counted.

import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";

import { assemble } from "../../src/lutcore/asm.ts";
import { addCounts, type Counts, countsOf, NO_COUNTS } from "../../src/lutcore/counts.ts";
import { load } from "../../src/lutcore/exec.ts";
import type { Instruction } from "../../src/lutcore/instruction.ts";
import { type Launch, MachineStop } from "../../src/lutcore/launch.ts";
import { type Mode, type Quirks, STAGE1 } from "../../src/lutcore/mode.ts";
import type { Program } from "../../src/lutcore/program.ts";
import { programs } from "./instructions.ts";
import { IDEAL, PAPER, programOf } from "./machine.ts";

function programFrom(text: string): Program {
  const assembled = assemble(text);
  if (assembled.kind === "program") return assembled.program;
  throw new Error(JSON.stringify(assembled.findings));
}

/** Runs a text on buffers of 32-bit words, which it changes. */
function run(text: string, buffers: readonly Int32Array[], more: Partial<Launch> = {}): Counts {
  const bytes = buffers.map(({ buffer }) => new Uint8Array(buffer));
  return load(programFrom(text), PAPER)({ parameters: [], buffers: bytes, ...more });
}

function stopped(text: string, buffers: readonly Int32Array[], more: Partial<Launch> = {}): string {
  try {
    run(text, buffers, more);
  } catch (error) {
    if (error instanceof MachineStop) return `${error.at}: ${error.message}`;
    throw error;
  }
  return "it ran";
}

const words = (...list: number[]): Int32Array => Int32Array.from(list);
const numbered = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => i);

test("rows are loaded and stored at their strides, and columns are the transpose, for elements of 1, 2 and 4 bytes", () => {
  const out = new Int32Array(12);
  run(`.registers 4\nld.mat.2x3.fp32.rows r0, [g0 + nil + 4], 20\nst.mat.2x3.fp32 r0, [g1 + nil + 8], 16\n`, [
    numbered(12),
    out,
  ]);
  expect([...out]).toEqual([0, 0, 1, 2, 3, 0, 6, 7, 8, 0, 0, 0]);
  for (const [element, Numbers] of [
    ["int8", Uint8Array],
    ["fp16", Uint16Array],
    ["int32", Uint32Array],
  ] as const) {
    // Memory holds 4 columns of 8 numbers each, 16 numbers apart; the fragment has 8 rows of 4.
    const source = Numbers.from(numbered(64));
    const target = new Numbers(32);
    const size = Numbers.BYTES_PER_ELEMENT;
    const text = `.registers 4\nld.mat.8x4.${element}.columns r0, [g0 + nil + 0], ${16 * size}\nst.mat.8x4.${element} r0, [g1 + nil + 0], ${4 * size}\n`;
    const buffers = [new Uint8Array(source.buffer), new Uint8Array(target.buffer)];
    load(programFrom(text), PAPER)({ parameters: [], buffers });
    const expected = Array.from({ length: 32 }, (_, at) => (at % 4) * 16 + Math.floor(at / 4));
    expect([...target], element).toEqual(expected);
  }
});

test("a stride of 0 reads the first row again", () => {
  const out = new Int32Array(6);
  run(`.registers 4\nld.mat.3x2.int32.rows r0, [g0 + nil + 0], 0\nst.mat.3x2.int32 r0, [g1 + nil + 0], 8\n`, [
    words(7, 9),
    out,
  ]);
  expect([...out]).toEqual([7, 9, 7, 9, 7, 9]);
});

/** The value of s2 behind some instructions: the address at which a load from an empty buffer stops. */
function scalarBehind(text: string, parameters: readonly number[]): number {
  const message = stopped(`.registers 1\n${text}\nld.mat.1x1.int32.rows r0, [g0 + s2 + 0], 0\n`, [words()], {
    parameters,
  });
  return Number(/it (?:takes bytes|begins at byte) (\d+)/.exec(message)![1]);
}

test("lea counts modulo 2^32, and its numbers are signed", () => {
  const [scalar, signed] = [fc.nat(0xffffffff), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })];
  fc.assert(
    fc.property(scalar, scalar, signed, signed, (left, right, factor, addend) => {
      const result = BigInt.asUintN(32, BigInt(left) * BigInt(factor) + BigInt(right) + BigInt(addend));
      expect(scalarBehind(`lea s2, s0 * ${factor} + s1 + ${addend}`, [left, right])).toBe(Number(result));
    }),
  );
});

test("a loop runs count + times times, which is taken once and may be none, and loops nest", () => {
  const nested = `loop s0 + 1
  lea s0, s0 * 1 + nil + 5
  loop nil + 3
    lea s2, s2 * 1 + nil + 1
  end
  lea s2, s2 * 1 + nil + 100
end`;
  expect(scalarBehind(nested, [1])).toBe(206);
  // 2^32 - 1 and 1 are no rounds.
  expect(scalarBehind(nested, [2 ** 32 - 1])).toBe(0);
  expect(scalarBehind("loop nil + 0\nlea s2, nil * 0 + nil + 4\nend\nlea s2, s2 * 1 + nil + 8", [])).toBe(8);
});

test("a warp begins with the launch's parameters, its place in the grid and zeros", () => {
  const out = new Int32Array(3);
  const text = `.gridX 3\n.registers 1\nlea s1, bx * 4 + nil + 0\nld.mat.1x1.int32.rows r0, [g0 + s0 + 4], 0
st.mat.1x1.int32 r0, [g1 + s1 + 0], 0\nlea s0, s0 * 1 + nil + 4\n`;
  run(text, [numbered(4), out], { parameters: [8] });
  expect([...out]).toEqual([3, 3, 3]);
});

test("blocks run in strips of columns, each strip row by row", () => {
  // The count goes up by the sum of one bf16 of 1 and three zeros.
  const text = `.gridX 6
.gridY 2
.swizzle 4
.registers 2
ld.mat.1x1.fp32.rows r0, [g0 + nil + 0], 0
lea s0, by * 24 + nil + 0
lea s0, bx * 4 + s0 + 0
st.mat.1x1.fp32 r0, [g1 + s0 + 0], 0
ld.mat.1x4.bf16.rows r1, [g2 + nil + 0], 0
asum.m1k4.bf16 r0, r1, r0
st.mat.1x1.fp32 r0, [g0 + nil + 0], 0
`;
  const order = new Float32Array(12);
  run(text, [words(0), new Int32Array(order.buffer), words(0x3f80, 0)]);
  expect([...order]).toEqual([0, 1, 2, 3, 8, 9, 4, 5, 6, 7, 10, 11]);
});

/** Warp w stores the word at its place in g0, and loads that of the next warp from shared memory. */
const exchange = (barrier: string): string => `.gridX 2
.warps 4
.registers 2
.shared 20
lea s0, warp * 4 + nil + 0
ld.mat.1x1.int32.rows r0, [g0 + s0 + 0], 0
st.mat.1x1.int32 r0, [shared + s0 + 0], 0
${barrier}
ld.mat.1x1.int32.rows r1, [shared + s0 + 4], 0
st.mat.1x1.int32 r1, [g1 + s0 + 0], 0
`;

test("behind a barrier, and not before, each warp sees what all have stored; each block begins with zeros", () => {
  const swap = (barrier: string): number[] => {
    const out = new Int32Array(4);
    run(exchange(barrier), [words(5, 6, 7, 8), out]);
    return [...out];
  };
  expect(swap("bar")).toEqual([6, 7, 8, 0]);
  // Warps run one after the other, so that none has what the next one stores; nor what the block before stored.
  expect(swap("")).toEqual([0, 0, 0, 0]);
});

test("a warp that ends, or waits elsewhere, while another waits stops the program at the barrier", () => {
  const text = `.warps 2
.registers 1
loop warp + 0
  bar
end
`;
  expect(stopped(text, [])).toBe("1: instruction 1 (bar), warp 1 of block (0, 0): warp 0 of the block has ended");
  const two = `.warps 2
.registers 1
lea s0, warp * -1 + nil + 1
loop s0 + 0
  bar
end
bar
`;
  expect(stopped(two, [])).toBe(
    "2: instruction 2 (bar), warp 0 of block (0, 0): warp 1 of the block waits at instruction 4",
  );
});

test("an access outside memory, or off a word, stops with the address, the bytes and what is there", () => {
  const at = (access: string, settings = ""): string =>
    stopped(`.registers 64\n${settings}clr.64x16.fp16 r0\n${access}\n`, [numbered(8)]);
  expect(at("ld.mat.2x4.int32.rows r20, [g0 + nil + 4], 16")).toBe(
    "1: instruction 1 (ld.mat.2x4.int32.rows r20, [g0 + nil + 4], 16), warp 0 of block (0, 0): it takes bytes 4 to 35 (2 times 16, 16 apart) of g0, which has 32",
  );
  expect(at("st.mat.1x4.fp16 r0, [g0 + nil + 28], 0")).toBe(
    "1: instruction 1 (st.mat.1x4.fp16 r0, [g0 + nil + 28], 0), warp 0 of block (0, 0): it takes bytes 28 to 35 of g0, which has 32",
  );
  expect(at("ld.wgt.n8k4.int1 r20, [shared + nil + 16]", ".shared 16\n")).toBe(
    "1: instruction 1 (ld.wgt.n8k4.int1 r20, [shared + nil + 16]), warp 0 of block (0, 0): it takes bytes 16 to 19 of shared, which has 16",
  );
  expect(at("ld.tab.m1k4.int8 r20, [g3 + nil + 0], 0")).toBe(
    "1: instruction 1 (ld.tab.m1k4.int8 r20, [g3 + nil + 0], 0), warp 0 of block (0, 0): the launch has no buffer g3",
  );
  expect(stopped(".registers 1\nld.mat.1x1.fp32.rows r0, [g0 + s0 + 4], 0\n", [numbered(8)], { parameters: [2] })).toBe(
    "0: instruction 0 (ld.mat.1x1.fp32.rows r0, [g0 + s0 + 4], 0), warp 0 of block (0, 0): it begins at byte 6 of g0, which is no multiple of 4",
  );
});

test("a register that nothing was written to stops the program, also where a fragment reaches it in part", () => {
  const text = (columns: number): string => `.registers 8\nclr.1x${columns}.fp32 r0\ncvt.1x33.fp32fp32 r4, r0\n`;
  expect(stopped(text(33), [])).toBe("it ran");
  expect(stopped(text(32), [])).toBe(
    "1: instruction 1 (cvt.1x33.fp32fp32 r4, r0), warp 0 of block (0, 0): from reads r1, and nothing was written to it",
  );
});

test("the limit of a launch stops loops that would run for years", () => {
  const text = ".registers 1\nloop nil + 4294967295\nloop nil + 4294967295\nend\nend\n";
  expect(stopped(text, [], { limit: 1000 })).toBe(
    "2: instruction 2 (end), warp 0 of block (0, 0): 1000 instructions were executed, the limit of this launch",
  );
});

test("a launch that cannot be is refused with the number that is wrong", () => {
  const launch = load(programOf([]), PAPER);
  const parameters = Array.from({ length: 29 }, () => 0);
  expect(() => launch({ parameters, buffers: [] })).toThrow(new RangeError("29 parameters, and there are s0 to s27"));
  expect(() => launch({ parameters: [0, -1], buffers: [] })).toThrow(
    new RangeError("parameter s1 is -1, and not a whole number from 0 to 4294967295"),
  );
  const odd = new Uint8Array(16).subarray(2);
  expect(() => launch({ parameters: [], buffers: [odd] })).toThrow(
    new RangeError("g0 begins at byte 2 of its ArrayBuffer, which is no multiple of 4"),
  );
  expect(() =>
    load(programOf([], { gridX: 65535, gridY: 65535, warps: 2 }), PAPER)({ parameters: [], buffers: [] }),
  ).toThrow(new RangeError("65535 x 65535 blocks of 2 warps, and a limit of 4294967296 executed instructions"));
  const many = Array.from({ length: 17 }, () => new Uint8Array(4));
  expect(() => launch({ parameters: [], buffers: many })).toThrow(
    new RangeError("17 buffers, and there are g0 to g15"),
  );
});

test("a program that may not run is refused before it is launched", () => {
  expect(() => load(programOf([{ kind: "end" }]), PAPER)).toThrow(
    new RangeError("instruction 0 (end), field kind: this end has no loop before it"),
  );
});

/** out(2, 64) of 2-bit weights and int8 activations over k = 64, two K-tiles, tables made on the way. */
const PRODUCT = `.registers 32
.buffers 3
clr.2x64.int32 r0
loop nil + 2
  ld.mat.2x32.int8.rows r4, [g0 + s0 + 0], 64
  lut.m2k32.int8int16 r8, r4
  ld.wgt.n64k32.int2 r16, [g1 + s1 + 0]
  lmma.m2n64k32.int8int2int32int32.int16 r0, r8, r16, r0
  lea s0, s0 * 1 + nil + 32
  lea s1, s1 * 1 + nil + 512
end
st.mat.2x64.int32 r0, [g2 + nil + 0], 256
`;
const productBuffers = (): Int32Array[] => [new Int32Array(32), new Int32Array(256), new Int32Array(128)];

test("counts are those of the instructions that were executed", () => {
  const counts = run(PRODUCT, productBuffers());
  expect(Object.entries(counts.instructions).filter(([, count]) => count > 0)).toEqual([
    ["lea", 4],
    ["loop", 1],
    ["end", 2],
    ["ld.mat", 2],
    ["st.mat", 1],
    ["ld.wgt", 2],
    ["lut", 2],
    ["lmma", 2],
    ["clr", 1],
  ]);
  // Twice: 2 rows of 8 tables; 2 rows, 64 columns, 8 K-groups, 2 planes; the array takes 2 rows and 64 columns at a time.
  expect([counts.tables, counts.lookups, counts.passes]).toEqual([2 * 2 * 8, 2 * 2 * 64 * 8 * 2, 2 * 8 * 2]);
  expect([counts.products, counts.quantisedTables]).toEqual([0, 0]);
  expect(counts.bytes.global).toEqual({ read: 2 * (64 + 512), written: 512 });
  expect(counts.bytes.shared).toEqual({ read: 0, written: 0 });
  // lut reads 64 and writes 256, lmma reads 256 + 512 + 512 and writes 512; loads write, the store reads, clr writes.
  expect(counts.bytes.registers).toEqual({ read: 2 * (64 + 1280) + 512, written: 2 * (64 + 512 + 256 + 512) + 512 });
  expect([counts.registers, counts.shared]).toEqual([20, 0]);
});

test("another opcode in the program is another count and another result", () => {
  const [, weights] = productBuffers();
  weights!.fill(0x12345678);
  const results = [PRODUCT, PRODUCT.replace("lut.m2k32.int8int16 r8, r4", "clr.2x64.int16 r8")].map((text) => {
    const out = new Int32Array(128);
    const counts = run(text, [new Int32Array(32).fill(0x01020304), weights!, out]);
    return { out: [...out], tables: counts.tables, luts: counts.instructions.lut, clears: counts.instructions.clr };
  });
  expect(results[0]).toMatchObject({ tables: 32, luts: 2, clears: 1 });
  expect(results[1]).toMatchObject({ tables: 0, luts: 0, clears: 3 });
  expect(results[0]!.out.some((x) => x !== 0)).toBe(true);
  expect(results[1]!.out).toEqual(results[1]!.out.map(() => 0));
});

test("what is skipped is not counted, and shared memory is what was touched", () => {
  const text = `.registers 1\n.shared 4096\nclr.1x4.int32 r0\nloop s0 + 0\nst.mat.1x4.int32 r0, [shared + nil + 64], 0\nend\n`;
  const [none, three] = [0, 3].map((rounds) => run(text, [], { parameters: [rounds] }));
  expect([none!.instructions["st.mat"], none!.shared, none!.bytes.shared.written]).toEqual([0, 0, 0]);
  expect([three!.instructions["st.mat"], three!.shared, three!.bytes.shared.written]).toEqual([3, 80, 48]);
});

const pattern = Uint8Array.from({ length: 2 ** 17 }, (_, x) => (x * 37) & 255);

/** A legal program whose registers all hold something, on a small grid. */
const settled = programs(12).map((program): Program => {
  const clear = Array.from({ length: 16 }, (_, piece): Instruction => {
    const rows = piece === 15 ? 62 : 64;
    return { kind: "clr", rows, columns: 32, element: "fp32", to: piece * 64 };
  });
  const small = { gridX: Math.min(program.gridX, 2), gridY: 1, warps: Math.min(program.warps, 2) };
  return { ...program, ...small, code: [...clear, ...program.code] };
});

test("random programs run to their end or stop at an instruction, in bounded time, and count what they executed", () => {
  let ended = 0;
  fc.assert(
    fc.property(settled, fc.constantFrom(IDEAL, PAPER, { kind: "rtl", quirks: STAGE1 } as const), (program, mode) => {
      const buffers = Array.from({ length: 16 }, () => pattern.slice());
      try {
        const counts = load(program, mode)({ parameters: [0, 4, 64], buffers, limit: 100 });
        ended++;
        const straight = !program.code.some(({ kind }) => kind === "loop" || kind === "end");
        const blocks = program.gridX * program.warps;
        if (straight) {
          const expected = program.code.reduce((sum, i) => addCounts(sum, countsOf(i), blocks), NO_COUNTS);
          expect({ ...counts, shared: 0 }).toEqual(expected);
        }
      } catch (error) {
        if (!(error instanceof MachineStop)) throw error;
        expect(program.code[error.at]).toBeDefined();
      }
    }),
    { numRuns: 200 },
  );
  expect(ended).toBeGreaterThan(20);
});

test("random programs leave the same memory in rtl without quirks as in paper", () => {
  const plain: Quirks = {
    narrowSums: false,
    exponentAdd: false,
    zeroEntries: false,
    firstSign: false,
    flush: false,
    wordShift: false,
  };
  const memoryBehind = (program: Program, mode: Mode): string[] => {
    const buffers = Array.from({ length: 16 }, () => pattern.slice());
    try {
      load(program, mode)({ parameters: [4], buffers, limit: 100 });
    } catch (error) {
      if (!(error instanceof MachineStop)) throw error;
    }
    return buffers.map((bytes) => createHash("sha256").update(bytes).digest("hex"));
  };
  fc.assert(
    fc.property(settled, (program) => {
      expect(memoryBehind(program, { kind: "rtl", quirks: plain })).toEqual(memoryBehind(program, PAPER));
    }),
    { numRuns: 50 },
  );
});
