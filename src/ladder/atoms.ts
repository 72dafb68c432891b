// A value multiplied out into a polynomial over the numbers that are stored (atoms), worked out for every i of a block,
// and the runs by which the bits of an atom are gathered. What layout.ts and levels.ts derive their structures from.
// Not here: which polynomials are of use to whom.

import { gcd } from "./divisor.ts";
import { add, elementValue, type Exact, exactNumber, multiply, negate, toNumber } from "./exact.ts";
import { bitsAt, bitsReadData, elementBits, indexAt, readsData } from "./expr.ts";
import type { Element, FloatElement, Type, Value } from "./type.ts";

/**
 * Bits of consecutive elements that lie at a constant stride. For j in [0, count), element `first + j` takes
 * `width` bits at bit position `bit + j * step` of the block (bit 0 = least significant bit of byte 0) and
 * puts them at bit `shift` of its code. One slice never crosses a byte. `step` may be negative; it is 0 for a count of 1, and where
 * consecutive elements share their bits.
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

/** Elements without lanes whose numbers are listed: 256 entries. */
const MAX_MAP_BITS = 8;
/** Products of a value that is multiplied out; the formats in use need four. */
const MAX_PRODUCTS = 64;

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

/** f16, bf16 or f32 by the parameters of the element, or null: names mean nothing here. */
export function formatOf({
  exponent,
  mantissa,
  bias,
  special,
  sign,
  subnormals,
}: FloatElement): FloatField["format"] | null {
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

export function notPlain(name: string, element: Element): string {
  return `${name} is ${element.name}, which is none of f16, bf16 and f32`;
}

/**
 * A stored number as a function of i. An int atom is the unsigned number (bits xor flip), or what its map makes of it:
 * map[number * lanes + lane], where a table stands for several numbers at once.
 */
export type Atom = FloatAtom | IntAtom;

interface Stored {
  readonly name: string;
  /** bits[i]: positions in the block of its bits at i, the least significant first. */
  readonly bits: readonly (readonly number[])[];
  /** lane[i], where it has lanes. */
  readonly lane: readonly number[] | null;
  /** All of `bits` and `lane` as text, to compare by. */
  readonly places: string;
  /** The largest divisor p of the block size such that every aligned group of p values reads the same number. */
  readonly period: number;
  /** What makes it more than one field of floats, or codes of 8 bits with one number each; else null. */
  readonly special: string | null;
}

export interface FloatAtom extends Stored {
  readonly kind: "float";
  readonly element: FloatElement;
}

export interface IntAtom extends Stored {
  readonly kind: "int";
  readonly flip: number;
  readonly lanes: number;
  readonly map: readonly number[] | null;
}

/** factor * the product of atoms, which are indices into the list of atoms, ascending, repeated for powers. */
export interface Product {
  readonly factor: Exact;
  readonly atoms: readonly number[];
}

/** A sum of products with different atoms, no factor zero. */
export type Polynomial = readonly Product[];

/** Values of a block that is looked at value by value: the largest of a declaration, and tensors of a small shape. */
const MAX_VALUES = 4096;

/**
 * The value of a type multiplied out; the reason where that cannot be done.
 * @param repeat consecutive blocks that are looked at as one
 */
export function multipliedOut(
  type: Type,
  repeat: number,
): { readonly atoms: readonly Atom[]; readonly value: Polynomial } | string {
  if (type.blockSize > MAX_VALUES) return `it is a matrix of ${type.blockSize} values; bind a smaller shape`;
  const gathered = dataIndexIn(type.value);
  if (gathered !== null) return `where a value lies is stored itself, in ${gathered}`;
  const atoms: Atom[] = [];
  const value = expand(type.value, { type, repeat, atoms });
  return typeof value === "string" ? value : { atoms, value };
}

interface Scope {
  readonly type: Type;
  readonly repeat: number;
  /** Those found so far. */
  readonly atoms: Atom[];
}

function expand(value: Value, scope: Scope): Polynomial | string {
  switch (value.kind) {
    case "constant":
      return collect([{ factor: exactNumber(value.significand, value.exponent), atoms: [] }]);
    case "code": {
      const { name, bits } = value.code;
      const stored = storedAt(name, scope, (i) => bitsAt(bits, indexAt(value.index, i)), null);
      return intern({ ...stored, kind: "int", flip: 0, lanes: 1, map: null }, 0, scope.atoms);
    }
    case "element": {
      const { field, index } = value;
      const stored = storedAt(field.name, scope, (i) => elementBits(field, indexAt(index, i)), null);
      return internElement(stored, field.element, scope.atoms);
    }
    case "apply": {
      const { element, bits, lane } = value;
      const name = bits.kind === "code" ? bits.code.name : element.name;
      const hasLanes = element.kind === "table" && element.lanes > 1;
      const stored = storedAt(name, scope, (i) => bitsAt(bits, i), hasLanes ? (i) => indexAt(lane, i) : null);
      const isFloat = element.kind === "float" && formatOf(element) !== null;
      if (element.kind === "float" && !isFloat && element.bits > MAX_MAP_BITS) return notPlain(name, element);
      const special = isFloat
        ? `${name} is put together from bits as ${element.name}`
        : hasLanes
          ? `${element.name} stands for ${element.lanes} numbers at once`
          : null;
      return internElement({ ...stored, special }, element, scope.atoms);
    }
    case "negate": {
      const operand = expand(value.operand, scope);
      return typeof operand === "string" ? operand : operand.map(minus);
    }
    case "round":
      return "it is rounded on the way";
    case "choose":
      return "its values are not all made in the same way";
    case "binary": {
      const left = expand(value.left, scope);
      const right = expand(value.right, scope);
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

/** An element of bits: floats and integers as such, any other of up to 8 bits by the table of its values. */
function internElement(stored: Stored, element: Element, atoms: Atom[]): Polynomial | string {
  if (element.kind === "int") {
    return intern({ ...stored, kind: "int", flip: element.flip, lanes: 1, map: null }, element.zero, atoms);
  }
  if (element.kind === "float" && (formatOf(element) !== null || element.bits > MAX_MAP_BITS))
    return intern({ ...stored, kind: "float", element }, 0, atoms);
  if (element.kind === "table") {
    const { lanes, values, bits } = element;
    const special = stored.special ?? (bits > MAX_MAP_BITS ? notPlain(stored.name, element) : null);
    return intern({ ...stored, special, kind: "int", flip: 0, lanes, map: values }, 0, atoms);
  }
  if (element.bits > MAX_MAP_BITS) return notPlain(stored.name, element);
  const codes = Array.from({ length: 2 ** element.bits }, (_, code) => BigInt(code));
  const map = codes.map((code) => toNumber(elementValue(element, code, 0)));
  return intern({ ...stored, kind: "int", flip: 0, lanes: 1, map }, 0, atoms);
}

function minus(a: Product): Product {
  return { factor: negate(a.factor), atoms: a.atoms };
}

function times(a: Product, b: Product): Product {
  return { factor: multiply(a.factor, b.factor), atoms: [...a.atoms, ...b.atoms].toSorted((x, y) => x - y) };
}

function storedAt(
  name: string,
  { type, repeat }: Scope,
  at: (i: number) => readonly number[],
  laneAt: ((i: number) => number) | null,
): Stored {
  const one = Array.from({ length: type.blockSize }, (_, i) => at(i));
  const moved = (by: number): readonly (readonly number[])[] =>
    by === 0 ? one : one.map((positions) => positions.map((position) => position + 8 * type.blockBytes * by));
  const bits = Array.from({ length: repeat }, (_, by) => moved(by)).flat();
  const lane = laneAt && bits.map((_, i) => laneAt(i % type.blockSize));
  const places = bits.map((positions, i) => (lane === null ? positions.join() : `${positions.join()}@${lane[i]}`));
  return { name, bits, lane, places: places.join(";"), period: periodOf(places), special: null };
}

/** atom - zero, where an atom that reads the same bits in the same way as an earlier one is that one. */
function intern(atom: Atom, zero: number, atoms: Atom[]): Polynomial {
  const readingOf = (a: Atom): string =>
    `${a.special} ${a.kind === "int" ? `${a.flip} ${a.map?.join() ?? ""}` : formatOf(a.element)}`;
  const reading = readingOf(atom);
  let index = atoms.findIndex((other) => other.places === atom.places && readingOf(other) === reading);
  if (index === -1) index = atoms.push(atom) - 1;
  return collect([
    { factor: exactNumber(1n), atoms: [index] },
    { factor: exactNumber(BigInt(-zero)), atoms: [] },
  ]);
}

/** Adds the factors of products with the same atoms and drops those that cancel. */
export function collect(terms: readonly Product[]): Polynomial {
  const sums = new Map<string, Product>();
  for (const term of terms) {
    const key = term.atoms.join();
    const before = sums.get(key);
    sums.set(key, before === undefined ? term : { ...term, factor: add(before.factor, term.factor) });
  }
  return [...sums.values()].filter(({ factor }) => factor.kind === "finite" && factor.significand !== 0n);
}

function periodOf(places: readonly string[]): number {
  // Every change between neighbours must fall on the edge of a group.
  let period = places.length;
  for (let i = 1; i < places.length; i++) if (places[i] !== places[i - 1]) period = gcd(period, i);
  return period;
}

/** a / b where that is exactly a double, else null. */
export function quotient(a: Exact, b: Exact): number | null {
  if (a.kind !== "finite" || b.kind !== "finite" || a.significand % b.significand !== 0n) return null;
  const magnitude = exactNumber(a.significand / b.significand, a.exponent - b.exponent);
  return asDouble(a.negative === b.negative ? magnitude : negate(magnitude));
}

/** The double that equals `a`, or null where there is none. */
export function asDouble(a: Exact): number | null {
  if (a.kind !== "finite") return null;
  const fits = a.significand < 2n ** 53n && a.exponent >= -1074 && a.exponent <= 971;
  return fits ? toNumber(a) : null;
}

/** Bit by bit, the fewest runs of constant stride; then neighbouring bits that run together become one run. */
export function runsOf(entries: readonly (readonly number[])[], bits: number): readonly Run[] {
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
