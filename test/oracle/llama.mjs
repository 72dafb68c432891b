// One task for node-llama-cpp in a process of its own, so that its threads, memory and crashes stay there.
// The task is JSON on standard input; the answer is JSON, or float32 numbers, on standard output. Used by oracle.ts.

import { readFileSync } from "node:fs";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const task = JSON.parse(readFileSync(0, "utf8"));
const threads = task.threads ?? 1;

const llama = await getLlama({
  gpu: false,
  build: "never",
  skipDownload: true,
  progressLogs: false,
  maxThreads: threads,
  logLevel: LlamaLogLevel.error,
});
const model = task.kind === "vocabularies" ? null : await llama.loadModel({ modelPath: task.model });

/** Standard output is a pipe: all of it must be taken before the process may end. */
function answer(bytes) {
  return new Promise((resolve) => process.stdout.write(bytes, resolve));
}
const json = (value) => answer(Buffer.from(JSON.stringify(value)));

async function sequence(contextSize) {
  const context = await model.createContext({
    contextSize,
    sequences: 1,
    // By itself it takes four threads, which spin at barriers where there are fewer cores.
    threads: { ideal: threads, min: threads },
  });
  return context.getSequence();
}

/** The most likely tokens after the given ones, `count` of them, end tokens among them. */
async function greedy(tokens, count, onFirst) {
  const found = [];
  const generation = (await sequence(tokens.length + count + 8)).evaluate(tokens, {
    temperature: 0,
    yieldEogToken: true,
  });
  for await (const token of generation) {
    if (found.length === 0) onFirst?.();
    found.push(token);
    if (found.length >= count) break;
  }
  return found;
}

switch (task.kind) {
  case "vocabularies": {
    const found = [];
    for (const modelPath of task.models) {
      const vocabulary = await llama.loadModel({ modelPath, vocabOnly: true });
      const { length } = vocabulary.fileInfo.metadata.tokenizer.ggml.tokens;
      found.push({
        plain: task.texts.map((text) => vocabulary.tokenize(text, false)),
        special: task.texts.map((text) => vocabulary.tokenize(text, true)),
        ends: Array.from({ length }, (_, id) => id).filter((id) => vocabulary.isEogToken(id)),
      });
      await vocabulary.dispose();
    }
    await json(found);
    break;
  }
  case "probabilities": {
    const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
    const steps = await (
      await sequence(task.tokens.length + 8)
    ).controlledEvaluate(task.tokens.map((token) => [token, { generateNext: { probabilities: true, options } }]));
    const size = task.vocabulary;
    const all = new Float32Array(size * steps.length);
    for (const [position, step] of steps.entries()) {
      for (const [token, probability] of step.next.probabilities) all[position * size + token] = probability;
    }
    await answer(Buffer.from(all.buffer));
    break;
  }
  case "greedy":
    await json(await greedy(task.tokens, task.count));
    break;
  case "firstToken": {
    let at = 0;
    await greedy(model.tokenize(task.prompt), 1, () => {
      at = performance.timeOrigin + performance.now();
    });
    await json([at]);
    break;
  }
}
process.exit(0);
