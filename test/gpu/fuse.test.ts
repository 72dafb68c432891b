// Which ops of a plan are left to their neighbours: all of a llama's rotations, attentions and gates; none whose value
// somebody else reads.

import { expect, test } from "vitest";

import { fusionOf } from "../../src/gpu/fuse.ts";
import { embedded } from "../../src/app/models.ts";
import { load } from "../../src/load.ts";
import type { Attention, Op, Rope } from "../../src/ops.ts";
import type { Plan } from "../../src/plan.ts";

const rope = (value: number): Rope => ({
  kind: "rope",
  value,
  heads: 1,
  headDim: 16,
  pairing: "split",
  frequencies: [1],
  magnitude: 1,
});
const attention: Attention = {
  kind: "attention",
  layer: 0,
  q: 0,
  k: 1,
  v: 2,
  out: 3,
  heads: 1,
  kvHeads: 1,
  headDim: 16,
  scale: 1,
};
const gemm = (input: number, out: number, kind: "store" | "silu-mul" = "store"): Op => ({
  kind: "gemm",
  input,
  norm: null,
  linears: [{ weight: "w", bias: null }],
  epilogue: { kind },
  out: [out],
});

/** Values 0, 1 and 2 are written before; what is asked of the ops behind the fourth is at their own places. */
function fused(ops: readonly Op[], logits = 9): { skipped: number[]; straight: number[] } {
  const inputs = [0, 1, 2].map((out): Op => ({ kind: "embed", weight: "w", out }));
  const { skipped, straight } = fusionOf({ ops: [...inputs, ...ops], logits } as unknown as Plan);
  return { skipped: [...skipped].map((at) => at - 3), straight: [...straight].map((at) => at - 3) };
}

test("in a llama every rotation, attention and gate goes with its neighbour", () => {
  const model = load(embedded.file);
  const { ops } = model.plan;
  const { skipped, straight, turned } = fusionOf(model.plan);
  const places = (kind: Op["kind"]): number[] => ops.flatMap((op, at) => (op.kind === kind ? [at] : []));
  expect([...skipped].toSorted((a, b) => a - b)).toEqual(places("rope"));
  for (const at of places("attention")) {
    expect(turned.get(at)).toEqual({ q: ops[at - 2], k: ops[at - 1] });
    expect(straight.has(at)).toBe(true);
  }
  const gates = ops.flatMap((op, at) => (op.kind === "gemm" && op.epilogue.kind === "silu-mul" ? [at] : []));
  expect([...straight].toSorted((a, b) => a - b)).toEqual([...places("attention"), ...gates].toSorted((a, b) => a - b));
  model.close();
});

test("a rotation is left out where attention alone reads what it turns", () => {
  expect(fused([rope(0), rope(1), attention])).toEqual({ skipped: [0, 1], straight: [] });
  // Read by products as well, before or after.
  expect(fused([rope(0), gemm(0, 4), attention]).skipped).toEqual([]);
  expect(fused([rope(0), attention, gemm(0, 4)]).skipped).toEqual([]);
  // Turned twice: the second time by attention.
  expect(fused([rope(0), rope(0), attention]).skipped).toEqual([1]);
  // Written anew between the two.
  expect(fused([rope(0), gemm(2, 0), attention]).skipped).toEqual([]);
  // What comes after a new value is no reader of the old one.
  expect(fused([rope(0), attention, gemm(2, 0), gemm(0, 4)]).skipped).toEqual([0]);
  // One value as queries and keys.
  expect(fused([rope(0), { ...attention, k: 0 }]).skipped).toEqual([]);
  expect(fused([rope(0), attention], 0).skipped).toEqual([]);
});

test("a result goes straight into the next products where these alone read it, as it is", () => {
  expect(fused([attention, gemm(3, 4)]).straight).toEqual([0]);
  expect(fused([gemm(0, 3, "silu-mul"), gemm(3, 4)]).straight).toEqual([0]);
  expect(fused([attention, gemm(3, 4), gemm(3, 5)]).straight).toEqual([]);
  expect(fused([attention, gemm(0, 4), gemm(3, 5)]).straight).toEqual([]);
  expect(fused([attention, gemm(3, 4)], 3).straight).toEqual([]);
  const normed: Op = { ...(gemm(3, 4) as Extract<Op, { kind: "gemm" }>), norm: { weight: "n", eps: 0 } };
  expect(fused([attention, normed]).straight).toEqual([]);
  const added: Op = { ...(gemm(3, 4) as Extract<Op, { kind: "gemm" }>), epilogue: { kind: "add", from: 3 } };
  expect(fused([attention, added]).straight).toEqual([]);
});
