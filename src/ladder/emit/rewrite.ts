// What elements become on a machine: pairs of a pattern and its proof. A pattern offers an expression for the number of a
// code; it is used only where the proof holds: the expression, evaluated as the machine evaluates it, gives the element's
// own number for every code and lane, bit for bit, and no step on the way is a number that the machine may lose.
// Patterns without a code to enumerate (magic numbers) are proved by the bounds of their operand.
// The tricks are folklore of fast decoders (Ladder's LOP3 decodes, ggml); the proofs are what makes them safe.

import { elementKey } from "../prove/form.ts";
import { integerOf } from "./lower.ts";
import { type Float, type Graph, type Int, makeGraph, onWords, Refusal, type Test } from "./ir.ts";
import { COMPARISON } from "../expr.ts";
import { numbersOf } from "../listed.ts";
import type { Element, FloatElement } from "../type.ts";

/** What computes a decode. */
export interface Machine {
  readonly name: "javascript" | "cpp" | "wgsl";
  /** The names of the element rewrites to try, the best first. */
  readonly prefers: readonly string[];
  /** Whether its floats are IEEE singles; doubles else. */
  readonly single: boolean;
  /** Whether integers become floats by a magic number. */
  readonly magic: boolean;
}

/** A pattern: the number of a code at a lane as an expression, or null where the element is none of its kind. */
export interface Rewrite {
  readonly name: string;
  readonly build: (graph: Graph, element: Element, code: Int, lane: Int) => Float | null;
}

/** Up to this width all codes are enumerated. */
const LISTED_BITS = 16;
/** Up to this width a table of all numbers stays in the nearest cache. */
const TABLE_BITS = 8;
/** Entries of tables that are worth packing. */
const MIN_PACKED = 64;

const evenlySpaced: Rewrite = {
  name: "evenly spaced numbers as a line",
  build(graph, element, code) {
    if (element.kind === "int" || element.bits < 1 || (element.kind === "table" && element.lanes > 1)) return null;
    const [first, second] = numbersOf(element);
    const step = second! - first!;
    if (Number.isInteger(first) && Number.isInteger(step) && Math.abs(step) < 2 ** 15 && Math.abs(first!) < 2 ** 30)
      return graph.convert(graph.plus(graph.times(code, graph.integer(step)), graph.integer(first!)));
    const scaled = graph.arithmetic("*", graph.convert(code), graph.number(step));
    return graph.arithmetic("+", scaled, graph.number(first!));
  },
};

const topOfSingle: Rewrite = {
  name: "the top bits of a single",
  build(graph, element, code) {
    if (element.kind !== "float" || element.exponent !== 8 || element.bits > 32) return null;
    return graph.reinterpret("single", graph.logic("<<", code, graph.integer(32 - element.bits)));
  },
};

const asHalf: Rewrite = {
  name: "a half, and a power of two",
  build(graph, element, code) {
    if (element.kind !== "float" || element.exponent > 5 || element.mantissa > 10) return null;
    const { bits, mantissa, exponent, bias } = element;
    const size = graph.logic("&", code, graph.integer(2 ** (exponent + mantissa) - 1));
    const sign = graph.logic("<<", graph.logic(">>", code, graph.integer(bits - 1)), graph.integer(15));
    const moved = graph.logic("<<", size, graph.integer(10 - mantissa));
    const whole = exponent === 5 && element.sign === "yes";
    const half = graph.reinterpret(
      "half",
      whole
        ? graph.logic("<<", code, graph.integer(10 - mantissa))
        : element.sign === "yes"
          ? graph.logic("|", sign, moved)
          : moved,
    );
    return bias === 15 ? half : graph.arithmetic("*", half, graph.number(2 ** (15 - bias)));
  },
};

