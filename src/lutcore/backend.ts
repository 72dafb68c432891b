// The backend that runs a plan on the LMMA machine: every product of matrices as programs, the same that a run counts.
// Beside the machine, in plain JavaScript and number by number: embedding rows, the factors of norms, rotations, softmax,
// silu, biases and residuals. What the machine did is kept for each op (`workOf`).
// Not here: programs (prepare.ts, product.ts, attention.ts), how they are run (exec.ts).

import {
  type Backend,
  type Chunk,
  logitsByChunk,
  type Row,
  rowsOf,
  type Session,
  UnsupportedOp,
  type WeightSource,
} from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import type { Attention, Embed, Gemm, Norm, Op, Rope, Select } from "../ops.ts";
import type { Plan } from "../plan.ts";
import { canAttend, outputsProgram, POSITIONS, scoresProgram } from "./attention.ts";
import { addCounts, type Counts, NO_COUNTS } from "./counts.ts";
import { load } from "./exec.ts";
import type { Launch } from "./launch.ts";
import { type Matrix, matrixOf } from "./matrix.ts";
import { type Mode, STAGE1 } from "./mode.ts";
import { encoderOf, rounderOf } from "./number.ts";
import { PREPARE_BUFFERS, type Preparation, prepareProgram, type Producer } from "./prepare.ts";
import { PRODUCT_BUFFERS, productProgram } from "./product.ts";
import type { Program } from "./program.ts";
import { VALUES } from "./registers.ts";
import { type Arithmetic, GROUP, type Left, leftOf, paddedRows, type Right } from "./tiling.ts";
import { sizeOf, tableBytes } from "./writer.ts";

/** Makes a program ready; what runs programs, such as `load` of exec.ts. */
export type Machine = (program: Program, mode: Mode) => (launch: Launch) => Counts | Promise<Counts>;

/** What the machine did for one part of the plan, all steps together. */
export interface Work {
  /** "blk.3", or "" for what belongs to no block. */
  readonly block: string;
  /** Names of the weights, or "scores" and "outputs" of attention. */
  readonly op: string;
  /**
   * tables: what stands on the left is made; lookups, products: of a matrix; attention: of activations with one another.
   * rows: of the embedding, which are read as they lie in the file and decoded beside the machine, by no instruction: their
   * counts are the bytes read and written, and nothing else.
   */
  readonly kind: "rows" | "tables" | "lookups" | "products" | "attention";
  readonly launches: number;
  readonly counts: Counts;
}

/** Milliseconds of computing after which the event loop gets its turn. */
const TURN_MS = 20;

