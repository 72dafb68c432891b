// Reading GGUF files: what is right is read as @huggingface/gguf reads it, what is wrong is refused in words, and
// nothing that can stand in a file does harm.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { gguf as peerGguf } from "@huggingface/gguf";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { openFile } from "../../src/files.ts";
import { readGguf } from "../../src/model/gguf.ts";
import type { Gguf } from "../../src/model/gguf.ts";
import { ModelError } from "../../src/model/metadata.ts";
import type { Metadata } from "../../src/model/metadata.ts";
import { embeddedModel, models, testWith } from "../oracle/oracle.ts";
import { program, source } from "./types.ts";
import { random } from "./vocabularies.ts";
import { gguf } from "./write-gguf.ts";
import type { FileToWrite, Pair, TensorToWrite } from "./write-gguf.ts";

const none = (name: string): never => {
  throw new Error(`${name}: no such file`);
};
const read = (bytes: Uint8Array): Gguf => readGguf(source(bytes), program, none);

/** The error's text for a file. */
function refusal(bytes: Uint8Array): string {
  try {
    read(bytes);
    return "read";
  } catch (error) {
    return error instanceof ModelError ? error.message : `not a ModelError: ${String(error)}`;
  }
}
const refused = (file: FileToWrite): string => refusal(gguf(file));

const filled = (length: number, seed: number): Uint8Array => {
  const next = random(seed);
  return Uint8Array.from({ length }, () => next(256));
};
/** F32 of 3 x 4 (rows of 4), Q8_0 of 2 x 64. */
const TENSORS: readonly TensorToWrite[] = [
  { name: "a.weight", dims: [4, 3], type: 0, bytes: filled(48, 1) },
  { name: "b.weight", dims: [64, 2], type: 8, bytes: filled(136, 2) },
];
const PAIRS: readonly Pair[] = [
  ["general.architecture", "string", "llama"],
  ["n.u8", "u8", 200],
  ["n.i8", "i8", -5],
  ["n.u16", "u16", 60_000],
  ["n.i16", "i16", -30_000],
  ["n.u32", "u32", 4_000_000_000],
  ["n.i32", "i32", -2_000_000_000],
  ["n.f32", "f32", 0.5],
  ["n.u64", "u64", 2n ** 60n],
  ["n.i64", "i64", -7n],
  ["n.f64", "f64", 1e-300],
  ["yes", "bool", true],
  ["strings", "string", ["plain", "", "\u0120\u00e4\u4e2d\u{1f600}", "\ufeffbom"]],
  ["bools", "bool", [true, false]],
  ["i32s", "i32", [1, -1, 7]],
  ["u64s", "u64", [1n, 2n]],
];
const VALID = gguf({ pairs: PAIRS, tensors: TENSORS });
const HEADER = VALID.length - 64 - 160;

