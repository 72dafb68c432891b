// lutra quantize as people call it: types that nobody listed end to end, sizes and errors as they are told, and no file
// at all after an error or Ctrl-C.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { describe, expect, test } from "vitest";

import { standardTexts } from "../../src/files.ts";
import { type Gguf, readGguf } from "../../src/model/gguf.ts";
import { standardProgram } from "../../src/library.ts";
import { load } from "../model/types.ts";
import { embeddedModel, models, python, testWith } from "../oracle/oracle.ts";
import { cli, folder, lutra, place, startLutra } from "./lutra.ts";
import { tiny, withTensors } from "./tiny-model.ts";

/** What a person would write: 3-bit codes in two fields with one scale. */
const own3 = place(
  "own3.ladder",
  `import "float.ladder"
import "int.ladder"

block OWN3[32] {
  d    : F16
  low  : U8[8]
  high : U8[4]
  code q[i < 32] = high[i div 8].bits(i mod 8 +: 1) ++ low[i div 4].bits(2 * (i mod 4) +: 2)
  value[i] = d * (q[i] - 4)
}
`,
);

/** 4-bit codes in groups of 16 with sub-scales of 4 bits, in a file that imports a neighbour. */
const own64 = place(
  "own64.ladder",
  `import "float.ladder"
import "bytes.ladder"

block OWN64[64] {
  d  : F16
  sc : BYTE[2]
  qs : BYTE[32]
  code s[g < 4] = sc[g div 2].bits(4 * (g mod 2) +: 4)
  code q[i < 64] = qs[i mod 32].bits(4 * (i div 32) +: 4)
  value[i] = d * s[i div 16] * (q[i] - 8)
}
`,
);
place("bytes.ladder", "element BYTE = int(bits: 8, coding: unsigned)\n");

/** 6-bit floats, which have no integer structure. */
const own6 = place(
  "own6.ladder",
  `import "float.ladder"
block OWN6[32] {
  d : F16
  q : E3M2[32]
  value[i] = d * q[i]
}
`,
);

const tinyModel = place("tiny.gguf", tiny);

function open(path: string): Gguf {
  return readGguf(load(path), standardProgram(), load);
}

interface TypeReport {
  readonly type: string;
  readonly tensors: number;
  readonly relative_error: number | null;
}

function quantized(input: string, name: string, ...args: readonly string[]): { path: string; types: TypeReport[] } {
  const path = join(folder, name);
  const { code, out, err } = lutra(["quantize", input, path, "--json", ...args]);
  expect([code, err.split("\n").length], err).toEqual([0, 2]);
  const report = JSON.parse(out) as { types: TypeReport[]; bytes_after: number; bits_per_weight_after: number };
  expect(Math.abs(statSync(path).size - report.bytes_after)).toBeLessThan(200_000);
  return { path, types: report.types };
}

function generated(model: string, device: string, tokens = 12): string {
  const args = ["run", model, "Emma was", "--temperature", "0", "--max-tokens", String(tokens), "--device", device];
  const { code, out, err } = lutra(args);
  expect(code, err).toBe(0);
  return out;
}

function perplexityOf(model: string, device: string, tokens: number): number {
  const text = place(
    "austen.txt",
    "It was a very good sort of thing to be done, and Emma was not at all sorry. ".repeat(60),
  );
  const args = ["eval", "perplexity", model, text, "--ctx", "32", "--tokens", String(tokens), "--json"];
  const { code, out, err } = lutra([...args, "--device", device]);
  expect(code, err).toBe(0);
  return (JSON.parse(out) as { perplexity: number }).perplexity;
}

