// Bytes to numbers, whole runs of blocks at a time: exact.ts, fast. Three ways, the first that is right for the type:
// loops over its derived structure, its value expression in doubles, the exact evaluator rounded to a double.
// Not here: which bits make which code (layout.ts), what they mean (exact.ts), when doubles are exact (range.ts).

import { exactNumber, exactValue, toNumber } from "./exact.ts";
import { conditionAt, elementBits, firstBit, indexAt, indexOver, readsData } from "./expr.ts";
import {
  type Codes,
  type FloatField,
  type MappedCodes,
  type MappedStructure,
  mappedStructureOf,
  type MappedTerm,
  type Run,
} from "./layout.ts";
import { numbersOf, operandsAreExact, roundsOnce } from "./range.ts";
import type { Bits, Condition, Element, FloatElement, Index, Type, Value } from "./type.ts";

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
  const structure = mappedStructureOf(type);
  if (structure.kind === "float") return floatDecoder(structure.format);
  if (structure.kind === "affine" || structure.kind === "mapped") {
    const mapped = asMapped(structure);
    if (roundsOnce(mapped) && isFaithful(type.value)) return groupDecoder(type, mapped);
  }
  return operandsAreExact(type.value) ? expressionDecoder(type) : exactDecoder(type);
}

/** An affine structure is a mapped one without tables. */
function asMapped(structure: ReturnType<typeof mappedStructureOf> & { kind: "affine" | "mapped" }): MappedStructure {
  if (structure.kind === "mapped") return structure;
  const { codes, scale, offset } = structure;
  const unmapped = (term: typeof scale): MappedTerm => ({ ...term, codes: term.codes && { ...term.codes, map: null } });
  const shift = offset && unmapped(offset);
  return { ...structure, kind: "mapped", codes: { ...codes, map: null }, scale: unmapped(scale), offset: shift };
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
  if (value.kind !== "binary" || value.operator !== "*") return null;
  const left = floatFactors(value.left);
  const right = floatFactors(value.right);
  if (left === null || right === null) return null;
  const places = `${left} ${right}`.split(" ").filter((place) => place !== "");
  return places.toSorted((a, b) => Number(a) - Number(b)).join(" ");
}

function isPositive(value: Value): boolean {
  return value.kind === "constant" && value.significand > 0n;
}

