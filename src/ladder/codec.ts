// Bytes to numbers, whole runs of blocks at a time: exact.ts, fast. Three ways, the first that is right for the type:
// loops over its derived Structure, its value expression in doubles, the exact evaluator rounded to a double.
// Not here: which bits make which code (layout.ts), what they mean (exact.ts).

import { exactNumber, exactValue, toNumber } from "./exact.ts";
import { bitsAt, elementBits, indexAt } from "./expr.ts";
import { type AffineStructure, type Codes, type FloatField, type GroupTerm, type Run, structureOf } from "./layout.ts";
import type { FloatElement, Type, Value } from "./type.ts";

/**
 * Decodes consecutive blocks. out[b * blockSize + i] is the value of element i of block b, equal to
 * toNumber(exactValue(...)) bit for bit, NaN payloads aside: exact wherever the value is a double.
 * @param bytes a whole number of blocks of `type`
 * @param out as many numbers as the blocks hold
 * @throws RangeError where the lengths do not fit each other
 */
export function decode(type: Type, bytes: Uint8Array, out: Float64Array): void {
  const blocks = bytes.length / type.blockBytes;
  if (!Number.isInteger(blocks)) {
    const message = `${bytes.length} bytes are no whole number of ${type.name} blocks of ${type.blockBytes} bytes`;
    throw new RangeError(message);
  }
  if (out.length !== blocks * type.blockSize) {
    const values = `${blocks} x ${type.blockSize} = ${blocks * type.blockSize} values`;
    throw new RangeError(`${blocks} blocks of ${type.name} hold ${values}, and there is room for ${out.length}`);
  }
  let decoder = decoders.get(type);
  if (decoder === undefined) decoders.set(type, (decoder = decoderOf(type)));
  decoder(bytes, blocks, out);
}

type Decoder = (bytes: Uint8Array, blocks: number, out: Float64Array) => void;

const decoders = new WeakMap<Type, Decoder>();

function decoderOf(type: Type): Decoder {
  const structure = structureOf(type);
  if (structure.kind === "float") return floatDecoder(structure.format);
  if (structure.kind === "affine" && roundsOnce(structure) && isFaithful(type.value)) {
    return affineDecoder(type, structure);
  }
  return operandsAreExact(type.value) ? expressionDecoder(type) : exactDecoder(type);
}

// --- which way is right ---------------------------------------------------------------------------------------------

/** Numbers that are doubles: multiples of 2^low of size below 2^high, with at most `bits` significant bits. */
interface Range {
  readonly low: number;
  readonly high: number;
  readonly bits: number;
}

/**
 * Whether an expression in doubles rounds at its last operation at most: then it gives the double nearest to the exact
 * value, whatever the bytes.
 */
function operandsAreExact(value: Value): boolean {
  if (value.kind === "negate") return operandsAreExact(value.operand);
  if (value.kind !== "binary") return rangeOf(value) !== null;
  return rangeOf(value.left) !== null && rangeOf(value.right) !== null;
}

/** The same for scale * (code - zero), or for that plus offset. */
function roundsOnce({ codes, zero, scale, offset }: AffineStructure): boolean {
  const steps = plus(unsignedRange(codes.bits), numberRange(zero));
  const factor = termRange(scale);
  if (offset === null) return steps !== null && factor !== null;
  return times(factor, steps) !== null && termRange(offset) !== null;
}

const FIELD_RANGES: Readonly<Record<FloatField["format"], Range>> = {
  f16: { low: -24, high: 16, bits: 11 },
  bf16: { low: -133, high: 128, bits: 8 },
  f32: { low: -149, high: 128, bits: 24 },
};

/** The range of a term multiplied out from left to right, as termReader does. */
function termRange({ constant, fields, codes }: GroupTerm): Range | null {
  let range = numberRange(constant);
  for (const { format } of fields) range = times(range, FIELD_RANGES[format]);
  return codes === null ? range : times(range, plus(unsignedRange(codes.bits), numberRange(codes.bias)));
}

function unsignedRange(bits: number): Range | null {
  return exactRange({ low: 0, high: bits, bits });
}

