// The weights of a plan on the device: each matrix once, in the form of its type's kernels, cut into parts that a binding
// can have; vectors as f32. A type's form is tried on the adapter before it is used: all that its decode can meet, against
// the exact decoder; a form that fails is left for the next, and the last is plain floats, decoded here.
// Not here: bytes on their way (upload.ts), texts (codegen.ts).

/// <reference types="@webgpu/types" />

import { UnsupportedOp, type WeightSource, type WeightTensor } from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import type { Type } from "../ladder/type.ts";
import type { Plan } from "../plan.ts";
import type { Kernels, WeightForm } from "./codegen.ts";
import type { Gpu } from "./device.ts";
import { selfTest } from "./self-test.ts";
import { Uploader, USAGE } from "./upload.ts";

/** Rows [first, first + rows) of a matrix, that lie in buffers from row `at` on. */
export interface Piece {
  /** Among the matrices that are multiplied together. */
  readonly matrix: number;
  readonly at: number;
  readonly first: number;
  readonly rows: number;
  /** Of the whole matrix. */
  readonly of: number;
}

/** What one dispatch multiplies: rows of one matrix, or of several that have the same input. */
export interface Part {
  readonly form: WeightForm;
  /** With those between the pieces. */
  readonly rows: number;
  readonly pieces: readonly Piece[];
  readonly buffers: readonly GPUBuffer[];
}

/** Bindings of a product's input in codes: these and their scales. */
const MOST_INPUTS = 2;

/** What was found of the forms of types on one adapter. */
export class SelfTests {
  readonly #known = new Map<Type, Map<WeightForm["layout"], Promise<string | null>>>();

  of({ type, layout }: WeightForm, run: () => Promise<string | null>): Promise<string | null> {
    let kinds = this.#known.get(type);
    if (kinds === undefined) this.#known.set(type, (kinds = new Map<WeightForm["layout"], Promise<string | null>>()));
    let found = kinds.get(layout);
    if (found === undefined) {
      kinds.set(layout, (found = run()));
      // What could not be tried, as for want of memory, is tried again.
      found.catch(() => kinds.delete(layout));
    }
    return found;
  }
}

/** Parts and pieces begin at a multiple of it: tiles of rows are no larger. */
const PART_ROWS = 64;

export class WeightStore {
  readonly #gpu: Gpu;
  readonly #kernels: Kernels;
  readonly #tests: SelfTests;
  readonly #source: WeightSource;
  readonly #total: number;
  readonly #progress: ((done: number, total: number) => void) | undefined;
  readonly #matrices = new Map<string, Promise<readonly Part[]>>();
  readonly #vectors = new Map<string, Promise<GPUBuffer>>();
  readonly #held: GPUBuffer[] = [];
  #uploader: Uploader | null = null;
  #bytes = 0;
  #done = 0;

  constructor(
    gpu: Gpu,
    kernels: Kernels,
    tests: SelfTests,
    plan: Plan,
    source: WeightSource,
    progress?: (done: number, total: number) => void,
  ) {
    this.#gpu = gpu;
    this.#kernels = kernels;
    this.#tests = tests;
    this.#source = source;
    this.#progress = progress;
    this.#total = [...plan.weights.keys()].reduce((sum, name) => sum + (source.tensor(name)?.byteLength ?? 0), 0);
  }

  /**
   * The (n, k) weights of those names, the same ones each time: neighbours of one type in one part, as far as a binding
   * has room for them.
   */
  matrices(names: readonly string[]): Promise<readonly Part[]> {
    const key = names.join("\n");
    let made = this.#matrices.get(key);
    if (made === undefined) this.#matrices.set(key, (made = this.#load(names)));
    return made;
  }

  /** A norm's or bias's numbers as f32. */
  vector(name: string): Promise<GPUBuffer> {
    let made = this.#vectors.get(name);
    if (made === undefined) this.#vectors.set(name, (made = this.#loadVector(this.#tensor(name))));
    return made;
  }

  /** Bytes held for weights, once all that the plan uses have been asked for; frees what loading alone needs. */
  finish(): { readonly bytes: number } {
    this.#uploader?.close();
    this.#uploader = null;
    this.#progress?.(this.#total, this.#total);
    return { bytes: this.#bytes };
  }

  free(): void {
    this.#uploader?.close();
    for (const buffer of this.#held) this.#gpu.free(buffer);
  }

  #tensor(name: string): WeightTensor {
    const tensor = this.#source.tensor(name);
    if (tensor === undefined) throw new Error(`the model has no tensor ${name}`);
    return tensor;
  }

  async #buffer(label: string, bytes: number): Promise<GPUBuffer> {
    const buffer = await this.#gpu.buffer(label, bytes, USAGE.storage | USAGE.copyDst);
    this.#held.push(buffer);
    this.#bytes += buffer.size;
    return buffer;
  }

  async #loadVector(tensor: WeightTensor): Promise<GPUBuffer> {
    const values = new Float64Array(tensor.shape.reduce((product, size) => product * size, 1));
    decode(tensor.type, this.#source.read(tensor, 0, tensor.byteLength), values);
    const buffer = await this.#buffer(tensor.name, 4 * values.length);
    this.#gpu.device.queue.writeBuffer(buffer, 0, Float32Array.from(values));
    this.#loaded(tensor.byteLength);
    return buffer;
  }

