// A matrix product as one WGSL module: a prelude of consts and typed functions, made here for the types of both sides and
// of the outputs, and a body that is a file of its own (shaders/), which is not touched. Each name of the prelude is
// documented in shaders/prelude.wgsl, the default that a body validates with.
// Not here: how a value is decoded (emit.ts), the order of packed codes (packing.ts), what the manifest says (compile.ts).

import type { Kernel, KernelBuffer, Product, Side } from "./kernel.ts";
import { type IntegerOperand, type Packing, packingOf } from "./packing.ts";
import {
  bestBody,
  type BodyName,
  bodyOf,
  decodedSide,
  dotPiece,
  float,
  scaledText,
  type WeightSide,
  weightSide,
} from "./side-wgsl.ts";
import type { Element } from "../type.ts";

/** Workgroups along one dimension that every implementation takes (WebGPU, maxComputeWorkgroupsPerDimension). */
const MAX_WORKGROUPS = 65535;
const WORD = 4;
/** A module is for any device: one that has no subgroups too. */
const ANY_MACHINE = { software: false, subgroup: 0 } as const;
/** Activations are few: each code has a byte. */
const BYTES = { stride: 16, dense: false, tileRows: 1 } as const;

/** Bodies by their files' names without the ending. */
export type Bodies = ReadonlyMap<string, string>;

/** @throws Error where a body is missing */
export function wgslKernel(
  product: Product,
  bodies: Bodies,
): Kernel | { readonly kind: "refused"; readonly reason: string } {
  const { m, n, k, a, w, method, accumulate, out } = product;
  const operand = method.kind === "decode" ? null : method.w;
  const piece = method.kind === "dot" ? dotPiece(k, method.a, method.w) : 0;
  const name: BodyName = bestBody(method.kind, m, operand, ANY_MACHINE) ?? "gemv";
  const body = bodyOf(name, m, { n, k }, operand, piece);
  const buffers: KernelBuffer[] = [];
  const exceptions: string[] = [];
  const packings: { activations?: Packing; weights?: Packing } = {};
  const bind: Bind = (of, role, bytes, layout) => {
    const binding = buffers.length;
    buffers.push({ binding, name: of, role, bytes: Math.ceil(bytes / WORD) * WORD, layout });
    return binding;
  };
  /** The text of a side, whose buffers become the kernel's. */
  const add = (side: WeightSide, role: "activations" | "weights", type: Side["type"]): string => {
    for (const { name: of, part, bytes, words } of side.buffers) {
      if (words !== null) bind(of, "tables", bytes, { kind: "words", words });
      else if (part === "bytes") bind(of, role, bytes, { kind: "file", type: type.name });
      else bind(of, role, bytes, { kind: "packed", packing: role, part });
    }
    if (side.packing !== null) packings[role] = side.packing;
    exceptions.push(...side.exceptions);
    return side.text;
  };
  const next = (): { readonly group: number; readonly binding: number } => ({ group: 0, binding: buffers.length });

  const parts = accumulate.name === "F16" ? ["enable f16;"] : [];
  parts.push(
    constants({ N: n, K: k, ...body.constants }),
    `fn rows() -> u32 { return ${m}u; }`,
    `alias Acc = ${accumulate.kind === "int" ? "i32" : accumulate.name === "F16" ? "f16" : "f32"};`,
  );
  if (method.kind === "dot") {
    parts.push(byteActivations(a, k, method.a, bind, packings), scaledText(piece, method.a, method.w, accumulate));
  } else {
    const decoded = decodedSide("a_", a.type, a.rows, k, next());
    if (decoded.kind === "refused") return refused(`${a.type.name}: ${decoded.reason}`);
    parts.push(add(decoded, "activations", a.type));
  }
  const weights = weightSide(w.type, w.rows, k, operand, next());
  if (weights.kind === "refused") return refused(`${w.type.name}: ${weights.reason}`);
  parts.push(add(weights, "weights", w.type), ...storing(out, m, n, accumulate, bind));
  const narrow = out.kind === "float" && out.bits < 32;
  if (narrow) parts.push(bodyText(bodies, "round"));
  parts.push(bodyText(bodies, body.file));

  const [nTiles, mTiles] = [Math.ceil(n / body.tile.n), Math.ceil(m / body.tile.m)];
  const y = Math.ceil(nTiles / MAX_WORKGROUPS);
  if (mTiles > MAX_WORKGROUPS || y > MAX_WORKGROUPS)
    return refused(
      `${m} x ${n} outputs are more workgroups than the ${MAX_WORKGROUPS} of one dimension; compile for fewer rows`,
    );
  return {
    kind: "kernel",
    file: "kernel.wgsl",
    text: parts.join("\n"),
    entries: [{ name: body.entry, role: "kernel", arguments: [] }],
    buffers,
    packings,
    dispatch: { workgroup: body.workgroup, counts: [Math.ceil(nTiles / y), y, mTiles] },
    additions: body.additions,
    exceptions,
    scratch: 0,
  };
}

