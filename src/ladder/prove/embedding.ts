// Formats into formats: where every stored bit goes when a matrix is stored in another way (repack), and whether every
// block of one format has a block of the other with the same values (value). Both compare the two value by value: the
// same sums and products, of numbers that lie elsewhere. Not here: formats into single elements (exactness.ts).
// Bits that no value reads must be kept too, in a field of the same name; those of fields named pad or unused need not.

import { findAbsent } from "./absence.ts";
import { elementValue, type Exact, fromNumber } from "../exact.ts";
import { blockWith, type Witness } from "./exactness.ts";
import {
  allows,
  type Choices,
  choicesOf,
  cornersOf,
  elementKey,
  elementOf,
  type Form,
  inDoubles,
  inExact,
  isIndependent,
  type Leaf,
  type Tree,
  treeText,
} from "./form.ts";
import { placed, shapesOf, type Stored, storedIn } from "./stored.ts";
import type { Endpoint, Restriction, Type } from "../type.ts";
import { holds, same, targetOf } from "./window.ts";

export type Embedding =
  | { readonly kind: "kept"; readonly method: string }
  | { readonly kind: "lost"; readonly reason: string; readonly witness: Witness | null }
  | { readonly kind: "open"; readonly reason: string };

/** Values of one matrix that is compared place by place. */
const MAX_VALUES = 2 ** 17;
/** Combinations of corner codes for which two formulas are compared. */
const MAX_COMBINATIONS = 2 ** 14;
/** Stored numbers of so many bits together are compared for all of their codes. */
const MAX_BITS = 16;

/**
 * Whether the stored bits of one format map one to one to those of the other with the same values: for a block, or for
 * matrices of the smallest shape that both allow and of multiples of it. Neither is an element.
 */
export function repacked(from: Endpoint, to: Endpoint, domain: readonly Restriction[]): Embedding {
  const compared: Compared = new Map();
  return overShapes(from, to, (a, b, values) => compareBits(a, b, values, domain, compared));
}

/** Whether every matrix in one format, within the domain, is one in the other, value for value. Neither is an element. */
export function embedded(from: Endpoint, to: Endpoint, domain: readonly Restriction[]): Embedding {
  const moved = repacked(from, to, domain);
  if (moved.kind === "kept") return moved;
  return overShapes(from, to, (a, b, values) => {
    const found = compareNumbers(a, b, values, domain);
    if (found.kind !== "open") return found;
    const absence = findAbsent(a, b, values, domain);
    if (absence.kind === "unknown") return { kind: "open", reason: `${found.reason}; tried in vain: ${absence.tried}` };
    const { reason, witness } = absence;
    return { kind: "lost", reason: `not every block of ${a.name} has its values in ${b.name}: ${reason}`, witness };
  });
}

function overShapes(
  from: Endpoint,
  to: Endpoint,
  compare: (a: Stored, b: Stored, values: number) => Embedding,
): Embedding {
  const [first, ...larger] = shapesOf(from, to);
  if (first === undefined) return { kind: "open", reason: "no shape up to 1024 x 8192 suits both" };
  const shapes = [first, ...larger.filter(({ rows, columns }) => rows * columns <= MAX_VALUES)];
  let method = "";
  for (const shape of shapes) {
    const [a, b] = [storedIn(from, shape), storedIn(to, shape)];
    if (a === null || b === null) continue;
    const found = compare(a, b, shape.rows * shape.columns);
    if (found.kind !== "kept") return found;
    method ||= found.method;
  }
  const tensors = from.kind === "tensor" || to.kind === "tensor";
  const where = tensors
    ? ` in matrices of ${shapes.map(({ rows, columns }) => `${rows} x ${columns}`).join(", ")}`
    : "";
  return { kind: "kept", method: `${method}${where}` };
}

// --- bits -----------------------------------------------------------------------------------------------------------

const NOWHERE = -1;

/** What the comparison of two forms came to, by what they compute; null where they give the same numbers. */
type Compared = Map<string, Embedding | null>;

