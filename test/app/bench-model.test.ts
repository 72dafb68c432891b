// lutra bench model and bench compare: what they print and refuse, that random models are models, and that both sides
// of a comparison compute the same product. The figures themselves are not tested, since machines differ.

import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import type { CaseLine } from "../../src/app/bench-model.ts";
import { type Product, productData, timeLutra, timeOnnx } from "../../src/app/bench-product.ts";
import { loadAddon } from "../../src/cpu/native.ts";
import { findType, standardProgram } from "../../src/library.ts";
import { load } from "../../src/load.ts";
import { ggufSize } from "../../src/model/gguf-writer.ts";
import { type Shape, SHAPES, synthetic } from "../../src/model/synthetic.ts";
import { openReference } from "../../src/reference.ts";
import { softwareGpu } from "../gpu.ts";
import { llama, testWith } from "../oracle/oracle.ts";
import { folder, lutra, place, root } from "./lutra.ts";

const standard = standardProgram();
const onnxruntime = join(root, "test/oracle/node_modules/onnxruntime-node/dist/index.js");

/** A llama of some 300 kB that is otherwise like those of SHAPES. */
const SMALL: Shape = {
  about: "nothing known",
  width: 256,
  blocks: 2,
  heads: 4,
  kvHeads: 2,
  feedForward: 512,
  vocabulary: 400,
  isTied: true,
  ropeBase: 10_000,
  context: 64,
};

async function write(name: string, shape: Shape, typeName: string): Promise<string> {
  const found = findType(typeName, null, standard);
  if (found.kind !== "standard" && found.kind !== "carried") throw new Error(`no type ${typeName}`);
  const carried = found.kind === "carried" ? { texts: found.texts, types: [found.type] } : null;
  const model = synthetic(shape, found.type, carried, standard);
  const pieces: Uint8Array[] = [];
  for await (const piece of model.pieces()) pieces.push(piece);
  const bytes = Buffer.concat(pieces);
  expect(bytes.length).toBe(ggufSize(model.content));
  return place(name, bytes);
}

/** The distribution over the vocabulary after some tokens. */
async function logitsOf(path: string): Promise<Float32Array> {
  await using backend = openReference();
  const model = load(path, { context: 8 });
  await using session = await backend.prepare(model.plan, model.weights);
  const [logits] = await session.step([{ slot: 0, pos: 0, tokens: Int32Array.of(1, 300, 17), logits: "last" }]);
  model.close();
  return logits!;
}

describe("a model of random weights", () => {
  test.each(["Q4_0", "Q2_K", "TQ1_0", "F16", "OCP_MXFP4"])(
    "in %s runs, with logits that are numbers and differ",
    async (type) => {
      const path = await write(`random-${type}.gguf`, SMALL, type);
      const model = load(path);
      expect(model.tensors.get("blk.1.ffn_down.weight")?.type.name).toBe(type);
      expect(model.tensors.get("token_embd.weight")?.type.name).toBe(type === "F16" ? "F16" : "Q6_K");
      expect((await model.tokenizer()).pieces).toHaveLength(SMALL.vocabulary);
      model.close();
      const logits = await logitsOf(path);
      expect(logits.every(Number.isFinite)).toBe(true);
      expect(new Set(logits).size).toBeGreaterThan(SMALL.vocabulary / 2);
    },
  );

  test("has a head of its own where its shape says so", async () => {
    const model = load(await write("untied.gguf", { ...SMALL, isTied: false }, "Q4_0"));
    expect(model.tensors.get("output.weight")?.shape).toEqual([SMALL.vocabulary, SMALL.width]);
    model.close();
  });

  testWith(llama(), "is one for llama.cpp too, which finds the same token likeliest", async (peer) => {
    const path = await write("random-peer.gguf", SMALL, "Q8_0");
    const logits = await logitsOf(path);
    const [first] = peer.greedy(path, [1, 300, 17], 1, 1);
    // llama.cpp rounds activations to 8 bits: it may take another token only where that is about as likely.
    const deviation = Math.sqrt(logits.reduce((sum, x) => sum + x * x, 0) / logits.length);
    expect(logits[first!]).toBeGreaterThan(Math.max(...logits) - 0.05 * deviation);
  });

  test("is refused where rows do not fit blocks", () => {
    const { type } = findType("Q4_K", null, standard) as { type: Parameters<typeof synthetic>[1] };
    expect(() => synthetic(SHAPES["135M"]!, type, null, standard)).toThrow(
      "blk.0.attn_q: rows of 576 are no multiple of Q4_K's block of 256; take another shape",
    );
  });
});

