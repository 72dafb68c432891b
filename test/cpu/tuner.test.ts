// How kernels are chosen: the rule, and measuring, with times that are made up and on this machine.

import fc from "fast-check";
import { expect, test } from "vitest";

import { Placements, type Tiles } from "../../src/cpu/layout.ts";
import { type BenchCase, type BenchTimes, loadAddon, processorName } from "../../src/cpu/native.ts";
import {
  caseName,
  caseOf,
  codesOf,
  type Kernel,
  methodsFor,
  staticKernel,
  tune,
  type Tuned,
} from "../../src/cpu/tuner.ts";
import { testWith } from "../oracle/oracle.ts";
import { typeNamed } from "../small-plan.ts";

const ISAS = ["avx512-vbmi", "avx512-vnni", "avx2", "neon", "scalar"];

function tilesOf(name: string, n: number, k: number): Tiles {
  const tensor = { name: "w", type: typeNamed(name), shape: [n, k], file: 0, byteOffset: 0, byteLength: 0 };
  const placement = new Placements().of(tensor, "matrix");
  if (placement.kind !== "tiles") throw new Error(`${name} has no tiles`);
  return placement;
}

test("the rule looks up few bits, and takes no method that there are no kernels for", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...ISAS, "another"),
      fc.constantFrom("AMD EPYC", "Intel(R) Xeon(R)", ""),
      fc.constantFrom(1, 2, 3, 4, 5, 6, 8),
      fc.boolean(),
      fc.boolean(),
      (isa, processor, bits, plain, three) => {
        const codes = { bits, plain, ternary: three && plain && bits === 2 };
        const { method, ahead } = staticKernel(isa, processor, codes);
        expect(ahead).toBeGreaterThanOrEqual(0);
        expect(methodsFor(isa, codes)).toContain(method);
        if (method === "lookup") expect(bits).toBeLessThanOrEqual(3);
        expect(methodsFor(isa, { ...codes, plain: false, ternary: false })).toEqual(["dot"]);
        expect(methodsFor(isa, { bits: 8, plain, ternary: false })).toEqual(["dot"]);
      },
    ),
    { seed: 20_261_123 },
  );
  const [one, two, three] = [
    { bits: 1, plain: true, ternary: false },
    { bits: 2, plain: true, ternary: false },
    { bits: 2, plain: true, ternary: true },
  ];
  expect(staticKernel("avx512-vbmi", "AMD EPYC", one)).toEqual({ method: "lookup", ahead: 0 });
  expect(staticKernel("avx2", "AMD EPYC", two)).toEqual({ method: "dot", ahead: 4096 });
  expect(staticKernel("avx512-vbmi", "AMD EPYC", three)).toEqual({ method: "lookup", ahead: 0 });
  expect(staticKernel("avx512-vbmi", "Intel(R) Xeon(R)", three)).toEqual({ method: "lookup", ahead: 1024 });
});

test("what has three levels in whole groups of 64 is ternary, and nothing else", () => {
  const ternary = ["TQ1_0", "TQ2_0", "Q1_0", "Q2_K", "Q8_0"].filter((name) => codesOf(tilesOf(name, 64, 512)).ternary);
  expect(ternary).toEqual(["TQ1_0"]); // the fourth code of TQ2_0 stands for a level of its own
});

test("a choice has the name of everything that it depends on", () => {
  expect(caseName("avx2", caseOf(tilesOf("Q2_K", 64, 512), 64, 512))).toBe(
    "avx2: 2 bits plain, groups of 16 nibbles16+offset, 64 x 512",
  );
  expect(caseName("avx2", caseOf(tilesOf("IQ4_NL", 64, 512), 64, 512))).toBe(
    "avx2: 4 bits steps, groups of 32 half, 64 x 512",
  );
  expect(caseName("avx512-vbmi", caseOf(tilesOf("TQ1_0", 64, 512), 64, 512))).toBe(
    "avx512-vbmi: 2 bits ternary, groups of 256 half, 64 x 512",
  );
});

