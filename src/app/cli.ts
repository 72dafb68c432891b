#!/usr/bin/env node
// The command line: a table of commands, and what holds for all of them: exit codes, errors as one line, Ctrl-C.
// 0: done; 1: an error; 2: wrong usage; 130: interrupted. Each command is in a file of its own, imported when it is
// called. Results go to stdout, everything else to stderr.

import process from "node:process";

import type { Command } from "./command.ts";
import { escaped } from "./terminal.ts";

interface Entry {
  readonly about: string;
  load(): Promise<Command>;
}

const COMMANDS: Readonly<Record<string, Entry>> = {
  run: { about: "generate text", load: async () => (await import("./run.ts")).run },
  chat: { about: "talk with a model", load: async () => (await import("./chat.ts")).chat },
  serve: { about: "serve a model to clients of OpenAI's API", load: async () => (await import("./serve.ts")).serve },
  eval: {
    about: "measure how well a model predicts a text",
    load: async () => (await import("./evaluate.ts")).evaluate,
  },
  inspect: { about: "what is in a model file", load: async () => (await import("./inspect.ts")).inspect },
  bench: { about: "how fast the kernels are here", load: async () => (await import("./bench.ts")).bench },
  tune: {
    about: "measure which kernels are the fastest here",
    load: async () => (await import("./tune.ts")).tuneCommand,
  },
  quantize: {
    about: "write a model in another number type, also one of your own",
    load: async () => (await import("./quantize.ts")).quantize,
  },
  check: {
    about: "prove what .ladder files claim, and say what their types are",
    load: async () => (await import("./check.ts")).check,
  },
  explain: {
    about: "how a product is computed on a machine, and why so",
    load: async () => (await import("./explain.ts")).explain,
  },
  fmt: { about: "lay .ladder files out in their one way", load: async () => (await import("./fmt.ts")).fmt },
  convert: {
    about: "change how a model is stored, and not one of its values",
    load: async () => (await import("./convert.ts")).convert,
  },
  compile: {
    about: "kernels for a matrix product of any declared types",
    load: async () => (await import("./compile.ts")).compile,
  },
  ppa: {
    about: "what a dot product unit costs in silicon: area, time, energy",
    load: async () => (await import("./ppa.ts")).ppa,
  },
  rtl: {
    about: "Verilog of a dot product unit or an array, with a testbench",
    load: async () => (await import("./rtl.ts")).rtl,
  },
  doctor: { about: "what this machine offers", load: async () => (await import("./doctor.ts")).doctor },
};

const HELP = `usage: lutra <command> [options]

Runs low-bit language models; proves, compiles and explains number formats.

commands:
${Object.entries(COMMANDS)
  .map(([name, { about }]) => `  ${name.padEnd(10)}${about}\n`)
  .join("")}
lutra <command> --help says more; lutra --version names the version.
`;

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === "--version") return print(`${(await import("./version.ts")).packageVersion()}\n`);
  if (name === undefined || name === "--help" || name === "-h" || name === "help") return print(HELP);
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (entry === undefined) {
    const { UsageError } = await import("./command.ts");
    const { didYouMean } = await import("../ladder/diagnostic.ts");
    const hint = didYouMean(name, Object.keys(COMMANDS));
    const known = `commands are ${Object.keys(COMMANDS).join(", ")}`;
    throw new UsageError(`there is no command ${JSON.stringify(name)}; ${hint ?? known}`);
  }
  const command = await entry.load();
  const options = rest.includes("--") ? rest.slice(0, rest.indexOf("--")) : rest;
  if (options.includes("--help") || options.includes("-h")) return print(command.help);
  return command.run(rest, interruption());
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

/** Aborted by the first Ctrl-C; the second one kills, as if nobody had listened. */
function interruption(): AbortSignal {
  const controller = new AbortController();
  process.once("SIGINT", () => controller.abort());
  return controller.signal;
}

/** One line, whatever the message is. */
function oneLine(error: unknown): string {
  return escaped(error instanceof Error ? error.message : String(error));
}

/** Ends the program where stdout takes no more; a reader that has gone away, as in `lutra run | head -1`, is no error. */
function endOfStdout(error: NodeJS.ErrnoException): never {
  if (error.code === "EPIPE") process.exit(0);
  process.stderr.write(`lutra: stdout: ${oneLine(error)}\n`);
  process.exit(1);
}

process.stdout.on("error", endOfStdout);
process.stderr.on("error", () => undefined);

const args = process.argv.slice(2);
try {
  process.exitCode = await main(args);
} catch (error) {
  process.stderr.write(`lutra: ${oneLine(error)}\n`);
  for (let cause = error; args.includes("--verbose") && cause instanceof Error; cause = cause.cause)
    process.stderr.write(`${cause.stack}\n`);
  process.exitCode = error instanceof Error && error.name === "UsageError" ? 2 : 1;
}
// What is still under way, such as a step after Ctrl-C or an open stdin, must not keep the process. After a write that
// failed this one fails as well, before the stream has told of the first.
process.stdout.write("", (error) => (error ? endOfStdout(process.stdout.errored ?? error) : process.exit()));
