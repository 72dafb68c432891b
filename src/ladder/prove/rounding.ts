// Rounding: that the code which encode.ts gives a number is the nearest, ties to the even code, and beyond the largest
// number what the element declares. The other definition to compare with is here: boundaries in the middle between
// neighbours, found by search in a sorted list. Every source number of up to 16 bits is compared; of wider ones the
// numbers at and next to every boundary, between which a monotone function has nowhere to go wrong.

import { encode, encodeDouble } from "../encode.ts";
import { elementValue, fromNumber, toNumber } from "../exact.ts";
import type { Witness } from "./exactness.ts";
import { allows, LISTED_BITS, listedNumber } from "./form.ts";
import { numbersOf } from "../listed.ts";
import type { Element, Restriction } from "../type.ts";

export type Rounding =
  | { readonly kind: "nearest"; readonly method: string }
  /** All numbers and infinities of a wide source go to the nearest, and NaN alone has none to go to. */
  | { readonly kind: "no-nan"; readonly method: string; readonly witness: Witness }
  | { readonly kind: "wrong"; readonly witness: Witness }
  | { readonly kind: "open"; readonly reason: string };

/** The numbers of a target in order, and what is between them. */
interface Scale {
  readonly values: Float64Array;
  readonly codes: readonly number[];
  /** boundaries[k] lies between values[k] and values[k + 1]. */
  readonly boundaries: Float64Array;
  /** -0, NaN and infinities, as far as the target has them. */
  readonly special: readonly number[];
}

const decided = new WeakMap<Element, WeakMap<Element, Rounding>>();

/**
 * Whether the source's numbers, within the domain, go to the nearest of the target's.
 * @param by the target's code for each code of the source, where a claim names it; else that of encode
 */
export function nearestOf(
  from: Element,
  to: Element,
  by: ((code: number) => number) | null,
  domain: readonly Restriction[],
): Rounding {
  if (by !== null || domain.length > 0) return compared(from, to, by, domain);
  // Many formats are rounded by way of the same double.
  const known = decided.get(from) ?? new WeakMap<Element, Rounding>();
  decided.set(from, known);
  const found = known.get(to) ?? compared(from, to, null, []);
  known.set(to, found);
  return found;
}

function compared(
  from: Element,
  to: Element,
  by: ((code: number) => number) | null,
  domain: readonly Restriction[],
): Rounding {
  if ((to.kind === "table" && to.lanes > 1) || (from.kind === "table" && from.lanes > 1))
    return { kind: "open", reason: "a code of a table of tuples is no number" };
  if (to.bits > LISTED_BITS && by === null && viewOf(to) === SINGLE) return nearestSingle(from, to);
  if (to.bits > LISTED_BITS)
    return {
      kind: "open",
      reason: `${to.name} has ${to.bits} bits, and the numbers of a target are listed up to ${LISTED_BITS}`,
    };
  const scale = scaleOf(to);
  if (scale === null) return { kind: "open", reason: `a middle between two numbers of ${to.name} is no double` };
  const compare = (x: number, code: () => bigint): Witness | null => {
    const wanted = expected(x, to, scale);
    const chosen = by === null ? encoded(to, x) : by(Number(code()));
    const got = chosen === null ? null : listedNumber(to, chosen, 0);
    if (got !== null && Object.is(got, wanted)) return null;
    const value = fromNumber(x);
    return {
      at: 0,
      codes: [{ label: "code", code: code(), value }],
      block: null,
      value,
      together: [],
      instead: got === null ? null : fromNumber(got),
    };
  };
  if (from.bits <= LISTED_BITS) {
    let tried = 0;
    for (let code = 0; code < 2 ** from.bits; code++) {
      const x = listedNumber(from, code, 0);
      if (!domain.every((r) => allows(r, BigInt(code), x))) continue;
      tried++;
      const witness = compare(x, () => BigInt(code));
      if (witness !== null) return { kind: "wrong", witness };
    }
    return { kind: "nearest", method: `all ${tried} codes compared with the nearest of a sorted list` };
  }
  const view = viewOf(from);
  if (view === null)
    return {
      kind: "open",
      reason: `${from.name} is wider than ${LISTED_BITS} bits and neither IEEE's single nor its double`,
    };
  let tried = 0;
  let before: number | null = null;
  let lost: Witness | null = null;
  for (const x of edges(view, scale)) {
    if (before !== null && Object.is(x, before)) continue;
    const isNew = x !== before;
    before = x;
    if (!domain.every((r) => allows(r, view.code(x), x))) continue;
    // 0 and -0 are compared both, and counted as one number.
    if (isNew) tried++;
    const witness = compare(x, () => view.code(x));
    if (witness !== null && !Number.isNaN(x)) return { kind: "wrong", witness };
    lost ??= witness;
  }
  const argued = "between two of them rounding is monotone, with the same number at both ends";
  const method = `${tried} numbers at and next to every boundary compared; ${argued}`;
  return lost === null ? { kind: "nearest", method } : { kind: "no-nan", method, witness: lost };
}

