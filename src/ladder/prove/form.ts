// A value of a format at one place, taken apart for the prover: the stored numbers that it reads (leaves) and the sum or
// product of them that it is (tree). Places that read other bits in the same way have the same form, so that a proof
// for one holds for all. Not here: what the numbers are in one block (exact.ts), what is proved of them (exactness.ts ...).

import { add, elementValue, type Exact, exactNumber, fromNumber, multiply, negate, toNumber } from "../exact.ts";
import { bitsAt, bitsReadData, conditionAt, elementBits, indexAt, readsData } from "../expr.ts";
import { numbersOf } from "../listed.ts";
import type { Element, Index, Restriction, Type, Value } from "../type.ts";

/** Up to this width all codes of a leaf are listed. */
export const LISTED_BITS = 16;

/** One stored number that a value reads. */
export interface Leaf {
  /** As one would write it: `d`, `q[3]`. */
  readonly label: string;
  /** The field that it is a whole element of, which restrictions speak of; null where it is cut from bits. */
  readonly field: string | null;
  readonly bits: number;
  /** What its bits stand for; null for an unsigned number. */
  readonly element: Element | null;
  readonly lane: number;
  /** Positions of its bits in the block, the least significant first; null where the data decide. */
  readonly places: readonly number[] | null;
}

/** What is computed from the leaves, which are numbered; nothing is left to choose. */
export type Tree =
  | { readonly kind: "leaf"; readonly leaf: number }
  | { readonly kind: "constant"; readonly value: Exact }
  | { readonly kind: "negate"; readonly operand: Tree }
  | {
      readonly kind: "binary";
      readonly operator: "+" | "-" | "*";
      readonly left: Tree;
      readonly right: Tree;
    };

/** The value at place `at`. */
export interface Form {
  readonly at: number;
  readonly leaves: readonly Leaf[];
  readonly tree: Tree;
}

/**
 * The form of a type's value at place i; null where it is rounded on the way or the data decide what is computed.
 * @param block bytes that the data are read from; without them, what the data give has no places
 */
export function formAt(type: Type, i: number, block?: Uint8Array): Form | null {
  const open = (index: Index): boolean => block === undefined && readsData(index);
  const leaves: Leaf[] = [];
  const known = new Map<string, number>();
  const intern = (leaf: Leaf, where: string): Tree => {
    const key = `${where} ${leaf.element === null ? "" : elementKey(leaf.element)} ${leaf.lane}`;
    const index = known.get(key) ?? leaves.push(leaf) - 1;
    known.set(key, index);
    return { kind: "leaf", leaf: index };
  };
  const take = (value: Value): Tree | null => {
    switch (value.kind) {
      case "constant":
        return { kind: "constant", value: exactNumber(value.significand, value.exponent) };
      case "element": {
        const { field, index } = value;
        const where = open(index) ? null : indexAt(index, i, block);
        const label = labelOf(field.name, field.count, where);
        const places = where === null ? null : elementBits(field, where);
        const leaf = { label, field: field.name, bits: field.element.bits, element: field.element, lane: 0, places };
        return intern(leaf, places?.join() ?? `${field.name} ${spelled(index)}`);
      }
      case "code": {
        const { code, index } = value;
        const isOpen = open(index) || (block === undefined && bitsReadData(code.bits));
        const where = isOpen ? null : indexAt(index, i, block);
        const places = where === null ? null : bitsAt(code.bits, where, block);
        const label = labelOf(code.name, code.count, where);
        const leaf = { label, field: null, bits: code.bits.width, element: null, lane: 0, places };
        return intern(leaf, places?.join() ?? `${code.name} ${spelled(index)}`);
      }
      case "apply": {
        const { element, bits, lane } = value;
        const places = block === undefined && bitsReadData(bits) ? null : bitsAt(bits, i, block);
        const of = bits.kind === "code" ? bits : null;
        const where = of === null || open(of.index) ? null : indexAt(of.index, i, block);
        const label = of === null ? element.name : labelOf(of.code.name, of.code.count, where);
        if (open(lane)) return null;
        const leaf = { label, field: null, bits: element.bits, element, lane: indexAt(lane, i, block), places };
        return intern(leaf, places?.join() ?? label);
      }
      case "negate": {
        const operand = take(value.operand);
        return operand && { kind: "negate", operand };
      }
      case "binary": {
        const [left, right] = [take(value.left), take(value.right)];
        return left && right && { kind: "binary", operator: value.operator, left, right };
      }
      case "choose": {
        const { condition, yes, no } = value;
        if (open(condition.left) || open(condition.right)) return null;
        return take(conditionAt(condition, i, block) ? yes : no);
      }
      case "round":
        return null;
    }
  };
  const tree = take(type.value);
  return tree && { at: i, leaves, tree };
}

