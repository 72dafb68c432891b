// A matrix product for a machine of LMMA instructions (LUT Tensor Core, ISCA'25): no text, but all that such a machine
// needs to run it. JSON, in the manifest under `lmma`; each field is described at LmmaLowering.
// Beside it `layouts` says how a file's bytes become planes of weights, and bytes of activations that are integers, but for
// formats of whole matrices, whose codes are taken out before.
// Not here: the instructions and their semantics (src/lutcore), areas and energies (sim/).

import type { CompileRequest, Manifest, ManifestGuarantee } from "./compile.ts";
import { gcd } from "../divisor.ts";
import { endpointName, typeOf } from "../prove/endpoint.ts";
import { exactSums, integerOperand, type IntegerOperand, type Packing, packingOf } from "./packing.ts";
import { absoluteError, lookupError, NO_UNDERFLOW, packedLoss } from "./kernel-error.ts";
import { proofOf, structureProof } from "./rests.ts";
import type { Element, Endpoint, Multiply } from "../type.ts";

type Terms = Packing["scale"];

/**
 * Of one side: v from low to high is stored; q = step * v - shift, from least to most, is multiplied, of weights as the
 * sum over planes of 2^p * (2 bit_p - 1); the value is scale * q + offset, `group` values having the same (null: all).
 */
export interface LmmaIntegers {
  readonly low: number;
  readonly high: number;
  readonly planes: number;
  readonly step: number;
  readonly shift: number;
  readonly least: number;
  readonly most: number;
  readonly group: number | null;
  readonly scale: Terms;
  readonly offset: Terms;
}

export interface LmmaLowering {
  /** k activations to a table. */
  readonly tile: { readonly m: number; readonly n: number; readonly k: number };
  /** How many along each. */
  readonly tiles: { readonly m: number; readonly n: number; readonly k: number };
  /** The sizes that they cover. */
  readonly padded: { readonly m: number; readonly n: number; readonly k: number };
  /** Values of k that are summed before they are scaled, those with the same scales on both sides. */
  readonly segment: number;
  /**
   * A table for each row of a and k activations, made once and shared by all n; an instruction for each tile and bit
   * plane; passes over a tile are the planes.
   */
  readonly counts: { readonly tables: number; readonly instructions: number; readonly passes: number };
  /** Of the 2^k sums +-a0 +-a1 ... the half that is kept; the other is its negative. */
  readonly table: { readonly entries: number; readonly element: string };
  readonly accumulate: string;
  readonly weights: LmmaIntegers;
  /** What they become first. */
  readonly activations:
    | ({ readonly kind: "integers" } & Omit<LmmaIntegers, "planes">)
    | { readonly kind: "float"; readonly element: string; readonly guarantee: "value" | "rounded" };
  readonly exact_sums: { readonly i32: number; readonly f32: number } | null;
  /** What the machine leaves to its surroundings, in order, each with what it rounds. */
  readonly outside: readonly string[];
}

interface Lowered {
  readonly lowering: LmmaLowering;
  readonly layouts: Manifest["layouts"];
  readonly guarantee: ManifestGuarantee;
  readonly proofs: Manifest["proofs"];
}

const ORDER = { stride: 4, dense: true, tileRows: 1 } as const;
/** Sizes of values of both sides, as the formulas of a bound name them. */
const INTEGERS = { a: "(|s_a q_a| + |o_a|)", w: "(|s_w q_w| + |o_w|)" };
/** A format of whole matrices is looked at in its smallest shape, if that is no more than a kernel's tile. */
const MAX_VALUES = 4096;

