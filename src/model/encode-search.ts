// The best bytes for the numbers of a block, given the form of its type: levels by rounding; scales and offsets, and the
// sub-scales and sub-offsets of groups, by a search that makes the squared error as small as some dozen passes over
// the block can. The simple rule (levels that just reach the largest number) is one of the candidates, so that the
// result is never worse. Not here: forms (encode-form.ts), the loops over numbers (encode-grid.ts).

import type { Form, Term } from "./encode-form.ts";
import {
  type Fit,
  fitBoth,
  fitStep,
  gridError,
  gridNumbers,
  gridSums,
  isSymmetric,
  lowestPositive,
  nearestLevel,
  type Signs,
  simpleBoth,
  simpleStep,
  type Sums,
} from "./encode-grid.ts";

/**
 * Encodes one block: reads its values from `values[at]` on, writes its bytes from `bytes[base]` on, where they are
 * zero, and gives the sum of (decoded - value)^2.
 */
export type BlockEncoder = (values: Float64Array, at: number, bytes: Uint8Array, base: number) => number;

/** Rounds that move sub-scales to their neighbours and fit the block's factors again; most blocks rest after two. */
const ROUNDS = 4;
/** Where the largest group's scale is to lie: at the largest multiple, or a little to either side. */
const SPREADS: readonly number[] = [1, 1.05, 0.95];
/** The same where one scale serves all groups, whose offsets differ. */
const SHARED_SPREADS: readonly number[] = [1, 0.9, 0.8, 0.7];

/** Relative squared error below which it may be possible to keep numbers exactly; rounding a step to 8 bits leaves less. */
const NEARLY_EXACT = 2 ** -16;
/** The levels above 0 that the largest number is tried at to keep numbers exactly: the lowest ones. */
const EXACT_LEVELS = 32;

/** All that is chosen for a block but its levels. */
interface Choice {
  /** Factors of scale and offset; 1 where there is none. */
  d: number;
  e: number;
  /** One a group: which of the term's multiples. */
  readonly sub: Uint16Array;
  readonly min: Uint16Array;
  error: number;
}

