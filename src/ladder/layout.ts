// How a type's bytes are taken apart into integer codes and scales: the seam between the language and every machine.
// A Structure is derived from the declaration, never written by hand; native code executes it as a descriptor.
// Derived from the value multiplied out (atoms.ts), for codes that are integers in place. Not here: values that several
// codes make together (levels.ts).

import {
  asDouble,
  type Atom,
  type Codes,
  type FloatAtom,
  type FloatField,
  formatOf,
  type IntAtom,
  multipliedOut,
  notPlain,
  type Polynomial,
  type Product,
  quotient,
  runsOf,
} from "./atoms.ts";
import { gcd } from "./divisor.ts";
import { exactNumber, multiply, negate, toNumber } from "./exact.ts";
import type { Type } from "./type.ts";

export type { Codes, FloatField, Run } from "./atoms.ts";

/**
 * One number for each group: `constant * product of fields * (code[g] - bias)`.
 * Factors that are absent count as 1. `codes` has one entry per group.
 */
export interface GroupTerm {
  readonly constant: number;
  readonly fields: readonly FloatField[];
  readonly codes: (Codes & { readonly bias: number }) | null;
}

/**
 * The integer structure of a block: value(i) = scale(g) * (code(i) - zero) + offset(g), g = i div groupSize.
 * The guarantee is "structure": the equation holds exactly, in real arithmetic, for every block of bytes
 * whose fields are finite.
 */
export interface AffineStructure {
  readonly kind: "affine";
  readonly codes: Codes;
  readonly groupSize: number;
  readonly zero: number;
  readonly scale: GroupTerm;
  readonly offset: GroupTerm | null;
}

/** A plain floating-point element that every machine loads as it is. */
export interface FloatStructure {
  readonly kind: "float";
  readonly format: FloatField["format"];
}

/** The type has no structure that an integer or float kernel can use; says why. */
export interface NoStructure {
  readonly kind: "none";
  readonly reason: string;
}

export type Structure = AffineStructure | FloatStructure | NoStructure;

/** Codes that stand for numbers through a table: `map[code]`, or the code itself where `map` is null. */
export interface MappedCodes extends Codes {
  readonly map: readonly number[] | null;
}

/** As a GroupTerm, with `map[code[g]]` in place of `code[g]`: scales in a small float format, such as E8M0. */
export interface MappedTerm extends GroupTerm {
  readonly codes: (MappedCodes & { readonly bias: number }) | null;
}

/**
 * As an AffineStructure, with tables between the codes and what they stand for. That of the main codes holds integers
 * of 16 bits with their signs (-0 where the format has it); those of scale and offset hold any doubles, NaN included.
 */
export interface MappedStructure {
  readonly kind: "mapped";
  readonly codes: MappedCodes;
  readonly groupSize: number;
  readonly zero: number;
  readonly scale: MappedTerm;
  readonly offset: MappedTerm | null;
}

/** Native loops hold codes in 16-bit lanes. */
const MAX_CODE_BITS = 16;

/**
 * The structure of a type, derived from its declaration: the codes with as few and as long runs as there are, in
 * ascending order of shift (those of shift 0 fill every element), the largest group size, and the scale and offset
 * of a group. Types outside the form of AffineStructure and other than plain floats get `{kind: "none"}` with the
 * reason. Equal to exactValue for every block of bytes whose float fields are finite (but for the sign of a zero).
 */
export function structureOf(type: Type): Structure {
  const structure = mappedStructureOf(type);
  if (structure.kind !== "mapped") return structure;
  const { codes, scale, offset } = structure;
  const which = codes.map !== null ? "codes" : scale.codes?.map ? "scales" : offset === null ? "codes" : "offsets";
  return none(`its ${which} stand for numbers through a table`);
}

/** The same for machines that can look codes up in small tables: what structureOf refuses for that alone is "mapped". */
export function mappedStructureOf(type: Type): Structure | MappedStructure {
  const found = multipliedOut(type, 1);
  if (typeof found === "string") return none(found);
  const { atoms, value } = found;
  const special = atoms.find((atom) => atom.special !== null);
  if (special !== undefined) return none(special.special!);
  const used = atoms.filter((_, a) => value.some((term) => term.atoms.includes(a)));
  const floats = used.filter((atom) => atom.kind === "float");
  const ints = used.filter((atom) => atom.kind === "int");
  if (ints.length === 0) return floatStructure(type, value, floats);

  for (const { name, element, period } of floats) {
    if (formatOf(element) === null) return none(notPlain(name, element));
    if (period !== type.blockSize) return none(`the float field ${name} changes inside the block`);
  }
  const finest = Math.min(...ints.map(({ period }) => period));
  const [main, rival] = ints.filter(({ period }) => period === finest);
  if (rival !== undefined) return none(`both ${main!.name} and ${rival.name} change every ${plural(finest, "value")}`);
  const codes = codesOf(main!, type.blockSize, 1);
  if (codes === null)
    return none(`${main!.name} has ${main!.bits[0]!.length} bits, and codes have at most ${MAX_CODE_BITS}`);
  const integers = codes.map === null ? { map: null, step: 1 } : integersOf(codes.map);
  if (integers === null) return none(`${main!.name} stands for numbers that are no small multiples of one number`);
  const groupSize = ints.reduce((size, atom) => (atom === main ? size : gcd(size, atom.period)), type.blockSize);

  // value = slope * code + rest
  const at = atoms.indexOf(main!);
  const step = exactNumber(1n, Math.log2(integers.step));
  const slope: Product[] = [];
  const rest: Product[] = [];
  for (const { factor, atoms: list } of value) {
    const others = list.filter((a) => a !== at);
    const power = list.length - others.length;
    if (power > 1) return none(`its value has ${main!.name} to the power of ${power}`);
    if (power === 1) slope.push({ factor: multiply(factor, step), atoms: others });
    else rest.push({ factor, atoms: others });
  }
  const { zero, offset } = splitZero(slope, rest);
  const scaleTerm = groupTerm(slope, atoms, type.blockSize, groupSize);
  if (scaleTerm === null) return none(`the scale of ${main!.name} is no product of float fields and one code`);
  const offsetTerm = offset.length === 0 ? null : groupTerm(offset, atoms, type.blockSize, groupSize);
  if (offset.length > 0 && offsetTerm === null) return none("its offset is no product of float fields and one code");
  const mapped = { ...codes, map: integers.map };
  if (mapped.map === null && !scaleTerm.codes?.map && !offsetTerm?.codes?.map) {
    const plain = (term: MappedTerm): GroupTerm => ({ ...term, codes: term.codes && withoutMap(term.codes) });
    const [scale, shift] = [plain(scaleTerm), offsetTerm && plain(offsetTerm)];
    return { kind: "affine", codes: withoutMap(codes), groupSize, zero, scale, offset: shift };
  }
  return { kind: "mapped", codes: mapped, groupSize, zero, scale: scaleTerm, offset: offsetTerm };
}

