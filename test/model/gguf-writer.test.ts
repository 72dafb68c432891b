// Writing GGUF: byte for byte what the tests' own writer makes of the same content, readable, and in small pieces.

import fc from "fast-check";
import { expect, test } from "vitest";

import { type GgufContent, type GgufPair, ggufPieces, ggufSize, pairsOf } from "../../src/model/gguf-writer.ts";
import { readGguf } from "../../src/model/gguf.ts";
import { program, source } from "./types.ts";
import { gguf, type Pair } from "./write-gguf.ts";

const noFile = (name: string): never => {
  throw new Error(`opened ${name}`);
};

async function piecesOf(content: GgufContent, data: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  const all = ggufPieces(content, async function* parts(index) {
    const bytes = data[index]!;
    yield await Promise.resolve(bytes.subarray(0, 5));
    yield bytes.subarray(5);
  });
  for await (const piece of all) pieces.push(piece.slice());
  return pieces;
}

const joined = (pieces: readonly Uint8Array[]): Uint8Array => Uint8Array.from(Buffer.concat(pieces));

/** Every type of value, alone and in arrays. */
const numbers = {
  u8: fc.integer({ min: 0, max: 255 }),
  i8: fc.integer({ min: -128, max: 127 }),
  u16: fc.integer({ min: 0, max: 65_535 }),
  i16: fc.integer({ min: -32_768, max: 32_767 }),
  u32: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  i32: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
  f32: fc.float({ noNaN: true }),
  f64: fc.double({ noNaN: true }),
  u64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  i64: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  bool: fc.boolean(),
  string: fc.string({ unit: "grapheme", maxLength: 20 }),
} as const;

const aPair: fc.Arbitrary<Pair> = fc
  .constantFrom(...(Object.keys(numbers) as (keyof typeof numbers)[]))
  .chain((type) => {
    const one: fc.Arbitrary<string | number | bigint | boolean> = numbers[type];
    const value = fc.oneof(one, fc.array(one, { maxLength: 5 }));
    const key = fc.stringMatching(/^[a-z]{1,8}\.[a-z]{1,8}$/);
    return fc.tuple(key, fc.constant(type), value);
  });

test("a file that is read and written again is the same, byte for byte", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(aPair, { selector: ([key]) => key, maxLength: 8 }),
      fc.constantFrom(32, 64),
      async (pairs, alignment) => {
        const all: Pair[] = [...pairs, ["general.alignment", "u32", alignment]];
        const tensors = [
          { name: "a.weight", dims: [32, 3], type: 8, bytes: Uint8Array.from({ length: 102 }, (_, i) => i) },
          { name: "b", dims: [7], type: 0, bytes: Uint8Array.from({ length: 28 }, (_, i) => 255 - i) },
        ];
        const bytes = gguf({ pairs: all, tensors, alignment });
        const file = readGguf(source(bytes), program, noFile);
        const content: GgufContent = {
          pairs: pairsOf(file.metadata, () => false),
          tensors: [...file.tensors.values()].map(({ name, type, shape, byteLength }) => ({
            name,
            shape,
            byteLength,
            typeId: type.ids.get("gguf")!,
          })),
          alignment,
        };
        const written = joined(
          await piecesOf(
            content,
            tensors.map((tensor) => tensor.bytes),
          ),
        );
        expect(Buffer.compare(written, bytes)).toBe(0);
        expect(ggufSize(content)).toBe(bytes.length);
      },
    ),
    { numRuns: 100 },
  );
});

test("keys can be left out", () => {
  const file = readGguf(
    source(
      gguf({
        pairs: [
          ["a.b", "u32", 1],
          ["c.d", "string", ["x"]],
        ],
      }),
    ),
    program,
    noFile,
  );
  expect(pairsOf(file.metadata, (key) => key === "a.b")).toEqual([{ key: "c.d", type: "[string]", value: ["x"] }]);
});

test("a long header comes in pieces of 64 KiB, and a longer string as one of its own", async () => {
  const pairs: readonly GgufPair[] = [
    { key: "tokens", type: "[string]", value: Array.from({ length: 50_000 }, (_, i) => `token ${i}`) },
    { key: "template", type: "string", value: "x".repeat(100_000) },
    { key: "types", type: "[i32]", value: new Int32Array(10) },
  ];
  const pieces = await piecesOf({ pairs, tensors: [], alignment: 32 }, []);
  const sizes = pieces.map(({ length }) => length);
  expect(sizes.filter((size) => size > 65_536)).toEqual([100_000]);
  expect(sizes.filter((size) => size > 60_000).length).toBeGreaterThan(10);
  const file = readGguf(source(joined(pieces)), program, noFile);
  expect(file.metadata.strings("tokens")[49_999]).toBe("token 49999");
});

test("data of another length than announced are refused with both lengths", async () => {
  const content = { pairs: [], tensors: [{ name: "w", typeId: 0, shape: [2], byteLength: 8 }], alignment: 32 };
  await expect(piecesOf(content, [new Uint8Array(9)])).rejects.toThrow(
    new RangeError("tensor w: 9 bytes of data where 8 were announced"),
  );
});