/** The lowering, or why there is none. The shapes have been found to fit. */
export function lmmaLowering(request: CompileRequest): Lowered | { readonly reason: string } {
  const { activation, weight, accumulate, out, m, n, k, device, program } = request;
  const products = device.multiplies.filter((one) => one.weight.kind === "int" && one.weight.bits === 1);
  if (products.length === 0)
    return {
      reason: `${device.name} has no LMMA instruction: no multiply takes weights of 1 bit; the device lut_tensor_core has`,
    };
  const w = operandOf(weight, "planes");
  if ("reason" in w) return w;
  const integers = operandOf(activation, "bytes");
  const way = wayOf(request, products, "reason" in integers ? null : integers);
  if ("reason" in way) return way;
  const { multiply, activations, proofs } = way;
  const tile = { m: multiply.m, n: multiply.n, k: multiply.k };
  const isWhole = activations.kind === "integers";
  const segment = gcd(w.group ?? k, isWhole ? (activations.group ?? k) : k);
  if (segment % tile.k !== 0)
    return { reason: `a table stands for ${tile.k} activations, and scales are the same for ${segment}` };
  const count = (size: number, by: number): number => Math.ceil(size / by);
  const tiles = { m: count(m, tile.m), n: count(n, tile.n), k: count(k, tile.k) };
  const padded = { m: tiles.m * tile.m, n: tiles.n * tile.n, k: tiles.k * tile.k };
  const layouts = {
    ...(isWhole && "kind" in integers && activation.kind !== "tensor"
      ? { activations: packingOf(integers, typeOf(activation)!, m, k, ORDER) }
      : {}),
    ...(weight.kind === "tensor" ? {} : { weights: packingOf(w, typeOf(weight)!, n, k, ORDER) }),
  };
  const sums = isWhole && !("reason" in integers) ? exactSums(integers, w) : null;
  if (accumulate.kind === "int" && sums !== null && segment > sums.i32)
    return { reason: `I32 holds ${sums.i32} products of these codes, and ${segment} have the same scales; sum in F32` };
  const scaled = w.group === null && w.scale.constant === 1 && w.offset.length === 0;
  const outside = outsideOf(w, activations, multiply, out);
  const roundoff = isWhole ? 0 : multiply.accumulate.name === "F16" ? 2 ** -11 : 2 ** -24;
  const own = (isWhole ? 0 : tile.k - 1 + (segment / tile.k) * w.bits) + (scaled ? 0 : 3 + count(k, segment));
  const unit = isWhole && scaled ? 0 : Math.max(roundoff, 2 ** -24);
  const error = own * unit;
  const lowering: LmmaLowering = {
    tile,
    tiles,
    padded,
    segment,
    counts: { tables: padded.m * tiles.k, instructions: tiles.m * tiles.n * tiles.k * w.bits, passes: w.bits },
    table: { entries: 2 ** (tile.k - 1), element: isWhole ? "I16" : multiply.accumulate.name },
    accumulate: multiply.accumulate.name,
    weights: { ...fieldsOf(w), planes: w.bits },
    activations,
    exact_sums: sums,
    outside,
  };
  const kept = integersText(w);
  const planesSize = `(${2 ** w.bits - 1} |s_w| + |o_w|)`;
  // Activations of the machine are off by what is flushed in its element, and not as their file has them.
  const absolute =
    unit === 0
      ? NO_UNDERFLOW
      : isWhole && !("reason" in integers)
        ? absoluteError(k, 8, "F32", packedLoss(integers, INTEGERS.a), packedLoss(w, INTEGERS.w))
        : lookupError(k, multiply.accumulate.name, { off: 2 ** -126, size: "|a|" }, packedLoss(w, planesSize));
  return {
    lowering,
    layouts,
    proofs: [...proofs, ...structureProof(weight, w, program)],
    guarantee: {
      text: isWhole
        ? "tables, and sums of a segment, are exact integers; scales are applied outside of the machine"
        : `tables, and sums of a segment, are rounded in ${multiply.accumulate.name}; scales are applied outside of the machine`,
      activations: isWhole
        ? `${endpointName(activation)}: ${integersText(integers as IntegerOperand)}`
        : `${endpointName(activation)}: in ${multiply.activation.name}, ${way.guarantee === "value" ? "every value exact" : "rounded to the nearest"}`,
      weights: `${endpointName(weight)}: ${kept}`,
      roundings: unit === 0 ? 0 : own,
      unit_roundoff: unit,
      relative_error: error / (1 - error),
      magnitude: isWhole ? `sum over k of ${INTEGERS.a} ${INTEGERS.w}` : `sum over k of |a| ${planesSize}`,
      ...absolute,
      out: `${out.name}: applied outside of the machine`,
    },
  };
}

