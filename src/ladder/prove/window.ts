// Dyadic windows: what all the numbers of a leaf or tree have in common, so that one look decides for all of them.
// Exact for products of independent numbers, an outer bound for sums: a window that fits is a proof, one that does not
// is only a reason to look for a counter-example. Here too: which numbers an element can hold, and which windows fit.
// The idea is that of interval arithmetic on lowest bit, size and odd significand.

import { type Exact, fromNumber, toNumber } from "../exact.ts";
import { type Choices, elementOf, inDoubles, type Leaf, leavesOf, oddPart, type Tree } from "./form.ts";
import { numbersOf } from "../listed.ts";
import type { Element, FloatElement, Restriction } from "../type.ts";

/** All finite numbers are k * 2^low with whole k from `least` to `most`; their odd parts are at most `odd`. */
export interface Window {
  readonly low: number;
  readonly least: bigint;
  readonly most: bigint;
  /** The largest odd significand; 0 where every number is zero. */
  readonly odd: bigint;
  /** No number but zero is smaller than this, in units of 2^low; 0 where there is none. */
  readonly tiny: bigint;
  readonly zero: boolean;
  readonly minusZero: boolean;
  readonly nan: boolean;
  readonly infinite: boolean;
}

/** The window of a list of doubles: exact. */
function listWindow(numbers: Iterable<number>): Window {
  let [zero, minusZero, nan, infinite] = [false, false, false, false];
  let [low, odd] = [Number.POSITIVE_INFINITY, 0];
  // The ends as doubles, so that no more than these are made into whole numbers.
  let [least, most, tiny] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (const x of numbers) {
    if (Number.isNaN(x)) nan = true;
    else if (!Number.isFinite(x)) infinite = true;
    else {
      if (x < least) least = x;
      if (x > most) most = x;
      if (x === 0) {
        zero = true;
        minusZero ||= Object.is(x, -0);
        continue;
      }
      const part = oddPart(x);
      if (part.power < low) low = part.power;
      if (part.odd > odd) odd = part.odd;
      const size = Math.abs(x);
      if (size < tiny) tiny = size;
    }
  }
  if (odd === 0) return { low: 0, least: 0n, most: 0n, odd: 0n, tiny: 0n, zero, minusZero, nan, infinite };
  const units = (x: number): bigint => {
    if (x === 0) return 0n;
    const part = oddPart(x);
    return BigInt(x < 0 ? -part.odd : part.odd) << BigInt(part.power - low);
  };
  const ends = { least: units(least), most: units(most), tiny: units(tiny) };
  return { low, ...ends, odd: BigInt(odd), zero, minusZero, nan, infinite };
}

/** Of a product that may be zero, whatever the factor: zero, which takes part in no sum. */
export const NOTHING: Window = {
  // Above the lowest bit of every number, so that it is never that of a sum.
  low: 2 ** 20,
  least: 0n,
  most: 0n,
  odd: 0n,
  tiny: 0n,
  zero: false,
  minusZero: false,
  nan: false,
  infinite: false,
};

/** The window of one finite double. */
export function numberWindow(x: number): Window {
  if (x === 0) return listWindow([x]);
  const { odd, power } = oddPart(x);
  return pointWindow(x < 0, BigInt(odd), power);
}

function pointWindow(negative: boolean, odd: bigint, low: number): Window {
  const units = negative ? -odd : odd;
  const flags = { zero: false, minusZero: false, nan: false, infinite: false };
  return { low, least: units, most: units, odd, tiny: odd, ...flags };
}

const exactWindows = new WeakMap<Choices, Window>();

/** The window of a leaf within the domain; that of a wide element by its parameters. */
export function leafWindow(leaf: Leaf, choices: Choices, domain: readonly Restriction[]): Window {
  if (choices.complete) {
    let window = exactWindows.get(choices);
    if (window === undefined) exactWindows.set(choices, (window = listWindow(choices.numbers)));
    return window;
  }
  const element = elementOf(leaf);
  const finite = domain.some((r) => r.kind === "finite" && r.field === leaf.field);
  if (element.kind === "int") {
    const [least, most] = [-BigInt(element.zero), (1n << BigInt(element.bits)) - 1n - BigInt(element.zero)];
    const size = -least > most ? -least : most;
    const odd = size % 2n === 1n ? size : size - 1n;
    return { low: 0, least, most, odd, tiny: 1n, zero: true, minusZero: false, nan: false, infinite: false };
  }
  if (element.kind !== "float")
    throw new Error(`${element.name} has ${element.bits} bits, and only numbers go beyond 16`);
  // A float of more than 16 bits has subnormals and a sign that counts (element.ts), so that its numbers are regular.
  const { low, most, special, signed } = floatLimits(element);
  const odd = (1n << BigInt(element.mantissa + 1)) - 1n;
  return {
    low,
    least: signed ? -most : 0n,
    most,
    odd,
    tiny: 1n,
    zero: true,
    minusZero: signed && element.special !== "fnuz",
    nan: special.nan && !finite,
    infinite: special.infinite && !finite,
  };
}

