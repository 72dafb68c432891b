// The manual of the language, dsl/README.md: every example is resolved and proved, or fails with the very finding that is
// named; every command prints what is shown; and nothing of the language is left out.

import { mkdirSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { type Diagnostic, renderDiagnostic } from "../../src/ladder/diagnostic.ts";
import { prove, refutationDiagnostic } from "../../src/ladder/prove/prove.ts";
import { resolveProgram } from "../../src/ladder/resolve.ts";
import { KEYWORDS, TOKENS, type TokenType } from "../../src/ladder/token.ts";
import { commandsOf, fencesOf, root, testCommands, textOf } from "../shown.ts";
import { builtinTexts } from "./program.ts";

const manual = textOf("dsl/README.md");
const fences = fencesOf(manual);
const examples = fences.flatMap(({ info, text }, n) => {
  const [, code] = /^ladder(?: fails: (\S+))?$/.exec(info) ?? [];
  const next = fences[n + 1];
  return info.startsWith("ladder")
    ? [{ text, code: code ?? null, shown: next?.info === "text" ? next.text.trimEnd() : null }]
    : [];
});

/** The file that a reader makes of an example. */
function fileOf(text: string): string {
  return text.includes("import ") ? text : `import "float.ladder"\nimport "int.ladder"\n${text}`;
}

/** All that is wrong with a text, its claims proved. */
function findingsIn(text: string): { readonly texts: ReadonlyMap<string, string>; readonly found: Diagnostic[] } {
  const texts = new Map([...builtinTexts, ["mine.ladder", text]]);
  const resolution = resolveProgram(texts, ["mine.ladder"]);
  if (resolution.kind === "rejected") return { texts, found: [...resolution.diagnostics] };
  const own = resolution.program.claims.filter(({ span }) => span.file === "mine.ladder");
  const found = own.flatMap((claim) => {
    const result = prove(claim, resolution.program);
    return result.kind === "proof" ? [] : [refutationDiagnostic(claim, result)];
  });
  return { texts, found };
}

describe("the examples of the manual", () => {
  test("are many, of both sorts, and no fence is of an unknown sort", () => {
    expect(examples.filter(({ code }) => code === null).length).toBeGreaterThan(15);
    expect(examples.filter(({ code }) => code !== null).length).toBeGreaterThan(10);
    for (const { info } of fences) expect(info).toMatch(/^(?:console|text|ladder(?: fails: [a-z-]+)?)$/);
  });

  for (const [n, { text, code, shown }] of examples.entries()) {
    test(`${n}: ${text.trim().split("\n", 1)[0]} ${code === null ? "is right" : `fails with ${code}`}`, () => {
      const { texts, found } = findingsIn(fileOf(text));
      const told = found.map((diagnostic) => renderDiagnostic(diagnostic, texts)).join("\n");
      expect(
        found.map((diagnostic) => diagnostic.code),
        told,
      ).toEqual(code === null ? [] : [code]);
      if (shown !== null) expect(told).toBe(shown);
    });
  }
});

describe("the commands of the manual", () => {
  mkdirSync(`${root}build`, { recursive: true });
  testCommands(commandsOf(manual));
});

describe("nothing is left out:", () => {
  const quoted = new Set([...manual.matchAll(/`([^`\n]+)`/g)].map(([, word]) => word!));
  const sourceOf = (file: string): string => textOf(`src/ladder/${file}`);
  const wordOf = ({ LABEL = "" }: TokenType): string => LABEL.replaceAll('"', "");

  test("every word of the language, reserved or not", () => {
    const words = TOKENS.map(wordOf).filter((word) => /^[a-z]+$/.test(word));
    expect(words.length).toBeGreaterThan(KEYWORDS.length);
    expect(words.filter((word) => !quoted.has(word))).toEqual([]);
  });

  test("every symbol stands in some example", () => {
    const symbols = TOKENS.map(wordOf).filter((symbol) => /^[^a-zA-Z\s]+$/.test(symbol));
    expect(symbols.length).toBeGreaterThan(20);
    expect(symbols.filter((symbol) => !manual.includes(symbol))).toEqual([]);
  });

  test("every kind of element with its arguments, as the source names them", () => {
    const source = sourceOf("element.ts");
    const [, kinds] = /const BUILDERS: Readonly<Record<([^,]+),/.exec(source)!;
    for (const [, kind] of kinds!.matchAll(/"([a-z]+)"/g)) expect(quoted, kind).toContain(kind);
    const builders = source.slice(source.indexOf("const BUILDERS"));
    const named = [...builders.matchAll(/read\.(?:integer|word)\("([a-z]+)"(?:, \[([^\]]+)\])?/g)];
    expect(named.length).toBeGreaterThan(20);
    for (const [, argument, words = ""] of named) {
      expect(quoted, argument).toContain(argument);
      for (const [, word] of words.matchAll(/"([a-z_]+)"/g)) expect(quoted, word).toContain(word);
    }
  });

  test("every item of a device with its arguments, as the source names them", () => {
    const source = sourceOf("claim.ts");
    const items = source.slice(source.indexOf("const DEVICE_ITEMS"), source.indexOf("export function resolveDevice"));
    const names = [...items.matchAll(/^ {4}"([a-z]+)",$/gm), ...items.matchAll(/(?:read\.\w+|element|size)\("(\w+)"/g)];
    expect(names.length).toBeGreaterThan(15);
    for (const [, name] of names) expect(quoted, name).toContain(name);
  });

  test("every code of a finding has an example that fails with it", () => {
    const source = sourceOf("diagnostic.ts");
    const union = source.slice(source.indexOf("type DiagnosticCode"), source.indexOf("export interface Diagnostic"));
    const codes = [...union.matchAll(/\| "([a-z-]+)"/g)].map(([, code]) => code!);
    expect(codes.length).toBeGreaterThan(12);
    const failing = new Set(examples.map(({ code }) => code));
    expect(codes.filter((code) => !failing.has(code) || !quoted.has(code))).toEqual([]);
  });

  test("every file that comes with Lutra", () => {
    for (const file of builtinTexts.keys()) expect(quoted).toContain(file);
  });

  test("every limit is the one of the source", () => {
    const limit = (file: string, name: string): number => {
      const [, number] = new RegExp(`const ${name} = ([0-9_* ]+);`).exec(sourceOf(file))!;
      return number!.split("*").reduce((product, factor) => product * Number(factor.replaceAll("_", "")), 1);
    };
    const rows = new Map([...manual.matchAll(/^\| ([^|]+) \| ([^|]+) \|$/gm)].map(([, what, most]) => [what!, most!]));
    expect(rows.get("a file")).toBe(`${limit("grammar.ts", "MAX_TEXT") / 1024} Ki characters`);
    expect(rows.get("a name")).toBe(`${limit("number.ts", "MAX_NAME")} characters`);
    expect(rows.get("a number")).toBe(`${limit("number.ts", "MAX_DIGITS")} characters`);
    expect(rows.get("brackets, conditionals or types in one another")).toBe(
      `${limit("expression.ts", "MAX_NESTING")} deep`,
    );
    expect(rows.get("numbers and names in one definition")).toBe(String(limit("expression.ts", "MAX_TERMS")));
    expect(rows.get("syntax errors reported in a file")).toBe(String(limit("expression.ts", "MAX_ERRORS")));
    expect(rows.get("values of a block, entries of a code")).toBe(String(limit("body.ts", "MAX_BLOCK")));
    expect(rows.get("numbers of a field of a block")).toBe(limit("body.ts", "MAX_COUNT").toLocaleString("en"));
    expect(rows.get("bits of an integer or float; of other elements")).toBe(
      `${limit("element.ts", "MAX_BITS")}; ${limit("element.ts", "MAX_TABLE_BITS")}`,
    );
    expect(rows.get("bits of a code")).toBe(String(limit("term.ts", "MAX_CODE_BITS")));
    expect(rows.get("numbers of one table; of all tables together")).toBe(
      `${limit("element.ts", "MAX_ENTRIES").toLocaleString("en")}; ${(2 ** 20).toLocaleString("en")}`,
    );
    expect(sourceOf("resolve.ts")).toContain("const MAX_LISTED = 2 ** 20;");
  });
});
