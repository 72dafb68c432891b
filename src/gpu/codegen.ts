// The texts of the GPU backend's kernels. Products and embeddings are the compiler's: its prelude for the type of the
// weights and its bodies, with activations as a step has them and outputs that go where the plan wants them. The rest are
// files of shaders/ with their sizes as constants. Each comes with its bindings in order and its grid of workgroups.
// Not here: the prelude of a type (ladder/emit/side-wgsl.ts), buffers and their order of use (backend.ts).

import { type IntegerOperand, integerOperand } from "../ladder/emit/packing.ts";
import {
  bestBody,
  type Body,
  bodyOf,
  dotPiece,
  type Machine,
  scaledText,
  type WeightSide,
  weightSide,
} from "../ladder/emit/side-wgsl.ts";
import type { Type } from "../ladder/type.ts";
import type { Attention, Rope } from "../ops.ts";
import type { Binding, KernelText } from "./device.ts";
import type { ChooseMethods, Method, Methods } from "./method.ts";
import type { Piece } from "./weights.ts";

/** Activations are quantised in groups of so many values, as on the CPU (cpu/layout.ts has the reason). */
export const ACTIVATION_GROUP = 16;

/** The files of shaders/ by their names without the ending. */
export type Bodies = ReadonlyMap<string, string>;
/** Workgroups for so many rows. */
export type Grid = (rows: number) => readonly [number, number, number];

export interface Kernel {
  readonly text: KernelText;
  readonly grid: Grid;
  /** Numbers of rows for which it is this one, where there are several that do the same: [least, most]. */
  readonly rows?: readonly [number, number];
}

/** A product's, and what of the input it reads. */
export interface ProductKernel extends Kernel {
  readonly input: "codes" | "floats";
}

/** How matrices lie on the device. */
export type Layout =
  /** Packed codes of integers. */
  | "codes"
  /** Their bits, plane by plane. */
  | "planes"
  /** Bytes as the file has them. */
  | "bytes"
  /** Decoded to f32 as they are loaded. */
  | "floats";

/** How matrices of a type lie on the device, and what kernels of them know. */
export interface WeightForm {
  readonly layout: Layout;
  readonly methods: Methods;
  readonly type: Type;
  readonly k: number;
  /** Functions and buffers for so many rows, the first buffer at a binding of group 0. */
  side(rows: number, binding: number): WeightSide;
  /** The same for rows of another length. */
  ofWidth(k: number): WeightForm;
  readonly operand: IntegerOperand | null;
}

/** Where the products of a piece go, and what is added to them. */
export interface Output {
  readonly piece: Piece;
  readonly bias: boolean;
  /** Nothing, what is there already, or another value. */
  readonly add: "nothing" | "itself" | "other";
}

/** Lanes of a workgroup of the bodies that take one number each. */
const LANES = 64;
/** Workgroups along one dimension that every implementation takes (WebGPU, maxComputeWorkgroupsPerDimension). */
const MAX_WORKGROUPS = 65_535;
/** Rows for which a tile of half the size is worth a kernel of its own. */
const FEW_ROWS = 4;
/** Queries that attention-subgroup.wgsl takes together. */
const QUERIES = 8;
/** More than any step has. */
const ANY_ROWS = 2 ** 31;

const STEP = "struct Step { rows: u32, wanted: u32 }\n@group(0) @binding(0) var<uniform> step: Step;";

export class Kernels {
  readonly #bodies: Bodies;
  readonly #adapter: Machine;
  readonly #choose: ChooseMethods;

  /** @param choose the methods for a matrix, where they can be had; null for those that are usually fastest */
  constructor(bodies: Bodies, adapter: Machine, choose: ChooseMethods) {
    this.#bodies = bodies;
    this.#adapter = adapter;
    this.#choose = choose;
  }

  /** @throws Error where the file is missing */
  body(name: string): string {
    const text = this.#bodies.get(name);
    if (text === undefined) throw new Error(`the shader ${name}.wgsl of this installation is missing`);
    return text;
  }

  /** The ways in which an (n, k) matrix of a type can lie, the best first; the last can always. */
  forms(type: Type, n: number, k: number): readonly WeightForm[] {
    const forms: WeightForm[] = [];
    const [bytes, planes] = [integerOperand(type, "bytes"), integerOperand(type, "planes")];
    const isWhole = k % ACTIVATION_GROUP === 0;
    const wanted = this.#choose(type, n, k);
    if (bytes.kind === "integers" && isWhole) {
      const methods = this.#methodsOf(bytes, wanted);
      if (methods !== null) forms.push(formOf("codes", methods, type, k, bytes));
    }
    if (planes.kind === "integers" && isWhole) {
      const form = formOf("planes", { one: "lookup", more: "lookup" }, type, k, planes);
      if (wanted?.one === "lookup") forms.unshift(form);
      else forms.push(form);
    }
    const decoded = { one: "decode", more: "decode" } as const;
    const side = weightSide(type, 1, k, null, { group: 0, binding: 0 });
    if (side.kind === "side") forms.push(formOf("bytes", decoded, type, k, null));
    return [...forms, floatsForm(type, k)];
  }

