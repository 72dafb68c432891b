// The ways to compute one matrix product on one machine, but for their tiles: method, conversions of both sides and the
// place of each, layout of the weights. Methods: decode weights to floats and multiply; multiply integer codes (dot);
// look sums of activations up by bits of the weights, T-MAC's way (EuroSys'25), or products by whole codes (lookup).
// Each way has its proofs, and the numbers from which its cost follows; what is no way has a reason.
// Not here: tiles and ranking (schedule.ts).

import type { Chain, ConversionGraph, Keeps } from "./convert.ts";
import { type Demand, type Stream, transaction, workNs } from "./cost.ts";
import { endpointName } from "./endpoint.ts";
import type { Integers } from "./equation.ts";
import { decide, elementSource } from "./exactness.ts";
import type { MappedStructure } from "./layout.ts";
import type { Refutation } from "./prove.ts";
import { bindTensor } from "./tensor.ts";
import type { Level, Size } from "./tile.ts";
import type { DeviceModel, Element, Endpoint, Lookup, Multiply } from "./type.ts";
import { targetOf } from "./window.ts";
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

/** Activations are rounded with one scale for so many, or for a group of weights where that is longer. */
const MIN_ROUNDED_GROUP = 32;
/** Sizes beyond those of any matrix. */
const MAX_SIZE = 2 ** 24;
/** Tiles are sought in all nearer memories together. */
const MAX_MEMORIES = 4;
const FLOAT_OPERATION: Work = { lanes: "float", bits: 32, count: 1 };

/** Every way, and everything that is none, in the order of the machine's text. */
export function* routesOf(gemm: Gemm, device: DeviceModel, graph: ConversionGraph): Iterable<Route | RefusedPlan> {
  const all = { reason: unusable(gemm, device), name: "every plan", refutation: null };
  if (all.reason !== null) return yield { ...all, reason: all.reason };
  const stored = storedOf(gemm, graph);
  if ("reason" in stored) return yield { name: "every plan", refutation: null, ...stored };
  const out = chainTo({ kind: "element", element: gemm.accumulate }, gemm.out, ["value", "rounded"], device, graph);
  if ("refused" in out) return yield* out.refused.map((one) => ({ ...one, name: "every plan" }));
  const context = { gemm, device, graph, stored, out };
  for (const multiply of device.multiplies) {
    const { activation, weight, accumulate, rate } = multiply;
    const isBits = weight.kind === "int" && weight.bits === 1;
    const method = isBits ? "lookup" : weight.kind === "int" ? "dot" : "decode";
    const name = `${method} ${activation.name} x ${weight.name}`;
    const reason =
      rate === null ? `${device.name} gives no rate for this product` : sumReason(gemm, accumulate, method);
    if (reason !== null) yield { name, reason, refutation: null };
    else if (method === "decode") yield* decodes(name, multiply, context);
    else if (method === "dot") yield* dots(name, multiply, context);
    else yield* lookups(name, multiply, device.lookups.find(({ k }) => k === multiply.k) ?? null, context);
  }
  for (const lookup of device.lookups) {
    if (device.multiplies.some(({ weight, k }) => weight.bits === 1 && k === lookup.k)) continue;
    const name = `lookup ${lookup.entry.name} by ${lookup.index.name}`;
    if (lookup.rate === null) yield { name, reason: `${device.name} gives no rate for this lookup`, refutation: null };
    else yield* lookups(name, null, lookup, context);
  }
}

interface Context {
  readonly gemm: Gemm;
  readonly device: DeviceModel;
  readonly graph: ConversionGraph;
  readonly stored: Stored;
  readonly out: Chain;
}

/** What makes every plan impossible, as far as it is seen at once. */
function unusable(
  { m, n, k, activation }: Gemm,
  { name, memories, multiplies, lookups: tables }: DeviceModel,
): string | null {
  for (const [dimension, size] of Object.entries({ m, n, k })) {
    if (!Number.isInteger(size) || size < 1 || size > MAX_SIZE)
      return `${dimension} is ${size}; sizes are whole numbers from 1 to ${MAX_SIZE}`;
  }
  if (activation.kind === "tensor")
    return `activations are rows of an element or of blocks, and ${endpointName(activation)} is a format of whole matrices`;
  if (memories.length < 2) return `${name} has one memory; tiles need a nearer one, such as memory register(...)`;
  if (memories.length > MAX_MEMORIES)
    return `${name} has ${memories.length} memories; tiles are sought in up to ${MAX_MEMORIES}`;
  const [far] = memories;
  if (far?.bandwidth === null)
    return `memory ${far.name} of ${name} gives no bandwidth; add one in MB/s, such as bandwidth: 25000`;
  if (multiplies.length + tables.length === 0)
    return `${name} multiplies nothing; add a line such as multiply (activation: F32, weight: F32, accumulate: F32, rate: 1000)`;
  return null;
}

