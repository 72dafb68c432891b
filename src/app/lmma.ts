// One matrix product on the LMMA machine, for the commands that show it: its programs in assembly, and what they move.
// Not here: the programs (lutcore/lower.ts), which plan a machine's description allows (ladder/schedule).

import { typeOf } from "../ladder/prove/endpoint.ts";
import type { Gemm } from "../ladder/schedule/route.ts";
import { bindTensor } from "../ladder/tensor.ts";
import type { DeviceModel, Endpoint, Type } from "../ladder/type.ts";
import { disassemble } from "../lutcore/asm.ts";
import { addCounts, NO_COUNTS } from "../lutcore/counts.ts";
import { countsOfProgram, type Lowering, lowerings } from "../lutcore/lower.ts";
import { rightOf } from "../lutcore/matrix.ts";
import { formOf } from "../lutcore/offline.ts";

/** What all programs of a lowering do. */
export interface LmmaTraffic {
  readonly kind: Lowering["kind"];
  readonly tables: number;
  /** Bytes of global memory. */
  readonly read: number;
  readonly written: number;
}

export interface LmmaProduct {
  /** Of each lowering, the last being the one that the backend runs. */
  readonly traffic: readonly LmmaTraffic[];
  /** Of the last. */
  readonly texts: readonly { readonly name: string; readonly text: string }[];
}

/** The programs of a product for a machine that has LMMA instructions; null where it has none, or no tables. */
export function lmmaProduct(
  gemm: Pick<Gemm, "activation" | "weight" | "m" | "n" | "k">,
  device: DeviceModel,
): LmmaProduct | null {
  if (!device.multiplies.some(({ weight }) => weight.kind === "int" && weight.bits === 1)) return null;
  const { activation, weight, m, n, k } = gemm;
  const type = boundType(weight, n, k);
  const right = type === null ? null : rightOf(type, n, k);
  if (right === null || "kind" in right || right.form.kind !== "planes") return null;
  const own = typeOf(activation);
  const isInteger = own !== null && formOf(own).kind !== "none";
  const all = lowerings(right, m, { mode: "paper", activation: isInteger ? "int8" : "fp16", tables: "exact" });
  const traffic = all.map(({ kind, programs }) => {
    const counts = programs.reduce((sum, { program }) => addCounts(sum, countsOfProgram(program)), NO_COUNTS);
    const { read, written } = counts.bytes.global;
    return { kind, tables: counts.tables, read, written };
  });
  const texts = all.at(-1)!.programs.map(({ name, program }) => ({
    name: `${name.replaceAll(" ", "-")}.lmma`,
    text: disassemble(program),
  }));
  return { traffic, texts };
}

function boundType(end: Endpoint, rows: number, columns: number): Type | null {
  if (end.kind !== "tensor") return typeOf(end);
  const binding = bindTensor(end.tensor, end.storage, rows, columns);
  return binding.kind === "bound" ? binding.type : null;
}