describe("a valid file", () => {
  test("gives its metadata by type, and absent keys as asked", () => {
    const { metadata } = read(VALID);
    expect(metadata.string("general.architecture")).toBe("llama");
    expect(["n.u8", "n.i8", "n.u16", "n.i16", "n.u32", "n.i32", "n.i64"].map((key) => metadata.integer(key))).toEqual([
      200, -5, 60_000, -30_000, 4_000_000_000, -2_000_000_000, -7,
    ]);
    expect([metadata.number("n.f32"), metadata.number("n.f64")]).toEqual([0.5, 1e-300]);
    expect(metadata.value("n.u64")).toBe(2n ** 60n);
    expect(metadata.boolean("yes")).toBe(true);
    expect(metadata.strings("strings")).toEqual(["plain", "", "\u0120\u00e4\u4e2d\u{1f600}", "\ufeffbom"]);
    expect([...metadata.numbers("i32s")]).toEqual([1, -1, 7]);
    expect(metadata.value("bools")).toEqual([true, false]);
    expect(metadata.integer("absent", null)).toBeNull();
    expect(metadata.string("absent", "else")).toBe("else");
    expect(metadata.typeOf("strings")).toBe("[string]");
    expect(metadata.has("absent")).toBe(false);
    expect(metadata.keys).toHaveLength(PAIRS.length);
  });

  test("gives its tensors with the contiguous dimension last, and their bytes", () => {
    const { tensors, weights } = read(VALID);
    const b = weights.tensor("b.weight");
    expect(b).toMatchObject({ name: "b.weight", shape: [2, 64], file: 0, byteLength: 136, byteOffset: HEADER + 64 });
    expect(b?.type.name).toBe("Q8_0");
    expect([...tensors.keys()]).toEqual(["a.weight", "b.weight"]);
    expect(weights.read(b!, 10, 100)).toEqual(filled(136, 2).slice(10, 110));
    expect(weights.files).toEqual(["m.gguf"]);
    expect(() => weights.read(b!, 100, 37)).toThrow('m.gguf: tensor "b.weight": bytes 100 to 137; it has 136');
  });

  test("is read in version 2, with any alignment, and with tensors in any order", () => {
    expect(read(gguf({ version: 2, pairs: PAIRS })).version).toBe(2);
    const alignment: Pair = ["general.alignment", "u32", 256];
    const { weights } = read(gguf({ pairs: [alignment], tensors: TENSORS, alignment: 256 }));
    expect(weights.tensor("b.weight")?.byteOffset).toBe(512);
    const swapped = read(
      gguf({
        tensors: [
          { ...TENSORS[0]!, offset: 160 },
          { ...TENSORS[1]!, offset: 0 },
        ],
      }),
    );
    expect(swapped.tensors.size).toBe(2);
  });

  test("says of a key of another type what it is", () => {
    const { metadata } = read(VALID);
    const wrong: readonly (readonly [(m: Metadata) => unknown, string])[] = [
      [(m) => m.string("n.u8"), "m.gguf: n.u8: type u8; a string is needed"],
      [(m) => m.integer("n.f32"), "m.gguf: n.f32: type f32; an integer is needed"],
      [(m) => m.integer("n.u64"), "m.gguf: n.u64: 1152921504606846976; an integer within +-2^53 is needed"],
      [(m) => m.integer("i32s", 3), "m.gguf: i32s: type [i32]; an integer is needed"],
      [(m) => m.number("strings"), "m.gguf: strings: type [string]; a number is needed"],
      [(m) => m.boolean("n.u8"), "m.gguf: n.u8: type u8; a bool is needed"],
      [(m) => m.strings("i32s"), "m.gguf: i32s: type [i32]; an array of strings is needed"],
      [(m) => m.numbers("u64s"), "m.gguf: u64s: type [u64]; an array of numbers of up to 32 bits, or f64, is needed"],
      [(m) => m.string("gone"), "m.gguf: gone: absent; a string is needed"],
    ];
    for (const [get, message] of wrong) expect(() => get(metadata)).toThrow(new ModelError(...parts(message)));
  });
});

/** A message taken apart as ModelError puts it together. */
function parts(message: string): [string, string, string, string] {
  const [, file = "", field = "", value = "", allowed = ""] = /^(.*?): (.*?): (.*?); (.*)$/.exec(message) ?? [];
  return [file, field, value, allowed];
}

