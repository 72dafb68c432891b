// Levels for some numbers: which step (and which offset) leaves the smallest squared error when each number is stored
// as step * level + offset with its nearest level. Levels are evenly spaced, as codes of integers are, or a table.
// These loops are where quantising spends its time. Not here: steps that can only be certain numbers (encode-search.ts).
// Method: many steps around that of the largest number, each judged by the least squares fit of its own levels, and
// then Lloyd's iteration (levels for the step, step for the levels) from the best of them.

/** Ascending levels. Level number n is n - zero where they are even, for n in [0, top], else levels[n]. */
export type Grid = (
  | { readonly kind: "even"; readonly zero: number; readonly top: number }
  | { readonly kind: "table"; readonly levels: Float64Array; readonly search: LevelSearch }
) & {
  readonly lowest: number;
  readonly highest: number;
  /** Distance of the levels at the end that is farther from 0. */
  readonly gap: number;
};

/** Where to look for the nearest level: the range of levels is cut into equal parts. */
export interface LevelSearch {
  /** Numbers of the levels nearest to the beginnings of the parts, and to the end of the last. */
  readonly starts: Uint16Array;
  /** Parts per unit. */
  readonly density: number;
  /** middles[n] is half way between levels n and n + 1. */
  readonly middles: Float64Array;
}

/** Which signs a step may have. */
export type Signs = "plus" | "minus" | "both";

export interface Fit {
  step: number;
  offset: number;
}

/** Sums over the numbers with their nearest levels: of level, level^2, number * level. */
export interface Sums {
  level: number;
  square: number;
  product: number;
}

/** Steps that are tried before the best is polished; twice as many make the error smaller by less than one percent. */
const STEPS_TRIED = 16;
/** Lloyd's iterations from the best step. */
const POLISHES = 3;
/** Parts of the range of a table: several for each level of the usual tables of 16 to 256. */
const PARTS = 1024;
/** Steps below this are taken for zero, since their inverse might not be finite. */
const NO_STEP = 1e-150;

/** The levels n - zero for n in [0, top]. */
export function evenGrid(zero: number, top: number): Grid {
  return { kind: "even", zero, top, lowest: -zero, highest: top - zero, gap: 1 };
}

/** @param levels ascending, at least two */
export function tableGrid(levels: Float64Array): Grid {
  const lowest = levels[0]!;
  const highest = levels.at(-1)!;
  const gap = highest >= -lowest ? highest - levels.at(-2)! : levels[1]! - lowest;
  const middles = levels.map((level, n) => (level + (levels[n + 1] ?? level)) / 2).subarray(0, -1);
  const density = PARTS / (highest - lowest);
  const starts = Uint16Array.from({ length: PARTS + 1 }, (_, part) => nearestLevel(levels, lowest + part / density));
  return { kind: "table", levels, search: { starts, density, middles }, lowest, highest, gap };
}

/** Whether each level has its negative, so that the sign of a step makes no difference. */
export function isSymmetric(grid: Grid): boolean {
  if (grid.lowest !== -grid.highest) return false;
  return grid.kind === "even" || grid.levels.every((level, n) => level === -grid.levels.at(-1 - n)!);
}

/** The lowest levels above 0, at most `count` of them. */
export function lowestPositive(grid: Grid, count: number): readonly number[] {
  if (grid.kind === "table") return [...grid.levels].filter((level) => level > 0).slice(0, count);
  const first = Math.floor(grid.zero) + 1;
  return Array.from({ length: Math.min(count, Math.max(0, grid.top + 1 - first)) }, (_, n) => first + n - grid.zero);
}

