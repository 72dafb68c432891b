// A matrix product as one WGSL module: a prelude of consts and typed functions, made here for the types of both sides and
// of the outputs, and a body that is a file of its own (shaders/), which is not touched. Each name of the prelude is
// documented in shaders/prelude.wgsl, the default that a body validates with.
// Not here: how a value is decoded (emit.ts), the order of packed codes (packing.ts), what the manifest says (compile.ts).

import { gcd } from "../divisor.ts";
import { emit } from "./emit.ts";
import type { Kernel, KernelBuffer, Product, Side } from "./kernel.ts";
import { type IntegerOperand, type Packing, packingOf, pieceOf } from "./packing.ts";
import type { Element } from "../type.ts";

/** Values of k that dot sums in integers before it scales them: products of bytes are then whole numbers of f32. */
const LONGEST_PIECE = 32;
/** Workgroups along one dimension that every implementation takes (WebGPU, maxComputeWorkgroupsPerDimension). */
const MAX_WORKGROUPS = 65535;
/** Rows of a up to which a workgroup of its own for each few of them costs less than tiles that are half empty. */
const FEW_ROWS = 8;
/** Rows of a that share one reading of the weights in registers. */
const ROWS_AT_ONCE = 4;
const WORD = 4;

/** Bodies by their files' names without the ending. */
export type Bodies = ReadonlyMap<string, string>;

interface Body {
  readonly file: string;
  readonly entry: string;
  readonly workgroup: readonly [number, number, number];
  /** Outputs of one workgroup. */
  readonly tile: { readonly m: number; readonly n: number };
  /** Additions that one product's term may go through on its way to the output. */
  readonly additions: number;
}

