// Arithmetic by tables: the sums of four activations, their quantisation, and products that look them up, plane by plane.
// A product goes through slices, of one K-group and one plane: the 16 values that a nibble of weights can stand for are made
// once from the 8 entries of a table and then looked up for all columns.
// Not here: products without tables (dense.ts), how weights become nibbles (weights.ts).
// LUT Tensor Core (ISCA'25), equations 4 to 6; mode.ts says what the public circuit does otherwise.

import { quantise, type Step } from "./dense.ts";
import { PLANES, REGISTER_BYTES, TABLE_ENTRIES, TABLE_K, type Weight } from "./fragment.ts";
import { type Lmma, type LmmaQuantised, type Precompute, type QuantiseTable, ZERO } from "./instruction.ts";
import { stepInOrder } from "./adder.ts";
import type { Mode } from "./mode.ts";
import { isFloat, sumToOdd } from "./number.ts";
import { readNumbers, writeNumbers } from "./registers.ts";

// Numbers on their way, none kept from one instruction to the next. The largest fragments have 8192 numbers, a row of
// tables 64 K-groups of at most 4 planes, a row of sums 256 columns.
const MOST_NUMBERS = 8192;
const MOST_TABLES = 64;
const MOST_SLICES: number = MOST_TABLES * 4;
const MOST_COLUMNS = 256;
const PATTERNS = 16;
const entries = new Float64Array(MOST_NUMBERS);
const results = new Float64Array(MOST_NUMBERS);
const scales = new Float64Array(MOST_NUMBERS);
const terms = new Float64Array(MOST_SLICES + 1);
const wholePatterns = new Int32Array(MOST_TABLES * PATTERNS);
const exactSlices = new Float64Array(MOST_SLICES * PATTERNS);
const wholeSums = new Int32Array(MOST_COLUMNS);
const scaledSums = new Float64Array(64 * MOST_COLUMNS);

export function stepPrecompute(i: Precompute, { kind: mode }: Mode): Step {
  const { m, k, activation, entry, to, from } = i;
  const groups = (m * k) / TABLE_K;
  const sum = mode === "ideal" ? (count: number): number => sumToOdd(terms, count) : sumSingles;
  // Sums of four int16 are exact in 32 bits but not in fp32.
  const isWhole = !isFloat(entry);
  return (registers) => {
    readNumbers(registers, activation, from, m * k, results);
    for (let group = 0; group < groups; group++) {
      for (let index = 0; index < TABLE_ENTRIES; index++) {
        for (let j = 0; j < TABLE_K; j++) {
          const a = results[group * TABLE_K + j]!;
          terms[j] = ((index >> j) & 1) === 1 ? a : -a;
        }
        const at = group * TABLE_ENTRIES + index;
        entries[at] = isWhole ? terms[0]! + terms[1]! + terms[2]! + terms[3]! : sum(TABLE_K);
      }
    }
    writeNumbers(registers, entry, to, groups * TABLE_ENTRIES, entries);
  };
}

function sumSingles(count: number): number {
  let sum = terms[0]!;
  for (let j = 1; j < count; j++) sum = Math.fround(sum + terms[j]!);
  return sum;
}

export function stepQuantiseTable(i: QuantiseTable): Step {
  const { m, k, entry, share, to, from } = i;
  const count = (m * k * TABLE_ENTRIES) / TABLE_K;
  const together = share * TABLE_ENTRIES;
  return (registers) => {
    readNumbers(registers, entry, from, count, entries);
    for (let x = 0; x < count; x++) entries[x] = Math.fround(entries[x]!);
    for (let g = 0; g < count / together; g++) scales[g] = quantise(entries, g * together, together, 127);
    writeNumbers(registers, "int8", to, count, entries);
    writeNumbers(registers, "fp32", i.scales, count / together, scales);
  };
}

export function stepLmma(i: Lmma, mode: Mode): Step {
  const { entry, accumulate } = i;
  if (entry === "int16" || entry === "int32" || accumulate === "int32") return stepWhole(i);
  if (mode.kind === "ideal") return stepExact(i);
  return stepInOrder({ ...i, entry, accumulate }, mode.kind === "rtl" ? mode.quirks : null);
}

