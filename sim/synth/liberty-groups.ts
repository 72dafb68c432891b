// Liberty text as nested groups with their attributes: what liberty.ts reads cells from. Nothing here knows what a cell
// is. Statements may lack their semicolons, lines may be continued by a backslash, comments may stand anywhere.
// Grammar: Liberty User Guide, volume 1: name : value; name (values); name (values) { statements }.

/** Liberty text that cannot be used: file, line and reason. */
export class LibertyError extends Error {
  override readonly name = "LibertyError";
}

export interface Group {
  readonly kind: string;
  readonly args: readonly string[];
  readonly line: number;
  readonly attributes: ReadonlyMap<string, string>;
  /** Statements with brackets and no body, as values ("1, 2"). */
  readonly calls: ReadonlyMap<string, readonly string[]>;
  readonly groups: readonly Group[];
}

const MAX_CHARS = 2 ** 28;
const MAX_DEPTH = 32;
/** The groups of all cells of a large library, several times over. */
const MAX_GROUPS = 5_000_000;

/**
 * The outermost group of a liberty text.
 * @param file names it in errors
 * @throws LibertyError with the line where the text stops being one
 */
export function parseGroups(text: string, file: string): Group {
  if (text.length > MAX_CHARS)
    throw new LibertyError(`${file}: ${text.length} characters; at most ${MAX_CHARS} are read`);
  let at = 0;
  let line = 1;
  let count = 0;
  const fail = (what: string): never => {
    throw new LibertyError(`${file}:${line}: ${what}`);
  };
  /** Past spaces, comments and continued lines; line ends too where `lines`. */
  const skip = (lines: boolean): void => {
    for (;;) {
      const c = text[at];
      if (c === "\n") {
        if (!lines) return;
        line++;
        at++;
      } else if (c === " " || c === "\t" || c === "\r" || c === "\f") at++;
      else if (c === "\\" && /\\[ \t]*\r?\n/y.test(text.slice(at, at + 80))) {
        at = text.indexOf("\n", at) + 1;
        line++;
      } else if (c === "/" && text[at + 1] === "*") {
        const end = text.indexOf("*/", at + 2);
        if (end < 0) fail("a comment /* that does not end");
        for (let i = text.indexOf("\n", at); i >= 0 && i < end; i = text.indexOf("\n", i + 1)) line++;
        at = end + 2;
      } else if (c === "/" && text[at + 1] === "/") {
        const end = text.indexOf("\n", at);
        at = end < 0 ? text.length : end;
      } else return;
    }
  };
  const quoted = (): string => {
    const begun = line;
    let value = "";
    for (at++; text[at] !== '"'; at++) {
      if (at >= text.length) {
        line = begun;
        fail('a text that begins with " and does not end');
      }
      if (text[at] === "\n") line++;
      if (text[at] === "\\" && (text[at + 1] === "\n" || text[at + 1] === "\r")) continue;
      value += text[at] === "\n" || text[at] === "\r" ? "" : text[at];
    }
    at++;
    return value;
  };
  const word = (stops: string): string => {
    const from = at;
    while (at < text.length && !stops.includes(text[at]!)) at++;
    return text.slice(from, at).trim();
  };
  const brackets = (): readonly string[] => {
    const values: string[] = [];
    at++;
    for (;;) {
      skip(true);
      const c = text[at];
      if (c === undefined) return fail("( without )");
      if (c === ")") {
        at++;
        return values;
      }
      if (c === ",") at++;
      else if (c === '"') values.push(quoted());
      else {
        const value = word(' \t\r\n,)"({};\\');
        if (value === "") return fail(`${JSON.stringify(c)} inside brackets`);
        values.push(value);
      }
    }
  };
  const body = (kind: string, args: readonly string[], begun: number, depth: number): Group => {
    if (depth > MAX_DEPTH) fail(`groups nested more than ${MAX_DEPTH} deep`);
    if (++count > MAX_GROUPS) fail(`more than ${MAX_GROUPS} groups`);
    const attributes = new Map<string, string>();
    const calls = new Map<string, readonly string[]>();
    const groups: Group[] = [];
    for (;;) {
      skip(true);
      const c = text[at];
      if (c === undefined) {
        line = begun;
        return fail(`${kind} (${args.join(", ")}) { is not closed by }`);
      }
      if (c === "}") {
        at++;
        return { kind, args, line: begun, attributes, calls, groups };
      }
      if (c === ";") {
        at++;
        continue;
      }
      const statement = statementAt(depth);
      if ("group" in statement) groups.push(statement.group);
      else if (typeof statement.value === "string") attributes.set(statement.name, statement.value);
      else calls.set(statement.name, statement.value);
    }
  };
  type Statement = { readonly group: Group } | { readonly name: string; readonly value: string | readonly string[] };
  const statementAt = (depth: number): Statement => {
    const begun = line;
    const name = word(' \t\r\n(){}:;,"\\');
    if (name === "") return fail(`${JSON.stringify(text[at] ?? "the end")} where a name is needed`);
    skip(true);
    if (text[at] === ":") {
      at++;
      skip(false);
      const value = text[at] === '"' ? quoted() : word(";\n}").replace(/\s*\/\*.*$/, "");
      skip(false);
      if (text[at] === ";") at++;
      return { name, value };
    }
    if (text[at] !== "(") return fail(`${name}: neither : nor ( behind it`);
    const args = brackets();
    skip(true);
    if (text[at] === "{") {
      at++;
      return { group: body(name, args, begun, depth + 1) };
    }
    return { name, value: args };
  };
  skip(true);
  if (at >= text.length) fail("nothing but spaces and comments; library (name) { is needed");
  const statement = statementAt(0);
  if (!("group" in statement)) return fail(`${statement.name}: library (name) { is needed`);
  return statement.group;
}