/** An engine in which each kernel takes as long as `us` says. */
function engineWith(us: (kernel: Kernel) => number, asked: BenchCase[] = []) {
  return {
    bench: (what: BenchCase): Promise<BenchTimes> => {
      asked.push(what);
      return Promise.resolve({ kernelUs: [1e6, us(what), 0], readUs: [], bytes: 0 });
    },
  };
}

async function all(tuned: AsyncGenerator<Tuned>): Promise<Tuned[]> {
  const out: Tuned[] = [];
  for await (const one of tuned) out.push(one);
  return out;
}

const TQ2 = caseOf(tilesOf("TQ2_0", 4096, 4096), 4096, 4096);
const Q8 = caseOf(tilesOf("Q8_0", 4096, 4096), 4096, 4096);

test("the fastest kernel is chosen, and the rule's where none is faster by more than noise", async () => {
  const measure = (us: (kernel: Kernel) => number): Promise<Tuned[]> =>
    all(tune(engineWith(us), "avx512-vbmi", "AMD EPYC", [TQ2], Infinity));
  const name = caseName("avx512-vbmi", TQ2);
  const dot = ({ method, ahead }: Kernel): number => (method === "lookup" ? 100 : ahead === 1024 ? 80 : 90);
  expect(await measure(dot)).toEqual([{ name, kernel: { method: "dot", ahead: 1024 }, us: 80, ruleUs: 100 }]);
  const near = ({ method, ahead }: Kernel): number => (method === "lookup" && ahead === 0 ? 100 : 97);
  expect(await measure(near)).toEqual([{ name, kernel: { method: "lookup", ahead: 0 }, us: 100, ruleUs: 100 }]);
});

test("kernels that cannot run a matrix are not tried, and tall matrices are cut", async () => {
  const asked: BenchCase[] = [];
  const tall = { ...Q8, n: 200_000 };
  await all(
    tune(
      engineWith(() => 1, asked),
      "avx512-vbmi",
      "AMD EPYC",
      [tall],
      Infinity,
    ),
  );
  expect(asked.map(({ method, ahead, n, tokens }) => [method, ahead, n, tokens])).toEqual([
    ["dot", 0, 16_384, 1],
    ["dot", 1024, 16_384, 1],
    ["dot", 4096, 16_384, 1],
  ]);
});

test("what is not measured when the time is up is left out", async () => {
  const engine = engineWith(() => 1);
  const slow = {
    bench: async (what: BenchCase): Promise<BenchTimes> => {
      await new Promise((resolve) => setTimeout(resolve, 30));
      return engine.bench(what);
    },
  };
  const cases = [Q8, TQ2, Q8, TQ2, Q8];
  const from = performance.now();
  const found = await all(tune(slow, "avx512-vbmi", "AMD EPYC", cases, from + 150));
  expect(found.length).toBeGreaterThan(0);
  expect(found.length).toBeLessThan(cases.length);
  expect(await all(tune(slow, "avx2", "AMD EPYC", cases, performance.now() - 1))).toEqual([]);
});

testWith(loadAddon(), "this machine's kernels are measured, and what is chosen can run the matrix", async (addon) => {
  for (const isa of addon.isas().slice(0, -1)) {
    const engine = new addon.Engine(isa, 1);
    const tiles = tilesOf("TQ1_0", 256, 512);
    const found = await all(tune(engine, isa, processorName(), [caseOf(tiles, 256, 512)], performance.now() + 60_000));
    engine.close();
    expect(found.length, isa).toBe(1);
    const [{ kernel, us, ruleUs }] = found as [Tuned];
    expect(methodsFor(isa, codesOf(tiles)), isa).toContain(kernel.method);
    expect(us > 0 && us <= ruleUs, isa).toBe(true);
  }
});
