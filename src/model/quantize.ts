// A model in other number types: which tensor gets which, and the bytes of the new file piece by piece.
// Nothing is held but a few pieces of one tensor, whatever the size of the model.
// Not here: how numbers become bytes of a type (encode.ts), the file itself (gguf-writer.ts, files.ts).

import type { WeightTensor } from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import type { Program, Type } from "../ladder/type.ts";
import { type CarriedTypes, carriedPairs, FIRST_CARRIED_ID, isCarriedKey } from "./carried.ts";
import { encode } from "./encode.ts";
import type { Gguf } from "./gguf.ts";
import { type GgufContent, type GgufPair, ggufPieces, pairsOf } from "./gguf-writer.ts";
import { ModelError, quoted } from "./metadata.ts";

/** What a tensor is to the model, as far as its type depends on it. */
export type Role = "matrix" | "embedding" | "output" | "other";

export interface Assignment {
  readonly tensor: WeightTensor;
  readonly role: Role;
  /** The type that it gets; its own where it stays as it is. */
  readonly type: Type;
  /** The type that it was to get, but whose block its rows are no multiple of; null where it fits. */
  readonly misfit: Type | null;
}

export interface Wanted {
  readonly type: Type;
  /** Of the token embedding and the output matrix; null leaves it to the rule of `assignTypes`. */
  readonly embedding: Type | null;
  readonly output: Type | null;
}

/** Consecutive blocks of a tensor on their way from one type to another. */
export interface Piece {
  readonly from: Type;
  readonly to: Type;
  readonly bytes: Uint8Array;
}

export interface Requantized {
  readonly bytes: Uint8Array;
  /** Sum of (new - old)^2. */
  readonly squaredError: number;
  /** Sum of old^2. */
  readonly squares: number;
  /** Index of the first number that is not finite, and where there is one nothing else holds; else -1. */
  readonly unusable: number;
}

/** Numbers in one piece, about: enough to hide the cost of handing it around. */
const PIECE_VALUES = 65_536;

/** Matrices by their shape that are not multiplied by a layer's input, or are tiny and decide much. */
const STAYING: readonly RegExp[] = [
  /norm/, // norms of heads may have two dimensions
  /position_embd/, // added to the stream as they are
  /token_types/,
  /gate_inp/, // choose experts
  /conv1d/, // a few numbers a channel
  /rope_/,
];

function roleOf({ name, shape }: WeightTensor): Role {
  if (shape.length < 2 || !name.endsWith(".weight") || STAYING.some((pattern) => pattern.test(name))) return "other";
  return name === "token_embd.weight" ? "embedding" : name === "output.weight" ? "output" : "matrix";
}

function bitsPerValue(type: Type): number {
  return (8 * type.blockBytes) / type.blockSize;
}

function fits({ shape }: WeightTensor, type: Type): boolean {
  return shape.at(-1)! % type.blockSize === 0;
}

/**
 * The type of each tensor of the new file. Matrices get the wanted type. Where nothing is said of embedding and output,
 * these get Q8_0, or the wanted type if that has more bits, and stay if they have no more bits than that already.
 * Matrices whose rows do not fit become Q8_0 if they have more bits, else stay, as do vectors and norms. A tensor in a
 * type that the old file carries does not stay: it becomes Q8_0, or F32 where that does not fit.
 * @param standard the types that come with Lutra
 */
export function assignTypes(gguf: Gguf, wanted: Wanted, standard: Program): readonly Assignment[] {
  const q8 = standardType("Q8_0", standard);
  const f32 = standardType("F32", standard);
  const isStandard = (type: Type): boolean => standard.types.get(type.name) === type;
  const hasOutput = gguf.tensors.has("output.weight");
  const fallback = (tensor: WeightTensor): Type => {
    const { type } = tensor;
    if (isStandard(type) && bitsPerValue(type) <= bitsPerValue(q8)) return type;
    if (roleOf(tensor) !== "other" && fits(tensor, q8)) return q8;
    return isStandard(type) ? type : f32;
  };
  const precise = bitsPerValue(wanted.type) >= bitsPerValue(q8) ? wanted.type : null;
  return [...gguf.tensors.values()].map((tensor): Assignment => {
    const role = roleOf(tensor);
    const kept: Assignment = { tensor, role, type: fallback(tensor), misfit: null };
    const embedding = wanted.embedding ?? (hasOutput ? null : wanted.output);
    const type = {
      matrix: wanted.type,
      embedding: embedding ?? precise,
      output: wanted.output ?? precise,
      other: null,
    }[role];
    if (type === null) return kept;
    return fits(tensor, type) ? { ...kept, type } : { ...kept, misfit: type };
  });
}

function standardType(name: string, { types }: Program): Type {
  const type = types.get(name);
  if (type === undefined) throw new Error(`the .ladder files of this installation do not declare ${name}`);
  return type;
}

/** Decodes and encodes: the work itself, which needs nothing else and may be done elsewhere. */
export function requantize({ from, to, bytes }: Piece): Requantized {
  const values = new Float64Array((bytes.length / from.blockBytes) * from.blockSize);
  decode(from, bytes, values);
  let squares = 0;
  for (const value of values) squares += value * value;
  const unusable = Number.isFinite(squares) ? -1 : values.findIndex((value) => !Number.isFinite(value));
  if (unusable !== -1) return { bytes: new Uint8Array(0), squaredError: 0, squares: 0, unusable };
  const out = new Uint8Array((values.length / to.blockSize) * to.blockBytes);
  return { bytes: out, squaredError: encode(to, values, out), squares, unusable };
}

