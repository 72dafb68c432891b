// The program that makes what stands on the left of products: tables, activations, scales, sums; once for all matrices of
// an input, as an operator of its own (the split of the dataflow graph), and fused into what makes the input, so that
// activations are stored and loaded once less.
// Not here: the products (product.ts), what is wanted (tiling.ts). After LUT Tensor Core (ISCA'25), 3.1.1.

import { gcd } from "../ladder/divisor.ts";
import { type Element, TABLE_K } from "./fragment.ts";
import { type Entry, NAMED_SCALARS, ONE, type Register, ZERO } from "./instruction.ts";
import type { Program } from "./program.ts";
import { type Arithmetic, GROUP, type Left, MOST_SEGMENT, tileRows } from "./tiling.ts";
import { type Place, placeAt, sizeOf, tableBytes, Writer } from "./writer.ts";

const { by, nil } = NAMED_SCALARS;

/**
 * Where the input of a preparation comes from: memory; a norm, whose factor of each row is known and whose weights are to
 * be multiplied; a product of two rows, number by number, which gates a feed-forward; or activations that another program
 * has stored as they are.
 */
export type Producer = "memory" | "norm" | "gate" | "stored";

/** Global buffers of programs, all row-major. A launch gives those that its program uses, the others being empty. */
export const PREPARE_BUFFERS = {
  /** (rows, k) fp32 */
  x: 0,
  /** norm: (rows, 1) fp32; gate: (rows, k) fp32 */
  factors: 1,
  /** (1, k) fp32 */
  norm: 2,
  /** (rows, k / 4, 8) */
  tables: 3,
  /** (rows, k / 4 / share) fp32 */
  tableScales: 4,
  /** (rows, k) */
  int8: 5,
  fp16: 6,
  bf16: 7,
  /** (rows, k / 16) fp32 */
  scales: 8,
  /** (rows, k / sums), int32 or fp32 */
  sums: 9,
} as const;

/** A preparation: of `rows`, a number that paddedRows gave, of k activations. */
export interface Preparation {
  readonly rows: number;
  readonly k: number;
  readonly producer: Producer;
  readonly left: Left;
}

