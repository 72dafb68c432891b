// Files and prompts that cannot be used: each is one line with file, field, value and what is allowed, exit code 1, and
// nothing on stdout.

import { chmodSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import { loadAddon } from "../../src/cpu/native.ts";
import { embeddedModel, testWith } from "../oracle/oracle.ts";
import { type FileToWrite, gguf } from "../model/write-gguf.ts";
import { folder, lutra, place } from "./lutra.ts";
import { tiny, withPairs, withTensors } from "./tiny-model.ts";

const whole: Uint8Array = gguf(tiny);

/** What is wrong, the file, and the error after its name. */
const DAMAGED: readonly (readonly [string, FileToWrite | Uint8Array, string])[] = [
  [
    "is cut by one byte",
    whole.subarray(0, -1),
    'tensor "blk.0.ffn_down.weight": bytes 58816 to 62912; the file ends at byte 62911',
  ],
  [
    "is cut within the header",
    whole.subarray(0, 1000),
    "length of tokenizer.ggml.tokens: 258; the 1000 bytes of the file have room for 59",
  ],
  ["is empty", new Uint8Array(0), "size: 0 bytes; a GGUF file has at least 24"],
  [
    "has another magic",
    Buffer.concat([Buffer.from("GGML"), whole.subarray(4)]),
    'magic: "GGML"; a GGUF file begins with "GGUF"',
  ],
  ["has version 1", { ...tiny, version: 1 }, "version: 1; versions 2 and 3 can be read"],
  ["has version 4", { ...tiny, version: 4 }, "version: 4; versions 2 and 3 can be read"],
  [
    "claims 2^63 tensors",
    { ...tiny, tensorCount: 2n ** 63n },
    "tensor count: 9223372036854775808; the 62912 bytes of the file have room for 1905",
  ],
  [
    "claims 2^32 keys",
    { ...tiny, pairCount: 2n ** 32n },
    "key count: 4294967296; the 62912 bytes of the file have room for 4492",
  ],
  [
    "lacks a tensor",
    withTensors((t) => (t.name === "blk.0.ffn_up.weight" ? null : t)),
    "tensor blk.0.ffn_up.weight: missing; the architecture needs it",
  ],
  [
    "has a tensor of another shape",
    withTensors((t) => (t.name === "blk.0.attn_k.weight" ? { ...t, dims: [16, 32] } : t)),
    "tensor blk.0.attn_k.weight: dims: 16 x 32; the configuration says 32 x 16",
  ],
  [
    "has heads that do not divide the width",
    withPairs([["llama.attention.head_count", "u32", 3]]),
    "llama.attention.head_count: 3; a divisor of llama.embedding_length, which is 32",
  ],
  [
    "has key heads that do not divide the heads",
    withPairs([
      ["llama.attention.head_count", "u32", 4],
      ["llama.attention.head_count_kv", "u32", 3],
    ]),
    "llama.attention.head_count_kv: 3; a divisor of llama.attention.head_count, which is 4",
  ],
  [
    "claims 10^9 blocks",
    withPairs([["llama.block_count", "u32", 1_000_000_000]]),
    "llama.block_count: 1000000000; 1 to 1024",
  ],
  [
    "has a vocabulary without tokens",
    withPairs([["tokenizer.ggml.tokens", "string", []]]),
    "tokenizer.ggml.tokens: no tokens; at least one is needed",
  ],
  [
    "has fewer tokens than embeddings",
    withPairs([
      ["tokenizer.ggml.tokens", "string", ["a", "b"]],
      ["tokenizer.ggml.token_type", null],
      ["tokenizer.ggml.bos_token_id", null],
      ["tokenizer.ggml.eos_token_id", null],
    ]),
    "tokenizer.ggml.tokens: 2 tokens; token_embd.weight has a row for each of 258",
  ],
  [
    "is of an unknown architecture",
    withPairs([["general.architecture", "string", "rwkv"]]),
    'general.architecture: "rwkv"; known: llama, qwen2',
  ],
];

describe("a model file that", () => {
  test.each(DAMAGED)("%s is refused by run and inspect", (name, file, reason) => {
    const path = place(`${name}.gguf`, file);
    const expected = { code: 1, out: "", err: `lutra: ${path}: ${reason}\n` };
    expect(lutra(["run", path, "the"])).toEqual(expected);
    expect(lutra(["inspect", path])).toEqual(expected);
  });

  test("has a tensor of an unknown type is refused with the known types", () => {
    const path = place(
      "type.gguf",
      withTensors((t) => (t.name === "blk.0.attn_q.weight" ? { ...t, type: 4711 } : t)),
    );
    const { code, err } = lutra(["inspect", path]);
    expect(code).toBe(1);
    // The list grows with the language.
    const [before, known] = err.split("; types are ");
    expect(before).toBe(`lutra: ${path}: tensor "blk.0.attn_q.weight": type 4711`);
    expect(known).toMatch(/^(\d+ \w+, )+\d+ \w+\n$/);
    expect(known).toContain("0 F32, ");
  });

  test("does not exist, or is a directory, is refused by its whole path", () => {
    const missing = join(folder, "missing.gguf");
    expect(lutra(["run", missing, "x"])).toEqual({ code: 1, out: "", err: `lutra: ${missing}: no such file\n` });
    const directory = join(folder, "directory.gguf");
    mkdirSync(directory);
    const err = `lutra: ${directory}: is a directory; name a file in it\n`;
    expect(lutra(["run", directory, "x"])).toEqual({ code: 1, out: "", err });
  });

  test("may not be read is refused as such", (context) => {
    const path = place("secret.gguf", tiny);
    chmodSync(path, 0);
    chmodSync(folder, 0o755);
    // The superuser may read everything, so that it takes another user to see the error.
    const user = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
    const { code, err } = lutra(["run", path, "x"], user);
    if (code === null) context.skip("the program cannot be run as another user here");
    expect([code, err]).toEqual([1, `lutra: ${path}: no permission to read it\n`]);
  });

  test("has weights that are no numbers ends in an error, and not in text", () => {
    const bytes = new Uint8Array(new Float32Array(32).fill(NaN).buffer);
    const path = place(
      "nan.gguf",
      withTensors((t) => (t.name === "output_norm.weight" ? { ...t, bytes } : t)),
    );
    const err = "the logit of token 0 is NaN; the model file is damaged, or its weights are too large for its type\n";
    expect(lutra(["run", path, "x", "--device", "reference"])).toEqual({
      code: 1,
      out: "",
      err: `lutra: ${path}: ${err}`,
    });
    const text = place("long.txt", "x".repeat(200));
    expect(lutra(["eval", "perplexity", path, text, "--ctx", "16", "--device", "reference"])).toEqual({
      code: 1,
      out: "",
      err: `lutra: ${path}: ${err.replace("the logit of token 0", "a logit")}`,
    });
  });
});

testWith(loadAddon(), "a matrix in a type that models do not have runs on the CPU backend as on the reference", () => {
  const path = place(
    "integers.gguf",
    withTensors((t) => (t.name === "blk.0.ffn_up.weight" ? { ...t, type: 24, bytes: new Uint8Array(32 * 32) } : t)),
  );
  const [cpu, reference] = ["cpu", "reference"].map((device) =>
    lutra(["run", path, "x", "--device", device, "--max-tokens", "1", "--temperature", "0"]),
  );
  expect(cpu).toMatchObject({ code: 0, out: reference?.out });
});

describe("a prompt that", () => {
  const empty = 'lutra: the prompt is empty; write a text behind the model, as in lutra run model.gguf "Once"\n';

  test("is empty is refused, as an argument and from stdin", () => {
    expect(lutra(["run", ""])).toEqual({ code: 1, out: "", err: empty });
    expect(lutra(["run", ""], { env: { LUTRA_MODELS: folder } })).toEqual({ code: 1, out: "", err: empty });
    expect(lutra(["run", embeddedModel])).toEqual({ code: 1, out: "", err: empty });
    expect(lutra(["run", embeddedModel, "-"], { input: "\n" })).toEqual({ code: 1, out: "", err: empty });
  });

  test("is longer than the context is refused with both lengths", () => {
    const path = place("tiny.gguf", tiny);
    const reason =
      "the prompt has 101 tokens, but the context has room for 64; shorten the prompt or make the context larger (--ctx)";
    expect(lutra(["run", path, "x".repeat(100)])).toEqual({ code: 1, out: "", err: `lutra: ${reason}\n` });
    expect(lutra(["run", path, "x".repeat(100), "--ctx", "128", "--max-tokens", "1"]).code).toBe(0);
  });

  test("is no UTF-8 is refused", () => {
    const err = "lutra: stdin: bytes that are no UTF-8; the prompt is text in UTF-8\n";
    expect(lutra(["run", "-"], { input: Buffer.of(0x61, 0xff) })).toEqual({ code: 1, out: "", err });
  });
});

describe("other input that cannot be used", () => {
  test("is a text of fewer than two chunks, or no text", () => {
    const text = place("short.txt", "Emma was not");
    const { code, err } = lutra(["eval", "perplexity", embeddedModel, text]);
    expect(code).toBe(1);
    expect(err).toBe(
      "lutra: the text has 4 tokens; two chunks of 256 need 512: use a longer text or a smaller context\n",
    );
    expect(lutra(["eval", "perplexity", embeddedModel, embeddedModel])).toEqual({
      code: 1,
      out: "",
      err: `lutra: ${embeddedModel}: bytes that are no UTF-8; a text in UTF-8 is needed\n`,
    });
  });

  test("is a system message for a model without a chat template", () => {
    const err = `lutra: --system: ${embeddedModel} has no chat template, so that there is no place for it; put it into the prompt\n`;
    expect(lutra(["run", "Emma", "--system", "Be brief."])).toEqual({ code: 1, out: "", err });
  });

  test("is a device that is not there", () => {
    // A folder without drivers, of which Vulkan's loader complains itself.
    const { code, out, err } = lutra(["run", "Emma", "--device", "gpu"], { env: { VK_DRIVER_FILES: "/nowhere.json" } });
    expect([code, out]).toEqual([1, ""]);
    expect(err.split("\n").at(-2)).toBe(
      "lutra: device gpu: no adapter: no Vulkan, Metal or D3D12 driver answers; Debian and Ubuntu: apt-get install " +
        "mesa-vulkan-drivers libvulkan1, which compute on the CPU where there is no GPU",
    );
  });
});

test("--verbose adds the place in the program to an error", () => {
  const { code, err } = lutra(["run", "missing.gguf", "x", "--verbose"], { cwd: folder });
  const [line, name, place_] = err.split("\n");
  expect(code).toBe(1);
  expect(line).toBe(`lutra: ${join(folder, "missing.gguf")}: no such file`);
  expect(name).toBe(`FileError: ${join(folder, "missing.gguf")}: no such file`);
  expect(place_).toMatch(/^ {4}at /);
});
