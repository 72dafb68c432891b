// A launch of a program: what it is given, what is refused before anything runs, and how a program stops on its way. One
// place for the words of all this, whichever machine runs programs: exec.ts here, gpu/lmma.ts on a GPU.
// Not here: what is wrong with a program whatever its launch (program.ts), who finds that it must stop.

import { instructionText } from "./asm.ts";
import { rowsOf } from "./fragment.ts";
import { type Instruction, MAX_BUFFERS, type Register, type Space, WRITABLE_SCALARS } from "./instruction.ts";
import { operandsOf } from "./isa.ts";
import { type Program, registerName } from "./program.ts";

export interface Launch {
  /** The first scalars of each warp: at most 28 whole numbers from 0 to 2^32 - 1. */
  readonly parameters: readonly number[];
  /** g0, g1 ...: each begins at a multiple of 4 bytes of its ArrayBuffer. Stores change them. */
  readonly buffers: readonly Uint8Array[];
  /** How many instructions may be executed before the launch is stopped: loops can be endless in effect. 2^32 if absent. */
  readonly limit?: number;
}

/** A program that stopped at an instruction, counted from 0. The message says which, where and why, with the values. */
export class MachineStop extends Error {
  readonly at: number;
  constructor(at: number, message: string) {
    super(message);
    this.at = at;
  }
}

/** Why a warp could not execute an instruction. */
export type Fault =
  | { readonly kind: "limit"; readonly limit: number }
  | { readonly kind: "unwritten"; readonly field: string; readonly register: Register }
  /** `at`: the barrier where the other warp waits, or null where it has ended. */
  | { readonly kind: "barrier"; readonly warp: number; readonly at: number | null }
  | { readonly kind: "no buffer" }
  /** `first`: the byte of the space where the access begins. */
  | { readonly kind: "off a word"; readonly first: number }
  | { readonly kind: "outside"; readonly first: number; readonly there: number };

/** A warp of a block in the grid. */
export interface Who {
  readonly warp: number;
  readonly column: number;
  readonly row: number;
}

const MOST_SCALAR = 2 ** 32 - 1;
const USUAL_LIMIT = 2 ** 32;

/**
 * Whether a launch may be.
 * @returns how many instructions it may execute
 * @throws RangeError with the first thing that is wrong, and its values
 */
export function checkLaunch({ gridX, gridY, warps }: Program, launch: Launch): number {
  const { parameters, buffers, limit = USUAL_LIMIT } = launch;
  if (buffers.length > MAX_BUFFERS)
    throw new RangeError(`${buffers.length} buffers, and there are g0 to g${MAX_BUFFERS - 1}`);
  for (const [b, { byteOffset }] of buffers.entries()) {
    if (byteOffset % 4 !== 0)
      throw new RangeError(`g${b} begins at byte ${byteOffset} of its ArrayBuffer, which is no multiple of 4`);
  }
  if (parameters.length > WRITABLE_SCALARS)
    throw new RangeError(`${parameters.length} parameters, and there are s0 to s${WRITABLE_SCALARS - 1}`);
  for (const [s, value] of parameters.entries()) {
    if (!Number.isInteger(value) || value < 0 || value > MOST_SCALAR)
      throw new RangeError(`parameter s${s} is ${value}, and not a whole number from 0 to ${MOST_SCALAR}`);
  }
  // So that a grid of programs without instructions ends in time, too.
  if (gridX * gridY * warps > limit)
    throw new RangeError(`${gridX} x ${gridY} blocks of ${warps} warps, and a limit of ${limit} executed instructions`);
  return limit;
}

/** The stop of a warp at an instruction. */
export function stopOf(
  code: readonly Instruction[],
  at: number,
  { warp, column, row }: Who,
  fault: Fault,
): MachineStop {
  const i = code[at]!;
  const who = `warp ${warp} of block (${column}, ${row})`;
  return new MachineStop(at, `instruction ${at} (${instructionText(i)}), ${who}: ${reasonOf(i, fault)}`);
}

function reasonOf(i: Instruction, fault: Fault): string {
  switch (fault.kind) {
    case "limit":
      return `${fault.limit} instructions were executed, the limit of this launch`;
    case "unwritten":
      return `${fault.field} reads ${registerName(fault.register)}, and nothing was written to it`;
    case "barrier": {
      const where = fault.at === null ? "has ended" : `waits at instruction ${fault.at}`;
      return `warp ${fault.warp} of the block ${where}`;
    }
    case "no buffer":
    case "off a word":
    case "outside":
      if (!("space" in i)) throw new Error(`${i.kind} was stopped for an access to memory`);
      return accessText(i, fault);
  }
}

type Mover = Extract<Instruction, { readonly space: Space }>;

function accessText(
  i: Mover,
  fault: Extract<Fault, { readonly kind: "no buffer" | "off a word" | "outside" }>,
): string {
  if (fault.kind === "no buffer") return `the launch has no buffer ${i.space}`;
  const { first } = fault;
  if (fault.kind === "off a word") return `it begins at byte ${first} of ${i.space}, which is no multiple of 4`;
  const { rows, rowBytes } = rowsOf(operandsOf(i)[0]!.fragment);
  // Memory that holds the transpose has a piece for each column.
  const pieces = i.kind === "ld.mat" && i.order === "columns" ? i.columns : rows;
  const bytes = (rows * rowBytes) / pieces;
  const stride = "stride" in i ? i.stride : 0;
  const last = first + (pieces - 1) * stride + bytes - 1;
  const how = pieces === 1 ? "" : ` (${pieces} times ${bytes}, ${stride} apart)`;
  return `it takes bytes ${first} to ${last}${how} of ${i.space}, which has ${fault.there}`;
}