/** The encoder of types with this form. It keeps room for one block, and is not to be called while it runs. */
export function searchingEncoder(form: Form): BlockEncoder {
  const { blockSize, groupSize, grid, scale, offset, constant } = form;
  const groups = blockSize / groupSize;
  const x = new Float64Array(blockSize);
  const numbers = new Uint16Array(blockSize);
  /** What scale and offset of each group would best be, if any number could be stored. */
  const steps = new Float64Array(groups);
  const offsets = new Float64Array(groups);
  let best = makeChoice(groups);
  let trial = makeChoice(groups);
  const fit: Fit = { step: 0, offset: 0 };
  const sums: Sums = { level: 0, square: 0, product: 0 };
  const signs = signsOf(form);
  const positive = lowestPositive(grid, EXACT_LEVELS);

  /** Sets `fit` to scale and offset of group g. */
  const groupFit = ({ d, e, sub, min }: Choice, g: number): void => {
    fit.step = d * scale.multiples[sub[g]!]!;
    fit.offset = offset === null ? 0 : (offset.factor.kind === "tied" ? d : e) * offset.multiples[min[g]!]!;
  };

  const groupError = (choice: Choice, g: number): number => {
    groupFit(choice, g);
    return gridError(x, g * groupSize, (g + 1) * groupSize, grid, fit);
  };

  const blockError = (choice: Choice): number => {
    let error = 0;
    for (let g = 0; g < groups; g++) error += groupError(choice, g);
    return error;
  };

  /** The better of `best` and `trial` becomes `best`; whether that was `trial`. */
  const keepBetter = (): boolean => {
    trial.error = blockError(trial);
    if (!(trial.error < best.error)) return false;
    [best, trial] = [trial, best];
    return true;
  };

  /** Fills `steps` and `offsets`, by the simple rule or well. */
  const idealGroups = (sign: Signs, isSimple: boolean): void => {
    const fitScale = (from: number): void => {
      if (!isSimple) return fitStep(x, from, from + groupSize, grid, sign, fit);
      const plus = simpleStep(x, from, from + groupSize, grid, 1);
      const minus = simpleStep(x, from, from + groupSize, grid, -1);
      fit.step = sign === "minus" || (sign === "both" && -minus < plus) ? minus : plus;
      fit.offset = 0;
    };
    for (let g = 0; g < groups; g++) {
      const from = g * groupSize;
      if (offset === null) fitScale(from);
      else (isSimple ? simpleBoth : fitBoth)(x, from, from + groupSize, grid, fit);
      steps[g] = fit.step;
      offsets[g] = fit.offset;
    }
    if (offset?.factor.kind !== "stored" || hasBothSigns(offset)) return;
    // All offsets of the block have one sign: that of their sum. Groups that want the other do without.
    const sum = offsets.reduce((a, b) => a + b, 0);
    for (let g = 0; g < groups; g++) {
      if (offsets[g]! * sum >= 0) continue;
      fitScale(g * groupSize);
      steps[g] = fit.step;
      offsets[g] = 0;
    }
  };

  const setFactors = (d: number, e: number): void => {
    trial.d = roundFactor(scale, d);
    trial.e = offset === null ? 1 : roundFactor(offset, e);
  };

  const tryFactors = (d: number, e: number): void => {
    setFactors(d, e);
    for (let g = 0; g < groups; g++) {
      trial.sub[g] = nearestMultiple(scale, trial.d, steps[g]!);
      if (offset === null) continue;
      trial.min[g] = nearestMultiple(offset, offset.factor.kind === "tied" ? trial.d : trial.e, offsets[g]!);
    }
    keepBetter();
  };

  /** The factors by least squares, all else being as in `best`; whether that made it better. */
  const refitFactors = (): boolean => {
    // x = d * a + e * b + c, with a, b and c known for every number
    let [aa, ab, bb, ax, bx] = [0, 0, 0, 0, 0];
    for (let g = 0; g < groups; g++) {
      groupFit(best, g);
      const from = g * groupSize;
      gridSums(x, from, from + groupSize, grid, fit, sums);
      let sum = 0;
      for (let i = from; i < from + groupSize; i++) sum += x[i]!;
      const u = scale.multiples[best.sub[g]!]!;
      const v = offset === null ? 0 : offset.multiples[best.min[g]!]!;
      const a = offset?.factor.kind === "tied" ? v : 0;
      const b = offset?.factor.kind === "stored" ? v : 0;
      const c = offset?.factor.kind === "one" ? v : 0;
      const { level, square, product } = sums;
      aa += u * u * square + 2 * u * a * level + a * a * groupSize;
      ab += b * (u * level + a * groupSize);
      bb += b * b * groupSize;
      ax += u * (product - c * level) + a * (sum - c * groupSize);
      bx += b * (sum - c * groupSize);
    }
    if (aa === 0) return false;
    const determinant = aa * bb - ab * ab;
    if (determinant > 1e-12 * aa * bb) {
      setFactors((ax * bb - bx * ab) / determinant, (bx * aa - ax * ab) / determinant);
    } else {
      setFactors(ax / aa, best.e);
    }
    trial.sub.set(best.sub);
    trial.min.set(best.min);
    return keepBetter();
  };

  /** Moves the choices of each group to a neighbour where that helps; whether it did. */
  const moveChoices = (): boolean => {
    let helped = false;
    for (let g = 0; g < groups; g++) {
      const [sub, min] = [best.sub[g]!, best.min[g]!];
      const before = groupError(best, g);
      let least = before;
      let kept = [sub, min] as const;
      const subEnd = Math.min(sub + 1, scale.multiples.length - 1);
      const minEnd = offset === null ? 0 : Math.min(min + 1, offset.multiples.length - 1);
      for (let s = Math.max(0, sub - 1); s <= subEnd; s++) {
        for (let m = Math.max(0, min - 1); m <= minEnd; m++) {
          if (s === sub && m === min) continue;
          best.sub[g] = s;
          best.min[g] = m;
          const error = groupError(best, g);
          if (error < least) [least, kept] = [error, [s, m]];
        }
      }
      [best.sub[g], best.min[g]] = kept;
      best.error += least - before;
      if (least < before) helped = true;
    }
    return helped;
  };

  /**
   * Numbers that are small multiples of one number, such as ternary ones, are kept as they are where that number can
   * be stored: the step that least squares gives them is a fraction of it, which may not be.
   */
  const tryExact = (): void => {
    let [extreme, squares] = [0, 0];
    for (const value of x) {
      if (Math.abs(value) > Math.abs(extreme)) extreme = value;
      squares += value * value;
    }
    if (best.error > NEARLY_EXACT * squares) return;
    for (const level of positive) if (best.error > 0) tryFactors(extreme / level / scale.multiples[0]!, 1);
  };

  const search = (): void => {
    best.error = Number.POSITIVE_INFINITY;
    for (const isSimple of [true, false]) {
      for (const sign of signs) {
        idealGroups(sign, isSimple);
        for (const d of factorsFor(scale, steps)) {
          for (const e of offset === null ? [1] : factorsFor(offset, offsets)) tryFactors(d, e);
        }
      }
      if (best.error === 0) return;
    }
    for (let round = 0; round < ROUNDS; round++) {
      const hasMoved = moveChoices();
      if (!refitFactors() && !hasMoved) break;
    }
    if (groups === 1 && scale.factor.kind === "stored" && offset === null) tryExact();
  };

  return (values, at, bytes, base) => {
    for (let i = 0; i < blockSize; i++) x[i] = values[at + i]! - constant;
    search();
    for (let g = 0; g < groups; g++) {
      groupFit(best, g);
      gridNumbers(x, g * groupSize, (g + 1) * groupSize, grid, fit, numbers);
    }
    form.putLevels(numbers, bytes, base);
    putTerm(scale, best.d, best.sub, bytes, base);
    if (offset !== null) putTerm(offset, best.e, best.min, bytes, base);
    form.putRest(bytes, base);
    return best.error;
  };
}

