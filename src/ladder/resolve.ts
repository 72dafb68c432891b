// From texts to a Program: imports, names, elements and blocks; every finding of every file in one run.
// What the expressions inside a block mean is in block.ts. Pure: the texts are given, nothing is read from disk.

import type * as Ast from "./ast.ts";
import { readInteger, resolveBlock, type Scope, shortName } from "./block.ts";
import { type Diagnostic, didYouMean } from "./diagnostic.ts";
import { parse } from "./grammar.ts";
import type { Element, Program, Type } from "./type.ts";

/** The program of a set of files, or all that is wrong with them. */
export type Resolution =
  | { readonly kind: "program"; readonly program: Program }
  | { readonly kind: "rejected"; readonly diagnostics: readonly Diagnostic[] };

/**
 * Resolves a set of `.ladder` texts by file name, as `import` spells it. A file sees its own names and those of
 * the files that it imports itself; all names are unique over the whole set. Where a text has a syntax error,
 * the syntax errors of all files are reported and nothing else. Never throws, never reads a file.
 */
export function resolveProgram(texts: ReadonlyMap<string, string>): Resolution {
  const parsed = [...texts].map(([file, text]) => parse(file, text));
  const syntax = parsed.flatMap((result) => (result.kind === "rejected" ? result.diagnostics : []));
  if (syntax.length > 0) return { kind: "rejected", diagnostics: syntax };
  const files = new Map(parsed.flatMap((r) => (r.kind === "parsed" ? [[r.ast.file, r.ast] as const] : [])));

  const diagnostics: Diagnostic[] = [];
  const report: Report = (code, span, message, more = {}) => {
    diagnostics.push({ code, span, message, notes: [], suggestion: null, ...more });
  };
  checkImports(files, report);
  const homes = declare(files, report);

  const elements = new Map<string, Element>();
  for (const { declaration } of homes.values()) {
    if (declaration.kind !== "element") continue;
    const element = resolveElement(declaration, report);
    if (element !== null) elements.set(element.name, element);
  }
  const types = new Map<string, Type>();
  const taken = new Map<string, string>();
  for (const [name, { file, declaration }] of homes) {
    const scope: Scope = {
      report,
      source: (span) => texts.get(span.file)!.slice(span.start, span.end),
      element: (use) => findElement(use, files.get(file)!, homes, elements, report),
    };
    const ids = resolveIds(declaration, taken, report);
    const element = elements.get(name);
    if (declaration.kind === "block") {
      const type = resolveBlock(declaration, ids, scope);
      if (type !== null) types.set(name, type);
    } else if (element !== undefined && element.bits % 8 === 0) {
      types.set(name, elementType(element, ids));
    } else if (element !== undefined && ids.size > 0) {
      const message = `${name} has ${element.bits} bits; only an element of whole bytes is a type with an id of its own`;
      report("wrong-kind", declaration.annotations[0]!.name.span, message);
    }
  }
  if (diagnostics.length === 0) return { kind: "program", program: { types } };
  const order = [...files.keys()];
  diagnostics.sort((a, b) => order.indexOf(a.span.file) - order.indexOf(b.span.file) || a.span.start - b.span.start);
  return { kind: "rejected", diagnostics };
}

type Report = Scope["report"];

/** Where a name is declared. */
interface Home {
  readonly file: string;
  readonly declaration: Ast.Declaration;
}

