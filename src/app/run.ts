// lutra run: text from a model. Text goes to stdout as it comes; all else, the summary too, to stderr.

import { fstatSync } from "node:fs";
import process from "node:process";

import type { Session } from "../backend.ts";
import { usableCores } from "../cpu/native.ts";
import type { MatrixCase } from "../cpu/tuner.ts";
import { DEFAULT_CONTEXT, type Model } from "../load.ts";
import type { Work } from "../lutcore/backend.ts";
import { type Generated, generate } from "../model/generate.ts";
import { unlessAborted } from "../model/interrupt.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { type Engine, ENGINE_OPTIONS, naming, startEngine } from "./engine.ts";
import { rate } from "./figures.ts";
import { embedded, findModel, looksLikeModel } from "./models.ts";
import { makePhases } from "./phases.ts";
import { SAMPLING_OPTIONS, samplingOf } from "./sampling.ts";
import { dim, harmless, makeProgress, note, peakMib, printJson } from "./terminal.ts";
import { casesOf, measure, unmeasured } from "./tune.ts";
import { workFor, workTable } from "./work.ts";

/** Tokens to generate where nobody says how many; of a small context no more than half, so that it does not fill. */
const USUAL_TOKENS = 256;

const OPTIONS = {
  ...ENGINE_OPTIONS,
  ctx: { ...ENGINE_OPTIONS.ctx, about: `tokens of context; the model's, but no more than ${DEFAULT_CONTEXT}` },
  "no-tune": { kind: "flag", about: "kernels by a fixed rule, and nothing measured after a first run" },
  "max-tokens": {
    kind: "integer",
    about: `tokens to generate at most; ${USUAL_TOKENS}, or half the context if that is less`,
    min: 1,
    max: 2 ** 24,
    fallback: null,
  },
  ...SAMPLING_OPTIONS,
  seed: { kind: "u64", about: "repeats a run; the summary names a run's seed" },
  stop: { kind: "texts", about: "end before this text; may be given several times" },
  system: { kind: "text", about: "system message, for models with a chat template" },
  raw: { kind: "flag", about: "the prompt as it is: no chat template, and control tokens in it count" },
  json: { kind: "flag", about: "one JSON object with text, tokens and timings on stdout" },
} as const;

export const run: Command = command({
  name: "run",
  usage: ["run [options] [model.gguf] [prompt]", "run [options] [model.gguf] -", "run [options]"],
  about: [
    "Generates text. The prompt is a message to a model with a chat template, and the beginning of the",
    "text for one without. Without a prompt, or with -, it is read from stdin, less one line break at",
    "its end. Without a model it is the small one that comes with Lutra, which continues texts in the",
    "manner of Jane Austen; on a terminal its prompt is shown dim before the text. Otherwise stdout has",
    "nothing but the generated text. `lutra run` alone takes a prompt of its own.",
    "Tokens are chosen by repeat penalty, top-k, top-p, min-p and temperature, in this order.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra run", "the model that comes with Lutra"],
    ['lutra run "Emma was not"', "the same with another beginning"],
    ['lutra run model.gguf "What is a lutra?"', "a model of yours"],
    ["lutra run model.gguf - --json < prompt.txt", "for programs"],
    ['lutra run model.gguf "Once" --raw --seed 7', "repeatable"],
  ],
  positionals: 2,
  run: runModel,
});

/** What the arguments ask for; a prompt is a text, or what comes on stdin. */
interface Request {
  readonly file: string;
  readonly prompt: string | Stdin;
}

interface Stdin {
  /** Whether - was given, and not just nothing. */
  readonly isAsked: boolean;
  /** Taken where nothing comes. */
  readonly fallback: string | null;
}

function requestOf(positionals: readonly string[]): Request {
  const [first, second] = positionals;
  if (first === undefined) return { file: embedded.file, prompt: { isAsked: false, fallback: embedded.prompt } };
  const file = findModel(first);
  if (second === undefined && !looksLikeModel(file)) return { file: embedded.file, prompt: promptOf(first) };
  return { file, prompt: promptOf(second) };
}

function promptOf(argument: string | undefined): string | Stdin {
  return argument === undefined || argument === "-" ? { isAsked: argument === "-", fallback: null } : argument;
}

