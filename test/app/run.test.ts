// lutra run as a person or a program calls it: text on stdout, the rest on stderr, seeds, stops, pipes and signals.

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import type { Unavailable } from "../../src/backend.ts";
import { embeddedModel, models, testWith } from "../oracle/oracle.ts";
import { cli, folder, lutra, place, root, startLutra } from "./lutra.ts";
import { tiny, withPairs } from "./tiny-model.ts";

const GREEDY = ["--temperature", "0"];

/** Runs with --json; the object. */
function json(...args: string[]): Record<string, unknown> & { text: string; token_ids: number[]; seed: string } {
  const { code, out, err } = lutra(["run", ...args, "--json"]);
  expect(code, err).toBe(0);
  expect(out.endsWith("}\n")).toBe(true);
  return JSON.parse(out);
}

describe("output", () => {
  test("is the text alone on stdout, and one line of summary on stderr", () => {
    const { code, out, err } = lutra(["run", "Emma was not", "--max-tokens", "12", "--seed", "7"]);
    expect(code).toBe(0);
    expect(out).toBe(json("Emma was not", "--max-tokens", "12", "--seed", "7").text);
    expect(err).toMatch(
      /^load \d+ ms, prefill \S+ tokens\/s \(\d+\), decode \S+ tokens\/s \(12\), peak memory \d+ MiB, \w+ [\w-]+, \d+ threads?, seed 7\n$/,
    );
  });

  test("with --json is one object with every figure", () => {
    const startMs = performance.now();
    const result = json("Emma was not", "--max-tokens", "12", "--threads", "1");
    const wallMs = performance.now() - startMs;
    expect(Object.keys(result).toSorted()).toEqual([
      "decode_tps",
      "device",
      "first_token_ms",
      "isa",
      "load_ms",
      "peak_rss_mib",
      "prefill_tps",
      "prompt_tokens",
      "seed",
      "stop_reason",
      "text",
      "threads",
      "token_ids",
      "tokens",
    ]);
    expect(result).toMatchObject({ tokens: 12, prompt_tokens: 4, stop_reason: "length", threads: 1 });
    expect(result.token_ids).toHaveLength(12);
    expect(result["load_ms"]).toBeGreaterThan(0);
    expect(result["first_token_ms"]).toBeGreaterThan(result["load_ms"] as number);
    expect(result["first_token_ms"]).toBeLessThan(wallMs);
    for (const name of ["prefill_tps", "decode_tps", "peak_rss_mib"]) expect(result[name]).toBeGreaterThan(0);
  });

  test("with --verbose has a table of the start on stderr", () => {
    const { err } = lutra(["run", "Emma", "--max-tokens", "1", "--verbose"]);
    const phases = err.split("\n").map((line) => line.slice(0, 17).trimEnd());
    for (const phase of ["Node and imports", "number formats", "header", "plan", "backend", "weights", "tokenizer"])
      expect(phases).toContain(phase);
  });

  test("says when the context is full, and what would help", () => {
    const args = ["run", place("tiny.gguf", tiny), "th", "--seed", "1", "--max-tokens", "100"];
    const trained = lutra(args);
    expect(trained.code).toBe(0);
    expect(trained.err.split("\n")[1]).toBe(
      "note: stopped because the context of 64 tokens is full; " +
        "the model was trained on no more, so that a shorter prompt is what leaves room for text",
    );
    expect(lutra([...args, "--ctx", "32"]).err.split("\n")[1]).toBe(
      "note: stopped because the context of 32 tokens is full; --ctx makes it larger",
    );
  });

  test("is half the context long where nobody says how long, or 256 tokens", () => {
    const file = place("tiny.gguf", tiny);
    const args = ["run", file, "th", "--seed", "1"];
    const { code, err } = lutra(args);
    expect(code).toBe(0);
    expect(err).toMatch(/^load .* tokens\/s \(32\), [^\n]*\n$/); // and no note
    expect(lutra([...args, "--ctx", "1000"]).err).toMatch(/\nload .* tokens\/s \(256\), [^\n]*\n$/);
  });

  test("on one pipe for stdout and stderr begins the summary on a line of its own", () => {
    const args = ["run", "Emma was not", "--max-tokens", "6", "--temperature", "0"];
    const { text } = json(...args.slice(1));
    expect(text).not.toMatch(/\n$/);
    const result = spawnSync("sh", ["-c", '"$0" "$@" 2>&1', process.execPath, cli, ...args], { encoding: "utf8" });
    const [shown, summary, ...rest] = result.stdout.split("\n");
    expect(shown).toBe(text);
    expect(summary).toMatch(/^load \d+ ms, /);
    expect(rest).toEqual([""]);
  });

  test("warns of a context beyond the trained one", () => {
    const { code, err } = lutra(["run", "Emma", "--ctx", "300", "--max-tokens", "1"]);
    expect(code).toBe(0);
    expect(err.split("\n")[0]).toBe(
      "note: --ctx 300 is more than the 256 tokens that the model was trained on; expect worse text there",
    );
  });
});