/** Normal numbers by their fields moved into a single, subnormal ones as integers times the smallest. */
const byFields: Rewrite = {
  name: "the fields of a float in a single",
  build(graph, element, code) {
    if (element.kind !== "float" || element.mantissa > 23) return null;
    const { bits, mantissa, exponent, bias, special, sign, subnormals } = element;
    const top = 2 ** exponent - 1;
    if (bias > 127 || bias + mantissa > 149 || top - bias > (special === "ieee" ? 128 : 127)) return null;
    const { integer, logic, reinterpret } = graph;
    const size = logic("&", code, integer(2 ** (exponent + mantissa) - 1));
    const fraction = logic("&", code, integer(2 ** mantissa - 1));
    const moved = logic("<<", size, integer(23 - mantissa));
    let x = reinterpret("single", graph.plus(moved, integer((127 - bias) * 2 ** 23)));
    const isLow: Test = { operator: "<", left: size, right: integer(2 ** mantissa) };
    if (subnormals === "yes") {
      const small = graph.arithmetic("*", graph.convert(fraction), graph.number(2 ** (1 - bias - mantissa)));
      x = graph.pickFloat(isLow, small, x);
    } else if (subnormals === "zero") x = graph.pickFloat(isLow, graph.number(0), x);
    const nan = reinterpret("single", logic("|", moved, integer(0x7fc00000)));
    if (special === "ieee") {
      const far: Test = { operator: ">=", left: size, right: integer(top * 2 ** mantissa) };
      x = graph.pickFloat(far, reinterpret("single", logic("|", moved, integer(0x7f800000))), x);
    } else if (special === "fn")
      x = graph.pickFloat({ operator: "==", left: size, right: integer(2 ** (exponent + mantissa) - 1) }, nan, x);
    if (sign === "yes")
      x = graph.pickFloat({ operator: ">=", left: code, right: integer(2 ** (bits - 1)) }, graph.negate(x), x);
    if (special !== "fnuz") return x;
    return graph.pickFloat({ operator: "==", left: code, right: integer(2 ** (bits - 1)) }, nan, x);
  },
};

const powerOfTwo: Rewrite = {
  name: "a power of two as the exponent of a single",
  build(graph, element, code) {
    if (element.kind !== "exponent" || element.bits > 8) return null;
    const { bias, nan } = element;
    const { integer, logic } = graph;
    const moved = logic("<<", graph.plus(code, integer(127 - bias)), integer(23));
    // Below 2^-126 the one bit of a subnormal.
    const bit = logic("<<", integer(1), logic("&", graph.plus(code, integer(149 - bias)), integer(31)));
    let bits = graph.pick({ operator: "<", left: code, right: integer(bias - 126) }, bit, moved);
    if (nan !== null) bits = graph.pick({ operator: "==", left: code, right: integer(nan) }, integer(0x7fc00000), bits);
    return graph.reinterpret("single", bits);
  },
};

/** Digits of a fraction of 2^bits, which come out at the top; or of a number, the first one lowest. */
const digits: readonly Rewrite[] = (["fraction", "number"] as const).map((order) => ({
  name: `digits of a ${order} by multiplication`,
  build(graph, element, code, lane) {
    if (element.kind !== "table" || element.lanes === 1 || element.bits > 12) return null;
    const numbers = new Set(element.values.filter((x) => !Number.isNaN(x)));
    const [base, least] = [numbers.size, Math.min(...numbers)];
    if (base < 2 || base > 16 || !Number.isInteger(least) || base ** element.lanes > 2 ** 24) return null;
    const at = (l: number): Int => {
      const power = base ** l;
      if (order === "number") return graph.remainder(graph.quotient(code, power), base);
      const left = graph.remainder(graph.times(code, graph.integer(power)), 2 ** element.bits);
      return graph.quotient(graph.times(left, graph.integer(base)), 2 ** element.bits);
    };
    let digit = at(element.lanes - 1);
    for (let l = element.lanes - 2; l >= 0; l--)
      digit = graph.pick({ operator: "==", left: lane, right: graph.integer(l) }, at(l), digit);
    return graph.convert(graph.plus(digit, graph.integer(least)));
  },
}));

