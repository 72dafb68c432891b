// A model on a machine, for the commands that run one: opens both, starts the slow part, and tells the person what is
// not as it should be. Not here: what is then done with the session (run.ts, evaluate.ts).

import { type Backend, type Session, UnsupportedOp } from "../backend.ts";
import { load, type Model } from "../load.ts";
import { LogitsError } from "../model/sampler.ts";
import { DEVICES, open } from "../open.ts";
import type { Option } from "./command.ts";
import type { Phases } from "./phases.ts";
import { makeProgress, note } from "./terminal.ts";
import { tunedChoice } from "./tune.ts";

/** A session that is under way; closing it (`await using`) frees all three. */
export interface Engine extends AsyncDisposable {
  readonly model: Model;
  readonly backend: Backend;
  readonly session: Promise<Session>;
}

/** Options of every command that runs a model. */
export const ENGINE_OPTIONS: {
  readonly device: Extract<Option, { kind: "choice" }>;
  readonly threads: { readonly kind: "integer"; about: string; min: number; max: number; fallback: null };
  readonly ctx: { readonly kind: "integer"; about: string; min: number; max: number; fallback: null };
} = {
  device: { kind: "choice", about: "where to run", choices: DEVICES, fallback: "auto" },
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  // The largest that the model's own configuration may have.
  ctx: { kind: "integer", about: "tokens of context", min: 1, max: 2 ** 24, fallback: null },
};

interface EngineOptions {
  readonly device: string;
  readonly threads: number | null;
  readonly context: number | null;
  /** Context where it is not given and the model was trained on more. */
  readonly usualContext: number;
  /** Kernels by the fixed rule, whatever was measured. */
  readonly untuned?: boolean;
  readonly phases: Phases;
}

/**
 * Opens model and backend, and begins to prepare the one for the other: in native threads, so that the tokenizer can
 * be built at the same time.
 */
export async function startEngine(file: string, options: EngineOptions): Promise<Engine> {
  const { device, threads, context, usualContext, untuned = false, phases } = options;
  const model = load(file, { ...(context !== null && { context }), usualContext, phase: (name) => phases.step(name) });
  const { trainedContext } = model.config;
  if (context !== null && context > trainedContext)
    note(
      `--ctx ${context} is more than the ${trainedContext} tokens that the model was trained on; expect worse text there`,
    );
  const backend = await openBackend(device, threads, untuned);
  phases.step("backend");
  const progress = makeProgress("loading");
  const weights = backend.prepare(model.plan, model.weights, (done, total) => progress.update(done, total));
  const session = naming(model.file, phases.during("weights", weights)).finally(() => progress.clear());
  session.catch(() => undefined); // it is awaited later, and may fail before
  return {
    model,
    backend,
    session,
    async [Symbol.asyncDispose]() {
      await (await session.catch(() => null))?.[Symbol.asyncDispose]();
      await backend[Symbol.asyncDispose]();
      model.close();
    },
  };
}

/** The work; an error that is the model's doing, but arose where its file is not known, gets the path put before it. */
export async function naming<T>(file: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof UnsupportedOp || error instanceof LogitsError)
      throw new Error(`${file}: ${error.message}`, { cause: error });
    throw error;
  }
}

async function openBackend(device: string, threads: number | null, untuned: boolean): Promise<Backend> {
  const options = {
    ...(threads !== null && { threads }),
    ...(!untuned && { choose: tunedChoice() }),
  };
  const backend = await open(device, options);
  if ("unavailable" in backend) throw new Error(`device ${device}: ${backend.unavailable}`);
  if (device === "auto" && backend.name === "reference") {
    const cpu = await open("cpu", options);
    if ("unavailable" in cpu) note(`running on the reference backend, which is slow: ${cpu.unavailable}`);
  }
  if (backend.name === "reference" && threads !== null && threads > 1)
    note(`--threads ${threads} has no effect: the reference backend has one thread`);
  return backend;
}
