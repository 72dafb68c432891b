// The prover: a claim that a conversion keeps something becomes a proof, or a refutation with the smallest
// counter-example that was found and what would work. Only proved conversions may be used; what is neither proved nor
// refuted is "undecided", and counts as not proved.
// What values equal means: the same number; NaN is NaN whatever its payload, infinities have their signs, and -0 is not
// 0 (but in a structure, which speaks of real numbers, and in a rounding to an element without -0).
// Not here: how it is found out (exactness.ts, embedding.ts, equation.ts, rounding.ts).

import type { Diagnostic } from "../diagnostic.ts";
import { embedded, type Embedding, repacked } from "./embedding.ts";
import { type Integers, provedStructure } from "./equation.ts";
import { endpointName, sourceOf, typeOf } from "./endpoint.ts";
import { decide, exactCodes, exactRun, firstDifference, isExact, type Source, type Witness } from "./exactness.ts";
import { indexAt } from "../expr.ts";
import { choicesOf, elementKey } from "./form.ts";
import { nearestOf } from "./rounding.ts";
import type { Claim, Element, Endpoint, IntElement, Program, Restriction } from "../type.ts";
import { DOUBLE, leafWindow, NUMBERS, showExact, targetOf } from "./window.ts";

/** The most products of int8 activations and integer weights that are summed without rounding or overflow. */
export interface Accumulation {
  readonly f32: number;
  readonly i32: number;
}

export interface Proof {
  readonly kind: "proof";
  /** `Q4_0 -> F32 : value`. */
  readonly claim: string;
  /** A hash of the claim, of what its types are, and of the method: the same as long as all of these are. */
  readonly id: string;
  /** What was enumerated, computed or argued, in words. */
  readonly method: string;
  /** What a loader has to check of a block before it relies on the proof: the domain of the claim. */
  readonly guards: readonly Restriction[];
  /** Of a structure: the sums of products with int8 activations; null for other claims. */
  readonly accumulation: Accumulation | null;
}

/** A run of raw codes of one scale (null: of the element itself). */
export type Run = Restriction & { readonly kind: "codes" };

export interface Refutation {
  readonly kind: "refutation";
  readonly claim: string;
  /** undecided: neither proved nor refuted. */
  readonly verdict: "refuted" | "undecided";
  /** What does not hold, or could not be shown, in words. */
  readonly reason: string;
  readonly witness: Witness | null;
  /** The longest run of codes of one scale for which the claim holds; null where there is none or it makes no sense. */
  readonly run: Run | null;
  /** The same where the target's subnormals must not arise either, for machines that may flush them to zero. */
  readonly normalRun: Run | null;
  /** What would work, as a sentence without its full stop; null where nothing is known. */
  readonly suggestion: string | null;
}

type Outcome =
  | { readonly kind: "proved"; readonly method: string; readonly accumulation?: Accumulation }
  | ({ readonly kind: "refuted" | "undecided" } & Partial<Omit<Refutation, "kind" | "verdict" | "claim">> & {
        readonly reason: string;
      });

/**
 * Proves or refutes a claim. Deterministic; the program is only asked for what would work instead.
 * @param program the one that the claim stands in
 */
export function prove(claim: Claim, program: Program): Proof | Refutation {
  const text = claimText(claim);
  const outcome = RULES[claim.guarantee](claim, program);
  if (outcome.kind !== "proved") {
    const { kind: verdict, ...found } = outcome;
    const rest = { witness: null, run: null, normalRun: null, suggestion: null };
    return { kind: "refutation", claim: text, verdict, ...rest, ...found };
  }
  const { method, accumulation = null } = outcome;
  const id = hash([text, keyOf(claim.from), keyOf(claim.to), method].join("\n"));
  return { kind: "proof", claim: text, id, method, guards: claim.domain, accumulation };
}

/** A claim in one line: `OCP_MXFP4 -> F16 : value when s in 104 .. 140`. */
export function claimText({ from, to, guarantee, domain, by }: Claim): string {
  const when = domain.map((r) => {
    const name = r.field ?? "code";
    return r.kind === "finite" ? `${name} finite` : `${name} in ${r.low} .. ${r.high}`;
  });
  const domainText = when.length === 0 ? "" : ` when ${when.join(", ")}`;
  return `${endpointName(from)} -> ${endpointName(to)} : ${guarantee}${domainText}${by === null ? "" : " by codes"}`;
}