/** The run of equal bits behind the sign is counted; what follows it is exponent and fraction. */
const posit: Rewrite = {
  name: "a posit by counting its regime",
  build(graph, element, code) {
    if (element.kind !== "posit") return null;
    const { bits, es } = element;
    if ((bits - 2) * 2 ** es > 126 || es > 8) return null;
    const { integer, logic } = graph;
    const minus = (a: Int): Int => graph.times(a, integer(-1));
    const isNegative: Test = { operator: ">", left: code, right: integer(2 ** (bits - 1)) };
    const size = graph.pick(isNegative, graph.plus(integer(2 ** bits), minus(code)), code);
    const up = logic("<<", size, integer(33 - bits));
    const one: Test = { operator: ">=", left: up, right: integer(2 ** 31) };
    const turned = graph.pick(one, logic("^", up, integer(2 ** 32 - 1)), up);
    const run = graph.zeros(logic("|", turned, integer(1)));
    const regime = graph.pick(one, graph.plus(run, integer(-1)), minus(run));
    // Past the run and the bit that ends it, in two steps since shifts are below 32.
    const rest = logic("<<", logic("<<", up, run), integer(1));
    const exponent = es === 0 ? integer(0) : logic(">>", rest, integer(32 - es));
    const fraction = logic(">>", logic("<<", rest, integer(es)), integer(9));
    const power = graph.plus(graph.plus(graph.times(regime, integer(2 ** es)), exponent), integer(127));
    const x = graph.reinterpret("single", logic("|", logic("<<", power, integer(23)), fraction));
    const signed = graph.pickFloat(isNegative, graph.negate(x), x);
    const nan = graph.reinterpret("single", logic("|", code, integer(0x7fc00000)));
    const special = graph.pickFloat({ operator: "==", left: code, right: integer(0) }, graph.number(0), nan);
    const isSpecial: Test = {
      operator: "==",
      left: logic("&", code, integer(2 ** (bits - 1) - 1)),
      right: integer(0),
    };
    return graph.pickFloat(isSpecial, special, signed);
  },
};

/** A long list of few numbers: which of them it is, in 1, 2 or 4 bits of a word. */
const palette: Rewrite = {
  name: "a packed list of few numbers",
  build(graph, element, code, lane) {
    if (element.kind !== "table" || element.values.length <= MIN_PACKED) return null;
    const few = [...new Set(element.values)].toSorted((a, b) => a - b);
    const width = [1, 2, 4].find((w) => few.length <= 2 ** w);
    if (width === undefined) return null;
    const words: number[] = Array.from({ length: Math.ceil((element.values.length * width) / 32) }, () => 0);
    for (const [k, x] of element.values.entries()) {
      const [word, shift] = [Math.floor((k * width) / 32), (k * width) % 32];
      words[word] = onWords(
        "|",
        words[word]!,
        onWords(
          "<<",
          few.findIndex((y) => Object.is(x, y)),
          shift,
        ),
      );
    }
    const place = graph.plus(graph.times(code, graph.integer(element.lanes)), lane);
    const word = graph.word(words, graph.quotient(place, 32 / width));
    const shift = graph.times(graph.remainder(place, 32 / width), graph.integer(width));
    const which = graph.logic("&", graph.logic(">>", word, shift), graph.integer(2 ** width - 1));
    const step = few[1]! - few[0]!;
    const isLine = few.every((x, k) => Object.is(x, few[0]! + k * step)) && Number.isInteger(few[0]!);
    if (!isLine || !Number.isInteger(step)) return graph.gather(few, which);
    return graph.convert(graph.plus(graph.times(which, graph.integer(step)), graph.integer(few[0]!)));
  },
};

const table: Rewrite = {
  name: "a table",
  build(graph, element, code, lane) {
    if (element.bits > LISTED_BITS) return null;
    const lanes = element.kind === "table" ? element.lanes : 1;
    return graph.gather([...numbersOf(element)], graph.plus(graph.times(code, graph.integer(lanes)), lane));
  },
};

const smallTable: Rewrite = {
  name: "a table of up to 256 numbers",
  build(graph, element, code, lane) {
    return element.bits <= TABLE_BITS && !(element.kind === "table" && element.lanes > 1)
      ? table.build(graph, element, code, lane)
      : null;
  },
};

