// That a kernel which decodes wrongly is found and named before it is used, and what is done instead: with bodies that are
// wrong in one place, on lavapipe. And that the forms of a type do not disturb each other.

import { describe, expect } from "vitest";

import type { Unavailable } from "../../src/backend.ts";
import { shaderTexts } from "../../src/files.ts";
import { openGpuBackend } from "../../src/gpu/backend.ts";
import { type Bodies, Kernels } from "../../src/gpu/codegen.ts";
import { type Gpu, openGpu } from "../../src/gpu/device.ts";
import { selfTest } from "../../src/gpu/self-test.ts";
import { Uploader } from "../../src/gpu/upload.ts";
import type { Type } from "../../src/ladder/type.ts";
import { openReference } from "../../src/reference.ts";
import { chunk, expectWithin, range, run, SEED } from "../conformance.ts";
import { softwareGpu } from "../gpu.ts";
import { testWith } from "../oracle/oracle.ts";
import { gemmBounds, gemmCase } from "../products.ts";
import { Random, typeNamed, weightFile } from "../small-plan.ts";

const found = softwareGpu("lavapipe");
const lavapipe: { readonly gpu: GPU } | Unavailable = "unavailable" in found ? found : { gpu: found };

/** The bodies with one of them changed. */
function wrong(name: string, from: string, to: string): Bodies {
  const bodies = shaderTexts();
  const text = bodies.get(name) ?? "";
  expect(text.split(from).length, `occurrences of ${from} in ${name}.wgsl`).toBe(2);
  return new Map([...bodies, [name, text.replace(from, to)]]);
}

/** The lowest bit of every code that is packed. */
const WRONG_PACKING = ["repack", "code ^= packing.flip;", "code ^= packing.flip ^ 1u;"] as const;
/** The second of each four values of every row. */
const WRONG_ROWS = ["embed", "w_load4(n, k)", "w_load4(n, k).xxzw"] as const;

/** What is found of the forms of a type, by their names. */
async function findings(gpu: Gpu, bodies: Bodies, types: readonly Type[]): Promise<Record<string, string | null>> {
  const adapter = { software: true, subgroup: gpu.subgroup?.least ?? 0 };
  const kernels = new Kernels(bodies, adapter, () => null);
  const uploader = await Uploader.make(gpu, kernels.body("repack"));
  const out: Record<string, string | null> = {};
  for (const type of types)
    for (const form of kernels.forms(type, 64, 256))
      out[`${type.name} ${form.layout}`] = await selfTest(gpu, kernels, uploader, form);
  uploader.close();
  return out;
}

async function opened(gpu: GPU): Promise<Gpu> {
  const device = await openGpu(gpu);
  if ("unavailable" in device) throw new Error(device.unavailable);
  return device;
}

describe("the self-test of decoding", () => {
  testWith(lavapipe, "passes all forms of a type, one after the other", async ({ gpu }) => {
    await using device = await opened(gpu);
    const types = ["Q4_0", "Q5_1", "Q6_K", "Q3_K", "TQ2_0", "Q1_0", "IQ4_NL", "F16"].map(typeNamed);
    const all = await findings(device, shaderTexts(), types);
    expect(Object.keys(all).length).toBeGreaterThan(24);
    expect(Object.entries(all).filter(([, wrongValue]) => wrongValue !== null)).toEqual([]);
    expect(device.bytes).toBe(0);
  });

  testWith(lavapipe, "names the first value that is wrong", async ({ gpu }) => {
    await using device = await opened(gpu);
    const packed = await findings(device, wrong(...WRONG_PACKING), [typeNamed("Q8_0")]);
    expect(packed["Q8_0 codes"]).toMatch(/^value 0 of block 0 of a test of Q8_0 is -?[\d.]+, and not -?[\d.]+$/);
    expect(packed["Q8_0 bytes"]).toBe(null);
    expect(packed["Q8_0 floats"]).toBe(null);
    const rows = await findings(device, wrong(...WRONG_ROWS), [typeNamed("I8")]);
    // Codes of one byte come in their order.
    expect(rows["I8 bytes"]).toBe("value 0 of block 1 of a test of I8 is 0, and not 1");
  });
});

testWith(
  lavapipe,
  "a form that decodes wrongly is left for the next, which gives the right results",
  async ({ gpu }) => {
    const type = typeNamed("Q4_0");
    const around = { epilogue: "store", norm: false, bias: false } as const;
    const c = gemmCase(type, { tokens: 5, n: 70, k: 128 }, around, new Random(SEED));
    using weights = weightFile(c.weights);
    const batch = [[chunk(range(c.tokens))]];
    const [want] = await run(openReference(), c.plan, weights, batch);
    const held: number[] = [];
    for (const bodies of [shaderTexts(), wrong(...WRONG_PACKING)]) {
      const backend = await openGpuBackend(gpu, bodies, () => () => ({ one: "decode", more: "decode" }));
      if ("unavailable" in backend) throw new Error(backend.unavailable);
      await using session = await backend.prepare(c.plan, weights);
      held.push(session.bytes.weights);
      const [got] = await session.step(batch[0]!);
      // Both forms keep activations as they are here; a wrong code would be off by a step of its weight.
      const arithmetic = { activations: "f32", additions: c.k, roundings: 12, terms: 4, norm: 0 } as const;
      expectWithin(got!, want!, gemmBounds(c, arithmetic).all, `${held.length}`);
      await session[Symbol.asyncDispose]();
      await backend[Symbol.asyncDispose]();
    }
    // As the file has them they take 18 bytes for 32 values; as codes with a scale in f32, in tiles of rows, more.
    expect(held[1]).toBeLessThan(held[0]!);
  },
);

testWith(lavapipe, "a type of which every form is wrong is refused by name, with what each gave", async ({ gpu }) => {
  const c = gemmCase(
    typeNamed("I8"),
    { tokens: 1, n: 4, k: 32 },
    { epilogue: "store", norm: false, bias: false },
    new Random(SEED),
  );
  using weights = weightFile(c.weights);
  const backend = await openGpuBackend(gpu, wrong(...WRONG_ROWS));
  if ("unavailable" in backend) throw new Error(backend.unavailable);
  const message = await backend.prepare(c.plan, weights).then(
    () => "nothing was refused",
    (error: Error) => `${error.name}: ${error.message}`,
  );
  // The input is an embedding of F32.
  const value = "value 0 of block 1 of a test of F32 is x, and not x";
  expect(message.replaceAll(/(is|not) -?\d[\d.e-]*/g, "$1 x")).toBe(
    `UnsupportedOp: ${backend.device.name} computes F32 wrongly, so that it is not used: bytes: ${value}; ` +
      `floats: ${value}; another driver or --device cpu may do`,
  );
  await backend[Symbol.asyncDispose]();
});
