// The conversion graph: endpoints are nodes, proved conversions are edges. Edges are the claims of a program, and those
// that nobody wrote but the prover discharges when asked. No edge is without a proof; what was refused keeps its reason.
// A chain is the cheapest path by the time that a machine needs for one value (Dijkstra). Not here: proofs as such
// (prove.ts), what one does with a chain (schedule.ts). The idea of types that convert is Ladder's tType (OSDI'24, 3.1).

import { endpointName, sourceOf, typeOf } from "../prove/endpoint.ts";
import { type ProvedStructure, provedStructure } from "../prove/equation.ts";
import { exactRun } from "../prove/exactness.ts";
import { choicesOf, elementKey } from "../prove/form.ts";
import { claimText, type Proof, prove, type Refutation } from "../prove/prove.ts";
import type { Claim, DeviceModel, Element, Endpoint, IntElement, Program, Restriction } from "../type.ts";
import { condense, leafWindow, misfit, targetOf, treeWindow } from "../prove/window.ts";
import { codeWork, elementWork, valueWork, type Work } from "./work.ts";

/** What a chain keeps: every number; integer codes with exact scales; or only the nearest number. */
export type Keeps = "value" | "structure" | "rounded";

/** A proved edge. */
export interface Conversion {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly guarantee: Claim["guarantee"];
  /** Written in the program, or found by asking the prover. */
  readonly origin: "claimed" | "derived";
  readonly proof: Proof;
  /** For one value. */
  readonly work: readonly Work[];
}

/** An edge that there is not. */
export interface RefusedConversion {
  readonly claim: string;
  readonly reason: string;
  /** With the counter-example, where the prover found one. */
  readonly refutation: Refutation | null;
}

/** Conversions one after another; none where the source is what is wanted. */
export interface Chain {
  readonly keeps: Keeps;
  readonly steps: readonly Conversion[];
}

export interface ConversionGraph {
  /** The integer codes and scales of an endpoint, or why there are none. */
  structureOf(end: Endpoint): ProvedStructure;
  /** The narrowest integer elements that hold those codes: as they are stored or a table has them, and from the zero. */
  codesOf(end: Endpoint): readonly IntElement[];
  /**
   * The cheapest chain to an element, or the conversions whose refusal is why there is none.
   * @param device whose arithmetic the values have to survive: where it may flush subnormals, none may arise
   * @param cost of a conversion of one value; infinite where the machine cannot do it
   */
  chain(
    from: Endpoint,
    to: Element,
    keeps: Keeps,
    device: DeviceModel,
    cost: (conversion: Conversion) => number,
  ): Chain | { readonly refused: readonly RefusedConversion[] };
}

/** A guard that fewer codes than one in so many pass is of no use: hardly a real scale is among them. */
const USEFUL_SHARE = 1 / 16;

const NOWHERE = { file: "", start: 0, end: 0 };

/** The graph of a program. Nothing is proved before it is asked for, and nothing twice. */
export function conversionGraph(program: Program): ConversionGraph {
  return new Graph(program);
}

interface Step {
  readonly key: string;
  readonly end: Endpoint;
  /** Whether what the chain has to do but once is done: the codes are taken out, or the number is rounded. */
  readonly done: boolean;
  readonly cost: number;
  readonly steps: readonly Conversion[];
}

class Graph implements ConversionGraph {
  readonly #program: Program;
  readonly #structures = new Map<string, ProvedStructure>();
  readonly #checkedBefore = new Map<string, Conversion | RefusedConversion>();
  readonly #guarded = new WeakMap<RefusedConversion, Conversion | RefusedConversion>();

  constructor(program: Program) {
    this.#program = program;
  }

  structureOf(end: Endpoint): ProvedStructure {
    const key = endpointKey(end);
    const known = this.#structures.get(key);
    if (known !== undefined) return known;
    const type = typeOf(end);
    const found: ProvedStructure =
      type === null ? { kind: "none", reason: "no small matrix of it can be looked at" } : provedStructure(type);
    this.#structures.set(key, found);
    return found;
  }

