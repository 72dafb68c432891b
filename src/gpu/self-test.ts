// Whether an adapter decodes a type as its definition says, tried on the way that weights take: bytes are uploaded, packed
// where they are to be packed, and read back through the prelude of the type's kernels as an embedding's rows. All codes
// of a plain element, and enough random blocks for all codes of others; scales of ordinary sizes, both signs and zero.
// Not here: the sums of products, which the conformance tests compare with the reference.

/// <reference types="@webgpu/types" />

import { decode } from "../ladder/emit/codec.ts";
import type { Element, Type } from "../ladder/type.ts";
import type { Kernels, WeightForm } from "./codegen.ts";
import type { Gpu } from "./device.ts";
import { type Uploader, USAGE } from "./upload.ts";

const VALUES = 2 ** 16;
/** Of a row, so that a lane's four neighbours and a group of 16 end inside. */
const ROW_VALUES = 256;
/** Half a unit in the last place of f32. */
const EPSILON = 2 ** -24;
/** Scale, product and sum, and what a constant that is no f32 adds. */
const ROUNDINGS = 4;
/** f32 below it may be taken as 0. */
const SUBNORMAL = 2 ** -126;

/** The first value that is wrong, as half a sentence; null where there is none. */
export async function selfTest(
  gpu: Gpu,
  kernels: Kernels,
  uploader: Uploader,
  form: WeightForm,
): Promise<string | null> {
  const { type } = form;
  const k = type.blockSize * Math.ceil(ROW_VALUES / type.blockSize);
  const n = Math.ceil(VALUES / k);
  const bytes = testBlocks(type, (n * k) / type.blockSize);
  const want = new Float64Array(n * k);
  decode(type, bytes, want);
  const name = `test of ${type.name}`;
  const tensor = { name, type, shape: [n, k], file: 0, byteOffset: 0, byteLength: bytes.length };
  const source = {
    files: [name],
    tensor: () => tensor,
    read: (_: unknown, begin: number, length: number) => bytes.slice(begin, begin + length),
  };
  const tried = form.ofWidth(k);
  const held: GPUBuffer[] = [];
  const buffer = async (label: string, size: number, usage: number): Promise<GPUBuffer> => {
    const made = await gpu.buffer(label, size, usage);
    held.push(made);
    return made;
  };
  try {
    const buffers: GPUBuffer[] = [];
    for (const { part: label, bytes: size } of tried.side(n, 0).buffers)
      buffers.push(await buffer(label, size, USAGE.storage | USAGE.copyDst));
    await uploader.put(source, { tensor, first: 0, rows: n, at: 0, total: n }, tried, buffers);
    const step = await buffer("step", 16, USAGE.uniform | USAGE.copyDst);
    const rows = await buffer("rows", 16 * n, USAGE.storage | USAGE.copyDst);
    const out = await buffer("rows of the test", 4 * n * k, USAGE.storage | USAGE.copySrc);
    const back = await buffer("rows of the test", 4 * n * k, USAGE.mapRead | USAGE.copyDst);
    const { text, grid } = kernels.embed(tried, n, { matrix: 0, at: 0, first: 0, rows: n, of: n });
    const pipeline = await gpu.pipeline(text);
    gpu.device.queue.writeBuffer(step, 0, Uint32Array.of(n, 0));
    gpu.device.queue.writeBuffer(
      rows,
      0,
      Uint32Array.from({ length: 4 * n }, (_, i) => (i % 4 === 0 ? i / 4 : 0)),
    );
    const entries = [step, rows, ...buffers, out].map((one, b) => ({
      binding: text.bindings[b]!.binding,
      resource: { buffer: one },
    }));
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, gpu.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(...grid(n));
    pass.end();
    encoder.copyBufferToBuffer(out, 0, back, 0, 4 * n * k);
    gpu.device.queue.submit([encoder.finish()]);
    await gpu.settle(back.mapAsync(1)); // GPUMapMode.READ
    const got = new Float32Array(back.getMappedRange().slice(0));
    return firstOff(want, got, largestOf(want, type.blockSize), type);
  } finally {
    for (const one of held) gpu.free(one);
  }
}

/** What a block's values may be put together from: no term of a value is larger than twice the block's largest. */
function largestOf(values: Float64Array, blockSize: number): (at: number) => number {
  return (at) => {
    const first = at - (at % blockSize);
    let largest = 0;
    for (let i = first; i < first + blockSize; i++) largest = Math.max(largest, Math.abs(values[i]!));
    return 2 * largest;
  };
}

function firstOff(
  want: Float64Array,
  got: Float32Array,
  largest: (at: number) => number,
  { name, blockSize }: Type,
): string | null {
  for (let at = 0; at < want.length; at++) {
    const [x, y] = [want[at]!, got[at]!];
    const rounded = Math.fround(x);
    if (Object.is(rounded, y) || rounded === y || (Number.isNaN(x) && Number.isNaN(y))) continue;
    // Beyond f32 and near its end the sum of terms may overflow where the value does not.
    const bound = ROUNDINGS * EPSILON * largest(at) + ROUNDINGS * SUBNORMAL;
    if (Math.abs(x - y) <= bound) continue;
    return `value ${at % blockSize} of block ${Math.floor(at / blockSize)} of a test of ${name} is ${y}, and not ${x}`;
  }
  return null;
}

/** Blocks of a type: all codes where a block is one element, else random ones with scales of ordinary sizes. */
function testBlocks(type: Type, blocks: number): Uint8Array {
  const bytes = new Uint8Array(blocks * type.blockBytes);
  const next = randomBits();
  for (let b = 0; b < blocks; b++) {
    const block = bytes.subarray(b * type.blockBytes, (b + 1) * type.blockBytes);
    for (const { element, count, bit } of type.fields)
      for (let e = 0; e < count; e++) {
        const all = type.blockSize === 1 && element.bits <= 16;
        const code = all ? b % 2 ** element.bits : codeOf(element, next);
        put(block, bit + e * element.bits, element.bits, code);
      }
  }
  return bytes;
}

function put(block: Uint8Array, bit: number, bits: number, code: number): void {
  for (let j = 0; j < bits; j++) block[(bit + j) >> 3]! |= (Math.floor(code / 2 ** j) & 1) << ((bit + j) & 7);
}

/** Floats around 1 with any mantissa, powers of two around 1, and any code of other elements. */
function codeOf(element: Element, next: () => number): number {
  if (element.kind === "exponent") return Math.max(0, Math.round(element.bias) - 4 + (next() & 7));
  if (element.kind !== "float" || element.bits < 16) return element.bits >= 32 ? next() : next() % 2 ** element.bits;
  const { exponent, mantissa, bias, sign } = element;
  const power = Math.min(2 ** exponent - 2, Math.max(1, bias - 4 + (next() & 7)));
  const fraction = Math.floor((next() / 2 ** 32) * 2 ** mantissa);
  const negative = sign === "yes" && next() & 1 ? 2 ** (exponent + mantissa) : 0;
  return negative + power * 2 ** mantissa + fraction;
}

/** Xorshift with 32 bits (Marsaglia 2003). */
function randomBits(): () => number {
  let state = 0x9e3779b9;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>>= 0);
  };
}
