// From texts to a Program: imports, names, parameters; every finding of every file in one run.
// What stands inside an element, a block or a claim is in element.ts, body.ts, tensor.ts and claim.ts. Pure: the texts
// are given, nothing is read from disk.

import type * as Ast from "./ast.ts";
import { resolveBlock } from "./body.ts";
import { type ClaimScope, resolveConvert, resolveDevice, resolveGemm } from "./claim.ts";
import { type Diagnostic, didYouMean } from "./diagnostic.ts";
import { resolveElement } from "./element.ts";
import { parse } from "./grammar.ts";
import { readInteger, type Report, shortName } from "./number.ts";
import { bindTensor, smallestShape, useText } from "./tensor.ts";
import type { Claim, DeviceModel, Element, Endpoint, GemmSignature, Program, Tensor, Type } from "./type.ts";

/** The program of a set of files, or all that is wrong with them. */
export type Resolution =
  | { readonly kind: "program"; readonly program: Program }
  | { readonly kind: "rejected"; readonly diagnostics: readonly Diagnostic[] };

/**
 * Resolves a set of `.ladder` texts by file name, as `import` spells it. A file sees its own names and those of
 * the files that it imports itself; all names are unique over the whole set. Where a text has a syntax error,
 * the syntax errors of all files are reported and nothing else. Never throws, never reads a file.
 * @param roots the files that are wanted, with what they import, directly or not; all where they are not given
 */
export function resolveProgram(texts: ReadonlyMap<string, string>, roots: Iterable<string> = texts.keys()): Resolution {
  const files = new Map<string, Ast.FileAst>();
  const syntax: Diagnostic[] = [];
  const wanted = new Set(roots);
  // A set is walked in the order in which it grows.
  for (const file of wanted) {
    const text = texts.get(file);
    if (text === undefined) continue;
    const result = parse(file, text);
    if (result.kind === "rejected") syntax.push(...result.diagnostics);
    else {
      files.set(file, result.ast);
      for (const { text: imported } of result.ast.imports) wanted.add(imported);
    }
  }
  if (syntax.length > 0) return { kind: "rejected", diagnostics: syntax };

  const diagnostics: Diagnostic[] = [];
  const report: Report = (code, span, message, more = {}) => {
    diagnostics.push({ code, span, message, notes: [], suggestion: null, ...more });
  };
  checkImports(files, report);
  const program = new Resolver(files, texts, report).program();
  if (diagnostics.length === 0) return { kind: "program", program };
  const order = [...files.keys()];
  diagnostics.sort((a, b) => order.indexOf(a.span.file) - order.indexOf(b.span.file) || a.span.start - b.span.start);
  return { kind: "rejected", diagnostics };
}

function checkImports(files: ReadonlyMap<string, Ast.FileAst>, report: Report): void {
  for (const { imports } of files.values()) {
    for (const { text, span } of imports) {
      if (files.has(text)) continue;
      const message = /[/\\]/.test(text)
        ? `an import is the name of a file beside this one, without a folder, and not "${shortName(text)}"`
        : `there is no file "${shortName(text)}" among the files given`;
      report("import", span, message, { suggestion: didYouMean(text, files.keys()) });
    }
  }
  // Depth first with the path in hand: an import of a file on the path closes a cycle. The stack is our own,
  // since a chain of imports may be as long as there are files.
  const done = new Set<string>();
  for (const start of files.keys()) {
    const path = [{ file: start, next: 0 }];
    while (path.length > 0 && !done.has(start)) {
      const top = path.at(-1)!;
      const name = files.get(top.file)!.imports[top.next++];
      if (name === undefined) {
        done.add(top.file);
        path.pop();
        continue;
      }
      const from = path.findIndex(({ file }) => file === name.text);
      if (from !== -1) {
        const cycle = [...path.slice(from).map(({ file }) => file), name.text];
        report("import", name.span, `this import closes a cycle: ${cycle.join(" -> ")}`);
      } else if (files.has(name.text) && !done.has(name.text)) {
        path.push({ file: name.text, next: 0 });
      }
    }
  }
}

type Named = Exclude<Ast.Declaration, Ast.ConvertDeclaration>;
type Format = Ast.ElementDeclaration | Ast.BlockDeclaration | Ast.TensorDeclaration;

