// A model in other types: which tensor gets which, what the new file says of itself, and data that cannot be used.

import { describe, expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import type { Type } from "../../src/ladder/type.ts";
import { standardProgram } from "../../src/library.ts";
import { type Gguf, readGguf } from "../../src/model/gguf.ts";
import { ModelError } from "../../src/model/metadata.ts";
import { assignTypes, quantizedContent, quantizedPieces, requantize, type Wanted } from "../../src/model/quantize.ts";
import { source } from "./types.ts";
import { gguf, type Pair, type TensorToWrite } from "./write-gguf.ts";

const standard = standardProgram();

function typeOf(name: string): Type {
  const type = standard.types.get(name);
  if (type === undefined) throw new Error(`no ${name}`);
  return type;
}

function tensor(name: string, type: string, ...dims: readonly number[]): TensorToWrite {
  const { blockSize, blockBytes, ids } = typeOf(type);
  const count = dims.reduce((a, b) => a * b);
  const bytes = new Uint8Array((count / blockSize) * blockBytes);
  if (type === "F32") {
    const values = new Float32Array(bytes.buffer);
    for (let i = 0; i < count; i++) values[i] = Math.sin(i * 12.9898) / 4;
  }
  return { name, dims, type: ids.get("gguf")!, bytes };
}

function open(tensors: readonly TensorToWrite[], pairs: readonly Pair[] = []): Gguf {
  return readGguf(source(gguf({ pairs, tensors })), standard, (name) => {
    throw new Error(`opened ${name}`);
  });
}

const assigned = (tensors: readonly TensorToWrite[], wanted: Partial<Wanted> & Pick<Wanted, "type">): object =>
  Object.fromEntries(
    assignTypes(open(tensors), { embedding: null, output: null, ...wanted }, standard).map(
      ({ tensor: { name }, type, misfit }) => [name, misfit === null ? type.name : `${type.name}, not ${misfit.name}`],
    ),
  );

describe("which type a tensor gets:", () => {
  test("matrices the wanted one; vectors, norms and what chooses experts stay", () => {
    const tensors = [
      tensor("blk.0.attn_q.weight", "F32", 64, 4),
      tensor("blk.0.ffn_up_exps.weight", "F16", 64, 4, 2),
      tensor("blk.0.attn_q.bias", "F32", 64),
      tensor("blk.0.attn_norm.weight", "F32", 64),
      tensor("blk.0.attn_q_norm.weight", "F32", 64, 2),
      tensor("blk.0.ffn_gate_inp.weight", "F32", 64, 4),
      tensor("position_embd.weight", "F32", 64, 4),
    ];
    expect(assigned(tensors, { type: typeOf("Q4_0") })).toEqual({
      "blk.0.attn_q.weight": "Q4_0",
      "blk.0.ffn_up_exps.weight": "Q4_0",
      "blk.0.attn_q.bias": "F32",
      "blk.0.attn_norm.weight": "F32",
      "blk.0.attn_q_norm.weight": "F32",
      "blk.0.ffn_gate_inp.weight": "F32",
      "position_embd.weight": "F32",
    });
  });

  test("embedding and output Q8_0 where they have more bits, the wanted one where that has more", () => {
    const tensors = [tensor("token_embd.weight", "F16", 64, 4), tensor("output.weight", "Q4_1", 64, 4)];
    expect(assigned(tensors, { type: typeOf("Q4_0") })).toEqual({
      "token_embd.weight": "Q8_0",
      "output.weight": "Q4_1",
    });
    expect(assigned(tensors, { type: typeOf("BF16") })).toEqual({
      "token_embd.weight": "BF16",
      "output.weight": "BF16",
    });
    expect(assigned(tensors, { type: typeOf("Q4_0"), embedding: typeOf("Q5_0"), output: typeOf("F32") })).toEqual({
      "token_embd.weight": "Q5_0",
      "output.weight": "F32",
    });
  });

  test("an embedding that is the output too follows either option, its own first", () => {
    const tied = [tensor("token_embd.weight", "F16", 64, 4)];
    const [type, embedding, output] = ["Q4_0", "Q5_0", "Q5_1"].map(typeOf) as [Type, Type, Type];
    expect(assigned(tied, { type, output })).toEqual({ "token_embd.weight": "Q5_1" });
    expect(assigned(tied, { type, embedding, output })).toEqual({ "token_embd.weight": "Q5_0" });
  });

  test("rows that do not fit: Q8_0 where that is smaller and fits, else as it was", () => {
    const tensors = [
      tensor("a.weight", "F32", 96, 2),
      tensor("b.weight", "Q4_1", 96, 2),
      tensor("c.weight", "F32", 7, 2),
      tensor("d.weight", "F32", 256, 2),
    ];
    expect(assigned(tensors, { type: typeOf("Q4_K") })).toEqual({
      "a.weight": "Q8_0, not Q4_K",
      "b.weight": "Q4_1, not Q4_K",
      "c.weight": "F32, not Q4_K",
      "d.weight": "Q4_K",
    });
  });

  test("a tensor in a type that the old file carries never stays", () => {
    const pairs: Pair[] = [
      ["lutra.ladder.type.19456", "string", "Own"],
      ["lutra.ladder.source.own.ladder", "string", "element Own = int(bits: 8, coding: twos)"],
    ];
    const own = (name: string, ...dims: readonly number[]): TensorToWrite => ({
      name,
      dims,
      type: 19_456,
      bytes: new Uint8Array(dims.reduce((a, b) => a * b)),
    });
    const file = open([own("v", 8), own("token_embd.weight", 32, 2), own("c.weight", 7, 2)], pairs);
    const names = assignTypes(file, { type: typeOf("Q4_0"), embedding: null, output: null }, standard).map(
      ({ type }) => type.name,
    );
    expect(names).toEqual(["F32", "Q8_0", "F32"]);
  });
});

/** The bytes of the new file, the work done right here. */
async function quantized(file: Gguf, type: Type): Promise<Uint8Array> {
  const assignments = assignTypes(file, { type, embedding: null, output: null }, standard);
  const content = quantizedContent(file, assignments, null);
  const parts: Uint8Array[] = [];
  const work = (piece: Parameters<typeof requantize>[0]): Promise<ReturnType<typeof requantize>> =>
    Promise.resolve(requantize(piece));
  let told = 0;
  const watch = (_: unknown, values: number): void => void (told += values);
  for await (const part of quantizedPieces(file, assignments, content, { work, atOnce: 3, watch })) parts.push(part);
  const count = [...file.tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b), 0);
  expect(told).toBe(count);
  return Uint8Array.from(Buffer.concat(parts));
}

