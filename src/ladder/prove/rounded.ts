// The reference of a type: its value as some decoder outside computes it, with roundings where that rounds.
// Not here: the value itself (exact.ts), which no rounding enters.

import { encode } from "../encode.ts";
import { checkPlace, elementValue, evaluate, type Exact } from "../exact.ts";
import type { Type } from "../type.ts";

/**
 * The value of element `i` of one block by the type's reference; null where it has none.
 * @throws RangeError as exactValue
 */
export function referenceValue(type: Type, block: Uint8Array, i: number): Exact | null {
  checkPlace(type, block, i);
  if (type.reference === null) return null;
  return evaluate(type.reference, block, i, (element, x) => elementValue(element, encode(element, x), 0));
}
