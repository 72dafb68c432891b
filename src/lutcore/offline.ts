// A file's weights as the machine reads them, whatever their type: indices of planes where their integers have at most
// four bits, signed bytes for ordinary products where eight hold them; a scale and perhaps a correction for each group.
// The integers of a type, its scales and its zero points come from its proved structure, never from its name:
// value = scale (v - zero) + offset exactly, for all bytes whose stored floats are finite. Counted from the least v, codes
// have a zero point of their own, equation (3) keeps the value, and -s' z' and the offset become one correction.
// Not here: which bits of a plane are an index (weights.ts), where a program loads all this (lower.ts).

import { loweringOf, type IntegerLowering, type LoweredTerm } from "../ladder/emit/lowering.ts";
import type { Codes, FloatField } from "../ladder/layout.ts";
import type { Type } from "../ladder/type.ts";
import type { Weight } from "./fragment.ts";
import { centreOf, codeCount, packTile, reinterpreted } from "./weights.ts";

/** How weights go to the machine: value = scale(g) * q' + correction(g), exactly, before these two are rounded. */
export interface PlanesForm {
  readonly kind: "planes";
  /** q' = 2 q - centre, q = v - least, from bit planes. */
  readonly weight: Weight;
  /** Values of k with one scale; null where all of the matrix has the same. */
  readonly group: number | null;
  /** Whether the correction is ever other than 0. */
  readonly corrected: boolean;
}

export interface BytesForm {
  readonly kind: "bytes";
  /** q' = v - zero in int8, for ordinary products. */
  readonly zero: number;
  readonly group: number | null;
  readonly corrected: boolean;
}

export interface NoForm {
  readonly kind: "none";
  readonly reason: string;
}

/** Weights of a matrix (n, k), n filled up to whole tiles with columns whose scales are 0. */
export interface OfflineWeights {
  readonly form: PlanesForm | BytesForm;
  /** Planes: tiles of `tile` columns and all k, one behind the other (weights.ts). Bytes: int8 (n, k), row-major. */
  readonly codes: Uint8Array;
  /** (k / group, n) row-major, each the nearest f32 to its double. */
  readonly scales: Float32Array;
  /** The same; null where the form is not corrected. */
  readonly corrections: Float32Array | null;
}

/** A matrix of the file, and the columns of a tile. */
export interface OfflineShape {
  readonly n: number;
  readonly k: number;
  readonly tile: number;
}

/** The form that weights of a type have whatever their bytes: in planes where their integers have at most four bits. */
export function formOf(type: Type): PlanesForm | BytesForm | NoForm {
  const lowering = loweringOf(type);
  return lowering.kind === "integers" ? formFor(lowering) : noForm(lowering);
}

/**
 * A matrix of the type for the machine. Where the codes that the bytes have in fact are three, as those of ternary models
 * in two bits are, they become ternary: two planes that need no correction.
 * @param bytes n rows of k / blockSize blocks
 * @throws RangeError where k is not whole blocks, the bytes are not n such rows, or a tile is not even
 */
export function offlineWeights(type: Type, bytes: Uint8Array, shape: OfflineShape): OfflineWeights | NoForm {
  const lowering = loweringOf(type);
  if (lowering.kind !== "integers") return noForm(lowering);
  const { n, k, tile } = shape;
  const { blockSize, blockBytes, least } = lowering;
  const rowBytes = (k / blockSize) * blockBytes;
  if (k % blockSize !== 0)
    throw new RangeError(`rows of ${k} values are no whole blocks of ${type.name}, which have ${blockSize}`);
  if (bytes.length !== n * rowBytes)
    throw new RangeError(`${bytes.length} bytes, and ${n} rows of ${k} ${type.name} have ${n * rowBytes}`);
  const whole = formFor(lowering);
  if (whole.kind === "none") return whole;
  const width = Math.ceil(n / tile) * tile;
  const steps = stepsOf(lowering, bytes);
  const three = whole.kind === "planes" && whole.weight === "int2" && !steps.includes(3);
  const form = three ? planesOf(lowering, "ternary") : whole;
  const { scales, corrections } = termsOf(lowering, form, bytes, { n, k, width });
  if (form.kind === "bytes") {
    // v - zero of the form, as the byte of its two's complement.
    const shift = least + lowering.zero - form.zero;
    const codes = new Uint8Array(width * k);
    for (let at = 0; at < steps.length; at++) codes[at] = steps[at]! + shift;
    return { form, codes, scales, corrections };
  }
  const tiles = Array.from({ length: width / tile }, (_, t) => {
    const codes = new Uint8Array(tile * k);
    codes.set(steps.subarray(t * tile * k, (t + 1) * tile * k));
    return packTile(codes, { weight: form.weight, n: tile, k });
  });
  const codes = new Uint8Array(tiles.reduce((sum, { length }) => sum + length, 0));
  for (const [t, one] of tiles.entries()) codes.set(one, t * one.length);
  return { form, codes, scales, corrections };
}

