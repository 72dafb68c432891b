// One block declaration resolved: fields laid out in storage order, codes and the value turned from text-like trees
// into typed ones, with every index and bit range checked for every value of the index variable.
// Not here: files, imports and elements (resolve.ts).

import type * as Ast from "./ast.ts";
import { type Diagnostic, didYouMean } from "./diagnostic.ts";
import { conditionAt, indexAt } from "./expr.ts";
import type { Bits, Code, Condition, Element, Field, Index, Type, Value } from "./type.ts";

/** What a block may ask of the files around it. */
export interface Scope {
  readonly report: (
    code: Diagnostic["code"],
    span: Ast.Span,
    message: string,
    more?: { readonly notes?: readonly string[]; readonly suggestion?: string | null },
  ) => void;
  /** The element of that name; null after a report where there is none. */
  readonly element: (use: Ast.Name) => Element | null;
  /** The text under a span. */
  readonly source: (span: Ast.Span) => string;
}

type Report = Scope["report"];

/** Values of one block, and entries of one code. The largest block of any known format has 256. */
const MAX_BLOCK = 4096;
/** Elements of one field: a block of the largest size with every bit in an element of its own, for 16-bit codes. */
const MAX_COUNT = 65536;
/** Bits of one code, as many as the widest integer element has. */
const MAX_CODE_BITS = 32;
const MAX_NAME = 64;

/** A name for a message: whole up to 64 characters, else its beginning. */
export function shortName(text: string): string {
  return text.length <= MAX_NAME ? text : `${text.slice(0, 20)}...`;
}

/** The whole number that a literal spells, or null after a report that it is not one in [least, most]. */
export function readInteger(
  literal: Ast.NumberLiteral,
  least: number,
  most: number,
  what: string,
  report: Report,
): number | null {
  const value = Number(literal.text);
  if (Number.isInteger(value) && !literal.text.includes(".") && value >= least && value <= most) return value;
  const given = shortName(literal.text);
  report("number", literal.span, `${what} must be a whole number from ${least} to ${most}, not ${given}`);
  return null;
}

/** The type of a block declaration, or null after a report of all that is wrong with it. */
export function resolveBlock(block: Ast.BlockDeclaration, ids: ReadonlyMap<string, number>, scope: Scope): Type | null {
  let wrong = false;
  const report: Report = (...finding) => {
    wrong = true;
    scope.report(...finding);
  };
  const size = readInteger(block.size, 1, MAX_BLOCK, `the size of block ${block.name.text}`, report);
  const names = new Map<string, Named>();
  const fields: Field[] = [];
  let bit = 0;
  for (const item of block.items) {
    if (item.kind !== "field" || !fresh(item.name, names, report)) continue;
    const field = resolveField(item, bit, { ...scope, report });
    if (field === null) {
      wrong = true;
      names.set(item.name.text, { kind: "wrong" });
      continue;
    }
    names.set(field.name, { kind: "field", field, isArray: item.count !== null });
    fields.push(field);
    bit += field.count * field.element.bits;
  }
  if (fields.length === 0 && !wrong) report("size", block.name.span, `block ${block.name.text} has no fields to store`);

  for (const item of block.items) {
    if (item.kind !== "code" || !fresh(item.name, names, report)) continue;
    const code = resolveCode(item, { ...scope, report, names });
    if (code === null) wrong = true;
    names.set(item.name.text, code === null ? { kind: "wrong" } : { kind: "code", code });
  }
  const values = block.items.filter((item) => item.kind === "value");
  for (const second of values.slice(1)) report("duplicate-name", second.span, "the value is already given above");
  const [declared] = values;
  if (declared === undefined) {
    const suggestion = "add a line such as value[i] = d * q[i]";
    report("missing-value", block.name.span, `block ${block.name.text} does not say what its values are`, {
      suggestion,
    });
    return null;
  }
  if (size === null || !freshVariable(declared.variable, names, report)) return null;
  const domain = Array.from({ length: size }, (_, i) => i);
  const value = resolveValue(declared.number, { ...scope, report, names, variable: declared.variable.text, domain });
  if (value === null || wrong) return null;
  return { name: block.name.text, blockSize: size, blockBytes: bit / 8, ids, fields, value };
}

