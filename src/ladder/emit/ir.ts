// The intermediate form of a decode: expressions over integers and floats, each made once, so that what two values share
// is one node. Index arithmetic is kept as sums over what cannot be taken apart further, with div and mod folded by
// gcds and bounds, so that equal places are equal nodes. Rewritten by rewrite.ts; printed by
// emit-*.ts. Not here: the way from a type (lower.ts), which precision the floats are computed in, and what that loses (guarantee.ts).
// Sums of quasi-affine terms are how polyhedral compilers keep indices (isl, MLIR's affine maps).

import { gcd } from "../divisor.ts";
import { COMPARISON } from "../expr.ts";
import { elementKey } from "../prove/form.ts";
import type { Condition, Element } from "../type.ts";

interface Node {
  readonly id: number;
}

interface Bounded extends Node {
  readonly least: number;
  readonly most: number;
}

/** One part of a sum: factor * of. */
export interface Term {
  readonly factor: number;
  readonly of: Int;
}

export type Logic = "&" | "|" | "^" | "<<" | ">>";

/** An integer within its bounds. What is stored is unsigned and of up to 32 bits. */
export type Int = Bounded &
  (
    | { readonly kind: "integer"; readonly value: number }
    | { readonly kind: "variable"; readonly name: string }
    | { readonly kind: "sum"; readonly terms: readonly Term[]; readonly constant: number }
    | { readonly kind: "product"; readonly left: Int; readonly right: Int }
    /** Both of a number that is not negative, by a positive constant. */
    | { readonly kind: "quotient" | "remainder"; readonly of: Int; readonly by: number }
    /** Of unsigned words of 32 bits; shifts are below 32, and what leaves the word is lost. */
    | { readonly kind: "logic"; readonly operator: Logic; readonly left: Int; readonly right: Int }
    /** Zero bits above the highest one of a word that is not 0. */
    | { readonly kind: "zeros"; readonly of: Int }
    /** `width` bits, 1 to 32, from bit `at` of the block. */
    | { readonly kind: "bits"; readonly at: Int; readonly width: number }
    /** The same from a byte on; printers know no other reads. */
    | { readonly kind: "load"; readonly at: Int; readonly bytes: number }
    /** 32 bits from a byte on, of which only those of the first `bytes` bytes count. */
    | { readonly kind: "window"; readonly at: Int; readonly bytes: number }
    /** An entry of a table of words. */
    | { readonly kind: "word"; readonly table: Table; readonly index: Int }
    /** The nearest number within the bounds: a place that only an arm reads that is not taken. */
    | { readonly kind: "clamp"; readonly of: Int }
    /** An entry of a field that the data ask for: the nearest one where the field has none such. */
    | { readonly kind: "entry"; readonly of: Int; readonly field: string }
    | { readonly kind: "pick"; readonly test: Test; readonly yes: Int; readonly no: Int }
  );

export interface Test {
  readonly operator: Condition["operator"];
  readonly left: Int;
  readonly right: Int;
}

export interface Table {
  readonly id: number;
  readonly values: readonly number[];
}

export type Float = Node &
  (
    | { readonly kind: "number"; readonly value: number }
    | { readonly kind: "convert"; readonly of: Int }
    /** The bits of an IEEE single, or the low 16 bits as an IEEE half. */
    | { readonly kind: "single" | "half"; readonly of: Int }
    | { readonly kind: "double"; readonly high: Int; readonly low: Int }
    | { readonly kind: "gather"; readonly table: Table; readonly index: Int }
    /** What an element makes of a code, `high` above 32 bits; rewritten before anything is printed. */
    | {
        readonly kind: "element";
        readonly element: Element;
        readonly low: Int;
        readonly high: Int | null;
        readonly lane: Int;
      }
    | { readonly kind: "negate"; readonly of: Float }
    | {
        readonly kind: "arithmetic";
        readonly operator: "+" | "-" | "*";
        readonly left: Float;
        readonly right: Float;
      }
    | { readonly kind: "pick"; readonly test: Test; readonly yes: Float; readonly no: Float }
  );

/** Why a decode cannot be emitted; caught by emit, and told as a reason. */
export class Refusal extends Error {}

const WORD = 2 ** 32;

