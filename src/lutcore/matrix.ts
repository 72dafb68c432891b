// A matrix of a model file as the machine's memory has it, and the form in which programs multiply it: planes that are
// looked up; bytes, or floats of 16 bits whose sums are the values, for ordinary products. Nothing is rounded but scales,
// to f32; a matrix with a value that is no such sum is refused.
// Not here: how codes and scales come out of a type (offline.ts), the programs (product.ts).

import type { WeightTensor } from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import { loweringOf } from "../ladder/emit/lowering.ts";
import type { Type } from "../ladder/type.ts";
import { encoderOf, rounderOf } from "./number.ts";
import { formOf, offlineWeights } from "./offline.ts";
import { type FloatsForm, GROUP, type Right, tileFor } from "./tiling.ts";

/** Weights of a matrix, n filled up to whole tiles with columns that are 0. */
export interface Matrix {
  readonly kind: "matrix";
  readonly right: Right;
  /** Planes: tiles of all k, one behind the other (weights.ts). Else (n, k) row-major; parts of floats (n, parts, k). */
  readonly codes: Uint8Array;
  /** (groups, n) fp32; none of floats. */
  readonly scales: Uint8Array;
  /** The same; none where the form is not corrected. */
  readonly corrections: Uint8Array;
}

export interface NoMatrix {
  readonly kind: "none";
  /** "its rows have 100 values ..." */
  readonly reason: string;
}

/** The shape in which programs see a matrix of a type, whatever its bytes; or why there is none. */
export function rightOf(type: Type, n: number, k: number): Right | NoMatrix {
  if (k % GROUP !== 0)
    return { kind: "none", reason: `its rows have ${k} values, and the machine's are multiples of ${GROUP}` };
  const form = rightFormOf(type);
  const tile = tileFor(n, k, form);
  return { n: Math.ceil(n / tile) * tile, k, tile, form };
}

/** What is no integers with scales, or has other groups than the machine, is multiplied as floats. */
function rightFormOf(type: Type): Right["form"] {
  const lowering = loweringOf(type);
  if (lowering.kind === "float") return FLOAT_FORMS[lowering.format];
  const form = formOf(type);
  const isFloats = form.kind === "none" || (form.group !== null && form.group % GROUP !== 0);
  return isFloats ? FLOAT_FORMS.f32 : form;
}

/** @param bytes n rows of the tensor's type */
export function matrixOf({ type, shape }: Pick<WeightTensor, "type" | "shape">, bytes: Uint8Array): Matrix | NoMatrix {
  const [n, k] = [shape[0] ?? 0, shape[1] ?? 0];
  const right = rightOf(type, n, k);
  if ("kind" in right) return right;
  const none = new Uint8Array(0);
  if (right.form.kind === "floats") {
    const made = right.form.parts === 1 ? { form: right.form, codes: bytes } : halvesOf(decoded(type, bytes, n * k), k);
    if ("kind" in made) return made;
    const codes = new Uint8Array(right.n * k * 2 * made.form.parts);
    codes.set(made.codes);
    return { kind: "matrix", right: { ...right, form: made.form }, codes, scales: none, corrections: none };
  }
  const made = offlineWeights(type, bytes, { n, k, tile: right.tile });
  if ("kind" in made) return made;
  const { codes, scales, corrections, form } = made;
  const bytesOf = (numbers: Float32Array | null): Uint8Array =>
    numbers === null ? none : new Uint8Array(numbers.buffer);
  return {
    kind: "matrix",
    right: { ...right, form },
    codes,
    scales: bytesOf(scales),
    corrections: bytesOf(corrections),
  };
}

function decoded(type: Type, bytes: Uint8Array, count: number): Float64Array {
  const values = new Float64Array(count);
  decode(type, bytes, values);
  return values;
}

/** By how floats are stored, whatever their values; f32 is as well what is decoded. */
const FLOAT_FORMS: Readonly<Record<"f16" | "bf16" | "f32", FloatsForm>> = {
  f16: { kind: "floats", element: "fp16", parts: 1 },
  bf16: { kind: "floats", element: "bf16", parts: 1 },
  f32: { kind: "floats", element: "bf16", parts: 3 },
};

interface Halves {
  readonly form: FloatsForm;
  /** (n, parts, k) */
  readonly codes: Uint8Array;
}

/**
 * Rows of k values as numbers of 16 bits whose sums they are exactly: one of fp16 where that holds all of them, as files
 * have them that were made of such, else as few of bf16 as do, each what those before it have left.
 */
function halvesOf(values: Float64Array, k: number): Halves | NoMatrix {
  const [roundHalf, round] = [rounderOf("fp16"), rounderOf("bf16")];
  if (values.every((x) => roundHalf(x) === x)) return { form: FLOAT_FORMS.f16, codes: laidOut(values, k, 1, "fp16") };
  let parts: FloatsForm["parts"] = 1;
  for (const [at, x] of values.entries()) {
    const first = x - round(x);
    const second = first - round(first);
    const rest = second - round(second);
    // NaN and infinities leave NaN.
    if (rest !== 0) {
      const where = `its value ${x} at row ${Math.floor(at / k)}, column ${at % k}`;
      return { kind: "none", reason: `${where} is no sum of three bf16, and the machine multiplies floats of 16 bits` };
    }
    if (second !== 0) parts = 3;
    else if (first !== 0 && parts === 1) parts = 2;
  }
  return { form: { kind: "floats", element: "bf16", parts }, codes: laidOut(values, k, parts, "bf16") };
}

/** Each value as numbers of an element, the largest first. */
function laidOut(values: Float64Array, k: number, parts: number, element: FloatsForm["element"]): Uint8Array {
  const [round, encode] = [rounderOf(element), encoderOf(element)];
  const codes = new Uint16Array(values.length * parts);
  for (const [at, x] of values.entries()) {
    const first = Math.floor(at / k) * parts * k + (at % k);
    let rest = x;
    for (let part = 0; part < parts; part++) {
      const taken = round(rest);
      codes[first + part * k] = encode(taken);
      rest -= taken;
    }
  }
  return new Uint8Array(codes.buffer);
}
