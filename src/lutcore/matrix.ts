// A matrix of a model file as the machine's memory has it, and the form in which programs multiply it: planes that are
// looked up, bytes or 16-bit floats for ordinary products. Nothing is rounded but scales, to f32.
// Not here: how codes and scales come out of a type (offline.ts), the programs (product.ts).

import type { WeightTensor } from "../backend.ts";
import { loweringOf } from "../ladder/emit/lowering.ts";
import type { Type } from "../ladder/type.ts";
import { formOf, offlineWeights } from "./offline.ts";
import { GROUP, type Right, tileFor } from "./tiling.ts";

/** Weights of a matrix, n filled up to whole tiles with columns that are 0. */
export interface Matrix {
  readonly kind: "matrix";
  readonly right: Right;
  /** Planes: tiles of all k, one behind the other (weights.ts). Else (n, k) row-major. */
  readonly codes: Uint8Array;
  /** (groups, n) fp32; none of floats. */
  readonly scales: Uint8Array;
  /** The same; none where the form is not corrected. */
  readonly corrections: Uint8Array;
}

export interface NoMatrix {
  readonly kind: "none";
  /** "it is a plain f32 ..." */
  readonly reason: string;
}

/** The shape in which programs see a matrix of a type, whatever its bytes; or why there is none. */
export function rightOf(type: Type, n: number, k: number): Right | NoMatrix {
  if (k % GROUP !== 0)
    return { kind: "none", reason: `its rows have ${k} values, and the machine's are multiples of ${GROUP}` };
  const lowering = loweringOf(type);
  const form = lowering.kind === "float" ? floatsOf(lowering.format) : formOf(type);
  if (form.kind === "none") return form;
  if (form.kind !== "floats" && form.group !== null && form.group % GROUP !== 0)
    return {
      kind: "none",
      reason: `${form.group} of its values have one scale, and the machine takes multiples of ${GROUP}`,
    };
  const tile = tileFor(n, k, form);
  return { n: Math.ceil(n / tile) * tile, k, tile, form };
}

/** @param bytes n rows of the tensor's type */
export function matrixOf({ type, shape }: Pick<WeightTensor, "type" | "shape">, bytes: Uint8Array): Matrix | NoMatrix {
  const [n, k] = [shape[0] ?? 0, shape[1] ?? 0];
  const right = rightOf(type, n, k);
  if ("kind" in right) return right;
  const none = new Uint8Array(0);
  if (right.form.kind === "floats") {
    const codes = new Uint8Array(right.n * k * 2);
    codes.set(bytes);
    return { kind: "matrix", right, codes, scales: none, corrections: none };
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

function floatsOf(format: "f16" | "bf16" | "f32"): Extract<Right["form"], { kind: "floats" }> | NoMatrix {
  if (format === "f32")
    return { kind: "none", reason: "it is a plain f32, and the machine multiplies floats of 16 bits at most" };
  return { kind: "floats", element: format === "f16" ? "fp16" : "bf16" };
}