function noForm(lowering: Exclude<ReturnType<typeof loweringOf>, IntegerLowering>): NoForm {
  return lowering.kind === "none" ? lowering : { kind: "none", reason: `it is a plain ${lowering.format}` };
}

function formFor(lowering: IntegerLowering): PlanesForm | BytesForm | NoForm {
  const { least, most, zero, offset } = lowering;
  const weight = FEWEST_FIRST.find((one) => codeCount(one) > most - least);
  if (weight !== undefined) return planesOf(lowering, weight);
  for (const taken of [zero, 0]) {
    const [low, high] = [least + zero - taken, most + zero - taken];
    if (Number.isInteger(low) && low >= -128 && high <= 127)
      return { kind: "bytes", zero: taken, group: groupOf(lowering), corrected: offset !== null || taken !== zero };
  }
  const range = `${least + zero} to ${most + zero}`;
  return { kind: "none", reason: `its integers are ${range}, and eight bits hold 256 of them` };
}

/** @param weight with a code for each v that there is */
function planesOf(lowering: IntegerLowering, weight: Weight): PlanesForm {
  const { least, offset } = lowering;
  const { scale, zero } = reinterpreted(weight, 1, -least);
  for (let q = 0; q < codeCount(weight); q++)
    if (scale * (2 * q - centreOf(weight) - zero) !== q + least)
      throw new Error(`${weight}: code ${q} is not ${q + least} with the zero point ${zero}`);
  return { kind: "planes", weight, group: groupOf(lowering), corrected: offset !== null || zero !== 0 };
}

function groupOf({ scale, offset, groupSize }: IntegerLowering): number | null {
  const isConstant = (term: LoweredTerm | null): boolean =>
    term === null || (term.fields.length === 0 && term.codes === null);
  return isConstant(scale) && isConstant(offset) ? null : groupSize;
}

const FEWEST_FIRST = ["int1", "ternary", "int2", "int3", "int4"] as const;

/** v - its least, for every value of the bytes in order, of a type that has at most 256. */
function stepsOf(lowering: IntegerLowering, bytes: Uint8Array): Uint8Array {
  const { codes, blockSize, blockBytes, least, zero } = lowering;
  const out = new Uint8Array((bytes.length / blockBytes) * blockSize);
  const number = numbersOf(codes);
  const raw = new Uint16Array(blockSize);
  const read = codeReader(codes, blockSize);
  for (let from = 0, to = 0; from < bytes.length; from += blockBytes, to += blockSize) {
    read(bytes, from, raw);
    for (let i = 0; i < blockSize; i++) out[to + i] = number[raw[i]!]! - (least + zero);
  }
  return out;
}

/** One piece of each code of a block: `width` bits from bit `low` of byte `byte` of the block up, at bit `shift`. */
interface Pieces {
  readonly byte: Int32Array;
  readonly low: Int32Array;
  readonly mask: Int32Array;
  readonly shift: Int32Array;
}

/** Gathers the codes of the block at a byte, before they are flipped, piece after piece: most have one or two. */
function codeReader({ runs }: Codes, count: number): (bytes: Uint8Array, block: number, out: Uint16Array) => void {
  const all: Pieces[] = [];
  const taken = new Uint8Array(count);
  for (const { first, count: length, bit, step, width, shift } of runs) {
    for (let j = 0; j < length; j++) {
      const [rank, position] = [taken[first + j]!++, bit + j * step];
      const none = (): Int32Array => new Int32Array(count);
      const pieces = (all[rank] ??= { byte: none(), low: none(), mask: none(), shift: none() });
      pieces.byte[first + j] = position >> 3;
      pieces.low[first + j] = position & 7;
      pieces.mask[first + j] = 2 ** width - 1;
      pieces.shift[first + j] = shift;
    }
  }
  return (bytes, block, out) => {
    out.fill(0);
    for (const { byte, low, mask, shift } of all) {
      for (let i = 0; i < count; i++) {
        const from = block + byte[i]!;
        // Up to 16 bits from bit 7 on reach into a third byte; what lies behind the last byte is masked out.
        const three = bytes[from]! | (bytes[from + 1]! << 8) | (bytes[from + 2]! << 16);
        out[i]! |= ((three >> low[i]!) & mask[i]!) << shift[i]!;
      }
    }
  };
}

