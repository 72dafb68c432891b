// The binary form of a program: a header of 48 bytes, then 16 bytes for each instruction, all little-endian.
// Header: "LMMA", the version, the settings in their order, the number of instructions; each a word of 4 bytes, and zeros.
// An instruction has its opcode in bits 0 to 7 and its fields behind, as the table lays them out (row.ts); what is left is 0.
// A binary that is read is checked as a whole: unknown opcodes, values out of their lists and bits that should be 0 are
// found with the instruction's address and the field. Not here: text (asm.ts).

import { type Instruction, type Opcode } from "./instruction.ts";
import { OPCODES, rowOf, valueOf } from "./isa.ts";
import { checkProgram, MAX_INSTRUCTIONS, type Program, type ProgramProblem, SETTINGS } from "./program.ts";
import { type Slot, slotsOf, WORD_BITS } from "./row.ts";

const MAGIC = 0x414d_4d4c;
const VERSION = 1;
/** Bytes of an instruction. */
export const INSTRUCTION_BYTES: number = WORD_BITS / 8;
export const HEADER_BYTES = 48;
const NAMES = Object.keys(SETTINGS) as (keyof typeof SETTINGS)[];

const SLOTS = new Map(OPCODES.map((kind) => [kind, slotsOf(rowOf(kind))]));
const KINDS = new Map(OPCODES.map((kind) => [rowOf(kind).opcode, kind]));

/**
 * A program as bytes.
 * @throws RangeError where the program is not legal, as checkProgram says
 */
export function encode(program: Program): Uint8Array {
  const problem = checkProgram(program);
  if (problem !== null) throw new RangeError(problemText(problem, program.code));
  const bytes = new Uint8Array(HEADER_BYTES + INSTRUCTION_BYTES * program.code.length);
  const words = [MAGIC, VERSION, ...NAMES.map((name) => program[name]), program.code.length];
  const view = new DataView(bytes.buffer);
  for (const [w, word] of words.entries()) view.setUint32(4 * w, word, true);
  for (const [at, i] of program.code.entries()) {
    const start = HEADER_BYTES + INSTRUCTION_BYTES * at;
    bytes[start] = rowOf(i.kind).opcode;
    for (const slot of SLOTS.get(i.kind)!) putBits(bytes, 8 * start + slot.low, slot.width, codeOf(slot, i));
  }
  return bytes;
}

/** The program that the bytes encode, or the first thing that is wrong with them. */
export function decode(
  bytes: Uint8Array,
):
  | { readonly kind: "program"; readonly program: Program }
  | { readonly kind: "problem"; readonly problem: ProgramProblem } {
  const refuse = (at: number | null, field: string, message: string): ReturnType<typeof decode> => ({
    kind: "problem",
    problem: { at, field, message },
  });
  if (bytes.length < HEADER_BYTES)
    return refuse(null, "header", `${bytes.length} bytes, and a header has ${HEADER_BYTES}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const words = Array.from({ length: HEADER_BYTES / 4 }, (_, w) => view.getUint32(4 * w, true));
  const [magic, version, ...rest] = words;
  if (magic !== MAGIC) return refuse(null, "magic", `the bytes do not begin with "LMMA"`);
  if (version !== VERSION) return refuse(null, "version", `version ${version}, and this reads version ${VERSION}`);
  const settings = Object.fromEntries(NAMES.map((name, s) => [name, rest[s]!])) as Record<
    (typeof NAMES)[number],
    number
  >;
  const [length, ...reserved] = rest.slice(NAMES.length) as [number, ...number[]];
  if (reserved.some((word) => word !== 0)) return refuse(null, "reserved", "bits behind the header's fields are not 0");
  if (length > MAX_INSTRUCTIONS)
    return refuse(null, "length", `${length} instructions, and ${MAX_INSTRUCTIONS} is the most`);
  const wanted = HEADER_BYTES + INSTRUCTION_BYTES * length;
  if (bytes.length !== wanted)
    return refuse(null, "length", `${bytes.length} bytes, and ${length} instructions with their header have ${wanted}`);
  const code: Instruction[] = [];
  for (let at = 0; at < length; at++) {
    const start = HEADER_BYTES + INSTRUCTION_BYTES * at;
    const kind = KINDS.get(bytes[start]!);
    if (kind === undefined)
      return refuse(at, "opcode", `0x${bytes[start]!.toString(16).padStart(2, "0")} is no opcode`);
    const found = instructionAt(bytes, 8 * start, kind);
    if ("message" in found) return refuse(at, found.field, found.message);
    code.push(found);
  }
  const program = { ...settings, code };
  const problem = checkProgram(program);
  return problem === null ? { kind: "program", program } : { kind: "problem", problem };
}

/** `instruction 3 (lmma), field k: ...`, or `field warps: ...` of a setting. */
export function problemText({ at, field, message }: ProgramProblem, code: readonly Instruction[] = []): string {
  const kind = at === null ? undefined : code[at]?.kind;
  const where = at === null ? "" : `instruction ${at}${kind === undefined ? "" : ` (${kind})`}, `;
  return `${where}field ${field}: ${message}`;
}

function instructionAt(bytes: Uint8Array, at: number, kind: Opcode): Instruction | Omit<ProgramProblem, "at"> {
  const fields: Record<string, string | number> = {};
  let end = 8;
  for (const { name, field, low, width } of SLOTS.get(kind)!) {
    const code = bitsAt(bytes, at + low, width);
    end = low + width;
    if (field.kind === "choice") {
      const value = field.values[code];
      const most = field.values.length - 1;
      if (value === undefined) return { field: name, message: `code ${code}, and ${kind} has 0 to ${most}` };
      fields[name] = value;
    } else
      fields[name] = field.kind === "number" && field.least < 0 && code >= 2 ** (width - 1) ? code - 2 ** width : code;
  }
  for (; end < WORD_BITS; end += 32)
    if (bitsAt(bytes, at + end, Math.min(32, WORD_BITS - end)) !== 0)
      return { field: "reserved", message: `bits behind the fields of ${kind} are not 0` };
  return { kind, ...fields } as unknown as Instruction;
}

/** The bits of a field, from 0 up. */
function codeOf({ name, field, width }: Slot, i: Instruction): number {
  const value = valueOf(i, name);
  if (field.kind === "choice") return field.values.indexOf(value);
  return Number(value) < 0 ? Number(value) + 2 ** width : Number(value);
}

/** Writes up to 32 bits of zeroed bytes, bit b being bit b mod 8 of byte b div 8. */
function putBits(bytes: Uint8Array, at: number, width: number, value: number): void {
  for (let done = 0; done < width;) {
    const low = (at + done) % 8;
    const taken = Math.min(8 - low, width - done);
    bytes[(at + done) >> 3]! |= (Math.floor(value / 2 ** done) % 2 ** taken) << low;
    done += taken;
  }
}

function bitsAt(bytes: Uint8Array, at: number, width: number): number {
  let value = 0;
  for (let done = 0; done < width;) {
    const low = (at + done) % 8;
    const taken = Math.min(8 - low, width - done);
    value += ((bytes[(at + done) >> 3]! >> low) % 2 ** taken) * 2 ** done;
    done += taken;
  }
  return value;
}
