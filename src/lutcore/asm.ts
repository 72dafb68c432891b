// Programs as text: settings such as `.warps 4`, one instruction a line as the table writes it, `//` before a remark.
// Reader and printer walk the same syntax of the table (`syntax` of a row): neither knows an instruction. What is wrong is
// found with line, column and field, one finding a line, all lines. Not here: bytes (binary.ts).

import { type Instruction, NAMED_SCALARS, ONE, type Opcode, WRITABLE_SCALARS, ZERO } from "./instruction.ts";
import { OPCODES, rowOf, valueOf } from "./isa.ts";
import { checkInstruction, checkProgram, type Program, registerName, SETTINGS } from "./program.ts";
import type { Field } from "./row.ts";

/** Lines and columns count from 1; columns in UTF-16 units. `field` is null where the text is no instruction at all. */
export interface AsmFinding {
  readonly line: number;
  readonly column: number;
  readonly field: string | null;
  readonly message: string;
}

export type Assembled =
  | { readonly kind: "program"; readonly program: Program }
  | { readonly kind: "findings"; readonly findings: readonly AsmFinding[] };

/** A part of a row's syntax: text that stands as it is, any number of blanks, or a field. */
type Part =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "blank" }
  | { readonly kind: "field"; readonly name: string; readonly field: Field };

const PARTS = new Map(OPCODES.map((kind) => [kind, partsOf(kind)]));
/** The longest first, since `lmma` begins `lmmaq`. */
const BY_LENGTH = OPCODES.toSorted((a, b) => b.length - a.length);
const INDENT = "  ";
/** More findings than that are not read by anybody. */
const MAX_FINDINGS = 100;

/** What is wrong at a place of a line. */
class Misread extends Error {
  readonly column: number;
  readonly field: string | null;
  constructor(column: number, field: string | null, message: string) {
    super(message);
    this.column = column;
    this.field = field;
  }
}

/** The program of a text, or all that is wrong with it, at most 100 findings. */
export function assemble(text: string): Assembled {
  const settings = new Map<string, number>(Object.entries(SETTINGS).map(([name, { plain }]) => [name, plain]));
  const places = new Map<string, Where>();
  const code: Instruction[] = [];
  const at: Read[] = [];
  const findings: AsmFinding[] = [];
  for (const [l, written] of text.split("\n").entries()) {
    const remark = written.indexOf("//");
    const line = (remark === -1 ? written : written.slice(0, remark)).trimEnd();
    const start = line.search(/\S/);
    if (start === -1) continue;
    try {
      if (line[start] === ".") {
        const { name, value } = readSetting(line, start);
        if (places.has(name)) throw new Misread(start, name, `.${name} is in line ${places.get(name)!.line} already`);
        if (code.length > 0) throw new Misread(start, name, `.${name} stands behind the first instruction`);
        places.set(name, { line: l + 1, column: start + 1 });
        settings.set(name, value);
      } else {
        const read = readInstruction(line, start, l + 1);
        const problem = checkInstruction(read.instruction);
        if (problem !== null) throw new Misread(read.columns.get(problem.field)!, problem.field, problem.message);
        code.push(read.instruction);
        at.push(read);
      }
    } catch (thrown) {
      if (!(thrown instanceof Misread)) throw thrown;
      findings.push({ line: l + 1, column: thrown.column + 1, field: thrown.field, message: thrown.message });
      if (findings.length === MAX_FINDINGS) break;
    }
  }
  if (findings.length > 0) return { kind: "findings", findings };
  const program = { ...(Object.fromEntries(settings) as Omit<Program, "code">), code };
  const problem = checkProgram(program);
  if (problem === null) return { kind: "program", program };
  const { field, message } = problem;
  const read = problem.at === null ? null : at[problem.at]!;
  const { line, column } = read === null ? (places.get(field) ?? { line: 1, column: 1 }) : placeOf(read, field);
  return { kind: "findings", findings: [{ line, column, field, message }] };
}

/** The text of a program, from which assemble makes the same program again: settings that are not plain, then the code. */
export function disassemble(program: Program): string {
  const lines: string[] = [];
  for (const [name, { plain }] of Object.entries(SETTINGS)) {
    const value = program[name as keyof typeof SETTINGS];
    if (value !== plain) lines.push(`.${name} ${value}`);
  }
  let depth = 0;
  for (const i of program.code) {
    if (i.kind === "end") depth--;
    lines.push(INDENT.repeat(depth) + instructionText(i));
    if (i.kind === "loop") depth++;
  }
  return lines.map((line) => `${line}\n`).join("");
}

/** One instruction as the table writes it. */
export function instructionText(i: Instruction): string {
  let text = "";
  for (const part of PARTS.get(i.kind)!) {
    if (part.kind === "field") text += valueText(part.field, valueOf(i, part.name));
    else text += part.kind === "text" ? part.text : " ";
  }
  return text;
}

/** `line 3, column 8, field k: ...`, for people. */
export function findingText({ line, column, field, message }: AsmFinding): string {
  return `line ${line}, column ${column}${field === null ? "" : `, field ${field}`}: ${message}`;
}

interface Where {
  readonly line: number;
  readonly column: number;
}

/** An instruction, and the column where each of its fields begins. */
interface Read {
  readonly instruction: Instruction;
  readonly line: number;
  readonly columns: ReadonlyMap<string, number>;
}

function placeOf({ line, columns }: Read, field: string): Where {
  return { line, column: columns.get(field)! + 1 };
}