/** One form of each shape that the values of a type have, the first of each; null where some place has none. */
export function formsOf(type: Type): readonly Form[] | null {
  const forms = new Map<string, Form>();
  for (let i = 0; i < type.blockSize; i++) {
    const form = formAt(type, i);
    if (form === null) return null;
    const key = shapeOf(form);
    if (!forms.has(key)) forms.set(key, form);
  }
  return [...forms.values()];
}

/** What is the same in all forms that say the same of other bits. */
function shapeOf({ leaves, tree }: Form): string {
  const named = leaves.map(({ field, bits, element, lane, places }) => {
    const what = element === null ? `u${bits}` : `${elementKey(element)}.${lane}`;
    return `${field ?? ""}:${what}:${places === null}`;
  });
  const shared = isIndependent(leaves) ? "" : leaves.map(({ places }) => places?.join()).join(";");
  return `${named.join()} ${shared} ${treeText(tree)}`;
}

/** The leaves that a tree has, by number. */
export function leavesOf(tree: Tree): ReadonlySet<number> {
  switch (tree.kind) {
    case "leaf":
      return new Set([tree.leaf]);
    case "constant":
      return new Set();
    case "negate":
      return leavesOf(tree.operand);
    case "binary":
      return new Set([...leavesOf(tree.left), ...leavesOf(tree.right)]);
  }
}

/** The tree with its leaves by number. */
export function treeText(tree: Tree): string {
  switch (tree.kind) {
    case "leaf":
      return `#${tree.leaf}`;
    case "constant":
      return String(toNumber(tree.value));
    case "negate":
      return `-${treeText(tree.operand)}`;
    case "binary":
      return `(${treeText(tree.left)}${tree.operator}${treeText(tree.right)})`;
  }
}

/** Whether no two leaves share a bit, so that each may have any of its codes whatever the others have. */
export function isIndependent(leaves: readonly Leaf[]): boolean {
  if (leaves.length === 1 || leaves.every((leaf, l) => leaves.every((other, o) => o <= l || areApart(leaf, other))))
    return true;
  const all = leaves.flatMap(({ places }) => places ?? []);
  return new Set(all).size === all.length;
}

/** Whether all bits of one leaf lie above all of the other, as they mostly do. */
function areApart({ places: a }: Leaf, { places: b }: Leaf): boolean {
  if (a === null || b === null || a.length === 0 || b.length === 0) return true;
  return Math.min(...a) > Math.max(...b) || Math.max(...a) < Math.min(...b);
}

const keys = new WeakMap<Element, string>();
const numbered = new Map<string, string>();

/** The same text for elements that have the same value for every code, as far as their parameters show it. */
export function elementKey(element: Element): string {
  const known = keys.get(element);
  if (known !== undefined) return known;
  const { name: _, ...rest } = element;
  const text = JSON.stringify(rest, (_key, x: unknown) =>
    typeof x === "number" && !Number.isFinite(x) ? String(x) : x,
  );
  const key = numbered.get(text) ?? `e${numbered.size}`;
  numbered.set(text, key);
  keys.set(element, key);
  return key;
}

function labelOf(name: string, count: number, at: number | null): string {
  if (at === null) return `${name}[...]`;
  return count === 1 ? name : `${name}[${at}]`;
}

function spelled(index: Index): string {
  return JSON.stringify(index, (key, x: unknown) => (key === "element" ? undefined : x));
}

// --- what a leaf may be ---------------------------------------------------------------------------------------------

