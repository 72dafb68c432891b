// lutra bench gemv and gemm on a GPU: products of random low-bit matrices with some vectors, as many different matrices in
// one step as caches do not hold, beside a kernel that reads the same memory and nothing else.
// Not here: the CPU's (bench.ts), other programs (bench-compare.ts).

import type { WeightSource, WeightTensor } from "../backend.ts";
import type { Method } from "../gpu/method.ts";
import type { Type } from "../ladder/type.ts";
import { open } from "../open.ts";
import { makePlan, type Plan } from "../plan.ts";
import { spread } from "./bench-model.ts";
import { openGpuReader } from "./reader.ts";

export interface GpuProduct {
  readonly type: Type;
  /** Of 32-bit floats, for the vectors. */
  readonly floats: Type;
  readonly n: number;
  readonly k: number;
  readonly batch: number;
  readonly method: Method | null;
  readonly rounds: number;
}

export interface GpuProductTimes {
  readonly adapter: string;
  /** Of one product, in microseconds. */
  readonly timeUs: { readonly min: number; readonly median: number; readonly max: number };
  /** Of one matrix, as the file has it. */
  readonly bytes: number;
  readonly readGbps: number;
  /** Different matrices of a step. */
  readonly matrices: number;
}

/** Four times the last-level cache of today's largest GPUs, and more than a processor's. */
const POOL_BYTES = 256 * 2 ** 20;
/** Few enough for drivers that end what takes long. */
const MOST_MATRICES = 64;
const WARM_UP = 2;

/** Null where the signal has ended it. Throws an Error with the reason where there is no GPU. */
export async function timeOnGpu(product: GpuProduct, signal: AbortSignal): Promise<GpuProductTimes | null> {
  const { type, n, k, batch, method, rounds } = product;
  const bytes = ((n * k) / type.blockSize) * type.blockBytes;
  const matrices = Math.max(2, Math.min(MOST_MATRICES, Math.ceil(POOL_BYTES / bytes)));
  const backend = await open(
    "gpu",
    method === null ? {} : { chooseOnGpu: () => () => ({ one: method, more: method }) },
  );
  if ("unavailable" in backend) throw new Error(`device gpu: ${backend.unavailable}`);
  await using _ = backend;
  await using session = await backend.prepare(planOf(n, k, batch, matrices), weightsOf(product, bytes));
  const tokens = Int32Array.from({ length: batch }, (__, token) => token);
  const step = async (): Promise<number> => {
    const fromMs = performance.now();
    await session.step([{ slot: 0, pos: 0, tokens, logits: "none" }]);
    return (1000 * (performance.now() - fromMs)) / matrices;
  };
  for (let i = 0; i < WARM_UP; i++) await step();
  const reader = await openGpuReader();
  const read: number[] = [];
  const us: number[] = [];
  try {
    for (let round = 0; round < rounds; round++) {
      if (signal.aborted) return null;
      read.push(await reader.gbps());
      us.push(await step());
    }
  } finally {
    await reader.close();
  }
  return { adapter: backend.device.name, timeUs: spread(us), bytes, readGbps: Math.max(...read), matrices };
}

/** Token t stands for vector t, which all matrices are multiplied by. */
function planOf(n: number, k: number, batch: number, matrices: number): Plan {
  const names = Array.from({ length: matrices }, (_, i) => `w${i}`);
  return makePlan({
    values: [
      { name: "x", width: k },
      { name: "products", width: n },
      { name: "wanted", width: n },
    ],
    weights: new Map(
      [["x", [batch, k]] as const, ...names.map((name) => [name, [n, k]] as const)].map(([name, shape]) => [
        name,
        { name, shape },
      ]),
    ),
    ops: [
      { kind: "embed", weight: "x", out: 0 },
      ...names.map((weight) => ({
        kind: "gemm" as const,
        input: 0,
        norm: null,
        linears: [{ weight, bias: null }],
        epilogue: { kind: "store" as const },
        out: [1],
      })),
      { kind: "select", input: 1, out: 2 },
    ],
    logits: 2,
    cache: { layers: 0, width: 0, context: batch, slots: 1 },
  });
}

/** Random codes; scales of any size, since time does not depend on them. */
function weightsOf({ type, floats, n, k, batch }: GpuProduct, bytes: number): WeightSource {
  let state = 1;
  const random = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0; // Numerical Recipes' linear congruence
    random[i] = state >>> 24;
  }
  const vectors = new Uint8Array(Float32Array.from({ length: batch * k }, (_, i) => Math.sin(i)).buffer);
  const x: WeightTensor = {
    name: "x",
    type: floats,
    shape: [batch, k],
    file: 0,
    byteOffset: 0,
    byteLength: vectors.length,
  };
  return {
    files: ["random weights"],
    tensor: (name) => (name === "x" ? x : { ...x, name, type, shape: [n, k], byteLength: bytes }),
    read: ({ name }, begin, length) => (name === "x" ? vectors : random).slice(begin, begin + length),
  };
}