function makeChoice(groups: number): Choice {
  return { d: 0, e: 1, sub: new Uint16Array(groups), min: new Uint16Array(groups), error: Number.POSITIVE_INFINITY };
}

function hasBothSigns({ multiples }: Term): boolean {
  return multiples[0]! < 0 && multiples.at(-1)! > 0;
}

/** The signs that the scales of all groups are to have, one after the other. */
function signsOf({ blockSize, groupSize, grid, scale, offset }: Form): readonly Signs[] {
  if (isSymmetric(grid) && scale.multiples.at(-1)! > 0) return ["plus"];
  if (scale.factor.kind !== "stored") {
    if (hasBothSigns(scale)) return ["both"];
    return [scale.multiples[0]! < 0 ? "minus" : "plus"];
  }
  // Sub-scales of one sign leave the sign of a scale to the block; with an offset no sign is better than the other.
  const isCommon = blockSize > groupSize && !hasBothSigns(scale) && offset === null;
  return isCommon ? ["plus", "minus"] : ["both"];
}

function roundFactor({ factor }: Term, x: number): number {
  return factor.kind === "stored" ? factor.round(Number.isFinite(x) ? x : 0) : 1;
}

/** Which multiple brings its product with the factor nearest to `wanted`; any where the factor is 0. */
function nearestMultiple({ multiples }: Term, factor: number, wanted: number): number {
  return multiples.length === 1 ? 0 : nearestLevel(multiples, wanted / factor);
}

/** The factors that are worth a try, given what each group would best have. */
function factorsFor({ factor, multiples }: Term, wanted: Float64Array): readonly number[] {
  if (factor.kind !== "stored") return [1];
  let extreme = 0;
  for (const w of wanted) if (Math.abs(w) > Math.abs(extreme)) extreme = w;
  if (multiples.length === 1) {
    const spreads = wanted.length === 1 ? [1] : SHARED_SPREADS;
    return spreads.map((spread) => (spread * extreme) / multiples[0]!);
  }
  const [least, most] = [multiples[0]!, multiples.at(-1)!];
  const ends = [least, most].filter((end) => 2 * Math.abs(end) > Math.max(-least, most));
  return ends.flatMap((end) => SPREADS.map((spread) => (spread * extreme) / end));
}

function putTerm(term: Term, value: number, choices: Uint16Array, bytes: Uint8Array, base: number): void {
  term.putChoices(choices, bytes, base);
  if (term.factor.kind === "stored") term.factor.put(value, bytes, base);
}
