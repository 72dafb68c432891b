// Emitted decodes do what the exact evaluator does, as far as their guarantee says: every type and tensor of the library,
// all codes and 10^6 random values each, in JavaScript and in C++ compiled here; and random types.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { expect, test } from "vitest";

import { decode as decodeOf } from "../../src/ladder/emit/codec.ts";
import { emit, guaranteeText } from "../../src/ladder/emit/emit.ts";
import { exactValue, toNumber } from "../../src/ladder/exact.ts";
import { readsData } from "../../src/ladder/expr.ts";
import { resolveProgram } from "../../src/ladder/resolve.ts";
import type { Bits, Field, Index, Type, Value } from "../../src/ladder/type.ts";
import { allCodes, blockBeyond, blockCount, blocksOf, casesOf, firstWrong, moduleOf } from "./emitted.ts";
import { blockOf, builtinTexts, oddTypes, programWith, typeNamed } from "./program.ts";

const SEED = 20_261_124;

const program = programWith();
const cases = casesOf(program);

const known = new Map<Type, ReturnType<typeof emitted>>();

function emitted(type: Type) {
  const emission = emit(type, { kind: "javascript" });
  if (emission.kind === "refused") throw new Error(`${type.name}: ${emission.reason}`);
  return { ...emission, decode: moduleOf(emission.text) };
}

function javaScript(type: Type) {
  let one = known.get(type);
  if (one === undefined) known.set(type, (one = emitted(type)));
  return one;
}

test.each(cases)("$label: JavaScript gives all codes and random blocks as its guarantee says", ({ type }) => {
  const { decode, guarantee } = javaScript(type);
  for (const bytes of [allCodes(type), blocksOf(type, blockCount(type), SEED)]) {
    if (bytes === null) continue;
    const out = new Float64Array((bytes.length / type.blockBytes) * type.blockSize);
    decode(bytes, out);
    expect(firstWrong(type, bytes, out, guarantee)).toBeNull();
  }
});

const unrounded = cases.filter(({ type }) => javaScript(type).guarantee.kind !== "rounded");

test.each(unrounded)("$label: JavaScript equals the exact evaluator, value by value", ({ type }) => {
  const bytes = blocksOf(type, type.blockSize > 256 ? 1 : 4, SEED + 1);
  const out = new Float64Array((bytes.length / type.blockBytes) * type.blockSize);
  javaScript(type).decode(bytes, out);
  const wrong: string[] = [];
  for (let n = 0; n < out.length; n += Math.ceil(out.length / 500)) {
    const block = bytes.subarray(Math.floor(n / type.blockSize) * type.blockBytes);
    const exact = toNumber(exactValue(type, block, n % type.blockSize));
    if (!Object.is(out[n], exact)) wrong.push(`value ${n}: ${out[n]}, and not ${exact}`);
  }
  expect(wrong).toEqual([]);
});

