// Values by levels: value(i) = scale(g) * level(i) + offset(g), where several stored codes, and the place of i in a vector
// of a codebook, may choose the level together. Wider than the structures of layout.ts: any small set of numbers, any
// sums and products in the scale. What the CPU backend loads weights by. Sources: ggml's IQ types (a grid entry times a
// sign), QLoRA's NF4 and OCP's MX formats (codes that stand for floats).
// Not here: in how many bits a machine keeps a level, and whether as an integer (cpu/layout.ts).

import {
  asDouble,
  type Atom,
  type Codes,
  type FloatField,
  formatOf,
  type IntAtom,
  multipliedOut,
  type Polynomial,
  type Product,
  quotient,
  runsOf,
} from "./atoms.ts";
import { gcd } from "./divisor.ts";
import { add, type Exact, exactNumber, fromNumber, multiply, negate, toNumber } from "./exact.ts";
import { type FloatStructure, mappedStructureOf, type NoStructure } from "./layout.ts";
import type { Type } from "./type.ts";

/** One of the codes that choose a level: `digits[code * lanes + lane[i]]` of it, or the code itself without digits. */
export interface Part {
  /** One for each value of a block. */
  readonly codes: Codes;
  readonly lanes: number;
  /** One for each value of a block; null where lanes is 1. */
  readonly lane: readonly number[] | null;
  readonly digits: readonly number[] | null;
}

/** A stored number that holds for a group: as an unsigned integer, a float, or through a table by its code. */
export interface GroupNumber {
  /** One for each group. */
  readonly codes: Codes;
  readonly stands:
    | { readonly kind: "integer" }
    | { readonly kind: "float"; readonly format: FloatField["format"] }
    | { readonly kind: "table"; readonly numbers: readonly number[] };
}

/** constant * the product of `numbers[f]` for each factor f. */
export interface GroupProduct {
  readonly constant: number;
  readonly factors: readonly number[];
}

/**
 * value(i) = scale(g) * level(i) + offset(g), g = i div groupSize, level(i) = levels[order[sum of the digits of parts]].
 * Exact in real arithmetic, for every block whose stored floats are finite, but for the sign of a zero.
 */
export interface LevelStructure {
  readonly kind: "levels";
  /** Values and bytes that are taken apart at once: whole blocks of the type, a multiple of 16 values. */
  readonly blockSize: number;
  readonly blockBytes: number;
  /** A multiple of 16; the block size where scale and offset are constants. */
  readonly groupSize: number;
  readonly parts: readonly Part[];
  /** Index into `levels` for each sum of digits. */
  readonly order: readonly number[];
  /** Ascending and different, -0 before 0; then the infinities' place by size, and NaN last. At most 256. */
  readonly levels: readonly number[];
  readonly numbers: readonly GroupNumber[];
  /** Sums of products; an empty offset is 0. */
  readonly scale: readonly GroupProduct[];
  readonly offset: readonly GroupProduct[];
}

/** Scales that change more often are no scales: kernels sum 16 products before they look at one. */
const GROUP = 16;
const MAX_LEVELS = 256;
/** Combinations of the parts' numbers; the IQ types need 48. */
const MAX_COMBINATIONS = 4096;
const MAX_CODE_BITS = 16;