describe("a type that nobody listed", () => {
  test("holds the ternary model as it is in 3 bits, and runs as before on both backends", () => {
    const { path, types } = quantized(embeddedModel, "own3.gguf", "--type", "OWN3", "--types-from", own3);
    expect(types).toMatchObject([
      { type: "Q8_0", tensors: 1, relative_error: null },
      { type: "F32", tensors: 13, relative_error: null },
      { type: "OWN3", tensors: 42, relative_error: 0 },
    ]);
    expect(perplexityOf(path, "reference", 64)).toBe(perplexityOf(embeddedModel, "reference", 64));
    // The kernels round activations once more on the way, differently for ternary codes.
    expect(perplexityOf(path, "cpu", 640) / perplexityOf(embeddedModel, "cpu", 640)).toBeCloseTo(1, 2);
    expect(generated(path, "cpu")).toBe(generated(embeddedModel, "cpu"));
    const { out, err } = lutra(["inspect", path]);
    expect(err).toBe("");
    expect(out).toMatch(/^OWN3 +42 +4\.719 M +2\.0 MiB$/m);
  });

  test("with sub-scales costs next to nothing", () => {
    const { path, types } = quantized(embeddedModel, "own64.gguf", "--type", "OWN64", "--types-from", own64);
    expect(types.at(-1)).toMatchObject({ type: "OWN64", tensors: 42 });
    expect(types.at(-1)!.relative_error).toBeLessThan(1e-6);
    expect(perplexityOf(path, "cpu", 640) / perplexityOf(embeddedModel, "cpu", 640)).toBeCloseTo(1, 2);
    expect(perplexityOf(path, "reference", 64) / perplexityOf(embeddedModel, "reference", 64)).toBeCloseTo(1, 2);
  });

  test("of floats runs too", () => {
    const { path, types } = quantized(embeddedModel, "own6.gguf", "--type", "OWN6", "--types-from", own6);
    expect(types.at(-1)!.relative_error).toBe(0);
    expect(perplexityOf(path, "reference", 64)).toBe(perplexityOf(embeddedModel, "reference", 64));
  });

  test("is carried by the file, with all that its text imports", () => {
    const path = join(folder, "carried.gguf");
    expect(lutra(["quantize", tinyModel, path, "--type", "OWN64", "--types-from", own64]).code).toBe(0);
    const { metadata, tensors } = open(path);
    // Rows of 32 do not fit a block of 64: nothing is in the type, which is carried all the same.
    expect([...tensors.values()].map(({ type }) => type.name)).not.toContain("OWN64");
    const keys = metadata.keys.filter((key) => key.startsWith("lutra."));
    expect(keys).toEqual([
      "lutra.ladder.type.19456",
      "lutra.ladder.source.own64.ladder",
      "lutra.ladder.source.float.ladder",
      "lutra.ladder.source.bytes.ladder",
    ]);
    expect(metadata.string("lutra.ladder.source.own64.ladder")).toBe(readFileSync(own64, "utf8"));
    const float = standardTexts().find(({ name }) => name === "float.ladder")!;
    expect(metadata.string("lutra.ladder.source.float.ladder")).toBe(float.text);
  });

  test("can be the input, and leaves nothing of itself in the output", () => {
    const { path } = quantized(
      tinyModel,
      "tiny3.gguf",
      "--type",
      "OWN3",
      "--types-from",
      own3,
      "--embedding-type",
      "OWN3",
    );
    expect(generated(path, "cpu", 4)).toBe(generated(path, "reference", 4));
    const again = quantized(path, "again.gguf", "--type", "Q5_0");
    expect(again.types.map(({ type }) => type).toSorted()).toEqual(["F32", "Q5_0", "Q8_0"]);
    expect(open(again.path).metadata.keys.filter((key) => key.startsWith("lutra."))).toEqual([]);
  });
});

