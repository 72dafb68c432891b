// decode is exactValue rounded to a double, for every type and all bytes: signs of zeros, infinities and NaN included.

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { decode } from "../../src/ladder/codec.ts";
import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { blockOf, oddTypes, programWith, typeNamed } from "./program.ts";

const types = [...programWith(oddTypes).types.values()];

test.each(types)("$name: the fast decode equals the exact evaluator, bit for bit", (type) => {
  fc.assert(
    fc.property(fc.array(blockOf(type), { minLength: 1, maxLength: 3 }), (blocks) => {
      const bytes = new Uint8Array(blocks.flatMap((block) => [...block]));
      const out = new Float64Array(blocks.length * type.blockSize).fill(12345);
      decode(type, bytes, out);
      const exact = blocks.flatMap((block) =>
        Array.from({ length: type.blockSize }, (_, i) => toNumber(exactValue(type, block, i))),
      );
      // toEqual on arrays of numbers tells -0 from 0 and takes NaN as NaN.
      expect([...out]).toEqual(exact);
    }),
    { numRuns: Math.ceil(2000 / type.blockSize) },
  );
});

test.each(["F32", "F16", "BF16", "U8", "I8"])("%s: every code of 16 bits decodes as defined", (name) => {
  const type = typeNamed(programWith(), name);
  const codes = type.blockBytes === 1 ? 256 : 65536;
  const bytes = new Uint8Array(codes * type.blockBytes);
  // The codes are the last two bytes: the low half of an F32 stays 0.
  for (let c = 0; c < codes; c++) {
    bytes[(c + 1) * type.blockBytes - 1] = type.blockBytes === 1 ? c : c >> 8;
    if (type.blockBytes > 1) bytes[(c + 1) * type.blockBytes - 2] = c & 255;
  }
  const out = new Float64Array(codes);
  decode(type, bytes, out);
  const differ = out.findIndex((value, c) => {
    const block = bytes.subarray(c * type.blockBytes, (c + 1) * type.blockBytes);
    return !Object.is(value, toNumber(exactValue(type, block, 0)));
  });
  expect(differ).toBe(-1);
});

test("F64: doubles are read as they are", () => {
  fc.assert(
    fc.property(fc.double(), (x) => {
      const out = new Float64Array(1);
      decode(typeNamed(programWith(), "F64"), new Uint8Array(Float64Array.of(x).buffer), out);
      expect(out[0]).toBe(x);
    }),
  );
});

test("constants down to the smallest double decode as defined", () => {
  // 39 factors of 2^-27, and then the last that a double still holds.
  const factors = Array.from({ length: 39 }, () => "0.000000007450580596923828125").join(" * ");
  const text = `import "int.ladder"\nblock Tiny[2] { q : I8[2] value[i] = ${factors} * 0.000000476837158203125 * q[i] }`;
  const out = new Float64Array(2);
  decode(typeNamed(programWith(text), "Tiny"), Uint8Array.of(3, 0x80), out);
  expect([...out]).toEqual([3 * 2 ** -1074, -128 * 2 ** -1074]);
});

test("a product that would round before the sum is not taken the fast way", () => {
  const type = typeNamed(programWith(oddTypes), "WideProduct");
  const words = new DataView(new ArrayBuffer(13));
  for (const [k, x] of [1 + 2 ** -23, 1 + 2 ** -23, -255].entries()) words.setFloat32(4 * k, x, true);
  words.setUint8(12, 255);
  const out = new Float64Array(1);
  decode(type, new Uint8Array(words.buffer), out);
  expect(out[0]).toBe(255 * (2 ** -22 + 2 ** -46));
});

test("no blocks decode to no values", () => {
  const out = new Float64Array(0);
  decode(typeNamed(programWith(), "Q4_0"), new Uint8Array(0), out);
  expect(out).toHaveLength(0);
});

test("lengths that do not fit are refused with the numbers", () => {
  const q4 = typeNamed(programWith(), "Q4_0");
  expect(() => decode(q4, new Uint8Array(19), new Float64Array(32))).toThrow(
    new RangeError("19 bytes are no whole number of Q4_0 blocks of 18 bytes"),
  );
  expect(() => decode(q4, new Uint8Array(36), new Float64Array(65))).toThrow(
    new RangeError("2 blocks of Q4_0 hold 2 x 32 = 64 values, and there is room for 65"),
  );
});
