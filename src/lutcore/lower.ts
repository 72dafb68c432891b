// One matrix product as the programs that run it, in three stages of what the dataflow graph is made into: tables made by
// every tile that looks them up; made once, by an operator of their own; and that fused into the norm before it.
// What each moves is read off its instructions, so that no formula of traffic stands beside the programs.
// Not here: the programs (prepare.ts, product.ts), the model (backend.ts). After LUT Tensor Core (ISCA'25), 3.1.1.

import { type Counts, counterOf } from "./counts.ts";
import { prepareProgram } from "./prepare.ts";
import { productProgram } from "./product.ts";
import type { Program } from "./program.ts";
import { type Arithmetic, leftOf, paddedRows, type Right } from "./tiling.ts";

export interface NamedProgram {
  /** "norm", "tables", "product". */
  readonly name: string;
  readonly program: Program;
}

export interface Lowering {
  readonly kind: "repeated" | "split" | "fused";
  /** In the order in which they run. */
  readonly programs: readonly NamedProgram[];
}

/**
 * The lowerings of norm(x)(rows, k) . right(n, k)^T, the last of which is what the backend runs. A matrix that is not
 * looked up has no tables, and the first two alike.
 */
export function lowerings(right: Right, tokens: number, arithmetic: Arithmetic): readonly Lowering[] {
  const rows = paddedRows(tokens);
  const { k } = right;
  const left = leftOf([right], arithmetic);
  const dense = left.tables === null ? left.dense : [arithmetic.activation];
  const norm = (made: typeof left): Program => prepareProgram({ rows, k, producer: "norm", left: made }, arithmetic);
  const product = (split: boolean): NamedProgram => ({
    name: "product",
    program: productProgram({ rows, left, right, split }, arithmetic),
  });
  const activations = {
    name: "norm",
    program: norm({ tables: null, dense, sums: left.tables === null ? left.sums : null }),
  };
  const tables = { name: "tables", program: prepareProgram({ rows, k, producer: "stored", left }, arithmetic) };
  return [
    {
      kind: "repeated",
      programs: [{ name: "norm", program: norm({ tables: null, dense, sums: left.sums }) }, product(false)],
    },
    { kind: "split", programs: [activations, ...(left.tables === null ? [] : [tables]), product(true)] },
    { kind: "fused", programs: [{ name: "norm and tables", program: norm(left) }, product(true)] },
  ];
}

/** What a run of a program does, whatever its data: of one whose loops do not depend on the launch, as those here. */
export function countsOfProgram({ code, gridX, gridY, warps, shared }: Program): Counts {
  const times = [gridX * gridY * warps];
  const executed = code.map((i) => {
    const now = times.at(-1)!;
    if (i.kind === "loop") times.push(now * i.times);
    if (i.kind === "end") times.pop();
    return now;
  });
  return counterOf(code)(executed, shared);
}
