// The weights of a product in WGSL: the functions by which a body of shaders/ reads them, their buffers and the packing
// that fills these, and which bodies there are. shaders/prelude.wgsl says what each function is for.
// Not here: activations, outputs and whole modules (kernel-wgsl.ts; the GPU backend has its own), decoding of bytes as a
// file has them (emit.ts).

import { gcd } from "../divisor.ts";
import { emit } from "./emit.ts";
import type { Method } from "./kernel.ts";
import { type IntegerOperand, type Packing, packingOf } from "./packing.ts";
import type { Element, Type } from "../type.ts";

/** Rows of w that lie side by side: neighbouring lanes read neighbouring units, four rows each. */
const TILE_ROWS = 32;
/** Bytes of a unit of codes: as much as a lane reads at once. */
const STRIDE = 16;
const WORD = 4;
/** Lanes along n of dot, each with four rows. */
const TILE = 32;
/** Lanes that keep a GPU busy, a few hundred for each of a few dozen processors; and the most that share k. */
const WANTED_LANES = 16_384;
const MAX_SHARES = 8;
/** Sums of four outputs that fit into the workgroup memory of every device (16 KiB). */
const SUMS = 1024;

/** One storage buffer that weights are read from. */
export interface WeightBuffer {
  readonly binding: number;
  readonly name: string;
  /** bytes: as the file has them. codes, scales, offsets: as the packing says. tables: `words`. */
  readonly part: "bytes" | "codes" | "scales" | "offsets" | "tables" | "floats";
  readonly bytes: number;
  readonly words: readonly number[] | null;
}

export interface WeightSide {
  readonly kind: "side";
  /** Declarations and functions of the prelude; the same for all numbers of rows. */
  readonly text: string;
  /** All of them are used by the bodies that want these weights. */
  readonly buffers: readonly WeightBuffer[];
  /** Null where bytes are read as the file has them. */
  readonly packing: Packing | null;
  /** Operands that an error bound does not hold for on some machines, and why. */
  readonly exceptions: readonly string[];
}

/**
 * What a body reads weights by.
 * @param type of the weights; of a tensor it is the whole matrix as one block
 * @param rows of w that the buffers have
 * @param k values of a row; of packed codes a multiple of 4
 * @param operand the weights as integers, of form bytes for the dots and `gemm-subgroup`, of form planes for lookups; null
 *   for bytes as the file has them, which `gemv` and `gemm` decode
 * @param place the group of the buffers and the binding of the first, the others being the next
 */
export function weightSide(
  type: Type,
  rows: number,
  k: number,
  operand: IntegerOperand | null,
  place: { readonly group: number; readonly binding: number },
): WeightSide | { readonly kind: "refused"; readonly reason: string } {
  if (operand === null) return decodedSide("w_", type, rows, k, place);
  const packing = packingOf(operand, type, rows, k, { stride: STRIDE, dense: true, tileRows: TILE_ROWS });
  const buffers: WeightBuffer[] = [];
  const lines: string[] = [];
  const tiles = Math.ceil(rows / TILE_ROWS);
  const bind = (part: WeightBuffer["part"], name: string, values: number, of: "u32" | "vec4u" | "vec4f"): void => {
    const binding = place.binding + buffers.length;
    buffers.push({ binding, name, part, bytes: WORD * values, words: null });
    lines.push(`@group(${place.group}) @binding(${binding}) var<storage, read> ${name}: array<${of}>;`);
  };
  const { units_per_row, unit_bytes, unit_values, group_values } = packing;
  const isPlanes = operand.form === "planes";
  const units = (tiles * TILE_ROWS * units_per_row * unit_bytes) / WORD;
  bind("codes", "w_units_of", units, isPlanes ? "u32" : "vec4u");
  const at = (each: string, index: string): string =>
    `(n / ${TILE_ROWS}u * ${each} + ${index}) * ${TILE_ROWS}u + n % ${TILE_ROWS}u`;
  for (const [name, terms] of [["scale", packing.scale] as const, ["offset", packing.offset] as const]) {
    const head = `fn w_${name}4(n: u32, k: u32) -> vec4f {`;
    if (group_values === null || terms.length === 0) {
      lines.push(`${head} return vec4f(${float(terms.reduce((sum, term) => sum + term.constant, 0))}); }`);
      continue;
    }
    const groups = k / group_values;
    bind(`${name}s`, `w_${name}s`, tiles * TILE_ROWS * groups, "vec4f");
    lines.push(`${head} return w_${name}s[(${at(`${groups}u`, `k / ${group_values}u`)}) / 4u]; }`);
  }
  lines.push(`const W_OFFSET = ${packing.offset.length > 0};`);
  if (isPlanes) {
    const planes = unit_bytes / WORD;
    const word = (row: number): string => `w_units_of[at + ${row * planes}u]`;
    lines.push(
      `const PLANES = ${planes}u;`,
      `const SEGMENT = ${segmentOf(operand)}u;`,
      `fn w_planes(n: u32, k: u32, p: u32) -> vec4u {
  let at = (${at(`${units_per_row}u`, "k / 32u")}) * ${planes}u + p;
  return vec4u(${[0, 1, 2, 3].map(word).join(", ")});
}`,
    );
  } else {
    lines.push(
      `const W_UNIT = ${unit_values}u;`,
      UNITS,
      `fn w_units(n: u32, unit: u32) -> Units {
  let at = ${at(`${units_per_row}u`, "unit")};
  return Units(w_units_of[at], w_units_of[at + 1u], w_units_of[at + 2u], w_units_of[at + 3u]);
}`,
      codesFunction(packing, operand),
      valuesFunction(packing, operand),
      `const W_GROUP = ${group_values === null ? "K" : `${group_values}u`};`,
      factorsText(packing, operand),
    );
  }
  return { kind: "side", text: lines.join("\n"), buffers, packing, exceptions: [] };
}

