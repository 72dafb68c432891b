// What the tests of compiled products share: operands with random values that formats like, a program that carries a
// manifest's packing out knowing nothing but the manifest, the exact product in doubles, and what it may differ by.

import { readdirSync, readFileSync } from "node:fs";

import { decode } from "../../src/ladder/emit/codec.ts";
import { compile, type CompileRequest, type Manifest } from "../../src/ladder/emit/compile.ts";
import { encode } from "../../src/ladder/encode.ts";
import { elementValue, fromNumber, toNumber } from "../../src/ladder/exact.ts";
import type { Packing } from "../../src/ladder/emit/packing.ts";
import { bindTensor } from "../../src/ladder/tensor.ts";
import type { Element, Endpoint, Program, Type } from "../../src/ladder/type.ts";

const folder = new URL("../../shaders/", import.meta.url);

/** The bodies of WGSL modules by name. */
export const bodies: ReadonlyMap<string, string> = new Map(
  readdirSync(folder).map((name) => [name.replace(/\.wgsl$/, ""), readFileSync(new URL(name, folder), "utf8")]),
);

/** A type in fifteen lines that no file of the library has: six bits with a scale for each half, and a shared minimum. */
export const OWN = `
import "float.ladder"
import "int.ladder"

block Lumen[32] {
  d  : F16
  m  : F16
  sc : U4[2]
  lo : U4[32]
  hi : U2[32]
  code q[i < 32] = hi[i].bits(0 +: 2) ++ lo[31 - i].bits(0 +: 4)
  value[i] = d * (sc[i div 16] + 1) * (q[i] - 31) + m
}
block Whole[8] {
  qs : U8[4]
  code q[i < 8] = qs[i div 2].bits(4 * (i mod 2) +: 4)
  value[i] = q[i] - 8
}
block Brief[32] {
  d  : BF16
  o  : BF16
  qs : U4[32]
  value[i] = d * (qs[i] - 7) + o
}
block Power[32] {
  s  : E8M0
  qs : U4[32]
  value[i] = s * (qs[i] - 7)
}
`;

/** A product that is run, with the sizes of its operands' floats. */
export type Run = Partial<Asked> & { readonly activations?: Size; readonly weights?: Size };

/** Where scales and products leave the normal numbers of f32; each n is another, since functions are named by shapes. */
export const TINY: readonly Run[] = [
  { activation: "Q8_0", weight: "OCP_MXFP4", m: 2, n: 21, k: 96, method: "dot", weights: "tiny" },
  { activation: "Q8_0", weight: "OCP_MXFP4", m: 2, n: 22, k: 96, method: "dot", activations: "tiny", weights: "tiny" },
  { activation: "Power", weight: "Power", m: 2, n: 23, k: 128, method: "dot", weights: "tiny" },
  { activation: "Power", weight: "Power", m: 2, n: 24, k: 128, method: "dot", activations: "tiny", weights: "tiny" },
  { activation: "Q8_0", weight: "Brief", m: 3, n: 25, k: 96, method: "dot", weights: "tiny" },
  { activation: "Brief", weight: "Brief", m: 3, n: 26, k: 96, method: "dot", weights: "tiny" },
  { activation: "Brief", weight: "Brief", m: 3, n: 27, k: 96, method: "dot", activations: "tiny" },
  { activation: "F16", weight: "OCP_MXFP4", m: 2, n: 28, k: 96, weights: "tiny" },
  { activation: "F16", weight: "OCP_MXFP4", m: 2, n: 29, k: 96, activations: "tiny", weights: "tiny" },
  { activation: "BF16", weight: "OCP_MXFP4", m: 2, n: 30, k: 96, activations: "tiny", weights: "tiny" },
  { activation: "BF16", weight: "OCP_MXFP4", m: 2, n: 31, k: 96, activations: "tiny" },
  { activation: "F32", weight: "F32", m: 2, n: 32, k: 96, activations: "tiny" },
  { activation: "F16", weight: "Q4_0", m: 2, n: 33, k: 96, activations: "tiny", weights: "tiny" },
  { activation: "OCP_MXFP8_E4M3", weight: "Lumen", m: 9, n: 34, k: 96, activations: "tiny", weights: "tiny" },
];

export type Asked = Omit<CompileRequest, "activation" | "weight" | "accumulate" | "out" | "device" | "program"> & {
  readonly activation: string;
  readonly weight: string;
  readonly accumulate?: string;
  readonly out?: string;
  readonly device?: string;
};

