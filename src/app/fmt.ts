// lutra fmt: .ladder files in their one layout, rewritten in place where they differ. A text with errors of syntax is
// reported and left as it is; a file appears in its new form whole or not at all.
// Not here: the layout (ladder/format.ts).

import process from "node:process";

import { createFile, readLadder } from "../files.ts";
import { diagnosticJson } from "../ladder/diagnostic.ts";
import { type Formatted, formatLadder } from "../ladder/format.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { printFindings } from "./findings.ts";
import { escaped, printJson } from "./terminal.ts";

const OPTIONS = {
  check: { kind: "flag", about: "change nothing; name the files that differ, and end with 1 if there are any" },
  json: { kind: "flag", about: "one JSON object on stdout: files and findings" },
} as const;

/** More files than anyone has. */
const MAX_FILES = 4096;
/** Bytes of a text on stdin, as many as a file may have. */
const MAX_BYTES = 2 ** 20;

export const fmt: Command = command({
  name: "fmt",
  usage: ["fmt [options] file.ladder...", "fmt [options] - < file.ladder"],
  about: [
    "Lays .ladder files out in the one way that all of them have: an item a line, indented by 2, names and signs of",
    "neighbours below each other, no line above 120 columns where it can be broken. Comments and single empty lines",
    "stay, and so do ends of lines before operators; what the text means never changes. Files that differ are",
    "replaced, and named on stdout. A file with errors of syntax is left as it is. With - the text comes from stdin",
    "and goes to stdout.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra fmt mine.ladder", "in place"],
    ["lutra fmt --check dsl/*.ladder", "for a build that wants them formatted"],
    ["lutra fmt - < mine.ladder", "for an editor"],
  ],
  positionals: MAX_FILES,
  run: formatFiles,
});

/** One text with its name for people; `path` is null for stdin. */
interface Source {
  readonly name: string;
  readonly path: string | null;
  readonly text: string;
}

async function formatFiles(values: Values<typeof OPTIONS>, paths: readonly string[]): Promise<number> {
  if (paths.length === 0) throw new UsageError("no file; name one, as in lutra fmt mine.ladder");
  const fromStdin = paths.includes("-");
  if (fromStdin && paths.length > 1) throw new UsageError("-: stdin is formatted alone; leave out the other files");
  const sources = fromStdin ? [await readStdin()] : paths.map((path): Source => ({ ...readLadder(path), path }));
  const results = sources.map((source) => ({ source, result: formatLadder(source.name, source.text) }));
  const files: object[] = [];
  const diagnostics: object[] = [];
  let differ = 0;
  for (const { source, result } of results) {
    const { name, path, text } = source;
    if (result.kind === "rejected") {
      const texts = new Map([[name, text]]);
      if (!values.json) printFindings(result.diagnostics, texts);
      diagnostics.push(...result.diagnostics.map((diagnostic) => ({ ...diagnosticJson(diagnostic, texts), path })));
      continue;
    }
    const differs = result.text !== text;
    differ += Number(differs);
    files.push({ file: name, path, formatted: !differs, text: path === null ? result.text : null });
    // What is named has been replaced.
    if (differs && path !== null && !values.check) replace(path, result.text);
    if (!values.json) process.stdout.write(told(source, result, differs, values.check));
  }
  if (values.json) printJson({ files, diagnostics });
  return files.length < sources.length || (values.check && differ > 0) ? 1 : 0;
}

/** What goes to stdout: the text of stdin, else the name of a file that differs. */
function told(
  { name, path }: Source,
  result: Formatted & { kind: "formatted" },
  differs: boolean,
  check: boolean,
): string {
  if (path === null && !check) return result.text;
  return differs ? `${escaped(path ?? name)}\n` : "";
}

function replace(path: string, text: string): void {
  const bytes = new TextEncoder().encode(text);
  const sink = createFile(path, bytes.length, []);
  try {
    sink.write(bytes);
    sink.commit();
  } finally {
    sink.abandon();
  }
}

async function readStdin(): Promise<Source> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of process.stdin as AsyncIterable<Buffer>) {
    parts.push(part);
    size += part.length;
    if (size > MAX_BYTES) throw new Error(`stdin: more than ${MAX_BYTES} bytes; a .ladder file has at most as many`);
  }
  try {
    return { name: "stdin", path: null, text: new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts)) };
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new Error("stdin: bytes that are no UTF-8; a .ladder file is text", { cause: error });
  }
}