/** Of all K-groups of a row: K-groups rising, in each the planes in their order. */
interface Slices {
  readonly planes: number;
  readonly powers: Int32Array;
  /** Where the patterns of each slice's table begin. */
  readonly patterns: Int32Array;
}

function slicesOf(weight: Weight, k: number): Slices {
  const planes = PLANES[weight].length;
  const powers = Array.from({ length: k / TABLE_K }, () => PLANES[weight]).flat();
  const patterns = Int32Array.from(powers, (_, slice) => Math.trunc(slice / planes) * PATTERNS);
  return { planes, powers: Int32Array.from(powers), patterns };
}

/** Integers: the same in all modes, modulo 2^32. */
function stepWhole({ m, n, k, weight, entry, to, table, weights, addend }: Lmma): Step {
  const slices = slicesOf(weight, k);
  const perRow = (k / TABLE_K) * TABLE_ENTRIES;
  const [first, start] = [(to * REGISTER_BYTES) / 4, (addend * REGISTER_BYTES) / 4];
  return (registers) => {
    const { words } = registers;
    readNumbers(registers, entry, table, m * perRow, entries);
    for (let row = 0; row < m; row++) {
      expandWhole(row * perRow, perRow);
      if (addend === ZERO) wholeSums.fill(0, 0, n);
      else for (let column = 0; column < n; column++) wholeSums[column] = words[start + row * n + column]!;
      addWhole(registers.bytes, weights * REGISTER_BYTES, slices, n);
      for (let column = 0; column < n; column++) words[first + row * n + column] = wholeSums[column]!;
    }
  };
}

/** What each nibble stands for in each of the tables at `first`: bits 0 to 2 say which entry, bit 3 that it is negated. */
function expandWhole(first: number, count: number): void {
  for (let at = 0, to = 0; at < count; at += TABLE_ENTRIES, to += PATTERNS) {
    for (let index = 0; index < TABLE_ENTRIES; index++) {
      const value = entries[first + at + index]!;
      wholePatterns[to + index] = value;
      wholePatterns[to + TABLE_ENTRIES + index] = -value;
    }
  }
}

/** Adds what all planes look up to the sums of n columns; each slice has n nibbles, even columns in the low halves. */
function addWhole(nibbles: Uint8Array, at: number, { powers, patterns }: Slices, n: number): void {
  const pairs = n >> 1;
  const count = powers.length;
  let slice = 0;
  // Four slices at a time, so that sums are taken up and put down a quarter as often; no plane count leaves a rest but of
  // tables whose number times planes is no multiple of four.
  for (; slice + 4 <= count; slice += 4) {
    const from = at + slice * pairs;
    const [ta, tb, tc, td] = [patterns[slice]!, patterns[slice + 1]!, patterns[slice + 2]!, patterns[slice + 3]!];
    const [pa, pb, pc, pd] = [powers[slice]!, powers[slice + 1]!, powers[slice + 2]!, powers[slice + 3]!];
    for (let pair = 0; pair < pairs; pair++) {
      const a = nibbles[from + pair]!;
      const b = nibbles[from + pair + pairs]!;
      const c = nibbles[from + pair + 2 * pairs]!;
      const d = nibbles[from + pair + 3 * pairs]!;
      wholeSums[2 * pair] =
        wholeSums[2 * pair]! +
        (wholePatterns[ta + (a & 15)]! << pa) +
        (wholePatterns[tb + (b & 15)]! << pb) +
        (wholePatterns[tc + (c & 15)]! << pc) +
        (wholePatterns[td + (d & 15)]! << pd);
      wholeSums[2 * pair + 1] =
        wholeSums[2 * pair + 1]! +
        (wholePatterns[ta + (a >> 4)]! << pa) +
        (wholePatterns[tb + (b >> 4)]! << pb) +
        (wholePatterns[tc + (c >> 4)]! << pc) +
        (wholePatterns[td + (d >> 4)]! << pd);
    }
  }
  for (; slice < count; slice++) {
    const from = at + slice * pairs;
    const table = patterns[slice]!;
    const power = powers[slice]!;
    for (let pair = 0; pair < pairs; pair++) {
      const a = nibbles[from + pair]!;
      wholeSums[2 * pair] = wholeSums[2 * pair]! + (wholePatterns[table + (a & 15)]! << power);
      wholeSums[2 * pair + 1] = wholeSums[2 * pair + 1]! + (wholePatterns[table + (a >> 4)]! << power);
    }
  }
}

