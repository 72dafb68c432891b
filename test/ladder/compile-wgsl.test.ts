// Compiled WGSL: every type of the library with five kinds of activations makes a module that Dawn accepts, and what is
// run on lavapipe differs from the product of exactly decoded values by no more than its manifest says.

import { describe, expect, test } from "vitest";

import { type Manifest } from "../../src/ladder/emit/compile.ts";
import { smallestShape } from "../../src/ladder/tensor.ts";
import { lcm } from "../../src/ladder/divisor.ts";
import type { Program } from "../../src/ladder/type.ts";
import { checker, errorsOf, lavapipe } from "../gpu.ts";
import { testWith } from "../oracle/oracle.ts";
import {
  type Asked,
  boundType,
  firstOff,
  kernelOf,
  operandOf,
  OWN,
  outputsOf,
  pack,
  referenceOf,
  type Run,
  TINY,
  uniform,
} from "./compiled.ts";
import { programWith } from "./program.ts";

const program: Program = programWith(OWN);
const SEED = 20_261_123;
const ACTIVATIONS = ["F32", "F16", "Q8_0", "E4M3FN", "OCP_MXFP8_E4M3"];

/** The names of all types and, with the shape that they bind to, of all formats of matrices. */
function weights(): readonly { readonly name: string; readonly n: number; readonly k: number }[] {
  const types = [...program.types.values()].map(({ name, blockSize }) => ({ name, n: 7, k: lcm(blockSize, 32) }));
  const tensors = [...program.tensors.values()].flatMap((tensor) =>
    tensor.storages.map((storage) => {
      const shape = smallestShape(tensor, storage)!;
      // Blocks of activations are of 32.
      let k = shape.columns;
      while (k % 32 !== 0) k += shape.columns;
      return { name: storage === "" ? tensor.name : `${tensor.name}.${storage}`, n: shape.rows, k };
    }),
  );
  return [...types, ...tensors];
}

describe.each(ACTIVATIONS)("activations %s", (activation) => {
  test.each(weights())("weights $name: the module is valid", async ({ name, n, k }) => {
    const { text, manifest } = kernelOf(program, {
      activation,
      weight: name,
      m: 3,
      n,
      k,
      target: "wgsl",
      method: "decode",
    });
    expect(await errorsOf(await checker(), text, manifest.entry_points[0]!.name)).toEqual([]);
  });
});

const RUNS: readonly Run[] = [
  { activation: "F16", weight: "Q4_0", m: 1, n: 67, k: 320 },
  { activation: "F32", weight: "Lumen", m: 3, n: 66, k: 96 },
  { activation: "F32", weight: "Lumen", m: 3, n: 66, k: 96, method: "lookup" },
  { activation: "Q8_0", weight: "Lumen", m: 5, n: 6, k: 96, method: "dot" },
  { activation: "F16", weight: "F16", m: 2, n: 5, k: 63 },
  { activation: "F32", weight: "BF16", m: 33, n: 35, k: 61 },
  { activation: "F16", weight: "Q4_K", m: 9, n: 37, k: 256 },
  { activation: "F32", weight: "IQ2_XS", m: 2, n: 9, k: 512 },
  { activation: "OCP_MXFP8_E4M3", weight: "OCP_MXFP4", m: 4, n: 11, k: 288 },
  { activation: "E4M3FN", weight: "E4M3FN", m: 17, n: 33, k: 50 },
  { activation: "F32", weight: "GPTQ4", m: 3, n: 64, k: 128 },
  { activation: "Q8_0", weight: "Q4_0", m: 3, n: 70, k: 2272, method: "dot" },
  { activation: "Q8_0", weight: "Q4_K", m: 1, n: 9, k: 768, method: "dot" },
  { activation: "Q4_1", weight: "Q5_1", m: 2, n: 9, k: 160, method: "dot" },
  { activation: "Q8_0", weight: "IQ4_NL", m: 6, n: 7, k: 64, method: "dot" },
  { activation: "Q8_0", weight: "Q1_0", m: 2, n: 3, k: 256, method: "dot" },
  { activation: "Q8_0", weight: "NVFP4", m: 2, n: 3, k: 128, method: "dot" },
  { activation: "I8", weight: "Whole", accumulate: "I32", out: "I32", m: 3, n: 21, k: 1000, method: "dot" },
  { activation: "F16", weight: "TQ2_0", m: 2, n: 258, k: 768, method: "lookup" },
  { activation: "F32", weight: "Q4_0", m: 1, n: 67, k: 352, method: "lookup" },
  { activation: "F16", weight: "IQ4_NL", m: 2, n: 9, k: 64, method: "lookup" },
  { activation: "F32", weight: "Whole", m: 1, n: 9, k: 56, method: "lookup" },
  { activation: "F16", weight: "Q8_0", out: "F16", m: 3, n: 7, k: 64 },
  { activation: "F16", weight: "Q8_0", out: "BF16", m: 3, n: 7, k: 64 },
  { activation: "F16", weight: "Q4_0", out: "E4M3FN", m: 3, n: 7, k: 64 },
  { activation: "F32", weight: "Q4_0", out: "E5M2FNUZ", m: 9, n: 7, k: 64 },
  { activation: "F16", weight: "Q4_0", accumulate: "F16", out: "F16", device: "webgpu_f16", m: 2, n: 6, k: 64 },
  ...TINY,
  { activation: "F16", weight: "Q4_0", m: 1, n: 9, k: 96, method: "lookup", weights: "tiny" },
  { activation: "F16", weight: "OCP_MXFP4", m: 1, n: 9, k: 96, method: "lookup", weights: "tiny" },
  { activation: "BF16", weight: "OCP_MXFP4", m: 1, n: 9, k: 96, method: "lookup", activations: "tiny" },
  { activation: "F32", weight: "Brief", m: 1, n: 9, k: 96, method: "lookup", activations: "tiny", weights: "tiny" },
];

