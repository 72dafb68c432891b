// Byte-pair encoding of one word on plain arrays: what every vocabulary here merges with, by ranks of its own.
// A test compares it with the definition, which looks for the best pair anew each time.

/** More than the characters of any word, and few enough that a rank times this is exact. */
const PLACES = 2 ** 18;

/**
 * Byte-pair encoding: joins the neighbours of the lowest rank, the first of equals first, until no pair has a rank.
 * Takes n log n steps; `parts` are the characters, fewer than PLACES, and are used up.
 */
export function mergePairs(
  parts: string[],
  rank: (left: string, right: string) => number | undefined,
): readonly string[] {
  const n = parts.length;
  const next = Int32Array.from({ length: n }, (_, i) => i + 1);
  const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
  /** Rank of the pair that begins here; -1 for none. */
  const current = new Int32Array(n).fill(-1);
  // A pair in the heap is one number, rank * PLACES + place, and is out of date once `current` is another rank.
  const heap: number[] = [];
  const consider = (left: number): void => {
    const right = next[left] ?? n;
    const found = right < n ? rank(parts[left] ?? "", parts[right] ?? "") : undefined;
    current[left] = found ?? -1;
    if (found !== undefined) pushHeap(heap, found * PLACES + left);
  };
  for (let i = 0; i < n - 1; i++) consider(i);
  while (heap.length > 0) {
    const pair = popHeap(heap);
    const left = pair % PLACES;
    if (current[left] !== (pair - left) / PLACES) continue;
    const right = next[left] ?? n;
    const after = next[right] ?? n;
    parts[left] += parts[right] ?? "";
    current[right] = -1;
    next[left] = after;
    if (after < n) previous[after] = left;
    consider(left);
    const before = previous[left] ?? -1;
    if (before >= 0) consider(before);
  }
  const result: string[] = [];
  for (let i = 0; i < n; i = next[i] ?? n) result.push(parts[i] ?? "");
  return result;
}

/** Adds a number to a binary heap whose smallest is at 0. */
function pushHeap(heap: number[], value: number): void {
  let at = heap.length;
  heap.push(value);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const above = heap[parent] ?? value;
    if (above <= value) break;
    heap[at] = above;
    at = parent;
  }
  heap[at] = value;
}

/** Takes the smallest number out of a heap that is not empty. */
function popHeap(heap: number[]): number {
  const smallest = heap[0] ?? 0;
  const value = heap.pop() ?? 0;
  const { length } = heap;
  if (length === 0) return smallest;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= length) break;
    if (child + 1 < length && (heap[child + 1] ?? value) < (heap[child] ?? value)) child++;
    const below = heap[child] ?? value;
    if (value <= below) break;
    heap[at] = below;
    at = child;
  }
  heap[at] = value;
  return smallest;
}
