// Which method multiplies a kind of matrix fastest on one adapter: each that can is timed in a plan of that product alone,
// with one row of activations and with several. What is found holds for that adapter and no other.
// Not here: where it is kept (app/tuned.ts), what the methods are (codegen.ts).

import type { Backend, Unavailable, WeightSource } from "../backend.ts";
import type { Type } from "../ladder/type.ts";
import { makePlan } from "../plan.ts";
import type { Method, Methods } from "./method.ts";

/** A kind of matrix of a model. */
export interface GpuCase {
  readonly type: Type;
  readonly n: number;
  readonly k: number;
}

/** What a choice depends on, as text. */
export function gpuCaseName({ type, n, k }: GpuCase): string {
  return `${type.name} ${n} x ${k}`;
}

/** Microseconds of a product with one row and with MORE_ROWS, by method. */
export type GpuTimes = ReadonlyMap<Method, { readonly one: number; readonly more: number }>;

export interface GpuTuned {
  readonly name: string;
  readonly methods: Methods;
  readonly times: GpuTimes;
}

const METHODS: readonly Method[] = ["dot", "decode", "lookup"];
const MORE_ROWS = 32;
/** Tall matrices are all alike, and a head of 2^18 rows would take its time. */
const MAX_ROWS = 8192;
const ROUNDS = 5;

/**
 * Times the methods for each kind of matrix, and yields the choice for one after the other.
 * @param open the adapter with a method that is taken wherever it can be had
 * @param floats the type of 32-bit floats
 */
export async function* tuneGpu(
  open: (method: Method) => Promise<Backend | Unavailable>,
  cases: readonly GpuCase[],
  floats: Type,
): AsyncGenerator<GpuTuned> {
  for (const matrix of cases) {
    const times = new Map<Method, { readonly one: number; readonly more: number }>();
    for (const method of METHODS) {
      const backend = await open(method);
      if ("unavailable" in backend) throw new Error(`device gpu: ${backend.unavailable}`);
      await using _ = backend;
      times.set(method, await timesOf(backend, matrix, floats));
    }
    yield { name: gpuCaseName(matrix), methods: bestOf(times), times };
  }
}

/**
 * Lookups want another layout than the rest, so that one matrix has them for all rows or for none: where they are fastest
 * for one row, which is what writing a text consists of.
 */
export function bestOf(times: GpuTimes): Methods {
  const fastest = (rows: "one" | "more", methods: readonly Method[]): Method =>
    methods.reduce((best, method) =>
      (times.get(method)?.[rows] ?? Infinity) < (times.get(best)?.[rows] ?? Infinity) ? method : best,
    );
  if (fastest("one", METHODS) === "lookup") return { one: "lookup", more: "lookup" };
  const packed = ["dot", "decode"] as const;
  return { one: fastest("one", packed), more: fastest("more", packed) };
}

async function timesOf(
  backend: Backend,
  { type, n, k }: GpuCase,
  floats: Type,
): Promise<{ readonly one: number; readonly more: number }> {
  const rows = Math.min(n, MAX_ROWS);
  const byteLength = ((rows * k) / type.blockSize) * type.blockBytes;
  const vectors = new Uint8Array(Float32Array.from({ length: MORE_ROWS * k }, (_, i) => Math.sin(i)).buffer);
  const x = { name: "x", type: floats, shape: [MORE_ROWS, k], file: 0, byteOffset: 0, byteLength: vectors.length };
  const w = { name: "w", type, shape: [rows, k], file: 0, byteOffset: 0, byteLength };
  const weights: WeightSource = {
    files: ["zeros"],
    tensor: (name) => (name === "x" ? x : w),
    // Time does not depend on what the codes are.
    read: ({ name }, begin, length) => (name === "x" ? vectors.slice(begin, begin + length) : new Uint8Array(length)),
  };
  const plan = makePlan({
    values: [
      { name: "x", width: k },
      { name: "products", width: rows },
      { name: "wanted", width: rows },
    ],
    weights: new Map([
      ["x", { name: "x", shape: x.shape }],
      ["w", { name: "w", shape: w.shape }],
    ]),
    ops: [
      { kind: "embed", weight: "x", out: 0 },
      {
        kind: "gemm",
        input: 0,
        norm: null,
        linears: [{ weight: "w", bias: null }],
        epilogue: { kind: "store" },
        out: [1],
      },
      { kind: "select", input: 1, out: 2 },
    ],
    logits: 2,
    cache: { layers: 0, width: 0, context: MORE_ROWS, slots: 1 },
  });
  await using session = await backend.prepare(plan, weights);
  const time = async (count: number): Promise<number> => {
    const tokens = Int32Array.from({ length: count }, (_, token) => token);
    let best = Infinity;
    for (let round = 0; round <= ROUNDS; round++) {
      const fromMs = performance.now();
      await session.step([{ slot: 0, pos: 0, tokens, logits: "none" }]);
      // The first compiles.
      if (round > 0) best = Math.min(best, 1000 * (performance.now() - fromMs));
    }
    return best;
  };
  return { one: await time(1), more: await time(MORE_ROWS) };
}
