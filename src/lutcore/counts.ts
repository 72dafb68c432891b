// What a run of a program did, counted: instructions, tables, lookups, products, bytes, and how much room it took.
// Each number is the sum, over the instructions that were executed, of what one of them does by its types and sizes; so
// costs are read from a run, and no formula of a whole matrix stands beside it.
// Not here: time, area and energy (sim/), which are made of these.

import { bytesOf, PLANES, TABLE_K } from "./fragment.ts";
import type { Instruction, Opcode } from "./instruction.ts";
import { OPCODES, operandsOf } from "./isa.ts";

interface Traffic {
  readonly read: number;
  readonly written: number;
}

export interface Counts {
  /** Executed, of each opcode. */
  readonly instructions: Readonly<Record<Opcode, number>>;
  /** Tables of four activations that were computed (lut), and that were quantised (lutq). */
  readonly tables: number;
  readonly quantisedTables: number;
  /** Entries that lmma and lmmaq looked up: one for each row, column, K-group and plane. */
  readonly lookups: number;
  /** Cycles of the paper's array of 2 tables and 64 columns: one for each K-group and plane of a tile. */
  readonly passes: number;
  /** Multiplications of mma. */
  readonly products: number;
  /** What moved. A row that is read again is read again here; registers that stand for constants move nothing. */
  readonly bytes: Readonly<Record<"global" | "shared" | "registers", Traffic>>;
  /** Of a warp: up to the highest one that was used. */
  readonly registers: number;
  /** Bytes of a block: up to the highest one that was read or written. */
  readonly shared: number;
}

/** The array of LUT Tensor Core's figure 9 at its best shape, M2 N64 K4. */
const ARRAY = { m: 2, n: 64 } as const;

export const NO_COUNTS: Counts = {
  instructions: Object.fromEntries(OPCODES.map((kind) => [kind, 0])) as Record<Opcode, number>,
  tables: 0,
  quantisedTables: 0,
  lookups: 0,
  passes: 0,
  products: 0,
  bytes: {
    global: { read: 0, written: 0 },
    shared: { read: 0, written: 0 },
    registers: { read: 0, written: 0 },
  },
  registers: 0,
  shared: 0,
};

/** What an instruction does when it is executed once. What it takes of shared memory depends on where, and is 0 here. */
export function countsOf(i: Instruction): Counts {
  const operands = operandsOf(i);
  const moved = (access: "read" | "write"): number =>
    operands.filter((o) => o.access === access).reduce((sum, { fragment }) => sum + bytesOf(fragment), 0);
  const registers = { read: moved("read"), written: moved("write") };
  const bytes = { ...NO_COUNTS.bytes, registers };
  // A load writes to registers what it reads from memory, a store the other way round.
  if ("space" in i)
    bytes[i.space === "shared" ? "shared" : "global"] = { read: registers.written, written: registers.read };
  return {
    ...NO_COUNTS,
    ...workOf(i),
    instructions: { ...NO_COUNTS.instructions, [i.kind]: 1 },
    bytes,
    registers: Math.max(0, ...operands.map(({ register, registers: count }) => register + count)),
  };
}

/**
 * What a program does, its instructions being executed so many times each, and `shared` bytes used. Most launches of a
 * program do what the last one did, whose sum is kept.
 */
export function counterOf(code: readonly Instruction[]): (executed: ArrayLike<number>, shared: number) => Counts {
  const costs = code.map(countsOf);
  const last = new Float64Array(code.length);
  let known: Counts = NO_COUNTS;
  return (executed, shared) => {
    let isSame = known.shared === shared;
    for (let at = 0; at < last.length; at++) {
      if (last[at] === executed[at]) continue;
      last[at] = executed[at]!;
      isSame = false;
    }
    if (isSame) return known;
    known = { ...NO_COUNTS, shared };
    for (const [at, cost] of costs.entries()) if (last[at]! > 0) known = addCounts(known, cost, last[at]);
    return known;
  };
}

function workOf(i: Instruction): Partial<Counts> {
  switch (i.kind) {
    case "lut":
      return { tables: (i.m * i.k) / TABLE_K };
    case "lutq":
      return { quantisedTables: (i.m * i.k) / TABLE_K };
    case "lmma":
    case "lmmaq": {
      const slices = (i.k / TABLE_K) * PLANES[i.weight].length;
      const passes = Math.ceil(i.m / ARRAY.m) * Math.ceil(i.n / ARRAY.n) * slices;
      return { lookups: i.m * i.n * slices, passes };
    }
    case "mma":
      return { products: i.m * i.n * i.k };
    default:
      return {};
  }
}

/** Of both, `times` times the second; of room, the larger. */
export function addCounts(a: Counts, b: Counts, times = 1): Counts {
  const traffic = (level: keyof Counts["bytes"]): Traffic => ({
    read: a.bytes[level].read + times * b.bytes[level].read,
    written: a.bytes[level].written + times * b.bytes[level].written,
  });
  const instructions = OPCODES.map((kind) => [kind, a.instructions[kind] + times * b.instructions[kind]]);
  return {
    instructions: Object.fromEntries(instructions) as Record<Opcode, number>,
    tables: a.tables + times * b.tables,
    quantisedTables: a.quantisedTables + times * b.quantisedTables,
    lookups: a.lookups + times * b.lookups,
    passes: a.passes + times * b.passes,
    products: a.products + times * b.products,
    bytes: { global: traffic("global"), shared: traffic("shared"), registers: traffic("registers") },
    registers: Math.max(a.registers, b.registers),
    shared: Math.max(a.shared, b.shared),
  };
}
