// The form of a type by experiment, for types that have no affine structure: tables, small floats, exponents, posits,
// digits. Which stored bits move which values is found by flipping them; the bits that move few values are their codes,
// the others are scales; what each code and each scale is worth is read off decoded blocks. Nothing is known of the
// kinds of elements here, so that new ones need no change. Whether the form is right is proved afterwards (encode.ts).
// Not here: types with an affine structure (encode-form.ts), which are most.

import { decode } from "../ladder/emit/codec.ts";
import { exactValue, toNumber } from "../ladder/exact.ts";
import type { Type } from "../ladder/type.ts";
import { FLOAT_SHAPES, floatCode, floatNumber, putBits, putFloat } from "./encode-bits.ts";
import type { Factor, Form, StoredFactor, Term } from "./encode-form.ts";
import { nearestLevel, tableGrid } from "./encode-grid.ts";

export type Probed =
  | { readonly kind: "form"; readonly form: Form }
  /** Why not, as the end of a sentence. */
  | { readonly kind: "none"; readonly reason: string };

/** Blocks of random bytes in which bits are flipped: enough that a code of zero hides no scale for long. */
const BACKGROUNDS = 8;
/** Numbers that may be decoded to find out which bits move what. */
const MAX_FLIPPED = 2 ** 25;
/** Codes of one value are tried up to this width, codes of several values up to the other. */
const MAX_CODE_BITS = 16;
const MAX_SHARED_BITS = 12;
/** Scales of up to this many bits are taken one by one, as they may lie far apart; wider ones are rounded to. */
const COARSE_BITS = 8;
const MAX_SCALE_BITS = 16;
/** A scale of this width is taken for an f32; where it is none, the proof of the form fails. */
const F32_BITS = 32;
const ONE_AS_F32 = 0x3f800000;
/** Scales, and codes for each, among which one is looked for that shows all levels well. */
const STATES_TRIED = 64;
const CODES_TRIED = 16;

/** Bits that are chosen together, and the values that they move; ascending both. */
interface Cell {
  readonly bits: readonly number[];
  readonly values: readonly number[];
}

/** Tries out what the type's bits mean. */
export function probedForm(type: Type): Probed {
  const { blockSize, blockBytes } = type;
  if (BACKGROUNDS * (8 * blockBytes + 1) * blockSize > MAX_FLIPPED)
    return none(`its block of ${blockSize} is too large`);
  const moved = movedValues(type);
  const widths = [...new Set(moved.map(({ size }) => size))].filter((size) => size > 0).toSorted((a, b) => b - a);
  let reason: string | null = null;
  for (const width of widths) {
    const cells = cellsOf(moved, width);
    const large = cells.find(
      ({ bits, values }) => bits.length > (values.length === 1 ? MAX_CODE_BITS : MAX_SHARED_BITS),
    );
    const owned = cells.flatMap(({ values }) => values);
    if (large !== undefined) {
      // Of a whole block that is no wonder: its scale is among them.
      if (large.values.length === blockSize && blockSize > 1) continue;
      reason = `${large.bits.length} stored bits choose ${plural(large.values.length)}, which is too many to try`;
    } else if (owned.length === blockSize && new Set(owned).size === blockSize) {
      const probed = formWith(type, cells, knobsOf(moved, width));
      return probed.kind === "none" && reason !== null ? none(reason) : probed;
    }
  }
  return none(reason ?? "no stored bits were found that choose its values one by one");
}

function plural(values: number): string {
  return values === 1 ? "a value" : `${values} values together`;
}

function none(reason: string): Probed {
  return { kind: "none", reason };
}

