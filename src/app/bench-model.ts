// lutra bench model: how fast a whole model runs here: loading, reading a prompt, writing tokens; beside a plain read of
// memory in the same run, which is the limit of writing; and the energy of a token. A model file, or random weights in
// the shape of a known model.
// Not here: single matrices (bench.ts), other programs (bench-compare.ts).

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

import type { Session, Unavailable } from "../backend.ts";
import { memoryBytes } from "../cpu/layout.ts";
import { usableCores } from "../cpu/native.ts";
import { createFile } from "../files.ts";
import { didYouMean } from "../ladder/diagnostic.ts";
import type { Program, Type } from "../ladder/type.ts";
import { findType, standardProgram } from "../library.ts";
import { load, type Model } from "../load.ts";
import type { CarriedTypes } from "../model/carried.ts";
import { ggufSize } from "../model/gguf-writer.ts";
import { type Shape, SHAPES, synthetic } from "../model/synthetic.ts";
import { open } from "../open.ts";
import { command, type Command, type Option, UsageError, refuseCpuOptions, type Values } from "./command.ts";
import { openEnergy } from "./energy.ts";
import { FAST_AGGREGATION, fastAggregation } from "./engine.ts";
import { rate } from "./figures.ts";
import { embedded, findModel } from "./models.ts";
import { openCpuReader, openGpuReader } from "./reader.ts";
import { printJson } from "./terminal.ts";

type Text = Extract<Option, { kind: "text" }>;

/** Options that say which model: a file is the positional argument, and these make one. */
export const SHAPE_OPTIONS: { readonly shape: Text; readonly type: Text; readonly "types-from": Text } = {
  shape: { kind: "text", about: `random weights instead of a file, in the shape of ${Object.keys(SHAPES).join(", ")}` },
  type: { kind: "text", about: "the type of those weights; Q4_0 if not given" },
  "types-from": { kind: "text", about: "a .ladder file that declares the type" },
};

/** Options that say how a model is run. */
export const RUN_OPTIONS = {
  prompt: { kind: "integer", about: "tokens of the prompt", min: 1, max: 65_536, fallback: 128 },
  tokens: { kind: "integer", about: "tokens to write, one after the other", min: 1, max: 65_536, fallback: 64 },
} as const;

const OPTIONS = {
  ...SHAPE_OPTIONS,
  ...RUN_OPTIONS,
  device: { kind: "choice", about: "where to run", choices: ["cpu", "gpu"], fallback: "cpu" },
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  isa: { kind: "text", about: "instruction set, of those that doctor names; the best if not given" },
  "fast-aggregation": FAST_AGGREGATION,
  runs: { kind: "integer", about: "runs that count, after one that does not", min: 1, max: 1000, fallback: 5 },
  json: { kind: "flag", about: "one JSON object a case on stdout" },
} as const;

export const benchModel: Command = command({
  name: "bench model",
  usage: ["bench model [options] [model.gguf]"],
  about: [
    "Times a whole model: loading, reading a prompt, and writing tokens greedily; medians of some runs. Between",
    "runs 1 GiB of memory is read and nothing else: writing a token has to read all weights, so that the read is",
    "its limit. Joules are those of the whole processor while that part ran, where the kernel counts them.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra bench model model.gguf --threads 1", "a file"],
    ["lutra bench model --shape 1B --type Q2_K --json", "random weights, which take the time of real ones"],
    ["lutra bench model model.gguf --device gpu", "on a GPU"],
  ],
  positionals: 1,
  run: measure,
});

async function measure(
  values: Values<typeof OPTIONS>,
  [file]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  const { prompt, tokens, runs, isa, device } = values;
  const averages = values["fast-aggregation"];
  if (device === "gpu") refuseCpuOptions({ threads: values.threads, isa, "fast-aggregation": averages });
  const threads = device === "gpu" ? 1 : (values.threads ?? usableCores());
  return withModel(file, values, null, async (path) => {
    const times = await measureModel(path, { device, threads, isa, averages, prompt, tokens, runs, signal });
    if (times === null) return 130;
    for (const line of linesOf(times, { prompt, tokens, threads }))
      if (values.json) printJson(line);
      else process.stdout.write(describe(line));
    return 0;
  });
}