/** The numbers of a wide float as the machine has them. */
interface View {
  /** The code of a number that is one of the float. */
  readonly code: (x: number) => bigint;
  /** The number nearest to x, and those below and above it. */
  readonly around: (x: number) => readonly number[];
}

const bytes = new DataView(new ArrayBuffer(8));

const VIEWS: Readonly<Record<string, View>> = {
  "8 23 127 ieee": viewBy(
    (x) => bytes.setFloat32(0, x),
    () => BigInt(bytes.getUint32(0)),
    (code) => bytes.setUint32(0, Number(code)),
    () => bytes.getFloat32(0),
  ),
  "11 52 1023 ieee": viewBy(
    (x) => bytes.setFloat64(0, x),
    () => bytes.getBigUint64(0),
    (code) => bytes.setBigUint64(0, code),
    () => bytes.getFloat64(0),
  ),
};

function viewBy(
  put: (x: number) => void,
  code: () => bigint,
  putCode: (code: bigint) => void,
  get: () => number,
): View {
  const codeOf = (x: number): bigint => {
    put(x);
    return code();
  };
  return {
    code: codeOf,
    around(x) {
      const middle = codeOf(x);
      // Codes ascend with the size of a number; the one below zero is that of the other sign.
      return [middle - 1n, middle, middle + 1n].map((near) => {
        if (near < 0n) return -0;
        putCode(near);
        return get();
      });
    },
  };
}

const SINGLE: View | undefined = VIEWS["8 23 127 ieee"];

/** The machine's own view of IEEE's single and double; null for other elements. */
function viewOf(element: Element): View | null {
  if (element.kind !== "float" || element.sign !== "yes" || element.subnormals !== "yes") return null;
  const { exponent, mantissa, bias, special } = element;
  return VIEWS[`${exponent} ${mantissa} ${bias} ${special}`] ?? null;
}

/** Doubles to F32: at and next to the middles at both ends of every power of two, where carries and subnormals are. */
function nearestSingle(from: Element, to: Element): Rounding {
  const view = viewOf(from);
  if (view === null || view === SINGLE)
    return { kind: "open", reason: `${from.name} is no double, and only those are rounded to ${to.name} here` };
  const ends = [0, 1, 2, 3, 2 ** 22 - 1, 2 ** 22, 2 ** 23 - 3, 2 ** 23 - 2, 2 ** 23 - 1];
  let tried = 0;
  for (let power = 0; power < 255; power++) {
    for (const end of ends) {
      const code = BigInt(power * 2 ** 23 + end);
      const low = toNumber(elementValue(to, code, 0));
      const high = power === 254 && end === 2 ** 23 - 1 ? 2 ** 128 : toNumber(elementValue(to, code + 1n, 0));
      for (const near of view.around((low + high) / 2)) {
        for (const x of [near, -near]) {
          tried++;
          const value = fromNumber(x);
          const instead = elementValue(to, encode(to, value), 0);
          if (Object.is(toNumber(instead), Math.fround(x))) continue;
          const codes = [{ label: "code", code: view.code(x), value }];
          return { kind: "wrong", witness: { at: 0, codes, block: null, value, together: [], instead } };
        }
      }
    }
  }
  const argued = "the rest is argued: a code and its rounding depend on the power of two by their exponent alone";
  return {
    kind: "nearest",
    method: `${tried} doubles at and next to boundaries of every power of two compared; ${argued}`,
  };
}

