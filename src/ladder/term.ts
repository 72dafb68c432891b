// The expressions inside a block or tensor: text-like trees turned into indices, bits and values, with every index and
// bit range checked for every value of the index variable.
// Not here: what a block is made of (body.ts), files and their names (resolve.ts).

import type * as Ast from "./ast.ts";
import { didYouMean } from "./diagnostic.ts";
import { ARITHMETIC, boundsOf, COMPARISON, indexOver, readsData } from "./expr.ts";
import { readExact, readInteger, type Report, shortName } from "./number.ts";
import type { Bits, Code, Condition, Element, Field, Index, Value } from "./type.ts";

/** What a declaration may ask of the files around it. */
export interface Scope {
  readonly report: Report;
  /** The element that a use names; null after a report where there is none. */
  readonly element: (use: Ast.Use) => Element | null;
  /** The text under a span. */
  readonly source: (span: Ast.Span) => string;
}

/** What a name inside a block stands for; "wrong" was reported already, and its uses are let pass. */
export type Named =
  /** `counts`: how many elements in each dimension; none for a single element. */
  | { readonly kind: "field"; readonly field: Field; readonly counts: readonly number[] }
  /** `isArray`: it is used with an index of its own. */
  | { readonly kind: "code"; readonly code: Code; readonly isArray: boolean }
  | { readonly kind: "index"; readonly index: Index }
  | { readonly kind: "wrong" };

/** Inside one definition: its names, and the values that the index variable takes where the expression stands. */
export interface TermScope extends Scope {
  readonly body: "block" | "tensor";
  readonly names: ReadonlyMap<string, Named>;
  /** The index variables as the text spells them: "i", or "n" and "k". */
  readonly variables: readonly string[];
  readonly domain: readonly number[];
  /** One value of the variable for a message: "i = 3", or "n = 0, k = 3". */
  readonly where: (i: number) => string;
  /** Whether numbers may be rounded here. */
  readonly rounds: boolean;
}

/** Bits of one code, as many as an index can hold. */
const MAX_CODE_BITS = 32;
const MAX_INDEX = 2 ** 31 - 1;

/** A whole number known before any index: a literal, a parameter, or arithmetic on those. */
export function resolveConstant(
  expr: Ast.Expr,
  least: number,
  most: number,
  what: string,
  scope: TermScope,
): number | null {
  if (expr.kind === "number") return readInteger(expr, least, most, what, scope.report);
  const index = resolveIndex(expr, scope);
  if (index === null) return null;
  if (index.kind !== "constant") {
    const message = `${what} must be a number that does not change with ${scope.variables.join(" and ")}`;
    scope.report("wrong-kind", expr.span, message);
    return null;
  }
  if (index.value >= least && index.value <= most) return index.value;
  const message = `${what} must be a whole number from ${least} to ${most}, and ${shown(expr, scope)} is ${index.value}`;
  scope.report("number", expr.span, message);
  return null;
}

/** Bits by their places in the block; null after a report. */
export function resolveBits(expr: Ast.Expr, scope: TermScope): Bits | null {
  switch (expr.kind) {
    case "slice":
      return resolveSlice(expr, scope);
    case "reference":
      return resolveWhole(expr, scope);
    case "join":
      return resolveJoin(expr, scope);
    case "choose": {
      const condition = resolveCondition(expr.condition, scope);
      if (condition === null) return null;
      const [taken, other] = arms(condition, scope);
      const yes = resolveBits(expr.yes, taken);
      const no = resolveBits(expr.no, other);
      if (yes === null || no === null) return null;
      if (yes.width === no.width) return { kind: "choose", condition, yes, no, width: yes.width };
      const message = `the two arms differ in width: ${yes.width} bits after then, ${no.width} bits after else`;
      scope.report("size", expr.span, message);
      return null;
    }
    case "binary": {
      if (expr.operator !== "++") break;
      const high = resolveBits(expr.left, scope);
      const low = resolveBits(expr.right, scope);
      return high === null || low === null ? null : concat(high, low, expr.span, scope);
    }
    case "number":
    case "negate":
    case "call":
      break;
  }
  const suggestion = "write a slice such as qs[i].bits(0 +: 4), or slices joined by ++";
  scope.report("wrong-kind", expr.span, "a code is made of bits, and this is a number", { suggestion });
  return null;
}

