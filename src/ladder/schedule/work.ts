// How many simple operations a conversion takes for one value: shifts, masks, products, conversions, reads of tables.
// Counted from what the declaration says, never listed by format; a machine turns counts into time (cost.ts).
// An estimate for ranking plans: a clever kernel needs fewer, as one mask for two nibbles shows. Not here: proofs.

import type { ProvedStructure } from "../prove/equation.ts";
import { elementOf, type Form, formAt, type Tree } from "../prove/form.ts";
import type { MappedTerm } from "../layout.ts";
import type { Element, Type } from "../type.ts";

/** `count` operations for one value, on lanes of so many bits. */
export interface Work {
  readonly lanes: "integer" | "float";
  readonly bits: number;
  readonly count: number;
}

type Structured = ProvedStructure & { readonly kind: "proved" };

/** Values of a block that are looked at; blocks repeat themselves. */
const MAX_PLACES = 256;

/** Reading a table of up to 16 entries is one shuffle; of a larger one, an address and a read. */
const SHUFFLED_BITS = 4;

/** Taking the integer codes of a structure out of its bytes: one mask, and a shift where a run is not in its place. */
export function codeWork(type: Type, { structure: { codes } }: Structured): readonly Work[] {
  let count = codes.map === null ? 0 : codes.bits <= SHUFFLED_BITS ? 1 : 2;
  if (codes.flip !== 0) count += 1;
  for (const { count: length, bit, step, width, shift } of codes.runs) {
    const whole = width === 8 && codes.bits === 8;
    const moved = bit % 8 !== shift % 8 || step % 8 !== 0 ? 1 : 0;
    const joined = shift > 0 ? 1 : 0;
    count += (length / type.blockSize) * (whole ? 0 : 1 + moved + joined);
  }
  return [{ lanes: "integer", bits: codes.bits <= 8 ? 8 : 16, count }];
}

/** Making the scale of one group, and its offset where there is one: fields to F32, codes out of their bits, products. */
export function scaleWork({ structure: { scale, offset } }: Structured): readonly Work[] {
  const term = ({ fields, codes }: MappedTerm): number =>
    fields.length + (codes === null ? 0 : 3 + (codes.map === null ? 0 : 1)) + Math.max(0, fields.length - 1);
  return [{ lanes: "float", bits: 32, count: term(scale) + (offset === null ? 0 : term(offset)) }];
}

/** One code into another element. */
export function elementWork(from: Element, to: Element): readonly Work[] {
  if (to.kind === "int" && from.kind === "int") {
    // Unsigned codes stand in wider lanes as they are; others take their sign along.
    const same = from.flip === 0 && from.zero === 0 && to.flip === 0;
    return same || from.bits <= to.bits ? [{ lanes: "integer", bits: laneBits(to.bits), count: same ? 0 : 1 }] : [];
  }
  const bits = laneBits(to.bits);
  // Scaled to the range of the codes, rounded, and narrowed, after a look for the largest.
  if (to.kind === "int") return [{ lanes: "float", bits: laneBits(from.bits), count: 4 }];
  if (from.kind === "int") return [{ lanes: "float", bits, count: 1 }];
  if (from.kind === "float") return [{ lanes: "float", bits, count: from.bits >= 16 ? 1 : 4 }];
  return [{ lanes: "float", bits, count: from.bits <= SHUFFLED_BITS ? 1 : 2 }];
}

/**
 * Computing one value of a block in lanes of the target. What several values share, as a scale, counts by its share.
 * @returns null where the data decide what is computed
 */
export function valueWork(type: Type, to: Element): readonly Work[] | null {
  const places = Math.min(type.blockSize, MAX_PLACES);
  const forms: Form[] = [];
  for (let i = 0; i < places; i++) {
    const form = formAt(type, i);
    if (form === null) return null;
    forms.push(form);
  }
  let [integer, float] = [0, 0];
  const { leaves, tree } = forms[0]!;
  const shares = leaves.map((_, l) => new Set(forms.map((form) => form.leaves[l]?.places?.join())).size / places);
  for (const [l, leaf] of leaves.entries()) {
    integer += shares[l]! * (leaf.bits % 8 === 0 ? 0 : 2);
    float += shares[l]! * (elementWork(elementOf(leaf), to)[0]?.count ?? 0);
  }
  float += treeWork(tree, shares).count;
  const bits = laneBits(to.bits);
  return [
    { lanes: "integer", bits: 8, count: integer },
    { lanes: "float", bits, count: float },
  ];
}

/** Sums and products, each as often as the part that changes most. */
function treeWork(tree: Tree, shares: readonly number[]): { readonly count: number; readonly share: number } {
  switch (tree.kind) {
    case "leaf":
      return { count: 0, share: shares[tree.leaf] ?? 1 };
    case "constant":
      return { count: 0, share: 0 };
    case "negate":
      return treeWork(tree.operand, shares);
    case "binary": {
      const [left, right] = [treeWork(tree.left, shares), treeWork(tree.right, shares)];
      const share = Math.max(left.share, right.share);
      return { count: left.count + right.count + share, share };
    }
  }
}

function laneBits(bits: number): number {
  return bits <= 8 ? 8 : bits <= 16 ? 16 : 32;
}
