// lutra bench compare: Lutra beside llama.cpp and ONNX Runtime, where the person has them: rounds of one and the other
// in turn, each side in a process of its own, and the ratios of the rounds.
// Not here: what a side does in its process (bench-side.ts), a model or a matrix alone (bench-model.ts, bench.ts).

import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

import type { Unavailable } from "../backend.ts";
import { packageFile } from "../files.ts";
import { usableCores } from "../cpu/native.ts";
import { type CaseLine, describe, RUN_OPTIONS, SHAPE_OPTIONS, shareOf, spread, withModel } from "./bench-model.ts";
import type { Product } from "./bench-product.ts";
import type { ModelRound, Task } from "./bench-side.ts";
import { command, type Command, UsageError, refuseCpuOptions, type Values } from "./command.ts";
import { printJson } from "./terminal.ts";

const OPTIONS = {
  ...SHAPE_OPTIONS,
  ...RUN_OPTIONS,
  bits: { kind: "integer", about: "bits of a weight, for gemv and gemm: 2, 4 or 8", min: 2, max: 8, fallback: 4 },
  block: { kind: "integer", about: "weights that share a scale: a power of two", min: 16, max: 256, fallback: 128 },
  m: { kind: "integer", about: "rows of the matrix", min: 1, max: 2 ** 20, fallback: 4096 },
  k: { kind: "integer", about: "columns, a multiple of the block", min: 16, max: 2 ** 20, fallback: 4096 },
  batch: { kind: "integer", about: "vectors at once, for gemm", min: 1, max: 1024, fallback: 32 },
  device: { kind: "choice", about: "where both run", choices: ["cpu", "gpu"], fallback: "cpu" },
  activations: {
    kind: "choice",
    about: "what vectors of gemv and gemm may be rounded to; f32 on a GPU",
    choices: ["int8", "f32"],
    fallback: "int8",
  },
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  rounds: { kind: "integer", about: "rounds, each of both sides", min: 1, max: 1000, fallback: 5 },
  peers: { kind: "text", about: "the folder in which the peers were installed; else test/oracle and the current one" },
  json: { kind: "flag", about: "one JSON object a case on stdout" },
} as const;

export const benchCompare: Command = command({
  name: "bench compare",
  usage: [
    "bench compare [options] [model.gguf]",
    "bench compare layers [options]",
    "bench compare gemv|gemm [options]",
  ],
  about: [
    "Compares with other programs, in rounds of one and the other: a model with llama.cpp (node-llama-cpp), a",
    "matrix with ONNX Runtime's MatMulNBits (onnxruntime-node). `layers` is two layers of a 7B model, which is the",
    "time of four less that of two: the nearest to llama.cpp's own matrix product. With several threads llama.cpp",
    "runs with one as well, and its better figure counts. With --device gpu llama.cpp runs on Vulkan, and ONNX",
    "Runtime on WebGPU. Nothing is installed: what is not there is unavailable.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra bench compare model.gguf --threads 1", "a file"],
    ["lutra bench compare --shape 1B --type Q4_0", "random weights"],
    ["lutra bench compare layers --type Q2_K --prompt 32", "kernels: one vector, and 32"],
    ["lutra bench compare gemv --bits 2 --block 32 --json", "one matrix, for programs"],
    ["lutra bench compare gemm --device gpu --activations f32", "on the GPU, without rounding vectors"],
  ],
  positionals: 1,
  run: compare,
});

interface Compared {
  readonly values: Values<typeof OPTIONS>;
  readonly threads: number;
  readonly signal: AbortSignal;
}

async function compare(
  values: Values<typeof OPTIONS>,
  [what]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (values.device === "gpu") refuseCpuOptions({ threads: values.threads });
  else if (values.activations === "f32") throw new UsageError("--activations: f32; it is for --device gpu");
  // On a GPU threads are the driver's matter.
  const threads = values.device === "gpu" ? 1 : (values.threads ?? usableCores());
  const compared = { values, threads, signal };
  try {
    const lines =
      what === "gemv" || what === "gemm"
        ? await compareProduct(what, compared)
        : what === "layers"
          ? await compareLayers(compared)
          : await compareModel(what, compared);
    for (const line of lines)
      if (values.json) printJson(line);
      else process.stdout.write(describe(line));
    return 0;
  } catch (error) {
    if (signal.aborted) return 130;
    throw error;
  }
}