function concat(high: Bits, low: Bits, span: Ast.Span, { report }: TermScope): Bits | null {
  const width = high.width + low.width;
  if (width <= MAX_CODE_BITS) return { kind: "concat", high, low, width };
  report("size", span, `these are ${width} bits; at most ${MAX_CODE_BITS} can be joined`);
  return null;
}

function resolveJoin(expr: Ast.Join, scope: TermScope): Bits | null {
  const count = resolveConstant(expr.count, 1, MAX_CODE_BITS, "the count of a join", scope);
  const { text, span } = expr.variable;
  if (scope.names.has(text)) {
    scope.report("duplicate-name", span, `${shortName(text)} is already a name of this ${scope.body}`);
    return null;
  }
  if (count === null) return null;
  let all: Bits | null = null;
  for (let j = 0; j < count; j++) {
    const index = { kind: "index", index: { kind: "constant", value: j } } as const;
    const part = resolveBits(expr.bits, { ...scope, names: new Map([...scope.names, [text, index]]) });
    if (part === null) return null;
    all = all === null ? part : concat(part, all, expr.span, scope);
    if (all === null) return null;
  }
  return all;
}

/** A field's element or a code, all of its bits. */
function resolveWhole(expr: Ast.Reference, scope: TermScope): Bits | null {
  const named = lookUp(expr.name, scope);
  if (named === null) return null;
  if (named.kind === "index") return notANumber(expr, scope);
  const index = resolvePlace(expr, named, scope);
  if (index === null) return null;
  if (named.kind === "code") return { kind: "code", code: named.code, index, width: named.code.bits.width };
  const { field } = named;
  const low = { kind: "constant", value: 0 } as const;
  if (field.element.bits <= MAX_CODE_BITS)
    return { kind: "slice", field, element: index, low, width: field.element.bits };
  const message = `an element of ${field.name} has ${field.element.bits} bits; at most ${MAX_CODE_BITS} can be taken`;
  scope.report("size", expr.span, message);
  return null;
}

function resolveSlice(expr: Ast.Slice, scope: TermScope): Bits | null {
  const named = lookUp(expr.of.name, scope);
  if (named === null) return null;
  if (named.kind !== "field") {
    const what = named.kind === "code" ? "a code" : "an index";
    scope.report("wrong-kind", expr.of.span, `${expr.of.name.text} is ${what}; bits are taken from fields`);
    return null;
  }
  const { field } = named;
  const element = resolvePlace(expr.of, named, scope);
  const most = Math.min(field.element.bits, MAX_CODE_BITS);
  const width = resolveConstant(expr.width, 1, most, "the width of this slice", scope);
  const low = resolveIndex(expr.low, scope);
  if (element === null || width === null || low === null) return null;
  if (readsData(low)) {
    scope.report("wrong-kind", expr.low.span, "only the entry that is read may depend on the data, not the bit");
    return null;
  }
  const { domain } = scope;
  const lowest = boundsOver(low, domain);
  if (lowest !== null && lowest[0] >= 0 && lowest[1] + width <= field.element.bits)
    return { kind: "slice", field, element, low, width };
  const lows = indexOver(low, domain);
  for (let d = 0; d < domain.length; d++) {
    const at = lows[d]!;
    if (at >= 0 && at + width <= field.element.bits) continue;
    const i = domain[d]!;
    const message = Number.isNaN(at)
      ? outside(expr.low, i, scope)
      : `${shown(expr, scope)} reads bits ${at} to ${at + width - 1} at ${scope.where(i)}`;
    const notes = [`an element of ${field.name} is ${field.element.name}, with bits 0 to ${field.element.bits - 1}`];
    scope.report("bit-range", expr.low.span, message, { notes });
    return null;
  }
  return { kind: "slice", field, element, low, width };
}

