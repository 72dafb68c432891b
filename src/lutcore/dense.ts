// What the machine computes without tables: ordinary products, sums of activations, scales, zero points, conversions.
// Each function makes an instruction ready once, and what it returns runs it on a warp's registers.
// Not here: tables and lookups (lut.ts). The order of roundings is that of the table in isa.ts; formulas of scales are
// those of the CPU kernels (src/cpu/native/kernels_scalar.cpp), so that both give the same integers.

import { ELEMENT_BITS, MAX_FRAGMENT_REGISTERS, REGISTER_BYTES } from "./fragment.ts";
import {
  type Clear,
  type Convert,
  type Mma,
  ONE,
  type Quantise,
  type Register,
  type Scale,
  type SumActivations,
  ZERO,
  type ZeroPoint,
} from "./instruction.ts";
import type { Mode } from "./mode.ts";
import { isFloat, lossOf, rounderOf, sumToOdd } from "./number.ts";
import { QUIET_NAN, readNumbers, type Registers, writeNumbers } from "./registers.ts";

/** Runs one instruction on a warp's registers. */
export type Step = (registers: Registers) => void;

// Numbers on their way: no fragment has more, and none is kept from one instruction to the next.
const MOST = MAX_FRAGMENT_REGISTERS * REGISTER_BYTES;
const lefts = new Float64Array(MOST);
const rights = new Float64Array(MOST);
const sums = new Float64Array(MOST);
const rowFactors = new Float64Array(MOST);
/** Factors of columns that are left out. */
const ONES: Float32Array = new Float32Array(MOST).fill(1);
/** More than the terms of one sum: 256 products and an addend. */
const terms = new Float64Array(512);

export function stepMma(i: Mma, { kind: mode }: Mode): Step {
  const { m, n, k, activation, weight, accumulate, out, to, left, right, addend } = i;
  if (accumulate === "int32") {
    return (registers) => {
      readNumbers(registers, "int32", addend, m * n, sums);
      addIntegers(registers.signedBytes, left * REGISTER_BYTES, right * REGISTER_BYTES, m, n, k);
      writeNumbers(registers, "int32", to, m * n, sums);
    };
  }
  const round = rounderOf(accumulate);
  const add = mode === "ideal" ? sumExactly : accumulate === "fp32" ? addSingles : addRounded;
  return (registers) => {
    readNumbers(registers, activation, left, m * k, lefts);
    readNumbers(registers, weight, right, n * k, rights);
    readNumbers(registers, accumulate, addend, m * n, sums);
    for (let row = 0, at = 0; row < m; row++) {
      for (let column = 0; column < n; column++, at++) sums[at] = add(sums[at]!, row * k, column * k, k, round);
    }
    writeNumbers(registers, out, to, m * n, sums);
  };
}

function addIntegers(numbers: Int8Array, left: number, right: number, m: number, n: number, k: number): void {
  for (let row = 0, at = 0; row < m; row++) {
    const a = left + row * k;
    for (let column = 0; column < n; column++, at++) {
      const b = right + column * k;
      // At most 256 products of 2^14, so that small integers hold the sum.
      let sum = 0;
      for (let x = 0; x < k; x++) sum = (sum + numbers[a + x]! * numbers[b + x]!) | 0;
      sums[at] = sums[at]! + sum;
    }
  }
}

function sumExactly(start: number, a: number, b: number, k: number): number {
  terms[0] = start;
  for (let x = 0; x < k; x++) terms[x + 1] = lefts[a + x]! * rights[b + x]!;
  return sumToOdd(terms, k + 1);
}

// A product of two floats of 16 bits is exact in a double, and so is its sum with an accumulator; or the two are so far
// apart in size that the double is on the same side of every number halfway between two accumulators as the exact sum.
function addSingles(start: number, a: number, b: number, k: number): number {
  let sum = start;
  for (let x = 0; x < k; x++) sum = Math.fround(sum + lefts[a + x]! * rights[b + x]!);
  return sum;
}