/** What the new file holds. */
export function quantizedContent(
  gguf: Gguf,
  assignments: readonly Assignment[],
  carried: CarriedTypes | null,
): GgufContent {
  const { metadata } = gguf;
  // The file's type in one number is a table of ggml's that has no place for types of one's own; readers take what most
  // tensors have where it is absent.
  const leave = (key: string): boolean => key === "general.file_type" || key.startsWith("split.") || isCarriedKey(key);
  const pairs: GgufPair[] = [...pairsOf(metadata, leave)];
  // ggml's number for block layouts as they are since 2023; its tools ask for it beside block types.
  if (!metadata.has("general.quantization_version"))
    pairs.push({ key: "general.quantization_version", type: "u32", value: 2 });
  if (carried !== null) pairs.push(...carriedPairs(carried));
  return {
    pairs,
    alignment: metadata.integer("general.alignment", 32),
    tensors: assignments.map(({ tensor: { name, shape }, type }) => {
      const count = shape.reduce((product, length) => product * length, 1);
      const byteLength = (count / type.blockSize) * type.blockBytes;
      return { name, shape, byteLength, typeId: idOf(type, carried) };
    }),
  };
}

function idOf(type: Type, carried: CarriedTypes | null): number {
  const n = carried?.types.indexOf(type) ?? -1;
  const id = n === -1 ? type.ids.get("gguf") : FIRST_CARRIED_ID + n;
  if (id === undefined) throw new Error(`the type ${type.name} has no id in GGUF files`);
  return id;
}

/** Told of each piece that has been put in its place. */
export type Watch = (assignment: Assignment, values: number, result: Requantized | null) => void;

/**
 * The bytes of the new file, in order.
 * @param work does what `requantize` does; as many as `atOnce` pieces are handed to it before the first is awaited
 * @throws ModelError where a number is not finite
 */
export function quantizedPieces(
  gguf: Gguf,
  assignments: readonly Assignment[],
  content: GgufContent,
  { work, atOnce, watch }: { work: (piece: Piece) => Promise<Requantized>; atOnce: number; watch: Watch },
): AsyncGenerator<Uint8Array, void> {
  return ggufPieces(content, (index) => {
    const assignment = assignments[index]!;
    return assignment.type === assignment.tensor.type
      ? copied(gguf, assignment, watch)
      : converted(gguf, assignment, work, atOnce, watch);
  });
}

async function* copied(gguf: Gguf, assignment: Assignment, watch: Watch): AsyncGenerator<Uint8Array, void> {
  const { tensor } = assignment;
  const { blockSize, blockBytes } = tensor.type;
  const step = blockBytes * Math.max(1, Math.floor(PIECE_VALUES / blockSize));
  for (let begin = 0; begin < tensor.byteLength; begin += step) {
    const bytes = gguf.weights.read(tensor, begin, Math.min(step, tensor.byteLength - begin));
    yield await Promise.resolve(bytes);
    watch(assignment, (bytes.length / blockBytes) * blockSize, null);
  }
}

async function* converted(
  gguf: Gguf,
  assignment: Assignment,
  work: (piece: Piece) => Promise<Requantized>,
  atOnce: number,
  watch: Watch,
): AsyncGenerator<Uint8Array, void> {
  const { tensor, type: to } = assignment;
  const from = tensor.type;
  // Whole blocks of both types: rows are a multiple of either, so the tensor is a multiple of both.
  const unit = leastCommonMultiple(from.blockSize, to.blockSize);
  const values = unit * Math.max(1, Math.floor(PIECE_VALUES / unit));
  const step = (values / from.blockSize) * from.blockBytes;
  const pending: Promise<Requantized>[] = [];
  let begin = 0;
  let done = 0;
  const refill = (): void => {
    for (; pending.length < atOnce && begin < tensor.byteLength; begin += step) {
      const bytes = gguf.weights.read(tensor, begin, Math.min(step, tensor.byteLength - begin));
      const result = work({ from, to, bytes });
      result.catch(() => undefined); // it is awaited in its turn
      pending.push(result);
    }
  };
  refill();
  for (let next = pending.shift(); next !== undefined; next = pending.shift()) {
    const result = await next;
    refill();
    if (result.unusable !== -1) refuse(gguf, tensor, done + result.unusable);
    const count = (result.bytes.length / to.blockBytes) * to.blockSize;
    yield result.bytes;
    done += count;
    watch(assignment, count, result);
  }
}

function refuse(gguf: Gguf, tensor: WeightTensor, index: number): never {
  const row = tensor.shape.at(-1)!;
  const where = `value ${index} (row ${Math.floor(index / row)}, column ${index % row})`;
  const file = gguf.weights.files[tensor.file] ?? gguf.metadata.file;
  throw new ModelError(file, `tensor ${quoted(tensor.name)}`, `${where} is not finite`, "weights are finite numbers");
}

function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return (a / x) * b;
}
