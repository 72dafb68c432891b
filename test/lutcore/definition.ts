// What each computing instruction gives, as the table of instructions says it, in exact numbers one after the other: slow,
// and the definition that the machine is tested against. Fragments come and go as the bytes that memory holds of them.

import {
  add,
  elementValue,
  type Exact,
  exactNumber,
  fromNumber,
  multiply,
  negate,
  toNumber,
} from "../../src/ladder/exact.ts";
import { ELEMENT_BITS, type Element, PLANES, TABLE_ENTRIES, TABLE_K, type Weight } from "../../src/lutcore/fragment.ts";
import type { Instruction, Lmma, LmmaQuantised } from "../../src/lutcore/instruction.ts";
import { ONE, ZERO } from "../../src/lutcore/instruction.ts";
import type { Mode, Quirks } from "../../src/lutcore/mode.ts";
import { symmetrised } from "../../src/lutcore/weights.ts";
import { programWith } from "../ladder/program.ts";

const { elements } = programWith();
const FLOATS = { fp32: "F32", fp16: "F16", bf16: "BF16", e4m3: "E4M3FN", e5m2: "E5M2" } as const;
type Float = keyof typeof FLOATS;
const plusZero = fromNumber(0);

/** The nearest number of a float by whole numbers alone, ties to even; too large is infinity, or NaN in e4m3. */
export function nearest(exact: Exact, float: Float): number {
  const element = elements.get(FLOATS[float])!;
  if (element.kind !== "float") throw new Error(`${float} is no float`);
  const { exponent, mantissa, bias } = element;
  const most = float === "e4m3" ? 448 : (2 - 2 ** -mantissa) * 2 ** (2 ** exponent - 2 - bias);
  const beyond = float === "e4m3" ? NaN : Infinity;
  if (exact.kind === "nan") return NaN;
  const sign = exact.negative ? -1 : 1;
  if (exact.kind === "infinite") return sign * beyond;
  const bits = exact.significand === 0n ? 0 : exact.significand.toString(2).length;
  const unit = Math.max(bits - 1 + exact.exponent, 1 - bias) - mantissa;
  const drop = BigInt(unit - exact.exponent);
  let kept = drop <= 0n ? exact.significand << -drop : exact.significand >> drop;
  if (drop > 0n) {
    const rest = exact.significand - (kept << drop);
    const half = 1n << (drop - 1n);
    if (rest > half || (rest === half && (kept & 1n) === 1n)) kept += 1n;
  }
  const value = toNumber(exactNumber(kept, unit));
  return sign * (value > most ? beyond : value);
}

function isFloat(element: Element): element is Float {
  return element in FLOATS;
}

function codeAt(bytes: Uint8Array, element: Element, at: number): bigint {
  const size = ELEMENT_BITS[element] / 8;
  let code = 0n;
  for (let b = size - 1; b >= 0; b--) code = (code << 8n) | BigInt(bytes[at * size + b]!);
  return code;
}

/** The numbers of a fragment of one element, in order. */
export function exactNumbers(bytes: Uint8Array, element: Element): readonly Exact[] {
  const bits = ELEMENT_BITS[element];
  return Array.from({ length: (8 * bytes.length) / bits }, (_, at) => {
    const code = codeAt(bytes, element, at);
    if (isFloat(element)) return elementValue(elements.get(FLOATS[element])!, code, 0);
    return exactNumber(BigInt.asIntN(bits, code));
  });
}

/** Exact numbers rounded once to an element, as doubles; integers modulo 2^bits. */
function rounded(numbers: readonly Exact[], element: Element): readonly number[] {
  return numbers.map((x) => {
    if (isFloat(element)) return nearest(x, element);
    if (x.kind !== "finite") throw new Error(`no ${element} is ${x.kind}`);
    const whole = (x.negative ? -x.significand : x.significand) << BigInt(x.exponent);
    return Number(BigInt.asIntN(ELEMENT_BITS[element], whole));
  });
}

/** Rounds to an element and goes on with the exact number. */
function to(element: Element): (x: Exact) => Exact {
  return (x) => fromNumber(rounded([x], element)[0]!);
}