function addRounded(start: number, a: number, b: number, k: number, round: (x: number) => number): number {
  let sum = start;
  for (let x = 0; x < k; x++) sum = round(sum + lefts[a + x]! * rights[b + x]!);
  return sum;
}

export function stepSum(i: SumActivations, { kind: mode }: Mode): Step {
  const { m, k, activation, to, from, addend } = i;
  const isWhole = !isFloat(activation);
  const sum = isWhole ? "int32" : "fp32";
  return (registers) => {
    readNumbers(registers, activation, from, m * k, lefts);
    readNumbers(registers, sum, addend, m, sums);
    for (let row = 0; row < m; row++) {
      terms[0] = sums[row]!;
      for (let x = 0; x < k; x++) terms[x + 1] = lefts[row * k + x]!;
      sums[row] = isWhole || mode === "ideal" ? sumToOdd(terms, k + 1) : sumSingles(terms, k + 1);
    }
    writeNumbers(registers, sum, to, m, sums);
  };
}

function sumSingles(numbers: Float64Array, count: number): number {
  let sum = numbers[0]!;
  for (let x = 1; x < count; x++) sum = Math.fround(sum + numbers[x]!);
  return sum;
}

/** from * byRow * byColumn + addend, of a number for each place (sacc) or for each row (zacc). */
export function stepScale(i: Scale | ZeroPoint, { kind: mode }: Mode): Step {
  const { m, n, to, byRow, byColumn, addend } = i;
  const scaleRow = mode === "ideal" ? scaleRowExactly : scaleRowSingles;
  const wordOf = (register: Register): number => (register * REGISTER_BYTES) / 4;
  return (registers) => {
    const { singles, words } = registers;
    let numbers: ScaledRow["numbers"] = lefts;
    let from = 0;
    if (i.kind === "zacc") {
      readNumbers(registers, i.sum, i.sums, m, sums);
      for (let r = 0; r < m; r++) lefts.fill(sums[r]!, r * n, (r + 1) * n);
    } else if (i.product === "int32" || i.product === "fp32") {
      // Most are of these, and are read where they are.
      numbers = i.product === "int32" ? words : singles;
      from = wordOf(i.from);
    } else readNumbers(registers, i.product, i.from, m * n, lefts);
    readNumbers(registers, "fp32", byRow, m, rowFactors);
    const [columns, column] = byColumn === ONE ? [ONES, 0] : [singles, wordOf(byColumn)];
    const row: ScaledRow = { numbers, columns, column, singles, words, n, adds: addend !== ZERO };
    for (let r = 0; r < m; r++) scaleRow(row, from + r * n, rowFactors[r]!, wordOf(addend) + r * n, wordOf(to) + r * n);
  };
}

/** Where the rows of a stepScale are; factors of columns from `column` on. */
interface ScaledRow {
  readonly numbers: Int32Array | Float32Array | Float64Array;
  readonly columns: Float32Array;
  readonly column: number;
  readonly singles: Float32Array;
  readonly words: Int32Array;
  readonly n: number;
  readonly adds: boolean;
}

/** Four at a time: a conversion waits for the one before it in the same register, and so four wait beside each other. */
function scaleRowSingles(row: ScaledRow, first: number, factor: number, addend: number, to: number): void {
  const { numbers, columns, column, n } = row;
  for (let i = 0; i < n; i += 4) {
    const a = scaleSingle(numbers[first + i]!, factor, columns[column + i]!);
    const b = scaleSingle(numbers[first + i + 1]!, factor, columns[column + i + 1]!);
    const c = scaleSingle(numbers[first + i + 2]!, factor, columns[column + i + 2]!);
    const d = scaleSingle(numbers[first + i + 3]!, factor, columns[column + i + 3]!);
    addSingle(row, addend + i, a, to + i);
    addSingle(row, addend + i + 1, b, to + i + 1);
    addSingle(row, addend + i + 2, c, to + i + 2);
    addSingle(row, addend + i + 3, d, to + i + 3);
  }
}