/** Runs a compiled module as its manifest says; the bytes of its output. */
async function run(
  device: GPUDevice,
  text: string,
  manifest: Manifest,
  operands: Readonly<Record<string, Uint8Array>>,
): Promise<Uint8Array> {
  const { buffers, layouts, dispatch, entry_points: entries } = manifest;
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: text });
  const pipeline = await device.createComputePipelineAsync({
    layout: "auto",
    compute: { module, entryPoint: entries[0]!.name },
  });
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
  const made = buffers.map(({ role, bytes, layout }) => {
    const buffer = device.createBuffer({ size: bytes, usage });
    if (role === "out") return buffer;
    let content = layout.kind === "words" ? new Uint8Array(Uint32Array.from(layout.words).buffer) : operands[role]!;
    if (layout.kind === "packed") {
      const packed = pack(layouts[role as "weights"]!, content);
      const part = layout.part === "codes" ? packed.codes : layout.part === "scales" ? packed.scales : packed.offsets;
      content = new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
    }
    const padded = new Uint8Array(bytes);
    padded.set(content);
    device.queue.writeBuffer(buffer, 0, padded);
    return buffer;
  });
  const used = buffers.map(({ binding }, b) => ({ binding, resource: { buffer: made[b]! } }));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: used }));
  const [x, y, z] = dispatch!.counts;
  pass.dispatchWorkgroups(x!, y, z);
  pass.end();
  const out = made[buffers.findIndex(({ role }) => role === "out")]!;
  const back = device.createBuffer({ size: out.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  encoder.copyBufferToBuffer(out, 0, back, 0, out.size);
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (error !== null) throw new Error(error.message);
  await back.mapAsync(GPUMapMode.READ);
  const bytes = new Uint8Array(back.getMappedRange().slice(0));
  for (const buffer of [back, ...made]) buffer.destroy();
  return bytes;
}

const device = await lavapipe();

describe("on lavapipe", () => {
  for (const [r, { activations, weights: ofWeights, ...partial }] of RUNS.entries()) {
    const isTiny = activations === "tiny" || ofWeights === "tiny";
    const asked = { target: "wgsl", method: "decode", ...partial } as Asked;
    const { activation, weight, accumulate = "F32", out = "F32", m, n, k, method } = asked;
    testWith(
      device,
      `${activation} x ${weight}, ${m} x ${n} x ${k}, ${accumulate}, ${out}, ${method}, ${activations ?? "ordinary"} x ${ofWeights ?? "ordinary"}: within what the manifest says`,
      async (gpu) => {
        const { text, manifest } = kernelOf(program, asked);
        expect(manifest.method).toBe(method);
        const next = uniform(SEED + r);
        const [a, w] = [boundType(program, activation, m, k), boundType(program, weight, n, k)];
        const operands = {
          activations: operandOf(a, (m * k) / a.blockSize, next, activations),
          weights: operandOf(w, (n * k) / w.blockSize, next, ofWeights),
        };
        const startMs = performance.now();
        const bytes = await run(gpu, text, manifest, operands);
        const ms = performance.now() - startMs;
        const element = program.elements.get(out)!;
        const got = outputsOf(manifest, element, bytes);
        expect(
          firstOff(manifest, element, referenceOf(manifest, a, w, operands.activations, operands.weights), got),
          `seed ${SEED + r}`,
        ).toBeNull();
        if (!isTiny) expect(got.filter((x) => x !== 0 && Number.isFinite(x)).length).toBeGreaterThan(got.length / 2);
        // Compilation of text that is not unrolled; ten times what it takes on an idle machine.
        expect(ms).toBeLessThan(10_000);
      },
    );
  }
});