  #loaded(bytes: number): void {
    this.#done += bytes;
    this.#progress?.(this.#done, this.#total);
  }

  async #load(names: readonly string[]): Promise<readonly Part[]> {
    const tensors = names.map((name) => this.#tensor(name));
    const parts: Part[] = [];
    for (let i = 0; i < tensors.length;) {
      const { name, type, shape } = tensors[i]!;
      const form = await this.#formOf(type, shape[0] ?? 0, shape[1] ?? 0);
      let together = 1;
      while (tensors[i + together]?.type === type && this.#fits(form, tensors.slice(i, i + together + 1))) together++;
      const joined = tensors.slice(i, i + together);
      const most = this.#mostRows(name, form, Math.max(...joined.map((tensor) => tensor.shape[0] ?? 0)));
      const pieces = piecesOf(joined, i, most);
      for (const group of together > 1 ? [pieces] : pieces.map((piece) => [{ ...piece, at: 0 }]))
        parts.push(await this.#part(form, group, tensors));
      i += together;
    }
    return parts;
  }

  async #part(form: WeightForm, pieces: readonly Piece[], tensors: readonly WeightTensor[]): Promise<Part> {
    const { at, rows: last } = pieces.at(-1)!;
    const rows = at + last;
    const uploader = await this.#uploading();
    const label = tensors[pieces[0]!.matrix]!.name;
    const buffers: GPUBuffer[] = [];
    for (const { part, bytes } of form.side(rows, 0).buffers)
      buffers.push(await this.#buffer(`${label} ${part}`, bytes));
    for (const piece of pieces) {
      const tensor = tensors[piece.matrix]!;
      await uploader.put(this.#source, { tensor, ...piece, total: rows }, form, buffers);
      this.#loaded((tensor.byteLength * piece.rows) / piece.of);
    }
    return { form, rows, pieces, buffers };
  }

  /** Whether matrices have room together, in one binding and among the bindings that a kernel may have. */
  #fits(form: WeightForm, tensors: readonly WeightTensor[]): boolean {
    const rows = tensors.reduce((sum, { shape }) => alignedRows(sum) + (shape[0] ?? 0), 0);
    const bindings = form.side(rows, 0).buffers.length + MOST_INPUTS + 2 * tensors.length;
    return (
      bindings <= this.#gpu.device.limits.maxStorageBuffersPerShaderStage &&
      this.#size(form, rows) <= this.#gpu.maxBindingBytes
    );
  }

  #size(form: WeightForm, rows: number): number {
    return Math.max(...form.side(rows, 0).buffers.map(({ bytes }) => bytes));
  }

  async #uploading(): Promise<Uploader> {
    return (this.#uploader ??= await Uploader.make(this.#gpu, this.#kernels.body("repack")));
  }

  /** The first form that computes on this adapter what it should; a type is tried once. */
  async #formOf(type: Type, n: number, k: number): Promise<WeightForm> {
    const uploader = await this.#uploading();
    const reasons: string[] = [];
    for (const form of this.#kernels.forms(type, n, k)) {
      const wrong = await this.#tests.of(form, () => selfTest(this.#gpu, this.#kernels, uploader, form));
      if (wrong === null) return form;
      reasons.push(`${form.layout}: ${wrong}`);
    }
    throw new UnsupportedOp(
      `${this.#gpu.adapter.description} computes ${type.name} wrongly, so that it is not used: ${reasons.join("; ")}; ` +
        "another driver or --device cpu may do",
    );
  }

  /** Of n rows of a matrix as many as a binding has room for: all, or a multiple of PART_ROWS. */
  #mostRows(name: string, form: WeightForm, n: number): number {
    const most = this.#gpu.maxBindingBytes;
    if (this.#size(form, n) <= most) return n;
    const least = this.#size(form, PART_ROWS);
    if (least > most)
      throw new RangeError(
        `${name}: ${PART_ROWS} rows are ${least} bytes, and a binding of ${this.#gpu.adapter.description} has at ` +
          `most ${most} (maxStorageBufferBindingSize)`,
      );
    // Halving, since a size costs the text of a prelude, which may take milliseconds.
    let [fit, tooMany] = [1, Math.ceil(n / PART_ROWS)];
    while (tooMany - fit > 1) {
      const middle = Math.floor((fit + tooMany) / 2);
      if (this.#size(form, middle * PART_ROWS) <= most) fit = middle;
      else tooMany = middle;
    }
    return fit * PART_ROWS;
  }
}

function alignedRows(rows: number): number {
  return Math.ceil(rows / PART_ROWS) * PART_ROWS;
}

/** The matrices one behind the other, each cut where it has more rows than fit. */
function piecesOf(tensors: readonly WeightTensor[], from: number, most: number): readonly Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  for (const [i, { shape }] of tensors.entries()) {
    const of = shape[0] ?? 0;
    for (let first = 0; first < of; first += most) {
      const rows = Math.min(most, of - first);
      pieces.push({ matrix: from + i, at, first, rows, of });
      at = alignedRows(at + rows);
    }
  }
  return pieces;
}
