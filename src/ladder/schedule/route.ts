// One way to compute a matrix product on one machine, but for its tiles, and the places at which its conversions may
// happen: at load, at a nearer memory, in the producer of the activations; and the layouts of the weights that go with
// each. A way has its proofs, and the numbers from which its cost follows.
// Not here: which methods there are (method.ts), tiles and ranking (schedule.ts).

import type { Chain, ConversionGraph } from "./convert.ts";
import { type Demand, type Stream, transaction, workNs } from "./cost.ts";
import { gcd, lcm } from "../divisor.ts";
import type { Integers } from "../prove/equation.ts";
import type { MappedStructure } from "../layout.ts";
import type { Refutation } from "../prove/prove.ts";
import type { Level, Size } from "./tile.ts";
import type { DeviceModel, Element, Endpoint } from "../type.ts";
import { scaleWork, type Work } from "./work.ts";

/** out(m,n) = activation(m,k) . weight(n,k)^T, summed in `accumulate`. */
export interface Gemm {
  readonly activation: Endpoint;
  readonly weight: Endpoint;
  readonly accumulate: Element;
  readonly out: Element;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** exact: plans that round weights or activations count as a last resort; rounded: they count as any other. */
  readonly accept: "exact" | "rounded";
}

/** How the weights lie in the farthest memory. */
export interface Layout {
  /** rows: row by row; tiles: the tiles of the first level one behind the other, the rows of each side by side. */
  readonly order: "rows" | "tiles";
  /** packed: as they are stored; planes: bit by bit; converted: as what they are multiplied as. */
  readonly codes: "packed" | "planes" | "converted";
  /** Bit planes; 0 where codes are not taken apart. */
  readonly planes: number;
  /** Scales and the like: beside the codes of their tile, or in a buffer of their own. */
  readonly metadata: "inline" | "apart";
  readonly n: number;
  readonly k: number;
}

/** Tables that activations are made into. */
export interface Lookups {
  /** planes: sums of k activations, by one bit of each of k weights; values: products of one, by a whole code. */
  readonly kind: "planes" | "values";
  readonly planes: number;
  readonly k: number;
  readonly entries: number;
  readonly entry: string;
}

export interface Accumulation {
  /** The machine's own sums are of this element. */
  readonly element: string;
  /** So many products are summed exactly, whatever they are; null where every sum is rounded. */
  readonly exact: number | null;
  /** So many products are summed before the sum is scaled, or put by in a wider one. */
  readonly segment: number;
}

/**
 * What becomes of numbers before they are multiplied. none: nothing; single: weights go to the nearest of F32; coarse:
 * activations, tables or weights go to fewer bits.
 */
export type Rounding = "none" | "single" | "coarse";

/** A way to compute the product. */
export interface Route {
  readonly name: string;
  readonly method: "decode" | "lookup" | "dot";
  readonly product: {
    readonly activation: string;
    readonly weight: string;
    readonly accumulate: string;
  } & Size;
  readonly lookup: Lookups | null;
  readonly weights: {
    /** "load", "none" where nothing is converted, or the memory that they are converted for. */
    readonly place: string;
    readonly chain: Chain;
    readonly groupSize: number | null;
    readonly layout: Omit<Layout, "n" | "k">;
    /** Rows are turned into lanes on the way. */
    readonly transposes: boolean;
  };
  readonly activations: {
    readonly place: "producer" | "kernel" | "none";
    readonly chain: Chain;
    readonly groupSize: number | null;
  };
  readonly out: Chain;
  readonly rounding: Rounding;
  readonly accumulation: Accumulation;
  readonly demand: Demand;
  readonly levels: readonly Level[];
}

/** A way that is none, and why. */
export interface RefusedPlan {
  readonly name: string;
  readonly reason: string;
  /** The claim that does not hold, with its counter-example where there is one; null where it is no matter of numbers. */
  readonly refutation: Refutation | null;
}

/** What all ways of one product share. */
export interface Context {
  readonly gemm: Gemm;
  readonly device: DeviceModel;
  readonly graph: ConversionGraph;
  readonly stored: Stored;
  readonly out: Chain;
}

/** The weights as they are: bits of a value with all metadata, values of k that belong together. */
export interface Stored {
  readonly bits: number;
  readonly k: number;
  readonly structure: MappedStructure | null;
  readonly integers: readonly Integers[];
}

