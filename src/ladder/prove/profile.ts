// What a format is good for, in a few facts: its size, the range of its values, which elements hold them all, and
// whether table lookups and integer products can take it. All of it is found by the prover, nothing is listed.
// Not here: how the facts are shown (app/check.ts).

import { endpointName, sourceOf, typeOf } from "./endpoint.ts";
import { provedStructure } from "./equation.ts";
import { decide, exactCodes, exactRun, type Guard, type Source, windowOf } from "./exactness.ts";
import { bindTensor, smallestShape } from "../tensor.ts";
import type { Element, Endpoint } from "../type.ts";
import { type Target, targetOf } from "./window.ts";

/** Whether all values are numbers of an element. */
export type Fit =
  | { readonly kind: "exact" }
  /** Of an element: so many of its finite codes are. */
  | { readonly kind: "some"; readonly exact: number; readonly finite: number }
  /** As long as a scale is in a run of codes; the second run also keeps clear of the target's subnormals. */
  | { readonly kind: "run"; readonly run: Guard; readonly normal: Guard | null }
  | { readonly kind: "no" | "open" };

export interface Profile {
  readonly name: string;
  /** With all metadata, in matrices of about 4096 x 4096. */
  readonly bitsPerValue: number;
  /** The smallest and largest finite value, as doubles; bounds where a value is a sum. */
  readonly low: number;
  readonly high: number;
  /** In the order of the targets. */
  readonly fits: readonly Fit[];
  /** The integer codes of the structure, or why there are none. */
  readonly integers:
    | { readonly low: number; readonly high: number; readonly groupSize: number; readonly offset: boolean }
    | { readonly reason: string };
}

/** Values that a tensor is looked at for; the shapes of larger ones are tiles of a kernel. */
const MAX_VALUES = 4096;
/** Scales with as many codes are tried one by one. */
const MAX_SCALE_CODES = 256;

/** The facts about an element, a type or one storage of a tensor. */
export function profileOf(end: Endpoint, targets: readonly Element[]): Profile {
  const source = sourceOf(end);
  const type = source?.type ?? typeOf(end);
  const window = source && windowOf(source);
  const large = type === null || type.blockSize > MAX_VALUES;
  const structure = large && end.kind === "tensor" ? tooLarge(type?.blockSize ?? 0) : type && provedStructure(type);
  const integers = structure?.kind === "proved" ? structure.integers.at(-1)! : null;
  return {
    name: endpointName(end),
    bitsPerValue: bitsOf(end),
    low: window?.low ?? Number.NaN,
    high: window?.high ?? Number.NaN,
    fits: targets.map((element) => (source === null ? { kind: "open" } : fitOf(end, source, targetOf(element)!))),
    integers:
      structure?.kind === "proved" && integers !== null
        ? {
            low: integers.low,
            high: integers.high,
            groupSize: structure.structure.groupSize,
            offset: structure.structure.offset !== null,
          }
        : { reason: structure?.kind === "none" ? structure.reason : "the data decide how a value is computed" },
  };
}

function tooLarge(values: number): { readonly kind: "none"; readonly reason: string } {
  return { kind: "none", reason: `its smallest matrix has ${values} values, more than the ${MAX_VALUES} looked at` };
}

function bitsOf(end: Endpoint): number {
  if (end.kind === "element") return end.element.bits;
  if (end.kind === "type") return (end.type.blockBytes * 8) / end.type.blockSize;
  const shape = smallestShape(end.tensor, end.storage);
  if (shape === null) return Number.NaN;
  const [rows, columns] = [shape.rows, shape.columns].map((n) => n * Math.max(1, Math.round(4096 / n)));
  for (const [r, c] of [[rows!, columns!] as const, [shape.rows, shape.columns] as const]) {
    const binding = bindTensor(end.tensor, end.storage, r, c);
    if (binding.kind === "bound") return (binding.type.blockBytes * 8) / binding.type.blockSize;
  }
  return Number.NaN;
}

function fitOf(end: Endpoint, source: Source, target: Target): Fit {
  const decision = decide(source, target, []);
  if (decision.kind === "exact") return { kind: "exact" };
  if (end.kind === "element" && end.element.bits <= 16) {
    const { exact, finite } = exactCodes(end.element, target);
    return exact < finite ? { kind: "some", exact, finite } : { kind: "no" };
  }
  const { type } = source;
  const small = type?.fields.some(({ element, count }) => {
    return 2 ** element.bits <= MAX_SCALE_CODES && element.kind !== "int" && count < type.blockSize;
  });
  const run = small ? exactRun(source, target, []) : null;
  if (run !== null && run.high > run.low) return { kind: "run", run, normal: exactRun(source, target, [], true) };
  return { kind: decision.kind === "open" ? "open" : "no" };
}
