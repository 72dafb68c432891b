// Chat templates: a model file's own Jinja text turns messages into the tokens of a prompt.
// The language is @huggingface/jinja, which has no limits of its own, and templates come with models from anywhere. So
// each step of its interpreter is watched here: time, size of values, and the few operations whose result can be much
// larger than what goes in. A worker thread would not do: out of memory in a worker ends the process all the same
// (`range(10**12)` does it on Node 20), and starting one takes 40 ms, more than a hundred renderings.
// Not here: which tokens are special (tokenizer.ts), what a server accepts as messages.

import { ModelError } from "./metadata.ts";
import type { Metadata } from "./metadata.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One turn of a conversation; further keys ("name", "tool_calls") are for templates that know them. */
export interface Message {
  readonly role: string;
  readonly content: string;
  readonly [key: string]: unknown;
}

export interface ChatTemplate {
  /**
   * Token ids of the prompt for the answer to `messages`; BOS stands once in front where the model wants it. Control
   * tokens count where the template wrote them; in the messages they are plain text.
   * @param variables what else the template may use, e.g. `{ enable_thinking: false, tools: [...] }`
   * @throws ModelError where the template fails, refuses the messages, or exceeds a limit
   */
  prompt(messages: readonly Message[], variables?: Readonly<Record<string, unknown>>): Int32Array;
}

const KEY = "tokenizer.chat_template";
/** The longest templates that models have, with tools and reasoning, are some 30,000 characters. */
const MAX_TEMPLATE = 131_072;
/** The lexer's time grows with the square of a run of white space. */
const MAX_SPACES = 1024;
/** A value holds at most four times what went in, and this; in characters, or in items. */
const FREE_SIZE = 2 ** 20;
/** All values together: this much, and 64 times what went in. */
const FREE_WORK = 2 ** 26;
/** `replace`, `join`, `indent` and `tojson` may make at most this many characters. */
const MAX_PRODUCT = 2 ** 27;
/** Lists within lists. */
const MAX_DEPTH = 64;
/** Steps within steps: macros that call macros, sums of many terms. */
const MAX_NESTING = 500;
/** Rendering takes a millisecond or so; this is for slow machines. */
const TIME_LIMIT_MS = 2000;
/** And a millisecond for each this many characters of the messages. */
const CHARACTERS_PER_MS = 10_000;
const MAX_RANGE = 100_000;

/** The part of @huggingface/jinja in use; its own declarations do not resolve under nodenext. */
interface Library {
  readonly tokenize: (text: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }) => unknown;
  readonly parse: (tokens: unknown) => Node;
  readonly Environment: new () => Environment;
  readonly Interpreter: new (environment: Environment) => Interpreter;
}
interface Environment {
  set(name: string, value: unknown): void;
}
interface Interpreter {
  evaluate(node: Node | undefined, environment: Environment): Value;
  applyFilter(operand: Value, node: Node, environment: Environment): Value;
}
interface Node {
  readonly type: string;
  /** Name of an Identifier, value of a literal, Node of a keyword argument. */
  readonly value?: unknown;
  readonly args?: readonly Node[];
  readonly argument?: Node;
  readonly callee?: Node;
  readonly property?: Node;
  readonly computed?: boolean;
}
const isNode = (value: unknown): value is Node => typeof value === "object" && value !== null && "type" in value;
/** A value while rendering: what it holds, by its type, "StringValue", "ArrayValue" ... */
interface Value {
  readonly type: string;
  readonly value: unknown;
  // oxlint-disable-next-line typescript/no-unsafe-function-type -- the library does not export its value classes
  readonly constructor: Function;
}

/** A limit that a template ran into: how it reads after the key, and what is allowed. */
class Limit extends Error {
  override readonly name = "Limit";
  readonly allowed: string;

  constructor(message: string, allowed: string) {
    super(message);
    this.allowed = allowed;
  }
}

/** The template called raise_exception. */
class Refusal extends Error {
  override readonly name = "Refusal";
}

/**
 * The chat template of a model.
 * @throws ModelError where the file has none, or one that is no Jinja
 */