export function openLmma(arithmetic: Arithmetic, machine: Machine = load): Backend {
  const { mode, activation, tables } = arithmetic;
  return {
    name: "lmma",
    device: { name: "lmma", isa: `${mode}, ${activation} activations, ${tables} tables`, threads: 1 },
    prepare: (plan, weights, progress) => prepare(plan, weights, arithmetic, machine, progress),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** What the machine has done for a session of this backend, in the order of the plan; nothing for others. */
export function workOf(session: Session): readonly Work[] {
  return session instanceof LmmaSession ? session.work : [];
}

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

async function prepare(
  plan: Plan,
  weights: WeightSource,
  arithmetic: Arithmetic,
  machine: Machine,
  progress?: (done: number, total: number) => void,
): Promise<Session> {
  const names = new Set(plan.ops.flatMap((op) => (op.kind === "gemm" ? op.linears.map(({ weight }) => weight) : [])));
  for (const op of plan.ops)
    if (op.kind === "attention" && !canAttend(op.headDim))
      throw new UnsupportedOp(`attention: heads of ${op.headDim} numbers; the LMMA machine takes multiples of 8`);
  const matrices = new Map<string, Matrix>();
  for (const name of names) {
    const tensor = weights.tensor(name);
    if (tensor === undefined) throw new Error(`the model has no tensor ${name}`);
    const matrix = matrixOf(tensor, weights.read(tensor, 0, tensor.byteLength));
    if (matrix.kind === "none")
      throw new UnsupportedOp(`tensor ${name} (${tensor.type.name}): ${matrix.reason}; --device cpu runs it`);
    matrices.set(name, matrix);
    progress?.(matrices.size, names.size);
    await turn();
  }
  return new LmmaSession(plan, weights, arithmetic, machine, matrices);
}

/** A value of the plan, (rows, width) with rows filled up by zeros; to be multiplied by `gate` where it has one. */
interface Numbers {
  readonly data: Float32Array<ArrayBuffer>;
  readonly gate: Float32Array<ArrayBuffer> | null;
}

/** Keys and values of one layer and slot, fp16 (positions, width): whole tiles, grown as positions come. */
interface Stripe {
  readonly keys: Uint16Array<ArrayBuffer>;
  readonly values: Uint16Array<ArrayBuffer>;
}

/** What an op sees of a step. */
interface Step {
  readonly rows: readonly Row[];
  readonly values: Numbers[];
}

const halfOf = ((): ((x: number) => number) => {
  const [round, encode] = [rounderOf("fp16"), encoderOf("fp16")];
  return (x) => encode(round(x));
})();

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

class LmmaSession implements Session {
  readonly #plan: Plan;
  readonly #weights: WeightSource;
  readonly #arithmetic: Arithmetic;
  readonly #machine: Machine;
  readonly #mode: Mode;
  readonly #matrices: ReadonlyMap<string, Matrix>;
  readonly #vectors = new Map<string, Float32Array>();
  readonly #cache = new Map<string, Stripe>();
  /** By what they are of. */
  readonly #programs = new Map<string, ReturnType<Machine>>();
  readonly #work = new Map<string, Work>();
  /** Steps run one after another, in the order of their calls. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    plan: Plan,
    weights: WeightSource,
    arithmetic: Arithmetic,
    machine: Machine,
    matrices: ReadonlyMap<string, Matrix>,
  ) {
    this.#plan = plan;
    this.#weights = weights;
    this.#arithmetic = arithmetic;
    this.#machine = machine;
    this.#mode = arithmetic.mode === "rtl" ? { kind: "rtl", quirks: STAGE1 } : { kind: arithmetic.mode };
    this.#matrices = matrices;
  }

  get work(): readonly Work[] {
    return [...this.#work.values()];
  }

  get bytes(): Session["bytes"] {
    let [weights, cache] = [0, 0];
    for (const { codes, scales, corrections } of this.#matrices.values())
      weights += codes.length + scales.length + corrections.length;
    for (const { keys, values } of this.#cache.values()) cache += keys.byteLength + values.byteLength;
    return { weights, cache, scratch: 0 };
  }

  step(batch: readonly Chunk[]): Promise<readonly Float32Array[]> {
    const mine = this.#last.then(() => this.#run(batch));
    this.#last = mine.catch(() => undefined);
    return mine;
  }

  async #run(batch: readonly Chunk[]): Promise<readonly Float32Array[]> {
    const plan = this.#plan;
    const rows = rowsOf(plan, batch);
    const none: Numbers = { data: new Float32Array(0), gate: null };
    const wanted = rows.filter((row) => row.wanted).length;
    const vocabulary = plan.values[plan.logits]?.width ?? 0;
    if (rows.length === 0) return logitsByChunk(batch, none.data, vocabulary);
    const step: Step = { rows, values: plan.values.map(() => none) };
    let since = performance.now();
    for (const op of plan.ops) {
      if (op.kind === "select" && wanted === 0) break;
      await this.#runOp(op, step);
      if (performance.now() - since < TURN_MS) continue;
      await turn();
      since = performance.now();
    }
    const logits = wanted === 0 ? none.data : this.#read(step, plan.logits).subarray(0, wanted * vocabulary);
    return logitsByChunk(batch, logits, vocabulary);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last;
    this.#cache.clear();
    this.#programs.clear();
  }

  async #runOp(op: Op, step: Step): Promise<void> {
    switch (op.kind) {
      case "embed":
        return this.#embed(op, step);
      case "select":
        return this.#select(op, step);
      case "gemm":
        return this.#gemm(op, step);
      case "rope":
        return this.#rope(op, step);
      case "attention":
        return this.#attention(op, step);
    }
  }

  /** Runs a program of some key, which `make` writes the first time. */
  async #launch(
    key: string,
    make: () => Program,
    launch: Launch,
    work: Omit<Work, "launches" | "counts">,
  ): Promise<void> {
    let run = this.#programs.get(key);
    if (run === undefined) this.#programs.set(key, (run = this.#machine(make(), this.#mode)));
    this.#count({ ...work, launches: 1, counts: await run(launch) });
  }

  #count(work: Work): void {
    const name = `${work.block} ${work.op} ${work.kind}`;
    const before = this.#work.get(name);
    const launches = work.launches + (before?.launches ?? 0);
    const counts = before === undefined ? work.counts : addCounts(before.counts, work.counts);
    this.#work.set(name, { ...work, launches, counts });
  }

  #width(id: number): number {
    return this.#plan.values[id]?.width ?? 0;
  }

  #numbers({ values }: Step, id: number): Numbers {
    const numbers = values[id];
    if (numbers === undefined) throw new Error(`the plan has no value ${id}`);
    return numbers;
  }

  /** A value as it is, its gate multiplied in. */
  #read(step: Step, id: number): Float32Array<ArrayBuffer> {
    const { data, gate } = this.#numbers(step, id);
    return gate === null ? data : data.map((x, i) => x * gate[i]!);
  }

  #write({ values }: Step, id: number, data: Float32Array<ArrayBuffer>, gate: Numbers["gate"] = null): void {
    values[id] = { data, gate };
  }

  /** Decoded values of a vector, or of one row of a matrix, and the bytes that they have in the file. */
  #decoded(name: string, row = 0): { readonly values: Float32Array; readonly bytes: number } {
    const tensor = this.#weights.tensor(name);
    if (tensor === undefined) throw new Error(`the model has no tensor ${name}`);
    const k = tensor.shape.at(-1) ?? 0;
    const rowBytes = (k / tensor.type.blockSize) * tensor.type.blockBytes;
    const out = new Float64Array(k);
    decode(tensor.type, this.#weights.read(tensor, row * rowBytes, rowBytes), out);
    return { values: Float32Array.from(out), bytes: rowBytes };
  }

  #vector(name: string): Float32Array {
    const known = this.#vectors.get(name) ?? this.#decoded(name).values;
    this.#vectors.set(name, known);
    return known;
  }

  #embed(op: Embed, step: Step): void {
    const width = this.#width(op.out);
    const out = new Float32Array(paddedRows(step.rows.length) * width);
    let read = 0;
    for (const [r, { token }] of step.rows.entries()) {
      const { values, bytes } = this.#decoded(op.weight, token);
      out.set(values, r * width);
      read += bytes;
    }
    const global = { read, written: 4 * step.rows.length * width };
    const counts = { ...NO_COUNTS, bytes: { ...NO_COUNTS.bytes, global } };
    this.#count({ ...placeOf([op.weight]), kind: "rows", launches: 0, counts });
    this.#write(step, op.out, out);
  }

  #select(op: Select, step: Step): void {
    const width = this.#width(op.input);
    const input = this.#read(step, op.input);
    const wanted = step.rows.flatMap((row, r) => (row.wanted ? [r] : []));
    const out = new Float32Array(paddedRows(wanted.length) * width);
    for (const [i, r] of wanted.entries()) out.set(input.subarray(r * width, (r + 1) * width), i * width);
    this.#write(step, op.out, out);
  }

  async #gemm(op: Gemm, step: Step): Promise<void> {
    const { linears, epilogue } = op;
    const matrices = linears.map(({ weight }) => this.#matrices.get(weight)!);
    const left = leftOf(
      matrices.map(({ right }) => right),
      this.#arithmetic,
    );
    const prepared = await this.#prepared(op, step, left);
    const products: Float32Array<ArrayBuffer>[] = [];
    for (const [i, { weight, bias }] of linears.entries()) {
      const product = await this.#product(weight, matrices[i]!, left, prepared);
      if (bias !== null) addRow(product, this.#vector(bias));
      products.push(product);
    }
    switch (epilogue.kind) {
      case "store":
        for (const [i, id] of op.out.entries()) this.#write(step, id, products[i]!);
        break;
      case "add": {
        const from = this.#read(step, epilogue.from);
        for (const [i, id] of op.out.entries())
          this.#write(
            step,
            id,
            products[i]!.map((x, at) => x + from[at]!),
          );
        break;
      }
      case "silu-mul": {
        const [gate, up] = products;
        this.#write(step, op.out[0]!, gate!.map(silu), up);
        break;
      }
    }
  }

  /** What stands on the left of an op's products, in buffers of PREPARE_BUFFERS. */
  async #prepared(op: Gemm, step: Step, left: Left): Promise<readonly Uint8Array[]> {
    const { input, norm, linears } = op;
    const k = this.#width(input);
    const { data, gate } = this.#numbers(step, input);
    // A norm is of the whole product.
    const x = norm !== null && gate !== null ? this.#read(step, input) : data;
    const producer: Producer = norm !== null ? "norm" : gate !== null ? "gate" : "memory";
    const preparation: Preparation = { rows: x.length / k, k, producer, left };
    const buffers = buffersFor(preparation, this.#arithmetic);
    buffers[PREPARE_BUFFERS.x] = bytesOf(x);
    if (norm !== null) {
      buffers[PREPARE_BUFFERS.factors] = bytesOf(factorsOf(x, k, norm));
      buffers[PREPARE_BUFFERS.norm] = bytesOf(this.#vector(norm.weight));
    } else if (gate !== null) buffers[PREPARE_BUFFERS.factors] = bytesOf(gate);
    const work = { ...placeOf(linears.map(({ weight }) => weight)), kind: "tables" } as const;
    const make = (): Program => prepareProgram(preparation, this.#arithmetic);
    await this.#launch(JSON.stringify(preparation), make, { parameters: [], buffers }, work);
    return buffers;
  }

  /** (rows, n) of one matrix. */
  async #product(
    name: string,
    { right, codes, scales, corrections }: Matrix,
    left: Left,
    prepared: readonly Uint8Array[],
  ): Promise<Float32Array<ArrayBuffer>> {
    const at = PRODUCT_BUFFERS;
    const rows = prepared[PREPARE_BUFFERS.x]!.length / 4 / right.k;
    const out = new Float32Array(rows * right.n);
    const buffers: Uint8Array[] = [];
    buffers[at.left] = prepared[leftBuffer(right, this.#arithmetic)]!;
    buffers[at.tableScales] = prepared[PREPARE_BUFFERS.tableScales]!;
    buffers[at.scales] = prepared[PREPARE_BUFFERS.scales]!;
    buffers[at.sums] = prepared[PREPARE_BUFFERS.sums]!;
    buffers[at.codes] = codes;
    buffers[at.weightScales] = scales;
    buffers[at.corrections] = corrections;
    buffers[at.out] = bytesOf(out);
    const product = { rows, left, right, split: true };
    const work = { ...placeOf([name]), kind: right.form.kind === "planes" ? "lookups" : "products" } as const;
    const make = (): Program => productProgram(product, this.#arithmetic);
    await this.#launch(JSON.stringify(product), make, { parameters: [], buffers }, work);
    const n = this.#plan.weights.get(name)?.shape[0] ?? 0;
    return n === right.n ? out : withoutColumns(out, right.n, n);
  }

  #rope(op: Rope, step: Step): void {
    const value = this.#read(step, op.value);
    const pairs = op.frequencies.length;
    for (const [r, { position }] of step.rows.entries()) {
      for (const [p, frequency] of op.frequencies.entries()) {
        const cosine = Math.cos(position * frequency) * op.magnitude;
        const sine = Math.sin(position * frequency) * op.magnitude;
        for (let head = 0; head < op.heads; head++) {
          const base = (r * op.heads + head) * op.headDim;
          const a = base + (op.pairing === "adjacent" ? 2 * p : p);
          const b = base + (op.pairing === "adjacent" ? 2 * p + 1 : p + pairs);
          const [x, y] = [value[a]!, value[b]!];
          value[a] = x * cosine - y * sine;
          value[b] = x * sine + y * cosine;
        }
      }
    }
    this.#write(step, op.value, value);
  }

  /** The stripe of a layer and slot, with room for whole tiles of `positions`. */
  #stripe(layer: number, slot: number, positions: number): Stripe {
    const { width } = this.#plan.cache;
    const key = `${layer}.${slot}`;
    const old = this.#cache.get(key);
    const has = (old?.keys.length ?? 0) / width;
    if (old !== undefined && has >= positions) return old;
    const room = Math.ceil(Math.max(positions, 2 * has) / POSITIONS) * POSITIONS * width;
    const grown = (from: Uint16Array | undefined): Uint16Array<ArrayBuffer> => {
      const to = new Uint16Array(room);
      if (from !== undefined) to.set(from);
      return to;
    };
    const stripe = { keys: grown(old?.keys), values: grown(old?.values) };
    this.#cache.set(key, stripe);
    return stripe;
  }

  async #attention(op: Attention, step: Step): Promise<void> {
    const width = op.kvHeads * op.headDim;
    const [q, k, v] = [this.#read(step, op.q), this.#read(step, op.k), this.#read(step, op.v)];
    for (const [r, { slot, position }] of step.rows.entries()) {
      const { keys, values } = this.#stripe(op.layer, slot, position + 1);
      for (let i = 0; i < width; i++) {
        keys[position * width + i] = halfOf(k[r * width + i]!);
        values[position * width + i] = halfOf(v[r * width + i]!);
      }
    }
    const out = new Float32Array(q.length);
    // Rows of one sequence together.
    for (let first = 0; first < step.rows.length;) {
      let end = first + 1;
      while (end < step.rows.length && step.rows[end]!.slot === step.rows[first]!.slot) end++;
      await this.#attend(op, step.rows.slice(first, end), q, out, first);
      first = end;
    }
    this.#write(step, op.out, out);
  }

  /** Attention of rows of one sequence, which begin at row `first` of q and out. */
  async #attend(op: Attention, rows: readonly Row[], q: Float32Array, out: Float32Array, first: number): Promise<void> {
    const { heads, kvHeads, headDim } = op;
    const each = heads / kvHeads;
    const padded = paddedRows(rows.length * each);
    // Where int8 is all that is rounded, attention keeps what single precision has.
    const parts = this.#arithmetic.activation === "int8" ? 2 : 1;
    const shape = { kvHeads, rows: padded, headDim, parts } as const;
    const longest = rows.reduce((most, { position }) => Math.max(most, position + 1), 0);
    const { keys, values } = this.#stripe(op.layer, rows[0]!.slot, longest);
    const tiles = Math.ceil(longest / POSITIONS);
    const block = `blk.${op.layer}`;
    // Of query row i of key head h: in q and out, and among the machine's rows.
    const inQ = (h: number, i: number): number =>
      ((first + Math.floor(i / each)) * heads + h * each + (i % each)) * headDim;
    const queries = new Uint16Array(parts * kvHeads * padded * headDim);
    for (let h = 0; h < kvHeads; h++)
      for (let i = 0; i < rows.length * each; i++)
        for (let d = 0; d < headDim; d++)
          split(q[inQ(h, i) + d]!, queries, (h * padded + i) * headDim + d, parts, kvHeads * padded * headDim);

    const scores = new Float32Array(tiles * kvHeads * padded * POSITIONS);
    const scoresOf = { parameters: [tiles], buffers: [queries, keys, scores].map(bytesOf) };
    const scored = { block, op: "scores", kind: "attention" } as const;
    await this.#launch(`scores ${JSON.stringify(shape)}`, () => scoresProgram(shape), scoresOf, scored);

    const shares = new Uint16Array(parts * scores.length);
    const totals = new Float64Array(kvHeads * padded);
    const tileRows = kvHeads * padded;
    for (let h = 0; h < kvHeads; h++) {
      for (let i = 0; i < rows.length * each; i++) {
        const { position } = rows[Math.floor(i / each)]!;
        const row = h * padded + i;
        const at = (p: number, tile: number): number =>
          (Math.floor(p / POSITIONS) * tile + row) * POSITIONS + (p % POSITIONS);
        let largest = -Infinity;
        for (let p = 0; p <= position; p++) largest = Math.max(largest, scores[at(p, tileRows)]!);
        // Of what the machine sees, so that shares sum to 1.
        let total = 0;
        for (let p = 0; p <= position; p++) {
          const share = Math.exp((scores[at(p, tileRows)]! - largest) * op.scale);
          total += split(share, shares, at(p, parts * tileRows), parts, tileRows * POSITIONS);
        }
        totals[row] = total;
      }
    }

    const outputs = new Float32Array(kvHeads * padded * headDim);
    const outputsOf = { parameters: [tiles], buffers: [shares, values, outputs].map(bytesOf) };
    const summed = { block, op: "outputs", kind: "attention" } as const;
    await this.#launch(`outputs ${JSON.stringify(shape)}`, () => outputsProgram(shape), outputsOf, summed);
    for (let h = 0; h < kvHeads; h++) {
      for (let i = 0; i < rows.length * each; i++) {
        const row = h * padded + i;
        for (let d = 0; d < headDim; d++) out[inQ(h, i) + d] = outputs[row * headDim + d]! / totals[row]!;
      }
    }
  }
}

