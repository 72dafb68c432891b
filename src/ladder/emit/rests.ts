// The proofs that a compiled product rests on: that its operands become what its kernel computes in.
// Not here: how anything is proved (prove.ts).

import { endpointName } from "../prove/endpoint.ts";
import type { IntegerOperand } from "./packing.ts";
import { type Proof, prove } from "../prove/prove.ts";
import type { Claim, Element, Endpoint, IntElement, Program } from "../type.ts";

/** What a manifest says of a proof. */
export type ShownProof = Pick<Proof, "id" | "claim" | "method">;

/** The proof that an operand keeps its values, or what else is asked; none where it is that already; null if it fails. */
export function proofOf(
  from: Endpoint,
  to: Element,
  guarantee: Claim["guarantee"],
  program: Program,
): readonly ShownProof[] | null {
  if (from.kind !== "tensor" && endpointName(from) === to.name) return [];
  const span = { file: "", start: 0, end: 0 };
  const found = prove({ from, to: { kind: "element", element: to }, guarantee, domain: [], by: null, span }, program);
  return found.kind === "proof" ? [{ id: found.id, claim: found.claim, method: found.method }] : null;
}

/** The proof that an operand is integers with exact scales: those that are multiplied, or else those that are stored. */
export function structureProof(
  from: Endpoint,
  { low, high, step, shift, least, most }: IntegerOperand,
  program: Program,
): readonly ShownProof[] {
  if (from.kind === "element") return [];
  const isMultiplied = step === 1 && least === low - shift;
  const first = isMultiplied ? least : low;
  const last = isMultiplied ? most : high;
  return (
    proofOf(from, narrowest(first, last), "structure", program) ??
    proofOf(from, narrowest(low, high), "structure", program) ??
    []
  );
}

/** The narrowest element of whole numbers that holds both. */
function narrowest(low: number, high: number): IntElement {
  let bits = 1;
  while (low < 0 ? low < -(2 ** (bits - 1)) || high >= 2 ** (bits - 1) : high >= 2 ** bits) bits++;
  const zero = low < 0 ? 2 ** (bits - 1) : 0;
  return { kind: "int", name: `${low < 0 ? "I" : "U"}${bits}`, bits, flip: zero, zero };
}
