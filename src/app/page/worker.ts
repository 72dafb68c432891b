// The page's worker: opens one model on WebGPU and generates, so that the page itself never waits. It ends with its
// page's call of `terminate`, which frees the device and all it holds.
// Not here: what a person sees (page.ts), where bytes come from (blob.ts), which GPU there is (machine.ts).

/// <reference types="@webgpu/types" />

import { ladder, shaders } from "lutra:texts";

import type { Backend, Session, Unavailable, WeightTensor } from "../../backend.ts";
import { openGpuBackend } from "../../gpu/backend.ts";
import { resolveProgram } from "../../ladder/resolve.ts";
import type { Program } from "../../ladder/type.ts";
import { type GenerateEvent, generate } from "../../model/generate.ts";
import { type Model, openModel } from "../../model/model.ts";
import type { Tokenizer } from "../../model/tokenizer.ts";
import { blobSource, download } from "./blob.ts";
import { describeMachine } from "./machine.ts";
import type { FromWorker, ModelFacts, Origin, Request, ToWorker } from "./message.ts";

/** As in `lutra run`. */
const USUAL_TOKENS = 256;

/** A model that is ready. */
interface Opened {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  readonly session: Session;
}

function post(message: FromWorker): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- of a worker's page there is one
  postMessage(message);
}

const backend: Promise<Backend | Unavailable> = openBackend();
let opened: Opened | null = null;
let stopper = new AbortController();

addEventListener("message", ({ data }: MessageEvent<ToWorker>) => {
  switch (data.kind) {
    case "open":
      void answering(open(data.origin, data.context));
      break;
    case "generate":
      stopper = new AbortController();
      if (opened !== null) void answering(produce(opened, data.request, stopper.signal));
      break;
    case "stop":
      stopper.abort();
      break;
  }
});

/** What fails is told to the page, in one line. */
async function answering(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    post({ kind: "failed", message: messageOf(error) });
  }
}

function messageOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  // What engines say when memory runs out differs, and names neither memory nor a way out.
  return error instanceof RangeError &&
    /allocation|out of memory|invalid (typed )?array (buffer )?length/i.test(message)
    ? `memory does not suffice (${message}); a smaller model or context fits, or other pages may be closed`
    : message;
}

async function openBackend(): Promise<Backend | Unavailable> {
  const machine = await describeMachine();
  const result = "unavailable" in machine ? machine : await openGpuBackend(navigator.gpu, shaders);
  if ("unavailable" in result) post({ kind: "unavailable", reason: result.unavailable });
  else if (!("unavailable" in machine)) post({ kind: "machine", machine });
  return result;
}

async function open(origin: Origin, context: number | null): Promise<void> {
  const startMs = performance.now();
  const machine = await backend;
  if ("unavailable" in machine) throw new Error(machine.unavailable);
  const blobs = await blobsOf(origin);
  const [first] = [...blobs.keys()].toSorted();
  const source = (name: string) => {
    const blob = blobs.get(name);
    if (blob === undefined) throw new Error(`${name} is not here; choose all parts of the model together`);
    return blobSource(name, blob);
  };
  const model = openModel(first ?? "", source, formats, { ...(context !== null && { context }) });
  const parts = model.weights.files.length;
  if (blobs.size > parts) {
    const needed = parts === 1 ? "no other" : `${parts} in all`;
    throw new Error(`${blobs.size} files were chosen, and ${first} needs ${needed}; choose one model`);
  }
  const [tokenizer, session] = await Promise.all([
    model.tokenizer(),
    machine.prepare(model.plan, model.weights, (done, total) =>
      post({ kind: "progress", what: "Loading weights", done, total }),
    ),
  ]);
  opened = { model, tokenizer, session };
  post({ kind: "opened", facts: factsOf(model, session, performance.now() - startMs) });
}

async function blobsOf(origin: Origin): Promise<ReadonlyMap<string, Blob>> {
  switch (origin.kind) {
    case "files":
      return new Map(origin.files.map((file) => [file.name, file]));
    case "url": {
      const { url } = origin;
      const progress = (done: number, total: number | null): void =>
        post({ kind: "progress", what: "Downloading", done, total });
      return new Map([[url, await download(url, progress)]]);
    }
  }
}

/** The types that come with Lutra, of the texts that the build has put in. */
function formats(roots?: readonly string[]): Program {
  const resolution = resolveProgram(ladder, roots);
  if (resolution.kind === "program") return resolution.program;
  throw new Error("the .ladder files of this page are damaged; build it again");
}

function factsOf(model: Model, session: Session, loadMs: number): ModelFacts {
  const { file, metadata, config, plan } = model;
  const tensors = [...model.tensors.values()];
  const { weights, cache } = session.bytes;
  return {
    name: metadata.string("general.name", null) ?? file,
    architecture: config.architecture,
    parameters: tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    types: matrixTypes(tensors),
    weightBytes: weights,
    cacheBytes: cache,
    context: plan.cache.context,
    isChat: metadata.has("tokenizer.chat_template"),
    loadMs,
  };
}

function matrixTypes(tensors: readonly WeightTensor[]): readonly string[] {
  const bytes = new Map<string, number>();
  for (const { shape, type, byteLength } of tensors)
    if (shape.length > 1) bytes.set(type.name, (bytes.get(type.name) ?? 0) + byteLength);
  return [...bytes].toSorted(([, a], [, b]) => b - a).map(([name]) => name);
}

async function produce(
  { model, tokenizer, session }: Opened,
  { prompt, isRaw, sampling, maxTokens }: Request,
  signal: AbortSignal,
): Promise<void> {
  const template = isRaw ? null : await model.template();
  const tokens =
    template === null
      ? tokenizer.encode(prompt, { special: isRaw })
      : template.prompt([{ role: "user", content: prompt }]);
  const { context } = model.plan.cache;
  const usual = Math.max(1, Math.min(USUAL_TOKENS, Math.floor(context / 2)));
  const count = counting(tokenizer);
  const options = { sampling, maxTokens: maxTokens ?? usual, stop: [], context, signal };
  for await (const event of generate(session, count.tokenizer, tokens, options)) post(told(event, count));
}

function told(event: GenerateEvent, count: Count): FromWorker {
  switch (event.kind) {
    case "prefill":
      return event;
    case "text":
      return { kind: "text", text: event.text, tokens: count.tokens(), tps: count.tps() };
    case "end":
      return { kind: "ended", generated: event };
  }
}

/** How fast tokens come. */
interface Count {
  readonly tokenizer: Pick<Tokenizer, "ends" | "stream">;
  tokens(): number;
  /** Tokens after the first per second. */
  tps(): number | null;
}

/** A tokenizer whose stream counts the tokens that it is given, one for each that is drawn. */
function counting(tokenizer: Tokenizer): Count {
  let tokens = 0;
  let firstMs = 0;
  return {
    tokenizer: {
      ends: tokenizer.ends,
      stream: () => {
        const stream = tokenizer.stream();
        return {
          push: (token) => {
            if (tokens === 0) firstMs = performance.now();
            tokens++;
            return stream.push(token);
          },
          end: () => stream.end(),
        };
      },
    },
    tokens: () => tokens,
    tps: () => (tokens < 2 ? null : (1000 * (tokens - 1)) / (performance.now() - firstMs)),
  };
}