describe("the peer package agrees", () => {
  async function compare(path: string): Promise<void> {
    const ours = readGguf(openFile(path), program, openFile);
    const theirs = await peerGguf(path, { allowLocalFile: true });
    try {
      const own = ["version", "tensor_count", "kv_count"];
      const keys = Object.keys(theirs.metadata).filter((key) => !own.includes(key));
      expect([...ours.metadata.keys]).toEqual(keys);
      for (const [key, value] of Object.entries(theirs.metadata)) {
        if (own.includes(key)) continue;
        const found = ours.metadata.value(key);
        expect(ArrayBuffer.isView(found) ? Array.from(found as Float32Array) : found).toEqual(value);
      }
      const offset = (tensor: { readonly byteOffset: number }): number => tensor.byteOffset;
      const start = Math.min(...[...ours.tensors.values()].map((tensor) => offset(tensor)));
      expect(
        [...ours.tensors.values()].map((t) => [t.name, t.shape, t.type.ids.get("gguf"), t.byteOffset - start]),
      ).toEqual(theirs.tensorInfos.map((t) => [t.name, t.shape.map(Number).toReversed(), t.dtype, Number(t.offset)]));
    } finally {
      ours.close();
    }
  }

  test("on the embedded model", async () => {
    await expect(compare(embeddedModel)).resolves.toBeUndefined();
  });

  testWith(models(), "on SmolLM2-135M, whose header is read in a moment", async ({ smollm2 }) => {
    await compare(smollm2);
    const times = Array.from({ length: 5 }, () => {
      const begin = performance.now();
      readGguf(openFile(smollm2), program, openFile).close();
      return performance.now() - begin;
    });
    // oxlint-disable-next-line vitest/no-standalone-expect -- testWith is a test
    expect(Math.min(...times)).toBeLessThan(25);
  });
});