test("a tensor of many pieces, in blocks of either size, is that of one piece", async () => {
  const rows = 1100;
  const file = open([tensor("a.weight", "F32", 256, rows), tensor("b", "F32", 3)]);
  const made = readGguf(source(await quantized(file, typeOf("Q4_K"))), standard, () => source(new Uint8Array()));
  const a = made.tensors.get("a.weight")!;
  expect(a).toMatchObject({ type: { name: "Q4_K" }, shape: [rows, 256] });
  const old = file.tensors.get("a.weight")!;
  const whole = requantize({ from: old.type, to: a.type, bytes: file.weights.read(old, 0, old.byteLength) });
  expect(Buffer.compare(made.weights.read(a, 0, a.byteLength), whole.bytes)).toBe(0);
  const b = made.tensors.get("b")!;
  const values = new Float64Array(3);
  decode(b.type, made.weights.read(b, 0, 12), values);
  expect([...values]).toEqual([0, 1, 2].map((i) => Math.fround(Math.sin(i * 12.9898) / 4)));
});

test("the new file keeps the old one's keys, but for those that are no longer true", async () => {
  const pairs: Pair[] = [
    ["general.architecture", "string", "llama"],
    ["general.alignment", "u32", 64],
    ["general.file_type", "u32", 0],
    ["split.count", "u16", 1],
    ["tokenizer.ggml.tokens", "string", ["a", "b"]],
    ["lutra.ladder.type.19456", "string", "Own"],
    ["lutra.ladder.source.own.ladder", "string", "element Own = int(bits: 8, coding: twos)"],
  ];
  const bytes = gguf({ pairs, tensors: [tensor("a.weight", "F32", 32, 2)], alignment: 64 });
  const file = readGguf(source(bytes), standard, () => source(bytes));
  const made = readGguf(source(await quantized(file, typeOf("Q8_0"))), standard, () => source(bytes));
  expect(made.metadata.keys).toEqual([
    "general.architecture",
    "general.alignment",
    "tokenizer.ggml.tokens",
    "general.quantization_version",
  ]);
  expect(made.metadata.strings("tokenizer.ggml.tokens")).toEqual(["a", "b"]);
  expect(made.metadata.integer("general.quantization_version")).toBe(2);
});

test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
  "a weight that is %f is refused with tensor, row and column",
  async (value) => {
    const bad = tensor("a.weight", "F32", 256, 600);
    new Float32Array(bad.bytes.buffer)[256 * 555 + 7] = value;
    await expect(quantized(open([bad]), typeOf("Q4_0"))).rejects.toThrow(
      new ModelError(
        "m.gguf",
        'tensor "a.weight"',
        "value 142087 (row 555, column 7) is not finite",
        "weights are finite numbers",
      ),
    );
  },
);

test("numbers whose squares overflow are no error", () => {
  const { ids, ...f32 } = typeOf("F32");
  const huge = new Float32Array(32).fill(3e38);
  const { unusable, bytes } = requantize({
    from: { ids, ...f32 },
    to: typeOf("BF16"),
    bytes: new Uint8Array(huge.buffer),
  });
  expect([unusable, bytes.length]).toEqual([-1, 64]);
});

test("a type without an id in GGUF files cannot be written unless the file carries it", () => {
  const file = open([tensor("a.weight", "F32", 32, 2)]);
  const assignments = assignTypes(file, { type: typeOf("U8"), embedding: null, output: null }, standard);
  expect(() => quantizedContent(file, assignments, null)).toThrow(new Error("the type U8 has no id in GGUF files"));
  const carried = { texts: new Map([["int.ladder", ""]]), types: [typeOf("U8")] };
  expect(quantizedContent(file, assignments, carried).tensors[0]).toMatchObject({ typeId: 19_456, byteLength: 64 });
});
