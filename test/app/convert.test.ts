// lutra convert as people call it: files whose values an outside decoder finds unchanged, what is refused and why, and no
// file at all after an error or Ctrl-C.

import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { describe, expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { standardProgram } from "../../src/library.ts";
import { type Gguf, readGguf } from "../../src/model/gguf.ts";
import { load } from "../model/types.ts";
import type { FileToWrite, TensorToWrite } from "../model/write-gguf.ts";
import { embeddedModel, models, python, type Python, testWith } from "../oracle/oracle.ts";
import { folder, lutra, place, startLutra } from "./lutra.ts";
import { tiny, withTensors } from "./tiny-model.ts";

const tinyModel = place("tiny.gguf", tiny);

function open(path: string): Gguf {
  return readGguf(load(path), standardProgram(), load);
}

interface Change {
  readonly claim: string;
  readonly tensors: number;
  readonly values: number;
  readonly proof: string;
}

interface Report {
  readonly changes: readonly Change[];
  readonly unchanged_tensors: number;
  readonly parts: number;
  readonly checked: boolean;
  readonly bytes_after: number;
}

function converted(input: string, name: string, ...args: readonly string[]): { path: string; report: Report } {
  const path = join(folder, name);
  const { code, out, err } = lutra(["convert", input, path, "--json", ...args]);
  expect([code, err.split("\n").length], err).toEqual([0, 2]);
  const report = JSON.parse(out) as Report;
  expect(statSync(path).size).toBe(report.bytes_after);
  return { path, report };
}

function bytesOf(gguf: Gguf, name: string): Uint8Array {
  const tensor = gguf.tensors.get(name)!;
  return gguf.weights.read(tensor, 0, tensor.byteLength);
}

function valuesOf(gguf: Gguf, name: string): Float64Array {
  const { type, byteLength } = gguf.tensors.get(name)!;
  const out = new Float64Array((byteLength / type.blockBytes) * type.blockSize);
  decode(type, bytesOf(gguf, name), out);
  return out;
}

/** Reproducible bytes (xorshift32). */
function randomBytes(length: number, seed: number): Uint8Array {
  let state = seed;
  return Uint8Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state & 255;
  });
}

function withQuantized(type: string, name: string): string {
  const path = join(folder, name);
  const { code, err } = lutra(["quantize", tinyModel, path, "--type", type, "--embedding-type", type]);
  expect(code, err).toBe(0);
  return path;
}

/** The sha256 of the values of each tensor in F32, as Python's gguf decodes the file, with the tensors' types. */
function decodedOutside(oracle: Python, path: string): readonly (readonly [string, string, string])[] {
  const script = `
import hashlib, json, numpy as np
import gguf
from gguf import quants
r = gguf.GGUFReader(${JSON.stringify(path)})
print(json.dumps([[t.name, t.tensor_type.name, hashlib.sha256(np.ascontiguousarray(quants.dequantize(t.data, t.tensor_type)).astype(np.float32).tobytes()).hexdigest()] for t in r.tensors]))`;
  return JSON.parse(oracle.run(script).toString());
}

describe("values are those of the input, as Python's gguf decodes both,", () => {
  testWith(python(), "for blocks in wider blocks, in floats, and back", (oracle) => {
    const q40 = withQuantized("Q4_0", "q40.gguf");
    const before = decodedOutside(oracle, q40);
    expect(new Set(before.map(([, type]) => type))).toEqual(new Set(["Q4_0", "F32"]));
    for (const type of ["Q8_0", "Q5_0", "F32"]) {
      const { path, report } = converted(q40, `${type}.gguf`, "--type", `Q4_0=${type}`);
      expect(report).toMatchObject({ changes: [{ claim: `Q4_0 -> ${type} : value`, tensors: 8 }], checked: true });
      const after = decodedOutside(oracle, path);
      expect(after.map(([name, , values]) => [name, values])).toEqual(before.map(([name, , values]) => [name, values]));
      expect(new Set(after.map(([, found]) => found))).toEqual(new Set([type, "F32"]));
    }
  });

  testWith(python(), "for the embedded model's ternary matrices", (oracle) => {
    const { path, report } = converted(embeddedModel, "wide.gguf", "--type", "TQ2_0=Q4_0", "--type", "Q8_0=F32");
    expect(report.changes.map(({ claim, tensors }) => [claim, tensors])).toEqual([
      ["Q8_0 -> F32 : value", 1],
      ["TQ2_0 -> Q4_0 : value", 42],
    ]);
    const values = (file: string): unknown => decodedOutside(oracle, file).map(([name, , hash]) => [name, hash]);
    expect(values(path)).toEqual(values(embeddedModel));
  });
});

