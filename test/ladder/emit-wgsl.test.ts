// Emitted WGSL: every prelude is valid, and on lavapipe both of its functions give every value as the guarantee says.

import { expect, test } from "vitest";

import { emit } from "../../src/ladder/emit/emit.ts";
import { checker, lavapipe } from "../gpu.ts";
import { testWith } from "../oracle/oracle.ts";
import {
  allCodes,
  blockBeyond,
  blockCount,
  blocksOf,
  type Case,
  casesOf,
  firstWrong,
  moduleOf as moduleOfText,
} from "./emitted.ts";
import { programWith } from "./program.ts";

const SEED = 20_261_125;
const cases = casesOf(programWith());

/** The prelude of a type, and entry points that write all its values. */
function moduleOf({ type, columns }: Case) {
  const emission = emit(type, { kind: "wgsl", prefix: "w_", group: 0, binding: 0, columns });
  if (emission.kind === "refused") throw new Error(`${type.name}: ${emission.reason}`);
  const code = `${emission.text}
override values : u32;
@group(0) @binding(2) var<storage, read_write> out : array<u32>;
@compute @workgroup_size(64) fn one(@builtin(global_invocation_id) id : vec3u, @builtin(num_workgroups) n : vec3u) {
  for (var i = id.x; i < values; i += n.x * 64u) { out[i] = bitcast<u32>(w_decode(i / w_columns, i % w_columns)); }
}
@compute @workgroup_size(64) fn four(@builtin(global_invocation_id) id : vec3u, @builtin(num_workgroups) n : vec3u) {
  for (var i = id.x * 4u; i < values; i += n.x * 256u) {
    let v = w_decode4(i / w_columns, i % w_columns);
    for (var j = 0u; j < 4u; j++) { out[i + j] = bitcast<u32>(v[j]); }
  }
}
`;
  return { emission, code };
}

/** What emitted JavaScript makes of the bytes. */
function javaScriptOf(type: Case["type"], bytes: Uint8Array): Float64Array {
  const emission = emit(type, { kind: "javascript" });
  if (emission.kind === "refused") throw new Error(`${type.name}: ${emission.reason}`);
  const out = new Float64Array(type.blockSize);
  moduleOfText(emission.text)(bytes, out);
  return out;
}

/** The first value that is not the nearest single, subnormals being zero. */
function firstOther(got: Float32Array, wanted: Float64Array): string | null {
  const flushed = (x: number): number => (Math.abs(Math.fround(x)) < 2 ** -126 ? 0 : Math.fround(x));
  const at = wanted.findIndex((x, n) => !Object.is(flushed(x), flushed(got[n]!)));
  return at === -1 ? null : `value ${at}: ${got[at]}, and not ${wanted[at]}`;
}

test("every prelude is valid WGSL, also two in one module", async () => {
  const device = await checker();
  const faults: string[] = [];
  for (const one of cases) {
    const activations = emit(one.type, { kind: "wgsl", prefix: "a_", group: 1, binding: 0, columns: one.columns });
    const more = activations.kind === "emitted" ? activations.text : "";
    const info = await device.createShaderModule({ code: moduleOf(one).code + more }).getCompilationInfo();
    faults.push(...info.messages.map(({ message, lineNum }) => `${one.label}:${lineNum}: ${message}`));
  }
  expect(faults).toEqual([]);
});

testWith(await lavapipe(), "on lavapipe decode and decode4 give every value as the guarantee says", async (device) => {
  const wrong: string[] = [];
  device.addEventListener("uncapturederror", ({ error }) => wrong.push(error.message));
  for (const [k, one] of cases.entries()) {
    const { type, label, columns } = one;
    const { emission, code } = moduleOf(one);
    // A row has 4 blocks at least; where the data decide nothing but bytes, all codes come first.
    const width = columns ?? type.blockSize * (type.blockSize === 1 ? 256 : 4);
    const count =
      columns === null ? Math.ceil((blockCount(type) * type.blockSize) / width) * (width / type.blockSize) : 1;
    const bytes = blocksOf(type, count, SEED + k);
    bytes.set((allCodes(type) ?? new Uint8Array(0)).subarray(0, bytes.length));
    // Groups that a matrix does not have: JavaScript takes the nearest, which emit.test.ts holds against the exact values.
    const beyond = type.fields.some(({ name }) => name === "g_idx");
    if (beyond) bytes.set(blockBeyond(type));
    const values = count * type.blockSize;
    const buffer = (words: Uint8Array): GPUBuffer => {
      const size = Math.max(16, Math.ceil(words.length / 4) * 4);
      const made = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
      const padded = new Uint8Array(size);
      padded.set(words);
      device.queue.writeBuffer(made, 0, padded);
      return made;
    };
    const input = buffer(bytes);
    const tables = buffer(new Uint8Array(Uint32Array.from(emission.tables).buffer));
    const size = 4 * values;
    const out = device.createBuffer({
      size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    const back = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const module = device.createShaderModule({ code });
    for (const entryPoint of width % 4 === 0 ? ["one", "four"] : ["one"]) {
      const constants = { values, ...(columns === null ? { w_columns: width } : {}) };
      const pipeline = await device.createComputePipelineAsync({
        layout: "auto",
        compute: { module, entryPoint, constants },
      });
      const entries = [input, ...(emission.tables.length > 0 ? [tables] : [])]
        .map((resource, binding) => ({ binding, resource: { buffer: resource } }))
        .concat([{ binding: 2, resource: { buffer: out } }]);
      const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
      const encoder = device.createCommandEncoder();
      encoder.clearBuffer(out);
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(64);
      pass.end();
      encoder.copyBufferToBuffer(out, 0, back, 0, size);
      device.queue.submit([encoder.finish()]);
      await back.mapAsync(GPUMapMode.READ);
      const got = new Float32Array(back.getMappedRange().slice(0));
      back.unmap();
      const first = beyond
        ? firstOther(got, javaScriptOf(type, bytes))
        : firstWrong(type, bytes, got, emission.guarantee, true);
      if (first !== null) wrong.push(`${label} ${entryPoint}: ${first}`);
    }
    for (const used of [input, tables, out, back]) used.destroy();
  }
  expect(wrong).toEqual([]);
});
