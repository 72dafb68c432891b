// Products by lookup whose float sums are rounded after each addition: lmma in the modes `paper` and `rtl`.
// For each column a chain of additions, K-groups rising, in each the planes from the lowest up; `rtl` differs in what
// it adds (slices of words instead of values) and in what its adder does. All columns take a step together: one loop adds,
// in fp32, and one rounds the bits of the sums to the adder's format. Rounding twice is rounding once, as fp32 has at
// least 2 p + 2 places for the p of fp16 and bf16 (Figueroa, "When is double rounding innocuous?", 1995).
// Not here: integers and `ideal` (lut.ts), what the quirks are and where they come from (mode.ts).

import type { Step } from "./dense.ts";
import { PLANES, REGISTER_BYTES, TABLE_ENTRIES, TABLE_K } from "./fragment.ts";
import { type Lmma, type Register, ZERO } from "./instruction.ts";
import type { Quirks } from "./mode.ts";
import { type Float, FLOATS, rounderOf } from "./number.ts";
import { type Registers, VALUES, writeNumbers } from "./registers.ts";

// Of one row, none kept from one instruction to the next: 64 K-groups of at most 4 planes, 256 columns, 8192 results.
const PATTERNS = 16;
const slices = new Float32Array(64 * 4 * PATTERNS);
const sums = new Float32Array(256);
const bits = new Int32Array(sums.buffer);
const results = new Float64Array(8192);
/** The bits in fp32 of each code of fp16. */
const HALF_BITS = new Int32Array(VALUES.fp16.buffer);
const SIGN = 0x80000000 | 0;
const INFINITY = 0x7f800000;
const NAN = 0x7fc00000;

/** Of tables of floats, which are summed in floats. */
interface FloatLmma extends Lmma {
  readonly entry: Exclude<Lmma["entry"], "int16" | "int32">;
  readonly accumulate: Exclude<Lmma["accumulate"], "int32">;
}

/** @param quirks null in `paper` */
export function stepInOrder(i: FloatLmma, quirks: Quirks | null): Step {
  const { m, n, k, weight, accumulate, out, to, weights, addend } = i;
  const perRow = (k / TABLE_K) * TABLE_ENTRIES;
  const planes = PLANES[weight];
  const count = (k / TABLE_K) * planes.length;
  const float = quirks?.narrowSums === true ? i.entry : accumulate;
  const enter = float === accumulate ? null : rounderOf(float);
  const adder = adderOf(float, quirks?.flush === true);
  const isPlain = float === "fp32" && !adder.flush;
  const slice = slicerOf(i, quirks, adder);
  return (registers) => {
    for (let row = 0; row < m; row++) {
      const at = row * perRow;
      for (let s = 0; s < count; s++) {
        const plane = s % planes.length;
        const from = at + Math.trunc(s / planes.length) * TABLE_ENTRIES;
        slice(registers, from, s * PATTERNS, plane);
      }
      takeSums(registers, accumulate, addend, row * n, n);
      if (enter !== null) enterSums(n, enter);
      if (adder.flush) flushSums(n, adder.normal);
      const nibbles = weights * REGISTER_BYTES;
      if (isPlain) addPlain(registers.bytes, nibbles, count, n);
      else addAndRound(registers.bytes, nibbles, count, n, adder);
      for (let column = 0; column < n; column++) results[row * n + column] = sums[column]!;
    }
    writeNumbers(registers, out, to, m * n, results);
  };
}

/** Of one K-group and one plane: from entries at `from`, what each nibble adds, to slices at `to`. */
type Slicer = (registers: Registers, from: number, to: number, plane: number) => void;

function slicerOf({ weight, entry, table }: FloatLmma, quirks: Quirks | null, adder: Adder): Slicer {
  const powers = PLANES[weight];
  const first = (table * REGISTER_BYTES) / (entry === "fp32" ? 4 : 2);
  const wordAt = entry === "fp32" ? singleWord : halfWord;
  const decode = entry === "fp32" ? decodeSingle : (word: number): number => VALUES[entry][word]!;
  if (quirks === null) {
    return (registers, from, to, plane) => {
      for (let index = 0; index < TABLE_ENTRIES; index++) {
        const value = decode(wordAt(registers, first + from + index)) * 2 ** powers[plane]!;
        slices[to + index] = value;
        slices[to + TABLE_ENTRIES + index] = -value;
      }
    };
  }
  const { exponentBits, fractionBits } = FLOATS[entry];
  const signBit = entry === "fp32" ? SIGN : 0x8000;
  const wordMask = entry === "fp32" ? -1 : 0xffff;
  const exponentMask = (2 ** exponentBits - 1) << fractionBits;
  const smallest = decodeSingle(adder.normal);
  const { exponentAdd, zeroEntries, firstSign, flush, wordShift } = quirks;
  return (registers, from, to, plane) => {
    const power = powers[plane]!;
    // In the cycle of the first plane the register still holds the last one, of the product before.
    const before = powers[(plane + powers.length - 1) % powers.length]!;
    for (let nibble = 0; nibble < PATTERNS; nibble++) {
      const entryWord = wordAt(registers, first + from + (nibble & 7));
      const exponent = entryWord & exponentMask;
      const adds = exponentAdd && (exponent !== 0 || zeroEntries);
      let word = adds ? (entryWord & ~exponentMask) | ((exponent + (power << fractionBits)) & exponentMask) : entryWord;
      const isZero = (entryWord & ~signBit) === 0;
      if (firstSign && isZero ? isFirstSet(nibble) : nibble >= 8) word ^= signBit;
      if (wordShift) word = (word << before) & wordMask;
      let value = decode(word);
      if (!adds) value *= 2 ** power;
      if (flush) {
        const isNegative = (word & signBit) !== 0;
        if ((word & exponentMask) === exponentMask) value = isNegative ? -Infinity : Infinity;
        else if (Math.abs(value) < smallest) value = isNegative ? -0 : 0;
      }
      slices[to + nibble] = value;
    }
  };
}

