// Which ops of a plan need no pass of their own on the device: a rotation that attention alone reads is done as attention
// reads, and what comes out of attention or of a gate and goes into the next products alone is made ready for them at once.
// Only values that nobody else reads are left out. Not here: kernels (codegen.ts), buffers (backend.ts).

import type { Op, Rope, ValueId } from "../ops.ts";
import type { Plan } from "../plan.ts";

export interface Fusion {
  /** Rotations, by their places in the plan, that are done by an attention. */
  readonly skipped: ReadonlySet<number>;
  /** Of an attention, by its place, the rotations of its queries and keys. */
  readonly turned: ReadonlyMap<number, { readonly q: Rope | null; readonly k: Rope | null }>;
  /** Attentions and gated products, by their places, whose result is the input of the next op's products and no more. */
  readonly straight: ReadonlySet<number>;
}

export function fusionOf({ ops, logits }: Plan): Fusion {
  const skipped = new Set<number>();
  const turned = new Map<number, { readonly q: Rope | null; readonly k: Rope | null }>();
  const straight = new Set<number>();
  ops.forEach((op, at) => {
    if (op.kind === "attention") {
      const rotation = (value: ValueId, other: ValueId): Rope | null => {
        const place = ops.findLastIndex((one, i) => i < at && writes(one, value));
        const found = ops[place];
        if (found?.kind !== "rope" || value === other || !readBy(ops, logits, place, value, at)) return null;
        skipped.add(place);
        return found;
      };
      turned.set(at, { q: rotation(op.q, op.k), k: rotation(op.k, op.q) });
    }
    const out =
      op.kind === "attention" ? op.out : op.kind === "gemm" && op.epilogue.kind === "silu-mul" ? op.out[0] : null;
    const next = ops[at + 1];
    if (out !== null && out !== undefined && next?.kind === "gemm" && next.input === out && next.norm === null)
      if (readBy(ops, logits, at, out, at + 1)) straight.add(at);
  });
  return { skipped, turned, straight };
}

/** Whether what op `from` writes to a value is read by op `by` and by no other. */
function readBy(ops: readonly Op[], logits: ValueId, from: number, value: ValueId, by: number): boolean {
  for (let at = from + 1; at < ops.length; at++) {
    const op = ops[at]!;
    if (reads(op).includes(value) && at !== by) return false;
    if (op.kind === "gemm" && at === by && op.epilogue.kind === "add" && op.epilogue.from === value) return false;
    // A rotation reads what it writes.
    if (writes(op, value)) return at >= by;
  }
  return value !== logits;
}

function reads(op: Op): readonly ValueId[] {
  switch (op.kind) {
    case "embed":
      return [];
    case "select":
      return [op.input];
    case "gemm":
      return op.epilogue.kind === "add" ? [op.input, op.epilogue.from] : [op.input];
    case "rope":
      return [op.value];
    case "attention":
      return [op.q, op.k, op.v];
  }
}

function writes(op: Op, value: ValueId): boolean {
  switch (op.kind) {
    case "gemm":
      return op.out.includes(value);
    case "rope":
      return op.value === value;
    case "embed":
    case "select":
    case "attention":
      return op.out === value;
  }
}
