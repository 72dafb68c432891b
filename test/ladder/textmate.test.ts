// The TextMate grammar of editors against the lexer: each word of a text gets a scope that fits its token, and nothing
// between words but comments gets any. The patterns here need no more of TextMate's engine than matches line by line,
// the first of the leftmost wins, and captures; a test says that the grammar uses no more.

import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { expect, test } from "vitest";

import { chevrotain, KEYWORDS, T, TOKENS } from "../../src/ladder/token.ts";
import { builtinTexts, oddTypes } from "./program.ts";

interface Rule {
  readonly name?: string;
  readonly match?: string;
  readonly captures?: Readonly<Record<string, { readonly name: string }>>;
  readonly include?: string;
  readonly patterns?: readonly Rule[];
}

interface Grammar {
  readonly scopeName: string;
  readonly fileTypes: readonly string[];
  readonly patterns: readonly Rule[];
  readonly repository: Readonly<Record<string, Rule>>;
}

const grammar = JSON.parse(
  readFileSync(new URL("../../dsl/ladder.tmLanguage.json", import.meta.url), "utf8"),
) as Grammar;

/** The rules with a match, in the order in which they are tried. */
function matching(rules: readonly Rule[]): readonly Rule[] {
  return rules.flatMap((rule) => {
    if (rule.include !== undefined) return matching([grammar.repository[rule.include.slice(1)]!]);
    return rule.match === undefined ? matching(rule.patterns ?? []) : [rule];
  });
}

const rules = matching(grammar.patterns).map(({ match, name, captures }) => ({
  pattern: new RegExp(match!, "dg"),
  name,
  captures,
}));

/** The scope of each character of a line; "" where it has none. */
function scopesOfLine(line: string): readonly string[] {
  const scopes = Array.from(line, () => "");
  for (let at = 0; at < line.length;) {
    let best: { readonly rule: (typeof rules)[number]; readonly found: RegExpExecArray } | null = null;
    for (const rule of rules) {
      rule.pattern.lastIndex = at;
      const found = rule.pattern.exec(line);
      if (found !== null && (best === null || found.index < best.found.index)) best = { rule, found };
    }
    if (best === null) break;
    const { rule, found } = best;
    expect(found[0], String(rule.pattern)).not.toBe("");
    const fill = (from: number, to: number, name: string): void => {
      for (let k = from; k < to; k++) scopes[k] = `${scopes[k]} ${name}`.trim();
    };
    if (rule.name !== undefined) fill(found.index, found.index + found[0].length, rule.name);
    for (const [group, { name }] of Object.entries(rule.captures ?? {})) {
      const indices = found.indices![Number(group)];
      if (indices !== undefined) fill(indices[0], indices[1], name);
    }
    at = found.index + found[0].length;
  }
  return scopes;
}

function scopesOf(text: string): readonly string[] {
  return text.split("\n").flatMap((line) => [...scopesOfLine(line), ""]);
}

const lexer = new chevrotain.Lexer(TOKENS, { positionTracking: "onlyOffset" });

/** What the scope of a token has to contain. */
function wanted(name: string): RegExp {
  if (KEYWORDS.some((type) => type.name === name)) return /\b(keyword|storage)\b/;
  if (name === T.NumberToken.name) return /^constant\.numeric\.ladder$/;
  if (name === T.Text.name) return /^string\.quoted\.double\.ladder$/;
  if (name === T.Identifier.name) return /\b(entity|variable|support|constant\.language|storage\.modifier|guarantee)\b/;
  // Words only where the grammar asks for them: names elsewhere.
  if (name.startsWith("Word_")) return /\b(keyword|support|variable|entity)\b/;
  return /\b(keyword\.operator|punctuation)\b/;
}