/** A code, or an element that the structure has as a code, plus or minus constants and times positive ones. */
function isIntegerFactor(value: Value): boolean {
  if (value.kind === "code" || value.kind === "apply") return true;
  if (value.kind === "element") return value.field.element.kind !== "float" || value.field.element.bits <= 8;
  if (value.kind !== "binary") return false;
  if (value.operator === "*") return isPositive(value.left) && isIntegerFactor(value.right);
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

function groupDecoder(type: Type, { codes, groupSize, zero, scale, offset }: MappedStructure): Decoder {
  const { blockSize, blockBytes } = type;
  const groups = blockSize / groupSize;
  const raw = new Uint16Array(blockSize);
  const scales = new Float64Array(groups);
  const offsets = new Float64Array(groups);
  const readScales = termReader(scale, groups);
  const readOffsets = offset === null ? null : termReader(offset, groups);
  const steps = stepsOf(codes, zero);
  return (bytes, blocks, out) => {
    for (let b = 0; b < blocks; b++) {
      const base = b * blockBytes;
      gather(codes, bytes, base, raw);
      readScales(bytes, base, scales);
      readOffsets?.(bytes, base, offsets);
      for (let g = 0; g < groups; g++) {
        const from = g * groupSize;
        const to = b * blockSize + from;
        const s = scales[g]!;
        if (readOffsets === null) {
          // No addition here: adding a zero would turn -0 into 0.
          for (let i = 0; i < groupSize; i++) out[to + i] = s * steps[raw[from + i]!]!;
        } else {
          const o = offsets[g]!;
          for (let i = 0; i < groupSize; i++) out[to + i] = s * steps[raw[from + i]!]! + o;
        }
      }
    }
  };
}

/** What each code as it is stored counts: (code xor flip), or its entry in the map, less the zero. */
function stepsOf({ bits, flip, map }: MappedCodes, zero: number): Float64Array {
  return Float64Array.from({ length: 2 ** bits }, (_, raw) => (map === null ? raw ^ flip : map[raw ^ flip]!) - zero);
}

/** Fills one number for each group of the block at `base`. */
function termReader(term: MappedTerm, groups: number): (bytes: Uint8Array, base: number, into: Float64Array) => void {
  const { constant, fields, codes } = term;
  const common = (bytes: Uint8Array, base: number): number => {
    let product = constant;
    for (const { format, byte } of fields) product *= READERS[format](bytes, base + byte);
    return product;
  };
  if (codes === null) return (bytes, base, into) => into.fill(common(bytes, base));
  const steps = stepsOf(codes, codes.bias);
  const raw = new Uint16Array(groups);
  return (bytes, base, into) => {
    const factor = common(bytes, base);
    gather(codes, bytes, base, raw);
    for (let g = 0; g < groups; g++) into[g] = factor * steps[raw[g]!]!;
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

/** Elements of up to this width are decoded by a list of their values. */
const LISTED_BITS = 16;

/** A number out of the block at `base`, for its element i. */
type Read = (bytes: Uint8Array, base: number, i: number) => number;

/** Blocks whose places are worked out ahead; larger ones are bound tensors, whose places are worked out as they come. */
const MAX_LISTED = 65_536;

function expressionDecoder(type: Type): Decoder {
  const { blockSize, blockBytes } = type;
  const evaluate = compileValue(type.value, blockSize);
  return (bytes, blocks, out) => {
    for (let b = 0; b < blocks; b++) {
      for (let i = 0; i < blockSize; i++) out[b * blockSize + i] = evaluate(bytes, b * blockBytes, i);
    }
  };
}

/** The value in doubles, operation by operation as declared; operandsAreExact has shown that this is right. */
function compileValue(value: Value, size: number): Read {
  switch (value.kind) {
    case "constant": {
      const constant = toNumber(exactNumber(value.significand, value.exponent));
      return () => constant;
    }
    case "code":
      return compileBits({ kind: "code", code: value.code, index: value.index, width: value.code.bits.width }, size);
    case "element": {
      const { field, index } = value;
      const { element } = field;
      const part = (low: number, width: number): Read =>
        compileSlice(field, index, { kind: "constant", value: low }, width, size);
      if (element.kind !== "float" || element.bits <= LISTED_BITS)
        return compileElement(element, part(0, element.bits), null);
      // In two parts, since 64 bits are more than a double holds.
      const { mantissa, bits } = element;
      return compileFloat(element, part(0, mantissa), part(mantissa, bits - mantissa));
    }
    case "apply": {
      const lane = value.element.kind === "table" && value.element.lanes > 1 ? compileIndex(value.lane, size) : null;
      return compileElement(value.element, compileBits(value.bits, size), lane);
    }
    case "negate": {
      const operand = compileValue(value.operand, size);
      return (bytes, base, i) => -operand(bytes, base, i);
    }
    case "choose": {
      const [yes, no] = [compileValue(value.yes, size), compileValue(value.no, size)];
      const holds = compileCondition(value.condition, size);
      return (bytes, base, i) => (holds(bytes, base, i) ? yes : no)(bytes, base, i);
    }
    case "round":
      throw new Error("a value is exact; round stands in a reference only");
    case "binary": {
      const left = compileValue(value.left, size);
      const right = compileValue(value.right, size);
      if (value.operator === "*") return (bytes, base, i) => left(bytes, base, i) * right(bytes, base, i);
      if (value.operator === "+") return (bytes, base, i) => left(bytes, base, i) + right(bytes, base, i);
      return (bytes, base, i) => left(bytes, base, i) - right(bytes, base, i);
    }
  }
}

/** What an element makes of its code, by the list of its values where it is small. */
function compileElement(element: Element, raw: Read, lane: Read | null): Read {
  if (element.kind === "int") {
    const { flip, zero } = element;
    if (flip === 0) return (bytes, base, i) => raw(bytes, base, i) - zero;
    // The flip is the top bit; added or taken away, since xor ends at 31 bits.
    return (bytes, base, i) => {
      const code = raw(bytes, base, i);
      return (code < flip ? code + flip : code - flip) - zero;
    };
  }
  if (element.kind === "float" && element.bits > LISTED_BITS) {
    const one = 2 ** element.mantissa;
    const rest: Read = (bytes, base, i) => Math.floor(raw(bytes, base, i) / one);
    return compileFloat(element, (bytes, base, i) => raw(bytes, base, i) % one, rest);
  }
  const numbers = numbersOf(element);
  if (lane === null) return (bytes, base, i) => numbers[raw(bytes, base, i)]!;
  const lanes = element.kind === "table" ? element.lanes : 1;
  return (bytes, base, i) => numbers[raw(bytes, base, i) * lanes + lane(bytes, base, i)]!;
}

/** A float too wide to list, from its fraction and what lies above it. */
function compileFloat({ exponent, mantissa, bias, special }: FloatElement, fractionOf: Read, restOf: Read): Read {
  const [one, top] = [2 ** mantissa, 2 ** exponent - 1];
  const units = Float64Array.from({ length: 2 ** exponent }, (_, power) =>
    toNumber(exactNumber(1n, Math.max(power, 1) - bias - mantissa)),
  );
  return (bytes, base, i) => {
    const fraction = fractionOf(bytes, base, i);
    const rest = restOf(bytes, base, i);
    const power = rest % (top + 1);
    const sign = rest > top ? -1 : 1;
    if (special === "ieee" && power === top) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    if (special === "fn" && power === top && fraction === one - 1) return Number.NaN;
    if (special === "fnuz" && sign === -1 && power === 0 && fraction === 0) return Number.NaN;
    return sign * (power === 0 ? fraction : fraction + one) * units[power]!;
  };
}

function compileBits(bits: Bits, size: number): Read {
  switch (bits.kind) {
    case "slice":
      return compileSlice(bits.field, bits.element, bits.low, bits.width, size);
    case "concat": {
      const [high, low] = [compileBits(bits.high, size), compileBits(bits.low, size)];
      const up = 2 ** bits.low.width;
      return (bytes, base, i) => high(bytes, base, i) * up + low(bytes, base, i);
    }
    case "choose": {
      const [yes, no] = [compileBits(bits.yes, size), compileBits(bits.no, size)];
      const holds = compileCondition(bits.condition, size);
      return (bytes, base, i) => (holds(bytes, base, i) ? yes : no)(bytes, base, i);
    }
    case "code": {
      const of = compileBits(bits.code.bits, bits.code.count);
      if (bits.index.kind === "variable") return of;
      const index = compileIndex(bits.index, size);
      return (bytes, base, i) => of(bytes, base, index(bytes, base, i));
    }
  }
}

function compileCondition(condition: Condition, size: number): (bytes: Uint8Array, base: number, i: number) => boolean {
  if (readsData(condition.left) || readsData(condition.right))
    return (bytes, base, i) => conditionAt(condition, i, bytes.subarray(base));
  if (size > MAX_LISTED) return (_bytes, _base, i) => conditionAt(condition, i);
  const holds = Uint8Array.from({ length: size }, (_, i) => Number(conditionAt(condition, i)));
  return (_bytes, _base, i) => holds[i] === 1;
}

function compileSlice(field: Type["fields"][number], element: Index, low: Index, width: number, size: number): Read {
  const [at, shift] = [compileIndex(element, size), compileIndex(low, size)];
  if (readsData(element) || size > MAX_LISTED) {
    // Not every place has been checked before: firstBit does.
    return (bytes, base, i) =>
      unsigned(bytes, base, firstBit(field, at(bytes, base, i)) + shift(bytes, base, i), width);
  }
  const domain = Array.from({ length: size }, (_, i) => i);
  const entries = indexOver(element, domain).slice(0, size);
  const lows = indexOver(low, domain);
  // An entry outside lies in the arm of a condition that is not taken, or where a bound tensor was not checked.
  const start = entries.map((entry, i) =>
    entry >= 0 && entry < field.count ? field.bit + entry * field.element.bits + lows[i]! : Number.NaN,
  );
  return (bytes, base, i) => {
    const first = start[i]!;
    return unsigned(bytes, base, Number.isNaN(first) ? firstBit(field, at(bytes, base, i)) : first, width);
  };
}

function compileIndex(index: Index, size: number): Read {
  if (index.kind === "constant") return () => index.value;
  if (index.kind === "variable") return (_bytes, _base, i) => i;
  if (readsData(index) || size > MAX_LISTED) return compileArithmetic(index, size);
  const domain = Array.from({ length: size }, (_, i) => i);
  const listed = indexOver(index, domain).slice(0, size);
  return (_bytes, _base, i) => listed[i]!;
}

/** An index worked out as it comes: the same as indexAt, but for sums beyond 2^31, which no place reaches. */
function compileArithmetic(index: Index, size: number): Read {
  switch (index.kind) {
    case "constant":
    case "variable":
      return compileIndex(index, size);
    case "stored": {
      const raw = compileSlice(
        index.field,
        index.index,
        { kind: "constant", value: 0 },
        index.field.element.bits,
        size,
      );
      return compileElement(index.field.element, raw, null);
    }
    case "choose": {
      const [yes, no] = [compileIndex(index.yes, size), compileIndex(index.no, size)];
      const holds = compileCondition(index.condition, size);
      return (bytes, base, i) => (holds(bytes, base, i) ? yes : no)(bytes, base, i);
    }
    case "binary": {
      const [left, right] = [compileIndex(index.left, size), compileIndex(index.right, size)];
      switch (index.operator) {
        case "+":
          return (bytes, base, i) => left(bytes, base, i) + right(bytes, base, i);
        case "-":
          return (bytes, base, i) => left(bytes, base, i) - right(bytes, base, i);
        case "*":
          return (bytes, base, i) => left(bytes, base, i) * right(bytes, base, i);
        case "div":
          return (bytes, base, i) => Math.floor(left(bytes, base, i) / right(bytes, base, i));
        case "mod":
          return (bytes, base, i) => {
            const [a, b] = [left(bytes, base, i), right(bytes, base, i)];
            return a - b * Math.floor(a / b);
          };
      }
    }
  }
}

/** `width` bits from bit `start` of the block at `base`, as a number below 2^53. */
function unsigned(bytes: Uint8Array, base: number, start: number, width: number): number {
  let at = base + Math.floor(start / 8);
  const down = start % 8;
  let raw = bytes[at]! >> down;
  if (width < 8 - down) return raw & ((1 << width) - 1);
  for (let have = 8 - down; have < width; have += 8) {
    const byte = bytes[++at]!;
    // What is not wanted of the last byte is left out, so that nothing goes beyond 53 bits.
    raw += (width - have < 8 ? byte & ((1 << (width - have)) - 1) : byte) * 2 ** have;
  }
  return raw;
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