async function runModel(
  values: Values<typeof OPTIONS>,
  positionals: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (values.raw && values.system !== null)
    throw new UsageError("--system: not together with --raw, which sends no messages; leave one of them out");
  const phases = makePhases();
  phases.step("Node and imports");
  const { file, prompt } = requestOf(positionals);
  const text = typeof prompt === "string" ? Promise.resolve(prompt) : readStdin(prompt);
  text.catch(() => undefined); // it is awaited below, and may fail before
  const loadFromMs = performance.now();
  const engine = await startEngine(file, values, { usualContext: DEFAULT_CONTEXT, phases });
  const seed = values.seed ?? randomSeed();
  const tokenizer = phases.during("tokenizer", engine.model.tokenizer());
  const tokens = Promise.all([text, tokenizer]).then(([known]) => encodePrompt(engine.model, known, values));
  const ready = await unlessAborted(Promise.all([text, tokens, engine.session]), signal);
  const loadMs = performance.now() - loadFromMs;
  const isShown = file === embedded.file && process.stdout.isTTY && !values.json;
  const output =
    ready === "aborted"
      ? NOTHING
      : await naming(engine.model.file, produce(engine, ready, values, seed, isShown, signal));
  if (values.verbose) {
    if (output.firstTokenAtMs !== null) phases.span("first token", loadFromMs + loadMs, output.firstTokenAtMs);
    phases.print();
  }
  const work = ready === "aborted" ? [] : await workFor(engine, ready[2]);
  report(engine, output, loadMs, values, seed, work);
  // After Ctrl-C, or an error, nothing waits for the work in native threads: the process ends, and all with it.
  if (signal.aborted) return 130;
  const cases = engine.backend.name === "cpu" && !values["no-tune"] && isAttended() ? casesOf(engine.model) : [];
  await engine[Symbol.asyncDispose]();
  await tuneOnce(cases, values.threads ?? usableCores(), signal);
  return signal.aborted ? 130 : 0;
}

/** Whether a person waits, rather than a program: nobody's measurements are disturbed, and Ctrl-C is at hand. */
function isAttended(): boolean {
  return process.stdout.isTTY && process.stderr.isTTY;
}

/** After the answer of the first run of such a model, measures which kernels are the fastest for the next. */
async function tuneOnce(all: readonly MatrixCase[], threads: number, signal: AbortSignal): Promise<void> {
  const cases = unmeasured(all);
  if (cases.length === 0) return;
  const progress = makeProgress("measuring kernels for the next run (once; --no-tune leaves it out)");
  try {
    await unlessAborted(
      measure(cases, threads, (done) => progress.update(done, cases.length)),
      signal,
    );
  } catch (error) {
    note((error as Error).message); // the answer is there, and the next run will be as this one
  } finally {
    progress.clear();
  }
}

/** A generation with its text. */
interface Output extends Generated {
  readonly text: string;
}

/** What there is when the person stops the program before it began to generate. */
const NOTHING: Output = {
  text: "",
  reason: "aborted",
  isContextFull: false,
  tokens: new Int32Array(0),
  promptTokens: 0,
  prefillTps: null,
  decodeTps: null,
  firstTokenAtMs: null,
};

async function encodePrompt(model: Model, text: string, values: Values<typeof OPTIONS>): Promise<Int32Array> {
  if (text === "")
    throw new Error('the prompt is empty; write a text behind the model, as in lutra run model.gguf "Once"');
  const tokenizer = await model.tokenizer();
  const template = values.raw ? null : await model.template();
  if (template !== null) {
    const system = values.system === null ? [] : [{ role: "system", content: values.system }];
    return template.prompt([...system, { role: "user", content: text }]);
  }
  if (values.system !== null)
    throw new Error(
      `--system: ${model.file} has no chat template, so that there is no place for it; put it into the prompt`,
    );
  return tokenizer.encode(text, { special: values.raw });
}

/** Generates, and writes the text as it comes. */
async function produce(
  { model }: Engine,
  [prompt, tokens, session]: readonly [string, Int32Array, Session],
  values: Values<typeof OPTIONS>,
  seed: bigint,
  isPromptShown: boolean,
  signal: AbortSignal,
): Promise<Output> {
  const sampling = samplingOf(values, seed);
  const { context } = model.plan.cache;
  const maxTokens = values["max-tokens"] ?? Math.max(1, Math.min(USUAL_TOKENS, Math.floor(context / 2)));
  const options = { sampling, maxTokens, stop: values.stop, context, signal };
  const progress = makeProgress("reading the prompt");
  if (isPromptShown) process.stdout.write(dim(prompt));
  let text = "";
  try {
    for await (const event of generate(session, await model.tokenizer(), tokens, options)) {
      if (event.kind === "prefill") {
        progress.update(event.done, event.total);
        if (event.done === event.total) progress.clear();
      } else if (event.kind === "text") {
        text += event.text;
        if (!values.json) process.stdout.write(process.stdout.isTTY ? harmless(event.text) : event.text);
      } else {
        return { ...event, text };
      }
    }
    return { ...NOTHING, text };
  } finally {
    progress.clear();
    if (!values.json) endLine(isPromptShown ? prompt + text : text);
  }
}