/** The levels of a type, plain floats as such, or why it has none. */
export function levelsOf(type: Type): LevelStructure | FloatStructure | NoStructure {
  const repeat = GROUP / gcd(type.blockSize, GROUP);
  const found = multipliedOut(type, repeat);
  if (typeof found === "string") return none(found);
  const { atoms, value } = found;
  const blockSize = type.blockSize * repeat;
  const used = (a: number): boolean => value.some((product) => product.atoms.includes(a));
  const isFine = atoms.map((atom) => atom.period % GROUP !== 0 || atom.lane !== null);
  const fine = atoms.flatMap((_, a) => (isFine[a] && used(a) ? [a] : []));
  const coarse = atoms.flatMap((_, a) => (!isFine[a] && used(a) ? [a] : []));
  const float = fine.find((a) => atoms[a]!.kind === "float");
  if (fine.length === 0 || float !== undefined) {
    const plain = mappedStructureOf(type);
    if (plain.kind === "float") return plain;
    return none(
      float === undefined
        ? "no code changes inside a group"
        : `${atoms[float]!.name} changes inside groups of ${GROUP}`,
    );
  }

  const split = splitScale(value, isFine);
  if (split === null) return none("it is no product of a scale and a level");
  const joint = jointLevels(fine, atoms, split.level);
  if (typeof joint === "string") return none(joint);

  const groupSize = coarse.reduce((size, a) => gcd(size, atoms[a]!.period), blockSize);
  const numbers: GroupNumber[] = [];
  for (const a of coarse) {
    const number = groupNumber(atoms[a]!, groupSize);
    if (number === null) return none(`${atoms[a]!.name} is none of f16, bf16, f32 and small codes`);
    numbers.push(number);
  }
  const scale = groupProducts(split.scale, coarse);
  const offset = groupProducts(split.offset, coarse);
  if (scale === null || offset === null) return none("a constant of its scale is no double");
  const blockBytes = type.blockBytes * repeat;
  return { kind: "levels", blockSize, blockBytes, groupSize, ...joint, numbers, scale, offset };
}

function none(reason: string): NoStructure {
  return { kind: "none", reason };
}

/** value = scale * level + offset, with scale and offset over the coarse atoms and level over the fine ones. */
function splitScale(
  value: Polynomial,
  isFine: readonly boolean[],
): { readonly scale: Polynomial; readonly level: Polynomial; readonly offset: Polynomial } | null {
  // The products of each combination of fine atoms; "" are those without any.
  const columns = new Map<string, { readonly fine: readonly number[]; readonly rest: Product[] }>();
  for (const { factor, atoms } of value) {
    const fine = atoms.filter((a) => isFine[a]);
    const key = fine.join();
    const column = columns.get(key) ?? { fine, rest: [] };
    columns.set(key, column);
    column.rest.push({ factor, atoms: atoms.filter((a) => !isFine[a]) });
  }
  const alone = columns.get("")?.rest ?? [];
  columns.delete("");
  const [lead, ...others] = columns.values();
  if (lead === undefined) return null;
  const level: Product[] = [{ factor: exactNumber(1n), atoms: lead.fine }];
  for (const { fine, rest } of others) {
    const factor = ratio(rest, lead.rest);
    if (factor === null) return null;
    level.push({ factor, atoms: fine });
  }
  const share = ratio(alone, lead.rest);
  if (share === null || alone.length === 0) return { scale: lead.rest, level, offset: alone };
  return { scale: lead.rest, level: [...level, { factor: share, atoms: [] }], offset: [] };
}

/** a / b where it is one number, and a double. */
function ratio(a: Polynomial, b: Polynomial): Exact | null {
  if (a.length !== b.length) return null;
  let common: number | null = null;
  for (const { factor, atoms } of b) {
    const other = a.find((product) => product.atoms.join() === atoms.join());
    const one = other === undefined ? null : quotient(other.factor, factor);
    if (one === null || (common !== null && one !== common)) return null;
    common = one;
  }
  return common === null ? null : fromNumber(common);
}

/** The numbers that a fine atom takes, each once, and which of them each of its codes and lanes is. */
function numbersOf(atom: IntAtom): { readonly digits: readonly number[] | null; readonly numbers: readonly number[] } {
  const { map } = atom;
  if (map === null) {
    const numbers = Array.from({ length: 2 ** atom.bits[0]!.length }, (_, code) => code);
    return { digits: null, numbers };
  }
  const numbers = distinct(map);
  const places = new Map(numbers.map((x, n) => [keyOf(x), n]));
  return { digits: map.map((x) => places.get(keyOf(x))!), numbers };
}

