// A model in other storages with not one value changed: which conversions are proved, and the bytes of the new file piece
// by piece. A conversion is used only after the prover has shown that it keeps values, within the domain of the proof,
// which every block is checked for; and each piece is decoded before and after, and compared.
// Not here: proofs (ladder/prove/prove.ts), moving bits (ladder/prove/transcode.ts), whole matrices (storage.ts), rounding (quantize.ts).

import type { WeightTensor } from "../backend.ts";
import { decode } from "../ladder/emit/codec.ts";
import { listedNumber } from "../ladder/prove/form.ts";
import { type Proof, prove, type Refutation } from "../ladder/prove/prove.ts";
import { transcoderOf } from "../ladder/prove/transcode.ts";
import type { Claim, Element, Endpoint, Program, Restriction, Type } from "../ladder/type.ts";
import { type CarriedTypes, carriedPairs, FIRST_CARRIED_ID, isCarriedKey } from "./carried.ts";
import type { Gguf } from "./gguf.ts";
import { type GgufContent, type GgufPair, ggufPieces, pairsOf } from "./gguf-writer.ts";
import { ModelError, quoted } from "./metadata.ts";

/** A way from the bytes of one format to those of another that keeps every value. */
export interface Lossless {
  readonly from: Type;
  readonly to: Type;
  readonly proof: Proof;
  /** Values of the smallest run that is whole blocks of both. */
  readonly unitValues: number;
  /** Whole units of the target for whole units of the source; its blocks are in the domain of the proof. */
  recode(bytes: Uint8Array): Uint8Array;
}

export type Losslessness =
  | { readonly kind: "lossless"; readonly way: Lossless }
  | { readonly kind: "refused"; readonly claim: Claim; readonly refutation: Refutation };

const NOWHERE = { file: "", start: 0, end: 0 };

/**
 * The way from one type to another, proved: a repack where the bits are the same, else by value, and where that holds for
 * some codes of a scale alone, with these as its domain; or why there is none.
 * @param program what the prover may suggest instead
 */
export function losslessWay(from: Type, to: Type, program: Program): Losslessness {
  const target = endpointOf(to);
  // To blocks an element goes as blocks of one value, since elements and blocks are not compared with each other.
  const source: Endpoint = target.kind === "element" ? endpointOf(from) : { kind: "type", type: from };
  const repack = proved(
    { from: source, to: target, guarantee: "repack", domain: [], by: null, span: NOWHERE },
    program,
  );
  if (repack !== null) {
    const way = wayOf(from, to, repack, "repack");
    if (way !== null) return { kind: "lossless", way };
  }
  const claim: Claim = { from: source, to: target, guarantee: "value", domain: [], by: null, span: NOWHERE };
  const found = prove(claim, program);
  const run = found.kind === "refutation" ? found.run : null;
  const proof = found.kind === "proof" ? found : run && proved({ ...claim, domain: [run] }, program);
  const way = proof && wayOf(from, to, proof, "value");
  if (way !== null) return { kind: "lossless", way };
  if (found.kind === "refutation") return { kind: "refused", claim, refutation: found };
  const reason = "the proof names no place for each of its numbers";
  const none = { witness: null, run: null, normalRun: null, suggestion: null };
  return {
    kind: "refused",
    claim,
    refutation: { kind: "refutation", claim: found.claim, verdict: "undecided", reason, ...none },
  };
}

function proved(claim: Claim, program: Program): Proof | null {
  const found = prove(claim, program);
  return found.kind === "proof" ? found : null;
}

/** Types that are one element are that element. */
function endpointOf(type: Type): Endpoint {
  const element = plainElement(type);
  return element === null ? { kind: "type", type } : { kind: "element", element };
}

function plainElement({ blockSize, blockBytes, value }: Type): Element | null {
  if (blockSize !== 1 || value.kind !== "element" || value.field.element.bits !== 8 * blockBytes) return null;
  return value.field.element;
}

function wayOf(from: Type, to: Type, proof: Proof, guarantee: "repack" | "value"): Lossless | null {
  const element = guarantee === "value" ? plainElement(to) : null;
  if (element === null) {
    const transcoder = transcoderOf(from, to, guarantee);
    if (transcoder === null) return null;
    return { from, to, proof, unitValues: transcoder.unitValues, recode: (bytes) => transcoder.transcode(bytes) };
  }
  const store = storing(element);
  if (store === null) return null;
  return {
    from,
    to,
    proof,
    unitValues: from.blockSize,
    recode(bytes) {
      const values = new Float64Array((bytes.length / from.blockBytes) * from.blockSize);
      decode(from, bytes, values);
      return store(values);
    },
  };
}