/** @throws Error where a body is missing */
export function wgslKernel(
  product: Product,
  bodies: Bodies,
): Kernel | { readonly kind: "refused"; readonly reason: string } {
  const { m, n, k, method, accumulate, out } = product;
  const rows = Math.min(m, ROWS_AT_ONCE);
  const piece = method.kind === "dot" ? dotPiece(k, method.a, method.w) : 0;
  const body = bodyOf(product, rows, piece);
  const buffers: KernelBuffer[] = [];
  const parts: string[] = [];
  const exceptions: string[] = [];
  const bind = (name: string, role: KernelBuffer["role"], bytes: number, layout: KernelBuffer["layout"]): number => {
    const binding = buffers.length;
    buffers.push({ binding, name, role, bytes: Math.ceil(bytes / WORD) * WORD, layout });
    return binding;
  };
  const packings: { activations?: Packing; weights?: Packing } = {};
  if (accumulate.name === "F16") parts.push("enable f16;");
  parts.push(
    constants({ M: m, N: n, K: k, M_TILE: rows }),
    `alias Acc = ${accumulate.kind === "int" ? "i32" : accumulate.name === "F16" ? "f16" : "f32"};`,
  );

  const decoded = (prefix: "a_" | "w_", side: Side): string | null => {
    const role = prefix === "a_" ? "activations" : "weights";
    const binding = bind(`${prefix}words`, role, side.bytes, { kind: "file", type: side.type.name });
    const emission = emit(side.type, { kind: "wgsl", prefix, group: 0, binding, columns: k });
    if (emission.kind === "refused") return emission.reason;
    const { text, tables } = emission;
    if (tables.length > 0) bind(`${prefix}tables`, "tables", tables.length * WORD, { kind: "words", words: tables });
    parts.push(text, load4(prefix, k));
    // What is unpacked is an F16 field, or a small float that has been put into one (rewrite.ts).
    if (text.includes("unpack2x16float"))
      exceptions.push(
        `${side.type.name} is unpacked from f16, whose subnormals WGSL lets a machine take as 0: there, the bound does not hold for F16 fields below 2^-14 and for subnormals of narrower floats`,
      );
    return null;
  };
  const packed = (prefix: "a_" | "w_", side: Side, operand: IntegerOperand): void => {
    const role = prefix === "a_" ? "activations" : "weights";
    const packing = packingOf(operand, side.type, side.rows, k, WORD);
    packings[role] = packing;
    const bindPart = (name: string, bytes: number): number =>
      bind(`${prefix}${name}`, role, bytes, { kind: "packed", packing: role, part: name });
    const codes = bindPart("codes", side.rows * packing.units_per_row * packing.unit_bytes);
    parts.push(`@group(0) @binding(${codes}) var<storage, read> ${prefix}codes: array<u32>;`);
    const terms = { scale: packing.scale, offset: packing.offset };
    for (const [name, list] of Object.entries(terms)) {
      if (packing.group_values === null || list.length === 0) {
        const value = float(list.reduce((sum, term) => sum + term.constant, 0));
        parts.push(`fn ${prefix}${name}(row: u32, k: u32) -> f32 { return ${value}; }`);
        continue;
      }
      const groups = k / packing.group_values;
      const binding = bindPart(`${name}s`, 4 * side.rows * groups);
      parts.push(
        `@group(0) @binding(${binding}) var<storage, read> ${prefix}${name}s: array<f32>;`,
        `fn ${prefix}${name}(row: u32, k: u32) -> f32 { return ${prefix}${name}s[row * ${groups}u + k / ${packing.group_values}u]; }`,
      );
    }
    parts.push(`const ${prefix.toUpperCase()}OFFSET = ${packing.offset.length > 0};`);
    parts.push(operand.form === "planes" ? planeFunction(prefix, packing) : quadFunction(prefix, packing, operand));
    if (operand.form === "planes") parts.push(constants({ PLANES: operand.bits, SEGMENT: segmentOf(operand) }));
  };

  let reason: string | null = null;
  if (method.kind === "dot") packed("a_", product.a, method.a);
  else reason = decoded("a_", product.a);
  if (reason !== null) return refused(`${product.a.type.name}: ${reason}`);
  if (method.kind === "decode") reason = decoded("w_", product.w);
  else packed("w_", product.w, method.w);
  if (reason !== null) return refused(`${product.w.type.name}: ${reason}`);
  if (method.kind === "dot") parts.push(constants({ PIECE: piece }), scaledFunction(accumulate, method.a, method.w));
  parts.push(...storing(out, m, n, accumulate, bind));
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

function refused(reason: string): { readonly kind: "refused"; readonly reason: string } {
  return { kind: "refused", reason };
}

function bodyText(bodies: Bodies, name: string): string {
  const text = bodies.get(name);
  if (text === undefined) throw new Error(`the shader ${name}.wgsl of this installation is missing`);
  return text;
}

function bodyOf({ m, k, method }: Product, rows: number, piece: number): Body {
  const few = { workgroup: [64, 1, 1], tile: { m: rows, n: 4 } } as const;
  // Each of 16 lanes sums its share, and then come four halvings.
  const shared = (step: number, each: number): number => Math.ceil(k / (16 * step)) * each + 4;
  switch (method.kind) {
    case "dot":
      // A piece's own sum is exact; three additions join its four terms.
      return { file: "dot", entry: "dot_product", ...few, additions: shared(piece, 1) + 3 };
    case "lookup": {
      // Three in a table's entry; one for each table of a segment, for each plane, and two for each segment.
      const segment = segmentOf(method.w);
      const additions = 3 + segment / 4 + method.w.bits + 2 * Math.ceil(k / segment);
      return { file: "lookup", entry: "lookup", workgroup: [64, 1, 1], tile: { m: 1, n: 64 }, additions };
    }
    case "decode":
      if (m <= FEW_ROWS) return { file: "gemv", entry: "gemv", ...few, additions: shared(4, 4) };
      return { file: "gemm", entry: "gemm", workgroup: [8, 8, 1], tile: { m: 16, n: 32 }, additions: k };
  }
}

/** Values of a group whose bits of a plane lie in one word. */
function segmentOf({ group }: IntegerOperand): number {
  return group === null ? 32 : gcd(group, 32);
}

/** What dot sums in integers at once; 0 where no four values have the same scales. */
export function dotPiece(k: number, a: IntegerOperand, w: IntegerOperand): number {
  return pieceOf(k, LONGEST_PIECE, WORD, [a, w]);
}

// --- text of the prelude --------------------------------------------------------------------------------------------

function constants(values: Readonly<Record<string, number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `const ${name} = ${value}u;`)
    .join("\n");
}

