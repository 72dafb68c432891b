// How products of a plan are cut for the machine: what of k is summed before scales, what stands on the left, how wide and
// how high tiles are. All by bytes: operands of registers, what a tile moves, the cache that blocks share.
// Not here: the programs (prepare.ts, product.ts), weights (matrix.ts).
// After LUT Tensor Core (ISCA'25), 3.5: tiles by memory instead of shape, since both sides have numbers of other sizes.

import { gcd } from "../ladder/divisor.ts";
import { ELEMENT_BITS, MAX_FRAGMENT_REGISTERS, PLANES, REGISTER_BYTES, TABLE_K } from "./fragment.ts";
import type { Entry } from "./instruction.ts";
import type { BytesForm, PlanesForm } from "./offline.ts";
import { tableBytes } from "./writer.ts";

/** How products are computed. Integers are the same in all modes; `rtl` has tables and sums of fp16, as the circuit has. */
export interface Arithmetic {
  readonly mode: "ideal" | "paper" | "rtl";
  /** int8: with one scale for each 16 values of a row, as the CPU kernels have them. */
  readonly activation: "fp16" | "int8";
  /** Tables as they are made, or in int8 with a scale for each table, or for some tables together. */
  readonly tables: "exact" | "int8-table" | "int8-group";
}

/** Values of a row that have one scale, and the least k of a product: rows are a multiple of it. */
export const GROUP = 16;
/** Tables that share a scale in int8-group at most: 32 activations, as in the CPU kernels. */
const MOST_SHARED = 8;
/** K of one product at most, so that 16 rows of tables in fp32 are one operand. */
export const MOST_SEGMENT = 64;
/** Rows of a tile at most. */
const MOST_ROWS = 16;
const OPERAND_BYTES: number = MAX_FRAGMENT_REGISTERS * REGISTER_BYTES;
const MOST_WARPS = 8;
/** Products that stand one behind the other in the code. */
const MOST_UNROLLED = 16;
/** Of the cache that strips of blocks share: half of an A100's 40 MiB, as its weights pass through. */
const STRIP_BYTES = 20 * 2 ** 20;

/** A matrix as programs see it. */
export interface Right {
  /** A multiple of the tile. */
  readonly n: number;
  readonly k: number;
  /** Columns of one warp. */
  readonly tile: number;
  /** By tables, or by ordinary products: of int8 with scales, or of plain floats. */
  readonly form: PlanesForm | BytesForm | FloatsForm;
}

/** A float is the sum of so many numbers of 16 bits, exactly: three of bf16 have the 24 places of an f32. */
export interface FloatsForm {
  readonly kind: "floats";
  readonly element: "fp16" | "bf16";
  readonly parts: 1 | 2 | 3;
}

/** What stands on the left of some products; `share` tables have one scale where they are int8. */
export interface Left {
  readonly tables: { readonly entry: Entry; readonly share: number | null } | null;
  /** Activations as they are, for ordinary products. */
  readonly dense: readonly ("int8" | "fp16" | "bf16")[];
  /** So many activations are summed for corrections; null: none are. */
  readonly sums: number | null;
}

/** Rows of buffers for so many tokens: whole tiles of any program. */
export function paddedRows(tokens: number): number {
  return tokens <= MOST_ROWS ? powerFrom(tokens) : Math.ceil(tokens / MOST_ROWS) * MOST_ROWS;
}

/** The columns of a tile: as many as move the fewest bytes for one row, whole tiles of weights and the left of each. */
export function tileFor(n: number, k: number, form: Right["form"]): number {
  const perColumn = (k * bitsOf(form)) / 8;
  const bytes = (tile: number): number => {
    const tiles = Math.ceil(n / tile);
    return tiles * (tile * perColumn + (form.kind === "planes" ? tableBytes(k, "int16") : k));
  };
  return [256, 128, 64, 32, 16, 8].reduce((best, tile) => (bytes(tile) < bytes(best) ? tile : best));
}

