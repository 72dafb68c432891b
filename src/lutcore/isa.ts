// The instruction set of the LMMA machine as a table: how each instruction is written and encoded, which of its forms
// are legal, which fragments its registers hold and what it computes. Assembly (asm.ts), the binary (binary.ts), the
// manual (manual.ts) and the checks (program.ts) read this table, and name no instruction themselves.
// Not here: the types of instructions (instruction.ts), fragments (fragment.ts), arithmetic (exec.ts).
// After LUT Tensor Core (ISCA'25), 3.3: lmma.{M}{N}{K}.{A_dtype}{W_dtype}{Accum_dtype}{O_dtype}. The paper leaves legal
// shapes, accumulators, encoding, table precompute and zero points open: those are this table's own choices.

import { ELEMENT_BITS, type Element, type Fragment, PLANES, registersOf, rowsOf, TABLE_K } from "./fragment.ts";
import {
  ACCUMULATORS,
  type Accumulator,
  type Activation,
  ACTIVATIONS,
  DENSE,
  type Dense,
  ENTRIES,
  type Entry,
  type Instruction,
  MAX_BUFFERS,
  MAX_LOOPS,
  ONE,
  type Opcode,
  type Output,
  OUTPUTS,
  type Register,
  REGISTER_COUNT,
  ZERO,
} from "./instruction.ts";
import { type Field, type Problem, proved, type Row } from "./row.ts";

const SPACES: readonly string[] = [...Array.from({ length: MAX_BUFFERS }, (_, b) => `g${b}`), "shared"];
const M_SIZES = [1, 2, 4, 8, 16, 32, 64] as const;
const N_SIZES = [8, 16, 32, 64, 128, 256] as const;
const K_SIZES = [4, 8, 16, 32, 64, 128, 256] as const;
const SHARES = [1, 2, 4, 8, 16, 32, 64] as const;

/** What sums of four activations are kept in: an element that reaches four times the largest one, or the widest. */
const ENTRIES_OF: Readonly<Record<Activation, readonly Entry[]>> = {
  fp16: ["fp16", "fp32"],
  bf16: ["bf16", "fp32"],
  e4m3: ["fp16", "fp32"],
  e5m2: ["bf16", "fp32"],
  int16: ["int32"],
  int8: ["int16"],
};
const ACCUMULATORS_OF: Readonly<Record<Entry, readonly Accumulator[]>> = {
  fp16: ["fp32", "fp16"],
  bf16: ["fp32"],
  fp32: ["fp32"],
  int16: ["int32"],
  int32: ["int32"],
};
const OUTPUTS_OF: Readonly<Record<Accumulator, readonly Output[]>> = {
  fp32: ["fp32", "fp16", "bf16"],
  fp16: ["fp16"],
  int32: ["int32"],
};
/** What an ordinary product takes beside an activation, and sums in. */
const MMA_OF: Readonly<Record<Dense, { readonly weights: readonly Dense[]; readonly sums: readonly Accumulator[] }>> = {
  fp16: { weights: ["fp16"], sums: ["fp32", "fp16"] },
  bf16: { weights: ["bf16"], sums: ["fp32"] },
  e4m3: { weights: ["e4m3", "e5m2"], sums: ["fp32"] },
  e5m2: { weights: ["e4m3", "e5m2"], sums: ["fp32"] },
  int8: { weights: ["int8"], sums: ["int32"] },
};

const size = (values: readonly number[]): Field<unknown> => ({ kind: "choice", bits: 3, values });
const choice = (values: readonly string[]): Field<unknown> => ({ kind: "choice", bits: 4, values });
const count = (bits: number): Field<unknown> => ({
  kind: "number",
  bits,
  least: 1,
  most: 2 ** bits - 1,
  multipleOf: 1,
});
const immediate: Field<unknown> = { kind: "number", bits: 32, least: -(2 ** 31), most: 2 ** 31 - 1, multipleOf: 1 };
const bytes: Field<unknown> = { kind: "number", bits: 32, least: 0, most: 2 ** 32 - 4, multipleOf: 4 };
const scalar = (access: "read" | "write"): Field<unknown> => ({ kind: "scalar", access });
const place = {
  space: { kind: "choice", bits: 5, values: SPACES },
  base: scalar("read"),
  offset: bytes,
} as const satisfies Record<string, Field<unknown>>;
const rowsAt = { ...place, stride: bytes };
const PLACE = "[{space} + {base} + {offset}]";
const legal = (): null => null;

