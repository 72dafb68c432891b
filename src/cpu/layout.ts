// How the backend keeps each weight and how many bytes that takes: the decisions that native/weights.h carries out. A
// type comes here as its levels (ladder/levels.ts), never by name. Three families: tiles of codes that stand for small
// integers, which int8 activations are multiplied with; tiles of codes into a table of floats; and rows of plain floats,
// into which weights that fit neither are converted while they are loaded.

import type { WeightTensor } from "../backend.ts";
import { gcd } from "../ladder/divisor.ts";
import { type GroupNumber, type GroupProduct, levelsOf, type LevelStructure, type Part } from "../ladder/levels.ts";
import { numbersOf } from "../ladder/listed.ts";
import type { Type } from "../ladder/type.ts";

/** Activations are quantised in groups of this many values, so that k must be a multiple of it. */
const ACTIVATION_GROUP = 16;
/** Rows of a tile. */
export const TILE_ROWS = 64;
/** Values of a row whose codes lie together. */
const CHUNK = 32;
/** Codes of integers that stand for others are looked up in a register of 16 bytes. */
const MAX_STEPS = 16;
/** Values that share a scale where all have the same: enough to make its bytes few, few enough for sums to stay short. */
const CONSTANT_GROUP = 256;

/** Numbers of five ternary digits hold so many values. */
const FIVES = 13;
const TERNARY_CHUNK = 64;

export type Use = "matrix" | "vector";

/**
 * How a matrix of tiles is multiplied, which decides how its codes lie in memory: with activations; by looking sums of four
 * activations up for each bit of four codes; or sums of five for five codes, in 13 bytes for 64 codes below 3.
 */
export type Method = "dot" | "lookup" | "ternary";

/** Plain floats: (n, k) row-major, or a vector, which is always of f32. */
export interface Rows {
  readonly kind: "rows";
  readonly format: "f16" | "bf16" | "f32";
  /** Whether the file has the numbers in another form, so that they are decoded as they are loaded. */
  readonly converted: boolean;
}

/** One f16 as it is stored. */
interface HalfTerm {
  readonly field: number;
}

/** One f16 for a block times an integer of 8 bits for each group: multiplier * code + addend; `code` is -1 for none. */
interface TwoLevelTerm {
  readonly field: number;
  readonly code: number;
  readonly multiplier: number;
  readonly addend: number;
}

interface FloatTerm {
  readonly products: readonly GroupProduct[];
}

/** How scales and offsets are kept: all in the narrowest form that holds them exactly, else as f32. */
type Scales =
  | { readonly kind: "half"; readonly scale: HalfTerm; readonly offset: HalfTerm | null }
  | { readonly kind: "two-level"; readonly scale: TwoLevelTerm; readonly offset: TwoLevelTerm | null }
  /** The same where the integers of both are from 0 to 15, or from -15 to 0: they share a byte. */
  | { readonly kind: "nibbles"; readonly scale: TwoLevelTerm; readonly offset: TwoLevelTerm }
  | { readonly kind: "float"; readonly scale: FloatTerm; readonly offset: FloatTerm | null };

/** Bits of a code in memory. */
type Width = 1 | 2 | 3 | 4 | 5 | 6 | 8;

/** Tiles of codes: value = factor * (scale(g) * level + offset(g)), level by `product`. */
export interface Tiles {
  readonly kind: "tiles";
  /** Of what is taken apart at once. */
  readonly blockSize: number;
  readonly blockBytes: number;
  readonly parts: readonly Part[];
  /** The code in memory for each sum of digits (or for each code as it is stored); null where they are the same. */
  readonly remap: readonly number[] | null;
  /** Of a code in memory. */
  readonly bits: Width;
  /** Codes in memory are below it. */
  readonly count: number;
  readonly group: number;
  readonly product:
    /** level = step(code) - zero, with integers from 0 to 255 as steps: `steps[code]`, or the code itself. */
    | { readonly kind: "integer"; readonly zero: number; readonly steps: readonly number[] | null }
    /** level = table[code], an f32. */
    | { readonly kind: "table"; readonly table: readonly number[] };
  readonly numbers: readonly GroupNumber[];
  readonly scales: Scales;
  /** A power of two. */
  readonly factor: number;
}

