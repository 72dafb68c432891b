// A program of the LMMA machine, and what must hold of it before it may run: each instruction for itself, its registers
// and buffers among those that the program has, and loops that close. A program that passes can stop for its addresses,
// or for registers that nothing was written to, and for nothing else.
// Not here: what depends on data (exec.ts), text and bytes (asm.ts, binary.ts).

import { bytesOf, type Fragment, fragmentName, MAX_FRAGMENT_REGISTERS, registersOf, rowsOf } from "./fragment.ts";
import {
  type Instruction,
  MAX_BUFFERS,
  MAX_LOOPS,
  ONE,
  type Register,
  REGISTER_COUNT,
  type Scalar,
  WRITABLE_SCALARS,
  ZERO,
} from "./instruction.ts";
import { operandsOf, rowOf, valueOf } from "./isa.ts";
import type { Field, Problem } from "./row.ts";

/** One launch: a grid of blocks of warps, each of which runs `code` from the first instruction on. */
export interface Program {
  readonly gridX: number;
  readonly gridY: number;
  /** Blocks run in strips of so many columns of the grid, each strip row by row, so that neighbours share what they read. */
  readonly swizzle: number;
  /** Of a block. */
  readonly warps: number;
  /** Of a warp. */
  readonly registers: number;
  /** Bytes of a block. */
  readonly shared: number;
  /** Global buffers g0, g1 ... */
  readonly buffers: number;
  readonly code: readonly Instruction[];
}

/** A number of a program beside its code; `plain` where a text does not give it. */
interface Setting {
  readonly least: number;
  readonly most: number;
  readonly plain: number;
  readonly what: string;
}

/** The numbers of a program beside its code, in the order in which they are written and encoded. */
export const SETTINGS: Readonly<Record<Exclude<keyof Program, "code">, Setting>> = {
  gridX: { least: 1, most: 65_535, plain: 1, what: "columns of the grid of blocks" },
  gridY: { least: 1, most: 65_535, plain: 1, what: "rows of the grid of blocks" },
  swizzle: { least: 1, most: 65_535, plain: 1, what: "columns of the strips in which blocks run" },
  warps: { least: 1, most: 32, plain: 1, what: "warps of a block" },
  registers: { least: 1, most: REGISTER_COUNT, plain: 255, what: "registers of a warp, of 128 bytes each" },
  shared: { least: 0, most: 167_936, plain: 0, what: "bytes that the warps of a block share; an A100 has 164 KiB" },
  buffers: { least: 0, most: MAX_BUFFERS, plain: MAX_BUFFERS, what: "global buffers, from g0 up" },
};

/** An encoding counts instructions in 32 bits; this many fill 16 MiB. */
export const MAX_INSTRUCTIONS: number = 2 ** 20;

/** What is wrong with a program: at an instruction, counted from 0, or with a setting where that is null. */
export interface ProgramProblem extends Problem {
  readonly at: number | null;
}

/** The first thing that is wrong with an instruction whatever the program, or null. */
export function checkInstruction(i: Instruction): Problem | null {
  const row = rowOf(i.kind);
  for (const [name, field] of Object.entries(row.fields)) {
    const message = checkField(field, valueOf(i, name));
    if (message !== null) return { field: name, message };
  }
  return row.illegal(i) ?? checkFragments(i);
}

/** The first thing that is wrong with a program, or null. */
export function checkProgram(program: Program): ProgramProblem | null {
  for (const [field, { least, most, what }] of Object.entries(SETTINGS)) {
    const value = program[field as keyof typeof SETTINGS];
    if (!Number.isInteger(value) || value < least || value > most)
      return { at: null, field, message: `${value} is not ${least} to ${most} (${what})` };
  }
  const { length } = program.code;
  if (length > MAX_INSTRUCTIONS)
    return { at: null, field: "code", message: `${length} instructions, and ${MAX_INSTRUCTIONS} is the most` };
  const open: number[] = [];
  for (const [at, i] of program.code.entries()) {
    const problem = checkInstruction(i) ?? checkRoom(i, program);
    if (problem !== null) return { at, ...problem };
    if (i.kind === "loop" && open.push(at) > MAX_LOOPS)
      return { at, field: "kind", message: `${open.length} loops in one another, and ${MAX_LOOPS} is the most` };
    if (i.kind === "end" && open.pop() === undefined)
      return { at, field: "kind", message: "this end has no loop before it" };
  }
  const [unclosed] = open;
  return unclosed === undefined ? null : { at: unclosed, field: "kind", message: "this loop has no end" };
}

/** `r12`, `zero` or `one`. */
export function registerName(register: Register): string {
  return register === ZERO ? "zero" : register === ONE ? "one" : `r${register}`;
}