/** What a name inside a block stands for; "wrong" was reported already, and its uses are let pass. */
type Named =
  | { readonly kind: "field"; readonly field: Field; readonly isArray: boolean }
  | { readonly kind: "code"; readonly code: Code }
  | { readonly kind: "wrong" };

interface BlockScope extends Scope {
  readonly names: ReadonlyMap<string, Named>;
}

/** Inside one definition: the index variable, and the values that it takes where the expression stands. */
interface IndexScope extends BlockScope {
  readonly variable: string;
  readonly domain: readonly number[];
}

function fresh(name: Ast.Name, names: ReadonlyMap<string, Named>, report: Report): boolean {
  if (name.text.length > MAX_NAME) {
    const message = `the name ${shortName(name.text)} has ${name.text.length} characters; at most 64 are allowed`;
    report("limit", name.span, message);
    return false;
  }
  if (names.has(name.text)) report("duplicate-name", name.span, `${name.text} is already a name of this block`);
  return !names.has(name.text);
}

function freshVariable(name: Ast.Name, names: ReadonlyMap<string, Named>, report: Report): boolean {
  if (!names.has(name.text)) return true;
  report("duplicate-name", name.span, `the index ${name.text} has the name of a field or code of this block`);
  return false;
}

function resolveField(item: Ast.FieldDeclaration, bit: number, scope: Scope): Field | null {
  const element = scope.element(item.element);
  const count = item.count === null ? 1 : readInteger(item.count, 1, MAX_COUNT, "the count of a field", scope.report);
  if (element === null || count === null) return null;
  const bits = count * element.bits;
  if (bits % 8 !== 0) {
    // The smallest larger count whose bits fill bytes.
    let fits = count;
    while ((fits * element.bits) % 8 !== 0) fits++;
    const message = `${item.name.text} is ${count} x ${element.bits} bits = ${bits} bits, which is no whole number of bytes`;
    const suggestion = `${fits} x ${element.bits} bits would fill ${(fits * element.bits) / 8} bytes`;
    scope.report("size", item.name.span, message, { suggestion });
    return null;
  }
  return { name: item.name.text, element, count, bit };
}

function resolveCode(item: Ast.CodeDeclaration, scope: BlockScope): Code | null {
  const what = `the count of code ${item.name.text}`;
  const count = readInteger(item.count, 1, MAX_BLOCK, what, scope.report);
  if (!freshVariable(item.variable, scope.names, scope.report) || count === null) return null;
  const domain = Array.from({ length: count }, (_, i) => i);
  const bits = resolveBits(item.bits, { ...scope, variable: item.variable.text, domain });
  if (bits === null) return null;
  if (bits.width > MAX_CODE_BITS) {
    const message = `code ${item.name.text} has ${bits.width} bits; at most ${MAX_CODE_BITS} are allowed`;
    scope.report("size", item.bits.span, message);
    return null;
  }
  return { name: item.name.text, count, bits };
}