function compareBits(
  a: Stored,
  b: Stored,
  values: number,
  domain: readonly Restriction[],
  compared: Compared,
): Embedding {
  const to = new Int32Array(a.bits).fill(NOWHERE);
  const from = new Int32Array(b.bits).fill(NOWHERE);
  const pair = (p: number, q: number): string | null => {
    if (to[p] === q && from[q] === p) return null;
    if (to[p] !== NOWHERE) return `${bitName(a, p)} would go to two places, ${bitName(b, to[p]!)} and ${bitName(b, q)}`;
    if (from[q] !== NOWHERE) return `${bitName(b, q)} would get two bits, ${bitName(a, from[q]!)} and ${bitName(a, p)}`;
    [to[p], from[q]] = [q, p];
    return null;
  };
  for (let i = 0; i < values; i++) {
    const [x, y] = [placed(a, i), placed(b, i)];
    const differs = differenceAt(a, b, x, y, i, domain, compared);
    if (differs !== null) return differs;
    for (const [l, { places }] of x!.leaves.entries()) {
      for (const [k, p] of places!.entries()) {
        const reason = pair(p, y!.leaves[l]!.places![k]!);
        if (reason !== null) return { kind: "lost", reason: `${reason}, by value ${i}`, witness: null };
      }
    }
  }
  for (const field of unread(a, to)) {
    const own = bitsOf(a, field);
    const other = b.type.fields.find(({ name }) => name === field.name);
    const free = other === undefined ? [] : bitsOf(b, other).filter((q) => from[q] === NOWHERE);
    const kept =
      other !== undefined && elementKey(other.element) === elementKey(field.element) && free.length === own.length;
    if (!kept) {
      const reason = `no value reads ${field.name} of ${a.name}, and ${b.name} has no such field to keep it in; a field named pad or unused may be dropped`;
      return { kind: "lost", reason, witness: null };
    }
    for (const [k, p] of own.entries()) pair(p, free[k]!);
  }
  const moved = to.reduce((count, q) => count + Number(q !== NOWHERE), 0);
  const dropped = a.bits - moved === 0 ? "" : `, ${a.bits - moved} of padding dropped`;
  const zeros = b.bits - moved === 0 ? "" : `, ${b.bits - moved} bits of ${b.name} left 0`;
  return { kind: "kept", method: `bit provenance: ${moved} of ${a.bits} bits go one to one${dropped}${zeros}` };
}

/** Fields with bits that nothing has been made of, and that are not declared as padding. */
function unread(stored: Stored, to: Int32Array): readonly Type["fields"][number][] {
  return stored.type.fields.filter((field) => {
    if (/^(pad|unused)/.test(field.name)) return false;
    return bitsOf(stored, field).some((p) => to[p] === NOWHERE);
  });
}

/** All bits of a field in all blocks. */
function bitsOf({ type, bits }: Stored, { bit, count, element }: Type["fields"][number]): readonly number[] {
  const block = type.blockBytes * 8;
  return Array.from({ length: bits / block }, (_, n) => n * block + bit).flatMap((first) =>
    Array.from({ length: count * element.bits }, (_, k) => first + k),
  );
}

/** `qs[3] bit 5`. */
function bitName({ name, type }: Stored, place: number): string {
  const within = place % (type.blockBytes * 8);
  const field = type.fields.find(({ bit, count, element }) => within >= bit && within < bit + count * element.bits);
  if (field === undefined) return `bit ${place} of ${name}`;
  const at = within - field.bit;
  const entry = field.count === 1 ? field.name : `${field.name}[${Math.floor(at / field.element.bits)}]`;
  return `bit ${at % field.element.bits} of ${entry} of ${name}`;
}

/** What stands in the way of taking the bits of value i over as they are; null where nothing does. */
function differenceAt(
  a: Stored,
  b: Stored,
  x: Form | null,
  y: Form | null,
  i: number,
  domain: readonly Restriction[],
  compared: Compared,
): Embedding | null {
  if (x === null || y === null || [...x.leaves, ...y.leaves].some(({ places }) => places === null))
    return { kind: "open", reason: `where value ${i} lies is decided by the data` };
  const key = [x, y]
    .map((form) => `${form.leaves.map((leaf) => `${leaf.field} ${meaning(leaf)}`).join()} ${treeText(form.tree)}`)
    .join(" = ");
  const known = compared.get(key);
  if (known !== undefined) return known;
  const found = compareForms(a, b, x, y, domain);
  compared.set(key, found);
  return found;
}