/** The integers of an operand; of a format of whole matrices in its smallest shape, since its formulas are the same. */
function operandOf(end: Endpoint, form: IntegerOperand["form"]): IntegerOperand | { readonly reason: string } {
  const type = typeOf(end);
  const name = endpointName(end);
  if (type === null) return { reason: `${name} allows no shape in which its codes could be looked at` };
  if (type.blockSize > MAX_VALUES)
    return {
      reason: `the smallest matrix of ${name} has ${type.blockSize} values, more than the ${MAX_VALUES} looked at for its codes`,
    };
  const found = integerOperand(type, form);
  if (found.kind === "integers") return found;
  return { reason: `LMMA takes bit planes of integer codes, and ${name} has none: ${found.reason}` };
}

interface Way {
  readonly multiply: Multiply;
  readonly activations: LmmaLowering["activations"];
  readonly guarantee: "value" | "rounded";
  readonly proofs: Manifest["proofs"];
}

/** The instruction to take: that for integers where the activations are such and sums may be, else the widest float. */
function wayOf(
  request: CompileRequest,
  products: readonly Multiply[],
  integers: IntegerOperand | null,
): Way | { readonly reason: string } {
  const { activation, accumulate, device, program } = request;
  const name = endpointName(activation);
  const whole = products.find((one) => one.activation.kind === "int");
  if (integers !== null && whole !== undefined) {
    const { planes: _, ...fields } = { ...fieldsOf(integers), planes: 0 };
    const proofs = structureProof(activation, integers, program);
    return { multiply: whole, activations: { kind: "integers", ...fields }, guarantee: "value", proofs };
  }
  if (accumulate.kind === "int")
    return {
      reason: `I32 sums products of integers, and ${name} has no codes of eight bits; sum in F32, or take activations such as Q8_0`,
    };
  const floats = products.filter((one) => one.activation.kind === "float");
  for (const guarantee of ["value", "rounded"] as const) {
    for (const multiply of floats) {
      const to = multiply.activation;
      const proof = proofOf(activation, to, guarantee, program);
      if (proof === null) continue;
      return { multiply, activations: { kind: "float", element: to.name, guarantee }, guarantee, proofs: proof };
    }
  }
  const elements = floats.map((one) => one.activation.name).join(", ");
  return {
    reason: `${device.name} makes tables of ${elements || "integers only"}, and ${name} is not known to become that; Q8_0 and F16 are taken`,
  };
}

function fieldsOf(operand: IntegerOperand): Omit<LmmaIntegers, "planes"> {
  const { low, high, step, shift, least, most, group, scale, offset } = operand;
  return { low, high, step, shift, least, most, group, scale: [scale], offset };
}

function integersText({ least, most, bits, group }: IntegerOperand): string {
  const scales = group === null ? "one constant scale" : `a scale for each ${group}`;
  return `integer codes ${least} to ${most} in ${bits} bit${bits === 1 ? "" : "s"}, exact; ${scales}`;
}

function outsideOf(
  w: IntegerOperand,
  activations: LmmaLowering["activations"],
  { activation }: Multiply,
  out: Element,
): readonly string[] {
  const steps: string[] = [];
  if (activations.kind === "float")
    steps.push(
      `activations to ${activation.name}: ${activations.guarantee === "value" ? "exact" : "rounded to the nearest"}`,
    );
  steps.push("tables of sums, once for all n");
  steps.push(
    w.group === null
      ? "the constant scale of all sums: one product in f32"
      : `the scale of each group of ${w.group}, and the sum over groups: a product and an addition in f32 each`,
  );
  if (w.offset.length > 0)
    steps.push("the offset of each group times the sum of its activations: a product and an addition in f32 each");
  steps.push(`outputs to ${out.name}`);
  return steps;
}
