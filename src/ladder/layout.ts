// How a type's bytes are taken apart into integer codes and scales: the seam between the language and every machine.
// A Structure is derived from the declaration, never written by hand; native code executes it as a descriptor.
// The derivation multiplies the value out into a polynomial over the stored numbers (atoms), worked out for every i.

import { add, elementValue, type Exact, exactNumber, multiply, negate, toNumber } from "./exact.ts";
import { bitsAt, elementBits, indexAt, readsData } from "./expr.ts";
import type { Bits, Element, FloatElement, Type, Value } from "./type.ts";

/**
 * Bits of consecutive elements that lie at a constant stride. For j in [0, count), element `first + j` takes
 * `width` bits at bit position `bit + j * step` of the block (bit 0 = least significant bit of byte 0) and
 * puts them at bit `shift` of its code. One slice never crosses a byte. `step` may be negative; it is 0 for a count of 1.
 */
export interface Run {
  readonly first: number;
  readonly count: number;
  readonly bit: number;
  readonly step: number;
  readonly width: number;
  readonly shift: number;
}

/** Integer codes: gathered by the runs, then xor-ed with `flip` (turns two's complement into offset binary). */
export interface Codes {
  readonly runs: readonly Run[];
  /** Codes are in [0, 2^bits). */
  readonly bits: number;
  readonly flip: number;
}

/** A floating-point field of the block. */
export interface FloatField {
  readonly format: "f16" | "bf16" | "f32";
  readonly byte: number;
}

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
/** Codes with a table: 256 entries. */
const MAX_MAP_BITS = 8;
/** Products of a value that is multiplied out; the formats in use need four. */
const MAX_PRODUCTS = 64;
/** Values of a block that is looked at value by value: the largest of a declaration, and tensors of a small shape. */
const MAX_VALUES = 4096;

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
  if (type.blockSize > MAX_VALUES) return none(`it is a matrix of ${type.blockSize} values; bind a smaller shape`);
  const gathered = dataIndexIn(type.value);
  if (gathered !== null) return none(`where a value lies is stored itself, in ${gathered}`);
  const atoms: Atom[] = [];
  const value = expand(type.value, type, atoms);
  if (typeof value === "string") return none(value);
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

/** The field that an index of the value reads, where there is any such. */
function dataIndexIn(value: Value): string | null {
  switch (value.kind) {
    case "constant":
      return null;
    case "element":
      return readsData(value.index) ? value.field.name : null;
    case "code":
      return readsData(value.index) || bitsReadData(value.code.bits) ? value.code.name : null;
    case "apply":
      return readsData(value.lane) || bitsReadData(value.bits) ? value.element.name : null;
    case "negate":
    case "round":
      return dataIndexIn(value.operand);
    case "choose": {
      const reads = readsData(value.condition.left) || readsData(value.condition.right);
      return reads ? "a condition" : (dataIndexIn(value.yes) ?? dataIndexIn(value.no));
    }
    case "binary":
      return dataIndexIn(value.left) ?? dataIndexIn(value.right);
  }
}

function bitsReadData(bits: Bits): boolean {
  switch (bits.kind) {
    case "slice":
      return readsData(bits.element);
    case "concat":
      return bitsReadData(bits.high) || bitsReadData(bits.low);
    case "choose": {
      const { condition, yes, no } = bits;
      return readsData(condition.left) || readsData(condition.right) || bitsReadData(yes) || bitsReadData(no);
    }
    case "code":
      return readsData(bits.index) || bitsReadData(bits.code.bits);
  }
}

/** f16, bf16 or f32 by the parameters of the element, or null: names mean nothing here. */
function formatOf({ exponent, mantissa, bias, special, sign, subnormals }: FloatElement): FloatField["format"] | null {
  if (sign !== "yes" || subnormals !== "yes") return null;
  switch (`${exponent} ${mantissa} ${bias} ${special}`) {
    case "5 10 15 ieee":
      return "f16";
    case "8 7 127 ieee":
      return "bf16";
    case "8 23 127 ieee":
      return "f32";
    default:
      return null;
  }
}

function notPlain(name: string, element: Element): string {
  return `${name} is ${element.name}, which is none of f16, bf16 and f32`;
}

