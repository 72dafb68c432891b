// The Plan of one model: an ordered list of ops over named values and named weights, built once and executed whole.
// makePlan checks every width against the shape rule of its op, so that a backend never has to.

import type { Op, ValueId } from "./ops.ts";

export interface Value {
  readonly name: string;
  /** Numbers per token. */
  readonly width: number;
}

/** A weight as the plan uses it: `shape` is (n, k) for matrices, (n) for vectors. */
export interface WeightUse {
  readonly name: string;
  readonly shape: readonly number[];
}

/** The KV cache: `layers` x `slots` sequences x `context` positions x `width` numbers, once for K and once for V. */
export interface CacheShape {
  readonly layers: number;
  readonly width: number;
  readonly context: number;
  readonly slots: number;
}

export interface Plan {
  readonly values: readonly Value[];
  readonly ops: readonly Op[];
  readonly weights: ReadonlyMap<string, WeightUse>;
  readonly logits: ValueId;
  readonly cache: CacheShape;
}

/**
 * The plan itself, once every op has been found consistent: values written before they are read, widths that fit
 * weights, heads that divide. Throws an Error that names the op, the numbers and the rule; a model whose file is
 * wrong is refused before (src/model), so that this means a defect in the caller.
 */
export function makePlan(plan: Plan): Plan {
  const written = new Set<ValueId>();
  const selected = { done: false };
  plan.ops.forEach((op, index) => {
    const where = `plan: op ${index} (${op.kind})`;
    const must = (holds: boolean, rule: string): void => {
      if (!holds) throw new Error(`${where}: ${rule}`);
    };
    const width = (id: ValueId): number => {
      const value = plan.values[id];
      if (value === undefined) throw new Error(`${where}: there is no value ${id}`);
      return value.width;
    };
    const reads = (id: ValueId): number => {
      must(written.has(id), `reads value ${id} (${plan.values[id]?.name}) before an op has written it`);
      return width(id);
    };
    const shape = (name: string, rank: number): readonly number[] => {
      const use = plan.weights.get(name);
      if (use?.shape.length !== rank)
        throw new Error(`${where}: weight ${name} is not among the weights of rank ${rank}`);
      return use.shape;
    };
    const equal = (what: string, got: number | undefined, want: number): void =>
      must(got === want, `${what} is ${got}, but must be ${want}`);

    switch (op.kind) {
      case "embed":
        equal(`width of ${op.weight}`, shape(op.weight, 2)[1], width(op.out));
        written.add(op.out);
        break;
      case "select":
        must(!selected.done, "a plan selects once");
        equal("output width", width(op.out), reads(op.input));
        selected.done = true;
        written.clear(); // values of before have other rows
        written.add(op.out);
        break;
      case "gemm": {
        const k = reads(op.input);
        if (op.norm !== null) equal(`size of ${op.norm.weight}`, shape(op.norm.weight, 1)[0], k);
        const gated = op.epilogue.kind === "silu-mul";
        equal("number of outputs", op.out.length, gated ? 1 : op.linears.length);
        if (gated) equal("number of linears", op.linears.length, 2);
        op.linears.forEach((linear, i) => {
          const [n, inner] = shape(linear.weight, 2);
          const out = op.out[gated ? 0 : i] ?? -1;
          equal(`k of ${linear.weight}`, inner, k);
          equal(`n of ${linear.weight}`, n, width(out));
          if (linear.bias !== null) equal(`size of ${linear.bias}`, shape(linear.bias, 1)[0], width(out));
          if (op.epilogue.kind === "add") equal("width of what is added", reads(op.epilogue.from), width(out));
          must(out !== op.input, "writes its own input");
        });
        for (const out of op.out) written.add(out);
        break;
      }
      case "rope":
        equal("width of the value", reads(op.value), op.heads * op.headDim);
        must(
          2 * op.frequencies.length <= op.headDim,
          `${op.frequencies.length} pairs do not fit a head of ${op.headDim}`,
        );
        must(!selected.done, "comes after the select, where rows have no position");
        break;
      case "attention":
        equal("width of q", reads(op.q), op.heads * op.headDim);
        equal("width of k", reads(op.k), op.kvHeads * op.headDim);
        equal("width of v", reads(op.v), op.kvHeads * op.headDim);
        equal("output width", width(op.out), op.heads * op.headDim);
        equal("cache width", plan.cache.width, op.kvHeads * op.headDim);
        must(op.heads % op.kvHeads === 0, `${op.heads} heads are not a multiple of ${op.kvHeads} key heads`);
        must(op.layer < plan.cache.layers, `layer ${op.layer} of ${plan.cache.layers}`);
        must(!selected.done, "comes after the select, where rows have no position");
        written.add(op.out);
        break;
    }
  });
  if (!written.has(plan.logits) || !selected.done) throw new Error("plan: no op writes the logits after a select");
  return plan;
}