/** Codes of a leaf with their numbers, each number once and with the lowest code that has it. */
export interface Choices {
  readonly codes: readonly bigint[];
  /** The nearest doubles; exact up to 16 bits. */
  readonly numbers: Float64Array;
  /** The number of entry k, exactly. */
  readonly exact: (k: number) => Exact;
  /** Whether every code that the leaf may have is listed, or has the number of one that is. */
  readonly complete: boolean;
}

const lists = new WeakMap<Element, Map<string, Choices>>();
const unsigned = new Map<number, Element>();

/** The element of plain unsigned numbers, for leaves that are cut from bits. */
export function elementOf({ element, bits }: Leaf): Element {
  if (element !== null) return element;
  let plain = unsigned.get(bits);
  if (plain === undefined) unsigned.set(bits, (plain = { kind: "int", name: `${bits} bits`, bits, flip: 0, zero: 0 }));
  return plain;
}

/** All choices of a leaf of up to 16 bits within the domain, in the order of codes; corners of a wider one. */
export function choicesOf(leaf: Leaf, domain: readonly Restriction[]): Choices {
  const element = elementOf(leaf);
  const own = domain.filter(({ field }) => field === leaf.field && leaf.element !== null);
  const key = `${leaf.lane} ${own.map((r) => (r.kind === "finite" ? "finite" : `${r.low}..${r.high}`)).join()}`;
  const known = lists.get(element)?.get(key);
  if (known !== undefined) return known;
  const listed = element.bits <= LISTED_BITS;
  const all = listed ? allCodes(element, own) : wideCorners(element);
  const codes: bigint[] = [];
  const numbers: number[] = [];
  // Wide elements are listed by few codes, which differ; of the others each number comes once, and -0 is not 0.
  const seen = new Set<number>();
  let seenMinusZero = false;
  for (const code of all) {
    const number = listed
      ? listedNumber(element, Number(code), leaf.lane)
      : toNumber(elementValue(element, code, leaf.lane));
    if (own.length > 0 && !own.every((r) => allows(r, code, number))) continue;
    if (Object.is(number, -0)) {
      if (seenMinusZero) continue;
      seenMinusZero = true;
    } else if (listed) {
      if (seen.has(number)) continue;
      seen.add(number);
    }
    codes.push(code);
    numbers.push(number);
  }
  const made: Choices = {
    codes,
    numbers: Float64Array.from(numbers),
    exact: (k) => (listed ? fromNumber(numbers[k]!) : elementValue(element, codes[k]!, leaf.lane)),
    complete: listed,
  };
  const of = lists.get(element) ?? new Map<string, Choices>();
  lists.set(element, of.set(key, made));
  return made;
}

/** The number of a code of an element of up to 16 bits. */
export function listedNumber(element: Element, code: number, lane: number): number {
  const lanes = element.kind === "table" ? element.lanes : 1;
  return numbersOf(element)[code * lanes + lane]!;
}

function allCodes(element: Element, own: readonly Restriction[]): readonly bigint[] {
  let [low, high] = [0, 2 ** element.bits - 1];
  for (const r of own) if (r.kind === "codes") [low, high] = [Math.max(low, r.low), Math.min(high, r.high)];
  return Array.from({ length: Math.max(0, high - low + 1) }, (_, k) => BigInt(low + k));
}

/** Whether a restriction allows a code that has this number. */
export function allows(restriction: Restriction, code: bigint, number: number): boolean {
  if (restriction.kind === "finite") return Number.isFinite(number);
  return code >= BigInt(restriction.low) && code <= BigInt(restriction.high);
}

/** Codes of a wide element at which conversions break: one bit, all bits, one less, at both ends and signs. */
function wideCorners({ bits }: Element): readonly bigint[] {
  const top = 1n << BigInt(bits);
  const corners = new Set<bigint>([0n]);
  for (let k = 0; k < bits; k++) {
    const one = 1n << BigInt(k);
    for (const code of [one, one + 1n, one - 1n, top - one, top - one - 1n, (top >> 1n) + one, (top >> 2n) - one])
      if (code >= 0n && code < top) corners.add(code);
  }
  return [...corners].toSorted((a, b) => (a < b ? -1 : 1));
}