/** The number of the level that is nearest to x. */
export function nearestLevel(levels: Float64Array, x: number): number {
  let low = 0;
  let high = levels.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (2 * x < levels[middle]! + levels[middle + 1]!) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The same for a table, in a few steps: the search begins in the part of the range where x lies. */
function numberIn(levels: Float64Array, { starts, density, middles }: LevelSearch, x: number): number {
  const part = Math.floor((x - levels[0]!) * density);
  if (!(part >= 0)) return 0;
  if (part >= PARTS) return middles.length;
  let low = starts[part]!;
  let high = starts[part + 1]!;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x < middles[middle]!) high = middle;
    else low = middle + 1;
  }
  // The part is rounded: next to its ends, and where levels are far finer than their range, x may lie in another.
  return x < middles[low - 1]! || x >= middles[low]! ? nearestLevel(levels, x) : low;
}

/** Puts the sums for x[from, to) into `sums`. */
export function gridSums(x: Float64Array, from: number, to: number, grid: Grid, fit: Fit, sums: Sums): void {
  const { step, offset } = fit;
  const inverse = Math.abs(step) < NO_STEP ? 0 : 1 / step;
  let level = 0;
  let square = 0;
  let product = 0;
  if (grid.kind === "table") {
    const { levels, search } = grid;
    for (let i = from; i < to; i++) {
      const value = x[i]!;
      const l = levels[numberIn(levels, search, (value - offset) * inverse)]!;
      level += l;
      square += l * l;
      product += value * l;
    }
  } else {
    const { zero, top } = grid;
    // Adding one half and rounding down is rounding to nearest.
    const shift = zero - offset * inverse + 0.5;
    for (let i = from; i < to; i++) {
      const value = x[i]!;
      const n = Math.floor(value * inverse + shift);
      const l = (n < 0 ? 0 : n > top ? top : n) - zero;
      level += l;
      square += l * l;
      product += value * l;
    }
  }
  sums.level = level;
  sums.square = square;
  sums.product = product;
}

/** The squared error of x[from, to). */
export function gridError(x: Float64Array, from: number, to: number, grid: Grid, { step, offset }: Fit): number {
  const inverse = Math.abs(step) < NO_STEP ? 0 : 1 / step;
  let error = 0;
  if (grid.kind === "table") {
    const { levels, search } = grid;
    for (let i = from; i < to; i++) {
      const value = x[i]!;
      const rest = step * levels[numberIn(levels, search, (value - offset) * inverse)]! + offset - value;
      error += rest * rest;
    }
    return error;
  }
  const { zero, top } = grid;
  const shift = zero - offset * inverse + 0.5;
  for (let i = from; i < to; i++) {
    const value = x[i]!;
    const n = Math.floor(value * inverse + shift);
    const rest = step * ((n < 0 ? 0 : n > top ? top : n) - zero) + offset - value;
    error += rest * rest;
  }
  return error;
}

/** The numbers of the nearest levels of x[from, to), into the same places of `numbers`. */
export function gridNumbers(
  x: Float64Array,
  from: number,
  to: number,
  grid: Grid,
  { step, offset }: Fit,
  numbers: Uint16Array,
): void {
  const inverse = Math.abs(step) < NO_STEP ? 0 : 1 / step;
  if (grid.kind === "table") {
    const { levels, search } = grid;
    for (let i = from; i < to; i++) numbers[i] = numberIn(levels, search, (x[i]! - offset) * inverse);
    return;
  }
  const { zero, top } = grid;
  const shift = zero - offset * inverse + 0.5;
  for (let i = from; i < to; i++) {
    const n = Math.floor(x[i]! * inverse + shift);
    numbers[i] = n < 0 ? 0 : n > top ? top : n;
  }
}

/** The simple rule: the step of that sign with which the levels just reach all of the numbers. */
export function simpleStep(x: Float64Array, from: number, to: number, grid: Grid, sign: 1 | -1): number {
  const { lowest, highest } = grid;
  let above = 0;
  let below = 0;
  for (let i = from; i < to; i++) {
    const value = sign * x[i]!;
    if (value > above) above = value;
    if (value < below) below = value;
  }
  return sign * Math.max(highest > 0 ? above / highest : 0, lowest < 0 ? below / lowest : 0);
}

const sums: Sums = { level: 0, square: 0, product: 0 };
const trial: Fit = { step: 0, offset: 0 };

