// Blocks of one format whose values no block of another has: the counter-examples to claims about formats of blocks.
// Candidates are blocks with corner codes. Whether the other format has their values is decided by arithmetic, not by
// trying its blocks: all numbers of a value but one are enumerated, the last one is solved for, and numbers that several
// values read must be the same for all of them.
// Where bits of two numbers overlap, they count as free: then more is possible than really is, so that what is found
// absent is absent. Not here: proofs that every block has its like (embedding.ts).

import { elementValue, type Exact, exactValue, fromNumber, toNumber } from "../exact.ts";
import { blockWith, codeAt, fewCorners, meets, putCode, type Witness } from "./exactness.ts";
import {
  type Choices,
  choicesOf,
  cornersOf,
  elementKey,
  elementOf,
  type Form,
  inDoubles,
  type Leaf,
  oddPart,
  type Tree,
  treeText,
} from "./form.ts";
import { placed, type Stored } from "./stored.ts";
import type { Restriction } from "../type.ts";
import { condense, holds, isExactInDoubles, leafWindow, same, targetOf, treeWindow, type Window } from "./window.ts";

export type Absence =
  | { readonly kind: "absent"; readonly reason: string; readonly witness: Witness }
  /** `tried`: what was looked at in vain, in words. */
  | { readonly kind: "unknown"; readonly tried: string };

/** Values of a matrix that are looked at. */
const MAX_PLACES = 512;
/** Combinations of corner codes of one value that are looked at. */
const MAX_SINGLES = 512;
/** Whole matrices that are looked at. */
const MATRICES = 48;
/** Steps of the search for one kind of value, or in one matrix, and in all: about a second, and some seconds. */
const MAX_OWN_STEPS = 2 ** 22;
const MAX_STEPS = 2 ** 23;

/** A matrix of the first format without counterpart in the second, if the search finds one. */
export function findAbsent(a: Stored, b: Stored, values: number, domain: readonly Restriction[]): Absence {
  const empty = emptyMatrix(a, domain);
  const sources: Form[] = [];
  const targets: Target[] = [];
  for (let i = 0; i < Math.min(values, MAX_PLACES); i++) {
    const [x, y] = [placed(a, i), placed(b, i)];
    if (x === null || y === null) break;
    sources.push(x);
    targets.push(targetAt(y));
  }
  if (empty === null) return { kind: "unknown", tried: `no block of ${a.name} is in the domain` };
  const search: Search = { a, b, empty, domain, sources, targets, steps: { left: MAX_OWN_STEPS } };
  const single = findSingle(search);
  if (single !== null) return single;
  let [matrices, left] = [0, MAX_STEPS];
  for (; matrices < MATRICES && left > 0; matrices++) {
    search.steps.left = 2 * MAX_OWN_STEPS;
    const found = findTogether(search, matrices);
    if (found !== null) return found;
    left -= 2 * MAX_OWN_STEPS - Math.max(0, search.steps.left);
  }
  return { kind: "unknown", tried: `corner codes value by value, and in ${matrices} blocks` };
}

interface Search {
  readonly a: Stored;
  readonly b: Stored;
  /** The matrix of the lowest codes that the domain allows. */
  readonly empty: Uint8Array;
  readonly domain: readonly Restriction[];
  /** The forms of the first values. */
  readonly sources: readonly Form[];
  readonly targets: readonly Target[];
  readonly steps: { left: number };
}

function emptyMatrix({ type, bits }: Stored, domain: readonly Restriction[]): Uint8Array | null {
  const form: Form = { at: 0, leaves: [], tree: { kind: "constant", value: fromNumber(0) } };
  const block = blockWith(type, form, [], domain);
  if (block === null) return null;
  const matrix = new Uint8Array(bits / 8);
  for (let at = 0; at < matrix.length; at += block.length) matrix.set(block, at);
  return matrix;
}

function keyOf(leaf: Leaf): string {
  return `${leaf.places?.join()} ${elementKey(elementOf(leaf))}.${leaf.lane}`;
}

// --- candidates -----------------------------------------------------------------------------------------------------

