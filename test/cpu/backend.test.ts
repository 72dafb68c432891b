// The native backend as an object: what it refuses and in which words, order and lifetime of steps, memory, rest.

import { truncateSync } from "node:fs";
import { expect } from "vitest";

import { type Backend, type Unavailable, type WeightSource, type WeightTensor } from "../../src/backend.ts";
import { openCpu } from "../../src/cpu/backend.ts";
import { type Method, placedBytes, Placements } from "../../src/cpu/layout.ts";
import { loadAddon } from "../../src/cpu/native.ts";
import type { Op } from "../../src/ops.ts";
import { oddTypes, programWith, typeNamed as typeIn } from "../ladder/program.ts";
import { testWith } from "../oracle/oracle.ts";
import { f32Weight, Random, randomBytes, type SmallWeight, smallPlan, typeNamed, weightFile } from "../small-plan.ts";

const addon = loadAddon();

function opened(): Backend | Unavailable {
  return openCpu({ threads: 2 });
}

/** One matrix of the named type on an F32 input of four tokens. */
function matrixPlan(weight: SmallWeight): { weights: readonly SmallWeight[]; plan: ReturnType<typeof smallPlan> } {
  const [n, k] = weight.shape as [number, number];
  const input = f32Weight("x", [4, k], new Random(1).normals(4 * k));
  const gemm: Op = {
    kind: "gemm",
    input: 0,
    norm: null,
    linears: [{ weight: weight.name, bias: null }],
    epilogue: { kind: "store" },
    out: [1],
  };
  return { weights: [input, weight], plan: smallPlan([input], [weight], [n], [gemm], 1) };
}

function quantised(n: number, k: number): SmallWeight {
  const type = typeNamed("Q4_0");
  return { name: "w", type, shape: [n, k], bytes: randomBytes(type, n * k, new Random(2)) };
}

const all = (tokens: readonly number[], pos = 0) => [
  { slot: 0, pos, tokens: Int32Array.from(tokens), logits: "all" as const },
];

testWith(addon, "an instruction set that the processor lacks is unavailable, with those that it has", (native) => {
  const has = native.isas().join(", ");
  expect(openCpu({ isa: "mmx" })).toEqual({ unavailable: `this processor has no mmx; it has ${has}` });
});

testWith(addon, "a number of threads that cannot be is refused", () => {
  for (const threads of [0, -1, 1.5, NaN, 5000])
    expect(() => openCpu({ threads })).toThrow(new RangeError(`threads: ${threads}; 1 to 1024`));
});

const chosen: { method: Method } = { method: "dot" };
const choosing = openCpu({ choose: () => ({ ...chosen, ahead: 0 }) });