function checkImports(files: ReadonlyMap<string, Ast.FileAst>, report: Report): void {
  for (const { imports } of files.values()) {
    for (const { text, span } of imports) {
      if (files.has(text)) continue;
      const suggestion = didYouMean(text, files.keys());
      report("import", span, `there is no file "${shortName(text)}" among the files given`, { suggestion });
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

function declare(files: ReadonlyMap<string, Ast.FileAst>, report: Report): ReadonlyMap<string, Home> {
  const homes = new Map<string, Home>();
  for (const { file, declarations } of files.values()) {
    for (const declaration of declarations) {
      const { text, span } = declaration.name;
      if (shortName(text) !== text) {
        report("limit", span, `the name ${shortName(text)} has ${text.length} characters; at most 64 are allowed`);
        continue;
      }
      const first = homes.get(text);
      if (first === undefined) homes.set(text, { file, declaration });
      else report("duplicate-name", span, `${text} is already declared in ${first.file}`);
    }
  }
  return homes;
}

function findElement(
  use: Ast.Name,
  file: Ast.FileAst,
  homes: ReadonlyMap<string, Home>,
  elements: ReadonlyMap<string, Element>,
  report: Report,
): Element | null {
  const home = homes.get(use.text);
  const visible = (where: string): boolean => where === file.file || file.imports.some(({ text }) => text === where);
  if (home === undefined) {
    const near = [...homes]
      .filter(([, h]) => h.declaration.kind === "element" && visible(h.file))
      .map(([name]) => name);
    const message = `there is no element ${shortName(use.text)}`;
    report("unknown-name", use.span, message, { suggestion: didYouMean(use.text, near) });
    return null;
  }
  if (!visible(home.file)) {
    const suggestion = `add import "${home.file}"`;
    report("unknown-name", use.span, `${use.text} is declared in ${home.file}, which this file does not import`, {
      suggestion,
    });
    return null;
  }
  if (home.declaration.kind === "block") {
    report("wrong-kind", use.span, `${use.text} is a block; a field is made of elements`);
    return null;
  }
  // Where the element was itself wrong, that has been reported.
  return elements.get(use.text) ?? null;
}

function resolveIds(declaration: Ast.Declaration, taken: Map<string, string>, report: Report): Map<string, number> {
  const ids = new Map<string, number>();
  for (const { name, value } of declaration.annotations) {
    const id = readInteger(value, 0, 2 ** 31 - 1, `the id in @${shortName(name.text)}`, report);
    if (id === null) continue;
    if (ids.has(name.text)) {
      report("duplicate-name", name.span, `@${shortName(name.text)} is given twice`);
      continue;
    }
    const owner = taken.get(`${name.text} ${id}`);
    if (owner !== undefined)
      report("duplicate-name", value.span, `@${shortName(name.text)}(${id}) already belongs to ${owner}`);
    else taken.set(`${name.text} ${id}`, declaration.name.text);
    ids.set(name.text, id);
  }
  return ids;
}

/** The arguments of one element, read by name; each reader gives null after a report, or where none is given. */
interface Arguments {
  readonly integer: (name: string, least: number, most: number) => number | null;
  readonly word: <W extends string>(name: string, words: readonly W[]) => W | null;
  /** Reports what only the whole shows. */
  readonly reject: (message: string) => null;
}

// Exponents and mantissas go up to those of a double.
const FAMILIES: ReadonlyMap<string, (name: string, read: Arguments) => Element | null> = new Map([
  [
    "float",
    (name, read): Element | null => {
      const exponent = read.integer("exponent", 1, 11);
      const mantissa = read.integer("mantissa", 0, 52);
      const bias = read.integer("bias", 0, 1023);
      const special = read.word("special", ["ieee", "fn", "fnuz", "none"]);
      if (exponent === null || mantissa === null || bias === null || special === null) return null;
      if (special === "ieee" && mantissa === 0) {
        return read.reject("special: ieee needs a mantissa bit to tell NaN from infinity");
      }
      return { kind: "float", name, bits: 1 + exponent + mantissa, exponent, mantissa, bias, special };
    },
  ],
  [
    "int",
    (name, read): Element | null => {
      const bits = read.integer("bits", 1, 32);
      const coding = read.word("coding", ["unsigned", "twos", "offset"]);
      const zero = coding === "offset" ? read.integer("zero", 0, 2 ** 32 - 1) : 0;
      if (bits === null || coding === null || zero === null) return null;
      const middle = 2 ** (bits - 1);
      return coding === "twos"
        ? { kind: "int", name, bits, flip: middle, zero: middle }
        : { kind: "int", name, bits, flip: 0, zero };
    },
  ],
]);

function resolveElement({ name, family, arguments: list }: Ast.ElementDeclaration, report: Report): Element | null {
  const build = FAMILIES.get(family.text);
  if (build === undefined) {
    const known = [...FAMILIES.keys()];
    const message = `there is no kind of element "${shortName(family.text)}"; there are ${known.join(" and ")}`;
    report("unknown-name", family.span, message, { suggestion: didYouMean(family.text, known) });
    return null;
  }
  const asked: string[] = [];
  const missing: string[] = [];
  const find = (argument: string): Ast.Argument["value"] | null => {
    asked.push(argument);
    const [first, second] = list.filter((given) => given.name.text === argument);
    if (first === undefined) missing.push(argument);
    if (second !== undefined) report("argument", second.name.span, `${argument} is given twice`);
    return first?.value ?? null;
  };
  const element = build(name.text, {
    integer(argument, least, most) {
      const value = find(argument);
      if (value?.kind !== "word") return value === null ? null : readInteger(value, least, most, argument, report);
      report("argument", value.span, `${argument} is a number, not ${shortName(value.text)}`);
      return null;
    },
    word(argument, words) {
      const value = find(argument);
      const word = words.find((w) => w === value?.text);
      if (value !== null && word === undefined) {
        const message = `${argument} is one of ${words.join(", ")}, not ${shortName(value.text)}`;
        report("argument", value.span, message, { suggestion: didYouMean(value.text, words) });
      }
      return word ?? null;
    },
    reject(message) {
      report("argument", name.span, message);
      return null;
    },
  });
  for (const { name: argument } of list) {
    if (asked.includes(argument.text)) continue;
    const message = `this ${family.text} has no argument "${shortName(argument.text)}"; it has ${asked.join(", ")}`;
    report("argument", argument.span, message, { suggestion: didYouMean(argument.text, missing) });
  }
  if (missing.length > 0) report("argument", name.span, `${family.text} needs ${missing.join(", ")} here`);
  return element;
}

/** A plain element as a type: a block of one value. */
function elementType(element: Element, ids: ReadonlyMap<string, number>): Type {
  const field = { name: "x", element, count: 1, bit: 0 };
  const value = { kind: "element", field, index: { kind: "constant", value: 0 } } as const;
  return { name: element.name, blockSize: 1, blockBytes: element.bits / 8, ids, fields: [field], value };
}