function resolveBits(expr: Ast.Expr, scope: IndexScope): Bits | null {
  if (expr.kind === "slice") return resolveSlice(expr, scope);
  if (expr.kind === "binary" && expr.operator === "++") {
    const high = resolveBits(expr.left, scope);
    const low = resolveBits(expr.right, scope);
    return high === null || low === null ? null : { kind: "concat", high, low, width: high.width + low.width };
  }
  if (expr.kind === "choose") {
    const condition = resolveCondition(expr, scope);
    if (condition === null) return null;
    const yes = resolveBits(expr.yes, { ...scope, domain: scope.domain.filter((i) => conditionAt(condition, i)) });
    const no = resolveBits(expr.no, { ...scope, domain: scope.domain.filter((i) => !conditionAt(condition, i)) });
    if (yes === null || no === null) return null;
    if (yes.width === no.width) return { kind: "choose", condition, yes, no, width: yes.width };
    const message = `the two arms differ in width: ${yes.width} bits after then, ${no.width} bits after else`;
    scope.report("size", expr.span, message);
    return null;
  }
  const suggestion = "write a slice such as qs[i].bits(0 +: 4), or slices joined by ++";
  scope.report("wrong-kind", expr.span, "a code is made of bits, and this is a number", { suggestion });
  return null;
}

function resolveSlice(expr: Ast.Slice, scope: IndexScope): Bits | null {
  const named = lookUp(expr.of.name, scope);
  if (named === null) return null;
  if (named.kind === "code") {
    const message = `${expr.of.name.text} is a code; bits are taken from fields`;
    scope.report("wrong-kind", expr.of.span, message);
    return null;
  }
  const { field } = named;
  const element = resolvePlace(expr.of, field.count, named.isArray, scope);
  const width = readInteger(expr.width, 1, field.element.bits, "the width of this slice", scope.report);
  const low = resolveIndex(expr.low, scope);
  if (element === null || width === null || low === null) return null;
  const most = field.element.bits - width;
  for (const i of scope.domain) {
    const at = indexAt(low, i);
    if (at >= 0 && at <= most) continue;
    const where = `${scope.variable} = ${i}`;
    const message = Number.isNaN(at)
      ? `${shown(expr.low, scope)} divides by zero or leaves +-2^31 at ${where}`
      : `${shown(expr, scope)} reads bits ${at} to ${at + width - 1} at ${where}`;
    const notes = [`an element of ${field.name} is ${field.element.name}, with bits 0 to ${field.element.bits - 1}`];
    scope.report("bit-range", expr.low.span, message, { notes });
    return null;
  }
  return { kind: "slice", field, element, low, width };
}

