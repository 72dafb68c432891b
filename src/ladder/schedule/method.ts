// The methods by which a machine may compute one matrix product: decode weights to floats and multiply; multiply integer
// codes (dot); look sums of activations up by bits of the weights, T-MAC's way (EuroSys'25), or products by whole codes
// (lookup). Each has its chains of proved conversions, and what is no method has a reason.
// Not here: where conversions happen and how weights lie (route.ts), tiles and ranking (schedule.ts).

import type { Chain, ConversionGraph, Keeps } from "./convert.ts";
import { workNs } from "./cost.ts";
import { gcd } from "../divisor.ts";
import { endpointName } from "../prove/endpoint.ts";
import type { Integers } from "../prove/equation.ts";
import { decide, elementSource } from "../prove/exactness.ts";
import { type Context, type Gemm, type Lookups, placed, type RefusedPlan, type Route, type Stored } from "./route.ts";
import { bindTensor } from "../tensor.ts";
import type { DeviceModel, Element, Endpoint, Lookup, Multiply } from "../type.ts";
import { targetOf } from "../prove/window.ts";
import type { Work } from "./work.ts";

/** Activations are rounded with one scale for so many, or for a group of weights where that is longer. */
const MIN_ROUNDED_GROUP = 32;
/** Of m, n and k: beyond those of any matrix. */
export const MAX_SIZE: number = 2 ** 24;
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