// A factor of 1 changes nothing, so that one left out needs no case of its own; an addend of 0 would change -0.
function scaleSingle(x: number, byRow: number, byColumn: number): number {
  return Math.fround(Math.fround(Math.fround(x) * byRow) * byColumn);
}

function addSingle({ singles, words, adds }: ScaledRow, addend: number, x: number, to: number): void {
  const sum = adds ? Math.fround(singles[addend]! + x) : x;
  singles[to] = sum;
  if (Number.isNaN(sum)) words[to] = QUIET_NAN;
}

function scaleRowExactly(row: ScaledRow, first: number, factor: number, addend: number, to: number): void {
  const { numbers, columns, column, singles, words, n, adds } = row;
  for (let i = 0; i < n; i++) {
    const sum = scaleExactly(numbers[first + i]!, factor, columns[column + i]!, adds ? singles[addend + i]! : 0, adds);
    singles[to + i] = sum;
    if (Number.isNaN(sum)) words[to + i] = QUIET_NAN;
  }
}

function scaleExactly(x: number, byRow: number, byColumn: number, addend: number, adds: boolean): number {
  const first = x * byRow;
  const product = first * byColumn;
  // Infinities and NaN lose nothing, and a zero keeps its sign.
  if (!Number.isFinite(product) || product === 0) return adds ? addend + product : product;
  terms[0] = product;
  terms[1] = lossOf(first, byColumn, product);
  // Of 31 bits times 24 a double loses at most 2, so that their product with a factor is exact.
  terms[2] = lossOf(x, byRow, first) * byColumn;
  terms[3] = adds ? addend : -0;
  return sumToOdd(terms, 4);
}

export function stepClear({ rows, columns, element, to }: Clear): Step {
  const first = to * REGISTER_BYTES;
  const behind = first + (rows * columns * ELEMENT_BITS[element]) / 8;
  return ({ bytes }) => {
    bytes.fill(0, first, behind);
  };
}

export function stepConvert(i: Convert): Step {
  const { rows, columns, source, target, to, from } = i;
  const count = rows * columns;
  return (registers) => {
    readNumbers(registers, source, from, count, lefts);
    writeNumbers(registers, target, to, count, lefts);
  };
}

export function stepQuantise(i: Quantise): Step {
  const { rows, columns, target, group, to, scales, from } = i;
  const most = 2 ** (ELEMENT_BITS[target] - 1) - 1;
  const count = rows * columns;
  return (registers) => {
    readNumbers(registers, "fp32", from, count, lefts);
    for (let g = 0; g < count / group; g++) rowFactors[g] = quantise(lefts, g * group, group, most);
    writeNumbers(registers, target, to, count, lefts);
    writeNumbers(registers, "fp32", scales, count / group, rowFactors);
  };
}

/**
 * Numbers of fp32 to whole numbers from -most to most, in place: x to fp32(x * fp32(most / L)) to the nearest, ties to
 * even, L being the largest |x|.
 * @returns the scale, fp32(L / most): 0, as are the numbers, where L is 0 or so small that its inverse is infinite; NaN,
 * the numbers being 0, where one is not finite
 */
export function quantise(numbers: Float64Array, first: number, count: number, most: number): number {
  let largest = 0;
  for (let i = first; i < first + count; i++) largest = Math.max(largest, Math.abs(numbers[i]!));
  const inverse = Math.fround(most / largest);
  if (!Number.isFinite(largest) || !Number.isFinite(inverse)) {
    numbers.fill(0, first, first + count);
    return Number.isFinite(largest) ? 0 : NaN;
  }
  // Adding 1.5 * 2^52 leaves a double no place below 1, so that the addition rounds to a whole number.
  const anchor = 1.5 * 2 ** 52;
  for (let i = first; i < first + count; i++) numbers[i] = Math.fround(numbers[i]! * inverse) + anchor - anchor;
  return Math.fround(largest / most);
}