type Bind = (name: string, role: KernelBuffer["role"], bytes: number, layout: KernelBuffer["layout"]) => number;

function refused(reason: string): { readonly kind: "refused"; readonly reason: string } {
  return { kind: "refused", reason };
}

function bodyText(bodies: Bodies, name: string): string {
  const text = bodies.get(name);
  if (text === undefined) throw new Error(`the shader ${name}.wgsl of this installation is missing`);
  return text;
}

// --- text of the prelude --------------------------------------------------------------------------------------------

function constants(values: Readonly<Record<string, number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `const ${name} = ${value}u;`)
    .join("\n");
}

/** Activations as dot takes them: a byte for each code, and zeros up to whole units. */
function byteActivations(
  { type, rows }: Side,
  k: number,
  operand: IntegerOperand,
  bind: Bind,
  packings: { activations?: Packing },
): string {
  const packing = packingOf(operand, type, rows, k, BYTES);
  packings.activations = packing;
  const part = (of: string, bytes: number): number =>
    bind(`a_${of}`, "activations", bytes, { kind: "packed", packing: "activations", part: of });
  const { units_per_row: units, unit_bytes, group_values } = packing;
  const codes = part("codes", rows * units * unit_bytes);
  const lines = [
    `@group(0) @binding(${codes}) var<storage, read> a_codes: array<vec4u>;`,
    `fn a_bytes(m: u32, k: u32) -> vec4u { return a_codes[m * ${units}u + k / 16u]; }`,
  ];
  for (const [name, terms] of [["scale", packing.scale] as const, ["offset", packing.offset] as const]) {
    const head = `fn a_${name}(m: u32, k: u32) -> f32 {`;
    if (group_values === null || terms.length === 0) {
      lines.push(`${head} return ${float(terms.reduce((sum, term) => sum + term.constant, 0))}; }`);
      continue;
    }
    const groups = k / group_values;
    const binding = part(`${name}s`, WORD * rows * groups);
    lines.push(
      `@group(0) @binding(${binding}) var<storage, read> a_${name}s: array<f32>;`,
      `${head} return a_${name}s[m * ${groups}u + k / ${group_values}u]; }`,
    );
  }
  return lines.join("\n");
}

function storing(out: Element, m: number, n: number, accumulate: Element, bind: Bind): readonly string[] {
  const perWord = 32 / out.bits;
  const words = Math.ceil(n / perWord);
  const layout = { kind: "rows", element: out.name, row_bytes: words * WORD } as const;
  const binding = bind("out_words", "out", m * words * WORD, layout);
  const head = `@group(0) @binding(${binding}) var<storage, read_write> out_words`;
  const each = `fn store4(m: u32, n: u32, sums: vec4<Acc>) {
  for (var i = 0u; i < 4u; i++) {
    if (n + i < N) { out_words[m * N + n + i] = ${accumulate.kind === "int" ? "sums[i]" : "f32(sums[i])"}; }
  }
}`;
  if (out.kind !== "float") return [`${head}: array<i32>;`, each];
  if (out.bits === 32) return [`${head}: array<f32>;`, each];
  const { mantissa, bias, bits } = out;
  const limits = limitsOf(out);
  const consts = Object.entries({
    BITS: bits,
    MANTISSA: mantissa,
    END: limits.end,
    BEYOND: limits.beyond,
    INFINITY: limits.infinity,
    NAN: limits.nan,
  })
    .map(([name, value]) => `const OUT_${name} = ${value}u;`)
    .join("\n");
  return [
    `${head}: array<u32>;`,
    consts,
    `const OUT_BIAS = ${bias};`,
    `const OUT_MINUS_ZERO = ${out.special !== "fnuz"};`,
    `fn store4(m: u32, n: u32, sums: vec4<Acc>) {
  for (var word = 0u; word < ${4 / perWord}u && n + word * ${perWord}u < N; word++) {
    var codes = 0u;
    for (var i = 0u; i < ${perWord}u; i++) {
      let at = word * ${perWord}u + i;
      if (n + at < N) { codes |= round_out(f32(sums[at])) << (${bits}u * i); }
    }
    out_words[m * ${words}u + n / ${perWord}u + word] = codes;
  }
}`,
  ];
}

/** Codes at the end of a float's range, without their sign: as encode.ts has them. */
export function limitsOf({ exponent, mantissa, special, overflow }: Element & { kind: "float" }): {
  readonly end: number;
  readonly beyond: number;
  readonly infinity: number;
  readonly nan: number;
} {
  const fields = 2 ** (exponent + mantissa);
  const top = (2 ** exponent - 1) * 2 ** mantissa;
  const end = special === "ieee" ? top : special === "fn" ? fields - 1 : fields;
  const nan = special === "ieee" ? top + 2 ** (mantissa - 1) : end;
  const beyond = overflow === "nan" ? nan : overflow === "infinity" ? end : end - 1;
  const infinity = overflow === "saturate" && special === "ieee" ? end : beyond;
  return { end, beyond, infinity, nan };
}