function expectScoped(text: string): void {
  const scopes = scopesOf(text);
  const { tokens, errors } = lexer.tokenize(text);
  expect(errors).toEqual([]);
  let end = 0;
  for (const token of [...tokens, null]) {
    const start = token?.startOffset ?? text.length;
    for (let k = end; k < start; k++) {
      const isComment =
        text.lastIndexOf("//", k + 1) >= end && !text.slice(text.lastIndexOf("//", k + 1), k).includes("\n");
      const own = scopes[k]!;
      if (text[k]!.trim() !== "") expect(own, text.slice(end, start)).toBe("comment.line.double-slash.ladder");
      else if (own !== "") expect(isComment, `${own} in ${JSON.stringify(text.slice(end, start))}`).toBe(true);
    }
    if (token === null) break;
    end = start + token.image.length;
    const own = new Set(scopes.slice(start, end));
    expect(own.size, `${token.image} has one scope, and not ${[...own].join(" | ")}`).toBe(1);
    expect([...own][0], `the scope of ${token.image} in ${text.slice(Math.max(0, start - 40), end + 20)}`).toMatch(
      wanted(token.tokenType.name),
    );
  }
}

test("it is for .ladder files, and needs no more than matches, captures and includes", () => {
  expect([grammar.scopeName, grammar.fileTypes]).toEqual(["source.ladder", ["ladder"]]);
  const keys = new Set<string>();
  JSON.stringify(grammar.repository, (_key, value: unknown) => {
    if (typeof value === "object" && value !== null && "match" in value)
      for (const k of Object.keys(value)) keys.add(k);
    return value;
  });
  expect([...keys].toSorted()).toEqual(["captures", "match", "name"]);
  expect(JSON.stringify(grammar)).not.toMatch(/"(begin|end|while)":/);
});

test.each([...builtinTexts, ["odd types", oddTypes] as const])(
  "every word of %s has a scope that fits its token",
  (_name, text) => {
    expectScoped(text);
  },
);

test("every keyword of the lexer is one wherever it stands, and no part of a longer name is", () => {
  const words = KEYWORDS.map(({ name }) => name.replace("Word_", ""));
  for (const word of words) {
    expectScoped(`${word} (`);
    expectScoped(`x ${word}`);
    const [inName] = new Set(scopesOf(`x + ${word}_of`).slice(4, -1));
    expect(inName, `${word}_of`).not.toMatch(/keyword|storage/);
  }
});

test("what has a meaning of its own has its own scope", () => {
  const scopeOf = (line: string, word: string): string => scopesOf(line)[line.indexOf(word)]!;
  expect(scopeOf("@gguf(2)", "gguf")).toBe("storage.modifier.annotation.ladder");
  expect(scopeOf("block Q4_0[32] {", "Q4_0")).toBe("entity.name.type.ladder");
  expect(scopeOf("element A = float(exponent: 5)", "float")).toBe("support.type.element.ladder");
  expect(scopeOf("element A = float(exponent: 5)", "exponent")).toBe("variable.parameter.ladder");
  expect(scopeOf("  d  : F16", "d")).toBe("variable.other.declaration.field.ladder");
  expect(scopeOf("  d  : F16", "F16")).toBe("support.type.ladder");
  expect(scopeOf("  code q[i < 4] = a.bits(0 +: 4)", "q")).toBe("variable.other.declaration.ladder");
  expect(scopeOf("  code q[i < 4] = a.bits(0 +: 4)", "bits")).toBe("support.function.slice.ladder");
  expect(scopeOf("  code q[i < 4] = a.bits(0 +: 4)", "+:")).toBe("keyword.operator.ladder");
  expect(scopeOf("convert A -> B : repack", "repack")).toBe("keyword.other.guarantee.ladder");
  expect(scopeOf("convert A -> B : value", "value")).toBe("keyword.other.guarantee.ladder");
  expect(scopeOf("x = 0x1.8p-3", "0x1")).toBe("constant.numeric.ladder");
  expect(scopeOf("x = [nan]", "nan")).toBe("constant.language.ladder");
  expect(scopeOf("round(F16, x)", "round")).toBe("entity.name.function.ladder");
});

test("words in any order and with any blanks between them have scopes that fit", () => {
  const words = builtinTexts.get("gguf.ladder")! + builtinTexts.get("claim.ladder")! + oddTypes;
  const images = [...new Set(lexer.tokenize(words).tokens.map(({ image }) => image))];
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.constantFrom(...images), fc.constantFrom(" ", "  ", "\n", " // a 1 code\n"))),
      (parts) => {
        expectScoped(parts.flat().join(""));
      },
    ),
    { seed: 20_261_123, numRuns: 500 },
  );
});
