// The program of one product: output-stationary, a warp for each tile of columns, whose sums stay in registers while k
// rises. Tables are brought to shared memory by all warps of a block, stage by stage; blocks run in strips of columns.
// Not here: what makes tables (prepare.ts), how tiles are chosen (tiling.ts), how weights lie (matrix.ts).
// After LUT Tensor Core (ISCA'25), 3.1.1 for tables that all columns share, 3.5 for the order.

import { type Element, TABLE_K, type Weight } from "./fragment.ts";
import { NAMED_SCALARS, ONE, type Register, ZERO } from "./instruction.ts";
import { addTables } from "./prepare.ts";
import type { Program } from "./program.ts";
import {
  type Arithmetic,
  bitsOf,
  denseOf,
  GROUP,
  groupOf,
  type Left,
  type Right,
  segmentOf,
  stageOf,
  stripOf,
  tileRows,
} from "./tiling.ts";
import { placeAt, sizeOf, tableBytes, Writer } from "./writer.ts";

const { bx, by, warp, nil } = NAMED_SCALARS;

export const PRODUCT_BUFFERS = {
  /** Tables or activations, as PREPARE_BUFFERS has them. */
  left: 0,
  tableScales: 1,
  scales: 2,
  sums: 3,
  /** As matrix.ts lays them out. */
  codes: 4,
  /** (groups, n) fp32 */
  weightScales: 5,
  corrections: 6,
  /** (rows, n) fp32 */
  out: 7,
} as const;

/** One product out(rows, n) = left(rows, k) . right(n, k)^T; rows is a number that paddedRows gave. */
export interface Product {
  readonly rows: number;
  readonly left: Left;
  readonly right: Right;
  /** Whether tables are there, or are made of activations by each warp that looks them up, as without the split. */
  readonly split: boolean;
}

/** A sum of one segment, before scales. */
interface Summed {
  readonly from: Register;
  readonly product: "int32" | "fp32" | "fp16";
}

