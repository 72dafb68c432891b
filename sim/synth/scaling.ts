// From one technology to another without cells for it: factors of area and energy after Stillmaker and Baas, as data with
// their source and a band; and nodes of a person's own, which state their factors. Delay and leakage have no factors in
// that data: a node that does not state them has no times and no leakage, and says so.
// Not here: the libraries themselves (library.ts), what is scaled (report.ts).

import { FactError, type Field } from "./field.ts";

/** Energy of a switch against voltage, in units of its own: a V^2 + b V + c. */
export type EnergyLaw = readonly [a: number, b: number, c: number];

export interface ScalingNode {
  readonly nm: number;
  readonly areaFactor: number;
  /** null where the source gives none; its neighbours are interpolated over it. */
  readonly energy: EnergyLaw | null;
}

export interface Scaling {
  readonly source: string;
  readonly uncertaintyPercent: number;
  /** From the largest to the smallest. */
  readonly nodes: readonly ScalingNode[];
}

/** Factors that turn figures at one node into figures at another. */
export interface ScaledNode {
  readonly name: string;
  /** The library that is synthesised for, as --node takes it. */
  readonly from: string;
  readonly voltageV: number;
  readonly areaFactor: number;
  readonly energyFactor: number;
  readonly delayFactor: number | null;
  readonly leakageFactor: number | null;
  readonly uncertaintyPercent: number;
  readonly source: string;
}

const MAX_NODES = 100;

/** A table of factors from parsed JSON; throws a FactError with the field's path. */
export function readScaling(root: Field): Scaling {
  const nodes = root
    .at("nodes")
    .list(MAX_NODES)
    .map((node) => ({
      nm: node.at("nm").number(0.1),
      areaFactor: node.at("areaFactor").number(1e-9),
      energy: node.at("energy").isNull() ? null : lawOf(node.at("energy")),
    }));
  for (const [i, { nm }] of nodes.entries())
    if (i > 0 && nm >= nodes[i - 1]!.nm) root.at("nodes").fail("nodes from the largest to the smallest");
  return { source: root.at("source").text(), uncertaintyPercent: root.at("uncertaintyPercent").number(0), nodes };
}

function lawOf(field: Field): EnergyLaw {
  const numbers = field.list(3).map((part) => part.number());
  if (numbers.length !== 3) field.fail("three numbers");
  return [numbers[0]!, numbers[1]!, numbers[2]!];
}

/** a V^2 + b V + c. */
export function energyAt([a, b, c]: EnergyLaw, voltageV: number): number {
  return a * voltageV * voltageV + b * voltageV + c;
}

/**
 * Area of the same circuit at `toNm` over that at `fromNm`.
 * @throws FactError for a node outside of the table
 */
export function areaFactor({ nodes }: Scaling, fromNm: number, toNm: number): number {
  const at = (nm: number): number => interpolate(nodes, nm, ({ areaFactor: factor }) => factor);
  return at(toNm) / at(fromNm);
}

/** Energy of the same circuit at one node and voltage over that at another; as `areaFactor` otherwise. */
export function energyFactor({ nodes }: Scaling, fromNm: number, fromV: number, toNm: number, toV: number): number {
  const known = nodes.filter(({ energy }) => energy !== null);
  const at = (nm: number, voltageV: number): number => {
    const value = interpolate(known, nm, ({ energy }) => energyAt(energy!, voltageV));
    if (!(value > 0))
      throw new FactError(
        `the energy law of ${nm} nm gives ${value} at ${voltageV} V; it holds near the node's own voltage`,
      );
    return value;
  };
  return at(toNm, toV) / at(fromNm, fromV);
}

function interpolate(nodes: readonly ScalingNode[], nm: number, valueOf: (node: ScalingNode) => number): number {
  const [first, last] = [nodes[0], nodes.at(-1)];
  if (first === undefined || last === undefined || nm > first.nm || nm < last.nm)
    throw new FactError(`${nm} nm; the table of factors goes from ${first?.nm} to ${last?.nm} nm`);
  const upper = nodes.findLast((node) => node.nm >= nm)!;
  const lower = nodes.find((node) => node.nm <= nm)!;
  if (upper.nm === lower.nm) return valueOf(upper);
  const share = (upper.nm - nm) / (upper.nm - lower.nm);
  return valueOf(upper) * (1 - share) + valueOf(lower) * share;
}

/** A node that the table gives, from a library's own node and voltage; no delays and no leakage. */
export function nodeFromTable(
  scaling: Scaling,
  from: { readonly name: string; readonly nodeNm: number; readonly voltageV: number },
  nm: number,
  voltageV: number,
): ScaledNode {
  return {
    name: `${nm}nm`,
    from: from.name,
    voltageV,
    areaFactor: areaFactor(scaling, from.nodeNm, nm),
    energyFactor: energyFactor(scaling, from.nodeNm, from.voltageV, nm, voltageV),
    delayFactor: null,
    leakageFactor: null,
    uncertaintyPercent: scaling.uncertaintyPercent,
    source: scaling.source,
  };
}

/** A person's own node from parsed JSON; delayFactor and leakageFactor may be null, where they are not known. */
export function readNode(root: Field): ScaledNode {
  const factor = (name: string): number | null => (root.at(name).isNull() ? null : root.at(name).number(1e-9));
  return {
    name: root.at("name").text(),
    from: root.at("from").text(),
    voltageV: root.at("voltageV").number(0.01),
    areaFactor: root.at("areaFactor").number(1e-9),
    energyFactor: root.at("energyFactor").number(1e-9),
    delayFactor: factor("delayFactor"),
    leakageFactor: factor("leakageFactor"),
    uncertaintyPercent: root.at("uncertaintyPercent").number(0),
    source: root.at("source").text(),
  };
}
