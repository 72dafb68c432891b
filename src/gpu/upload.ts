// Weights on their way to the device: the bytes of a file as they are, or carried through the compiler's packing
// descriptor, codes by a shader (shaders/repack.wgsl) and scales here, in doubles, since they are few and rounded once.
// Files are read piece by piece, so that no second copy of a matrix exists.
// Not here: which packing a matrix has (codegen.ts), what is done with it (backend.ts).

/// <reference types="@webgpu/types" />

import type { WeightSource, WeightTensor } from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import type { Packing } from "../ladder/emit/packing.ts";
import type { Codes } from "../ladder/layout.ts";
import type { WeightBuffer } from "../ladder/emit/side-wgsl.ts";
import type { WeightForm } from "./codegen.ts";
import type { Gpu } from "./device.ts";

/** Bytes of a file that are on their way at once. */
const PIECE_BYTES = 16 * 2 ** 20;
/** As packing descriptors allow in one dimension (WebGPU, maxComputeWorkgroupsPerDimension). */
const MAX_WORKGROUPS = 65_535;
const LANES = 64;
/** GPUBufferUsage, whose names are globals that Node has not. */
export const USAGE = { mapRead: 1, copySrc: 4, copyDst: 8, uniform: 64, storage: 128 } as const;

/** Rows [first, first + rows) of a matrix, on their way to row `at` of buffers that have `total` rows. */
export interface Sent {
  readonly tensor: WeightTensor;
  readonly first: number;
  readonly rows: number;
  readonly at: number;
  readonly total: number;
}

/** What a packed part lies in; absent where a kernel has constants instead. */
interface PackedBuffers {
  readonly codes: GPUBuffer;
  readonly scales: GPUBuffer | null;
  readonly offsets: GPUBuffer | null;
}

/** Why a packing cannot be carried out by the shader, or null. */
export function packingLimit({ block_bytes, units_per_row, codes, unit_values }: Packing): string | null {
  if (8 * block_bytes >= 2 ** 20) return `blocks of ${block_bytes} bytes`;
  if (unit_values >= 2 ** 16 || units_per_row >= 2 ** 26) return `rows of ${units_per_row} units`;
  if (codes.bits > 16) return `codes of ${codes.bits} bits`;
  return null;
}

/** Tables of the shader for one packing, and where in them the map and the places begin. */
interface Tables {
  readonly buffer: GPUBuffer;
  readonly map: number;
  readonly places: number;
  readonly mostPieces: number;
  readonly mostPlaces: number;
}

export class Uploader {
  readonly #gpu: Gpu;
  readonly #pipeline: GPUComputePipeline;
  /** By the codes of an operand, and by where kernels find them: matrices of one type may lie in several ways. */
  readonly #tables = new Map<Packing["codes"], Map<string, Tables>>();
  #bytes: GPUBuffer | null = null;

  private constructor(gpu: Gpu, pipeline: GPUComputePipeline) {
    this.#gpu = gpu;
    this.#pipeline = pipeline;
  }

  /** @param body of shaders/repack.wgsl */
  static async make(gpu: Gpu, body: string): Promise<Uploader> {
    const bindings = (["uniform", "read", "read", "write"] as const).map((use, binding) => ({ binding, use }));
    return new Uploader(
      gpu,
      await gpu.pipeline({ label: "repack", code: body, entry: "repack", bindings, constants: {} }),
    );
  }

  /**
   * Fills the buffers of a form with rows of a matrix.
   * @throws GpuLost, GpuOutOfMemory, and what reading the file throws
   */
  async put(source: WeightSource, part: Sent, form: WeightForm, buffers: readonly GPUBuffer[]): Promise<void> {
    const { buffers: kinds, packing } = form.side(part.total, 0);
    const of = (name: WeightBuffer["part"]): GPUBuffer | null =>
      buffers[kinds.findIndex((one) => one.part === name)] ?? null;
    for (const [b, { words }] of kinds.entries())
      if (words !== null) this.#gpu.device.queue.writeBuffer(buffers[b]!, 0, Uint32Array.from(words));
    const [bytes, floats, codes] = [of("bytes"), of("floats"), of("codes")];
    if (bytes !== null) this.#plain(source, part, bytes);
    if (floats !== null) this.#decoded(source, part, floats);
    if (packing !== null && codes !== null)
      await this.#packed(source, part, packing, { codes, scales: of("scales"), offsets: of("offsets") });
    await this.#gpu.settle(this.#gpu.device.queue.onSubmittedWorkDone());
  }

