// The CPU backend: describes plan and weights to the native executor, and feeds it steps.
// Not here: which layout a weight gets (layout.ts), the addon as such (native.ts), kernels and executor (native/).

import {
  type Backend,
  type Chunk,
  logitsByChunk,
  rowsOf,
  type Session,
  type Unavailable,
  type WeightSource,
  type WeightTensor,
} from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import type { Op } from "../ops.ts";
import type { Plan } from "../plan.ts";
import { placedBytes, type Placement, Placements, type Rows, TILE_ROWS, type Tiles, type Use } from "./layout.ts";
import {
  availableMemory,
  type Average,
  loadAddon,
  type NativeEngine,
  type NativeSession,
  processorName,
  usableCores,
} from "./native.ts";
import { AVERAGING, codesOf, type Kernel, staticKernel } from "./tuner.ts";

export interface CpuOptions {
  /** Worker threads; the default is one for each physical core that the process may use. */
  readonly threads?: number;
  /** One of the instruction sets that `isas()` names; the default is the best. */
  readonly isa?: string;
  /**
   * T-MAC's fast aggregation: lookups are summed by rounding averages of so many. All matrices are looked up in then that
   * can be, unless `choose` says otherwise. Tables of int8 alone have an NMSE of some 3e-5; with averages of 2, 4 and 8 it
   * is 2.5, 5.5 and 11.5 times as much (`lutra bench ablation`), by n - 1 of 8 beside 1 of 12 for each of n lookups.
   */
  readonly fastAggregation?: Average;
  /** Which kernel runs an (n, k) matrix; the default is a fixed rule. */
  readonly choose?: Choose;
}

/** As native/addon.cpp reads it. */
interface NativeKernel extends Kernel {
  readonly average: Average | 0;
}

export type Choose = (tiles: Tiles, n: number, k: number, isa: string) => Kernel;

/** More than any machine of today has cores. */
const MAX_THREADS = 1024;

/** How often a load reports its progress. */
const PROGRESS_MS = 50;

/** Opens the native backend, or says why it cannot be had. */
export function openCpu(options: CpuOptions = {}): Backend | Unavailable {
  const addon = loadAddon();
  if ("unavailable" in addon) return addon;
  const isas = addon.isas();
  const isa = options.isa ?? isas[0];
  if (!isas.includes(isa)) return { unavailable: `this processor has no ${isa}; it has ${isas.join(", ")}` };
  const { fastAggregation: average } = options;
  if (average !== undefined && !AVERAGING.includes(isa))
    return {
      unavailable:
        `fast aggregation is for lookups with one table in a register, which ${AVERAGING.join(", ")} have; those of ` +
        `${isa} sum exactly at no cost; here it can be had with the instruction set ` +
        `${isas.filter((name) => AVERAGING.includes(name)).join(" or ")} (--isa)`,
    };
  const threads = options.threads ?? usableCores();
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS)
    throw new RangeError(`threads: ${threads}; 1 to ${MAX_THREADS}`);
  const engine = new addon.Engine(isa, threads);
  const processor = processorName();
  const choose = options.choose ?? ((tiles) => staticKernel(isa, processor, codesOf(tiles), average !== undefined));
  return {
    name: "cpu",
    device: { name: "cpu", isa, threads },
    prepare: (plan, weights, progress) =>
      prepare(
        engine,
        (tiles, n, k) => ({ ...choose(tiles, n, k, isa), average: average ?? 0 }),
        plan,
        weights,
        progress,
      ),
    [Symbol.asyncDispose]: () => {
      engine.close();
      return Promise.resolve();
    },
  };
}