describe("a standard type", () => {
  testWith(python(), "gives a file that Python's gguf reads as we do", (oracle) => {
    const { path } = quantized(embeddedModel, "q4k.gguf", "--type", "Q4_K", "--output-type", "Q6_K");
    const script = `
import json, gguf
from gguf import quants
r = gguf.GGUFReader(${JSON.stringify(path)})
print(json.dumps([[t.name, t.tensor_type.name, float(abs(quants.dequantize(t.data, t.tensor_type)).sum())] for t in r.tensors]))`;
    const theirs = JSON.parse(oracle.run(script).toString()) as [string, string, number][];
    const before = open(embeddedModel);
    const after = open(path);
    expect(theirs.map(([name, type]) => [name, type])).toEqual(
      [...after.tensors.values()].map(({ name, type }) => [name, type.name]),
    );
    expect([...after.tensors.keys()]).toEqual([...before.tensors.keys()]);
    expect(new Set(theirs.map(([, type]) => type))).toEqual(new Set(["Q6_K", "Q4_K", "F32"]));
    for (const [name, , sum] of theirs) expect(sum, name).toBeGreaterThan(0);
  });

  test("is the same whatever the number of threads", () => {
    const one = quantized(embeddedModel, "one.gguf", "--type", "Q4_0", "--threads", "1");
    const three = quantized(embeddedModel, "three.gguf", "--type", "Q4_0", "--threads", "3");
    expect(Buffer.compare(readFileSync(one.path), readFileSync(three.path))).toBe(0);
  });

  test("that a file is in already is copied", () => {
    const { path, types } = quantized(embeddedModel, "same.gguf", "--type", "TQ2_0");
    expect(types.every((type) => type.relative_error === null)).toBe(true);
    const [before, after] = [open(embeddedModel), open(path)];
    for (const tensor of before.tensors.values()) {
      const copy = after.tensors.get(tensor.name)!;
      expect(
        Buffer.compare(after.weights.read(copy, 0, copy.byteLength), before.weights.read(tensor, 0, tensor.byteLength)),
        tensor.name,
      ).toBe(0);
    }
  });

  test("is told with sizes and errors, for people", async () => {
    const path = join(folder, "told.gguf");
    const { code, out, err } = lutra(["quantize", embeddedModel, path, "--type", "Q4_K"]);
    expect(code).toBe(0);
    await expect(out).toMatchFileSnapshot("../golden/app/quantize-austen.txt");
    expect(err).toMatch(/^\d+\.\d s, \d+ threads?, peak memory \d+ MiB\n$/);
  });

  test("whose block some rows do not fit is noted, in one line for each length", () => {
    const { code, err } = lutra(["quantize", tinyModel, join(folder, "misfit.gguf"), "--type", "Q4_K"]);
    expect(code).toBe(0);
    expect(err.split("\n")[0]).toBe(
      "note: rows of 32 are no multiple of Q4_K's block of 256: become Q8_0: blk.0.attn_q.weight, " +
        "blk.0.attn_k.weight, blk.0.attn_v.weight and 4 more",
    );
  });
});

test("--help is what the golden file shows", async () => {
  const { out } = lutra(["quantize", "--help"]);
  await expect(out).toMatchFileSnapshot("../golden/app/help-quantize.txt");
  for (const line of out.split("\n")) expect(line.length, line).toBeLessThanOrEqual(110);
});

describe("wrong usage ends with exit code 2:", () => {
  const seeHelp = "see lutra quantize --help";
  test.each([
    [[], `no model; ${seeHelp}`],
    [["a.gguf"], `no name for the new file; ${seeHelp}`],
    [["a.gguf", "b.gguf"], "--type: no value; name the type that the matrices shall have"],
    [
      [tinyModel, "b.gguf", "--type", "NF4"],
      '--type: "NF4" is an element; models are stored in blocks, or elements of whole bytes',
    ],
    [
      [tinyModel, "b.gguf", "--type", "GPTQ4"],
      '--type: "GPTQ4" is a format of whole matrices; models are stored in blocks',
    ],
    [[tinyModel, "b.gguf", "--type", "Q4_O"], '--type: there is no type "Q4_O"; did you mean "Q4_0"?'],
    [
      [tinyModel, "b.gguf", "--type", "Q4_0", "--output-type", "Q8_O"],
      '--output-type: there is no type "Q8_O"; did you mean "Q8_0"?',
    ],
    [
      [tinyModel, "b.gguf", "--type", "OWN4", "--types-from", own3],
      '--type: there is no type "OWN4"; did you mean "OWN3"?',
    ],
  ])("lutra quantize %j", (args, reason) => {
    expect(lutra(["quantize", ...args])).toEqual({ code: 2, out: "", err: `lutra: ${reason}\n` });
  });
});