/** Makes nodes, each once. */
export interface Graph {
  readonly integer: (value: number) => Int;
  readonly variable: (name: string, least: number, most: number) => Int;
  readonly sum: (terms: readonly Term[], constant: number) => Int;
  readonly plus: (a: Int, b: Int) => Int;
  readonly times: (a: Int, b: Int) => Int;
  readonly quotient: (a: Int, by: number) => Int;
  readonly remainder: (a: Int, by: number) => Int;
  readonly logic: (operator: Logic, left: Int, right: Int) => Int;
  readonly zeros: (of: Int) => Int;
  readonly bits: (at: Int, width: number) => Int;
  readonly load: (at: Int, bytes: number) => Int;
  readonly window: (at: Int, bytes: number) => Int;
  readonly word: (values: readonly number[], index: Int) => Int;
  readonly clamp: (of: Int, least: number, most: number) => Int;
  readonly entry: (of: Int, count: number, field: string) => Int;
  readonly pick: (test: Test, yes: Int, no: Int) => Int;
  readonly number: (value: number) => Float;
  readonly convert: (of: Int) => Float;
  readonly reinterpret: (kind: "single" | "half", of: Int) => Float;
  readonly double: (high: Int, low: Int) => Float;
  readonly gather: (values: readonly number[], index: Int) => Float;
  readonly element: (element: Element, low: Int, high: Int | null, lane: Int) => Float;
  readonly negate: (of: Float) => Float;
  readonly arithmetic: (operator: "+" | "-" | "*", left: Float, right: Float) => Float;
  readonly pickFloat: (test: Test, yes: Float, no: Float) => Float;
}

type Shape<N> = N extends Node ? Omit<N, "id"> : never;

