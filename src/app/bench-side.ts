// One side of a comparison for one round, in a process of its own, so that threads, memory and caches are its own: the
// task is JSON on stdin, the figures are JSON on stdout. Started by bench-compare.ts.
// What a peer does is what its own documentation shows, with as many threads as it is told, or on the GPU by Vulkan or WebGPU.

import process from "node:process";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

import type { Product } from "./bench-product.ts";

/** `main`: the main file of the peer's package. */
export type Task =
  | ({ readonly kind: "model"; readonly engine: "lutra" } & ModelTask)
  | ({ readonly kind: "model"; readonly engine: "llama"; readonly main: string } & ModelTask)
  | {
      readonly kind: "first";
      readonly device: string;
      readonly file: string;
      readonly text: string;
      readonly threads: number;
      readonly main: string;
    }
  | ({ readonly kind: "product"; readonly engine: "lutra" } & Product)
  | ({ readonly kind: "product"; readonly engine: "onnx"; readonly main: string } & Product);

interface ModelTask {
  readonly device: string;
  readonly file: string;
  readonly threads: number;
  readonly prompt: number;
  readonly tokens: number;
}

/** The figures of one round; `read` and `bytes` are Lutra's alone. */
export interface ModelRound {
  readonly loadMs: number;
  readonly prefillTps: number;
  readonly decodeTps: number;
  readonly readGbps: readonly number[];
  readonly bytesPerToken: number;
}

/** As much of node-llama-cpp as is used. */
interface NodeLlamaCpp {
  getLlama(options: object): Promise<Llama>;
}

interface Llama {
  loadModel(options: object): Promise<LlamaModel>;
}

interface LlamaModel {
  readonly fileInfo: {
    readonly metadata: { readonly tokenizer: { readonly ggml: { readonly tokens: readonly string[] } } };
  };
  tokenize(text: string): number[];
  createContext(options: object): Promise<{ getSequence(): LlamaSequence }>;
}

interface LlamaSequence {
  clearHistory(): Promise<void>;
  evaluateWithoutGeneratingNewTokens(tokens: readonly number[]): Promise<void>;
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
}

const GREEDY = { temperature: 0, yieldEogToken: true };

async function llamaWith({
  device,
  threads,
  main,
}: Pick<ModelTask, "device" | "threads"> & { main: string }): Promise<Llama> {
  const library = (await import(pathToFileURL(main).href)) as NodeLlamaCpp;
  return library.getLlama({
    gpu: device === "gpu" ? "vulkan" : false,
    build: "never",
    skipDownload: true,
    progressLogs: false,
    maxThreads: threads,
    logLevel: "error",
  });
}

async function sequenceOf(model: LlamaModel, contextSize: number, threads: number): Promise<LlamaSequence> {
  // By itself it takes four threads, which spin at barriers where there are fewer cores.
  const context = await model.createContext({ contextSize, sequences: 1, threads: { ideal: threads, min: threads } });
  return context.getSequence();
}

/** A first pass warms up, as in measureModel. */
async function llamaRound(task: ModelTask & { main: string }): Promise<ModelRound> {
  const { file, threads, prompt, tokens } = task;
  const { promptOf } = await import("./bench-model.ts");
  const llama = await llamaWith(task); // once a process, and no part of loading a file
  const startMs = performance.now();
  const model = await llama.loadModel({ modelPath: file, ...layersOn(task.device) });
  const sequence = await sequenceOf(model, prompt + tokens + 16, threads);
  const loadMs = performance.now() - startMs;
  const ids = [...promptOf(prompt, model.fileInfo.metadata.tokenizer.ggml.tokens.length)];
  let found = { prefillTps: 0, decodeTps: 0 };
  for (let pass = 0; pass < 2; pass++) {
    await sequence.clearHistory();
    const fromMs = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(ids);
    const filledMs = performance.now();
    let count = 0;
    let firstMs = 0;
    // The first token pays for what is begun there; the next `tokens` are counted.
    for await (const _ of sequence.evaluate([0], GREEDY)) {
      if (count++ === 0) firstMs = performance.now();
      if (count > tokens) break;
    }
    const decodeMs = performance.now() - firstMs;
    found = { prefillTps: (1000 * prompt) / (filledMs - fromMs), decodeTps: (1000 * tokens) / decodeMs };
  }
  return { loadMs, ...found, readGbps: [], bytesPerToken: 0 };
}

/** All of a model on the GPU, where that is asked for. */
function layersOn(device: ModelTask["device"]): object {
  return device === "gpu" ? { gpuLayers: "max" } : {};
}

async function lutraRound({ device, file, threads, prompt, tokens }: ModelTask): Promise<ModelRound> {
  const { measureModel } = await import("./bench-model.ts");
  const { signal } = new AbortController();
  const times = await measureModel(file, { device, threads, isa: null, prompt, tokens, runs: 1, signal });
  if (times === null) throw new Error("nothing was measured");
  const { loadMs, readGbps, bytesPerToken, prefillTps, decodeTps } = times;
  return { loadMs, prefillTps: prefillTps[0]!, decodeTps: decodeTps[0]!, readGbps, bytesPerToken };
}

async function run(task: Task): Promise<object> {
  switch (task.kind) {
    case "model":
      return task.engine === "lutra" ? lutraRound(task) : llamaRound(task);
    case "first": {
      const model = await (await llamaWith(task)).loadModel({ modelPath: task.file, ...layersOn(task.device) });
      const ids = model.tokenize(task.text);
      const sequence = await sequenceOf(model, ids.length + 16, task.threads);
      for await (const _ of sequence.evaluate(ids, GREEDY)) break;
      return { first_token_ms: performance.now() }; // since the start of the process, as `lutra run` counts
    }
    case "product": {
      const { productData, timeLutra, timeOnnx } = await import("./bench-product.ts");
      const data = productData(task);
      const { us } = task.engine === "lutra" ? await timeLutra(task, data) : await timeOnnx(task, data, task.main);
      return { us };
    }
  }
}

try {
  const answer = JSON.stringify(await run(JSON.parse(await text(process.stdin)) as Task));
  // Standard output is a pipe: all of it must be taken before the process may end. Peers keep threads that would not.
  process.stdout.write(`${answer}\n`, () => process.exit());
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`, () => process.exit(1));
}
