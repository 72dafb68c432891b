// Whether every value of a format is a number of an element: by all codes where they are few, by windows where they are
// many, and by a search among corner codes for one that is lost. Here too: the codes of a field for which none is.
// Sign of zero: -0 is a value of its own, so a target without it loses it. NaN stays NaN, whatever its payload.
// Not here: claims and their messages (prove.ts), where bits lie (embedding.ts), rounding (rounding.ts).

import { encode } from "../encode.ts";
import { elementValue, type Exact, exactNumber, exactValue, fromNumber, toNumber } from "../exact.ts";
import { bitOf, elementBits } from "../expr.ts";
import {
  allows,
  type Choices,
  choicesOf,
  cornersOf,
  elementKey,
  elementOf,
  type Form,
  formAt,
  formsOf,
  inDoubles,
  inExact,
  isIndependent,
  type Leaf,
  listedNumber,
  type Tree,
} from "./form.ts";
import type { Element, Restriction, Type } from "../type.ts";
import {
  condense,
  type Condensed,
  DOUBLE,
  holds,
  isExactInDoubles,
  leastNormal,
  leafWindow,
  NOTHING,
  numberWindow,
  misfit,
  same,
  type Target,
  treeWindow,
  type Window,
} from "./window.ts";

/** What is converted: a type, or the codes of an element; and the forms that its values have. */
export interface Source {
  readonly name: string;
  readonly type: Type | null;
  readonly forms: readonly Form[];
}

/** A value that is lost: which codes make it, and what the target has in its place. */
export interface Witness {
  /** The place in the block; the lane of an element. */
  readonly at: number;
  /** The stored numbers that the value reads. */
  readonly codes: readonly { readonly label: string; readonly code: bigint; readonly value: Exact }[];
  /** The whole block, or several one behind the other; null for an element. */
  readonly block: Uint8Array | null;
  readonly value: Exact;
  /** Other values of the block without which it would not be lost. */
  readonly together: readonly { readonly at: number; readonly value: Exact }[];
  /** The nearest that the target has; null where it has nothing for it. */
  readonly instead: Exact | null;
}

export type Decision =
  | { readonly kind: "exact"; readonly method: string }
  | { readonly kind: "lost"; readonly witness: Witness }
  | { readonly kind: "open"; readonly reason: string };

/** The most combinations of codes that are all tried, if each takes one or two operations. */
const MAX_COMBINATIONS = 2 ** 20;
/** The same where doubles would round, so that exact numbers are multiplied, which grow with every product. */
const MAX_EXACT_COMBINATIONS = 2 ** 16;
/** Counter-examples of more stored numbers are shown as they are found. */
const MAX_SHRUNK = 8;
/** Corner codes of each leaf in a search. */
const CORNERS = 40;

const elementSources = new WeakMap<Element, Source>();
const typeSources = new WeakMap<Type, Source | null>();

/** An element as what is converted. */
export function elementSource(element: Element): Source {
  let source = elementSources.get(element);
  if (source === undefined) elementSources.set(element, (source = formedElement(element)));
  return source;
}

function formedElement(element: Element): Source {
  const lanes = element.kind === "table" ? element.lanes : 1;
  const places = Array.from({ length: element.bits }, (_, k) => k);
  const forms = Array.from({ length: lanes }, (_, lane): Form => {
    const leaf: Leaf = { label: "code", field: null, bits: element.bits, element, lane, places };
    return { at: lane, leaves: [leaf], tree: { kind: "leaf", leaf: 0 } };
  });
  return { name: element.name, type: null, forms };
}

/** A type as what is converted; null where its values have no form. */
export function typeSource(type: Type): Source | null {
  let source = typeSources.get(type);
  if (source === undefined) {
    const forms = formsOf(type);
    typeSources.set(type, (source = forms && { name: type.name, type, forms }));
  }
  return source;
}

/** A value that is lost, before anyone asks what the target has in its place, which may take a list of all it has. */
type Loss = Omit<Witness, "instead">;

type Finding = Exclude<Decision, { kind: "lost" }> | { readonly kind: "lost"; readonly loss: Loss };