/** The tiny model with other bytes for one tensor. */
function withTensor(change: Omit<TensorToWrite, "name">, pairs: FileToWrite["pairs"] = tiny.pairs): FileToWrite {
  const name = "blk.0.attn_q.weight";
  return { ...withTensors((t) => (t.name === name ? { ...change, name } : t)), pairs };
}

const Q = "blk.0.attn_q.weight";

test("halves become singles with NaN, infinities and signs of zero as they were", () => {
  for (const [name, id] of [
    ["F16", 1],
    ["BF16", 30],
  ] as const) {
    // Every code of 16 bits.
    const bytes = new Uint8Array(Uint16Array.from({ length: 65_536 }, (_, code) => code).buffer);
    const input = place(`${name}.gguf`, withTensor({ dims: [256, 256], type: id, bytes }));
    const { path } = converted(input, `${name}-f32.gguf`, "--type", `${name}=F32`);
    expect(open(path).tensors.get(Q)!.type.name).toBe("F32");
    expect(valuesOf(open(path), Q)).toEqual(valuesOf(open(input), Q));
    expect(valuesOf(open(path), Q)[0x8000]).toBe(-0);
  }
});

test("PrismML's blocks of 128 under ggml's id become ggml's blocks of 64", () => {
  const bytes = randomBytes(4 * 34, 5);
  for (let b = 0; b < 4; b++) bytes.set([0x12 + b, 0x34], 34 * b); // a finite scale
  const input = place("prism.gguf", withTensor({ dims: [256, 2], type: 42, bytes }));
  const { path, report } = converted(input, "q2.gguf", "--type", "Q2_0_128=Q2_0");
  expect(report.changes).toMatchObject([{ claim: "Q2_0_128 -> Q2_0 : value", tensors: 1, values: 512 }]);
  // Both have the scale first, then the codes in order: by hand.
  const expected = Array.from({ length: 8 }, (_, b) => {
    const from = 34 * (b >> 1);
    return [...bytes.subarray(from, from + 2), ...bytes.subarray(from + 2 + 16 * (b & 1), from + 18 + 16 * (b & 1))];
  });
  expect([...bytesOf(open(path), Q)]).toEqual(expected.flat());
  expect(open(path).tensors.get(Q)!.type.ids.get("gguf")).toBe(42);
});

