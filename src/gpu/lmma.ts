// The LMMA machine on a WebGPU device: takes encoded programs with their buffers there, runs shaders/lmma.wgsl on as many
// launches at once as there are, and takes back what they stored and counted. Bit for bit src/lutcore/exec.ts in the modes
// paper and rtl; ideal needs numbers wider than a GPU has, and stays there.
// A launch is one workgroup, whose blocks run in their order, so that also programs whose blocks read what others store
// mean the same. A dispatch leaves off after some instructions and the next goes on, as drivers end those that take long.
// Not here: what instructions do (lmma.wgsl), the constants of the tables (prelude.ts), where a device comes from.

/// <reference types="@webgpu/types" />

import { encode } from "../lutcore/binary.ts";
import { type Counts, counterOf } from "../lutcore/counts.ts";
import { type Fragment, REGISTER_BYTES, rowsOf } from "../lutcore/fragment.ts";
import { type Instruction, MAX_BUFFERS } from "../lutcore/instruction.ts";
import { operandsOf } from "../lutcore/isa.ts";
import { checkLaunch, type Fault, type Launch, MachineStop, stopOf } from "../lutcore/launch.ts";
import type { Mode } from "../lutcore/mode.ts";
import type { Program } from "../lutcore/program.ts";
import {
  BUFFER_WORDS,
  elementNumber,
  INDEX_WORDS,
  LAUNCH,
  LAUNCH_WORDS,
  lmmaPrelude,
  MAX_OPERANDS,
  NO_BUFFER,
  QUIRKS,
  REPORT,
  STATES,
  WARP_WORDS,
} from "./prelude.ts";

/** Instructions of a launch in one dispatch: drivers end what takes seconds, and an instruction takes a millisecond at most. */
const TURNS = 512;
/** GPUBufferUsage and GPUMapMode.READ of the WebGPU specification: globals that Node has not. */
const USAGE = { MAP_READ: 0x1, COPY_SRC: 0x4, COPY_DST: 0x8, UNIFORM: 0x40, STORAGE: 0x80 } as const;
const MAP_MODE_READ = 0x1;
/** A launch counts down in 32 bits. */
const MOST_LIMIT = 2 ** 32 - 1;

/** The files of shaders/ that are the machine, behind the prelude; in any order. */
export const LMMA_BODIES = ["real", "lmma-compute", "lmma"] as const;

/** A program with one launch of it. */
export interface Run {
  readonly program: Program;
  readonly launch: Launch;
}

export interface LmmaMachine {
  /**
   * As `load` of src/lutcore/exec.ts, but that the launch is waited for: buffers are changed in place when it ends or stops.
   * Buffers that share bytes are refused where the program stores to one of them.
   * @throws RangeError with the first thing that is wrong with the program, or for the mode ideal
   */
  readonly load: (program: Program, mode: Mode) => (launch: Launch) => Promise<Counts>;
  /**
   * Many at once, none of which may depend on another. A program that stops is a MachineStop in its place.
   * @throws RangeError where a program or launch is wrong, or needs more memory than the device binds; nothing is run then
   */
  readonly runAll: (runs: readonly Run[], mode: Mode) => Promise<readonly (Counts | MachineStop)[]>;
}

/**
 * The machine on a device, which stays the caller's.
 * @param body the texts of the files LMMA_BODIES, one behind the other
 * @throws GPUPipelineError where the device cannot have it
 */
export async function lmmaMachine(device: GPUDevice, body: string): Promise<LmmaMachine> {
  const module = device.createShaderModule({ code: lmmaPrelude() + body });
  const pipeline = await device.createComputePipelineAsync({
    layout: "auto",
    compute: { module, entryPoint: "lmma" },
  });
  const runAll: LmmaMachine["runAll"] = async (runs, mode) => {
    const quirks = quirkBits(mode);
    const made = new Map<Program, Ready>();
    for (const { program } of runs) if (!made.has(program)) made.set(program, readyOf(program));
    const starts = runs.map(({ program, launch }) => startOf(made.get(program)!, launch));
    refuseShared(starts);
    const results: (Counts | MachineStop)[] = [];
    for (const batch of batchesOf(starts, device.limits))
      results.push(...(await dispatch(device, pipeline, batch, quirks)));
    return results;
  };
  const load: LmmaMachine["load"] = (program, mode) => {
    const quirks = quirkBits(mode);
    const ready = readyOf(program);
    return async (launch) => {
      const start = startOf(ready, launch);
      refuseShared([start]);
      const [batch] = batchesOf([start], device.limits);
      const [result] = await dispatch(device, pipeline, batch!, quirks);
      if (result instanceof MachineStop) throw result;
      return result!;
    };
  };
  return { load, runAll };
}