describe("lutra bench model", () => {
  testWith(loadAddon(), "--json has a line for each case, and the figures agree with each other", () => {
    const before = readdirSync(tmpdir()).filter((name) => name.startsWith("lutra-bench-"));
    const path = "models/austen-5m-ternary.gguf";
    const args = ["--threads", "1", "--runs", "1", "--prompt", "5", "--tokens", "4", "--json"];
    const { code, out, err } = lutra(["bench", "model", join(root, path), ...args]);
    expect([code, err]).toEqual([0, ""]);
    const lines = out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as CaseLine);
    expect(lines.map((line) => [line.case, line.unit])).toEqual([
      ["load", "ms"],
      ["prefill 5", "tokens/s"],
      ["decode 4", "tokens/s"],
    ]);
    for (const line of lines) expect(line).toMatchObject({ threads: 1, peer: null, theirs: null, ratio: null });
    const decode = lines[2]!;
    // 6 blocks of 256 x 768 twice and back, 4 x 64 and 2 x 2 x 64 columns of attention, 2.0625 bits; 8.5 of the head.
    const ternary = 6 * 256 * (3 * 768 + 2 * 256 + 2 * 128) * (66 / 256);
    expect(decode.bytes_per_token).toBeLessThanOrEqual(ternary + 2048 * 256 * (34 / 32));
    expect(decode.bytes_per_token).toBeGreaterThan(ternary * 0.7);
    expect(decode.share).toBeCloseTo((decode.bytes_per_token! * decode.ours) / 1e9 / decode.read_gbps!, 9);
    expect(decode.energy).toBeDefined();
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith("lutra-bench-"))).toEqual(before);
  });

  test.each([
    [["--shape", "135m"], '--shape: "135m"; did you mean "135M"?'],
    [["--shape", "xyz"], '--shape: "xyz"; 135M, 135M-256, 1B, 7B'],
    [["--shape", "1B", "x.gguf"], '--shape 1B: there is a model file too, "x.gguf"; name one of them'],
    [["--type", "Q4_0"], "--type: it belongs to --shape; a file has its types already"],
    [["--shape", "1B", "--type", "Q4_O"], '--type: there is no type "Q4_O"; did you mean "Q4_0"?'],
    [
      ["a.gguf", "b.gguf"],
      'unexpected argument "b.gguf"; put quotes around text with spaces; see lutra bench model --help',
    ],
  ])("%j is wrong usage", (args, message) => {
    expect(lutra(["bench", "model", ...args])).toEqual({ code: 2, out: "", err: `lutra: ${message}\n` });
  });

  test("names what cannot be measured", () => {
    expect(lutra(["bench", "model", "--shape", "135M", "--type", "Q4_K"])).toEqual({
      code: 1,
      out: "",
      err: "lutra: blk.0.attn_q: rows of 576 are no multiple of Q4_K's block of 256; take another shape\n",
    });
  });
});