/** The window of a tree over the windows of its leaves. */
export function treeWindow(tree: Tree, leaves: readonly Window[]): Window {
  switch (tree.kind) {
    case "leaf":
      return leaves[tree.leaf]!;
    case "constant":
      return constantWindow(tree.value);
    case "negate":
      return negated(treeWindow(tree.operand, leaves));
    case "binary": {
      const [left, right] = [treeWindow(tree.left, leaves), treeWindow(tree.right, leaves)];
      if (tree.operator === "*") return product(left, right);
      return sum(left, tree.operator === "+" ? right : negated(right));
    }
  }
}

/** The window of one number, which may be no double. */
function constantWindow(x: Exact): Window {
  if (x.kind !== "finite" || x.significand === 0n) return listWindow([toNumber(x)]);
  return pointWindow(x.negative, x.significand, x.exponent);
}

/** A tree with fewer leaves, and the windows of those. */
export interface Condensed {
  readonly tree: Tree;
  readonly windows: readonly Window[];
}

/**
 * The tree with every part that does not read the leaf `kept` as one leaf. A part that reads one listed leaf only gets
 * the window of all its numbers: exact for a sum too, such as a code less its zero point.
 */
export function condense(
  tree: Tree,
  windows: readonly Window[],
  choices: readonly Choices[],
  kept: number | null,
): Condensed {
  const all = [...windows];
  const visit = (part: Tree): Tree => {
    if (part.kind === "leaf" || part.kind === "constant") return part;
    const read = leavesOf(part);
    if (kept === null || !read.has(kept)) {
      const [only, ...more] = read;
      const one = only === undefined || more.length > 0 ? null : choices[only]!;
      if (one?.complete && isExactInDoubles(part, windows)) {
        return { kind: "leaf", leaf: all.push(listWindow(numbersOfPart(part, only!, one))) - 1 };
      }
    }
    if (part.kind === "negate") return { ...part, operand: visit(part.operand) };
    const inner = { ...part, left: visit(part.left), right: visit(part.right) };
    if (kept === null || read.has(kept)) return inner;
    return { kind: "leaf", leaf: all.push(treeWindow(inner, all)) - 1 };
  };
  return { tree: visit(tree), windows: all };
}

function numbersOfPart(part: Tree, leaf: number, { numbers }: Choices): Float64Array {
  const compute = inDoubles(part);
  const leaves = new Float64Array(leaf + 1);
  return numbers.map((x) => {
    leaves[leaf] = x;
    return compute(leaves);
  });
}

function negated(a: Window): Window {
  return { ...a, least: -a.most, most: -a.least, minusZero: a.zero };
}

function product(a: Window, b: Window): Window {
  let [least, most] = [a.least * b.least, a.least * b.least];
  for (const end of [a.least * b.most, a.most * b.least, a.most * b.most]) {
    if (end < least) least = end;
    if (end > most) most = end;
  }
  const negative = (w: Window): boolean => w.least < 0n || w.minusZero || w.infinite;
  const positive = (w: Window): boolean => w.most > 0n || w.zero || w.infinite;
  return {
    low: a.low + b.low,
    least,
    most,
    odd: a.odd * b.odd,
    tiny: a.tiny * b.tiny,
    zero: a.zero || b.zero,
    minusZero:
      (a.zero && negative(b)) ||
      (b.zero && negative(a)) ||
      (a.minusZero && positive(b)) ||
      (b.minusZero && positive(a)),
    nan: a.nan || b.nan || (a.infinite && b.zero) || (b.infinite && a.zero),
    infinite: a.infinite || b.infinite,
  };
}

