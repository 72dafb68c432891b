// The parts of the language beyond plain blocks: parameters, tensors with their storages, tables, references, claims,
// devices and signatures; what they come to, and what a person reads where they are wrong.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { renderDiagnostic } from "../../src/ladder/diagnostic.ts";
import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { resolveProgram } from "../../src/ladder/resolve.ts";
import { referenceValue } from "../../src/ladder/prove/rounded.ts";
import { type Binding, bindTensor } from "../../src/ladder/tensor.ts";
import type { Type } from "../../src/ladder/type.ts";
import { blockOf, builtinTexts, programWith, remarks, typeNamed } from "./program.ts";

function bound(binding: Binding): Type {
  if (binding.kind === "bound") return binding.type;
  throw new Error(binding.diagnostics.map(({ message }) => message).join());
}

/** The single finding of a binding that is refused. */
function refused(binding: Binding): string {
  return binding.kind === "refused" ? binding.diagnostics.map(({ message }) => message).join("\n") : "bound";
}

describe("bits and values", () => {
  test("join takes the bits for 0 lowest, and an element reads any bits", () => {
    const text = `import "int.ladder"\nimport "float.ladder"\nblock A[2] {
  x : U16[2]
  code c[i < 2] = join j < 4 : x[i].bits(12 - 4 * j +: 4)
  value[i] = F16(c[i])
}`;
    const out = new Float64Array(2);
    // 1 and -2 with their nibbles in the opposite order.
    decode(typeNamed(programWith(text), "A"), Uint8Array.of(0xc3, 0x00, 0x0c, 0x00), out);
    expect([...out]).toEqual([1, -2]);
  });

  test("a code may be made of codes above it, and a condition may choose values and indices", () => {
    const text = `import "int.ladder"\nblock A[4] {
  x : U8[4]
  code low[i < 4] = x[i].bits(0 +: 4)
  code both[i < 4] = low[3 - i] ++ low[i]
  value[i] = if i < 2 then both[i] else -x[if i == 2 then 0 else i]
}`;
    const out = new Float64Array(4);
    decode(typeNamed(programWith(text), "A"), Uint8Array.of(0x11, 0x22, 0x33, 0x44), out);
    expect([...out]).toEqual([0x41, 0x32, -0x11, -0x44]);
  });

  test("a reference rounds where it says so", () => {
    const text = `import "float.ladder"\nblock A[1] {
  a : F16
  b : F16
  value[i] = a + b
  reference[i] = round(E4M3FN, a + b)
}`;
    const type = typeNamed(programWith(text), "A");
    // 1 + 0.0625 lies between 1 and 1.125, and goes to the even one.
    const block = Uint8Array.of(0x00, 0x3c, 0x00, 0x2c);
    expect(toNumber(exactValue(type, block, 0))).toBe(1.0625);
    expect(toNumber(referenceValue(type, block, 0)!)).toBe(1);
    expect(referenceValue(typeNamed(programWith(), "Q4_0"), new Uint8Array(18), 0)).toBe(null);
  });

  test.each([
    [
      "x : U8 value[i] = round(F16, x)",
      "5:19: error[wrong-kind]: a value is exact, and round is only for a reference\n= give the rounded form with a line such as reference[i] = ...",
    ],
    [
      "x : U8 value[i] = x reference[i] = round(x)",
      "5:36: error[argument]: round takes an element and a number\n= write round(F32, d * q[i])",
    ],
    [
      "x : U8 value[i] = x reference[i] = round(U8, x)",
      "5:42: error[wrong-kind]: U8 is no float, and sums and products round to floats",
    ],
    [
      "x : U8 value[i] = x reference[i] = x reference[i] = x",
      "5:38: error[duplicate-name]: the reference is already given above",
    ],
    ["x : U8 value[i] = U3(x)", "5:22: error[size]: U3 has 3 bits, and x has 8"],
    ["x : U8 value[i] = U8(x, 0)", "5:19: error[argument]: U8 takes bits, and 2 arguments are given"],
    ["x : U8 value[i] = P(x)", "5:19: error[argument]: P takes bits and a lane from 0 to 1, and 1 arguments are given"],
    ["x : U8 value[i] = P(x, i)", "5:24: error[index-range]: P(x, i) reads lane 2 at i = 2\n= P has lanes 0 to 1"],
    [
      "x : P value[i] = x",
      "5:18: error[wrong-kind]: an element of x stands for 2 numbers\n= declare x as an unsigned integer, and write P(x[...], lane)",
    ],
    ["x : U8 value[i] = Q(x)", "5:19: error[unknown-name]: there is no element Q"],
    [
      "x : U8 code c[i < 4] = join j < 40 : x.bits(0 +: 1) value[i] = x",
      "5:33: error[number]: the count of a join must be a whole number from 1 to 32, not 40",
    ],
    [
      "x : U8 code c[i < 4] = join x < 4 : x.bits(0 +: 1) value[i] = x",
      "5:29: error[duplicate-name]: x is already a name of this block",
    ],
    [
      "x : U8 code c[i < 4] = x.bits(0 +: i) value[i] = x",
      "5:36: error[wrong-kind]: the width of this slice must be a number that does not change with i",
    ],
    [
      "x : U8[2, 2] value[i] = 1",
      "5:1: error[wrong-kind]: a field of a block has one dimension; those of a tensor may have several",
    ],
    [
      "beside x : U8 value[i] = x",
      "5:8: error[wrong-kind]: the fields of a block lie in the block; beside stands in a tensor only",
    ],
    ["x : U8 let f = 2 value[i] = x", "5:12: error[wrong-kind]: f names an index, which only a tensor can do"],
    [
      "x : U8 storage s { } value[i] = x",
      "5:16: error[wrong-kind]: a block has one storage; a tensor may have several",
    ],
    ["x : U8 value = x", "5:8: error[wrong-kind]: the value of a block needs an index\n= write value[i] = ..."],
    [
      "x : U8 code c = x value[i] = x",
      "5:13: error[wrong-kind]: c needs an index and a count in a block\n= write code c[i < 4] = ...",
    ],
  ])("a block with %s", (items, expected) => {
    const own = "element P = digits(base: 2, count: 2, bits: 8, order: first) ";
    const start = own.length;
    const text = remarks(`${own}block A[4] {\n${items}\n}`);
    expect(text).toBe(expected);
    expect(start).toBeGreaterThan(0);
  });
});