  chain(
    from: Endpoint,
    to: Element,
    keeps: Keeps,
    device: DeviceModel,
    cost: (conversion: Conversion) => number,
  ): Chain | { readonly refused: readonly RefusedConversion[] } {
    const goal = endpointKey({ kind: "element", element: to });
    const isPlainInteger = from.kind === "element" && from.element.kind === "int";
    const start = { key: endpointKey(from), end: from, cost: 0, steps: [] };
    const open: Step[] = [{ ...start, done: keeps === "value" || (keeps === "structure" && isPlainInteger) }];
    const closed = new Set<string>();
    const refused = new Map<string, RefusedConversion>();
    for (;;) {
      const best = takeCheapest(open);
      if (best === null) return { refused: [...refused.values()] };
      // Where numbers may be rounded, one that is kept is as good.
      if (best.key === goal && (best.done || keeps === "rounded")) return { keeps, steps: best.steps };
      const place = `${best.key} ${best.done}`;
      if (closed.has(place)) continue;
      closed.add(place);
      for (const found of this.#leaving(best.end, to, keeps, best.done, device)) {
        if ("reason" in found) {
          refused.set(found.claim, found);
          continue;
        }
        const price = cost(found);
        if (!Number.isFinite(price)) {
          const reason = `${device.name} has no operations on lanes of ${laneText(found)}`;
          refused.set(found.proof.claim, { claim: found.proof.claim, reason, refutation: null });
          continue;
        }
        const done = best.done || found.guarantee === keeps;
        const steps = [...best.steps, found];
        open.push({ key: endpointKey(found.to), end: found.to, done, cost: best.cost + price, steps });
      }
    }
  }

  /** What leaves a node on a chain of this kind: claims of the program first, then what may be derived. */
  *#leaving(
    from: Endpoint,
    goal: Element,
    keeps: Keeps,
    done: boolean,
    device: DeviceModel,
  ): Iterable<Conversion | RefusedConversion> {
    const key = endpointKey(from);
    const isCodes = keeps === "structure" && !done;
    const allowed = (guarantee: Claim["guarantee"]): boolean =>
      (guarantee === keeps && !done) || (!isCodes && (guarantee === "repack" || guarantee === "value"));
    for (const claim of this.#program.claims) {
      if (endpointKey(claim.from) !== key || !allowed(claim.guarantee)) continue;
      // What is rounded in the end is whatever there is: guards are for chains that keep numbers.
      if (keeps === "rounded" && claim.domain.length > 0) continue;
      if (keeps !== "structure" && !leadsTowards(claim.to, goal, device)) continue;
      yield this.#checked(claim, "claimed", keeps === "rounded" ? null : device);
    }
    const claim = (to: Element, guarantee: Claim["guarantee"]): Claim => {
      const domain: Restriction[] =
        guarantee === "rounded" && to.kind === "int" ? [{ kind: "finite", field: null }] : [];
      return { from, to: { kind: "element", element: to }, guarantee, domain, by: null, span: NOWHERE };
    };
    if (isCodes) {
      // Without codes, the prover says why.
      const codes = this.codesOf(from);
      for (const one of codes.length > 0 ? codes : [signed(8)])
        yield this.#checked(claim(one, "structure"), "derived", null);
      return;
    }
    // A block becomes what is wanted at once; an element may go by way of others that the machine knows.
    const by = from.kind === "element" && from.element.bits <= 16 ? device.natives : [];
    const targets = [goal, ...by.filter((one) => one.kind === goal.kind && elementKey(one) !== elementKey(goal))];
    for (const to of targets) {
      if (from.kind === "element" && elementKey(from.element) === elementKey(to)) continue;
      if (done) yield this.#valued(claim(to, "value"), device);
    }
    if (done) return;
    // A machine that flushes subnormals rounds them to zero, so that a value conversion is one that rounds.
    const whole = this.#checked(claim(goal, "value"), "derived", null);
    yield "reason" in whole ? this.#checked(claim(goal, "rounded"), "derived", null) : whole;
  }

  /** The value claim, or where it fails the same with a guard that leaves enough of the codes. */
  #valued(claim: Claim, device: DeviceModel): Conversion | RefusedConversion {
    const found = this.#checked(claim, "derived", device);
    if (!("reason" in found) || claim.from.kind === "element" || claim.to.kind !== "element") return found;
    const known = this.#guarded.get(found) ?? this.#guardedBy(claim, claim.to.element, found, device);
    this.#guarded.set(found, known);
    return known;
  }

  #guardedBy(claim: Claim, to: Element, found: RefusedConversion, device: DeviceModel): Conversion | RefusedConversion {
    const [source, target] = [sourceOf(claim.from), targetOf(to)];
    if (source === null || target === null) return found;
    // The prover has looked for a run of codes where it refuted; where only subnormals are in the way, it has not.
    const { refutation } = found;
    const hasSmallScale = source.type?.fields.some(({ element, count }) => element.bits <= 8 && count === 1) ?? false;
    const sought = refutation === null && hasSmallScale ? exactRun(source, target, [], true) : null;
    const run = refutation === null ? sought : mayFlush(device, to) ? refutation.normalRun : refutation.run;
    const field = run && source.type?.fields.find(({ name }) => name === run.field);
    if (run === null || field === null || field === undefined) return found;
    const share = (run.high - run.low + 1) / 2 ** field.element.bits;
    if (share < USEFUL_SHARE) {
      const where = `where ${run.field} is in ${run.low} .. ${run.high} all are`;
      const percent = `${(100 * share).toPrecision(2)} % of its codes`;
      return { ...found, reason: `${found.reason}; ${where}, but that is ${percent}` };
    }
    const guarded = this.#checked({ ...claim, domain: [{ ...run, kind: "codes" }] }, "derived", device);
    return "reason" in guarded ? found : guarded;
  }

  /** @param device that must keep the values; null where it may round them */
  #checked(claim: Claim, origin: Conversion["origin"], device: DeviceModel | null): Conversion | RefusedConversion {
    const flushes = device !== null && claim.to.kind === "element" && mayFlush(device, claim.to.element);
    const key = `${endpointKey(claim.from)} ${endpointKey(claim.to)} ${claimText(claim)} ${origin} ${flushes ? device.name : ""}`;
    const known = this.#checkedBefore.get(key) ?? this.#check(claim, origin, flushes ? device.name : null);
    this.#checkedBefore.set(key, known);
    return known;
  }

  #check(claim: Claim, origin: Conversion["origin"], flusher: string | null): Conversion | RefusedConversion {
    const { from, to, guarantee, domain } = claim;
    const proof = prove(claim, this.#program);
    if (proof.kind === "refutation") return { claim: proof.claim, reason: proof.reason, refutation: proof };
    const reason =
      flusher !== null && guarantee === "value" && to.kind === "element"
        ? subnormalReason(from, to.element, domain)
        : null;
    if (reason !== null) return { claim: proof.claim, reason: `${flusher} may take ${reason}`, refutation: null };
    const work = this.#workOf(from, to, guarantee);
    if (work === null)
      return { claim: proof.claim, reason: "the data decide how a value is computed", refutation: null };
    return { from, to, guarantee, origin, proof, work };
  }

  #workOf(from: Endpoint, to: Endpoint, guarantee: Claim["guarantee"]): readonly Work[] | null {
    if (to.kind !== "element") return null;
    if (from.kind === "element") return elementWork(from.element, to.element);
    const type = typeOf(from);
    if (type === null) return null;
    const structure = guarantee === "structure" ? this.structureOf(from) : null;
    if (structure?.kind === "proved") return codeWork(type, structure);
    return valueWork(type, to.element);
  }

  codesOf(from: Endpoint): readonly IntElement[] {
    if (from.kind === "element") return from.element.kind === "int" ? [from.element] : [];
    const found = this.structureOf(from);
    if (found.kind === "none") return [];
    return found.integers.map(({ low, high }) => {
      for (let bits = 1; ; bits++) {
        if (low >= 0 && high < 2 ** bits) return unsigned(bits);
        if (low < 0 && low >= -(2 ** (bits - 1)) && high < 2 ** (bits - 1)) return signed(bits);
      }
    });
  }
}