describe("bitnet.cpp's I2_S", () => {
  const [rows, columns] = [8, 256];
  const trits = Array.from(randomBytes(rows * columns, 9), (byte) => byte % 3);
  const scale = new Uint8Array(Float32Array.from([0.0371]).buffer);

  /** As formats are described by bitnet.cpp's sources, in plain loops. */
  function packed(storage: string): Uint8Array {
    const out = new Uint8Array((rows * columns) / 4 + 32);
    for (const [f, trit] of trits.entries()) {
      const [n, k] = [Math.floor(f / columns), f % columns];
      const [byte, shift] = {
        x86_128: [Math.floor(f / 128) * 32 + (f % 32), 6 - 2 * Math.floor((f % 128) / 32)] as const,
        arm_64: [Math.floor(f / 64) * 16 + (f % 16), 6 - 2 * Math.floor((f % 64) / 16)] as const,
        x86_1x4: [Math.floor(n / 4) * columns + k, 6 - 2 * (n % 4)] as const,
      }[storage]!;
      out[byte]! |= trit << shift;
    }
    out.set(scale, (rows * columns) / 4);
    out.set([7, 7, 7], (rows * columns) / 4 + 20); // what lies behind the scale is nobody's, and stays
    return out;
  }

  const file = (storage: string): FileToWrite =>
    withTensor({ dims: [columns, rows], type: 36, bytes: packed(storage) });

  test.each([
    ["x86_128", "arm_64"],
    ["arm_64", "x86_128"],
    ["x86_128", "x86_1x4"],
    ["x86_1x4", "arm_64"],
  ])("goes from %s to %s, and the file is what a build for the other machine writes", (from, to) => {
    const input = place(`${from}.gguf`, file(from));
    const { path, report } = converted(input, `${from}-${to}.gguf`, "--storage", `I2_S.${from}=I2_S.${to}`);
    expect(report.changes).toMatchObject([
      { claim: `I2_S.${from} -> I2_S.${to} : repack`, tensors: 1, values: rows * columns },
    ]);
    expect(Buffer.compare(readFileSync(path), Buffer.from(readFileSync(place("expected.gguf", file(to)))))).toBe(0);
  });

  test("is refused where a storage does not allow the shape, and where the bytes end too early", () => {
    const out = join(folder, "never.gguf");
    const odd = place("odd.gguf", withTensor({ dims: [128, 3], type: 36, bytes: new Uint8Array(128) }));
    expect(lutra(["convert", odd, out, "--storage", "I2_S.x86_128=I2_S.x86_1x4"])).toEqual({
      code: 1,
      out: "",
      err: `lutra: ${odd}: tensor "${Q}": 3 x 128; I2_S.x86_1x4 requires N mod 4 == 0, and the matrix is 3 x 128\n`,
    });
    const short = place("short.gguf", withTensor({ dims: [128, 4], type: 36, bytes: new Uint8Array(128) }));
    const { code, err } = lutra(["convert", short, out, "--storage", "I2_S.x86_128=I2_S.arm_64"]);
    expect(code).toBe(1);
    expect(err).toMatch(
      /ends before byte \d+, where "blk\.0\.attn_k\.weight" begins at \d+; it has 32 bytes behind its codes\n$/,
    );
  });
});

describe("types of one's own", () => {
  const mine = place(
    "mine.ladder",
    `import "float.ladder"
import "int.ladder"

block MINE[32] {
  codes : U8[16]
  scale : F16
  code q[i < 32] = codes[i mod 16].bits(4 * (i div 16) +: 4)
  value[i] = scale * (q[i] - 8)
}
`,
  );

  test("take the bits of a standard type and give them back byte for byte", () => {
    const q40 = withQuantized("Q4_0", "q40.gguf");
    const there = converted(q40, "mine.gguf", "--type", "Q4_0=MINE", "--types-from", mine);
    expect(there.report.changes).toMatchObject([{ claim: "Q4_0 -> MINE : repack", tensors: 8 }]);
    expect(open(there.path).metadata.string("lutra.ladder.source.mine.ladder")).toBe(readFileSync(mine, "utf8"));
    expect(valuesOf(open(there.path), Q)).toEqual(valuesOf(open(q40), Q));
    const back = converted(there.path, "back.gguf", "--type", "MINE=Q4_0");
    expect(open(back.path).metadata.keys.filter((key) => key.startsWith("lutra."))).toEqual([]);
    for (const name of open(q40).tensors.keys())
      expect(bytesOf(open(back.path), name), name).toEqual(bytesOf(open(q40), name));
    // Nothing but the kind of file, which went with the type, is missing.
    const withoutKind = converted(q40, "again.gguf");
    expect(open(back.path).metadata.keys).toEqual(open(withoutKind.path).metadata.keys);
  });

  test("that stay are carried on, beside new ones", () => {
    const first = converted(
      withQuantized("Q4_0", "q40.gguf"),
      "first.gguf",
      "--type",
      "Q4_0=MINE",
      "--types-from",
      mine,
    );
    const same = converted(first.path, "same.gguf");
    expect(valuesOf(open(same.path), Q)).toEqual(valuesOf(open(first.path), Q));
    const both = converted(
      first.path,
      "both.gguf",
      "--type",
      "F32=YOURS",
      "--types-from",
      place("yours.ladder", 'import "float.ladder"\nblock YOURS[2] {\n  x : F32[2]\n  value[i] = x[i]\n}\n'),
    );
    const { metadata, tensors } = open(both.path);
    expect(metadata.keys.filter((key) => key.startsWith("lutra.ladder.type."))).toEqual([
      "lutra.ladder.type.19456",
      "lutra.ladder.type.19457",
    ]);
    expect([...new Set([...tensors.values()].map(({ type }) => type.name))]).toEqual(["MINE", "YOURS"]);
    expect(valuesOf(open(both.path), "output_norm.weight")).toEqual(valuesOf(open(tinyModel), "output_norm.weight"));
  });
});