/** The range of one double. */
function numberRange(x: number): Range | null {
  let low = 0;
  let whole = Math.abs(x);
  for (; !Number.isInteger(whole); low--) whole *= 2;
  const bits = whole.toString(2).length;
  return exactRange({ low, high: low + bits, bits });
}

function times(a: Range | null, b: Range | null): Range | null {
  if (a === null || b === null) return null;
  return exactRange({ low: a.low + b.low, high: a.high + b.high, bits: a.bits + b.bits });
}

function plus(a: Range | null, b: Range | null): Range | null {
  if (a === null || b === null) return null;
  const low = Math.min(a.low, b.low);
  const high = Math.max(a.high, b.high) + 1;
  return exactRange({ low, high, bits: high - low });
}

/** The range of a value whose evaluation in doubles never rounds, whatever the bytes; null where it may. */
function rangeOf(value: Value): Range | null {
  if (value.kind === "negate") return rangeOf(value.operand);
  if (value.kind === "constant") {
    const bits = value.significand.toString(2).length;
    return exactRange({ low: value.exponent, high: value.exponent + bits, bits });
  }
  if (value.kind === "code") return unsignedRange(value.code.bits.width);
  if (value.kind === "element") {
    const { element } = value.field;
    if (element.kind === "int") {
      const bits = Math.max(element.zero, 2 ** element.bits - 1 - element.zero).toString(2).length;
      return exactRange({ low: 0, high: bits, bits });
    }
    const { exponent, mantissa, bias, special } = element;
    const top = 2 ** exponent - (special === "ieee" ? 2 : 1);
    return exactRange({ low: 1 - bias - mantissa, high: Math.max(top, 1) - bias + 1, bits: mantissa + 1 });
  }
  const combine = value.operator === "*" ? times : plus;
  return combine(rangeOf(value.left), rangeOf(value.right));
}

function exactRange(range: Range): Range | null {
  const bits = Math.min(range.bits, range.high - range.low);
  return bits <= 53 && range.low >= -1074 && range.high <= 1024 ? { ...range, bits } : null;
}

/**
 * Whether scale * (code - zero) + offset in doubles also gives the signs of zeros and the NaN and infinities of the
 * declared expression: it is a product, or the sum or difference of two products over different float fields, and
 * every integer factor is one code plus a constant, so that its zero is a plus zero in both forms.
 */
function isFaithful(value: Value): boolean {
  if (value.kind === "binary" && value.operator !== "*" && !isIntegerFactor(value)) {
    const left = floatFactors(value.left);
    const right = floatFactors(value.right);
    return left !== null && right !== null && left !== right;
  }
  return floatFactors(value) !== null;
}

/**
 * The first bits of the float fields that a product multiplies, ascending, as a key; null where the value is no plain
 * product. Taken at i = 0, since a float field of an affine structure is the same for the whole block.
 */
function floatFactors(value: Value): string | null {
  if (isIntegerFactor(value)) return "";
  if (value.kind === "constant") return value.significand === 0n ? null : "";
  if (value.kind === "negate") return floatFactors(value.operand);
  if (value.kind === "element") return String(elementBits(value.field, indexAt(value.index, 0))[0]);
  if (value.kind === "code" || value.operator !== "*") return null;
  const left = floatFactors(value.left);
  const right = floatFactors(value.right);
  if (left === null || right === null) return null;
  const places = `${left} ${right}`.split(" ").filter((place) => place !== "");
  return places.toSorted((a, b) => Number(a) - Number(b)).join(" ");
}

/** A code or integer element, plus or minus constants. */
function isIntegerFactor(value: Value): boolean {
  if (value.kind === "code") return true;
  if (value.kind === "element") return value.field.element.kind === "int";
  if (value.kind !== "binary" || value.operator === "*") return false;
  if (value.right.kind === "constant") return isIntegerFactor(value.left);
  return value.operator === "+" && value.left.kind === "constant" && isIntegerFactor(value.right);
}

// --- by structure ---------------------------------------------------------------------------------------------------

const oneFloat = new Float32Array(1);
const oneFloatBits = new Uint32Array(oneFloat.buffer);