function power(x: Exact, p: number): Exact {
  return multiply(x, exactNumber(1n, p));
}

/** (n, k / 4, planes) patterns w3 w2 w1 w0 of a tile of weights. */
function patternsOf(
  bytes: Uint8Array,
  weight: Weight,
  n: number,
  k: number,
): readonly (readonly (readonly number[])[])[] {
  const planes = PLANES[weight].length;
  return Array.from({ length: n }, (_, column) =>
    Array.from({ length: k / TABLE_K }, (__, group) =>
      Array.from({ length: planes }, (___, plane) => {
        const byte = bytes[((group * planes + plane) * n + column) >> 1]!;
        return symmetrised(column % 2 === 0 ? byte & 15 : byte >> 4);
      }),
    ),
  );
}

/** The sum that a pattern stands for, of a table of 8: that with -a3, or the negative of the one that has all others. */
function entryOf(table: readonly Exact[], first: number, pattern: number): Exact {
  return pattern & 8 ? negate(table[first + (~pattern & 7)]!) : table[first + pattern]!;
}

type Inputs = Readonly<Record<string, Uint8Array>>;

/**
 * @param inputs the bytes of each fragment that is read, by its field
 * @returns the numbers of each fragment that is written, by its field
 */
export function define(i: Instruction, inputs: Inputs, mode: Mode): Readonly<Record<string, readonly number[]>> {
  const isIdeal = mode.kind === "ideal";
  /** The numbers of a field, or the constant that stands there. */
  const numbersOf = (field: string, element: Element, count: number): readonly Exact[] => {
    const register = (i as unknown as Readonly<Record<string, number>>)[field];
    if (register === ZERO || register === ONE)
      return Array.from({ length: count }, () => fromNumber(register === ONE ? 1 : 0));
    return exactNumbers(inputs[field]!, element);
  };
  const single = to("fp32");
  switch (i.kind) {
    case "lut": {
      const activations = exactNumbers(inputs["from"]!, i.activation);
      const sums = Array.from({ length: (i.m * i.k) / TABLE_K }, (_, group) =>
        Array.from({ length: TABLE_ENTRIES }, (__, index) => {
          const signed = [0, 1, 2, 3].map((j) => {
            const a = activations[group * TABLE_K + j]!;
            return (index >> j) & 1 ? a : negate(a);
          });
          const step = isIdeal || !isFloat(i.entry) ? (x: Exact): Exact => x : single;
          return signed.reduce((sum, a) => step(add(sum, a)));
        }),
      );
      return { to: rounded(sums.flat(), i.entry) };
    }
    case "lutq":
      return quantised(exactNumbers(inputs["from"]!, i.entry).map(single), i.share * TABLE_ENTRIES, 127);
    case "quant":
      return quantised(exactNumbers(inputs["from"]!, "fp32"), i.group, i.target === "int8" ? 127 : 32767);
    case "lmma":
      return { to: lookedUp(i, inputs, numbersOf("addend", i.accumulate, i.m * i.n), mode) };
    case "lmmaq":
      return { to: lookedUpQuantised(i, inputs, numbersOf("addend", "fp32", i.m * i.n), isIdeal) };
    case "mma": {
      const { m, n, k, accumulate } = i;
      const left = exactNumbers(inputs["left"]!, i.activation);
      const right = exactNumbers(inputs["right"]!, i.weight);
      const step = isIdeal || !isFloat(accumulate) ? (x: Exact): Exact => x : to(accumulate);
      const sums = numbersOf("addend", accumulate, m * n).map((start, at) => {
        const [row, column] = [Math.floor(at / n), at % n];
        let sum = start;
        for (let x = 0; x < k; x++) sum = step(add(sum, multiply(left[row * k + x]!, right[column * k + x]!)));
        return sum;
      });
      return { to: rounded(sums, i.out) };
    }
    case "asum": {
      const isWhole = !isFloat(i.activation);
      const activations = exactNumbers(inputs["from"]!, i.activation);
      const step = isIdeal || isWhole ? (x: Exact): Exact => x : single;
      const sums = numbersOf("addend", isWhole ? "int32" : "fp32", i.m).map((start, row) =>
        activations.slice(row * i.k, (row + 1) * i.k).reduce((sum, a) => step(add(sum, a)), start),
      );
      return { to: rounded(sums, isWhole ? "int32" : "fp32") };
    }
    case "sacc":
    case "zacc": {
      const { m, n } = i;
      const from = i.kind === "sacc" ? exactNumbers(inputs["from"]!, i.product) : exactNumbers(inputs["sums"]!, i.sum);
      const [rows, columns] = [numbersOf("byRow", "fp32", m), numbersOf("byColumn", "fp32", n)];
      const step = isIdeal ? (x: Exact): Exact => x : single;
      const sums = numbersOf("addend", "fp32", m * n).map((addend, at) => {
        const row = Math.floor(at / n);
        const x = from[i.kind === "sacc" ? at : row]!;
        const product = step(multiply(step(multiply(step(x), rows[row]!)), columns[at % n]!));
        return i.addend === ZERO ? product : add(addend, product);
      });
      return { to: rounded(sums, "fp32") };
    }
    case "clr":
      return { to: Array.from({ length: i.rows * i.columns }, () => 0) };
    case "cvt":
      return { to: rounded(exactNumbers(inputs["from"]!, i.source), i.target) };
    default:
      throw new Error(`${i.kind} computes nothing`);
  }
}