  /** What packed codes are multiplied by; null where nothing can. */
  #methodsOf(operand: IntegerOperand, wanted: Methods | null): Methods | null {
    const can = {
      dot: (operand.group ?? ACTIVATION_GROUP) % ACTIVATION_GROUP === 0,
      decode: bestBody("decode", 1, operand, this.#adapter) !== null,
      lookup: false,
    };
    if (!can.dot && !can.decode) return null;
    // Of packed codes products of integers are usually fastest, on machines of all kinds.
    const usual = can.dot ? "dot" : "decode";
    const pick = (rows: keyof Methods): Method => (wanted !== null && can[wanted[rows]] ? wanted[rows] : usual);
    return { one: pick("one"), more: pick("more") };
  }

  /** Rows of a piece of a matrix, chosen by tokens: step, rows, the form's buffers with so many rows, out. */
  embed(form: WeightForm, total: number, { at, first, rows }: Piece): Kernel {
    const side = form.side(total, 2);
    const uses = ["uniform", "read", ...side.buffers.map(() => "read" as const), "write"] as const;
    const code = `${STEP}
const N = ${total}u;
const K = ${form.k}u;
@group(0) @binding(1) var<storage, read> step_rows: array<vec4u>;
${side.text}
${form.layout === "codes" ? LOAD4_OF_CODES : form.layout === "planes" ? LOAD4_OF_PLANES : ""}
@group(0) @binding(${uses.length - 1}) var<storage, read_write> out_words: array<f32>;
fn rows() -> u32 { return step.rows; }
fn embed_row(m: u32) -> u32 {
  let row = step_rows[m].x - ${first}u;
  return select(N, row + ${at}u, row < ${rows}u);
}
fn embed_store(m: u32, k: u32, four: vec4f) {
  for (var i = 0u; i < 4u && k + i < K; i++) { out_words[m * K + k + i] = four[i]; }
}
${this.body("embed")}`;
    const bindings = uses.map((use, binding) => ({ binding, use }));
    const text = { label: `embed ${form.type.name}`, code, entry: "embed", bindings, constants: {} };
    return { text, grid: lanesOf(Math.ceil(form.k / 4)) };
  }

  /**
   * Products with a form's matrices, for one row, for few and for more: step, the form's buffers, the input, and of each
   * piece its out, bias and what is added.
   */
  linear(form: WeightForm, total: number, outputs: readonly Output[], selected: boolean): readonly ProductKernel[] {
    const { k, operand, type, methods } = form;
    const shape = { n: total, k };
    const piece = operand === null ? 0 : dotPiece(k, ACTIVATIONS, operand);
    const bodyFor = (method: Method, rows: number): Body =>
      bodyOf(bestBody(method, rows, operand, this.#adapter) ?? "gemv", rows, shape, operand, piece);
    const make = (method: Method, rows: readonly [number, number]): ProductKernel => {
      const body = bodyFor(method, rows[1]);
      const side = form.side(total, 1);
      const uses: Binding["use"][] = ["uniform", ...side.buffers.map(() => "read" as const)];
      const lines: string[] = [];
      const bind = (name: string, of: string, use: "read" | "write"): string => {
        const access = use === "read" ? "read" : "read_write";
        lines.push(`@group(0) @binding(${uses.length}) var<storage, ${access}> ${name}: array<${of}>;`);
        uses.push(use);
        return name;
      };
      if (method === "dot" && operand !== null) {
        bind("a_codes", "vec4u", "read");
        bind("a_scales", "f32", "read");
        const at = `m * ${k / ACTIVATION_GROUP}u + k / ${ACTIVATION_GROUP}u`;
        lines.push(
          `fn a_bytes(m: u32, k: u32) -> vec4u { return a_codes[${at}]; }`,
          `fn a_scale(m: u32, k: u32) -> f32 { return a_scales[${at}]; }`,
          scaledText(piece, ACTIVATIONS, operand, F32),
        );
      } else if (k % 4 === 0) {
        bind("a_words", "vec4f", "read");
        lines.push("fn a_load4(m: u32, k: u32) -> vec4f { return a_words[(m * K + k) / 4u]; }");
      } else {
        bind("a_words", "f32", "read");
        lines.push(`fn a_load4(m: u32, k: u32) -> vec4f {
  var four = vec4f();
  for (var i = 0u; i < 4u && k + i < K; i++) { four[i] = a_words[m * K + k + i]; }
  return four;
}`);
      }
      const stores = outputs.map((output, o) => storeOf(output, o, bind));
      const code = `${body.features.map((feature) => `enable ${feature};\n`).join("")}${STEP}
const N = ${total}u;
const K = ${k}u;
${Object.entries(body.constants)
  .map(([name, value]) => `const ${name} = ${value}u;`)
  .join("\n")}
alias Acc = f32;
fn rows() -> u32 { return step.${selected ? "wanted" : "rows"}; }
${side.text}
${lines.join("\n")}
fn store4(m: u32, n: u32, sums: vec4f) {
  for (var i = 0u; i < 4u; i++) {
${stores.join("\n")}
  }
}
${this.body(body.file)}`;
      const bindings = uses.map((use, binding) => ({ binding, use }));
      const tiles = Math.ceil(total / body.tile.n);
      const high = Math.ceil(tiles / MAX_WORKGROUPS);
      const label = `${body.file} ${type.name} ${total} x ${k}`;
      return {
        text: { label, code, entry: body.entry, bindings, constants: {} },
        grid: (m) => [Math.ceil(tiles / high), high, Math.ceil(m / body.tile.m)],
        rows,
        input: method === "dot" ? "codes" : "floats",
      };
    };
    const one = make(methods.one, [1, 1]);
    // Where a tile takes as long with few rows as with all, few have smaller ones.
    if (!bodyFor(methods.more, ANY_ROWS).isWhole) return [one, make(methods.more, [2, ANY_ROWS])];
    return [one, make(methods.more, [2, FEW_ROWS]), make(methods.more, [FEW_ROWS + 1, ANY_ROWS])];
  }

  /** Step, input, the norm's weights or what is gated, floats, codes, scales. */
  activations(
    width: number,
    { eps, gated, selected }: { readonly eps: number | null; readonly gated: boolean; readonly selected: boolean },
  ): Kernel {
    const constants = {
      WIDTH: width,
      NORM: Number(eps !== null),
      EPS: eps ?? 0,
      GATED: Number(gated),
      SELECTED: Number(selected),
    };
    return this.#plain("activations", "activations", "uniform read read write write write", constants, (m) => [
      m,
      1,
      1,
    ]);
  }

