// How fast a whole model runs on the LMMA machine in JavaScript, on one core: seconds of processor time for a token after a
// prompt of four. Prints a Markdown table; not a test, since machines are shared.
//   node test/bench/lmma-model.mjs model.gguf [mode activation tables]
// A median of tokens, the compiler's and the garbage collector's time included. Not here: one product (lmma.mjs).

import process from "node:process";

import { load } from "../../dist/src/load.js";
import { open } from "../../dist/src/open.js";

const TOKENS = 5;
const [path, ...only] = process.argv.slice(2);
if (path === undefined) throw new Error("no model; see the head of this file");
const all = ["int8", "fp16"].flatMap((activation) =>
  ["exact", "int8-group"].flatMap((tables) => ["paper", "rtl", "ideal"].map((mode) => [mode, activation, tables])),
);

/** What is aimed at on a model of 135 million weights: integers, which are the same in all modes, and the circuit's floats. */
const targetOf = (mode, activation) => (activation === "int8" ? 1 : mode === "rtl" ? 10 : null);

console.log("| mode | activations | tables | s of processor time a token | target s |\n|---|---|---|---|---|");
for (const [mode, activation, tables] of only.length === 3 ? [only] : all) {
  const model = load(path, { context: 64 });
  const backend = await open("lmma", { arithmetic: { mode, activation, tables } });
  const session = await backend.prepare(model.plan, model.weights);
  const step = (pos, ...tokens) => session.step([{ slot: 0, pos, tokens: Int32Array.from(tokens), logits: "last" }]);
  await step(0, 100, 200, 300, 400);
  const seconds = [];
  for (let token = 0; token < TOKENS; token++) {
    const before = process.cpuUsage();
    await step(4 + token, 500 + token);
    const { user, system } = process.cpuUsage(before);
    seconds.push((user + system) / 1e6);
  }
  const median = seconds.toSorted((a, b) => a - b)[Math.floor(TOKENS / 2)];
  console.log(`| ${mode} | ${activation} | ${tables} | ${median.toFixed(2)} | ${targetOf(mode, activation) ?? ""} |`);
  model.close();
}
