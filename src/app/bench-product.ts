// The product of one low-bit matrix with some vectors, timed in Lutra and in ONNX Runtime: the same codes, scales and
// activations, one call from JavaScript a product, the matrix the same each time, the whole result handed back.
// Not here: rotations through memory (native/bench.cpp), the comparison (bench-compare.ts).

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import type { WeightSource, WeightTensor } from "../backend.ts";
import { createFile, openFile, standardTexts } from "../files.ts";
import { resolveProgram } from "../ladder/resolve.ts";
import type { Type } from "../ladder/type.ts";
import { open } from "../open.ts";
import { makePlan, type Plan } from "../plan.ts";
import { matMulNBits } from "./onnx.ts";

export interface Product {
  /** 2, 4 or 8, and the zero point 2^(bits - 1). */
  readonly bits: number;
  /** Weights that share a scale: a power of two from 16 on, as ONNX Runtime has it. */
  readonly block: number;
  readonly n: number;
  readonly k: number;
  /** Vectors at once. */
  readonly batch: number;
  readonly threads: number;
  readonly device: string;
  /** What vectors may be rounded to: codes of eight bits, or nothing. The CPU backend always has the former. */
  readonly activations: string;
}

export interface ProductTimes {
  /** The median of the calls, in microseconds. */
  readonly us: number;
  /** (batch, n) of the last call. */
  readonly out: Float32Array;
}

/** What both sides compute with. */
export interface ProductData {
  /** (n, k / block, block * bits / 8), codes from the low bits up. */
  readonly codes: Uint8Array;
  /** (n, k / block), each an f16. */
  readonly scales: Uint16Array;
  /** The same as numbers. */
  readonly scaleValues: Float32Array;
  /** (batch, k) in [-1, 1). */
  readonly x: Float32Array;
}

/** Calls are repeated for so long, and so often at least. */
const TIMED_MS = 500;
const LEAST_CALLS = 5;
/** Calls that do not count. */
const WARM_UP = 3;

export function productData({ bits, block, n, k, batch }: Product): ProductData {
  let state = 1;
  const random = (): number => {
    state ^= state << 13; // Marsaglia, "Xorshift RNGs" (2003)
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>>= 0);
  };
  const codes = new Uint8Array((n * k * bits) / 8);
  for (let i = 0; i < codes.length; i++) codes[i] = random() >>> 24;
  // Halves with exponent -8, so that every product is finite and none is lost.
  const scales = Uint16Array.from({ length: (n * k) / block }, () => 0x1c00 | (random() & 0x3ff));
  const scaleValues = Float32Array.from(scales, (half) => (1 + (half & 0x3ff) / 1024) / 256);
  const x = Float32Array.from({ length: batch * k }, () => random() / 2 ** 31 - 1);
  return { codes, scales, scaleValues, x };
}