function withoutMap<C extends MappedCodes>(codes: C): Omit<C, "map"> {
  const { map, ...plain } = codes;
  if (map !== null) throw new Error("a map is left out");
  return plain;
}

/** The numbers as integers of 16 bits times a power of two, or null where they are not. */
function integersOf(numbers: readonly number[]): { readonly map: readonly number[]; readonly step: number } | null {
  if (!numbers.every((x) => Number.isFinite(x))) return null;
  let step = 1;
  while (!numbers.every((x) => Number.isInteger(x / step))) {
    step /= 2;
    if (step < 2 ** -MAX_CODE_BITS) return null;
  }
  const map = numbers.map((x) => x / step);
  return map.every((x) => Math.abs(x) < 2 ** (MAX_CODE_BITS - 1)) ? { map, step } : null;
}

function none(reason: string): NoStructure {
  return { kind: "none", reason };
}

function plural(count: number, noun: string): string {
  return count === 1 ? noun : `${count} ${noun}s`;
}

function floatStructure(type: Type, value: Polynomial, floats: readonly FloatAtom[]): Structure {
  const [atom, another] = floats;
  if (atom === undefined) return none("its value reads nothing that is stored");
  const plain = another === undefined && value.length === 1 && value[0]!.atoms.length === 1;
  if (!plain || toNumber(value[0]!.factor) !== 1) return none("its value is computed from float fields alone");
  const format = formatOf(atom.element);
  if (format === null) return none(notPlain(atom.name, atom.element));
  const { bits } = atom.element;
  const inOrder = atom.bits.every((positions, i) => positions[0] === i * bits);
  if (!inOrder || type.blockBytes * 8 !== type.blockSize * bits) {
    return none(`its values are ${format} numbers that do not lie in order, one after another`);
  }
  return { kind: "float", format };
}

/** slope * code + rest = slope * (code - zero) + offset, with no offset wherever there is such a zero. */
function splitZero(slope: Polynomial, rest: Polynomial): { readonly zero: number; readonly offset: Polynomial } {
  const match = (p: Product): Product | undefined => rest.find((other) => other.atoms.join() === p.atoms.join());
  const ratios = slope.map((p) => {
    const other = match(p);
    return other === undefined ? 0 : quotient(negate(other.factor), p.factor);
  });
  const [zero] = ratios;
  if (zero === undefined || zero === null || zero === 0 || ratios.some((r) => r !== zero))
    return { zero: 0, offset: rest };
  const taken = new Set(slope.map(match));
  return { zero, offset: rest.filter((p) => !taken.has(p)) };
}

/** The polynomial as constant * fields * (code - bias), or null where it has no such form. */
function groupTerm(terms: Polynomial, atoms: readonly Atom[], blockSize: number, groupSize: number): MappedTerm | null {
  const split = terms.map(({ factor, atoms: list }) => {
    const used = list.map((a) => atoms[a]!);
    const floats = used.filter((atom) => atom.kind === "float");
    return { factor, floats, ints: used.filter((atom) => atom.kind === "int") };
  });
  const linear = split.filter(({ ints }) => ints.length > 0);
  const lead = linear[0] ?? split[0];
  if (lead === undefined || linear.length > 1 || lead.ints.length > 1) return null;
  const sameFields = split.every(
    ({ floats }) => floats.length === lead.floats.length && floats.every((atom, k) => atom === lead.floats[k]),
  );
  const constant = asDouble(lead.factor);
  if (!sameFields || constant === null) return null;
  const fields: FloatField[] = [];
  for (const { element, bits } of lead.floats) {
    const format = formatOf(element);
    if (format === null) return null;
    fields.push({ format, byte: bits[0]![0]! / 8 });
  }
  const [code] = lead.ints;
  if (code === undefined) return { constant, fields, codes: null };
  const codes = codesOf(code, blockSize, groupSize);
  const added = split.find(({ ints }) => ints.length === 0);
  const bias = added === undefined ? 0 : quotient(negate(added.factor), lead.factor);
  return codes === null || bias === null ? null : { constant, fields, codes: { ...codes, bias } };
}

/** The codes of an atom, one for each group; null where they are too wide. */
function codesOf(atom: IntAtom, blockSize: number, groupSize: number): MappedCodes | null {
  const entries = Array.from({ length: blockSize / groupSize }, (_, g) => atom.bits[g * groupSize]!);
  const bits = entries[0]!.length;
  if (bits > MAX_CODE_BITS) return null;
  return { runs: runsOf(entries, bits), bits, flip: atom.flip, map: atom.map };
}
