// What the GPU backend alone has: steps of more rows than run at once, ops done in one pass, matrices in parts, what does
// not fit, a device that is lost or has no memory left, and memory over many generations. On lavapipe, where nothing else is
// said; lack of memory on SwiftShader, since lavapipe hands out addresses without memory behind them.

import fc from "fast-check";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect } from "vitest";

import type { Backend, Chunk, Unavailable } from "../../src/backend.ts";
import { shaderTexts } from "../../src/files.ts";
import { openGpuBackend } from "../../src/gpu/backend.ts";
import type { Method } from "../../src/gpu/method.ts";
import { load } from "../../src/load.ts";
import { encode } from "../../src/model/encode.ts";
import { generate } from "../../src/model/generate.ts";
import type { Gemm, Op, Rope } from "../../src/ops.ts";
import { makePlan, type Plan } from "../../src/plan.ts";
import { openReference } from "../../src/reference.ts";
import { tiny } from "../app/tiny-model.ts";
import { chunk, expectWithin, range, run, SEED } from "../conformance.ts";
import { softwareGpu, type SoftwareDriver } from "../gpu.ts";
import { gguf } from "../model/write-gguf.ts";
import { testWith } from "../oracle/oracle.ts";
import { weightBytes } from "../products.ts";
import { f32Weight, Random, type SmallWeight, smallPlan, typeNamed, weightFile } from "../small-plan.ts";
import { type Watched, watched } from "./watched.ts";

interface Opened extends AsyncDisposable {
  readonly backend: Backend;
  readonly watch: Watched;
}

async function openOn(
  gpu: GPU,
  limits: Readonly<Record<string, number>> = {},
  method: Method | null = null,
): Promise<Opened> {
  const watch = watched(gpu, limits);
  const backend = await openGpuBackend(watch.gpu, shaderTexts(), () => () => method && { one: method, more: method });
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  return { backend, watch, [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose]() };
}

const driver = (name: SoftwareDriver): { readonly gpu: GPU } | Unavailable => {
  const gpu = softwareGpu(name);
  return "unavailable" in gpu ? gpu : { gpu };
};
const lavapipe = driver("lavapipe");

/** The message of what a promise rejects with, with its name before it. */
async function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "nothing was refused",
    (error: Error) => `${error.name}: ${error.message}`,
  );
}

function meanSquare(list: readonly number[]): number {
  return list.reduce((sum, x) => sum + x * x, 0) / list.length;
}

/** Of all results, how large their distance from the reference's is beside them. */
function relativeError(got: readonly Float32Array[], want: readonly Float32Array[]): number {
  const differences = got.flatMap((list, i) => [...list].map((x, j) => x - want[i]![j]!));
  return Math.sqrt(meanSquare(differences) / meanSquare(want.flatMap((list) => [...list])));
}

const [WIDTH, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD] = [64, 4, 2, 16, 96];
const KV_WIDTH = KV_HEADS * HEAD_DIM;

/** In which ways a block of a transformer differs from the usual one: each keeps a backend from doing ops in one pass. */
interface Turns {
  readonly turnsQueries: boolean;
  readonly turnsKeys: boolean;
  readonly biases: boolean;
  /** What attention gives is added to later, as well as multiplied. */
  readonly readsAttentionTwice: boolean;
  /** The same of what a gate gives. */
  readonly readsGateTwice: boolean;
  /** Another op comes between a gate and its product. */
  readonly isGateApart: boolean;
  /** The feed-forward sees only the rows whose logits are wanted. */
  readonly selectsEarly: boolean;
}

