// The thread in which grammars are compiled and tokens masked, by @mlc-ai/web-xgrammar (WebAssembly). A schema comes
// from anyone, and the library ends its whole instance at a bad one; so it has a thread, which can be ended and begun
// again. For that, each question carries all tokens so far, and an answer depends on nothing that was asked before.
// Not here: which schemas are let in (serve-schema.ts), time limits (serve-grammar.ts).

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { parentPort, workerData } from "node:worker_threads";

/** The vocabulary, told once. */
export interface GrammarVocabulary {
  /** Texts as the model file has them, empty for control tokens, which no text can hold. */
  readonly pieces: readonly string[];
  readonly kind: "byte_level" | "byte_fallback";
  readonly ends: readonly number[];
}

/** What a text must be. */
export type GrammarSource =
  /** JSON of a schema, which is given as a JSON text. */
  | { readonly kind: "schema"; readonly schema: string }
  /**
   * Begins and ends with JSON of a schema between, one after another, or, unless one must come, any text before the
   * first that begins with `trigger`.
   */
  | {
      readonly kind: "tags";
      readonly tags: readonly { readonly begin: string; readonly schema: string; readonly end: string }[];
      readonly trigger: string;
      readonly isRequired: boolean;
      readonly isOne: boolean;
    };

export type GrammarQuestion =
  | { readonly kind: "mask"; readonly matcher: number; readonly source: GrammarSource; readonly tokens: Int32Array }
  | { readonly kind: "forget"; readonly matcher: number };

export type GrammarAnswer = { readonly mask: Int32Array } | { readonly refused: string };

/** What is used of the library. Its module is made for pages and for CommonJS: here it finds what it needs as globals. */
interface Library {
  readonly TokenizerInfo: {
    createTokenizerInfo(
      pieces: readonly string[],
      kind: string,
      addsSpace: boolean,
      size: number,
      ends: readonly number[],
    ): Promise<object>;
  };
  readonly GrammarCompiler: { createGrammarCompiler(info: object, isCached: boolean): Promise<Compiler> };
  readonly Grammar: {
    fromJSONSchema(
      schema: string,
      anyWhitespace: boolean,
      indent: number,
      separators: readonly [string, string],
    ): Promise<GrammarText>;
  };
  readonly GrammarMatcher: { createGrammarMatcher(grammar: Disposed): Promise<Matcher> };
}
interface Disposed {
  dispose(): void;
}
/** Not compiled yet; its text is EBNF. */
interface GrammarText extends Disposed {
  toString(): string;
}
interface Compiler {
  compileGrammar(grammar: Disposed): Promise<Disposed>;
  compileStructuralTag(tag: string): Promise<Disposed>;
}
interface Matcher extends Disposed {
  acceptToken(token: number): boolean;
  getNextTokenBitmask(): Promise<Int32Array>;
}

/** Grammars that are kept for the next request with the same. */
const KEPT = 32;

const vocabulary = workerData as GrammarVocabulary;
const globals = globalThis as unknown as Record<string, unknown>;
globals["require"] = createRequire(import.meta.url);
globals["__filename"] = fileURLToPath(import.meta.url);
/** The library says on the console why it gives up, before it says that it does. */
let said = "";
console.error = console.warn = (...words: readonly unknown[]): void => {
  said ||= words.map(String).join(" ");
};

const library = (): Library => globals["xgrammar"] as Library;
const compiler = compilerOf();
const grammars = new Map<string, Promise<Disposed>>();
const matchers = new Map<number, { readonly matcher: Matcher; accepted: number }>();

async function compilerOf(): Promise<Compiler> {
  await import("@mlc-ai/web-xgrammar");
  const { TokenizerInfo, GrammarCompiler } = library();
  const { pieces, kind, ends } = vocabulary;
  const info = await TokenizerInfo.createTokenizerInfo(pieces, kind, false, pieces.length, ends);
  return GrammarCompiler.createGrammarCompiler(info, false);
}

/** JSON on one line, which ends: a small model that may write spaces writes them for ever. */
function jsonOf(schema: string): Promise<GrammarText> {
  return library().Grammar.fromJSONSchema(schema, false, -1, [", ", ": "]);
}

async function compile(source: GrammarSource): Promise<Disposed> {
  const ready = await compiler;
  if (source.kind === "schema") {
    const grammar = await jsonOf(source.schema);
    const result = await ready.compileGrammar(grammar);
    grammar.dispose();
    return result;
  }
  const { trigger, isRequired, isOne } = source;
  const tags: object[] = [];
  for (const { begin, schema, end } of source.tags) {
    const grammar = await jsonOf(schema);
    tags.push({ type: "tag", begin, content: { type: "grammar", grammar: grammar.toString() }, end });
    grammar.dispose();
  }
  const order = isRequired
    ? { type: "tags_with_separator", separator: "\n" }
    : { type: "triggered_tags", triggers: [trigger] };
  const format = { ...order, tags, at_least_one: isRequired, stop_after_first: isOne };
  return ready.compileStructuralTag(JSON.stringify({ type: "structural_tag", format }));
}

async function compiled(source: GrammarSource): Promise<Disposed> {
  const key = JSON.stringify(source);
  let grammar = grammars.get(key);
  if (grammar === undefined) {
    grammar = compile(source);
    for (const [oldest, old] of grammars) {
      if (grammars.size < KEPT) break;
      grammars.delete(oldest);
      (await old).dispose();
    }
  }
  // The last used is the last in the map.
  grammars.delete(key);
  grammars.set(key, grammar);
  return grammar;
}

async function maskOf(id: number, source: GrammarSource, tokens: Int32Array): Promise<Int32Array> {
  let state = matchers.get(id);
  if (state === undefined) {
    const grammar = await compiled(source);
    state = { matcher: await library().GrammarMatcher.createGrammarMatcher(grammar), accepted: 0 };
    matchers.set(id, state);
  }
  for (const token of tokens.subarray(state.accepted))
    if (!state.matcher.acceptToken(token)) throw new Error(`token ${token} does not fit the grammar`);
  state.accepted = tokens.length;
  return Int32Array.from(await state.matcher.getNextTokenBitmask());
}

/** The sentence of a message such as "[FATAL] file.cc:12: Check failed: (x) is false: sentence". */
function reasonOf(error: unknown): string {
  const text = said === "" ? String(error instanceof Error ? error.message : error) : said;
  return text
    .replace(/^\[\w+\] \S+:\d+: /, "")
    .replace(/^Check failed: .* is false: /, "")
    .slice(0, 300);
}

async function answer(question: GrammarQuestion): Promise<void> {
  if (question.kind === "forget") {
    matchers.get(question.matcher)?.matcher.dispose();
    matchers.delete(question.matcher);
    return;
  }
  said = "";
  try {
    const mask = await maskOf(question.matcher, question.source, question.tokens);
    parentPort?.postMessage({ mask } satisfies GrammarAnswer, [mask.buffer as ArrayBuffer]);
  } catch (error) {
    parentPort?.postMessage({ refused: reasonOf(error) } satisfies GrammarAnswer, []);
  }
}

/** One question after another. */
let last: Promise<void> = Promise.resolve();
parentPort?.on("message", (question: GrammarQuestion) => {
  last = last.then(() => answer(question));
});
