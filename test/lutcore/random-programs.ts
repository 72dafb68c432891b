// Random programs that mean something: registers and memory hold numbers of the types that instructions read, results are
// read again, loops and barriers and several warps and blocks occur, and some programs stop. Each ends by storing all
// registers, so that comparing memory compares those too.
// Each type of an opcode is as likely as any other. For legal programs without sense, see instructions.ts.

import fc from "fast-check";

import { bytesOf, type Element, ELEMENT_BITS, type Fragment, REGISTER_BYTES } from "../../src/lutcore/fragment.ts";
import { type Instruction, type Opcode, ONE } from "../../src/lutcore/instruction.ts";
import { OPCODES, operandsOf, rowOf } from "../../src/lutcore/isa.ts";
import type { Launch } from "../../src/lutcore/launch.ts";
import { checkInstruction, type Program } from "../../src/lutcore/program.ts";
import { legalWords } from "./instructions.ts";
import { fragmentBytes } from "./machine.ts";

export interface RandomRun {
  readonly program: Program;
  readonly launch: Launch;
  /** Instructions that are executed if the program is not stopped, by opcode and words. */
  readonly types: readonly string[];
}

type Fields = Record<string, string | number>;

const ELEMENTS = Object.keys(ELEMENT_BITS) as Element[];
const REGION = 16384;
/** Of the two halves of the pool, the second holds many infinities, NaN, subnormals and zeros. */
const POOL_BYTES = 2 * (ELEMENTS.length + 1) * REGION;
const LOCAL_BYTES = 4096;
const NIL = 31;

/** Numbers from 0 below a bound, the same for the same seed (Steele, Lea and Flood's SplitMix, in 32 bits). */
type Below = (bound: number) => number;

function randomFrom(seed: number): Below {
  let state = seed | 0;
  return (bound) => {
    state = (state + 0x9e3779b9) | 0;
    let x = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    return Math.floor((((x ^ (x >>> 15)) >>> 0) / 2 ** 32) * bound);
  };
}

/** What programs load: a region of each element and one of weights, without and with special numbers. */
export function poolFrom(seed: number): Uint8Array {
  const pool = new Uint8Array(POOL_BYTES + REGION);
  for (const [half, special] of [0, 5].entries()) {
    for (const [e, element] of ELEMENTS.entries()) {
      const columns = 512 / (ELEMENT_BITS[element] / 8);
      const [row] = fc.sample(fragmentBytes({ kind: "matrix", rows: 8, columns, element }, special), {
        seed: seed + e,
        numRuns: 1,
      });
      // Longer than is worth drawing: pieces of it in another order.
      const below = randomFrom(seed + 100 * e + half);
      for (let at = 0; at < REGION; at += 256) {
        const from = below(row!.length / 256) * 256;
        pool.set(row!.subarray(from, from + 256), regionOf(element, half) + at);
      }
    }
    const below = randomFrom(seed + half);
    const weights = regionOf("weights", half);
    for (let at = 0; at < REGION; at++) pool[weights + at] = below(256);
  }
  return pool;
}

function regionOf(element: Element | "weights", half: number): number {
  const e = element === "weights" ? ELEMENTS.length : ELEMENTS.indexOf(element);
  return (half * (ELEMENTS.length + 1) + e) * REGION;
}

const WORDS = new Map<Opcode, readonly Fields[]>(OPCODES.map((kind) => [kind, legalWords(kind)]));

/** An opcode with the words that say its types. */
export function typeName(i: Instruction): string {
  const { fields } = rowOf(i.kind);
  const words = Object.entries(fields).flatMap(([name, field]) =>
    field.kind === "choice" && typeof field.values[0] === "string" && name !== "space"
      ? [String((i as unknown as Fields)[name])]
      : [],
  );
  return [i.kind, ...words].join(" ");
}

/** All types that instructions of the table have. */
export function allTypes(): readonly string[] {
  return OPCODES.flatMap((kind) =>
    legalWords(kind).map((words) => typeName({ kind, ...words } as unknown as Instruction)),
  );
}

