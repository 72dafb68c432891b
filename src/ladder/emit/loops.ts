// A decode of a whole block as loops: the values one after another are rolled up wherever the places that they read
// move by whole bytes, so that no div or mod is left and every address is affine; then each node is computed in the
// outermost loop that it depends on, once. Values whose choices fall alike are lowered together; rolling compares the
// places that were worked out for every single one, so that it proves itself. Not here: the text (javascript.ts, cpp.ts), single values (wgsl.ts).

import { lowerValue, MAX_LISTED } from "./lower.ts";
import { decide, type Float, type Graph, type Int, operandsOf, rebuilder, Refusal, type Test } from "./ir.ts";
import { compileInt } from "./rewrite.ts";
import { COMPARISON } from "../expr.ts";
import type { Type } from "../type.ts";

export type Step =
  /** out[at] = value. */
  | { readonly kind: "store"; readonly at: Int; readonly value: Float }
  | { readonly kind: "loop"; readonly variable: Int; readonly count: number; readonly body: readonly Step[] };

/** Values or loops that are repeated together: eight is where codes of any width come back to the edge of a byte. */
const MAX_PERIOD = 8;
/** Steps of a block beyond which loops may move by parts of bytes, for the sake of the text. */
const MAX_STEPS = 48;
/** Stores beyond which a block is decoded like a matrix, with div and mod in its loops. */
const MAX_STORES = 64;

/** One or more steps with numbers in them that change from one to the next. */
interface Item {
  /** The same for items that differ in their numbers only. */
  readonly key: number;
  readonly numbers: readonly number[];
  /** Which numbers are places of bits. */
  readonly places: readonly boolean[];
  readonly build: (numbers: readonly Int[]) => readonly Step[];
}

/** The values of one block, in order. */
export function loopsOf(graph: Graph, type: Type): readonly Step[] {
  let variables = 0;
  const variable = (count: number): Int => graph.variable(`i${variables++}`, 0, count - 1);
  if (type.blockSize > MAX_LISTED) return matrixLoops(graph, type, variable);
  let items = itemsOf(graph, type);
  const keys = new Map<string, number>();
  for (const free of [false, true]) {
    if (free && items.length <= MAX_STEPS) break;
    for (let before = Infinity; items.length < before;) {
      before = items.length;
      items = rolled(graph, items, free, keys, variable);
    }
  }
  const steps = items.flatMap(({ numbers, build }) => build(numbers.map(graph.integer)));
  return storesOf(steps) > MAX_STORES ? matrixLoops(graph, type, variable) : steps;
}

function storesOf(steps: readonly Step[]): number {
  return steps.reduce((sum, step) => sum + (step.kind === "store" ? 1 : storesOf(step.body)), 0);
}

/** Rows of a matrix, and eight values at a time, where its indices tell how long a row is. */
function matrixLoops(graph: Graph, type: Type, variable: (count: number) => Int): readonly Step[] {
  const size = type.blockSize;
  const i = graph.variable("i", 0, size - 1);
  const divisors: number[] = [];
  const visit = rebuilder(graph, {
    int(node) {
      if (node.kind === "quotient" && node.of === i && size % node.by === 0) divisors.push(node.by);
      return node;
    },
  });
  visit(lowerValue(graph, type, i));
  const columns = divisors.length === 0 ? size : Math.max(...divisors);
  const period = [8, 4, 2, 1].find((p) => columns % p === 0)!;
  const row = size === columns ? graph.integer(0) : variable(size / columns);
  const column = variable(columns / period);
  const body = Array.from({ length: period }, (_, p): Step => {
    const at = graph.plus(graph.times(row, graph.integer(columns)), graph.sum([{ factor: period, of: column }], p));
    return { kind: "store", at, value: lowerValue(graph, type, at) };
  });
  const inner: Step = { kind: "loop", variable: column, count: columns / period, body };
  return size === columns ? [inner] : [{ kind: "loop", variable: row, count: size / columns, body: [inner] }];
}