describe("lutra bench compare", () => {
  test.each([
    [["gemv", "--bits", "3"], "--bits: 3; 2, 4 or 8"],
    [["gemv", "--block", "48"], "--block: 48; 16, 32, 64, 128 or 256"],
    [["gemm", "--k", "100"], "--k: 100; a multiple of the block, which is 128"],
    [["layers", "--shape", "1B"], "--shape 1B: layers are those of 7B; leave it out"],
  ])("%j is wrong usage", (args, message) => {
    expect(lutra(["bench", "compare", ...args])).toEqual({ code: 2, out: "", err: `lutra: ${message}\n` });
  });

  testWith(loadAddon(), "prints Lutra's own figures where a peer is not installed, and how to install it", () => {
    const shape = ["--bits", "8", "--block", "32", "--m", "64", "--k", "64", "--threads", "1", "--rounds", "1"];
    const { code, out, err } = lutra(["bench", "compare", "gemv", ...shape, "--peers", folder, "--json"]);
    expect([code, err]).toEqual([0, ""]);
    const line = JSON.parse(out) as CaseLine;
    expect(line).toMatchObject({ case: "gemv W8 g32 64 x 64", unit: "us", theirs: null, ratio: null });
    expect(line.ours).toBeGreaterThan(0);
    expect(line.peer).toEqual({
      unavailable:
        `onnxruntime-node is not installed in ${folder}: npm install onnxruntime-node there, or in a checkout ` +
        "node test/oracle/setup.mjs; --peers names another folder",
    });
  });

  testWith(loadAddon(), "ends with what a peer says where it fails", () => {
    const home = join(folder, "broken/node_modules/onnxruntime-node");
    mkdirSync(home, { recursive: true });
    writeFileSync(join(home, "package.json"), '{"version": "0.0.1", "main": "index.js"}');
    writeFileSync(join(home, "index.js"), 'throw new Error("no such processor");');
    const shape = ["--m", "32", "--k", "128", "--threads", "1", "--rounds", "1", "--peers", join(folder, "broken")];
    const { code, out, err } = lutra(["bench", "compare", "gemv", ...shape]);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toBe("lutra: a round ended with exit status 1: no such processor\n");
  });

  const runtime = findOnnx();
  const cases = [2, 4, 8].flatMap((bits) => [32, 128].map((block) => ({ bits, block })));
  const sides = [
    ...cases.map((one) => ({ ...one, device: "cpu", activations: "int8" })),
    ...["int8", "f32"].flatMap((activations) =>
      cases.filter(({ bits }) => bits < 8).map((one) => ({ ...one, device: "gpu", activations })),
    ),
  ];
  const driver = softwareGpu("lavapipe");
  for (const { bits, block, device, activations } of sides)
    testWith(
      device === "gpu" && "unavailable" in driver ? driver : runtime,
      `${device}, ${bits} bits, blocks of ${block}, ${activations}: both sides compute the product of the same numbers`,
      async ({ main }) => {
        const product: Product = { bits, block, n: 96, k: 256, batch: 3, threads: 1, device, activations };
        const data = productData(product);
        const { n, k, batch } = product;
        const addon = loadAddon();
        const ours = device === "cpu" && "unavailable" in addon ? null : await timeLutra(product, data);
        const theirs = await timeOnnx(product, data, main);
        for (const times of [theirs, ...(ours === null ? [] : [ours])]) {
          expect(times.us).toBeGreaterThan(0);
          expect(times.out).toHaveLength(batch * n);
          for (let t = 0; t < batch; t++)
            for (let row = 0; row < n; row++) {
              let want = 0;
              let bound = 0;
              for (let b = 0; b < k / block; b++) {
                const scale = data.scaleValues[row * (k / block) + b]!;
                let largest = 0;
                let weights = 0;
                for (let i = b * block; i < (b + 1) * block; i++) {
                  const bit = (row * k + i) * bits;
                  const level = ((data.codes[bit >> 3]! >> (bit % 8)) & (2 ** bits - 1)) - 2 ** (bits - 1);
                  const x = data.x[t * k + i]!;
                  want += scale * level * x;
                  weights += scale * Math.abs(level);
                  largest = Math.max(largest, Math.abs(x));
                }
                // Activations are int8 with a scale for a block at most: off by half a step, and roundings of f32.
                bound += weights * (largest / 127 / 2 + largest * k * 2 ** -24);
              }
              expect(Math.abs(times.out[t * n + row]! - want)).toBeLessThanOrEqual(bound);
            }
        }
      },
    );
});

function findOnnx(): { readonly main: string } | { readonly unavailable: string } {
  try {
    readdirSync(join(onnxruntime, "../.."));
    return { main: onnxruntime };
  } catch {
    return { unavailable: "no onnxruntime-node: run node test/oracle/setup.mjs" };
  }
}
