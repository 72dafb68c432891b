// A matrix product of any two declared formats on one kind of machine, as text with a manifest: what is computed, what
// rounds where, how the bytes have to lie, how it is called. Combinations that cannot be had are refused with what would
// work. Which method is taken is the scheduler's choice (schedule.ts) among those that there is a kernel for.
// Not here: the text (kernel-wgsl.ts, kernel-cpp.ts), the machine of lookups (kernel-lmma.ts), files (app/compile.ts).

import { conversionGraph } from "../schedule/convert.ts";
import { guaranteeText } from "./emit.ts";
import { guaranteeOf } from "./guarantee.ts";
import { endpointName, typeOf } from "../prove/endpoint.ts";
import type { Kernel, KernelBuffer, KernelEntry, Method, Product, Side } from "./kernel.ts";
import { cppKernel } from "./kernel-cpp.ts";
import {
  type AbsoluteError,
  absoluteError,
  decodedLoss,
  lookupError,
  NO_UNDERFLOW,
  packedLoss,
  storedText,
} from "./kernel-error.ts";
import { type LmmaLowering, lmmaLowering } from "./kernel-lmma.ts";
import { type Bodies, wgslKernel } from "./kernel-wgsl.ts";
import { exactSums, integerOperand, type IntegerOperand, type Packing } from "./packing.ts";
import { proofOf, type ShownProof, structureProof } from "./rests.ts";
import { dotPiece } from "./side-wgsl.ts";
import { schedule } from "../schedule/schedule.ts";
import { bindTensor } from "../tensor.ts";
import type { DeviceModel, Element, Endpoint, Program } from "../type.ts";

export type CompileTarget = "wgsl" | "cpu" | "lmma";
export type MethodName = Method["kind"];

/** out(m,n) = activation(m,k) . weight(n,k)^T, and for what. */
export interface CompileRequest {
  readonly activation: Endpoint;
  readonly weight: Endpoint;
  readonly accumulate: Element;
  readonly out: Element;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly target: CompileTarget;
  readonly device: DeviceModel;
  /** Null: the best that the scheduler knows, of those that there is a kernel for. */
  readonly method: MethodName | null;
  /** That the formats are from. */
  readonly program: Program;
}

export interface Manifest {
  readonly version: 1;
  readonly gemm: {
    readonly signature: string;
    readonly activation: string;
    readonly weight: string;
    readonly accumulate: string;
    readonly out: string;
    readonly m: number;
    readonly n: number;
    readonly k: number;
  };
  readonly target: CompileTarget;
  readonly device: string;
  readonly method: MethodName;
  /**
   * The plan that chose the method, with its estimate; null where the method was given, or no plan has it. Only the
   * method is taken from it: tiles and layouts are the kernel's own, and the time is not a measurement of the kernel.
   */
  readonly schedule: { readonly name: string; readonly time_ns: number } | null;
  readonly guarantee: ManifestGuarantee;
  /** So many products of codes are summed without rounding or overflow, whatever they are; null for floats. */
  readonly exact_sums: { readonly i32: number; readonly f32: number } | null;
  readonly buffers: readonly KernelBuffer[];
  /** How a file's bytes become packed buffers; see Packing. */
  readonly layouts: Readonly<Partial<Record<"activations" | "weights", Packing>>>;
  /** Workgroups and their lanes, in x, y, z; null where nothing is dispatched. */
  readonly dispatch: Kernel["dispatch"];
  /** The first computes the product. */
  readonly entry_points: readonly KernelEntry[];
  readonly sizes: {
    readonly activations: number;
    readonly weights: number;
    readonly out: number;
    readonly scratch: number;
  };
  readonly lmma: LmmaLowering | null;
  readonly proofs: readonly ShownProof[];
}

/**
 * What rounds where. Before the output is rounded to its element it differs from the exact product by at most
 *   relative_error * magnitude + absolute_error * absolute_magnitude,
 * as long as nothing overflows, flushed or not; `underflow` says where that ends. `out` says what the rounding to the
 * element adds: half a unit in its last place, and what becomes of numbers beyond its largest.
 */
