// Writes GGUF version 3, little-endian, as a stream of pieces of bounded size: header, then each tensor's data at its
// aligned place. Pure: where the pieces go is the caller's affair (files.ts for files on disk).
// Not here: reading (gguf.ts), what the data are (quantize.ts). Format: the GGUF specification in ggml's documentation.

import { type Metadata, type MetadataValue, VALUE_TYPES } from "./metadata.ts";

/** A key with its value; `type` is spelt as Metadata.typeOf spells it: "u32", "string", "[f32]" ... */
export interface GgufPair {
  readonly key: string;
  readonly type: string;
  readonly value: MetadataValue;
}

export interface GgufTensor {
  readonly name: string;
  readonly typeId: number;
  /** The last dimension is contiguous, as in WeightTensor. */
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** What a file shall hold, but for the data. */
export interface GgufContent {
  readonly pairs: readonly GgufPair[];
  readonly tensors: readonly GgufTensor[];
  /** A power of two; where it is not 32, the pairs say so in general.alignment. */
  readonly alignment: number;
}

/** Pieces of the header are put together until they have this many bytes. */
const PIECE_BYTES = 65_536;

const UTF8 = new TextEncoder();

/** The pairs of a file as it has them, but for those whose key `leave` names. */
export function pairsOf(metadata: Metadata, leave: (key: string) => boolean): readonly GgufPair[] {
  return metadata.keys
    .filter((key) => !leave(key))
    .map((key) => ({ key, type: metadata.typeOf(key)!, value: metadata.value(key)! }));
}

/** Bytes of the whole file. */
export function ggufSize(content: GgufContent): number {
  let size = padded(headerBytes(content), content.alignment);
  for (const { byteLength } of content.tensors) size += padded(byteLength, content.alignment);
  return size;
}

/**
 * The bytes of the file, in order.
 * @param data the bytes of tensor `index` in pieces; it is asked for each tensor once, in order
 * @throws RangeError where the data of a tensor have not the length that was announced
 */
export async function* ggufPieces(
  content: GgufContent,
  data: (index: number) => AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void> {
  const { tensors, alignment } = content;
  yield* together(headerParts(content));
  yield* padding(headerBytes(content), alignment);
  for (const [index, { name, byteLength }] of tensors.entries()) {
    let length = 0;
    for await (const piece of data(index)) {
      length += piece.length;
      yield piece;
    }
    if (length !== byteLength)
      throw new RangeError(`tensor ${name}: ${length} bytes of data where ${byteLength} were announced`);
    yield* padding(byteLength, alignment);
  }
}

function padded(length: number, alignment: number): number {
  return Math.ceil(length / alignment) * alignment;
}

function padding(length: number, alignment: number): readonly Uint8Array[] {
  const missing = padded(length, alignment) - length;
  return missing === 0 ? [] : [new Uint8Array(missing)];
}

function headerBytes(content: GgufContent): number {
  let size = 0;
  for (const { length } of headerParts(content)) size += length;
  return size;
}

/** Small parts as pieces of about PIECE_BYTES; a larger part is a piece of its own. */
function* together(parts: Iterable<Uint8Array>): Generator<Uint8Array> {
  let piece = new Uint8Array(PIECE_BYTES);
  let used = 0;
  for (const part of parts) {
    if (used + part.length > PIECE_BYTES && used > 0) {
      yield piece.subarray(0, used);
      piece = new Uint8Array(PIECE_BYTES);
      used = 0;
    }
    if (part.length > PIECE_BYTES) {
      yield part;
    } else {
      piece.set(part, used);
      used += part.length;
    }
  }
  if (used > 0) yield piece.subarray(0, used);
}

function* headerParts({ pairs, tensors, alignment }: GgufContent): Generator<Uint8Array> {
  yield UTF8.encode("GGUF");
  yield u32(3);
  yield u64(tensors.length);
  yield u64(pairs.length);
  for (const pair of pairs) yield* pairParts(pair);
  let offset = 0;
  for (const { name, typeId, shape, byteLength } of tensors) {
    yield* text(name);
    yield u32(shape.length);
    for (const length of shape.toReversed()) yield u64(length);
    yield u32(typeId);
    yield u64(offset);
    offset += padded(byteLength, alignment);
  }
}

function* pairParts({ key, type, value }: GgufPair): Generator<Uint8Array> {
  yield* text(key);
  const isArray = type.startsWith("[");
  const element = isArray ? type.slice(1, -1) : type;
  if (isArray) yield u32(VALUE_TYPES.indexOf("array"));
  yield u32(VALUE_TYPES.findIndex((name) => name === element));
  if (ArrayBuffer.isView(value)) {
    yield u64(value.length);
    yield new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  } else if (typeof value === "object") {
    yield u64(value.length);
    for (const item of value) yield* scalar(element, item);
  } else {
    yield* scalar(element, value);
  }
}

function* scalar(type: string, value: string | number | bigint | boolean): Generator<Uint8Array> {
  if (typeof value === "string") return yield* text(value);
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  yield bytes.subarray(0, SETTERS[type]!(view, value));
}

/** How a number is stored, and in how many bytes. */
const SETTERS: Readonly<Record<string, (view: DataView, value: number | bigint | boolean) => number>> = {
  u8: (view, value) => (view.setUint8(0, Number(value)), 1),
  i8: (view, value) => (view.setInt8(0, Number(value)), 1),
  bool: (view, value) => (view.setUint8(0, Number(value)), 1),
  u16: (view, value) => (view.setUint16(0, Number(value), true), 2),
  i16: (view, value) => (view.setInt16(0, Number(value), true), 2),
  u32: (view, value) => (view.setUint32(0, Number(value), true), 4),
  i32: (view, value) => (view.setInt32(0, Number(value), true), 4),
  f32: (view, value) => (view.setFloat32(0, Number(value), true), 4),
  u64: (view, value) => (view.setBigUint64(0, BigInt(value), true), 8),
  i64: (view, value) => (view.setBigInt64(0, BigInt(value), true), 8),
  f64: (view, value) => (view.setFloat64(0, Number(value), true), 8),
};

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

function u64(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

function* text(value: string): Generator<Uint8Array> {
  const bytes = UTF8.encode(value);
  yield u64(bytes.length);
  yield bytes;
}