/** All element rewrites. */
export const REWRITES: readonly Rewrite[] = [
  evenlySpaced,
  topOfSingle,
  asHalf,
  byFields,
  powerOfTwo,
  ...digits,
  posit,
  palette,
  smallTable,
  table,
];

const named = (...rewrites: readonly Rewrite[]): readonly string[] => rewrites.map(({ name }) => name);

/** A table of doubles in the cache is the fastest for few bits; wider elements have no room there. */
export const JAVASCRIPT: Machine = {
  name: "javascript",
  prefers: named(smallTable, topOfSingle, evenlySpaced, posit, table),
  single: false,
  magic: false,
};
/** Loops with arithmetic become vectors; where it needs choices a table in the cache is faster. */
export const CPP: Machine = {
  name: "cpp",
  prefers: named(evenlySpaced, topOfSingle, powerOfTwo, ...digits, smallTable, byFields, posit, table),
  single: true,
  magic: false,
};
/** Tables are copied for each invocation by some drivers, so they come last. */
export const WGSL: Machine = {
  name: "wgsl",
  prefers: named(evenlySpaced, topOfSingle, asHalf, byFields, powerOfTwo, ...digits, posit, palette, table),
  single: true,
  magic: true,
};

export type RewriteProof =
  | { readonly kind: "proved"; readonly method: string }
  | { readonly kind: "refused"; readonly reason: string };

const proofs = new Map<string, RewriteProof>();

/**
 * Whether a rewrite gives every code of an element its own number on a machine, or, in single precision, the single
 * nearest to it.
 */
export function proveRewrite(rewrite: Rewrite, element: Element, machine: Machine): RewriteProof {
  const key = `${rewrite.name} ${elementKey(element)} ${machine.single}`;
  let proof = proofs.get(key);
  if (proof === undefined) proofs.set(key, (proof = enumerate(rewrite, element, machine)));
  return proof;
}

function enumerate({ build }: Rewrite, element: Element, machine: Machine): RewriteProof {
  // No fraction is too wide for a single, and zeros below it change no number.
  if (build === topOfSingle.build && element.kind === "float" && isIeee(element, 8, Math.min(element.mantissa, 23)))
    return { kind: "proved", method: "by definition: its parameters are those of an IEEE single" };
  if (element.bits > LISTED_BITS) {
    const { name, bits } = element;
    return { kind: "refused", reason: `${name} has ${bits} bits, and codes are enumerated up to ${LISTED_BITS}` };
  }
  const lanes = element.kind === "table" ? element.lanes : 1;
  const graph = makeGraph();
  const code = graph.variable("code", 0, 2 ** element.bits - 1);
  const lane = graph.variable("lane", 0, lanes - 1);
  const expression = build(graph, element, code, lane);
  if (expression === null) return { kind: "refused", reason: `${element.name} is none of its kind` };
  const numbers = numbersOf(element);
  const round = machine.single ? Math.fround : (x: number): number => x;
  let lost: number | null = null;
  const compute = compileFloat(expression, round, (x) => {
    if (machine.single && isRisky(x)) lost ??= x;
  });
  for (let c = 0; c < 2 ** element.bits; c++) {
    for (let l = 0; l < lanes; l++) {
      lost = null;
      const got = compute((name) => (name === "code" ? c : l));
      const wanted = round(numbers[c * lanes + l]!);
      const at = lanes > 1 ? `code ${c}, lane ${l}` : `code ${c}`;
      if (!Object.is(got, wanted)) return { kind: "refused", reason: `${at} is ${show(wanted)}, not ${show(got)}` };
      if (lost !== null && !isRisky(wanted))
        return { kind: "refused", reason: `${at} passes through ${show(lost)}, which a machine may lose` };
    }
  }
  return { kind: "proved", method: `all ${2 ** element.bits * lanes} codes evaluated` };
}

function show(x: number): string {
  return Object.is(x, -0) ? "-0" : String(x);
}