/** One side of a product, read as a file has it: `<prefix>load4`. */
export function decodedSide(
  prefix: "a_" | "w_",
  type: Type,
  rows: number,
  k: number,
  { group, binding }: { readonly group: number; readonly binding: number },
): WeightSide | { readonly kind: "refused"; readonly reason: string } {
  const emission = emit(type, { kind: "wgsl", prefix, group, binding, columns: k });
  if (emission.kind === "refused") return emission;
  const { text, tables } = emission;
  const bytes = ((rows * k) / type.blockSize) * type.blockBytes;
  const buffers: WeightBuffer[] = [
    { binding, name: `${prefix}words`, part: "bytes", bytes: Math.ceil(bytes / WORD) * WORD, words: null },
  ];
  if (tables.length > 0)
    buffers.push({
      binding: binding + 1,
      name: `${prefix}tables`,
      part: "tables",
      bytes: tables.length * WORD,
      words: tables,
    });
  // What is unpacked is an F16 field, or a small float that has been put into one (rewrite.ts).
  const exceptions = text.includes("unpack2x16float")
    ? [
        `${type.name} is unpacked from f16, whose subnormals WGSL lets a machine take as 0: there, the bound does not hold for F16 fields below 2^-14 and for subnormals of narrower floats`,
      ]
    : [];
  return { kind: "side", text: `${text}\n${load4(prefix, k)}`, buffers, packing: null, exceptions };
}

// --- bodies ---------------------------------------------------------------------------------------------------------

export type BodyName = "gemv" | "gemm" | "gemm-subgroup" | "dot" | "dot-subgroup" | "lookup" | "lookup-subgroup";

/** A file of shaders/, and how it is put into a module and dispatched. */
export interface Body {
  readonly file: BodyName;
  readonly entry: string;
  /** What the module has to enable, and the device to have. */
  readonly features: readonly "subgroups"[];
  /** Lanes that a subgroup must have at least; 1 where there need be none. */
  readonly subgroup: number;
  /** Consts of the prelude that are the body's own. */
  readonly constants: Readonly<Record<string, number>>;
  readonly workgroup: readonly [number, number, number];
  /** Outputs of one workgroup: so many of them are dispatched along n, in x and y, and along m, in z. */
  readonly tile: { readonly m: number; readonly n: number };
  /** Whether a tile takes as long with fewer rows of a as with all. */
  readonly isWhole: boolean;
  /** Additions that one product's term may go through on its way to the output. */
  readonly additions: number;
}

/**
 * A body for products with up to `rows` rows of a at once; more are done by more workgroups.
 * Of packed bytes `dot` and `dot-subgroup` take codes of a and `gemm-subgroup` numbers.
 * @param operand of the weights; null for gemv and gemm
 * @param piece of dot: as dotPiece has it
 */