function quirkBits(mode: Mode): number {
  switch (mode.kind) {
    case "ideal":
      throw new RangeError("the mode ideal needs numbers that are wider than a GPU's: paper and rtl run there");
    case "paper":
      return 0;
    case "rtl":
      return QUIRKS.reduce((bits, quirk, q) => bits + (mode.quirks[quirk] ? 2 ** q : 0), 0);
  }
}

// --- programs ------------------------------------------------------------------------------------------------------------

/** A program made ready once. */
interface Ready {
  readonly program: Program;
  /** As it is encoded, and the index behind it. */
  readonly words: Uint32Array;
  readonly count: ReturnType<typeof counterOf>;
  /** Whether the program reads or stores g0, g1 ... */
  readonly reads: readonly boolean[];
  readonly stores: readonly boolean[];
  /** Bytes of the warps of a block, and of what they share. */
  readonly scratchBytes: number;
}

function readyOf(program: Program): Ready {
  const { code, warps, registers, shared } = program;
  const encoded = encode(program);
  const instructions = encoded.byteLength / 4;
  const words = new Uint32Array(instructions + INDEX_WORDS * code.length);
  words.set(new Uint32Array(encoded.buffer));
  const ends = loopEnds(code);
  for (const [at, i] of code.entries()) words.set(indexOf(i, ends.get(at) ?? 0), instructions + INDEX_WORDS * at);
  const uses = (kinds: string): boolean[] =>
    Array.from({ length: MAX_BUFFERS }, (_, b) =>
      code.some((i) => "space" in i && i.space === `g${b}` && i.kind.startsWith(kinds)),
    );
  return {
    program,
    words,
    count: counterOf(code),
    reads: uses("ld."),
    stores: uses("st."),
    scratchBytes: warps * (4 * WARP_WORDS + registers * REGISTER_BYTES) + Math.ceil(shared / 4) * 4,
  };
}

/** The addresses of loops' ends by those of the loops. */
function loopEnds(code: readonly Instruction[]): ReadonlyMap<number, number> {
  const ends = new Map<number, number>();
  const open: number[] = [];
  for (const [at, { kind }] of code.entries()) {
    if (kind === "loop") open.push(at);
    if (kind === "end") ends.set(open.pop()!, at);
  }
  return ends;
}

/** What the machine has to know of an instruction beside its fields. */
function indexOf(i: Instruction, end: number): readonly number[] {
  const operands = operandsOf(i);
  const words = operands.map(
    ({ register, registers, access }) => register + registers * 2 ** 16 + (access === "write" ? 2 ** 31 : 0),
  );
  while (words.length < MAX_OPERANDS) words.push(0);
  const [first] = operands;
  if (first === undefined) return [...words, 0, 0, end];
  const { rows, rowBytes } = rowsOf(first.fragment);
  return [...words, rows, rowBytes, elementOf(first.fragment)];
}

/** By its number in the prelude; weights are moved as words, whatever they are. */
function elementOf(fragment: Fragment): number {
  switch (fragment.kind) {
    case "matrix":
      return elementNumber(fragment.element);
    case "table":
      return elementNumber(fragment.entry);
    case "weights":
      return 0;
  }
}

// --- launches ------------------------------------------------------------------------------------------------------------

/** A launch that may be: its numbers are right by themselves. */
interface Start {
  readonly ready: Ready;
  readonly launch: Launch;
  readonly limit: number;
  /** Those of its buffers that the program uses. */
  readonly pieces: readonly Piece[];
}

interface Piece {
  readonly buffer: number;
  readonly bytes: Uint8Array;
  readonly isRead: boolean;
  readonly isStored: boolean;
}