function sum(a: Window, b: Window): Window {
  const low = Math.min(a.low, b.low);
  const [up, vp] = [BigInt(a.low - low), BigInt(b.low - low)];
  const [least, most] = [(a.least << up) + (b.least << vp), (a.most << up) + (b.most << vp)];
  const size = -least > most ? -least : most;
  const isOne = least === most && least !== 0n;
  return {
    low,
    least,
    most,
    // The odd part of a sum is at most the sum itself.
    odd: isOne ? oddOf(size) : size,
    tiny: isOne ? size : 1n,
    zero: least <= 0n && most >= 0n,
    minusZero: a.minusZero && b.minusZero,
    nan: a.nan || b.nan || (a.infinite && b.infinite),
    infinite: a.infinite || b.infinite,
  };
}

function oddOf(x: bigint): bigint {
  return x >> BigInt(x.toString(2).match(/0*$/)![0].length);
}

/** Whether every number that arises in a tree is a double, so that doubles evaluate it without rounding. */
export function isExactInDoubles(tree: Tree, leaves: readonly Window[]): boolean {
  if (tree.kind === "binary" && !(isExactInDoubles(tree.left, leaves) && isExactInDoubles(tree.right, leaves)))
    return false;
  if (tree.kind === "negate" && !isExactInDoubles(tree.operand, leaves)) return false;
  return misfit(treeWindow(tree, leaves), DOUBLE) === null;
}

// --- what an element can hold ---------------------------------------------------------------------------------------

interface Limits {
  readonly signed: boolean;
  /** Exponent of the smallest number. */
  readonly low: number;
  /** The largest number, in units of 2^low. */
  readonly most: bigint;
  /** The smallest number that is no subnormal, in units of 2^low. */
  readonly normal: bigint;
  readonly special: { readonly nan: boolean; readonly infinite: boolean };
}

function floatLimits({ exponent, mantissa, bias, special, sign }: FloatElement): Limits {
  const low = 1 - bias - mantissa;
  const top = 2 ** exponent - (special === "ieee" ? 2 : 1);
  const fraction = (1n << BigInt(mantissa + 1)) - 1n - (special === "fn" ? 1n : 0n);
  // One exponent bit leaves no normal number to an IEEE float.
  const most = top === 0 ? fraction >> 1n : fraction << BigInt(top - 1);
  return {
    signed: sign === "yes",
    low,
    most,
    normal: 1n << BigInt(mantissa),
    special: { nan: special !== "none", infinite: special === "ieee" },
  };
}

/** What a conversion goes to. */
export interface Target {
  readonly element: Element;
  readonly precision: number;
  readonly limits: Limits | null;
  /** The numbers of an element that is no IEEE-like float and no integer. */
  readonly numbers: ReadonlySet<number>;
  readonly minusZero: boolean;
}

const targets = new WeakMap<Element, Target>();

/** An element as a target; null where a code of it stands for several numbers. */
export function targetOf(element: Element): Target | null {
  if (element.kind === "table" && element.lanes > 1) return null;
  const known = targets.get(element);
  if (known !== undefined) return known;
  const regular = element.kind === "float" && element.subnormals === "yes" && element.sign !== "ignored";
  const limits = regular ? floatLimits(element) : null;
  const listed = limits === null && element.kind !== "int" ? numbersOf(element) : new Float64Array(0);
  const target = {
    element,
    precision: element.kind === "float" ? element.mantissa + 1 : 0,
    limits,
    numbers: new Set(listed),
    minusZero:
      limits === null
        ? listed.some((x) => Object.is(x, -0))
        : limits.signed && element.kind === "float" && element.special !== "fnuz",
  };
  targets.set(element, target);
  return target;
}

/** IEEE's double, which this program computes in. */
export const DOUBLE: Target = targetOf({
  kind: "float",
  name: "double",
  bits: 64,
  exponent: 11,
  mantissa: 52,
  bias: 1023,
  special: "ieee",
  sign: "yes",
  subnormals: "yes",
  overflow: "infinity",
})!;

/** What an element without NaN can be given: every double but NaN, the infinities with them. */
export const NUMBERS: Target = {
  ...DOUBLE,
  limits: { ...DOUBLE.limits!, special: { nan: false, infinite: true } },
};

