// Decoded values against definitions from outside: the Python packages gguf, numpy and ml_dtypes, and decoders.py, which
// packs and decodes in plain loops what no package does; codes against the rounding of ml_dtypes.
// oxlint-disable vitest/no-standalone-expect -- testWith is a test

import { readFileSync } from "node:fs";
import { describe, expect } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { encode } from "../../src/ladder/encode.ts";
import { elementValue, fromNumber, toNumber } from "../../src/ladder/exact.ts";
import { bindTensor } from "../../src/ladder/tensor.ts";
import type { Type } from "../../src/ladder/type.ts";
import { referenceValue } from "../../src/ladder/prove/rounded.ts";
import { python, testWith } from "../oracle/oracle.ts";
import { builtinTexts, programWith, typeNamed } from "./program.ts";

const program = programWith();

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

/** The same as the type's reference has it. */
function rounded(type: Type, bytes: Uint8Array): Float64Array {
  const { blockSize, blockBytes } = type;
  return Float64Array.from({ length: (bytes.length / blockBytes) * blockSize }, (_, i) => {
    const block = bytes.subarray(Math.floor(i / blockSize) * blockBytes);
    return toNumber(referenceValue(type, block, i % blockSize)!);
  });
}

/** The index of the first value whose bits differ, NaN payloads aside; -1 where there is none. */
function firstDifference(a: Float64Array, b: Float64Array): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  return a.findIndex((value, i) => !Object.is(value, b[i]));
}

/** Little-endian numbers, copied to where alignment does not matter. */
const float32s = (bytes: Uint8Array): Float64Array =>
  Float64Array.from(new Float32Array(Uint8Array.from(bytes).buffer));
const float64s = (bytes: Uint8Array): Float64Array => new Float64Array(Uint8Array.from(bytes).buffer);

describe("gguf", () => {
  const blocks = 256;
  // The package decodes no plain integers, and neither the types of activations nor the newest one.
  const gguf = [...program.types.values()].filter(
    ({ ids, name, blockSize }) =>
      ids.has("gguf") && (blockSize > 1 || name.includes("F")) && !["F64", "Q8_1", "Q8_K", "Q2_0"].includes(name),
  );

  /** Random blocks whose float fields are finite: their exponents are never all ones. */
  function finiteBlocks(type: Type, seed: number): Uint8Array {
    const count = Math.max(blocks, Math.ceil(4096 / type.blockSize));
    const bytes = randomBytes(count * type.blockBytes, seed);
    for (let b = 0; b < count; b++) {
      for (const { element, count: elements, bit } of type.fields) {
        if (element.kind !== "float" || element.special !== "ieee") continue;
        // The lowest exponent bit lies right above the mantissa.
        for (let e = 0; e < elements; e++) {
          const at = bit + e * element.bits + element.mantissa;
          bytes[b * type.blockBytes + Math.floor(at / 8)]! &= ~(1 << (at % 8));
        }
      }
    }
    // The scale of an IQ1_M lies in the top nibbles of its last four words.
    if (type.name === "IQ1_M") for (let b = 1; b <= count; b++) bytes[b * type.blockBytes - 1]! &= 0x7f;
    return bytes;
  }

  // gguf computes in f32: products of few bits come out exact, but beyond its range; sums are those of the reference.
  testWith(
    python(),
    "every type equals gguf.quants.dequantize on random blocks, with the reference's rounding",
    (py) => {
      expect(gguf.map(({ name }) => name).join(" ")).toBe(
        "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q1_0 Q2_K Q3_K Q4_K Q5_K Q6_K TQ2_0 TQ1_0 IQ4_NL IQ4_XS MXFP4 NVFP4 IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M",
      );
      const inputs = gguf.map((type, k) => ({ type, bytes: finiteBlocks(type, 77 + k) }));
      const script = `
import sys
import numpy as np
from gguf import GGMLQuantizationType, quants
out = sys.stdout.buffer
np.seterr(all="ignore")
for id, size, width in ${JSON.stringify(inputs.map(({ type, bytes }) => [type.ids.get("gguf"), bytes.length, type.blockBytes]))}:
    data = np.frombuffer(sys.stdin.buffer.read(size), dtype=np.uint8).reshape(-1, width)
    if id == 41:  # in the package's list of sizes, but without a decoder
        sign = np.where(np.unpackbits(data[:, 2:], axis=-1, bitorder="little") == 1, np.float32(1), np.float32(-1))
        out.write((data[:, :2].copy().view(np.float16).astype(np.float32) * sign).astype(np.float32).tobytes())
        continue
    values = quants.dequantize(data if id > 1 else data.view({0: np.float32, 1: np.float16}[id]), GGMLQuantizationType(id))
    out.write(values.astype(np.float32).tobytes())
`;
      const theirs = float32s(py.run(script, Buffer.concat(inputs.map(({ bytes }) => bytes))));
      let at = 0;
      for (const { type, bytes } of inputs) {
        const ours = type.reference === null ? decoded(type, bytes).map(Math.fround) : rounded(type, bytes);
        const difference = firstDifference(ours, theirs.subarray(at, at + ours.length));
        expect(difference, `${type.name}: the first value that differs`).toBe(-1);
        at += ours.length;
      }
      expect(at).toBe(theirs.length);
    },
  );

  testWith(python(), "the codebooks of grid.ladder are those that make-grid.py reads from the package", (py) => {
    const script = readFileSync(new URL("make-grid.py", import.meta.url), "utf8");
    expect(py.run(script).toString()).toBe(builtinTexts.get("grid.ladder"));
  });
});

