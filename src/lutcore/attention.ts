// Programs for the two products of attention, as ordinary instructions: scores = q . keys^T and out = p . values, for all
// key heads and 64 positions at a time. How many positions there are comes with the launch, so that one program does for
// all of them. Not here: the softmax between the two, which is no product (backend.ts).

import { gcd } from "../ladder/divisor.ts";
import { NAMED_SCALARS } from "./instruction.ts";
import type { Program } from "./program.ts";
import { tileRows } from "./tiling.ts";
import { placeAt, sizeOf, Writer } from "./writer.ts";

/** Positions of a tile: caches have whole ones. */
export const POSITIONS = 64;
/** Width of a head that is taken at once, at most. */
const MOST_WIDTH = 64;

/** Queries of one sequence: `rows` (a number that paddedRows gave) for each key head, a token's heads side by side. */
export interface Heads {
  readonly kvHeads: number;
  readonly rows: number;
  readonly headDim: number;
  /**
   * Numbers of fp16 whose sum a query, or a share of the softmax, is: 2 keep what an fp32 has of 22 bits (Markidis et al.,
   * "NVIDIA Tensor Core Programmability, Performance & Precision", 2018), for twice the products.
   */
  readonly parts: 1 | 2;
}

/** Widths of heads that programs can be written for. */
export function canAttend(headDim: number): boolean {
  return headDim % 8 === 0;
}

const { bx, by } = NAMED_SCALARS;
const POSITION_TILES = 0;

/**
 * s0: tiles of positions. g0: q, fp16 (parts, kvHeads, rows, headDim). g1: keys, fp16 (positions, kvHeads * headDim).
 * g2: scores, fp32 (tiles, kvHeads, rows, 64).
 */
export function scoresProgram({ kvHeads, rows, headDim, parts }: Heads): Program {
  const width = gcd(headDim, MOST_WIDTH);
  const m = tileRows(rows, sizeOf(POSITIONS, "fp32"));
  const w = new Writer(1);
  const queryAt = w.pointer(bx, sizeOf(rows * headDim, "fp16"), w.pointer(by, sizeOf(m * headDim, "fp16")));
  const keysAt = w.pointer(bx, sizeOf(headDim, "fp16"));
  const scoresAt = w.pointer(bx, sizeOf(rows * POSITIONS, "fp32"), w.pointer(by, sizeOf(m * POSITIONS, "fp32")));
  const keyStride = sizeOf(kvHeads * headDim, "fp16");
  const of = { activation: "fp16", weight: "fp16", accumulate: "fp32", out: "fp32" } as const;

  const queries = Array.from({ length: headDim / width }, (_d, d) =>
    Array.from({ length: parts }, (_p, part) => {
      const offset = sizeOf(part * kvHeads * rows * headDim + d * width, "fp16");
      return w.load({ rows: m, columns: width, element: "fp16" }, placeAt(0, queryAt, sizeOf(headDim, "fp16"), offset));
    }),
  );
  const to = w.take({ kind: "matrix", rows: m, columns: POSITIONS, element: "fp32" });
  w.loop({ count: POSITION_TILES }, () => {
    w.add({ kind: "clr", rows: m, columns: POSITIONS, element: "fp32", to });
    for (const [d, lefts] of queries.entries()) {
      w.scope(() => {
        const place = placeAt(1, keysAt, keyStride, sizeOf(d * width, "fp16"));
        const right = w.load({ rows: POSITIONS, columns: width, element: "fp16" }, place);
        for (const left of lefts) w.add({ kind: "mma", m, n: POSITIONS, k: width, ...of, to, left, right, addend: to });
      });
    }
    const place = placeAt(2, scoresAt, sizeOf(POSITIONS, "fp32"));
    w.add({ kind: "st.mat", rows: m, columns: POSITIONS, element: "fp32", from: to, ...place });
    w.move(keysAt, POSITIONS * keyStride);
    w.move(scoresAt, sizeOf(kvHeads * rows * POSITIONS, "fp32"));
  });
  return w.program({ gridX: kvHeads, gridY: rows / m, swizzle: 1, warps: 1, shared: 0, buffers: 3 });
}

/**
 * s0: tiles of positions. g0: p, fp16 (tiles, parts, kvHeads, rows, 64). g1: values, fp16 (positions, kvHeads * headDim).
 * g2: out, fp32 (kvHeads, rows, headDim).
 */
export function outputsProgram({ kvHeads, rows, headDim, parts }: Heads): Program {
  const width = gcd(headDim, MOST_WIDTH);
  const m = tileRows(rows, sizeOf(POSITIONS, "fp32"));
  const w = new Writer(1);
  const sharesAt = w.pointer(bx, sizeOf(rows * POSITIONS, "fp16"), w.pointer(by, sizeOf(m * POSITIONS, "fp16")));
  const valuesAt = w.pointer(bx, sizeOf(headDim, "fp16"));
  const outAt = w.pointer(bx, sizeOf(rows * headDim, "fp32"), w.pointer(by, sizeOf(m * headDim, "fp32")));
  const valueStride = sizeOf(kvHeads * headDim, "fp16");
  const of = { activation: "fp16", weight: "fp16", accumulate: "fp32", out: "fp32" } as const;

  const sums = Array.from({ length: headDim / width }, () => {
    const to = w.take({ kind: "matrix", rows: m, columns: width, element: "fp32" });
    w.add({ kind: "clr", rows: m, columns: width, element: "fp32", to });
    return to;
  });
  w.loop({ count: POSITION_TILES }, () => {
    w.scope(() => {
      const lefts = Array.from({ length: parts }, (_, part) => {
        const offset = sizeOf(part * kvHeads * rows * POSITIONS, "fp16");
        const place = placeAt(0, sharesAt, sizeOf(POSITIONS, "fp16"), offset);
        return w.load({ rows: m, columns: POSITIONS, element: "fp16" }, place);
      });
      for (const [d, to] of sums.entries()) {
        const columns = placeAt(1, valuesAt, valueStride, sizeOf(d * width, "fp16"));
        w.scope(() => {
          const fragment = { rows: width, columns: POSITIONS, element: "fp16" } as const;
          const right = w.load(fragment, columns, w.take({ kind: "matrix", ...fragment }), "columns");
          for (const left of lefts)
            w.add({ kind: "mma", m, n: width, k: POSITIONS, ...of, to, left, right, addend: to });
        });
      }
    });
    w.move(sharesAt, sizeOf(parts * kvHeads * rows * POSITIONS, "fp16"));
    w.move(valuesAt, POSITIONS * valueStride);
  });
  for (const [d, from] of sums.entries()) {
    const place = placeAt(2, outAt, sizeOf(headDim, "fp32"), sizeOf(d * width, "fp32"));
    w.add({ kind: "st.mat", rows: m, columns: width, element: "fp32", from, ...place });
  }
  return w.program({ gridX: kvHeads, gridY: rows / m, swizzle: 1, warps: 1, shared: 0, buffers: 3 });
}