// --- peers ----------------------------------------------------------------------------------------------------------

interface Peer {
  /** With its version. */
  readonly name: string;
  /** The main file of its package. */
  readonly main: string;
}

/** The package in the folder that the person names, in that of the tests, or in the current one. */
function findPeer(name: string, folder: string | null): Peer | Unavailable {
  const oracle = packageFile("test/oracle");
  const folders = folder === null ? [oracle, process.cwd()] : [resolve(folder)];
  for (const at of folders) {
    const home = join(at, "node_modules", name);
    if (!existsSync(join(home, "package.json"))) continue;
    const { version, main } = JSON.parse(readFileSync(join(home, "package.json"), "utf8")) as Record<string, string>;
    return { name: `${name} ${version}`, main: join(home, main ?? "index.js") };
  }
  const found = folders.filter((at) => existsSync(at)).join(" or ");
  return {
    unavailable: `${name} is not installed in ${found === "" ? folders.join(" or ") : found}: npm install ${name} there, or in a checkout node test/oracle/setup.mjs; --peers names another folder`,
  };
}

// --- one side -------------------------------------------------------------------------------------------------------

/** Longer than any round of a model that fits a machine; one that hangs is ended. */
const ROUND_LIMIT_MS = 900_000;

async function ask<T>(task: Task, signal: AbortSignal): Promise<T> {
  return node([fileURLToPath(new URL("bench-side.js", import.meta.url))], JSON.stringify(task), signal) as Promise<T>;
}

/** Runs Node on the arguments; the JSON that it prints last. */
function node(args: readonly string[], input: string, signal: AbortSignal): Promise<unknown> {
  return new Promise((fulfil, reject) => {
    const child = spawn(process.execPath, args, { timeout: ROUND_LIMIT_MS, killSignal: "SIGKILL", signal });
    let out = "";
    let err = "";
    child.stdout.on("data", (part: Buffer) => (out += String(part)));
    child.stderr.on("data", (part: Buffer) => (err += String(part)));
    child.on("error", reject);
    child.on("close", (code, ended) => {
      if (code === 0) return fulfil(JSON.parse(out.trimEnd().split("\n").at(-1) ?? ""));
      const reason = err.trimEnd().split("\n").at(-1) ?? "";
      reject(new Error(`a round ended with ${ended ?? `exit status ${code}`}: ${reason}`));
    });
    child.stdin.on("error", () => undefined); // it ended before it read: its exit says why
    child.stdin.end(input);
  });
}

interface Rounds<T> {
  readonly ours: readonly T[];
  /** By the peer's number of threads. */
  readonly theirs: ReadonlyMap<number, readonly T[]>;
}

/** Both sides in turn; who is first changes from round to round, so that a machine that grows slower favours nobody. */
async function rounds<T>(
  count: number,
  ours: () => Promise<T>,
  theirs: readonly (readonly [threads: number, ask: () => Promise<T>])[],
): Promise<Rounds<T>> {
  const mine: T[] = [];
  const peers = new Map<number, T[]>(theirs.map(([threads]) => [threads, []]));
  const turn = [
    async (): Promise<unknown> => mine.push(await ours()),
    ...theirs.map(
      ([threads, peer]) =>
        async (): Promise<unknown> =>
          peers.get(threads)?.push(await peer()),
    ),
  ];
  for (let round = 0; round < count; round++)
    for (const side of round % 2 === 0 ? turn : turn.toReversed()) await side();
  return { ours: mine, theirs: peers };
}