function encoded(to: Element, x: number): number | null {
  try {
    return Number(encodeDouble(to, x));
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

const scales = new WeakMap<Element, Scale | null>();

function scaleOf(element: Element): Scale | null {
  let scale = scales.get(element);
  if (scale === undefined) scales.set(element, (scale = sortedScale(element)));
  return scale;
}

function sortedScale(element: Element): Scale | null {
  const numbers = numbersOf(element);
  const hasZero = numbers.some((x) => Object.is(x, 0));
  const order = Array.from(numbers.keys())
    .filter((code) => Number.isFinite(numbers[code]!) && !(hasZero && Object.is(numbers[code], -0)))
    .toSorted((a, b) => numbers[a]! - numbers[b]! || a - b)
    .filter((code, k, list) => k === 0 || numbers[code] !== numbers[list[k - 1]!]);
  const values = Float64Array.from(order, (code) => numbers[code]!);
  const boundaries = new Float64Array(Math.max(0, values.length - 1));
  for (let k = 0; k < boundaries.length; k++) {
    const middle = boundaryOf(element, values[k]!, values[k + 1]!, order[k]!);
    if (middle === null) return null;
    boundaries[k] = middle;
  }
  const special = [-0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  return { values, codes: order, boundaries, special: special.filter((x) => numbers.some((y) => Object.is(x, y))) };
}

/** The middle of two neighbours; for posits what lies between them with one bit more, and zero is nobody's neighbour. */
function boundaryOf(element: Element, low: number, high: number, code: number): number | null {
  if (element.kind === "posit") {
    if (low === 0 || high === 0) return 0;
    return toNumber(elementValue({ ...element, bits: element.bits + 1 }, BigInt(2 * code + 1), 0));
  }
  const sum = low + high;
  return sum - low === high && sum - high === low ? sum / 2 : null;
}

/** The number that x rounds to; null where the target has nothing for it. */
function expected(x: number, element: Element, { values, codes, boundaries, special }: Scale): number | null {
  const hasNumber = (wanted: number): boolean => special.some((y) => Object.is(y, wanted));
  if (Number.isNaN(x)) return hasNumber(Number.NaN) ? Number.NaN : null;
  if (!Number.isFinite(x) && hasNumber(x)) return x;
  const last = values.length - 1;
  const overflow = element.kind === "float" ? element.overflow : "saturate";
  // What is below the least of a float without a sign is not too large for it.
  const isSigned = element.kind === "float" && element.sign === "yes";
  const beyond =
    x > values[last]!
      ? overflowsAt(values[last]!, values[last - 1], codes[last]!, x)
      : x < values[0]! &&
        isSigned &&
        overflowsAt(-values[0]!, values[1] === undefined ? undefined : -values[1], codes[0]!, -x);
  if (beyond && overflow !== "saturate") {
    const far = overflow === "nan" ? Number.NaN : x > 0 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
    if (hasNumber(far)) return far;
  }
  let [low, high] = [0, last];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x > boundaries[middle]! || (x === boundaries[middle] && codes[middle]! % 2 === 1)) low = middle + 1;
    else high = middle;
  }
  const isPosit = element.kind === "posit";
  const number = isPosit && values[low] === 0 && x !== 0 ? values[low + (x > 0 ? 1 : -1)]! : values[low]!;
  return number === 0 && (x < 0 || Object.is(x, -0)) && hasNumber(-0) ? -0 : number;
}

/** Whether x is at least as near to what would be the next number as to the largest. */
function overflowsAt(largest: number, before: number | undefined, code: number, x: number): boolean {
  if (x === Number.POSITIVE_INFINITY || before === undefined) return true;
  const middle = largest + (largest - before) / 2;
  return x > middle || (x === middle && code % 2 === 1);
}

/**
 * The numbers of a wide float at, just below and just above every boundary, at both ends, and the special ones:
 * ascending, the same ones behind each other, and NaN last.
 */
function edges(view: View, { values, boundaries }: Scale): Float64Array {
  const last = values.length - 1;
  const over = values[last]! + (values[last]! - (values[last - 1] ?? 0)) / 2;
  const under = values[0]! - ((values[1] ?? 0) - values[0]!) / 2;
  const infinity = Number.POSITIVE_INFINITY;
  const [largest] = view.around(infinity);
  const special = [0, -0, Number.NaN, largest!, -largest!, infinity, -infinity];
  const found = new Float64Array(3 * (boundaries.length + 2) + special.length);
  for (const [k, x] of boundaries.entries()) found.set(view.around(x), 3 * k);
  found.set([...view.around(over), ...view.around(under), ...special], 3 * boundaries.length);
  return found.toSorted();
}
