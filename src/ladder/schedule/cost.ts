// What a plan costs on a machine: a roofline with one roof for each memory and one for computing, the time being that of
// the highest and a part of the others. Bytes at their real size in bits, in whole transactions; products padded; every core that has no tile
// idle. Estimates for ranking plans, in ns: caches that keep more than a tile, or latencies, are not modelled.
// Not here: which tiles there are (tile.ts), what a plan is (schedule.ts). The roofline is Williams' (CACM 2009).

import type { DeviceModel, Memory } from "../type.ts";
import type { Work } from "./work.ts";

/**
 * What is done beside the slowest thing hides behind it, but for this part: kernels measured in DRAM and in cache
 * (4 bits to 1 bit, AVX-512, AVX2 on Intel and Zen 3) show between 0.05 and 1.2 of it, most of them around a quarter.
 */
const SHOWS = 1 / 4;

/** How much of the product one core has in one memory at a time. */
export interface Tile {
  readonly memory: string;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** Something that is read: bits for one value, of a row by itself or of all rows of a tile together. */
export interface Stream {
  readonly bits: number;
  readonly byRow: boolean;
}

/** What a plan asks of a machine, but for its tiles, as numbers. */
export interface Demand {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Out of each memory but the nearest: what weights and activations are there. */
  readonly weights: readonly (readonly Stream[])[];
  readonly activations: readonly (readonly Stream[])[];
  /** Bytes of one sum, while it is summed and when it is done. */
  readonly sumBytes: number;
  readonly outBytes: number;
  /** ns for one product of the padded matrices. */
  readonly product: number;
  /** ns for one weight, where it enters the memory of this number; 0: when the model is loaded, which is not counted. */
  readonly weight: { readonly ns: number; readonly level: number };
  /** ns for one activation: 0, once in its producer; 1, for each tile of the first level. */
  readonly activation: { readonly ns: number; readonly level: number };
  /** ns for the sum of one group, and for the scale of one, each `size` values of k long. */
  readonly group: { readonly size: number; readonly sum: number; readonly scale: number };
}

export interface Cost {
  /** The whole, in ns: the longest of memories and computing, a part of the others, and the start. */
  readonly total: number;
  /** What it waits for: a memory's name, or "compute". */
  readonly bound: string;
  readonly memories: readonly { readonly memory: string; readonly bytes: number; readonly ns: number }[];
  readonly compute: {
    readonly ns: number;
    readonly products: number;
    readonly conversions: number;
    readonly scales: number;
  };
  readonly start: number;
  /** The part of the cores that has a tile, over all rounds. */
  readonly busy: number;
}

/** ns for the work on one value; infinite where the machine has no lanes for it. */
export function workNs(work: readonly Work[], device: DeviceModel): number {
  let ns = 0;
  for (const { lanes, bits, count } of work) {
    if (count === 0) continue;
    const fitting = device.operates.filter(({ element }) => {
      return element.bits >= bits && (element.kind === "float") === (lanes === "float");
    });
    ns += count / Math.max(0, ...fitting.map(({ rate }) => rate / 1000));
  }
  return ns;
}

/** Bytes that one access of a memory takes. */
export function transaction({ granularity, width }: Memory): number {
  return granularity * width;
}

/**
 * The cost of a demand with these tiles, one for each memory but the farthest, far to near.
 * Every tile's sizes divide those of the one before it. With the first tiles only, it is no more than with all.
 */
export function costOf(demand: Demand, device: DeviceModel, tiles: readonly Tile[]): Cost {
  const [first] = tiles;
  const { m, n, k } = demand;
  const padded = first === undefined ? { m, n, k } : { m: up(m, first.m), n: up(n, first.n), k: up(k, first.k) };
  const count = first === undefined ? 1 : (padded.m / first.m) * (padded.n / first.n);
  const { count: cores, start } = device.cores;
  const busy = count / (Math.ceil(count / cores) * cores);

  const memories: Cost["memories"][number][] = [];
  for (const [i, tile] of tiles.entries()) {
    const memory = device.memories[i]!;
    if (memory.bandwidth === null) continue;
    const unit = transaction(memory);
    // Nearer than the first tile, what lies one behind the other in k is read on end.
    const run = first?.k ?? tile.k;
    const read = (streams: readonly Stream[], rows: number, tileRows: number, times: number): number =>
      streams.reduce((bytes, { bits, byRow }) => {
        const length = up((run * (byRow ? 1 : tileRows) * bits) / 8, unit);
        return bytes + (rows / (byRow ? 1 : tileRows)) * (padded.k / run) * length * times;
      }, 0);
    let bytes = read(demand.weights[i]!, padded.n, tile.n, padded.m / tile.m);
    bytes += read(demand.activations[i]!, padded.m, tile.m, padded.n / tile.n);
    if (i === 0) bytes += m * n * demand.outBytes;
    else {
      // Sums that are not finished when their tile leaves are put by and fetched again.
      const stays = tile.m === first!.m && tile.n === first!.n;
      if (!stays) bytes += 2 * (padded.k / run - 1) * padded.m * padded.n * demand.sumBytes;
    }
    memories.push({ memory: memory.name, bytes, ns: bytes / ((memory.bandwidth / 1000) * busy) });
  }

  const { weight, activation, group } = demand;
  const times = (level: number, size: number, of: "m" | "n"): number =>
    level === 0 ? 1 : size / (tiles[level - 1]?.[of] ?? size);
  const products = padded.m * padded.n * padded.k * demand.product;
  const rounds = times(weight.level, padded.m, "m");
  const ofWeights = weight.level === 0 ? 0 : padded.n * padded.k * weight.ns * rounds;
  const ofActivations = padded.m * padded.k * activation.ns * times(activation.level, padded.n, "n");
  const groups = padded.k / group.size;
  const scales = groups * padded.n * (padded.m * group.sum + group.scale * rounds);
  const compute = {
    ns: (products + ofWeights + ofActivations + scales) / busy,
    products: products / busy,
    conversions: (ofWeights + ofActivations) / busy,
    scales: scales / busy,
  };
  const roofs = [...memories.map(({ memory, ns }) => ({ name: memory, ns })), { name: "compute", ns: compute.ns }];
  const highest = roofs.reduce((a, b) => (b.ns > a.ns ? b : a));
  const all = roofs.reduce((sum, { ns }) => sum + ns, 0);
  const total = highest.ns + SHOWS * (all - highest.ns) + start;
  return { total, bound: highest.name, memories, compute, start, busy };
}

/** The smallest multiple of `step` that is no less. */
export function up(x: number, step: number): number {
  return Math.ceil(x / step - 1e-9) * step;
}
