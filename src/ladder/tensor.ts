// A tensor format for one shape: sizes worked out, every index checked, and the whole matrix as one block, so that
// exact.ts, codec.ts and layout.ts know nothing of shapes. Value i is that of row i div columns, column i mod columns.
// Not here: files and names (resolve.ts).

import type * as Ast from "./ast.ts";
import { resolveBody } from "./body.ts";
import type { Diagnostic } from "./diagnostic.ts";
import { conditionAt } from "./expr.ts";
import { type Report, shortName } from "./number.ts";
import { type Named, resolveCondition, type Scope, type TermScope } from "./term.ts";
import type { Element, Index, Tensor, Type } from "./type.ts";

/** One of the byte strings that a bound tensor's block is made of, one behind the other. */
export interface Buffer {
  /** The field's name for a buffer beside the main one, which is called "". */
  readonly name: string;
  readonly bytes: number;
}

export type Binding =
  | { readonly kind: "bound"; readonly type: Type; readonly buffers: readonly Buffer[] }
  | { readonly kind: "refused"; readonly diagnostics: readonly Diagnostic[] };

/** Values of one matrix: positions of bits are doubles, and indices stay below 2^31. */
const MAX_VALUES = 2 ** 31 - 1;
/** Places at which the indices of a large matrix are checked before it is read; reading checks them all. */
const SAMPLES = 128;

/**
 * The tensor as a type for matrices of one shape: blockSize is rows * columns, and the block is all buffers in order.
 * Its indices are checked at every place of a small matrix, and at some of a large one.
 * @param storage one of `tensor.storages`
 */
export function bindTensor(tensor: Tensor, storage: string, rows: number, columns: number): Binding {
  const { name, declaration, names: known } = tensor;
  const diagnostics: Diagnostic[] = [];
  const report: Report = (code, span, message, more = {}) => {
    diagnostics.push({ code, span, message, notes: [], suggestion: null, ...more });
  };
  const refuse = (): Binding => ({ kind: "refused", diagnostics });
  const own = declaration.items.find((item) => item.kind === "storage" && item.name.text === storage);
  if (!tensor.storages.includes(storage)) {
    report("unknown-name", declaration.name.span, `${name} has no storage ${shortName(storage)}`, {
      notes: [`it has ${tensor.storages.join(", ")}`],
    });
    return refuse();
  }
  const whole = (x: number): boolean => Number.isInteger(x) && x >= 1;
  if (!whole(rows) || !whole(columns) || rows * columns > MAX_VALUES) {
    const message = `a matrix of ${rows} x ${columns} is not possible; rows, columns and values are from 1 to ${MAX_VALUES}`;
    report("size", declaration.name.span, message);
    return refuse();
  }

  const scope: Scope = {
    report,
    source: ({ start, end }) => tensor.source.slice(start, end),
    element: (use) => elementOf(use, known, report),
  };
  const { row, column } = declaration;
  const size = rows * columns;
  const owner = {
    kind: "tensor",
    name,
    span: declaration.name.span,
    size,
    variables: [row.text, column.text],
    domain: sampled(rows, columns),
    where: (i: number) => `${row.text} = ${Math.floor(i / columns)}, ${column.text} = ${i % columns}`,
  } as const;
  const names = namesOf(tensor, rows, columns);
  const requirements = [...declaration.requires, ...(own?.kind === "storage" ? own.requires : [])];
  const constants: TermScope = { ...scope, ...owner, body: "tensor", names, rounds: false, domain: [0] };
  for (const compare of requirements) {
    const condition = resolveCondition(compare, constants);
    if (condition === null) return refuse();
    if (conditionAt(condition, 0)) continue;
    const spelled = `${scope.source(compare.left.span)} ${compare.operator} ${scope.source(compare.right.span)}`;
    const called = storage === "" ? name : `${name}.${storage}`;
    report("size", compare.left.span, `${called} requires ${spelled}, and the matrix is ${rows} x ${columns}`);
    return refuse();
  }
  const items = [...declaration.items, ...(own?.kind === "storage" ? own.items : [])];
  const body = resolveBody(items, owner, names, scope);
  if (body === null) return refuse();
  const { fields, beside, bits, value, reference } = body;
  const apart = fields.filter((field) => beside.includes(field.name));
  const bytes = (field: Type["fields"][number]): number => (field.count * field.element.bits) / 8;
  const buffers = apart.map((field) => ({ name: field.name, bytes: bytes(field) }));
  const besides = buffers.reduce((sum, buffer) => sum + buffer.bytes, 0);
  return {
    kind: "bound",
    type: { name, blockSize: size, blockBytes: bits / 8, ids: tensor.ids, fields, value, reference },
    buffers: [{ name: "", bytes: bits / 8 - besides }, ...buffers],
  };
}