export type Placement = Rows | Tiles;

/** How tensors are kept, worked out once for each type and kind of row, since it takes milliseconds. */
export class Placements {
  readonly #known = new Map<Type, Map<string, Placement>>();

  /** How a tensor is kept; every type has a way. Tensors of one type get one object where they are kept alike. */
  of({ type, shape }: WeightTensor, use: Use): Placement {
    let known = this.#known.get(type);
    if (known === undefined) this.#known.set(type, (known = new Map<string, Placement>()));
    const divisor = use === "matrix" ? gcd(shape.at(-1) ?? 0, CONSTANT_GROUP) : 0;
    const key = `${use} ${divisor}`;
    let placement = known.get(key);
    if (placement === undefined) known.set(key, (placement = placementOf(type, use, divisor)));
    return placement;
  }
}

/** @param divisor of a matrix: the greatest common one of CONSTANT_GROUP and the length of its rows */
function placementOf(type: Type, use: Use, divisor: number): Placement {
  const levels = levelsOf(type);
  if (levels.kind === "float") return { kind: "rows", format: levels.format, converted: false };
  if (use === "vector") return { kind: "rows", format: "f32", converted: true };
  const tiles = levels.kind === "levels" && divisor % ACTIVATION_GROUP === 0 ? tilesOf(levels, divisor) : null;
  return tiles ?? { kind: "rows", format: narrowest(type), converted: true };
}

/** The tiles of a matrix; null where a level is no f32. */
function tilesOf(structure: LevelStructure, divisor: number): Tiles | null {
  const { blockSize, blockBytes, numbers, groupSize, levels } = structure;
  const integers = integersOf(levels);
  const isFloat = (x: number): boolean => Number.isNaN(x) || Math.fround(x) === x;
  if (integers === null && !levels.every(isFloat)) return null;
  const unit = integers?.unit ?? 1;
  const scale = structure.scale.map(({ constant, factors }) => ({ constant: constant * unit, factors }));
  const common = { blockSize, blockBytes, numbers, ...scalesOf(scale, structure.offset, structure) };
  const group = numbers.length === 0 ? divisor : groupSize;
  const { codeOf, count, product } = integers ?? {
    codeOf: (n: number) => n,
    count: levels.length,
    product: { kind: "table", table: levels } as const,
  };
  const bits = product.kind === "table" ? tableWidthFor(count) : widthFor(count);
  return { kind: "tiles", ...common, group, bits, count, product, ...remapped(structure, codeOf) };
}

interface Integers {
  /** The code in memory of level n. */
  readonly codeOf: (n: number) => number;
  /** Codes are below it. */
  readonly count: number;
  /** What a step of 1 is worth. */
  readonly unit: number;
  readonly product: Tiles["product"];
}

/** Levels as unit * (step - zero) with steps from 0 to 255, in as few bits a code as there can be; null where they are not. */
function integersOf(levels: readonly number[]): Integers | null {
  if (!levels.every(Number.isFinite)) return null;
  let fraction = 1;
  while (!levels.every((x) => Number.isSafeInteger(x / fraction))) {
    fraction /= 2;
    if (fraction < 2 ** -149 || levels.some((x) => Math.abs(x / fraction) > 2 ** 53)) return null;
  }
  const whole = levels.map((x) => x / fraction);
  const [low, high] = [Math.min(...whole), Math.max(...whole)];
  const apart = whole.map((x) => x - low).reduce(gcd, 0) || 1;
  // A zero point that is a whole number of steps where that needs no more bits.
  const even = gcd(apart, Math.abs(low));
  const width = (step: number): number => ((high - low) / step < 256 ? widthFor((high - low) / step + 1) : 16);
  const exact = (-low / apart) * apart === -low && Math.fround(-low / apart) === -low / apart;
  const step = width(even) === width(apart) || !exact ? even : apart;
  const zero = -low / step;
  if ((high - low) / step >= 256 || Math.fround(zero) !== zero) return null;
  const places = whole.map((x) => (x - low) / step);
  const unit = step * fraction;
  const distinct = [...new Set(places)];
  const count = (high - low) / step + 1;
  if (distinct.length > MAX_STEPS || widthFor(distinct.length) === widthFor(count))
    return { codeOf: (n) => places[n]!, count, unit, product: { kind: "integer", zero, steps: null } };
  const codes = new Map(distinct.map((place, code) => [place, code]));
  const product = { kind: "integer", zero, steps: distinct } as const;
  return { codeOf: (n) => codes.get(places[n]!)!, count: distinct.length, unit, product };
}

