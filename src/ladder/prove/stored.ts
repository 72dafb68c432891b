// A matrix in some format as one string of bits: blocks one behind the other, or a tensor bound to a shape; and the shapes
// in which two formats can be compared. Not here: the comparison (embedding.ts, absence.ts).

import { lcm } from "../divisor.ts";
import { type Form, formAt } from "./form.ts";
import { bindTensor, smallestShape } from "../tensor.ts";
import type { Endpoint, Type } from "../type.ts";

/** A matrix in one format: blocks one behind the other, or a tensor bound to the shape. */
export interface Stored {
  readonly name: string;
  readonly type: Type;
  readonly bits: number;
}

export interface Shape {
  readonly rows: number;
  readonly columns: number;
}

/** The smallest shape for both and some of its multiples; one row of whole blocks where neither is a tensor. */
export function shapesOf(from: Endpoint, to: Endpoint): readonly Shape[] {
  let [rows, columns] = [1, 1];
  for (const end of [from, to]) {
    const own = end.kind === "tensor" ? smallestShape(end.tensor, end.storage) : { rows: 1, columns: sizeOf(end) };
    if (own === null) return [];
    [rows, columns] = [lcm(rows, own.rows), lcm(columns, own.columns)];
  }
  if (from.kind !== "tensor" && to.kind !== "tensor") return [{ rows, columns }];
  return [
    [1, 1],
    [2, 1],
    [1, 2],
    [3, 5],
  ].map(([r, c]) => ({ rows: rows * r!, columns: columns * c! }));
}

function sizeOf(end: Endpoint): number {
  return end.kind === "type" ? end.type.blockSize : 1;
}

/** A matrix of the shape; null where the tensor does not allow it. */
export function storedIn(end: Endpoint, { rows, columns }: Shape): Stored | null {
  if (end.kind === "type") {
    const { type } = end;
    return { name: type.name, type, bits: ((rows * columns) / type.blockSize) * type.blockBytes * 8 };
  }
  if (end.kind === "element") throw new Error(`${end.element.name} is an element, and no format of blocks`);
  const binding = bindTensor(end.tensor, end.storage, rows, columns);
  if (binding.kind === "refused") return null;
  const { type } = binding;
  return {
    name: end.storage === "" ? end.tensor.name : `${end.tensor.name}.${end.storage}`,
    type,
    bits: type.blockBytes * 8,
  };
}

/** The form of value i of the matrix, its bits counted from the first block on. */
export function placed({ type }: Stored, i: number): Form | null {
  const form = formAt(type, i % type.blockSize);
  const start = Math.floor(i / type.blockSize) * type.blockBytes * 8;
  if (form === null || start === 0) return form;
  const leaves = form.leaves.map((leaf) => ({
    ...leaf,
    places: leaf.places && leaf.places.map((place) => place + start),
  }));
  return { ...form, leaves };
}
