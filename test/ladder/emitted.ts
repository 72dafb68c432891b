// What the tests of emitted decodes share: every type and tensor of the library, blocks with all kinds of bytes, and what
// a decode that rounds may differ by.

import type { Guarantee } from "../../src/ladder/emit/emit.ts";
import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { conditionAt } from "../../src/ladder/expr.ts";
import { bindTensor, smallestShape } from "../../src/ladder/tensor.ts";
import type { Program, Type, Value } from "../../src/ladder/type.ts";
import { operandsAreExact, plainDecode } from "./plain.ts";

const VALUES = 1_000_000;
/** Of types that only the exact evaluator decodes, a thousand times slower. */
const EXACT_VALUES = 10_000;

/** Blocks with 10^6 values, or as many as the slow way decodes in a second. */
export function blockCount(type: Type): number {
  return Math.ceil((operandsAreExact(type.value) ? VALUES : EXACT_VALUES) / type.blockSize);
}

export interface Case {
  readonly label: string;
  readonly type: Type;
  /** Values in a row of a tensor; null for blocks. */
  readonly columns: number | null;
}

/** All types of a program, and its tensors with each storage, bound to the smallest shape. */
export function casesOf(program: Program): readonly Case[] {
  const types = [...program.types.values()].map((type) => ({ label: type.name, type, columns: null }));
  const tensors = [...program.tensors.values()].flatMap((tensor) =>
    tensor.storages.flatMap((storage) => {
      const shape = smallestShape(tensor, storage);
      const binding = shape && bindTensor(tensor, storage, shape.rows, shape.columns);
      if (binding?.kind !== "bound") throw new Error(`${tensor.name} has no shape`);
      const label = storage === "" ? tensor.name : `${tensor.name}.${storage}`;
      return [{ label, type: binding.type, columns: shape!.columns }];
    }),
  );
  return [...types, ...tensors];
}

/** Bytes by xorshift, the same on every run. */
export function bytesBy(seed: number): () => number {
  let x = seed;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x & 255;
  };
}

/** Random blocks; what is an index in them is one that its field has. */
export function blocksOf(type: Type, count: number, seed: number): Uint8Array {
  const next = bytesBy(seed);
  const bytes = new Uint8Array(count * type.blockBytes).map(() => next());
  const index = type.fields.find(({ name }) => name === "g_idx");
  if (index === undefined) return bytes;
  // The smallest shapes have one group.
  for (let b = 0; b < count; b++) {
    const from = b * type.blockBytes + index.bit / 8;
    bytes.fill(0, from, from + index.count * 4);
  }
  return bytes;
}

/** One block of a matrix of one group, whose columns ask for groups far below, just below, above and far above it. */
export function blockBeyond(type: Type): Uint8Array {
  const field = type.fields.find(({ name }) => name === "g_idx")!;
  const bytes = blocksOf(type, 1, 20_261_128);
  const asked = [-(2 ** 31), -1, 1, 2 ** 31 - 1, 0, -77, 9, 2 ** 27];
  for (let k = 0; k < field.count; k++)
    new DataView(bytes.buffer).setInt32(field.bit / 8 + 4 * k, asked[k % asked.length]!, true);
  return bytes;
}

/** All 2^bits codes of a type that is one element of up to 16 bits; null for others. */
export function allCodes(type: Type): Uint8Array | null {
  if (type.blockSize > 1 || type.blockBytes > 2) return null;
  const codes = 256 ** type.blockBytes;
  const bytes = new Uint8Array(codes * type.blockBytes);
  for (let code = 0; code < codes; code++) {
    for (let b = 0; b < type.blockBytes; b++) bytes[code * type.blockBytes + b] = code >> (8 * b);
  }
  return bytes;
}

/** Sum of the sizes of all that a value is put together from, which roundings are relative to. */
function sizeOf(type: Type, value: Value, block: Uint8Array, i: number, most: number): number {
  switch (value.kind) {
    case "binary": {
      const [left, right] = [value.left, value.right].map((part) => sizeOf(type, part, block, i, most));
      // What overflows on the way makes infinities, of which nothing can be said.
      if (left! > most || right! > most) return Number.POSITIVE_INFINITY;
      return value.operator === "*" ? left! * right! : left! + right!;
    }
    case "negate":
      return sizeOf(type, value.operand, block, i, most);
    case "choose":
      return sizeOf(type, conditionAt(value.condition, i, block) ? value.yes : value.no, block, i, most);
    default: {
      // An integer of 64 bits is put together from two words, the upper one with the sign.
      const words = value.kind === "element" && value.field.element.bits > 32 ? 2 ** 33 : 0;
      return Math.abs(toNumber(exactValue({ ...type, value }, block, i))) + words;
    }
  }
}

/**
 * The first value that is not what the guarantee says, with the numbers; null where there is none. Exact and nearest
 * values must be equal to those of the exact evaluator bit for bit, NaN payloads aside; n roundings of a relative size of at
 * most u each may add up to n * u (and their products) of the sizes of the parts.
 * @param flushed whether subnormals of single precision count as zero
 */
export function firstWrong(
  type: Type,
  bytes: Uint8Array,
  got: ArrayLike<number>,
  { precision, kind, roundings }: Guarantee,
  flushed = false,
): string | null {
  const expected = plainDecode(type, bytes);
  const unit = precision === "f32" ? 2 ** -24 : 2 ** -53;
  const isZero = (x: number): boolean => flushed && Math.abs(x) < 2 ** -126;
  for (let n = 0; n < expected.length; n++) {
    const wanted = precision === "f32" ? Math.fround(expected[n]!) : expected[n]!;
    const x = got[n]!;
    if (Object.is(wanted, x) || (isZero(wanted) && isZero(x))) continue;
    if (kind === "rounded") {
      const [block, i] = [Math.floor(n / type.blockSize) * type.blockBytes, n % type.blockSize];
      const most = precision === "f32" ? 2 ** 127 : 2 ** 1023;
      const size = sizeOf(type, type.value, bytes.subarray(block, block + type.blockBytes), i, most);
      const least = precision === "f32" ? 2 ** -149 : 2 ** -1074;
      const allowed = roundings * (unit * size * (1 + 2 * roundings * unit) + least);
      if (!Number.isFinite(size) || size > most) continue;
      if (Math.abs(x - expected[n]!) <= allowed) continue;
    }
    return `value ${n}: ${x}, and not ${wanted}`;
  }
  return null;
}

/** The function of an emitted ES module. */
export function moduleOf(
  text: string,
): (bytes: Uint8Array, out: Float64Array | Float32Array, outside?: () => number) => void {
  // oxlint-disable-next-line typescript/no-implied-eval, no-new-func -- the text is what is tested
  return new Function(text.replace("export function decode", "return function decode"))();
}
