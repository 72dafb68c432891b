// The LMMA machine as a backend: the embedded and a real model against the others, its arithmetic, and what it counts.

import { expect, test } from "vitest";

import type { Backend, Session, Unavailable } from "../../src/backend.ts";
import { openCpu } from "../../src/cpu/backend.ts";
import { load as loadModel, type Model } from "../../src/load.ts";
import { type Machine, openLmma, type Work, workOf } from "../../src/lutcore/backend.ts";
import { NO_COUNTS } from "../../src/lutcore/counts.ts";
import { load } from "../../src/lutcore/exec.ts";
import { matrixOf } from "../../src/lutcore/matrix.ts";
import type { Arithmetic } from "../../src/lutcore/tiling.ts";
import type { Op } from "../../src/ops.ts";
import { openReference } from "../../src/reference.ts";
import { embeddedModel, modelFile, testWith } from "../oracle/oracle.ts";
import { f32Weight, Random, randomBytes, smallPlan, typeNamed, weightFile } from "../small-plan.ts";

const INT8: Arithmetic = { mode: "paper", activation: "int8", tables: "exact" };

function best(logits: Float32Array): number {
  return logits.reduce((most, x, i) => (x > logits[most]! ? i : most), 0);
}

async function logitsOf(session: Session, tokens: readonly number[], pos: number): Promise<Float32Array> {
  const [logits] = await session.step([{ slot: 0, pos, tokens: Int32Array.from(tokens), logits: "last" }]);
  return logits!;
}

async function prompt(model: Model, text: string): Promise<number[]> {
  return [...(await model.tokenizer()).encode(text, { special: false })];
}

/** The likeliest token each time, `count` of them. */
async function greedy(session: Session, start: readonly number[], count: number): Promise<number[]> {
  const out: number[] = [];
  for (let [pos, next] = [0, start]; out.length < count;) {
    out.push(best(await logitsOf(session, next, pos)));
    pos += next.length;
    next = [out.at(-1)!];
  }
  return out;
}

// The instruction set that every processor has, so that what it rounds is the same everywhere.
const cpu: Backend | Unavailable = openCpu({
  threads: 1,
  isa: "scalar",
  choose: () => ({ method: "dot", ahead: 0 }),
});

/** The larger of the differences between two rows of logits. */
function apart(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
}

testWith(cpu, "greedy text of int8 activations and exact tables is that of the CPU's int8 products", async (other) => {
  const model = loadModel(embeddedModel);
  for (const text of ["Emma was not", "It is a truth universally acknowledged", "There was no"]) {
    await using mine = await openLmma(INT8).prepare(model.plan, model.weights);
    await using theirs = await other.prepare(model.plan, model.weights);
    const start = await prompt(model, text);
    expect(await greedy(mine, start, 48), text).toEqual(await greedy(theirs, start, 48));
  }
  model.close();
});

// Both sum the same integers, and then in single precision in orders of their own. Where that brings an activation to the
// other side of a half, it is another integer, and logits differ by some hundredths, as those of two instruction sets of the
// CPU do; elsewhere they agree to what single precision has. So they must agree for most first tokens, and texts may part
// only where the CPU's own two best are so close.
testWith(
  cpu,
  "logits are those of the CPU's int8 products but for roundings of activations at a half",
  async (other) => {
    const model = loadModel(embeddedModel);
    await using mine = await openLmma(INT8).prepare(model.plan, model.weights);
    await using theirs = await other.prepare(model.plan, model.weights);
    const differences: number[] = [];
    for (let token = 100; token < 130; token++)
      differences.push(apart(await logitsOf(mine, [token], 0), await logitsOf(theirs, [token], 0)));
    expect(Math.max(...differences)).toBeLessThan(0.2);
    expect(differences.filter((difference) => difference < 1e-4).length).toBeGreaterThan(15);
    for (let [pos, next] = [0, await prompt(model, "Sir Thomas")]; pos < 24;) {
      const [a, b] = [await logitsOf(mine, next, pos), await logitsOf(theirs, next, pos)];
      expect(b[best(b)]! - b[best(a)]!).toBeLessThan(0.02);
      pos += next.length;
      next = [best(b)];
    }
    model.close();
  },
);