/** What each code stands for. */
function numbersOf({ bits, flip, map }: Codes & { readonly map: readonly (number | string)[] | null }): Float64Array {
  return Float64Array.from({ length: 2 ** bits }, (_, code) => (map === null ? code ^ flip : Number(map[code])));
}

interface Terms {
  readonly scales: Float32Array;
  readonly corrections: Float32Array | null;
}

/** The two numbers of each group: equation (2), with - s' z' and what the type adds as one correction. */
function termsOf(
  lowering: IntegerLowering,
  form: PlanesForm | BytesForm,
  bytes: Uint8Array,
  { n, k, width }: { readonly n: number; readonly k: number; readonly width: number },
): Terms {
  const { blockSize, blockBytes, groupSize, zero, scale, offset } = lowering;
  const groups = form.group === null ? 1 : k / form.group;
  const scales = new Float32Array(groups * width);
  const corrections = form.corrected ? new Float32Array(groups * width) : null;
  const own =
    form.kind === "planes" ? reinterpreted(form.weight, 1, -lowering.least) : { scale: 1, zero: zero - form.zero };
  const perBlock = form.group === null ? 1 : blockSize / groupSize;
  const [scaleOf, offsetOf] = [termReader(scale, perBlock), offset === null ? null : termReader(offset, perBlock)];
  const [stored, added] = [new Float64Array(perBlock), new Float64Array(perBlock)];
  const rowBytes = (k / blockSize) * blockBytes;
  for (let column = 0; column < n; column++) {
    for (let g = 0; g < groups; g += perBlock) {
      const block = column * rowBytes + (g / perBlock) * blockBytes;
      scaleOf(bytes, block, stored);
      offsetOf?.(bytes, block, added);
      for (let j = 0; j < perBlock; j++) {
        const at = (g + j) * width + column;
        const s = stored[j]! * own.scale;
        scales[at] = s;
        if (corrections !== null) corrections[at] = added[j]! - s * own.zero;
      }
    }
  }
  return { scales, corrections };
}

/** Reads a term of all groups of the block at a byte: constant * fields * (number(code) - bias), in doubles. */
function termReader(
  { constant, fields, codes }: LoweredTerm,
  groups: number,
): (bytes: Uint8Array, block: number, out: Float64Array) => void {
  const raw = new Uint16Array(groups);
  const [read, number] = codes === null ? [null, null] : [codeReader(codes, groups), numbersOf(codes)];
  return (bytes, block, out) => {
    let product = constant;
    for (const { format, byte } of fields) product *= floatAt(bytes, block + byte, format);
    if (codes === null || number === null || read === null) return void out.fill(product);
    read(bytes, block, raw);
    for (let g = 0; g < groups; g++) out[g] = product * (number[raw[g]!]! - codes.bias);
  };
}

function floatAt(bytes: Uint8Array, at: number, format: FloatField["format"]): number {
  const half = bytes[at]! | (bytes[at + 1]! << 8);
  if (format === "bf16") return floatOfBits(half * 2 ** 16);
  if (format === "f32") return floatOfBits(half + (bytes[at + 2]! | (bytes[at + 3]! << 8)) * 2 ** 16);
  const size = half & 0x7fff;
  const sign = half & 0x8000 ? -1 : 1;
  if (size >= 0x7c00) return size === 0x7c00 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  // The exponents of f16 and f32 differ by 112; a subnormal is so many times 2^-24.
  return sign * (size < 0x400 ? size * 2 ** -24 : floatOfBits((size << 13) + (112 << 23)));
}

const word = new DataView(new ArrayBuffer(4));
function floatOfBits(bits: number): number {
  word.setUint32(0, bits);
  return word.getFloat32(0);
}