/** The best step for x[from, to) with no offset: into fit.step. */
export function fitStep(x: Float64Array, from: number, to: number, grid: Grid, signs: Signs, fit: Fit): void {
  fit.step = 0;
  fit.offset = 0;
  trial.offset = 0;
  const { lowest, highest, gap } = grid;
  const extent = Math.max(highest, -lowest) / gap;
  const nearest = extent - Math.min(0.75, extent / 2);
  const farthest = extent + reachOf(extent);
  let best = 0;
  for (const sign of [1, -1] as const) {
    if (signs === (sign === 1 ? "minus" : "plus")) continue;
    const simple = simpleStep(x, from, to, grid, sign);
    if (simple === 0) continue;
    for (let t = 0; t < STEPS_TRIED; t++) {
      trial.step = (simple * extent) / (nearest + ((farthest - nearest) * t) / (STEPS_TRIED - 1));
      gridSums(x, from, to, grid, trial, sums);
      // With the best step for these levels, the squared error is the sum of x^2 less this.
      const explained = sums.square === 0 ? 0 : sums.product ** 2 / sums.square;
      if (explained > best) {
        best = explained;
        fit.step = sums.product / sums.square;
      }
    }
  }
  for (let p = 0; p < POLISHES && fit.step !== 0; p++) {
    gridSums(x, from, to, grid, fit, sums);
    if (sums.square > 0) fit.step = sums.product / sums.square;
  }
}

/** How many gaps beyond the last level the largest number may come to lie: more, by share, where levels are few. */
function reachOf(extent: number): number {
  return 1 + 0.4 * Math.min(extent, 4);
}

/** The simple rule with an offset: the smallest number at the lowest level, the largest at the highest. */
export function simpleBoth(x: Float64Array, from: number, to: number, { lowest, highest }: Grid, fit: Fit): void {
  let most = x[from]!;
  let least = most;
  for (let i = from; i < to; i++) {
    const value = x[i]!;
    if (value > most) most = value;
    if (value < least) least = value;
  }
  fit.step = (most - least) / (highest - lowest);
  fit.offset = least - fit.step * lowest;
}

/** The best step (not below 0) and offset for x[from, to): into `fit`. */
export function fitBoth(x: Float64Array, from: number, to: number, grid: Grid, fit: Fit): void {
  simpleBoth(x, from, to, grid, fit);
  if (fit.step === 0) return;
  const { lowest, highest, gap } = grid;
  const count = to - from;
  let sum = 0;
  for (let i = from; i < to; i++) sum += x[i]!;
  const center = (lowest + highest) / 2;
  const middle = fit.offset + fit.step * center;
  const span = (highest - lowest) / gap;
  const range = fit.step * span;
  const reach = 2 * reachOf(span / 2);
  let best = -1;
  for (let t = 0; t < STEPS_TRIED; t++) {
    trial.step = range / (span - 0.5 + ((reach + 0.5) * t) / (STEPS_TRIED - 1));
    trial.offset = middle - trial.step * center;
    gridSums(x, from, to, grid, trial, sums);
    const explained = leastSquares(count, sum);
    if (explained > best) {
      best = explained;
      fit.step = trial.step;
      fit.offset = trial.offset;
    }
  }
  for (let p = 0; p < POLISHES; p++) {
    gridSums(x, from, to, grid, fit, sums);
    if (leastSquares(count, sum) < 0) return;
    fit.step = trial.step;
    fit.offset = trial.offset;
  }
}

/** Step and offset for the levels of `sums`, into `trial`; what they explain beyond the mean, or -1 for equal levels. */
function leastSquares(count: number, sum: number): number {
  const spread = sums.square - (sums.level * sums.level) / count;
  if (spread <= 0) return -1;
  const shared = sums.product - (sums.level * sum) / count;
  trial.step = shared / spread;
  trial.offset = (sum - trial.step * sums.level) / count;
  return trial.step * shared;
}
