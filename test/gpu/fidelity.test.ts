// How close whole models on the GPU come to the reference backend, beside the CPU backend on the same prompts: greedy text,
// and distributions. Both quantise activations alike where they do, so that neither may be further away than the other by
// much. On lavapipe.

import { describe, expect } from "vitest";

import type { Backend, Chunk, Session, Unavailable } from "../../src/backend.ts";
import { openCpu } from "../../src/cpu/backend.ts";
import { shaderTexts } from "../../src/files.ts";
import { openGpuBackend } from "../../src/gpu/backend.ts";
import type { Method } from "../../src/gpu/method.ts";
import { load } from "../../src/load.ts";
import { openReference } from "../../src/reference.ts";
import { softwareGpu } from "../gpu.ts";
import { embeddedModel, models, testWith } from "../oracle/oracle.ts";

const PROMPTS: readonly string[] = [
  "It is a truth universally acknowledged, that a single man in possession of",
  'She looked at him and said, "I have never',
  "Dear Sir, I write to you about the",
  "There was no",
];
const GREEDY_TOKENS = 64;
/** Largest distance of a greedy token's logit from the reference's best, as for the CPU. */
const GREEDY_MARGIN = 0.3;
/** Mean divergence from the reference over the CPU's. */
const DIVERGENCE_RATIO = 1.5;

const found = softwareGpu("lavapipe");
const native = openCpu();
const both: { readonly gpu: GPU; readonly cpu: Backend } | Unavailable =
  "unavailable" in found ? found : "unavailable" in native ? native : { gpu: found, cpu: native };

async function gpuBackend(gpu: GPU, method: Method): Promise<Backend> {
  const backend = await openGpuBackend(gpu, shaderTexts(), () => () => ({ one: method, more: method }));
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  return backend;
}

function best(logits: Float32Array): number {
  return logits.reduce((most, x, i) => (x > logits[most]! ? i : most), 0);
}

function logSoftmax(logits: Float32Array): Float64Array {
  const largest = logits[best(logits)]!;
  const total = logits.reduce((sum, x) => sum + Math.exp(x - largest), 0);
  return Float64Array.from(logits, (x) => x - largest - Math.log(total));
}

/** The likeliest tokens after a prompt, one after the other, and how far each is behind the reference's best. */
async function greedy(
  session: Session,
  reference: Session,
  prompt: Int32Array,
): Promise<{ readonly tokens: readonly number[]; readonly behind: number }> {
  const tokens: number[] = [];
  let behind = 0;
  for (let [pos, next] = [0, prompt]; tokens.length < GREEDY_TOKENS;) {
    const batch: Chunk[] = [{ slot: 0, pos, tokens: next, logits: "last" }];
    const [[logits], [truth]] = [await session.step(batch), await reference.step(batch)];
    const token = best(logits!);
    behind = Math.max(behind, truth![best(truth!)]! - truth![token]!);
    tokens.push(token);
    pos += next.length;
    next = Int32Array.of(token);
  }
  return { tokens, behind };
}

/** Mean KL divergence from the reference over all positions of the prompts. */
async function divergence(backend: Backend, path: string, truths: readonly Float64Array[]): Promise<number> {
  const logits = await allLogits(backend, path);
  const sums = truths.map((truth, i) => {
    const other = logSoftmax(logits[i]!);
    return truth.reduce((sum, log, j) => sum + Math.exp(log) * (log - other[j]!), 0);
  });
  return sums.reduce((a, b) => a + b, 0) / sums.length;
}

/** For each position of each prompt the logits of the next token. */
async function allLogits(backend: Backend, path: string): Promise<readonly Float32Array[]> {
  const model = load(path, { slots: PROMPTS.length, context: 64 });
  try {
    const tokenizer = await model.tokenizer();
    const batch = PROMPTS.map((text, slot): Chunk => {
      return { slot, pos: 0, tokens: tokenizer.encode(text, { special: false }), logits: "all" };
    });
    await using session = await backend.prepare(model.plan, model.weights);
    const vocabulary = tokenizer.pieces.length;
    return (await session.step(batch)).flatMap((all) =>
      Array.from({ length: all.length / vocabulary }, (_, t) => all.subarray(t * vocabulary, (t + 1) * vocabulary)),
    );
  } finally {
    model.close();
  }
}

/** Compares the mean divergence on the GPU, by a method, with that on the CPU. */
async function compare(path: string, gpu: GPU, cpu: Backend, methods: readonly Method[]): Promise<void> {
  const truths = (await allLogits(openReference(), path)).map(logSoftmax);
  const theirs = await divergence(cpu, path, truths);
  for (const method of methods) {
    await using backend = await gpuBackend(gpu, method);
    const ours = await divergence(backend, path, truths);
    console.log(
      `${path.split("/").at(-1)}: mean KL over ${truths.length} positions, GPU by ${method} ${ours.toExponential(3)}, ` +
        `CPU ${theirs.toExponential(3)}`,
    );
    expect(ours, method).toBeGreaterThan(0);
    expect(ours, method).toBeLessThanOrEqual(DIVERGENCE_RATIO * theirs);
  }
}

describe("the embedded model", () => {
  testWith(both, `${GREEDY_TOKENS} greedy tokens are the reference's best, or close to it`, async ({ gpu, cpu }) => {
    const model = load(embeddedModel);
    const tokenizer = await model.tokenizer();
    for (const method of ["decode", "dot", "lookup"] as const) {
      await using backend = await gpuBackend(gpu, method);
      for (const text of PROMPTS.slice(0, 2)) {
        const prompt = tokenizer.encode(text, { special: false });
        await using mine = await backend.prepare(model.plan, model.weights);
        await using theirs = await cpu.prepare(model.plan, model.weights);
        await using reference = await openReference().prepare(model.plan, model.weights);
        const here = await greedy(mine, reference, prompt);
        const there = await greedy(theirs, reference, prompt);
        const parted = here.tokens.findIndex((token, i) => token !== there.tokens[i]);
        const same = parted < 0 ? GREEDY_TOKENS : parted;
        console.log(
          `"${text}", ${method}: the first ${same} of ${GREEDY_TOKENS} tokens are the CPU's; at most ` +
            `${here.behind.toFixed(3)} logits below the reference's best, the CPU ${there.behind.toFixed(3)}`,
        );
        expect(here.behind, `${method}, ${text}`).toBeLessThanOrEqual(GREEDY_MARGIN);
      }
    }
    model.close();
  });

  testWith(both, "is as close to the reference as on the CPU", ({ gpu, cpu }) =>
    compare(embeddedModel, gpu, cpu, ["decode", "dot", "lookup"]),
  );
});

const real = models();
testWith(
  "unavailable" in both ? both : "unavailable" in real ? real : { ...both, ...real },
  "a real model is as close to the reference as on the CPU",
  ({ gpu, cpu, smollm2 }) => compare(smollm2, gpu, cpu, ["dot"]),
);