function read<I>(of: (i: I) => Fragment, blank: readonly Register[] = []): Field<I> {
  return { kind: "register", access: "read", of, blank, inPlace: false };
}
/** Of what is read number by number. */
function each<I>(of: (i: I) => Fragment, blank: readonly Register[] = []): Field<I> {
  return { kind: "register", access: "read", of, blank, inPlace: true };
}
function write<I>(of: (i: I) => Fragment): Field<I> {
  return { kind: "register", access: "write", of, blank: [], inPlace: false };
}
function matrix(rows: number, columns: number, element: Element): Fragment {
  return { kind: "matrix", rows, columns, element };
}
/** What an instruction has in m rows and n columns, in m rows of k, or n rows of k. */
type Sized<F extends string> = { readonly [S in F]: number };
const table = ({ m, k }: Sized<"m" | "k">, entry: Element): Fragment => ({ kind: "table", m, k, entry });
const tableScales = ({ m, k, share }: Sized<"m" | "k" | "share">): Fragment => matrix(m, k / TABLE_K / share, "fp32");

/** null where `value` is one of `allowed`. */
function oneOf(field: string, value: string, allowed: readonly string[], beside: string): Problem | null {
  if (allowed.includes(value)) return null;
  return { field, message: `${beside} takes ${allowed.join(" or ")} as ${field}, not ${value}` };
}

function entryFor({ activation, entry }: { readonly activation: Activation; readonly entry: Entry }): Problem | null {
  return oneOf("entry", entry, ENTRIES_OF[activation], `a table of ${activation}`);
}

function outFor({ accumulate, out }: { readonly accumulate: Accumulator; readonly out: Output }): Problem | null {
  return oneOf("out", out, OUTPUTS_OF[accumulate], `a sum in ${accumulate}`);
}

function shareFor({ k, share }: Sized<"k" | "share">): Problem | null {
  if (share <= k / TABLE_K) return null;
  const most = k / TABLE_K;
  return {
    field: "share",
    message: `${share} tables cannot share a scale: k${k} is ${most} table${most === 1 ? "" : "s"}`,
  };
}

/** Rows that a store writes must not lie on one another. */
function apart(i: { readonly stride: number }, fragment: Fragment): Problem | null {
  const { rows, rowBytes } = rowsOf(fragment);
  if (rows === 1 || i.stride >= rowBytes) return null;
  return { field: "stride", message: `rows of ${rowBytes} bytes overlap at a stride of ${i.stride}` };
}