describe("is refused, and nothing is written:", () => {
  const empty = join(folder, "empty");
  mkdirSync(empty);
  const out = join(empty, "out.gguf");
  const expectRefused = (args: readonly string[], err: string | RegExp): void => {
    const ended = lutra(["quantize", ...args]);
    expect([ended.code, ended.out]).toEqual([1, ""]);
    if (typeof err === "string") expect(ended.err).toBe(`lutra: ${err}\n`);
    else expect(ended.err).toMatch(err);
    expect(readdirSync(empty)).toEqual([]);
  };

  test("a weight that is not finite", () => {
    const path = place(
      "nan.gguf",
      withTensors((t) => {
        if (t.name !== "blk.0.attn_q.weight") return t;
        const values = new Float32Array(t.bytes.slice().buffer);
        values[100] = Number.NaN;
        return { ...t, bytes: new Uint8Array(values.buffer) };
      }),
    );
    expectRefused(
      [path, out, "--type", "Q4_0"],
      `${path}: tensor "blk.0.attn_q.weight": value 100 (row 3, column 4) is not finite; weights are finite numbers`,
    );
  });

  test("an output that is the input, is a folder, or has none", () => {
    expectRefused(
      [tinyModel, tinyModel, "--type", "Q4_0"],
      `${tinyModel}: is the input too; name another file for the output`,
    );
    expectRefused([tinyModel, empty, "--type", "Q4_0"], `${empty}: is a directory; name a file in it`);
    const none = join(empty, "none");
    expectRefused(
      [tinyModel, join(none, "out.gguf"), "--type", "Q4_0"],
      `${none}/out.gguf: there is no folder ${none}; make it first`,
    );
  });

  test("a disk that takes no more", () => {
    // The limit is in blocks of 512 bytes; it takes the same way through the program as a disk that is full.
    const command = 'ulimit -f 1000; exec "$0" "$@"';
    const args = [process.execPath, cli, "quantize", embeddedModel, out, "--type", "Q4_0"];
    const { status, stderr } = spawnSync("sh", ["-c", command, ...args], { encoding: "utf8", timeout: 60_000 });
    expect(stderr).toBe(`lutra: ${out}: the file is larger than the system allows; nothing was written\n`);
    expect(status).toBe(1);
    expect(readdirSync(empty)).toEqual([]);
  });

  test("a text of types that is wrong, with all that is wrong in it", () => {
    const path = place("wrong.ladder", 'import "float.ladder"\nblock X[4] {\n  d : F61\n  value[i] = d * e\n}\n');
    expectRefused(
      [tinyModel, out, "--type", "X", "--types-from", path],
      /^wrong\.ladder:3:7: error\[unknown-name\]: there is no element F61\n {3}3 \| {3}d : F61\n[^]*wrong\.ladder:4:/,
    );
  });

  test("a text that is not there", () => {
    expectRefused(
      [tinyModel, out, "--type", "X", "--types-from", join(folder, "no.ladder")],
      `${folder}/no.ladder: no such file`,
    );
  });

  test("a type with an id that ggml gives to another", () => {
    const path = place(
      "taken.ladder",
      'import "int.ladder"\n@gguf(2)\nblock X[4] {\n  x : U8[4]\n  value[i] = x[i]\n}\n',
    );
    expectRefused(
      [tinyModel, out, "--type", "X", "--types-from", path],
      "X: @gguf(2) is the id of Q4_0; leave it out, the file gives X one",
    );
  });

  test("a type whose values cannot be chosen", () => {
    const path = place(
      "halves.ladder",
      'import "int.ladder"\nblock X[4] {\n  x : U8[2]\n  code q[i < 4] = x[i div 2].bits(0 +: 8)\n  value[i] = q[i]\n}\n',
    );
    expectRefused(
      [tinyModel, out, "--type", "X", "--types-from", path],
      "cannot quantize to X: its values 0, 1 cannot be chosen freely",
    );
  });
});

testWith(models(), "Ctrl-C ends it with 130 and takes away what was written", async ({ smollm2 }) => {
  const own = join(folder, "interrupted");
  mkdirSync(own);
  const out = join(own, "out.gguf");
  const { child, ended } = startLutra(["quantize", smollm2, out, "--type", "Q4_0"]);
  const partSize = (): number => {
    const [part] = readdirSync(own);
    return part === undefined ? 0 : statSync(join(own, part)).size;
  };
  for (let waited = 0; waited < 60_000 && partSize() < 40_000_000; waited += 50) await setTimeout(50);
  const [part] = readdirSync(own);
  expect(part).toMatch(/^\.lutra-[0-9a-f]{8}\.part$/);
  expect(basename(out)).not.toBe(part);
  child.kill("SIGINT");
  const { code, out: text, err } = await ended;
  expect([code, text, err]).toEqual([130, "", "interrupted; nothing was written\n"]);
  expect(readdirSync(own)).toEqual([]);
  expect(existsSync(out)).toBe(false);
});
