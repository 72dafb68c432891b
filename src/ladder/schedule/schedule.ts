// The scheduler: for one matrix product on one machine, every way to compute it that the machine's description and the
// proved conversions allow, the cheapest tiles of each, ranked by estimated time. It looks no plan up: other figures in
// a device's text are another ranking. A plan is plain data, from which each back end makes its own code.
// After Ladder's hardware-aware policy (OSDI'24, section 4): slice, map, pad and convert at each memory level.
// Not here: conversions and proofs (convert.ts), ways to compute (method.ts, route.ts), what they cost (cost.ts), tiles (tile.ts).

import type { Chain, ConversionGraph } from "./convert.ts";
import type { Cost, Tile } from "./cost.ts";
import { up } from "./cost.ts";
import { endpointName } from "../prove/endpoint.ts";
import { routesOf } from "./method.ts";
import type { Proof } from "../prove/prove.ts";
import type { Accumulation, Gemm, Layout, Lookups, RefusedPlan, Rounding, Route } from "./route.ts";
import { cheapestTiles } from "./tile.ts";
import type { Claim, DeviceModel, Restriction } from "../type.ts";

/** One proved conversion of a plan. */
export interface Edge {
  readonly from: string;
  readonly to: string;
  readonly guarantee: Claim["guarantee"];
  readonly origin: "claimed" | "derived";
  /** The id of its proof, which `proofs` has. */
  readonly proof: string;
}

/** What is done to an operand, and where: at the load of a model, in what produces it, or entering a memory. */
export type Step = { readonly at: string; readonly operand: "weights" | "activations" | "out" } & (
  | { readonly kind: "slice"; readonly rows: number; readonly k: number }
  | { readonly kind: "map"; readonly map: string; readonly parameters: Readonly<Record<string, number>> }
  | { readonly kind: "pad"; readonly dimension: "m" | "n" | "k"; readonly from: number; readonly to: number }
  | { readonly kind: "convert"; readonly proof: string }
);

/** One plan: all that a code generator needs, as plain data. Elements and memories are spoken of by name. */
export interface Schedule {
  /** What tells it from the other plans for the same product: `dot I8 x U8, weights in register, tiles`. */
  readonly name: string;
  readonly device: string;
  readonly gemm: {
    readonly activation: string;
    readonly weight: string;
    readonly accumulate: string;
    readonly out: string;
    readonly m: number;
    readonly n: number;
    readonly k: number;
  };
  readonly method: Route["method"];
  /** The machine's product; of a lookup without one, what an index stands for. */
  readonly product: Route["product"];
  readonly lookup: Lookups | null;
  readonly padded: { readonly m: number; readonly n: number; readonly k: number };
  /** One for each memory but the farthest, far to near. */
  readonly tiles: readonly Tile[];
  readonly weights: {
    readonly place: string;
    readonly chain: readonly Edge[];
    readonly groupSize: number | null;
    readonly layout: Layout;
  };
  readonly activations: {
    readonly place: Route["activations"]["place"];
    readonly chain: readonly Edge[];
    readonly groupSize: number | null;
  };
  readonly steps: readonly Step[];
  readonly proofs: readonly Pick<Proof, "id" | "claim" | "method">[];
  /** What is kept of each side, and what is rounded before it is multiplied. */
  readonly guarantee: {
    readonly weights: Chain["keeps"];
    readonly activations: Chain["keeps"];
    readonly rounding: Rounding;
  };
  readonly accumulation: Accumulation;
  /** What a loader checks of every block of weights before it relies on the plan. */
  readonly guards: readonly Restriction[];
  /** The plan to take where a guard does not hold; null where nothing is guarded. */
  readonly fallback: string | null;
  readonly cost: Cost;
}

export type Scheduled =
  | {
      readonly kind: "schedule";
      readonly chosen: Schedule;
      /** The best of every other way, in the order of the ranking. */
      readonly others: readonly Schedule[];
      readonly refused: readonly RefusedPlan[];
    }
  | { readonly kind: "impossible"; readonly refused: readonly RefusedPlan[] };

/**
 * Plans for a product, ranked. Deterministic. With `accept: "exact"`, plans that round weights or activations come
 * behind all that do not, whatever they cost, coarse ones last: they are chosen only where there is no other.
 * @param graph of the program that the formats are from; it keeps what it has proved
 * @param progress told the name of each plan as it is found or refused, since the proofs that it needs may take seconds
 */
export function schedule(
  gemm: Gemm,
  device: DeviceModel,
  graph: ConversionGraph,
  progress?: (name: string) => void,
): Scheduled {
  const plans: Schedule[] = [];
  const refused: RefusedPlan[] = [];
  const tooLarge = new Map<string, { reason: string; names: string[] }>();
  for (const found of routesOf(gemm, device, graph)) {
    progress?.(found.name);
    if ("reason" in found) {
      refused.push(found);
      continue;
    }
    const tiled = cheapestTiles(found.demand, device, found.levels);
    if ("memory" in tiled) {
      const { memory, needed, capacity } = tiled;
      const reason = `the smallest tile takes ${Math.ceil(needed)} bytes of ${memory}, which has ${capacity}`;
      const known = tooLarge.get(reason) ?? { reason, names: [] };
      known.names.push(found.name);
      tooLarge.set(reason, known);
      continue;
    }
    plans.push(planOf(gemm, device, found, tiled));
  }
  for (const { reason, names } of tooLarge.values()) {
    for (const name of names) refused.push({ name, reason, refutation: null });
  }
  const order = ({ guarantee }: Schedule): number =>
    gemm.accept === "rounded" ? 0 : ROUNDINGS.indexOf(guarantee.rounding);
  plans.sort((a, b) => order(a) - order(b) || a.cost.total - b.cost.total || complexity(a) - complexity(b));
  const unguarded = plans.find(({ guards }) => guards.length === 0)?.name ?? null;
  const [chosen, ...others] = plans.map((plan) => (plan.guards.length === 0 ? plan : { ...plan, fallback: unguarded }));
  if (chosen === undefined) return { kind: "impossible", refused };
  return { kind: "schedule", chosen, others, refused };
}