/** A value that the other format has nowhere at that place. */
function findSingle(search: Search): Absence | null {
  const { sources, targets, domain, b } = search;
  const seen = new Set<string>();
  for (const [i, form] of sources.entries()) {
    const target = targets[i]!;
    const what = form.leaves.map((leaf) => `${leaf.field} ${elementKey(elementOf(leaf))}.${leaf.lane}`);
    const key = `${what.join()} ${treeText(form.tree)} = ${target.key}`;
    if (seen.has(key)) continue;
    seen.add(key);
    const choices = form.leaves.map((leaf) => choicesOf(leaf, domain));
    const picks = fewCorners(choices, MAX_SINGLES);
    const order = form.leaves.map((_, l) => l).toSorted((p, q) => form.leaves[q]!.bits - form.leaves[p]!.bits || q - p);
    const count = picks.reduce((product, list) => product * list.length, 1);
    for (let n = 0; n < count; n++) {
      const codes: bigint[] = [];
      let rest = n;
      // Long codes change fastest, so that short ones are small in what is found.
      for (const l of order) {
        codes[l] = choices[l]!.codes[picks[l]![rest % picks[l]!.length]!]!;
        rest = Math.floor(rest / picks[l]!.length);
      }
      const matrix = matrixWith(search, [[form, codes]]);
      const value = matrix && valueIn(search.a, matrix, i);
      if (value === null) continue;
      const why = missingAlone(target, value, b.name, search.steps);
      if (why !== null) return absent(search, matrix!, [i], `value ${i} of ${b.name} cannot be that: ${why}`);
      if (search.steps.left <= 0) return null;
    }
  }
  return null;
}

/** Values of one matrix that the other format has not all together. */
function findTogether(search: Search, round: number): Absence | null {
  const matrix = cornerMatrix(search, round);
  if (matrix === null) return null;
  const goals: Goal[] = [];
  for (const [at, target] of search.targets.entries()) {
    const value = valueIn(search.a, matrix, at);
    if (target.solvable && value.kind === "finite" && isDouble(value))
      goals.push({ at, target, value: toNumber(value) });
  }
  for (const group of linked(goals)) {
    if (solve(group, search.steps) !== "none") continue;
    const few = fewest(group, { left: MAX_STEPS });
    const places = few.map(({ at }) => at).toSorted((p, q) => p - q);
    const lean = leanMatrix(search, matrix, places);
    const names = [...new Set(few.flatMap(({ target }) => target.form.leaves.map(({ label }) => label)))];
    const reason =
      places.length === 1
        ? `value ${places[0]} of ${search.b.name} cannot be that: no ${names.join(", ")} make it`
        : `no ${names.join(", ")} of ${search.b.name} make values ${places.join(" and ")} together`;
    return absent(search, lean, places, reason);
  }
  const many = tooMany(goals);
  if (many === null) return null;
  const places = many.goals.map(({ at }) => at);
  const reason = `these are ${places.length} numbers, and so many values of ${search.b.name} can be ${many.most} at most`;
  return absent(search, leanMatrix(search, matrix, places), places, reason);
}

/** Corner codes for every number of a matrix: the ends in the first round, then another choice in each, the same in each run. */
function cornerMatrix(search: Search, round: number): Uint8Array | null {
  const { sources, domain } = search;
  let state = round + 1;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const chosen = new Map<string, bigint>();
  const parts = sources.map((form): readonly [Form, readonly bigint[]] => {
    const codes = form.leaves.map((leaf) => {
      const key = keyOf(leaf);
      let code = chosen.get(key);
      if (code === undefined) {
        const choices = choicesOf(leaf, domain);
        const corners = round === 0 ? endsOf(choices) : cornersOf(choices, round % 2 === 0 ? 8 : 64);
        const pick = corners.length <= 2 ? chosen.size : random(corners.length);
        chosen.set(key, (code = choices.codes[corners[pick % corners.length] ?? 0] ?? 0n));
      }
      return code;
    });
    return [form, codes];
  });
  return matrixWith(search, parts);
}

/** The largest numbers of both signs; of a float the largest alone, so that it scales all values alike. */
function endsOf({ numbers }: Choices): readonly number[] {
  const finite = [...numbers.keys()].filter((k) => Number.isFinite(numbers[k]));
  const most = finite.reduce((best, k) => (numbers[k]! > numbers[best]! ? k : best), finite[0] ?? 0);
  const least = finite.reduce((best, k) => (numbers[k]! < numbers[best]! ? k : best), finite[0] ?? 0);
  return numbers.length > 256 ? [most] : [most, least];
}