testWith(choosing, "the memory for weights is known before they are read", async (backend) => {
  const program = programWith(oddTypes);
  for (const name of ["F32", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1", "Q4_K", "Q6_K", "TQ2_0", "TQ1_0"]) {
    const type = typeIn(program, name);
    const isTernary = name === "TQ1_0" && backend.device.isa === "avx512-vbmi";
    chosen.method = isTernary ? "ternary" : "dot";
    const shape = [70, 512] as const;
    const bytes = new Uint8Array(((70 * 512) / type.blockSize) * type.blockBytes);
    const { weights, plan } = matrixPlan({ name: "w", type, shape, bytes });
    using file = weightFile(weights);
    const session = await backend.prepare(plan, file);
    const bytesOf = (tensor: WeightTensor): number =>
      placedBytes(new Placements().of(tensor, "matrix"), tensor, "matrix", chosen.method);
    const [input, matrix] = ["x", "w"].map((tensor) => bytesOf(file.tensor(tensor) as WeightTensor));
    expect(session.bytes.weights, name).toBe((input as number) + (matrix as number));
    await session[Symbol.asyncDispose]();
  }
});

testWith(opened(), "the error of a model that cannot fit says what conversion to floats adds", async (backend) => {
  const type = typeIn(programWith(oddTypes), "TwoFields"); // its groups of 8 are too small for tiles
  const shape = [2 ** 20, 24 * 2 ** 17];
  const tensor = { name: "odd", type, shape, file: 0, byteOffset: 0, byteLength: 0 };
  const weight = { name: "odd", type, shape, bytes: new Uint8Array(0) };
  const input = f32Weight("x", [4, 24 * 2 ** 17], new Float32Array(0));
  const plan = smallPlan(
    [input],
    [weight],
    [2 ** 20],
    [
      {
        kind: "gemm",
        input: 0,
        norm: null,
        linears: [{ weight: "odd", bias: null }],
        epilogue: { kind: "store" },
        out: [1],
      },
    ],
    1,
  );
  const source: WeightSource = {
    files: ["none"],
    tensor: (name) => (name === "odd" ? tensor : { ...tensor, name, type: input.type, shape: input.shape }),
    read: () => {
      throw new Error("nothing is read");
    },
  };
  await expect(backend.prepare(plan, source)).rejects.toThrow(
    /^the model needs 12583680 MiB for weights \(12582912 MiB of them converted to plain floats\) and 0 MiB for a context of 64 tokens, but \d+ MiB of memory are available; use a smaller model or --ctx$/,
  );
});

testWith(
  opened(),
  "progress ends at all bytes, also those that are converted, and other work gets its turn",
  async (backend) => {
    const type = typeNamed("I32");
    const bytes = new Uint8Array(Int32Array.from({ length: 3000 * 512 }, (_, i) => i).buffer);
    const { weights, plan } = matrixPlan({ name: "w", type, shape: [3000, 512], bytes });
    using file = weightFile(weights);
    const reports: (readonly [number, number])[] = [];
    let turns = 0;
    const other = setInterval(() => turns++, 1);
    const session = await backend.prepare(plan, file, (done, total) => reports.push([done, total]));
    clearInterval(other);
    expect(turns).toBeGreaterThan(5); // of the 47 tiles
    expect(reports.at(-1)).toEqual([session.bytes.weights, session.bytes.weights]);
    expect(reports.every(([done], r) => done >= (reports[r - 1]?.[0] ?? 0))).toBe(true);
    await session[Symbol.asyncDispose]();
  },
);

testWith(opened(), "an error while a weight is converted ends the load", async (backend) => {
  const type = typeNamed("I32");
  const { weights, plan } = matrixPlan({ name: "w", type, shape: [64, 32], bytes: new Uint8Array(64 * 32 * 4) });
  using file = weightFile(weights);
  const torn = {
    ...file,
    read: () => {
      throw new Error("tensor w: torn");
    },
  };
  await expect(backend.prepare(plan, torn)).rejects.toThrow(new Error("tensor w: torn"));
});

testWith(opened(), "a file that shrinks after it was checked ends the load with an error", async (backend) => {
  const { weights, plan } = matrixPlan(quantised(64, 64));
  using file = weightFile(weights);
  const size = weights.reduce((sum, w) => sum + w.bytes.length, 0);
  truncateSync(file.files[0] as string, size - 1);
  await expect(backend.prepare(plan, file)).rejects.toThrow(
    new Error(`tensor w: the file ends at byte ${size - 1}, before the tensor does: it has shrunk since it was opened`),
  );
});

testWith(opened(), "a file that is gone ends the load with its name", async (backend) => {
  const { weights, plan } = matrixPlan(quantised(32, 32));
  let gone: WeightSource;
  {
    using file = weightFile(weights);
    gone = file;
  }
  const [path] = gone.files;
  await expect(backend.prepare(plan, gone)).rejects.toThrow(
    new Error(`${path}: cannot open: No such file or directory`),
  );
});

testWith(opened(), "tokens, slots and positions outside the plan are refused by name", async (backend) => {
  const { weights, plan } = matrixPlan(quantised(32, 32));
  using file = weightFile(weights);
  const session = await backend.prepare(plan, file);
  await expect(session.step(all([0, 4]))).rejects.toThrow(
    new RangeError("chunk 0: token 4 is not in the vocabulary of 4"),
  );
  await expect(session.step([{ slot: 1, pos: 0, tokens: Int32Array.of(0), logits: "all" }])).rejects.toThrow(
    new RangeError("chunk 0: slot 1 does not exist; there are 1"),
  );
  await expect(session.step(all([0, 1], 63))).rejects.toThrow(
    new RangeError("chunk 0: positions 63 to 64 do not fit the context of 64 tokens"),
  );
  await session[Symbol.asyncDispose]();
});

testWith(opened(), "a model that cannot fit is refused before anything is read", async (backend) => {
  const inputs = [f32Weight("x", [4, 8], new Float32Array(32))];
  const plan = smallPlan(inputs, [], [], [], 0, { layers: 1000, width: 100_000, context: 100_000, slots: 100 });
  using file = weightFile(inputs);
  await expect(backend.prepare(plan, file)).rejects.toThrow(
    /^the model needs 0 MiB for weights and 3814697266 MiB for a context of 100000 tokens, but \d+ MiB of memory are available; use a smaller model or --ctx$/,
  );
});

testWith(opened(), "steps that are started together run one after another", async (backend) => {
  const { weights, plan } = matrixPlan(quantised(200, 512));
  using file = weightFile(weights);
  const session = await backend.prepare(plan, file);
  const alone: Float32Array[] = [];
  for (let t = 0; t < 4; t++) alone.push(...(await session.step(all([t]))));
  const together = await Promise.all([0, 1, 2, 3].map((t) => session.step(all([t]))));
  expect(together.map(([out]) => out)).toEqual(alone);
  await session[Symbol.asyncDispose]();
});

testWith(opened(), "closing waits for a step under way, may be repeated, and ends all use", async (backend) => {
  const { weights, plan } = matrixPlan(quantised(2000, 2048));
  using file = weightFile(weights);
  const session = await backend.prepare(plan, file);
  const running = session.step(all([0, 1, 2, 3]));
  await session[Symbol.asyncDispose]();
  await session[Symbol.asyncDispose]();
  expect((await running)[0]?.every(Number.isFinite)).toBe(true);
  await expect(session.step(all([0]))).rejects.toThrow(new Error("the session is closed"));
  await backend[Symbol.asyncDispose]();
  await expect(backend.prepare(plan, file)).rejects.toThrow(new Error("the backend is closed"));
});

testWith(opened(), "models that are closed give their memory back", async (backend) => {
  const { weights, plan } = matrixPlan(quantised(8192, 4096)); // 18 MiB
  using file = weightFile(weights);
  const cycle = async (): Promise<void> => {
    const session = await backend.prepare(plan, file);
    await session.step(all([0]));
    await session[Symbol.asyncDispose]();
  };
  for (let i = 0; i < 5; i++) await cycle();
  const before = process.memoryUsage.rss();
  for (let i = 0; i < 30; i++) await cycle();
  const grown = (process.memoryUsage.rss() - before) / 2 ** 20;
  expect(grown).toBeLessThan(36); // of 540 MiB that went through, the size of two
});

testWith(opened(), "an idle backend takes no processor time", async (backend) => {
  const { weights, plan } = matrixPlan(quantised(64, 64));
  using file = weightFile(weights);
  const session = await backend.prepare(plan, file);
  await session.step(all([0]));
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 500));
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1000).toBeLessThan(100); // of 500 ms; a spinning worker would take them all
  await session[Symbol.asyncDispose]();
});
