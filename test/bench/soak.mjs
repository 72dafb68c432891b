// A server under clients that come, stay or leave in the middle, for an hour or as long as is said: whether its memory stays
// what it was, every slot is free at the end, and everyone gets the text of their own prompt. Each prompt's text is asked for
// once alone before; later answers, whole or left, must begin as it does. A line each minute; ends with 1 where one of these
// does not hold.
//   node test/bench/soak.mjs [--minutes 60] [--model model.gguf] [--clients 12] [--seed 1]
// Not here: how fast (serve.mjs), single hostile requests (test/app/serve-hostile.test.ts).

import { readFileSync } from "node:fs";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { complete, serve } from "./served.mjs";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "60" },
    model: { type: "string", default: fileURLToPath(new URL("../../models/austen-5m-ternary.gguf", import.meta.url)) },
    clients: { type: "string", default: "12" },
    seed: { type: "string", default: "1" },
  },
});
const [minutes, clients] = [Number(values.minutes), Number(values.clients)];
const MOST_GROWTH = 1.05;
/** Of the run, after which memory is taken for what it will be: 10 minutes of an hour. */
const WARM = 1 / 6;
const TOKENS = 48;
const PROMPTS = 40;

let state = Number(values.seed) >>> 0 || 1;
/** From 0 up to n - 1 (xorshift32, Marsaglia 2003). */
function random(n) {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % n;
}

function rssOf(pid) {
  const [, kib] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(kib) / 1024;
}

async function gauges(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const of = (name) => Number(new RegExp(`^lutra_${name} (\\d+)$`, "m").exec(text)[1]);
  return { busy: of("slots_busy"), waiting: of("requests_waiting") };
}

const words = readFileSync(new URL("../../README.md", import.meta.url), "utf8").match(/[A-Za-z]+/g);
const prompts = Array.from({ length: PROMPTS }, (_, i) =>
  Array.from({ length: 3 + ((5 * i) % 60) }, (__, j) => words[(j + 131 * i) % words.length]).join(" "),
);
const { url, pid, stop } = await serve(values.model, ["--slots", "4", "--ctx", "512", "--queue", "64"]);
const alone = [];
for (const prompt of prompts) alone.push((await complete(url, prompt, TOKENS)).text);

const startMs = performance.now();
const elapsed = () => (performance.now() - startMs) / 60_000;
const counts = { whole: 0, left: 0, wrong: 0 };
const run = { isOver: false };

async function client() {
  while (!run.isOver) {
    const i = random(PROMPTS);
    const leaveAfter = random(3) === 0 ? 1 + random(20) : Infinity;
    const { text, usage } = await complete(url, prompts[i], TOKENS, leaveAfter);
    counts[usage === null ? "left" : "whole"]++;
    const expected = usage === null ? alone[i].slice(0, text.length) : alone[i];
    if (text !== expected) {
      counts.wrong++;
      console.log(`not the text of its prompt: ${JSON.stringify({ prompt: prompts[i], text, expected })}`);
    }
    if (random(4) === 0) await sleep(random(50));
  }
}

console.log("| minute | answers | left | RSS, MiB |\n|---|---|---|---|");
let early = null;
const running = Promise.all(Array.from({ length: clients }, client));
running.catch(() => (run.isOver = true));
for (let next = 0; elapsed() < minutes && !run.isOver;) {
  await sleep(Math.max(0, 60_000 * (Math.min(next, minutes) - elapsed())));
  const rss = rssOf(pid);
  if (elapsed() >= WARM * minutes) early ??= rss;
  console.log(`| ${elapsed().toFixed(1)} | ${counts.whole} | ${counts.left} | ${rss.toFixed(1)} |`);
  next += Math.min(1, minutes / 12);
}
run.isOver = true;
await running;
await sleep(1000);
const late = rssOf(pid);
const { busy, waiting } = await gauges(url);
await stop();

const growth = late / early;
console.log(
  `\n${minutes} minutes, ${clients} clients: ${counts.whole} whole answers, ${counts.left} left, ${counts.wrong} with another's text; ` +
    `RSS ${early.toFixed(1)} MiB after a sixth, ${late.toFixed(1)} at the end (${growth.toFixed(3)}); ` +
    `${busy} slots busy, ${waiting} requests waiting`,
);
if (growth > MOST_GROWTH || busy + waiting + counts.wrong > 0) process.exitCode = 1;