/** Tokens chosen by one session, and how far each is behind the reference's best. */
async function behind(
  session: Session,
  reference: Session,
  start: readonly number[],
  count: number,
): Promise<number[]> {
  const gaps: number[] = [];
  for (let [pos, next] = [0, start]; gaps.length < count;) {
    const token = best(await logitsOf(session, next, pos));
    const truth = await logitsOf(reference, next, pos);
    gaps.push(truth[best(truth)]! - truth[token]!);
    pos += next.length;
    next = [token];
  }
  return gaps;
}

const ARITHMETICS: readonly Arithmetic[] = (["int8", "fp16"] as const).flatMap((activation) =>
  (["exact", "int8-table", "int8-group"] as const).flatMap((tables) =>
    (["ideal", "paper", "rtl"] as const).map((mode) => ({ mode, activation, tables })),
  ),
);

test.each(ARITHMETICS)(
  "the embedded model's likeliest token is within 0.3 logits of the reference's: $mode, $activation, $tables",
  async (arithmetic) => {
    const model = loadModel(embeddedModel);
    await using mine = await openLmma(arithmetic).prepare(model.plan, model.weights);
    await using reference = await openReference().prepare(model.plan, model.weights);
    const gaps = await behind(mine, reference, await prompt(model, "Emma was not"), 5);
    expect(Math.max(...gaps)).toBeLessThanOrEqual(0.3);
    model.close();
  },
);

for (const [arithmetic, count] of [
  [INT8, 4],
  [{ mode: "rtl", activation: "fp16", tables: "exact" }, 2],
] as const) {
  testWith(
    modelFile("smollm2-135m-instruct-q4_1.gguf"),
    `a real model's likeliest token is within 0.3 logits of the reference's: ${arithmetic.mode}, ${arithmetic.activation}`,
    async ({ path }) => {
      const model = loadModel(path, { context: 64 });
      await using mine = await openLmma(arithmetic).prepare(model.plan, model.weights);
      await using reference = await openReference().prepare(model.plan, model.weights);
      const gaps = await behind(mine, reference, await prompt(model, "The capital of"), count);
      expect(Math.max(...gaps)).toBeLessThanOrEqual(0.3);
      model.close();
    },
  );
}

test("a prompt at once, token by token, and beside other sequences gives the same logits", async () => {
  const model = loadModel(embeddedModel, { slots: 2 });
  const tokens = await prompt(model, "It is a truth universally acknowledged, that a single man");
  const open = (): Promise<Session> => openLmma(INT8).prepare(model.plan, model.weights);
  await using once = await open();
  await using single = await open();
  await using both = await open();
  const whole = await logitsOf(once, tokens, 0);
  let last = new Float32Array(0);
  for (const [pos, token] of tokens.entries()) last = Float32Array.from(await logitsOf(single, [token], pos));
  expect(last).toEqual(whole);
  const chunk = { pos: 0, tokens: Int32Array.from(tokens), logits: "last" } as const;
  const other = { ...chunk, tokens: Int32Array.from(tokens.toReversed()), slot: 0 };
  const [, beside] = await both.step([other, { ...chunk, slot: 1 }]);
  expect(beside).toEqual(whole);
  model.close();
});

/** What a step of one token does, and the text that follows, on a machine that may change programs. */
async function workWith(machine: Machine): Promise<{ work: readonly Work[]; text: string }> {
  const model = loadModel(embeddedModel);
  const session = await openLmma(INT8, machine).prepare(model.plan, model.weights);
  const tokenizer = await model.tokenizer();
  const first = await greedy(session, [5], 1);
  const work = workOf(session);
  const stream = tokenizer.stream();
  const tokens = [...first, ...(await greedy(session, [5, ...first], 4))];
  const text = tokens.map((token) => stream.push(token)).join("") + stream.end();
  model.close();
  return { work, text };
}

