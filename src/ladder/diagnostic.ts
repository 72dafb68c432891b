// One finding about a .ladder text, and how it is shown: to a person with place, message, source line, caret and notes,
// to a program as an object for JSON.
// Not here: what is wrong with a text (grammar.ts for its form, resolve.ts for its meaning).

import type { Span } from "./ast.ts";

export type DiagnosticCode =
  | "syntax"
  | "limit"
  | "import"
  | "duplicate-name"
  | "unknown-name"
  | "argument"
  | "number"
  | "wrong-kind"
  | "size"
  | "index-range"
  | "bit-range"
  | "missing-value"
  /** A conversion that does not keep what it claims, as the prover finds. */
  | "claim";

export interface Diagnostic {
  readonly code: DiagnosticCode;
  readonly message: string;
  readonly span: Span;
  /** Further facts, one line each. */
  readonly notes: readonly string[];
  /** What would work, as a sentence without its full stop; null where nothing can be said. */
  readonly suggestion: string | null;
}

/** Characters of a source line that are shown; a longer line is cut around the caret. */
const SHOWN = 120;

/**
 * The diagnostic as lines of text, without a final newline:
 * ```
 * gguf.ladder:7:8: error[unknown-name]: there is no element "F61"
 *   7 |   d  : F61
 *     |        ^^^
 *     = did you mean "F16"?
 * ```
 * Lines and columns count from 1, columns in UTF-16 units. `texts` are those that were resolved; where the
 * file is not among them, the source line is left out.
 */
export function renderDiagnostic(diagnostic: Diagnostic, texts: ReadonlyMap<string, string>): string {
  const { span } = diagnostic;
  const heading = `error[${diagnostic.code}]: ${diagnostic.message}`;
  const remarks = [...diagnostic.notes, ...(diagnostic.suggestion === null ? [] : [diagnostic.suggestion])];
  const text = texts.get(span.file);
  if (text === undefined) return [`${span.file}: ${heading}`, ...remarks.map((r) => `  = ${r}`)].join("\n");

  const place = placeAt(text, span.start);
  const { line } = place;
  const column = place.column - 1;
  const lineStart = span.start - column;
  const newline = text.indexOf("\n", lineStart);
  const lineEnd = newline === -1 ? text.length : newline;

  const from = column < SHOWN - 20 ? 0 : column - 20;
  const shown = text.slice(lineStart + from, Math.min(lineEnd, lineStart + from + SHOWN)).replaceAll(/[\t\r]/g, " ");
  const room = Math.max(1, shown.length - (column - from));
  const carets = "^".repeat(Math.min(Math.max(1, span.end - span.start), room));
  const number = String(line).padStart(4);
  return [
    `${span.file}:${line}:${place.column}: ${heading}`,
    `${number} | ${shown}`.trimEnd(),
    `     | ${" ".repeat(column - from)}${carets}`,
    ...remarks.map((r) => `     = ${r}`),
  ].join("\n");
}

/** A place in a text: line and column count from 1, the offset from 0; columns and offsets in UTF-16 units. */
export interface Place {
  readonly line: number;
  readonly column: number;
  readonly offset: number;
}

/** A diagnostic as programs get it. */
export interface DiagnosticJson {
  readonly code: DiagnosticCode;
  /** What is found makes a text unusable, each time. */
  readonly severity: "error";
  readonly message: string;
  /** The file's name, as `import` spells it. */
  readonly file: string;
  /** From the first character to behind the last; null where the text is not at hand. */
  readonly span: { readonly start: Place; readonly end: Place } | null;
  readonly notes: readonly string[];
  readonly suggestion: string | null;
}

/** The diagnostic as an object for JSON; `texts` are those that were resolved. */
export function diagnosticJson(diagnostic: Diagnostic, texts: ReadonlyMap<string, string>): DiagnosticJson {
  const { code, message, span, notes, suggestion } = diagnostic;
  const { file, start, end } = span;
  const text = texts.get(file);
  const places = text === undefined ? null : { start: placeAt(text, start), end: placeAt(text, end) };
  return { code, severity: "error", message, file, span: places, notes, suggestion };
}

function placeAt(text: string, offset: number): Place {
  const before = text.slice(0, offset);
  return { line: before.split("\n").length, column: offset - before.lastIndexOf("\n"), offset };
}

/**
 * `did you mean "..."?` for the candidate nearest to `name`, or null where none is near: at most one edit
 * (insertion, deletion, replacement, exchange of neighbours) for each three characters, or one in a name of two;
 * letter case is free.
 */
export function didYouMean(name: string, candidates: Iterable<string>): string | null {
  let best: string | null = null;
  let bestDistance = (name.length === 2 ? 1 : Math.floor(name.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase(), bestDistance);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best === null ? null : `did you mean "${best}"?`;
}

/** Optimal string alignment distance, or `limit` where it is that large or larger. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(last[j - 1]! + (same ? 0 : 1), last[j]! + 1, row[j - 1]! + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, beforeLast[j - 2]! + 1);
      row.push(cost);
    }
    [beforeLast, last] = [last, row];
  }
  return Math.min(last[b.length]!, limit);
}
