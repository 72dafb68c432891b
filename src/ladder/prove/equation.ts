// The equation of a structure: value(i) = scale(g) * (code(i) - zero) + offset(g), proved for all blocks at once. Both
// sides are multiplied out into polynomials whose variables are the stored bits (b * b = b, so that each function has
// one form only) and the floats and tables that stand for bits as a whole; they must be the same term for term.
// The structure is layout.ts's; nothing here follows how it was derived. The sign of a zero does not count.

import { type Exact, fromNumber } from "../exact.ts";
import { elementOf, type Form, formAt, oddPart, type Tree } from "./form.ts";
import {
  type AffineStructure,
  type FloatField,
  type GroupTerm,
  type MappedCodes,
  type MappedStructure,
  mappedStructureOf,
  type MappedTerm,
} from "../layout.ts";
import { numbersOf } from "../listed.ts";
import type { Element, Type } from "../type.ts";

/** significand * 2^exponent, not reduced. */
interface Factor {
  readonly significand: bigint;
  readonly exponent: number;
}

/** Factors by their variables, as text. */
type Polynomial = ReadonlyMap<string, Factor>;

/** The integers that a structure's codes stand for: code - shift. */
export interface Integers {
  readonly low: number;
  readonly high: number;
  readonly shift: number;
}

export type ProvedStructure =
  /** `integers`: the codes as they are stored, and from the zero point where that is a whole number. */
  | { readonly kind: "proved"; readonly structure: MappedStructure; readonly integers: readonly Integers[] }
  | { readonly kind: "none"; readonly reason: string };

const proved = new WeakMap<Type, ProvedStructure>();

/** The structure of a type, with the equation proved for every block whose stored floats are finite. */
export function provedStructure(type: Type): ProvedStructure {
  let structure = proved.get(type);
  if (structure === undefined) proved.set(type, (structure = proveStructure(type)));
  return structure;
}

function proveStructure(type: Type): ProvedStructure {
  const { value } = type;
  // Only an element by itself is read without a lane; a structure of its first numbers would say nothing of the others.
  if (value.kind === "element" && value.field.element.kind === "table" && value.field.element.lanes > 1)
    return { kind: "none", reason: `a code of it stands for ${value.field.element.lanes} numbers` };
  const found = mappedStructureOf(type);
  if (found.kind === "float") return { kind: "none", reason: "it is a plain float" };
  if (found.kind === "none") return found;
  const structure = asMapped(found);
  const broken = firstBroken(type, structure);
  if (broken === null) return { kind: "proved", structure, integers: integersOf(structure) };
  return { kind: "none", reason: `what was derived is not what is declared at value ${broken}` };
}

function asMapped(structure: AffineStructure | MappedStructure): MappedStructure {
  if (structure.kind === "mapped") return structure;
  const { codes, scale, offset } = structure;
  const unmapped = (term: GroupTerm): MappedTerm => ({ ...term, codes: term.codes && { ...term.codes, map: null } });
  const terms = { scale: unmapped(scale), offset: offset && unmapped(offset) };
  return { ...structure, kind: "mapped", codes: { ...codes, map: null }, ...terms };
}

function integersOf({ codes: { map, bits }, zero }: MappedStructure): readonly Integers[] {
  const low = map === null ? 0 : Math.min(...map);
  const high = map === null ? 2 ** bits - 1 : Math.max(...map);
  const plain = { low, high, shift: 0 };
  if (zero === 0 || !Number.isInteger(zero)) return [plain];
  return [plain, { low: low - zero, high: high - zero, shift: zero }];
}

/**
 * The first place at which a structure does not say what the type declares; null where the equation holds for every
 * block whose stored floats are finite.
 */
export function firstBroken(type: Type, structure: MappedStructure): number | null {
  const { groupSize, zero, scale, offset } = structure;
  const codes = placesOf(structure.codes, type.blockSize);
  const groups = type.blockSize / groupSize;
  const [scaleAt, offsetAt] = [termAt(scale, groups), offset && termAt(offset, groups)];
  for (let i = 0; i < type.blockSize; i++) {
    const g = Math.floor(i / groupSize);
    const steps = plus(codePolynomial(structure.codes, codes[i]!), constant(-zero));
    const claimed = times(scaleAt(g), steps);
    const form = formAt(type, i);
    if (form === null || !equal(declared(form), offsetAt === null ? claimed : plus(claimed, offsetAt(g)))) return i;
  }
  return null;
}

/** The positions of the bits of every code, the least significant first, as the runs say. */
function placesOf({ runs, bits }: MappedCodes, count: number): readonly (readonly number[])[] {
  const places = Array.from({ length: count }, () => Array.from({ length: bits }, () => -1));
  for (const { first, count: length, bit, step, width, shift } of runs) {
    for (let j = 0; j < length; j++) {
      for (let w = 0; w < width; w++) places[first + j]![shift + w] = bit + j * step + w;
    }
  }
  return places;
}

function codePolynomial({ bits, flip, map }: MappedCodes, places: readonly number[]): Polynomial {
  return map === null ? integer(places, flip, bits) : table(map, places);
}

function termAt({ constant: factor, fields, codes }: MappedTerm, groups: number): (g: number) => Polynomial {
  const plain = fields.map(floatPolynomial).reduce(times, constant(factor));
  if (codes === null) return () => plain;
  const places = placesOf(codes, groups);
  return (g) => times(plain, plus(codePolynomial(codes, places[g]!), constant(-codes.bias)));
}

const FORMATS: Readonly<Record<FloatField["format"], string>> = {
  f16: "5 10 15 ieee",
  bf16: "8 7 127 ieee",
  f32: "8 23 127 ieee",
};