/** The empty matrix with these codes; null where the domain forbids it. */
function matrixWith(
  { a, empty, domain }: Search,
  parts: readonly (readonly [Form, readonly bigint[]])[],
): Uint8Array | null {
  const matrix = empty.slice();
  for (const [{ leaves }, codes] of parts)
    for (const [l, leaf] of leaves.entries()) putCode(matrix, leaf.places!, codes[l]!);
  for (let at = 0; at < matrix.length; at += a.type.blockBytes)
    if (!meets(a.type, matrix.subarray(at, at + a.type.blockBytes), domain)) return null;
  return matrix;
}

/** The matrix with the codes of the values at these places alone, if they keep their values so. */
function leanMatrix(search: Search, matrix: Uint8Array, places: readonly number[]): Uint8Array {
  const parts = places.map((at): readonly [Form, readonly bigint[]] => {
    const form = search.sources[at]!;
    return [form, form.leaves.map((leaf) => codeAt(matrix, leaf.places!))];
  });
  const lean = matrixWith(search, parts);
  const isSame = (at: number): boolean => same(valueIn(search.a, lean!, at), valueIn(search.a, matrix, at));
  return lean !== null && places.every(isSame) ? lean : matrix;
}

/** The value by its definition. */
function valueIn({ type }: Stored, matrix: Uint8Array, i: number): Exact {
  const at = Math.floor(i / type.blockSize) * type.blockBytes;
  return exactValue(type, matrix.subarray(at, at + type.blockBytes), i % type.blockSize);
}

function isDouble(x: Exact): boolean {
  return same(fromNumber(toNumber(x)), x);
}

function absent({ a, sources }: Search, matrix: Uint8Array, places: readonly number[], reason: string): Absence {
  const blocks = matrix.length / a.type.blockBytes;
  const codes = new Map<string, Witness["codes"][number]>();
  for (const at of places) {
    const where = blocks === 1 ? "" : ` of block ${Math.floor(at / a.type.blockSize)}`;
    for (const leaf of sources[at]!.leaves) {
      const code = codeAt(matrix, leaf.places!);
      const value = elementValue(elementOf(leaf), code, leaf.lane);
      codes.set(keyOf(leaf), { label: `${leaf.label}${where}`, code, value });
    }
  }
  const [first, ...together] = places.map((at) => ({ at, value: valueIn(a, matrix, at) }));
  const witness = { ...first!, together, codes: [...codes.values()], block: matrix, instead: null };
  return { kind: "absent", reason, witness };
}

// --- whether a format has some values -------------------------------------------------------------------------------

/** A value of the second format at one place, ready to be solved. */
interface Target {
  readonly form: Form;
  /** What it computes of what, so that places with the same key have the same values. */
  readonly key: string;
  /** Bounds of all its values. */
  readonly window: Window;
  /** Whether doubles compute it without rounding. */
  readonly solvable: boolean;
  /** Its leaves by the bits that they are. */
  readonly keys: readonly string[];
  readonly compute: (leaves: Float64Array) => number;
  /** The numbers of each leaf that are finite; null where they are too many to list. */
  readonly numbers: readonly (readonly number[] | null)[];
  readonly has: readonly ((x: number) => boolean)[];
  /** For a leaf that stands in it once: the number with which it makes `value`, NaN where there is none, or ANY. */
  readonly inverses: readonly (Inverse | null)[];
}

type Inverse = (value: number, leaves: Float64Array) => number;

/** Every finite number does. */
const ANY = Number.POSITIVE_INFINITY;

const parts = new Map<string, Omit<Target, "form" | "keys">>();

function targetAt(form: Form): Target {
  const meanings = form.leaves.map((leaf) => `${elementKey(elementOf(leaf))}.${leaf.lane}`);
  const key = `${meanings.join()} ${treeText(form.tree)}`;
  let part = parts.get(key);
  if (part === undefined) parts.set(key, (part = targetOfShape(form, key)));
  return { ...part, form, keys: form.leaves.map(keyOf) };
}