/** A double as the nearest f32, spelled so that WGSL reads just that. */
function float(x: number): string {
  return `f32(${Math.fround(x)})`;
}

function load4(prefix: string, k: number): string {
  const head = `fn ${prefix}load4(row: u32, k: u32) -> vec4f {`;
  if (k % 4 === 0) return `${head} return ${prefix}decode4(row, k); }`;
  return `${head}
  var four = vec4f();
  for (var i = 0u; i < 4u && k + i < K; i++) { four[i] = ${prefix}decode(row, k + i); }
  return four;
}`;
}

function planeFunction(prefix: string, { units_per_row, unit_bytes }: Packing): string {
  const planes = unit_bytes / WORD;
  return `fn ${prefix}plane(row: u32, k: u32, p: u32) -> u32 { return ${prefix}codes[(row * ${units_per_row}u + k / 32u) * ${planes}u + p]; }`;
}

/** Four codes as bytes with signs. In a word each byte is kept from borrowing of the next by its top bit. */
function quadFunction(
  prefix: string,
  { width, unit_values, units_per_row }: Packing,
  { step, least }: IntegerOperand,
): string {
  const word = `${prefix}codes[row * ${units_per_row}u + k / ${unit_values}u]`;
  const head = `fn ${prefix}quad(row: u32, k: u32) -> u32 {`;
  if (width === 8) return `${head} return ${word}; }`;
  const mask = hex((2 ** width - 1) * 0x01010101);
  const codes = `((${word} >> (${width}u * (k / 4u % ${8 / width}u))) & ${mask})${step === 2 ? " << 1u" : ""}`;
  const bytes = hex(Math.abs(least) * 0x01010101);
  return `${head} return (((${codes}) | 0x80808080u) ${least < 0 ? "-" : "+"} ${bytes}) ^ 0x80808080u; }`;
}

function hex(word: number): string {
  return `0x${(word >>> 0).toString(16).padStart(8, "0")}u`;
}

/** (sa qa + oa) (sw qw + ow) summed over a piece, without the terms that are 0. */
function scaledFunction(accumulate: Element, a: IntegerOperand, w: IntegerOperand): string {
  const head = "fn scaled(products: i32, a_sum: i32, w_sum: i32, m: u32, n: u32, k: u32) -> Acc {";
  if (accumulate.kind === "int") return `${head} return products; }`;
  // A whole number times a scale is no smaller than the scale: only the last product of each term may underflow.
  const terms = ["f32(products) * a_scale(m, k) * w_scale(n, k)"];
  if (w.offset.length > 0) terms.push("f32(a_sum) * a_scale(m, k) * w_offset(n, k)");
  if (a.offset.length > 0) terms.push("f32(w_sum) * w_scale(n, k) * a_offset(m, k)");
  if (a.offset.length > 0 && w.offset.length > 0) terms.push("f32(PIECE) * a_offset(m, k) * w_offset(n, k)");
  return `${head}\n  return Acc(${terms.join("\n    + ")});\n}`;
}

function storing(
  out: Element,
  m: number,
  n: number,
  accumulate: Element,
  bind: (name: string, role: KernelBuffer["role"], bytes: number, layout: KernelBuffer["layout"]) => number,
): readonly string[] {
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