export function bodyOf(
  name: BodyName,
  rows: number,
  { n, k }: { readonly n: number; readonly k: number },
  operand: IntegerOperand | null,
  piece = 0,
): Body {
  const plain = { file: name, features: [], subgroup: 1, constants: {}, isWhole: false } as const;
  const lanes = { workgroup: [32, 1, 1], tile: { m: 1, n: 128 } } as const;
  const bits = operand?.bits ?? 0;
  switch (name) {
    case "gemv": {
      const m = Math.min(rows, 4);
      // Each of 16 lanes sums its share, and then come four halvings.
      const additions = Math.ceil(k / 64) * 4 + 4;
      return {
        ...plain,
        entry: "gemv",
        constants: { M_TILE: m },
        workgroup: [64, 1, 1],
        tile: { m, n: 4 },
        additions,
      };
    }
    case "gemm":
      return { ...plain, entry: "gemm", workgroup: [8, 8, 1], tile: { m: 16, n: 32 }, additions: k };
    case "gemm-subgroup": {
      const m = Math.min(rows, 8);
      // Three within four values, three between four such, one to the sum.
      const additions = 6 + Math.ceil(k / 16);
      const constants = { M_TILE: m };
      return {
        ...plain,
        ...lanes,
        entry: "gemm_subgroup",
        features: ["subgroups"],
        subgroup: 4,
        constants,
        tile: { m, n: 128 },
        isWhole: true,
        additions,
      };
    }
    case "dot-subgroup": {
      const m = Math.min(rows, 8);
      // One for each 16 values, and one between a piece and its offset.
      const additions = 1 + Math.ceil(k / 16);
      return {
        ...plain,
        ...lanes,
        entry: "dot_subgroup",
        features: ["subgroups"],
        subgroup: 4,
        constants: { M_TILE: m },
        tile: { m, n: 128 },
        isWhole: true,
        additions,
      };
    }
    case "dot": {
      const m = Math.min(rows, 16);
      const width = 2 ** Math.ceil(Math.log2(bits));
      const units = Math.ceil((k * width) / (8 * STRIDE));
      const lanesOfN = Math.ceil(n / (4 * TILE)) * Math.ceil(rows / m) * TILE;
      const shares = Math.min(MAX_SHARES, units, WANTED_LANES / lanesOfN, SUMS / (m * TILE));
      const whole = 2 ** Math.max(0, Math.floor(Math.log2(shares)));
      // The pieces of a share's units, one after another, halvings, and three additions of four terms of a piece.
      const pieces = Math.ceil(units / whole) * (8 / width) * (piece === 16 ? 1 : 5);
      const constants = { M_TILE: m, TILE, SHARES: whole };
      const additions = pieces + Math.log2(whole) + 3;
      return {
        ...plain,
        entry: "dot_product",
        constants,
        workgroup: [TILE * whole, 1, 1],
        tile: { m, n: 4 * TILE },
        additions,
      };
    }
    case "lookup": {
      // Three in a table's entry; one for each table of a segment, for each plane, and two for each segment.
      const segment = operand === null ? 32 : segmentOf(operand);
      return { ...plain, ...lanes, entry: "lookup", additions: 3 + segment / 4 + bits + 2 * Math.ceil(k / segment) };
    }
    case "lookup-subgroup":
      // Three in a table's entry, eight tables of 32 values, one for each plane, and four for each 32 values.
      return {
        ...plain,
        ...lanes,
        entry: "lookup_subgroup",
        features: ["subgroups"],
        subgroup: 8,
        additions: 11 + bits + 4 * Math.ceil(k / 32),
      };
  }
}

/** As much of a device as the choice of a body depends on. */
export interface Machine {
  /** Whether it is a program: then loads are dear, shuffles are not, and bytes are multiplied one by one. */
  readonly software: boolean;
  /** The least number of lanes of a subgroup; 0 where there are none. */
  readonly subgroup: number;
}

/**
 * The body that is fastest for a method on a device, of those that it can run: `decode` takes numbers of a, and of packed
 * weights (an operand) there is a body for subgroups alone; null where there is none. Of `dot` it is for activations with
 * scales of 16 values or more.
 */
export function bestBody(
  method: Method["kind"],
  rows: number,
  operand: IntegerOperand | null,
  { software, subgroup }: Machine,
): BodyName | null {
  switch (method) {
    case "decode":
      if (operand !== null) return subgroup >= 4 ? "gemm-subgroup" : null;
      return rows <= FEW_ROWS ? "gemv" : "gemm";
    case "dot":
      return software && subgroup >= 4 && (operand?.group ?? 16) % 16 === 0 ? "dot-subgroup" : "dot";
    case "lookup":
      return operand !== null && segmentOf(operand) >= 16 && subgroup >= 8 ? "lookup-subgroup" : "lookup";
  }
}

/** Rows of a up to which a workgroup of its own for each few of them costs less than tiles that are half empty. */
const FEW_ROWS = 8;