export function productProgram({ rows, left, right, split }: Product, arithmetic: Arithmetic): Program {
  const { n, k, tile, form } = right;
  const { activation } = arithmetic;
  const at = PRODUCT_BUFFERS;
  const tables = form.kind === "planes" ? left.tables : null;
  const segment = segmentOf(right, arithmetic);
  // What lies in memory: tables that the warps of a block share, or activations.
  const entry = tables === null || !split ? null : tables.share === null ? tables.entry : "int8";
  const element = denseOf(form, activation) ?? activation;
  const leftBytes = (count: number): number => (entry === null ? sizeOf(count, element) : tableBytes(count, entry));
  const { warps, k: stage } = stageOf(right, segment, entry !== null);
  const largest = Math.max(leftBytes(segment), tables === null ? 0 : tableBytes(segment, tables.entry));
  const m = tileRows(rows, Math.max(sizeOf(tile, "fp32"), largest));
  const group = groupOf(right);
  const isScaled = form.kind !== "floats";
  // How ordinary numbers lie in memory: (n, parts, k).
  const stored = form.kind === "floats" ? form.element : "int8";
  const parts = form.kind === "floats" ? form.parts : 1;
  const sums = isScaled && form.corrected ? left.sums : null;

  const w = new Writer();
  const moves: (() => void)[] = [];
  const column = w.pointer(bx, warps, warp);
  const row = { rows: 1, columns: tile, element: "fp32" } as const;
  const block = { kind: "matrix", rows: m, columns: tile } as const;
  const acc = w.take({ ...block, element: "fp32" });
  const [scale, correction] = [w.take({ kind: "matrix", ...row }), w.take({ kind: "matrix", ...row })];
  const groupAt = w.pointer(column, sizeOf(tile, "fp32"));
  const leftAt = w.pointer(by, m * leftBytes(k));
  moves.push(() => w.move(leftAt, leftBytes(stage)));
  // Columns of planes lie together; those of ordinary numbers are rows of memory.
  const codesAt = w.pointer(column, (tile * k * bitsOf(form)) / 8);
  const stageBytes = form.kind === "planes" ? (tile * stage * bitsOf(form)) / 8 : sizeOf(stage, stored);
  moves.push(() => w.move(codesAt, stageBytes));
  /** Loads what a buffer has for the tile's rows: a number for `every` values of k, of a segment or for its beginning. */
  const perRow = (buffer: number, every: number, of: Element): ((from: number) => Register) => {
    const base = w.pointer(by, (4 * m * k) / every);
    moves.push(() => w.move(base, (4 * stage) / every));
    const columns = buffer === at.tableScales ? segment / every : 1;
    const stride = (4 * k) / every;
    return (from) => w.load({ rows: m, columns, element: of }, placeAt(buffer, base, stride, (4 * from) / every));
  };
  const tableScale = entry === "int8" ? perRow(at.tableScales, TABLE_K * tables!.share!, "fp32") : null;
  const rowScale = isScaled && element === "int8" ? perRow(at.scales, GROUP, "fp32") : null;
  const rowSum = sums === null ? null : perRow(at.sums, sums, element === "int8" ? "int32" : "fp32");

  const isShared = entry !== null && warps > 1;
  const part = stage / segment / warps;
  const segmentBytes = leftBytes(segment);
  const partFrom = isShared ? w.pointer(nil, 0) : nil;
  const partTo = isShared ? w.pointer(warp, part * m * segmentBytes) : nil;
  /** Each warp brings its part of the stage's tables, when no other reads those of the stage before. */
  const shareTables = (): void => {
    if (!isShared) return;
    w.add({ kind: "bar" });
    w.add({ kind: "lea", to: partFrom, left: warp, factor: part * segmentBytes, right: leftAt, addend: 0 });
    for (let p = 0; p < part; p++) {
      w.scope(() => {
        const to = w.take({ kind: "table", m, k: segment, entry });
        const source = placeAt(at.left, partFrom, leftBytes(k), p * segmentBytes);
        const target = placeAt("shared", partTo, segmentBytes, p * m * segmentBytes);
        w.add({ kind: "ld.tab", m, k: segment, entry, to, ...source });
        w.add({ kind: "st.tab", m, k: segment, entry, from: to, ...target });
      });
    }
    w.add({ kind: "bar" });
  };
  /** Tables of a segment that begins at a value of the stage. */
  const tablesAt = (from: number): { readonly table: Register; readonly scales: Register } => {
    if (entry === null) {
      const made = addTables(w, { m, k: segment, activation, tables: tables!, from: activationsAt(from) });
      return { table: made.to, scales: made.scales };
    }
    const table = w.take({ kind: "table", m, k: segment, entry });
    const place = isShared
      ? placeAt("shared", nil, segmentBytes, (from / segment) * m * segmentBytes)
      : placeAt(at.left, leftAt, leftBytes(k), leftBytes(from));
    w.add({ kind: "ld.tab", m, k: segment, entry, to: table, ...place });
    return { table, scales: tableScale?.(from) ?? ONE };
  };
  const activationsAt = (from: number): Register =>
    w.load({ rows: m, columns: segment, element }, placeAt(at.left, leftAt, leftBytes(k), sizeOf(from, element)));
  const lookedUp = (from: number, weight: Weight): Summed => {
    const { entry: exact, share } = tables!;
    const { table, scales } = tablesAt(from);
    const shape = { m, n: tile, k: segment } as const;
    const weights = w.take({ kind: "weights", n: tile, k: segment, weight });
    const offset = (tile * from * bitsOf(form)) / 8;
    w.add({ kind: "ld.wgt", n: tile, k: segment, weight, to: weights, space: `g${at.codes}`, base: codesAt, offset });
    const product = share !== null ? "fp32" : exact === "int16" ? "int32" : exact === "fp16" ? "fp16" : "fp32";
    const to = w.take({ ...block, element: product });
    const types = { activation, weight, out: product } as const;
    const operands = { to, table, weights, addend: ZERO } as const;
    if (share === null) w.add({ kind: "lmma", ...shape, ...types, accumulate: product, entry: exact, ...operands });
    else w.add({ kind: "lmmaq", ...shape, ...types, accumulate: "fp32", share, scales, ...operands });
    return { from: to, product };
  };
  const multiplied = (from: number): Summed => {
    const product = element === "int8" ? "int32" : "fp32";
    const to = w.take({ ...block, element: product });
    const types = { activation: element, weight: element, accumulate: product, out: product } as const;
    const operands = { to, left: activationsAt(from) } as const;
    for (let nth = 0; nth < parts; nth++) {
      w.scope(() => {
        const added = { right: weightsAt(nth * k + from), addend: nth === 0 ? ZERO : to } as const;
        w.add({ kind: "mma", m, n: tile, k: segment, ...types, ...operands, ...added });
      });
    }
    return { from: to, product };
  };
  /** Ordinary weights of a segment, in the element of the activations. */
  const weightsAt = (from: number): Register => {
    const shape = { rows: tile, columns: segment } as const;
    const codes = w.load(
      { ...shape, element: stored },
      placeAt(at.codes, codesAt, sizeOf(parts * k, stored), sizeOf(from, stored)),
    );
    if (stored === element) return codes;
    const to = w.take({ kind: "matrix", ...shape, element: "fp16" });
    w.add({ kind: "cvt", ...shape, source: stored, target: "fp16", to, from: codes });
    return to;
  };
  const addSegment = (begin: number): void => {
    const { from, product } = form.kind === "planes" ? lookedUp(begin, form.weight) : multiplied(begin);
    const byRow = rowScale?.(begin) ?? ONE;
    const byColumn = isScaled ? scale : ONE;
    w.add({ kind: "sacc", m, n: tile, product, to: acc, from, byRow, byColumn, addend: acc });
    if (rowSum === null || sums === null) return;
    const sum = element === "int8" ? "int32" : "fp32";
    for (let s = begin; s < begin + segment; s += sums)
      w.add({ kind: "zacc", m, n: tile, sum, to: acc, sums: rowSum(s), byRow, byColumn: correction, addend: acc });
  };
  const loadGroup = (nth: number): void => {
    if (isScaled) w.load(row, placeAt(at.weightScales, groupAt, 0, 4 * n * nth), scale);
    if (sums !== null) w.load(row, placeAt(at.corrections, groupAt, 0, 4 * n * nth), correction);
  };

  w.add({ kind: "clr", rows: m, columns: tile, element: "fp32", to: acc });
  const stages = Math.max(1, group / stage);
  w.loop(k / stage / stages, () => {
    if (stages > 1) loadGroup(0);
    w.loop(stages, () => {
      shareTables();
      for (let from = 0; from < stage; from += segment) {
        if (stages === 1 && from % group === 0) loadGroup(from / group);
        w.scope(() => addSegment(from));
      }
      for (const move of moves) move();
    });
    if (isScaled) w.move(groupAt, 4 * n * Math.max(1, stage / group));
  });
  const outAt = w.pointer(column, sizeOf(tile, "fp32"), w.pointer(by, sizeOf(m * n, "fp32")));
  w.add({ kind: "st.mat", ...row, rows: m, from: acc, ...placeAt(at.out, outAt, sizeOf(n, "fp32")) });
  const blocks = n / tile / warps;
  return w.program({
    gridX: blocks,
    gridY: rows / m,
    swizzle: stripOf(right, warps, blocks),
    warps,
    shared: isShared ? m * (stage / segment) * segmentBytes : 0,
    buffers: Object.keys(at).length,
  });
}
