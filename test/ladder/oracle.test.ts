// Decoded values against the packages that define the formats for everyone else: gguf, numpy and ml_dtypes.
// oxlint-disable vitest/no-standalone-expect -- testWith is a test

import { describe, expect } from "vitest";

import { decode } from "../../src/ladder/codec.ts";
import type { Type } from "../../src/ladder/type.ts";
import { python, testWith } from "../oracle/oracle.ts";
import { programWith, typeNamed } from "./program.ts";

/** Reproducible bytes (xorshift32). */
function randomBytes(length: number, seed: number): Uint8Array {
  let state = seed;
  return Uint8Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state & 255;
  });
}

function decoded(type: Type, bytes: Uint8Array): Float64Array {
  const out = new Float64Array((bytes.length / type.blockBytes) * type.blockSize);
  decode(type, bytes, out);
  return out;
}

/** The index of the first value whose bits differ, NaN payloads aside; -1 where there is none. */
function firstDifference(a: Float64Array, b: Float64Array): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  return a.findIndex((value, i) => !Object.is(value, b[i]));
}

/** Little-endian numbers, copied to where alignment does not matter. */
const float32s = (bytes: Buffer): Float64Array => Float64Array.from(new Float32Array(Uint8Array.from(bytes).buffer));
const float64s = (bytes: Buffer): Float64Array => new Float64Array(Uint8Array.from(bytes).buffer);

describe("gguf", () => {
  const blocks = 512;
  const gguf = [...programWith().types.values()].filter((type) => type.ids.has("gguf") && type.name !== "I8");

  /** Random blocks whose float fields are finite: their exponents are never all ones. */
  function finiteBlocks(type: Type, seed: number): Uint8Array {
    const count = Math.max(blocks, Math.ceil(4096 / type.blockSize));
    const bytes = randomBytes(count * type.blockBytes, seed);
    for (let b = 0; b < count; b++) {
      for (const { element, count: elements, bit } of type.fields) {
        if (element.kind !== "float") continue;
        // The lowest exponent bit lies right above the mantissa.
        for (let e = 0; e < elements; e++) {
          const at = bit + e * element.bits + element.mantissa;
          bytes[b * type.blockBytes + Math.floor(at / 8)]! &= ~(1 << (at % 8));
        }
      }
    }
    return bytes;
  }

  // gguf computes in f32. F32 to Q8_0, Q6_K and TQ2_0 are one product of few bits and come out exact. Q4_1, Q5_1 and
  // Q4_K are sums of two products that are exact in f32 themselves (at most 21 bits), so the sum is rounded once.
  testWith(
    python(),
    "every type equals gguf.quants.dequantize on random blocks, the sums but for one rounding",
    (py) => {
      const inputs = gguf.map((type, k) => ({ type, bytes: finiteBlocks(type, 77 + k) }));
      const script = `
import sys
import numpy as np
from gguf import GGMLQuantizationType, quants
out = sys.stdout.buffer
for id, size, width in ${JSON.stringify(inputs.map(({ type, bytes }) => [type.ids.get("gguf"), bytes.length, type.blockBytes]))}:
    data = np.frombuffer(sys.stdin.buffer.read(size), dtype=np.uint8).reshape(-1, width)
    values = quants.dequantize(data if id > 1 else data.view({0: np.float32, 1: np.float16}[id]), GGMLQuantizationType(id))
    out.write(values.astype(np.float32).tobytes())
`;
      const theirs = float32s(py.run(script, Buffer.concat(inputs.map(({ bytes }) => bytes))));
      let at = 0;
      for (const { type, bytes } of inputs) {
        const exact = decoded(type, bytes);
        const sum = ["Q4_1", "Q5_1", "Q4_K"].includes(type.name);
        const ours = sum ? exact.map(Math.fround) : exact;
        const difference = firstDifference(ours, theirs.subarray(at, at + ours.length));
        expect(difference, `${type.name}: the first value that differs`).toBe(-1);
        at += ours.length;
      }
      expect(at).toBe(theirs.length);
    },
  );
});

describe("ml_dtypes and numpy", () => {
  const own = programWith(`
element E5M2 = float(exponent: 5, mantissa: 2, bias: 15, special: ieee)
element E4M3 = float(exponent: 4, mantissa: 3, bias: 7, special: ieee)
element E3M4 = float(exponent: 3, mantissa: 4, bias: 3, special: ieee)
element E4M3FN = float(exponent: 4, mantissa: 3, bias: 7, special: fn)
element E4M3FNUZ = float(exponent: 4, mantissa: 3, bias: 8, special: fnuz)
element E5M2FNUZ = float(exponent: 5, mantissa: 2, bias: 16, special: fnuz)
element E2M3 = float(exponent: 2, mantissa: 3, bias: 1, special: none)
element E3M2 = float(exponent: 3, mantissa: 2, bias: 3, special: none)
element E2M1 = float(exponent: 2, mantissa: 1, bias: 1, special: none)
block E2M3Packed[4] { x : E2M3[4] value[i] = x[i] }
block E3M2Packed[4] { x : E3M2[4] value[i] = x[i] }
block E2M1Packed[2] { x : E2M1[2] value[i] = x[i] }
`);

  testWith(python(), "every code of every small float has the package's value", (py) => {
    const elements: readonly (readonly [name: string, dtype: string, bits: number])[] = [
      ["F16", "np.float16", 16],
      ["BF16", "ml_dtypes.bfloat16", 16],
      ["E5M2", "ml_dtypes.float8_e5m2", 8],
      ["E4M3", "ml_dtypes.float8_e4m3", 8],
      ["E3M4", "ml_dtypes.float8_e3m4", 8],
      ["E4M3FN", "ml_dtypes.float8_e4m3fn", 8],
      ["E4M3FNUZ", "ml_dtypes.float8_e4m3fnuz", 8],
      ["E5M2FNUZ", "ml_dtypes.float8_e5m2fnuz", 8],
      ["E2M3Packed", "ml_dtypes.float6_e2m3fn", 6],
      ["E3M2Packed", "ml_dtypes.float6_e3m2fn", 6],
      ["E2M1Packed", "ml_dtypes.float4_e2m1fn", 4],
    ];
    const script = `
import sys
import numpy as np
import ml_dtypes
for dtype, bits in [${elements.map(([, dtype, bits]) => `(${dtype}, ${bits})`).join(", ")}]:
    codes = np.arange(2 ** bits, dtype=np.uint16 if bits == 16 else np.uint8)
    sys.stdout.buffer.write(codes.view(dtype).astype(np.float64).tobytes())
`;
    const theirs = float64s(py.run(script));
    let at = 0;
    for (const [name, , bits] of elements) {
      const type = typeNamed(own, name);
      // All codes in order, one after another from the lowest bit up.
      const bytes = new Uint8Array((2 ** bits * bits) / 8);
      for (let k = 0; k < 2 ** bits * bits; k++) {
        bytes[k >> 3]! |= ((Math.floor(k / bits) >> (k % bits)) & 1) << (k & 7);
      }
      const ours = decoded(type, bytes);
      expect(firstDifference(ours, theirs.subarray(at, at + ours.length)), `${name}: the first code that differs`).toBe(
        -1,
      );
      at += ours.length;
    }
    expect(at).toBe(theirs.length);
  });
});
