// lutra eval: how well a model predicts a text.

import process from "node:process";

import { openFile } from "../files.ts";
import { didYouMean } from "../ladder/diagnostic.ts";
import { unlessAborted } from "../model/interrupt.ts";
import { perplexity, SHORTEST_CHUNK } from "../model/perplexity.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { ENGINE_OPTIONS, naming, startEngine } from "./engine.ts";
import { rate } from "./figures.ts";
import { findModel } from "./models.ts";
import { makePhases } from "./phases.ts";
import { makeProgress, peakMib, printJson } from "./terminal.ts";
import { workFor, workTable } from "./work.ts";

/** llama.cpp's perplexity tool takes chunks of this many tokens. */
const USUAL_CHUNK = 512;
/** A text is tokenised whole; its tokens take some ten times its size. */
const MAX_TEXT = 2 ** 28;

const OPTIONS = {
  ...ENGINE_OPTIONS,
  ctx: {
    ...ENGINE_OPTIONS.ctx,
    about: `tokens of a chunk; ${USUAL_CHUNK}, or the model's context if that is less`,
    min: SHORTEST_CHUNK,
  },
  tokens: { kind: "integer", about: "use only this many tokens of the text", min: 1, max: 2 ** 31 - 1, fallback: null },
  json: { kind: "flag", about: "one JSON object on stdout" },
} as const;

/** What can be measured. */
const MEASURES: readonly string[] = ["perplexity"];

export const evaluate: Command = command({
  name: "eval",
  usage: ["eval perplexity [options] model.gguf text.txt"],
  about: [
    "Measures how well a model predicts a text. Perplexity is counted as llama.cpp's tool does it: chunks of",
    "--ctx tokens, each begun afresh; of each the second half is scored. At least two chunks are needed.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra eval perplexity model.gguf wiki.test.txt", "all of a text"],
    ["lutra eval perplexity model.gguf wiki.test.txt --tokens 8192 --json", "the beginning of it, for programs"],
  ],
  positionals: 3,
  run: evaluateModel,
});

async function evaluateModel(
  values: Values<typeof OPTIONS>,
  [measure, modelPath, textPath]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (measure === undefined || !MEASURES.includes(measure)) {
    const hint = measure === undefined ? null : didYouMean(measure, MEASURES);
    const found = measure === undefined ? "nothing to measure" : `cannot measure ${JSON.stringify(measure)}`;
    throw new UsageError(`${found}; ${hint ?? `measures are ${MEASURES.join(", ")}`}`);
  }
  if (modelPath === undefined || textPath === undefined)
    throw new UsageError(`no ${modelPath === undefined ? "model" : "text"}; see lutra eval --help`);
  const phases = makePhases();
  phases.step("Node and imports");
  const text = readText(textPath);
  const engine = await startEngine(findModel(modelPath), values, { usualContext: USUAL_CHUNK, phases });
  const progress = makeProgress("perplexity");
  const tokenizer = await phases.during("tokenizer", engine.model.tokenizer());
  const all = tokenizer.encode(text, { special: false });
  const tokens = values.tokens === null ? all : all.subarray(0, values.tokens);
  const session = await unlessAborted(engine.session, signal);
  const { context } = engine.model.plan.cache;
  const startMs = performance.now();
  const result =
    session === "aborted"
      ? null
      : await naming(
          engine.model.file,
          perplexity(session, tokens, {
            context,
            bos: tokenizer.addBos ? tokenizer.bos : null,
            signal,
            progress: (done, total, estimate) =>
              progress.update(done, total, estimate === null ? "" : `${estimate.perplexity.toFixed(4)} so far`),
          }),
        );
  progress.clear();
  if (values.verbose) phases.print();
  const seconds = (performance.now() - startMs) / 1000;
  if (result === null) {
    process.stderr.write(`interrupted after ${seconds.toFixed(1)} s, peak memory ${peakMib().toFixed(0)} MiB\n`);
    return 130;
  }
  const work = session === "aborted" ? [] : await workFor(engine, session);
  const tps = (result.chunks * context) / seconds;
  if (values.json) {
    const { name, isa, threads: used } = engine.backend.device;
    const facts = { ...result, context, tokens: tokens.length, tokens_per_s: tps, device: name, isa, threads: used };
    printJson({ ...facts, ...(engine.backend.name === "lmma" && { work }) });
  } else {
    process.stdout.write(`perplexity ${result.perplexity.toFixed(4)} +- ${result.error.toFixed(5)}\n`);
  }
  process.stderr.write(
    `${result.chunks} chunks of ${context} tokens, ${result.scored} scored, ${rate(tps)} tokens/s, ` +
      `peak memory ${peakMib().toFixed(0)} MiB\n`,
  );
  if (!values.json && work.length > 0) process.stderr.write(workTable(work));
  // Not after Ctrl-C or an error: nothing waits then for the work in native threads, and the process ends.
  await engine[Symbol.asyncDispose]();
  return 0;
}

function readText(path: string): string {
  const file = openFile(path);
  try {
    if (file.size > MAX_TEXT) throw new Error(`${file.name}: ${file.size} bytes; a text has at most ${MAX_TEXT}`);
    return new TextDecoder("utf-8", { fatal: true }).decode(file.read(0, file.size));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new Error(`${file.name}: bytes that are no UTF-8; a text in UTF-8 is needed`, { cause: error });
  } finally {
    file.close();
  }
}