const corners = new WeakMap<Choices, readonly number[]>();

/** Up to `most` entries at which a conversion breaks first, ascending: ends, powers of two, numbers with many bits. */
export function cornersOf(choices: Choices, most: number): readonly number[] {
  let ranked = corners.get(choices);
  if (ranked === undefined) corners.set(choices, (ranked = rankedCorners(choices)));
  return ranked.slice(0, most).toSorted((a, b) => a - b);
}

function rankedCorners({ numbers }: Choices): readonly number[] {
  const ranked = new Set<number>();
  const parts = Array.from(numbers, (x) => (Number.isFinite(x) && x !== 0 ? oddPart(x) : null));
  const best = (score: (size: number, odd: number, power: number) => number): void => {
    let [at, most] = [-1, Number.NEGATIVE_INFINITY];
    for (const [k, part] of parts.entries()) {
      const of = part && score(Math.abs(numbers[k]!), part.odd, part.power);
      if (of !== null && of > most) [at, most] = [k, of];
    }
    if (at !== -1) ranked.add(at);
  };
  best((size) => -size);
  best((size) => size);
  best((_, odd) => odd);
  best((size, odd) => (odd === 1 && size >= 1 ? -size : Number.NEGATIVE_INFINITY));
  for (const wanted of [0, -0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const at = numbers.findIndex((x) => Object.is(x, wanted));
    if (at !== -1) ranked.add(at);
  }
  // Powers of two all over the range: every 16th, then every 8th and so on; then all others where they are few.
  const powers = parts.flatMap((part, k) => (part?.odd === 1 ? [k] : []));
  for (let step = 16; step >= 1; step /= 2) for (let p = 0; p < powers.length; p += step) ranked.add(powers[p]!);
  if (numbers.length <= MAX_CORNERS) for (const k of numbers.keys()) ranked.add(k);
  return [...ranked];
}

/** Numbers of a list that are all corners in the end. */
const MAX_CORNERS = 256;

const double = new DataView(new ArrayBuffer(8));

/** |x| = odd * 2^power, for a double that is finite and not zero. */
export function oddPart(x: number): { readonly odd: number; readonly power: number } {
  double.setFloat64(0, x);
  const [head, low] = [double.getUint32(0), double.getUint32(4)];
  const exponent = (head >>> 20) & 0x7ff;
  const high = (head & 0xfffff) | (exponent === 0 ? 0 : 2 ** 20);
  const zeros = low === 0 ? 32 + zerosBehind(high) : zerosBehind(low);
  return { odd: (high * 2 ** 32 + low) / 2 ** zeros, power: Math.max(exponent, 1) - 1075 + zeros };
}

/** How many zeros 32 bits end with that are not all zero. */
function zerosBehind(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

// --- what a tree gives ----------------------------------------------------------------------------------------------

/** The tree over numbers of the leaves, in doubles. */
export function inDoubles(tree: Tree): (leaves: Float64Array) => number {
  switch (tree.kind) {
    case "leaf": {
      const { leaf } = tree;
      return (leaves) => leaves[leaf]!;
    }
    case "constant": {
      const number = toNumber(tree.value);
      return () => number;
    }
    case "negate": {
      const operand = inDoubles(tree.operand);
      return (leaves) => -operand(leaves);
    }
    case "binary": {
      const [left, right] = [inDoubles(tree.left), inDoubles(tree.right)];
      if (tree.operator === "*") return (leaves) => left(leaves) * right(leaves);
      if (tree.operator === "+") return (leaves) => left(leaves) + right(leaves);
      return (leaves) => left(leaves) - right(leaves);
    }
  }
}

/** The tree over exact numbers of the leaves. */
export function inExact(tree: Tree, leaves: readonly Exact[]): Exact {
  switch (tree.kind) {
    case "leaf":
      return leaves[tree.leaf]!;
    case "constant":
      return tree.value;
    case "negate":
      return negate(inExact(tree.operand, leaves));
    case "binary": {
      const [left, right] = [inExact(tree.left, leaves), inExact(tree.right, leaves)];
      if (tree.operator === "*") return multiply(left, right);
      return add(left, tree.operator === "+" ? right : negate(right));
    }
  }
}