/** A format of blocks, an element, or a format of matrices in one of its storages, by name. */
export function endOf(program: Program, name: string): Endpoint {
  const type = program.types.get(name);
  if (type !== undefined) return { kind: "type", type };
  const element = program.elements.get(name);
  if (element !== undefined) return { kind: "element", element };
  const [base, storage] = name.split(".");
  const tensor = program.tensors.get(base!);
  if (tensor === undefined) throw new Error(`the program has no ${name}`);
  return { kind: "tensor", tensor, storage: storage ?? tensor.storages[0]! };
}

export function compiled(program: Program, asked: Asked): ReturnType<typeof compile> {
  const fallback = { wgsl: "webgpu", cpu: "x86_avx2", lmma: "lut_tensor_core" }[asked.target];
  return compile(
    {
      ...asked,
      activation: endOf(program, asked.activation),
      weight: endOf(program, asked.weight),
      accumulate: program.elements.get(asked.accumulate ?? "F32")!,
      out: program.elements.get(asked.out ?? "F32")!,
      device: program.devices.get(asked.device ?? fallback)!,
      program,
    },
    bodies,
  );
}

/** A format by name as a type for a matrix of that shape. */
export function boundType(program: Program, name: string, rows: number, columns: number): Type {
  const end = endOf(program, name);
  if (end.kind === "type") return end.type;
  if (end.kind === "element") throw new Error(`${name} is no format`);
  const bound = bindTensor(end.tensor, end.storage, rows, columns);
  if (bound.kind === "refused") throw new Error(bound.diagnostics[0]!.message);
  return bound.type;
}

/** As compiled, which must succeed. */
export function kernelOf(program: Program, asked: Asked): { readonly text: string; readonly manifest: Manifest } {
  const found = compiled(program, asked);
  if (found.kind === "refused") throw new Error(`${JSON.stringify(asked)}: ${found.reason}`);
  return { text: found.files[0]?.text ?? "", manifest: found.manifest };
}

// --- operands -------------------------------------------------------------------------------------------------------

/** Numbers from 0 to 1 by a counter and a mix of its bits, the same for the same seed (splitmix32). */
export function uniform(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** Of which size the floats of an operand are: around 1, or as small as they get, subnormals and powers next to them. */
export type Size = "ordinary" | "tiny";

/** Blocks whose floats of 16 and more bits and exponents are of a size, and whose other codes are any for a number. */
export function operandOf(type: Type, blocks: number, next: () => number, size: Size = "ordinary"): Uint8Array {
  const bytes = new Uint8Array(blocks * type.blockBytes);
  for (let b = 0; b < blocks; b++) {
    const block = bytes.subarray(b * type.blockBytes, (b + 1) * type.blockBytes);
    for (const { element, count, bit, name } of type.fields) {
      for (let e = 0; e < count; e++) {
        const code = name === "g_idx" ? 0n : codeOf(element, next, size);
        for (let j = 0; j < element.bits; j++) {
          const at = bit + e * element.bits + j;
          block[at >> 3]! |= Number((code >> BigInt(j)) & 1n) << (at & 7);
        }
      }
    }
  }
  return bytes;
}

function codeOf(element: Element, next: () => number, size: Size): bigint {
  if (size === "tiny" && element.kind === "exponent") return BigInt(Math.floor(next() * 4));
  if (size === "tiny" && element.kind === "float" && element.bits >= 16)
    // Subnormals and the first few powers above them, of either sign.
    return (
      BigInt(Math.floor(next() * 2 ** (element.mantissa + 2))) | (BigInt(next() < 0.5) << BigInt(element.bits - 1))
    );
  if (element.kind === "float" && element.sign === "yes") return encode(element, fromNumber((next() - 0.5) * 3));
  if (element.kind === "exponent") return BigInt(element.bias - 4 + Math.floor(next() * 8));
  for (;;) {
    let code = 0n;
    for (let done = 0; done < element.bits; done += 8) code = (code << 8n) | BigInt(Math.floor(next() * 256));
    code &= (1n << BigInt(element.bits)) - 1n;
    const lanes = element.kind === "table" ? element.lanes : 1;
    const isNumber = Array.from({ length: lanes }, (_, lane) => toNumber(elementValue(element, code, lane))).every(
      (x) => Number.isFinite(x),
    );
    if (isNumber) return code;
  }
}

// --- a manifest's packing -------------------------------------------------------------------------------------------

type PackedTerm = Packing["scale"][number];

/** What a packing makes of a file's bytes: its buffers, and every value's integer, scale and offset. */
export interface Packed {
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
  readonly offsets: Float32Array;
  /** Before it is stored: v of every value, row by row. */
  readonly integers: Float64Array;
  /** Which scale and offset a value has, the values being counted row by row. */
  readonly groupOf: (value: number) => number;
}

/** Carries a packing out, by what its JSON says alone. */
export function pack(packing: Packing, bytes: Uint8Array): Packed {
  const { rows, columns, block_values, block_bytes, unit_values, unit_bytes, units_per_row, parts, tile_rows } =
    packing;
  const isConstant = packing.group_values === null;
  const group = packing.group_values ?? columns;
  const padded = Math.ceil(rows / tile_rows) * tile_rows;
  const codes = new Uint8Array(Math.ceil((padded * units_per_row * unit_bytes) / 4) * 4);
  const groups = isConstant ? 1 : columns / group;
  const [scales, offsets] = [new Float32Array(padded * groups), new Float32Array(padded * groups)];
  // Which of all units or groups it is.
  const numberOf = (row: number, each: number, at: number): number =>
    (Math.floor(row / tile_rows) * each + at) * tile_rows + (row % tile_rows);
  const groupOf = (at: number): number =>
    isConstant ? 0 : numberOf(Math.floor(at / columns), groups, Math.floor((at % columns) / group));
  const integers = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < columns; k++) {
      const at = row * columns + k;
      const b = Math.floor(at / block_values);
      const i = at % block_values;
      const block = bytes.subarray(b * block_bytes, (b + 1) * block_bytes);
      const v = standsFor(packing.codes, block, i);
      integers[at] = v;
      const stored =
        (((packing.times * v - packing.subtract) % 2 ** packing.width) + 2 ** packing.width) % 2 ** packing.width;
      const unit = numberOf(row, units_per_row, Math.floor(k / unit_values)) * unit_bytes;
      for (const { shift, width, bits } of parts) {
        for (let j = 0; j < width; j++) {
          const place = bits[k % unit_values]! + j;
          codes[unit + (place >> 3)]! |= ((stored >> (shift + j)) & 1) << (place & 7);
        }
      }
      if (k % group !== 0 || (isConstant && at > 0)) continue;
      const g = groupOf(at);
      scales[g] = sumOf(packing.scale, block, Math.floor(i / group));
      offsets[g] = sumOf(packing.offset, block, Math.floor(i / group));
    }
  }
  return { codes, scales, offsets, integers, groupOf };
}