// --- text of the prelude --------------------------------------------------------------------------------------------

/** What dot scales at once, 16 values or 4; 0 where no four values have the same scales. */
export function dotPiece(k: number, a: Grouped, w: Grouped): 0 | 4 | 16 {
  const groups = [a, w].map(({ group }) => group ?? 16);
  if (k % 4 !== 0 || groups.some((group) => group % 4 !== 0)) return 0;
  // Sums of the codes of w alone may not have those beyond the row.
  const isWhole = k % 16 === 0 || a.offset.length === 0;
  return isWhole && groups.every((group) => group % 16 === 0) ? 16 : 4;
}

/** As much of an operand as says how its products are scaled. */
export type Grouped = Pick<IntegerOperand, "group" | "offset">;

/**
 * What dot needs besides the codes of both sides and their scales: (sa qa + oa) (sw qw + ow) summed over a piece, without
 * the terms that are 0. It calls a_scale(m, k) and, where a has offsets, a_offset(m, k).
 */
export function scaledText(piece: number, a: Grouped, w: Grouped, accumulate: Pick<Element, "kind">): string {
  const head = "fn scaled(products: vec4i, a_sum: i32, w_sums: vec4i, m: u32, n: u32, k: u32) -> vec4<Acc> {";
  const consts = `const PIECE = ${piece}u;\nconst A_OFFSET = ${a.offset.length > 0};`;
  if (accumulate.kind === "int") return `${consts}\n${head} return products; }`;
  // A whole number times a scale is no smaller than the scale: only the last product of each term may underflow.
  const terms = ["vec4f(products) * a_scale(m, k) * w_scale4(n, k)"];
  if (w.offset.length > 0) terms.push("f32(a_sum) * a_scale(m, k) * w_offset4(n, k)");
  if (a.offset.length > 0) terms.push("vec4f(w_sums) * w_scale4(n, k) * a_offset(m, k)");
  if (a.offset.length > 0 && w.offset.length > 0) terms.push("f32(PIECE) * a_offset(m, k) * w_offset4(n, k)");
  return `${consts}\n${head}\n  return ${terms.join("\n    + ")};\n}`;
}

/** Values of a group whose bits of a plane lie in one word. */
export function segmentOf({ group }: Grouped): number {
  return group === null ? 32 : gcd(group, 32);
}