/** The line of a case; the peer's number of threads is that with the better median. */
function lineOf<T>(
  name: string,
  { ours, theirs }: Rounds<T>,
  peer: Peer | Unavailable,
  { threads }: Compared,
  unit: CaseLine["unit"],
  figure: (round: T) => number,
): CaseLine {
  const { median, min, max } = spread(ours.map(figure));
  const line = { case: name, threads, ours: median, ours_min: min, ours_max: max, unit };
  if ("unavailable" in peer) return { ...line, peer, theirs: null, ratio: null, ratio_min: null, ratio_max: null };
  const sign = unit === "tokens/s" ? -1 : 1; // more is better, or less
  const [best] = [...theirs]
    .map(([count, list]) => ({ count, list: list.map(figure) }))
    .toSorted((a, b) => sign * (spread(a.list).median - spread(b.list).median));
  const { count, list } = best!;
  const ratios = spread(ours.map((round, i) => (figure(round) / list[i]!) ** -sign));
  return {
    ...line,
    peer: peer.name,
    ...(threads > 1 && { peer_threads: count }),
    theirs: spread(list).median,
    ratio: ratios.median,
    ratio_min: ratios.min,
    ratio_max: ratios.max,
  };
}

/** One thread as well as all: where cores are few, or not the process's own, llama.cpp may be faster with one. */
function peerThreads(threads: number): readonly number[] {
  return threads === 1 ? [1] : [1, threads];
}

// --- models ---------------------------------------------------------------------------------------------------------

const LLAMA = "node-llama-cpp";

function modelRounds(
  file: string,
  compared: Compared,
): { peer: Peer | Unavailable; ask: () => Promise<Rounds<ModelRound>> } {
  const { values, threads, signal } = compared;
  const peer = findPeer(LLAMA, values.peers);
  const { device } = values;
  const task = { kind: "model", device, file, prompt: values.prompt, tokens: values.tokens } as const;
  const sides =
    "unavailable" in peer
      ? []
      : peerThreads(threads).map(
          (count) =>
            [
              count,
              () => ask<ModelRound>({ ...task, engine: "llama", threads: count, main: peer.main }, signal),
            ] as const,
        );
  const ours = (): Promise<ModelRound> => ask<ModelRound>({ ...task, engine: "lutra", threads }, signal);
  return { peer, ask: () => rounds(values.rounds, ours, sides) };
}

async function compareModel(named: string | undefined, compared: Compared): Promise<readonly CaseLine[]> {
  const { values } = compared;
  return withModel(named, values, null, async (file) => {
    const { peer, ask: run } = modelRounds(resolve(file), compared);
    const found = await run();
    const { ours } = found;
    const decode = shareOf({
      decodeTps: ours.map((round) => round.decodeTps),
      readGbps: ours.flatMap((round) => round.readGbps),
      bytesPerToken: ours[0]?.bytesPerToken ?? 0,
    });
    return [
      lineOf("load", found, peer, compared, "ms", (round) => round.loadMs),
      lineOf(`prefill ${values.prompt}`, found, peer, compared, "tokens/s", (round) => round.prefillTps),
      {
        ...lineOf(`decode ${values.tokens}`, found, peer, compared, "tokens/s", (round) => round.decodeTps),
        ...decode,
      },
      ...(values.shape === null ? [await firstToken(resolve(file), peer, compared)] : []),
    ];
  });
}

const PROMPT = "The capital of France is";

/** From the start of a process to its first token after a short prompt. */
async function firstToken(file: string, peer: Peer | Unavailable, compared: Compared): Promise<CaseLine> {
  const { values, threads, signal } = compared;
  const cli = fileURLToPath(new URL("cli.js", import.meta.url));
  const { device } = values;
  const usual = ["--raw", "--json", "--max-tokens", "1", "--temperature", "0", "--device", device];
  const options = device === "cpu" ? [...usual, "--threads", String(threads)] : usual;
  const ours = (): Promise<First> => node([cli, "run", file, PROMPT, ...options], "", signal) as Promise<First>;
  const sides =
    "unavailable" in peer
      ? []
      : peerThreads(threads).map(
          (count) =>
            [
              count,
              () => ask<First>({ kind: "first", device, file, text: PROMPT, threads: count, main: peer.main }, signal),
            ] as const,
        );
  const found = await rounds(values.rounds, ours, sides);
  return lineOf("first token", found, peer, compared, "ms", (round) => round.first_token_ms);
}

