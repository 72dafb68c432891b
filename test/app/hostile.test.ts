// Model files that somebody has tampered with, all the way to the first step of the native backend: however a file is
// damaged, the process lives, ends each case in time with one of the errors that say so, and stays small.
// Not here: errors for what is likely to be wrong (bad-input.test.ts), the reader alone (model/gguf.test.ts).

import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect } from "vitest";

import { loadAddon } from "../../src/cpu/native.ts";
import { testWith } from "../oracle/oracle.ts";
import { folder, place, root } from "./lutra.ts";
import { withPairs } from "./tiny-model.ts";

const CASES = 2500;
const SEED = 20_261_123;
/** A case takes some milliseconds; this is what a hang is. */
const CASE_LIMIT_MS = 2000;
const TOTAL_LIMIT_MS = 60_000;
const MEMORY_LIMIT_MIB = 200;

/** The tiny model with a template like those of chat models, so that there is one to damage. */
const chat = withPairs([
  [
    "tokenizer.chat_template",
    "string",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim }}{% endfor %}{{ bos_token }}",
  ],
]);

/** What hostile.mjs tells. */
interface Fact {
  readonly number?: number;
  readonly stage?: string;
  readonly error?: string;
  readonly rssMib?: number;
  readonly maxRssMib?: number;
}

testWith(loadAddon(), `no way of ${CASES} to damage a file breaks, stops or bloats the process`, async (addon) => {
  const args = [place("whole.gguf", chat), join(folder, "damaged.gguf"), SEED, 0, CASES, addon.isas().join()];
  const child = spawn(process.execPath, [join(root, "test/app/hostile.mjs"), ...args.map(String)]);
  const stages = new Map<string, number>();
  const wrong: string[] = [];
  let current = "the beginning";
  let [idleMib, mostMib] = [Number.NaN, Number.NaN];
  let alarm = killAfter(child, TOTAL_LIMIT_MS, wrong, () => current);
  const total = killAfter(child, TOTAL_LIMIT_MS, wrong, () => "all cases");
  let err = "";
  child.stderr.on("data", (part: Buffer) => (err += String(part)));
  const lines = createInterface(child.stdout);
  lines.on("line", (line) => {
    const fact = JSON.parse(line) as Fact;
    clearTimeout(alarm);
    alarm = killAfter(child, CASE_LIMIT_MS, wrong, () => current);
    if (fact.number !== undefined) current = `case ${fact.number} of seed ${SEED}`;
    if (fact.stage !== undefined) stages.set(fact.stage, (stages.get(fact.stage) ?? 0) + 1);
    if (fact.error !== undefined) wrong.push(`${current}, ${fact.stage}: ${fact.error}`);
    idleMib = fact.rssMib ?? idleMib;
    mostMib = fact.maxRssMib ?? mostMib;
  });
  const code = await new Promise<number | string | null>((resolve) => {
    child.on("close", (status, signal) => resolve(status ?? signal));
  });
  clearTimeout(alarm);
  clearTimeout(total);
  const told = `seed ${SEED}: ${JSON.stringify(Object.fromEntries(stages))}, ${(mostMib - idleMib).toFixed(0)} MiB more`;
  console.log(told);
  expect(wrong).toEqual([]);
  expect([code, err], current).toEqual([0, ""]);
  // It means little if all are refused at once.
  expect(stages.get("refused") ?? 0, told).toBeGreaterThan(CASES / 10);
  expect(stages.get("stepped") ?? 0, told).toBeGreaterThan(CASES / 10);
  expect(mostMib - idleMib).toBeLessThan(MEMORY_LIMIT_MIB);
});

/** Kills a child that is still at work after a while, and notes at what. */
function killAfter(child: ChildProcess, limitMs: number, wrong: string[], at: () => string): NodeJS.Timeout {
  return setTimeout(() => {
    wrong.push(`${at()}: not done after ${limitMs} ms`);
    child.kill("SIGKILL");
  }, limitMs);
}