/** A number by its expression; null after a report. */
export function resolveValue(expr: Ast.Expr, scope: TermScope): Value | null {
  switch (expr.kind) {
    case "number": {
      const exact = readExact(expr, scope.report);
      return exact === null ? null : { kind: "constant", ...exact };
    }
    case "reference": {
      const named = lookUp(expr.name, scope);
      if (named === null) return null;
      if (named.kind === "index") {
        if (named.index.kind !== "constant") return notANumber(expr, scope);
        return { kind: "constant", significand: BigInt(named.index.value), exponent: 0 };
      }
      if (named.kind === "field" && !isSingle(named.field.element, expr, scope)) return null;
      const index = resolvePlace(expr, named, scope);
      if (index === null) return null;
      return named.kind === "code"
        ? { kind: "code", code: named.code, index }
        : { kind: "element", field: named.field, index };
    }
    case "call":
      return expr.name.text === "round" ? resolveRound(expr, scope) : resolveApply(expr, scope);
    case "negate": {
      const operand = resolveValue(expr.operand, scope);
      return operand === null ? null : { kind: "negate", operand };
    }
    case "binary": {
      const { operator } = expr;
      if (operator !== "+" && operator !== "-" && operator !== "*") break;
      const left = resolveValue(expr.left, scope);
      const right = resolveValue(expr.right, scope);
      return left === null || right === null ? null : { kind: "binary", operator, left, right };
    }
    case "choose": {
      const condition = resolveCondition(expr.condition, scope);
      if (condition === null) return null;
      const [taken, other] = arms(condition, scope);
      const yes = resolveValue(expr.yes, taken);
      const no = resolveValue(expr.no, other);
      return yes === null || no === null ? null : { kind: "choose", condition, yes, no };
    }
    case "slice":
    case "join":
      break;
  }
  if (expr.kind === "binary" && expr.operator !== "++") {
    const message = `${expr.operator} is only for indices; a value is made with +, - and *`;
    scope.report("wrong-kind", expr.span, message);
  } else {
    const suggestion = "give the bits a name with a line such as code q[i < 32] = ..., and use q[i]";
    scope.report("wrong-kind", expr.span, "a value is a number, and these are bits", { suggestion });
  }
  return null;
}

/** Whether a code of the element is one number; a report where it is several. */
function isSingle(element: Element, expr: Ast.Reference, { report }: TermScope): boolean {
  if (element.kind !== "table" || element.lanes === 1) return true;
  const name = expr.name.text;
  const suggestion = `declare ${name} as an unsigned integer, and write ${element.name}(${name}[...], lane)`;
  report("wrong-kind", expr.span, `an element of ${name} stands for ${element.lanes} numbers`, { suggestion });
  return false;
}

function resolveRound(expr: Ast.Call, scope: TermScope): Value | null {
  if (!scope.rounds) {
    const suggestion = "give the rounded form with a line such as reference[i] = ...";
    scope.report("wrong-kind", expr.span, "a value is exact, and round is only for a reference", { suggestion });
    return null;
  }
  const [to, number] = expr.arguments;
  if (to?.kind !== "reference" || to.indices.length > 0 || number === undefined || expr.arguments.length > 2) {
    const suggestion = "write round(F32, d * q[i])";
    scope.report("argument", expr.span, "round takes an element and a number", { suggestion });
    return null;
  }
  const element = scope.element({ kind: "use", name: to.name, arguments: [], span: to.span });
  const operand = resolveValue(number, scope);
  if (element === null || operand === null) return null;
  if (element.kind === "float") return { kind: "round", element, operand };
  scope.report("wrong-kind", to.span, `${element.name} is no float, and sums and products round to floats`);
  return null;
}

function resolveApply(expr: Ast.Call, scope: TermScope): Value | null {
  const element = scope.element({ kind: "use", name: expr.name, arguments: [], span: expr.name.span });
  if (element === null) return null;
  const lanes = element.kind === "table" ? element.lanes : 1;
  const [code, lane, ...more] = expr.arguments;
  if (code === undefined || more.length > 0 || lanes > 1 !== (lane !== undefined)) {
    const takes = lanes > 1 ? `bits and a lane from 0 to ${lanes - 1}` : "bits";
    const message = `${element.name} takes ${takes}, and ${expr.arguments.length} arguments are given`;
    scope.report("argument", expr.span, message);
    return null;
  }
  const bits = resolveBits(code, scope);
  if (bits === null) return null;
  if (bits.width !== element.bits) {
    const message = `${element.name} has ${element.bits} bits, and ${shown(code, scope)} has ${bits.width}`;
    scope.report("size", code.span, message);
    return null;
  }
  if (lane === undefined) return { kind: "apply", element, bits, lane: { kind: "constant", value: 0 } };
  const index = resolveIndex(lane, scope);
  if (index === null) return null;
  const notes = [`${element.name} has lanes 0 to ${lanes - 1}`];
  if (!inRange(index, lane, lanes, (at) => `${shown(expr, scope)} reads lane ${at}`, notes, scope)) return null;
  return { kind: "apply", element, bits, lane: index };
}