/** The values of a block, one by one. */
function itemsOf(graph: Graph, type: Type): readonly Item[] {
  const i = graph.variable("i", 0, type.blockSize - 1);
  const items: Item[] = [];
  let rest: readonly number[] = Array.from({ length: type.blockSize }, (_, at) => at);
  for (let [first] = rest; first !== undefined; [first] = rest) {
    const fell: { readonly holdsAt: (at: number) => boolean; readonly holds: boolean }[] = [];
    const holds = (test: Test): boolean | null => {
      const decided = decide(test);
      if (decided !== null || readsBits(test.left) || readsBits(test.right)) return decided;
      const [left, right] = [compiled(test.left), compiled(test.right)];
      const holdsAt = (at: number): boolean => COMPARISON[test.operator](left(at), right(at));
      fell.push({ holdsAt, holds: holdsAt(first) });
      return holdsAt(first);
    };
    const lowered = loweredTogether(graph, type, i, holds);
    const itemAt = templateOf(graph, lowered ?? lowerValue(graph, type, graph.integer(first)));
    const others: number[] = [];
    for (const at of rest) {
      const isAlike = at === first || (lowered !== null && fell.every((one) => one.holdsAt(at) === one.holds));
      if (isAlike) items[at] = itemAt(at);
      else others.push(at);
    }
    rest = others;
  }
  return items;
}