export interface ManifestGuarantee extends AbsoluteError {
  readonly text: string;
  readonly activations: string;
  readonly weights: string;
  /** Operations that may round on the way of one product to its output, at most. */
  readonly roundings: number;
  /** Half a unit in the last place of what is summed in. */
  readonly unit_roundoff: number;
  readonly relative_error: number;
  /** What the error is relative to: a formula, s and o being scales and offsets as they are packed. */
  readonly magnitude: string;
  readonly out: string;
}

export type Compiled =
  | {
      readonly kind: "compiled";
      readonly files: readonly { readonly name: string; readonly text: string }[];
      readonly manifest: Manifest;
    }
  | { readonly kind: "refused"; readonly reason: string };

const SIGNATURE = "out(m,n) = a(m,k) . w(n,k)^T, row-major";
const ROUNDOFF: Readonly<Record<string, number>> = { F32: 2 ** -24, F16: 2 ** -11 };
/** The largest offsets of 32-bit indices into values. */
const MAX_VALUES = 2 ** 32 - 1;

/**
 * Compiles a product.
 * @param bodies the texts of shaders/*.wgsl by name; only looked at for wgsl
 */
export function compile(request: CompileRequest, bodies: Bodies): Compiled {
  const { m, n, k, accumulate, out, target } = request;
  const unfit = sizesReason(m, n, k) ?? accumulateReason(request) ?? outReason(out, accumulate);
  if (unfit !== null) return refused(unfit);
  if (target === "lmma") return lowered(request);
  const a = sideOf(request.activation, m, k, "activations");
  if ("reason" in a) return refused(a.reason);
  const w = sideOf(request.weight, n, k, "weights");
  if ("reason" in w) return refused(w.reason);

  const { methods, plans } = candidates(request);
  const reasons: string[] = [];
  for (const name of methods) {
    const method = methodOf(name, request, a, w);
    if ("reason" in method) {
      reasons.push(method.reason);
      continue;
    }
    const product: Product = { m, n, k, a, w, accumulate, out, method };
    const guarantee = promiseOf(product);
    const about = aboutOf(request, method, guarantee.text);
    const kernel = target === "wgsl" ? wgslKernel(product, bodies) : cppKernel(product, nameOf(request, method), about);
    if (kernel.kind === "refused") {
      reasons.push(kernel.reason);
      continue;
    }
    const large = capacityReason(kernel, request, target);
    if (large !== null) return refused(large);
    const text = target === "wgsl" ? `${about.map((line) => `// ${line}\n`).join("")}${kernel.text}` : kernel.text;
    const plan = request.method === null ? (plans.find((one) => one.method === name) ?? null) : null;
    return {
      kind: "compiled",
      files: [{ name: kernel.file, text }],
      manifest: manifestOf(request, product, kernel, guarantee, plan && { name: plan.name, time_ns: plan.time_ns }),
    };
  }
  return refused([...new Set(reasons)].join("; "));
}

function refused(reason: string): Compiled {
  return { kind: "refused", reason };
}

// --- what can be had ------------------------------------------------------------------------------------------------

function sizesReason(m: number, n: number, k: number): string | null {
  const sizes = [
    ["m k", m * k],
    ["n k", n * k],
    ["m n", m * n],
  ] as const;
  const large = sizes.find(([, values]) => values > MAX_VALUES);
  return large === undefined ? null : `${large[0]} is ${large[1]} values, and kernels count up to ${MAX_VALUES}`;
}

function accumulateReason({ accumulate, target, device, program }: CompileRequest): string | null {
  const { name } = accumulate;
  if (name === "F32" || name === "I32") return null;
  if (name === "F16" && target !== "cpu") {
    const sums = (one: DeviceModel): boolean => one.multiplies.some((multiply) => multiply.accumulate.name === "F16");
    if (sums(device)) return null;
    const others = [...program.devices.values()].filter((one) => sums(one) && one.name.startsWith(device.name));
    const instead = others.length === 0 ? "" : `, or compile for ${others.map((one) => one.name).join(", ")}`;
    return `${device.name} does not sum in F16; sum in F32${instead}`;
  }
  return `nothing sums in ${name} for ${target}; sum in F32, or in I32 where both sides are integers`;
}