function unsigned(bits: number): IntElement {
  return { kind: "int", name: `U${bits}`, bits, flip: 0, zero: 0 };
}

function signed(bits: number): IntElement {
  return { kind: "int", name: `I${bits}`, bits, flip: 2 ** (bits - 1), zero: 2 ** (bits - 1) };
}

/** What an endpoint is, as text: elements by their parameters, formats by their names. */
function endpointKey(end: Endpoint): string {
  return end.kind === "element" ? elementKey(end.element) : `${end.kind} ${endpointName(end)}`;
}

function takeCheapest(open: Step[]): Step | null {
  let at = 0;
  for (let k = 1; k < open.length; k++) {
    const [a, b] = [open[k]!, open[at]!];
    if (a.cost < b.cost || (a.cost === b.cost && a.steps.length < b.steps.length)) at = k;
  }
  return open.splice(at, 1)[0] ?? null;
}

/** A claimed target is worth proving where it is what is wanted or what the machine computes in. */
function leadsTowards(to: Endpoint, goal: Element, device: DeviceModel): boolean {
  return to.kind === "element" && [goal, ...device.natives].some((one) => elementKey(one) === elementKey(to.element));
}

function mayFlush(device: DeviceModel, element: Element): boolean {
  return device.caveats.some((c) => c.kind === "flush_subnormals" && elementKey(c.element) === elementKey(element));
}

/** Why a value may be a subnormal of the target; null where none is. */
function subnormalReason(from: Endpoint, to: Element, domain: readonly Restriction[]): string | null {
  const [source, target] = [sourceOf(from), targetOf(to)];
  if (source === null || target === null) return "what cannot be looked at";
  for (const { leaves, tree } of source.forms) {
    const choices = leaves.map((leaf) => choicesOf(leaf, domain));
    const windows = leaves.map((leaf, l) => leafWindow(leaf, choices[l]!, domain));
    const few = condense(tree, windows, choices, null);
    if (misfit(treeWindow(few.tree, few.windows), target, true) !== null)
      return `subnormals of ${to.name} for zero, and values of ${source.name} are among them`;
  }
  return null;
}

function laneText({ work }: Conversion): string {
  return work.map(({ lanes, bits }) => `${bits}-bit ${lanes}s`).join(" and ");
}