/** A block of a transformer, the result being the logits. */
function block(turns: Turns, type: string, random: Random): { readonly plan: Plan; readonly weights: SmallWeight[] } {
  const rows = 300;
  const weights: SmallWeight[] = [f32Weight("embed", [rows, WIDTH], random.normals(rows * WIDTH))];
  const matrix = (name: string, n: number, k: number): string => {
    const values = random.normals(n * k).map((x) => x / Math.sqrt(k));
    const { blockSize, blockBytes } = typeNamed(type);
    const bytes = new Uint8Array(((n * k) / blockSize) * blockBytes);
    encode(typeNamed(type), Float64Array.from(values), bytes);
    weights.push({ name, type: typeNamed(type), shape: [n, k], bytes });
    return name;
  };
  const vector = (name: string, n: number): string => {
    weights.push(
      f32Weight(
        name,
        [n],
        random.normals(n).map((x) => 1 + x / 8),
      ),
    );
    return name;
  };
  const linear = (name: string, n: number, k: number): Gemm["linears"][number] => ({
    weight: matrix(name, n, k),
    bias: turns.biases ? vector(`${name} bias`, n) : null,
  });
  const values: { readonly name: string; readonly width: number }[] = [];
  const value = (name: string, width: number): number => values.push({ name, width }) - 1;
  const [x, q, k, v] = [value("x", WIDTH), value("q", WIDTH), value("k", KV_WIDTH), value("v", KV_WIDTH)];
  const [attended, y] = [value("attended", WIDTH), value("y", WIDTH)];
  const norm = (name: string): Gemm["norm"] => ({ weight: vector(name, WIDTH), eps: 1e-5 });
  const rope = (of: number, heads: number): Rope => ({
    kind: "rope",
    value: of,
    heads,
    headDim: HEAD_DIM,
    pairing: "split",
    frequencies: range(HEAD_DIM / 2).map((p) => 0.5 ** p),
    magnitude: 1,
  });
  const product = (name: string, input: number, n: number, out: number, from: number): Gemm => ({
    kind: "gemm",
    input,
    norm: null,
    linears: [linear(name, n, values[input]!.width)],
    epilogue: { kind: "add", from },
    out: [out],
  });
  const heads = { heads: HEADS, kvHeads: KV_HEADS, headDim: HEAD_DIM, scale: 1 / Math.sqrt(HEAD_DIM) };
  const ops: Op[] = [
    { kind: "embed", weight: "embed", out: x },
    {
      kind: "gemm",
      input: x,
      norm: norm("norm 1"),
      linears: [linear("wq", WIDTH, WIDTH), linear("wk", KV_WIDTH, WIDTH), linear("wv", KV_WIDTH, WIDTH)],
      epilogue: { kind: "store" },
      out: [q, k, v],
    },
    ...(turns.turnsQueries ? [rope(q, HEADS)] : []),
    ...(turns.turnsKeys ? [rope(k, KV_HEADS)] : []),
    { kind: "attention", layer: 0, q, k, v, out: attended, ...heads },
    product("wo", attended, WIDTH, y, turns.readsAttentionTwice ? attended : x),
  ];
  let into = y;
  if (turns.selectsEarly) ops.push({ kind: "select", input: y, out: (into = value("chosen", WIDTH)) });
  const [gated, last] = [value("gated", FEED_FORWARD), value("last", WIDTH)];
  ops.push({
    kind: "gemm",
    input: into,
    norm: norm("norm 2"),
    linears: [linear("gate", FEED_FORWARD, WIDTH), linear("up", FEED_FORWARD, WIDTH)],
    epilogue: { kind: "silu-mul" },
    out: [gated],
  });
  if (turns.isGateApart) {
    const apart = value("apart", WIDTH);
    ops.push(product("other", into, WIDTH, apart, into));
    into = apart;
  }
  ops.push(product("down", gated, WIDTH, last, into));
  let result = last;
  if (turns.readsGateTwice) ops.push(product("again", gated, WIDTH, (result = value("twice", WIDTH)), last));
  let logits = result;
  if (!turns.selectsEarly) ops.push({ kind: "select", input: result, out: (logits = value("logits", WIDTH)) });
  const uses = weights.map(({ name, shape }) => [name, { name, shape }] as const);
  const cache = { layers: 1, width: KV_WIDTH, context: 260, slots: 3 };
  return { plan: makePlan({ values, ops, weights: new Map(uses), logits, cache }), weights };
}

/** More rows than run at once and more wanted ones, of several sequences; then one row of each, then none that is wanted. */
const STEPS: readonly (readonly Chunk[])[] = [
  [
    chunk(range(150), 0, 2),
    { slot: 0, pos: 0, tokens: Int32Array.from(range(70, 100)), logits: "last" },
    { slot: 1, pos: 0, tokens: Int32Array.of(7), logits: "none" },
    { slot: 1, pos: 1, tokens: new Int32Array(0), logits: "all" },
  ],
  [chunk([299], 150, 2), chunk([0], 70, 0)],
  [{ slot: 1, pos: 1, tokens: Int32Array.of(8, 9), logits: "none" }],
  [chunk([10], 3, 1)],
];

const anyTurns: fc.Arbitrary<Turns> = fc.record({
  turnsQueries: fc.boolean(),
  turnsKeys: fc.boolean(),
  biases: fc.boolean(),
  readsAttentionTwice: fc.boolean(),
  readsGateTwice: fc.boolean(),
  isGateApart: fc.boolean(),
  selectsEarly: fc.boolean(),
});
const USUAL: Turns = {
  turnsQueries: true,
  turnsKeys: true,
  biases: false,
  readsAttentionTwice: false,
  readsGateTwice: false,
  isGateApart: false,
  selectsEarly: false,
};