function outReason(out: Element, accumulate: Element): string | null {
  if (out.kind === "int") {
    if (out.name === "I32" && accumulate.name === "I32") return null;
    return `outputs in ${out.name} are not rounded to; I32 holds sums in I32, and F32, F16 or BF16 any other`;
  }
  const stored = "outputs are floats of 8, 16 or 32 bits with a sign and subnormals, or I32";
  if (out.kind !== "float") return `${out.name} is no float; ${stored}`;
  const { bits, sign, subnormals, exponent, mantissa, bias } = out;
  const isSingle = bits === 32 && exponent === 8 && mantissa === 23 && bias === 127 && out.special === "ieee";
  const isNarrow =
    (bits === 8 || bits === 16) && sign === "yes" && subnormals === "yes" && exponent <= 8 && bias <= 127;
  return isSingle || isNarrow ? null : `there is no rounding to ${out.name}; ${stored}`;
}

/** An operand bound to its shape, or why there is none of that shape. */
function sideOf(end: Endpoint, rows: number, k: number, role: string): Side | { readonly reason: string } {
  const name = endpointName(end);
  if (end.kind === "tensor") {
    const bound = bindTensor(end.tensor, end.storage, rows, k);
    if (bound.kind === "refused")
      return { reason: `${role}: ${bound.diagnostics[0]?.message ?? `${name} has no such shape`}` };
    const { type } = bound;
    return { type, rows, bytes: type.blockBytes };
  }
  if (end.kind === "element" && end.element.bits % 8 !== 0)
    return {
      reason: `${role}: ${name} has ${end.element.bits} bits, and operands are whole bytes; a block of several has`,
    };
  const type = typeOf(end)!;
  const { blockSize } = type;
  if (k % blockSize !== 0) {
    const below = Math.floor(k / blockSize) * blockSize;
    const near = below === 0 ? `${blockSize} would be` : `${below} and ${below + blockSize} would be`;
    return {
      reason: `${role}: k of ${k} is no whole number of the ${blockSize} values of a block of ${name}; ${near}`,
    };
  }
  const bytes = ((rows * k) / blockSize) * type.blockBytes;
  return { type, rows, bytes };
}

interface Plan {
  readonly method: MethodName;
  readonly name: string;
  readonly time_ns: number;
}

/** Methods in the order in which they are tried, and the plans that put them there. */
function candidates(request: CompileRequest): {
  readonly methods: readonly MethodName[];
  readonly plans: readonly Plan[];
} {
  if (request.method !== null) return { methods: [request.method], plans: [] };
  const { program, device } = request;
  const found = schedule({ ...request, accept: "exact" }, device, conversionGraph(program));
  const all = found.kind === "schedule" ? [found.chosen, ...found.others] : [];
  const plans = all.map(({ method, name, cost }) => ({ method, name, time_ns: Math.round(cost.total) }));
  // What no plan has comes last: a machine's text need not name every product that a kernel can do.
  return { methods: [...new Set([...plans.map(({ method }) => method), "decode", "dot"] as const)], plans };
}