test("counts are of the products of the plan, block by block", async () => {
  const { work } = await workWith(load);
  const model = loadModel(embeddedModel);
  expect(work.filter(({ block }) => block === "blk.0").map(({ op, kind }) => `${kind}: ${op}`)).toEqual([
    "tables: attn_q attn_k attn_v",
    "lookups: attn_q",
    "lookups: attn_k",
    "lookups: attn_v",
    "attention: scores",
    "attention: outputs",
    "tables: attn_output",
    "lookups: attn_output",
    "tables: ffn_gate ffn_up",
    "lookups: ffn_gate",
    "lookups: ffn_up",
    "tables: ffn_down",
    "lookups: ffn_down",
  ]);
  expect(work.filter(({ block }) => block === "").map(({ op, kind }) => `${kind}: ${op}`)).toEqual([
    "rows: token_embd",
    "tables: token_embd",
    "products: token_embd",
  ]);
  for (const { block, op, kind, counts, launches } of work) {
    const tensor = model.tensors.get(`${block === "" ? "" : `${block}.`}${op}.weight`);
    expect(launches).toBe(kind === "rows" ? 0 : 1);
    if (kind === "rows") {
      const { byteLength, shape } = tensor!;
      const [vocabulary, width] = [shape[0]!, shape[1]!];
      const global = { read: byteLength / vocabulary, written: 4 * width };
      expect(counts).toEqual({ ...NO_COUNTS, bytes: { ...NO_COUNTS.bytes, global } });
    }
    if (kind !== "lookups" && kind !== "products") continue;
    const matrix = matrixOf(tensor!, model.weights.read(tensor!, 0, tensor!.byteLength));
    if (matrix.kind === "none") throw new Error(matrix.reason);
    const { n, k } = matrix.right;
    // Two planes of ternary weights, a table for each four activations; every product of the head's bytes.
    expect([counts.lookups, counts.products]).toEqual(kind === "lookups" ? [(n * k) / 2, 0] : [0, n * k]);
  }
  model.close();
});

test("counts are of what was executed: a program with a wrong opcode counts otherwise, and writes another text", async () => {
  const right = await workWith(load);
  const wrong = await workWith((program, mode) =>
    load(
      {
        ...program,
        code: program.code.map((i) =>
          i.kind === "lmma" ? { kind: "clr", rows: i.m, columns: i.n, element: "int32", to: i.to } : i,
        ),
      },
      mode,
    ),
  );
  const total = (work: readonly Work[], kind: "lmma" | "clr"): number =>
    work.reduce((sum, { counts }) => sum + counts.instructions[kind], 0);
  expect(total(right.work, "lmma")).toBeGreaterThan(0);
  expect(total(wrong.work, "lmma")).toBe(0);
  expect(total(wrong.work, "clr")).toBe(total(right.work, "clr") + total(right.work, "lmma"));
  expect(wrong.work.reduce((sum, { counts }) => sum + counts.lookups, 0)).toBe(0);
  expect(wrong.text).not.toBe(right.text);
});