/**
 * A number as one or two of fp16, `apart` from each other, the second being what the first has lost.
 * @returns their sum
 */
function split(x: number, to: Uint16Array, at: number, parts: 1 | 2, apart: number): number {
  to[at] = halfOf(x);
  const first = VALUES.fp16[to[at]]!;
  if (parts === 1) return first;
  to[at + apart] = halfOf(x - first);
  return first + VALUES.fp16[to[at + apart]!]!;
}

/** 1 / rms of each row. */
function factorsOf(x: Float32Array, k: number, { eps }: Norm): Float32Array {
  return Float32Array.from({ length: x.length / k }, (_, r) => {
    let sum = 0;
    for (let i = 0; i < k; i++) sum += x[r * k + i]! ** 2;
    return 1 / Math.sqrt(sum / k + eps);
  });
}

function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

function addRow(rows: Float32Array, row: Float32Array): void {
  for (let i = 0; i < rows.length; i++) rows[i]! += row[i % row.length]!;
}

function withoutColumns(from: Float32Array, has: number, n: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array((from.length / has) * n);
  for (let r = 0; r < from.length / has; r++) out.set(from.subarray(r * has, r * has + n), r * n);
  return out;
}

/** Room for what a preparation stores; inputs are put in by the caller. */
function buffersFor({ rows, k, left }: Preparation, { activation }: Arithmetic): Uint8Array[] {
  const { tables, dense, sums } = left;
  const at = PREPARE_BUFFERS;
  const buffers = Object.values(at).map(() => new Uint8Array(0));
  if (tables !== null) {
    buffers[at.tables] = new Uint8Array(rows * tableBytes(k, tables.share === null ? tables.entry : "int8"));
    if (tables.share !== null) buffers[at.tableScales] = new Uint8Array((rows * k) / tables.share);
  }
  for (const element of dense) buffers[at[element]] = new Uint8Array(rows * sizeOf(k, element));
  if (activation === "int8") buffers[at.scales] = new Uint8Array((rows * k * 4) / GROUP);
  if (sums !== null) buffers[at.sums] = new Uint8Array((rows * k * 4) / sums);
  return buffers;
}

/** Which of the prepared buffers a matrix is multiplied with. */
function leftBuffer({ form }: Right, { activation }: Arithmetic): number {
  if (form.kind === "planes") return PREPARE_BUFFERS.tables;
  return PREPARE_BUFFERS[form.kind === "bytes" ? activation : form.element];
}

/** Block and name of weights, which are called blk.3.ffn_up.weight or output.weight. */
function placeOf(weights: readonly string[]): Pick<Work, "block" | "op"> {
  const block = /^blk\.\d+/.exec(weights[0] ?? "")?.[0] ?? "";
  const names = weights.map((name) => name.slice(block === "" ? 0 : block.length + 1).replace(/\.weight$/, ""));
  return { block, op: names.join(" ") };
}
