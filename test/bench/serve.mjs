// What `lutra serve` gives several clients at once: tokens per second of eight streams beside one and beside node-llama-cpp
// with eight sequences in one context, the time to first tokens under that load, and what a prefix in the cache saves.
// Rounds of all take turns; medians are printed as Markdown, with the least and largest. Ends with 1 where a goal is missed.
//   node test/bench/serve.mjs model.gguf [--streams 8] [--rounds 5] [--threads 2] [--tokens 96]
// The peer is installed by `node test/oracle/setup.mjs`; without it its row is left out, with the reason.
// Not here: long runs with clients that leave (soak.mjs), one sequence alone (lutra bench model).

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import process from "node:process";
import { json, text } from "node:stream/consumers";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import { complete, median, serve } from "./served.mjs";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    streams: { type: "string", default: "8" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    tokens: { type: "string", default: "96" },
    peer: { type: "boolean", default: false },
  },
});
const [model] = positionals;
if (model === undefined) throw new Error("no model; see the head of this file");
const [streams, rounds, threads, tokens] = [values.streams, values.rounds, values.threads, values.tokens].map(Number);
const words = readFileSync(new URL("../../README.md", import.meta.url), "utf8").match(/[A-Za-z]+/g);
let nth = 0;

/** Words that no prompt before began with, so that none is in the cache. */
function prompt(count) {
  return `${nth++} ${Array.from({ length: count }, (_, i) => words[(i + 97 * nth) % words.length]).join(" ")}`;
}

if (values.peer) {
  await peer();
  process.exit();
}

/** In a process of its own: all streams at once, as node-llama-cpp's documentation has several sequences share batches. */
async function peer() {
  const main = fileURLToPath(new URL("../oracle/node_modules/node-llama-cpp/dist/index.js", import.meta.url));
  const { getLlama } = await import(pathToFileURL(main).href);
  const llama = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    progressLogs: false,
    maxThreads: threads,
  });
  const loaded = await llama.loadModel({ modelPath: model });
  const context = await loaded.createContext({
    sequences: streams,
    contextSize: 512,
    // By itself it takes four threads, which spin at barriers where there are fewer cores.
    threads: { ideal: threads, min: threads },
  });
  const sequences = Array.from({ length: streams }, () => context.getSequence());
  const results = [];
  for (let round = 0; round < rounds + 1; round++) {
    for (const sequence of sequences) await sequence.clearHistory();
    const startMs = performance.now();
    const counts = await Promise.all(
      sequences.map(async (sequence) => {
        let count = 0;
        const options = { temperature: 0, yieldEogToken: true };
        for await (const _ of sequence.evaluate(loaded.tokenize(prompt(24)), options)) if (++count >= tokens) break;
        return count;
      }),
    );
    const total = counts.reduce((sum, count) => sum + count, 0);
    if (round > 0) results.push((1000 * total) / (performance.now() - startMs));
  }
  process.stdout.write(JSON.stringify(results), () => process.exit());
}

async function peerRound() {
  const args = [model, "--peer", "--streams", streams, "--rounds", 1, "--threads", threads, "--tokens", tokens];
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), ...args.map(String)], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = once(child, "exit");
  const said = text(child.stderr);
  const results = await json(child.stdout).catch(() => null);
  await ended;
  return results === null ? { unavailable: (await said).trim().split("\n").at(-1) } : results[0];
}

const { url, stop } = await serve(model, ["--slots", String(streams), "--ctx", "1024", "--threads", String(threads)]);
const found = { one: [], all: [], peer: [], first: [], prefill: [], cold: [], hit: [] };
let missing = null;
try {
  await complete(url, prompt(24), 8);
  for (let round = 0; round < rounds; round++) {
    const one = await complete(url, prompt(24), tokens);
    found.one.push((1000 * one.usage.completion_tokens) / one.ms);

    const startMs = performance.now();
    const all = await Promise.all(Array.from({ length: streams }, () => complete(url, prompt(24), tokens)));
    const total = all.reduce((sum, { usage }) => sum + usage.completion_tokens, 0);
    found.all.push((1000 * total) / (performance.now() - startMs));
    const firsts = all.map(({ firstMs }) => firstMs);
    found.first.push(Math.max(...firsts) / median(firsts));

    const long = await complete(url, prompt(80), 1);
    found.prefill.push((1000 * long.usage.prompt_tokens) / long.ms);

    const shared = prompt(450);
    const cold = await complete(url, `${shared} and then it`, 1);
    const hit = await complete(url, `${shared} but others say that we had better look again at what there was`, 1);
    found.cold.push(cold.firstMs);
    found.hit.push(hit.firstMs / cold.firstMs);
    if (round === 0)
      console.log(
        `prefix: ${cold.usage.prompt_tokens} tokens cold, then ${hit.usage.prompt_tokens}, ` +
          `${hit.usage.prompt_tokens_details.cached_tokens} of them in the cache\n`,
      );
    if (missing !== null) continue;
    const theirs = await peerRound();
    if (typeof theirs === "number") found.peer.push(theirs);
    else missing = theirs.unavailable;
  }
} finally {
  await stop();
}

const show = (x) => x.toFixed(x < 10 ? 2 : x < 100 ? 1 : 0);
const spread = (list) => `${show(median(list))} (${show(Math.min(...list))} to ${show(Math.max(...list))})`;
const ratio = (a, b) => a.map((x, i) => x / b[i]);
const goals = [];
/** A row, and whether its median reaches its goal: [least] or [, most]. */
function row(name, list, unit, [least, most] = []) {
  const middle = median(list);
  const isReached = (least === undefined || middle >= least) && (most === undefined || middle <= most);
  if (!isReached) goals.push(name);
  const goal = least !== undefined ? `at least ${show(least)}` : most !== undefined ? `at most ${show(most)}` : "";
  console.log(`| ${name} | ${spread(list)} ${unit} | ${goal} |`);
}
console.log(
  `${streams} streams of ${tokens} tokens, ${threads} threads, ${rounds} rounds\n\n| | median (least to most) | goal |\n|---|---|---|`,
);
row("one stream", found.one, "tokens/s");
row(`${streams} streams`, found.all, "tokens/s");
row("prefill, from the request to its first token", found.prefill, "tokens/s");
const over = ratio(found.all, found.one);
// The lesser of two goals: where prefill itself is no faster, streams cannot be.
row(`${streams} streams over one`, over, "times", [Math.min(2.5, (0.7 * median(found.prefill)) / median(found.one))]);
if (found.peer.length > 0) {
  row(`node-llama-cpp, ${streams} sequences`, found.peer, "tokens/s");
  row("over node-llama-cpp", ratio(found.all.slice(0, found.peer.length), found.peer), "times", [1.5]);
} else console.log(`| node-llama-cpp | ${missing} | |`);
row("first tokens under load, the last over the median", found.first, "times", [undefined, 4]);
row("first token of a prompt that is not in the cache", found.cold, "ms");
row("the same where its beginning is, over that", found.hit, "times", [undefined, 0.2]);
if (goals.length > 0) {
  console.log(`\nmissed: ${goals.join("; ")}`);
  process.exitCode = 1;
}