function keyOf(x: number): string {
  return Object.is(x, -0) ? "-0" : String(x);
}

/** Ascending, -0 before 0, NaN last. */
function distinct(list: readonly number[]): readonly number[] {
  const unique = [...new Map(list.map((x) => [keyOf(x), x])).values()];
  const rank = (x: number): number => (Number.isNaN(x) ? 1 : 0);
  return unique.toSorted((a, b) => rank(a) - rank(b) || a - b || Number(Object.is(b, -0)) - Number(Object.is(a, -0)));
}

type Joint = Pick<LevelStructure, "parts" | "order" | "levels">;

/** The levels of all combinations of the fine atoms' numbers, which are counted as the digits of a number. */
function jointLevels(fine: readonly number[], atoms: readonly Atom[], level: Polynomial): Joint | string {
  const parts: Part[] = [];
  const lists: (readonly number[])[] = [];
  let combinations = 1;
  for (const a of fine) {
    const atom = atoms[a] as IntAtom;
    const bits = atom.bits[0]!.length;
    if (bits > MAX_CODE_BITS) return `${atom.name} has ${bits} bits, and codes have at most ${MAX_CODE_BITS}`;
    const { digits, numbers } = numbersOf(atom);
    if (combinations * numbers.length > MAX_COMBINATIONS) return `its codes make more than ${MAX_COMBINATIONS} numbers`;
    const stride = combinations;
    const own = digits ?? (stride === 1 ? null : numbers.map((_, n) => n));
    const codes = { runs: runsOf(atom.bits, bits), bits, flip: atom.flip };
    parts.push({ codes, lanes: atom.lanes, lane: atom.lane, digits: own && own.map((digit) => digit * stride) });
    lists.push(numbers);
    combinations *= numbers.length;
  }
  const all: number[] = [];
  for (let combination = 0; combination < combinations; combination++) {
    let rest = combination;
    const chosen = new Map<number, Exact>();
    fine.forEach((a, n) => {
      const list = lists[n]!;
      chosen.set(a, fromNumber(list[rest % list.length]!));
      rest = Math.floor(rest / list.length);
    });
    const products = level.map((product) =>
      product.atoms.reduce((sum, a) => multiply(sum, chosen.get(a)!), product.factor),
    );
    const exact = products.slice(1).reduce(add, products[0]!);
    const number = toNumber(exact);
    if (
      add(exact, negate(fromNumber(number))).kind === "finite" &&
      toNumber(add(exact, negate(fromNumber(number)))) !== 0
    )
      return "its codes make numbers that are no doubles";
    all.push(number);
  }
  const levels = distinct(all);
  if (levels.length > MAX_LEVELS) return `its codes make ${levels.length} numbers, and there is room for ${MAX_LEVELS}`;
  const places = new Map(levels.map((x, n) => [keyOf(x), n]));
  return { parts, order: all.map((x) => places.get(keyOf(x))!), levels };
}

function groupNumber(atom: Atom, groupSize: number): GroupNumber | null {
  const entries = atom.bits.filter((_, i) => i % groupSize === 0);
  const bits = entries[0]!.length;
  const codes = { runs: runsOf(entries, bits), bits, flip: atom.kind === "int" ? atom.flip : 0 };
  if (atom.kind === "float") {
    const format = formatOf(atom.element);
    return format === null ? null : { codes, stands: { kind: "float", format } };
  }
  if (bits > MAX_CODE_BITS) return null;
  if (atom.map === null) return { codes, stands: { kind: "integer" } };
  return { codes, stands: { kind: "table", numbers: atom.map } };
}

function groupProducts(polynomial: Polynomial, coarse: readonly number[]): readonly GroupProduct[] | null {
  const products: GroupProduct[] = [];
  for (const { factor, atoms } of polynomial) {
    const constant = asDouble(factor);
    if (constant === null) return null;
    products.push({ constant, factors: atoms.map((a) => coarse.indexOf(a)) });
  }
  return products;
}