/** The method with its operands, or why it cannot be taken. */
function methodOf(
  name: MethodName,
  { accumulate, target }: CompileRequest,
  a: Side,
  w: Side,
): Method | { readonly reason: string } {
  const isWhole = accumulate.kind === "int";
  const instead = "sum in F32";
  if (name === "decode") {
    if (isWhole)
      return { reason: "decoded values are floats, and I32 sums integers; sum in F32, or take the method dot" };
    return { kind: "decode" };
  }
  const k = w.bytes === 0 ? 0 : columnsOf(w);
  const operand = (side: Side, form: "bytes" | "planes"): IntegerOperand | { readonly reason: string } => {
    const what = side.type.name;
    const want = isWhole ? `I32 sums products of integers` : `the method ${name} takes integer codes`;
    const works = isWhole ? `; ${instead}` : "; the method decode takes any type";
    if (side.type.blockSize > k)
      return { reason: `${want} of blocks, and ${what} is a format of whole matrices${works}` };
    const found = integerOperand(side.type, form);
    if (found.kind === "integers") return found;
    return { reason: `${want}, and ${what} has none: ${found.reason}${works}` };
  };
  if (name === "lookup") {
    if (target !== "wgsl") return { reason: "there are kernels with tables for wgsl only; decode or dot work" };
    if (accumulate.name !== "F32") return { reason: `tables are summed in F32, and not in ${accumulate.name}` };
    const codes = operand(w, "planes");
    if ("reason" in codes) return codes;
    const group = codes.group ?? k;
    if (group % 4 !== 0 || k % 4 !== 0)
      return {
        reason: `a table stands for 4 activations, and ${w.type.name} has groups of ${group}; the method decode takes any`,
      };
    return { kind: "lookup", w: codes };
  }
  const codes = operand(w, "bytes");
  if ("reason" in codes) return codes;
  const other = operand(a, "bytes");
  if ("reason" in other) return other;
  if (target === "wgsl" && dotPiece(k, other, codes) === 0)
    return {
      reason: `four codes are multiplied at once, and k of ${k} has no pieces of 4 with the same scales; the method decode takes any`,
    };
  if (accumulate.name === "F16") return { reason: "the method dot sums in I32 or F32; decode sums in F16 too" };
  if (!isWhole) return { kind: "dot", a: other, w: codes };
  const scaled = [a, w].find((_, s) => !isPlain([other, codes][s]!));
  if (scaled !== undefined)
    return {
      reason: `the scales of ${scaled.type.name} are no part of a sum in I32; ${instead}, whose pieces are summed in I32 all the same`,
    };
  const { i32 } = exactSums(other, codes);
  if (k > i32)
    return { reason: `I32 holds ${i32} products of ${a.type.name} and ${w.type.name}, and k is ${k}; ${instead}` };
  return { kind: "dot", a: other, w: codes };
}

/** Values of a row, as the operand was bound. */
function columnsOf({ type, rows, bytes }: Side): number {
  return ((bytes / type.blockBytes) * type.blockSize) / rows;
}

/** Whether the codes are the values. */
function isPlain({ group, scale, offset }: IntegerOperand): boolean {
  return group === null && scale.constant === 1 && offset.length === 0;
}

/** What does not fit into the machine's farthest memory at once. */
function capacityReason({ buffers }: Kernel, { device, n }: CompileRequest, target: CompileTarget): string | null {
  const capacity = device.memories[0]?.capacity ?? null;
  const large = capacity === null || target !== "wgsl" ? undefined : buffers.find(({ bytes }) => bytes > capacity);
  if (large === undefined) return null;
  const fits = large.role === "weights" ? Math.floor((n * capacity!) / large.bytes) : 0;
  const instead = fits > 0 ? `; ${fits} rows of weights fit, and more can be had by as many calls` : "";
  return `${large.name} takes ${large.bytes} bytes, and a buffer of ${device.name} has ${capacity}${instead}`;
}

// --- what is promised -----------------------------------------------------------------------------------------------

/** What is promised before the kernel is known, whose additions come on top of `own` roundings. */
type Promised = ManifestGuarantee & { readonly own: number };

