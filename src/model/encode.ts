// Numbers to bytes of a type: the opposite of ladder/emit/codec.ts, for every declaration that one of three ways fits. Plain
// elements are rounded; affine structures get the search of encode-search.ts with the form that follows from them; so
// do all other types whose form can be found out by trying (encode-probe.ts).
// Not here: which tensors get which type (quantize.ts).

import { decode } from "../ladder/emit/codec.ts";
import { structureOf } from "../ladder/layout.ts";
import type { FloatElement, Type } from "../ladder/type.ts";
import { floatCode, floatNumber, putFloat } from "./encode-bits.ts";
import { formOf } from "./encode-form.ts";
import { probedForm } from "./encode-probe.ts";
import { type BlockEncoder, searchingEncoder } from "./encode-search.ts";

/**
 * Encodes consecutive blocks such that the squared error is small: never larger than with the simple rule, by which
 * the levels of a group just reach its largest number. Every code that the type declares may be used.
 * @param values finite numbers, a whole number of blocks
 * @param bytes room for as many blocks
 * @returns the sum of (decoded - value)^2, where `decoded` is what ladder/emit/codec.ts gives for the bytes
 * @throws RangeError where the lengths do not fit each other, Error where there is no way for this type
 */
export function encode(type: Type, values: Float64Array, bytes: Uint8Array): number {
  const blocks = values.length / type.blockSize;
  if (!Number.isInteger(blocks))
    throw new RangeError(`${values.length} values are no whole number of ${type.name} blocks of ${type.blockSize}`);
  if (bytes.length !== blocks * type.blockBytes) {
    const needed = `${blocks} x ${type.blockBytes} = ${blocks * type.blockBytes} bytes`;
    throw new RangeError(`${blocks} blocks of ${type.name} take ${needed}, and there is room for ${bytes.length}`);
  }
  let encoder = encoders.get(type);
  if (encoder === undefined) encoders.set(type, (encoder = encoderOf(type)));
  bytes.fill(0);
  let error = 0;
  for (let b = 0; b < blocks; b++) error += encoder(values, b * type.blockSize, bytes, b * type.blockBytes);
  return error;
}

const encoders = new WeakMap<Type, BlockEncoder>();

function encoderOf(type: Type): BlockEncoder {
  const element = plainFloat(type);
  const rounding = element === null ? null : roundingEncoder(element);
  if (rounding !== null && isProved(type, rounding)) return rounding;
  const structure = structureOf(type);
  const form = structure.kind === "affine" ? formOf(type.blockSize, structure) : null;
  const affine = form === null ? null : searchingEncoder(form);
  if (affine !== null && isProved(type, affine)) return affine;
  const probed = probedForm(type);
  if (probed.kind === "none") throw new Error(`cannot quantize to ${type.name}: ${probed.reason}`);
  const encoder = searchingEncoder(probed.form);
  if (isProved(type, encoder)) return encoder;
  throw new Error(`cannot quantize to ${type.name}: its values are no product of a code's level and of scales`);
}

/**
 * Whether an encoder knows what its bytes mean, tried on blocks of sizes from 2^-12 to 2^12: the error that it gives is
 * that of the decoded values, up to the rounding of doubles.
 */
function isProved(type: Type, encoder: BlockEncoder): boolean {
  const { blockSize, blockBytes } = type;
  const values = new Float64Array(blockSize);
  const decoded = new Float64Array(blockSize);
  for (let size = -12; size <= 12; size++) {
    for (let i = 0; i < blockSize; i++) values[i] = 2 ** size * Math.sin(1 + i * (size + 20.5)) ** 3;
    const bytes = new Uint8Array(blockBytes);
    const claimed = encoder(values, 0, bytes, 0);
    decode(type, bytes, decoded);
    const squares = values.reduce((sum, value) => sum + value * value, 0);
    const actual = decoded.reduce((sum, value, i) => sum + (value - values[i]!) ** 2, 0);
    if (!(Math.abs(actual - claimed) <= 1e-9 * (actual + squares))) return false;
  }
  return true;
}

/** The element of a type that is nothing else, and a float of the usual kind. */
function plainFloat({ blockSize, value }: Type): FloatElement | null {
  if (blockSize !== 1 || value.kind !== "element") return null;
  const { element } = value.field;
  return element.kind === "float" && element.sign === "yes" && element.subnormals === "yes" ? element : null;
}

function roundingEncoder(element: FloatElement): BlockEncoder {
  return (values, at, bytes, base) => {
    const code = floatCode(element, values[at]!);
    putFloat(element, code, bytes, base * 8);
    return (floatNumber(element, code) - values[at]!) ** 2;
  };
}