/** Null where an index divides by another one, which is a number for single values only. */
function loweredTogether(graph: Graph, type: Type, i: Int, holds: (test: Test) => boolean | null): Float | null {
  try {
    return lowerValue(graph, type, i, holds);
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

function compiled(node: Int): (i: number) => number {
  const compute = compileInt(node);
  return (i) => compute(() => i);
}

/** A value at `i`, with all numbers taken out of it that say where something lies. */
function templateOf(graph: Graph, value: Float): (at: number) => Item {
  const numbers: ((at: number) => number)[] = [(at) => at];
  const places: boolean[] = [false];
  const slot = (number: Int, isPlace: boolean): Int => {
    places.push(isPlace);
    return graph.variable(`#${numbers.push(compiled(number)) - 1}`, -(2 ** 31), 2 ** 31);
  };
  const take = (node: Int, isPlace: boolean): Int => {
    if (!readsBits(node)) return slot(node, isPlace);
    if (node.kind !== "sum") return node;
    const read = node.terms.filter(({ of }) => readsBits(of));
    const own = node.terms.filter(({ of }) => !readsBits(of));
    return graph.plus(graph.sum(read, 0), slot(graph.sum(own, node.constant), isPlace));
  };
  // Each reading has numbers of its own, though two may be equal for this value.
  const template = rebuilder(graph, {
    int: (node) => (node.kind === "bits" ? graph.bits(take(node.at, true), node.width) : node),
    float(node) {
      if (node.kind === "element") return graph.element(node.element, node.low, node.high, take(node.lane, false));
      return node;
    },
  })(value);
  const build = (given: readonly Int[]): readonly Step[] => {
    const fill = rebuilder(graph, {
      int(node) {
        if (node.kind !== "variable") return node;
        return node.name === "i" ? given[0]! : node.name.startsWith("#") ? given[Number(node.name.slice(1))]! : node;
      },
    });
    return [{ kind: "store", at: given[0]!, value: fill(template) }];
  };
  return (at) => ({ key: template.id, numbers: numbers.map((number) => number(at)), places, build });
}

const readers = new WeakMap<Int, boolean>();

/** Whether a number depends on the block, and not on the index alone. */
function readsBits(node: Int): boolean {
  let known = readers.get(node);
  if (known === undefined) {
    known = node.kind === "bits" || operandsOf(node).some((operand) => readsBits(operand as Int));
    readers.set(node, known);
  }
  return known;
}

function rolled(
  graph: Graph,
  items: readonly Item[],
  free: boolean,
  keys: Map<string, number>,
  variable: (count: number) => Int,
): readonly Item[] {
  const all: Item[] = [];
  for (let first = 0; first < items.length;) {
    let [period, repeats] = [1, 1];
    for (let p = 1; p <= MAX_PERIOD && first + Math.max(2 * p, period * repeats + 1) <= items.length; p++) {
      const r = repeatsAt(items, first, p, free);
      // Any two have a stride; a loop of two single steps says nothing.
      if (r >= 2 && p * r > 2 && p * r > period * repeats) [period, repeats] = [p, r];
    }
    const body = items.slice(first, first + period);
    all.push(repeats === 1 ? body[0]! : loopItem(graph, body, items.slice(first + period), repeats, keys, variable));
    first += period * repeats;
  }
  return all;
}

/** How often the `period` items from `first` on are repeated, with numbers that grow by the same from one to the next. */
function repeatsAt(items: readonly Item[], first: number, period: number, free: boolean): number {
  let repeats = 1;
  for (; first + (repeats + 1) * period <= items.length; repeats++) {
    for (let p = 0; p < period; p++) {
      const [start, second] = [items[first + p]!, items[first + period + p]!];
      const [before, here] = [items[first + (repeats - 1) * period + p]!, items[first + repeats * period + p]!];
      if (here.key !== start.key) return repeats;
      for (let n = 0; n < here.numbers.length; n++) {
        const stride = here.numbers[n]! - before.numbers[n]!;
        if (stride !== second.numbers[n]! - start.numbers[n]!) return repeats;
        if (!free && here.places[n]! && stride % 8 !== 0) return repeats;
      }
    }
  }
  return repeats;
}

function loopItem(
  graph: Graph,
  body: readonly Item[],
  next: readonly Item[],
  count: number,
  keys: Map<string, number>,
  variable: (count: number) => Int,
): Item {
  const strides = body.map(({ numbers }, p) => numbers.map((x, n) => next[p]!.numbers[n]! - x));
  const text = `${count}x(${body.map(({ key }) => key).join()})${strides.join(";")}`;
  // Below 0, where no node is.
  const key = keys.get(text) ?? -1 - keys.size;
  keys.set(text, key);
  return {
    key,
    numbers: body.flatMap(({ numbers }) => numbers),
    places: body.flatMap(({ places }) => places),
    build(given) {
      const of = variable(count);
      let used = 0;
      const steps = body.flatMap(({ build }, p) =>
        build(strides[p]!.map((factor) => graph.plus(given[used++]!, graph.sum([{ factor, of }], 0)))),
      );
      return [{ kind: "loop", variable: of, count, body: steps }];
    },
  };
}

/** Reads of bits as reads of bytes within a block of `blockBytes` bytes, shifted and masked. */
export function readBytes(graph: Graph, blockBytes: number): (node: Int) => Int {
  return (node) => {
    if (node.kind !== "bits") return node;
    const { at, width } = node;
    const [byte, phase] = [graph.quotient(at, 8), graph.remainder(at, 8)];
    const bytes = Math.ceil((phase.most + width) / 8);
    const isFixed = phase.kind === "integer";
    // Where the place in the byte is not known, the last byte may not be wanted, and lie beyond the block.
    const single = (k: number): Int =>
      graph.load(graph.clamp(graph.plus(byte, graph.integer(k)), 0, blockBytes - 1), 1);
    const word = (): Int => {
      if (isFixed) return graph.load(byte, Math.min(bytes, 4));
      return Array.from({ length: Math.min(bytes, 4) }, (_, k) =>
        graph.logic("<<", single(k), graph.integer(8 * k)),
      ).reduce((a, b) => graph.logic("|", a, b));
    };
    let bits = graph.logic(">>", word(), phase);
    if (bytes > 4) {
      // Up by 32 - phase, in two steps since shifts are below 32.
      const rest = graph.plus(graph.integer(31), graph.times(phase, graph.integer(-1)));
      bits = graph.logic("|", bits, graph.logic("<<", graph.logic("<<", single(4), graph.integer(1)), rest));
    }
    return graph.logic("&", bits, graph.integer(2 ** width - 1));
  };
}

/** How a language spells what schedule puts in order. */
export interface Dialect {
  /** An expression, from the spelling of its operands. */
  readonly spell: (node: Int | Float, of: (operand: Int | Float) => string) => string;
  /** Whether both arms of a float's choice are computed before it, which compilers need to make vectors of it. */
  readonly eager: boolean;
  readonly declare: (node: Int | Float, name: string, text: string) => string;
  readonly store: (at: string, value: string) => string;
  readonly loop: (variable: string, count: number, body: readonly string[]) => readonly string[];
}

/**
 * The steps as lines of text: every node that is used more than once, or in a loop that it does not depend on, is
 * declared under a name before its first use, in the scope of the innermost loop that it depends on.
 */
export function schedule(steps: readonly Step[], dialect: Dialect): readonly string[] {
  const depthOfVariable = new Map<Int, number>();
  const uses = new Map<Int | Float, { readonly parents: number; readonly deepest: number }>();
  const depths = new Map<Int | Float, number>();
  const depthOf = (node: Int | Float): number => {
    let depth = depths.get(node);
    if (depth === undefined) {
      depth = depthOfVariable.get(node as Int) ?? Math.max(0, ...operandsOf(node).map(depthOf));
      depths.set(node, depth);
    }
    return depth;
  };
  const use = (node: Int | Float, depth: number): void => {
    const before = uses.get(node);
    uses.set(node, { parents: (before?.parents ?? 0) + 1, deepest: Math.max(before?.deepest ?? 0, depth) });
    if (before !== undefined) return;
    for (const operand of operandsOf(node)) use(operand, depthOf(node));
    if (dialect.eager && node.kind === "pick" && !("least" in node))
      for (const arm of [node.yes, node.no]) use(arm, depthOf(node));
  };
  const count = (list: readonly Step[], depth: number): void => {
    for (const step of list) {
      if (step.kind === "loop") {
        depthOfVariable.set(step.variable, depth + 1);
        count(step.body, depth + 1);
      } else {
        use(step.at, depth);
        use(step.value, depth);
      }
    }
  };
  count(steps, 0);

  const names = new Map<Int | Float, string>();
  const isPlain = (node: Int | Float): boolean =>
    ["integer", "variable", "number"].includes(node.kind) ||
    (node.kind === "sum" && node.terms.every(({ of }) => of.kind === "variable"));
  const spell = (node: Int | Float): string => names.get(node) ?? dialect.spell(node, spell);
  /** Declares what a node needs of this depth; what it needs of lower ones is there. */
  const ensure = (node: Int | Float, depth: number, lines: string[], seen: Set<Int | Float>): void => {
    if (seen.has(node) || names.has(node) || depthOf(node) < depth) return;
    seen.add(node);
    // What may fail is asked for in the arm that is taken only.
    const later = dialect.eager || node.kind !== "pick" ? [] : [node.yes, node.no].filter(asksForEntry);
    for (const operand of operandsOf(node)) if (!later.includes(operand)) ensure(operand, depth, lines, seen);
    const { parents, deepest } = uses.get(node)!;
    if (depthOf(node) !== depth || isPlain(node) || (parents === 1 && deepest === depth)) return;
    const text = dialect.spell(node, spell);
    const name = `v${names.size}`;
    names.set(node, name);
    lines.push(dialect.declare(node, name, text));
  };
  const emit = (list: readonly Step[], depth: number): readonly string[] => {
    const lines: string[] = [];
    const ensureAll = (step: Step, seen: Set<Int | Float>): void => {
      if (step.kind === "loop") for (const inner of step.body) ensureAll(inner, seen);
      else for (const node of [step.at, step.value]) ensure(node, depth, lines, seen);
    };
    for (const step of list) {
      ensureAll(step, new Set());
      if (step.kind === "store") lines.push(dialect.store(spell(step.at), spell(step.value)));
      else lines.push(...dialect.loop(spell(step.variable), step.count, emit(step.body, depth + 1)));
    }
    return lines;
  };
  return emit(steps, 0);
}

const asking = new WeakMap<Int | Float, boolean>();

/** Whether an entry is worked out on the way to a node that its field may not have. */
function asksForEntry(node: Int | Float): boolean {
  let known = asking.get(node);
  if (known === undefined) {
    known = node.kind === "entry" || operandsOf(node).some(asksForEntry);
    asking.set(node, known);
  }
  return known;
}

/** The steps with their values rebuilt. */
export function mapSteps(steps: readonly Step[], visit: (value: Float) => Float): readonly Step[] {
  return steps.map((step) =>
    step.kind === "store" ? { ...step, value: visit(step.value) } : { ...step, body: mapSteps(step.body, visit) },
  );
}