function compareForms(a: Stored, b: Stored, x: Form, y: Form, domain: readonly Restriction[]): Embedding | null {
  const widths = (form: Form): string => form.leaves.map(({ bits }) => bits).join();
  if (widths(x) !== widths(y)) {
    const read = (form: Form): string => form.leaves.map(({ label, bits }) => `${label} (${bits})`).join(", ");
    const reason = `value ${x.at} of ${a.name} is made of ${read(x)} bits, and that of ${b.name} of ${read(y)}`;
    return { kind: "open", reason };
  }
  const alike = x.leaves.every((leaf, l) => meaning(leaf) === meaning(y.leaves[l]!));
  if (alike && treeText(x.tree) === treeText(y.tree)) return null;
  const found = otherValue(a, x, y, domain);
  if (found.witness !== null && isIndependent(x.leaves))
    return { kind: "lost", reason: `the same bits are another number in ${b.name}`, witness: found.witness };
  return found.complete && found.witness === null
    ? null
    : { kind: "open", reason: `${a.name} and ${b.name} compute value ${x.at} in different ways` };
}

function meaning(leaf: Leaf): string {
  return `${elementKey(elementOf(leaf))}.${leaf.lane}`;
}

/**
 * Codes for which the two forms give different numbers, and whether all were tried: of few bits they are. Zeros with
 * different signs count last.
 */
function otherValue(
  a: Stored,
  x: Form,
  y: Form,
  domain: readonly Restriction[],
): { readonly witness: Witness | null; readonly complete: boolean } {
  const own = (leaf: Leaf): readonly Restriction[] =>
    domain.filter(({ field }) => field === leaf.field && leaf.element !== null);
  const numberOfCode = (leaf: Leaf, code: bigint): number => (numberOf(leaf, code).kind === "finite" ? 0 : Number.NaN);
  const complete = x.leaves.reduce((sum, { bits }) => sum + bits, 0) <= MAX_BITS;
  const lists = x.leaves.map((leaf) => {
    const codes =
      complete || leaf.bits <= 8
        ? Array.from({ length: 2 ** leaf.bits }, (_, code) => BigInt(code))
        : cornerCodes(leaf);
    return codes.filter((code) => own(leaf).every((r) => allows(r, code, numberOfCode(leaf, code))));
  });
  const countOf = (): number => lists.reduce((product, list) => product * list.length, 1);
  const most = complete ? 2 ** MAX_BITS : Math.ceil(MAX_COMBINATIONS / x.leaves.length);
  while (countOf() > most) {
    const longest = lists.reduce((best, list, l) => (list.length > lists[best]!.length ? l : best), 0);
    if (lists[longest]!.length <= 3) break;
    lists[longest] = lists[longest]!.filter((_, k) => k % 2 === 0 || k === 1);
  }
  const count = Math.min(most, countOf());
  const order = lists.map((_, l) => l).toSorted((p, q) => x.leaves[p]!.bits - x.leaves[q]!.bits || p - q);
  let zeros: Witness | null = null;
  for (let n = 0; n < count; n++) {
    const codes: bigint[] = [];
    let rest = n;
    for (const l of order.toReversed()) {
      codes[l] = lists[l]![rest % lists[l]!.length]!;
      rest = Math.floor(rest / lists[l]!.length);
    }
    const [value, instead] = [valueOf(x, codes), valueOf(y, codes)];
    if (same(value, instead)) continue;
    const bySign = isZero(value) && isZero(instead);
    if (bySign && zeros !== null) continue;
    const named = x.leaves.map((leaf, l) => ({ label: leaf.label, code: codes[l]!, value: numberOf(leaf, codes[l]!) }));
    const single = a.bits === a.type.blockBytes * 8;
    const block = single ? blockWith(a.type, x, codes, domain) : null;
    const witness = { at: x.at, codes: named, block, value, together: [], instead };
    if (!bySign) return { witness, complete };
    zeros = witness;
  }
  return { witness: zeros, complete };
}