/** Why a machine's sums are not what is asked for; null where they are. */
function sumReason({ accumulate }: Gemm, sums: Element, method: Route["method"]): string | null {
  // Integer sums are exact, and scaled into whatever is asked for.
  if (sums.kind === "int") return null;
  if (accumulate.kind === "int") return `it sums in ${sums.name}, and ${accumulate.name} is asked for`;
  const wide = decide(elementSource(accumulate), targetOf(sums)!, []);
  if (wide.kind === "exact" || method === "lookup") return null;
  return `it sums in ${sums.name}, which is narrower than the ${accumulate.name} that is asked for`;
}

// --- what is stored -------------------------------------------------------------------------------------------------

/** The weights as they are: bits of a value with all metadata, values of k that belong together. */
interface Stored {
  readonly bits: number;
  readonly k: number;
  readonly structure: MappedStructure | null;
  readonly integers: readonly Integers[];
}

function storedOf({ weight, n, k }: Gemm, graph: ConversionGraph): Stored | { readonly reason: string } {
  const found = weight.kind === "element" ? null : graph.structureOf(weight);
  const proved = found?.kind === "proved" ? found : null;
  const rest = { structure: proved?.structure ?? null, integers: proved?.integers ?? [] };
  if (weight.kind === "element") return { bits: weight.element.bits, k: 1, ...rest };
  if (weight.kind === "type") {
    const { blockBytes, blockSize } = weight.type;
    return { bits: (blockBytes * 8) / blockSize, k: blockSize, ...rest };
  }
  const binding = bindTensor(weight.tensor, weight.storage, n, k);
  if (binding.kind === "refused")
    return { reason: binding.diagnostics[0]?.message ?? `${endpointName(weight)} allows no ${n} x ${k}` };
  const { blockBytes, blockSize } = binding.type;
  return { bits: (blockBytes * 8) / blockSize, k: proved?.structure.groupSize ?? 1, ...rest };
}

// --- chains ---------------------------------------------------------------------------------------------------------

/** The first of these kinds of chain that there is, or what was refused on the way to each. */
function chainTo(
  from: Endpoint,
  to: Element,
  kinds: readonly Keeps[],
  device: DeviceModel,
  graph: ConversionGraph,
): Chain | { readonly refused: readonly Omit<RefusedPlan, "name">[] } {
  const refused: Omit<RefusedPlan, "name">[] = [];
  for (const keeps of kinds) {
    const found = graph.chain(from, to, keeps, device, ({ work }) => workNs(work, device));
    if (!("refused" in found)) return found;
    for (const { claim, reason, refutation } of found.refused)
      refused.push({ reason: `${claim}: ${reason}`, refutation });
  }
  const unique = refused.filter((one, k) => refused.findIndex(({ reason }) => reason === one.reason) === k);
  if (unique.length === 0)
    unique.push({ reason: `nothing leads from ${endpointName(from)} to ${to.name}`, refutation: null });
  return { refused: unique };
}

function chainNs({ steps }: Chain, device: DeviceModel): number {
  return steps.reduce((ns, { work }) => ns + workNs(work, device), 0);
}

// --- methods --------------------------------------------------------------------------------------------------------

function* decodes(name: string, multiply: Multiply, context: Context): Iterable<Route | RefusedPlan> {
  const { gemm, device, graph, stored } = context;
  const activations = chainTo(gemm.activation, multiply.activation, ["value", "rounded"], device, graph);
  if ("refused" in activations) return yield* activations.refused.map((one) => ({ ...one, name }));
  let isWhole = false;
  for (const keeps of ["value", "structure", "rounded"] as const) {
    if (keeps === "structure" && gemm.weight.kind === "element") continue;
    if (keeps === "rounded" && isWhole) continue;
    const chain = chainTo(gemm.weight, multiply.weight, [keeps], device, graph);
    if ("refused" in chain) {
      yield* chain.refused.map((one) => ({ ...one, name: `${name} by ${keeps}` }));
      continue;
    }
    isWhole ||= keeps === "value" && chain.steps.every(({ proof }) => proof.guards.length === 0);
    const isCodes = keeps === "structure";
    const sums = isCodes ? 1 + (correction(stored, chain) ? 1 : 0) : 0;
    yield* placed(`${name} by ${keeps}`, context, {
      method: "decode",
      product: multiply,
      rate: multiply.rate! / 1000,
      lookup: null,
      chain,
      weightBits: multiply.weight.bits,
      activations,
      activationBits: multiply.activation.bits,
      activationGroup: null,
      activationWork: [],
      groupSize: isCodes ? stored.structure!.groupSize : null,
      sumWork: [{ ...FLOAT_OPERATION, count: sums }],
      sumBytes: ((isCodes ? 2 : 1) * multiply.accumulate.bits) / 8,
      exact: true,
      accumulation: {
        element: multiply.accumulate.name,
        exact: null,
        segment: isCodes ? Math.min(stored.structure!.groupSize, gemm.k) : gemm.k,
      },
    });
  }
}