export async function loadTemplate(metadata: Metadata, tokenizer: Tokenizer): Promise<ChatTemplate> {
  const { file } = metadata;
  const source = metadata.string(KEY, null);
  if (source === null) {
    throw new ModelError(file, KEY, "absent", "the model is not made for chat: give it text to continue, with --raw");
  }
  if (source.length > MAX_TEMPLATE) {
    throw new ModelError(file, KEY, `${source.length} characters`, `at most ${MAX_TEMPLATE} are possible`);
  }
  if (new RegExp(String.raw`\s{${MAX_SPACES + 1}}`).test(source)) {
    throw new ModelError(file, KEY, `more than ${MAX_SPACES} spaces in a row`, "no template has that");
  }
  const library: Library = await import("@huggingface/jinja");
  let program: Node;
  try {
    program = library.parse(library.tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  } catch (error) {
    throw failure(file, error);
  }
  const { bos, eos, pieces, addBos } = tokenizer;
  const special = {
    bos_token: bos === null ? "" : (pieces[bos] ?? ""),
    eos_token: eos === null ? "" : (pieces[eos] ?? ""),
  };
  return {
    prompt(messages, variables = {}) {
      const shielded = deepMap({ messages, ...variables }, (text) => tokenizer.shield(text));
      let text: string;
      try {
        text = render(library, program, { ...shielded, ...special, add_generation_prompt: true });
      } catch (error) {
        throw failure(file, error);
      }
      const tokens = tokenizer.encode(text, { special: true, bos: false });
      const isMissing = addBos && bos !== null && tokens[0] !== bos;
      return isMissing ? Int32Array.from([bos, ...tokens]) : tokens;
    },
  };
}

function failure(file: string, error: unknown): ModelError {
  if (error instanceof Limit) return new ModelError(file, KEY, error.message, error.allowed);
  if (error instanceof Refusal) {
    return new ModelError(file, KEY, `refuses the messages: ${error.message}`, "change them, or use --raw");
  }
  const reason = error instanceof RangeError ? "nested too deeply, or too large" : messageOf(error);
  return new ModelError(file, KEY, `fails: ${reason}`, "use --raw, or a model file with a working template");
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The same object with `change` done to every text in it; functions and cycles have no place in messages. */
function deepMap(object: object, change: (text: string) => string, depth = 0): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, deepMapValue(value, change, depth)]));
}

function deepMapValue(value: unknown, change: (text: string) => string, depth: number): unknown {
  if (depth > MAX_DEPTH) throw new RangeError(`messages are nested more than ${MAX_DEPTH} deep`);
  if (typeof value === "string") return change(value);
  if (typeof value === "function" || typeof value === "symbol" || typeof value === "bigint") {
    throw new TypeError(`messages hold JSON values, not a ${typeof value}`);
  }
  if (Array.isArray(value)) return value.map((item: unknown) => deepMapValue(item, change, depth + 1));
  return typeof value === "object" && value !== null ? deepMap(value, change, depth + 1) : value;
}

/** Size and nesting of a value. */
interface Weight {
  /** Characters of its texts and one for each item. */
  readonly size: number;
  readonly depth: number;
}

/** Weighs values; each list or dictionary once, because they do not change (namespaces do). */
function weigher(): (value: Value) => Weight {
  const known = new WeakMap<Value, Weight>();
  function weigh(value: Value): Weight {
    if (typeof value.value === "string") return { size: value.value.length, depth: 0 };
    const isList = Array.isArray(value.value);
    if (!isList && !(value.value instanceof Map)) return { size: 1, depth: 0 };
    const found = known.get(value);
    if (found !== undefined) return found;
    const items: Iterable<Value> = isList ? value.value : value.value.values();
    let size = 1;
    let depth = 0;
    for (const item of items) {
      if (item.type === "NamespaceValue") throw new Limit("a namespace inside a value", "a template has them on top");
      const part = weigh(item);
      size += part.size + 1;
      depth = Math.max(depth, part.depth);
    }
    if (!isList) for (const key of value.value.keys()) size += String(key).length;
    const weight = { size, depth: depth + 1 };
    if (weight.depth > MAX_DEPTH) throw new Limit(`lists ${weight.depth} deep`, `at most ${MAX_DEPTH} are possible`);
    if (value.type !== "NamespaceValue") known.set(value, weight);
    return weight;
  }
  return weigh;
}

/** Filters and methods whose result can be as large as the product of what goes in. */
const MULTIPLYING: ReadonlySet<unknown> = new Set(["replace", "join", "indent", "tojson"]);
/** Nodes whose value was there before. */
const COSTLESS: ReadonlySet<string> = new Set(["Identifier", "MemberExpression", "StringLiteral", "IntegerLiteral"]);