/** In Lutra: a plan of that one product. */
export async function timeLutra(product: Product, data: ProductData): Promise<ProductTimes> {
  const { n, k, batch, threads, device, activations } = product;
  const folder = mkdtempSync(join(tmpdir(), "lutra-bench-"));
  try {
    const method = activations === "int8" ? "dot" : "decode";
    const backend = await open(device, { threads, chooseOnGpu: () => () => ({ one: method, more: method }) });
    if ("unavailable" in backend) throw new Error(backend.unavailable);
    using weights = weightFile(join(folder, "weights.bin"), product, data);
    const session = await backend.prepare(planOf(n, k, batch), weights);
    const tokens = Int32Array.from({ length: batch }, (_, token) => token);
    const times = await timed(async () => {
      const [out] = await session.step([{ slot: 0, pos: 0, tokens, logits: "all" }]);
      return out!;
    });
    await session[Symbol.asyncDispose]();
    await backend[Symbol.asyncDispose]();
    return times;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Token t stands for vector t. */
function planOf(n: number, k: number, batch: number): Plan {
  return makePlan({
    values: [
      { name: "x", width: k },
      { name: "wanted", width: k },
      { name: "products", width: n },
    ],
    weights: new Map([
      ["x", { name: "x", shape: [batch, k] }],
      ["w", { name: "w", shape: [n, k] }],
    ]),
    ops: [
      { kind: "embed", weight: "x", out: 0 },
      { kind: "select", input: 0, out: 1 },
      {
        kind: "gemm",
        input: 1,
        norm: null,
        linears: [{ weight: "w", bias: null }],
        epilogue: { kind: "store" },
        out: [2],
      },
    ],
    logits: 2,
    cache: { layers: 0, width: 0, context: batch, slots: 1 },
  });
}

function weightFile(path: string, product: Product, data: ProductData): WeightSource & Disposable {
  const { n, k, batch, bits, block } = product;
  const { matrix, floats } = typesOf(bits, block);
  const x = new Uint8Array(data.x.buffer);
  const w = new Uint8Array(((n * k) / block) * matrix.blockBytes);
  const codeBytes = (block * bits) / 8;
  const scales = new DataView(w.buffer);
  for (let i = 0; i < data.scales.length; i++) {
    scales.setUint16(i * matrix.blockBytes, data.scales[i]!, true);
    w.set(data.codes.subarray(i * codeBytes, (i + 1) * codeBytes), i * matrix.blockBytes + 2);
  }
  const sink = createFile(path, x.length + w.length, []);
  sink.write(x);
  sink.write(w);
  sink.commit();
  const source = openFile(path);
  const tensors = new Map<string, WeightTensor>([
    ["x", { name: "x", type: floats, shape: [batch, k], file: 0, byteOffset: 0, byteLength: x.length }],
    ["w", { name: "w", type: matrix, shape: [n, k], file: 0, byteOffset: x.length, byteLength: w.length }],
  ]);
  return {
    files: [path],
    tensor: (name) => tensors.get(name),
    read: (tensor, begin, length) => source.read(tensor.byteOffset + begin, length),
    [Symbol.dispose]: () => source.close(),
  };
}

/** The matrix's type in our own language: what MatMulNBits has, with its scale before the codes of its block. */
export function typesOf(bits: number, block: number): { matrix: Type; floats: Type } {
  const text = `
    import "float.ladder"
    import "int.ladder"
    block Weights[${block}] {
      d  : F16
      qs : U8[${(block * bits) / 8}]
      code q[i < ${block}] = qs[i div ${8 / bits}].bits(${bits} * (i mod ${8 / bits}) +: ${bits})
      value[i] = d * (q[i] - ${2 ** (bits - 1)})
    }`;
  const texts = new Map([["bench.ladder", text], ...standardTexts().map((t) => [t.name, t.text] as const)]);
  const resolution = resolveProgram(texts, ["bench.ladder", "gguf.ladder"]);
  if (resolution.kind === "rejected") throw new Error(`bench.ladder: ${resolution.diagnostics[0]?.message}`);
  const { types } = resolution.program;
  return { matrix: types.get("Weights")!, floats: types.get("F32")! };
}

/** As much of onnxruntime-node as is used. */
interface OnnxRuntime {
  readonly InferenceSession: {
    create(model: Uint8Array, options: object): Promise<{ run(feeds: object): Promise<Record<string, OnnxTensor>> }>;
  };
  readonly Tensor: new (type: "float32", data: Float32Array, dims: readonly number[]) => OnnxTensor;
}

interface OnnxTensor {
  readonly data: Float32Array;
}

/**
 * In ONNX Runtime, with int8 activations allowed where Lutra has them.
 * @param main the main file of the package onnxruntime-node
 */
export async function timeOnnx(product: Product, data: ProductData, main: string): Promise<ProductTimes> {
  const { n, k, bits, block, batch, threads, device, activations } = product;
  const module = (await import(pathToFileURL(main).href)) as { readonly default: OnnxRuntime };
  const { InferenceSession, Tensor } = module.default;
  const accuracyLevel = activations === "int8" ? 4 : 0;
  const model = matMulNBits({ n, k, bits, block, codes: data.codes, scales: data.scaleValues, accuracyLevel });
  const session = await InferenceSession.create(model, {
    executionProviders: [device === "gpu" ? "webgpu" : "cpu"],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
  });
  const feeds = { A: new Tensor("float32", data.x, [batch, k]) };
  return timed(async () => (await session.run(feeds))["Y"]!.data);
}

async function timed(call: () => Promise<Float32Array>): Promise<ProductTimes> {
  let out: Float32Array = new Float32Array();
  for (let i = 0; i < WARM_UP; i++) out = await call();
  const us: number[] = [];
  for (const endMs = performance.now() + TIMED_MS; us.length < LEAST_CALLS || performance.now() < endMs;) {
    const fromMs = performance.now();
    out = await call();
    us.push(1000 * (performance.now() - fromMs));
  }
  return { us: us.toSorted((a, b) => a - b)[us.length >> 1]!, out };
}