/** Where a name is declared. */
interface Home {
  readonly file: Ast.FileAst;
  readonly declaration: Named;
}

/** What the parameters of a declaration stand for. */
type Bound = ReadonlyMap<string, Element | number>;

/** Values of all tables together; those of all known formats have some 50,000. */
const MAX_LISTED = 2 ** 20;

const NOTHING: Bound = new Map();
const NO_IDS: ReadonlyMap<string, number> = new Map();

/** One run over a set of files; it lives as long as the run, and remembers what each use of a name came to. */
class Resolver {
  private readonly files: ReadonlyMap<string, Ast.FileAst>;
  private readonly texts: ReadonlyMap<string, string>;
  private readonly report: Report;
  private readonly homes = new Map<string, Home>();
  /** By name, with parameters; null where it was found wrong, and reported. */
  private readonly known = new Map<string, Endpoint | null>();
  private readonly underway = new Set<string>();
  private readonly taken = new Map<string, string>();
  /** Values of all tables so far. */
  private listed = 0;

  constructor(files: ReadonlyMap<string, Ast.FileAst>, texts: ReadonlyMap<string, string>, report: Report) {
    this.files = files;
    this.texts = texts;
    this.report = report;
  }

  program(): Program {
    this.declare();
    const types = new Map<string, Type>();
    const elements = new Map<string, Element>();
    const tensors = new Map<string, Tensor>();
    for (const [name, { file, declaration }] of this.homes) {
      if (declaration.kind === "device" || declaration.kind === "gemm") continue;
      if (declaration.kind !== "type" && declaration.parameters.length > 0) {
        const [annotation] = declaration.annotations;
        const message = `${name} has parameters; only a type with none left has an id`;
        if (annotation !== undefined) this.report("wrong-kind", annotation.name.span, message);
        continue;
      }
      const endpoint = this.named(name, file, declaration.name.span);
      if (endpoint?.kind === "type") types.set(name, endpoint.type);
      else if (endpoint?.kind === "tensor") tensors.set(name, endpoint.tensor);
      else if (endpoint?.kind === "element") {
        const { element } = endpoint;
        elements.set(name, element);
        const ids = this.ids(declaration);
        if (element.bits % 8 === 0 && !(element.kind === "table" && element.lanes > 1)) {
          types.set(name, elementType(element, ids));
        } else if (ids.size > 0) {
          const message = `${name} has ${element.bits} bits; only an element of whole bytes is a type with an id of its own`;
          this.report("wrong-kind", declaration.annotations[0]!.name.span, message);
        }
      }
    }
    return { types, elements, tensors, ...this.statements() };
  }

  private statements(): Pick<Program, "claims" | "devices" | "gemms"> {
    const claims: Claim[] = [];
    const devices = new Map<string, DeviceModel>();
    const gemms = new Map<string, GemmSignature>();
    for (const [name, { file, declaration }] of this.homes)
      if (declaration.kind === "device")
        devices.set(name, resolveDevice(declaration, this.scope(file, NOTHING, this.report)));
    for (const file of this.files.values()) {
      const scope = this.scope(file, NOTHING, this.report);
      for (const declaration of file.declarations) {
        if (declaration.kind === "convert") {
          const claim = resolveConvert(declaration, scope);
          if (claim !== null) claims.push(claim);
        } else if (declaration.kind === "gemm") {
          const gemm = resolveGemm(declaration, devices, scope);
          if (gemm !== null) gemms.set(gemm.name, gemm);
        }
      }
    }
    return { claims, devices, gemms };
  }

  private declare(): void {
    for (const file of this.files.values()) {
      for (const declaration of file.declarations) {
        if (declaration.kind === "convert") continue;
        const { text, span } = declaration.name;
        if (shortName(text) !== text) {
          const message = `the name ${shortName(text)} has ${text.length} characters; at most 64 are allowed`;
          this.report("limit", span, message);
          continue;
        }
        const first = this.homes.get(text);
        if (first === undefined) this.homes.set(text, { file, declaration });
        else this.report("duplicate-name", span, `${text} is already declared in ${first.file.file}`);
      }
    }
  }

