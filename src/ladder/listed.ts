// The numbers of a small element as a list, worked out once by the definition.
// Not here: what a code stands for (exact.ts), the numbers that a domain leaves (form.ts).
// A list is made when it is first asked for, and kept as long as the element is.

import { elementValue, toNumber } from "./exact.ts";
import type { Element } from "./type.ts";

const lists = new WeakMap<Element, Float64Array>();

/** All values of an element of at most 16 bits: that of `code` at `lane` is the entry code * lanes + lane. */
export function numbersOf(element: Element): Float64Array {
  const known = lists.get(element);
  if (known !== undefined) return known;
  const lanes = element.kind === "table" ? element.lanes : 1;
  const list = Float64Array.from({ length: lanes * 2 ** element.bits }, (_, k) =>
    toNumber(elementValue(element, BigInt(Math.floor(k / lanes)), k % lanes)),
  );
  lists.set(element, list);
  return list;
}