test("a model in parts becomes one file: tensors byte for byte, metadata in order, no word of the parts", () => {
  const { tensors } = tiny;
  const part = (no: number, own: readonly TensorToWrite[]): FileToWrite => ({
    alignment: 64,
    tensors: own,
    pairs: [
      ...(no === 0 ? tiny.pairs : []),
      ["general.alignment", "u32", 64],
      ["split.no", "u16", no],
      ["split.count", "u16", 3],
      ["split.tensors.count", "i32", tensors.length],
    ],
  });
  const first = place("m-00001-of-00003.gguf", part(0, tensors.slice(0, 2)));
  place("m-00002-of-00003.gguf", part(1, tensors.slice(2, 7)));
  place("m-00003-of-00003.gguf", part(2, tensors.slice(7)));
  const { path, report } = converted(first, "m.gguf");
  expect(report).toMatchObject({ parts: 3, changes: [], unchanged_tensors: tensors.length });
  const merged = open(path);
  expect(merged.metadata.keys).toEqual([...tiny.pairs.map(([key]) => key), "general.alignment"]);
  expect([...merged.tensors.keys()]).toEqual(tensors.map(({ name }) => name));
  for (const { name, bytes } of tensors) expect(Buffer.compare(bytesOf(merged, name), bytes), name).toBe(0);
  for (const { byteOffset } of merged.tensors.values()) expect(byteOffset % 64).toBe(0);
});

test("without an option a file that was written so is the same file", () => {
  expect(Buffer.compare(readFileSync(converted(tinyModel, "copy.gguf").path), readFileSync(tinyModel))).toBe(0);
  expect(
    Buffer.compare(
      readFileSync(converted(embeddedModel, "copy.gguf", "--check", "none").path),
      readFileSync(embeddedModel),
    ),
  ).toBe(0);
});

test("what was proved is told to people too", () => {
  const { code, out } = lutra([
    "convert",
    withQuantized("Q4_0", "q40.gguf"),
    join(folder, "told.gguf"),
    "--type",
    "Q4_0=Q8_0",
  ]);
  expect(code).toBe(0);
  expect(out).toBe(`before        13.2 KiB
after         20.2 KiB
as they were  3 tensors

tensors  values  proved                how
      8   14400  Q4_0 -> Q8_0 : value  every number that Q4_0 stores has one in Q8_0, in the same sums and products
each value compared with what it was
`);
});