describe("parameters", () => {
  test("one declaration serves every width and size, and is called what it is given", () => {
    const { types, elements } = programWith(`import "int.ladder"\nimport "float.ladder"
block Group<E : element, g : number>[g] { d : F16  q : E[g]  value[i] = d * (q[i] - g) }
@own(7)
type A = Group<UInt<3>, 8>
type B = Group<Int<5>, 16>
type Nine = UInt<9>`);
    const shapes = ["A", "B"].map((name) => types.get(name)!).map((type) => [type.blockSize, type.blockBytes]);
    expect(shapes).toEqual([
      [8, 5],
      [16, 12],
    ]);
    expect(types.get("A")!.ids.get("own")).toBe(7);
    expect(types.has("Group")).toBe(false);
    expect(elements.get("Nine")!.bits).toBe(9);
    expect(types.get("A")!.fields[1]!.element.name).toBe("UInt<3>");
  });

  const group =
    "block Group<E : element, g : number>[g] { q : E[g] value[i] = q[i] }\nelement N<b : number> = int(bits: b, coding: unsigned)\n";
  test.each([
    ["type A = Group<U8>", "6:10: error[argument]: Group takes the parameters E, g, and 1 are given"],
    ["type A = U8<3>", "6:10: error[argument]: U8 takes no parameters, and 1 are given"],
    ["type A = Group<3, U8>", "6:16: error[argument]: E is an element, not 3"],
    ["type A = Group<U8, U8>", "6:20: error[argument]: g is a number, not U8"],
    [
      "type A = Group<U8, 0>",
      "4:38: error[number]: the size of block Group<U8, 0> must be a whole number from 1 to 4096, and g is 0\n= in Group<U8, 0>\n4:49: error[number]: the count of a field must be a whole number from 1 to 65536, and g is 0\n= in Group<U8, 0>",
    ],
    [
      "type A = Group<N<3>, 3>",
      "4:43: error[size]: q is 3 x 3 bits = 9 bits, which is no whole number of bytes\n= in Group<N<3>, 3>\n= 8 x 3 bits would fill 3 bytes",
    ],
    ["type A = N<99>", "5:35: error[number]: bits must be a whole number from 1 to 64, not b = 99\n= in N<99>"],
    ["type A = A", "6:10: error[wrong-kind]: A is made of itself"],
    ["type A = B type B = A", "6:21: error[wrong-kind]: A is made of itself"],
    ["type A = Nine", "6:10: error[unknown-name]: there is no element, block or tensor Nine"],
    [
      "@x(1) element M<b : number> = int(bits: b, coding: unsigned)",
      "6:2: error[wrong-kind]: M has parameters; only a type with none left has an id",
    ],
    [
      "element M<b : numbers> = int(bits: b, coding: unsigned) type A = M<1>",
      '6:15: error[unknown-name]: a parameter is an element or a number, not numbers\n= did you mean "number"?',
    ],
    [
      "element M<b : number, b : number> = int(bits: b, coding: unsigned) type A = M<1, 2>",
      "6:23: error[duplicate-name]: b is already a parameter",
    ],
    [
      "element M<b : number> = int(bits: c, coding: unsigned) type A = M<1>",
      "6:35: error[argument]: bits is a number, not c\n= in M<1>",
    ],
  ])("%s", (text, expected) => {
    expect(remarks(group + text)).toBe(expected);
  });
});

