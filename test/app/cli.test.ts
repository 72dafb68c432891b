// Commands, options and help: wrong usage ends with 2 and one line, right usage says what it promises.

import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import type { Unavailable } from "../../src/backend.ts";
import { embeddedModel, testWith } from "../oracle/oracle.ts";
import { folder, lutra, place, root } from "./lutra.ts";
import { tiny, withPairs } from "./tiny-model.ts";

describe("wrong usage ends with exit code 2:", () => {
  const number = "a number from";
  const whole = "a whole number from";
  test.each([
    [
      ["frobnicate"],
      'there is no command "frobnicate"; commands are run, chat, serve, eval, inspect, bench, tune, quantize, check, explain, fmt, convert, compile, ppa, rtl, doctor',
    ],
    [["rnu"], 'there is no command "rnu"; did you mean "run"?'],
    [
      ["run", "x", "--temprature", "1"],
      'unknown option --temprature; did you mean "--temperature"? see lutra run --help',
    ],
    [["run", "x", "--xyzzy"], "unknown option --xyzzy; see lutra run --help"],
    [
      ["run", "-x"],
      'unknown option -x; a text that begins with - comes after --, as in lutra run -- "-x"; see lutra run --help',
    ],
    [
      ["run", "-5 + 3 ="],
      'unknown option -5; a text that begins with - comes after --, as in lutra run -- "-5 + 3 ="; see lutra run --help',
    ],
    [
      ["run", "--to be"],
      'unknown option --to be; a text that begins with - comes after --, as in lutra run -- "--to be"; see lutra run --help',
    ],
    [["doctor", "-x"], "unknown option -x; see lutra doctor --help"],
    [["run", "x", "--max-tokens", "0"], `--max-tokens: "0"; ${whole} 1 to 16777216 is needed`],
    [["run", "x", "--max-tokens", "1.5"], `--max-tokens: "1.5"; ${whole} 1 to 16777216 is needed`],
    [["run", "x", "--max-tokens", "0x10"], `--max-tokens: "0x10"; ${whole} 1 to 16777216 is needed`],
    [["run", "x", "--threads", "-1"], `--threads: "-1"; ${whole} 1 to 256 is needed`],
    [["run", "x", "--ctx", "1e99"], `--ctx: "1e99"; ${whole} 1 to 16777216 is needed`],
    [["run", "x", "--temperature", "-1"], `--temperature: "-1"; ${number} 0 to 100 is needed`],
    [["run", "x", "--temperature", "NaN"], `--temperature: "NaN"; ${number} 0 to 100 is needed`],
    [["run", "x", "--temperature", ""], `--temperature: ""; ${number} 0 to 100 is needed`],
    [["run", "x", "--top-k", "-3"], `--top-k: "-3"; ${whole} 0 to 2147483647 is needed`],
    [["run", "x", "--top-p", "1.5"], `--top-p: "1.5"; ${number} 0 to 1 is needed`],
    [["run", "x", "--min-p", "Infinity"], `--min-p: "Infinity"; ${number} 0 to 1 is needed`],
    [["run", "x", "--repeat-penalty", "0"], `--repeat-penalty: "0"; ${number} 0.1 to 10 is needed`],
    [
      ["run", "x", "--seed", "18446744073709551616"],
      `--seed: "18446744073709551616"; ${whole} 0 to 2^64 - 1 is needed`,
    ],
    [["run", "x", "--seed", "1", "--seed", "2"], "--seed: given twice, as 1 and 2; once is enough"],
    [["run", "x", "--device", "tpu"], '--device: "tpu"; one of auto, cpu, reference, gpu, lmma, lmma-gpu is needed'],
    [["run", "x", "--stop"], "--stop: no value; a text of at least one character is needed"],
    [["run", "x", "--stop", ""], '--stop: ""; a text of at least one character is needed'],
    [["run", "x", "--stop", "--json"], "--stop: --json; a text that begins with - is written --stop=--json"],
    [["run", "x", "--json=1"], '--json: "1"; it takes no value'],
    [
      ["run", "x", "--raw", "--system", "y"],
      "--system: not together with --raw, which sends no messages; leave one of them out",
    ],
    [["run", "a", "b", "c"], 'unexpected argument "c"; put quotes around text with spaces; see lutra run --help'],
    [["eval"], "nothing to measure; measures are perplexity"],
    [["eval", "perplexty"], 'cannot measure "perplexty"; did you mean "perplexity"?'],
    [["eval", "perplexity"], "no model; see lutra eval --help"],
    [["eval", "perplexity", "m.gguf"], "no text; see lutra eval --help"],
    [["inspect"], "no model; name a file, as in lutra inspect model.gguf"],
    [["doctor", "me"], 'unexpected argument "me"; see lutra doctor --help'],
  ])("lutra %j", (args, reason) => {
    expect(lutra(args)).toEqual({ code: 2, out: "", err: `lutra: ${reason}\n` });
  });
});