/** The brackets after a field or code: one number for its place, in range over the whole domain. */
function resolvePlace(expr: Ast.Reference, named: Named & { kind: "field" | "code" }, scope: TermScope): Index | null {
  const name = expr.name.text;
  const [first] = scope.variables;
  if (named.kind === "code" && !named.isArray) {
    if (expr.indices.length === 0) return { kind: "variable" };
    scope.report(
      "wrong-kind",
      expr.span,
      `${name} is one code for each ${scope.variables.join(" and ")} and takes no index`,
    );
    return null;
  }
  const counts = named.kind === "code" ? [named.code.count] : named.counts;
  if (expr.indices.length === 0 && counts.length > 0) {
    const total = counts.reduce((a, b) => a * b, 1);
    const suggestion =
      counts.length === 1
        ? `write ${name}[${first}], or another index below ${total}`
        : `write ${counts.length} indices`;
    scope.report("wrong-kind", expr.span, `${name} has ${total} entries, and none is chosen here`, { suggestion });
    return null;
  }
  if (expr.indices.length !== counts.length) {
    const message =
      counts.length === 0
        ? `${name} is a single element and takes no index`
        : `${name} has ${counts.length} dimensions, and ${expr.indices.length} indices are given`;
    scope.report("wrong-kind", counts.length === 0 ? expr.indices[0]!.span : expr.span, message);
    return null;
  }
  let place: Index | null = { kind: "constant", value: 0 };
  for (const [d, at] of expr.indices.entries()) {
    const index = resolveIndex(at, scope);
    if (index === null) return null;
    const notes = [`${name} has entries 0 to ${counts[d]! - 1}${counts.length === 1 ? "" : ` in dimension ${d}`}`];
    if (!inRange(index, at, counts[d]!, (entry) => `${shown(expr, scope)} reads entry ${entry}`, notes, scope))
      return null;
    place = combine("+", combine("*", place, { kind: "constant", value: counts[d]! }), index);
  }
  return place;
}

function inRange(
  index: Index,
  expr: Ast.Expr,
  count: number,
  message: (at: number) => string,
  notes: readonly string[],
  scope: TermScope,
): boolean {
  // What the data give shows only when they are read.
  if (readsData(index)) return true;
  const { domain } = scope;
  const bounds = boundsOver(index, domain);
  if (bounds !== null && bounds[0] >= 0 && bounds[1] < count) return true;
  const places = indexOver(index, domain);
  for (let d = 0; d < domain.length; d++) {
    const at = places[d]!;
    if (at >= 0 && at < count) continue;
    const i = domain[d]!;
    const what = Number.isNaN(at) ? outside(expr, i, scope) : `${message(at)} at ${scope.where(i)}`;
    scope.report("index-range", expr.span, what, { notes });
    return false;
  }
  return true;
}

/** boundsOf over a domain, which ascends; for one with gaps they hold for what is between as well. */
function boundsOver(index: Index, domain: readonly number[]): readonly [least: number, most: number] | null {
  const [first, last] = [domain[0], domain.at(-1)];
  return first === undefined || last === undefined ? null : boundsOf(index, first, last);
}

/** A comparison of indices; null after a report. */
export function resolveCondition({ operator, left: a, right: b }: Ast.Compare, scope: TermScope): Condition | null {
  const left = resolveIndex(a, scope);
  const right = resolveIndex(b, scope);
  if (left === null || right === null) return null;
  if (readsData(left) || readsData(right)) return { operator, left, right };
  for (const [index, expr] of [[left, a] as const, [right, b] as const]) {
    if (boundsOver(index, scope.domain) !== null) continue;
    const all = indexOver(index, scope.domain);
    const i = scope.domain.find((_, d) => Number.isNaN(all[d]));
    if (i === undefined) continue;
    scope.report("index-range", expr.span, outside(expr, i, scope));
    return null;
  }
  return { operator, left, right };
}

