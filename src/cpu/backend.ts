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
} from "../backend.ts";
import { mappedStructureOf } from "../ladder/layout.ts";
import type { Type } from "../ladder/type.ts";
import type { Op } from "../ops.ts";
import type { Plan } from "../plan.ts";
import { type Derived, matrixBytes, type Use, usableStructure, vectorBytes } from "./layout.ts";
import { availableMemory, loadAddon, type NativeEngine, type NativeSession, usableCores } from "./native.ts";

export interface CpuOptions {
  /** Worker threads; the default is one for each physical core that the process may use. */
  readonly threads?: number;
  /** One of the instruction sets that `isas()` names; the default is the best. */
  readonly isa?: string;
}

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
  const threads = options.threads ?? usableCores();
  if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS)
    throw new RangeError(`threads: ${threads}; 1 to ${MAX_THREADS}`);
  const engine = new addon.Engine(isa, threads);
  return {
    name: "cpu",
    device: { name: "cpu", isa, threads },
    prepare: (plan, weights, progress) => prepare(engine, plan, weights, progress),
    [Symbol.asyncDispose]: () => {
      engine.close();
      return Promise.resolve();
    },
  };
}

async function prepare(
  engine: NativeEngine,
  plan: Plan,
  weights: WeightSource,
  progress?: (done: number, total: number) => void,
): Promise<Session> {
  const { description, weightBytes } = describe(plan, weights);
  const { layers, slots, context, width } = plan.cache;
  const cacheBytes = 2 * 2 * layers * slots * context * width;
  const available = availableMemory();
  if (weightBytes + cacheBytes > available)
    throw new Error(
      `the model needs ${mib(weightBytes)} MiB for weights and ${mib(cacheBytes)} MiB for a context of ${context} tokens, ` +
        `but ${mib(available)} MiB of memory are available; use a smaller model or --ctx`,
    );
  const timer = progress && setInterval(() => progress(Math.min(engine.loaded, weightBytes), weightBytes), PROGRESS_MS);
  try {
    return new CpuSession(plan, await engine.prepare(description));
  } finally {
    clearInterval(timer);
    progress?.(weightBytes, weightBytes);
  }
}

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

/** The plan with names replaced by indices, as addon.cpp reads it. */
function describe(plan: Plan, weights: WeightSource): { description: object; weightBytes: number } {
  const structures = new Map<Type, Derived>(); // deriving one takes a millisecond, and a model has few types
  const types = new Table<Type, object>();
  const matrices = new Table<string, object>();
  const vectors = new Table<string, object>();
  const ropes = new Table<readonly number[], object>();
  let weightBytes = 0;
  const sourceOf = (name: string, use: Use): object => {
    const tensor = weights.tensor(name);
    if (tensor === undefined) throw new Error(`the model has no tensor ${name}`);
    const { type, file, byteOffset, shape } = tensor;
    if (!structures.has(type)) structures.set(type, mappedStructureOf(type));
    const structure = usableStructure(tensor, structures.get(type) as Derived, use);
    weightBytes += use === "matrix" ? matrixBytes(structure, shape[0] ?? 0, shape[1] ?? 0) : vectorBytes(shape[0] ?? 0);
    const { blockSize, blockBytes } = type;
    return {
      name,
      file,
      byteOffset,
      n: use === "matrix" ? shape[0] : 1,
      k: shape.at(-1),
      type: types.index(type, () => ({ blockSize, blockBytes, structure })),
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
  return { description, weightBytes };
}