/** A refutation as a finding about the text, at the place of the claim. */
export function refutationDiagnostic(claim: Claim, refutation: Refutation): Diagnostic {
  const { verdict, reason, witness, run, normalRun, suggestion } = refutation;
  const [from, to] = [endpointName(claim.from), endpointName(claim.to)];
  const message =
    verdict === "undecided" ? `cannot decide whether ${from} -> ${to} keeps its ${claim.guarantee}: ${reason}` : reason;
  const notes: string[] = [];
  if (witness !== null) notes.push(...witnessNotes(witness, claim));
  if (run !== null) {
    const inRun = (r: Run): string => `${r.field ?? "code"} in ${r.low} .. ${r.high}`;
    const flushed = normalRun === null ? "nowhere" : `for ${inRun(normalRun)}`;
    const same = normalRun !== null && normalRun.low === run.low && normalRun.high === run.high;
    notes.push(
      `it holds for ${inRun(run)}${same ? "" : `; where subnormals of ${to} may be flushed to zero, ${flushed}`}`,
    );
  }
  return { code: "claim", span: claim.span, message, notes, suggestion };
}

/** The codes of a counter-example, what they make, and the bytes of the block. */
function witnessNotes(witness: Witness, { from, to }: Claim): readonly string[] {
  const { at, codes, block, value, together, instead } = witness;
  const single = from.kind === "element";
  const lane = single && at > 0 ? ` at lane ${at}` : "";
  const named = codes.map(({ label, code, value: number }) => {
    const shown = showExact(number);
    if (single) return `${label} ${code}${lane} is ${shown}`;
    return shown === String(code) ? `${label} = ${shown}` : `${label} = ${shown} (code ${code})`;
  });
  const values = [{ at, value }, ...together].map((one) => `value ${one.at} ${showExact(one.value)}`);
  const made = single ? named.join() : `${shortList(named)} make ${shortList(values)}`;
  const target = endpointName(to);
  const it = together.length === 0 ? "it" : "them together";
  const got = instead === null ? `${target} has nothing for ${it}` : `in ${target} it becomes ${showExact(instead)}`;
  const notes = [`${made}; ${got}`];
  if (block === null) return notes;
  const isOne = from.kind !== "type" || block.length === from.type.blockBytes;
  const what = from.kind === "tensor" ? "smallest matrix is" : isOne ? "block is" : "blocks are";
  return [...notes, `the ${what} ${hexOf(block)}`];
}

function shortList(items: readonly string[]): string {
  return items.length <= 8 ? items.join(", ") : `${items.slice(0, 6).join(", ")} and ${items.length - 6} more`;
}

