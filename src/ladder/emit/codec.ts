// Bytes to numbers, whole runs of blocks at a time: exact.ts, fast. The decode is the JavaScript that emit.ts gives, where
// its guarantee is that no number differs; elsewhere, and where a page forbids to run made code, it is the definition.
// Not here: how the text is made (emit.ts), what a value is (exact.ts), which bits make which code (layout.ts).

import { emit } from "./emit.ts";
import { exactValue, toNumber } from "../exact.ts";
import type { Type } from "../type.ts";

/**
 * Decodes consecutive blocks. out[b * blockSize + i] is the value of element i of block b, equal to
 * toNumber(exactValue(...)) bit for bit, NaN payloads aside: exact wherever the value is a double.
 * @param bytes a whole number of blocks of `type`
 * @param out as many numbers as the blocks hold
 * @throws RangeError where the lengths do not fit each other, or the data ask for an entry that a field does not have
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
  const emission = emit(type, { kind: "javascript" });
  // One rounding of an exact value is the nearest double, as toNumber gives it; IEEE 754 has the rest alike.
  if (emission.kind === "refused" || emission.guarantee.kind === "rounded") return exactDecoder(type);
  const run = runnable(emission.text);
  return run === null ? exactDecoder(type) : (bytes, _blocks, out) => run(bytes, out, outside);
}

type Outside = (index: number, count: number, field: string) => never;

/** The function of an emitted module; null where a content security policy keeps text from being run. */
function runnable(text: string): ((bytes: Uint8Array, out: Float64Array, outside: Outside) => void) | null {
  try {
    // The text is made of numbers and of names by the grammar of the language, so that it says what emit.ts says.
    // oxlint-disable-next-line typescript/no-implied-eval, no-new-func -- this is the one place that runs made code
    return new Function(text.replace("export function decode", "return function decode"))();
  } catch (error) {
    if (error instanceof EvalError) return null;
    throw error;
  }
}

function outside(index: number, count: number, field: string): never {
  const asked = Math.abs(index) > 2 ** 31 ? "one beyond 2^31" : `entry ${index}`;
  throw new RangeError(`${field} has entries 0 to ${count - 1}, and the data ask for ${asked}`);
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