async function prepare(
  engine: NativeEngine,
  choose: (tiles: Tiles, n: number, k: number) => NativeKernel,
  plan: Plan,
  weights: WeightSource,
  progress?: (done: number, total: number) => void,
): Promise<Session> {
  const { description, weightBytes, expandedBytes, conversions } = describe(plan, weights, choose);
  const { layers, slots, context, width } = plan.cache;
  const cacheBytes = 2 * 2 * layers * slots * context * width;
  const available = availableMemory();
  if (weightBytes + cacheBytes > available) {
    const expanded = expandedBytes === 0 ? "" : ` (${mib(expandedBytes)} MiB of them converted to plain floats)`;
    throw new Error(
      `the model needs ${mib(weightBytes)} MiB for weights${expanded} and ${mib(cacheBytes)} MiB for a context of ` +
        `${context} tokens, but ${mib(available)} MiB of memory are available; use a smaller model or --ctx`,
    );
  }
  let converted = 0;
  const timer =
    progress && setInterval(() => progress(Math.min(engine.loaded + converted, weightBytes), weightBytes), PROGRESS_MS);
  const native = await engine.prepare(description).catch((error: unknown) => {
    clearInterval(timer);
    throw error;
  });
  try {
    for (const conversion of conversions) await convert(native, weights, conversion, (bytes) => (converted += bytes));
    return new CpuSession(plan, native);
  } catch (error) {
    native.close();
    throw error;
  } finally {
    clearInterval(timer);
    progress?.(weightBytes, weightBytes);
  }
}

/** A weight that is decoded here, tile by tile. */
interface Conversion {
  readonly tensor: WeightTensor;
  readonly use: Use;
  /** Among the description's matrices or vectors. */
  readonly index: number;
  readonly format: Rows["format"];
}

