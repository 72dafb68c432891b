// The bodies of WGSL modules: each is valid alone or with the default prelude, and the rounding of outputs is that of encode.

import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

import { LMMA_BODIES } from "../src/gpu/lmma.ts";
import { encode } from "../src/ladder/encode.ts";
import { fromNumber } from "../src/ladder/exact.ts";
import { checker, errorsOf, lavapipe } from "./gpu.ts";
import { testWith } from "./oracle/oracle.ts";
import { programWith } from "./ladder/program.ts";

const text = (name: string): string => readFileSync(new URL(`../shaders/${name}.wgsl`, import.meta.url), "utf8");
const ENTRIES = {
  gemv: "gemv",
  gemm: "gemm",
  "gemm-subgroup": "gemm_subgroup",
  dot: "dot_product",
  "dot-subgroup": "dot_subgroup",
  lookup: "lookup",
  "lookup-subgroup": "lookup_subgroup",
};

test.each(Object.entries(ENTRIES))("%s.wgsl is valid with the default prelude", async (file, entry) => {
  const enable = file.endsWith("-subgroup") ? "enable subgroups;\n" : "";
  expect(await errorsOf(await checker(), enable + text("prelude") + text(file), entry)).toEqual([]);
});

/** Those that need no prelude. */
const ALONE = {
  activations: "activations",
  gate: "join",
  read: "read_all",
  remember: "remember",
  repack: "repack",
  rope: "rope",
  select: "keep",
};

test.each(Object.entries(ALONE))("%s.wgsl is valid alone", async (file, entry) => {
  expect(await errorsOf(await checker(), text(file), entry)).toEqual([]);
});

const ATTENTION = { attention: "attention", "attention-subgroup": "attention_subgroup" };

test.each(Object.entries(ATTENTION))("%s.wgsl is valid with what they have in common", async (file, entry) => {
  const enable = file.endsWith("-subgroup") ? "enable subgroups;\n" : "";
  expect(await errorsOf(await checker(), enable + text("attention-parts") + text(file), entry)).toEqual([]);
});

test("embed.wgsl is valid with the default prelude, and rows that come from and go to somewhere", async () => {
  const rows = `
fn embed_row(m: u32) -> u32 { return m; }
fn embed_store(m: u32, k: u32, four: vec4f) { store4(m, k, four); }
`;
  expect(await errorsOf(await checker(), text("prelude") + rows + text("embed"), "embed")).toEqual([]);
});

test("every file of shaders/ is among these, or part of one, or of the LMMA machine", () => {
  const files = readdirSync(new URL("../shaders/", import.meta.url)).map((file) => file.replace(/\.wgsl$/, ""));
  const parts = ["prelude", "round", "embed", "attention-parts", ...LMMA_BODIES];
  const bodies = { ...ENTRIES, ...ALONE, ...ATTENTION };
  expect(files.toSorted()).toEqual([...Object.keys(bodies), ...parts].toSorted());
});

const ROUND = `${text("prelude")}${text("round")}
@group(0) @binding(0) var<storage, read> given: array<u32>;
@group(0) @binding(1) var<storage, read_write> codes: array<u32>;
@compute @workgroup_size(64)
fn round_all(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < arrayLength(&given)) { codes[id.x] = round_out(bitcast<f32>(given[id.x])); }
}
`;

testWith(
  await lavapipe(),
  "round.wgsl gives F32 numbers of all exponents the code that encode gives them in F16",
  async (device) => {
    const f16 = programWith().elements.get("F16")!;
    // Every exponent with both signs and the mantissas at and next to the middles between numbers of ten bits.
    const mantissas = [
      0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001, 0x7fefff, 0x7ff000, 0x7fffff,
    ];
    const words = Uint32Array.from(
      Array.from({ length: 512 }, (_, top) => mantissas.map((mantissa) => top * 2 ** 23 + mantissa)).flat(),
    );
    const storage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const [given, codes] = [0, 1].map(() => device.createBuffer({ size: words.byteLength, usage: storage }));
    device.queue.writeBuffer(given!, 0, words);
    const module = device.createShaderModule({ code: ROUND });
    const pipeline = await device.createComputePipelineAsync({
      layout: "auto",
      compute: { module, entryPoint: "round_all" },
    });
    const entries = [given!, codes!].map((buffer, binding) => ({ binding, resource: { buffer } }));
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(Math.ceil(words.length / 64));
    pass.end();
    const back = device.createBuffer({
      size: words.byteLength,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    encoder.copyBufferToBuffer(codes!, 0, back, 0, words.byteLength);
    device.queue.submit([encoder.finish()]);
    await back.mapAsync(GPUMapMode.READ);
    const got = new Uint32Array(back.getMappedRange().slice(0));
    // NaN is NaN, whatever its payload.
    const same = (x: number, y: number): boolean => x === y || ((x & 0x7fff) > 0x7c00 && (y & 0x7fff) > 0x7c00);
    const floats = new Float32Array(words.buffer);
    const wrong = Array.from(words.keys()).filter((i) => !same(got[i]!, Number(encode(f16, fromNumber(floats[i]!)))));
    expect(wrong.map((i) => [floats[i], got[i]])).toEqual([]);
  },
);