/** lutq and quant: the formulas are of fp32 and doubles already, so that doubles are their definition. */
function quantised(numbers: readonly Exact[], group: number, most: number): { to: number[]; scales: number[] } {
  const [codes, scales]: [number[], number[]] = [[], []];
  for (let first = 0; first < numbers.length; first += group) {
    const some = numbers.slice(first, first + group).map(toNumber);
    const largest = Math.max(...some.map(Math.abs));
    const inverse = nearest(fromNumber(most / largest), "fp32");
    if (!Number.isFinite(largest)) scales.push(NaN);
    else scales.push(Number.isFinite(inverse) ? nearest(fromNumber(largest / most), "fp32") : 0);
    for (const x of some) {
      if (!Number.isFinite(largest) || !Number.isFinite(inverse)) codes.push(0);
      else {
        const scaled = Math.fround(x * inverse);
        const low = Math.floor(scaled);
        const rest = scaled - low;
        codes.push(rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low);
      }
    }
  }
  return { to: codes.map((x) => x + 0), scales };
}

function lookedUp(i: Lmma, inputs: Inputs, addends: readonly Exact[], mode: Mode): readonly number[] {
  const { m, n, k, entry, accumulate } = i;
  const tables = exactNumbers(inputs["table"]!, entry);
  const patterns = patternsOf(inputs["weights"]!, i.weight, n, k);
  const groups = k / TABLE_K;
  const results = Array.from({ length: m * n }, (_, at) => {
    const [row, column] = [Math.floor(at / n), at % n];
    let sum = addends[at]!;
    if (mode.kind === "rtl" && isFloat(entry) && isFloat(accumulate)) {
      const words = Array.from({ length: groups * TABLE_ENTRIES }, (__, e) =>
        codeAt(inputs["table"]!, entry, row * groups * TABLE_ENTRIES + e),
      );
      return circuit(words, codeAtOrZero(inputs["addend"], accumulate, at), patterns[column]!, i, mode.quirks);
    }
    for (const [group, planes] of patterns[column]!.entries()) {
      for (const [plane, pattern] of planes.entries()) {
        const value = entryOf(tables, (row * groups + group) * TABLE_ENTRIES, pattern);
        const scaled = power(value, PLANES[i.weight][plane]!);
        const isStepwise = mode.kind !== "ideal" && isFloat(accumulate);
        sum = isStepwise ? to(accumulate)(add(sum, to("fp32")(scaled))) : add(sum, scaled);
      }
    }
    return sum;
  });
  return rounded(results, i.out);
}

function codeAtOrZero(bytes: Uint8Array | undefined, element: Element, at: number): bigint {
  return bytes === undefined ? 0n : codeAt(bytes, element, at);
}