export function makeGraph(): Graph {
  let next = 0;
  const ints = new Map<string, Int>();
  const floats = new Map<string, Float>();
  const tables = new Map<string, Table>();
  const int = (key: string, least: number, most: number, shape: object): Int => {
    const known = ints.get(key);
    if (known !== undefined) return known;
    const node = { ...shape, least, most, id: next++ } as Int;
    ints.set(key, node);
    return node;
  };
  const float = (key: string, shape: Shape<Float>): Float => {
    const known = floats.get(key);
    if (known !== undefined) return known;
    const node = { ...shape, id: next++ } as Float;
    floats.set(key, node);
    return node;
  };

  const tableOf = (values: readonly number[]): Table => {
    const key = values.map((x) => (Object.is(x, -0) ? "-0" : x)).join();
    let table = tables.get(key);
    if (table === undefined) tables.set(key, (table = { id: tables.size, values }));
    return table;
  };
  const integer = (value: number): Int => int(`${value}`, value, value, { kind: "integer", value });

  const sum = (terms: readonly Term[], constant: number): Int => {
    const factors = new Map<Int, number>();
    for (const { factor, of } of terms) factors.set(of, (factors.get(of) ?? 0) + factor);
    const kept = [...factors]
      .filter(([, factor]) => factor !== 0)
      .map(([of, factor]) => ({ factor, of }))
      .toSorted((a, b) => a.of.id - b.of.id);
    const [first] = kept;
    if (first === undefined) return integer(constant);
    if (kept.length === 1 && first.factor === 1 && constant === 0) return first.of;
    let [least, most] = [constant, constant];
    for (const { factor, of } of kept) {
      least += factor * (factor > 0 ? of.least : of.most);
      most += factor * (factor > 0 ? of.most : of.least);
    }
    const key = `sum ${kept.map(({ factor, of }) => `${factor}*${of.id}`).join("+")}+${constant}`;
    return int(key, least, most, { kind: "sum", terms: kept, constant });
  };

  const partsOf = (a: Int): { readonly terms: readonly Term[]; readonly constant: number } => {
    if (a.kind === "sum") return a;
    return a.kind === "integer" ? { terms: [], constant: a.value } : { terms: [{ factor: 1, of: a }], constant: 0 };
  };
  const scaled = (a: Int, factor: number): Int => {
    const { terms, constant } = partsOf(a);
    return sum(
      terms.map((term) => ({ factor: term.factor * factor, of: term.of })),
      constant * factor,
    );
  };
  const plus = (a: Int, b: Int): Int => {
    const [x, y] = [partsOf(a), partsOf(b)];
    return sum([...x.terms, ...y.terms], x.constant + y.constant);
  };
  const times = (a: Int, b: Int): Int => {
    if (a.kind === "integer") return scaled(b, a.value);
    if (b.kind === "integer") return scaled(a, b.value);
    const [left, right] = a.id < b.id ? [a, b] : [b, a];
    const corners = [a.least * b.least, a.least * b.most, a.most * b.least, a.most * b.most];
    const key = `product ${left.id} ${right.id}`;
    return int(key, Math.min(...corners), Math.max(...corners), { kind: "product", left, right });
  };

  /** a = by * whole + g * inner + small with 0 <= small < g and g dividing by: what is left of a division. */
  const divided = (a: Int, by: number) => {
    const { terms, constant } = partsOf(a);
    const out = terms.filter(({ factor }) => factor % by === 0);
    const rest = terms.filter(({ factor }) => factor % by !== 0);
    const whole = sum(
      out.map(({ factor, of }) => ({ factor: factor / by, of })),
      Math.floor(constant / by),
    );
    const left = constant - by * Math.floor(constant / by);
    const g = rest.reduce((divisor, { factor }) => gcd(divisor, Math.abs(factor)), by);
    const small = left % g;
    const inner = sum(
      rest.map(({ factor, of }) => ({ factor: factor / g, of })),
      (left - small) / g,
    );
    return { whole, inner, g, small };
  };

  const quotient = (a: Int, by: number): Int => {
    const { whole, inner, g } = divided(a, by);
    const c = by / g;
    const [first, last] = [Math.floor(inner.least / c), Math.floor(inner.most / c)];
    if (first === last) return plus(whole, integer(first));
    // Moved up by whole multiples, so that machines need no division of negative numbers.
    const up = Math.max(0, -first);
    const of = plus(inner, integer(up * c));
    const back = integer(-up);
    if (of.kind === "quotient") return plus(plus(whole, quotient(of.of, of.by * c)), back);
    if (of.kind === "remainder" && of.by % c === 0)
      return plus(plus(whole, remainder(quotient(of.of, c), of.by / c)), back);
    const [least, most] = [Math.floor(of.least / c), Math.floor(of.most / c)];
    const node = int(`quotient ${of.id} ${c}`, least, most, { kind: "quotient", of, by: c });
    return plus(plus(whole, node), back);
  };

  const remainder = (a: Int, by: number): Int => {
    const { terms, constant } = partsOf(a);
    const reduced = sum(
      terms.map(({ factor, of }) => ({ factor: factor > 0 ? factor % by : -(-factor % by), of })),
      constant - by * Math.floor(constant / by),
    );
    const { inner, g, small } = divided(reduced, by);
    const c = by / g;
    const [first, last] = [Math.floor(inner.least / c), Math.floor(inner.most / c)];
    if (first === last) return plus(scaled(plus(inner, integer(-first * c)), g), integer(small));
    const of = plus(inner, integer(Math.max(0, -first) * c));
    if (of.kind === "remainder" && of.by % c === 0) return plus(scaled(remainder(of.of, c), g), integer(small));
    const node = int(`remainder ${of.id} ${c}`, 0, c - 1, { kind: "remainder", of, by: c });
    return plus(scaled(node, g), integer(small));
  };

  const logic = (operator: Logic, left: Int, right: Int): Int => {
    if (left.kind === "integer" && right.kind === "integer") return integer(onWords(operator, left.value, right.value));
    if (right.kind === "integer") {
      const { value } = right;
      if (value === 0) return operator === "&" ? right : left;
      const isMask = Number.isInteger(Math.log2(value + 1));
      if (operator === "&" && isMask && left.most <= value) return left;
      if (operator === "&" && left.kind === "logic" && left.operator === "&" && left.right.kind === "integer")
        return logic("&", left.left, integer(onWords("&", left.right.value, value)));
      if (operator === ">>" && left.kind === "logic" && left.operator === ">>" && left.right.kind === "integer")
        return left.right.value + value > 31 ? integer(0) : logic(">>", left.left, integer(left.right.value + value));
    }
    const most = logicMost(operator, left, right);
    return int(`${left.id} ${operator} ${right.id}`, 0, most, { kind: "logic", operator, left, right });
  };

  const pickKey = ({ operator, left, right }: Test, yes: Node, no: Node): string =>
    `pick ${left.id} ${operator} ${right.id} ${yes.id} ${no.id}`;

  return {
    integer,
    variable: (name, least, most) => int(`variable ${name}`, least, most, { kind: "variable", name }),
    sum,
    plus,
    times,
    quotient,
    remainder,
    logic,
    zeros: (of) => int(`zeros ${of.id}`, 0, 31, { kind: "zeros", of }),
    bits: (at, width) => int(`bits ${at.id} ${width}`, 0, 2 ** width - 1, { kind: "bits", at, width }),
    load: (at, bytes) => int(`load ${at.id} ${bytes}`, 0, 2 ** (8 * bytes) - 1, { kind: "load", at, bytes }),
    window: (at, bytes) => int(`window ${at.id} ${bytes}`, 0, WORD - 1, { kind: "window", at, bytes }),
    word(values, index) {
      const table = tableOf(values);
      return int(`word ${table.id} ${index.id}`, 0, Math.max(...values), { kind: "word", table, index });
    },
    clamp(of, least, most) {
      if (of.least >= least && of.most <= most) return of;
      return int(`clamp ${of.id} ${least} ${most}`, least, most, { kind: "clamp", of });
    },
    entry(of, count, field) {
      if (of.least >= 0 && of.most < count) return of;
      return int(`entry ${of.id} ${count} ${field}`, 0, count - 1, { kind: "entry", of, field });
    },
    pick(test, yes, no) {
      const decided = decide(test);
      if (decided !== null) return decided ? yes : no;
      if (yes === no) return yes;
      const [least, most] = [Math.min(yes.least, no.least), Math.max(yes.most, no.most)];
      return int(pickKey(test, yes, no), least, most, { kind: "pick", test, yes, no });
    },
    number: (value) => float(Object.is(value, -0) ? "-0" : `${value}`, { kind: "number", value }),
    convert: (of) => float(`convert ${of.id}`, { kind: "convert", of }),
    reinterpret: (kind, of) => float(`${kind} ${of.id}`, { kind, of }),
    double: (high, low) => float(`double ${high.id} ${low.id}`, { kind: "double", high, low }),
    gather(values, index) {
      const table = tableOf(values);
      return float(`gather ${table.id} ${index.id}`, { kind: "gather", table, index });
    },
    element: (element, low, high, lane) =>
      float(`element ${elementKey(element)} ${low.id} ${high?.id ?? ""} ${lane.id}`, {
        kind: "element",
        element,
        low,
        high,
        lane,
      }),
    negate: (of) => float(`negate ${of.id}`, { kind: "negate", of }),
    arithmetic: (operator, left, right) =>
      float(`float ${left.id} ${operator} ${right.id}`, { kind: "arithmetic", operator, left, right }),
    pickFloat(test, yes, no) {
      const decided = decide(test);
      if (decided !== null) return decided ? yes : no;
      return yes === no ? yes : float(pickKey(test, yes, no), { kind: "pick", test, yes, no });
    },
  };
}