describe("tensors", () => {
  const program = programWith();
  const small: readonly (readonly [name: string, storage: string, rows: number, columns: number])[] = [
    ["I2_S", "x86_128", 2, 64],
    ["I2_S", "arm_64", 3, 64],
    ["I2_S", "x86_1x4", 4, 5],
    ["BitNetHF", "", 8, 3],
    ["GPTQ3", "", 32, 32],
    ["AWQ4", "", 8, 6],
    ["BnbNF4", "", 3, 50],
    ["BnbNF4_double", "", 4, 64],
    ["ModelOptNVFP4", "", 2, 32],
    ["MXFP6_E3M2_beside", "", 2, 32],
  ];

  test.each(small)(
    "%s %s: the fast decode of a bound matrix equals the exact evaluator",
    (name, storage, rows, columns) => {
      const type = bound(bindTensor(program.tensors.get(name)!, storage, rows, columns));
      fc.assert(
        fc.property(blockOf(type), (block) => {
          const out = new Float64Array(type.blockSize);
          decode(type, block, out);
          const exact = Array.from({ length: type.blockSize }, (_, i) => toNumber(exactValue(type, block, i)));
          expect([...out]).toEqual(exact);
        }),
        { numRuns: 5 },
      );
      expect(type.blockSize).toBe(rows * columns);
    },
  );

  test("a large matrix decodes as a small one does, row for row", () => {
    const i2s = program.tensors.get("I2_S")!;
    const large = bound(bindTensor(i2s, "arm_64", 1100, 64));
    const row = bound(bindTensor(i2s, "arm_64", 1, 64));
    const bytes = Uint8Array.from({ length: large.blockBytes }, (_, k) => (k * 89) & 255);
    const out = new Float64Array(large.blockSize);
    decode(large, bytes, out);
    const scale = bytes.subarray(-4);
    for (const n of [0, 1, 555, 1099]) {
      const want = new Float64Array(64);
      decode(row, Uint8Array.from([...bytes.subarray(16 * n, 16 * n + 16), ...scale]), want);
      expect([...out.subarray(64 * n, 64 * n + 64)]).toEqual([...want]);
    }
  });

  test("the buffers are named, in the order in which a block has them", () => {
    const binding = bindTensor(program.tensors.get("GPTQ4_act")!, "", 64, 256);
    expect(binding.kind === "bound" && binding.buffers).toEqual([
      { name: "", bytes: 8192 },
      { name: "qzeros", bytes: 64 },
      { name: "scales", bytes: 256 },
      { name: "g_idx", bytes: 1024 },
    ]);
  });

  test("an index that the data give is checked when it is read", () => {
    const type = bound(bindTensor(program.tensors.get("GPTQ4_act")!, "", 32, 32));
    const block = new Uint8Array(type.blockBytes);
    block[type.blockBytes - 4 * 31] = 3;
    const asked = new RangeError("scales has entries 0 to 31, and the data ask for entry 96");
    expect(() => exactValue(type, block, 1)).toThrow(asked);
    block.fill(0x7f, type.blockBytes - 4);
    const beyond = new RangeError("scales has entries 0 to 31, and the data ask for one beyond 2^31");
    expect(() => exactValue(type, block, 31)).toThrow(beyond);
    expect(() => decode(type, block, new Float64Array(1024))).toThrow(RangeError);
  });

  test.each([
    ["x86_128", 3, 100, "I2_S.x86_128 requires N * K mod 128 == 0, and the matrix is 3 x 100"],
    ["x86_1x4", 3, 100, "I2_S.x86_1x4 requires N mod 4 == 0, and the matrix is 3 x 100"],
    ["arm", 4, 64, "I2_S has no storage arm"],
    ["arm_64", 0, 64, "a matrix of 0 x 64 is not possible; rows, columns and values are from 1 to 2147483647"],
    [
      "arm_64",
      65536,
      65536,
      "a matrix of 65536 x 65536 is not possible; rows, columns and values are from 1 to 2147483647",
    ],
  ])("I2_S.%s of %d x %d: %s", (storage, rows, columns, message) => {
    expect(refused(bindTensor(program.tensors.get("I2_S")!, storage, rows, columns))).toBe(message);
  });

  test.each([
    [
      "x : U8[N, K] value[i] = x[n, k]",
      "5:14: error[wrong-kind]: write value = ... in a tensor: it has one for each n and k\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[N, K] value = x[k]",
      "5:22: error[wrong-kind]: x has 2 dimensions, and 1 indices are given\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[N, K] value = x",
      "5:22: error[wrong-kind]: x has 1 entries, and none is chosen here\n= for a matrix of 1 x 1\n= write 2 indices",
    ],
    [
      "x : U8[N, K] value = x[n + 1, k]",
      "5:24: error[index-range]: x[n + 1, k] reads entry 1 at n = 0, k = 0\n= x has entries 0 to 0 in dimension 0\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[N, K] code q[i < 4] = x[n, k] value = q",
      "5:19: error[wrong-kind]: q takes no brackets here: a tensor has one code for each n and k\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[N, K] code q = x[n, k] value = q[k]",
      "5:39: error[wrong-kind]: q is one code for each n and k and takes no index\n= for a matrix of 1 x 1",
    ],
    [
      "beside x : U8[N] y : U8[K] value = y[k]",
      "5:18: error[wrong-kind]: y lies in the main buffer and x beside it; the main buffer comes first\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[n] value = x[0]",
      "5:8: error[wrong-kind]: the count of a field must be a number that does not change with n and k\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[N, K] h : F16 value = x[h, k]",
      "5:32: error[wrong-kind]: an index is an integer of at most 32 bits, and h is F16\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[N, K] y : U8 code q = x[n, k].bits(y +: 1) value = q",
      "5:43: error[wrong-kind]: only the entry that is read may depend on the data, not the bit\n= for a matrix of 1 x 1",
    ],
    [
      "x : U8[K] value = k",
      "5:19: error[wrong-kind]: the index k is no number of the tensor; it can only stand in brackets\n= for a matrix of 1 x 1",
    ],
    [
      "storage s { x : U8[K] } storage s { x : U8[K] } value = x[k]",
      "5:33: error[duplicate-name]: s is already a storage of this tensor",
    ],
    [
      "storage s requires K mod 3 == 5 { x : U8[K] } value = x[k]",
      "5:9: error[size]: no matrix of up to 1024 x 8192 has the shape that A requires here",
    ],
    [
      "storage s { x : U8[K] } storage t requires K mod 8 == 0 { x : U8[K div 8] } value = x[k]",
      "5:87: error[index-range]: x[k] reads entry 1 at n = 0, k = 1\n= x has entries 0 to 0\n= for a matrix of 1 x 8 in t",
    ],
  ])("a tensor with %s", (items, expected) => {
    expect(remarks(`tensor A[n < N, k < K] {\n${items}\n}`)).toBe(expected);
  });

  test("its four variables have names of their own", () => {
    expect(remarks("tensor A[n < N, n < K] { x : U8[N, K] value = x[n, n] }")).toBe(
      "4:17: error[duplicate-name]: n is already a name of this tensor",
    );
  });
});

