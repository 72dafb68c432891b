// An operand of a product of integers: the codes of its blocks as small integers with one scale, and perhaps one offset,
// for each group; and how a file's bytes are put into the order that kernels read, as a descriptor that any program can
// carry out. value = scale(g) * q + offset(g), q = step * v - shift, v the integer that a stored code stands for.
// Not here: the equation and what is in it (lowering.ts), the kernels (kernel-wgsl.ts, kernel-cpp.ts).
// Doubling the integers so that their range is symmetric is the reinterpretation of LUT Tensor Core (ISCA'25, 3.1.2).

import { gcd } from "../divisor.ts";
import type { MappedCodes } from "../layout.ts";
import { type LoweredTerm, loweringOf } from "./lowering.ts";
import type { Type } from "../type.ts";

/** An operand as integers. The equation is exact; every scale and offset is rounded to f32 once, when it is packed. */
export interface IntegerOperand {
  readonly kind: "integers";
  /** bytes: q fits eight bits with a sign. planes: q = sum of 2^p * (2 bit_p - 1). */
  readonly form: "bytes" | "planes";
  readonly codes: MappedCodes;
  /** v, the integers that the stored codes stand for. */
  readonly low: number;
  readonly high: number;
  readonly step: 1 | 2;
  readonly shift: number;
  /** q. */
  readonly least: number;
  readonly most: number;
  /** Of v - low. */
  readonly bits: number;
  /** Values with the same scale and offset; null where these are the same for the whole matrix. */
  readonly group: number | null;
  readonly scale: LoweredTerm;
  /** Their sum is the offset; none where it is 0. */
  readonly offset: readonly LoweredTerm[];
}

/**
 * How bytes as a file has them become the buffers of a kernel: codes, then scales, then offsets, in buffers of their own
 * (WGSL) or one behind the other (C++). The bytes of codes are rounded up to a multiple of 4, with zeros. Plain JSON: a
 * number that it lacks is a text. dsl/README.md, "The manifest", says the same to those who carry it out.
 */
export interface Packing {
  readonly rows: number;
  readonly columns: number;
  /** A row is columns / block_values blocks, one behind the other. */
  readonly block_values: number;
  readonly block_bytes: number;
  /**
   * v = map[c xor flip], or c xor flip where there is no map; c of value i of a block has, for each run with
   * first <= i < first + count, the `width` bits from bit `bit` + (i - first) * `step` of the block at bit `shift`.
   * Bit b of a block is bit b mod 8 of byte b div 8. `bits` is the width of c.
   */
  readonly codes: MappedCodes;
  /** u = (times * v - subtract) mod 2^width is stored. */
  readonly times: number;
  readonly subtract: number;
  readonly width: number;
  /**
   * The buffer of codes: a row is units_per_row units of unit_bytes bytes, value k being in unit k div unit_values.
   * Rows lie in tiles of tile_rows, a power of two, and are filled up with zeros to whole tiles: unit u of row r is number
   * (r div tile_rows * units_per_row + u) * tile_rows + r mod tile_rows.
   */
  readonly unit_values: number;
  readonly unit_bytes: number;
  readonly units_per_row: number;
  readonly tile_rows: number;
  /** Bits [shift, shift + width) of u of value k are at bit bits[k mod unit_values] of its unit. */
  readonly parts: readonly { readonly shift: number; readonly width: number; readonly bits: readonly number[] }[];
  /**
   * Values with the same scale and offset; the buffers have one f32 for each group, in the order of units. Null: they are
   * constants.
   */
  readonly group_values: number | null;
  /**
   * The sum of its terms, in doubles, then the nearest f32, little-endian. A term of group g of a block is constant times
   * the fields, floats of the format from that byte of the block on, times (code g - bias), codes being read as above.
   */
  readonly scale: readonly LoweredTerm[];
  readonly offset: readonly LoweredTerm[];
}

/** Eight bits with a sign, as products of integers take them. */
const BYTE = { least: -128, most: 127 } as const;
/** More planes cost more than a product. */
const MAX_PLANES = 8;

/**
 * The integers of a type for products of bytes, or for lookups by bit planes.
 * A zero point is taken off where it leaves integers; else it becomes an offset.
 */