/** The scopes of the arms behind then and else: what the index variable can be in each. */
function arms(condition: Condition, scope: TermScope): readonly [yes: TermScope, no: TermScope] {
  const { left, operator, right } = condition;
  // What the data decide may go either way.
  if (readsData(left) || readsData(right)) return [scope, scope];
  const [a, b] = [indexOver(left, scope.domain), indexOver(right, scope.domain, 1)];
  const holds = (d: number): boolean => COMPARISON[operator](a[d]!, b[d]!);
  const yes = scope.domain.filter((_, d) => holds(d));
  const no = scope.domain.filter((_, d) => !holds(d));
  return [
    { ...scope, domain: yes },
    { ...scope, domain: no },
  ];
}

/** An integer by its expression, with constants worked out; null after a report. */
export function resolveIndex(expr: Ast.Expr, scope: TermScope): Index | null {
  switch (expr.kind) {
    case "number": {
      const value = readInteger(expr, 0, MAX_INDEX, "a number in an index", scope.report);
      return value === null ? null : { kind: "constant", value };
    }
    case "reference": {
      const named = lookUp(expr.name, scope);
      if (named === null) return null;
      if (named.kind === "index" && expr.indices.length === 0) return named.index;
      if (named.kind !== "field" || scope.body === "block") break;
      const { field } = named;
      if (field.element.kind !== "int" || field.element.bits > MAX_CODE_BITS) {
        const message = `an index is an integer of at most ${MAX_CODE_BITS} bits, and ${field.name} is ${field.element.name}`;
        scope.report("wrong-kind", expr.span, message);
        return null;
      }
      const index = resolvePlace(expr, named, scope);
      return index === null ? null : { kind: "stored", field, index };
    }
    case "negate": {
      const right = resolveIndex(expr.operand, scope);
      return right === null ? null : combine("-", { kind: "constant", value: 0 }, right);
    }
    case "binary": {
      const { operator } = expr;
      if (operator === "++") break;
      const left = resolveIndex(expr.left, scope);
      const right = resolveIndex(expr.right, scope);
      return left === null || right === null ? null : combine(operator, left, right);
    }
    case "choose": {
      const condition = resolveCondition(expr.condition, scope);
      if (condition === null) return null;
      const [taken, other] = arms(condition, scope);
      const yes = resolveIndex(expr.yes, taken);
      const no = resolveIndex(expr.no, other);
      return yes === null || no === null ? null : { kind: "choose", condition, yes, no };
    }
    case "slice":
    case "call":
    case "join":
      break;
  }
  const made = `numbers and ${scope.variables.join(", ")} with +, -, *, div, mod and if`;
  scope.report("wrong-kind", expr.span, `an index is made of ${made}`);
  return null;
}

type Arithmetic = keyof typeof ARITHMETIC;

function combine(operator: Arithmetic, left: Index, right: Index): Index {
  if (left.kind === "constant" && right.kind === "constant") {
    const value = ARITHMETIC[operator](left.value, right.value);
    if (Math.abs(value) <= MAX_INDEX) return { kind: "constant", value };
  }
  if (left.kind === "constant" && left.value === 0) {
    if (operator === "+") return right;
    if (operator === "*") return left;
  }
  if (right.kind === "constant" && right.value === 1 && (operator === "*" || operator === "div")) return left;
  return { kind: "binary", operator, left, right };
}

function notANumber(expr: Ast.Reference, { report, body }: TermScope): null {
  const message = `the index ${expr.name.text} is no number of the ${body}; it can only stand in brackets`;
  report("wrong-kind", expr.span, message);
  return null;
}

function outside(expr: Ast.Expr, i: number, scope: TermScope): string {
  return `${shown(expr, scope)} divides by zero or leaves +-2^31 at ${scope.where(i)}`;
}

/** What a name stands for; null after a report, or where its own declaration was reported. */
function lookUp(name: Ast.Name, scope: TermScope): Exclude<Named, { kind: "wrong" }> | null {
  const named = scope.names.get(name.text);
  if (named === undefined) {
    const suggestion = didYouMean(name.text, scope.names.keys());
    scope.report("unknown-name", name.span, `this ${scope.body} has no field or code ${shortName(name.text)}`, {
      suggestion,
    });
    return null;
  }
  return named.kind === "wrong" ? null : named;
}

/** The source of an expression on one line, for a message. */
function shown(expr: Ast.Expr, scope: TermScope): string {
  const text = scope.source(expr.span).replaceAll(/\s+/g, " ");
  return text.length <= 64 ? text : `${text.slice(0, 64)}...`;
}