/** What was found of the forms of a source, by the target and the text of the domain. */
const findings = new WeakMap<Source["forms"], WeakMap<Target, Map<string, Finding>>>();

/**
 * Whether every value of the source within the domain is a number of the target. "exact" is proved; "lost" comes with a
 * value that the definition (exactValue) gives for these bytes; "open" is neither.
 */
export function decide(source: Source, target: Target, domain: readonly Restriction[]): Decision {
  const found = findingOf(source, target, domain);
  if (found.kind !== "lost") return found;
  return { kind: "lost", witness: { ...found.loss, instead: nearest(target.element, found.loss.value) } };
}

/** Whether the decision is "exact". */
export function isExact(source: Source, target: Target, domain: readonly Restriction[]): boolean {
  return findingOf(source, target, domain).kind === "exact";
}

function findingOf(source: Source, target: Target, domain: readonly Restriction[]): Finding {
  const ofSource = findings.get(source.forms) ?? new WeakMap<Target, Map<string, Finding>>();
  const ofTarget = ofSource.get(target) ?? new Map<string, Finding>();
  findings.set(source.forms, ofSource.set(target, ofTarget));
  const key = JSON.stringify(domain);
  const known = ofTarget.get(key) ?? findingOfForms(source, target, domain);
  ofTarget.set(key, known);
  return known;
}

function findingOfForms(source: Source, target: Target, domain: readonly Restriction[]): Finding {
  const methods: Method[] = [];
  for (const form of source.forms) {
    const found = findingOfForm(source, form, target, domain);
    if (found.kind !== "exact") return found;
    methods.push(found.method);
  }
  return { kind: "exact", method: methodText(methods) };
}

type Method =
  | { readonly kind: "listed"; readonly combinations: number; readonly leaves: readonly string[] }
  | { readonly kind: "window"; readonly window: Window };

type FormFinding = Exclude<Finding, { kind: "exact" }> | { readonly kind: "exact"; readonly method: Method };

function findingOfForm(source: Source, form: Form, target: Target, domain: readonly Restriction[]): FormFinding {
  const choices = form.leaves.map((leaf) => choicesOf(leaf, domain));
  const windows = form.leaves.map((leaf, l) => leafWindow(leaf, choices[l]!, domain));
  const combinations = choices.reduce((product, { codes }) => product * codes.length, 1);
  const complete = choices.every((one) => one.complete);
  const doubles = isExactInDoubles(form.tree, windows);
  const most = mostCombinations(doubles, form.leaves.length);
  const finder = { source, form, choices, doubles, most, target, domain };
  if (complete && combinations <= most) {
    const all = choices.map(({ codes }) => codes.map((_, k) => k));
    const found = search(finder, all);
    if (found.kind === "lost") return { kind: "lost", loss: found.loss };
    if (found.kind === "none") return { kind: "exact", method: { kind: "listed", combinations, leaves: labels(form) } };
  }
  const few = condense(form.tree, windows, choices, null);
  const window = treeWindow(few.tree, few.windows);
  const reason = misfit(window, target);
  if (reason === null) return { kind: "exact", method: { kind: "window", window } };
  const found = search(finder, fewCorners(choices, most));
  if (found.kind === "lost") return { kind: "lost", loss: shrunk(finder, found.picks, found.loss) };
  return { kind: "open", reason };
}

/** As many as take about the same time, whatever there is to compute. */
function mostCombinations(doubles: boolean, leaves: number): number {
  const pairs = Math.max(1, leaves / 2);
  return Math.ceil(doubles ? MAX_COMBINATIONS / Math.floor(pairs) : MAX_EXACT_COMBINATIONS / pairs ** 3);
}

