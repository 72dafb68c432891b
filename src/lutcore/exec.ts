// The LMMA machine: runs programs, instruction by instruction, on buffers of memory, and counts what was executed.
// A program is made ready once for a mode, and can then be launched any number of times. What it reads outside its
// buffers, or from registers that nothing was written to, stops it with the instruction's address and the values.
// Not here: the arithmetic (lut.ts, adder.ts, dense.ts), what is legal before data are known (program.ts).

import { instructionText } from "./asm.ts";
import { problemText } from "./binary.ts";
import { addCounts, type Counts, countsOf, NO_COUNTS } from "./counts.ts";
import { type Step, stepClear, stepConvert, stepMma, stepQuantise, stepScale, stepSum } from "./dense.ts";
import { ELEMENT_BITS, REGISTER_BYTES, rowsOf } from "./fragment.ts";
import {
  type Instruction,
  type Lea,
  type LoadMatrix,
  MAX_BUFFERS,
  MAX_LOOPS,
  NAMED_SCALARS,
  type Register,
  type Space,
  WRITABLE_SCALARS,
} from "./instruction.ts";
import { operandsOf } from "./isa.ts";
import { stepLmma, stepLmmaQuantised, stepPrecompute, stepQuantiseTable } from "./lut.ts";
import type { Mode } from "./mode.ts";
import { checkProgram, type Program, registerName } from "./program.ts";
import { newRegisters, type Registers } from "./registers.ts";

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

/** A space of memory. */
interface Memory {
  readonly bytes: Uint8Array;
  readonly halves: Uint16Array;
  readonly words: Int32Array;
  /** Bytes up to the highest one that was used. */
  used: number;
}

interface Warp {
  readonly registers: Registers;
  readonly scalars: Uint32Array;
  /** First instructions of the loops that are open, and the rounds that are left of each. */
  readonly starts: Int32Array;
  readonly rounds: Float64Array;
  depth: number;
  /** The next instruction. */
  at: number;
  /** By the number of the space: g0 to g15, then shared. */
  readonly spaces: readonly (Memory | null)[];
}

/** Instructions that a launch may execute, and that it may still. */
interface Budget {
  readonly limit: number;
  left: number;
}

/** Behind g0 to g15. */
const SHARED: number = MAX_BUFFERS;
const MOST_SCALAR = 2 ** 32;

/** An instruction made ready. Loops, ends and barriers are steps of the machine itself. */
type Ready =
  | { readonly kind: "work"; readonly run: (warp: Warp) => void }
  | { readonly kind: "loop"; readonly count: number; readonly times: number; readonly behind: number }
  | { readonly kind: "end" }
  | { readonly kind: "bar" };

/**
 * Makes a program ready for a mode.
 * @returns what launches it, changes the buffers and says what was executed. It throws a MachineStop where the program
 * reads or writes what is not there, and a RangeError where the launch itself is wrong.
 * @throws RangeError with the first thing that checkProgram finds
 */
export function load(program: Program, mode: Mode): (launch: Launch) => Counts {
  const problem = checkProgram(program);
  if (problem !== null) throw new RangeError(problemText(problem, program.code));
  const { code } = program;
  const ready = code.map((i, at) => readyOf(i, at, code, mode));
  const costs = code.map(countsOf);
  return (launch) => {
    const executed = new Float64Array(code.length);
    const shared = run(program, ready, launch, executed);
    let counts: Counts = { ...NO_COUNTS, shared };
    for (const [at, cost] of costs.entries()) if (executed[at]! > 0) counts = addCounts(counts, cost, executed[at]);
    return counts;
  };
}

