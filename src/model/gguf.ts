// A strict reader of GGUF files, versions 2 and 3, little-endian, whole or split into shards.
// Nothing in the file is believed: every count, length, type, offset and name is checked against the bytes that are
// there and against the type's block, so that what comes out can be handed to native code as it is.
// Not here: what the metadata mean (config.ts, tokenizer.ts), what a block of bytes means (ladder/emit/codec.ts).
// Format: the GGUF specification in ggml's documentation; the limits say where each comes from.

import type { WeightSource, WeightTensor } from "../backend.ts";
import type { ByteSource } from "../files.ts";
import type { Program, Type } from "../ladder/type.ts";
import { readCarried } from "./carried.ts";
import { HeaderReader, ModelError, quoted, readPairs } from "./metadata.ts";
import type { Metadata } from "./metadata.ts";

/** A model file, checked; close it when nothing reads its weights any more. */
export interface Gguf {
  readonly version: 2 | 3;
  readonly metadata: Metadata;
  /** By name, in the order of the file (of the files, where it is split). */
  readonly tensors: ReadonlyMap<string, WeightTensor>;
  readonly weights: WeightSource;
  close(): void;
}

/** Bytes of magic, version, tensor count and key count. */
const FIXED_HEADER = 24;
/** Length of the shortest key (9), a type (4) and a value of one byte. */
const SHORTEST_PAIR = 14;
/** A name of one byte (9), n_dims (4), one dimension (8), type (4), offset (8). */
const SHORTEST_TENSOR_INFO = 33;
/** Models have some 50 keys; ggml's tools write no more than hundreds. */
const MAX_PAIRS = 65_536;
/** Twice what 61 layers of 384 experts need when every expert is a tensor of its own. */
const MAX_TENSORS = 262_144;
/** ggml.h: GGML_MAX_NAME is 64 with the closing zero. */
const MAX_TENSOR_NAME = 63;
/** ggml.h: GGML_MAX_DIMS. */
const MAX_DIMS = 4;
/** The largest page size in use is 64 KiB; nothing gains from more. */
const MAX_ALIGNMENT = 65_536;
/** Specification: general.alignment where the file does not say. */
const DEFAULT_ALIGNMENT = 32;

/** What one file holds, before it is put together with its other shards. */
interface Shard {
  readonly source: ByteSource;
  readonly version: 2 | 3;
  readonly metadata: Metadata;
  readonly tensors: readonly WeightTensor[];
}

function readVersion(reader: HeaderReader): 2 | 3 {
  const { size } = reader.source;
  if (size < FIXED_HEADER) reader.fail("size", `${size} bytes`, `a GGUF file has at least ${FIXED_HEADER}`);
  const magic = String.fromCharCode(...reader.bytes.subarray(0, 4));
  if (magic !== "GGUF") reader.fail("magic", quoted(magic), 'a GGUF file begins with "GGUF"');
  reader.at = 4;
  const version = reader.u32("version");
  if (version === 2 || version === 3) return version;
  if (version % 65_536 === 0 && version > 0) {
    reader.fail(
      "byte order",
      "big-endian",
      "little-endian files can be read; convert it with gguf-py's gguf_convert_endian",
    );
  }
  return reader.fail("version", version, "versions 2 and 3 can be read");
}

/** Types by the ids of files. */
interface TypesById {
  find(id: number): Type | undefined;
  /** "0 F32, 1 F16 ...", for errors. */
  known(): string;
}

/** The types of `program`, and those of `more` from the first id on that is not among them. */
function typesById(program: Program, more?: () => Program): TypesById {
  const byId = new Map<number, Type>();
  const addAll = ({ types }: Program): void => {
    for (const type of types.values()) {
      const id = type.ids.get("gguf");
      if (id !== undefined && !byId.has(id)) byId.set(id, type);
    }
  };
  addAll(program);
  let isComplete = more === undefined;
  return {
    find(id) {
      if (!byId.has(id) && !isComplete && more !== undefined) {
        addAll(more());
        isComplete = true;
      }
      return byId.get(id);
    },
    known: () =>
      [...byId]
        .toSorted(([a], [b]) => a - b)
        .map(([id, { name }]) => `${id} ${name}`)
        .join(", "),
  };
}

