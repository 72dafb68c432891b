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
import { type GpuCase, gpuCaseName, type GpuTuned, tuneGpu } from "../gpu/tuner.ts";
import { standardProgram } from "../library.ts";
import { load, type Model } from "../load.ts";
import { open, type OpenOptions } from "../open.ts";
import { command, type Command, refuseCpuOptions, type Values } from "./command.ts";
import { findModel } from "./models.ts";
import { makeProgress, type Progress, printJson } from "./terminal.ts";
import { adapterChoices, addChoices, processorChoices, readChoices } from "./tuned.ts";

/** The longest that measuring takes, but for the last candidate. */
const BUDGET_MS = 4500;

const OPTIONS = {
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  device: { kind: "choice", about: "whose kernels", choices: ["cpu", "gpu"], fallback: "cpu" },
  json: { kind: "flag", about: "one JSON object on stdout" },
} as const;

export const tuneCommand: Command = command({
  name: "tune",
  usage: ["tune model.gguf [options]"],
  about: [
    "Measures, in at most five seconds, which kernels run the matrices of a model fastest here, and keeps that",
    "for all runs of models with such matrices. Without it, and with --no-tune, a fixed rule decides. With",
    "--device gpu each method is compiled and timed, which takes longer; what is found is for that adapter.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra tune model.gguf", "for as many threads as a run has"],
    ["lutra tune model.gguf --device gpu", "for the GPU"],
  ],
  positionals: 1,
  run: tuneModel,
});

async function tuneModel(
  values: Values<typeof OPTIONS>,
  [name]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (values.device === "gpu") refuseCpuOptions({ threads: values.threads });
  const model = load(findModel(name ?? ""), {});
  const progress = makeProgress("measuring kernels");
  try {
    if (values.device === "gpu") return await tuneOnGpu(model, values.json, progress, signal);
    const cases = casesOf(model);
    const found = await measure(cases, values.threads ?? usableCores(), (done) => progress.update(done, cases.length));
    progress.clear();
    if (values.json)
      printJson({ file: processorChoices(processorName()).file, matrices: cases.length, measured: found });
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
  addChoices(processorChoices(processor), new Map(found.map(({ name, kernel }) => [name, kernel])));
  return found;
}

/** Those of the cases that nothing was measured for. */
export function unmeasured(cases: readonly MatrixCase[]): readonly MatrixCase[] {
  const addon = loadAddon();
  if ("unavailable" in addon) return [];
  const [isa] = addon.isas();
  const known = readChoices(processorChoices(processorName()));
  return cases.filter((matrix) => !known.has(caseName(isa, matrix)));
}

/** How the CPU backend chooses its kernels: as measured, and by the rule where nothing is. */
export function tunedChoice(): NonNullable<OpenOptions["choose"]> {
  const processor = processorName();
  const known = readChoices(processorChoices(processor));
  return (tiles, n, k, isa) => {
    const codes = codesOf(tiles);
    const kernel = known.get(caseName(isa, caseOf(tiles, n, k)));
    const isUsable = kernel !== undefined && methodsFor(isa, codes).includes(kernel.method);
    return isUsable ? kernel : staticKernel(isa, processor, codes);
  };
}

// --- a GPU ----------------------------------------------------------------------------------------------------------

async function tuneOnGpu(model: Model, json: boolean, progress: Progress, signal: AbortSignal): Promise<number> {
  const cases = gpuCasesOf(model);
  const floats = standardProgram().types.get("F32");
  if (floats === undefined) throw new Error("the .ladder files of this installation have no F32");
  const opened = await open("gpu");
  if ("unavailable" in opened) throw new Error(`device gpu: ${opened.unavailable}`);
  const kept = adapterChoices(opened.device.name);
  await opened[Symbol.asyncDispose]();
  const found: GpuTuned[] = [];
  const tuned = tuneGpu((one) => open("gpu", { chooseOnGpu: () => () => ({ one, more: one }) }), cases, floats);
  for await (const one of tuned) {
    if (signal.aborted) return 130;
    progress.update(found.push(one), cases.length);
    addChoices(kept, new Map([[one.name, one.methods]]));
  }
  progress.clear();
  if (json) {
    const measured = found.map(({ times, ...rest }) => ({ ...rest, times: Object.fromEntries(times) }));
    printJson({ file: kept.file, adapter: kept.machine, matrices: cases.length, measured });
    return 0;
  }
  for (const { name, methods, times } of found) {
    const all = [...times].map(([method, { one, more }]) => `${method} ${one.toFixed(0)} and ${more.toFixed(0)} us`);
    process.stdout.write(`${name}: ${methods.one} for one row, ${methods.more} for more (${all.join(", ")})\n`);
  }
  return 0;
}

/** The kinds of matrices of a model, those first that take the most time. */
function gpuCasesOf({ plan, weights }: Pick<Model, "plan" | "weights">): readonly GpuCase[] {
  const found = new Map<string, { matrix: GpuCase; values: number }>();
  for (const op of plan.ops)
    for (const { weight } of op.kind === "gemm" ? op.linears : []) {
      const tensor = weights.tensor(weight);
      if (tensor === undefined) continue;
      const matrix = { type: tensor.type, n: tensor.shape[0] ?? 0, k: tensor.shape[1] ?? 0 };
      const name = gpuCaseName(matrix);
      found.set(name, { matrix, values: matrix.n * matrix.k + (found.get(name)?.values ?? 0) });
    }
  return [...found.values()].toSorted((a, b) => b.values - a.values).map(({ matrix }) => matrix);
}

/** How the GPU backend computes products: as measured on that adapter, and by its rule where nothing is. */
export function tunedOnGpu(): NonNullable<OpenOptions["chooseOnGpu"]> {
  return (adapter) => {
    const known = readChoices(adapterChoices(adapter));
    return (type, n, k) => known.get(gpuCaseName({ type, n, k })) ?? null;
  };
}