function promiseOf({ a, w, k, accumulate, out, method }: Product): Promised {
  const decoded = ({ type }: Side, size: string) => {
    const guarantee = guaranteeOf(type, "f32");
    const text = `${type.name}: ${guaranteeText(guarantee)}`;
    return { text, roundings: guarantee.roundings, loss: decodedLoss(type, guarantee.subnormals, size) };
  };
  const packed = ({ type }: Side, operand: IntegerOperand, size: string) => {
    const { group, least, most } = operand;
    const scales = group === null ? "a constant scale" : `scales of ${group} values, the nearest f32`;
    const text = `${type.name}: integer codes ${least} to ${most}, exact; ${scales}`;
    return { text, loss: packedLoss(operand, size) };
  };
  const { name } = accumulate;
  const shared = { relative_error: 0, out: storedText(out, accumulate) };
  const unit = ROUNDOFF[name] ?? 0;
  switch (method.kind) {
    case "decode": {
      const [left, right] = [decoded(a, "|a|"), decoded(w, "|w|")];
      const convert = name === "F16" ? 2 : 0;
      const own = left.roundings + right.roundings + convert + 1;
      const several = [a, w].some(({ type }) => guaranteeOf(type, "f32").kind === "rounded");
      const parts = several ? ", of a value that is rounded several times the sizes of its parts" : "";
      return {
        ...shared,
        // A product and an addition.
        ...absoluteError(k, 2, name, left.loss, right.loss),
        text: `values are decoded to f32${convert > 0 ? ", rounded to f16" : ""}, and multiplied and summed in ${name}`,
        activations: left.text,
        weights: right.text,
        unit_roundoff: unit,
        roundings: own,
        own,
        magnitude: `sum over k of |a w|${parts}`,
      };
    }
    case "dot": {
      const [aSize, wSize] = ["(|s_a q_a| + |o_a|)", "(|s_w q_w| + |o_w|)"];
      const [left, right] = [packed(a, method.a, aSize), packed(w, method.w, wSize)];
      const sides = { activations: left.text, weights: right.text };
      if (accumulate.kind === "int" && out.kind === "int") {
        const text = `exact: integer codes are multiplied and summed in I32, which holds all ${k} products`;
        return {
          ...shared,
          ...NO_UNDERFLOW,
          ...sides,
          text,
          unit_roundoff: unit,
          roundings: 0,
          own: 0,
          magnitude: "0",
        };
      }
      const own = 4;
      return {
        ...shared,
        // A whole number times a scale is small only where the scale is, which is counted with the operand. There are
        // four such terms at most, with a product and an addition each, and a piece may be of one value.
        ...absoluteError(k, 8, "F32", left.loss, right.loss),
        ...sides,
        text: "integer codes are multiplied and summed in I32, exactly, as far as scales are the same; sums are scaled and added in F32",
        unit_roundoff: 2 ** -24,
        roundings: own,
        own,
        magnitude: `sum over k of ${aSize} ${wSize}`,
      };
    }
    case "lookup": {
      const size = `(${2 ** method.w.bits - 1} |s_w| + |o_w|)`;
      const [left, right] = [decoded(a, "|a|"), packed(w, method.w, size)];
      const own = left.roundings + 2;
      return {
        ...shared,
        ...lookupError(k, name, left.loss, right.loss),
        text: "sums of 4 activations are looked up in F32 by bits of the weights, and added and scaled in F32",
        activations: left.text,
        weights: right.text,
        unit_roundoff: unit,
        roundings: own,
        own,
        magnitude: `sum over k of |a| ${size}`,
      };
    }
  }
}

/** The proofs of what the kernel rests on; what no claim states is in the guarantee alone. */
function proofsOf({ activation, weight, program }: CompileRequest, { a, w, method }: Product): Manifest["proofs"] {
  const single = program.elements.get("F32");
  const decodes = (from: Endpoint, { type }: Side): readonly ShownProof[] => {
    const guarantee = guaranteeOf(type, "f32").kind === "exact" ? "value" : "rounded";
    return (single && proofOf(from, single, guarantee, program)) ?? [];
  };
  const left = method.kind === "dot" ? structureProof(activation, method.a, program) : decodes(activation, a);
  const right = method.kind === "decode" ? decodes(weight, w) : structureProof(weight, method.w, program);
  // Both sides may be of one format.
  return [...new Map([...left, ...right].map((proof) => [proof.id, proof])).values()];
}

// --- the manifest ---------------------------------------------------------------------------------------------------