describe("decoders.py", () => {
  interface Head {
    readonly name: string;
    readonly storage: string;
    readonly rows: number;
    readonly columns: number;
    readonly buffers: readonly number[];
    readonly count: number;
  }

  /** All of the base-3 bytes as one type, which the standard library has no use for. */
  const own = programWith(`
import "int.ladder"
import "table.ladder"
block AllTrits5[5] { b : U8 code c[i < 1] = b.bits(0 +: 8) value[i] = Trits5(c[0], i) }
`);

  function typeOf({ name, storage, rows, columns, buffers }: Head): Type {
    if (rows === 0) return typeNamed(own, name);
    const tensor = own.tensors.get(name);
    if (tensor === undefined) throw new Error(`the program has no tensor ${name}`);
    const binding = bindTensor(tensor, storage, rows, columns);
    if (binding.kind === "refused") throw new Error(binding.diagnostics.map(({ message }) => message).join());
    expect(binding.buffers.map(({ bytes }) => bytes)).toEqual(buffers);
    return binding.type;
  }

  testWith(python(), "every format equals what was packed", (py) => {
    const all = py.run(readFileSync(new URL("decoders.py", import.meta.url), "utf8"));
    const seen = new Set<string>();
    for (let at = 0; at < all.length;) {
      const line = all.indexOf("\n", at);
      const head: Head = JSON.parse(all.toString("utf8", at, line));
      const end = line + 1 + head.buffers.reduce((sum, bytes) => sum + bytes, 0);
      const ours = decoded(typeOf(head), all.subarray(line + 1, end));
      at = end + 8 * head.count;
      const theirs = float64s(all.subarray(end, at));
      // Zero times a negative scale is -0 here and there, but not where loops of integers made it.
      const plain = (values: Float64Array): Float64Array => values.map((x) => (x === 0 ? 0 : x));
      const name = `${head.name} ${head.storage}`;
      expect(firstDifference(plain(ours), plain(theirs)), `${name}: the first value that differs`).toBe(-1);
      seen.add(head.name);
    }
    const tensors = [...program.tensors.keys()].filter((name) => !seen.has(name));
    // The same declarations with other numbers for their tiles.
    expect(tensors).toEqual(["TL1_320_64", "TL2_320_96", "TL2_256_96"]);
  });
});