describe("a damaged file is refused in words", () => {
  const whole: TensorToWrite = TENSORS[0]!;
  const withTensor = (change: Partial<TensorToWrite>): string => refused({ tensors: [{ ...whole, ...change }] });
  const bytesAt = (at: number, ...values: number[]): Uint8Array => {
    const bytes = VALID.slice();
    bytes.set(values, at);
    return bytes;
  };

  test.each([
    ["empty", refusal(new Uint8Array()), "m.gguf: size: 0 bytes; a GGUF file has at least 24"],
    ["three bytes", refusal(VALID.slice(0, 3)), "m.gguf: size: 3 bytes; a GGUF file has at least 24"],
    [
      "another format",
      refusal(bytesAt(0, 0x50, 0x4b, 3, 4)),
      'm.gguf: magic: "PK\\u0003\\u0004"; a GGUF file begins with "GGUF"',
    ],
    ["version 1", refused({ version: 1 }), "m.gguf: version: 1; versions 2 and 3 can be read"],
    ["version 4", refused({ version: 4 }), "m.gguf: version: 4; versions 2 and 3 can be read"],
    [
      "big-endian",
      refused({ version: 0x0300_0000 }),
      "m.gguf: byte order: big-endian; little-endian files can be read; convert it with gguf-py's gguf_convert_endian",
    ],
    [
      "tensors -1",
      refused({ tensorCount: -1 }),
      "m.gguf: tensor count: 18446744073709551615; the 32 bytes of the file have room for 0",
    ],
    [
      "keys 2^63",
      refused({ pairs: PAIRS, pairCount: 2n ** 63n }),
      "m.gguf: key count: 9223372036854775808; the 512 bytes of the file have room for 34",
    ],
    [
      "tensors too many",
      refusal(bytesAt(8, 255, 255, 255, 0)),
      "m.gguf: tensor count: 16777215; the 832 bytes of the file have room for 24",
    ],
    [
      "key too long",
      refused({ pairs: [["k".repeat(65_536), "u8", 1]] }),
      "m.gguf: length of key 0: 65536; at most 65535",
    ],
    ["key empty", refused({ pairs: [["", "u8", 1]] }), 'm.gguf: key 0: ""; a key has at least one character'],
    [
      "key twice",
      refused({
        pairs: [
          ["k", "u8", 1],
          ["k", "u8", 2],
        ],
      }),
      'm.gguf: key 1: "k"; each key is given once',
    ],
    [
      "key cut",
      refusal(bytesAt(24, 0, 0, 0, 0, 0, 0, 0, 0x80)),
      "m.gguf: length of key 0: 9223372036854775808; the 832 bytes of the file have room for 800",
    ],
    ["key not UTF-8", refusal(bytesAt(33, 0xff)), "m.gguf: key 0: bytes 32 to 52; text is UTF-8"],
    [
      "value type",
      refusal(bytesAt(52, 255)),
      "m.gguf: general.architecture: value type 255; types are 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array, 10 u64, 11 i64, 12 f64",
    ],
    ["bool 7", refused({ pairs: [["b", "bool", 7]] }), "m.gguf: b: bool 7; a bool is 0 or 1"],
    [
      "alignment 0",
      refused({ pairs: [["general.alignment", "u32", 0]] }),
      "m.gguf: general.alignment: 0; a power of two up to 65536 is needed",
    ],
    [
      "alignment 3",
      refused({ pairs: [["general.alignment", "u32", 3]] }),
      "m.gguf: general.alignment: 3; a power of two up to 65536 is needed",
    ],
    [
      "alignment 2^31",
      refused({ pairs: [["general.alignment", "u32", 2 ** 31]] }),
      "m.gguf: general.alignment: 2147483648; a power of two up to 65536 is needed",
    ],
    [
      "alignment text",
      refused({ pairs: [["general.alignment", "string", "32"]] }),
      "m.gguf: general.alignment: type string; an integer is needed",
    ],
    ["no dimensions", withTensor({ dims: [] }), 'm.gguf: tensor "a.weight": 0 dimensions; 1 to 4 are possible'],
    [
      "five dimensions",
      withTensor({ dims: [1, 1, 1, 1, 1] }),
      'm.gguf: tensor "a.weight": 5 dimensions; 1 to 4 are possible',
    ],
    [
      "dimension 0",
      withTensor({ dims: [4, 0] }),
      'm.gguf: tensor "a.weight" dimension 1: 0; a dimension is at least 1',
    ],
    [
      "dimension -1",
      withTensor({ dims: [-1] }),
      'm.gguf: tensor "a.weight" dimension 0: 18446744073709551615; a dimension is below 2^53',
    ],
    [
      "shape wraps",
      withTensor({ dims: [2 ** 32, 2 ** 32] }),
      'm.gguf: tensor "a.weight": shape 4294967296 x 4294967296; a tensor has fewer than 2^53 values',
    ],
    [
      "bytes wrap",
      withTensor({ dims: [2 ** 52] }),
      'm.gguf: tensor "a.weight": 18014398509481984 bytes; a tensor is below 2^53 bytes',
    ],
    [
      "type",
      withTensor({ type: 36 }),
      'm.gguf: tensor "a.weight": type 36; types are 0 F32, 1 F16, 3 Q4_1, 8 Q8_0, 35 TQ2_0',
    ],
    [
      "row",
      withTensor({ dims: [40], type: 8 }),
      'm.gguf: tensor "a.weight": rows of 40; rows of Q8_0 are a multiple of its block of 32',
    ],
    [
      "offset unaligned",
      withTensor({ offset: 8 }),
      'm.gguf: tensor "a.weight" offset: 8; offsets are multiples of the alignment, 32',
    ],
    [
      "offset far",
      withTensor({ offset: 2n ** 63n }),
      'm.gguf: tensor "a.weight" offset: 9223372036854775808; an offset is below 2^53',
    ],
    [
      "offset past the end",
      withTensor({ offset: 64 }),
      'm.gguf: tensor "a.weight": bytes 160 to 208; the file ends at byte 160',
    ],
    ["name empty", withTensor({ name: "" }), 'm.gguf: name of tensor 0: ""; a name has at least one character'],
    ["name long", withTensor({ name: "n".repeat(64) }), "m.gguf: length of name of tensor 0: 64; at most 63"],
    [
      "name hostile",
      withTensor({ name: "\u001b[31m\n", dims: [0] }),
      'm.gguf: tensor "\\u001b[31m\\n" dimension 0: 0; a dimension is at least 1',
    ],
    [
      "tensor twice",
      refused({ tensors: [whole, whole] }),
      'm.gguf: tensor "a.weight": given twice; each tensor is given once',
    ],
    [
      "overlap",
      refused({ tensors: [TENSORS[1]!, { ...whole, offset: 128 }] }),
      'm.gguf: tensor "a.weight": begins at byte 256; "b.weight" ends at byte 264',
    ],
  ])("%s", (_name, found, message) => {
    expect(found).toBe(message);
  });

  test("arrays of arrays, of lengths that are not there, of text that is no UTF-8", () => {
    const [head] = [gguf({ pairs: [["a", "u32", [1, 2]]] })];
    const at = 24 + 9;
    const patch = (offset: number, ...values: number[]): Uint8Array => {
      const bytes = head.slice();
      bytes.set(values, at + offset);
      return bytes;
    };
    expect(refusal(patch(4, 9))).toBe("m.gguf: a: array of arrays; arrays hold numbers, bools or strings");
    expect(refusal(patch(15, 0x20))).toBe(
      "m.gguf: length of a: 2305843009213693954; the 64 bytes of the file have room for 3",
    );
    const strings = gguf({ pairs: [["s", "string", ["abc", "d\u00e4", "e"]]] });
    const length = strings.slice();
    length[24 + 9 + 16 + 7] = 0x80;
    expect(refusal(length)).toBe("m.gguf: length of s[0]: 9223372036854775811; the file ends 39 bytes later");
    // A lead byte without its second: its neighbour's first byte must not complete it.
    const text = strings.slice();
    text[24 + 9 + 16 + 8 + 3 + 8 + 2] = 0x62;
    expect(() => read(text).metadata.strings("s")).toThrow("m.gguf: s[1]: bytes 68 to 71; text is UTF-8");
  });

  test("a character that is cut between two strings is not put together again", () => {
    const bytes = gguf({ pairs: [["s", "string", ["ab", "cd"]]] });
    const at = 24 + 9 + 16 + 8;
    bytes[at + 1] = 0xc3;
    bytes[at + 2 + 8] = 0xa4;
    expect(() => read(bytes).metadata.strings("s")).toThrow("m.gguf: s[0]: bytes 57 to 59; text is UTF-8");
  });

  test("cut off at any byte", () => {
    for (let length = 0; length < VALID.length; length++) {
      // The padding after the last tensor is nobody's.
      if (length >= HEADER + 64 + 136) continue;
      expect(refusal(VALID.slice(0, length))).toMatch(/^m\.gguf: /);
    }
  });

  test("changed in any way it is read or refused, never worse, in bounded memory", () => {
    const before = process.memoryUsage().rss;
    const extreme = [0n, 1n, 255n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
    const change = fc.oneof(
      fc.record({ kind: fc.constant("flip" as const), at: fc.nat(HEADER - 1), bit: fc.nat(7) }),
      fc.record({ kind: fc.constant("field" as const), at: fc.nat(HEADER - 9), value: fc.constantFrom(...extreme) }),
      fc.record({ kind: fc.constant("cut" as const), at: fc.nat(HEADER) }),
    );
    let readable = 0;
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        let bytes = VALID.slice();
        for (const one of changes) {
          if (one.at + 8 > bytes.length) continue;
          if (one.kind === "flip") bytes[one.at]! ^= 1 << one.bit;
          else if (one.kind === "cut") bytes = bytes.slice(0, one.at);
          else new DataView(bytes.buffer).setBigUint64(one.at, one.value, true);
        }
        try {
          const { metadata, tensors, weights } = read(bytes);
          for (const key of metadata.keys) metadata.value(key);
          for (const tensor of tensors.values()) weights.read(tensor, 0, tensor.byteLength);
          readable++;
        } catch (error) {
          expect(error).toBeInstanceOf(ModelError);
          expect(String(error)).not.toMatch(/\n/);
        }
      }),
      { numRuns: 3000, seed: 20_260_726 },
    );
    // The property means little if everything is refused at once.
    expect(readable).toBeGreaterThan(100);
    expect(process.memoryUsage().rss - before).toBeLessThan(200 * 2 ** 20);
  });

  test("with counts as large as the file allows it takes no more memory than the file", () => {
    const empty = gguf({ pairs: [["s", "string", Array.from({ length: 400_000 }, () => "")]] });
    const before = process.memoryUsage().rss;
    expect(read(empty).metadata.strings("s")).toHaveLength(400_000);
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * 2 ** 20);
  });
});