/** Numbers that machines may flush, or assume not to be there. */
function isRisky(x: number): boolean {
  return !Number.isFinite(x) || (x !== 0 && Math.abs(x) < 2 ** -126);
}

/** IEEE's single or double by the parameters of an element: names mean nothing here. */
export function viewOf(element: FloatElement): "single" | "double" | null {
  return isIeee(element, 8, 23) ? "single" : isIeee(element, 11, 52) ? "double" : null;
}

/** Whether a float is the interchange format of IEEE 754 with these widths. */
function isIeee({ special, sign, subnormals, ...float }: FloatElement, exponent: number, mantissa: number): boolean {
  if (sign !== "yes" || subnormals !== "yes" || special !== "ieee") return false;
  return float.exponent === exponent && float.mantissa === mantissa && float.bias === 2 ** (exponent - 1) - 1;
}

/** Integers below 2^23 lie in the fraction of 2^23 as a single, those below 2^10 in that of 2^10 as a half. */
const MAGIC = {
  single: { one: 2 ** 23, bits: 0x4b000000 },
  half: { one: 2 ** 10, bits: 0x6400 },
} as const;

/**
 * An integer as a float by OR-ing it into the fraction of a power of two, and taking that away again.
 * @returns null where its bounds do not prove that it fits the fraction
 */
export function magicNumber(graph: Graph, of: Int, kind: "single" | "half"): Float | null {
  const { one, bits } = MAGIC[kind];
  if (of.least < 0 || of.most >= one) return null;
  const filled = graph.reinterpret(kind, graph.logic("|", of, graph.integer(bits)));
  return graph.arithmetic("-", filled, graph.number(one));
}

/**
 * What rebuilds a value for a machine: elements by the first rewrite in the machine's order that is proved.
 * @param applied gets the name of every rewrite that was used
 */
export function rewriteFor(graph: Graph, machine: Machine, applied: Set<string>): (node: Float) => Float {
  const asFloat = (of: Int): Float => {
    const magic = machine.magic && of.kind !== "integer" ? magicNumber(graph, of, "single") : null;
    if (magic !== null) applied.add("integers by a magic number");
    return magic ?? graph.convert(of);
  };
  return (node) => {
    if (node.kind === "convert") return asFloat(node.of);
    if (node.kind !== "element") return node;
    const { element, low, high, lane } = node;
    if (element.kind === "int") return intOf(graph, element, low, high, asFloat);
    // Doubles take a float apart as it is defined; to enumerate its codes for a proof would only cost time.
    const isTakenApart = element.kind === "float" && element.bits > (machine.single ? LISTED_BITS : TABLE_BITS);
    for (const name of isTakenApart ? [topOfSingle.name] : machine.prefers) {
      const rewrite = REWRITES.find((r) => r.name === name)!;
      const made =
        proveRewrite(rewrite, element, machine).kind === "proved" ? rewrite.build(graph, element, low, lane) : null;
      if (made === null) continue;
      applied.add(rewrite.name);
      return made;
    }
    if (isTakenApart) return wideFloat(graph, element, low, high, machine);
    throw new Refusal(`${element.name} has ${element.bits} bits, and no rewrite is proved for it`);
  };
}

function intOf(
  graph: Graph,
  { flip, zero }: { readonly flip: number; readonly zero: number },
  low: Int,
  high: Int | null,
  asFloat: (of: Int) => Float,
): Float {
  if (high === null) return asFloat(integerOf(graph, low, flip, zero));
  const word = 2 ** 32;
  const above = integerOf(graph, high, Math.floor(flip / word), Math.floor(zero / word));
  const below = integerOf(graph, low, flip % word, zero % word);
  const scaled = graph.arithmetic("*", graph.convert(above), graph.number(word));
  return graph.arithmetic("+", scaled, graph.convert(below));
}