/** A method with its conversions, wherever they happen. */
export interface Method {
  readonly method: Route["method"];
  readonly product: Size & { readonly activation: Element; readonly weight: Element; readonly accumulate: Element };
  /** Products in a nanosecond. */
  readonly rate: number;
  readonly lookup: Lookups | null;
  readonly chain: Chain;
  /** Of one weight as it is multiplied. */
  readonly weightBits: number;
  readonly activations: Chain;
  /** Of one activation as it is multiplied, or its share of the tables. */
  readonly activationBits: number;
  readonly activationGroup: number | null;
  /** Beyond the chain. */
  readonly activationWork: readonly Work[];
  readonly groupSize: number | null;
  /** For the sum of one group. */
  readonly sumWork: readonly Work[];
  readonly sumBytes: number;
  readonly exact: boolean;
  readonly accumulation: Accumulation;
}

/** The ways of one method, one for each place and layout; too large ones as refused. */
export function* placed(name: string, context: Context, method: Method): Iterable<Route | RefusedPlan> {
  const { device, stored } = context;
  const [far, ...near] = device.memories.map((memory) => memory.name);
  const isLookup = method.lookup !== null;
  const hasWork = method.chain.steps.length > 0;
  const places = isLookup ? ["load"] : hasWork ? ["load", ...near] : ["none"];
  const metadataBits = stored.structure === null ? 0 : Math.max(0, stored.bits - stored.structure.codes.bits);
  const ways =
    method.activations.steps.length + method.activationWork.length > 0
      ? (["producer", "kernel"] as const)
      : (["none"] as const);
  for (const place of places) {
    const orders = place === "load" ? (["tiles"] as const) : (["rows", "tiles"] as const);
    for (const order of orders) {
      const isPacked = place !== "load" || isLookup;
      const apart = isPacked && order === "tiles" && metadataBits > 0;
      for (const metadata of apart ? (["inline", "apart"] as const) : (["inline"] as const)) {
        for (const way of ways) {
          const scales = metadata === "apart" ? " with scales apart" : "";
          const taken = way === "none" ? "" : `, activations in the ${way}`;
          const where = place === "none" ? "as they are" : `at ${place}`;
          const full = `${name}, weights ${where} in ${order}${scales}${taken}`;
          const found = routeOf(full, context, method, { place, order, metadata, way });
          const { capacity } = device.memories[0]!;
          const bits = found.demand.weights[0]!.reduce((sum, stream) => sum + stream.bits, 0);
          const bytes = Math.ceil((context.gemm.n * context.gemm.k * bits) / 8);
          if (capacity !== null && bytes > capacity) {
            const reason = `the weights take ${bytes} bytes of ${far}, which has ${capacity}`;
            yield { name: full, reason, refutation: null };
          } else yield found;
        }
      }
    }
  }
}

interface Choice {
  readonly place: string;
  readonly order: Layout["order"];
  readonly metadata: Layout["metadata"];
  readonly way: Route["activations"]["place"];
}