function render(library: Library, program: Node, variables: Readonly<Record<string, unknown>>): string {
  const environment = new library.Environment();
  for (const [name, value] of Object.entries({ ...GLOBALS, ...variables })) environment.set(name, value);
  const interpreter = new library.Interpreter(environment);
  const evaluate = interpreter.evaluate.bind(interpreter);
  const applyFilter = interpreter.applyFilter.bind(interpreter);
  const weigh = weigher();

  let input = 0;
  deepMap(variables, (text) => {
    input += text.length;
    return text;
  });
  const maxSize = FREE_SIZE + 4 * input;
  const maxWork = FREE_WORK + 64 * input;
  const limitMs = TIME_LIMIT_MS + input / CHARACTERS_PER_MS;
  const end = performance.now() + limitMs;
  let work = 0;
  let largest = 0;
  let nesting = 0;

  function checkProduct(name: unknown, size: number, args: readonly Value[], depth: number): void {
    const amount = args.reduce(
      (sum, arg) => sum + (typeof arg.value === "number" ? Math.abs(arg.value) : weigh(arg).size),
      1,
    );
    if (!(size * amount * depth <= MAX_PRODUCT)) {
      throw new Limit(
        `${String(name)} of ${size} by ${amount}`,
        `results of up to ${MAX_PRODUCT} characters are possible`,
      );
    }
  }

  // The interpreter calls both through itself, so that every step passes here.
  interpreter.evaluate = (node, scope): Value => {
    if (nesting >= MAX_NESTING) throw new Limit("nested too deeply", `at most ${MAX_NESTING} steps deep is possible`);
    nesting++;
    let result: Value;
    try {
      result = evaluate(node, scope);
    } finally {
      // Also where a loop is left by "break", which the library throws.
      nesting--;
    }
    if (performance.now() > end) throw new Limit(`not done after ${Math.round(limitMs)} ms`, "it must end");
    const { size } = weigh(result);
    if (size > maxSize) throw new Limit(`makes a value of ${size} characters`, `at most ${maxSize} are possible`);
    if (typeof result.value === "string") largest = Math.max(largest, size);
    if (node === undefined || COSTLESS.has(node.type)) {
      return node?.type === "MemberExpression" && typeof result.value === "function"
        ? watchMethod(node, result, scope)
        : result;
    }
    work += size;
    if (work > maxWork) throw new Limit(`makes values of ${work} characters in all`, `at most ${maxWork} are possible`);
    return result;
  };

  /** A text's method "replace", with a check in front. */
  function watchMethod(node: Node, method: Value, scope: Environment): Value {
    const name = node.computed ? interpreter.evaluate(node.property, scope).value : node.property?.value;
    const call = method.value;
    if (!MULTIPLYING.has(name) || typeof call !== "function") return method;
    const watched = (args: readonly Value[], inner: Environment): unknown => {
      checkProduct(name, largest, args, 1);
      return Reflect.apply(call, undefined, [args, inner]);
    };
    return Reflect.construct(method.constructor, [watched]);
  }

  interpreter.applyFilter = (operand, node, scope): Value => {
    const name = node.callee?.value;
    if (MULTIPLYING.has(name)) {
      const args = (node.args ?? []).map((arg) => {
        return interpreter.evaluate(isNode(arg.value) ? arg.value : (arg.argument ?? arg), scope);
      });
      const { size, depth } = weigh(operand);
      checkProduct(name, size, args, name === "tojson" ? depth + 1 : 1);
    }
    return applyFilter(operand, node, scope);
  };

  const text = interpreter.evaluate(program, environment).value;
  return typeof text === "string" ? text : "";
}

/** What every template may use, as in Hugging Face's transformers. */
const GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
  raise_exception(message: unknown): never {
    throw new Refusal(String(message));
  },
  range(first: number, second?: number, step = 1): number[] {
    const [start, stop] = second === undefined ? [0, first] : [first, second];
    const count = Math.max(0, Math.ceil((stop - start) / step));
    if (!(count <= MAX_RANGE)) throw new Limit(`range of ${count}`, `at most ${MAX_RANGE} are possible`);
    return Array.from({ length: count }, (_, i) => start + i * step);
  },
  strftime_now(format: string): string {
    return strftime(new Date(), format);
  },
};

const two = (value: number): string => String(value).padStart(2, "0");

/** Python's strftime in English, as far as templates use it; other directives stay as they are. */
function strftime(date: Date, format: string): string {
  const part = (options: Intl.DateTimeFormatOptions): string => date.toLocaleString("en-US", options);
  const directives: Readonly<Record<string, () => string>> = {
    "%Y": () => String(date.getFullYear()),
    "%m": () => two(date.getMonth() + 1),
    "%d": () => two(date.getDate()),
    "%b": () => part({ month: "short" }),
    "%B": () => part({ month: "long" }),
    "%a": () => part({ weekday: "short" }),
    "%A": () => part({ weekday: "long" }),
    "%H": () => two(date.getHours()),
    "%M": () => two(date.getMinutes()),
    "%S": () => two(date.getSeconds()),
    "%%": () => "%",
  };
  return format.replaceAll(/%[a-zA-Z%]/g, (directive) => directives[directive]?.() ?? directive);
}