function labels({ leaves }: Form): readonly string[] {
  return leaves.map(({ label }) => label.replace(/\[.*/, ""));
}

function methodText(methods: readonly Method[]): string {
  const listed = methods.filter((method) => method.kind === "listed");
  const windows = methods.flatMap((method) => (method.kind === "window" ? [method.window] : []));
  const parts: string[] = [];
  if (listed.length > 0) {
    const all = listed.reduce((sum, { combinations }) => sum + combinations, 0);
    const names = [...new Set(listed.flatMap(({ leaves }) => leaves))];
    parts.push(
      names.join() === "code"
        ? `all ${all} numbers compared`
        : `all ${all} combinations of ${names.join(", ")} computed`,
    );
  }
  if (windows.length > 0) {
    const low = Math.min(...windows.map((w) => w.low));
    const bits = Math.max(...windows.map((w) => w.odd.toString(2).length));
    parts.push(`window: at most ${bits} significant bits, none below 2^${low}`);
  }
  return parts.join("; ");
}

// --- counter-examples -----------------------------------------------------------------------------------------------

interface Finder {
  readonly source: Source;
  readonly form: Form;
  readonly choices: readonly Choices[];
  /** Whether doubles compute the tree exactly. */
  readonly doubles: boolean;
  /** Combinations that are tried. */
  readonly most: number;
  readonly target: Target;
  readonly domain: readonly Restriction[];
}

type Found =
  | { readonly kind: "none" }
  /** Something would be lost, but for bits that two stored numbers share, or a domain that no block meets so. */
  | { readonly kind: "unconfirmed" }
  | { readonly kind: "lost"; readonly picks: readonly number[]; readonly loss: Loss };

/** The first combination whose value is lost: short leaves change slowest, so that codes are small before scales are. */
function search(finder: Finder, picks: readonly (readonly number[])[]): Found {
  const { form, choices, doubles, most, target } = finder;
  if (picks.some((list) => list.length === 0)) return { kind: "none" };
  const at = picks.map(() => 0);
  const order = shortFirst(form.leaves);
  const numbers = Float64Array.from(picks, (list, l) => choices[l]!.numbers[list[0]!]!);
  const compute = inDoubles(form.tree);
  const fits = doubleTest(target);
  const exact = (): Exact =>
    inExact(
      form.tree,
      picks.map((list, l) => choices[l]!.exact(list[at[l]!]!)),
    );
  let unconfirmed = false;
  // Corners of very many leaves are more combinations than anyone can try.
  for (let tried = 0; tried < most; tried++) {
    if (doubles ? !fits(compute(numbers)) : !holds(target, exact())) {
      const picked = picks.map((list, l) => list[at[l]!]!);
      const loss = confirm(finder, picked);
      if (loss !== null) return { kind: "lost", picks: picked, loss };
      unconfirmed = true;
    }
    let o = order.length - 1;
    for (; o >= 0; o--) {
      const l = order[o]!;
      const pick = (at[l]! + 1) % picks[l]!.length;
      at[l] = pick;
      numbers[l] = choices[l]!.numbers[picks[l]![pick]!]!;
      if (pick !== 0) break;
    }
    if (o < 0) break;
  }
  return { kind: unconfirmed ? "unconfirmed" : "none" };
}

function shortFirst(leaves: readonly Leaf[]): readonly number[] {
  return leaves.map((_, l) => l).toSorted((a, b) => leaves[a]!.bits - leaves[b]!.bits || a - b);
}

/** Whether the target has the number, for numbers that are exact in doubles. */
function doubleTest(target: Target): (x: number) => boolean {
  const { element, limits, precision } = target;
  if (elementKey(element) === elementKey(DOUBLE.element))
    return limits?.special.nan ? () => true : (x) => !Number.isNaN(x);
  if (element.kind === "int" && element.bits <= 32) {
    const { bits, zero } = element;
    return (x) => Number.isInteger(x) && !Object.is(x, -0) && x >= -zero && x < 2 ** bits - zero;
  }
  if (element.kind !== "float" || limits === null || precision > 24) return (x) => holds(target, fromNumber(x));
  const { special, signed, low } = limits;
  const largest = Number(limits.most) * 2 ** low;
  // Dekker's splitting: the product less what it is too large by has the top `precision` bits of x.
  const split = 2 ** (53 - precision) + 1;
  const unit = 2 ** -low;
  return (x) => {
    if (x === 0) return signed || !Object.is(x, -0) ? target.minusZero || !Object.is(x, -0) : false;
    if (Number.isNaN(x)) return special.nan;
    if (x < 0 && !signed) return false;
    const size = Math.abs(x);
    if (size === Number.POSITIVE_INFINITY) return special.infinite;
    if (size > largest) return false;
    const product = size * split;
    return product - (product - size) === size && Number.isInteger(size * unit);
  };
}

/** The loss that these codes make, if the definition agrees; null where they cannot stand in one block together. */
function confirm({ source, form, choices, target, domain }: Finder, picked: readonly number[]): Loss | null {
  const { type } = source;
  const codes = form.leaves.map((leaf, l) => {
    const { codes: list, exact } = choices[l]!;
    return { label: leaf.label, code: list[picked[l]!]!, value: exact(picked[l]!) };
  });
  if (type === null) {
    const { value } = codes[0]!;
    return { at: form.at, codes, block: null, value, together: [] };
  }
  const block = blockWith(
    type,
    form,
    codes.map(({ code }) => code),
    domain,
  );
  const value = block && exactValue(type, block, form.at);
  if (value === null || holds(target, value)) return null;
  // Where the data decide what is read, the names show it now.
  const read = formAt(type, form.at, block ?? undefined)?.leaves ?? form.leaves;
  const named = codes.map((one, l) => ({ ...one, label: read[l]?.label ?? one.label }));
  return { at: form.at, codes: named, block, value, together: [] };
}

/** The number of the element nearest to x; null where it has none for it. */
function nearest(element: Element, x: Exact): Exact | null {
  if (x.kind === "nan") {
    try {
      return elementValue(element, encode(element, x), 0);
    } catch {
      return null;
    }
  }
  return elementValue(element, encode(element, x), 0);
}

/** A block in which the leaves have these codes, all else as low as the domain allows; null where there is none. */
export function blockWith(
  type: Type,
  form: Form,
  codes: readonly bigint[],
  domain: readonly Restriction[],
): Uint8Array | null {
  const block = new Uint8Array(type.blockBytes);
  const restricted = type.fields.filter(({ name }) => domain.some(({ field }) => field === name));
  for (const field of restricted) {
    const leaf = {
      label: field.name,
      field: field.name,
      bits: field.element.bits,
      element: field.element,
      lane: 0,
      places: [],
    };
    const [first] = choicesOf(leaf, domain).codes;
    if (first === undefined) return null;
    for (let e = 0; e < field.count; e++) putCode(block, elementBits(field, e), first);
  }
  // Where the data decide what is read, it is what a block of zeros says.
  const placed = form.leaves.some((leaf) => leaf.places === null) ? formAt(type, form.at, block) : form;
  if (placed?.leaves.length !== form.leaves.length) return null;
  for (const [l, leaf] of placed.leaves.entries()) putCode(block, leaf.places!, codes[l]!);
  if (!isIndependent(placed.leaves) && placed.leaves.some((leaf, l) => codeAt(block, leaf.places!) !== codes[l]!))
    return null;
  return meets(type, block, domain) ? block : null;
}

/** Whether a block is in the domain. */
export function meets({ fields }: Type, block: Uint8Array, domain: readonly Restriction[]): boolean {
  return domain.every((r) =>
    fields
      .filter(({ name }) => name === r.field)
      .every((field) =>
        Array.from({ length: field.count }, (_, e) => codeAt(block, elementBits(field, e))).every((code) => {
          const value = elementValue(field.element, code, 0);
          return allows(r, code, value.kind === "finite" ? 0 : Number.NaN);
        }),
      ),
  );
}

/** The code in the bits at these places, the least significant first. */
export function codeAt(block: Uint8Array, places: readonly number[]): bigint {
  return places.reduce((code, place, k) => code | (BigInt(bitOf(block, place)) << BigInt(k)), 0n);
}

/** Puts a code into the bits at these places. */
export function putCode(block: Uint8Array, places: readonly number[], code: bigint): void {
  for (const [k, place] of places.entries()) {
    const [at, mask] = [Math.floor(place / 8), 1 << (place % 8)];
    block[at] = (code >> BigInt(k)) & 1n ? block[at]! | mask : block[at]! & ~mask;
  }
}

/** Corner codes of all leaves, as many of each as make no more than `most` combinations. */
export function fewCorners(choices: readonly Choices[], most: number): readonly (readonly number[])[] {
  for (let count = CORNERS; ; count--) {
    const corners = choices.map((one) => cornersOf(one, count));
    if (count <= 2 || corners.reduce((product, list) => product * list.length, 1) <= most) return corners;
  }
}

/** A smaller counter-example: leaf by leaf, short ones first, the lowest code for which the value is still lost. */
function shrunk(finder: Finder, picks: readonly number[], loss: Loss): Loss {
  const { form, choices } = finder;
  if (form.leaves.length > MAX_SHRUNK) return loss;
  let [current, best] = [picks, loss];
  for (let moved = true; moved;) {
    moved = false;
    for (const l of shortFirst(form.leaves)) {
      const lower = cornersOf(choices[l]!, 4 * CORNERS).filter((k) => k < current[l]!);
      const found = search(
        finder,
        current.map((k, other) => (other === l ? lower : [k])),
      );
      if (found.kind !== "lost") continue;
      [current, best, moved] = [found.picks, found.loss, true];
    }
  }
  return best;
}

// --- domains and counts ---------------------------------------------------------------------------------------------

/** Raw codes of a field (null: of the element itself) for which every value is kept: what a loader checks. */
export interface Guard {
  readonly field: string | null;
  readonly low: number;
  readonly high: number;
}

/**
 * The longest run of codes of one scale that stand for finite numbers, all else free, for which every value is a number
 * of the target; null where there is none. Exact for products; of a sum, a run that is certain.
 * @param flushes whether subnormals of the target count as lost, for machines that may flush them
 */
export function exactRun(
  source: Source,
  target: Target,
  domain: readonly Restriction[],
  flushes = false,
): Guard | null {
  const { type } = source;
  const fields = new Map<string | null, Leaf>();
  for (const leaf of source.forms.flatMap(({ leaves }) => leaves)) {
    // A scale has fewer entries than there are values.
    const isScale = type?.fields.some(({ name, count }) => name === leaf.field && count < type.blockSize) ?? true;
    if (isScale && leaf.element !== null && leaf.bits <= 16) fields.set(leaf.field, leaf);
  }
  let best: Guard | null = null;
  let share = 0;
  for (const [field, leaf] of fields) {
    const keeps = keeper(source, target, domain, field, flushes);
    const run = keeps && longestRun(2 ** leaf.bits, keeps);
    if (run === null || (run.high - run.low + 1) / 2 ** leaf.bits <= share) continue;
    share = (run.high - run.low + 1) / 2 ** leaf.bits;
    best = { field, ...run };
  }
  return best;
}

/** Whether nothing is lost when a field has this code; null where something is, whatever its code. */
function keeper(
  source: Source,
  target: Target,
  domain: readonly Restriction[],
  field: string | null,
  flushes: boolean,
): ((code: number) => boolean) | null {
  const parts: ((code: number) => boolean)[] = [];
  for (const form of source.forms) {
    const choices = form.leaves.map((leaf) => choicesOf(leaf, domain));
    const windows = form.leaves.map((leaf, l) => leafWindow(leaf, choices[l]!, domain));
    const own = form.leaves.findIndex((leaf) => leaf.field === field && leaf.element !== null);
    const few = condense(form.tree, windows, choices, own === -1 ? null : own);
    if (own === -1) {
      if (misfit(treeWindow(few.tree, few.windows), target, flushes) !== null) return null;
      continue;
    }
    const narrowed = few.windows.with(own, NOTHING);
    // Where all else is too much by itself, no code can help. A sum has -0 only where all of its terms have.
    const rest = isInProducts(few, own) ? { ...treeWindow(few.tree, narrowed), minusZero: false } : null;
    if (rest !== null && misfit(rest, target) !== null) return null;
    const leaf = form.leaves[own]!;
    const element = elementOf(leaf);
    const [fits, normal] = [doubleTest(target), flushes ? leastNormal(target) : 0];
    parts.push((code) => {
      const number = listedNumber(element, code, leaf.lane);
      if (!Number.isFinite(number)) return false;
      if (few.tree.kind === "leaf" && source.type === null)
        return fits(number) && (number === 0 || Math.abs(number) >= normal);
      narrowed[own] = numberWindow(number);
      return misfit(treeWindow(few.tree, narrowed), target, flushes) === null;
    });
  }
  return (code) => parts.every((keeps) => keeps(code));
}

/** Whether a leaf stands in products alone that may be zero: then no number of it takes anything from the whole window. */
function isInProducts({ tree: whole, windows }: Condensed, leaf: number): boolean {
  const visit = (tree: Tree): "without" | "alone" | "in a product" => {
    if (tree.kind === "leaf") return tree.leaf === leaf ? "alone" : "without";
    if (tree.kind === "constant") return "without";
    if (tree.kind === "negate") return visit(tree.operand);
    const [left, right] = [visit(tree.left), visit(tree.right)];
    if (tree.operator === "*" && left !== right) {
      const other = left === "without" ? tree.left : right === "without" ? tree.right : null;
      if (other !== null && treeWindow(other, windows).zero) return "in a product";
    }
    if (left === "alone" || right === "alone") return "alone";
    return left === "without" ? right : left;
  };
  return visit(whole) === "in a product";
}

/** The first of the longest runs: of each that would be longer, the last code is tried first, and tells how far to go on. */
function longestRun(
  codes: number,
  keeps: (code: number) => boolean,
): { readonly low: number; readonly high: number } | null {
  let [start, low, length] = [0, 0, 0];
  while (start + length < codes) {
    let code = start + length;
    while (code >= start && keeps(code)) code--;
    if (code >= start) {
      start = code + 1;
      continue;
    }
    let end = start + length + 1;
    while (end < codes && keeps(end)) end++;
    [low, length] = [start, end - start];
    start = end + 1;
  }
  return length === 0 ? null : { low, high: low + length - 1 };
}

/** The ends of the finite values of a source: reached where a value is a product, bounds where it is a sum. */
export function windowOf({ forms }: Source): { readonly low: number; readonly high: number } {
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const form of forms) {
    const choices = form.leaves.map((leaf) => choicesOf(leaf, []));
    const windows = form.leaves.map((leaf, l) => leafWindow(leaf, choices[l]!, []));
    const few = condense(form.tree, windows, choices, null);
    const window = treeWindow(few.tree, few.windows);
    const number = (units: bigint): number => toNumber(exactNumber(units, window.low));
    [least, most] = [Math.min(least, number(window.least)), Math.max(most, number(window.most))];
  }
  return { low: least, high: most };
}

