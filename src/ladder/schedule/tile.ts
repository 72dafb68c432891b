// Which tiles there are, and the cheapest of them: sizes that double from the smallest that a machine takes, up to the
// whole, at every memory; nested, and no larger than the memory is. All are tried, so the least cost is the least.
// Not here: what a tile costs (cost.ts). Alignment to all levels at once is Ladder's hint, Algorithm 1 (OSDI'24).

import { type Cost, costOf, type Demand, type Tile, up } from "./cost.ts";
import type { DeviceModel } from "../type.ts";

/** A tile's sizes. */
export interface Size {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** What tiles of one memory have to be: multiples of `step`, and no more bytes than there are. */
export interface Level {
  readonly step: Size;
  /** Bytes that a tile takes there. */
  readonly bytes: (tile: Size) => number;
}

export interface Tiled {
  readonly tiles: readonly Tile[];
  readonly cost: Cost;
}

/**
 * The cheapest tiles, ties to the larger ones; or the memory for which even the smallest tile is too large.
 * @param levels one for each memory but the farthest, far to near; each step divides that of the level before
 */
export function cheapestTiles(
  demand: Demand,
  device: DeviceModel,
  levels: readonly Level[],
): Tiled | { readonly memory: string; readonly needed: number; readonly capacity: number } {
  for (const [l, { step, bytes }] of levels.entries()) {
    const { name, capacity } = device.memories[l + 1]!;
    const needed = bytes(step);
    if (capacity !== null && needed > capacity) return { memory: name, needed, capacity };
  }
  let best: Tiled | null = null;
  // What is nearer adds to the cost of the first tile, which is thus a bound for all that lie in it.
  const hope = (first: readonly Tile[]): boolean =>
    best === null || costOf(demand, device, first).total < best.cost.total;
  for (const tiles of tilings(demand, device, levels, hope)) {
    const cost = costOf(demand, device, tiles);
    if (best === null || cost.total < best.cost.total) best = { tiles, cost };
  }
  // The smallest tiles fit, and each level has its own among them.
  return best!;
}

/** All nested tilings, far to near, large ones first, but for those whose first tiles are without hope. */
function* tilings(
  demand: Size,
  device: DeviceModel,
  levels: readonly Level[],
  hope: (outer: readonly Tile[]) => boolean = () => true,
): Iterable<readonly Tile[]> {
  yield* nested(demand, device, levels, hope, []);
}

function* nested(
  within: Size,
  device: DeviceModel,
  levels: readonly Level[],
  hope: (outer: readonly Tile[]) => boolean,
  outer: readonly Tile[],
): Iterable<readonly Tile[]> {
  const l = outer.length;
  const level = levels[l];
  if (level === undefined) {
    yield outer;
    return;
  }
  const { name, capacity } = device.memories[l + 1]!;
  const { step, bytes } = level;
  // The nearest memory sees k step by step.
  const isNearest = l === levels.length - 1;
  const depths = isNearest ? [step.k] : sizes(within.k, step.k, l > 0);
  for (const m of sizes(within.m, step.m, l > 0)) {
    for (const n of sizes(within.n, step.n, l > 0)) {
      for (const k of depths) {
        const size = { m, n, k };
        if (capacity !== null && bytes(size) > capacity) continue;
        const tiles = [...outer, { memory: name, ...size }];
        if (isNearest || hope(tiles)) yield* nested(size, device, levels, hope, tiles);
      }
    }
  }
}

/** The step times powers of two, and the whole; only divisors of the whole where tiles lie in a tile. Large first. */
function sizes(whole: number, step: number, divides: boolean): readonly number[] {
  const all = new Set([up(whole, step)]);
  for (let size = step; size < whole; size *= 2) all.add(size);
  return [...all].filter((size) => !divides || whole % size === 0).toSorted((a, b) => b - a);
}