// --- which model ----------------------------------------------------------------------------------------------------

/**
 * Runs `work` with the path of the model: the file, the embedded one where none is named, or a temporary one of random
 * weights, which is removed afterwards.
 * @param blocks how many blocks a model of random weights has; null for as many as its shape says
 */
export async function withModel<T>(
  file: string | undefined,
  values: Pick<Values<typeof SHAPE_OPTIONS>, keyof typeof SHAPE_OPTIONS>,
  blocks: number | null,
  work: (path: string) => Promise<T>,
): Promise<T> {
  const { shape: name, type, "types-from": from } = values;
  if (name === null) {
    const alone = type === null ? (from === null ? null : "types-from") : "type";
    if (alone !== null) throw new UsageError(`--${alone}: it belongs to --shape; a file has its types already`);
    return work(file === undefined ? embedded.file : findModel(file));
  }
  if (file !== undefined)
    throw new UsageError(`--shape ${name}: there is a model file too, ${JSON.stringify(file)}; name one of them`);
  const shape = Object.hasOwn(SHAPES, name) ? SHAPES[name] : undefined;
  if (shape === undefined) {
    const names = Object.keys(SHAPES);
    throw new UsageError(`--shape: ${JSON.stringify(name)}; ${didYouMean(name, names) ?? names.join(", ")}`);
  }
  const folder = mkdtempSync(join(tmpdir(), "lutra-bench-"));
  try {
    const path = join(folder, "random.gguf");
    await writeSynthetic(path, blocks === null ? shape : { ...shape, blocks }, type ?? "Q4_0", from);
    return await work(path);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function writeSynthetic(path: string, shape: Shape, name: string, from: string | null): Promise<void> {
  const standard = standardProgram();
  const { type, carried } = typeOf(name, from, standard);
  const random = synthetic(shape, type, carried, standard);
  const sink = createFile(path, ggufSize(random.content), []);
  try {
    for await (const piece of random.pieces()) sink.write(piece);
    sink.commit();
  } finally {
    sink.abandon();
  }
}

function typeOf(name: string, from: string | null, standard: Program): { type: Type; carried: CarriedTypes | null } {
  const found = findType(name, from, standard);
  switch (found.kind) {
    case "unknown":
      throw new UsageError(`--type: ${found.reason}`);
    case "rejected":
      throw new Error(`${from}: lutra check says what is wrong with it: ${found.diagnostics[0]?.split("\n", 1)[0]}`);
    case "carried":
      return { type: found.type, carried: { texts: found.texts, types: [found.type] } };
    case "standard":
      return { type: found.type, carried: null };
  }
}

// --- the measure ----------------------------------------------------------------------------------------------------

interface ModelRun {
  readonly device: string;
  readonly threads: number;
  readonly isa: string | null;
  /** Value of FAST_AGGREGATION; off if not given. */
  readonly averages?: string;
  readonly prompt: number;
  readonly tokens: number;
  readonly runs: number;
  readonly signal: AbortSignal;
}

/** Figures of each run, in order. */
export interface ModelTimes {
  readonly isa: string;
  /** From opening the file to a session that takes tokens; once, the file in the system's cache or not. */
  readonly loadMs: number;
  readonly prefillTps: readonly number[];
  readonly decodeTps: readonly number[];
  readonly readGbps: readonly number[];
  /** Weights that one token needs, as they lie in memory, or in the file where that is less. */
  readonly bytesPerToken: number;
  readonly prefillJoules: readonly number[] | Unavailable;
  readonly decodeJoules: readonly number[] | Unavailable;
}

/** Tokens a second, and joules a token where they are counted. */
interface Timed {
  readonly tps: number[];
  readonly joules: number[];
}

/** Any ids will do: 7919 is prime, so that a prompt has few of them twice. */
export function promptOf(count: number, vocabulary: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => (i * 7919) % vocabulary);
}

/** Runs the model; null where the signal has ended it. */
export async function measureModel(file: string, run: ModelRun): Promise<ModelTimes | null> {
  const { device, threads, prompt, tokens, runs, signal } = run;
  const startMs = performance.now();
  const model = load(file, { context: prompt + tokens + 1 });
  const isaOption = run.isa !== null && { isa: run.isa };
  const backend = await open(device, { threads, ...isaOption, ...fastAggregation(run.averages ?? "off") });
  if ("unavailable" in backend && device === "gpu") throw new Error(`device gpu: ${backend.unavailable}`);
  if ("unavailable" in backend)
    throw new UsageError(`--${(run.averages ?? "off") === "off" ? "isa" : "fast-aggregation"}: ${backend.unavailable}`);
  const session = await backend.prepare(model.plan, model.weights);
  const loadMs = performance.now() - startMs;
  const { isa } = backend.device;
  const reader = device === "gpu" ? await openGpuReader() : openCpuReader(isa, threads);
  const energy = openEnergy();
  const counter = "unavailable" in energy ? null : energy;
  const { plan } = model;
  const prefills: Timed = { tps: [], joules: [] };
  const decodes: Timed = { tps: [], joules: [] };
  const read: number[] = [];
  const timed = async (count: number, into: Timed, work: () => Promise<void>): Promise<void> => {
    counter?.lap();
    const fromMs = performance.now();
    await work();
    into.tps.push((1000 * count) / (performance.now() - fromMs));
    if (counter !== null) into.joules.push(counter.lap() / count);
  };
  const ids = promptOf(prompt, plan.values[plan.logits]?.width ?? 1);
  try {
    for (let pass = 0; pass <= runs; pass++) {
      if (pass > 0) read.push(await reader.gbps());
      await timed(prompt, pass === 0 ? { tps: [], joules: [] } : prefills, () => prefill(session, ids));
      if (signal.aborted) return null;
      await timed(tokens, pass === 0 ? { tps: [], joules: [] } : decodes, () => decode(session, prompt, tokens));
      if (signal.aborted) return null;
    }
    read.push(await reader.gbps());
    const joulesOf = ({ joules }: Timed): readonly number[] | Unavailable =>
      "unavailable" in energy ? energy : joules;
    return {
      isa,
      loadMs,
      prefillTps: prefills.tps,
      decodeTps: decodes.tps,
      readGbps: read,
      bytesPerToken: bytesPerToken(model, device),
      prefillJoules: joulesOf(prefills),
      decodeJoules: joulesOf(decodes),
    };
  } finally {
    await reader.close();
    await session[Symbol.asyncDispose]();
    await backend[Symbol.asyncDispose]();
    model.close();
  }
}

async function prefill(session: Session, tokens: Int32Array): Promise<void> {
  await session.step([{ slot: 0, pos: 0, tokens, logits: "none" }]);
}

async function decode(session: Session, prompt: number, count: number): Promise<void> {
  let token = 0;
  for (let i = 0; i < count; i++) {
    const [logits] = await session.step([{ slot: 0, pos: prompt + i, tokens: Int32Array.of(token), logits: "last" }]);
    token = likeliest(logits ?? new Float32Array(1));
  }
}

function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

function bytesPerToken({ plan, tensors }: Model, device: string): number {
  const names = plan.ops.flatMap((op) => (op.kind === "gemm" ? op.linears.map(({ weight }) => weight) : []));
  let total = 0;
  for (const name of names) {
    const tensor = tensors.get(name);
    if (tensor !== undefined)
      total += device === "gpu" ? tensor.byteLength : Math.min(tensor.byteLength, memoryBytes([tensor]));
  }
  return total;
}

// --- what is said ---------------------------------------------------------------------------------------------------

/** One case, in JSON's names; `theirs` and the ratios are null where there is no peer. */
export interface CaseLine {
  readonly case: string;
  readonly threads: number;
  readonly ours: number;
  readonly ours_min: number;
  readonly ours_max: number;
  readonly peer: string | null | Unavailable;
  readonly theirs: number | null;
  /** Of speeds, round by round: above 1 where Lutra is faster. */
  readonly ratio: number | null;
  readonly ratio_min: number | null;
  readonly ratio_max: number | null;
  readonly unit: "tokens/s" | "ms" | "us";
  /** Of the peer, where several numbers were tried: the one with the better median. */
  readonly peer_threads?: number;
  /** Of decode alone: what memory gave in the same run, and how much of it the weights took. */
  readonly read_gbps?: number;
  readonly bytes_per_token?: number;
  readonly share?: number;
  readonly energy?: { readonly joules_per_token: number } | Unavailable;
}

/** Median, least and largest. */
export function spread(list: readonly number[]): { median: number; min: number; max: number } {
  const sorted = list.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const median = ((sorted[Math.floor(middle)] ?? NaN) + (sorted[Math.ceil(middle)] ?? NaN)) / 2;
  return { median, min: sorted[0] ?? NaN, max: sorted.at(-1) ?? NaN };
}

/** What concerns decode beside its speed. */
export function shareOf(times: Pick<ModelTimes, "decodeTps" | "readGbps" | "bytesPerToken">): {
  readonly read_gbps: number;
  readonly bytes_per_token: number;
  readonly share: number;
} {
  const read = spread(times.readGbps).median;
  const bytes = times.bytesPerToken;
  return {
    read_gbps: read,
    bytes_per_token: bytes,
    share: (bytes * spread(times.decodeTps).median) / 1e9 / read,
  };
}

function linesOf(
  times: ModelTimes,
  { prompt, tokens, threads }: { readonly prompt: number; readonly tokens: number; readonly threads: number },
): readonly CaseLine[] {
  const alone = { peer: null, theirs: null, ratio: null, ratio_min: null, ratio_max: null } as const;
  const line = (name: string, list: readonly number[], unit: CaseLine["unit"]): CaseLine => {
    const { median, min, max } = spread(list);
    return { case: name, threads, ours: median, ours_min: min, ours_max: max, ...alone, unit };
  };
  const energy = (list: readonly number[] | Unavailable): CaseLine["energy"] & object =>
    "unavailable" in list ? list : { joules_per_token: spread(list).median };
  return [
    line("load", [times.loadMs], "ms"),
    { ...line(`prefill ${prompt}`, times.prefillTps, "tokens/s"), energy: energy(times.prefillJoules) },
    {
      ...line(`decode ${tokens}`, times.decodeTps, "tokens/s"),
      ...shareOf(times),
      energy: energy(times.decodeJoules),
    },
  ];
}

/** The case as a line for people. */
export function describe(line: CaseLine): string {
  const figure = (x: number): string => (line.unit === "tokens/s" ? rate(x) : x.toFixed(x < 10 ? 2 : 0));
  const { peer, theirs, ratio, ratio_min: least, ratio_max: most, energy } = line;
  const parts = [
    `${line.case}, ${line.threads} ${line.threads === 1 ? "thread" : "threads"}: ${figure(line.ours)} ${line.unit}` +
      (line.ours_min < line.ours_max ? ` (${figure(line.ours_min)} to ${figure(line.ours_max)})` : ""),
  ];
  if (typeof peer === "string" && theirs !== null && ratio !== null)
    parts.push(`${peer} ${figure(theirs)}, ratio ${ratio.toFixed(2)} (${least?.toFixed(2)} to ${most?.toFixed(2)})`);
  else if (peer !== null && typeof peer === "object") parts.push(`no peer: ${peer.unavailable}`);
  if (line.share !== undefined && line.read_gbps !== undefined && line.bytes_per_token !== undefined)
    parts.push(
      `${(line.bytes_per_token / 1e6).toFixed(0)} MB of weights a token, ${(100 * line.share).toFixed(0)} % of ` +
        `a plain read's ${line.read_gbps.toFixed(1)} GB/s`,
    );
  if (energy !== undefined)
    parts.push(
      "unavailable" in energy
        ? `energy unavailable: ${energy.unavailable}`
        : `${energy.joules_per_token.toPrecision(3)} J a token`,
    );
  return `${parts.join("; ")}\n`;
}
