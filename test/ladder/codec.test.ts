// decode is exactValue rounded to a double, for every type and all bytes: signs of zeros, infinities and NaN included.

import { execFileSync } from "node:child_process";
import * as fc from "fast-check";
import { expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { bindTensor } from "../../src/ladder/tensor.ts";
import { blocksOf } from "./emitted.ts";
import { blockOf, builtinTexts, oddTypes, programWith, typeNamed } from "./program.ts";

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

test("where made code is forbidden, decode gives the same numbers", () => {
  const names = ["Q4_0", "Q4_K", "IQ2_XXS", "F16", "BF16", "F64", "I64", "Posit16"];
  const cases = names.map((name) => {
    const bytes = blocksOf(typeNamed(programWith(), name), 3, 20_261_127);
    return { name, bytes: [...bytes] };
  });
  const child = `
    const { resolveProgram } = await import("./dist/src/ladder/resolve.js");
    const { decode } = await import("./dist/src/ladder/emit/codec.js");
    let forbidden = false;
    try { new Function(""); } catch (error) { forbidden = error instanceof EvalError; }
    let text = "";
    for await (const part of process.stdin) text += part;
    const { files, cases } = JSON.parse(text);
    const { program } = resolveProgram(new Map(files), files.map(([name]) => name));
    const all = cases.map(({ name, bytes }) => {
      const type = program.types.get(name);
      const out = new Float64Array(3 * type.blockSize);
      decode(type, Uint8Array.from(bytes), out);
      return [...out].map((x) => (Object.is(x, -0) ? "-0" : String(x)));
    });
    console.log(JSON.stringify({ forbidden, all }));`;
  const flags = ["--disallow-code-generation-from-strings", "--input-type=module", "-e", child];
  const input = JSON.stringify({ files: [...builtinTexts], cases });
  const { forbidden, all } = JSON.parse(execFileSync(process.execPath, flags, { input, encoding: "utf8" }));
  expect(forbidden).toBe(true);
  for (const [k, { name, bytes }] of cases.entries()) {
    const type = typeNamed(programWith(), name);
    const out = new Float64Array(3 * type.blockSize);
    decode(type, Uint8Array.from(bytes), out);
    expect(all[k], name).toEqual([...out].map((x) => (Object.is(x, -0) ? "-0" : String(x))));
  }
});

const choosing = `import "int.ladder"
import "float.ladder"
tensor Chosen[n < N, k < K] {
  s : F16[4]
  beside g : I32[K]
  value = if g[k] < 4 then s[g[k]] * (s[g[k]] + 1) else K
}`;

test("an entry that an arm asks for which is not taken is no error, and one that is taken is", () => {
  const tensor = programWith(choosing).tensors.get("Chosen")!;
  for (const columns of [8, 8192]) {
    const binding = bindTensor(tensor, "", 1, columns);
    if (binding.kind !== "bound") throw new Error("Chosen has no shape");
    const { type } = binding;
    const bytes = blocksOf(type, 1, 20_261_126);
    const view = new DataView(bytes.buffer);
    for (let k = 0; k < columns; k++) view.setInt32(8 + 4 * k, k % 6, true);
    const out = new Float64Array(columns);
    decode(type, bytes, out);
    expect([...out]).toEqual([...out.keys()].map((i) => toNumber(exactValue(type, bytes, i))));
    view.setInt32(8 + 4 * 5, -3, true);
    const error = new RangeError("s has entries 0 to 3, and the data ask for entry -3");
    expect(() => decode(type, bytes, out)).toThrow(error);
    expect(() => exactValue(type, bytes, 5)).toThrow(error);
  }
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
