// lutra tune: measures which kernels run a model's matrices fastest on this machine, and keeps that for later runs.
// The measuring is cpu/tuner.ts's, the file tuned.ts's; here is what a model has to measure.

import process from "node:process";

import { Placements } from "../cpu/layout.ts";
import { loadAddon, processorName, usableCores } from "../cpu/native.ts";
import {
  caseName,
  caseOf,
  codesOf,
  type MatrixCase,
  methodsFor,
  staticKernel,
  tune,
  type Tuned,
} from "../cpu/tuner.ts";
import { load, type Model } from "../load.ts";
import type { OpenOptions } from "../open.ts";
import { command, type Command, type Values } from "./command.ts";
import { findModel } from "./models.ts";
import { makeProgress, printJson } from "./terminal.ts";
import { addChoices, choicesFile, readChoices } from "./tuned.ts";

/** The longest that measuring takes, but for the last candidate. */
const BUDGET_MS = 4500;

const OPTIONS = {
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  json: { kind: "flag", about: "one JSON object on stdout" },
} as const;

export const tuneCommand: Command = command({
  name: "tune",
  usage: ["tune model.gguf [options]"],
  about: [
    "Measures, in at most five seconds, which kernels run the matrices of a model fastest here, and keeps that",
    "for all runs of models with such matrices. Without it, and with --no-tune, a fixed rule decides.",
  ],
  options: OPTIONS,
  examples: [["lutra tune model.gguf", "for as many threads as a run has"]],
  positionals: 1,
  run: tuneModel,
});

async function tuneModel(values: Values<typeof OPTIONS>, [name]: readonly string[]): Promise<number> {
  const model = load(findModel(name ?? ""), {});
  const progress = makeProgress("measuring kernels");
  try {
    const cases = casesOf(model);
    const found = await measure(cases, values.threads ?? usableCores(), (done) => progress.update(done, cases.length));
    progress.clear();
    if (values.json) printJson({ file: choicesFile(), matrices: cases.length, measured: found });
    else {
      for (const { name: matrix, kernel, us, ruleUs } of found)
        process.stdout.write(
          `${matrix}: ${kernel.method}, ${kernel.ahead} bytes ahead, ${us.toFixed(0)} us` +
            `${us < ruleUs ? ` where the rule's takes ${ruleUs.toFixed(0)}` : ", as the rule has it"}\n`,
        );
      const rest = cases.length - found.length;
      if (rest > 0) process.stdout.write(`${rest} more were left to the rule: the time was up\n`);
    }
    return 0;
  } finally {
    progress.clear();
    model.close();
  }
}

/** The kinds of matrices of a model that kernels multiply with, those first that take the most time. */
export function casesOf({ plan, weights }: Pick<Model, "plan" | "weights">): readonly MatrixCase[] {
  const placements = new Placements();
  const found = new Map<string, { matrix: MatrixCase; values: number }>();
  for (const op of plan.ops) {
    for (const { weight } of op.kind === "gemm" ? op.linears : []) {
      const tensor = weights.tensor(weight);
      const [n = 0, k = 0] = tensor?.shape ?? [];
      const placement = tensor && placements.of(tensor, "matrix");
      if (placement?.kind !== "tiles") continue;
      const matrix = caseOf(placement, n, k);
      const name = caseName("", matrix);
      found.set(name, { matrix, values: n * k + (found.get(name)?.values ?? 0) });
    }
  }
  return [...found.values()].toSorted((a, b) => b.values - a.values).map(({ matrix }) => matrix);
}

/**
 * Measures those that are not known yet, and keeps what is found; a cache that cannot be written is an Error that says
 * so. `done` counts those that are measured.
 */
export async function measure(
  cases: readonly MatrixCase[],
  threads: number,
  done: (count: number) => void = () => undefined,
): Promise<readonly Tuned[]> {
  const addon = loadAddon();
  if ("unavailable" in addon) throw new Error(addon.unavailable);
  const [isa] = addon.isas();
  const processor = processorName();
  const engine = new addon.Engine(isa, threads);
  const found: Tuned[] = [];
  try {
    const until = performance.now() + BUDGET_MS;
    for await (const one of tune(engine, isa, processor, cases, until)) done(found.push(one));
  } finally {
    engine.close();
  }
  try {
    addChoices(processor, new Map(found.map(({ name, kernel }) => [name, kernel])));
  } catch (error) {
    throw new Error(`${choicesFile()}: cannot keep what was measured: ${(error as Error).message}`, { cause: error });
  }
  return found;
}

/** Those of the cases that nothing was measured for. */
export function unmeasured(cases: readonly MatrixCase[]): readonly MatrixCase[] {
  const addon = loadAddon();
  if ("unavailable" in addon) return [];
  const [isa] = addon.isas();
  const known = readChoices(processorName());
  return cases.filter((matrix) => !known.has(caseName(isa, matrix)));
}

/** How the CPU backend chooses its kernels: as measured, and by the rule where nothing is. */
export function tunedChoice(): NonNullable<OpenOptions["choose"]> {
  const processor = processorName();
  const known = readChoices(processor);
  return (tiles, n, k, isa) => {
    const codes = codesOf(tiles);
    const kernel = known.get(caseName(isa, caseOf(tiles, n, k)));
    const isUsable = kernel !== undefined && methodsFor(isa, codes).includes(kernel.method);
    return isUsable ? kernel : staticKernel(isa, processor, codes);
  };
}