/** Numbers below 2^32 that look random and are always the same: Marsaglia's xorshift. */
function makeRandom(): () => number {
  let state = 2463534242;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** For each bit of the block, the values that change with it. */
function movedValues(type: Type): readonly ReadonlySet<number>[] {
  const { blockSize, blockBytes } = type;
  const bits = 8 * blockBytes;
  const moved = Array.from({ length: bits }, () => new Set<number>());
  const random = makeRandom();
  const bytes = new Uint8Array((bits + 1) * blockBytes);
  const out = new Float64Array((bits + 1) * blockSize);
  for (let b = 0; b < BACKGROUNDS; b++) {
    const background = Uint8Array.from({ length: blockBytes }, () => random() >>> 12);
    for (let k = 0; k <= bits; k++) {
      bytes.set(background, k * blockBytes);
      if (k < bits) bytes[k * blockBytes + (k >> 3)]! ^= 1 << (k & 7);
    }
    decode(type, bytes, out);
    const plain = bits * blockSize;
    for (const [k, set] of moved.entries()) {
      for (let i = 0; i < blockSize; i++) if (!Object.is(out[k * blockSize + i], out[plain + i])) set.add(i);
    }
  }
  return moved;
}

/** Bits that move at most `width` values, put together where they move a value in common. */
function cellsOf(moved: readonly ReadonlySet<number>[], width: number): readonly Cell[] {
  const cells: { bits: number[]; values: Set<number> }[] = [];
  for (const [bit, set] of moved.entries()) {
    if (set.size === 0 || set.size > width) continue;
    const joined = { bits: [bit], values: new Set(set) };
    for (let c = cells.length - 1; c >= 0; c--) {
      const cell = cells[c]!;
      if (![...set].some((value) => cell.values.has(value))) continue;
      joined.bits.push(...cell.bits);
      for (const value of cell.values) joined.values.add(value);
      cells.splice(c, 1);
    }
    cells.push(joined);
  }
  return cells.map(sortedCell);
}

/** Bits that move more values, put together where they move much the same ones. */
function knobsOf(moved: readonly ReadonlySet<number>[], width: number): readonly Cell[] {
  const knobs: { bits: number[]; values: Set<number> }[] = [];
  for (const [bit, set] of moved.entries()) {
    if (set.size <= width) continue;
    const knob = knobs.find(({ values }) => {
      const common = [...set].filter((value) => values.has(value)).length;
      return 2 * common > Math.max(set.size, values.size);
    });
    if (knob === undefined) {
      knobs.push({ bits: [bit], values: new Set(set) });
    } else {
      knob.bits.push(bit);
      for (const value of set) knob.values.add(value);
    }
  }
  return knobs.map(sortedCell);
}

function sortedCell({ bits, values }: { readonly bits: readonly number[]; readonly values: Iterable<number> }): Cell {
  const ascending = (a: number, b: number): number => a - b;
  return { bits: bits.toSorted(ascending), values: [...values].toSorted(ascending) };
}

/** The form with these cells as codes and these knobs as scales, read off blocks. */
function formWith(type: Type, cells: readonly Cell[], knobs: readonly Cell[]): Probed {
  const { blockSize } = type;
  const [whole = null, another] = knobs.filter(({ values }) => values.length === blockSize);
  const parts = knobs.filter(({ values }) => values.length < blockSize).toSorted((a, b) => a.values[0]! - b.values[0]!);
  const groupSize = parts[0]?.values.length ?? blockSize;
  const isTiled = parts.every(({ values }, g) => values.length === groupSize && values[0] === g * groupSize);
  const areTiles = parts.length === 0 || (isTiled && parts.every(isRun) && parts.length * groupSize === blockSize);
  if (!areTiles || another !== undefined) return none("its scales do not hold for equal groups of neighbours");
  const wide = [...parts, ...(whole === null ? [] : [whole])].find(({ bits }) => bits.length > MAX_SCALE_BITS);
  if (wide !== undefined && (wide !== whole || wide.bits.length !== F32_BITS))
    return none(`${wide.bits.length} stored bits together scale ${wide.values.length} of its values`);

  const reference = referenceBlock(type, cells, knobs);
  if (reference === null) return none("no scale was found for which all of its values are finite");
  const codes = codesOf(type, cells, reference);
  if ("reason" in codes) return none(codes.reason);
  const scalesOf = (knob: Cell): readonly Scale[] => knobScales(type, knob, codes);
  const common = {
    blockSize,
    groupSize,
    grid: tableGrid(codes.levels),
    putLevels: codes.put,
    offset: null,
    constant: 0,
  };
  const form = (factor: Factor, multiples: Float64Array, putChoices: Term["putChoices"]): Probed => ({
    kind: "form",
    form: { ...common, scale: { factor, multiples, putChoices }, putRest: () => undefined },
  });

  // A coarse scale is chosen among all there are, as sub-scales are.
  const isCoarse = whole !== null && parts.length === 0 && whole.bits.length <= COARSE_BITS;
  const chosen = isCoarse ? [whole] : parts;
  const factor: Factor = whole === null || isCoarse ? { kind: "one" } : storedFactor(type, whole, codes, scalesOf);
  const unit = factor.kind === "one" ? 1 : codes.size;
  const [first] = chosen;
  if (first === undefined) return form(factor, Float64Array.of(codes.size / unit), () => undefined);
  const scales = scalesOf(first);
  return form(
    factor,
    Float64Array.from(scales, ({ size }) => size / unit),
    (choices, bytes, base) => {
      for (const [g, knob] of chosen.entries()) putState(scales[choices[g]!]!.state, knob, bytes, base);
    },
  );
}

function isRun({ values }: Cell): boolean {
  return values.length === values.at(-1)! - values[0]! + 1;
}

/** Writes the bits of a cell or knob, its lowest place first, where the bytes are zero. */
function putState(state: number, { bits }: Cell, bytes: Uint8Array, base: number): void {
  for (const [k, bit] of bits.entries()) putBits(Math.floor(state / 2 ** k) % 2, 1, bytes, 8 * base + bit);
}

/**
 * A block with all codes 0 and scales, equal for all groups, with which the values come nearest to 1 in size among
 * some at random.
 */
function referenceBlock(type: Type, cells: readonly Cell[], knobs: readonly Cell[]): Uint8Array | null {
  const { blockSize, blockBytes } = type;
  const random = makeRandom();
  const bytes = new Uint8Array(CODES_TRIED * blockBytes);
  const out = new Float64Array(CODES_TRIED * blockSize);
  let best: Uint8Array | null = null;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (let t = 0; t < STATES_TRIED; t++) {
    const block = new Uint8Array(blockBytes);
    const [whole, part] = [random(), random()];
    for (const knob of knobs) putState(knob.values.length === blockSize ? whole : part, knob, block, 0);
    for (let c = 0; c < CODES_TRIED; c++) {
      bytes.set(block, c * blockBytes);
      for (const cell of cells) putState(random(), cell, bytes, c * blockBytes);
    }
    decode(type, bytes, out);
    const largest = new Float64Array(blockSize);
    for (const [n, value] of out.entries()) {
      const i = n % blockSize;
      if (Number.isFinite(value)) largest[i] = Math.max(largest[i]!, Math.abs(value));
    }
    const distance = Math.abs(Math.log(Math.min(...largest)));
    if (distance < bestDistance) [best, bestDistance] = [block, distance];
  }
  return best;
}

/** What the codes of all values are worth. */
interface ProbedCodes {
  /** Ascending; the largest in size is 1. */
  readonly levels: Float64Array;
  /** What a level of 1 is worth in the reference block. */
  readonly size: number;
  readonly put: Form["putLevels"];
  /** The reference block with every value at the level that is 1 in size, and that level. */
  readonly strongest: Uint8Array;
  readonly strongestLevel: number;
}

/** Tries every code of every cell in the reference block. */
function codesOf(type: Type, cells: readonly Cell[], reference: Uint8Array): ProbedCodes | { readonly reason: string } {
  const { blockSize, blockBytes } = type;
  const count = 2 ** Math.max(...cells.map(({ bits }) => bits.length));
  const bytes = new Uint8Array(count * blockBytes);
  for (let code = 0; code < count; code++) {
    bytes.set(reference, code * blockBytes);
    for (const cell of cells) putState(code, cell, bytes, code * blockBytes);
  }
  const out = new Float64Array(count * blockSize);
  decode(type, bytes, out);
  const finite = (i: number): readonly number[] => {
    const all = new Set<number>();
    for (let code = 0; code < count; code++) {
      const value = out[code * blockSize + i]!;
      if (Number.isFinite(value)) all.add(value === 0 ? 0 : value);
    }
    return [...all].toSorted((a, b) => a - b);
  };
  const values = finite(0);
  const size = Math.max(-values[0]!, values.at(-1)!);
  if (values.length < 2) return { reason: "its codes make no difference" };
  for (let i = 1; i < blockSize; i++) {
    const own = finite(i);
    if (own.length !== values.length || own.some((value, n) => value !== values[n]))
      return { reason: `its values 0 and ${i} have different levels` };
  }
  const numberOf = new Map(values.map((value, n) => [value, n]));
  const tables: Uint16Array[] = [];
  for (const { bits, values: own } of cells) {
    // By the numbers of the levels of the cell's values, the first one lowest: the code that gives them.
    const combinations = values.length ** own.length;
    if (combinations > 2 ** bits.length) return { reason: `its values ${own.join(", ")} cannot be chosen freely` };
    const table = new Uint16Array(combinations);
    const isFilled = new Uint8Array(combinations);
    for (let code = 2 ** bits.length - 1; code >= 0; code--) {
      const at = combine(own, values.length, (i) => numberOf.get(out[code * blockSize + i]! + 0) ?? Number.NaN);
      if (Number.isNaN(at)) continue;
      table[at] = code;
      isFilled[at] = 1;
    }
    if (isFilled.includes(0)) return { reason: `its values ${own.join(", ")} cannot be chosen freely` };
    tables.push(table);
  }
  const put: Form["putLevels"] = (numbers, into, base) => {
    for (const [c, cell] of cells.entries()) {
      putState(tables[c]![combine(cell.values, values.length, (i) => numbers[i]!)]!, cell, into, base);
    }
  };
  const strongestNumber = -values[0]! > values.at(-1)! ? 0 : values.length - 1;
  const strongest = reference.slice();
  put(new Uint16Array(blockSize).fill(strongestNumber), strongest, 0);
  const levels = Float64Array.from(values, (value) => value / size);
  return { levels, size, put, strongest, strongestLevel: levels[strongestNumber]! };
}

/** One number for several, each below `base`. */
function combine(values: readonly number[], base: number, number: (i: number) => number): number {
  let all = 0;
  for (let k = values.length - 1; k >= 0; k--) all = all * base + number(values[k]!);
  return all;
}

/** A state of a knob, and what a level of 1 is worth in it. */
interface Scale {
  readonly size: number;
  readonly state: number;
}

/** All states of a knob that give something finite, one for each size, ascending. */
function knobScales(type: Type, knob: Cell, { strongest, strongestLevel }: ProbedCodes): readonly Scale[] {
  const scales = new Map<number, Scale>();
  const block = strongest.slice();
  for (let state = 0; state < 2 ** knob.bits.length; state++) {
    const size = sizeAt(type, knob, state, block, strongestLevel);
    if (Number.isFinite(size) && !scales.has(size)) scales.set(size, { size, state });
  }
  return [...scales.values()].toSorted((a, b) => a.size - b.size);
}

/** What a level of 1 is worth with the knob in a state; `block` is changed. */
function sizeAt(type: Type, knob: Cell, state: number, block: Uint8Array, strongestLevel: number): number {
  for (const bit of knob.bits) block[bit >> 3]! &= ~(1 << (bit & 7));
  putState(state, knob, block, 0);
  return toNumber(exactValue(type, block, knob.values[0]!)) / strongestLevel + 0;
}

/** The scale of a whole block as a factor: a number out of a table, or of any size where it is stored as an f32. */
function storedFactor(
  type: Type,
  knob: Cell,
  codes: ProbedCodes,
  scalesOf: (knob: Cell) => readonly Scale[],
): StoredFactor {
  if (knob.bits.length === F32_BITS) {
    const { f32 } = FLOAT_SHAPES;
    const unit = sizeAt(type, knob, ONE_AS_F32, codes.strongest.slice(), codes.strongestLevel);
    return {
      kind: "stored",
      round: (x) => floatNumber(f32, floatCode(f32, x / unit)) * unit,
      put: (x, bytes, base) => putFloat(f32, floatCode(f32, x / unit), bytes, 8 * base + knob.bits[0]!),
    };
  }
  const scales = scalesOf(knob);
  const sizes = Float64Array.from(scales, ({ size }) => size);
  return {
    kind: "stored",
    round: (x) => sizes[nearestLevel(sizes, x)]!,
    put: (x, bytes, base) => putState(scales[nearestLevel(sizes, x)]!.state, knob, bytes, base),
  };
}