function none(reason: string): NoStructure {
  return { kind: "none", reason };
}

function plural(count: number, noun: string): string {
  return count === 1 ? noun : `${count} ${noun}s`;
}

/** A stored number as a function of i. An int atom is the unsigned number (bits xor flip), or what its map makes of it. */
type Atom = FloatAtom | IntAtom;

interface Stored {
  readonly name: string;
  /** bits[i]: positions in the block of its bits at i, the least significant first. */
  readonly bits: readonly (readonly number[])[];
  /** All of `bits` as text, to compare by. */
  readonly places: string;
  /** The largest divisor p of the block size such that every aligned group of p values reads the same bits. */
  readonly period: number;
}

interface FloatAtom extends Stored {
  readonly kind: "float";
  readonly element: FloatElement;
}

interface IntAtom extends Stored {
  readonly kind: "int";
  readonly flip: number;
  readonly map: readonly number[] | null;
}

/** factor * the product of atoms, which are indices into the list of atoms, ascending, repeated for powers. */
interface Product {
  readonly factor: Exact;
  readonly atoms: readonly number[];
}

/** A sum of products with different atoms, no factor zero. */
type Polynomial = readonly Product[];

/** The value multiplied out, with its atoms appended to `atoms`; the reason where that cannot be done. */
function expand(value: Value, type: Type, atoms: Atom[]): Polynomial | string {
  switch (value.kind) {
    case "constant":
      return collect([{ factor: exactNumber(value.significand, value.exponent), atoms: [] }]);
    case "code": {
      const { name, bits } = value.code;
      const stored = storedAt(name, type, (i) => bitsAt(bits, indexAt(value.index, i)));
      return intern({ ...stored, kind: "int", flip: 0, map: null }, 0, atoms);
    }
    case "element": {
      const { field, index } = value;
      const stored = storedAt(field.name, type, (i) => elementBits(field, indexAt(index, i)));
      const { element } = field;
      if (element.kind === "float" && (formatOf(element) !== null || element.bits > MAX_MAP_BITS)) {
        return intern({ ...stored, kind: "float", element }, 0, atoms);
      }
      return internElement(stored, element, atoms);
    }
    case "apply": {
      const { element, bits } = value;
      if (element.kind === "table" && element.lanes > 1)
        return `${element.name} stands for ${element.lanes} numbers at once`;
      const name = bits.kind === "code" ? bits.code.name : element.name;
      return internElement(
        storedAt(name, type, (i) => bitsAt(bits, i)),
        element,
        atoms,
      );
    }
    case "negate": {
      const operand = expand(value.operand, type, atoms);
      return typeof operand === "string" ? operand : operand.map(minus);
    }
    case "round":
      return "it is rounded on the way";
    case "choose":
      return "its values are not all made in the same way";
    case "binary": {
      const left = expand(value.left, type, atoms);
      const right = expand(value.right, type, atoms);
      if (typeof left === "string") return left;
      if (typeof right === "string") return right;
      const sum = collect(
        value.operator === "*"
          ? left.flatMap((a) => right.map((b) => times(a, b)))
          : [...left, ...(value.operator === "+" ? right : right.map(minus))],
      );
      return sum.length > MAX_PRODUCTS ? `its value multiplies out to more than ${MAX_PRODUCTS} products` : sum;
    }
  }
}

/** An element of bits: an integer as such, any other of up to 8 bits by the table of its values. */
function internElement(stored: Stored, element: Element, atoms: Atom[]): Polynomial | string {
  if (element.kind === "int") {
    return intern({ ...stored, kind: "int", flip: element.flip, map: null }, element.zero, atoms);
  }
  if (element.kind === "float" && formatOf(element) !== null)
    return `${stored.name} is put together from bits as ${element.name}`;
  if (element.bits > MAX_MAP_BITS) return notPlain(stored.name, element);
  const codes = Array.from({ length: 2 ** element.bits }, (_, code) => BigInt(code));
  const map = codes.map((code) => toNumber(elementValue(element, code, 0)));
  return intern({ ...stored, kind: "int", flip: 0, map }, 0, atoms);
}

function minus(a: Product): Product {
  return { factor: negate(a.factor), atoms: a.atoms };
}