/** Hands a converted weight over. Other work of the process gets its turn after each tile. */
async function convert(
  native: NativeSession,
  weights: WeightSource,
  { tensor, use, index, format }: Conversion,
  done: (bytes: number) => void,
): Promise<void> {
  const { type, shape } = tensor;
  const k = shape.at(-1) ?? 0;
  const n = use === "matrix" ? (shape[0] ?? 0) : 1;
  const rowBytes = (k / type.blockSize) * type.blockBytes;
  const values = new Float64Array(Math.min(n, TILE_ROWS) * k);
  for (let row = 0; row < n; row += TILE_ROWS) {
    const rows = Math.min(TILE_ROWS, n - row);
    const own = values.subarray(0, rows * k);
    decode(type, weights.read(tensor, row * rowBytes, rows * rowBytes), own);
    const bytes = STORE[format](own);
    native.give(use === "vector", index, row / TILE_ROWS, bytes);
    done(bytes.length);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Numbers in the formats that kernels load; those of 16 bits are given numbers that they hold exactly, or NaN. */
const STORE: Readonly<Record<Rows["format"], (values: Float64Array) => Uint8Array>> = {
  f32: (values) => new Uint8Array(Float32Array.from(values).buffer),
  bf16: (values) => {
    const bits = new Uint32Array(Float32Array.from(values).buffer);
    return new Uint8Array(Uint16Array.from(bits, (word) => word >>> 16).buffer);
  },
  f16: (values) => {
    // 2^-112 makes the exponent of an f32 that of an f16, subnormals included; what is no number has it anyway.
    const bits = new Uint32Array(Float32Array.from(values, (x) => (Number.isFinite(x) ? x * 2 ** -112 : x)).buffer);
    const halves = Uint16Array.from(bits, (word) => {
      const special = (word & 0x7f800000) === 0x7f800000;
      const magnitude = special ? 0x7c00 | ((word & 0x7fffff) === 0 ? 0 : 0x200) : (word & 0x7fffffff) >>> 13;
      return ((word >>> 16) & 0x8000) | magnitude;
    });
    return new Uint8Array(halves.buffer);
  },
};

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}

class CpuSession implements Session {
  readonly #plan: Plan;
  readonly #native: NativeSession;
  /** Steps run one after another, in the order of their calls. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(plan: Plan, native: NativeSession) {
    this.#plan = plan;
    this.#native = native;
  }

  get bytes(): Session["bytes"] {
    return this.#native.bytes;
  }

  async step(batch: readonly Chunk[]): Promise<readonly Float32Array[]> {
    const rows = rowsOf(this.#plan, batch);
    const flat = Int32Array.from(rows.flatMap((r) => [r.token, r.slot, r.position, r.wanted ? 1 : 0]));
    const vocabulary = this.#plan.values[this.#plan.logits]?.width ?? 0;
    const out = new Float32Array(rows.filter((r) => r.wanted).length * vocabulary);
    const turn = this.#last.then(() => this.#native.step(flat, out));
    this.#last = turn.catch(() => undefined);
    await turn;
    return logitsByChunk(batch, out, vocabulary);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last;
    this.#native.close();
  }
}

/** Things that ops refer to by index, each kept once, in the order of first use. */
class Table<K, T> {
  readonly items: T[] = [];
  readonly #indices = new Map<K, number>();

  index(key: K, make: () => T): number {
    const known = this.#indices.get(key);
    if (known !== undefined) return known;
    this.#indices.set(key, this.items.length);
    return this.items.push(make()) - 1;
  }
}

interface Description {
  readonly description: object;
  readonly weightBytes: number;
  /** Those of conversions. */
  readonly expandedBytes: number;
  readonly conversions: readonly Conversion[];
}

/** Plain floats are read as they come. */
const NO_CHOICE: NativeKernel = { method: "dot", ahead: 0, average: 0 };

/** The plan with names replaced by indices, as addon.cpp reads it. */
function describe(
  plan: Plan,
  weights: WeightSource,
  choose: (tiles: Tiles, n: number, k: number) => NativeKernel,
): Description {
  const placements = new Placements();
  const types = new Table<Placement, Placement>();
  const matrices = new Table<string, object>();
  const vectors = new Table<string, object>();
  const ropes = new Table<readonly number[], object>();
  const conversions: Conversion[] = [];
  let [weightBytes, expandedBytes] = [0, 0];
  const sourceOf = (name: string, use: Use): object => {
    const tensor = weights.tensor(name);
    if (tensor === undefined) throw new Error(`the model has no tensor ${name}`);
    const { file, byteOffset, shape } = tensor;
    const placement = placements.of(tensor, use);
    const kernel = placement.kind === "tiles" ? choose(placement, shape[0] ?? 0, shape[1] ?? 0) : NO_CHOICE;
    const bytes = placedBytes(placement, tensor, use, kernel.method);
    weightBytes += bytes;
    if (placement.kind === "rows" && placement.converted) {
      expandedBytes += bytes;
      const index = (use === "matrix" ? matrices : vectors).items.length;
      conversions.push({ tensor, use, index, format: placement.format });
    }
    return {
      name,
      file,
      byteOffset,
      n: use === "matrix" ? shape[0] : 1,
      k: shape.at(-1),
      type: types.index(placement, () => placement),
      kernel,
    };
  };
  const matrix = (name: string): number => matrices.index(name, () => sourceOf(name, "matrix"));
  const vector = (name: string): number => vectors.index(name, () => sourceOf(name, "vector"));

  const opOf = (op: Op): object => {
    switch (op.kind) {
      case "embed":
        return { ...op, weight: matrix(op.weight) };
      case "gemm":
        return {
          ...op,
          norm: op.norm === null ? -1 : vector(op.norm.weight),
          eps: op.norm?.eps ?? 0,
          linears: op.linears.map(({ weight, bias }, i) => ({
            weight: matrix(weight),
            bias: bias === null ? -1 : vector(bias),
            out: op.out[op.epilogue.kind === "silu-mul" ? 0 : i],
          })),
        };
      case "rope": {
        const { frequencies, magnitude, ...rest } = op;
        return { ...rest, table: ropes.index(frequencies, () => ({ frequencies, magnitude })) };
      }
      case "select":
      case "attention":
        return op;
    }
  };
  const ops = plan.ops.map(opOf);
  const widths = plan.values.map((value) => value.width);
  const description = {
    plan: { widths, ops, ropes: ropes.items, logits: plan.logits, cache: plan.cache },
    files: weights.files,
    types: types.items,
    matrices: matrices.items,
    vectors: vectors.items,
  };
  return { description, weightBytes, expandedBytes, conversions };
}