function sumOf(terms: readonly PackedTerm[], block: Uint8Array, g: number): number {
  return terms.reduce((sum, { constant, fields, codes }) => {
    const floats = fields.reduce((product, { format, byte }) => product * float(format, block, byte), 1);
    return sum + constant * floats * (codes === null ? 1 : standsFor(codes, block, g) - codes.bias);
  }, 0);
}

function standsFor(
  { runs, flip, map }: Packing["codes"] | NonNullable<PackedTerm["codes"]>,
  block: Uint8Array,
  i: number,
): number {
  let code = 0;
  for (const { first, count, bit, step, width, shift } of runs) {
    if (i < first || i >= first + count) continue;
    for (let j = 0; j < width; j++) {
      const at = bit + (i - first) * step + j;
      code += ((block[at >> 3]! >> (at & 7)) & 1) * 2 ** (shift + j);
    }
  }
  const flipped = (code ^ flip) >>> 0;
  return map === null ? flipped : Number(map[flipped]);
}

function float(format: "f16" | "bf16" | "f32", block: Uint8Array, byte: number): number {
  const view = new DataView(block.buffer, block.byteOffset);
  if (format === "f32") return view.getFloat32(byte, true);
  const half = view.getUint16(byte, true);
  if (format === "bf16") {
    const bits = new DataView(new ArrayBuffer(4));
    bits.setUint32(0, half * 65536);
    return bits.getFloat32(0);
  }
  const [power, mantissa] = [(half >> 10) & 31, half & 1023];
  const size = power === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (power - 25);
  return half >> 15 ? -size : size;
}

// --- the exact product ----------------------------------------------------------------------------------------------

export interface Reference {
  /** (m, n), in doubles. */
  readonly out: Float64Array;
  /** (m, n): what a manifest's relative error is relative to. */
  readonly magnitude: Float64Array;
  /** (m, n): what its absolute error is multiplied by. */
  readonly absolute: Float64Array;
}