/** What the operators of words do. */
export function onWords(operator: Logic, a: number, b: number): number {
  switch (operator) {
    case "&":
      return (a & b) >>> 0;
    case "|":
      return (a | b) >>> 0;
    case "^":
      return (a ^ b) >>> 0;
    case "<<":
      return (a << b) >>> 0;
    case ">>":
      return a >>> b;
  }
}

function logicMost(operator: Logic, left: Int, right: Int): number {
  const filled = (x: number): number => 2 ** Math.ceil(Math.log2(x + 1)) - 1;
  if (operator === "&") return Math.min(left.most, right.most);
  if (operator === "|" || operator === "^") return filled(Math.max(left.most, right.most));
  if (operator === ">>") return Math.floor(left.most / 2 ** right.least);
  return Math.min(WORD - 1, left.most * 2 ** right.most);
}

/** Whether a test holds, where the bounds of both sides decide it. */
export function decide({ operator, left, right }: Test): boolean | null {
  if (left === right) return COMPARISON[operator](0, 0);
  const [a, b] = [left.least - right.most, left.most - right.least];
  if (a === b) return COMPARISON[operator](a, 0);
  if (a > 0 || b < 0) return COMPARISON[operator](a > 0 ? 1 : -1, 0);
  if (a === 0 && (operator === "<" || operator === ">=")) return operator === ">=";
  if (b === 0 && (operator === ">" || operator === "<=")) return operator === "<=";
  return null;
}