interface First {
  readonly first_token_ms: number;
}

/** Of the two files whose difference is measured. */
const LAYERS = [4, 2] as const;

/** Milliseconds of LAYERS[0] - LAYERS[1] layers. */
interface LayersRound {
  readonly prefillMs: number;
  readonly decodeMs: number;
}

async function compareLayers(compared: Compared): Promise<readonly CaseLine[]> {
  const { values } = compared;
  if (values.shape !== null) throw new UsageError(`--shape ${values.shape}: layers are those of 7B; leave it out`);
  const shaped = { ...values, shape: "7B" };
  const [more, fewer] = LAYERS;
  return withModel(undefined, shaped, more, (large) =>
    withModel(undefined, shaped, fewer, async (small) => {
      const { peer, ask: runLarge } = modelRounds(large, { ...compared, values: { ...values, rounds: 1 } });
      const { ask: runSmall } = modelRounds(small, { ...compared, values: { ...values, rounds: 1 } });
      const ours: LayersRound[] = [];
      const theirs = new Map<number, LayersRound[]>();
      for (let round = 0; round < values.rounds; round++) {
        const [a, b] = [await runLarge(), await runSmall()];
        ours.push(differenceOf(a.ours[0]!, b.ours[0]!, values));
        for (const [count, [first]] of a.theirs)
          theirs.set(count, [...(theirs.get(count) ?? []), differenceOf(first!, b.theirs.get(count)![0]!, values)]);
      }
      const found = { ours, theirs };
      const name = `${more - fewer} layers of 7B ${values.type ?? "Q4_0"}`;
      return [
        lineOf(`${name}, prefill ${values.prompt}`, found, peer, compared, "ms", (round) => round.prefillMs),
        lineOf(`${name}, decode`, found, peer, compared, "ms", (round) => round.decodeMs),
      ];
    }),
  );
}

function differenceOf(more: ModelRound, fewer: ModelRound, { prompt }: { readonly prompt: number }): LayersRound {
  const less = (a: number, b: number): number => 1000 / a - 1000 / b;
  return {
    prefillMs: prompt * less(more.prefillTps, fewer.prefillTps),
    decodeMs: less(more.decodeTps, fewer.decodeTps),
  };
}

// --- matrices -------------------------------------------------------------------------------------------------------

async function compareProduct(kind: "gemv" | "gemm", compared: Compared): Promise<readonly CaseLine[]> {
  const { values, threads, signal } = compared;
  const { bits, block, m: n, k } = values;
  const batch = kind === "gemv" ? 1 : values.batch;
  if (![2, 4, 8].includes(bits)) throw new UsageError(`--bits: ${bits}; 2, 4 or 8`);
  if (!Number.isInteger(Math.log2(block))) throw new UsageError(`--block: ${block}; 16, 32, 64, 128 or 256`);
  if (k % block !== 0) throw new UsageError(`--k: ${k}; a multiple of the block, which is ${block}`);
  const peer = findPeer("onnxruntime-node", values.peers);
  const { device, activations } = values;
  const product: Product = { bits, block, n, k, batch, threads, device, activations };
  const ours = (): Promise<{ us: number }> => ask({ kind: "product", engine: "lutra", ...product }, signal);
  const found = await rounds(
    values.rounds,
    ours,
    "unavailable" in peer
      ? []
      : [[threads, () => ask({ kind: "product", engine: "onnx", ...product, main: peer.main }, signal)]],
  );
  const name = `${kind} W${bits} g${block} ${n} x ${k}${batch === 1 ? "" : `, ${batch} at once`}`;
  return [lineOf(name, found, peer, compared, "us", (round) => round.us)];
}