  select(width: number): Kernel {
    return this.#plain("select", "keep", "uniform read read write", { WIDTH: width }, lanesOf(width));
  }

  gate(width: number, selected: boolean): Kernel {
    const constants = { WIDTH: width, SELECTED: Number(selected) };
    return this.#plain("gate", "join", "uniform read read write", constants, lanesOf(width));
  }

  rope({ heads, headDim, pairing, frequencies }: Rope): Kernel {
    const pairs = frequencies.length;
    const constants = { HEADS: heads, HEAD_DIM: headDim, PAIRS: pairs, ADJACENT: Number(pairing === "adjacent") };
    return this.#plain("rope", "rope", "uniform read write", constants, lanesOf(heads * pairs));
  }

  /** Step, rows, the turns of keys, keys, values, and both halves of the cache. */
  remember({ kvHeads, headDim }: Attention, context: number, rope: Rope | null): Kernel {
    const constants = { HEADS: kvHeads, HEAD_DIM: headDim, CONTEXT: context, ...turnsOf(rope) };
    const grid = lanesOf(kvHeads * Math.ceil(headDim / 2));
    return this.#plain("remember", "remember", "uniform read read read read write write", constants, grid);
  }

  /** Step, rows, the turns of queries, queries, both halves of the cache, out, and its codes and scales if they are wanted. */
  attention(
    { heads, kvHeads, headDim, scale }: Attention,
    context: number,
    rope: Rope | null,
    codes: boolean,
  ): readonly Kernel[] {
    const sizes = { HEADS: heads, KV_HEADS: kvHeads, HEAD_DIM: headDim, CONTEXT: context };
    const constants = { ...sizes, SCALE: scale, ...turnsOf(rope), QUANTISED: Number(codes) };
    const uses = "uniform read read read read read write write write";
    const alone = this.#plain("attention", "attention", uses, constants, (m) => [heads, m, 1], "attention-parts");
    const lanes = this.#adapter.subgroup;
    const share = heads / kvHeads;
    // Queries and sums of a workgroup are in its memory, of which every device has 16 KiB.
    const bytes = 16 * QUERIES * Math.ceil(headDim / 2) + 4 * QUERIES;
    if (lanes === 0 || !Number.isInteger(share) || bytes > 16_384) return [alone];
    const together = this.#plain(
      "attention-subgroup",
      "attention_subgroup",
      uses,
      { ...constants, LANES: lanes },
      (m) => [kvHeads, Math.ceil((m * share) / QUERIES), 1],
      "attention-parts",
    );
    // One row has too few queries for the lanes of a GPU; a program has few lanes, and reads each key once.
    if (this.#adapter.software) return [together];
    return [
      { ...alone, rows: [1, 1] },
      { ...together, rows: [2, ANY_ROWS] },
    ];
  }