function floatPolynomial({ format, byte }: FloatField): Polynomial {
  const bits = format === "f32" ? 32 : 16;
  return variable(`[${FORMATS[format]} ${Array.from({ length: bits }, (_, k) => 8 * byte + k).join()}]`);
}

// --- what is declared -----------------------------------------------------------------------------------------------

function declared({ leaves, tree }: Form): Polynomial {
  const polynomials = leaves.map((leaf) => elementPolynomial(elementOf(leaf), leaf.places!));
  const visit = (part: Tree): Polynomial => {
    switch (part.kind) {
      case "leaf":
        return polynomials[part.leaf]!;
      case "constant":
        return exactly(part.value);
      case "negate":
        return times(constant(-1), visit(part.operand));
      case "binary": {
        const [left, right] = [visit(part.left), visit(part.right)];
        if (part.operator === "*") return times(left, right);
        return plus(left, part.operator === "+" ? right : times(constant(-1), right));
      }
    }
  };
  return visit(tree);
}

function elementPolynomial(element: Element, places: readonly number[]): Polynomial {
  if (element.kind === "int") return plus(integer(places, element.flip, element.bits), constant(-element.zero));
  const float = element.kind === "float" && element.sign === "yes" && element.subnormals === "yes" ? element : null;
  const format = float && `${float.exponent} ${float.mantissa} ${float.bias} ${float.special}`;
  if (format !== null && (element.bits > 8 || Object.values(FORMATS).includes(format)))
    return variable(`[${format} ${places.join()}]`);
  return table(numbersOf(element), places);
}

// --- polynomials ----------------------------------------------------------------------------------------------------

const ONE: Factor = { significand: 1n, exponent: 0 };

function variable(name: string): Polynomial {
  return new Map([[name, ONE]]);
}

function constant(x: number): Polynomial {
  return exactly(fromNumber(x));
}

function exactly(x: Exact): Polynomial {
  if (x.kind !== "finite") throw new Error("a structure has finite constants only");
  if (x.significand === 0n) return new Map();
  return new Map([["", { significand: x.negative ? -x.significand : x.significand, exponent: x.exponent }]]);
}

/** The unsigned number of the bits, of which those of `flip` are turned round: 1 - b for b. */
function integer(places: readonly number[], flip: number, bits: number): Polynomial {
  let sum: Polynomial = new Map();
  for (let k = 0; k < bits; k++) {
    const bit = new Map([[String(places[k]), ONE]]);
    const isTurned = Math.floor(flip / 2 ** k) % 2 === 1;
    const term = isTurned ? plus(constant(1), times(constant(-1), bit)) : bit;
    sum = plus(sum, times(constant(2 ** k), term));
  }
  return sum;
}

const tables = new WeakMap<object, { readonly name: string; readonly low: number }>();
const names = new Map<string, number>();

/** A table over bits as one variable: the numbers in units of the lowest bit that any has, so that units do not matter. */
function table(numbers: ArrayLike<number> & object, places: readonly number[]): Polynomial {
  let known = tables.get(numbers);
  if (known === undefined) {
    const list = Array.from(numbers);
    const low = list.reduce(
      (least, x) => (Number.isFinite(x) && x !== 0 ? Math.min(least, oddPart(x).power) : least),
      1024,
    );
    const text = list.map((x) => (Number.isFinite(x) && x !== 0 ? wholeText(x, low) : String(x))).join();
    if (!names.has(text)) names.set(text, names.size);
    tables.set(numbers, (known = { name: `t${names.get(text)}`, low }));
  }
  return new Map([[`[${known.name} ${places.join()}]`, { significand: 1n, exponent: known.low }]]);
}

function wholeText(x: number, low: number): string {
  const { odd, power } = oddPart(x);
  return `${x < 0 ? "-" : ""}${odd}p${power - low}`;
}

function plus(a: Polynomial, b: Polynomial): Polynomial {
  const sum = new Map(a);
  for (const [name, factor] of b) {
    const before = sum.get(name);
    const after = before === undefined ? factor : added(before, factor);
    if (after.significand === 0n) sum.delete(name);
    else sum.set(name, after);
  }
  return sum;
}

function added(a: Factor, b: Factor): Factor {
  const exponent = Math.min(a.exponent, b.exponent);
  const scaled = (x: Factor): bigint => x.significand << BigInt(x.exponent - exponent);
  return { significand: scaled(a) + scaled(b), exponent };
}

function times(a: Polynomial, b: Polynomial): Polynomial {
  const product = new Map<string, Factor>();
  for (const [left, x] of a) {
    for (const [right, y] of b) {
      const name = joined(left, right);
      const factor = { significand: x.significand * y.significand, exponent: x.exponent + y.exponent };
      const before = product.get(name);
      const after = before === undefined ? factor : added(before, factor);
      if (after.significand === 0n) product.delete(name);
      else product.set(name, after);
    }
  }
  return product;
}

/** The variables of a product, sorted: a bit once, floats and tables as often as they stand there. */
function joined(left: string, right: string): string {
  if (left === "" || right === "") return left + right;
  const all = [...left.split(";"), ...right.split(";")].toSorted();
  return all.filter((name, n) => name !== all[n - 1] || name.startsWith("[")).join(";");
}

function equal(a: Polynomial, b: Polynomial): boolean {
  if (a.size !== b.size) return false;
  for (const [name, factor] of a) {
    const other = b.get(name);
    if (other === undefined || added(factor, { ...other, significand: -other.significand }).significand !== 0n)
      return false;
  }
  return true;
}