describe("a split model", () => {
  const shard = (no: number, count: number, total: number, tensors: readonly TensorToWrite[]): Uint8Array =>
    gguf({
      pairs: [
        ["split.no", "u16", no],
        ["split.count", "u16", count],
        ["split.tensors.count", "i32", total],
      ],
      tensors,
    });
  const [a, b] = TENSORS as readonly [TensorToWrite, TensorToWrite];
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "lutra-split-"));
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  /** Opens the first of the given files, from memory; every source that was opened must be closed on failure. */
  function open(files: Readonly<Record<string, Uint8Array>>): { readonly opened: Set<string>; read(): Gguf } {
    const opened = new Set<string>();
    const get = (name: string): ReturnType<typeof source> => {
      const bytes = files[name];
      if (bytes === undefined) return none(name);
      opened.add(name);
      return { ...source(bytes, name), close: () => opened.delete(name) };
    };
    return { opened, read: () => readGguf(get(Object.keys(files)[0] ?? ""), program, get) };
  }

  test("is put together from the files beside the first", () => {
    writeFileSync(join(folder, "m-00001-of-00002.gguf"), shard(0, 2, 2, [a]));
    writeFileSync(join(folder, "m-00002-of-00002.gguf"), shard(1, 2, 2, [b]));
    const model = readGguf(openFile(join(folder, "m-00001-of-00002.gguf")), program, openFile);
    expect(model.weights.files).toEqual([1, 2].map((no) => join(folder, `m-0000${no}-of-00002.gguf`)));
    const tensor = model.weights.tensor("b.weight");
    expect(tensor?.file).toBe(1);
    expect(model.weights.read(tensor!, 0, 136)).toEqual(filled(136, 2));
    model.close();
    expect(() => model.weights.read(tensor!, 0, 136)).toThrow(
      `${join(folder, "m-00002-of-00002.gguf")}: read after it was closed`,
    );
  });

  const one = "m-00001-of-00002.gguf";
  const two = "m-00002-of-00002.gguf";
  test.each([
    [
      "missing shard",
      { [one]: shard(0, 2, 2, [a]) },
      `${one}: split.count: 2; a shard is missing: ${two}: no such file`,
    ],
    [
      "opened at the second",
      { [two]: shard(1, 2, 2, [b]) },
      `${two}: split.no: 1; open the first shard, ...-00001-of-00002.gguf`,
    ],
    [
      "another name",
      { "x.gguf": shard(0, 2, 2, [a]) },
      "x.gguf: split.count: 2; the first of 2 shards is named ...-00001-of-00002.gguf",
    ],
    [
      "count that lies",
      { [one]: shard(0, 3, 2, [a]) },
      `${one}: split.count: 3; the first of 3 shards is named ...-00001-of-00003.gguf`,
    ],
    [
      "shard out of order",
      { [one]: shard(0, 2, 2, [a]), [two]: shard(0, 2, 2, [b]) },
      `${two}: split.no: 0; 1 is needed here`,
    ],
    [
      "shard of another model",
      { [one]: shard(0, 2, 2, [a]), [two]: shard(1, 9, 2, [b]) },
      `${two}: split.count: 9; 2 is needed here`,
    ],
    [
      "tensors missing",
      { [one]: shard(0, 2, 3, [a]), [two]: shard(1, 2, 3, [b]) },
      `${one}: split.tensors.count: 3; its 2 shards have 2 tensors`,
    ],
    [
      "tensor in both",
      { [one]: shard(0, 2, 2, [a]), [two]: shard(1, 2, 2, [a]) },
      `${two}: tensor "a.weight": given twice; each tensor is given once`,
    ],
    [
      "damaged shard",
      { [one]: shard(0, 2, 2, [a]), [two]: new Uint8Array(7) },
      `${two}: size: 7 bytes; a GGUF file has at least 24`,
    ],
  ])("with a %s is refused, and its files are closed", (_name, files, message) => {
    const model = open(files);
    expect(() => model.read()).toThrow(message);
    expect(model.opened.size).toBe(0);
  });
});