/** All blocks, one after the other: strips of columns, in each row by row. Returns the shared bytes that one used. */
function run(program: Program, ready: readonly Ready[], launch: Launch, executed: Float64Array): number {
  const { gridX, gridY, swizzle, warps, shared } = program;
  const spaces: (Memory | null)[] = [...globalSpaces(launch)];
  const scalars = parametersOf(launch);
  const limit = launch.limit ?? 2 ** 32;
  if (gridX * gridY * warps > limit)
    throw new RangeError(`${gridX} x ${gridY} blocks of ${warps} warps, and a limit of ${limit} executed instructions`);
  const budget: Budget = { limit, left: limit };
  let used = 0;
  for (let strip = 0; strip < gridX; strip += swizzle) {
    for (let y = 0; y < gridY; y++) {
      for (let x = strip; x < Math.min(strip + swizzle, gridX); x++) {
        spaces[SHARED] = memoryOf(new Uint8Array(shared));
        const block = Array.from({ length: warps }, (_, w) => newWarp(program, scalars, x, y, w, spaces));
        runBlock(block, ready, executed, budget, program.code);
        used = Math.max(used, spaces[SHARED].used);
      }
    }
  }
  return used;
}

function globalSpaces({ buffers }: Launch): readonly (Memory | null)[] {
  if (buffers.length > SHARED) throw new RangeError(`${buffers.length} buffers, and there are g0 to g${SHARED - 1}`);
  return Array.from({ length: SHARED }, (_, b) => {
    const bytes = buffers[b];
    if (bytes !== undefined && bytes.byteOffset % 4 !== 0)
      throw new RangeError(`g${b} begins at byte ${bytes.byteOffset} of its ArrayBuffer, which is no multiple of 4`);
    return bytes === undefined ? null : memoryOf(bytes);
  });
}

function memoryOf(bytes: Uint8Array): Memory {
  const { buffer, byteOffset, length } = bytes;
  const halves = new Uint16Array(buffer, byteOffset, length >> 1);
  return { bytes, halves, words: new Int32Array(buffer, byteOffset, length >> 2), used: 0 };
}

function parametersOf({ parameters }: Launch): Uint32Array {
  if (parameters.length > WRITABLE_SCALARS)
    throw new RangeError(`${parameters.length} parameters, and there are s0 to s${WRITABLE_SCALARS - 1}`);
  for (const [s, value] of parameters.entries()) {
    if (!Number.isInteger(value) || value < 0 || value >= MOST_SCALAR)
      throw new RangeError(`parameter s${s} is ${value}, and not a whole number from 0 to ${MOST_SCALAR - 1}`);
  }
  const scalars = new Uint32Array(32);
  scalars.set(parameters);
  return scalars;
}

function newWarp(
  program: Program,
  parameters: Uint32Array,
  x: number,
  y: number,
  warp: number,
  spaces: readonly (Memory | null)[],
): Warp {
  const scalars = parameters.slice();
  scalars[NAMED_SCALARS.bx] = x;
  scalars[NAMED_SCALARS.by] = y;
  scalars[NAMED_SCALARS.warp] = warp;
  return {
    registers: newRegisters(program.registers),
    scalars,
    starts: new Int32Array(MAX_LOOPS),
    rounds: new Float64Array(MAX_LOOPS),
    depth: 0,
    at: 0,
    spaces,
  };
}

/** The warps of a block, each up to its next barrier, until all have ended. */
function runBlock(
  block: readonly Warp[],
  ready: readonly Ready[],
  executed: Float64Array,
  budget: Budget,
  code: readonly Instruction[],
): void {
  for (;;) {
    const stops = block.map((warp) => {
      try {
        return runWarp(warp, ready, executed, budget);
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        throw stopOf(warp, warp.at, code, error.message);
      }
    });
    const waiting = stops.findIndex((stop) => stop !== null);
    if (waiting === -1) return;
    const other = stops.findIndex((stop) => stop !== stops[waiting]);
    if (other === -1) continue;
    const at = stops[waiting]!;
    const where = stops[other] === null ? "has ended" : `waits at instruction ${stops[other]}`;
    throw stopOf(block[waiting]!, at, code, `warp ${other} of the block ${where}`);
  }
}

/** What is wrong with an execution; runBlock adds where it was. */
class Fault extends Error {}

function stopOf({ scalars }: Warp, at: number, code: readonly Instruction[], message: string): MachineStop {
  const { bx, by, warp } = NAMED_SCALARS;
  const who = `warp ${scalars[warp]} of block (${scalars[bx]}, ${scalars[by]})`;
  return new MachineStop(at, `instruction ${at} (${instructionText(code[at]!)}), ${who}: ${message}`);
}

