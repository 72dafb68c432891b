// The machine and the CPU kernels sum the same integers: a product of each whose scales are 1 and whose activations are
// whole numbers that int8 holds, so that the float result of a kernel is its integer sum.
// Not here: kernels that look sums up, which round tables to int8.

import { expect } from "vitest";

import { openCpu } from "../../src/cpu/backend.ts";
import { loadAddon } from "../../src/cpu/native.ts";
import { load } from "../../src/lutcore/exec.ts";
import type { Weight } from "../../src/lutcore/fragment.ts";
import { packTile } from "../../src/lutcore/weights.ts";
import { testWith } from "../oracle/oracle.ts";
import { PLAIN_GEMM, f32Weight, Random, smallPlan, typeNamed, weightFile } from "../small-plan.ts";
import { PAPER, programOf, start } from "./machine.ts";

const addon = loadAddon();
const [N, K] = [64, 512];
const ONE_F16 = 0x3c00;

/** Blocks with a scale of 1 of codes (n, k): TQ2_0, values q - 1, or Q4_0, values q - 8. */
function blocksOf(name: "TQ2_0" | "Q4_0", codes: Uint8Array): Uint8Array {
  const { blockSize, blockBytes } = typeNamed(name);
  const bytes = new Uint8Array((codes.length / blockSize) * blockBytes);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < codes.length / blockSize; block++) {
    const first = block * blockBytes;
    view.setUint16(first + (name === "TQ2_0" ? 64 : 0), ONE_F16, true);
    for (let i = 0; i < blockSize; i++) {
      const code = codes[block * blockSize + i]!;
      if (name === "TQ2_0")
        bytes[first + 32 * Math.floor(i / 128) + (i % 32)]! |= code << (2 * (Math.floor(i / 32) % 4));
      else bytes[first + 2 + (i % 16)]! |= code << (4 * Math.floor(i / 16));
    }
  }
  return bytes;
}

/** sum a (2 q - centre) of each column and sum a, by the machine. */
function sumsOf(weight: Weight, codes: Uint8Array, activations: Int8Array): { columns: Int32Array; all: number } {
  const [columns, all] = [new Int32Array(N), new Int32Array(1)];
  const weights = packTile(codes, { weight, n: N, k: K });
  const types = { activation: "int8", weight, entry: "int16", accumulate: "int32", out: "int32" } as const;
  const program = programOf([
    { kind: "clr", rows: 1, columns: N, element: "int32", to: 0 },
    { kind: "clr", rows: 1, columns: 1, element: "int32", to: 2 },
    { kind: "loop", count: 31, times: K / 128 },
    {
      kind: "ld.mat",
      rows: 1,
      columns: 128,
      element: "int8",
      order: "rows",
      to: 3,
      ...start("g0"),
      base: 0,
      stride: 0,
    },
    { kind: "lut", m: 1, k: 128, activation: "int8", entry: "int16", to: 4, from: 3 },
    { kind: "ld.wgt", n: N, k: 128, weight, to: 8, ...start("g1"), base: 1 },
    { kind: "lmma", m: 1, n: N, k: 128, ...types, to: 0, table: 4, weights: 8, addend: 0 },
    { kind: "asum", m: 1, k: 128, activation: "int8", to: 2, from: 3, addend: 2 },
    { kind: "lea", to: 0, left: 0, factor: 1, right: 31, addend: 128 },
    { kind: "lea", to: 1, left: 1, factor: 1, right: 31, addend: (weights.length * 128) / K },
    { kind: "end" },
    { kind: "st.mat", rows: 1, columns: N, element: "int32", from: 0, ...start("g2"), stride: 0 },
    { kind: "st.mat", rows: 1, columns: 1, element: "int32", from: 2, ...start("g3"), stride: 0 },
  ]);
  const buffers = [activations, weights, columns, all].map((x) => new Uint8Array(x.buffer));
  load(program, PAPER)({ parameters: [], buffers });
  return { columns, all: all[0]! };
}

/** The product by the CPU backend, in floats. */
async function cpuProduct(name: string, bytes: Uint8Array, activations: Int8Array, isa: string): Promise<Float32Array> {
  const backend = openCpu({ threads: 1, isa, choose: () => ({ method: "dot", ahead: 0 }) });
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  const input = f32Weight("x", [1, K], Float32Array.from(activations));
  const matrix = { name: "w", type: typeNamed(name), shape: [N, K], bytes };
  const plan = smallPlan([input], [matrix], [N], [PLAIN_GEMM], 1);
  using file = weightFile([input, matrix]);
  const session = await backend.prepare(plan, file);
  const [out] = await session.step([{ slot: 0, pos: 0, tokens: Int32Array.of(0), logits: "all" }]);
  await session[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
  return out!;
}

testWith(addon, "the machine's integer sums are those of the CPU kernels, of every instruction set", async (native) => {
  const random = new Random(7);
  // One of every 16 is 127, so that the scale of each group of activations is 1, however many are in one.
  const activations = Int8Array.from({ length: K }, (_, x) => (x % 16 === 5 ? 127 : (random.bits() % 255) - 127));
  for (const [name, weight, count] of [
    ["TQ2_0", "ternary", 3],
    ["Q4_0", "int4", 16],
  ] as const) {
    const codes = Uint8Array.from({ length: N * K }, () => random.bits() % count);
    const { columns, all } = sumsOf(weight, codes, activations);
    // q - 1 is half of 2 q - 2; q - 8 is half of (2 q - 15) - 1.
    const whole = Array.from(columns, (sum) => (weight === "ternary" ? sum / 2 : (sum - all) / 2));
    expect(whole.every(Number.isInteger), name).toBe(true);
    for (const isa of native.isas()) {
      const got = await cpuProduct(name, blocksOf(name, codes), activations, isa);
      expect([...got], `${isa} ${name}`).toEqual(whole);
    }
  }
});