describe("help", () => {
  const commands =
    "run chat serve eval inspect bench tune quantize check explain fmt convert compile ppa rtl doctor".split(" ");
  test.each(commands)("of %s is what the golden file shows", async (name) => {
    const { code, out, err } = lutra([name, "--help", "--nonsense"]);
    expect([code, err]).toEqual([0, ""]);
    await expect(out).toMatchFileSnapshot(`../golden/app/help-${name}.txt`);
    for (const line of out.split("\n")) expect(line.length, line).toBeLessThanOrEqual(110);
  });

  test("of lutra itself names every command", async () => {
    const { code, out } = lutra([]);
    expect(code).toBe(0);
    expect(lutra(["--help"]).out).toBe(out);
    await expect(out).toMatchFileSnapshot("../golden/app/help.txt");
  });

  test("asked for behind -- is a prompt", () => {
    expect(lutra(["run", "--max-tokens", "1", "--", "--help"])).toMatchObject({ code: 0 });
  });
});

/** A device that takes no byte, as a disk that is full; the file descriptor. */
function fullDevice(): { readonly fd: number } | Unavailable {
  return existsSync("/dev/full") ? { fd: openSync("/dev/full", "w") } : { unavailable: "no /dev/full" };
}

testWith(fullDevice(), "output that cannot be written is an error, whatever the command", ({ fd }) => {
  const err = "lutra: stdout: ENOSPC: no space left on device, write\n";
  const text = place("some.txt", "Emma was not ".repeat(20));
  for (const args of [
    ["--help"],
    ["run", "--help"],
    ["inspect", embeddedModel],
    ["inspect", embeddedModel, "--json"],
    ["doctor"],
    ["eval", "perplexity", embeddedModel, text, "--ctx", "16"],
    ["run", "Emma", "--max-tokens", "1", "--json"],
    ["run", "Emma", "--max-tokens", "300"],
  ]) {
    const ended = lutra(args, { stdio: ["ignore", fd, "pipe"] });
    expect(ended.code, args.join(" ")).toBe(1);
    expect(ended.err.endsWith(err), ended.err).toBe(true);
  }
  closeSync(fd);
});

test("--version is that of the package", () => {
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  expect(lutra(["--version"])).toEqual({ code: 0, out: `${version}\n`, err: "" });
});

