// How often the LMMA machine's greedy text is the CPU backend's, both with int8 activations and exact tables, and how often
// the texts of the CPU's own instruction sets are one another's. All sum the same integers, and then in single precision in
// orders of their own; where that brings an activation to the other side of a half it is another integer, so that texts part
// where the two best tokens are close. Prints, for each pair, texts that are equal to their end, and the largest gap between
// the two best tokens, on the side of the second of the pair, where texts part.
//   node test/bench/lmma-texts.mjs [model.gguf [texts [tokens of each]]]
// Not here: how far tokens are from the reference's best (lmma-gap.mjs).

import { readFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";

import { openCpu } from "../../dist/src/cpu/backend.js";
import { load } from "../../dist/src/load.js";
import { open } from "../../dist/src/open.js";

const own = fileURLToPath(new URL("../../models/austen-5m-ternary.gguf", import.meta.url));
const [path = own, texts = "40", tokens = "40"] = process.argv.slice(2);
const prose = readFileSync(new URL("../../README.md", import.meta.url), "utf8").match(/[A-Za-z]+/g);

const best = (logits) => logits.reduce((most, x, i) => (x > logits[most] ? i : most), 0);
const model = load(path, { context: 256 });
const tokenizer = await model.tokenizer();
const choose = () => ({ method: "dot", ahead: 0 });
const cpus = ["scalar", "avx2", "avx512-vbmi", "neon-dot"].map((isa) => openCpu({ threads: 1, isa, choose }));
const machine = await open("lmma", { arithmetic: { mode: "paper", activation: "int8", tables: "exact" } });
const backends = [machine, ...cpus.filter((cpu) => !("unavailable" in cpu))];
const names = backends.map(({ device: { name, isa } }) => (name === "lmma" ? name : isa));

/** The likeliest token each time, and by how much it is likelier than the second. */
async function greedy(backend, start) {
  const session = await backend.prepare(model.plan, model.weights);
  const out = [];
  for (let [pos, next] = [0, start]; out.length < Number(tokens);) {
    const [logits] = await session.step([{ slot: 0, pos, tokens: next, logits: "last" }]);
    pos += next.length;
    const token = best(logits);
    const most = logits[token];
    logits[token] = -Infinity;
    out.push({ token, ahead: most - logits[best(logits)] });
    next = Int32Array.of(token);
  }
  await session[Symbol.asyncDispose]();
  return out;
}

const pairs = names.flatMap((_, a) =>
  Array.from({ length: names.length - a - 1 }, (__, i) => ({ a, b: a + 1 + i, equal: 0, gap: 0 })),
);
for (let t = 0; t < Number(texts); t++) {
  const from = (t * 7919) % (prose.length - 30);
  const start = tokenizer.encode(prose.slice(from, from + 2 + (t % 23)).join(" "), { special: false });
  const all = [];
  for (const backend of backends) all.push(await greedy(backend, start));
  for (const pair of pairs) {
    const parting = all[pair.a].findIndex(({ token }, i) => token !== all[pair.b][i].token);
    if (parting < 0) pair.equal++;
    else pair.gap = Math.max(pair.gap, all[pair.b][parting].ahead);
  }
}
model.close();

console.log(
  `${texts} texts of ${tokens} tokens\n\n| | equal texts | largest gap at a parting, logits |\n|---|---|---|`,
);
for (const { a, b, equal, gap } of pairs) console.log(`| ${names[a]}, ${names[b]} | ${equal} | ${gap.toFixed(3)} |`);
