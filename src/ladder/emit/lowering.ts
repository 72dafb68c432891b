// What an integer machine has to know of a type, as data that JSON holds: where the codes of a block lie, what they stand
// for, how many bit planes they have, and the scale and offset of a group. It is the proved structure (equation.ts),
// spelled out; a type without one says why. Not here: texts that decode (emit.ts), what is done with the planes.

import { provedStructure } from "../prove/equation.ts";
import {
  type Codes,
  type FloatField,
  type MappedCodes,
  type MappedStructure,
  type MappedTerm,
  mappedStructureOf,
} from "../layout.ts";
import type { Type } from "../type.ts";

/** value(i) = scale(g) * (number(code(i)) - zero) + offset(g), g = i div groupSize; exact while the stored floats are finite. */
export interface IntegerLowering {
  readonly kind: "integers";
  /** "structure": the equation is proved for every block whose stored floats are finite. */
  readonly guarantee: "structure";
  readonly blockSize: number;
  readonly blockBytes: number;
  /** How the file's bits become codes; a map where they stand for other integers. */
  readonly codes: MappedCodes;
  /** The least and most of number(code) - zero. */
  readonly least: number;
  readonly most: number;
  readonly zero: number;
  /** Bits of number(code) - the least: what a machine that takes one bit at a time has to take. */
  readonly planes: number;
  readonly symmetric: Symmetric | null;
  readonly groupSize: number;
  readonly scale: LoweredTerm;
  readonly offset: LoweredTerm | null;
}

/** One number for each group: constant * product of fields * (number(code[g]) - bias). */
export interface LoweredTerm {
  readonly constant: number;
  readonly fields: readonly FloatField[];
  /** `map` has "NaN" and "Infinity" for what JSON has no numbers for. */
  readonly codes: (Codes & { readonly bias: number; readonly map: readonly (number | string)[] | null }) | null;
}

/**
 * The same with odd codes around 0, of which half a table is enough:
 * value(i) = half * scale(g) * (2 * number(code(i)) - range) + shift * scale(g) + offset(g).
 */
export interface Symmetric {
  readonly half: 0.5;
  /** least + most of number(code); 2^b - 1 where codes stand for themselves. */
  readonly range: number;
  readonly shift: number;
}

export type Lowering =
  | IntegerLowering
  | { readonly kind: "float"; readonly format: FloatField["format"] }
  | { readonly kind: "none"; readonly reason: string };

/** How a type's bytes become integers and scales for an integer machine, with the equation proved. */
export function loweringOf(type: Type): Lowering {
  const proved = provedStructure(type);
  if (proved.kind === "none") {
    const found = mappedStructureOf(type);
    return found.kind === "float" ? found : proved;
  }
  const { codes, zero, groupSize, scale, offset } = proved.structure;
  const plain = proved.integers[0]!;
  const planes = Math.ceil(Math.log2(plain.high - plain.low + 1));
  const symmetric = symmetricOf(proved.structure, plain.low + plain.high);
  const { blockSize, blockBytes } = type;
  const range = { least: plain.low - zero, most: plain.high - zero, zero };
  const terms = { scale: spelledTerm(scale), offset: offset && spelledTerm(offset) };
  const sizes = { blockSize, blockBytes, groupSize };
  return { kind: "integers", guarantee: "structure", ...sizes, codes, ...range, planes, symmetric, ...terms };
}

/** The identity is evaluated for every integer that a code stands for; scale and offset are the same on both sides. */
function symmetricOf({ codes: { map, bits }, zero }: MappedStructure, range: number): Symmetric | null {
  const shift = range / 2 - zero;
  const numbers = map ?? Array.from({ length: 2 ** bits }, (_, code) => code);
  return numbers.every((x) => 0.5 * (2 * x - range) + shift === x - zero) ? { half: 0.5, range, shift } : null;
}

/** NaN and infinities by name, which JSON has no numbers for. */
function spelledTerm({ constant, fields, codes }: MappedTerm): LoweredTerm {
  const spell = (x: number): number | string => (Number.isFinite(x) ? x : String(x));
  return { constant, fields, codes: codes && { ...codes, map: codes.map && codes.map.map(spell) } };
}