  /** The bytes of whole rows, as the file has them. */
  #plain(source: WeightSource, { tensor, first, rows, at: base }: Sent, to: GPUBuffer): void {
    const rowBytes = rowBytesOf(tensor);
    const [begin, end] = [first * rowBytes, (first + rows) * rowBytes];
    for (let at = begin; at < end; at += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, end - at);
      this.#gpu.device.queue.writeBuffer(to, base * rowBytes + at - begin, wholeWords(source.read(tensor, at, length)));
    }
  }

  /** The numbers of rows, rounded to f32. */
  #decoded(source: WeightSource, { tensor, first, rows, at: base }: Sent, to: GPUBuffer): void {
    const rowBytes = rowBytesOf(tensor);
    const k = tensor.shape.at(-1) ?? 0;
    const step = Math.max(1, Math.floor(PIECE_BYTES / (8 * k)));
    for (let row = 0; row < rows; row += step) {
      const count = Math.min(step, rows - row);
      const values = new Float64Array(count * k);
      decode(tensor.type, source.read(tensor, (first + row) * rowBytes, count * rowBytes), values);
      this.#gpu.device.queue.writeBuffer(to, 4 * (base + row) * k, Float32Array.from(values));
    }
  }

  /** @param packing of the rows of the part alone */
  async #packed(source: WeightSource, part: Sent, packing: Packing, to: PackedBuffers): Promise<void> {
    const { tensor, first, rows, at } = part;
    const { queue } = this.#gpu.device;
    const rowBytes = rowBytesOf(tensor);
    // Whole words, and whole tiles: both are powers of two.
    const least = Math.max(4, packing.tile_rows);
    const most = Math.min(PIECE_BYTES, this.#gpu.maxBindingBytes);
    if (least * rowBytes > most)
      throw new RangeError(
        `${tensor.name}: ${least} rows are ${least * rowBytes} bytes, and a binding of ${this.#gpu.adapter.description} ` +
          `has at most ${most} (maxStorageBufferBindingSize)`,
      );
    const step = Math.floor(most / rowBytes / least) * least;
    const scales = termReader(packing, "scale");
    const offsets = termReader(packing, "offset");
    for (let row = 0; row < rows; row += step) {
      const count = Math.min(step, rows - row);
      const bytes = source.read(tensor, (first + row) * rowBytes, count * rowBytes);
      await this.#repack(packing, wholeWords(bytes), at + row, count, to.codes);
      for (const [reader, buffer] of [
        [scales, to.scales],
        [offsets, to.offsets],
      ] as const)
        if (buffer !== null) writeTerms(queue, buffer, packing, reader(bytes, count), at + row, count);
    }
  }

  async #repack(packing: Packing, bytes: Uint8Array, first: number, rows: number, to: GPUBuffer): Promise<void> {
    const { device } = this.#gpu;
    const { buffer: tables, map, places, mostPieces, mostPlaces } = await this.#tablesOf(packing);
    if (this.#bytes === null || this.#bytes.size < bytes.byteLength) {
      if (this.#bytes !== null) this.#gpu.free(this.#bytes);
      this.#bytes = await this.#gpu.buffer("bytes of the file", bytes.byteLength, USAGE.storage | USAGE.copyDst);
    }
    device.queue.writeBuffer(this.#bytes, 0, bytes);
    const { columns, block_values, block_bytes, codes, unit_values, unit_bytes, units_per_row } = packing;
    const unitWords = unit_bytes / 4;
    const words = Uint32Array.of(
      rows,
      first,
      columns,
      block_values,
      8 * block_bytes,
      (8 * block_bytes * columns) / block_values,
      codes.flip,
      Number(codes.map !== null),
      packing.times,
      packing.subtract,
      2 ** packing.width - 1,
      unit_values,
      unitWords,
      units_per_row,
      packing.tile_rows,
      mostPieces,
      mostPlaces,
      map,
      places,
      0,
    );
    const uniform = await this.#gpu.buffer("packing", words.byteLength, USAGE.uniform | USAGE.copyDst);
    device.queue.writeBuffer(uniform, 0, words);
    const entries = [uniform, this.#bytes, tables, to].map((one, binding) => ({ binding, resource: { buffer: one } }));
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: this.#pipeline.getBindGroupLayout(0), entries }));
    const groups = Math.ceil((rows * units_per_row * unitWords) / LANES);
    const high = Math.ceil(groups / MAX_WORKGROUPS);
    pass.dispatchWorkgroups(Math.ceil(groups / high), high);
    pass.end();
    device.queue.submit([encoder.finish()]);
    this.#gpu.free(uniform);
  }

  async #tablesOf(packing: Packing): Promise<Tables> {
    const { codes, unit_bytes, unit_values, parts } = packing;
    const way = JSON.stringify([unit_bytes, unit_values, parts]);
    let ways = this.#tables.get(codes);
    if (ways === undefined) this.#tables.set(codes, (ways = new Map<string, Tables>()));
    const known = ways.get(way);
    if (known !== undefined) return known;
    const [pieces, places] = [piecesOf(packing), placesOf(packing)];
    const map = (codes.map ?? []).map((x) => x | 0);
    const words = Uint32Array.from([...pieces.list, ...map, ...places.list], (word) => word >>> 0);
    const buffer = await this.#gpu.buffer("tables of a packing", words.byteLength, USAGE.storage | USAGE.copyDst);
    this.#gpu.device.queue.writeBuffer(buffer, 0, words);
    const at = { map: pieces.list.length, places: pieces.list.length + map.length };
    const made = { buffer, ...at, mostPieces: pieces.most, mostPlaces: places.most };
    ways.set(way, made);
    return made;
  }

  /** Frees what uploading alone needs. */
  close(): void {
    for (const ways of this.#tables.values()) for (const { buffer } of ways.values()) this.#gpu.free(buffer);
    this.#tables.clear();
    if (this.#bytes !== null) this.#gpu.free(this.#bytes);
    this.#bytes = null;
  }
}

function rowBytesOf({ type, shape }: WeightTensor): number {
  return ((shape.at(-1) ?? 0) / type.blockSize) * type.blockBytes;
}

function wholeWords(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const length = Math.ceil(bytes.byteLength / 4) * 4;
  if (length === bytes.byteLength && bytes.buffer instanceof ArrayBuffer) return bytes as Uint8Array<ArrayBuffer>;
  const whole = new Uint8Array(length);
  whole.set(bytes);
  return whole;
}

// --- tables of the shader -------------------------------------------------------------------------------------------

interface Listed {
  /** `most` for each, padded with 0. */
  readonly list: readonly number[];
  readonly most: number;
}

function padded(lists: readonly (readonly number[])[]): Listed {
  const most = Math.max(1, ...lists.map((list) => list.length));
  return { most, list: lists.flatMap((list) => Array.from({ length: most }, (_, i) => list[i] ?? 0)) };
}

/** Of each value of a block, the pieces of its code. */
function piecesOf({ codes, block_values }: Packing): Listed {
  const lists: number[][] = Array.from({ length: block_values }, () => []);
  for (const { first, count, bit, step, width, shift } of codes.runs)
    for (let j = 0; j < count; j++) lists[first + j]!.push((bit + j * step) | (width << 20) | (shift << 24));
  return padded(lists);
}

/** Of each word of a unit, the parts of values that it has. */
function placesOf({ parts, unit_bytes, unit_values }: Packing): Listed {
  const lists: number[][] = Array.from({ length: unit_bytes / 4 }, () => []);
  for (const { shift, width, bits } of parts)
    for (let v = 0; v < unit_values; v++) {
      const bit = bits[v]!;
      lists[bit >> 5]!.push((v | (shift << 16) | (width << 21) | ((bit & 31) << 26)) >>> 0);
    }
  return padded(lists);
}

// --- scales and offsets ---------------------------------------------------------------------------------------------

type Term = Packing["scale"][number];

/** Every f16 by its bits. */
let halves: Float32Array | null = null;

function halfNumbers(): Float32Array {
  return (halves ??= Float32Array.from({ length: 65_536 }, (_, bits) => {
    const [power, fraction, sign] = [(bits >> 10) & 31, bits & 1023, bits >> 15 ? -1 : 1];
    if (power === 31) return fraction === 0 ? sign * Infinity : NaN;
    return sign * (power === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (power - 25));
  }));
}

/** Reads one code at each of its places. */
function codeReader({ runs, flip }: Codes, g: number): (bytes: Uint8Array, block: number) => number {
  const pieces = runs
    .filter(({ first, count }) => g >= first && g < first + count)
    .map(({ first, bit, step, width, shift }) => {
      const at = bit + (g - first) * step;
      return { byte: at >> 3, from: at & 7, mask: 2 ** width - 1, shift };
    });
  return (bytes, block) => {
    let code = 0;
    for (const { byte, from, mask, shift } of pieces) code += ((bytes[block + byte]! >> from) & mask) * 2 ** shift;
    return (code ^ flip) >>> 0;
  };
}

/** One term of group g of a block that begins at a byte, in doubles. */
function termOf(
  { constant, fields, codes }: Term,
  g: number,
): (bytes: Uint8Array, view: DataView, block: number) => number {
  const numbers = halfNumbers();
  const read = codes === null ? null : codeReader(codes, g);
  return (bytes, view, block) => {
    let value = constant;
    for (const { format, byte } of fields)
      if (format === "f16") value *= numbers[bytes[block + byte]! | (bytes[block + byte + 1]! << 8)]!;
      else if (format === "f32") value *= view.getFloat32(block + byte, true);
      else value *= bfloat(view.getUint16(block + byte, true));
    if (codes !== null && read !== null) {
      const code = read(bytes, block);
      value *= (codes.map === null ? code : Number(codes.map[code])) - codes.bias;
    }
    return value;
  };
}

const one = new DataView(new ArrayBuffer(4));
function bfloat(bits: number): number {
  one.setUint32(0, bits * 65_536);
  return one.getFloat32(0);
}

/** From the bytes of whole rows, (rows, groups) scales or offsets. */
function termReader(packing: Packing, which: "scale" | "offset"): (bytes: Uint8Array, rows: number) => Float32Array {
  const { block_values, block_bytes, columns, group_values } = packing;
  const group = group_values ?? block_values;
  const each = block_values / group;
  const groups = Array.from({ length: each }, (_, g) => packing[which].map((term) => termOf(term, g)));
  return (bytes, rows) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const blocks = (rows * columns) / block_values;
    const out = new Float32Array(blocks * each);
    for (let b = 0; b < blocks; b++)
      for (let g = 0; g < each; g++) {
        let sum = 0;
        for (const term of groups[g]!) sum += term(bytes, view, b * block_bytes);
        out[b * each + g] = sum;
      }
    return out;
  };
}

/** Puts (rows, groups) numbers into tiles of rows, (tile, group, row of the tile). */
function writeTerms(
  queue: GPUQueue,
  to: GPUBuffer,
  { tile_rows: tile, columns, group_values }: Packing,
  terms: Float32Array,
  first: number,
  rows: number,
): void {
  const groups = columns / (group_values ?? columns);
  const begin = Math.floor(first / tile);
  const tiles = Math.ceil((first + rows) / tile) - begin;
  const out = new Float32Array(tiles * tile * groups);
  for (let r = 0; r < rows; r++) {
    const n = first + r - begin * tile;
    const base = Math.floor(n / tile) * groups * tile + (n % tile);
    for (let g = 0; g < groups; g++) out[base + g * tile] = terms[r * groups + g]!;
  }
  queue.writeBuffer(to, 4 * begin * tile * groups, out);
}