/** Floats in `ideal`. */
function stepExact({ m, n, k, weight, entry, accumulate, out, to, table, weights, addend }: Lmma): Step {
  const { planes, powers } = slicesOf(weight, k);
  const perRow = (k / TABLE_K) * TABLE_ENTRIES;
  return (registers) => {
    const { bytes } = registers;
    readNumbers(registers, entry, table, m * perRow, entries);
    readNumbers(registers, accumulate, addend, m * n, results);
    for (let row = 0; row < m; row++) {
      for (let slice = 0; slice < powers.length; slice++) {
        const from = row * perRow + Math.trunc(slice / planes) * TABLE_ENTRIES;
        for (let index = 0; index < TABLE_ENTRIES; index++) {
          const value = entries[from + index]! * 2 ** powers[slice]!;
          exactSlices[slice * PATTERNS + index] = value;
          exactSlices[slice * PATTERNS + TABLE_ENTRIES + index] = -value;
        }
      }
      for (let column = 0, at = row * n; column < n; column++, at++) {
        terms[0] = results[at]!;
        gather(bytes, weights * REGISTER_BYTES, powers.length, n, column);
        results[at] = sumToOdd(terms, powers.length + 1);
      }
    }
    writeNumbers(registers, out, to, m * n, results);
  };
}

/** The terms of one column, behind the first. */
function gather(nibbles: Uint8Array, at: number, count: number, n: number, column: number): void {
  const shift = (column & 1) * 4;
  for (let slice = 0, from = at + (column >> 1); slice < count; slice++, from += n >> 1) {
    terms[slice + 1] = exactSlices[slice * PATTERNS + ((nibbles[from]! >> shift) & 15)]!;
  }
}

/**
 * Tables of int8: the sums of tables that share a scale are integers, and are scaled one after the other; the public
 * circuit has none, so that `rtl` is `paper`.
 */
export function stepLmmaQuantised(i: LmmaQuantised, { kind: mode }: Mode): Step {
  const { m, n, k, weight, share, out, to, table, weights, addend } = i;
  const slices = slicesOf(weight, share * TABLE_K);
  const perRow = (k / TABLE_K) * TABLE_ENTRIES;
  const shares = k / TABLE_K / share;
  const shareBytes = (slices.powers.length * n) / 2;
  const sum = mode === "ideal" ? sumScaledExactly : sumScaledSingles;
  return (registers) => {
    readNumbers(registers, "int8", table, m * perRow, entries);
    readNumbers(registers, "fp32", i.scales, m * shares, scales);
    readNumbers(registers, "fp32", addend, m * n, results);
    for (let row = 0; row < m; row++) {
      for (let g = 0; g < shares; g++) {
        expandWhole((row * shares + g) * share * TABLE_ENTRIES, share * TABLE_ENTRIES);
        wholeSums.fill(0, 0, n);
        addWhole(registers.bytes, weights * REGISTER_BYTES + g * shareBytes, slices, n);
        // An integer of at most 17 bits and a float of 24: exact.
        const scale = scales[row * shares + g]!;
        for (let column = 0; column < n; column++) scaledSums[column * shares + g] = wholeSums[column]! * scale;
      }
      for (let column = 0, at = row * n; column < n; column++, at++) {
        results[at] = sum(results[at]!, column * shares, shares);
      }
    }
    writeNumbers(registers, out, to, m * n, results);
  };
}

function sumScaledExactly(start: number, first: number, count: number): number {
  terms[0] = start;
  for (let g = 0; g < count; g++) terms[g + 1] = scaledSums[first + g]!;
  return sumToOdd(terms, count + 1);
}

function sumScaledSingles(start: number, first: number, count: number): number {
  let sum = start;
  for (let g = 0; g < count; g++) sum = Math.fround(sum + Math.fround(scaledSums[first + g]!));
  return sum;
}
