// One side of a claim as what the prover works on: its name, a type that stands for it, the forms of its values.
// Not here: what is proved of it (prove.ts).

import { elementSource, type Source, typeSource } from "./exactness.ts";
import { bindTensor, smallestShape } from "../tensor.ts";
import type { Element, Endpoint, Type } from "../type.ts";

/** The name of one side: `Q4_0`, `I2_S.arm_64`. */
export function endpointName(end: Endpoint): string {
  if (end.kind === "element") return end.element.name;
  if (end.kind === "type") return end.type.name;
  return end.storage === "" ? end.tensor.name : `${end.tensor.name}.${end.storage}`;
}

/** What is converted; null where the data decide how a value is computed. */
export function sourceOf(end: Endpoint): Source | null {
  if (end.kind === "element") return elementSource(end.element);
  const type = typeOf(end);
  const source = type && typeSource(type);
  return source && { ...source, name: endpointName(end) };
}

/**
 * A type for the endpoint: an element as a block of one value, a tensor for the smallest shape that it allows, since its
 * formulas are the same in all; null where it allows none.
 */
export function typeOf(end: Endpoint): Type | null {
  if (end.kind === "type") return end.type;
  if (end.kind === "element") return elementType(end.element);
  const shape = smallestShape(end.tensor, end.storage);
  const binding = shape && bindTensor(end.tensor, end.storage, shape.rows, shape.columns);
  return binding?.kind === "bound" ? binding.type : null;
}

function elementType(element: Element): Type {
  const field = { name: "code", element, count: 1, bit: 0 };
  const value = { kind: "element", field, index: { kind: "constant", value: 0 } } as const;
  const blockBytes = Math.ceil(element.bits / 8);
  return { name: element.name, blockSize: 1, blockBytes, ids: new Map(), fields: [field], value, reference: null };
}