/** A double as the nearest f32, spelled so that WGSL reads just that. */
export function float(x: number): string {
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

const UNITS = `struct Units { r0: vec4u, r1: vec4u, r2: vec4u, r3: vec4u }
struct Codes { k0: vec4u, k1: vec4u, k2: vec4u, k3: vec4u }
struct Values { k0: mat4x4f, k1: mat4x4f, k2: mat4x4f, k3: mat4x4f }`;

/** The same word of each row's unit. */
function rowsOf(member: string): string {
  return `vec4u(${[0, 1, 2, 3].map((row) => `units.r${row}.${member}`).join(", ")})`;
}

const MEMBERS = ["x", "y", "z", "w"];

/** Four codes as bytes with signs. In a word each byte is kept from borrowing of the next by its top bit. */
function codesFunction({ width }: Packing, { step, least }: IntegerOperand): string {
  const head = "fn w_codes(units: Units, part: u32) -> Codes {";
  if (width === 8) return `${head}\n  return Codes(${MEMBERS.map(rowsOf).join(", ")});\n}`;
  const mask = hex((2 ** width - 1) * 0x01010101);
  const codes = `((words >> vec4u(${width}u * part)) & vec4u(${mask}))${step === 2 ? " << vec4u(1u)" : ""}`;
  const bytes = hex(Math.abs(least) * 0x01010101);
  return `fn w_signed(words: vec4u, part: u32) -> vec4u {
  return (((${codes}) | vec4u(0x80808080u)) ${least < 0 ? "-" : "+"} vec4u(${bytes})) ^ vec4u(0x80808080u);
}
${head}
  return Codes(${MEMBERS.map((member) => `w_signed(${rowsOf(member)}, part)`).join(", ")});
}`;
}

/** Codes as numbers, each with the scale of its row. */
function valuesFunction(
  { width, unit_values, group_values }: Packing,
  { step, least, offset }: IntegerOperand,
): string {
  const column = (j: number): string => {
    if (width === 8) return `vec4f(extractBits(bitcast<vec4i>(words), ${8 * j}u, 8u))`;
    const code = `vec4f(bitcast<vec4i>((words >> vec4u(first + ${8 * j}u)) & vec4u(${2 ** width - 1}u)))`;
    return `(${step === 2 ? "2 * " : ""}${code} + vec4f(${least}))`;
  };
  const terms = offset.length > 0 ? " * scale + offset" : " * scale";
  const quad = (q: number, k: string): string =>
    `numbers(${rowsOf(MEMBERS[q]!)}, first, w_scale4(n, ${k}), w_offset4(n, ${k}))`;
  const isShort = group_values !== null && group_values % 16 !== 0;
  const each = [0, 1, 2, 3].map((q) => {
    if (!isShort) return `numbers(${rowsOf(MEMBERS[q]!)}, first, scale, offset)`;
    return q === 0 ? quad(q, "k") : `k${q}`;
  });
  // Scales of so few values: each four for themselves, those beyond the row being 0.
  const before = isShort
    ? [1, 2, 3].map((q) => `var k${q} = mat4x4f();\n  if (k + ${4 * q}u < K) { k${q} = ${quad(q, `k + ${4 * q}u`)}; }`)
    : ["let scale = w_scale4(n, k);\n  let offset = w_offset4(n, k);"];
  return `fn numbers(words: vec4u, first: u32, scale: vec4f, offset: vec4f) -> mat4x4f {
  return mat4x4f(${[0, 1, 2, 3].map((j) => `\n    ${column(j)}${terms}`).join(",")},
  );
}
fn w_values(units: Units, n: u32, k: u32) -> Values {
  let first = ${width}u * (k / 16u % ${unit_values / 16}u);
  ${before.join("\n  ")}
  return Values(${each.map((text) => `\n    ${text}`).join(",")},
  );
}`;
}

/** The largest size of a code of eight bits. */
const BYTE_SIZE = 128;

/**
 * Codes as factors, u: q = step * u + zero. Where it has room two values of k share a word on both sides, so that one
 * product has both: (u0 + 2^16 u1) (a1 + 2^16 a0) = 2^16 (u0 a0 + u1 a1) + u0 a1 modulo 2^32. Of 16 values that needs 16 bits
 * for the sum that is wanted, and as many for the other, which is lifted by 2^15, so that it takes nothing of the first.
 * What zero adds is in the seed.
 */
function factorsText({ width }: Packing, { step, least, most }: IntegerOperand): string {
  const largest = step * (2 ** width - 1);
  const isPaired = width < 8 && Math.max(-least, most, largest / 2) * 16 * BYTE_SIZE < 2 ** 15;
  const values = isPaired ? [0, 1] : [0, 1, 2, 3];
  // A whole byte holds q.
  const zero = width < 8 ? least : 0;
  const mask = `vec4u(${hex((2 ** width - 1) * (isPaired ? 0x10001 : 1))})`;
  const doubled = width < 8 && step === 2 ? " << vec4u(1u)" : "";
  const column = (j: number): string =>
    width === 8
      ? `extractBits(bitcast<vec4i>(words), ${8 * j}u, 8u)`
      : `bitcast<vec4i>(((words >> vec4u(${width}u * part + ${8 * j}u)) & ${mask})${doubled})`;
  const byte = (j: number): string => `extractBits(bitcast<i32>(codes), ${8 * j}u, 8u)`;
  const input = (j: number): string => (isPaired ? `${byte(j + 2)} + (${byte(j)} << 16u)` : byte(j));
  const product = values.map((j) => `w.k${j} * a[${j}]`).join(" + ");
  return `alias Input = vec${values.length}i;
struct Four { ${values.map((j) => `k${j}: vec4i`).join(", ")} }
struct Factors { q0: Four, q1: Four, q2: Four, q3: Four }
fn w_four(words: vec4u, part: u32) -> Four {
  return Four(${values.map(column).join(", ")});
}
fn w_factors(units: Units, part: u32) -> Factors {
  return Factors(${MEMBERS.map((member) => `w_four(${rowsOf(member)}, part)`).join(", ")});
}
fn w_input(codes: u32) -> Input { return Input(${values.map(input).join(", ")}); }
fn w_products(a: Input, w: Four) -> vec4i { return ${product}; }
fn w_seed(a_sum: i32) -> i32 { return a_sum * ${isPaired ? `${zero * 0x10000} + 0x8000` : zero}; }
fn w_sums(sums: vec4i) -> vec4i { return sums${isPaired ? " >> vec4u(16u)" : ""}; }`;
}

function hex(word: number): string {
  return `0x${(word >>> 0).toString(16).padStart(8, "0")}u`;
}