/** How many of the finite codes of an element of up to 16 bits are numbers of the target. */
export function exactCodes(element: Element, target: Target): { readonly exact: number; readonly finite: number } {
  const lanes = element.kind === "table" ? element.lanes : 1;
  const fits = doubleTest(target);
  let [exact, finite] = [0, 0];
  for (let code = 0; code < 2 ** element.bits; code++) {
    let [areFinite, areNumbers] = [true, true];
    for (let lane = 0; areFinite && lane < lanes; lane++) {
      const number = listedNumber(element, code, lane);
      areFinite = Number.isFinite(number);
      areNumbers &&= areFinite && fits(number);
    }
    if (areFinite) finite++;
    if (areFinite && areNumbers) exact++;
  }
  return { exact, finite };
}

/** The first code and lane for which `by` gives the target another number than the source has; null where none. */
export function firstDifference(
  element: Element,
  to: Element,
  by: (code: number) => number,
  domain: readonly Restriction[],
): Witness | null {
  const lanes = element.kind === "table" ? element.lanes : 1;
  for (let code = 0; code < 2 ** element.bits; code++) {
    for (let lane = 0; lane < lanes; lane++) {
      const value = elementValue(element, BigInt(code), lane);
      const number = value.kind === "finite" ? 0 : Number.NaN;
      if (!domain.every((r) => allows(r, BigInt(code), number))) continue;
      const instead = elementValue(to, BigInt(by(code)), lane);
      if (same(value, instead)) continue;
      const codes = [{ label: "code", code: BigInt(code), value }];
      return { at: lane, codes, block: null, value, together: [], instead };
    }
  }
  return null;
}