  private scope(file: Ast.FileAst, bound: Bound, report: Report): ClaimScope {
    return {
      report,
      source: (span) => this.texts.get(span.file)!.slice(span.start, span.end),
      element: (use) => this.element(use, file, bound, report),
      endpoint: (use) => this.endpoint(use, file, bound, report),
    };
  }

  /** What a declaration without parameters came to. */
  private named(name: string, file: Ast.FileAst, span: Ast.Span): Endpoint | null {
    const use: Ast.Use = { kind: "use", name: { text: name, span }, arguments: [], span };
    return this.endpoint(use, file, NOTHING, this.report);
  }

  private element(use: Ast.Use, file: Ast.FileAst, bound: Bound, report: Report): Element | null {
    const given = bound.get(use.name.text);
    if (given !== undefined && typeof given !== "number") return given;
    const home = this.homes.get(use.name.text);
    if (home === undefined) {
      const near = [...this.homes]
        .filter(([, other]) => this.sees(file, other) && other.declaration.kind === "element")
        .map(([name]) => name);
      const suggestion = didYouMean(use.name.text, near);
      report("unknown-name", use.name.span, `there is no element ${shortName(use.name.text)}`, { suggestion });
      return null;
    }
    const { kind } = home.declaration;
    const endpoint = kind === "element" || kind === "type" ? this.endpoint(use, file, bound, report) : null;
    if (endpoint?.kind === "element") return endpoint.element;
    // What a name stands for may have been reported as wrong itself.
    if (endpoint === null && (kind === "element" || kind === "type")) return null;
    const what = endpoint === null ? kind : endpoint.kind === "tensor" ? "tensor" : "block";
    report("wrong-kind", use.name.span, `${use.name.text} is a ${what}; a field is made of elements`);
    return null;
  }

  private sees(file: Ast.FileAst, home: Home): boolean {
    return home.file === file || file.imports.some(({ text }) => text === home.file.file);
  }

  /** What a use names, with its parameters; a block of itself and a type of itself are reported here. */
  private endpoint(use: Ast.Use, file: Ast.FileAst, bound: Bound, report: Report): Endpoint | null {
    const { text, span } = use.name;
    const home = this.homes.get(text);
    if (home === undefined) {
      const near = [...this.homes].filter(([, other]) => this.sees(file, other)).map(([name]) => name);
      const message = `there is no element, block or tensor ${shortName(text)}`;
      report("unknown-name", span, message, { suggestion: didYouMean(text, near) });
      return null;
    }
    if (!this.sees(file, home)) {
      const suggestion = `add import "${home.file.file}"`;
      const message = `${text} is declared in ${home.file.file}, which this file does not import`;
      report("unknown-name", span, message, { suggestion });
      return null;
    }
    const { declaration } = home;
    if (declaration.kind === "device" || declaration.kind === "gemm") {
      report("wrong-kind", span, `${text} is a ${declaration.kind}, and no format`);
      return null;
    }
    const given = this.arguments(use, declaration, file, bound, report);
    if (given === null) return null;
    const key = given.size === 0 ? text : `${text}<${[...given.values()].map(spelled).join(", ")}>`;
    const known = this.known.get(key);
    if (known !== undefined) return known;
    if (this.underway.has(key)) {
      report("wrong-kind", span, `${key} is made of itself`);
      return null;
    }
    this.underway.add(key);
    const made = this.make(key, home.file, declaration, given);
    this.underway.delete(key);
    this.known.set(key, made);
    return made;
  }

