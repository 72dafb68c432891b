// A model on a machine, for the commands that run one: opens both, starts the slow part, and tells the person what is
// not as it should be. Not here: what is then done with the session (run.ts, evaluate.ts).

import { type Backend, type Session, UnsupportedOp } from "../backend.ts";
import { processorName } from "../cpu/native.ts";
import { aheadOf, codesOf, methodsFor } from "../cpu/tuner.ts";
import { load, type Model } from "../load.ts";
import { LogitsError } from "../model/sampler.ts";
import type { Arithmetic } from "../lutcore/tiling.ts";
import { DEVICES, open, type OpenOptions } from "../open.ts";
import { type Option, UsageError } from "./command.ts";
import type { Phases } from "./phases.ts";
import { makeProgress, note } from "./terminal.ts";
import { tunedChoice, tunedOnGpu } from "./tune.ts";

/** A session that is under way; closing it (`await using`) frees all three. */
export interface Engine extends AsyncDisposable {
  readonly model: Model;
  readonly backend: Backend;
  readonly session: Promise<Session>;
}

type Choice = Extract<Option, { kind: "choice" }>;

/** Lookups summed by averages; commands that time kernels have it too. */
export const FAST_AGGREGATION: Choice = {
  kind: "choice",
  about: "sum lookups by averages of so many: less exact",
  choices: ["off", "2", "4", "8"],
  fallback: "off",
};

/**
 * Kernels of the CPU for the option `tables`; null where it says nothing. A table's scale is that of 32 activations there.
 * @throws Error where the instruction set has no lookups, when it is first asked for such codes
 */