  /** A body that needs no prelude but, where it is named, what several have in common. */
  #plain(
    file: string,
    entry: string,
    uses: string,
    constants: KernelText["constants"],
    grid: Grid,
    parts: string | null = null,
  ): Kernel {
    const bindings = uses.split(" ").map((use, binding) => ({ binding, use: use as Binding["use"] }));
    const enable = file.endsWith("-subgroup") ? "enable subgroups;\n" : "";
    const code = enable + (parts === null ? "" : this.body(parts)) + this.body(file);
    return { text: { label: file, code, entry, bindings, constants }, grid };
  }
}

/** Products are summed in f32. */
const F32 = { kind: "float" } as const;
/** Activations as products of integers see them. */
const ACTIVATIONS = { group: ACTIVATION_GROUP, offset: [] } as const;

function formOf(layout: Layout, methods: Methods, type: Type, k: number, operand: IntegerOperand | null): WeightForm {
  return {
    layout,
    methods,
    type,
    k,
    operand,
    side: (rows, binding) => {
      const side = weightSide(type, rows, k, operand, { group: 0, binding });
      if (side.kind === "refused") throw new Error(`${type.name}, ${rows} x ${k}: ${side.reason}`);
      return side;
    },
    ofWidth: (width) => formOf(layout, methods, type, width, operand),
  };
}

function floatsForm(type: Type, k: number): WeightForm {
  return {
    layout: "floats",
    methods: { one: "decode", more: "decode" },
    type,
    k,
    operand: null,
    side: (rows, binding) => ({
      kind: "side",
      text: `@group(0) @binding(${binding}) var<storage, read> w_words: array<f32>;
fn w_load4(n: u32, k: u32) -> vec4f {
  var four = vec4f();
  for (var i = 0u; i < 4u && k + i < K; i++) { four[i] = w_words[n * K + k + i]; }
  return four;
}`,
      buffers: [{ binding, name: "w_words", part: "floats", bytes: 4 * rows * k, words: null }],
      packing: null,
      exceptions: [],
    }),
    ofWidth: (width) => floatsForm(type, width),
  };
}

/** Four values of one row, of those of four rows that kernels take together. */
const LOAD4_OF_CODES = `
fn w_load4(n: u32, k: u32) -> vec4f {
  let four = n / 4u * 4u;
  let row = n % 4u;
  let values = w_values(w_units(four, k / W_UNIT), four, k / 16u * 16u);
  var part = values.k0;
  switch (k / 4u % 4u) {
    case 1u: { part = values.k1; }
    case 2u: { part = values.k2; }
    case 3u: { part = values.k3; }
    default: {}
  }
  return vec4f(part[0][row], part[1][row], part[2][row], part[3][row]);
}`;

/** The same of bit planes: value = scale * (sum of 2^p * (2 bit_p - 1)) + offset. */
const LOAD4_OF_PLANES = `
fn w_load4(n: u32, k: u32) -> vec4f {
  let four = n / 4u * 4u;
  var codes = vec4f();
  for (var p = 0u; p < PLANES; p++) {
    let word = w_planes(four, k / 32u * 32u, p)[n % 4u] >> (k % 32u);
    codes += f32(1u << p) * (2f * vec4f(vec4u(word, word >> 1u, word >> 2u, word >> 3u) & vec4u(1u)) - 1f);
  }
  return codes * w_scale4(four, k)[n % 4u] + w_offset4(four, k)[n % 4u];
}`;

/** Stores output n + i of row m where it is one of a piece. */
function storeOf(
  { piece, bias, add }: Output,
  o: number,
  bind: (name: string, of: string, use: "read" | "write") => string,
): string {
  const out = bind(`out${o}`, "f32", "write");
  const terms = ["sums[i]"];
  if (bias) terms.push(`${bind(`bias${o}`, "f32", "read")}[${piece.first}u + row]`);
  if (add === "itself") terms.push(`${out}[at]`);
  if (add === "other") terms.push(`${bind(`added${o}`, "f32", "read")}[at]`);
  return `    if (n + i >= ${piece.at}u && n + i < ${piece.at + piece.rows}u) {
      let row = n + i - ${piece.at}u;
      let at = m * ${piece.of}u + ${piece.first}u + row;
      ${out}[at] = ${terms.join(" + ")};
    }`;
}

/** Constants of bodies that turn what they read; no pairs where they are not to. */
function turnsOf(rope: Rope | null): Readonly<Record<string, number>> {
  return { PAIRS: rope?.frequencies.length ?? 0, ADJACENT: Number(rope?.pairing === "adjacent") };
}

/** A lane for each of so many numbers of a row, rows along y. */
function lanesOf(width: number): Grid {
  return (rows) => [Math.ceil(width / LANES), rows, 1];
}