function readTensorInfo(reader: HeaderReader, index: number, file: number, types: TypesById): WeightTensor {
  const name = reader.text(`name of tensor ${index}`, MAX_TENSOR_NAME);
  if (name === "") reader.fail(`name of tensor ${index}`, quoted(name), "a name has at least one character");
  const field = `tensor ${quoted(name)}`;
  const dims = reader.u32(field);
  if (dims < 1 || dims > MAX_DIMS) reader.fail(field, `${dims} dimensions`, `1 to ${MAX_DIMS} are possible`);
  const shape: number[] = [];
  let count = 1;
  for (let d = 0; d < dims; d++) {
    const length = reader.u64(`${field} dimension ${d}`, Number.MAX_SAFE_INTEGER, "a dimension is below 2^53");
    if (length === 0) reader.fail(`${field} dimension ${d}`, 0, "a dimension is at least 1");
    if (count > Number.MAX_SAFE_INTEGER / length) {
      reader.fail(field, `shape ${[...shape, length].join(" x ")}`, "a tensor has fewer than 2^53 values");
    }
    count *= length;
    shape.push(length);
  }
  const id = reader.u32(field);
  const type = types.find(id);
  if (type === undefined) return reader.fail(field, `type ${id}`, `types are ${types.known()}`);
  const row = shape[0] ?? 0;
  if (row % type.blockSize !== 0) {
    reader.fail(field, `rows of ${row}`, `rows of ${type.name} are a multiple of its block of ${type.blockSize}`);
  }
  const byteLength = (count / type.blockSize) * type.blockBytes;
  if (!Number.isSafeInteger(byteLength)) reader.fail(field, `${byteLength} bytes`, "a tensor is below 2^53 bytes");
  const byteOffset = reader.u64(`${field} offset`, Number.MAX_SAFE_INTEGER, "an offset is below 2^53");
  return { name, type, shape: shape.toReversed(), file, byteOffset, byteLength };
}

/**
 * Reads one file's header; the offsets in its tensors are from the beginning of the file and lie inside it. Types that
 * the file carries are resolved before the tensors that have them.
 */
function readShard(source: ByteSource, file: number, standard: TypesById): Shard {
  const reader = new HeaderReader(source);
  const version = readVersion(reader);
  const tensorCount = reader.count("tensor count", SHORTEST_TENSOR_INFO, MAX_TENSORS);
  const pairCount = reader.count("key count", SHORTEST_PAIR, MAX_PAIRS);
  const pairs = readPairs(reader, pairCount);
  const alignment = pairs.integer("general.alignment", DEFAULT_ALIGNMENT);
  if (alignment < 1 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) !== 0) {
    reader.fail("general.alignment", alignment, `a power of two up to ${MAX_ALIGNMENT} is needed`);
  }
  const carried = readCarried(pairs, standard);
  const types: TypesById = {
    find: (id) => carried.get(id) ?? standard.find(id),
    known: () => [standard.known(), ...[...carried].map(([id, { name }]) => `${id} ${name}`)].join(", "),
  };
  const infos = Array.from({ length: tensorCount }, (_, i) => readTensorInfo(reader, i, file, types));
  const data = Math.ceil(reader.at / alignment) * alignment;
  const tensors = infos.map((info) => {
    const field = `tensor ${quoted(info.name)}`;
    if (info.byteOffset % alignment !== 0) {
      reader.fail(`${field} offset`, info.byteOffset, `offsets are multiples of the alignment, ${alignment}`);
    }
    const byteOffset = data + info.byteOffset;
    if (byteOffset + info.byteLength > source.size) {
      reader.fail(
        field,
        `bytes ${byteOffset} to ${byteOffset + info.byteLength}`,
        `the file ends at byte ${source.size}`,
      );
    }
    return { ...info, byteOffset };
  });
  const placed = tensors.toSorted((a, b) => a.byteOffset - b.byteOffset);
  for (const [i, b] of placed.entries()) {
    const a = placed[i - 1];
    if (a !== undefined && a.byteOffset + a.byteLength > b.byteOffset) {
      const end = a.byteOffset + a.byteLength;
      reader.fail(
        `tensor ${quoted(b.name)}`,
        `begins at byte ${b.byteOffset}`,
        `${quoted(a.name)} ends at byte ${end}`,
      );
    }
  }
  return { source, version, metadata: pairs, tensors };
}