const ROWS = proved({
  lea: {
    opcode: 0x01,
    syntax: "lea {to}, {left} * {factor} + {right} + {addend}",
    fields: { to: scalar("write"), left: scalar("read"), factor: immediate, right: scalar("read"), addend: immediate },
    illegal: legal,
    summary: "A scalar: `left * factor + right + addend`, modulo 2^32.",
    details: ["The numbers are signed; `nil` reads as 0, so that `lea s0, nil * 0 + nil + 64` is a constant."],
  },
  loop: {
    opcode: 0x02,
    syntax: "loop {count} + {times}",
    fields: { count: scalar("read"), times: { kind: "number", bits: 32, least: 0, most: 2 ** 32 - 1, multipleOf: 1 } },
    illegal: legal,
    summary: "Runs what follows, up to its `end`, `count + times` times (modulo 2^32), which may be none.",
    details: [`The number is taken once, at the start. Loops nest ${MAX_LOOPS} deep.`],
  },
  end: {
    opcode: 0x03,
    syntax: "end",
    fields: {},
    illegal: legal,
    summary: "The end of the innermost loop.",
    details: [],
  },
  bar: {
    opcode: 0x04,
    syntax: "bar",
    fields: {},
    illegal: legal,
    summary: "Waits until all warps of the block are here. What they have stored is then there for all of them.",
    details: ["All warps of a block must meet the same barriers; one that ends while others wait is an error."],
  },
  "ld.mat": {
    opcode: 0x10,
    syntax: `ld.mat.{rows}x{columns}.{element}.{order} {to}, ${PLACE}, {stride}`,
    fields: {
      rows: count(12),
      columns: count(13),
      element: choice(Object.keys(ELEMENT_BITS)),
      order: { kind: "choice", bits: 1, values: ["rows", "columns"] },
      to: write((i) => matrix(i.rows, i.columns, i.element)),
      ...rowsAt,
    },
    illegal: (i) => {
      const columnBytes = (i.rows * ELEMENT_BITS[i.element]) / 8;
      if (i.order === "rows" || columnBytes % 4 === 0) return null;
      return { field: "rows", message: `a column of ${columnBytes} bytes does not fill whole words of 4` };
    },
    summary: "Loads a matrix: activations, dense weights, accumulators, scales.",
    details: [
      "With `rows`, row r lies at `base + offset + r * stride`, its numbers without gaps; with `columns`, column c lies at " +
        "`base + offset + c * stride`: memory holds the transpose.",
      "A stride of 0 reads the same row (column) for all.",
    ],
  },
  "st.mat": {
    opcode: 0x11,
    syntax: `st.mat.{rows}x{columns}.{element} {from}, ${PLACE}, {stride}`,
    fields: {
      rows: count(12),
      columns: count(13),
      element: choice(Object.keys(ELEMENT_BITS)),
      from: read((i) => matrix(i.rows, i.columns, i.element)),
      ...rowsAt,
    },
    illegal: (i) => apart(i, matrix(i.rows, i.columns, i.element)),
    summary: "Stores a matrix, row r at `base + offset + r * stride`.",
    details: [
      "Fewer rows than were computed may be stored: a fragment is row-major, and its first rows are its first bytes.",
    ],
  },
  "ld.tab": {
    opcode: 0x12,
    syntax: `ld.tab.m{m}k{k}.{entry} {to}, ${PLACE}, {stride}`,
    fields: {
      m: size(M_SIZES),
      k: size(K_SIZES),
      entry: choice([...ENTRIES, "int8"]),
      to: write((i) => table(i, i.entry)),
      ...rowsAt,
    },
    illegal: legal,
    summary: "Loads tables; those of row r lie at `base + offset + r * stride`, one after another.",
    details: [],
  },
  "st.tab": {
    opcode: 0x13,
    syntax: `st.tab.m{m}k{k}.{entry} {from}, ${PLACE}, {stride}`,
    fields: {
      m: size(M_SIZES),
      k: size(K_SIZES),
      entry: choice([...ENTRIES, "int8"]),
      from: read((i) => table(i, i.entry)),
      ...rowsAt,
    },
    illegal: (i) => apart(i, table(i, i.entry)),
    summary: "Stores tables, those of row r at `base + offset + r * stride`.",
    details: [],
  },
  "ld.wgt": {
    opcode: 0x14,
    syntax: `ld.wgt.n{n}k{k}.{weight} {to}, ${PLACE}`,
    fields: {
      n: size(N_SIZES),
      k: size(K_SIZES),
      weight: choice(Object.keys(PLANES)),
      to: write(({ n, k, weight }) => ({ kind: "weights", n, k, weight })),
      ...place,
    },
    illegal: legal,
    summary: "Loads indices of weights, in one piece.",
    details: [
      "A tile of n columns and all k is stored (k / 4, planes, n); the instruction loads k of them, so that loads of any k " +
        "read the same file.",
    ],
  },
  lut: {
    opcode: 0x20,
    syntax: "lut.m{m}k{k}.{activation}{entry} {to}, {from}",
    fields: {
      m: size(M_SIZES),
      k: size(K_SIZES),
      activation: choice(ACTIVATIONS),
      entry: choice(ENTRIES),
      to: write((i) => table(i, i.entry)),
      from: read((i) => matrix(i.m, i.k, i.activation)),
    },
    illegal: entryFor,
    summary: "Table precompute: the 8 sums of each 4 activations of a row.",
    details: [
      "Entry i is -a3 + sum over j < 3 of (2 i_j - 1) a_j, i_j being bit j of i. The other 8 sums are negatives of these " +
        "(equation 4).",
      "Integers are exact. In `ideal` a float entry is the exact sum rounded once; else ((±a0 ± a1) ± a2) - a3 with each sum " +
        "rounded to fp32, then rounded to the entry's element.",
    ],
  },
  lutq: {
    opcode: 0x21,
    syntax: "lutq.m{m}k{k}.{entry}.x{share} {to}, {scales}, {from}",
    fields: {
      m: size(M_SIZES),
      k: size(K_SIZES),
      entry: choice(ENTRIES),
      share: size(SHARES),
      to: write((i) => table(i, "int8")),
      scales: write(tableScales),
      from: read((i) => table(i, i.entry)),
    },
    illegal: shareFor,
    summary: "Table quantisation: entries to int8, with one fp32 scale for each `share` neighbouring tables of a row.",
    details: [
      "In all modes: with L the largest |entry| of the tables that share, in fp32, scale = fp32(L / 127), inverse = " +
        "fp32(127 / L), and an entry becomes fp32(entry * inverse) to the nearest whole number, ties to even.",
      "Where L is 0 or so small that the inverse is infinite, scale and entries are 0; where an entry is not finite, the scale " +
        "is NaN and the entries are 0.",
    ],
  },
  lmma: {
    opcode: 0x30,
    syntax: "lmma.m{m}n{n}k{k}.{activation}{weight}{accumulate}{out}.{entry} {to}, {table}, {weights}, {addend}",
    fields: {
      m: size(M_SIZES),
      n: size(N_SIZES),
      k: size(K_SIZES),
      activation: choice(ACTIVATIONS),
      weight: choice(Object.keys(PLANES)),
      accumulate: choice(ACCUMULATORS),
      out: choice(OUTPUTS),
      entry: choice(ENTRIES),
      to: write((i) => matrix(i.m, i.n, i.out)),
      table: read((i) => table(i, i.entry)),
      weights: read(({ n, k, weight }) => ({ kind: "weights", n, k, weight })),
      addend: each((i) => matrix(i.m, i.n, i.accumulate), [ZERO]),
    },
    illegal: (i) =>
      entryFor(i) ?? oneOf("accumulate", i.accumulate, ACCUMULATORS_OF[i.entry], `a table of ${i.entry}`) ?? outFor(i),
    summary: "O[m, n] = A[m, k] W[n, k]^T + addend[m, n], by looking sums of 4 activations up, plane by plane.",
    details: [
      "A plane of power p adds 2^p times the entry, or its negative where the nibble's sign is 1.",
      "Integers are summed modulo 2^32. In `ideal` a float is the exact sum rounded once, to `out`. Else K-groups rise, in each " +
        "planes rise, and each addition is rounded to `accumulate`; the last sum is rounded to `out`.",
      "`rtl` is bit-exact with the public SystemVerilog where activation, entry, accumulate and out are fp16.",
    ],
  },
  lmmaq: {
    opcode: 0x31,
    syntax:
      "lmmaq.m{m}n{n}k{k}.{activation}{weight}{accumulate}{out}.x{share} {to}, {table}, {scales}, {weights}, {addend}",
    fields: {
      m: size(M_SIZES),
      n: size(N_SIZES),
      k: size(K_SIZES),
      activation: choice(ACTIVATIONS),
      weight: choice(Object.keys(PLANES)),
      accumulate: choice(["fp32"]),
      out: choice(OUTPUTS_OF.fp32),
      share: size(SHARES),
      to: write((i) => matrix(i.m, i.n, i.out)),
      table: read((i) => table(i, "int8")),
      scales: read(tableScales),
      weights: read(({ n, k, weight }) => ({ kind: "weights", n, k, weight })),
      addend: each((i) => matrix(i.m, i.n, i.accumulate), [ZERO]),
    },
    illegal: shareFor,
    summary: "The same on tables of int8: sums of tables that share a scale are integers, and are then scaled.",
    details: [
      "For each `share` tables, from low k up: S is the integer sum over tables and planes, and the accumulator becomes " +
        "fp32(accumulator + fp32(S * scale)). In `ideal` the whole sum is exact and rounded once, to `out`.",
    ],
  },
  mma: {
    opcode: 0x32,
    syntax: "mma.m{m}n{n}k{k}.{activation}{weight}{accumulate}{out} {to}, {left}, {right}, {addend}",
    fields: {
      m: size(M_SIZES),
      n: size(N_SIZES),
      k: size(K_SIZES),
      activation: choice(DENSE),
      weight: choice(DENSE),
      accumulate: choice(ACCUMULATORS),
      out: choice(OUTPUTS),
      to: write((i) => matrix(i.m, i.n, i.out)),
      left: read((i) => matrix(i.m, i.k, i.activation)),
      right: read((i) => matrix(i.n, i.k, i.weight)),
      addend: each((i) => matrix(i.m, i.n, i.accumulate), [ZERO]),
    },
    illegal: (i) =>
      oneOf("weight", i.weight, MMA_OF[i.activation].weights, i.activation) ??
      oneOf("accumulate", i.accumulate, MMA_OF[i.activation].sums, `a product of ${i.activation}`) ??
      outFor(i),
    summary:
      "O[m, n] = A[m, k] W[n, k]^T + addend[m, n], by multiplication: the machine's ordinary tensor instruction.",
    details: [
      "Integers are summed modulo 2^32. In `ideal` a float is the exact sum rounded once, to `out`. Else k rises, each product is " +
        "exact, and its addition is rounded to `accumulate`; the last sum is rounded to `out`.",
    ],
  },
  asum: {
    opcode: 0x40,
    syntax: "asum.m{m}k{k}.{activation} {to}, {from}, {addend}",
    fields: {
      m: size(M_SIZES),
      k: size(K_SIZES),
      activation: choice(ACTIVATIONS),
      to: write((i) => matrix(i.m, 1, sumOf(i.activation))),
      from: read((i) => matrix(i.m, i.k, i.activation)),
      addend: each((i) => matrix(i.m, 1, sumOf(i.activation)), [ZERO]),
    },
    illegal: legal,
    summary: "addend[m] + the sum of a row of activations, in int32 or fp32: what zero points are multiplied with.",
    details: [
      "Integers are summed modulo 2^32. In `ideal` a float is the exact sum rounded once; else k rises and each addition is " +
        "rounded.",
    ],
  },
  sacc: {
    opcode: 0x41,
    syntax: "sacc.m{m}n{n}.{product} {to}, {from}, {byRow}, {byColumn}, {addend}",
    fields: {
      m: size(M_SIZES),
      n: size(N_SIZES),
      product: choice(["int32", "fp32", "fp16", "bf16"]),
      to: write((i) => matrix(i.m, i.n, "fp32")),
      from: each((i) => matrix(i.m, i.n, i.product)),
      byRow: read((i) => matrix(i.m, 1, "fp32"), [ONE]),
      byColumn: read((i) => matrix(1, i.n, "fp32"), [ONE]),
      addend: each((i) => matrix(i.m, i.n, "fp32"), [ZERO]),
    },
    illegal: legal,
    summary: "addend[m, n] + from[m, n] * byRow[m] * byColumn[n] in fp32: scales of a group, and the sum over groups.",
    details: [
      "In `ideal` rounded once; else fp32(addend + fp32(fp32(fp32(from) * byRow) * byColumn)). A factor that is `one` is left out, " +
        "and with an addend that is `zero` nothing is added.",
    ],
  },
  zacc: {
    opcode: 0x42,
    syntax: "zacc.m{m}n{n}.{sum} {to}, {sums}, {byRow}, {byColumn}, {addend}",
    fields: {
      m: size(M_SIZES),
      n: size(N_SIZES),
      sum: choice(["int32", "fp32"]),
      to: write((i) => matrix(i.m, i.n, "fp32")),
      sums: read((i) => matrix(i.m, 1, i.sum)),
      byRow: read((i) => matrix(i.m, 1, "fp32"), [ONE]),
      byColumn: read((i) => matrix(1, i.n, "fp32")),
      addend: each((i) => matrix(i.m, i.n, "fp32"), [ZERO]),
    },
    illegal: legal,
    summary: "addend[m, n] + sums[m] * byRow[m] * byColumn[n] in fp32: zero-point correction.",
    details: ["`byColumn` holds -s' z' of each column (equation 3), or any offset. Rounded as `sacc`."],
  },
  clr: {
    opcode: 0x50,
    syntax: "clr.{rows}x{columns}.{element} {to}",
    fields: {
      rows: count(12),
      columns: count(13),
      element: choice(Object.keys(ELEMENT_BITS)),
      to: write((i) => matrix(i.rows, i.columns, i.element)),
    },
    illegal: legal,
    summary: "A matrix of zeros, such as an accumulator before a loop.",
    details: [],
  },
  cvt: {
    opcode: 0x51,
    syntax: "cvt.{rows}x{columns}.{source}{target} {to}, {from}",
    fields: {
      rows: count(12),
      columns: count(13),
      source: choice(Object.keys(ELEMENT_BITS)),
      target: choice(["fp32", "fp16", "bf16", "e4m3", "e5m2"]),
      to: write((i) => matrix(i.rows, i.columns, i.target)),
      from: each((i) => matrix(i.rows, i.columns, i.source)),
    },
    illegal: legal,
    summary: "Each number to the nearest of `target`, ties to even.",
    details: ["Beyond the largest number it becomes infinity, or NaN in e4m3, which has none."],
  },
  quant: {
    opcode: 0x52,
    syntax: "quant.{rows}x{columns}.{target}.x{group} {to}, {scales}, {from}",
    fields: {
      rows: count(12),
      columns: count(13),
      target: choice(["int8", "int16"]),
      group: size(K_SIZES),
      to: write((i) => matrix(i.rows, i.columns, i.target)),
      scales: write((i) => matrix(i.rows, Math.ceil(i.columns / i.group), "fp32")),
      from: read((i) => matrix(i.rows, i.columns, "fp32")),
    },
    illegal: ({ columns, group }) =>
      columns % group === 0 ? null : { field: "group", message: `${columns} columns are no whole groups of ${group}` },
    summary: "fp32 to integers, with one fp32 scale for each `group` columns of a row.",
    details: [
      "In all modes: with L the largest |x| of a group and Q 127 or 32767, scale = fp32(L / Q), inverse = fp32(Q / L), and x " +
        "becomes fp32(x * inverse) to the nearest whole number, ties to even. The exceptions are those of `lutq`.",
    ],
  },
});