function manifestOf(
  request: CompileRequest,
  product: Product,
  kernel: Kernel,
  { own, ...guarantee }: ReturnType<typeof promiseOf>,
  plan: Manifest["schedule"],
): Manifest {
  const { m, n, k, method } = product;
  const underflow = [guarantee.underflow, ...kernel.exceptions].join("; ");
  const isExact = guarantee.magnitude === "0";
  const roundings = isExact ? 0 : own + kernel.additions;
  const error = roundings * guarantee.unit_roundoff;
  const bytes = (role: KernelBuffer["role"]): number =>
    kernel.buffers.filter((one) => one.role === role).reduce((sum, one) => sum + one.bytes, 0);
  const { activation, weight, accumulate, out, target, device } = request;
  return {
    version: 1,
    gemm: {
      signature: SIGNATURE,
      activation: endpointName(activation),
      weight: endpointName(weight),
      accumulate: accumulate.name,
      out: out.name,
      m,
      n,
      k,
    },
    target,
    device: device.name,
    method: method.kind,
    schedule: plan,
    // Higham, Accuracy and Stability of Numerical Algorithms, 3.1: r roundings are a factor within 1 +- r u / (1 - r u).
    guarantee: {
      ...guarantee,
      underflow,
      roundings,
      relative_error: error < 1 ? error / (1 - error) : Number.MAX_VALUE,
    },
    exact_sums: method.kind === "dot" ? exactSums(method.a, method.w) : null,
    buffers: kernel.buffers,
    layouts: kernel.packings,
    dispatch: kernel.dispatch,
    entry_points: kernel.entries,
    sizes: { activations: bytes("activations"), weights: bytes("weights"), out: bytes("out"), scratch: kernel.scratch },
    lmma: null,
    proofs: proofsOf(request, product),
  };
}

function aboutOf(
  { activation, weight, accumulate, out, m, n, k }: CompileRequest,
  method: Method,
  text: string,
): readonly string[] {
  const names = `${endpointName(activation)}, w ${endpointName(weight)}, sums ${accumulate.name}, out ${out.name}`;
  return [
    `out(m, n) = a(m, k) . w(n, k)^T, m ${m}, n ${n}, k ${k}: a ${names}; method ${method.kind}.`,
    `${text[0]!.toUpperCase()}${text.slice(1)}.`,
  ];
}

/** A name that C++ allows, and no other product has. */
function nameOf({ activation, weight, accumulate, out, m, n, k }: CompileRequest, method: Method): string {
  const types = [activation, weight].map(endpointName).join("_");
  return `gemm_${types}_${accumulate.name}_${out.name}_${m}x${n}x${k}_${method.kind}`
    .replaceAll(/\W/g, "_")
    .toLowerCase();
}

// --- lmma -----------------------------------------------------------------------------------------------------------

function lowered(request: CompileRequest): Compiled {
  const { activation, weight, accumulate, out, m, n, k, device } = request;
  if (request.method !== null && request.method !== "lookup")
    return refused(`an LMMA machine looks tables up, and has no method ${request.method}; leave the method out`);
  const sides = [sideOf(activation, m, k, "activations"), sideOf(weight, n, k, "weights")] as const;
  const unbound = sides.find((side) => "reason" in side);
  if (unbound !== undefined && "reason" in unbound) return refused(unbound.reason);
  const found = lmmaLowering(request);
  if ("reason" in found) return refused(found.reason);
  const { lowering, layouts, guarantee, proofs } = found;
  const sizes = sides.map((side) => ("bytes" in side ? side.bytes : 0));
  return {
    kind: "compiled",
    files: [],
    manifest: {
      version: 1,
      gemm: {
        signature: SIGNATURE,
        activation: endpointName(activation),
        weight: endpointName(weight),
        accumulate: accumulate.name,
        out: out.name,
        m,
        n,
        k,
      },
      target: "lmma",
      device: device.name,
      method: "lookup",
      schedule: null,
      guarantee,
      exact_sums: lowering.exact_sums,
      buffers: [],
      layouts,
      dispatch: null,
      entry_points: [],
      sizes: { activations: sizes[0]!, weights: sizes[1]!, out: Math.ceil((m * n * out.bits) / 8), scratch: 0 },
      lmma: lowering,
      proofs,
    },
  };
}