const READERS: Readonly<Record<FloatField["format"], (bytes: Uint8Array, at: number) => number>> = {
  f16(bytes, at) {
    const high = bytes[at + 1]!;
    const sign = high >= 128 ? -1 : 1;
    if ((high & 0x7c) === 0x7c)
      return (high & 3) === 0 && bytes[at] === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    // The fields of an f16 lie in an f32 13 bits up; the difference of the biases is 112. Holds for subnormals too.
    oneFloatBits[0] = ((high & 0x7f) << 21) | (bytes[at]! << 13);
    return sign * 2 ** 112 * oneFloat[0]!;
  },
  bf16(bytes, at) {
    oneFloatBits[0] = (bytes[at]! << 16) | (bytes[at + 1]! << 24);
    return oneFloat[0]!;
  },
  f32(bytes, at) {
    oneFloatBits[0] = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
    return oneFloat[0]!;
  },
};

function floatDecoder(format: FloatField["format"]): Decoder {
  const read = READERS[format];
  const width = format === "f32" ? 4 : 2;
  return (bytes, _blocks, out) => {
    for (let i = 0; i < out.length; i++) out[i] = read(bytes, i * width);
  };
}

function affineDecoder(type: Type, { codes, groupSize, zero, scale, offset }: AffineStructure): Decoder {
  const { blockSize, blockBytes } = type;
  const groups = blockSize / groupSize;
  const code = new Uint16Array(blockSize);
  const scales = new Float64Array(groups);
  const offsets = new Float64Array(groups);
  const readScales = termReader(scale, groups);
  const readOffsets = offset === null ? null : termReader(offset, groups);
  const { flip } = codes;
  return (bytes, blocks, out) => {
    for (let b = 0; b < blocks; b++) {
      const base = b * blockBytes;
      gather(codes, bytes, base, code);
      readScales(bytes, base, scales);
      readOffsets?.(bytes, base, offsets);
      for (let g = 0; g < groups; g++) {
        const from = g * groupSize;
        const to = b * blockSize + from;
        const s = scales[g]!;
        if (readOffsets === null) {
          // No addition here: adding a zero would turn -0 into 0.
          for (let i = 0; i < groupSize; i++) out[to + i] = s * ((code[from + i]! ^ flip) - zero);
        } else {
          const o = offsets[g]!;
          for (let i = 0; i < groupSize; i++) out[to + i] = s * ((code[from + i]! ^ flip) - zero) + o;
        }
      }
    }
  };
}

/** Fills one number for each group of the block at `base`. */
function termReader(term: GroupTerm, groups: number): (bytes: Uint8Array, base: number, into: Float64Array) => void {
  const { constant, fields, codes } = term;
  const common = (bytes: Uint8Array, base: number): number => {
    let product = constant;
    for (const { format, byte } of fields) product *= READERS[format](bytes, base + byte);
    return product;
  };
  if (codes === null) return (bytes, base, into) => into.fill(common(bytes, base));
  const { flip, bias } = codes;
  const code = new Uint16Array(groups);
  return (bytes, base, into) => {
    const factor = common(bytes, base);
    gather(codes, bytes, base, code);
    for (let g = 0; g < groups; g++) into[g] = factor * ((code[g]! ^ flip) - bias);
  };
}

/** Puts the bits of the runs of the block at `base` together; the flip is left to the reader. */
function gather({ runs }: Codes, bytes: Uint8Array, base: number, into: Uint16Array): void {
  for (const run of runs) gatherRun(run, bytes, base, into);
}

function gatherRun(run: Run, bytes: Uint8Array, base: number, into: Uint16Array): void {
  const { first, count, bit, step, shift } = run;
  const mask = (1 << run.width) - 1;
  // The runs of shift 0 come first and fill every entry, so they store; the others add their bits.
  const keep = shift === 0 ? 0 : 0xffff;
  if (step % 8 === 0) {
    const down = bit & 7;
    const stride = step >> 3;
    let at = base + (bit >> 3);
    for (let j = first; j < first + count; j++, at += stride) {
      into[j] = (into[j]! & keep) | (((bytes[at]! >> down) & mask) << shift);
    }
  } else {
    let at = bit;
    for (let j = first; j < first + count; j++, at += step) {
      into[j] = (into[j]! & keep) | (((bytes[base + (at >> 3)]! >> (at & 7)) & mask) << shift);
    }
  }
}