function lookedUpQuantised(
  i: LmmaQuantised,
  inputs: Inputs,
  addends: readonly Exact[],
  isIdeal: boolean,
): readonly number[] {
  const { m, n, k, share } = i;
  const tables = exactNumbers(inputs["table"]!, "int8");
  const scales = exactNumbers(inputs["scales"]!, "fp32");
  const patterns = patternsOf(inputs["weights"]!, i.weight, n, k);
  const groups = k / TABLE_K;
  const step = isIdeal ? (x: Exact): Exact => x : to("fp32");
  const results = Array.from({ length: m * n }, (_, at) => {
    const [row, column] = [Math.floor(at / n), at % n];
    let sum = addends[at]!;
    for (let first = 0; first < groups; first += share) {
      let whole = plusZero;
      for (let group = first; group < first + share; group++) {
        for (const [plane, pattern] of patterns[column]![group]!.entries()) {
          const value = entryOf(tables, (row * groups + group) * TABLE_ENTRIES, pattern);
          whole = add(whole, power(value, PLANES[i.weight][plane]!));
        }
      }
      sum = step(add(sum, step(multiply(whole, scales[(row * groups + first) / share]!))));
    }
    return sum;
  });
  return rounded(results, i.out);
}

/**
 * One output of the public circuit: words in, additions one after the other, what each quirk says. The table holds the
 * sums with -a3; the circuit's own has those with -a0, which it reads by the bits of elements 1 to 3.
 */
function circuit(
  words: readonly bigint[],
  start: bigint,
  patterns: readonly (readonly number[])[],
  { weight, entry, accumulate }: Lmma,
  quirks: Quirks,
): Exact {
  const element = elements.get(FLOATS[entry as Float])!;
  if (element.kind !== "float") throw new Error(`${entry} is no float`);
  const fraction = BigInt(element.mantissa);
  const sign = 1n << (fraction + BigInt(element.exponent));
  const ones = (1n << BigInt(element.exponent)) - 1n;
  const own = accumulate as Float;
  const adder = quirks.narrowSums ? (entry as Float) : own;
  const adderElement = elements.get(FLOATS[adder])!;
  const least = adderElement.kind === "float" ? 2 ** (1 - adderElement.bias) : NaN;
  const flushed = (x: Exact): Exact => {
    const isTiny = quirks.flush && x.kind === "finite" && Math.abs(toNumber(x)) < least;
    return isTiny ? fromNumber(x.negative ? -0 : 0) : x;
  };
  /** NaN is the infinity of its sign on its way into the adder. */
  const operand = (code: bigint, float: Float): Exact => {
    const { bits } = elements.get(FLOATS[float])!;
    const x = elementValue(elements.get(FLOATS[float])!, code, 0);
    return quirks.flush && x.kind === "nan" ? { kind: "infinite", negative: code >> BigInt(bits - 1) === 1n } : x;
  };
  let sum = flushed(to(adder)(operand(start, own)));
  for (const [group, planes] of patterns.entries()) {
    for (const [plane, pattern] of planes.entries()) {
      const p = PLANES[weight][plane]!;
      const w0 = pattern & 1;
      const w3 = pattern >> 3;
      let word = words[group * TABLE_ENTRIES + (w3 ? ~pattern & 7 : pattern)]!;
      const isZero = (word & (sign - 1n)) === 0n;
      // Of a zero that the circuit's own table holds, only element 0 changes the sign; all else changes with element 3.
      const negates = quirks.firstSign && isZero ? w0 : w3;
      const field = (word >> fraction) & ones;
      const adds = quirks.exponentAdd && (field !== 0n || quirks.zeroEntries);
      if (adds) word = (word & ~(ones << fraction)) | (((field + BigInt(p)) & ones) << fraction);
      if (negates) word ^= sign;
      if (quirks.wordShift) {
        const before = PLANES[weight].at(plane - 1)!;
        word = (word << BigInt(before)) & (2n * sign - 1n);
      }
      const value = operand(word, entry as Float);
      const term = flushed(to("fp32")(adds ? value : power(value, p)));
      const exact = add(sum, term);
      sum = quirks.flush && exact.kind === "nan" ? fromNumber(Infinity) : flushed(to(adder)(exact));
    }
  }
  return sum;
}