/** From the least to the most that is lost. */
const ROUNDINGS: readonly Rounding[] = ["none", "single", "coarse"];

/** Between plans of one cost, the one with fewer things to do comes first. */
function complexity({ steps, weights, activations }: Schedule): number {
  const { order, metadata } = weights.layout;
  return steps.length + (order === "rows" ? 0 : 1) + (metadata === "apart" ? 1 : 0) + activations.chain.length;
}

function planOf(
  gemm: Gemm,
  device: DeviceModel,
  route: Route,
  { tiles, cost }: { readonly tiles: readonly Tile[]; readonly cost: Cost },
): Schedule {
  const { m, n, k } = gemm;
  const [first] = tiles;
  const padded = first === undefined ? { m, n, k } : { m: up(m, first.m), n: up(n, first.n), k: up(k, first.k) };
  const { weights, activations, out } = route;
  const chains = [weights.chain, activations.chain, out];
  const proofs = new Map(chains.flatMap(({ steps }) => steps).map(({ proof }) => [proof.id, proof]));
  const layout = { ...weights.layout, n: first?.n ?? n, k: first?.k ?? k };
  return {
    name: route.name,
    device: device.name,
    gemm: {
      activation: endpointName(gemm.activation),
      weight: endpointName(gemm.weight),
      accumulate: gemm.accumulate.name,
      out: gemm.out.name,
      m,
      n,
      k,
    },
    method: route.method,
    product: route.product,
    lookup: route.lookup,
    padded,
    tiles,
    weights: { place: weights.place, chain: edgesOf(weights.chain), groupSize: weights.groupSize, layout },
    activations: {
      place: activations.place,
      chain: edgesOf(activations.chain),
      groupSize: activations.groupSize,
    },
    steps: stepsOf(gemm, device, route, tiles, padded, layout),
    proofs: [...proofs.values()].map(({ id, claim, method }) => ({ id, claim, method })),
    guarantee: { weights: weights.chain.keeps, activations: activations.chain.keeps, rounding: route.rounding },
    accumulation: route.accumulation,
    guards: weights.chain.steps.flatMap(({ proof }) => proof.guards),
    fallback: null,
    cost,
  };
}

function edgesOf({ steps }: Chain): readonly Edge[] {
  return steps.map(({ from, to, guarantee, origin, proof }) => ({
    from: endpointName(from),
    to: endpointName(to),
    guarantee,
    origin,
    proof: proof.id,
  }));
}

/** From the farthest memory to the nearest, and back with the result. */
function stepsOf(
  { m, n, k }: Gemm,
  device: DeviceModel,
  { weights, activations, out }: Route,
  tiles: readonly Tile[],
  padded: Schedule["padded"],
  layout: Layout,
): readonly Step[] {
  const steps: Step[] = [];
  const pad = (at: string, operand: Step["operand"], dimension: "m" | "n" | "k", from: number, to: number): void => {
    if (to > from) steps.push({ at, operand, kind: "pad", dimension, from, to });
  };
  const convert = (at: string, operand: Step["operand"], chain: Chain): void => {
    for (const { proof } of chain.steps) steps.push({ at, operand, kind: "convert", proof: proof.id });
  };
  // Rows as they are stored stay so; all else is made once.
  const isStored = layout.order === "rows" && weights.place !== "load";
  const far = device.memories[0]!.name;
  const at = isStored ? (tiles[0]?.memory ?? far) : "load";
  pad(at, "weights", "n", n, padded.n);
  pad(at, "weights", "k", k, padded.k);
  if (weights.place === "load") convert("load", "weights", weights.chain);
  if (layout.codes === "planes")
    steps.push({ at: "load", operand: "weights", kind: "map", map: "planes", parameters: { bits: layout.planes } });
  if (layout.metadata === "apart")
    steps.push({ at: "load", operand: "weights", kind: "map", map: "metadata apart", parameters: {} });
  if (layout.order === "tiles")
    steps.push({ at: "load", operand: "weights", kind: "map", map: "tiles", parameters: { n: layout.n, k: layout.k } });
  const enter = activations.place === "producer" ? "producer" : (tiles[0]?.memory ?? far);
  pad(enter, "activations", "m", m, padded.m);
  pad(enter, "activations", "k", k, padded.k);
  if (activations.place === "producer") convert("producer", "activations", activations.chain);
  for (const [i, tile] of tiles.entries()) {
    steps.push({ at: tile.memory, operand: "weights", kind: "slice", rows: tile.n, k: tile.k });
    steps.push({ at: tile.memory, operand: "activations", kind: "slice", rows: tile.m, k: tile.k });
    if (weights.place === tile.memory) {
      if (weights.transposes)
        steps.push({ at: tile.memory, operand: "weights", kind: "map", map: "transpose", parameters: { n: tile.n } });
      convert(tile.memory, "weights", weights.chain);
    }
    if (i === 0 && activations.place === "kernel") convert(tile.memory, "activations", activations.chain);
  }
  convert(far, "out", out);
  return steps;
}