/** A wide float: the double itself, or in doubles its fraction times the unit of its exponent. */
function wideFloat(graph: Graph, element: FloatElement, low: Int, high: Int | null, machine: Machine): Float {
  const { name, bits, mantissa, exponent, bias, special, sign, subnormals } = element;
  if (viewOf(element) === "double") return graph.double(high!, low);
  if (machine.single) throw new Refusal(`${name} is a float of ${bits} bits, and neither IEEE's single nor its double`);
  const { integer, logic } = graph;
  const wordAt = (from: number, width: number): Int => {
    const mask = integer(2 ** width - 1);
    if (width === 0) return integer(0);
    if (from >= 32) return logic("&", logic(">>", high!, integer(from - 32)), mask);
    const below = logic(">>", low, integer(from));
    if (from + width <= 32) return logic("&", below, mask);
    return logic("&", logic("|", below, logic("<<", high!, integer(32 - from))), mask);
  };
  const fractions = [wordAt(0, Math.min(32, mantissa)), wordAt(32, Math.max(0, mantissa - 32))] as const;
  const upper = graph.arithmetic("*", graph.convert(fractions[1]), graph.number(2 ** 32));
  const fraction =
    mantissa <= 32 ? graph.convert(fractions[0]) : graph.arithmetic("+", upper, graph.convert(fractions[0]));
  const power = wordAt(mantissa, exponent);
  const top = 2 ** exponent - 1;
  const isZero: Test = { operator: "==", left: power, right: integer(0) };
  const isNegative: Test = { operator: "==", left: wordAt(bits - 1, 1), right: integer(1) };
  const signed = (positive: Float): Float =>
    sign === "yes" ? graph.pickFloat(isNegative, graph.negate(positive), positive) : positive;
  let x: Float;
  if (exponent < 8 && mantissa <= 23 && subnormals === "yes") {
    // The same fields in a single are the same number but for the bias, subnormals included. No choice is made by the
    // sign, which nobody can predict.
    const above = logic("<<", wordAt(bits - 1, sign === "yes" ? 1 : 0), integer(31));
    const moved = logic("|", logic("<<", wordAt(0, mantissa + exponent), integer(23 - mantissa)), above);
    x = graph.arithmetic("*", graph.reinterpret("single", moved), graph.number(2 ** (127 - bias)));
  } else {
    const units = Array.from({ length: top + 1 }, (_, p) => {
      const least = subnormals === "normal" ? 0 : 1;
      return 2 ** (Math.max(p, least) - bias - mantissa);
    });
    const whole = graph.arithmetic("+", fraction, graph.number(2 ** mantissa));
    const low0 = subnormals === "yes" ? fraction : subnormals === "zero" ? graph.number(0) : whole;
    x = signed(graph.arithmetic("*", graph.pickFloat(isZero, low0, whole), graph.gather(units, power)));
  }
  const isTop: Test = { operator: "==", left: power, right: integer(top) };
  const all = (word: 0 | 1): Test => ({
    operator: "==",
    left: fractions[word],
    right: integer(special === "fn" ? 2 ** Math.max(0, Math.min(32, mantissa - 32 * word)) - 1 : 0),
  });
  const ifAll = (yes: Float, no: Float): Float => graph.pickFloat(all(0), graph.pickFloat(all(1), yes, no), no);
  const nan = graph.number(Number.NaN);
  const infinity = graph.number(Number.POSITIVE_INFINITY);
  if (special === "ieee") x = graph.pickFloat(isTop, ifAll(signed(infinity), nan), x);
  if (special === "fn") x = graph.pickFloat(isTop, ifAll(nan, x), x);
  if (special === "fnuz" && sign === "yes")
    x = graph.pickFloat(isNegative, graph.pickFloat(isZero, ifAll(nan, x), x), x);
  return x;
}

// --- evaluation ------------------------------------------------------------------------------------------------------

type Variables = (name: string) => number;

const half = new Uint16Array(1);
const words = new Uint32Array(2);
const singles = new Float32Array(words.buffer);
const doubles = new Float64Array(words.buffer);