test("C++, compiled with all warnings, gives the same singles, and its sanitised build finds nothing undefined", () => {
  const folder = mkdtempSync(join(tmpdir(), "lutra-emit-"));
  try {
    const made = cases.map((one, k) => {
      const emission = emit(one.type, { kind: "cpp", name: `t${k}` });
      if (emission.kind === "refused") throw new Error(`${one.label}: ${emission.reason}`);
      const codes = allCodes(one.type) ?? new Uint8Array(0);
      const random = blocksOf(one.type, blockCount(one.type), SEED + k);
      return { ...one, k, emission, bytes: Buffer.concat([codes, random]) };
    });
    const bodies = made.map(({ k, type, bytes }) => {
      const blocks = bytes.length / type.blockBytes;
      return `{ std::vector<uint8_t> in(${bytes.length}); std::vector<float> out(${blocks * type.blockSize});
  if (fread(in.data(), 1, in.size(), stdin) != in.size()) return 1;
  t${k}_decode(in.data(), LIMIT(${blocks}), out.data()); fwrite(out.data(), 4, out.size(), stdout); }`;
    });
    const head = "#include <cstdio>\n#include <vector>\n";
    const text = `${head}${made.map(({ emission }) => emission.text).join("")}int main() {\n${bodies.join("\n")}\nreturn 0; }\n`;
    writeFileSync(join(folder, "all.cpp"), text);
    writeFileSync(join(folder, "in"), Buffer.concat(made.map(({ bytes }) => bytes)));
    const build = (name: string, flags: readonly string[]): Buffer => {
      const all = ["-std=c++17", "-Wall", "-Wextra", "-Werror", ...flags, "-o", name, "all.cpp"];
      execFileSync("g++", all, { cwd: folder, stdio: "pipe" });
      const input = readFileSync(join(folder, "in"));
      return execFileSync(join(folder, name), { input, maxBuffer: 2 ** 30, stdio: ["pipe", "pipe", "pipe"] });
    };
    const sanitised = [
      "-O0",
      "-fsanitize=undefined,address",
      "-fno-sanitize-recover=all",
      "-DLIMIT(n)=((n) < 20 ? (n) : 20)",
    ];
    build("checked", sanitised);
    const raw = build("fast", ["-O2", "-DLIMIT(n)=(n)"]);
    const out = new Float32Array(new Uint8Array(raw).buffer);
    let at = 0;
    for (const { label, type, bytes, emission } of made) {
      const count = (bytes.length / type.blockBytes) * type.blockSize;
      const wrong = firstWrong(type, bytes, out.subarray(at, at + count), emission.guarantee);
      expect(wrong, label).toBeNull();
      at += count;
    }
    expect(at).toBe(out.length);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.each([...programWith(oddTypes).types.values()].filter(({ name }) => !program.types.has(name)))(
  "$name, which nobody uses: JavaScript gives any bytes as its guarantee says",
  (type) => {
    const { decode, guarantee } = javaScript(type);
    fc.assert(
      fc.property(blockOf(type), (bytes) => {
        const out = new Float64Array(type.blockSize);
        decode(bytes, out);
        expect(firstWrong(type, bytes, out, guarantee)).toBeNull();
      }),
      { seed: SEED, numRuns: 200 },
    );
  },
);

// Texts of a block: indices that stay in range by mod, bits cut anywhere, sums, products and choices.
const { index, number } = fc.letrec<{ index: string; number: string }>((tie) => {
  const pair = (of: "index" | "number", operators: readonly string[]): fc.Arbitrary<string> =>
    fc.tuple(tie(of), fc.constantFrom(...operators), tie(of)).map(([a, o, b]) => `(${a} ${o} ${b})`);
  const divided = fc
    .tuple(tie("index"), fc.constantFrom("div", "mod"), fc.integer({ min: 1, max: 9 }))
    .map(([a, o, c]) => `(${a} ${o} ${c})`);
  const chosen = (of: "index" | "number"): fc.Arbitrary<string> =>
    fc.tuple(tie("index"), fc.nat(40), tie(of), tie(of)).map(([c, n, a, b]) => `(if ${c} < ${n} then ${a} else ${b})`);
  const bits = fc
    .tuple(tie("index"), tie("index"), fc.integer({ min: 1, max: 8 }))
    .map(([a, low, w]) => ({ text: `a[(${a}) mod 24].bits((${low}) mod ${9 - w} +: ${w})`, w }));
  const element = fc.constantFrom("E4M3FN", "E5M2", "E5M2FNUZ", "E8M0", "Posit8", "I8", "Posit8es0");
  return {
    index: fc.oneof(
      { maxDepth: 3 },
      fc.constant("i"),
      fc.nat(9).map(String),
      pair("index", ["+", "-", "*"]),
      divided,
      chosen("index"),
    ),
    number: fc.oneof(
      { maxDepth: 3 },
      fc.constantFrom("f", "2", "0.375", "q[i]"),
      fc.tuple(element, tie("index")).map(([e, a]) => `${e}(a[(${a}) mod 24])`),
      fc
        .tuple(bits, tie("index"))
        .map(([{ text, w }, l]) =>
          w === 4 ? `TritPair(${text}, (${l}) mod 2)` : w === 8 ? `TritFraction(${text}, (${l}) mod 5)` : "q[i]",
        ),
      pair("number", ["+", "-", "*"]),
      chosen("number"),
      tie("number").map((x) => `(-${x})`),
    ),
  };
});
const code = fc
  .array(fc.tuple(index, index, fc.integer({ min: 1, max: 8 })), { minLength: 1, maxLength: 3 })
  .map((parts) => parts.map(([a, low, w]) => `a[(${a}) mod 24].bits((${low}) mod ${9 - w} +: ${w})`).join(" ++ "));
const random = fc
  .tuple(fc.integer({ min: 1, max: 80 }), code, number)
  .map(
    ([size, q, v]) => `block B[${size}] {\n a : U8[24]\n f : F16\n code q[i < ${size}] = ${q}\n value[i] = ${v}\n}\n`,
  );

test("random types: JavaScript gives any bytes as its guarantee says", () => {
  const files = ["int.ladder", "float.ladder", "table.ladder"];
  const imports = files.map((file) => `import "${file}"\n`).join("");
  const texts = files.map((file) => [file, builtinTexts.get(file)!] as const);
  let decoded = 0;
  fc.assert(
    fc.property(random, fc.integer(), (text, seed) => {
      const resolution = resolveProgram(new Map([...texts, ["own.ladder", imports + text]]), ["own.ladder"]);
      if (resolution.kind === "rejected") return;
      const type = typeNamed(resolution.program, "B");
      const { decode, guarantee } = javaScript(type);
      const bytes = blocksOf(type, 3, seed | 1);
      const out = new Float64Array(3 * type.blockSize);
      decode(bytes, out);
      expect(firstWrong(type, bytes, out, guarantee)).toBeNull();
      decoded++;
    }),
    { seed: SEED, numRuns: 150 },
  );
  expect(decoded).toBeGreaterThan(75);
});

test("guarantees are those of the precision: derived, not listed", () => {
  const told = (name: string, kind: "javascript" | "cpp"): string => {
    const type = typeNamed(program, name);
    const emission = emit(type, kind === "cpp" ? { kind, name: "x" } : { kind });
    return emission.kind === "refused" ? emission.reason : guaranteeText(emission.guarantee);
  };
  expect(told("Q4_0", "cpp")).toBe("exact in f32; NaN or infinity may arise");
  expect(told("Q4_K", "cpp")).toBe("the nearest f32; NaN or infinity may arise");
  expect(told("Q4_K", "javascript")).toBe("exact in f64; NaN or infinity may arise");
  expect(told("OCP_MXFP4", "cpp")).toBe("the nearest f32; subnormals, and NaN or infinity may arise");
  expect(told("I64", "cpp")).toBe("3 roundings in f32");
  expect(told("I64", "javascript")).toBe("the nearest f64");
});

test.each(cases.filter(({ type }) => type.fields.some(({ name }) => name === "g_idx")))(
  "$label: an entry that a field does not have is the nearest one in JavaScript and C++, and an error of decode",
  ({ type }) => {
    const bytes = blockBeyond(type);
    const count = type.blockSize;
    const [got, outside] = [new Float64Array(count), new Set<string>()];
    javaScript(type).decode(bytes, got);
    javaScript(type).decode(bytes, new Float64Array(count), (...[, entries, field]: readonly unknown[]) => {
      outside.add(`${String(field)} of ${String(entries)}`);
      return 0;
    });
    expect(outside.size).toBe(2);
    const expected = nearestOf(type, bytes);
    expect([...got]).toEqual(expected);
    const emission = emit(type, { kind: "cpp", name: "t" });
    if (emission.kind === "refused") throw new Error(emission.reason);
    expect([...singlesOf(emission.text, type, bytes)]).toEqual(expected.map(Math.fround));
    expect(() => decodeOf(type, bytes, new Float64Array(count))).toThrow(
      /^(?:scales|qzeros) has entries 0 to \d+, and the data ask for (?:entry -?\d+|one beyond 2\^31)$/,
    );
  },
);

/** The exact values where every index into a field is kept within it. */
function nearestOf(type: Type, bytes: Uint8Array): readonly number[] {
  const group = type.fields.find(({ name }) => name === "g_idx")!;
  const kept = (asked: Index, field: Field): Index => {
    if (!readsData(asked)) return asked;
    const constant = (value: number): Index => ({ kind: "constant", value });
    const last = constant(field.count - 1);
    const below: Index = {
      kind: "choose",
      condition: { operator: "<", left: asked, right: constant(0) },
      yes: constant(0),
      no: asked,
    };
    return { kind: "choose", condition: { operator: ">=", left: asked, right: last }, yes: last, no: below };
  };
  const bits = (of: Bits): Bits => {
    if (of.kind === "slice") return { ...of, element: kept(of.element, of.field) };
    if (of.kind === "concat") return { ...of, high: bits(of.high), low: bits(of.low) };
    if (of.kind === "choose") return { ...of, yes: bits(of.yes), no: bits(of.no) };
    return { ...of, code: { ...of.code, bits: bits(of.code.bits) } };
  };
  const visit = (value: Value): Value => {
    switch (value.kind) {
      case "element":
        return { ...value, index: kept(value.index, value.field) };
      case "code":
        return { ...value, code: { ...value.code, bits: bits(value.code.bits) } };
      case "binary":
        return { ...value, left: visit(value.left), right: visit(value.right) };
      default:
        return value;
    }
  };
  // Numbers that leave 2^31 when they are multiplied have no index at all: the nearest group that has one is as far out.
  const near = bytes.slice();
  const view = new DataView(near.buffer);
  for (let k = 0; k < group.count; k++) {
    const at = group.bit / 8 + 4 * k;
    view.setInt32(at, Math.max(-99, Math.min(99, view.getInt32(at, true))), true);
  }
  const own = { ...type, value: visit(type.value) };
  return Array.from({ length: type.blockSize }, (_, i) => toNumber(exactValue(own, near, i)));
}

/** What an emitted C++ decode makes of one block. */
function singlesOf(text: string, type: Type, bytes: Uint8Array): Float32Array {
  const folder = mkdtempSync(join(tmpdir(), "lutra-emit-"));
  try {
    const main = `int main() { static uint8_t in[${bytes.length}]; static float out[${type.blockSize}];
  if (fread(in, 1, sizeof in, stdin) != sizeof in) return 1;
  t_decode(in, 1, out); fwrite(out, 4, ${type.blockSize}, stdout); return 0; }\n`;
    writeFileSync(join(folder, "one.cpp"), `#include <cstdio>\n${text}${main}`);
    const flags = ["-std=c++17", "-fsanitize=undefined,address", "-fno-sanitize-recover=all", "-o", "one", "one.cpp"];
    execFileSync("g++", flags, { cwd: folder, stdio: "pipe" });
    const raw = execFileSync(join(folder, "one"), { input: bytes, maxBuffer: 2 ** 30 });
    return new Float32Array(new Uint8Array(raw).buffer);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("numbers that only go down from 0 begin with a plus zero", () => {
  const values = Array.from({ length: 512 }, (_, k) => -k).join(", ");
  const text = `element Down = table(bits: 9) [${values}]\nblock D[8] { x : Down[8] value[i] = x[i] }`;
  const out = new Float64Array(8);
  javaScript(typeNamed(programWith(text), "D")).decode(new Uint8Array(9), out);
  expect([...out]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
});

test("lengths that do not fit are refused as codec.decode refuses them", () => {
  const { decode } = javaScript(typeNamed(program, "Q4_0"));
  expect(() => decode(new Uint8Array(19), new Float64Array(32))).toThrow(
    new RangeError("19 bytes are no whole number of Q4_0 blocks of 18 bytes"),
  );
  expect(() => decode(new Uint8Array(36), new Float64Array(65))).toThrow(
    new RangeError("2 blocks of Q4_0 hold 2 x 32 = 64 values, and there is room for 65"),
  );
});

test("texts are short: loops, and not a line for each value", () => {
  for (const { label, type } of cases) {
    expect(javaScript(type).text.split("\n").length, label).toBeLessThan(400);
  }
});

test("what cannot be emitted says why", () => {
  const text = `import "int.ladder"\nelement F40 = float(exponent: 8, mantissa: 31, bias: 127, special: ieee)
block Wide[2] { x : F40[2] value[i] = x[i] }`;
  const wide = typeNamed(programWith(text), "Wide");
  expect(emit(wide, { kind: "cpp", name: "x" })).toEqual({
    kind: "refused",
    reason: "F40 is a float of 40 bits, and neither IEEE's single nor its double",
  });
  expect(emit(wide, { kind: "javascript" }).kind).toBe("emitted");
  const q4 = typeNamed(program, "Q4_0");
  expect(emit(q4, { kind: "wgsl", prefix: "w_", group: 0, binding: 0, columns: 40 })).toEqual({
    kind: "refused",
    reason: "its blocks have 32 values, which rows of 40 do not fit",
  });
});
