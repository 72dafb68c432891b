// A model on a machine, for the commands that run one: opens both, starts the slow part, and tells the person what is
// not as it should be. Not here: what is then done with the session (run.ts, evaluate.ts).

import { type Backend, type Session, UnsupportedOp } from "../backend.ts";
import { processorName } from "../cpu/native.ts";
import { aheadOf, codesOf, methodsFor } from "../cpu/tuner.ts";
import { load, type Model } from "../load.ts";
import { LogitsError } from "../model/sampler.ts";
import type { Arithmetic } from "../lutcore/tiling.ts";
import { DEVICES, open, type OpenOptions } from "../open.ts";
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

/** Lookups summed by averages; commands that time kernels have it too. */
export const FAST_AGGREGATION: Extract<Option, { kind: "choice" }> = {
  kind: "choice",
  about: "sum lookups by averages of so many: less exact",
  choices: ["off", "2", "4", "8"],
  fallback: "off",
};

/**
 * Kernels of the CPU for the option `tables`; null where it says nothing. A scale of a table is always that of 32
 * activations there.
 * @throws Error where the instruction set has no lookups, when it is first asked for such codes
 */
function kernelsFor(tables: string): NonNullable<OpenOptions["choose"]> | null {
  if (tables === "auto") return null;
  if (tables === "int8-table")
    throw new Error("--tables int8-table: the CPU kernels have one scale for 8 tables; int8-group, or --device lmma");
  const processor = processorName();
  return (tiles, _n, _k, isa) => {
    const codes = codesOf(tiles);
    const looksUp = tables === "int8-group" && codes.plain && codes.bits <= 4;
    const method = looksUp ? "lookup" : "dot";
    if (!methodsFor(isa, codes).includes(method))
      throw new Error(`--tables int8-group: ${isa} has no lookups; --isa takes others (lutra doctor names them)`);
    return { method, ahead: aheadOf(isa, processor, method) };
  };
}

/** The value of that option as machines take it. */
export function fastAggregation(value: string): Pick<OpenOptions, "fastAggregation"> {
  return value === "2" || value === "4" || value === "8" ? { fastAggregation: Number(value) as 2 | 4 | 8 } : {};
}

/** Options of the LMMA machine. */
interface LmmaOptions {
  readonly mode: Extract<Option, { kind: "choice" }>;
  readonly act: Extract<Option, { kind: "choice" }>;
  readonly tables: Extract<Option, { kind: "choice" }>;
}

const LMMA_OPTIONS: LmmaOptions = {
  mode: {
    kind: "choice",
    about: "how lmma rounds: once, as in its paper, or as its circuit",
    choices: ["ideal", "paper", "rtl"],
    fallback: "paper",
  },
  act: { kind: "choice", about: "activations of lmma", choices: ["int8", "fp16"], fallback: "int8" },
  tables: {
    kind: "choice",
    about: "tables of lmma, or of the CPU",
    choices: ["auto", "exact", "int8-table", "int8-group"],
    fallback: "auto",
  },
};

/** Options of every command that runs a model. */
export const ENGINE_OPTIONS: LmmaOptions & {
  readonly device: Extract<Option, { kind: "choice" }>;
  readonly threads: { readonly kind: "integer"; about: string; min: number; max: number; fallback: null };
  readonly ctx: { readonly kind: "integer"; about: string; min: number; max: number; fallback: null };
  readonly isa: Extract<Option, { kind: "text" }>;
  readonly "fast-aggregation": Extract<Option, { kind: "choice" }>;
} = {
  device: { kind: "choice", about: "where to run", choices: DEVICES, fallback: "auto" },
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  // The largest that the model's own configuration may have.
  ctx: { kind: "integer", about: "tokens of context", min: 1, max: 2 ** 24, fallback: null },
  isa: { kind: "text", about: "instruction set, of those that doctor names; the best if not given" },
  "fast-aggregation": FAST_AGGREGATION,
  ...LMMA_OPTIONS,
};

/** Values of those of the LMMA machine. */
export interface LmmaValues {
  readonly mode: string;
  readonly act: string;
  readonly tables: string;
}

/** The values of such options as the machine takes them. */
function arithmeticOf({ mode, act, tables }: LmmaValues): Arithmetic {
  return {
    mode: mode as Arithmetic["mode"],
    activation: act as Arithmetic["activation"],
    tables: tables === "auto" ? "exact" : (tables as Arithmetic["tables"]),
  };
}

interface EngineOptions {
  readonly device: string;
  readonly threads: number | null;
  readonly isa: string | null;
  /** Value of FAST_AGGREGATION. */
  readonly averages: string;
  readonly lmma: LmmaValues;
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
  const { context, usualContext, phases } = options;
  const model = load(file, { ...(context !== null && { context }), usualContext, phase: (name) => phases.step(name) });
  const { trainedContext } = model.config;
  if (context !== null && context > trainedContext)
    note(
      `--ctx ${context} is more than the ${trainedContext} tokens that the model was trained on; expect worse text there`,
    );
  const backend = await openBackend(options);
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

async function openBackend(engine: EngineOptions): Promise<Backend> {
  const { threads, isa, averages, lmma, untuned = false } = engine;
  // Who asks for what the CPU backend alone has gets no other.
  const wantsCpu = isa !== null || averages !== FAST_AGGREGATION.fallback;
  const device = engine.device === "auto" && wantsCpu ? "cpu" : engine.device;
  const kernels = device === "cpu" || device === "auto" ? kernelsFor(lmma.tables) : null;
  const options: OpenOptions = {
    ...(threads !== null && { threads }),
    ...(isa !== null && { isa }),
    ...fastAggregation(averages),
    arithmetic: arithmeticOf(lmma),
    // What was measured are exact lookups.
    ...(!untuned && averages === FAST_AGGREGATION.fallback && { choose: tunedChoice() }),
    ...(kernels !== null && { choose: kernels }),
  };
  const backend = await open(device, options);
  if ("unavailable" in backend) throw new Error(`device ${device}: ${backend.unavailable}`);
  if (device === "auto" && backend.name === "reference") {
    const cpu = await open("cpu", options);
    if ("unavailable" in cpu) note(`running on the reference backend, which is slow: ${cpu.unavailable}`);
  }
  const given = (["mode", "act", "tables"] as const).find((name) => lmma[name] !== LMMA_OPTIONS[name].fallback);
  const isFor = given === "tables" ? "the LMMA machine and the CPU backend" : "the LMMA machine (--device lmma)";
  if (given !== undefined && backend.name !== "lmma" && !(given === "tables" && backend.name === "cpu"))
    note(`--${given} has no effect: it is for ${isFor}`);
  if ((backend.name === "reference" || backend.name === "lmma") && threads !== null && threads > 1)
    note(`--threads ${threads} has no effect: the ${backend.name} backend has one thread`);
  if (backend.name !== "cpu" && wantsCpu)
    note(`--${isa === null ? "fast-aggregation" : "isa"} has no effect: it is for the CPU backend`);
  return backend;
}