function routeOf(name: string, context: Context, method: Method, choice: Choice): Route {
  const { gemm, device, stored, out } = context;
  const { product, activationBits, activationGroup, weightBits, groupSize, lookup } = method;
  const { place, order, metadata, way } = choice;
  const { memories } = device;
  const last = memories.length - 1;
  const level = place === "none" ? last + 1 : place === "load" ? 0 : memories.findIndex((one) => one.name === place);
  const isLookup = lookup !== null;
  const packed = packedStreams(stored, choice, lookup);
  const converted = convertedStreams(method, stored);
  const weights = memories.slice(0, last).map((_, i) => (isLookup || i < level ? packed : converted));
  const raw = gemm.activation.kind === "element" ? gemm.activation.element.bits : endpointBits(gemm.activation);
  const made = activationBits + (activationGroup === null ? 0 : 32 / activationGroup);
  const activations = memories
    .slice(0, last)
    .map((_, i): readonly Stream[] => [
      { bits: way === "none" || (way === "kernel" && i === 0) ? raw : made, byRow: true },
    ]);

  // The smallest tiles that fill the transactions of the memories that they are in.
  const blockK = isLookup ? (groupSize ?? product.k) : stored.k;
  const activationK = gemm.activation.kind === "type" ? gemm.activation.type.blockSize : 1;
  const stepK = [blockK, product.k, groupSize ?? 1, activationK].reduce(lcm);
  const fragment = Math.round(product.n * product.k * weightBits);
  const vector = product.n * fill(fragment, transaction(memories[last]!));
  const isTransposed = order === "rows" && vector > 1;
  const middles = memories.slice(1, last).map((_, i) => weights[i + 1]!);
  let stepN = vector;
  for (const [i, streams] of middles.entries())
    stepN *= fill(streamBits(streams, stepN * stepK), transaction(memories[i + 1]!));
  if (order === "tiles") stepN *= fill(streamBits(weights[0]!, stepN * stepK), transaction(memories[0]!));
  const nearest: Level = {
    // Where there is no level between, tiles are read as blocks from the farthest memory.
    step: middles.length === 0 ? { m: product.m, n: stepN, k: stepK } : { m: product.m, n: vector, k: product.k },
    bytes: ({ m, n }) => m * n * method.sumBytes + (product.k * (n * weightBits + m * activationBits)) / 8,
  };
  const levels: Level[] = middles.map((streams, i) => ({
    step: { m: product.m, n: stepN, k: stepK },
    bytes: ({ m, n, k }) =>
      (n * k * streams.reduce((sum, { bits }) => sum + bits, 0) + m * k * activations[i + 1]![0]!.bits) / 8,
  }));
  levels.push(nearest);

  const chainWork = chainNs(method.chain, device);
  const turn = isTransposed ? workNs([{ lanes: "integer", bits: 8, count: 1 }], device) : 0;
  const scale =
    stored.structure === null ? [] : scaleWork({ kind: "proved", structure: stored.structure, integers: [] });
  const size = groupSize ?? stepK;
  const demand: Demand = {
    m: gemm.m,
    n: gemm.n,
    k: gemm.k,
    weights,
    activations,
    sumBytes: method.sumBytes,
    outBytes: gemm.out.bits / 8,
    product: 1 / method.rate,
    weight: { ns: isLookup ? 0 : chainWork + turn, level: isLookup || level > last ? (turn > 0 ? last : 0) : level },
    activation: {
      ns: chainNs(method.activations, device) + workNs(method.activationWork, device),
      level: way === "kernel" ? 1 : 0,
    },
    group: {
      size,
      sum: groupSize === null ? 0 : workNs(method.sumWork, device),
      scale: groupSize === null || (level === 0 && !isLookup) ? 0 : workNs(scale, device),
    },
  };
  const { activation, weight, accumulate, m, n, k } = product;
  const planes = lookup?.kind === "planes" ? lookup.planes : 0;
  const codes = planes > 0 ? "planes" : place === "load" && !isLookup ? "converted" : "packed";
  return {
    name,
    method: method.method,
    product: { activation: activation.name, weight: weight.name, accumulate: accumulate.name, m, n, k },
    lookup,
    weights: {
      place,
      chain: method.chain,
      groupSize: stored.structure?.groupSize ?? null,
      layout: { order, codes, planes, metadata },
      transposes: isTransposed,
    },
    activations: { place: way, chain: method.activations, groupSize: activationGroup },
    out,
    rounding: roundingOf(method),
    accumulation: method.accumulation,
    demand,
    levels,
  };
}

function roundingOf({ exact, chain, activations, weightBits }: Method): Rounding {
  if (!exact || activations.keeps === "rounded") return "coarse";
  return chain.keeps !== "rounded" ? "none" : weightBits >= 32 ? "single" : "coarse";
}

function packedStreams({ bits, structure }: Stored, choice: Choice, lookup: Lookups | null): readonly Stream[] {
  const byRow = choice.order === "rows";
  const codes = structure?.codes.bits ?? bits;
  const metadata = Math.max(0, bits - codes);
  const taken = lookup?.kind === "planes" ? lookup.planes : structure === null ? bits : codes;
  if (choice.metadata === "inline") return [{ bits: lookup === null ? bits : taken + metadata, byRow }];
  return [
    { bits: taken, byRow },
    { bits: metadata, byRow },
  ];
}

/** What is multiplied, with a scale in F32 for each group, and its offset where there is one. */
function convertedStreams({ chain, weightBits }: Method, { structure }: Stored): readonly Stream[] {
  const codes = { bits: weightBits, byRow: false };
  if (chain.keeps !== "structure" || structure === null) return [codes];
  const scales = (32 * (structure.offset === null ? 1 : 2)) / structure.groupSize;
  return [codes, { bits: scales, byRow: false }];
}

function endpointBits(end: Endpoint): number {
  return end.kind === "type" ? (end.type.blockBytes * 8) / end.type.blockSize : 32;
}

/** Bits of the largest stream for so many values. */
function streamBits(streams: readonly Stream[], values: number): number {
  return Math.round(Math.max(...streams.map(({ bits }) => bits)) * values);
}

/** How many pieces of so many bits it takes to fill whole transactions. */
function fill(bits: number, bytes: number): number {
  return (bytes * 8) / gcd(bytes * 8, Math.max(1, bits));
}

function chainNs({ steps }: Chain, device: DeviceModel): number {
  return steps.reduce((ns, { work }) => ns + workNs(work, device), 0);
}
