// The decode of a type as text, from one intermediate form: JavaScript in doubles, C++ and WGSL in singles, each with
// what it keeps of the exact value and the proved rewrites that made it.
// Where the data ask for an entry that a field does not have (an index such as g_idx), all three take the nearest one:
// no text reads beyond its block, and a kernel has nobody to tell. JavaScript's decode may be given a function that says
// otherwise; codec.ts gives it one that throws, as the definition does.
// Not here: the form (ir.ts), the rewrites and their proofs (rewrite.ts), the printers (emit-*.ts).

import { type Guarantee, guaranteeOf } from "./guarantee.ts";
import { cppOf } from "./cpp.ts";
import { javaScriptOf } from "./javascript.ts";
import { wgslOf } from "./wgsl.ts";
import { type Float, type Graph, makeGraph, Refusal } from "./ir.ts";
import { CPP, JAVASCRIPT, rewriteFor, WGSL } from "./rewrite.ts";
import type { Type } from "../type.ts";

export { type Guarantee, guaranteeText } from "./guarantee.ts";

export type EmitTarget =
  /** An ES module with `decode(bytes: Uint8Array, out: Float64Array | Float32Array, outside?)`. */
  | { readonly kind: "javascript" }
  /** C++17: `<name>_block(const uint8_t* block, float* out)`, `<name>_decode(bytes, blocks, out)`. */
  | { readonly kind: "cpp"; readonly name: string }
  /**
   * `fn <prefix>decode(row: u32, k: u32) -> f32` and `fn <prefix>decode4(row: u32, k: u32) -> vec4f` for k a multiple of
   * 4, over the storage buffer `<prefix>words`, and `<prefix>tables` at the next binding where a table is long. Of a matrix of several blocks, `columns` values make a row; null for
   * `override <prefix>columns : u32`. Of a bound tensor it is the number that it was bound with.
   */
  | {
      readonly kind: "wgsl";
      readonly prefix: string;
      readonly group: number;
      readonly binding: number;
      readonly columns: number | null;
    };

export type Emission =
  | {
      readonly kind: "emitted";
      readonly text: string;
      readonly guarantee: Guarantee;
      /** The names of the rewrites that were proved and used. */
      readonly rewrites: readonly string[];
      /** The words of `<prefix>tables`, which the text has at the next binding where there are any. WGSL only. */
      readonly tables: readonly number[];
    }
  /** Half a sentence, about the type. */
  | { readonly kind: "refused"; readonly reason: string };

const MACHINES = { javascript: JAVASCRIPT, cpp: CPP, wgsl: WGSL } as const;
/** Positions of bits stay below 2^32. */
const MAX_BYTES = 2 ** 29;

/** The decode of a type as text; exactValue gives the same numbers, as far as the guarantee says. */
export function emit(type: Type, target: EmitTarget): Emission {
  if (type.blockBytes >= MAX_BYTES)
    return { kind: "refused", reason: `it is a matrix of ${type.blockBytes} bytes; bind fewer rows` };
  const graph = makeGraph();
  const applied = new Set<string>();
  const rewrite = rewriteFor(graph, MACHINES[target.kind], applied);
  try {
    const { text, tables } = print(graph, type, target, rewrite);
    const guarantee = guaranteeOf(type, target.kind === "javascript" ? "f64" : "f32");
    return { kind: "emitted", text, guarantee, rewrites: [...applied], tables };
  } catch (error) {
    if (error instanceof Refusal) return { kind: "refused", reason: error.message };
    throw error;
  }
}

function print(
  graph: Graph,
  type: Type,
  target: EmitTarget,
  rewrite: (node: Float) => Float,
): { readonly text: string; readonly tables: readonly number[] } {
  switch (target.kind) {
    case "javascript":
      return { text: javaScriptOf(graph, type, rewrite), tables: [] };
    case "cpp":
      return { text: cppOf(graph, type, target.name, rewrite), tables: [] };
    case "wgsl":
      return wgslOf(graph, type, target, rewrite);
  }
}
