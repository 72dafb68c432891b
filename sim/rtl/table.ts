// The sums of a table, in the order in which the array makes them where tables do not arrive ready: halves of the
// activations first, then each sum of the one with each of the other. Gates and golden model both follow it.
// Not here: what a sum is (lane.ts, golden.ts).

/** What sums are made of. */
export interface Sums<T> {
  /** -x or x, plus -y or y. */
  add(x: T, negativeX: boolean, y: T, negativeY: boolean): T;
  /** -x or x as an entry. */
  alone(x: T, negative: boolean): T;
  readonly zero: T;
}

/**
 * The entries of K activations. Half: entry i is -a of the last one and, of each other j, a where bit j of i is set and
 * else -a. Whole: entry i is the sum of the a whose bits are set.
 */
export function tableOf<T>(activations: readonly T[], half: boolean, sums: Sums<T>): readonly T[] {
  if (!half) return subsets(activations, sums).map((x) => sums.alone(x, false));
  const [only] = activations;
  if (activations.length === 1) return [sums.alone(only!, true)];
  return signedSums(activations, true, sums);
}

/** Sums with the last activation added, or subtracted, and each other one subtracted where its bit is 0. */
function signedSums<T>(activations: readonly T[], negative: boolean, sums: Sums<T>): readonly T[] {
  if (activations.length === 1) return activations;
  const count = Math.floor(activations.length / 2);
  const [low, high] = [
    signedSums(activations.slice(0, count), false, sums),
    signedSums(activations.slice(count), false, sums),
  ];
  return Array.from({ length: 2 ** (activations.length - 1) }, (_, i) => {
    const [lower, upper] = [i % 2 ** count, Math.floor(i / 2 ** count)];
    // A sum whose last sign is - is the negative of that with all signs turned.
    const isNegative = lower < low.length;
    const x = low[isNegative ? low.length - 1 - lower : lower - low.length]!;
    return sums.add(x, isNegative, high[negative ? high.length - 1 - upper : upper]!, negative);
  });
}

function subsets<T>(activations: readonly T[], sums: Sums<T>): readonly T[] {
  if (activations.length === 1) return [sums.zero, activations[0]!];
  const count = Math.floor(activations.length / 2);
  const [low, high] = [subsets(activations.slice(0, count), sums), subsets(activations.slice(count), sums)];
  return high.flatMap((y, j) => low.map((x, i) => (i === 0 ? y : j === 0 ? x : sums.add(x, false, y, false))));
}