/** The product of what the exact decoder makes of both sides, and the magnitudes that the manifest names. */
export function referenceOf(
  { gemm, method, guarantee, layouts }: Manifest,
  a: Type,
  w: Type,
  aBytes: Uint8Array,
  wBytes: Uint8Array,
): Reference {
  const { m, n, k } = gemm;
  const [left, right] = [new Float64Array(m * k), new Float64Array(n * k)];
  decode(a, aBytes, left);
  decode(w, wBytes, right);
  // |s q| + |o| of every value, q as it is packed.
  const parts = (
    packing: Packing | undefined,
    bytes: Uint8Array,
    values: Float64Array,
    planes: boolean,
  ): Float64Array => {
    if (packing === undefined) return values.map(Math.abs);
    const { scales, offsets, groupOf } = pack(packing, bytes);
    return values.map((x, at) => {
      const g = groupOf(at);
      const offset = Math.abs(offsets[g]!);
      return planes ? (2 ** packing.width - 1) * Math.abs(scales[g]!) + offset : Math.abs(x - offsets[g]!) + offset;
    });
  };
  const isLookup = method === "lookup";
  const [leftSize, rightSize] = [
    parts(layouts.activations, aBytes, left, false),
    parts(layouts.weights, wBytes, right, isLookup),
  ];
  const out = new Float64Array(m * n);
  const magnitude = new Float64Array(m * n);
  const absolute = new Float64Array(m * n);
  const [one, ...sizes] = guarantee.absolute_magnitude.split(" + max over k of ");
  const [ofA, ofW] = [/^\|a\||^\(\|s_a/, /^\|w\||^\(.*\|s_w/].map((side) => sizes.some((size) => side.test(size)));
  if (one !== "1" || sizes.length !== Number(ofA) + Number(ofW)) throw new Error(guarantee.absolute_magnitude);
  const largest = (values: Float64Array, row: number): number =>
    values.subarray(row * k, (row + 1) * k).reduce((x, y) => Math.max(x, y), 0);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let [sum, size] = [0, 0];
      for (let l = 0; l < k; l++) {
        sum += left[i * k + l]! * right[j * k + l]!;
        size += leftSize[i * k + l]! * rightSize[j * k + l]!;
      }
      out[i * n + j] = sum;
      absolute[i * n + j] = 1 + (ofA ? largest(leftSize, i) : 0) + (ofW ? largest(rightSize, j) : 0);
      magnitude[i * n + j] = guarantee.magnitude === "0" ? 0 : size;
    }
  }
  return { out, magnitude, absolute };
}

/** The numbers of an output buffer, row by row. */
export function outputsOf({ gemm, buffers }: Manifest, element: Element, bytes: Uint8Array): Float64Array {
  const { layout } = buffers.find(({ role }) => role === "out")!;
  if (layout.kind !== "rows") throw new Error("outputs are rows");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float64Array(gemm.m * gemm.n);
  for (let i = 0; i < gemm.m; i++) {
    for (let j = 0; j < gemm.n; j++) {
      const at = i * layout.row_bytes + (j * element.bits) / 8;
      const code =
        element.bits === 32
          ? view.getUint32(at, true)
          : element.bits === 16
            ? view.getUint16(at, true)
            : view.getUint8(at);
      out[i * gemm.n + j] = toNumber(elementValue(element, BigInt(code), 0));
    }
  }
  return out;
}

/**
 * The first output that is further from the exact product than its manifest says; null where there is none. Rounding to
 * an element is monotone, so that an output lies between the roundings of both ends of what its sum may be.
 */
export function firstOff(
  { gemm, guarantee }: Manifest,
  element: Element,
  { out, magnitude, absolute }: Reference,
  got: Float64Array,
): string | null {
  const rounded = (x: number): number => toNumber(elementValue(element, encode(element, fromNumber(x)), 0));
  // The reference adds doubles, which round too.
  const relative = guarantee.relative_error + gemm.k * 2 ** -53;
  for (let at = 0; at < out.length; at++) {
    const small = guarantee.absolute_error * absolute[at]!;
    const off = guarantee.relative_error === 0 ? 0 : relative * magnitude[at]! + small;
    const [least, most] = [rounded(out[at]! - off), rounded(out[at]! + off)];
    // Beyond the largest number an element may have NaN alone.
    const fits = Number.isNaN(got[at])
      ? Number.isNaN(least) || Number.isNaN(most)
      : !(got[at]! < least || got[at]! > most);
    if (!fits) return `output ${at} is ${got[at]}, and not ${out[at]} +- ${off}: ${least} to ${most}`;
  }
  return null;
}