// --- by expression, and by definition -------------------------------------------------------------------------------

type Evaluate = (bytes: Uint8Array, base: number, i: number) => number;

function expressionDecoder(type: Type): Decoder {
  const { blockSize, blockBytes } = type;
  const evaluate = compile(type.value, blockSize);
  return (bytes, blocks, out) => {
    for (let b = 0; b < blocks; b++) {
      for (let i = 0; i < blockSize; i++) out[b * blockSize + i] = evaluate(bytes, b * blockBytes, i);
    }
  };
}

/** The value in doubles, operation by operation as declared; operandsAreExact has shown that this is right. */
function compile(value: Value, blockSize: number): Evaluate {
  const each = <T>(at: (i: number) => T): readonly T[] => Array.from({ length: blockSize }, (_, i) => at(i));
  if (value.kind === "constant") {
    const constant = toNumber(exactNumber(value.significand, value.exponent));
    return () => constant;
  }
  if (value.kind === "code") {
    const places = each((i) => bitsAt(value.code.bits, indexAt(value.index, i)));
    return (bytes, base, i) => unsigned(places[i]!, 0, places[i]!.length, bytes, base);
  }
  if (value.kind === "element") {
    const places = each((i) => elementBits(value.field, indexAt(value.index, i)));
    const { element } = value.field;
    if (element.kind === "float") return (bytes, base, i) => floatNumber(element, places[i]!, bytes, base);
    const { bits, flip, zero } = element;
    return (bytes, base, i) => {
      const raw = unsigned(places[i]!, 0, bits, bytes, base);
      // The flip is 0 or the top bit; added or taken away, since xor ends at 31 bits.
      return (flip === 0 ? raw : raw < flip ? raw + flip : raw - flip) - zero;
    };
  }
  if (value.kind === "negate") {
    const operand = compile(value.operand, blockSize);
    return (bytes, base, i) => -operand(bytes, base, i);
  }
  const left = compile(value.left, blockSize);
  const right = compile(value.right, blockSize);
  if (value.operator === "*") return (bytes, base, i) => left(bytes, base, i) * right(bytes, base, i);
  if (value.operator === "+") return (bytes, base, i) => left(bytes, base, i) + right(bytes, base, i);
  return (bytes, base, i) => left(bytes, base, i) - right(bytes, base, i);
}

/** The bits at places[from, to) as an unsigned number below 2^53. */
function unsigned(places: readonly number[], from: number, to: number, bytes: Uint8Array, base: number): number {
  let raw = 0;
  for (let k = to - 1; k >= from; k--) raw = raw * 2 + ((bytes[base + (places[k]! >> 3)]! >> (places[k]! & 7)) & 1);
  return raw;
}

function floatNumber(element: FloatElement, places: readonly number[], bytes: Uint8Array, base: number): number {
  const { exponent, mantissa, bias, special } = element;
  const fraction = unsigned(places, 0, mantissa, bytes, base);
  const power = unsigned(places, mantissa, mantissa + exponent, bytes, base);
  const sign = unsigned(places, mantissa + exponent, element.bits, bytes, base) === 1 ? -1 : 1;
  const top = power === 2 ** exponent - 1;
  if (special === "ieee" && top) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (special === "fn" && top && fraction === 2 ** mantissa - 1) return Number.NaN;
  if (special === "fnuz" && sign === -1 && power === 0 && fraction === 0) return Number.NaN;
  const significand = power === 0 ? fraction : fraction + 2 ** mantissa;
  return sign * significand * 2 ** (Math.max(power, 1) - bias - mantissa);
}

function exactDecoder(type: Type): Decoder {
  const { blockSize, blockBytes } = type;
  return (bytes, blocks, out) => {
    for (let b = 0; b < blocks; b++) {
      const block = bytes.subarray(b * blockBytes, (b + 1) * blockBytes);
      for (let i = 0; i < blockSize; i++) out[b * blockSize + i] = toNumber(exactValue(type, block, i));
    }
  };
}