/** Numbers that an element has as its codes; null for elements too wide to be listed that the machine does not have. */
function storing(element: Element): ((values: Float64Array) => Uint8Array) | null {
  if (
    element.kind === "float" &&
    element.special === "ieee" &&
    element.sign === "yes" &&
    element.subnormals === "yes"
  ) {
    const key = `${element.exponent} ${element.mantissa} ${element.bias}`;
    if (key === "8 23 127") return (values) => new Uint8Array(Float32Array.from(values).buffer);
    if (key === "11 52 1023") return (values) => new Uint8Array(values.slice().buffer);
  }
  const { bits } = element;
  if (bits > 16) return null;
  let codes: Map<number | "-0", number> | null = null;
  return (values) => {
    if (codes === null) {
      codes = new Map();
      for (let code = 2 ** bits - 1; code >= 0; code--) codes.set(keyOf(listedNumber(element, code, 0)), code);
    }
    const out = bits === 8 ? new Uint8Array(values.length) : new Uint16Array(values.length);
    for (let i = 0; i < values.length; i++) {
      const code = codes.get(keyOf(values[i]!));
      if (code === undefined) throw new RangeError(`${element.name} has no code for ${values[i]}`);
      out[i] = code;
    }
    return new Uint8Array(out.buffer);
  };
}

/** A map takes -0 for 0, and all NaN for one. */
function keyOf(x: number): number | "-0" {
  return Object.is(x, -0) ? "-0" : x;
}

// --- the plan of a file ---------------------------------------------------------------------------------------------

/** What becomes of one tensor. */
export interface TensorPlan {
  readonly tensor: WeightTensor;
  /** Null where it stays as it is. */
  readonly way: Lossless | null;
  /** The name of what it becomes, for people. */
  readonly name: string;
  /** The type id in the new file; null where the type decides. */
  readonly id: number | null;
  /** Bytes behind the tensor's own that are part of it, the first `shared` of them part of every unit. */
  readonly tail: { readonly bytes: number; readonly shared: number };
}

const NO_TAIL: TensorPlan["tail"] = { bytes: 0, shared: 0 };

/**
 * The plan for each tensor of a file where types become others.
 * @throws ModelError where the rows of a tensor are no multiple of the new type's block
 */
export function typePlans(gguf: Gguf, ways: ReadonlyMap<string, Lossless>): readonly TensorPlan[] {
  return [...gguf.tensors.values()].map((tensor): TensorPlan => {
    const way = ways.get(tensor.type.name) ?? null;
    const type = way?.to ?? tensor.type;
    const row = tensor.shape.at(-1)!;
    if (row % type.blockSize !== 0)
      throw new ModelError(
        fileOf(gguf, tensor),
        `tensor ${quoted(tensor.name)}`,
        `rows of ${row}`,
        `rows of ${type.name} are a multiple of its block of ${type.blockSize}; leave its type ${tensor.type.name} as it is`,
      );
    return { tensor, way, name: type.name, id: null, tail: NO_TAIL };
  });
}

export function fileOf(gguf: Gguf, { file }: WeightTensor): string {
  return gguf.weights.files[file] ?? gguf.metadata.file;
}

/** The texts of the types that a file carries, by name. */
const CARRIED_TEXT = /^lutra\.ladder\.source\.(.*)$/s;

/**
 * What the new file holds: the metadata as they are and in their order, but for the parts of a split file, the kind of
 * file where a type has changed, and the types that are carried.
 * @param carried new types with their texts; those of the old file that tensors still have stay
 * @param standard the types that come with Lutra, which no file carries
 * @throws ModelError where two texts of one name differ
 */
export function convertedContent(
  gguf: Gguf,
  plans: readonly TensorPlan[],
  carried: CarriedTypes,
  standard: Program,
): GgufContent {
  const { metadata } = gguf;
  const changes = plans.some(({ way, name, tensor }) => way !== null && name !== tensor.type.name);
  const leave = (key: string): boolean =>
    key.startsWith("split.") || isCarriedKey(key) || (changes && key === "general.file_type");
  const kept = [...new Set(plans.filter(({ way }) => way === null).map(({ tensor }) => tensor.type))];
  const own = kept.filter((type) => standard.types.get(type.name) !== type);
  const texts = new Map(carried.texts);
  for (const key of own.length === 0 ? [] : metadata.keys) {
    const name = CARRIED_TEXT.exec(key)?.[1];
    if (name === undefined) continue;
    const text = metadata.string(key);
    if (texts.has(name) && texts.get(name) !== text)
      throw new ModelError(
        metadata.file,
        key,
        "another text",
        `the new types need ${name} too; give one of the files another name`,
      );
    texts.set(name, text);
  }
  const all: CarriedTypes = { texts, types: [...own, ...carried.types] };
  const pairs: GgufPair[] = [...pairsOf(metadata, leave), ...(all.types.length === 0 ? [] : carriedPairs(all))];
  const tensors = plans.map(({ tensor, way, id, tail }) => {
    const type = way?.to ?? tensor.type;
    const values = tensor.shape.reduce((product, length) => product * length, 1);
    const units = values / type.blockSize;
    const bytes = tail.bytes === 0 ? units * type.blockBytes : tensor.byteLength + tail.bytes;
    const n = all.types.indexOf(type);
    const typeId = id ?? (n === -1 ? type.ids.get("gguf") : FIRST_CARRIED_ID + n);
    if (typeId === undefined) throw new Error(`the type ${type.name} has no id in GGUF files`);
    return { name: tensor.name, shape: tensor.shape, byteLength: bytes, typeId };
  });
  return { pairs, tensors, alignment: metadata.integer("general.alignment", 32) };
}