function* dots(name: string, multiply: Multiply, context: Context): Iterable<Route | RefusedPlan> {
  const { gemm, device, graph, stored } = context;
  const chain = chainTo(gemm.weight, multiply.weight, ["structure"], device, graph);
  if ("refused" in chain) return yield* chain.refused.map((one) => ({ ...one, name }));
  const activations = chainTo(gemm.activation, multiply.activation, ["structure", "rounded"], device, graph);
  if ("refused" in activations) return yield* activations.refused.map((one) => ({ ...one, name }));
  const { low, high } = integersOf(gemm, stored, chain);
  const { accumulate } = multiply;
  const most = 128 * Math.max(-low, high, 1);
  const exact = Math.floor((2 ** (accumulate.bits - 1) - 1) / most);
  if (exact < multiply.k) {
    const reason = `${multiply.k} products of up to ${most} are ${multiply.k * most}, and ${accumulate.name} ends at ${2 ** (accumulate.bits - 1) - 1}`;
    return yield { name, reason, refutation: null };
  }
  const weightGroup = stored.structure?.groupSize ?? null;
  const activationGroup = activationGroupOf(gemm, activations, weightGroup, graph);
  const groupSize = common(weightGroup, activationGroup);
  if (groupSize === null && gemm.accumulate.kind === "int" && gemm.k > exact) {
    const reason = `sums of ${gemm.k} products of up to ${most} may leave ${accumulate.name}; ${exact} are safe`;
    return yield { name, reason, refutation: null };
  }
  const segment = Math.min(groupSize ?? gemm.k, gemm.k);
  const every = Math.floor(exact / multiply.k) * multiply.k;
  const spills = every < segment ? segment / every : 0;
  yield* placed(name, context, {
    method: "dot",
    product: multiply,
    rate: multiply.rate! / 1000,
    lookup: null,
    chain,
    weightBits: multiply.weight.bits,
    activations,
    activationBits: multiply.activation.bits,
    activationGroup,
    activationWork: [],
    groupSize,
    sumWork: [
      { ...FLOAT_OPERATION, count: 3 + (correction(stored, chain) ? 1 : 0) },
      { lanes: "integer", bits: 2 * accumulate.bits > 32 ? 32 : 2 * accumulate.bits, count: 2 * spills },
    ],
    sumBytes: accumulate.bits / 8 + 4,
    exact: true,
    accumulation: { element: accumulate.name, exact, segment: Math.min(segment, every) },
  });
}