// --- from node to node -----------------------------------------------------------------------------------------------

/** What becomes of single nodes whose operands have been visited; the others are made anew of their operands. */
export interface Visitor {
  readonly int?: (node: Int) => Int;
  readonly float?: (node: Float) => Float;
}

/** A function that rebuilds expressions in a graph, each node once. */
export function rebuilder(graph: Graph, visitor: Visitor): (node: Float) => Float {
  const ints = new Map<Int, Int>();
  const floats = new Map<Float, Float>();
  const ofInt = (node: Int): Int => {
    let made = ints.get(node);
    if (made === undefined) {
      made = remade(node);
      if (visitor.int) made = visitor.int(made);
      ints.set(node, made);
    }
    return made;
  };
  const ofTest = ({ operator, left, right }: Test): Test => ({ operator, left: ofInt(left), right: ofInt(right) });
  const remade = (node: Int): Int => {
    switch (node.kind) {
      case "integer":
      case "variable":
        return node;
      case "sum":
        return node.terms.reduce(
          (sum, { factor, of }) => graph.plus(sum, graph.times(ofInt(of), graph.integer(factor))),
          graph.integer(node.constant),
        );
      case "product":
        return graph.times(ofInt(node.left), ofInt(node.right));
      case "quotient":
        return graph.quotient(ofInt(node.of), node.by);
      case "remainder":
        return graph.remainder(ofInt(node.of), node.by);
      case "logic":
        return graph.logic(node.operator, ofInt(node.left), ofInt(node.right));
      case "zeros":
        return graph.zeros(ofInt(node.of));
      case "bits":
        return graph.bits(ofInt(node.at), node.width);
      case "load":
        return graph.load(ofInt(node.at), node.bytes);
      case "window":
        return graph.window(ofInt(node.at), node.bytes);
      case "word":
        return graph.word(node.table.values, ofInt(node.index));
      case "clamp":
        return graph.clamp(ofInt(node.of), node.least, node.most);
      case "entry":
        return graph.entry(ofInt(node.of), node.most + 1, node.field);
      case "pick":
        return graph.pick(ofTest(node.test), ofInt(node.yes), ofInt(node.no));
    }
  };
  const remadeFloat = (node: Float): Float => {
    switch (node.kind) {
      case "number":
        return node;
      case "convert":
        return graph.convert(ofInt(node.of));
      case "single":
      case "half":
        return graph.reinterpret(node.kind, ofInt(node.of));
      case "double":
        return graph.double(ofInt(node.high), ofInt(node.low));
      case "gather":
        return graph.gather(node.table.values, ofInt(node.index));
      case "element":
        return graph.element(node.element, ofInt(node.low), node.high && ofInt(node.high), ofInt(node.lane));
      case "negate":
        return graph.negate(ofFloat(node.of));
      case "arithmetic":
        return graph.arithmetic(node.operator, ofFloat(node.left), ofFloat(node.right));
      case "pick":
        return graph.pickFloat(ofTest(node.test), ofFloat(node.yes), ofFloat(node.no));
    }
  };
  const ofFloat = (node: Float): Float => {
    let made = floats.get(node);
    if (made === undefined) {
      made = remadeFloat(node);
      if (visitor.float) made = visitor.float(made);
      floats.set(node, made);
    }
    return made;
  };
  return ofFloat;
}

/** What a node reads directly. */
export function operandsOf(node: Int | Float): readonly (Int | Float)[] {
  switch (node.kind) {
    case "integer":
    case "variable":
    case "number":
      return [];
    case "sum":
      return node.terms.map(({ of }) => of);
    case "product":
    case "logic":
    case "arithmetic":
      return [node.left, node.right];
    case "quotient":
    case "remainder":
    case "zeros":
    case "clamp":
    case "entry":
    case "convert":
    case "single":
    case "half":
    case "negate":
      return [node.of];
    case "bits":
    case "load":
    case "window":
      return [node.at];
    case "double":
      return [node.high, node.low];
    case "gather":
    case "word":
      return [node.index];
    case "element":
      return node.high === null ? [node.low, node.lane] : [node.low, node.high, node.lane];
    case "pick":
      return [node.test.left, node.test.right, node.yes, node.no];
  }
}