function times(a: Product, b: Product): Product {
  return { factor: multiply(a.factor, b.factor), atoms: [...a.atoms, ...b.atoms].toSorted((x, y) => x - y) };
}

function storedAt(name: string, type: Type, at: (i: number) => readonly number[]): Stored {
  const bits = Array.from({ length: type.blockSize }, (_, i) => at(i));
  return { name, bits, places: bits.map((positions) => positions.join()).join(";"), period: periodOf(bits) };
}

/** atom - zero, where an atom that reads the same bits in the same way as an earlier one is that one. */
function intern(atom: Atom, zero: number, atoms: Atom[]): Polynomial {
  const readingOf = (a: Atom): string => (a.kind === "int" ? `${a.flip} ${a.map?.join() ?? ""}` : "float");
  const reading = readingOf(atom);
  let index = atoms.findIndex((other) => other.places === atom.places && readingOf(other) === reading);
  if (index === -1) index = atoms.push(atom) - 1;
  return collect([
    { factor: exactNumber(1n), atoms: [index] },
    { factor: exactNumber(BigInt(-zero)), atoms: [] },
  ]);
}

/** Adds the factors of products with the same atoms and drops those that cancel. */
function collect(terms: readonly Product[]): Polynomial {
  const sums = new Map<string, Product>();
  for (const term of terms) {
    const key = term.atoms.join();
    const before = sums.get(key);
    sums.set(key, before === undefined ? term : { ...term, factor: add(before.factor, term.factor) });
  }
  return [...sums.values()].filter(({ factor }) => factor.kind === "finite" && factor.significand !== 0n);
}

function periodOf(bits: readonly (readonly number[])[]): number {
  // Every change between neighbours must fall on the edge of a group.
  let period = bits.length;
  for (let i = 1; i < bits.length; i++) {
    if (bits[i]!.some((position, k) => position !== bits[i - 1]![k])) period = gcd(period, i);
  }
  return period;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
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

/** a / b where that is exactly a double, else null. */
function quotient(a: Exact, b: Exact): number | null {
  if (a.kind !== "finite" || b.kind !== "finite" || a.significand % b.significand !== 0n) return null;
  const magnitude = exactNumber(a.significand / b.significand, a.exponent - b.exponent);
  return asDouble(a.negative === b.negative ? magnitude : negate(magnitude));
}

/** The double that equals `a`, or null where there is none. */
function asDouble(a: Exact): number | null {
  if (a.kind !== "finite") return null;
  const fits = a.significand < 2n ** 53n && a.exponent >= -1074 && a.exponent <= 971;
  return fits ? toNumber(a) : null;
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

/** Bit by bit, the fewest runs of constant stride; then neighbouring bits that run together become one run. */
function runsOf(entries: readonly (readonly number[])[], bits: number): readonly Run[] {
  const runs: Run[] = [];
  for (let shift = 0; shift < bits; shift++) {
    const places = entries.map((positions) => positions[shift]!);
    for (let first = 0; first < places.length;) {
      let count = strideLength(places, first);
      // Any two places have a stride; leave the second to a run of three or more that it begins.
      if (count === 2 && strideLength(places, first + 1) > 2) count = 1;
      const bit = places[first]!;
      const run = { first, count, bit, step: count === 1 ? 0 : places[first + 1]! - bit, width: 1, shift };
      const below = runs.findIndex((r) => continues(r, run));
      if (below === -1) runs.push(run);
      else runs[below] = { ...runs[below]!, width: runs[below]!.width + 1 };
      first += count;
    }
  }
  return runs;
}

/** How many places from `first` on have one stride. */
function strideLength(places: readonly number[], first: number): number {
  const step = (places[first + 1] ?? 0) - places[first]!;
  let count = 1;
  while (places[first + count] === places[first + count - 1]! + step) count++;
  return count;
}

/** Whether `run` is the next bit up of the same slices as `below`, and no slice would cross a byte. */
function continues(below: Run, run: Run): boolean {
  const together =
    below.first === run.first &&
    below.count === run.count &&
    below.step === run.step &&
    below.shift + below.width === run.shift &&
    below.bit + below.width === run.bit;
  if (!together) return false;
  for (let j = 0; j < run.count; j++) {
    if ((run.bit + j * run.step) % 8 === 0) return false;
  }
  return true;
}