function* lookups(
  name: string,
  multiply: Multiply | null,
  lookup: Lookup | null,
  context: Context,
): Iterable<Route | RefusedPlan> {
  const { gemm, device, graph, stored } = context;
  if (lookup === null)
    return yield { name, reason: `${device.name} has no lookup with k: ${multiply?.k}`, refutation: null };
  const [codes] = graph.codesOf(gemm.weight);
  const chain = chainTo(gemm.weight, codes ?? lookup.index, ["structure"], device, graph);
  if (codes === undefined || "refused" in chain) {
    const refused = "refused" in chain ? chain.refused : [];
    return yield* refused.map((one) => ({ ...one, name }));
  }
  const isInteger = graph.codesOf(gemm.activation).length > 0;
  const eight = device.natives.find((one) => one.kind === "int" && one.bits === 8 && one.zero > 0);
  const float = device.natives.toSorted((a, b) => b.bits - a.bits).find(({ kind }) => kind === "float");
  const to = multiply?.activation ?? (isInteger ? (eight ?? float) : (float ?? eight));
  if (to === undefined) return yield { name, reason: `${device.name} computes in no element`, refutation: null };
  const kinds = to.kind === "int" ? (["structure", "rounded"] as const) : (["value", "rounded"] as const);
  const activations = chainTo(gemm.activation, to, kinds, device, graph);
  if ("refused" in activations) return yield* activations.refused.map((one) => ({ ...one, name }));

  const { low, high } = integersOf(gemm, stored, chain);
  const planes = low < 0 ? Math.ceil(Math.log2(high - low + 1)) : Math.max(1, Math.ceil(Math.log2(high + 1)));
  const { index, entry, k } = lookup;
  const sums: Lookups = { kind: "planes", planes, k, entries: 2 ** index.bits, entry: entry.name };
  const map = stored.structure?.codes.map ?? null;
  const codeBits = stored.structure?.codes.bits ?? codes.bits;
  // A table of products needs no bits taken apart, but an entry for each code.
  const products: Lookups = { kind: "values", planes: 1, k: 1, entries: 2 ** codeBits, entry: entry.name };
  const kindsOfTable = map !== null && codeBits <= index.bits && multiply === null ? [sums, products] : [sums];
  for (const table of kindsOfTable) {
    const most = table.kind === "planes" ? 128 * k : 128 * Math.max(-low, high);
    const holds = entry.kind === "int" && to.kind === "int" && most <= 2 ** (entry.bits - 1);
    const weightGroup = stored.structure?.groupSize ?? null;
    const activationGroup = activationGroupOf(gemm, activations, weightGroup, graph);
    const groupSize = common(weightGroup, activationGroup);
    const perActivation = table.entries / table.k;
    const accumulate = multiply?.accumulate ?? null;
    const size = multiply === null ? { m: 1, n: lookup.lanes, k: table.k } : multiply;
    const rate = multiply === null ? lookup.rate! * table.k : multiply.rate!;
    yield* placed(`${name} of ${table.kind}`, context, {
      method: "lookup",
      product: {
        activation: to,
        weight: multiply?.weight ?? index,
        accumulate: accumulate ?? entry,
        m: size.m,
        n: size.n,
        k: size.k,
      },
      rate: rate / 1000 / table.planes,
      lookup: table,
      chain,
      weightBits: table.kind === "planes" ? table.planes : codeBits,
      activations,
      activationBits: perActivation * entry.bits,
      activationGroup: holds || entry.kind === "float" ? activationGroup : (activationGroup ?? MIN_ROUNDED_GROUP),
      // Each entry is another with one activation more, and is rounded where the table cannot hold it.
      activationWork: [{ lanes: "float", bits: 32, count: perActivation * (holds ? 1 : 2) }],
      groupSize: groupSize ?? (holds ? null : MIN_ROUNDED_GROUP),
      sumWork: [{ ...FLOAT_OPERATION, count: 3 + (correction(stored, chain) ? 1 : 0) }],
      // Sums of entries in twice their bits, and of groups in F32.
      sumBytes: ((accumulate?.bits ?? 2 * entry.bits) + 32) / 8,
      exact: holds,
      accumulation: {
        element: (accumulate ?? gemm.accumulate).name,
        exact: null,
        segment: Math.min(groupSize ?? gemm.k, gemm.k),
      },
    });
  }
}

/** Which of the integers that a structure may be read as the chain takes: the first that its element holds. */
function integersOf({ weight }: Gemm, { integers }: Stored, { steps }: Chain): Integers {
  const to = steps.find(({ guarantee }) => guarantee === "structure")?.to ?? weight;
  const element = to.kind === "element" && to.element.kind === "int" ? to.element : null;
  const [low, high] = element === null ? [0, 0] : [-element.zero, 2 ** element.bits - 1 - element.zero];
  return integers.find((one) => one.low >= low && one.high <= high) ?? { low, high, shift: 0 };
}

/** Whether sums of activations are needed: for a zero point that codes do not count from, or an offset. */
function correction(stored: Stored, chain: Chain): boolean {
  const { structure, integers } = stored;
  if (structure === null) return false;
  const step = chain.steps.find(({ guarantee }) => guarantee === "structure");
  const to = step?.to.kind === "element" && step.to.element.kind === "int" ? step.to.element : null;
  const taken = integers.find(({ low, high }) => to !== null && low >= -to.zero && high <= 2 ** to.bits - 1 - to.zero);
  return structure.offset !== null || structure.zero !== (taken?.shift ?? 0);
}

function activationGroupOf(
  { activation }: Gemm,
  { keeps }: Chain,
  weightGroup: number | null,
  graph: ConversionGraph,
): number | null {
  if (keeps === "rounded") return Math.max(MIN_ROUNDED_GROUP, weightGroup ?? 0);
  if (activation.kind === "element") return null;
  const found = graph.structureOf(activation);
  return found.kind === "proved" && keeps === "structure" ? found.structure.groupSize : null;
}

function common(a: number | null, b: number | null): number | null {
  return a === null || b === null ? (a ?? b) : gcd(a, b);
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

function lcm(a: number, b: number): number {
  return (a / gcd(a, b)) * b;
}

// --- places and layouts ---------------------------------------------------------------------------------------------

/** A method with its conversions, wherever they happen. */
interface Method {
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

function* placed(name: string, context: Context, method: Method): Iterable<Route | RefusedPlan> {
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