function startOf(ready: Ready, launch: Launch): Start {
  const limit = Math.min(checkLaunch(ready.program, launch), MOST_LIMIT);
  const pieces = launch.buffers.flatMap((bytes, buffer): Piece[] => {
    const isRead = ready.reads[buffer]!;
    const isStored = ready.stores[buffer]!;
    return isRead || isStored ? [{ buffer, bytes, isRead, isStored }] : [];
  });
  return { ready, launch, limit, pieces };
}

/** The device has a copy of each buffer, so that what is stored to one would not be seen in another. */
function refuseShared(starts: readonly Start[]): void {
  const owners = new Map<ArrayBufferLike, { readonly name: string; readonly piece: Piece }[]>();
  for (const [s, { pieces }] of starts.entries()) {
    for (const piece of pieces) {
      const name = starts.length === 1 ? `g${piece.buffer}` : `g${piece.buffer} of launch ${s}`;
      const list = owners.get(piece.bytes.buffer);
      if (list === undefined) owners.set(piece.bytes.buffer, [{ name, piece }]);
      else list.push({ name, piece });
    }
  }
  for (const list of owners.values()) {
    list.sort((a, b) => a.piece.bytes.byteOffset - b.piece.bytes.byteOffset);
    // The piece that reaches farthest of those before, and of those that are stored to.
    let any: (typeof list)[number] | null = null;
    let stored: (typeof list)[number] | null = null;
    for (const one of list) {
      const before = one.piece.isStored ? any : stored;
      if (before !== null && endOf(before.piece) > one.piece.bytes.byteOffset)
        throw new RangeError(`${before.name} and ${one.name} share bytes of an ArrayBuffer, and one is stored to`);
      if (any === null || endOf(one.piece) > endOf(any.piece)) any = one;
      if (one.piece.isStored && (stored === null || endOf(one.piece) > endOf(stored.piece))) stored = one;
    }
  }
}

function endOf({ bytes }: Piece): number {
  return bytes.byteOffset + bytes.byteLength;
}

// --- batches -------------------------------------------------------------------------------------------------------------

/** Where things lie in the device's buffers, in words. */
interface Placed {
  readonly start: Start;
  readonly scratch: number;
  readonly report: number;
  /** First words of its pieces. */
  readonly words: readonly number[];
}

/** Launches that fit the device's buffers together. */
interface Batch {
  readonly placed: readonly Placed[];
  /** First words of programs, behind the launches. */
  readonly programs: ReadonlyMap<Ready, number>;
  /** Words of each of the device's buffers. */
  readonly words: Words;
}

interface Words {
  given: number;
  memory: number;
  scratch: number;
  reports: number;
}

/** @throws RangeError where a launch does not fit by itself */
function batchesOf(starts: readonly Start[], limits: GPUSupportedLimits): readonly Batch[] {
  const most = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  const batches: Batch[] = [];
  let rest = starts;
  while (rest.length > 0) {
    const batch = batchOf(rest, most, limits.maxComputeWorkgroupsPerDimension);
    batches.push(batch);
    rest = rest.slice(batch.placed.length);
  }
  return batches;
}

/** The first of the launches, as many as fit. */
function batchOf(starts: readonly Start[], most: number, mostLaunches: number): Batch {
  const placed: Placed[] = [];
  const programs = new Map<Ready, number>();
  let programWords = 0;
  const words: Words = { given: 0, memory: 0, scratch: 0, reports: 0 };
  // What is only read is there once, however many launches read it.
  const copies = new Map<ArrayBufferLike, Map<string, number>>();
  for (const start of starts) {
    const { ready, pieces } = start;
    const next = { ...words };
    next.given += LAUNCH_WORDS + (programs.has(ready) ? 0 : ready.words.length);
    next.scratch += ready.scratchBytes / 4;
    next.reports += REPORT.length + ready.program.code.length;
    const places = pieces.map(({ bytes, isStored }) => {
      const known = copies.get(bytes.buffer) ?? new Map<string, number>();
      copies.set(bytes.buffer, known);
      const range = `${bytes.byteOffset} ${bytes.byteLength}`;
      const place = known.get(range) ?? next.memory;
      if (place !== next.memory) return place;
      next.memory += Math.ceil(bytes.byteLength / 4);
      if (!isStored) known.set(range, place);
      return place;
    });
    const tooLarge = Object.entries(next).find(([, count]) => 4 * count > most);
    if (tooLarge !== undefined && placed.length === 0)
      throw new RangeError(
        `the launch needs ${4 * tooLarge[1]} bytes of ${WHAT[tooLarge[0] as keyof Words]}, and this device binds ${most} at once`,
      );
    if (tooLarge !== undefined || placed.length === mostLaunches) break;
    if (!programs.has(ready)) {
      programs.set(ready, programWords);
      programWords += ready.words.length;
    }
    placed.push({ start, scratch: words.scratch, report: words.reports, words: places });
    Object.assign(words, next);
  }
  return { placed, programs, words };
}

