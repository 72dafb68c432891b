// What stands between the braces of a block or tensor: fields laid out in storage order, names for indices, codes, and
// the value with its reference.
// Not here: the expressions themselves (term.ts), the shape of a tensor (tensor.ts), files and names (resolve.ts).

import type * as Ast from "./ast.ts";
import { type Report, shortName } from "./number.ts";
import {
  type Named,
  resolveBits,
  resolveConstant,
  resolveIndex,
  resolveValue,
  type Scope,
  type TermScope,
} from "./term.ts";
import type { Code, Field, Type, Value } from "./type.ts";

/** Values of one block, and entries of one code. The largest block of any known format has 256. */
const MAX_BLOCK = 4096;
/** Elements of one field of a block: a block of the largest size with every bit in an element of its own, 16 bits. */
const MAX_COUNT = 65536;

/** A body resolved: where everything lies, and what it means. */
export interface Body {
  /** In storage order: those of the main buffer, then those beside it. */
  readonly fields: readonly Field[];
  /** The names of the fields that have buffers of their own. */
  readonly beside: readonly string[];
  readonly bits: number;
  readonly value: Value;
  readonly reference: Value | null;
}

/** The type of a block declaration, or null after a report of all that is wrong with it. */
export function resolveBlock(
  { name: { span }, size, items }: Ast.BlockDeclaration,
  name: string,
  ids: ReadonlyMap<string, number>,
  numbers: ReadonlyMap<string, number>,
  scope: Scope,
): Type | null {
  const names = new Map<string, Named>();
  for (const [parameter, value] of numbers) names.set(parameter, { kind: "index", index: { kind: "constant", value } });
  const bare = { ...scope, body: "block", names, domain: [], where: () => "", rounds: false } as const;
  const blockSize = resolveConstant(size, 1, MAX_BLOCK, `the size of block ${name}`, { ...bare, variables: [] });
  const body = resolveBody(items, { kind: "block", name, span, size: blockSize ?? 1 }, names, scope);
  if (body === null || blockSize === null) return null;
  const { fields, bits, value, reference } = body;
  return { name, blockSize, blockBytes: bits / 8, ids, fields, value, reference };
}

/** What a body belongs to. A tensor has one code and one value for every i, which stands for a row and a column. */
export type Owner =
  | { readonly kind: "block"; readonly name: string; readonly span: Ast.Span; readonly size: number }
  | {
      readonly kind: "tensor";
      readonly name: string;
      readonly span: Ast.Span;
      readonly size: number;
      readonly variables: readonly string[];
      /** The values of i at which indices are checked. */
      readonly domain: readonly number[];
      readonly where: (i: number) => string;
    };

/**
 * The body of `owner`, or null after a report of all that is wrong with it.
 * @param known names from outside: parameters, and those of rows and columns in a tensor
 */
export function resolveBody(
  items: readonly Ast.Item[],
  owner: Owner,
  known: ReadonlyMap<string, Named>,
  outer: Scope,
): Body | null {
  let wrong = false;
  const report: Report = (...finding) => {
    wrong = true;
    outer.report(...finding);
  };
  const names = new Map(known);
  const scope: Scope = { ...outer, report };
  const { fields, beside, bits } = layOut(items, owner, names, scope);
  if ([...names.values()].some(({ kind }) => kind === "wrong")) wrong = true;
  if (!items.some(({ kind }) => kind === "field"))
    report("size", owner.span, `${owner.kind} ${owner.name} has no fields to store`);

  for (const item of items) {
    if (item.kind !== "code" || !fresh(item.name, owner, names, report)) continue;
    const code = resolveCode(item, owner, names, scope);
    if (code === null) wrong = true;
    names.set(
      item.name.text,
      code === null ? { kind: "wrong" } : { kind: "code", code, isArray: owner.kind === "block" },
    );
  }
  const [value, reference] = (["value", "reference"] as const).map((kind) => {
    const [first, ...others] = items.filter((item): item is Ast.ValueDeclaration => item.kind === kind);
    for (const { span } of others) report("duplicate-name", span, `the ${kind} is already given above`);
    return first === undefined ? null : resolveNumber(first, owner, names, scope);
  });
  if (!items.some(({ kind }) => kind === "value")) {
    const suggestion = `add a line such as value${owner.kind === "block" ? "[i]" : ""} = d * q${owner.kind === "block" ? "[i]" : ""}`;
    report("missing-value", owner.span, `${owner.kind} ${owner.name} does not say what its values are`, { suggestion });
  }
  if (value === null || value === undefined || reference === undefined || wrong) return null;
  return { fields, beside, bits, value, reference };
}