/** Bits for codes in [0, count): of 7, kernels have none. */
function widthFor(count: number): Width {
  return ([1, 2, 3, 4, 5, 6] as const).find((bits) => count <= 2 ** bits) ?? 8;
}

/** The same for tables, whose kernels have fewer widths. */
function tableWidthFor(count: number): Width {
  return count <= 4 ? 2 : count <= 16 ? 4 : 8;
}

/** The parts with what their digits become in memory; one small code without lanes needs no digits. */
function remapped({ parts, order }: LevelStructure, codeOf: (n: number) => number): Pick<Tiles, "parts" | "remap"> {
  const codes = order.map(codeOf);
  const [only, another] = parts;
  if (only === undefined || another !== undefined || only.lane !== null || only.codes.bits > 8)
    return { parts, remap: codes };
  const { digits } = only;
  const direct = digits === null ? codes : digits.map((digit) => codes[digit]!);
  const isSame = direct.every((code, stored) => code === stored);
  return { parts: [{ ...only, digits: null }], remap: isSame ? null : direct };
}

function scalesOf(
  scale: readonly GroupProduct[],
  offset: readonly GroupProduct[],
  { numbers, blockSize, groupSize }: LevelStructure,
): Pick<Tiles, "scales" | "factor"> {
  const terms = offset.length === 0 ? [scale] : [scale, offset];
  const factor = powerOf(terms.flat().map(({ constant }) => constant));
  const isHalf = (f: number | undefined): f is number => {
    const stands = f === undefined ? undefined : numbers[f]?.stands;
    return stands?.kind === "float" && stands.format === "f16";
  };
  const half = (term: readonly GroupProduct[]): HalfTerm | null => {
    const [only, another] = term;
    const [field, more] = only?.factors ?? [];
    if (only === undefined || another !== undefined || more !== undefined || only.constant !== factor) return null;
    return isHalf(field) ? { field } : null;
  };
  const twoLevel = (term: readonly GroupProduct[]): TwoLevelTerm | null => {
    let [field, code, multiplier, addend] = [-1, -1, 0, 0];
    for (const { constant, factors } of term) {
      const [own, other] = [factors.filter(isHalf), factors.filter((f) => !isHalf(f))];
      if (own.length !== 1 || other.length > 1 || (field !== -1 && own[0] !== field)) return null;
      field = own[0]!;
      if (other.length === 0) addend = constant / factor;
      else if (code !== -1 || numbers[other[0]!]!.stands.kind !== "integer") return null;
      else [code, multiplier] = [other[0]!, constant / factor];
    }
    const fits = integersIn({ field, code, multiplier, addend }, -128, 127);
    // The f16 is one for the whole block, or there would be nothing to share.
    const isShared = field !== -1 && numbers[field]!.codes.runs.every((run) => run.step === 0);
    // Groups of 48, say, are kept as three of 16, which have their scales each.
    const isWhole = kernelGroup(groupSize) === groupSize && blockSize % CHUNK === 0;
    return fits && isShared && isWhole && groupSize < blockSize ? { field, code, multiplier, addend } : null;
  };
  /** Whether the integer of every group is from `low` to `high`. */
  const integersIn = ({ code, multiplier, addend }: TwoLevelTerm, low: number, high: number): boolean => {
    const last = addend + multiplier * (code === -1 ? 0 : 2 ** numbers[code]!.codes.bits - 1);
    return Math.min(addend, last) >= low && Math.max(addend, last) <= high;
  };
  const isNibble = (term: TwoLevelTerm): boolean => integersIn(term, 0, 15) || integersIn(term, -15, 0);
  const [halves, levels] = [terms.map(half), terms.map(twoLevel)];
  if (halves.every((term) => term !== null))
    return { factor, scales: { kind: "half", scale: halves[0]!, offset: halves[1] ?? null } };
  if (levels.every((term) => term !== null)) {
    const [first, second] = levels;
    if (second !== undefined && levels.every(isNibble))
      return { factor, scales: { kind: "nibbles", scale: first!, offset: second } };
    return { factor, scales: { kind: "two-level", scale: first!, offset: second ?? null } };
  }
  const [first, second] = terms.map((products) => ({ products }));
  return { factor: 1, scales: { kind: "float", scale: first!, offset: second ?? null } };
}

