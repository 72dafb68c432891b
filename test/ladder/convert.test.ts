// The conversion graph: its edges have proofs, its chains are the cheapest, and what is no edge has its reason.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { type Chain, type Conversion, conversionGraph } from "../../src/ladder/schedule/convert.ts";
import { prove } from "../../src/ladder/prove/prove.ts";
import type { DeviceModel } from "../../src/ladder/type.ts";
import { deviceNamed, elementNamed, endpoint } from "./plans.ts";
import { programWith } from "./program.ts";

const program = programWith();
const graph = conversionGraph(program);
const a100 = deviceNamed(program, "a100");

function chain(
  from: string,
  to: string,
  keeps: Chain["keeps"] = "value",
  device: DeviceModel = a100,
  cost: (conversion: Conversion) => number = () => 1,
): ReturnType<typeof graph.chain> {
  return graph.chain(endpoint(program, from), elementNamed(program, to), keeps, device, cost);
}

function claims(found: ReturnType<typeof graph.chain>): readonly string[] {
  return "refused" in found
    ? found.refused.map(({ claim, reason }) => `${claim}: ${reason}`)
    : found.steps.map(({ proof }) => proof.claim);
}

test("every edge is proved: asked again, the prover gives the same proof", () => {
  const pairs = [
    ["Q4_0", "F32", "value"],
    ["Q4_0", "I8", "structure"],
    ["Q4_K", "F32", "rounded"],
    ["E4M3FN", "F32", "value"],
    ["F16", "I8", "rounded"],
    ["IQ4_NL", "I8", "structure"],
  ] as const;
  for (const [from, to, keeps] of pairs) {
    const found = chain(from, to, keeps);
    if ("refused" in found) throw new Error(claims(found).join("\n"));
    expect(found.steps.length).toBeGreaterThan(0);
    for (const { from: source, to: target, guarantee, proof } of found.steps) {
      const span = { file: "", start: 0, end: 0 };
      const again = prove({ from: source, to: target, guarantee, domain: proof.guards, by: null, span }, program);
      expect(again).toEqual(proof);
    }
  }
});

test("a chain is the cheapest of all, whatever conversions cost", () => {
  const price = fc.integer({ min: 1, max: 20 });
  fc.assert(
    fc.property(fc.array(price, { minLength: 5, maxLength: 5 }), ([direct, half, brain, wide, wider]) => {
      const costs: Readonly<Record<string, number>> = {
        "E4M3FN -> F32 : value": direct!,
        "E4M3FN -> F16 : value": half!,
        "E4M3FN -> BF16 : value": brain!,
        "F16 -> F32 : value": wide!,
        "BF16 -> F32 : value": wider!,
      };
      const cost = ({ proof }: Conversion): number => costs[proof.claim]!;
      const found = chain("E4M3FN", "F32", "value", a100, cost);
      if ("refused" in found) throw new Error("there are three chains");
      const total = found.steps.reduce((sum, step) => sum + cost(step), 0);
      expect(total).toBe(Math.min(direct!, half! + wide!, brain! + wider!));
    }),
  );
});

test("codes are taken out first, then stand in wider lanes", () => {
  expect(claims(chain("Q4_0", "F16", "structure"))).toEqual(["Q4_0 -> U4 : structure", "U4 -> F16 : value"]);
  // From the zero point they have signs.
  expect(claims(chain("Q8_0", "I8", "structure"))).toEqual(["Q8_0 -> I8 : structure"]);
  expect(claims(chain("F32", "F32"))).toEqual([]);
});

test("where subnormals may be flushed, the guard keeps clear of them", () => {
  const flushing = {
    ...a100,
    caveats: [{ kind: "flush_subnormals", certainty: "maybe" } as const].map((one) => ({
      ...one,
      element: elementNamed(program, "F16"),
    })),
  };
  const guards = (device: DeviceModel): unknown => {
    const found = chain("OCP_MXFP4", "F16", "value", device);
    return "refused" in found ? claims(found) : found.steps.flatMap(({ proof }) => proof.guards);
  };
  expect(guards(a100)).toEqual([{ kind: "codes", field: "s", low: 104, high: 140 }]);
  expect(guards(flushing)).toMatchObject([{ kind: "codes", field: "s", low: 114, high: 140 }]);
});

test("a machine that flushes subnormals rounds what has them, and that is no value conversion", () => {
  const webgpu = deviceNamed(program, "webgpu");
  expect(claims(chain("BF16", "F32", "value", webgpu))).toContain(
    "BF16 -> F32 : value: webgpu may take subnormals of F32 for zero, and values of BF16 are among them",
  );
  expect(claims(chain("BF16", "F32", "rounded", webgpu))).toEqual(["BF16 -> F32 : value"]);
});

test("what is refused has the prover's reason, and an operation that the machine lacks is named", () => {
  expect(claims(chain("Q4_K", "F32"))).toEqual(["Q4_K -> F32 : value: not every value of Q4_K is a number of F32"]);
  expect(claims(chain("TQ1_0", "I8", "structure"))).toEqual([
    "TQ1_0 -> I8 : structure: TQ1_0 has no integer codes: TritFraction stands for 5 numbers at once",
  ]);
  expect(claims(chain("Q4_0", "I8", "structure", a100, () => Number.POSITIVE_INFINITY))).toContain(
    "Q4_0 -> U4 : structure: a100 has no operations on lanes of 8-bit integers",
  );
});