/** Runs a warp to behind its next barrier, whose address it returns, or to its end: null. */
function runWarp(warp: Warp, ready: readonly Ready[], executed: Float64Array, budget: Budget): number | null {
  for (; warp.at < ready.length; warp.at++) {
    const step = ready[warp.at]!;
    if (budget.left === 0) throw new Fault(`${budget.limit} instructions were executed, the limit of this launch`);
    budget.left--;
    executed[warp.at]!++;
    switch (step.kind) {
      case "work":
        step.run(warp);
        break;
      case "loop": {
        const rounds = (warp.scalars[step.count]! + step.times) % MOST_SCALAR;
        if (rounds === 0) {
          warp.at = step.behind;
          break;
        }
        warp.starts[warp.depth] = warp.at;
        warp.rounds[warp.depth] = rounds;
        warp.depth++;
        break;
      }
      case "end": {
        const inner = warp.depth - 1;
        warp.rounds[inner]!--;
        if (warp.rounds[inner]! > 0) warp.at = warp.starts[inner]!;
        else warp.depth = inner;
        break;
      }
      case "bar":
        return warp.at++;
    }
  }
  return null;
}

function readyOf(i: Instruction, at: number, code: readonly Instruction[], mode: Mode): Ready {
  switch (i.kind) {
    case "loop":
      return { kind: "loop", count: i.count, times: i.times, behind: endOf(at, code) };
    case "end":
      return { kind: "end" };
    case "bar":
      return { kind: "bar" };
    case "lea":
      return { kind: "work", run: (warp) => addScalars(i, warp.scalars) };
    default:
      return { kind: "work", run: guarded(i, workOf(i, mode)) };
  }
}

/** The `end` of a loop, which checkProgram has seen. */
function endOf(loop: number, code: readonly Instruction[]): number {
  let open = 0;
  for (let at = loop; ; at++) {
    if (code[at]!.kind === "loop") open++;
    if (code[at]!.kind === "end" && --open === 0) return at;
  }
}

/** left * factor + right + addend modulo 2^32: Math.imul is a product modulo 2^32, and an array of 32 bits keeps no more. */
function addScalars({ to, left, factor, right, addend }: Lea, scalars: Uint32Array): void {
  scalars[to] = Math.imul(scalars[left]!, factor) + scalars[right]! + addend;
}

/** Refuses registers that nothing was written to, and marks those that are written. */
function guarded(i: Instruction, work: (warp: Warp) => void): (warp: Warp) => void {
  const operands = operandsOf(i);
  const reads = operands.filter(({ access }) => access === "read");
  const writes = operands.filter(({ access }) => access === "write");
  return (warp) => {
    const { written } = warp.registers;
    for (const { field, register, registers } of reads) {
      for (let r = register; r < register + registers; r++) {
        if (written[r] === 0) throw new Fault(`${field} reads ${registerName(r)}, and nothing was written to it`);
      }
    }
    work(warp);
    for (const { register, registers } of writes) written.fill(1, register, register + registers);
  };
}

type Worker = Exclude<Instruction, { readonly kind: "lea" | "loop" | "end" | "bar" }>;

function workOf(i: Worker, mode: Mode): (warp: Warp) => void {
  switch (i.kind) {
    case "ld.mat":
      return i.order === "rows" ? loadRows(i, i.stride) : loadColumns(i);
    case "ld.tab":
      return loadRows(i, i.stride);
    case "ld.wgt":
      return loadRows(i, 0);
    case "st.mat":
    case "st.tab":
      return storeRows(i);
    default: {
      const step = stepOf(i, mode);
      return ({ registers }) => step(registers);
    }
  }
}

type Computer = Exclude<Worker, { readonly space: Space }>;