/** Fields and lets, in the order of the text, each added to `names`. */
function layOut(
  items: readonly Ast.Item[],
  owner: Owner,
  names: Map<string, Named>,
  scope: Scope,
): Pick<Body, "fields" | "beside" | "bits"> {
  const { report } = scope;
  const fields: Field[] = [];
  const beside: string[] = [];
  let bit = 0;
  for (const item of items) {
    if (item.kind === "let" && owner.kind === "block") {
      report("wrong-kind", item.name.span, `${shortName(item.name.text)} names an index, which only a tensor can do`);
    } else if (item.kind === "let" && fresh(item.name, owner, names, report)) {
      const index = resolveIndex(item.index, termScope(owner, names, scope, null));
      names.set(item.name.text, index === null ? { kind: "wrong" } : { kind: "index", index });
    } else if (item.kind === "storage" && owner.kind === "block") {
      report("wrong-kind", item.name.span, "a block has one storage; a tensor may have several");
    } else if (item.kind === "field" && fresh(item.name, owner, names, report)) {
      if (item.beside && owner.kind === "block") {
        report("wrong-kind", item.name.span, "the fields of a block lie in the block; beside stands in a tensor only");
      }
      const counts = resolveCounts(item, owner, names, scope);
      const element = scope.element(item.element);
      if (element === null || counts === null) {
        names.set(item.name.text, { kind: "wrong" });
        continue;
      }
      const count = counts.reduce((a, b) => a * b, 1);
      if (!fillsBytes(item, count, element.bits, report)) {
        names.set(item.name.text, { kind: "wrong" });
        continue;
      }
      const field = { name: item.name.text, element, count, bit };
      bit += count * element.bits;
      fields.push(field);
      names.set(field.name, { kind: "field", field, counts });
      if (item.beside) beside.push(field.name);
      else if (beside.length > 0) {
        const message = `${field.name} lies in the main buffer and ${beside[0]} beside it; the main buffer comes first`;
        report("wrong-kind", item.name.span, message);
      }
    }
  }
  return { fields, beside, bits: bit };
}

function fresh(name: Ast.Name, owner: Owner, names: ReadonlyMap<string, Named>, report: Report): boolean {
  if (shortName(name.text) !== name.text) {
    const message = `the name ${shortName(name.text)} has ${name.text.length} characters; at most 64 are allowed`;
    report("limit", name.span, message);
    return false;
  }
  if (names.has(name.text)) report("duplicate-name", name.span, `${name.text} is already a name of this ${owner.kind}`);
  return !names.has(name.text);
}

/** The scope of one definition; `range` is the index that a block's code or value has of its own. */
function termScope(
  owner: Owner,
  names: ReadonlyMap<string, Named>,
  scope: Scope,
  range: { readonly variable: string; readonly count: number } | null,
): TermScope {
  if (owner.kind === "tensor") {
    const { variables, domain, where } = owner;
    return { ...scope, body: "tensor", names, variables, domain, where, rounds: false };
  }
  const { variable = "i", count = 0 } = range ?? {};
  return {
    ...scope,
    body: "block",
    names: range === null ? names : new Map([...names, [variable, { kind: "index", index: { kind: "variable" } }]]),
    variables: [variable],
    domain: Array.from({ length: count }, (_, i) => i),
    where: (i) => `${variable} = ${i}`,
    rounds: false,
  };
}