function kernelsFor(tables: string): NonNullable<OpenOptions["choose"]> | null {
  if (tables === "auto") return null;
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

/** Options of every command that runs a model. What is not given is null, `auto` or `off`. */
export const ENGINE_OPTIONS: {
  readonly device: Choice;
  readonly threads: { readonly kind: "integer"; about: string; min: number; max: number; fallback: null };
  readonly ctx: { readonly kind: "integer"; about: string; min: number; max: number; fallback: null };
  readonly isa: Extract<Option, { kind: "text" }>;
  readonly "fast-aggregation": Choice;
  readonly mode: Choice;
  readonly act: Choice;
  readonly tables: Choice;
} = {
  device: { kind: "choice", about: "where to run", choices: DEVICES, fallback: "auto" },
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  // The largest that the model's own configuration may have.
  ctx: { kind: "integer", about: "tokens of context", min: 1, max: 2 ** 24, fallback: null },
  isa: { kind: "text", about: "instruction set, of those that doctor names; the best if not given" },
  "fast-aggregation": FAST_AGGREGATION,
  mode: {
    kind: "choice",
    about: "lmma rounds once, as its paper (auto), or its RTL",
    choices: ["auto", "ideal", "paper", "rtl"],
    fallback: "auto",
  },
  act: {
    kind: "choice",
    about: "activations of lmma (auto: int8)",
    choices: ["auto", "int8", "fp16"],
    fallback: "auto",
  },
  tables: {
    kind: "choice",
    about: "tables of lmma (auto: exact) or the CPU",
    choices: ["auto", "exact", "int8-table", "int8-group"],
    fallback: "auto",
  },
};

/** Values of those options, and of `no-tune` where a command has it. */
export interface EngineValues {
  readonly device: string;
  readonly threads: number | null;
  readonly ctx: number | null;
  readonly isa: string | null;
  readonly "fast-aggregation": string;
  readonly mode: string;
  readonly act: string;
  readonly tables: string;
  readonly "no-tune"?: boolean;
}

/** Which devices an option is for, of those that not all of them take. */
const DEVICES_OF: Readonly<Record<Exclude<keyof EngineValues, "device" | "ctx">, readonly string[]>> = {
  threads: ["cpu"],
  isa: ["cpu"],
  "fast-aggregation": ["cpu"],
  "no-tune": ["cpu"],
  tables: ["cpu", "lmma", "lmma-gpu"],
  mode: ["lmma", "lmma-gpu"],
  act: ["lmma", "lmma-gpu"],
};

/** A value that a device does not have of an option that it takes. */
interface Lack {
  readonly device: string;
  readonly option: "tables" | "mode";
  readonly value: string;
  readonly why: string;
}

const LACKS: readonly Lack[] = [
  {
    device: "cpu",
    option: "tables",
    value: "int8-table",
    why: "its kernels have one scale for 8 tables; --tables int8-group, or --device lmma",
  },
  {
    device: "lmma-gpu",
    option: "mode",
    value: "ideal",
    why: "it needs numbers that are wider than a GPU's; --mode paper or rtl, or --device lmma",
  },
];

/**
 * The device that the options ask for: `auto` is the CPU where one is given that not all devices take.
 * @throws UsageError for an option that would have no effect there, or a value that the device lacks
 */
function deviceFor(values: EngineValues): string {
  const given = Object.entries(DEVICES_OF).flatMap(([name, devices]) => {
    const value = values[name as keyof typeof DEVICES_OF];
    const isGiven = value !== undefined && value !== null && value !== false && value !== "auto" && value !== "off";
    return isGiven ? [{ text: value === true ? `--${name}` : `--${name} ${value}`, devices }] : [];
  });
  const device = values.device === "auto" && given.length > 0 ? "cpu" : values.device;
  for (const { text, devices } of given) {
    if (!devices.includes(device))
      throw new UsageError(`${text}: no effect with --device ${values.device}; it is for ${devices.join(", ")}`);
  }
  for (const { device: lacking, option, value, why } of LACKS) {
    if (device === lacking && values[option] === value)
      throw new UsageError(`--${option} ${value}: not with --device ${values.device}: ${why}`);
  }
  const averages = values["fast-aggregation"];
  if (averages !== FAST_AGGREGATION.fallback && values.tables === "exact")
    throw new UsageError(`--fast-aggregation ${averages}: no effect with --tables exact, where nothing is looked up`);
  return device;
}

/** The values of LMMA's options as the machine takes them. */
function arithmeticOf({ mode, act, tables }: EngineValues): Arithmetic {
  return {
    mode: mode === "auto" ? "paper" : (mode as Arithmetic["mode"]),
    activation: act === "auto" ? "int8" : (act as Arithmetic["activation"]),
    tables: tables === "auto" ? "exact" : (tables as Arithmetic["tables"]),
  };
}

/** What a command adds to the person's options. */
interface Start {
  /** Context where it is not given and the model was trained on more. */
  readonly usualContext: number;
  readonly phases: Phases;
  /** Sequences at once; 1 where it is not given. */
  readonly slots?: number;
}

/**
 * Opens model and backend, and begins to prepare the one for the other: in native threads, so that the tokenizer can
 * be built at the same time.
 * @throws UsageError, before the file is looked at, for options that do not go together
 */
export async function startEngine(file: string, values: EngineValues, start: Start): Promise<Engine> {
  const device = deviceFor(values);
  const { ctx: context } = values;
  const { usualContext, phases, slots = 1 } = start;
  const model = load(file, {
    ...(context !== null && { context }),
    usualContext,
    slots,
    phase: (name) => phases.step(name),
  });
  const { trainedContext } = model.config;
  if (context !== null && context > trainedContext)
    note(
      `--ctx ${context} is more than the ${trainedContext} tokens that the model was trained on; expect worse text there`,
    );
  const backend = await openBackend(device, values);
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

async function openBackend(device: string, values: EngineValues): Promise<Backend> {
  const { threads, isa, tables, "fast-aggregation": averages, "no-tune": untuned = false } = values;
  const kernels = device === "cpu" ? kernelsFor(tables) : null;
  const options: OpenOptions = {
    ...(threads !== null && { threads }),
    ...(isa !== null && { isa }),
    ...fastAggregation(averages),
    arithmetic: arithmeticOf(values),
    // What was measured are exact lookups.
    ...(!untuned && averages === FAST_AGGREGATION.fallback && { choose: tunedChoice() }),
    ...(kernels !== null && { choose: kernels }),
    ...(!untuned && { chooseOnGpu: tunedOnGpu() }),
  };
  const backend = await open(device, options);
  if ("unavailable" in backend) throw new Error(`device ${device}: ${backend.unavailable}`);
  if (device === "auto" && backend.name === "reference") {
    const cpu = await open("cpu", options);
    if ("unavailable" in cpu) note(`running on the reference backend, which is slow: ${cpu.unavailable}`);
  }
  return backend;
}