/** Bits of a weight in memory, in all its parts. */
export function bitsOf(form: Right["form"]): number {
  switch (form.kind) {
    case "planes":
      return PLANES[form.weight].length;
    case "bytes":
      return 8;
    case "floats":
      return form.parts * ELEMENT_BITS[form.element];
  }
}

/** What products of these matrices, all with the same input, want on their left. */
export function leftOf(rights: readonly Right[], arithmetic: Arithmetic): Left {
  const { activation, tables, mode } = arithmetic;
  const segments = (chosen: readonly Right[]): number =>
    chosen.reduce((least, right) => Math.min(least, segmentOf(right, arithmetic)), MOST_SEGMENT);
  const planes = rights.filter(({ form }) => form.kind === "planes");
  const corrected = rights.filter(({ form }) => form.kind !== "floats" && form.corrected);
  const most = Math.min(MOST_SHARED, segments(planes) / TABLE_K);
  return {
    tables:
      planes.length === 0
        ? null
        : {
            entry: activation === "int8" ? "int16" : mode === "rtl" ? "fp16" : "fp32",
            share: tables === "exact" ? null : tables === "int8-table" ? 1 : most,
          },
    dense: (["int8", "fp16", "bf16"] as const).filter((element) =>
      rights.some(({ form }) => denseOf(form, activation) === element),
    ),
    sums: corrected.length === 0 ? null : segments(corrected),
  };
}

/** The element of activations beside a matrix in an ordinary product. */
export function denseOf(form: Right["form"], activation: Arithmetic["activation"]): "int8" | "fp16" | "bf16" | null {
  return form.kind === "planes" ? null : form.kind === "bytes" ? activation : form.element;
}

/** Values of k with one scale; all where there is none. */
export function groupOf({ form, k }: Pick<Right, "form" | "k">): number {
  return (form.kind === "floats" ? null : form.group) ?? k;
}

/** Values of k that are summed before they are scaled: those with the same scales on both sides, as far as they fit. */
export function segmentOf({ form, k, tile }: Right, { activation }: Pick<Arithmetic, "activation">): number {
  const group = groupOf({ form, k });
  const alike = activation === "int8" && form.kind !== "floats" ? gcd(group, GROUP) : group;
  const fits = form.kind === "planes" ? MOST_SEGMENT : OPERAND_BYTES / (2 * tile);
  return gcd(gcd(alike, k), Math.min(MOST_SEGMENT, fits));
}

/** The power of two from a number up. */
function powerFrom(count: number): number {
  return 2 ** Math.ceil(Math.log2(count));
}

/** Rows of a tile: all, or the most whose operands fit. @param rowBytes of the largest operand */
export function tileRows(rows: number, rowBytes: number): number {
  return Math.min(rows, MOST_ROWS, 2 ** Math.floor(Math.log2(OPERAND_BYTES / rowBytes)));
}

/** Warps of a block, and values of k for which the tables that they share are in shared memory at a time. */
export interface Stage {
  readonly warps: number;
  readonly k: number;
}

/**
 * As many warps as divide the columns' tiles and the products of a stage. A stage is of whole groups, or a group of whole
 * stages. Its tables fit: at most 16 operands, 128 KiB of an A100's 164.
 */
export function stageOf(right: Right, segment: number, isShared: boolean): Stage {
  const tiles = right.n / right.tile;
  const group = groupOf(right);
  for (let warps = isShared ? MOST_WARPS : 1; ; warps--) {
    if (tiles % warps !== 0) continue;
    for (let products = MOST_UNROLLED - (MOST_UNROLLED % warps); products > 0; products -= warps) {
      const k = products * segment;
      if (right.k % k === 0 && (k % group === 0 || group % k === 0)) return { warps, k };
    }
  }
}

/** Columns of the grid's strips: as many blocks as keep their weights in the cache while rows pass. */
export function stripOf({ k, tile, form }: Right, warps: number, blocks: number): number {
  const blockBytes = (warps * tile * k * bitsOf(form)) / 8;
  return Math.max(1, Math.min(blocks, Math.floor(STRIP_BYTES / blockBytes)));
}