/** Numbers in one piece, about. */
const PIECE_VALUES = 65_536;

/** Told of each piece that has been put in its place. */
type Watch = (plan: TensorPlan, values: number) => void;

/**
 * The bytes of the new file, in order.
 * @param isChecked whether each piece is decoded before and after, and compared value by value
 * @throws ModelError where a block is outside of the domain of a proof, or a value is not what it was
 */
export function convertedPieces(
  gguf: Gguf,
  plans: readonly TensorPlan[],
  content: GgufContent,
  { isChecked, watch }: { readonly isChecked: boolean; readonly watch: Watch },
): AsyncGenerator<Uint8Array, void> {
  return ggufPieces(content, (index) => tensorPieces(gguf, plans[index]!, isChecked, watch));
}

async function* tensorPieces(
  gguf: Gguf,
  plan: TensorPlan,
  isChecked: boolean,
  watch: Watch,
): AsyncGenerator<Uint8Array, void> {
  const { tensor, way, tail } = plan;
  const { shared } = tail;
  const whole = { ...tensor, byteLength: tensor.byteLength + tail.bytes };
  const behind = gguf.weights.read(whole, tensor.byteLength, tail.bytes);
  // With shared bytes a unit is one block, and only its own bytes lie in the tensor one behind the other.
  const { blockSize, blockBytes } = way?.from ?? tensor.type;
  const unitValues = way?.unitValues ?? blockSize;
  const unitBytes = (unitValues / blockSize) * blockBytes - shared;
  const units = shared > 0 ? 1 : Math.max(1, Math.floor(PIECE_VALUES / unitValues));
  let done = 0;
  for (let begin = 0; begin < tensor.byteLength; begin += units * unitBytes) {
    const bytes = gguf.weights.read(tensor, begin, Math.min(units * unitBytes, tensor.byteLength - begin));
    const values = (bytes.length / unitBytes) * unitValues;
    yield await Promise.resolve(way === null ? bytes : recoded(gguf, plan, way, bytes, behind, done, isChecked));
    done += values;
    watch(plan, values);
  }
  if (behind.length > 0) yield behind;
}

function recoded(
  gguf: Gguf,
  { tensor, tail: { shared } }: TensorPlan,
  way: Lossless,
  bytes: Uint8Array,
  behind: Uint8Array,
  done: number,
  isChecked: boolean,
): Uint8Array {
  const before = new Uint8Array(bytes.length + shared);
  before.set(bytes);
  before.set(behind.subarray(0, shared), bytes.length);
  const fail = (what: string, allowed: string): never => {
    throw new ModelError(fileOf(gguf, tensor), `tensor ${quoted(tensor.name)}`, what, allowed);
  };
  for (const guard of way.proof.guards) {
    const outside = firstOutside(way.from, guard, before);
    if (outside === null) continue;
    const block = done / way.from.blockSize + outside.block;
    const advice = `lutra quantize --type ${way.to.name} writes the nearest values`;
    fail(`block ${block} has ${outside.name} = ${outside.code}`, `proved is ${way.proof.claim} alone; ${advice}`);
  }
  const after = way.recode(before);
  if (isChecked) {
    const at = firstDifference(way, before, after);
    // The proof says that this cannot be; were it so, a file with other values would be worse than none.
    if (at !== -1)
      fail(`value ${done + at} would be another number`, `${way.proof.claim} was proved; please report this`);
  }
  return after.subarray(0, after.length - shared);
}

/** The first block with a code outside of a run; null where all are inside. */
function firstOutside(
  { fields, blockBytes }: Type,
  guard: Restriction,
  bytes: Uint8Array,
): { readonly block: number; readonly name: string; readonly code: number } | null {
  const field = guard.field === null ? fields[0] : fields.find(({ name }) => name === guard.field);
  if (field === undefined || guard.kind !== "codes") throw new Error("a domain is a run of codes of a field");
  const { bits } = field.element;
  for (let block = 0; block * blockBytes < bytes.length; block++) {
    for (let e = 0; e < field.count; e++) {
      let code = 0;
      for (let k = bits - 1; k >= 0; k--) {
        const place = field.bit + e * bits + k;
        code = 2 * code + ((bytes[block * blockBytes + (place >> 3)]! >> (place & 7)) & 1);
      }
      if (code >= guard.low && code <= guard.high) continue;
      return { block, name: field.count === 1 ? field.name : `${field.name}[${e}]`, code };
    }
  }
  return null;
}

/** The first value that is not the same number, with its sign if it is zero; -1 where all are. */
function firstDifference({ from, to }: Lossless, before: Uint8Array, after: Uint8Array): number {
  const old = new Float64Array((before.length / from.blockBytes) * from.blockSize);
  const now = new Float64Array(old.length);
  decode(from, before, old);
  decode(to, after, now);
  for (let i = 0; i < old.length; i++) {
    const [a, b] = [old[i]!, now[i]!];
    if (a === b && (a !== 0 || Object.is(a, b))) continue;
    if (!(Number.isNaN(a) && Number.isNaN(b))) return i;
  }
  return -1;
}