function targetOfShape({ leaves, tree }: Form, key: string): Omit<Target, "form" | "keys"> {
  const choices = leaves.map((leaf) => choicesOf(leaf, []));
  const windows = leaves.map((leaf, l) => leafWindow(leaf, choices[l]!, []));
  const few = condense(tree, windows, choices, null);
  const numbers = choices.map((one) => (one.complete ? Array.from(one.numbers).filter(Number.isFinite) : null));
  const has = leaves.map((leaf, l) => {
    const listed = numbers[l]!;
    if (listed !== null) {
      const set = new Set(listed);
      return (x: number): boolean => set.has(x);
    }
    const target = targetOf(elementOf(leaf));
    return (x: number): boolean => target !== null && holds(target, fromNumber(x === 0 ? 0 : x));
  });
  return {
    key,
    window: treeWindow(few.tree, few.windows),
    solvable: isExactInDoubles(tree, windows),
    compute: inDoubles(tree),
    numbers,
    has,
    inverses: leaves.map((_, l) => (countOf(tree, l) === 1 ? inverseOf(tree, l) : null)),
  };
}

function countOf(tree: Tree, leaf: number): number {
  if (tree.kind === "leaf") return tree.leaf === leaf ? 1 : 0;
  if (tree.kind === "constant") return 0;
  if (tree.kind === "negate") return countOf(tree.operand, leaf);
  return countOf(tree.left, leaf) + countOf(tree.right, leaf);
}

/** Undoes the operations from the root down. Each step is exact where a solution exists; a result is to be checked. */
function inverseOf(tree: Tree, leaf: number): Inverse {
  if (tree.kind === "negate") {
    const inner = inverseOf(tree.operand, leaf);
    return (value, leaves) => inner(-value, leaves);
  }
  if (tree.kind !== "binary") return (value) => value;
  const isLeft = countOf(tree.left, leaf) === 1;
  const inner = inverseOf(isLeft ? tree.left : tree.right, leaf);
  const other = inDoubles(isLeft ? tree.right : tree.left);
  if (tree.operator === "*")
    return (value, leaves) => {
      const factor = other(leaves);
      if (factor !== 0) return inner(value / factor, leaves);
      return value === 0 ? ANY : Number.NaN;
    };
  if (tree.operator === "+") return (value, leaves) => inner(value - other(leaves), leaves);
  if (isLeft) return (value, leaves) => inner(value + other(leaves), leaves);
  return (value, leaves) => inner(other(leaves) - value, leaves);
}

/** Why the format has not this number at the place, whatever its block; null where it has, or may have. */
function missingAlone(target: Target, value: Exact, name: string, steps: { left: number }): string | null {
  const { window, solvable, form } = target;
  if (value.kind === "nan") return window.nan ? null : `${name} has no NaN there`;
  if (value.kind === "infinite") return window.infinite ? null : `${name} has no infinity there`;
  if (value.significand === 0n) return value.negative && !window.minusZero ? `${name} has no -0 there` : null;
  const bits = value.significand.toString(2).length;
  const most = window.odd.toString(2).length;
  if (bits > most) return `it has ${bits} significant bits, and those of ${name} at most ${most}`;
  if (value.exponent < window.low) return `it has parts of 2^${value.exponent}, and ${name} none below 2^${window.low}`;
  const units = (value.negative ? -value.significand : value.significand) << BigInt(value.exponent - window.low);
  if (units < window.least || units > window.most) return `it is beyond the ends of ${name}`;
  if (!solvable || !isDouble(value)) return null;
  const goal = { at: form.at, target, value: toNumber(value) };
  const labels = form.leaves.map(({ label }) => label).join(", ");
  return solve([goal], steps) === "none" ? `no ${labels} make it` : null;
}

/** A value to be had at a place. */
interface Goal {
  readonly at: number;
  readonly target: Target;
  readonly value: number;
}

/** Goals that read a number in common, group by group; in each those with many significant bits come first. */
function linked(goals: readonly Goal[]): readonly (readonly Goal[])[] {
  const byKey = new Map<string, Goal[]>();
  for (const goal of goals) for (const key of goal.target.keys) byKey.set(key, [...(byKey.get(key) ?? []), goal]);
  const done = new Set<Goal>();
  const weight = ({ value }: Goal): number => (value === 0 ? 0 : oddPart(value).odd);
  return goals.flatMap((start) => {
    if (done.has(start)) return [];
    const group = new Set([start]);
    // A set is walked in the order in which it grows.
    for (const goal of group) for (const key of goal.target.keys) for (const next of byKey.get(key)!) group.add(next);
    for (const goal of group) done.add(goal);
    return [[...group].toSorted((p, q) => weight(q) - weight(p) || p.at - q.at)];
  });
}