/** util-linux's script(1), which runs a command on a terminal of its own. */
function terminal(): { run(args: readonly string[]): string } | Unavailable {
  const version = spawnSync("script", ["--version"]);
  if (!String(version.stdout).includes("util-linux")) return { unavailable: "no script(1) of util-linux" };
  return {
    run(args) {
      const command = [process.execPath, cli, ...args].map((word) => `'${word}'`).join(" ");
      return String(spawnSync("script", ["-qec", command, "/dev/null"], { timeout: 60_000 }).stdout);
    },
  };
}

testWith(terminal(), "on a terminal the embedded model's prompt comes dim before the text", (tty) => {
  const args = ["run", "Emma was", "--max-tokens", "5", "--temperature", "0"];
  const { text } = json(...args.slice(1));
  const [line] = tty.run(args).split("\r\n");
  expect(line).toBe(`\u001b[2mEmma was\u001b[22m${text}`);
});

testWith(terminal(), "on a terminal a bar shows how far a long prompt has been read", (tty) => {
  const prompt = "Emma was not ".repeat(150); // 450 tokens, some seconds on the reference backend
  const shown = tty.run(["run", prompt, "--ctx", "2000", "--device", "reference", "--max-tokens", "1"]);
  expect(shown.replaceAll("\u001b", "ESC")).toMatch(/\rESC\[Kreading the prompt \[#+\.+\] \d+ %/);
});

testWith(terminal(), "on a terminal a model cannot send control characters", (tty) => {
  const path = place("tiny.gguf", tiny);
  const args = ["run", path, "the cat", "--seed", "1"];
  expect(lutra(args).out).toContain("\u001b");
  const shown = tty.run(args);
  expect(shown).not.toContain("\u001b");
  expect(shown).toContain("\ufffd");
});

describe("the prompt", () => {
  const expected = json("Emma was not", "--max-tokens", "5", ...GREEDY).text;
  const args = ["--max-tokens", "5", ...GREEDY];

  test.each([
    ["behind the model", ["run", embeddedModel, "Emma was not", ...args], ""],
    ["on stdin, for -", ["run", embeddedModel, "-", ...args], "Emma was not\n"],
    ["on stdin, for a model alone", ["run", embeddedModel, ...args], "Emma was not"],
    ["on stdin, for the embedded model", ["run", ...args], "Emma was not\n"],
    ["on stdin, for - alone", ["run", "-", ...args], "Emma was not\r\n"],
  ])("may come %s", (_, command, input) => {
    expect(lutra(command, { input })).toMatchObject({ code: 0, out: expected });
  });

  test("may be a word that is the name of a folder", () => {
    mkdirSync(join(folder, "Emma"));
    const { text } = json("Emma", ...args);
    expect(lutra(["run", "Emma", ...args], { cwd: folder })).toMatchObject({ code: 0, out: text });
  });

  test("is the embedded model's own where none comes", async () => {
    const own = json("It is a truth universally acknowledged", ...args).text;
    expect(lutra(["run", ...args])).toMatchObject({ code: 0, out: own });
    // A pipe that is open and silent, as build systems leave it.
    const { child, ended } = startLutra(["run", ...args]);
    expect(await ended).toMatchObject({ code: 0, out: own });
    child.stdin.destroy();
  });
});

describe("choice", () => {
  const args = ["Emma was not", "--max-tokens", "24"];

  test("of one seed is the same text at 1 and 2 threads", () => {
    const one = json(...args, "--seed", "5", "--threads", "1");
    expect(json(...args, "--seed", "5", "--threads", "2").text).toBe(one.text);
    expect(json(...args, "--seed", "6").text).not.toBe(one.text);
  });

  test("is random without a seed, and repeatable with the one that is named", () => {
    const first = json(...args);
    expect(json(...args).seed).not.toBe(first.seed);
    expect(json(...args, "--seed", first.seed).text).toBe(first.text);
  });

  test("without chance does not depend on the seed", () => {
    const text = json(...args, ...GREEDY, "--seed", "1").text;
    expect(json(...args, ...GREEDY, "--seed", "2").text).toBe(text);
    expect(json(...args, "--top-k", "1", "--seed", "3").text).toBe(text);
  });

  test("is the same on the reference backend, for weights without rounding", () => {
    const file = place("tiny.gguf", tiny);
    const text = json(file, "the cat", "--seed", "3", "--device", "reference").text;
    expect(json(file, "the cat", "--seed", "3").text).toBe(text);
  });
});

describe("the end", () => {
  test("comes before a stop string, which may span tokens", () => {
    const args = ["Emma was not", "--max-tokens", "40", ...GREEDY];
    const whole = json(...args);
    const stop = whole.text.slice(9, 13); // somewhere, and in the middle of words
    const stopped = json(...args, "--stop", stop, "--stop", "never to be found");
    expect(stopped).toMatchObject({ text: whole.text.slice(0, whole.text.indexOf(stop)), stop_reason: "stop" });
  });

  test("comes with an end-of-generation token", () => {
    const args = ["the cat", "--max-tokens", "1", ...GREEDY];
    const [first] = json(place("tiny.gguf", tiny), ...args).token_ids;
    const ending = place("ending.gguf", withPairs([["tokenizer.ggml.eot_token_id", "u32", first!]]));
    expect(json(ending, ...args)).toMatchObject({ text: "", tokens: 0, token_ids: [], stop_reason: "end" });
  });

  test("is quiet where the reader of a pipe goes away", async () => {
    const { child, ended } = startLutra([
      "run",
      "Emma was not",
      "--temperature",
      "2",
      "--ctx",
      "4000",
      "--max-tokens",
      "3900",
    ]);
    child.stdout.once("data", () => child.stdout.destroy());
    const { code, err } = await ended;
    expect([code, err.replace(/^note: --ctx.*\n/, "")]).toEqual([0, ""]);
  });
});

describe("Ctrl-C", () => {
  /** Waits until the child's stderr or stdout has something, or for a while; then interrupts it. */
  async function interrupt(
    args: readonly string[],
    when: "text" | number,
  ): Promise<{ code: number | null; out: string; err: string; ms: number }> {
    const { child, ended } = startLutra(args);
    await new Promise<void>((resolve) => {
      if (when === "text") child.stdout.once("data", () => resolve());
      else setTimeout(resolve, when);
    });
    const startMs = performance.now();
    child.kill("SIGINT");
    const result = await ended;
    return { ...result, ms: performance.now() - startMs };
  }

  test("while text comes stops at once, with the summary and exit code 130", async () => {
    const { code, out, err, ms } = await interrupt(
      ["run", "Emma was not", "--ctx", "200000", "--max-tokens", "190000", "--top-k", "1"],
      "text",
    );
    expect(code).toBe(130);
    expect(out).not.toBe("");
    expect(err).toMatch(/\nload .*, peak memory \d+ MiB, .*, interrupted\n$/);
    expect(ms).toBeLessThan(2000);
  });

  // 20,000 tokens take minutes on the reference backend, and each step of 64 some seconds.
  test("while the prompt is read stops at once, on the reference backend too", async () => {
    const prompt = "Emma was not ".repeat(5000);
    const args = ["run", prompt, "--ctx", "40000", "--device", "reference", "--json"];
    const { code, out, err, ms } = await interrupt(args, 3000);
    expect(code).toBe(130);
    const result = JSON.parse(out);
    expect(result).toMatchObject({ text: "", tokens: 0, stop_reason: "aborted", first_token_ms: null });
    expect(result.prompt_tokens).toBeGreaterThan(10_000); // so that it was no longer loading
    expect(err).toMatch(/, interrupted\n$/);
    expect(ms).toBeLessThan(2000);
  });

  test("while it waits for a prompt stops at once", async () => {
    const { code, err, ms } = await interrupt(["run", embeddedModel, "-"], 1500);
    expect(code).toBe(130);
    expect(err).toMatch(/^load .*, interrupted\n$/);
    expect(ms).toBeLessThan(2000);
  });
});

test("where the native backend is missing, auto runs on the reference backend and says what to do", () => {
  // A package without build/: everything but dist is found through links.
  const bare = join(folder, "bare");
  cpSync(join(root, "dist"), join(bare, "dist"), { recursive: true });
  for (const name of ["dsl", "models", "node_modules", "package.json"]) symlinkSync(join(root, name), join(bare, name));
  const program = join(bare, "dist/src/app/cli.js");
  const missing =
    "the native CPU backend is not built: install a C++20 compiler (Debian and Ubuntu: apt-get install g++), " +
    "then run `npm rebuild lutra`, or `npm run build` in a checkout";

  const auto = lutra(["run", "Emma", "--max-tokens", "2", "--json"], { program });
  expect(auto.code).toBe(0);
  expect(JSON.parse(auto.out)).toMatchObject({ device: "reference", isa: "float64", tokens: 2 });
  expect(auto.err.split("\n")[0]).toBe(`note: running on the reference backend, which is slow: ${missing}`);

  const cpu = lutra(["run", "Emma", "--device", "cpu"], { program });
  expect(cpu).toEqual({ code: 1, out: "", err: `lutra: device cpu: ${missing}\n` });
  expect(lutra(["doctor"], { program }).out).toContain(`native backend  ${missing}\n`);
});

testWith(models(), "a model with a chat template answers, and continues with --raw", ({ smollm2 }) => {
  const raw = json(smollm2, "The capital of France is", "--raw", "--max-tokens", "8", ...GREEDY);
  expect(raw.text.startsWith(" Paris.")).toBe(true);
  const system = ["--system", "You are a pirate."];
  const chat = json(smollm2, "What is the capital of France?", "--max-tokens", "4", ...GREEDY);
  const pirate = json(smollm2, "What is the capital of France?", ...system, "--max-tokens", "4", ...GREEDY);
  // The template's own system message and marks around the prompt.
  expect(chat["prompt_tokens"]).toBeGreaterThan(20);
  expect(pirate["prompt_tokens"]).not.toBe(chat["prompt_tokens"]);
});