  private make(
    name: string,
    file: Ast.FileAst,
    declaration: Format | Ast.TypeDeclaration,
    given: Bound,
  ): Endpoint | null {
    const notes = given.size === 0 ? [] : [`in ${name}`];
    const report: Report = (code, span, message, more = {}) =>
      this.report(code, span, message, { ...more, notes: [...(more.notes ?? []), ...notes] });
    const numbers = new Map([...given].flatMap(([key, value]) => (typeof value === "number" ? [[key, value]] : [])));
    const ids = (): ReadonlyMap<string, number> => (given.size === 0 ? this.ids(declaration) : NO_IDS);
    switch (declaration.kind) {
      case "element": {
        // A few characters can ask for many values: what is beyond the limit is not made.
        if (this.listed > MAX_LISTED) return null;
        const element = resolveElement(declaration, name, numbers, report);
        if (element?.kind === "table") this.listed += element.values.length;
        if (this.listed > MAX_LISTED) {
          const message = `the tables up to ${name} have ${this.listed} values; at most ${MAX_LISTED} are allowed`;
          report("limit", declaration.name.span, message);
        }
        return element === null ? null : { kind: "element", element };
      }
      case "block": {
        const type = resolveBlock(declaration, name, ids(), numbers, this.scope(file, given, report));
        return type === null ? null : { kind: "type", type };
      }
      case "tensor":
        return this.tensor(declaration, name, ids(), given, this.scope(file, given, report));
      case "type": {
        const of = this.endpoint(declaration.of, file, given, report);
        if (of === null) return null;
        if (of.kind === "element") return { kind: "element", element: { ...of.element, name } };
        if (of.kind === "type") return { kind: "type", type: { ...of.type, name, ids: ids() } };
        return { ...of, tensor: { ...of.tensor, name, ids: ids() } };
      }
    }
  }

  private tensor(
    declaration: Ast.TensorDeclaration,
    name: string,
    ids: ReadonlyMap<string, number>,
    given: Bound,
    scope: ClaimScope,
  ): Endpoint | null {
    const names = new Map(given);
    const variables = [declaration.row, declaration.rows, declaration.column, declaration.columns];
    for (const [v, variable] of variables.entries()) {
      if (!names.has(variable.text) && variables.findIndex(({ text }) => text === variable.text) === v) continue;
      scope.report("duplicate-name", variable.span, `${variable.text} is already a name of this tensor`);
      return null;
    }
    for (const use of usesOf(declaration.items)) {
      const key = useText(use);
      if (names.has(key) || use.name.text === "round") continue;
      const element = scope.element(use);
      if (element === null) return null;
      names.set(key, element);
    }
    const storages = declaration.items.flatMap((item) => (item.kind === "storage" ? [item.name] : []));
    for (const [s, storage] of storages.entries()) {
      if (storages.findIndex(({ text }) => text === storage.text) === s) continue;
      scope.report("duplicate-name", storage.span, `${storage.text} is already a storage of this tensor`);
      return null;
    }
    const source = this.texts.get(declaration.name.span.file)!;
    const tensor: Tensor = {
      name,
      ids,
      storages: storages.length === 0 ? [""] : storages.map(({ text }) => text),
      declaration,
      source,
      names,
    };
    let right = true;
    for (const storage of tensor.storages) {
      const shape = smallestShape(tensor, storage);
      if (shape === null) {
        const { span } = storages.find(({ text }) => text === storage) ?? declaration.name;
        scope.report("size", span, `no matrix of up to 1024 x 8192 has the shape that ${name} requires here`);
        right = false;
        continue;
      }
      const binding = bindTensor(tensor, storage, shape.rows, shape.columns);
      if (binding.kind === "bound") continue;
      right = false;
      for (const { code, span, message, notes, suggestion } of binding.diagnostics) {
        const where = `for a matrix of ${shape.rows} x ${shape.columns}${storage === "" ? "" : ` in ${storage}`}`;
        scope.report(code, span, message, { notes: [...notes, where], suggestion });
      }
    }
    return right ? { kind: "tensor", tensor, storage: tensor.storages[0]! } : null;
  }

  /** What the parameters of a declaration stand for in one use of it; null after a report. */
  private arguments(
    use: Ast.Use,
    declaration: Format | Ast.TypeDeclaration,
    file: Ast.FileAst,
    bound: Bound,
    report: Report,
  ): Bound | null {
    const parameters = declaration.kind === "type" ? [] : declaration.parameters;
    if (use.arguments.length !== parameters.length) {
      const names = parameters.map(({ name }) => name.text).join(", ");
      const takes = parameters.length === 0 ? "takes no parameters" : `takes the parameters ${names}`;
      report("argument", use.span, `${use.name.text} ${takes}, and ${use.arguments.length} are given`);
      return null;
    }
    const given = new Map<string, Element | number>();
    for (const [p, { name, kind }] of parameters.entries()) {
      if (kind.text !== "element" && kind.text !== "number") {
        const message = `a parameter is an element or a number, not ${shortName(kind.text)}`;
        this.report("unknown-name", kind.span, message, { suggestion: didYouMean(kind.text, ["element", "number"]) });
        return null;
      }
      if (given.has(name.text)) {
        this.report("duplicate-name", name.span, `${name.text} is already a parameter`);
        return null;
      }
      const argument = use.arguments[p]!;
      const value =
        kind.text === "element"
          ? this.elementArgument(argument, name.text, file, bound, report)
          : numberArgument(argument, name.text, bound, report);
      if (value === null) return null;
      given.set(name.text, value);
    }
    return given;
  }