// Keys and values are halves, which are off by 2^-12 of themselves in the mean; all else is f32. Activations of 8 bits are
// off by 1 / 127 / sqrt(12) of the largest of 16, which is about twice their mean size, in each of four products one after
// the other: 4 * 2 / 127 / sqrt(12) = 0.018 in all at most.
describe.each([
  ["F32", null, 2 ** -10],
  ["Q8_0", "decode", 2 ** -10],
  ["Q8_0", "dot", 0.018],
] as const)(`a block of a transformer with weights of type %s, by %s (seed ${SEED})`, (type, method, most) => {
  testWith(lavapipe, "gives the reference's results, whatever its ops read", async ({ gpu }) => {
    await using opened = await openOn(gpu, {}, method);
    await fc.assert(
      fc.asyncProperty(anyTurns, async (turns) => {
        const { plan, weights } = block(turns, type, new Random(SEED));
        using file = weightFile(weights);
        const want = await run(openReference(), plan, file, STEPS);
        const got = await run(opened.backend, plan, file, STEPS);
        expect(got.map((list) => list.length)).toEqual(want.map((list) => list.length));
        expect(relativeError(got, want)).toBeLessThan(most);
      }),
      { seed: SEED, numRuns: 8, examples: [[USUAL]] },
    );
  });
});

/** Tokens are embedded by a matrix and multiplied with it again; only wanted rows. */
function tied(type: string, rows: number, width: number): { readonly plan: Plan; readonly weights: SmallWeight[] } {
  const bytes = weightBytes(typeNamed(type), rows * width, new Random(SEED));
  const values = [width, width, rows].map((size, i) => ({ name: `v${i}`, width: size }));
  const gemm: Gemm = {
    kind: "gemm",
    input: 1,
    norm: null,
    linears: [{ weight: "w", bias: null }],
    epilogue: { kind: "store" },
    out: [2],
  };
  const plan = makePlan({
    values,
    weights: new Map([["w", { name: "w", shape: [rows, width] }]]),
    ops: [{ kind: "embed", weight: "w", out: 0 }, { kind: "select", input: 0, out: 1 }, gemm],
    logits: 2,
    cache: { layers: 0, width: 0, context: 300, slots: 1 },
  });
  return { plan, weights: [{ name: "w", type: typeNamed(type), shape: [rows, width], bytes }] };
}

describe("a device that can bind little at once", () => {
  testWith(lavapipe, "takes matrices in parts, and logits in runs of as many rows as fit", async ({ gpu }) => {
    await using opened = await openOn(gpu, { maxStorageBufferBindingSize: 2 ** 20 }, "decode");
    for (const [type, width] of [
      ["F32", 256],
      ["Q8_0", 512],
      ["Q6_K", 512],
      ["E4M3FN", 385],
    ] as const) {
      const { plan, weights } = tied(type, 3000, width);
      using file = weightFile(weights);
      const batch = [[chunk([...range(40), 2999, 1024, 2047, 2048])]];
      const [want] = (await run(openReference(), plan, file, batch)) as [Float32Array];
      const [got] = (await run(opened.backend, plan, file, batch)) as [Float32Array];
      // Sums of k products of f32, of terms up to 4 x the weights.
      const size = Math.sqrt(meanSquare([...want]));
      const bound = new Float64Array(want.length).fill((width + 12) * 2 ** -24 * 4 * width * size);
      expectWithin(got, want, bound, type);
      expect(relativeError([got], [want]), type).toBeLessThan(2 ** -20);
    }
    // Files come in pieces of 16 MiB, which every device can bind.
    const sizes = [...opened.watch.bound].filter(([label]) => label !== "bytes of the file").map(([, size]) => size);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(2 ** 20);
    expect(Math.max(...sizes)).toBeGreaterThan(2 ** 19);
  });

  testWith(lavapipe, "says what does not fit, and holds nothing of it", async ({ gpu }) => {
    await using opened = await openOn(gpu, { maxStorageBufferBindingSize: 2 ** 18 });
    const { name } = opened.backend.device;
    const end = `a binding of ${name} has at most 262144 (maxStorageBufferBindingSize)`;
    const refused = async ({
      plan,
      weights,
    }: {
      readonly plan: Plan;
      readonly weights: SmallWeight[];
    }): Promise<string> => {
      using file = weightFile(weights);
      return await refusal(opened.backend.prepare(plan, file));
    };
    const { plan, weights } = block(USUAL, "F32", new Random(SEED));
    expect(await refused({ plan: { ...plan, cache: { ...plan.cache, context: 2000 } }, weights })).toBe(
      `RangeError: keys of layer 0: 384000 bytes, and ${end}; a shorter context fits (--ctx)`,
    );
    expect(await refused(tied("F32", 70_000, 1))).toBe(
      `RangeError: logits of 70000 tokens are 280000 bytes, and ${end}`,
    );
    const wide = [f32Weight("x", [1, 600], new Float32Array(600))];
    expect(await refused({ plan: smallPlan(wide, [], [], [], 0), weights: wide })).toBe(
      `RangeError: value v0: 307200 bytes, and ${end}`,
    );
    expect(opened.watch.bytes()).toBe(0);
  });
});