/** The weight bit of element 0: a nibble whose sign is 1 holds the others negated. */
function isFirstSet(nibble: number): boolean {
  return ((nibble >> 3) ^ (nibble & 1)) === 1;
}

function halfWord({ halves }: Registers, at: number): number {
  return halves[at]!;
}

function singleWord({ words }: Registers, at: number): number {
  return words[at]!;
}

const single = new Float32Array(1);
const singleBits = new Int32Array(single.buffer);

function decodeSingle(word: number): number {
  singleBits[0] = word;
  return single[0]!;
}

/** How sums are rounded, as bits of fp32: to even at bit `drop`, to infinity from `overflow` on, to 0 below `normal`. */
interface Adder {
  readonly drop: number;
  readonly overflow: number;
  /** The smallest normal number. */
  readonly normal: number;
  /** That subnormals are zeros and NaN is infinity. */
  readonly flush: boolean;
}

function adderOf(float: Float, flush: boolean): Adder {
  const { exponentBits, fractionBits } = FLOATS[float];
  const bias = 2 ** (exponentBits - 1) - 1;
  return { drop: 23 - fractionBits, overflow: (bias + 128) << 23, normal: (128 - bias) << 23, flush };
}

function takeSums(
  { words, halves }: Registers,
  element: FloatLmma["accumulate"],
  addend: Register,
  first: number,
  n: number,
): void {
  if (addend === ZERO) bits.fill(0, 0, n);
  else if (element === "fp32") {
    const from = (addend * REGISTER_BYTES) / 4 + first;
    for (let column = 0; column < n; column++) bits[column] = words[from + column]!;
  } else {
    const from = (addend * REGISTER_BYTES) / 2 + first;
    for (let column = 0; column < n; column++) bits[column] = HALF_BITS[halves[from + column]!]!;
  }
}

/** Into the adder's format where it is not the accumulator's; a NaN stays as it is, with its sign. */
function enterSums(n: number, enter: (x: number) => number): void {
  for (let column = 0; column < n; column++) {
    const sum = sums[column]!;
    if (!Number.isNaN(sum)) sums[column] = enter(sum);
  }
}

function flushSums(n: number, normal: number): void {
  for (let column = 0; column < n; column++) {
    const all = bits[column]!;
    const size = all & ~SIGN;
    if (size > INFINITY) bits[column] = (all & SIGN) | INFINITY;
    else if (size < normal) bits[column] = all & SIGN;
  }
}

/** In fp32 without more, where each addition rounds by itself. */
function addPlain(nibbles: Uint8Array, at: number, count: number, n: number): void {
  const pairs = n >> 1;
  for (let slice = 0; slice < count; slice++) {
    const from = at + slice * pairs;
    const first = slice * PATTERNS;
    for (let pair = 0; pair < pairs; pair++) {
      const byte = nibbles[from + pair]!;
      sums[2 * pair] = sums[2 * pair]! + slices[first + (byte & 15)]!;
      sums[2 * pair + 1] = sums[2 * pair + 1]! + slices[first + (byte >> 4)]!;
    }
  }
}

function addAndRound(nibbles: Uint8Array, at: number, count: number, n: number, adder: Adder): void {
  const { drop, overflow, flush } = adder;
  const pairs = n >> 1;
  const least = flush ? adder.normal : 0;
  const nan = flush ? INFINITY : NAN;
  // Half of the last place that is kept, less one, and one more where that place is odd: ties go to even. An adder of
  // fp32 keeps all places.
  const half = drop === 0 ? 0 : 2 ** (drop - 1) - 1;
  const odd = drop === 0 ? 0 : 1;
  const mask = -(2 ** drop);
  for (let slice = 0; slice < count; slice++) {
    const from = at + slice * pairs;
    const first = slice * PATTERNS;
    for (let pair = 0; pair < pairs; pair++) {
      const byte = nibbles[from + pair]!;
      sums[2 * pair] = sums[2 * pair]! + slices[first + (byte & 15)]!;
      sums[2 * pair + 1] = sums[2 * pair + 1]! + slices[first + (byte >> 4)]!;
    }
    for (let column = 0; column < n; column++) {
      const all = bits[column]!;
      const size = all & 0x7fffffff;
      if (size > INFINITY) {
        bits[column] = nan;
        continue;
      }
      let rounded = (size + half + ((size >>> drop) & odd)) & mask;
      if (rounded >= overflow) rounded = INFINITY;
      else if (rounded < least) rounded = 0;
      bits[column] = (all & SIGN) | rounded;
    }
  }
}
