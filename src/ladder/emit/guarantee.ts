// What computing a type's value in a precision keeps: how often it may round, found by windows over the declared
// expression, operation by operation. A window that fits is a proof; one that does not counts as a rounding.
// Not here: the windows themselves (window.ts), proofs of claims (prove.ts), which hold for formats and not for texts.

import { type Exact, exactNumber } from "../exact.ts";
import { type Choices, choicesOf, type Leaf } from "../prove/form.ts";
import { viewOf } from "./rewrite.ts";
import type { Element, Type, Value } from "../type.ts";
import { DOUBLE, leafWindow, misfit, type Target, targetOf, treeWindow, type Window } from "../prove/window.ts";

/** What a decode computed operation by operation in a precision gives. */
export interface Guarantee {
  readonly precision: "f32" | "f64";
  /** exact: the very number. once: the exact value rounded to nearest, ties to even. rounded: several operations round. */
  readonly kind: "exact" | "once" | "rounded";
  /** Operations of one value that may round, at most. */
  readonly roundings: number;
  /** Whether a subnormal of the precision may arise, which some machines take as zero. */
  readonly subnormals: boolean;
  /** Whether NaN or infinity may arise, which WGSL may assume away. */
  readonly special: boolean;
}

const SINGLE_ELEMENT: Element = {
  kind: "float",
  name: "single",
  bits: 32,
  exponent: 8,
  mantissa: 23,
  bias: 127,
  special: "ieee",
  sign: "yes",
  subnormals: "yes",
  overflow: "infinity",
};
const SINGLE: Target = targetOf(SINGLE_ELEMENT)!;

/** A window, and the roundings on the way to it: of the last operation, and of those before it. */
interface Traced {
  readonly window: Window;
  readonly last: number;
  readonly before: number;
}

/** What the value of a type keeps when it is computed in a precision; NaN payloads do not count. */
export function guaranteeOf(type: Type, precision: "f32" | "f64"): Guarantee {
  const target = precision === "f32" ? SINGLE : DOUBLE;
  let [subnormals, special] = [false, false];
  /** The window of what an operation gives, and whether it rounds: then any number of the precision may come of it. */
  const settle = (window: Window, before: number, extra = 1): Traced => {
    special ||= window.nan || window.infinite;
    const rounds = misfit({ ...window, nan: false, infinite: false }, target) !== null;
    subnormals ||= misfit(rounds ? { ...window, odd: 1n } : window, target, true) !== null;
    if (!rounds) return { window, last: 0, before };
    special ||= overflows(window, target);
    const minusZero = window.minusZero || window.least < 0n;
    return { window: { ...anyOf(target), minusZero, nan: window.nan }, last: extra, before };
  };
  const element = (of: Element, lane: number | null): Traced => {
    const lanes = of.kind === "table" && lane === null ? Array.from({ length: of.lanes }, (_, l) => l) : [lane ?? 0];
    const windows = lanes.map((l) => {
      const leaf: Leaf = { label: "code", field: null, bits: of.bits, element: of, lane: l, places: null };
      return leafWindow(leaf, isRegular(of) ? UNLISTED : choicesOf(leaf, []), []);
    });
    // Two halves of an integer are converted and added where a double would take it whole; a float that does not fit
    // is a rounded fraction times a rounded unit.
    const inHalves = of.kind === "int" && of.bits > 32 && precision === "f32";
    const isTakenApart = of.kind === "float" && viewOf(of) === null;
    return settle(windows.reduce(union), 0, inHalves ? 3 : isTakenApart && precision === "f64" ? 2 : 1);
  };
  const unsigned = (bits: number): Traced => element({ kind: "int", name: `${bits} bits`, bits, flip: 0, zero: 0 }, 0);
  const visit = (value: Value): Traced => {
    switch (value.kind) {
      case "constant": {
        const exact: Exact = exactNumber(value.significand, value.exponent);
        return settle(treeWindow({ kind: "constant", value: exact }, []), 0);
      }
      case "element":
        return element(value.field.element, 0);
      case "code":
        return unsigned(value.code.bits.width);
      case "apply":
        return element(value.element, value.lane.kind === "constant" ? value.lane.value : null);
      case "negate": {
        const operand = visit(value.operand);
        const negated = treeWindow({ kind: "negate", operand: { kind: "leaf", leaf: 0 } }, [operand.window]);
        return { ...operand, window: negated };
      }
      case "choose": {
        const [yes, no] = [visit(value.yes), visit(value.no)];
        const all = (t: Traced): number => t.last + t.before;
        const worse = all(yes) > all(no) || (all(yes) === all(no) && yes.before > no.before) ? yes : no;
        return { ...worse, window: union(yes.window, no.window) };
      }
      case "binary": {
        const [left, right] = [visit(value.left), visit(value.right)];
        const before = left.last + left.before + right.last + right.before;
        const leaf = (n: number) => ({ kind: "leaf", leaf: n }) as const;
        const tree = { kind: "binary", operator: value.operator, left: leaf(0), right: leaf(1) } as const;
        return settle(treeWindow(tree, [left.window, right.window]), before);
      }
      case "round":
        throw new Error("a value is exact; round stands in a reference only");
    }
  };
  const { last, before } = visit(type.value);
  const roundings = last + before;
  const kind = roundings === 0 ? "exact" : before === 0 && last === 1 ? "once" : "rounded";
  return { precision, kind, roundings, subnormals, special };
}