/** Whether the element has this very number: NaN is NaN, infinities have their signs, and -0 is not 0. */
export function holds(target: Target, x: Exact): boolean {
  const { element, limits } = target;
  if (element.kind === "int") {
    if (x.kind !== "finite" || x.exponent < 0) return false;
    if (x.significand === 0n) return !x.negative;
    const whole = (x.negative ? -x.significand : x.significand) << BigInt(Math.min(x.exponent, 128));
    return whole >= -BigInt(element.zero) && whole < (1n << BigInt(element.bits)) - BigInt(element.zero);
  }
  if (x.kind === "finite" && x.significand === 0n && x.negative) return target.minusZero;
  if (limits === null) {
    const number = toNumber(x);
    return target.numbers.has(number) && same(fromNumber(number), x);
  }
  if (x.kind === "nan") return limits.special.nan;
  if (x.negative && !limits.signed && !(x.kind === "finite" && x.significand === 0n)) return false;
  if (x.kind === "infinite") return limits.special.infinite;
  if (x.significand === 0n) return true;
  if (x.exponent < limits.low || x.significand >= 1n << BigInt(target.precision)) return false;
  // Far above every element the shift would be long for nothing.
  return x.exponent - limits.low < 4096 && x.significand << BigInt(x.exponent - limits.low) <= limits.most;
}

/** The smallest number above zero that is no subnormal of the target, which machines may flush; 0 where all may stay. */
export function leastNormal({ limits }: Target): number {
  return limits === null ? 0 : Number(limits.normal) * 2 ** limits.low;
}

/** The same number: NaN is NaN, and -0 is not 0. */
export function same(a: Exact, b: Exact): boolean {
  if (a.kind !== b.kind) return false;
  if (a.kind === "nan" || b.kind === "nan") return true;
  if (a.negative !== b.negative) return false;
  return a.kind !== "finite" || b.kind !== "finite" || (a.significand === b.significand && a.exponent === b.exponent);
}

/**
 * Why the numbers of a window may not all be numbers of the target, in words; null where they all are.
 * @param flushes whether subnormals of the target count as lost
 */
export function misfit(window: Window, target: Target, flushes = false): string | null {
  const { element, limits, precision } = target;
  const { name } = element;
  if (element.kind === "int") {
    if (window.nan || window.infinite) return `${name} has no NaN and no infinity`;
    if (window.minusZero) return `${name} has no -0`;
    if (window.low < 0 && window.odd > 0n) return `there are parts of 2^${window.low}, and ${name} holds whole numbers`;
    const [least, most] = [
      window.least << BigInt(Math.max(0, window.low)),
      window.most << BigInt(Math.max(0, window.low)),
    ];
    const fits = least >= -BigInt(element.zero) && most < (1n << BigInt(element.bits)) - BigInt(element.zero);
    return fits ? null : `they reach from ${least} to ${most}`;
  }
  if (limits === null) return `${name} is a list of numbers`;
  if (window.nan && !limits.special.nan) return `${name} has no NaN`;
  if (window.infinite && !limits.special.infinite) return `${name} has no infinity`;
  if (window.minusZero && !target.minusZero) return `${name} has no -0`;
  if (window.least < 0n && !limits.signed) return `${name} has no negative numbers`;
  if (window.odd >> BigInt(precision) !== 0n)
    return `up to ${window.odd.toString(2).length} significant bits, and ${name} has ${precision}`;
  if (window.odd === 0n) return null;
  if (window.low < limits.low)
    return `there are parts of 2^${window.low}, and the lowest bit of ${name} is 2^${limits.low}`;
  const up = BigInt(window.low - limits.low);
  const size = -window.least > window.most ? -window.least : window.most;
  if (size << up > limits.most) return `there are numbers beyond the largest of ${name}`;
  return flushes && window.tiny << up < limits.normal ? `there are subnormals of ${name}` : null;
}

/** An exact number as a person reads it: a short decimal, or a whole number times a power of two. */
export function showExact(x: Exact): string {
  const number = toNumber(x);
  if (x.kind !== "finite") return x.kind === "nan" ? "NaN" : x.negative ? "-infinity" : "infinity";
  if (Object.is(number, -0)) return "-0";
  const decimal = String(number);
  const isDouble = same(fromNumber(number), x);
  if (decimal.length <= 12 && isDouble) return decimal;
  const sign = x.negative ? "-" : "";
  if (x.significand === 1n) return `${sign}2^${x.exponent}`;
  return `${sign}${x.significand} * 2^${x.exponent}${isDouble ? ` (${decimal})` : ""}`;
}