function resolveCounts(
  item: Ast.FieldDeclaration,
  owner: Owner,
  names: ReadonlyMap<string, Named>,
  scope: Scope,
): readonly number[] | null {
  const counts: number[] = [];
  // A tensor's sizes follow its shape, which is limited where it is given.
  const most = owner.kind === "block" ? MAX_COUNT : 2 ** 31;
  const least = owner.kind === "block" ? 1 : 0;
  const constants = termScope(owner, names, scope, null);
  for (const expr of item.counts) {
    const count = resolveConstant(expr, least, most, "the count of a field", constants);
    if (count === null) return null;
    counts.push(count);
  }
  if (counts.length < 2 || owner.kind === "tensor") return counts;
  scope.report(
    "wrong-kind",
    item.name.span,
    "a field of a block has one dimension; those of a tensor may have several",
  );
  return null;
}

/** Whether so many elements are whole bytes; a report where they are not. */
function fillsBytes({ name }: Ast.FieldDeclaration, count: number, width: number, report: Report): boolean {
  const bits = count * width;
  if (bits % 8 === 0) return true;
  // The smallest larger count whose bits fill bytes.
  let fits = count;
  while ((fits * width) % 8 !== 0) fits++;
  const message = `${name.text} is ${count} x ${width} bits = ${bits} bits, which is no whole number of bytes`;
  report("size", name.span, message, { suggestion: `${fits} x ${width} bits would fill ${(fits * width) / 8} bytes` });
  return false;
}

function resolveCode(
  item: Ast.CodeDeclaration,
  owner: Owner,
  names: ReadonlyMap<string, Named>,
  scope: Scope,
): Code | null {
  const { name, range } = item;
  if (owner.kind === "tensor") {
    if (range !== null) {
      const message = `${name.text} takes no brackets here: a tensor has one code for each ${owner.variables.join(" and ")}`;
      scope.report("wrong-kind", name.span, message);
      return null;
    }
    const bits = resolveBits(item.bits, termScope(owner, names, scope, null));
    return bits === null ? null : { name: name.text, count: owner.size, bits };
  }
  if (range === null) {
    const suggestion = `write code ${name.text}[i < ${owner.size}] = ...`;
    scope.report("wrong-kind", name.span, `${name.text} needs an index and a count in a block`, { suggestion });
    return null;
  }
  const constants = termScope(owner, names, scope, null);
  const count = resolveConstant(range.count, 1, MAX_BLOCK, `the count of code ${name.text}`, constants);
  if (!freshVariable(range.variable, names, scope.report) || count === null) return null;
  const bits = resolveBits(item.bits, termScope(owner, names, scope, { variable: range.variable.text, count }));
  return bits === null ? null : { name: name.text, count, bits };
}

function resolveNumber(
  item: Ast.ValueDeclaration,
  owner: Owner,
  names: ReadonlyMap<string, Named>,
  scope: Scope,
): Value | null {
  const { kind, variable, number, span } = item;
  const rounds = kind === "reference";
  if (owner.kind === "tensor") {
    if (variable === null) return resolveValue(number, { ...termScope(owner, names, scope, null), rounds });
    scope.report(
      "wrong-kind",
      span,
      `write ${kind} = ... in a tensor: it has one for each ${owner.variables.join(" and ")}`,
    );
    return null;
  }
  if (variable === null) {
    scope.report("wrong-kind", span, `the ${kind} of a block needs an index`, { suggestion: `write ${kind}[i] = ...` });
    return null;
  }
  if (!freshVariable(variable, names, scope.report)) return null;
  const range = { variable: variable.text, count: owner.size };
  return resolveValue(number, { ...termScope(owner, names, scope, range), rounds });
}

function freshVariable(name: Ast.Name, names: ReadonlyMap<string, Named>, report: Report): boolean {
  if (!names.has(name.text)) return true;
  report("duplicate-name", name.span, `the index ${name.text} has the name of a field or code of this block`);
  return false;
}
