// How a type's bytes are taken apart into integer codes and scales: the seam between the language and every machine.
// A Structure is derived from the declaration, never written by hand; native code executes it as a descriptor.
// The derivation multiplies the value out into a polynomial over the stored numbers (atoms), worked out for every i.

import { add, type Exact, exactNumber, multiply, negate, toNumber } from "./exact.ts";
import { bitsAt, elementBits, indexAt } from "./expr.ts";
import type { FloatElement, Type, Value } from "./type.ts";

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

/** Native loops hold codes in 16-bit lanes. */
const MAX_CODE_BITS = 16;
/** Products of a value that is multiplied out; the formats in use need four. */
const MAX_PRODUCTS = 64;

/**
 * The structure of a type, derived from its declaration: the codes with as few and as long runs as there are, in
 * ascending order of shift (those of shift 0 fill every element), the largest group size, and the scale and offset
 * of a group. Types outside the form of AffineStructure and other than plain floats get `{kind: "none"}` with the
 * reason. Equal to exact.ts for every block of bytes whose float fields are finite (but for the sign of a zero).
 */
export function structureOf(type: Type): Structure {
  const atoms: Atom[] = [];
  const value = expand(type.value, type, atoms);
  if (value === null) return none(`its value multiplies out to more than ${MAX_PRODUCTS} products`);
  const used = atoms.filter((_, a) => value.some((term) => term.atoms.includes(a)));
  const floats = used.filter((atom) => atom.kind === "float");
  const ints = used.filter((atom) => atom.kind === "int");
  if (ints.length === 0) return floatStructure(type, value, floats);

  for (const { name, element, period } of floats) {
    if (formatOf(element) === null) return none(`${name} is ${element.name}, which is none of f16, bf16 and f32`);
    if (period !== type.blockSize) return none(`the float field ${name} changes inside the block`);
  }
  const finest = Math.min(...ints.map(({ period }) => period));
  const [main, rival] = ints.filter(({ period }) => period === finest);
  if (rival !== undefined) return none(`both ${main!.name} and ${rival.name} change every ${plural(finest, "value")}`);
  const codes = codesOf(main!, type.blockSize, 1);
  if (codes === null)
    return none(`${main!.name} has ${main!.bits[0]!.length} bits, and codes have at most ${MAX_CODE_BITS}`);
  const groupSize = ints.reduce((size, atom) => (atom === main ? size : gcd(size, atom.period)), type.blockSize);

  // value = slope * code + rest
  const at = atoms.indexOf(main!);
  const slope: Product[] = [];
  const rest: Product[] = [];
  for (const { factor, atoms: list } of value) {
    const others = list.filter((a) => a !== at);
    const power = list.length - others.length;
    if (power > 1) return none(`its value has ${main!.name} to the power of ${power}`);
    (power === 1 ? slope : rest).push({ factor, atoms: others });
  }
  const { zero, offset } = splitZero(slope, rest);
  const scaleTerm = groupTerm(slope, atoms, type.blockSize, groupSize);
  if (scaleTerm === null) return none(`the scale of ${main!.name} is no product of float fields and one code`);
  const offsetTerm = offset.length === 0 ? null : groupTerm(offset, atoms, type.blockSize, groupSize);
  if (offset.length > 0 && offsetTerm === null) return none("its offset is no product of float fields and one code");
  return { kind: "affine", codes, groupSize, zero, scale: scaleTerm, offset: offsetTerm };
}

/** f16, bf16 or f32 by the parameters of the element, or null: names mean nothing here. */
function formatOf({ exponent, mantissa, bias, special }: FloatElement): FloatField["format"] | null {
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

function none(reason: string): NoStructure {
  return { kind: "none", reason };
}

function plural(count: number, noun: string): string {
  return count === 1 ? noun : `${count} ${noun}s`;
}

/** A stored number as a function of i. An int atom is the unsigned number (bits xor flip). */
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
}

/** factor * the product of atoms, which are indices into the list of atoms, ascending, repeated for powers. */
interface Product {
  readonly factor: Exact;
  readonly atoms: readonly number[];
}

/** A sum of products with different atoms, no factor zero. */
type Polynomial = readonly Product[];

/** The value multiplied out, with its atoms appended to `atoms`; null where it gets too large. */
function expand(value: Value, type: Type, atoms: Atom[]): Polynomial | null {
  if (value.kind === "constant") {
    return collect([{ factor: exactNumber(value.significand, value.exponent), atoms: [] }]);
  }
  if (value.kind === "code") {
    const { name, bits } = value.code;
    const stored = storedAt(name, type, (i) => bitsAt(bits, indexAt(value.index, i)));
    return intern({ ...stored, kind: "int", flip: 0 }, 0, atoms);
  }
  if (value.kind === "element") {
    const { field, index } = value;
    const { name, element } = field;
    const stored = storedAt(name, type, (i) => elementBits(field, indexAt(index, i)));
    return element.kind === "float"
      ? intern({ ...stored, kind: "float", element }, 0, atoms)
      : intern({ ...stored, kind: "int", flip: element.flip }, element.zero, atoms);
  }
  if (value.kind === "negate") return expand(value.operand, type, atoms)?.map(minus) ?? null;
  const left = expand(value.left, type, atoms);
  const right = expand(value.right, type, atoms);
  if (left === null || right === null) return null;
  const sum = collect(
    value.operator === "*"
      ? left.flatMap((a) => right.map((b) => times(a, b)))
      : [...left, ...(value.operator === "+" ? right : right.map(minus))],
  );
  return sum.length > MAX_PRODUCTS ? null : sum;
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
  const flipOf = (a: Atom): number | null => (a.kind === "int" ? a.flip : null);
  let index = atoms.findIndex((other) => other.places === atom.places && flipOf(other) === flipOf(atom));
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
  if (format === null) return none(`${atom.name} is ${atom.element.name}, which is none of f16, bf16 and f32`);
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
function groupTerm(terms: Polynomial, atoms: readonly Atom[], blockSize: number, groupSize: number): GroupTerm | null {
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
function codesOf(atom: IntAtom, blockSize: number, groupSize: number): Codes | null {
  const entries = Array.from({ length: blockSize / groupSize }, (_, g) => atom.bits[g * groupSize]!);
  const bits = entries[0]!.length;
  if (bits > MAX_CODE_BITS) return null;
  return { runs: runsOf(entries, bits), bits, flip: atom.flip };
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