describe("inspect", () => {
  test("describes the embedded model", async () => {
    const { code, out, err } = lutra(["inspect", embeddedModel]);
    expect([code, err]).toEqual([0, ""]);
    await expect(out.replace(embeddedModel, "models/austen-5m-ternary.gguf")).toMatchFileSnapshot(
      "../golden/app/inspect-austen.txt",
    );
  });

  test("--json --tensors has every figure and every tensor", () => {
    const { out } = lutra(["inspect", place("tiny.gguf", tiny), "--json", "--tensors"]);
    const report = JSON.parse(out);
    const values = tiny.tensors.reduce((sum, t) => sum + t.bytes.length / 4, 0);
    expect(report).toMatchObject({
      architecture: "llama",
      name: "tiny",
      parameters: values,
      weight_bytes: 4 * values,
      bits_per_weight: 32,
      bits_per_matrix_weight: 32,
      vocabulary: 258,
      tokenizer: "gpt2",
      chat_template: false,
      trained_context: 64,
      // K and V in f16: 1 layer of 16 numbers for 64 tokens.
      cache_bytes_default: 2 * 2 * 16 * 64,
      types: [{ type: "F32", tensors: 11, parameters: values, bytes: 4 * values }],
    });
    expect(report.tensors).toHaveLength(11);
    expect(report.tensors[0]).toEqual({ name: "token_embd.weight", type: "F32", shape: [258, 32], bytes: 33_024 });
  });

  test("shows what a file says of itself escaped and cut, so that it cannot steer the terminal", () => {
    const name = `\u001b]0;owned\u0007 \u009b31m ${"long ".repeat(100)}`;
    const vocabulary = Array.from({ length: 258 }, (_, id) => `t${id}`);
    const file = withPairs([
      ["general.name", "string", name],
      // A vocabulary of this kind has no pre-tokenizer, so that nobody checks this one.
      ["tokenizer.ggml.model", "string", "llama"],
      ["tokenizer.ggml.pre", "string", "\u001b[2J\n\u009b"],
      ["tokenizer.ggml.tokens", "string", vocabulary],
      ["tokenizer.ggml.scores", "f32", vocabulary.map((_, id) => -id)],
      ["tokenizer.ggml.merges", null],
    ]);
    const path = place("steering.gguf", file);
    const { code, out, err } = lutra(["inspect", path]);
    expect([code, err]).toEqual([0, ""]);
    const lines = out.split("\n");
    const long = "long ".repeat(100);
    const start = `\u001b]0;owned\u0007 \u009b31m `.length;
    expect(lines[1]).toBe(`name             "\\u001b]0;owned\\u0007 \\u009b31m ${long.slice(0, 72 - start)}..."`);
    expect(lines[8]).toBe('vocabulary       258 tokens, llama ("\\u001b[2J\\n\\u009b")');
    const json = lutra(["inspect", path, "--json"]).out;
    expect(JSON.parse(json).name).toBe(name);
    // oxlint-disable-next-line no-control-regex -- it is about them
    expect(json.trimEnd()).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
  });

  test("finds a name in the folders of LUTRA_MODELS", () => {
    place("named.gguf", tiny);
    const env = { LUTRA_MODELS: `/nowhere:${folder}` };
    expect(JSON.parse(lutra(["inspect", "named.gguf", "--json"], { env }).out).file).toBe(join(folder, "named.gguf"));
  });
});

describe("doctor", () => {
  test("--json says what there is, and why what is missing is", () => {
    const { code, out, err } = lutra(["doctor", "--json"], { env: { LUTRA_MODELS: `${folder}:/nowhere` } });
    expect([code, err]).toEqual([0, ""]);
    const facts = JSON.parse(out);
    expect(facts).toMatchObject({ node: process.version, threads: expect.any(Number), processor: expect.any(String) });
    expect(facts.native.unavailable ?? facts.native.instruction_sets).toBeTruthy();
    expect(facts.model_folders).toEqual([
      { folder, models: expect.any(Number) },
      { folder: "/nowhere", unavailable: "ENOENT: no such file or directory, scandir '/nowhere'" },
    ]);
  });

  test("has a line for each fact", () => {
    const names = lutra(["doctor"])
      .out.trimEnd()
      .split("\n")
      .map((line) => line.slice(0, 16).trimEnd());
    expect([...new Set(names)]).toEqual([
      "lutra",
      "node",
      "system",
      "processor",
      "memory",
      "threads",
      "native backend",
      "GPU",
      "models",
    ]);
  });
});

describe("eval perplexity", () => {
  const text = place(
    "austen.txt",
    "It was a very good sort of thing to be done, and Emma was not at all sorry. ".repeat(60),
  );

  test("prints one line, or one JSON object of the same figures", () => {
    const args = ["eval", "perplexity", embeddedModel, text, "--ctx", "64", "--tokens", "200"];
    const { code, out, err } = lutra(args);
    expect(code).toBe(0);
    expect(out).toMatch(/^perplexity \d+\.\d{4} \+- \d+\.\d{5}\n$/);
    expect(err).toMatch(/^3 chunks of 64 tokens, 93 scored, \S+ tokens\/s, peak memory \d+ MiB\n$/);
    const report = JSON.parse(lutra([...args, "--json"]).out);
    expect(report).toMatchObject({ chunks: 3, scored: 93, context: 64, tokens: 200 });
    expect(out).toBe(`perplexity ${report.perplexity.toFixed(4)} +- ${report.error.toFixed(5)}\n`);
    expect(report.perplexity).toBeCloseTo(Math.exp(report.nll), 9);
  });

  test("takes chunks of the model's context where that is less than 512", () => {
    const { out } = lutra(["eval", "perplexity", embeddedModel, text, "--json"]);
    expect(JSON.parse(out)).toMatchObject({ context: 256 });
  });
});