const SHARD_NAME = /-(\d{5})-of-(\d{5})\.gguf$/;

/** All `count` shards of a split model, whose first is read already. */
function readShards(
  first: Shard,
  count: number,
  types: TypesById,
  open: (name: string) => ByteSource,
): readonly Shard[] {
  const { name } = first.source;
  const match = SHARD_NAME.exec(name);
  const suffix = (no: number): string => `-${String(no).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.gguf`;
  const no = first.metadata.integer("split.no");
  if (no !== 0) throw new ModelError(name, "split.no", no, `open the first shard, ...${suffix(1)}`);
  if (match === null || !name.endsWith(suffix(1))) {
    throw new ModelError(name, "split.count", count, `the first of ${count} shards is named ...${suffix(1)}`);
  }
  const shards = [first];
  for (let i = 1; i < count; i++) {
    const shard = readShard(openShard(first, name.slice(0, match.index) + suffix(i + 1), count, open), i, types);
    for (const [key, wanted] of [
      ["split.no", i],
      ["split.count", count],
    ] as const) {
      const found = shard.metadata.integer(key);
      if (found !== wanted) throw new ModelError(shard.source.name, key, found, `${wanted} is needed here`);
    }
    shards.push(shard);
  }
  const declared = first.metadata.integer("split.tensors.count");
  const found = shards.reduce((sum, shard) => sum + shard.tensors.length, 0);
  if (found !== declared) {
    throw new ModelError(name, "split.tensors.count", declared, `its ${count} shards have ${found} tensors`);
  }
  return shards;
}

function openShard(first: Shard, name: string, count: number, open: (name: string) => ByteSource): ByteSource {
  try {
    return open(name);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ModelError(first.source.name, "split.count", count, `a shard is missing: ${reason}`, { cause: error });
  }
}

/**
 * Reads and checks a GGUF file and, where it is the first of a split model, its other shards.
 * @param source the file; it belongs to the result from here on, and is closed if this throws
 * @param program the types that tensors may have: those with a "gguf" id
 * @param more further ones, asked for at the first id that is not among those: large tables need not be resolved for
 *   a model that does not use them
 * @param open opens a further shard, which is named as the first but for its number
 * @throws ModelError where the file is not what it says
 */
export function readGguf(
  source: ByteSource,
  program: Program,
  open: (name: string) => ByteSource,
  more?: () => Program,
): Gguf {
  const types = typesById(program, more);
  const opened = [source];
  const openAnother = (name: string): ByteSource => {
    const another = open(name);
    opened.push(another);
    return another;
  };
  try {
    const first = readShard(source, 0, types);
    const count = first.metadata.integer("split.count", 1);
    return together(first, count > 1 ? readShards(first, count, types, openAnother) : [first]);
  } catch (error) {
    for (const one of opened) one.close();
    throw error;
  }
}

function together(first: Shard, shards: readonly Shard[]): Gguf {
  const tensors = new Map<string, WeightTensor>();
  for (const { source, tensors: own } of shards) {
    for (const tensor of own) {
      if (tensors.has(tensor.name)) {
        throw new ModelError(source.name, `tensor ${quoted(tensor.name)}`, "given twice", "each tensor is given once");
      }
      tensors.set(tensor.name, tensor);
    }
  }
  const weights: WeightSource = {
    files: shards.map(({ source }) => source.name),
    tensor: (name) => tensors.get(name),
    read(tensor, begin, length) {
      const shard = shards[tensor.file];
      if (shard === undefined || !(begin >= 0 && length >= 0 && begin + length <= tensor.byteLength)) {
        const range = `bytes ${begin} to ${begin + length}`;
        throw new ModelError(first.source.name, `tensor ${quoted(tensor.name)}`, range, `it has ${tensor.byteLength}`);
      }
      return shard.source.read(tensor.byteOffset + begin, length);
    },
  };
  return {
    version: first.version,
    metadata: first.metadata,
    tensors,
    weights,
    close(): void {
      for (const { source } of shards) source.close();
    },
  };
}