  private elementArgument(
    argument: Ast.NumberLiteral | Ast.Use,
    name: string,
    file: Ast.FileAst,
    bound: Bound,
    report: Report,
  ): Element | null {
    if (argument.kind === "use") return this.element(argument, file, bound, report);
    report("argument", argument.span, `${name} is an element, not ${shortName(argument.text)}`);
    return null;
  }

  private ids(declaration: Format | Ast.TypeDeclaration): ReadonlyMap<string, number> {
    const ids = new Map<string, number>();
    for (const { name, value } of declaration.annotations) {
      const id = readInteger(value, 0, 2 ** 31 - 1, `the id in @${shortName(name.text)}`, this.report);
      if (id === null) continue;
      if (ids.has(name.text)) {
        this.report("duplicate-name", name.span, `@${shortName(name.text)} is given twice`);
        continue;
      }
      const owner = this.taken.get(`${name.text} ${id}`);
      if (owner !== undefined) {
        this.report("duplicate-name", value.span, `@${shortName(name.text)}(${id}) already belongs to ${owner}`);
      } else this.taken.set(`${name.text} ${id}`, declaration.name.text);
      ids.set(name.text, id);
    }
    return ids;
  }
}

function spelled(value: Element | number): string {
  return typeof value === "number" ? String(value) : value.name;
}

function numberArgument(
  argument: Ast.NumberLiteral | Ast.Use,
  name: string,
  bound: Bound,
  report: Report,
): number | null {
  if (argument.kind === "number") return readInteger(argument, 0, 2 ** 31 - 1, `the parameter ${name}`, report);
  const value = argument.arguments.length === 0 ? bound.get(argument.name.text) : undefined;
  if (typeof value === "number") return value;
  report("argument", argument.span, `${name} is a number, not ${shortName(argument.name.text)}`);
  return null;
}

/** All elements that the items of a tensor name, in fields and in calls. */
function usesOf(items: readonly Ast.Item[]): readonly Ast.Use[] {
  return items.flatMap((item) => {
    switch (item.kind) {
      case "field":
        return [item.element];
      case "code":
        return callsIn(item.bits);
      case "let":
        return [];
      case "value":
      case "reference":
        return callsIn(item.number);
      case "storage":
        return usesOf(item.items);
    }
  });
}

function callsIn(expr: Ast.Expr): readonly Ast.Use[] {
  const use = (name: Ast.Name): Ast.Use => ({ kind: "use", name, arguments: [], span: name.span });
  switch (expr.kind) {
    case "call": {
      const [to] = expr.arguments;
      const rounded = expr.name.text === "round" && to?.kind === "reference" ? [use(to.name)] : [];
      return [use(expr.name), ...rounded, ...expr.arguments.flatMap(callsIn)];
    }
    case "binary":
      return [...callsIn(expr.left), ...callsIn(expr.right)];
    case "negate":
      return callsIn(expr.operand);
    case "choose":
      return [...callsIn(expr.yes), ...callsIn(expr.no)];
    case "join":
      return callsIn(expr.bits);
    case "number":
    case "reference":
    case "slice":
      return [];
  }
}

/** A plain element as a type: a block of one value. */
function elementType(element: Element, ids: ReadonlyMap<string, number>): Type {
  const field = { name: "x", element, count: 1, bit: 0 };
  const value = { kind: "element", field, index: { kind: "constant", value: 0 } } as const;
  return {
    name: element.name,
    blockSize: 1,
    blockBytes: element.bits / 8,
    ids,
    fields: [field],
    value,
    reference: null,
  };
}