function stepOf(i: Computer, mode: Mode): Step {
  switch (i.kind) {
    case "lut":
      return stepPrecompute(i, mode);
    case "lutq":
      return stepQuantiseTable(i);
    case "lmma":
      return stepLmma(i, mode);
    case "lmmaq":
      return stepLmmaQuantised(i, mode);
    case "mma":
      return stepMma(i, mode);
    case "asum":
      return stepSum(i, mode);
    case "sacc":
    case "zacc":
      return stepScale(i, mode);
    case "clr":
      return stepClear(i);
    case "cvt":
      return stepConvert(i);
    case "quant":
      return stepQuantise(i);
  }
}

type Mover = Extract<Instruction, { readonly space: Space }>;

/** Where in its memory an access to `rows` pieces of `rowBytes` begins. They must be there as a whole. */
function placeOf(i: Mover, warp: Warp, space: number, rows: number, rowBytes: number, stride: number): number {
  const memory = warp.spaces[space];
  if (memory === null || memory === undefined) throw new Fault(`the launch has no buffer ${i.space}`);
  const first = warp.scalars[i.base]! + i.offset;
  const behind = first + (rows - 1) * stride + rowBytes;
  if (first % 4 !== 0) throw new Fault(`it begins at byte ${first} of ${i.space}, which is no multiple of 4`);
  if (behind > memory.bytes.length) {
    const how = rows === 1 ? "" : ` (${rows} times ${rowBytes}, ${stride} apart)`;
    throw new Fault(`it takes bytes ${first} to ${behind - 1}${how} of ${i.space}, which has ${memory.bytes.length}`);
  }
  memory.used = Math.max(memory.used, behind);
  return first;
}

function spaceOf({ space }: Mover): number {
  return space === "shared" ? SHARED : Number(space.slice(1));
}

function loadRows(i: Extract<Mover, { readonly to: Register }>, stride: number): (warp: Warp) => void {
  const { rows, rowBytes } = rowsOf(operandsOf(i)[0]!.fragment);
  const to = (i.to * REGISTER_BYTES) / 4;
  const space = spaceOf(i);
  return (warp) => {
    const from = placeOf(i, warp, space, rows, rowBytes, stride) / 4;
    copyRows(warp.spaces[space]!.words, from, stride / 4, warp.registers.words, to, rowBytes / 4, rows, rowBytes / 4);
  };
}

function storeRows(i: Extract<Mover, { readonly from: Register }>): (warp: Warp) => void {
  const { rows, rowBytes } = rowsOf(operandsOf(i)[0]!.fragment);
  const from = (i.from * REGISTER_BYTES) / 4;
  const space = spaceOf(i);
  return (warp) => {
    const to = placeOf(i, warp, space, rows, rowBytes, i.stride) / 4;
    copyRows(warp.registers.words, from, rowBytes / 4, warp.spaces[space]!.words, to, i.stride / 4, rows, rowBytes / 4);
  };
}

/** Rows of `count` words that lie `fromStride` and `toStride` words apart. */
function copyRows(
  source: Int32Array,
  from: number,
  fromStride: number,
  target: Int32Array,
  to: number,
  toStride: number,
  rows: number,
  count: number,
): void {
  for (let row = 0; row < rows; row++) {
    const a = from + row * fromStride;
    const b = to + row * toStride;
    // A view costs as much as copying a few words.
    if (count > 32) target.set(source.subarray(a, a + count), b);
    else for (let word = 0; word < count; word++) target[b + word] = source[a + word]!;
  }
}

/** Memory that holds the transpose: a column of the fragment is a row of memory. */
function loadColumns(i: LoadMatrix): (warp: Warp) => void {
  const { rows, columns, element, stride, to } = i;
  const size = ELEMENT_BITS[element] / 8;
  const view = size === 1 ? "bytes" : size === 2 ? "halves" : "words";
  const space = spaceOf(i);
  return (warp) => {
    const first = placeOf(i, warp, space, columns, rows * size, stride) / size;
    const source = warp.spaces[space]![view];
    const target = warp.registers[view];
    const start = (to * REGISTER_BYTES) / size;
    for (let column = 0; column < columns; column++) {
      const from = first + (column * stride) / size;
      for (let row = 0; row < rows; row++) target[start + row * columns + column] = source[from + row]!;
    }
  };
}