/** Whatever comes on stderr after the text begins a line of its own, where both go to the same place. */
function endLine(text: string): void {
  if (text === "" || text.endsWith("\n")) return;
  if (process.stdout.isTTY) process.stdout.write("\n");
  else if (isOnePlace()) process.stderr.write("\n");
}

/** Whether stdout and stderr are the same file or pipe, as after 2>&1. */
function isOnePlace(): boolean {
  try {
    const [out, err] = [fstatSync(process.stdout.fd), fstatSync(process.stderr.fd)];
    return out.dev === err.dev && out.ino === err.ino;
  } catch {
    return false; // one of them is closed
  }
}

/** The JSON object if it is wanted, and the summary in any case. */
function report(
  { model, backend }: Engine,
  output: Output,
  loadMs: number,
  values: Values<typeof OPTIONS>,
  seed: bigint,
  work: readonly Work[],
): void {
  const { device } = backend;
  const { text, tokens, reason, promptTokens, prefillTps, decodeTps, firstTokenAtMs } = output;
  const peak = peakMib();
  if (values.json) {
    const result = {
      text,
      tokens: tokens.length,
      token_ids: [...tokens],
      prompt_tokens: promptTokens,
      stop_reason: reason,
      // A JSON number holds 53 bits; a seed has 64.
      seed: String(seed),
      load_ms: loadMs,
      first_token_ms: firstTokenAtMs,
      prefill_tps: prefillTps,
      decode_tps: decodeTps,
      peak_rss_mib: peak,
      device: device.name,
      isa: device.isa,
      threads: device.threads,
      ...(backend.name === "lmma" && { work }),
    };
    printJson(result);
  } else if (work.length > 0) process.stderr.write(workTable(work));
  const parts = [
    `load ${loadMs.toFixed(0)} ms`,
    `prefill ${rate(prefillTps)} tokens/s (${promptTokens})`,
    `decode ${rate(decodeTps)} tokens/s (${tokens.length})`,
    `peak memory ${peak.toFixed(0)} MiB`,
    `${device.name} ${device.isa}, ${device.threads} ${device.threads === 1 ? "thread" : "threads"}`,
    ...(values.temperature === 0 ? [] : [`seed ${seed}`]),
    ...(reason === "aborted" ? ["interrupted"] : []),
  ];
  process.stderr.write(`${parts.join(", ")}\n`);
  if (!output.isContextFull) return;
  const { context } = model.plan.cache;
  const remedy =
    context < model.config.trainedContext
      ? "--ctx makes it larger"
      : "the model was trained on no more, so that a shorter prompt is what leaves room for text";
  note(`stopped because the context of ${context} tokens is full; ${remedy}`);
}

function randomSeed(): bigint {
  return crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n;
}

/** Longer prompts fit no context; reading one must not fill the memory. */
const MAX_PROMPT = 2 ** 26;
/** `lutra run` alone does not wait for ever for a pipe that stays silent, such as one that a build system leaves open. */
const SILENCE_MS = 300;

async function readStdin({ isAsked, fallback }: Stdin): Promise<string> {
  const { stdin } = process;
  if (stdin.isTTY && !isAsked) {
    if (fallback !== null) return fallback;
    throw new UsageError("no prompt; write one behind the model, or pipe it in; see lutra run --help");
  }
  const bytes = await readAll(stdin, fallback === null ? Infinity : SILENCE_MS);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error("stdin: bytes that are no UTF-8; the prompt is text in UTF-8");
  }
  return text === "" && fallback !== null ? fallback : text.replace(/\r?\n$/, "");
}

/** All bytes of a stream; none if the first does not come within `silenceMs`. */
function readAll(stream: NodeJS.ReadableStream, silenceMs: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let size = 0;
    const end = (): void => resolve(Buffer.concat(parts));
    if (silenceMs !== Infinity) {
      // Loading keeps the event loop busy, so that bytes may wait to be read when the time is over: one more turn.
      const giveUp = (): void => void setImmediate(() => (size === 0 ? end() : undefined));
      setTimeout(giveUp, silenceMs);
    }
    stream.on("data", (part: Buffer) => {
      parts.push(part);
      size += part.length;
      if (size <= MAX_PROMPT) return;
      reject(new Error(`stdin: more than ${MAX_PROMPT} bytes; a shorter prompt is needed`));
      stream.pause();
    });
    stream.on("end", end);
    stream.on("error", (error) => reject(new Error(`stdin: ${error.message}`)));
  });
}