function sumOf(activation: Activation): "int32" | "fp32" {
  return activation === "int8" || activation === "int16" ? "int32" : "fp32";
}

/** The row of an instruction. */
export function rowOf(kind: Opcode): Row {
  return ROWS[kind];
}

/** A field's value by its name. */
export function valueOf(i: Instruction, field: string): string | number {
  return (i as unknown as Readonly<Record<string, string | number>>)[field]!;
}

/** In the order of the table. */
export const OPCODES: readonly Opcode[] = Object.keys(ROWS) as Opcode[];

/** Where a fragment of an instruction lies: registers [register, register + registers). */
export interface Operand {
  readonly field: string;
  readonly access: "read" | "write";
  readonly register: Register;
  readonly registers: number;
  readonly fragment: Fragment;
}

/** The fragments that an instruction reads and writes, in the order of its fields, without `zero` and `one`. */
export function operandsOf(i: Instruction): readonly Operand[] {
  const found: Operand[] = [];
  for (const [field, what] of Object.entries(rowOf(i.kind).fields)) {
    const register = valueOf(i, field) as Register;
    if (what.kind !== "register" || register >= REGISTER_COUNT) continue;
    const fragment = what.of(i);
    found.push({ field, access: what.access, register, registers: registersOf(fragment), fragment });
  }
  return found;
}