const WHAT: Readonly<Record<keyof Words, string>> = {
  given: "instructions",
  memory: "buffers",
  scratch: "registers and shared memory",
  reports: "counts",
};

// --- the device ----------------------------------------------------------------------------------------------------------

/** Runs a batch to the end of all its launches, and takes what was stored back into their buffers. */
async function dispatch(
  device: GPUDevice,
  pipeline: GPUComputePipeline,
  batch: Batch,
  quirks: number,
): Promise<readonly (Counts | MachineStop)[]> {
  const { STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ } = USAGE;
  const made: GPUBuffer[] = [];
  const bufferOf = (count: number, usage: number): GPUBuffer => {
    const buffer = device.createBuffer({ size: Math.max(4, 4 * count), usage });
    made.push(buffer);
    return buffer;
  };
  const { words, placed } = batch;
  device.pushErrorScope("out-of-memory");
  const setup = bufferOf(2, UNIFORM | COPY_DST);
  const given = bufferOf(words.given, STORAGE | COPY_DST);
  const memory = bufferOf(words.memory, STORAGE | COPY_DST | COPY_SRC);
  const scratch = bufferOf(words.scratch, STORAGE);
  const reports = bufferOf(words.reports, STORAGE | COPY_DST | COPY_SRC);
  const stored = storedPieces(placed);
  const reportsBack = bufferOf(words.reports, MAP_READ | COPY_DST);
  const storedBack = bufferOf(stored.words, MAP_READ | COPY_DST);
  try {
    const error = await device.popErrorScope();
    if (error !== null) throw new RangeError(`the device has no room for the launch: ${error.message}`);
    const { queue } = device;
    queue.writeBuffer(setup, 0, Uint32Array.of(quirks, TURNS));
    queue.writeBuffer(given, 0, givenWords(batch));
    queue.writeBuffer(memory, 0, memoryWords(batch));
    queue.writeBuffer(reports, 0, newReports(batch));
    const bindings = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [setup, given, memory, scratch, reports].map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
    let said: Uint32Array;
    for (;;) {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindings);
      pass.dispatchWorkgroups(placed.length);
      pass.end();
      encoder.copyBufferToBuffer(reports, 0, reportsBack, 0, 4 * words.reports);
      queue.submit([encoder.finish()]);
      await reportsBack.mapAsync(MAP_MODE_READ);
      said = new Uint32Array(reportsBack.getMappedRange().slice(0));
      reportsBack.unmap();
      if (placed.every(({ report }) => STATES[said[report]!] !== "running")) break;
    }
    const encoder = device.createCommandEncoder();
    for (const { from, to, count } of stored.copies)
      encoder.copyBufferToBuffer(memory, 4 * from, storedBack, 4 * to, 4 * count);
    queue.submit([encoder.finish()]);
    await storedBack.mapAsync(MAP_MODE_READ);
    const back = new Uint8Array(storedBack.getMappedRange());
    for (const { bytes, to } of stored.copies) bytes.set(back.subarray(4 * to, 4 * to + bytes.byteLength));
    return placed.map(({ start, report }) => resultOf(start, said.subarray(report)));
  } finally {
    for (const buffer of made) buffer.destroy();
  }
}