function resolveValue(expr: Ast.Expr, scope: IndexScope): Value | null {
  switch (expr.kind) {
    case "number":
      return resolveConstant(expr, scope.report);
    case "reference": {
      if (expr.name.text === scope.variable) {
        const message = `the index ${scope.variable} is no number of the block; it can only stand in brackets`;
        scope.report("wrong-kind", expr.span, message);
        return null;
      }
      const named = lookUp(expr.name, scope);
      if (named === null) return null;
      const isArray = named.kind === "code" || named.isArray;
      const index = resolvePlace(expr, named.kind === "code" ? named.code.count : named.field.count, isArray, scope);
      if (index === null) return null;
      return named.kind === "code"
        ? { kind: "code", code: named.code, index }
        : { kind: "element", field: named.field, index };
    }
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
    case "slice":
    case "choose":
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

/** A decimal as significand * 2^exponent, which only some decimals are: n / 10^k where 5^k divides n. */
function resolveConstant(literal: Ast.NumberLiteral, report: Report): Value | null {
  if (literal.text.length > 32) {
    report("limit", literal.span, `a number may have at most 32 characters; this has ${literal.text.length}`);
    return null;
  }
  const [whole = "0", fraction = ""] = literal.text.split(".");
  const digits = BigInt(whole + fraction);
  const fives = 5n ** BigInt(fraction.length);
  if (digits % fives === 0n) return { kind: "constant", significand: digits / fives, exponent: -fraction.length };
  const message = `${literal.text} has no exact binary value, and a value is exact`;
  const suggestion = "write a fraction of a power of two, such as 0.5 or 0.375";
  report("number", literal.span, message, { suggestion });
  return null;
}

/** The brackets after a field or code: what they hold, in range over the whole domain. */
function resolvePlace(expr: Ast.Reference, count: number, isArray: boolean, scope: IndexScope): Index | null {
  const name = expr.name.text;
  if (expr.index === null && isArray) {
    const suggestion = `write ${name}[${scope.variable}], or another index below ${count}`;
    scope.report("wrong-kind", expr.span, `${name} has ${count} entries, and none is chosen here`, { suggestion });
    return null;
  }
  if (expr.index === null) return { kind: "constant", value: 0 };
  if (!isArray) {
    scope.report("wrong-kind", expr.index.span, `${name} is a single element and takes no index`);
    return null;
  }
  const index = resolveIndex(expr.index, scope);
  if (index === null) return null;
  for (const i of scope.domain) {
    const at = indexAt(index, i);
    if (at >= 0 && at < count) continue;
    const where = `${scope.variable} = ${i}`;
    const message = Number.isNaN(at)
      ? `${shown(expr.index, scope)} divides by zero or leaves +-2^31 at ${where}`
      : `${shown(expr, scope)} reads entry ${at} at ${where}`;
    scope.report("index-range", expr.index.span, message, { notes: [`${name} has entries 0 to ${count - 1}`] });
    return null;
  }
  return index;
}

function resolveCondition(expr: Ast.Choose, scope: IndexScope): Condition | null {
  const left = resolveIndex(expr.left, scope);
  const right = resolveIndex(expr.right, scope);
  if (left === null || right === null) return null;
  for (const i of scope.domain) {
    const wrong = Number.isNaN(indexAt(left, i)) ? expr.left : Number.isNaN(indexAt(right, i)) ? expr.right : null;
    if (wrong === null) continue;
    const message = `${shown(wrong, scope)} divides by zero or leaves +-2^31 at ${scope.variable} = ${i}`;
    scope.report("index-range", wrong.span, message);
    return null;
  }
  return { operator: expr.operator, left, right };
}

function resolveIndex(expr: Ast.Expr, scope: IndexScope): Index | null {
  switch (expr.kind) {
    case "number": {
      const value = readInteger(expr, 0, 2 ** 31 - 1, "a number in an index", scope.report);
      return value === null ? null : { kind: "constant", value };
    }
    case "reference":
      if (expr.name.text === scope.variable && expr.index === null) return { kind: "variable" };
      // A name that exists is of the wrong kind; one that does not is reported as unknown.
      if (expr.name.text !== scope.variable && lookUp(expr.name, scope) === null) return null;
      break;
    case "negate": {
      const right = resolveIndex(expr.operand, scope);
      const left = { kind: "constant", value: 0 } as const;
      return right === null ? null : { kind: "binary", operator: "-", left, right };
    }
    case "binary": {
      const { operator } = expr;
      if (operator === "++") break;
      const left = resolveIndex(expr.left, scope);
      const right = resolveIndex(expr.right, scope);
      return left === null || right === null ? null : { kind: "binary", operator, left, right };
    }
    case "slice":
    case "choose":
      break;
  }
  const message = `an index is made of numbers and ${scope.variable} with +, -, *, div and mod`;
  scope.report("wrong-kind", expr.span, message);
  return null;
}

/** The field or code of that name; null after a report, or where its own declaration was reported. */
function lookUp(name: Ast.Name, scope: IndexScope): Exclude<Named, { kind: "wrong" }> | null {
  const named = scope.names.get(name.text);
  if (named === undefined) {
    const message = `this block has no field or code ${shortName(name.text)}`;
    const suggestion = didYouMean(name.text, [scope.variable, ...scope.names.keys()]);
    scope.report("unknown-name", name.span, message, { suggestion });
    return null;
  }
  return named.kind === "wrong" ? null : named;
}

/** The source of an expression on one line, for a message. */
function shown(expr: Ast.Expr, scope: IndexScope): string {
  const text = scope.source(expr.span).replaceAll(/\s+/g, " ");
  return text.length <= MAX_NAME ? text : `${text.slice(0, MAX_NAME)}...`;
}