function cornerCodes(leaf: Leaf): readonly bigint[] {
  const choices = choicesOf(leaf, []);
  return choices.complete ? cornersOf(choices, 40).map((k) => choices.codes[k]!) : choices.codes;
}

function numberOf(leaf: Leaf, code: bigint): Exact {
  return elementValue(elementOf(leaf), code, leaf.lane);
}

function valueOf({ leaves, tree }: Form, codes: readonly bigint[]): Exact {
  return inExact(
    tree,
    leaves.map((leaf, l) => numberOf(leaf, codes[l]!)),
  );
}

function isZero(x: Exact): boolean {
  return x.kind === "finite" && x.significand === 0n;
}

// --- numbers --------------------------------------------------------------------------------------------------------

/** A part of a value that reads one stored number, and all numbers that the part may be. */
interface Part {
  readonly leaf: Leaf;
  readonly text: string;
  /** -0 as the text "-0", since a set takes it for 0. */
  readonly numbers: ReadonlySet<number | "-0"> | null;
}

/** Every value as the same sum or product of parts, each of which may be all that the part of the source may be. */
function compareNumbers(a: Stored, b: Stored, values: number, domain: readonly Restriction[]): Embedding {
  const source = new Map<string, string>();
  const owner = new Int32Array(b.bits).fill(NOWHERE);
  const owners = new Map<string, number>();
  const matches = new Map<string, Match>();
  for (let i = 0; i < values; i++) {
    const [x, y] = [placed(a, i), placed(b, i)];
    if (x === null || y === null || [...x.leaves, ...y.leaves].some(({ places }) => places === null))
      return { kind: "open", reason: `where value ${i} lies is decided by the data` };
    const [p, q] = [partsOf(x, domain), partsOf(y, [])];
    if (p.skeleton !== q.skeleton)
      return {
        kind: "open",
        reason: `${a.name} is ${p.skeleton}, and ${b.name} is ${q.skeleton}, with a letter for each stored number`,
      };
    const key = [...p.parts, ...q.parts].map(({ leaf, text }) => `${leaf.field} ${meaning(leaf)} ${text}`).join();
    const match = matches.get(key) ?? matchOf(p, q);
    matches.set(key, match);
    if (match.kind === "missing") return { kind: "open", reason: match.reason };
    for (const [k, part] of p.parts.entries()) {
      const other = q.parts[k]!;
      const [at, fed] = [other.leaf.places!.join(), `${part.leaf.places!.join()} ${part.text} ${match.shift}`];
      const before = source.get(at);
      if (before !== undefined && before !== fed) {
        const reason = `${other.leaf.label} of ${b.name} would have to be both for value ${i} and for one before it`;
        return { kind: "open", reason };
      }
      source.set(at, fed);
      if (!owners.has(at)) owners.set(at, owners.size);
      for (const place of other.leaf.places!) {
        if (owner[place] !== NOWHERE && owner[place] !== owners.get(at))
          return { kind: "open", reason: `two numbers of ${b.name} share ${bitName(b, place)}` };
        owner[place] = owners.get(at)!;
      }
    }
  }
  return {
    kind: "kept",
    method: `every number that ${a.name} stores has one in ${b.name}, in the same sums and products`,
  };
}

interface Parts {
  readonly skeleton: string;
  readonly parts: readonly Part[];
}

/** Powers of two by which one factor of a product may be larger and the other smaller. */
const SHIFTS: readonly number[] = [1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8];

/** How the parts of one value become those of another: what is missing, or the power of two between two factors. */
type Match = { readonly kind: "missing"; readonly reason: string } | { readonly kind: "fits"; readonly shift: number };