/** The smallest shape that the requirements of a storage allow, as far as one is found; for a check of the text. */
export function smallestShape(
  tensor: Tensor,
  storage: string,
): { readonly rows: number; readonly columns: number } | null {
  const { declaration } = tensor;
  const own = declaration.items.find((item) => item.kind === "storage" && item.name.text === storage);
  const requirements = [...declaration.requires, ...(own?.kind === "storage" ? own.requires : [])];
  const { rows, columns } = declaration;
  const ofRows = requirements.filter(
    ({ left, right }) => !mentions(left, columns.text) && !mentions(right, columns.text),
  );
  // Rows by the requirements that do not speak of columns, then columns by all of them.
  const fit = fitting(tensor, ofRows, rows, []);
  let tried = 0;
  for (let r = 1; r <= 1024 && tried < 4; r++) {
    if (!fit(r)) continue;
    tried++;
    const alsoFits = fitting(tensor, requirements, columns, [[rows, r]]);
    for (let c = 1; c <= 8192; c++) if (alsoFits(c)) return { rows: r, columns: c };
  }
  return null;
}

/** Whether a number for one name meets all requirements, where other names are known. */
function fitting(
  tensor: Tensor,
  requirements: readonly Ast.Compare[],
  open: Ast.Name,
  known: readonly (readonly [Ast.Name, number])[],
): (x: number) => boolean {
  const names = new Map<string, Named>();
  for (const [name, value] of tensor.names) if (typeof value === "number") names.set(name, constantNamed(value));
  for (const [name, value] of known) names.set(name.text, constantNamed(value));
  names.set(open.text, { kind: "index", index: { kind: "variable" } });
  const scope: TermScope = {
    report: () => {},
    source: () => "",
    element: () => null,
    body: "tensor",
    names,
    variables: [],
    domain: [1],
    where: () => "",
    rounds: false,
  };
  // What is wrong with a requirement is reported when the shape is bound.
  const conditions = requirements.map((compare) => resolveCondition(compare, scope)).filter((one) => one !== null);
  return (x) => conditions.every((condition) => conditionAt(condition, x));
}

function constantNamed(value: number): Named {
  return { kind: "index", index: { kind: "constant", value } };
}

function namesOf({ declaration, names: known }: Tensor, rows: number, columns: number): Map<string, Named> {
  const variable: Index = { kind: "variable" };
  const per = (operator: "div" | "mod"): Named => ({
    kind: "index",
    index: { kind: "binary", operator, left: variable, right: { kind: "constant", value: columns } },
  });
  const names = new Map<string, Named>();
  for (const [name, value] of known) if (typeof value === "number") names.set(name, constantNamed(value));
  names.set(declaration.row.text, per("div")).set(declaration.column.text, per("mod"));
  return names.set(declaration.rows.text, constantNamed(rows)).set(declaration.columns.text, constantNamed(columns));
}

function elementOf(use: Ast.Use, known: ReadonlyMap<string, Element | number>, report: Report): Element | null {
  const element = known.get(useText(use));
  if (element !== undefined && typeof element !== "number") return element;
  report("unknown-name", use.span, `there is no element ${shortName(use.name.text)}`);
  return null;
}

/** A use as one spells it: `Int<4>`. */
export function useText({ name, arguments: list }: Ast.Use): string {
  if (list.length === 0) return name.text;
  return `${name.text}<${list.map((one) => (one.kind === "number" ? one.text : useText(one))).join(", ")}>`;
}

/** All places of a small matrix; of a large one its first and last, and some all over it. */
function sampled(rows: number, columns: number): readonly number[] {
  const size = rows * columns;
  if (size <= 2 * SAMPLES) return Array.from({ length: size }, (_, i) => i);
  const spread = Array.from({ length: SAMPLES / 2 }, (_, s) => Math.floor((s * (size - 1)) / (SAMPLES / 2 - 1)));
  const edge = Array.from({ length: SAMPLES / 4 }, (_, s) => [s, size - 1 - s]).flat();
  return [...new Set([columns - 1, size - columns, ...spread, ...edge])].toSorted((x, y) => x - y);
}

/** Whether a name stands anywhere in an index expression. */
function mentions(expr: Ast.Expr, name: string): boolean {
  switch (expr.kind) {
    case "reference":
      return expr.name.text === name || expr.indices.some((index) => mentions(index, name));
    case "binary":
      return mentions(expr.left, name) || mentions(expr.right, name);
    case "negate":
      return mentions(expr.operand, name);
    case "choose":
      return [expr.condition.left, expr.condition.right, expr.yes, expr.no].some((part) => mentions(part, name));
    case "number":
    case "slice":
    case "call":
    case "join":
      return false;
  }
}