describe("a device that fails", () => {
  testWith(lavapipe, "in the middle of a step says that it is gone, and another can be opened", async ({ gpu }) => {
    const { plan, weights } = block(USUAL, "F32", new Random(SEED));
    using file = weightFile(weights);
    await using opened = await openOn(gpu);
    const gone = `GpuLost: ${opened.backend.device.name}: the device is gone (destroyed: device was destroyed); open it anew`;
    const session = await opened.backend.prepare(plan, file);
    const step = session.step([chunk(range(200))]);
    opened.watch.devices[0]!.destroy();
    expect(await refusal(step)).toBe(gone);
    expect(await refusal(session.step([chunk([1])]))).toBe(gone);
    expect(await refusal(opened.backend.prepare(plan, file))).toBe(gone);
    await session[Symbol.asyncDispose]();
    await using other = await openOn(gpu);
    const got = await run(other.backend, plan, file, STEPS);
    expect(relativeError(got, await run(openReference(), plan, file, STEPS))).toBeLessThan(2 ** -10);
  });

  testWith(
    driver("SwiftShader"),
    "for want of memory says how much of what, and goes on with less",
    async ({ gpu }) => {
      await using opened = await openOn(gpu);
      const { plan, weights } = block(USUAL, "F32", new Random(SEED));
      using file = weightFile(weights);
      // It binds 1 GiB at once, and has none so large.
      const cache = { ...plan.cache, slots: 4, context: 2 ** 30 / (4 * KV_WIDTH * 2) };
      const large = makePlan({ ...plan, cache });
      const message = await refusal(opened.backend.prepare(large, file));
      expect(message).toMatch(
        /^GpuOutOfMemory: SwiftShader.* has no 1024 MiB for keys of layer 0; \d MiB are held already$/,
      );
      expect(opened.watch.bytes()).toBe(0);
      const got = await run(opened.backend, plan, file, STEPS);
      expect(relativeError(got, await run(openReference(), plan, file, STEPS))).toBeLessThan(2 ** -10);
    },
  );
});

// What is not collected yet would be taken for a leak.
setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

const GREEDY = { temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, seed: 0n };

testWith(lavapipe, "two hundred generations leave the memory of device and process as it was", async ({ gpu }) => {
  const folder = mkdtempSync(join(tmpdir(), "lutra-gpu-"));
  try {
    writeFileSync(join(folder, "tiny.gguf"), gguf(tiny));
    // So many slots that a session that is not freed is seen beside what a process grows and shrinks by.
    const model = load(join(folder, "tiny.gguf"), { slots: 256 });
    const tokenizer = await model.tokenizer();
    const prompt = tokenizer.encode("There was no", { special: false });
    await using opened = await openOn(gpu);
    let held = 0;
    const generation = async (): Promise<void> => {
      await using session = await opened.backend.prepare(model.plan, model.weights);
      const { weights, cache, scratch } = session.bytes;
      held = weights + cache + scratch;
      expect(opened.watch.bytes()).toBe(held);
      const options = { sampling: GREEDY, maxTokens: 8, stop: [], context: model.plan.cache.context };
      for await (const event of generate(session, tokenizer, prompt, options))
        if (event.kind === "end") expect(event.reason).not.toBe("aborted");
    };
    const sizes: number[] = [];
    for (let i = 1; i <= 200; i++) {
      await generation();
      if (i % 25 !== 0) continue;
      expect(opened.watch.bytes()).toBe(0);
      collectGarbage();
      sizes.push(process.memoryUsage().rss);
    }
    // The allocator gives back what it likes, so that sizes go up and down by some 30 MB: the least of several counts.
    const grown = Math.min(...sizes.slice(5)) - Math.min(...sizes.slice(1, 4));
    console.log(`${held} bytes a session; the process grew by ${grown} bytes in 100 generations`);
    // A tenth of what 100 sessions hold that nobody frees.
    expect(grown).toBeLessThan(10 * held);
    model.close();
  } finally {
    rmSync(folder, { recursive: true });
  }
});