interface Copy {
  readonly bytes: Uint8Array;
  /** Words in the device's memory, and in what is taken back. */
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

function storedPieces(placed: readonly Placed[]): { readonly copies: readonly Copy[]; readonly words: number } {
  const copies: Copy[] = [];
  let to = 0;
  for (const { start, words } of placed) {
    for (const [p, { bytes, isStored }] of start.pieces.entries()) {
      if (!isStored || bytes.byteLength === 0) continue;
      const count = Math.ceil(bytes.byteLength / 4);
      copies.push({ bytes, from: words[p]!, to, count });
      to += count;
    }
  }
  return { copies, words: to };
}

function givenWords({ placed, programs, words }: Batch): Uint32Array<ArrayBuffer> {
  const given = new Uint32Array(words.given);
  const behind = LAUNCH_WORDS * placed.length;
  for (const [l, { start, scratch, report, words: places }] of placed.entries()) {
    const { ready, launch, pieces } = start;
    const program = behind + programs.get(ready)!;
    const one = given.subarray(l * LAUNCH_WORDS, (l + 1) * LAUNCH_WORDS);
    one[LAUNCH.program] = program;
    one[LAUNCH.index] = program + ready.words.length - INDEX_WORDS * ready.program.code.length;
    one[LAUNCH.report] = report;
    one[LAUNCH.scratch] = scratch;
    one.set(launch.parameters, LAUNCH.parameters);
    for (let b = 0; b < MAX_BUFFERS; b++) one[BUFFER_WORDS + 2 * b] = NO_BUFFER;
    for (const [p, { buffer, bytes }] of pieces.entries()) {
      one[BUFFER_WORDS + 2 * buffer] = places[p]!;
      one[BUFFER_WORDS + 2 * buffer + 1] = bytes.byteLength;
    }
  }
  for (const [{ words: program }, first] of programs) given.set(program, behind + first);
  return given;
}

function memoryWords({ placed, words }: Batch): Uint8Array<ArrayBuffer> {
  const memory = new Uint8Array(4 * words.memory);
  for (const { start, words: places } of placed) {
    for (const [p, { bytes }] of start.pieces.entries()) memory.set(bytes, 4 * places[p]!);
  }
  return memory;
}

function newReports({ placed, words }: Batch): Uint32Array<ArrayBuffer> {
  const reports = new Uint32Array(words.reports);
  for (const { start, report } of placed) reports[report + REPORT.indexOf("left")] = start.limit;
  return reports;
}

/** What a report says: counts of what was executed, or why the launch stopped. */
function resultOf(start: Start, report: Uint32Array): Counts | MachineStop {
  const { ready } = start;
  const said = Object.fromEntries(REPORT.map((name, r) => [name, report[r]!])) as Record<
    (typeof REPORT)[number],
    number
  >;
  const { code } = ready.program;
  const state = STATES[said.state]!;
  if (state !== "ended") {
    const who = { warp: said.warp - 1, column: said.column, row: said.row };
    return stopOf(code, said.at, who, faultOf(state, code[said.at]!, said, start));
  }
  return ready.count(report.subarray(REPORT.length), said.shared);
}

/** What the report's two numbers mean. */
function faultOf(
  state: Exclude<(typeof STATES)[number], "ended">,
  i: Instruction,
  { detail, value }: { readonly detail: number; readonly value: number },
  { ready, launch, limit }: Start,
): Fault {
  switch (state) {
    case "running":
      throw new Error("a launch that is running was taken for one that has stopped");
    case "limit":
      return { kind: state, limit };
    case "unwritten":
      return { kind: state, field: operandsOf(i)[detail]!.field, register: value };
    case "barrier":
      return { kind: state, warp: detail, at: value === 0 ? null : value - 1 };
    case "no buffer":
      return { kind: state };
    case "off a word":
    case "outside": {
      if (!("space" in i)) throw new Error(`${i.kind} was stopped for an access to memory`);
      const first = value + i.offset;
      if (state === "off a word") return { kind: state, first };
      const { shared } = ready.program;
      const there = i.space === "shared" ? shared : launch.buffers[Number(i.space.slice(1))]!.byteLength;
      return { kind: state, first, there };
    }
  }
}
