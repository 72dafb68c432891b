// How far the LMMA machine's greedy tokens are from the reference's on a model: for each token that the machine chooses, how
// many logits the reference has it below its own best, both having read the same text. Prints a Markdown table, and ends
// with 1 where int8 activations with exact tables are more than 0.3 behind; not a test, since the reference is slow.
//   node test/bench/lmma-gap.mjs model.gguf [tokens of each text [mode activation tables]]
// Not here: speed (lmma-model.mjs), the same over a few tokens in the tests (test/lutcore/backend.test.ts).

import process from "node:process";

import { load } from "../../dist/src/load.js";
import { open } from "../../dist/src/open.js";

const TEXTS = [
  "The capital of France is",
  "It is a truth universally acknowledged",
  "To make bread, you",
  "1, 2, 3, 4,",
];
const MOST_LOGITS = 0.3;
const [path, count = "12", ...only] = process.argv.slice(2);
if (path === undefined || !(Number(count) > 0)) throw new Error("no model, or no number; see the head of this file");
const [mode, activation, tables] = only.length === 3 ? only : ["paper", "int8", "exact"];

const best = (logits) => logits.reduce((most, x, i) => (x > logits[most] ? i : most), 0);
const model = load(path, { context: 256 });
const tokenizer = await model.tokenizer();
const backends = [await open("lmma", { arithmetic: { mode, activation, tables } }), await open("reference")];
const gaps = [];
for (const text of TEXTS) {
  const sessions = await Promise.all(backends.map((backend) => backend.prepare(model.plan, model.weights)));
  let next = tokenizer.encode(text, { special: false });
  for (let [pos, end] = [0, next.length + Number(count)]; pos + next.length < end;) {
    const chunk = { slot: 0, pos, tokens: next, logits: "last" };
    const [[mine], [truth]] = [await sessions[0].step([chunk]), await sessions[1].step([chunk])];
    const token = best(mine);
    gaps.push(truth[best(truth)] - truth[token]);
    pos += next.length;
    next = Int32Array.of(token);
  }
  for (const session of sessions) await session[Symbol.asyncDispose]();
}
model.close();

const largest = Math.max(...gaps);
const agreed = gaps.filter((gap) => gap === 0).length;
console.log(
  "| mode | activations | tables | tokens | the reference's best | largest gap, logits |\n|---|---|---|---|---|---|",
);
console.log(`| ${mode} | ${activation} | ${tables} | ${gaps.length} | ${agreed} | ${largest.toFixed(3)} |`);
if (activation === "int8" && tables === "exact" && largest > MOST_LOGITS) process.exitCode = 1;