describe("ml_dtypes", () => {
  const elements: readonly (readonly [name: string, dtype: string, bits: number])[] = [
    ["F16", "np.float16", 16],
    ["BF16", "ml_dtypes.bfloat16", 16],
    ["E5M2", "ml_dtypes.float8_e5m2", 8],
    ["E4M3", "ml_dtypes.float8_e4m3", 8],
    ["E3M4", "ml_dtypes.float8_e3m4", 8],
    ["E4M3FN", "ml_dtypes.float8_e4m3fn", 8],
    ["E4M3FNUZ", "ml_dtypes.float8_e4m3fnuz", 8],
    ["E5M2FNUZ", "ml_dtypes.float8_e5m2fnuz", 8],
    ["E4M3B11FNUZ", "ml_dtypes.float8_e4m3b11fnuz", 8],
    ["E8M0", "ml_dtypes.float8_e8m0fnu", 8],
    ["E2M3", "ml_dtypes.float6_e2m3fn", 6],
    ["E3M2", "ml_dtypes.float6_e3m2fn", 6],
    ["E2M1", "ml_dtypes.float4_e2m1fn", 4],
  ];
  const own = programWith(`
element E4M3 = float(exponent: 4, mantissa: 3, bias: 7, special: ieee)
element E3M4 = float(exponent: 3, mantissa: 4, bias: 3, special: ieee)
element E4M3B11FNUZ = float(exponent: 4, mantissa: 3, bias: 11, special: fnuz)
import "float.ladder"
block All6[4] { x : E2M3[4] value[i] = x[i] }
block All6b[4] { x : E3M2[4] value[i] = x[i] }
block All4[2] { x : E2M1[2] value[i] = x[i] }
`);
  const typeNames: Readonly<Record<string, string>> = { E2M3: "All6", E3M2: "All6b", E2M1: "All4" };

  testWith(python(), "every code of every small float has the package's value", (py) => {
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
      const type = typeNamed(own, typeNames[name] ?? name);
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

  testWith(python(), "every number goes to the package's code: ties, subnormals, overflow, infinities", (py) => {
    const ieee = elements.filter(([name]) => name !== "E8M0");
    const perElement = 3000;
    const script = `
import sys
import numpy as np
import ml_dtypes
np.seterr(all="ignore")
random = np.random.default_rng(5)
for dtype, bits in [${ieee.map(([, dtype, bits]) => `(${dtype}, ${bits})`).join(", ")}]:
    codes = np.arange(2 ** bits, dtype=np.uint16 if bits == 16 else np.uint8)
    values = codes.view(dtype).astype(np.float32)
    values = np.sort(values[np.isfinite(values)])
    ties = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    some = random.choice(np.concatenate([values, ties, np.nextafter(ties, np.float32(1e30)), 2 * values, 1.25 * values[-20:]]), ${perElement - 6})
    x = np.concatenate([some.astype(np.float32), np.array([np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30], dtype=np.float32)])
    sys.stdout.buffer.write(x.astype(np.float32).tobytes())
    sys.stdout.buffer.write(x.astype(dtype).view(np.uint16 if bits == 16 else np.uint8).astype(np.float32).tobytes())
`;
    const theirs = float32s(py.run(script));
    for (const [k, [name]] of ieee.entries()) {
      const element = own.elements.get(name)!;
      const inputs = theirs.subarray(2 * k * perElement, (2 * k + 1) * perElement);
      const codes = theirs.subarray((2 * k + 1) * perElement, (2 * k + 2) * perElement);
      const value = (code: number): number => toNumber(elementValue(element, BigInt(code), 0));
      // Several codes are NaN: what counts is what they stand for.
      const ours = inputs.map((x) => value(Number(encode(element, fromNumber(x)))));
      const at = firstDifference(ours, codes.map(value));
      expect(at, `${name} of ${inputs[at]} is ${ours[at]}`).toBe(-1);
    }
  });
});