export function integerOperand(
  type: Type,
  form: IntegerOperand["form"],
): IntegerOperand | { readonly kind: "none"; readonly reason: string } {
  const lowering = loweringOf(type);
  if (lowering.kind === "float") return none("it is a plain float");
  if (lowering.kind === "none") return lowering;
  const { zero, codes, groupSize } = lowering;
  const [low, high] = [lowering.least + zero, lowering.most + zero];
  const bits = Math.max(1, Math.ceil(Math.log2(high - low + 1)));
  const ways =
    form === "planes"
      ? [{ step: 2, shift: 2 * low + 2 ** bits - 1 } as const]
      : ([
          { step: 1, shift: zero },
          { step: 2, shift: 2 * zero },
          { step: 1, shift: 0 },
          { step: 1, shift: low - BYTE.least },
        ] as const);
  const range = ({ step, shift }: (typeof ways)[number]): { readonly least: number; readonly most: number } => ({
    least: step * low - shift,
    most: step * high - shift,
  });
  const way =
    form === "planes"
      ? ways[0]
      : ways.find((one) => {
          const { least, most } = range(one);
          return Number.isInteger(one.shift) && least >= BYTE.least && most <= BYTE.most;
        });
  if (way === undefined) return none(`its integers are ${low} to ${high}, and eight bits hold 256 of them`);
  if (form === "planes" && bits > MAX_PLANES)
    return none(`its integers are ${low} to ${high}, ${bits} bit planes, and lookups take at most ${MAX_PLANES}`);
  const { step, shift } = way;
  const scale = { ...lowering.scale, constant: lowering.scale.constant / step };
  const residual = shift - step * zero;
  const offset = lowering.offset === null ? [] : [lowering.offset];
  if (residual !== 0) offset.push({ ...scale, constant: scale.constant * residual });
  const isConstant = [scale, ...offset].every((term) => term.fields.length === 0 && term.codes === null);
  const group = isConstant ? null : groupSize;
  return { kind: "integers", form, codes, low, high, ...range(way), step, shift, bits, group, scale, offset };
}

function none(reason: string): { readonly kind: "none"; readonly reason: string } {
  return { kind: "none", reason };
}

/** What of a packing is the kernel's choice. */
export interface Order {
  /** Neighbours that lie in the same bits of as many bytes, so that one mask takes them all out. */
  readonly stride: number;
  /** Whether codes of less than eight bits share a byte. */
  readonly dense: boolean;
  readonly tileRows: number;
}

/** The order in which a kernel reads an operand's codes. Of planes, 32 neighbours are a word of each. */
export function packingOf(
  operand: IntegerOperand,
  { blockSize, blockBytes }: Type,
  rows: number,
  columns: number,
  { stride, dense, tileRows }: Order,
): Packing {
  const { form, codes, low, step, shift, bits, scale, offset, group } = operand;
  const width = form === "planes" ? bits : dense ? 2 ** Math.ceil(Math.log2(bits)) : 8;
  // A whole byte holds q itself, with its sign; less than that holds v from its least on.
  const stored = form === "bytes" && width === 8 ? { times: step, subtract: shift } : { times: 1, subtract: low };
  const perByte = 8 / width;
  const unit =
    form === "planes"
      ? { unit_values: 32, unit_bytes: 4 * bits, parts: Array.from({ length: bits }, (_, p) => planeAt(p)) }
      : {
          unit_values: stride * perByte,
          unit_bytes: stride,
          parts: [
            {
              shift: 0,
              width,
              bits: Array.from(
                { length: stride * perByte },
                (_, c) => 8 * (c % stride) + width * Math.floor(c / stride),
              ),
            },
          ],
        };
  return {
    rows,
    columns,
    block_values: blockSize,
    block_bytes: blockBytes,
    codes,
    ...stored,
    width,
    ...unit,
    units_per_row: Math.ceil(columns / unit.unit_values),
    tile_rows: tileRows,
    group_values: group,
    scale: [scale],
    offset,
  };
}

function planeAt(p: number): Packing["parts"][number] {
  return { shift: p, width: 1, bits: Array.from({ length: 32 }, (_, j) => 32 * p + j) };
}

/** Integers from `least` to `most`. */
export interface Span {
  readonly least: number;
  readonly most: number;
}

/** The longest sum of products of two integers in these spans of which no partial sum leaves i32, or f32's integers. */
export function exactSums(a: Span, w: Span): { readonly i32: number; readonly f32: number } {
  const products = [a.least * w.least, a.least * w.most, a.most * w.least, a.most * w.most];
  const [least, most] = [Math.min(0, ...products), Math.max(0, ...products)];
  const times = (limit: number, by: number): number => (by === 0 ? Number.MAX_SAFE_INTEGER : Math.floor(limit / by));
  const size = Math.max(-least, most);
  return { f32: times(2 ** 24, size), i32: Math.min(times(2 ** 31 - 1, most), times(2 ** 31, -least)) };
}

/** Values of k with the same scales on all sides that are summed at once: a multiple of `step`, or 0 where none is. */
export function pieceOf(k: number, longest: number, step: number, sides: readonly IntegerOperand[]): number {
  const common = sides.reduce((size, { group }) => gcd(size, group ?? k), k);
  for (let piece = longest - (longest % step); piece > 0; piece -= step) if (common % piece === 0) return piece;
  return 0;
}
