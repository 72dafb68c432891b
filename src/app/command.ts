// What a command of the command line is: options declared once in a table, from which parsing, checks, --help and the
// type of the values follow. Not here: which commands there are (cli.ts), what they do (run.ts, inspect.ts ...).

import { parseArgs } from "node:util";

import { didYouMean } from "../ladder/diagnostic.ts";

/** Wrong usage: the process ends with 2 where other errors end with 1. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** One option; `about` is its line in --help. Values that are not given are `fallback`. */
export type Option =
  | { readonly kind: "flag"; readonly about: string }
  | {
      readonly kind: "number" | "integer";
      readonly about: string;
      readonly min: number;
      readonly max: number;
      readonly fallback: number | null;
    }
  /** Any unsigned 64-bit number. */
  | { readonly kind: "u64"; readonly about: string }
  | { readonly kind: "choice"; readonly about: string; readonly choices: readonly string[]; readonly fallback: string }
  /** `short`: its one letter behind a single -, where it has one. */
  | { readonly kind: "text"; readonly about: string; readonly short?: string }
  /** May be given several times; no text is empty. */
  | { readonly kind: "texts"; readonly about: string };

export type Options = Readonly<Record<string, Option>>;

/** The values of a table's options, and of those that every command has, by name. */
export type Values<T extends Options> = OptionValues<T & Common>;

type OptionValues<T extends Readonly<Record<keyof T, Option>>> = {
  readonly [K in keyof T]: T[K]["kind"] extends "flag"
    ? boolean
    : T[K]["kind"] extends "texts"
      ? readonly string[]
      : T[K]["kind"] extends "u64"
        ? bigint | null
        : T[K]["kind"] extends "text"
          ? string | null
          : T[K] extends { readonly fallback: infer F }
            ? F extends null
              ? number | null
              : F extends string
                ? string
                : number
            : never;
};

/** A command with its types sealed. */
export interface Command {
  readonly help: string;
  /**
   * Parses the arguments after the command's name, runs, and returns the exit code.
   * @throws UsageError for arguments that the table does not allow
   */
  run(args: readonly string[], signal: AbortSignal): Promise<number>;
}

interface CommandSpec<T extends Options> {
  readonly name: string;
  /** One line for each way to call it, after `lutra`. */
  readonly usage: readonly string[];
  /** Paragraphs, broken into lines as they shall be printed. */
  readonly about: readonly string[];
  readonly options: T;
  /** Command lines with what they do. */
  readonly examples: readonly (readonly [command: string, about: string])[];
  /** Most positional arguments. */
  readonly positionals: number;
  run(values: Values<T>, positionals: readonly string[], signal: AbortSignal): Promise<number>;
}

interface Common {
  readonly verbose: { readonly kind: "flag"; readonly about: string };
  readonly help: { readonly kind: "flag"; readonly about: string };
}

const COMMON: Common & Options = {
  verbose: { kind: "flag", about: "where the time goes; with an error, where in the program it arose" },
  help: { kind: "flag", about: "this text" },
};

/** A command of a table. */
export function command<const T extends Options>(spec: CommandSpec<T>): Command {
  const help = helpOf(spec);
  return {
    help,
    run(args, signal) {
      const { values, positionals } = parse(spec, args);
      if (positionals.length > spec.positionals) {
        const extra = JSON.stringify(positionals[spec.positionals]);
        const quote = spec.positionals > 0 ? "; put quotes around text with spaces" : "";
        throw new UsageError(`unexpected argument ${extra}${quote}; ${seeHelp(spec.name)}`);
      }
      return spec.run(values, positionals, signal);
    },
  };
}

function seeHelp(name: string): string {
  return `see lutra ${name} --help`;
}