function matchOf(p: Parts, q: Parts): Match {
  const missing = (shift: number): string | null => {
    for (const [k, part] of p.parts.entries()) {
      const reason = firstMissing(shifted(part, k === 0 ? shift : -shift), q.parts[k]!);
      if (reason !== null) return reason;
    }
    return null;
  };
  const reason = missing(0);
  if (reason === null) return { kind: "fits", shift: 0 };
  const shift = p.skeleton === "a * b" ? SHIFTS.find((by) => missing(by) === null) : undefined;
  return shift === undefined ? { kind: "missing", reason } : { kind: "fits", shift };
}

/** The part with its numbers times a power of two. */
function shifted(part: Part, power: number): Part {
  const { numbers } = part;
  if (power === 0 || numbers === null) return part;
  return { ...part, numbers: new Set(Array.from(numbers, (x) => (x === "-0" ? x : x * 2 ** power))) };
}

function firstMissing(part: Part, other: Part): string | null {
  if (part.numbers !== null && other.numbers === null && other.text === "#") {
    // A number that stands there by itself, wide as it is, only has to hold what comes.
    const target = targetOf(elementOf(other.leaf));
    const exact = (x: number | "-0"): Exact => fromNumber(x === "-0" ? -0 : x);
    const lost = target === null ? part.numbers : [...part.numbers].filter((x) => !holds(target, exact(x)));
    for (const x of lost) return `${part.leaf.label} may make ${x}, which ${other.leaf.label} has nothing for`;
    return null;
  }
  if (part.numbers === null || other.numbers === null) {
    const equal = meaning(part.leaf) === meaning(other.leaf) && part.text === other.text;
    return equal ? null : `${part.leaf.label} and ${other.leaf.label} are too wide to be compared number by number`;
  }
  if (part.numbers === other.numbers) return null;
  for (const x of part.numbers) {
    if (!other.numbers.has(x)) return `${part.leaf.label} may make ${x}, which ${other.leaf.label} has nothing for`;
  }
  return null;
}

const sets = new WeakMap<Choices, Map<string, ReadonlySet<number | "-0">>>();

function partsOf({ leaves, tree }: Form, domain: readonly Restriction[]): Parts {
  const parts: Part[] = [];
  const leavesIn = (part: Tree): readonly number[] => {
    if (part.kind === "leaf") return [part.leaf];
    if (part.kind === "constant") return [];
    return part.kind === "negate" ? leavesIn(part.operand) : [...leavesIn(part.left), ...leavesIn(part.right)];
  };
  const visit = (part: Tree): string => {
    if (part.kind === "constant") return treeText(part);
    const read = new Set(leavesIn(part));
    if (read.size === 1) {
      const [l] = read;
      const leaf = leaves[l!]!;
      parts.push({ leaf, text: treeText(part).replaceAll(/#\d+/g, "#"), numbers: numbersOf(part, leaf, l!, domain) });
      return String.fromCodePoint(97 + ((parts.length - 1) % 26));
    }
    if (part.kind === "binary") return `(${visit(part.left)} ${part.operator} ${visit(part.right)})`;
    return part.kind === "negate" ? `-${visit(part.operand)}` : treeText(part);
  };
  return { skeleton: visit(tree).replace(/^\((.*)\)$/, "$1"), parts };
}

/** All numbers of a part; null where the leaf is too wide. */
function numbersOf(part: Tree, leaf: Leaf, l: number, domain: readonly Restriction[]): Part["numbers"] {
  const choices = choicesOf(leaf, domain);
  if (!choices.complete) return null;
  const text = treeText(part).replaceAll(/#\d+/g, "#");
  const of = sets.get(choices) ?? new Map<string, ReadonlySet<number | "-0">>();
  sets.set(choices, of);
  let set = of.get(text);
  if (set === undefined) {
    const compute = inDoubles(part);
    const at = new Float64Array(l + 1);
    const numbers = Array.from(choices.numbers, (x) => {
      at[l] = x;
      const number = compute(at);
      return Object.is(number, -0) ? "-0" : number;
    });
    of.set(text, (set = new Set(numbers)));
  }
  return set;
}