/** The program that makes what stands on the left, a block for each tile of rows, some k at a time. */
export function prepareProgram({ rows, k, producer, left }: Preparation, arithmetic: Arithmetic): Program {
  const { activation } = arithmetic;
  const { tables, dense, sums } = left;
  const at = PREPARE_BUFFERS;
  const chunk = sums ?? gcd(k, MOST_SEGMENT);
  // A gate multiplies rows by rows, for which the machine has products with one row alone.
  const m = producer === "gate" ? 1 : tileRows(rows, Math.max(sizeOf(chunk, "fp32"), tableBytes(chunk, "fp32")));
  const w = new Writer();
  const moves: (() => void)[] = [];
  /** Where the tile's rows lie in a buffer that has `bytes` for each chunk of a row. */
  const along = (buffer: number, bytes: number): Place => {
    const stride = (bytes * k) / chunk;
    const base = w.pointer(by, m * stride);
    moves.push(() => w.move(base, bytes));
    return placeAt(buffer, base, stride);
  };
  const input = (buffer: number, element: Element): Register =>
    w.load({ rows: m, columns: chunk, element }, along(buffer, sizeOf(chunk, element)));
  const store = (buffer: number, columns: number, element: Element, from: Register): void =>
    w.add({ kind: "st.mat", rows: m, columns, element, from, ...along(buffer, sizeOf(columns, element)) });
  const converted = (element: "fp16" | "bf16", from: Register): Register => {
    const to = w.take({ kind: "matrix", rows: m, columns: chunk, element });
    w.add({ kind: "cvt", rows: m, columns: chunk, source: "fp32", target: element, to, from });
    return to;
  };
  const factors =
    producer === "norm"
      ? w.load({ rows: m, columns: 1, element: "fp32" }, placeAt(at.factors, w.pointer(by, sizeOf(m, "fp32")), 4))
      : ONE;
  /** A part of the weights of a norm, or of the row that gates. */
  const columnFactors = (): Register => {
    if (producer === "gate") return input(at.factors, "fp32");
    const base = w.pointer(nil, 0);
    moves.push(() => w.move(base, sizeOf(chunk, "fp32")));
    return w.load({ rows: 1, columns: chunk, element: "fp32" }, placeAt(at.norm, base));
  };
  /** The input in fp32, as its producer leaves it. */
  const produced = (): Register => {
    const from = input(at.x, "fp32");
    if (producer === "memory") return from;
    const to = w.take({ kind: "matrix", rows: m, columns: chunk, element: "fp32" });
    const byColumn = columnFactors();
    w.add({ kind: "sacc", m, n: chunk, product: "fp32", to, from, byRow: factors, byColumn, addend: ZERO });
    return to;
  };
  /** The activations in their element, and what else products read of them, stored. */
  const activations = (): Register => {
    if (producer === "stored") return input(at[activation], activation);
    const x = produced();
    if (dense.includes("bf16")) store(at.bf16, chunk, "bf16", converted("bf16", x));
    const isQuantised = activation === "int8" && (tables !== null || sums !== null || dense.includes("int8"));
    const halves = activation === "fp16" || dense.includes("fp16") ? converted("fp16", x) : x;
    if (dense.includes("fp16")) store(at.fp16, chunk, "fp16", halves);
    if (!isQuantised) return halves;
    const to = w.take({ kind: "matrix", rows: m, columns: chunk, element: "int8" });
    const scales = w.take({ kind: "matrix", rows: m, columns: chunk / GROUP, element: "fp32" });
    w.add({ kind: "quant", rows: m, columns: chunk, target: "int8", group: GROUP, to, scales, from: x });
    store(at.scales, chunk / GROUP, "fp32", scales);
    if (dense.includes("int8")) store(at.int8, chunk, "int8", to);
    return to;
  };

  w.loop(k / chunk, () => {
    const from = activations();
    if (tables !== null) {
      const made = addTables(w, { m, k: chunk, activation, tables, from });
      const place = along(at.tables, tableBytes(chunk, made.entry));
      w.add({ kind: "st.tab", m, k: chunk, entry: made.entry, from: made.to, ...place });
      if (tables.share !== null) store(at.tableScales, chunk / TABLE_K / tables.share, "fp32", made.scales);
    }
    if (sums !== null) {
      const element = activation === "int8" ? "int32" : "fp32";
      const to = w.take({ kind: "matrix", rows: m, columns: 1, element });
      w.add({ kind: "asum", m, k: chunk, activation, to, from, addend: ZERO });
      store(at.sums, 1, element, to);
    }
    for (const move of moves) move();
  });
  const buffers = Object.keys(at).length;
  return w.program({ gridX: 1, gridY: rows / m, swizzle: 1, warps: 1, shared: 0, buffers });
}

export interface TablesOf {
  readonly m: number;
  readonly k: number;
  readonly activation: "fp16" | "int8";
  readonly tables: NonNullable<Left["tables"]>;
  readonly from: Register;
}

export interface Tables {
  readonly to: Register;
  readonly entry: Entry | "int8";
  /** `ONE` where they are not quantised. */
  readonly scales: Register;
}

/** Tables of activations that are in registers, quantised where that is wanted. */
export function addTables(w: Writer, { m, k, activation, tables: { entry, share }, from }: TablesOf): Tables {
  const exact = w.take({ kind: "table", m, k, entry });
  w.add({ kind: "lut", m, k, activation, entry, to: exact, from });
  if (share === null) return { to: exact, entry, scales: ONE };
  const to = w.take({ kind: "table", m, k, entry: "int8" });
  const scales = w.take({ kind: "matrix", rows: m, columns: k / TABLE_K / share, element: "fp32" });
  w.add({ kind: "lutq", m, k, entry, share, to, scales, from: exact });
  return { to, entry: "int8", scales };
}