/** The half with these bits. */
function halfOf(bits: number): number {
  half[0] = bits;
  const [power, fraction] = [(half[0] >> 10) & 31, half[0] & 1023];
  const sign = half[0] >= 0x8000 ? -1 : 1;
  if (power === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (power === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (power - 25));
}

/**
 * An expression that reads variables only, as a function of them; `round` follows every operation, and `see` is told
 * every number on the way.
 */
export function compileFloat(
  node: Float,
  round: (x: number) => number,
  see: (x: number) => void = () => {},
): (variables: Variables) => number {
  const of = (inner: Float): ((variables: Variables) => number) => compileFloat(inner, round, see);
  const seen = (compute: (variables: Variables) => number) => (variables: Variables) => {
    const x = round(compute(variables));
    see(x);
    return x;
  };
  switch (node.kind) {
    case "number":
      return () => round(node.value);
    case "convert":
      return seen(compileInt(node.of));
    case "single": {
      const bits = compileInt(node.of);
      return seen((variables) => {
        words[0] = bits(variables);
        return singles[0]!;
      });
    }
    case "half": {
      const bits = compileInt(node.of);
      return seen((variables) => halfOf(bits(variables)));
    }
    case "double": {
      const [high, low] = [compileInt(node.high), compileInt(node.low)];
      return seen((variables) => {
        words[0] = low(variables);
        words[1] = high(variables);
        return doubles[0]!;
      });
    }
    case "gather": {
      const index = compileInt(node.index);
      return seen((variables) => node.table.values[index(variables)]!);
    }
    case "negate": {
      const operand = of(node.of);
      return seen((variables) => -operand(variables));
    }
    case "arithmetic": {
      const [left, right] = [of(node.left), of(node.right)];
      if (node.operator === "*") return seen((variables) => left(variables) * right(variables));
      if (node.operator === "+") return seen((variables) => left(variables) + right(variables));
      return seen((variables) => left(variables) - right(variables));
    }
    case "pick": {
      const holds = compileTest(node.test);
      const [yes, no] = [of(node.yes), of(node.no)];
      return (variables) => (holds(variables) ? yes : no)(variables);
    }
    case "element":
      throw new Error(`${node.element.name} is not rewritten`);
  }
}

function compileTest({ operator, left, right }: Test): (variables: Variables) => boolean {
  const [a, b] = [compileInt(left), compileInt(right)];
  return (variables) => COMPARISON[operator](a(variables), b(variables));
}

/** An integer that reads variables only, as a function of them. */
export function compileInt(node: Int): (variables: Variables) => number {
  switch (node.kind) {
    case "integer":
      return () => node.value;
    case "variable":
      return (variables) => variables(node.name);
    case "sum": {
      const terms = node.terms.map(({ factor, of }) => ({ factor, of: compileInt(of) }));
      return (variables) => terms.reduce((sum, { factor, of }) => sum + factor * of(variables), node.constant);
    }
    case "product": {
      const [left, right] = [compileInt(node.left), compileInt(node.right)];
      return (variables) => left(variables) * right(variables);
    }
    case "quotient": {
      const of = compileInt(node.of);
      return (variables) => Math.floor(of(variables) / node.by);
    }
    case "remainder": {
      const of = compileInt(node.of);
      return (variables) => of(variables) % node.by;
    }
    case "logic": {
      const [left, right] = [compileInt(node.left), compileInt(node.right)];
      return (variables) => onWords(node.operator, left(variables), right(variables));
    }
    case "zeros": {
      const of = compileInt(node.of);
      return (variables) => Math.clz32(of(variables));
    }
    case "word": {
      const index = compileInt(node.index);
      return (variables) => node.table.values[index(variables)]!;
    }
    case "clamp":
    case "entry": {
      const of = compileInt(node.of);
      return (variables) => Math.min(Math.max(of(variables), node.least), node.most);
    }
    case "pick": {
      const holds = compileTest(node.test);
      const [yes, no] = [compileInt(node.yes), compileInt(node.no)];
      return (variables) => (holds(variables) ? yes : no)(variables);
    }
    case "bits":
    case "load":
    case "window":
      throw new Error("there are no bytes to read here");
  }
}