/**
 * Goals that differ in one number alone, with more values than it has; null where there are none such.
 * Between such places nothing but that number can make a difference.
 */
function tooMany(goals: readonly Goal[]): { readonly goals: readonly Goal[]; readonly most: number } | null {
  const groups = new Map<string, { readonly most: number; readonly byValue: Map<number, Goal> }>();
  for (const goal of goals) {
    const { key, keys, numbers } = goal.target;
    for (const [own, list] of numbers.entries()) {
      if (list === null) continue;
      const alike = `${key} ${own} ${keys.filter((_, l) => l !== own).join()}`;
      const group = groups.get(alike) ?? { most: list.length, byValue: new Map<number, Goal>() };
      groups.set(alike, group);
      if (!group.byValue.has(goal.value)) group.byValue.set(goal.value, goal);
      if (group.byValue.size > group.most) return { goals: [...group.byValue.values()], most: group.most };
    }
  }
  return null;
}

/** Whether numbers exist that make all goals: "none" is certain, "open" where there are too many to enumerate. */
function solve(goals: readonly Goal[], steps: { left: number }): "some" | "none" | "open" {
  const uses = new Map<string, number>();
  for (const { target } of goals) for (const key of target.keys) uses.set(key, (uses.get(key) ?? 0) + 1);
  const assigned = new Map<string, number>();
  const visit = (g: number): "some" | "none" | "open" => {
    const goal = goals[g];
    if (goal === undefined) return "some";
    const { keys, compute, numbers, has, inverses } = goal.target;
    const at = Float64Array.from(keys, (key) => assigned.get(key) ?? Number.NaN);
    const free = [...keys.keys()].filter((l) => !assigned.has(keys[l]!));
    const size = (l: number): number => numbers[l]?.length ?? Number.POSITIVE_INFINITY;
    const solved = free.filter((l) => inverses[l] !== null).toSorted((p, q) => size(q) - size(p))[0] ?? null;
    const listed = free.filter((l) => l !== solved);
    if (listed.some((l) => numbers[l] === null)) return "open";
    const shared = free.filter((l) => uses.get(keys[l]!)! > 1);
    const tried = new Set<string>();
    let outcome: "none" | "open" = "none";
    const picks = listed.map(() => 0);
    for (const l of listed) at[l] = numbers[l]![0] ?? Number.NaN;
    for (;;) {
      if (--steps.left < 0) return "open";
      let number = solved === null ? 0 : inverses[solved]!(goal.value, at);
      const isAny = number === ANY;
      if (isAny) number = 1;
      if (solved !== null) at[solved] = number;
      if (compute(at) === goal.value && (solved === null || isAny || has[solved]!(number))) {
        // Numbers that no other goal reads are done with; one solution is as good as another.
        if (shared.length === 0) return visit(g + 1);
        const given = shared.filter((l) => !(isAny && l === solved));
        const text = given.map((l) => `${l}:${at[l]}`).join();
        if (!tried.has(text)) {
          tried.add(text);
          for (const l of given) assigned.set(keys[l]!, at[l]!);
          const rest = visit(g + 1);
          for (const l of given) assigned.delete(keys[l]!);
          if (rest === "some") return "some";
          if (rest === "open") outcome = "open";
        }
      }
      let o = listed.length - 1;
      for (; o >= 0; o--) {
        const l = listed[o]!;
        picks[o] = (picks[o]! + 1) % numbers[l]!.length;
        at[l] = numbers[l]![picks[o]!]!;
        if (picks[o] !== 0) break;
      }
      if (o < 0) return outcome;
    }
  };
  return visit(0);
}

/** As few of the goals as still cannot be had together; all where the steps run out. */
function fewest(goals: readonly Goal[], steps: { left: number }): readonly Goal[] {
  const isNew = ({ value, target }: Goal, g: number): boolean =>
    goals.findIndex((other) => other.value === value && other.target.key === target.key) === g;
  const distinct = goals.filter(isNew);
  let few = solve(distinct, steps) === "none" ? distinct : goals;
  for (let length = 2; length < few.length; length++)
    if (solve(few.slice(0, length), steps) === "none") few = few.slice(0, length);
  for (const goal of few.toReversed()) {
    const rest = few.filter((other) => other !== goal);
    if (rest.length > 0 && solve(rest, steps) === "none") few = rest;
  }
  return few;
}
