// The LMMA machine: runs programs, instruction by instruction, on buffers of memory, and counts what was executed.
// A program is made ready once for a mode, and can then be launched any number of times. What it reads outside its
// buffers, or from registers that nothing was written to, stops it with the instruction's address and the values.
// Not here: the arithmetic (lut.ts, adder.ts, dense.ts), what is legal before data are known (program.ts).

import { problemText } from "./binary.ts";
import { type Counts, counterOf } from "./counts.ts";
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
} from "./instruction.ts";
import { operandsOf } from "./isa.ts";
import { checkLaunch, type Fault, type Launch, stopOf, type Who } from "./launch.ts";
import { stepLmma, stepLmmaQuantised, stepPrecompute, stepQuantiseTable } from "./lut.ts";
import type { Mode } from "./mode.ts";
import { checkProgram, type Program } from "./program.ts";
import { newRegisters, type Registers } from "./registers.ts";

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

/** What a block runs on, made once for a program. */
interface Block {
  readonly warps: readonly Warp[];
  /** Those of its warps. */
  readonly spaces: (Memory | null)[];
  readonly shared: Memory;
}

/** Instructions that a launch may execute, and that it may still. */
interface Budget {
  readonly limit: number;
  left: number;
}

/** Behind g0 to g15. */
const SHARED: number = MAX_BUFFERS;

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
  const count = counterOf(code);
  const block = newBlock(program);
  return (launch) => {
    const executed = new Float64Array(code.length);
    const shared = run(program, ready, block, launch, executed);
    return count(executed, shared);
  };
}

/** All blocks, one after the other: strips of columns, in each row by row. Returns the shared bytes that one used. */
function run(
  program: Program,
  ready: readonly Ready[],
  { warps, spaces, shared }: Block,
  launch: Launch,
  executed: Float64Array,
): number {
  const { gridX, gridY, swizzle, code } = program;
  const limit = checkLaunch(program, launch);
  const budget: Budget = { limit, left: limit };
  for (const [b, bytes] of launch.buffers.entries()) spaces[b] = memoryOf(bytes);
  shared.used = 0;
  try {
    for (let strip = 0; strip < gridX; strip += swizzle) {
      for (let y = 0; y < gridY; y++) {
        for (let x = strip; x < Math.min(strip + swizzle, gridX); x++) {
          shared.bytes.fill(0);
          for (const [w, warp] of warps.entries()) begin(warp, launch.parameters, { warp: w, column: x, row: y });
          runBlock(warps, ready, executed, budget, code);
        }
      }
    }
  } finally {
    // A program that is kept keeps no one's buffers.
    spaces.fill(null, 0, SHARED);
  }
  return shared.used;
}

function newBlock(program: Program): Block {
  const shared = memoryOf(new Uint8Array(program.shared));
  const spaces = [...Array.from({ length: SHARED }, () => null), shared];
  const warps = Array.from({ length: program.warps }, () => ({
    registers: newRegisters(program.registers),
    scalars: new Uint32Array(32),
    starts: new Int32Array(MAX_LOOPS),
    rounds: new Float64Array(MAX_LOOPS),
    depth: 0,
    at: 0,
    spaces,
  }));
  return { warps, spaces, shared };
}

function memoryOf(bytes: Uint8Array): Memory {
  const { buffer, byteOffset, length } = bytes;
  const halves = new Uint16Array(buffer, byteOffset, length >> 1);
  return { bytes, halves, words: new Int32Array(buffer, byteOffset, length >> 2), used: 0 };
}

/** A warp at the beginning of a block: zeros, but for the launch's parameters and where it is. */
function begin(warp: Warp, parameters: readonly number[], who: Who): void {
  const { registers, scalars } = warp;
  registers.words.fill(0);
  registers.written.fill(0);
  scalars.fill(0);
  scalars.set(parameters);
  scalars[NAMED_SCALARS.bx] = who.column;
  scalars[NAMED_SCALARS.by] = who.row;
  scalars[NAMED_SCALARS.warp] = who.warp;
  warp.depth = 0;
  warp.at = 0;
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
        if (!(error instanceof Halt)) throw error;
        throw stopOf(code, warp.at, whoOf(warp), error.fault);
      }
    });
    const waiting = stops.findIndex((stop) => stop !== null);
    if (waiting === -1) return;
    const other = stops.findIndex((stop) => stop !== stops[waiting]);
    if (other === -1) continue;
    throw stopOf(code, stops[waiting]!, whoOf(block[waiting]!), { kind: "barrier", warp: other, at: stops[other]! });
  }
}

/** Ends the execution of a warp; runBlock adds where it was. */
class Halt extends Error {
  readonly fault: Fault;
  constructor(fault: Fault) {
    super(fault.kind);
    this.fault = fault;
  }
}

function whoOf({ scalars }: Warp): Who {
  const { bx, by, warp } = NAMED_SCALARS;
  return { warp: scalars[warp]!, column: scalars[bx]!, row: scalars[by]! };
}

/** Runs a warp to behind its next barrier, whose address it returns, or to its end: null. */
function runWarp(warp: Warp, ready: readonly Ready[], executed: Float64Array, budget: Budget): number | null {
  for (; warp.at < ready.length; warp.at++) {
    const step = ready[warp.at]!;
    if (budget.left === 0) throw new Halt({ kind: "limit", limit: budget.limit });
    budget.left--;
    executed[warp.at]!++;
    switch (step.kind) {
      case "work":
        step.run(warp);
        break;
      case "loop": {
        const rounds = (warp.scalars[step.count]! + step.times) % 2 ** 32;
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
        if (written[r] === 0) throw new Halt({ kind: "unwritten", field, register: r });
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
  if (memory === null || memory === undefined) throw new Halt({ kind: "no buffer" });
  const first = warp.scalars[i.base]! + i.offset;
  const behind = first + (rows - 1) * stride + rowBytes;
  if (first % 4 !== 0) throw new Halt({ kind: "off a word", first });
  const there = memory.bytes.length;
  if (behind > there) throw new Halt({ kind: "outside", first, there });
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
