// Writes GGUF files for tests, right or deliberately wrong: nothing here checks anything.
// Not here: reading (src/model/gguf.ts), which must not share code with its own test.

const VALUE_IDS = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const;
type Scalar = Exclude<keyof typeof VALUE_IDS, "array">;

type Value = string | number | bigint | boolean;

/** A key, its type (the elements' for an array), and its value. */
export type Pair = readonly [key: string, type: Scalar, value: Value | readonly Value[]];

export interface TensorToWrite {
  readonly name: string;
  /** GGUF's order: the contiguous dimension first. */
  readonly dims: readonly (number | bigint)[];
  readonly type: number;
  readonly bytes: Uint8Array;
  /** Where it says it lies; where it really lies if absent. */
  readonly offset?: number | bigint;
}

export interface FileToWrite {
  readonly version?: number;
  readonly pairs?: readonly Pair[];
  readonly tensors?: readonly TensorToWrite[];
  readonly alignment?: number;
  readonly tensorCount?: number | bigint;
  readonly pairCount?: number | bigint;
}

const SCALARS: {
  readonly [K in Exclude<Scalar, "string">]: (b: Buffer, v: Value) => number;
} = {
  u8: (b, v) => b.writeUInt8(Number(v)),
  i8: (b, v) => b.writeInt8(Number(v)),
  u16: (b, v) => b.writeUInt16LE(Number(v)),
  i16: (b, v) => b.writeInt16LE(Number(v)),
  u32: (b, v) => b.writeUInt32LE(Number(v)),
  i32: (b, v) => b.writeInt32LE(Number(v)),
  f32: (b, v) => b.writeFloatLE(Number(v)),
  bool: (b, v) => b.writeUInt8(Number(v)),
  u64: (b, v) => b.writeBigUInt64LE(BigInt.asUintN(64, BigInt(v))),
  i64: (b, v) => b.writeBigInt64LE(BigInt(v)),
  f64: (b, v) => b.writeDoubleLE(Number(v)),
};

function scalar(type: Scalar, value: Value): Buffer {
  if (type === "string") return text(String(value));
  const bytes = Buffer.alloc(8);
  return bytes.subarray(0, SCALARS[type](bytes, value));
}

function u64(value: number | bigint): Buffer {
  return scalar("u64", value);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

function pairBytes([key, type, value]: Pair): Buffer {
  if (typeof value !== "object") return Buffer.concat([text(key), scalar("u32", VALUE_IDS[type]), scalar(type, value)]);
  const head = [text(key), scalar("u32", VALUE_IDS.array), scalar("u32", VALUE_IDS[type]), u64(value.length)];
  return Buffer.concat([...head, ...value.map((item) => scalar(type, item))]);
}

/** The bytes of a file; tensors follow each other, padded to the alignment. */
export function gguf(file: FileToWrite): Uint8Array {
  const { version = 3, pairs = [], tensors = [], alignment = 32 } = file;
  const padded = (length: number): number => Math.ceil(length / alignment) * alignment;
  const head = [
    Buffer.from("GGUF"),
    scalar("u32", version),
    u64(file.tensorCount ?? tensors.length),
    u64(file.pairCount ?? pairs.length),
    ...pairs.map((pair) => pairBytes(pair)),
  ];
  let end = 0;
  const data: Buffer[] = [];
  for (const { name, dims, type, bytes, offset } of tensors) {
    head.push(text(name), scalar("u32", dims.length), ...dims.map((dim) => u64(dim)), scalar("u32", type));
    head.push(u64(offset ?? end));
    data.push(Buffer.concat([bytes, Buffer.alloc(padded(bytes.length) - bytes.length)]));
    end += padded(bytes.length);
  }
  const header = Buffer.concat(head);
  return Uint8Array.from(Buffer.concat([header, Buffer.alloc(padded(header.length) - header.length), ...data]));
}