test("biases, residuals and gates are those of the reference, for floats and several forms on one input", async () => {
  const random = new Random(3);
  const k = 256;
  const inputs = [f32Weight("x", [3, k], random.normals(3 * k))];
  const weights = ["F16", "Q8_0", "Q4_1", "BF16"].map((name) => {
    const type = typeNamed(name);
    return { name, type, shape: [k, k], bytes: randomBytes(type, k * k, random) };
  });
  const bias = f32Weight("bias", [k], random.normals(k));
  const linear = (weight: string): { weight: string; bias: string | null } => ({
    weight,
    bias: weight === "Q4_1" ? "bias" : null,
  });
  const store = { kind: "store" } as const;
  const ops: readonly Op[] = [
    {
      kind: "gemm",
      input: 0,
      norm: null,
      linears: weights.slice(0, 3).map(({ name }) => linear(name)),
      epilogue: store,
      out: [1, 2, 3],
    },
    { kind: "gemm", input: 1, norm: null, linears: [linear("BF16")], epilogue: { kind: "add", from: 2 }, out: [2] },
    {
      kind: "gemm",
      input: 2,
      norm: null,
      linears: [linear("Q8_0"), linear("F16")],
      epilogue: { kind: "silu-mul" },
      out: [4],
    },
    { kind: "gemm", input: 4, norm: null, linears: [linear("Q4_1")], epilogue: { kind: "add", from: 3 }, out: [5] },
  ];
  using source = weightFile([...inputs, ...weights, bias]);
  const plan = smallPlan(inputs, [...weights, bias], [k, k, k, k, k], ops, 5);
  const step = async (backend: Backend): Promise<Float32Array> => {
    await using session = await backend.prepare(plan, source);
    const [out] = await session.step([{ slot: 0, pos: 0, tokens: Int32Array.of(0, 1, 2), logits: "all" }]);
    return out!;
  };
  const [mine, truth] = [await step(openLmma(INT8)), await step(openReference())];
  const rms = (values: Float32Array): number => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
  // Four products one after the other, each with activations that are at most half of 1 / 127 of their group's largest off.
  expect(rms(mine.map((x, i) => x - truth[i]!)) / rms(truth)).toBeLessThan(4 / 254);
});

test.each([
  [8, 2, 2],
  [24, 6, 2],
  [64, 4, 1],
  [80, 3, 3],
])("attention of heads of %i numbers, %i for %i key heads, is the reference's", async (headDim, heads, kvHeads) => {
  const random = new Random(headDim);
  const tokens = 150;
  // Keys and values that fp16 holds, so that what is left are roundings of single precision.
  const sixteenths = (count: number): Float32Array => random.normals(count).map((x) => Math.round(16 * x) / 16);
  const inputs = [
    f32Weight("q", [tokens, heads * headDim], random.normals(tokens * heads * headDim)),
    f32Weight("k", [tokens, kvHeads * headDim], sixteenths(tokens * kvHeads * headDim)),
    f32Weight("v", [tokens, kvHeads * headDim], sixteenths(tokens * kvHeads * headDim)),
  ];
  const scale = 1 / Math.sqrt(headDim);
  const attention: Op = { kind: "attention", layer: 0, q: 0, k: 1, v: 2, out: 3, heads, kvHeads, headDim, scale };
  const cache = { layers: 1, width: kvHeads * headDim, context: 200, slots: 3 };
  const plan = smallPlan(inputs, [], [heads * headDim], [attention], 3, cache);
  using source = weightFile(inputs);
  const chunk = (slot: number, pos: number, from: number, to: number) => {
    return { slot, pos, tokens: Int32Array.from({ length: to - from }, (_, i) => from + i), logits: "all" as const };
  };
  await using mine = await openLmma(INT8).prepare(plan, source);
  await using reference = await openReference().prepare(plan, source);
  for (const batch of [
    [chunk(0, 0, 0, 70), chunk(2, 0, 70, 73)],
    [chunk(2, 3, 1, 2), chunk(0, 70, 80, 150), chunk(1, 0, 5, 6)],
    [chunk(0, 60, 3, 20)],
  ]) {
    const [found, truth] = [await mine.step(batch), await reference.step(batch)];
    // Values are below 8, and shares sum to 1: 2^-22 of what a query has lost twice over, and of each of up to 140 sums.
    for (const [i, out] of found.entries()) expect(apart(out, truth[i]!)).toBeLessThan(8 * 150 * 2 ** -22);
  }
});