const COMPUTING: readonly Opcode[] = [
  "lut",
  "lutq",
  "lmma",
  "lmma",
  "lmma",
  "lmmaq",
  "lmmaq",
  "mma",
  "asum",
  "sacc",
  "zacc",
  "clr",
  "cvt",
  "quant",
];
const MOVING: readonly Opcode[] = ["ld.mat", "ld.tab", "ld.wgt", "st.mat", "st.tab"];
const STOPS = ["unwritten", "outside", "off a word", "no buffer", "barrier", "limit"] as const;

/** What a register range holds: numbers of an element, or weights. */
interface Held {
  readonly register: number;
  readonly bytes: number;
  readonly kind: Element | "weights";
}

/**
 * A program of 8 to 200 instructions and a launch of it. g0 is the pool, g1 is read and written, g2 takes all registers.
 * @param pool from poolFrom; it is not written
 */
export function randomRun(seed: number, pool: Uint8Array): RandomRun {
  const below = randomFrom(seed);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const isOneIn = (n: number): boolean => below(n) === 0;
  const registers = pick([24, 64, 64, 128, 128, 160]);
  const [gridX, gridY] = isOneIn(8) ? [1 + below(3), 1 + below(2)] : [1, 1];
  const warps = isOneIn(4) ? 2 + below(2) : 1;
  const length = 8 + below(193);
  const stop = isOneIn(16) ? pick(STOPS) : null;
  const code: Instruction[] = [];
  const types: string[] = [];
  /** Rounds of the loops that are open. */
  const open: number[] = [];
  let held: Held[] = [];

  const emit = (i: Instruction): void => {
    code.push(i);
    if (!open.includes(0)) types.push(typeName(i));
    for (const { access, register, registers: count, fragment } of operandsOf(i)) {
      if (access === "read") continue;
      held = held.filter(
        (h) => h.register >= register + count || h.register + Math.ceil(h.bytes / REGISTER_BYTES) <= register,
      );
      held.push({ register, bytes: bytesOf(fragment), kind: kindOf(fragment) });
    }
  };

  const kindOf = (fragment: Fragment): Held["kind"] =>
    fragment.kind === "matrix" ? fragment.element : fragment.kind === "table" ? fragment.entry : "weights";

  /** Where a load begins: in the pool, in g1 or in shared memory. */
  const source = (kind: Held["kind"], reach: number): Fields => {
    if (reach <= LOCAL_BYTES && isOneIn(6)) {
      const offset = 4 * below((LOCAL_BYTES - reach) / 4 + 1);
      return { space: pick(["g1", "shared"]), base: NIL, offset };
    }
    const region = regionOf(kind, isOneIn(4) ? 1 : 0);
    // s4 to s7 hold multiples of 4 up to 1020.
    return { space: "g0", base: isOneIn(2) ? 4 + below(4) : NIL, offset: region + 4 * below(1024) };
  };

  const load = (fragment: Fragment, register: number): void => {
    const kind = kindOf(fragment);
    const at = source(kind, bytesOf(fragment));
    const rows = fragment.kind === "matrix" ? fragment.rows : fragment.kind === "table" ? fragment.m : 1;
    const stride = bytesOf(fragment) / rows;
    const name = fragment.kind === "matrix" ? "ld.mat" : fragment.kind === "table" ? "ld.tab" : "ld.wgt";
    const more = name === "ld.wgt" ? {} : { stride: isOneIn(8) ? 0 : stride };
    const order = name === "ld.mat" ? { order: "rows" } : {};
    emit({ ...fragment, kind: name, ...order, ...at, ...more, to: register } as unknown as Instruction);
  };

  /** A size, mostly a small one. */
  const sized = (values: readonly (string | number)[]): string | number =>
    values[Math.min(below(values.length), isOneIn(12) ? values.length : below(3))]!;

  const drawn = (kind: Opcode): Fields => {
    const fields: Fields = { kind, ...pick(WORDS.get(kind)!) };
    for (const [name, field] of Object.entries(rowOf(kind).fields)) {
      if (name in fields) continue;
      if (field.kind === "choice") fields[name] = sized(field.values);
      else if (name === "rows") fields[name] = isOneIn(3) ? 4 * (1 + below(4)) : 1 + below(9);
      else if (name === "columns") fields[name] = isOneIn(3) ? 64 : 4 * (1 + below(9));
      else fields[name] = 0;
    }
    return fields;
  };

  /** Computes on what registers hold where they hold what it reads, else on what is loaded first. */
  const compute = (kind: Opcode): void => {
    for (let tries = 0; tries < 20; tries++) {
      const fields = drawn(kind);
      const loads: { readonly fragment: Fragment; readonly register: number }[] = [];
      for (const [name, field] of Object.entries(rowOf(kind).fields)) {
        if (field.kind === "register" && field.blank.length > 0 && isOneIn(3)) fields[name] = field.blank[0]!;
      }
      let taken = 0;
      const first = below(registers);
      for (const { field, fragment, registers: count, access } of operandsOf(fields as unknown as Instruction)) {
        const known = held.filter((h) => h.kind === kindOf(fragment) && h.bytes >= bytesOf(fragment));
        if (access === "read" && known.length > 0 && !isOneIn(3)) fields[field] = pick(known).register;
        else {
          fields[field] = (first + taken) % Math.max(1, registers - count + 1);
          taken += count;
          if (access === "read") loads.push({ fragment, register: fields[field] });
        }
      }
      for (const [name, field] of Object.entries(rowOf(kind).fields)) {
        if (field.kind !== "register" || !field.inPlace || Number(fields[name]) >= ONE || !isOneIn(4)) continue;
        if (loads.every(({ register }) => register !== fields[name])) fields["to"] = fields[name]!;
      }
      const i = fields as unknown as Instruction;
      const fits = operandsOf(i).every(({ register, registers: count }) => register + count <= registers);
      if (!fits || checkInstruction(i) !== null || workOf(fields) > (isOneIn(20) ? 65536 : 4096)) continue;
      const spans = loads.map(({ fragment, register }) => [register, register + Math.ceil(bytesOf(fragment) / 128)]);
      // What is loaded for one operand must not overwrite another.
      const reads = operandsOf(i).filter(({ access }) => access === "read");
      const clash = spans.some(([from, to]) =>
        reads.some(({ register, registers: count }) => register !== from && register < to! && from! < register + count),
      );
      if (clash) continue;
      for (const { fragment, register } of loads) load(fragment, register);
      emit(i);
      return;
    }
  };

  const move = (kind: Opcode): void => {
    for (let tries = 0; tries < 20; tries++) {
      const fields = drawn(kind);
      const field = kind.startsWith("ld") ? "to" : "from";
      const { fragment, registers: count } = operandsOf(fields as unknown as Instruction)[0]!;
      if (count > registers) continue;
      fields[field] = below(registers - count + 1);
      const isTurned = fields["order"] === "columns";
      const pieces = isTurned
        ? Number(fields["columns"])
        : fragment.kind === "matrix"
          ? fragment.rows
          : "m" in fragment
            ? fragment.m
            : 1;
      const pieceBytes = bytesOf(fragment) / pieces;
      const stride = pieceBytes + 4 * below(3);
      const reach = (pieces - 1) * stride + pieceBytes;
      if ("stride" in fields) fields["stride"] = stride;
      if (field === "to") Object.assign(fields, source(kindOf(fragment), reach));
      else if (reach > LOCAL_BYTES) continue;
      else
        Object.assign(fields, {
          space: pick(["g1", "shared"]),
          base: NIL,
          offset: 4 * below((LOCAL_BYTES - reach) / 4 + 1),
        });
      const i = fields as unknown as Instruction;
      if (checkInstruction(i) !== null) continue;
      emit(i);
      return;
    }
  };

  const parameters = Array.from({ length: below(5) }, () => below(2 ** 32));
  const step = (): void => {
    const what = below(20);
    if (what < 11) compute(pick(COMPUTING));
    else if (what < 15) move(pick(MOVING));
    else if (what < 17) {
      const named = 28 + below(4);
      // A multiple of 4 that depends on where the warp is; or a parameter away and back, modulo 2^32.
      const [left, addend] = isOneIn(3) ? [below(4), 0] : [named, 4 * below(200)];
      const away = left < 4 ? -(parameters[left] ?? 0) + 4 * below(255) : addend;
      const factor = left < 4 ? 1 : 4 * below(6);
      emit({ kind: "lea", to: 4 + below(4), left, factor, right: NIL, addend: away | 0 });
      if (isOneIn(4))
        emit({
          kind: "lea",
          to: 8 + below(4),
          left: below(12),
          factor: below(2 ** 32) | 0,
          right: below(12),
          addend: below(2 ** 32) | 0,
        });
    } else if (what === 17 && open.length < 3) {
      const rounds = below(4);
      emit({ kind: "loop", count: NIL, times: rounds });
      open.push(rounds);
    } else if (open.length > 0) close();
    else emit({ kind: "bar" });
  };
  const close = (): void => {
    emit({ kind: "end" });
    open.pop();
  };

  const misstep = (): void => {
    const access = { kind: "ld.mat", rows: 2, columns: 4, element: "int32", order: "rows", to: 0, stride: 16 } as const;
    switch (stop) {
      case "unwritten":
        emit({ kind: "cvt", rows: 1, columns: 32, source: "fp32", target: "fp32", to: 0, from: registers + below(4) });
        break;
      case "outside": {
        const wild = { ...access, stride: 4 * below(2 ** 30), offset: 4 * below(2 ** 30), base: 4 + below(8) };
        emit({ ...wild, space: pick(["g0", "g1", "shared"]) });
        break;
      }
      case "off a word":
        emit({ kind: "lea", to: 12, left: NIL, factor: 0, right: NIL, addend: 1 + below(3) });
        emit({ ...access, space: "g1", base: 12, offset: 8 });
        break;
      case "no buffer":
        emit({ ...access, space: "g7", base: 4, offset: 8 });
        break;
      case "barrier":
        emit({ kind: "loop", count: 30, times: below(2) });
        emit({ kind: "bar" });
        emit({ kind: "end" });
        break;
      default:
    }
  };

  // Pieces of up to 64 registers of the pool, then where this warp's registers go in the end.
  const filled = Array.from({ length: Math.ceil(registers / 64) }, (_, p) => Math.min(64, registers - 64 * p));
  const bank = registers * REGISTER_BYTES;
  for (const [p, rows] of filled.entries())
    emit({
      kind: "ld.mat",
      rows,
      columns: 32,
      element: "int32",
      order: "rows",
      to: 64 * p,
      space: "g0",
      base: NIL,
      offset: 128 * below(256),
      stride: 128,
    });
  held = [];
  for (const [left, factor, right] of [
    [29, gridX * warps * bank, NIL],
    [28, warps * bank, 20],
    [30, bank, 20],
  ] as const)
    emit({ kind: "lea", to: 20, left, factor, right, addend: 0 });
  for (let s = 4; s < 8; s++) emit({ kind: "lea", to: s, left: NIL, factor: 0, right: NIL, addend: 4 * below(255) });
  const ending = filled.length;
  const trouble = stop === null ? -1 : code.length + below(Math.max(1, length - code.length - ending));
  let isDone = stop === null;
  // An instruction may come with loads of what it reads: those that would be too many are left out.
  while (code.length + open.length + ending + 6 < length) {
    if (!isDone && code.length >= trouble) {
      misstep();
      isDone = true;
    } else step();
  }
  if (!isDone) misstep();
  while (open.length > 0) close();
  for (const [p, rows] of filled.entries())
    emit({
      kind: "st.mat",
      rows,
      columns: 32,
      element: "int32",
      from: 64 * p,
      space: "g2",
      base: 20,
      offset: 64 * p * REGISTER_BYTES,
      stride: 128,
    });
  const program = {
    gridX,
    gridY,
    swizzle: 1 + below(3),
    warps,
    registers: registers + (stop === "unwritten" ? 4 : 0),
    shared: LOCAL_BYTES,
    buffers: 16,
    code,
  };
  const from = 4 * below((POOL_BYTES - LOCAL_BYTES) / 4);
  const buffers = [pool, pool.slice(from, from + LOCAL_BYTES), new Uint8Array(gridX * gridY * warps * bank)];
  const limit = stop === "limit" ? warps * gridX * gridY + below(2 * length) : 100_000;
  return { program, launch: { parameters, buffers, limit }, types };
}

/** Additions or so, of one instruction. */
function workOf({ m = 1, n = 1, k = 1 }: Fields): number {
  return Number(m) * Number(n) * Number(k);
}