function checkField(field: Field, value: string | number | undefined): string | null {
  switch (field.kind) {
    case "choice":
      return field.values.includes(value!) ? null : `${value} is none of ${field.values.join(", ")}`;
    case "number": {
      const { least, most, multipleOf } = field;
      if (!Number.isInteger(value) || Number(value) < least || Number(value) > most)
        return `${value} is not ${least} to ${most}`;
      return Number(value) % multipleOf === 0 ? null : `${value} is no multiple of ${multipleOf}`;
    }
    case "scalar":
      return checkScalar(field.access, value as Scalar);
    case "register": {
      const register = value as Register;
      if (Number.isInteger(register) && register >= 0 && register < REGISTER_COUNT) return null;
      if (field.blank.includes(register)) return null;
      const blank = field.blank.map((b) => ` or ${registerName(b)}`).join("");
      const shown = register === ZERO || register === ONE ? registerName(register) : String(value);
      return `${shown} is not r0 to r${REGISTER_COUNT - 1}${blank}`;
    }
  }
}

function checkScalar(access: "read" | "write", value: Scalar): string | null {
  const most = access === "write" ? WRITABLE_SCALARS : 32;
  if (Number.isInteger(value) && value >= 0 && value < most) return null;
  return access === "write"
    ? `only s0 to s${WRITABLE_SCALARS - 1} can be written`
    : `${value} is no scalar: there are s0 to s${WRITABLE_SCALARS - 1}, bx, by, warp and nil`;
}

/** Fragments of whole words that are not too large, and destinations that overwrite nothing that is still read. */
function checkFragments(i: Instruction): Problem | null {
  const operands = operandsOf(i);
  for (const { field, register, registers, fragment } of operands) {
    const { rowBytes } = rowsOf(fragment);
    if (rowBytes % 4 !== 0)
      return { field, message: `a row of ${fragmentName(fragment)} has ${rowBytes} bytes, no whole words of 4` };
    if (registers > MAX_FRAGMENT_REGISTERS) return { field, message: tooLarge(i, fragment) };
    if (register + registers > REGISTER_COUNT)
      return {
        field,
        message: `${extent(register, registers)} of ${fragmentName(fragment)} is beyond r${REGISTER_COUNT - 1}`,
      };
  }
  const fields = rowOf(i.kind).fields;
  for (const [o, to] of operands.entries()) {
    if (to.access === "read") continue;
    for (const [p, other] of operands.entries()) {
      if (p === o || to.register >= other.register + other.registers || other.register >= to.register + to.registers)
        continue;
      const field = fields[other.field]!;
      const same = to.register === other.register && bytesOf(to.fragment) === bytesOf(other.fragment);
      if (field.kind === "register" && field.inPlace && same) continue;
      const [a, b] = [extent(to.register, to.registers), extent(other.register, other.registers)];
      return { field: to.field, message: `${a} overlaps ${other.field}, ${b}, and is written while that is in use` };
    }
  }
  return null;
}

/** With the sizes that would do, one changed at a time. */
function tooLarge(i: Instruction, fragment: Fragment): string {
  const fits = (changed: Instruction): boolean =>
    operandsOf(changed).every(({ registers }) => registers <= MAX_FRAGMENT_REGISTERS);
  const ways = Object.entries(rowOf(i.kind).fields).flatMap(([name, field]) => {
    if (field.kind !== "choice" || typeof field.values[0] !== "number") return [];
    const values = field.values.filter((value) => fits({ ...i, [name]: value }));
    return values.length === 0 ? [] : [`${name} ${values.join(", ")}`];
  });
  const hint = ways.length === 0 ? "" : `; legal here: ${ways.join("; or ")}`;
  return `${fragmentName(fragment)} fills ${registersOf(fragment)} registers, and an operand has at most ${MAX_FRAGMENT_REGISTERS}${hint}`;
}

function extent(register: Register, registers: number): string {
  return registers === 1 ? `r${register}` : `r${register} to r${register + registers - 1}`;
}

/** Registers and buffers that the program has. */
function checkRoom(i: Instruction, { registers, buffers, shared }: Program): Problem | null {
  for (const { field, register, registers: count, fragment } of operandsOf(i)) {
    if (register + count <= registers) continue;
    const message = `${fragmentName(fragment)} fills ${extent(register, count)}, and the program has ${registers} registers`;
    return { field, message };
  }
  if (!("space" in i)) return null;
  if (i.space === "shared")
    return shared > 0 ? null : { field: "space", message: "the program has no shared memory: .shared gives it some" };
  const buffer = Number(i.space.slice(1));
  if (buffer < buffers) return null;
  return {
    field: "space",
    message: `${i.space} is not there: the program has ${buffers} buffer${buffers === 1 ? "" : "s"}`,
  };
}