describe("claims, devices and signatures", () => {
  const program = programWith();

  test("claims say what is kept, and where", () => {
    const described = program.claims.map(({ from, to, guarantee, domain }) => {
      const name = (end: typeof from): string =>
        end.kind === "element"
          ? end.element.name
          : end.kind === "type"
            ? end.type.name
            : `${end.tensor.name}.${end.storage}`;
      const when = domain.map((d) => (d.kind === "finite" ? `${d.field} finite` : `${d.field} ${d.low}-${d.high}`));
      return `${name(from)} -> ${name(to)} ${guarantee} ${when.join()}`.trim();
    });
    expect(described).toContain("OCP_MXFP4 -> F16 value s 104-140");
    expect(described).toContain("Q4_K -> F64 value");
    expect(described).toContain("MXFP4 -> I8 structure");
    expect(described).toContain("I2_S.x86_128 -> I2_S.arm_64 repack");
    expect(program.claims.find(({ by }) => by !== null)?.to).toMatchObject({
      kind: "element",
      element: { name: "F16" },
    });
  });

  test("devices come with memories, products, lookups and caveats", () => {
    const webgpu = program.devices.get("webgpu")!;
    expect(webgpu.memories.map(({ name }) => name)).toEqual(["buffer", "workgroup", "register"]);
    expect(webgpu.memories[2]).toEqual({
      name: "register",
      granularity: 4,
      width: 32,
      capacity: 65536,
      bandwidth: null,
    });
    expect(webgpu.caveats.map(({ kind, element, certainty }) => `${kind} ${element.name} ${certainty}`)).toContain(
      "flush_subnormals F32 maybe",
    );
    const [multiply] = program.devices.get("a100")!.multiplies;
    expect([multiply?.activation.name, multiply?.accumulate.name, multiply?.m, multiply?.n, multiply?.k]).toEqual([
      "F16",
      "F32",
      16,
      8,
      16,
    ]);
    expect(program.devices.get("x86_avx2")!.lookups.map(({ lanes }) => lanes)).toEqual([32]);
  });

  test("a signature names formats by what they are", () => {
    const gemm = program.gemms.get("W4A8")!;
    expect(gemm.activations).toMatchObject({ kind: "type", type: { name: "Q8_0" } });
    expect([gemm.accumulate.name, gemm.out.name, gemm.place]).toEqual(["I32", "F32", null]);
  });

  test.each([
    [
      "convert U8 -> F16 : lossless",
      "4:21: error[unknown-name]: a conversion keeps one of repack, value, structure, rounded, not lossless",
    ],
    [
      "convert U8 -> F61 : value",
      '4:15: error[unknown-name]: there is no element, block or tensor F61\n= did you mean "F16"?',
    ],
    [
      "convert U8 -> F16 : structure",
      "4:15: error[wrong-kind]: structure means integer codes, so its target is an integer element, such as I8",
    ],
    [
      "convert U8 -> F16 : value when x in 0 .. 3",
      '4:32: error[unknown-name]: there is no field x in what is converted; a single element is spoken of as "code"',
    ],
    [
      "convert U8 -> F16 : value when code in 0 .. 256",
      "4:45: error[number]: the last code of code must be a whole number from 0 to 255, not 256",
    ],
    ["convert U8 -> F16 : value when code in 9 .. 3", "4:40: error[number]: no code lies in 9 .. 3"],
    [
      "convert B -> F16 : value when y finite block B[1] { x : U8 value[i] = x }",
      "4:31: error[unknown-name]: there is no field y in what is converted; a condition speaks of a field",
    ],
    ["convert U8 -> F16 : value by x -> y", "4:35: error[unknown-name]: this block has no field or code y"],
    [
      "convert U8 -> F16 : value by x -> 1 div x",
      "4:35: error[index-range]: 1 div x divides by zero or leaves +-2^31 at x = 0\n= F16 has codes 0 to 65535",
    ],
    [
      "convert B -> F16 : value by x -> x block B[1] { x : U8 value[i] = x }",
      "4:29: error[wrong-kind]: by gives a code for each code, so both sides are elements, the first of at most 16 bits",
    ],
    [
      "convert B.s -> F16 : value block B[1] { x : U8 value[i] = x }",
      "4:11: error[unknown-name]: B has no storage s\n= it has one without a name",
    ],
    [
      "device D { }",
      "4:8: error[missing-value]: device D has no memory\n= add a line such as memory global(granularity: 4)",
    ],
    [
      "device D { memory m(granularity: 4) memori x(granularity: 4) }",
      '4:37: error[unknown-name]: a device says memory, native, multiply, lookup, operate, cores, caveat, not memori\n= did you mean "memory"?',
    ],
    [
      "device D { memory (granularity: 4) memory m(granularity: 0) }",
      "4:8: error[missing-value]: device D has no memory\n= add a line such as memory global(granularity: 4)\n4:12: error[argument]: a memory has a name, such as memory shared(...)\n4:58: error[number]: granularity must be a whole number from 1 to 65536, not 0",
    ],
    [
      "device D { memory m(granularity: 4) caveat (kind: flush, of: F16, certainty: maybe) }",
      "4:51: error[argument]: kind is one of flush_subnormals, no_nan, no_infinity, fuse_multiply_add, not flush",
    ],
    [
      "device D { memory m(granularity: 4) native (of: F61) }",
      '4:49: error[unknown-name]: there is no element F61\n= did you mean "F16"?',
    ],
    ["gemm G(activations: F16, weights: U8, accumulate: F16)", "4:6: error[argument]: gemm needs out here"],
    [
      "gemm G(activations: F16, weights: U8, accumulate: F16, out: F16, place: l2) device D { memory l1(granularity: 4) }",
      '4:73: error[argument]: place is one of l1, not l2\n= did you mean "l1"?',
    ],
  ])("%s", (text, expected) => {
    expect(remarks(text)).toBe(expected);
  });
});

describe("files", () => {
  test("only the wanted files and what they import are read", () => {
    const texts = new Map([...builtinTexts, ["broken.ladder", "block ["]]);
    const resolution = resolveProgram(texts, ["mx.ladder"]);
    expect(resolution.kind === "program" && [...resolution.program.types.keys()].includes("OCP_MXFP4")).toBe(true);
    expect(resolution.kind === "program" && resolution.program.types.has("Q4_0")).toBe(false);
  });

  test("an import names a file, not a path", () => {
    const texts = new Map([["a.ladder", 'import "../b.ladder"']]);
    const resolution = resolveProgram(texts);
    const [first] = resolution.kind === "rejected" ? resolution.diagnostics : [];
    expect(first === undefined ? "" : renderDiagnostic(first, texts)).toBe(
      [
        'a.ladder:1:8: error[import]: an import is the name of a file beside this one, without a folder, and not "../b.ladder"',
        '   1 | import "../b.ladder"',
        "     |        ^^^^^^^^^^^^^",
      ].join("\n"),
    );
  });
});