/** What the guarantee says, for a person. */
export function guaranteeText({ precision, kind, roundings, subnormals, special }: Guarantee): string {
  const kept =
    kind === "exact"
      ? `exact in ${precision}`
      : kind === "once"
        ? `the nearest ${precision}`
        : `${roundings} roundings in ${precision}`;
  const arise = [...(subnormals ? ["subnormals"] : []), ...(special ? ["NaN or infinity"] : [])];
  return arise.length === 0 ? kept : `${kept}; ${arise.join(", and ")} may arise`;
}

/** No list: the window follows from the parameters of the element. */
const UNLISTED: Choices = {
  codes: [],
  numbers: new Float64Array(0),
  complete: false,
  exact() {
    throw new Error("there is no list to choose from");
  },
};

/** Whether all numbers between the least and the greatest are there, with the places that the parameters say. */
function isRegular(element: Element): boolean {
  if (element.kind === "float") return element.subnormals === "yes" && element.sign !== "ignored";
  return element.kind === "int";
}

/** Any finite number of a precision. */
function anyOf({ element, limits }: Target): Window {
  const { low, most } = limits!;
  const odd = element.kind === "float" ? (1n << BigInt(element.mantissa + 1)) - 1n : most;
  const flags = { zero: true, minusZero: true, nan: false, infinite: true };
  return { low, least: -most, most, odd, tiny: 1n, ...flags };
}

function overflows(window: Window, { limits }: Target): boolean {
  const size = -window.least > window.most ? -window.least : window.most;
  const up = window.low - limits!.low;
  return (up >= 0 ? size << BigInt(up) : size >> BigInt(-up)) >= limits!.most;
}

/** A window that holds both. */
function union(a: Window, b: Window): Window {
  const low = Math.min(a.low, b.low);
  const scaled = (x: bigint, of: Window): bigint => x << BigInt(of.low - low);
  const least = [scaled(a.least, a), scaled(b.least, b)].reduce((x, y) => (x < y ? x : y));
  const most = [scaled(a.most, a), scaled(b.most, b)].reduce((x, y) => (x > y ? x : y));
  const tinies = [scaled(a.tiny, a), scaled(b.tiny, b)].filter((x) => x > 0n);
  return {
    low,
    least,
    most,
    odd: a.odd > b.odd ? a.odd : b.odd,
    tiny: tinies.reduce((x, y) => (x < y ? x : y), tinies[0] ?? 0n),
    zero: a.zero || b.zero,
    minusZero: a.minusZero || b.minusZero,
    nan: a.nan || b.nan,
    infinite: a.infinite || b.infinite,
  };
}