/** What a group of the file is kept as: chunks, or halves of one. */
function kernelGroup(group: number): number {
  return group % CHUNK === 0 ? group : ACTIVATION_GROUP;
}

/** The largest power of two of which all are integer multiples. */
function powerOf(constants: readonly number[]): number {
  let power = 2 ** 15;
  while (power > 2 ** -64 && !constants.every((x) => Number.isInteger(x / power))) power /= 2;
  return power;
}

/** The narrowest plain float that holds every value of a type: known for elements of 16 bits, else f32, which rounds. */
function narrowest({ value }: Type): Rows["format"] {
  const element = value.kind === "element" ? value.field.element : value.kind === "apply" ? value.element : null;
  const isListed = element !== null && element.bits <= 16;
  if (!isListed) return "f32";
  const numbers = [...numbersOf(element)].filter((x) => !Number.isNaN(x));
  if (numbers.every((x) => !Number.isFinite(x) || isHalfNumber(x))) return "f16";
  return numbers.every((x) => !Number.isFinite(x) || isBfloat(x)) ? "bf16" : "f32";
}

function isHalfNumber(x: number): boolean {
  // Eleven significant bits, down to 2^-24 and below 2^16.
  const last = Math.max(Math.floor(Math.log2(Math.abs(x) || 1)) - 10, -24);
  return Math.abs(x) < 65_520 && Number.isInteger(x / 2 ** last);
}

function isBfloat(x: number): boolean {
  return Math.fround(x) === x && (new Uint32Array(Float32Array.of(x).buffer)[0]! & 0xffff) === 0;
}

/** Bytes of a tensor as it is kept: whole tiles of 64 rows for matrices, f32 for vectors. */
export function placedBytes(placement: Placement, { shape }: WeightTensor, use: Use, method: Method): number {
  const [n = 0, k = 0] = shape;
  if (use === "vector") return 4 * n;
  const rows = Math.ceil(n / TILE_ROWS) * TILE_ROWS;
  if (placement.kind === "rows") return rows * k * (placement.format === "f32" ? 4 : 2);
  const { bits, blockSize, scales } = placement;
  const group = kernelGroup(placement.group);
  const terms = scales.offset === null ? 1 : 2;
  const isShared = scales.kind === "two-level" || scales.kind === "nibbles";
  const groups = isShared ? blockSize / group : Math.max(1, CHUNK / group); // of a block
  const termBytes = { half: 2 * groups, float: 4 * groups, "two-level": 2 + groups, nibbles: 2 + groups / 2 };
  const blockBytes = termBytes[scales.kind] * terms;
  const codeBytes = method === "ternary" ? FIVES / TERNARY_CHUNK : bits / 8;
  return rows * Math.ceil(k / (group * groups)) * (blockBytes + group * groups * codeBytes);
}

/** Whether the ternary kernels can run a matrix: those of three levels, in groups that are kept whole. */
export function isTernary({ count, group, product }: Tiles): boolean {
  return product.kind === "integer" && product.steps === null && count === 3 && group % TERNARY_CHUNK === 0;
}

/** Bytes that the CPU backend holds for these tensors, or a little less where its kernels are ternary. */
export function memoryBytes(tensors: Iterable<WeightTensor>): number {
  const placements = new Placements();
  let total = 0;
  for (const tensor of tensors) {
    const use = tensor.shape.length === 2 ? "matrix" : "vector";
    total += placedBytes(placements.of(tensor, use), tensor, use, "dot");
  }
  return total;
}
