// Fast aggregation as a backend has it: what it costs in exactness, against the reference, and where there is none.
// The kernels themselves, and those of `lutra bench ablation`, are checked in test/native/ablation.cpp.

import { expect } from "vitest";

import type { Backend } from "../../src/backend.ts";
import { type CpuOptions, openCpu } from "../../src/cpu/backend.ts";
import { loadAddon } from "../../src/cpu/native.ts";
import { AVERAGING } from "../../src/cpu/tuner.ts";
import { openReference } from "../../src/reference.ts";
import { testWith } from "../oracle/oracle.ts";
import { PLAIN_GEMM, f32Weight, Random, randomBytes, smallPlan, typeNamed, weightFile } from "../small-plan.ts";

const addon = loadAddon();
const [ROWS, COLUMNS, TOKENS] = [256, 2048, 4];

/** A matrix of the type times four vectors, (tokens, rows). */
async function product(name: string, backend: Backend): Promise<Float32Array> {
  const type = typeNamed(name);
  const input = f32Weight("x", [TOKENS, COLUMNS], new Random(1).normals(TOKENS * COLUMNS));
  const bytes = randomBytes(type, ROWS * COLUMNS, new Random(2));
  const matrix = { name: "w", type, shape: [ROWS, COLUMNS], bytes };
  const plan = smallPlan([input], [matrix], [ROWS], [PLAIN_GEMM], 1);
  using file = weightFile([input, matrix]);
  const session = await backend.prepare(plan, file);
  const tokens = Int32Array.from({ length: TOKENS }, (_, token) => token);
  const [out] = await session.step([{ slot: 0, pos: 0, tokens, logits: "all" }]);
  await session[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
  return out!;
}

function cpu(options: CpuOptions): Backend {
  const backend = openCpu({ threads: 2, ...options });
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  return backend;
}

function nmse(got: Float32Array, want: Float32Array): number {
  let [error, size] = [0, 0];
  for (const [i, right] of want.entries()) {
    error += (got[i]! - right) ** 2;
    size += right ** 2;
  }
  return error / size;
}

testWith(addon, "averages lose what was derived for them, and the same on every instruction set", async (native) => {
  for (const name of ["TQ2_0", "Q4_0"]) {
    const right = await product(name, openReference());
    for (const isa of native.isas().filter((one) => AVERAGING.includes(one))) {
      const choose = () => ({ method: "lookup", ahead: 1024 }) as const;
      const exact = nmse(await product(name, cpu({ isa, choose })), right);
      expect(exact, `${isa} ${name}`).toBeLessThan(1e-4);
      // An average over n adds (n - 1) / 8 to the 1 / 12 of a unit squared of each lookup: 2.5, 5.5 and 11.5 times as
      // much; between the geometric means of neighbours.
      for (const [fastAggregation, least, most] of [
        [2, 1.6, 3.7],
        [4, 3.7, 7.9],
        [8, 7.9, 16],
      ] as const) {
        const loss = nmse(await product(name, cpu({ isa, fastAggregation })), right) / exact;
        expect(loss, `${isa} ${name} averages of ${fastAggregation}`).toBeGreaterThan(least);
        expect(loss, `${isa} ${name} averages of ${fastAggregation}`).toBeLessThan(most);
      }
    }
  }
});

testWith(addon, "what has no lookups gives the same bits with fast aggregation as without", async (native) => {
  for (const isa of native.isas().filter((one) => AVERAGING.includes(one)))
    expect(await product("Q8_0", cpu({ isa, fastAggregation: 8 }))).toEqual(await product("Q8_0", cpu({ isa })));
});

testWith(addon, "where lookups have four tables in a register, fast aggregation is unavailable", (native) => {
  const averaging = native.isas().filter((one) => AVERAGING.includes(one));
  for (const isa of native.isas().filter((one) => !AVERAGING.includes(one)))
    expect(openCpu({ isa, fastAggregation: 2 })).toEqual({
      unavailable:
        "fast aggregation is for lookups with one table in a register, which avx2, neon, scalar have; those of " +
        `${isa} sum exactly at no cost; here it can be had with the instruction set ${averaging.join(" or ")} (--isa)`,
    });
  expect(averaging).toContain("scalar");
});
