// The speeds that Lutra promises, held with wide margins on the real model with one thread beside llama.cpp:
//   node test/bench/gates.mjs [MODEL.gguf]
// One line a gate, with figure and limit; of several rounds the best ratio and load count, because the machine may be
// busy with something else. Exit code 1 where a gate is missed, or where CI is set and nothing can be measured. Timed,
// and so no part of `npm test`. Not here: how rounds beside llama.cpp are run (lutra bench compare).

import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROUNDS = 3;
/** Loading, once in the page cache, is quick enough for more. */
const LOADS = 5;
const root = fileURLToPath(new URL("../../", import.meta.url));

if (process.argv[2] === "--child") await load(process.argv[3]);
else await hold(process.argv[2] ?? "smollm2-135m-instruct-q4_1.gguf");

/** Prints the bytes a second from opening the model to the end of its preparation. */
async function load(model) {
  const lutra = await import(`${root}dist/src/index.js`);
  const backend = await lutra.open("cpu");
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  const start = performance.now();
  const { plan, weights } = lutra.load(model);
  await backend.prepare(plan, weights);
  console.log((1000 * statSync(model).size) / (performance.now() - start));
  process.exit(0);
}

function run(args) {
  const { status, stdout, stderr, error } = spawnSync(process.execPath, args, { encoding: "utf8", timeout: 240_000 });
  if (status !== 0) throw new Error(`${args.join(" ")}: ${error?.message ?? stderr}`);
  return stdout;
}

async function hold(name) {
  const { findModel } = await import(`${root}dist/src/app/models.js`);
  const model = findModel(name);
  const missing = !existsSync(model)
    ? `no ${name} in the folders of LUTRA_MODELS`
    : !existsSync(`${root}test/oracle/node_modules/.stamp`)
      ? "no node-llama-cpp: run node test/oracle/setup.mjs"
      : null;
  if (missing !== null) {
    console.log(`gates skipped: ${missing}`);
    process.exit(process.env.CI ? 1 : 0);
  }
  const options = ["--threads", "1", "--rounds", String(ROUNDS), "--json"];
  const cases = run([`${root}dist/src/app/cli.js`, "bench", "compare", model, ...options])
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  const [decode, first] = ["decode", "first token"].map((prefix) => cases.find((c) => c.case.startsWith(prefix)));
  const loads = Array.from({ length: LOADS }, () => Number(run([fileURLToPath(import.meta.url), "--child", model])));
  const gates = [
    { what: "decode, one thread, times llama.cpp's speed", figure: decode.ratio_max, least: 0.8 },
    { what: "first token, one thread, times llama.cpp's speed", figure: first.ratio_max, least: 1 / 0.6 },
    { what: "first token, one thread, ms from process start", figure: first.ours, most: 800 },
    { what: "load, MB/s", figure: Math.max(...loads) / 1e6, least: 500 },
  ].map((gate) => ({
    ...gate,
    isHeld: gate.figure >= (gate.least ?? -Infinity) && gate.figure <= (gate.most ?? Infinity),
  }));
  for (const { what, figure, least, most, isHeld } of gates) {
    const limit = least === undefined ? `at most ${most}` : `at least ${least.toFixed(least < 100 ? 2 : 0)}`;
    console.log(`${isHeld ? "ok    " : "MISSED"} ${what}: ${figure.toFixed(figure < 100 ? 2 : 0)}, ${limit}`);
  }
  process.exit(gates.every(({ isHeld }) => isHeld) ? 0 : 1);
}