describe("is refused, and nothing is written:", () => {
  const empty = join(folder, "empty");
  mkdirSync(empty);
  const out = join(empty, "out.gguf");
  const expectRefused = (args: readonly string[], code: number, err: string | RegExp): void => {
    const ended = lutra(["convert", ...args]);
    expect([ended.code, ended.out]).toEqual([code, ""]);
    if (typeof err === "string") expect(ended.err).toBe(err);
    else expect(ended.err).toMatch(err);
    expect(readdirSync(empty)).toEqual([]);
  };

  test("what has to be rounded, with a counter-example", () => {
    expectRefused(
      [tinyModel, out, "--type", "F32=F16"],
      1,
      /^--type F32=F16: error\[claim\]: not every value of F32 is a number of F16\n {2}= code \d+ is .*; in F16 it becomes .*\n[^]* {2}= convert keeps every value; lutra quantize --type F16 writes the nearest\n\n$/,
    );
    const json = lutra(["convert", tinyModel, out, "--json", "--type", "F32=F16"]);
    expect([json.code, json.err]).toEqual([1, ""]);
    expect(JSON.parse(json.out).diagnostics).toMatchObject([
      { code: "claim", severity: "error", file: "--type F32=F16", span: null },
    ]);
  });

  test("a block outside of the domain for which values are kept, by tensor and block", () => {
    const mx = withQuantized("OCP_MXFP4", "mx.gguf");
    expect(converted(mx, "mx-f16.gguf", "--type", "OCP_MXFP4=F16").report.changes).toMatchObject([
      { claim: "OCP_MXFP4 -> F16 : value when s in 104 .. 140" },
    ]);
    const bytes = readFileSync(mx);
    const { byteOffset } = open(mx).tensors.get(Q)!;
    bytes[byteOffset + 5 * 17] = 90;
    const far = join(folder, "far.gguf");
    writeFileSync(far, bytes);
    expectRefused(
      [far, out, "--type", "OCP_MXFP4=F16"],
      1,
      `lutra: ${far}: tensor "${Q}": block 5 has s = 90; proved is OCP_MXFP4 -> F16 : value when s in 104 .. 140 alone; lutra quantize --type F16 writes the nearest values\n`,
    );
  });

  test("rows that are no multiple of the new block", () => {
    const wide = withQuantized("Q4_0", "q40.gguf");
    const path = place("pairs.ladder", 'import "float.ladder"\nblock ROW[64] {\n  x : F32[64]\n  value[i] = x[i]\n}\n');
    expectRefused(
      [wide, out, "--type", "F32=ROW", "--types-from", path],
      1,
      `lutra: ${wide}: tensor "output_norm.weight": rows of 32; rows of ROW are a multiple of its block of 64; leave its type F32 as it is\n`,
    );
  });

  test("safetensors, the input as output, a folder that is not there", () => {
    expectRefused(
      ["model.safetensors", out],
      1,
      "lutra: model.safetensors: safetensors files are not read yet; convert goes from GGUF to GGUF\n",
    );
    expectRefused(
      [tinyModel, tinyModel],
      1,
      `lutra: ${tinyModel}: is the input too; name another file for the output\n`,
    );
    expectRefused(
      [tinyModel, join(empty, "none", "x.gguf")],
      1,
      `lutra: ${empty}/none/x.gguf: there is no folder ${empty}/none; make it first\n`,
    );
  });

  test.each([
    [[], "no model; see lutra convert --help"],
    [["a.gguf"], "no name for the new file; see lutra convert --help"],
    [[tinyModel, out, "--type", "Q4_0"], '--type: "Q4_0"; FROM=TO is needed, as in Q4_0=Q8_0'],
    [[tinyModel, out, "--type", "Q4_0=F32"], '--type: the file has no tensor in "Q4_0"; it has F32'],
    [[tinyModel, out, "--type", "F32=F46"], '--type: there is no type "F46"; did you mean "F64"?'],
    [[tinyModel, out, "--type", "F32=F64", "--type", "F32=F64"], "--type: F32 is given twice; once is enough"],
    [
      [tinyModel, out, "--storage", "I2_S.x86=I2_S.arm_64"],
      /^--storage: there is no storage "I2_S\.x86"; storages are I2_S\.x86_128, /,
    ],
    [
      [tinyModel, out, "--storage", "I2_S.x86_128=I2_S.arm_64"],
      "--storage I2_S.x86_128=I2_S.arm_64: the file has no tensor in I2_S",
    ],
    [[tinyModel, out, "--check", "all"], '--check: "all"; one of values, none is needed'],
  ] as const)("wrong usage: lutra convert %j", (args, reason) => {
    const err = typeof reason === "string" ? `lutra: ${reason}\n` : new RegExp(`^lutra: ${reason.source.slice(1)}`);
    expectRefused(args, 2, err);
  });
});

test("--help is what the golden file shows", async () => {
  const { out } = lutra(["convert", "--help"]);
  await expect(out).toMatchFileSnapshot("../golden/app/help-convert.txt");
  for (const line of out.split("\n")) expect(line.length, line).toBeLessThanOrEqual(110);
});

testWith(models(), "Ctrl-C ends it with 130 and takes away what was written", async ({ smollm2 }) => {
  const own = join(folder, "interrupted");
  mkdirSync(own);
  const { child, ended } = startLutra(["convert", smollm2, join(own, "out.gguf"), "--type", "Q4_1=Q5_1"]);
  const partSize = (): number => {
    const [part] = readdirSync(own);
    return part === undefined ? 0 : (statSync(join(own, part), { throwIfNoEntry: false })?.size ?? 0);
  };
  for (let waited = 0; waited < 60_000 && partSize() < 8_000_000; waited += 10) await setTimeout(10);
  child.kill("SIGINT");
  const { code, out, err } = await ended;
  expect([code, out, err]).toEqual([130, "", "interrupted; nothing was written\n"]);
  expect(readdirSync(own)).toEqual([]);
});