/** Bytes in hexadecimal; runs of four or more zeros as how many there are. */
function hexOf(block: Uint8Array): string {
  const hex = Array.from(block, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return hex.replaceAll(/(?:\b00 ?){4,}/g, (zeros) => `(${Math.ceil(zeros.length / 3)} x 00) `).trim();
}

// --- one rule for each guarantee ------------------------------------------------------------------------------------

type Rule = (claim: Claim, program: Program) => Outcome;

const RULES: Readonly<Record<Claim["guarantee"], Rule>> = {
  value: proveValue,
  repack: proveRepack,
  structure: proveStructure,
  rounded: proveRounded,
};

function proveValue(claim: Claim, program: Program): Outcome {
  const { from, to, domain, by } = claim;
  if (from.kind === "element" && to.kind === "element" && by !== null) {
    const wrong = byCodes(claim, from.element, to.element);
    return wrong ?? { kind: "proved", method: `all ${2 ** from.element.bits} codes compared with what they become` };
  }
  if (to.kind !== "element") {
    if (from.kind === "element") return mixed(from, to);
    const outcome = ofEmbedding(embedded(from, to, domain), claim);
    if (outcome.kind !== "refuted") return outcome;
    return { ...outcome, suggestion: wider(sourceOf(from), claim, program) ?? outcome.suggestion ?? null };
  }
  const source = sourceOf(from);
  const target = targetOf(to.element);
  if (source === null || target === null) return formless(source === null ? from : to);
  const decision = decide(source, target, domain);
  if (decision.kind === "exact") return { kind: "proved", method: decision.method };
  const codes = (run: ReturnType<typeof exactRun>): Run | null =>
    run && run.high > run.low ? { kind: "codes", ...run } : null;
  const run = codes(exactRun(source, target, domain));
  const normalRun = run && codes(exactRun(source, target, domain, true));
  const suggestion = workable(source, claim, run, program);
  if (decision.kind === "open") return { kind: "undecided", reason: decision.reason, run, normalRun, suggestion };
  let reason = `not every value of ${source.name} is a number of ${to.element.name}`;
  if (from.kind === "element" && from.element.bits <= 16 && domain.length === 0) {
    const { exact, finite } = exactCodes(from.element, target);
    if (exact < finite) reason += `: ${exact} of ${finite} finite codes are`;
  }
  return { kind: "refuted", reason, witness: decision.witness, run, normalRun, suggestion };
}

/** Another target, or a domain, with which the claim would hold. */
function workable(source: Source, claim: Claim, run: Run | null, program: Program): string | null {
  const [from, to] = [endpointName(claim.from), endpointName(claim.to)];
  const narrower =
    run === null
      ? `claim ${from} -> ${to} : rounded, which asks for the nearest only`
      : `add when ${run.field ?? "code"} in ${run.low} .. ${run.high}`;
  return [wider(source, claim, program), narrower].filter((way) => way !== null).join(", or ");
}

/** The narrowest float that has every value of a source; null where none has. */
function wider(source: Source | null, { from, domain }: Claim, program: Program): string | null {
  if (source === null) return null;
  const found = [...program.elements.values()]
    .filter((element) => element.kind === "float" && element.special === "ieee" && element.bits >= 16)
    .toSorted((a, b) => a.bits - b.bits)
    .filter((element) => from.kind !== "element" || elementKey(element) !== elementKey(from.element))
    .find((element) => isExact(source, targetOf(element)!, domain));
  return found === undefined
    ? null
    : `${found.name} has every value: convert ${endpointName(from)} -> ${found.name} : value`;
}

function proveRepack(claim: Claim): Outcome {
  const { from, to, by } = claim;
  if (from.kind === "element" && to.kind === "element") {
    const [a, b] = [from.element, to.element];
    if (a.bits !== b.bits) {
      const reason = `a code of ${a.name} has ${a.bits} bits, and one of ${b.name} has ${b.bits}; a repack moves bits, and makes none`;
      return { kind: "refuted", reason, suggestion: `${a.name} -> ${b.name} : value speaks of numbers alone` };
    }
    if (a.bits > 16) {
      if (elementKey(a) === elementKey(b)) return { kind: "proved", method: "the same element by another name" };
      return { kind: "undecided", reason: `${a.name} and ${b.name} have too many codes to compare` };
    }
    const wrong = byCodes(claim, a, b);
    if (wrong !== null) return wrong;
    const codes = Array.from({ length: 2 ** a.bits }, (_, code) => (by === null ? code : indexAt(by, code)));
    const twice = codes.find((code, k) => codes.indexOf(code) < k);
    if (twice === undefined) return { kind: "proved", method: `all ${codes.length} codes compared, one to one` };
    const reason = `two codes of ${a.name} become the code ${twice} of ${b.name}: ${codes.indexOf(twice)} and ${codes.lastIndexOf(twice)}`;
    return { kind: "refuted", reason };
  }
  if (from.kind === "element" || to.kind === "element") return mixed(from, to);
  return ofEmbedding(repacked(from, to, claim.domain), claim);
}

function ofEmbedding(embedding: Embedding, { from, to }: Claim): Outcome {
  if (embedding.kind === "kept") return { kind: "proved", method: embedding.method };
  if (embedding.kind === "open") return { kind: "undecided", reason: embedding.reason };
  const { reason, witness } = embedding;
  const suggestion =
    witness === null || witness.instead === null
      ? null
      : `${endpointName(from)} and ${endpointName(to)} are two formats; one of the declarations may be wrong`;
  return { kind: "refuted", reason, witness, suggestion };
}

/** The first code that becomes another number, by the claim's own formula or by staying as it is; null where none. */
function byCodes({ domain, by }: Claim, from: Element, to: Element): Outcome | null {
  const wrong = firstDifference(from, to, by === null ? (code) => code : (code) => indexAt(by, code), domain);
  if (wrong === null) return null;
  const [first] = wrong.codes;
  const code = Number(first?.code);
  const becomes = by === null ? code : indexAt(by, code);
  const reason = `code ${code} of ${from.name} becomes code ${becomes} of ${to.name}, which is another number`;
  return { kind: "refuted", reason, witness: wrong };
}

function mixed(from: Endpoint, to: Endpoint): Outcome {
  const [element, blocks] = from.kind === "element" ? [from, to] : [to, from];
  const reason = `${endpointName(element)} is an element, and ${endpointName(blocks)} a format of many values`;
  return { kind: "refuted", reason, suggestion: "convert elements to elements, and formats to elements or formats" };
}

function formless(end: Endpoint): Outcome {
  if (end.kind === "element") {
    const reason = `a code of ${end.element.name} stands for several numbers`;
    return { kind: "refuted", reason, suggestion: "name an element whose codes are one number each" };
  }
  return { kind: "undecided", reason: `the data decide how a value of ${endpointName(end)} is computed` };
}

// --- structure ------------------------------------------------------------------------------------------------------

function proveStructure({ from, to }: Claim, program: Program): Outcome {
  if (to.kind !== "element" || to.element.kind !== "int") return mixed(from, to);
  const type = typeOf(from);
  if (type === null) return formless(from);
  const name = endpointName(from);
  const found = provedStructure(type);
  if (found.kind === "none") return { kind: "refuted", reason: `${name} has no integer codes: ${found.reason}` };
  const { structure, integers: all } = found;
  const fits = all.find((integers) => inRange(integers, to.element as IntElement));
  if (fits === undefined) {
    const ranges = all.map(({ low, high }) => `${low} to ${high}`).join(", or ");
    const reason = `the codes of ${name} are ${ranges}, and ${to.element.name} holds ${rangeText(to.element)}`;
    const holding = [...program.elements.values()]
      .filter((element) => element.kind === "int")
      .toSorted((a, b) => a.bits - b.bits)
      .find((element) => all.some((integers) => inRange(integers, element)));
    const suggestion =
      holding === undefined ? null : `${holding.name} holds them: convert ${name} -> ${holding.name} : structure`;
    return { kind: "refuted", reason, suggestion };
  }
  const { low, high, shift } = fits;
  const less = shift === 0 ? "" : ` less ${shift}`;
  const group = `groups of ${structure.groupSize}`;
  const method = `value = scale * (code - zero)${structure.offset === null ? "" : " + offset"} multiplied out over the stored bits, the same for all ${type.blockSize} values; ${group}; codes${less} from ${low} to ${high}`;
  return { kind: "proved", method, accumulation: longestSums(low, high) };
}

function inRange({ low, high }: Integers, { bits, zero }: IntElement): boolean {
  return low >= -zero && high <= 2 ** bits - 1 - zero;
}

function rangeText({ bits, zero }: IntElement): string {
  return `${-zero} to ${2 ** bits - 1 - zero}`;
}

/**
 * The longest sum of products of int8 activations (-128 to 127) with integers from `low` to `high` that is exact
 * whatever they are and in whatever order: in f32 while no partial sum passes 2^24, in i32 while none leaves 32 bits.
 */
export function longestSums(low: number, high: number): Accumulation {
  const products = [-128 * low, -128 * high, 127 * low, 127 * high];
  const [least, most] = [Math.min(0, ...products), Math.max(0, ...products)];
  const size = Math.max(-least, most);
  const times = (limit: number, by: number): number => (by === 0 ? Number.MAX_SAFE_INTEGER : Math.floor(limit / by));
  return { f32: times(2 ** 24, size), i32: Math.min(times(2 ** 31 - 1, most), times(2 ** 31, -least)) };
}

// --- rounded --------------------------------------------------------------------------------------------------------

function proveRounded(claim: Claim): Outcome {
  const { from, to, domain, by } = claim;
  if (to.kind !== "element") return mixed(from, to);
  const source = sourceOf(from);
  if (source === null) return formless(from);
  if (from.kind !== "element" || (from.element.kind === "int" && from.element.bits > 16))
    return roundedOnce(source, to.element, domain);
  const codeOf = by === null ? null : (code: number): number => indexAt(by, code);
  const found = nearestOf(from.element, to.element, codeOf, domain);
  if (found.kind === "nearest") return { kind: "proved", method: found.method };
  if (found.kind === "open") return { kind: "undecided", reason: found.reason };
  return { kind: "refuted", reason: notNearest(source, to.element), witness: found.witness };
}

function notNearest({ name }: Source, to: Element): string {
  return `not every number of ${name} goes to the nearest of ${to.name}`;
}

/** A source whose values are doubles in its domain: what holds of all doubles holds of them, and NaN may not arise. */
function roundedOnce(source: Source, to: Element, domain: readonly Restriction[]): Outcome {
  const doubles = decide(source, DOUBLE, domain);
  if (doubles.kind !== "exact") {
    const reason = `a value of ${source.name} may have more bits than a double, and would be rounded twice`;
    return { kind: "undecided", reason, witness: doubles.kind === "lost" ? doubles.witness : null };
  }
  const before = `every value is a double (${doubles.method}), and is rounded once`;
  const found = nearestOf(DOUBLE.element, to, null, []);
  if (found.kind === "nearest") return { kind: "proved", method: `${before}: ${found.method}` };
  if (found.kind === "open") return { kind: "undecided", reason: found.reason };
  if (found.kind === "wrong") {
    // Whether the source has this very double is not known.
    const reason = `the double ${showExact(found.witness.value)} does not go to the nearest of ${to.name}`;
    return { kind: "undecided", reason };
  }
  const numbers = decide(source, NUMBERS, domain);
  if (numbers.kind === "exact") return { kind: "proved", method: `${before}, and none is NaN: ${found.method}` };
  const suggestion = finiteFields(source, domain);
  if (numbers.kind === "open") {
    const reason = `a value of ${source.name} may be NaN, and ${to.name} has none`;
    return { kind: "undecided", reason, suggestion };
  }
  const witness = { ...numbers.witness, instead: null };
  return { kind: "refuted", reason: notNearest(source, to), witness, suggestion };
}

/** The domain in which all that is stored is finite, as a suggestion; null where NaN may arise in that too. */
function finiteFields(source: Source, domain: readonly Restriction[]): string | null {
  const special = source.forms
    .flatMap(({ leaves }) => leaves)
    .filter((leaf) => {
      const { nan, infinite } = leafWindow(leaf, choicesOf(leaf, domain), domain);
      return leaf.field !== null && (nan || infinite);
    });
  const finite = [...new Set(special.map(({ field }) => field))].map((field): Restriction => ({
    kind: "finite",
    field,
  }));
  if (finite.length === 0 || !isExact(source, NUMBERS, [...domain, ...finite])) return null;
  return `add when ${finite.map(({ field }) => `${field} finite`).join(" and ")}`;
}

// --- proof ids ------------------------------------------------------------------------------------------------------

/** What an endpoint is, whatever its name is: the text that proofs of it depend on. */
function keyOf(end: Endpoint): string {
  const type = end.kind === "element" ? null : typeOf(end);
  if (end.kind === "element" || type === null) return end.kind === "element" ? jsonOf(end.element) : "";
  const { blockSize, blockBytes, fields, value } = type;
  return jsonOf({ blockSize, blockBytes, fields, value });
}

const hashes = new WeakMap<object, string>();

/** JSON with big integers as text, and tables by their hash. */
function jsonOf(of: object): string {
  return JSON.stringify(of, (_key, x: unknown) => {
    if (typeof x === "bigint") return String(x);
    if (typeof x === "number" && !Number.isFinite(x)) return String(x);
    if (!Array.isArray(x) || typeof x[0] !== "number" || x.length < 64) return x;
    let known = hashes.get(x);
    if (known === undefined) hashes.set(x, (known = hash(x.join())));
    return known;
  });
}

/** 64 bits in hexadecimal: two runs of FNV-1a (32 bits) with different starts. Not for secrets. */
function hash(text: string): string {
  let [a, b] = [0x811c9dc5, 0x01000193];
  for (let k = 0; k < text.length; k++) {
    const unit = text.charCodeAt(k);
    a = Math.imul(a ^ unit, 0x01000193);
    b = Math.imul(b ^ (unit + 0x9e37), 0x01000193);
  }
  return [a, b].map((part) => (part >>> 0).toString(16).padStart(8, "0")).join("");
}
