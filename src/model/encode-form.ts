// What a type looks like to the one who searches the best bytes for some numbers (encode-search.ts): levels, and what
// they are multiplied by and shifted by, with the numbers that can be stored for each. Here it is taken from an affine
// structure (ladder/layout.ts); for other types it is found out by trying (encode-probe.ts).
// Not here: the search.

import type { AffineStructure, Codes, FloatField, GroupTerm, Run } from "../ladder/layout.ts";
import { FLOAT_SHAPES, floatCode, floatNumber, putCodes, putFloat } from "./encode-bits.ts";
import { evenGrid, type Grid } from "./encode-grid.ts";

/** In group g the value of an element is scale(g) * level + offset(g) + constant. */
export interface Form {
  readonly blockSize: number;
  readonly groupSize: number;
  readonly grid: Grid;
  /** Writes the numbers of the elements' levels into a block whose bits for them are zero. */
  readonly putLevels: (numbers: Uint16Array, bytes: Uint8Array, base: number) => void;
  readonly scale: Term;
  readonly offset: Term | null;
  readonly constant: number;
  /** Writes what is the same in every block. */
  readonly putRest: (bytes: Uint8Array, base: number) => void;
}

/** In group g: factor * multiples[choice[g]]. */
export interface Term {
  readonly factor: Factor;
  /** Ascending; a single one where the groups have nothing of their own. */
  readonly multiples: Float64Array;
  /** Writes each group's choice. */
  readonly putChoices: (choices: Uint16Array, bytes: Uint8Array, base: number) => void;
}

/** A number for the whole block: one that it stores, the one that the scale has stored, or 1. */
export type Factor = StoredFactor | { readonly kind: "tied" } | { readonly kind: "one" };

export interface StoredFactor {
  readonly kind: "stored";
  /** The number nearest to x that can be stored. */
  readonly round: (x: number) => number;
  /** Writes a number that `round` gave. */
  readonly put: (x: number, bytes: Uint8Array, base: number) => void;
}

/**
 * The form of a type with this structure; null where stored bits serve two purposes, so that they cannot be chosen
 * one after the other.
 */
export function formOf(blockSize: number, structure: AffineStructure): Form | null {
  if (sharesBits(structure)) return null;
  const { codes, groupSize, zero, scale, offset } = structure;
  const [first, ...more] = scale.fields;
  const scaleTerm = termOf(scale, first === undefined ? { kind: "one" } : storedFactor(first));
  const top = 2 ** codes.bits - 1;
  const common = {
    blockSize,
    groupSize,
    grid: evenGrid(zero, top),
    putLevels: (numbers: Uint16Array, bytes: Uint8Array, base: number) => putCodes(codes, numbers, bytes, base),
    scale: scaleTerm,
  };
  // Fields that are left over after one for each factor are stored as 1.
  const putOnes = (fields: readonly FloatField[]) => (bytes: Uint8Array, base: number) => {
    for (const field of fields) putField(field, 1, bytes, base);
  };
  if (offset === null) return { ...common, offset: null, constant: 0, putRest: putOnes(more) };
  if (offset.fields.length === 0 && offset.codes === null)
    return { ...common, offset: null, constant: offset.constant, putRest: putOnes(more) };
  const isScales = ({ byte }: FloatField): boolean => scale.fields.some((field) => field.byte === byte);
  const [own, ...others] = offset.fields.filter((field) => !isScales(field));
  const isTied = first !== undefined && offset.fields.some(({ byte }) => byte === first.byte);
  if (isTied && own !== undefined) return null;
  const factor: Factor = isTied ? { kind: "tied" } : own === undefined ? { kind: "one" } : storedFactor(own);
  return { ...common, offset: termOf(offset, factor), constant: 0, putRest: putOnes([...more, ...others]) };
}

/** Whether a bit is in two of codes, sub-scales and sub-offsets, or one field stands twice in a product. */
function sharesBits({ codes, scale, offset }: AffineStructure): boolean {
  const fields = new Map([...scale.fields, ...(offset?.fields ?? [])].map((field) => [field.byte, field]));
  const places = [codes, scale.codes, offset?.codes ?? null].flatMap((c) =>
    c === null ? [] : c.runs.flatMap(runBits),
  );
  for (const { format, byte } of fields.values()) {
    const { exponent, mantissa } = FLOAT_SHAPES[format];
    for (let k = 0; k <= exponent + mantissa; k++) places.push(8 * byte + k);
  }
  const isTwice = (list: readonly FloatField[]): boolean => new Set(list.map(({ byte }) => byte)).size < list.length;
  return new Set(places).size < places.length || isTwice(scale.fields) || isTwice(offset?.fields ?? []);
}

function runBits({ count, bit, step, width }: Run): readonly number[] {
  return Array.from({ length: count * width }, (_, n) => bit + Math.floor(n / width) * step + (n % width));
}

function termOf({ constant, codes }: GroupTerm, factor: Factor): Term {
  if (codes === null) return { factor, multiples: Float64Array.of(constant), putChoices: () => undefined };
  const multiples = Float64Array.from({ length: 2 ** codes.bits }, (_, code) => constant * (code - codes.bias));
  if (constant > 0) return { factor, multiples, putChoices: putter(codes) };
  // Ascending multiples are descending codes.
  const put = putter(codes);
  const last = multiples.length - 1;
  return {
    factor,
    multiples: multiples.toReversed(),
    putChoices: (choices, bytes, base) =>
      put(
        choices.map((n) => last - n),
        bytes,
        base,
      ),
  };
}

function putter(codes: Codes): Term["putChoices"] {
  return (choices, bytes, base) => putCodes(codes, choices, bytes, base);
}

function storedFactor(field: FloatField): StoredFactor {
  const shape = FLOAT_SHAPES[field.format];
  return {
    kind: "stored",
    round: (x) => floatNumber(shape, floatCode(shape, x)),
    put: (x, bytes, base) => putField(field, x, bytes, base),
  };
}

function putField({ format, byte }: FloatField, x: number, bytes: Uint8Array, base: number): void {
  const shape = FLOAT_SHAPES[format];
  putFloat(shape, floatCode(shape, x), bytes, (base + byte) * 8);
}