function parse<T extends Options>(
  { name, options, positionals: mostPositionals }: CommandSpec<T>,
  args: readonly string[],
): { values: Values<T>; positionals: readonly string[] } {
  const all: Options = { ...options, ...COMMON };
  // parseArgs cuts the arguments; what they may be is checked here, so that the errors are ours.
  const { tokens, positionals } = parseArgs({
    args: [...args],
    strict: false,
    allowPositionals: true,
    tokens: true,
    options: Object.fromEntries(
      Object.entries(all).map(([key, option]) => [
        key,
        { type: option.kind === "flag" ? ("boolean" as const) : ("string" as const), ...letterOf(option) },
      ]),
    ),
  });
  const given = new Map<string, string[]>();
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const { rawName, value } = token;
    const option = Object.hasOwn(all, token.name) ? all[token.name] : undefined;
    const isShort = option !== undefined && rawName === `-${letterOf(option).short}`;
    if (option === undefined || !(isShort || rawName.startsWith("--"))) {
      const hint = didYouMean(
        rawName,
        Object.keys(all).map((key) => `--${key}`),
      );
      const argument = args[token.index] ?? "";
      const isText = mostPositionals > 0 && (!rawName.startsWith("--") || /\s/.test(argument));
      const advice = isText
        ? `a text that begins with - comes after --, as in lutra ${name} -- ${JSON.stringify(argument)}; `
        : hint === null
          ? ""
          : `${hint} `;
      throw new UsageError(`unknown option ${rawName}; ${advice}${seeHelp(name)}`);
    }
    if (option.kind === "flag") {
      if (value !== undefined) throw new UsageError(`${rawName}: ${JSON.stringify(value)}; ${allowed(option)}`);
    } else if (value === undefined) {
      throw new UsageError(`${rawName}: no value; ${allowed(option)}`);
    }
    const isText = option.kind === "text" || option.kind === "texts";
    if (isText && !token.inlineValue && value?.startsWith("-"))
      throw new UsageError(`${rawName}: ${value}; a text that begins with - is written --${token.name}=${value}`);
    const before = given.get(token.name);
    if (before !== undefined && option.kind !== "texts" && option.kind !== "flag")
      throw new UsageError(`${rawName}: given twice, as ${before[0]} and ${value}; once is enough`);
    given.set(token.name, [...(before ?? []), value ?? ""]);
  }
  const values = Object.entries(all).map(([key, option]) => [key, valueOf(key, option, given.get(key))]);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the table that made the values makes their type
  return { values: Object.fromEntries(values) as Values<T>, positionals };
}

function letterOf(option: Option): { readonly short?: string } {
  return option.kind === "text" && option.short !== undefined ? { short: option.short } : {};
}

function valueOf(name: string, option: Option, given: readonly string[] | undefined): unknown {
  const text = given?.[0];
  const refuse = (): never => {
    throw new UsageError(`--${name}: ${JSON.stringify(text)}; ${allowed(option)}`);
  };
  switch (option.kind) {
    case "flag":
      return given !== undefined;
    case "number":
    case "integer": {
      if (text === undefined) return option.fallback;
      const value = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
      const isWhole = option.kind === "number" || Number.isSafeInteger(value);
      return isWhole && value >= option.min && value <= option.max ? value : refuse();
    }
    case "u64": {
      if (text === undefined) return null;
      const value = /^\d{1,20}$/.test(text) ? BigInt(text) : -1n;
      return value >= 0n && value < 2n ** 64n ? value : refuse();
    }
    case "choice":
      return text === undefined || option.choices.includes(text) ? (text ?? option.fallback) : refuse();
    case "text":
      return text ?? null;
    default:
      return given?.includes("") ? refuse() : (given ?? []);
  }
}

/** What an option takes, in words. */
function allowed(option: Option): string {
  switch (option.kind) {
    case "flag":
      return "it takes no value";
    case "number":
      return `a number from ${option.min} to ${option.max} is needed`;
    case "integer":
      return `a whole number from ${option.min} to ${option.max} is needed`;
    case "u64":
      return "a whole number from 0 to 2^64 - 1 is needed";
    case "choice":
      return `one of ${option.choices.join(", ")} is needed`;
    default:
      return "a text of at least one character is needed";
  }
}

function helpOf<T extends Options>({ usage, about, options, examples }: CommandSpec<T>): string {
  const rows = Object.entries<Option>({ ...options, ...COMMON }).map(([name, option]) => {
    const { short } = letterOf(option);
    const left = `  ${short === undefined ? "" : `-${short}, `}--${name}${option.kind === "flag" ? "" : ` <${placeholder(option)}>`}`;
    const choices = option.kind === "choice" ? `: ${option.choices.join(", ")}` : "";
    const fallback = "fallback" in option && option.fallback !== null ? ` (${option.fallback})` : "";
    return `${left.padEnd(25)} ${option.about}${choices}${fallback}`;
  });
  const width = Math.max(...examples.map(([line]) => line.length)) + 2;
  return [
    ...usage.map((line, i) => `${i === 0 ? "usage: " : "       "}lutra ${line}`),
    "",
    ...about,
    "",
    "options:",
    ...rows,
    "",
    "examples:",
    ...examples.map(([line, what]) => `  ${line.padEnd(width)}${what}`),
    "",
  ].join("\n");
}

function placeholder(option: Exclude<Option, { readonly kind: "flag" }>): string {
  switch (option.kind) {
    case "number":
      return "x";
    case "integer":
    case "u64":
      return "n";
    case "choice":
      return "name";
    default:
      return "text";
  }
}

/**
 * Refuses options of the CPU backend that were given where a GPU runs, by their first name.
 * @throws UsageError
 */
export function refuseCpuOptions(options: Readonly<Record<string, string | number | null>>): void {
  for (const [name, value] of Object.entries(options))
    if (value !== null && value !== "off") throw new UsageError(`--${name}: ${value}; it is for --device cpu`);
}