function readSetting(line: string, start: number): { readonly name: string; readonly value: number } {
  const [, name = "", blanks = "", value = ""] = /^\.(\w*)(\s*)(.*)$/.exec(line.slice(start))!;
  if (!Object.hasOwn(SETTINGS, name))
    throw new Misread(
      start,
      null,
      `.${name} is no setting; there are ${Object.keys(SETTINGS)
        .map((s) => `.${s}`)
        .join(" ")}`,
    );
  const { least, most, what } = SETTINGS[name as keyof typeof SETTINGS];
  const column = start + 1 + name.length + blanks.length;
  const number = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
  if (!(number >= least && number <= most))
    throw new Misread(column, name, `${shown(value)} is not ${least} to ${most} (${what})`);
  return { name, value: number };
}

function readInstruction(line: string, start: number, number: number): Read {
  const word = /^\S*/.exec(line.slice(start))![0];
  const kind = BY_LENGTH.find((name) => word === name || word.startsWith(`${name}.`));
  if (kind === undefined)
    throw new Misread(start, null, `${shown(word)} is no instruction; there are ${OPCODES.join(" ")}`);
  const fields: Record<string, string | number> = { kind };
  const columns = new Map([["kind", start]]);
  let at = start;
  for (const part of PARTS.get(kind)!) {
    if (part.kind === "blank") {
      const from = at;
      while (line[at] === " " || line[at] === "\t") at++;
      // Words that blanks part must not grow together.
      if (at === from && /\w\w/.test(line.slice(at - 1, at + 1)))
        throw new Misread(at, null, "a blank must stand here");
    } else if (part.kind === "text") {
      if (!line.startsWith(part.text, at))
        throw new Misread(
          at,
          null,
          `"${part.text}" must stand here, not ${shown(line.slice(at))}: ${rowOf(kind).syntax}`,
        );
      at += part.text.length;
    } else {
      const read = readValue(part.field, line, at);
      if (typeof read === "string") throw new Misread(at, part.name, read);
      columns.set(part.name, at);
      fields[part.name] = read.value;
      at = read.end;
    }
  }
  if (at < line.length) throw new Misread(at, null, `the instruction is over, and ${shown(line.slice(at))} follows`);
  return { instruction: fields as unknown as Instruction, line: number, columns };
}

/** The value that begins at `at` and where it ends, or what is wrong. */
function readValue(
  field: Field,
  line: string,
  at: number,
): { readonly value: string | number; readonly end: number } | string {
  const rest = line.slice(at, at + 64);
  switch (field.kind) {
    case "choice": {
      // A number goes on as long as there are digits, also where it ends a word: g17 is not g1.
      const whole = (text: string): boolean =>
        rest.startsWith(text) && !/\d\d/.test(rest.slice(text.length - 1, text.length + 1));
      const found = field.values.filter((value) => whole(String(value)));
      const longest = found.toSorted((a, b) => String(b).length - String(a).length)[0];
      const [word] = /^(?:\d+|)/.exec(rest)!;
      if (longest === undefined) return `${shown(word === "" ? rest : word)} is none of ${field.values.join(", ")}`;
      return { value: longest, end: at + String(longest).length };
    }
    case "number": {
      const [text] = /^-?\d{1,10}(?!\d)/.exec(rest) ?? [];
      if (text === undefined) return `${shown(rest)} is no whole number of at most ten digits`;
      return { value: Number(text), end: at + text.length };
    }
    case "scalar": {
      const [text] = /^(?:s\d{1,2}|bx|by|warp|nil)(?!\w)/.exec(rest) ?? [];
      const value =
        text === undefined ? Number.NaN : text.startsWith("s") ? Number(text.slice(1)) : NAMED_SCALARS[text as "nil"];
      if (text === undefined || (text.startsWith("s") && value >= WRITABLE_SCALARS))
        return `${shown(rest)} is no scalar: s0 to s${WRITABLE_SCALARS - 1}, bx, by, warp or nil`;
      return { value, end: at + text.length };
    }
    case "register": {
      const [text] = /^(?:r\d{1,4}|zero|one)(?!\w)/.exec(rest) ?? [];
      if (text === undefined) return `${shown(rest)} is no register: r0, r1 and so on, zero or one`;
      return { value: text === "zero" ? ZERO : text === "one" ? ONE : Number(text.slice(1)), end: at + text.length };
    }
  }
}

function valueText(field: Field, value: string | number): string {
  if (field.kind === "register") return registerName(Number(value));
  if (field.kind !== "scalar") return String(value);
  const named = Object.entries(NAMED_SCALARS).find(([, scalar]) => scalar === value);
  return named === undefined ? `s${value}` : named[0];
}

/** The next word of a text in quotes, or that there is none. */
function shown(text: string): string {
  const [word = ""] = /^[^\s,]{0,24}/.exec(text) ?? [];
  return text.trim() === "" ? "the end of the line" : `"${word === "" ? text.slice(0, 1) : word}"`;
}

function partsOf(kind: Opcode): readonly Part[] {
  const { syntax, fields } = rowOf(kind);
  return [...syntax.matchAll(/\{(\w+)\}|( )|([^ {]+)/g)].map(([, name, blank, text]) => {
    if (name !== undefined) return { kind: "field", name, field: fields[name]! };
    return blank === undefined ? { kind: "text", text: text! } : { kind: "blank" };
  });
}
