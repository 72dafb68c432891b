// Compiled C++: one program of many products, of every kind of format on either side, run on random operands, differs from
// the product of exactly decoded values by no more than the manifests say.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import {
  type Asked,
  boundType,
  firstOff,
  kernelOf,
  operandOf,
  OWN,
  outputsOf,
  pack,
  referenceOf,
  type Run,
  TINY,
  uniform,
} from "./compiled.ts";
import { programWith } from "./program.ts";

const program = programWith(OWN);
const SEED = 20_261_125;
const PRODUCTS: readonly Run[] = [
  { activation: "F16", weight: "Q4_0", m: 1, n: 67, k: 320 },
  { activation: "F32", weight: "Lumen", m: 3, n: 66, k: 96 },
  { activation: "Q8_0", weight: "Lumen", m: 5, n: 6, k: 96, method: "dot" },
  { activation: "F16", weight: "F16", m: 2, n: 5, k: 63 },
  { activation: "F32", weight: "BF16", m: 33, n: 35, k: 1061 },
  { activation: "F16", weight: "Q4_K", m: 9, n: 37, k: 2304 },
  { activation: "F32", weight: "IQ2_XS", m: 2, n: 9, k: 512 },
  { activation: "F32", weight: "Q6_K", m: 2, n: 9, k: 512 },
  { activation: "OCP_MXFP8_E4M3", weight: "OCP_MXFP4", m: 4, n: 11, k: 288 },
  { activation: "E4M3FN", weight: "E4M3FN", m: 17, n: 33, k: 50 },
  { activation: "F32", weight: "GPTQ4", m: 3, n: 64, k: 128 },
  { activation: "F32", weight: "AWQ4", m: 2, n: 8, k: 256 },
  { activation: "F32", weight: "I2_S.arm_64", m: 2, n: 4, k: 256 },
  { activation: "Q8_0", weight: "Q4_0", m: 3, n: 70, k: 2272, method: "dot" },
  { activation: "Q8_0", weight: "Q4_K", m: 1, n: 9, k: 768, method: "dot" },
  { activation: "Q4_1", weight: "Q5_1", m: 2, n: 9, k: 160, method: "dot" },
  { activation: "Q8_0", weight: "IQ4_NL", m: 6, n: 7, k: 64, method: "dot" },
  { activation: "Q8_0", weight: "Q1_0", m: 2, n: 3, k: 256, method: "dot" },
  { activation: "Q8_0", weight: "TQ2_0", m: 2, n: 5, k: 256, method: "dot" },
  { activation: "Q8_0", weight: "NVFP4", m: 2, n: 3, k: 128, method: "dot" },
  { activation: "Power", weight: "Power", m: 2, n: 3, k: 128, method: "dot" },
  { activation: "I8", weight: "Whole", accumulate: "I32", out: "I32", m: 3, n: 21, k: 1000, method: "dot" },
  { activation: "F16", weight: "Q8_0", out: "F16", m: 3, n: 7, k: 64 },
  { activation: "F16", weight: "Q8_0", out: "BF16", m: 3, n: 7, k: 64 },
  { activation: "F16", weight: "Q4_0", out: "E4M3FN", m: 3, n: 7, k: 64 },
  { activation: "I8", weight: "Whole", accumulate: "I32", out: "BF16", m: 3, n: 21, k: 1000, method: "dot" },
  ...TINY,
];

const folder = mkdtempSync(join(tmpdir(), "lutra-compile-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const cases = PRODUCTS.map(({ activations, weights, ...partial }, p) => {
  const asked = { target: "cpu", method: "decode", ...partial } as Asked;
  const { text, manifest } = kernelOf(program, asked);
  const { m, n, k } = asked;
  const [a, w] = [boundType(program, asked.activation, m, k), boundType(program, asked.weight, n, k)];
  const next = uniform(SEED + p);
  const operands = {
    a: operandOf(a, (m * k) / a.blockSize, next, activations),
    w: operandOf(w, (n * k) / w.blockSize, next, weights),
  };
  const isTiny = activations === "tiny" || weights === "tiny";
  return { p, isTiny, asked, text, manifest, a, w, operands };
});

/** A program that reads both operands of every product, prepares the weights as the manifest says, and writes the outputs. */
function mainText(): string {
  const lines = cases.map(({ p, manifest: { entry_points: entries, buffers, gemm }, operands }) => {
    const [entry, prepare] = entries;
    const name = entry!.name;
    const out = buffers.find(({ role }) => role === "out")!;
    const type = entry!.arguments.find((one) => one.name === "out")!.type;
    const weights = buffers.find(({ role }) => role === "weights")!;
    const declared = entries
      .map((one) => `extern "C" void ${one.name}(${one.arguments.map((each) => each.type).join(", ")});`)
      .join("\n");
    expect(entries.map(({ role }) => role)).toEqual(prepare === undefined ? ["kernel"] : ["kernel", prepare.role]);
    const into = prepare?.arguments[1]!.type;
    // Rows are divided as threads would divide them.
    return `${declared}
static void run${p}() {
  auto a = take(${operands.a.length}), w = take(${operands.w.length});
  ${prepare === undefined ? "auto ready = w;" : `std::vector<uint8_t> ready(${weights.bytes}); ${prepare.name}(w.data(), reinterpret_cast<${into}>(ready.data()));`}
  std::vector<uint8_t> out(${out.bytes});
  auto* to = reinterpret_cast<${type}>(out.data());
  ${name}(a.data(), ready.data(), to, 0, ${Math.floor(gemm.n / 2)});
  ${name}(a.data(), ready.data(), to, ${Math.floor(gemm.n / 2)}, ${gemm.n});
  ${weights.layout.kind === "packed" ? "fwrite(ready.data(), 1, ready.size(), stdout);" : ""}
  fwrite(out.data(), 1, out.size(), stdout);
}`;
  });
  return `#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
static std::vector<uint8_t> take(size_t bytes) {
  std::vector<uint8_t> all(bytes);
  if (fread(all.data(), 1, bytes, stdin) != bytes) abort();
  return all;
}
${lines.join("\n")}
int main() {
${cases.map(({ p }) => `  run${p}();`).join("\n")}
}
`;
}

let output: Buffer;

beforeAll(() => {
  const names = cases.map(({ p, text }) => {
    writeFileSync(join(folder, `kernel${p}.cpp`), text);
    return `kernel${p}.cpp`;
  });
  writeFileSync(join(folder, "main.cpp"), mainText());
  const flags = ["-std=c++17", "-O2", "-march=native", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"];
  execFileSync("g++", [...flags, "-o", "program", "main.cpp", ...names], { cwd: folder, stdio: "pipe" });
  const input = Buffer.concat(cases.flatMap(({ operands: { a, w } }) => [a, w]));
  writeFileSync(join(folder, "in"), input);
  output = execFileSync(join(folder, "program"), { input: readFileSync(join(folder, "in")), maxBuffer: 2 ** 28 });
});

describe("in one program", () => {
  test.each(cases)(
    "$asked.activation x $asked.weight, $asked.method, $asked.out, n $asked.n",
    ({ p, asked, isTiny, manifest, a, w, operands }) => {
      const sizes = cases.map(({ manifest: { buffers } }) => {
        const packed = buffers.find(({ role, layout }) => role === "weights" && layout.kind === "packed");
        return { packed: packed?.bytes ?? 0, out: buffers.find(({ role }) => role === "out")!.bytes };
      });
      const start = sizes.slice(0, p).reduce((sum, size) => sum + size.packed + size.out, 0);
      const { packed, out } = sizes[p]!;
      if (packed > 0) {
        // The text's own packing is the one that the manifest describes.
        const { codes, scales, offsets } = pack(manifest.layouts.weights!, operands.w);
        const { group_values: group, offset } = manifest.layouts.weights!;
        const floats = [
          ...(group === null ? [] : [scales]),
          ...(group === null || offset.length === 0 ? [] : [offsets]),
        ];
        const parts = [codes, ...floats.map((part) => new Uint8Array(part.buffer))];
        expect(Buffer.concat(parts).equals(output.subarray(start, start + packed))).toBe(true);
      }
      const element = program.elements.get(asked.out ?? "F32")!;
      const got = outputsOf(manifest, element, Uint8Array.from(output.subarray(start + packed, start + packed + out)));
      expect(
        firstOff(manifest, element, referenceOf(manifest, a, w, operands.a, operands.w), got),
        `seed ${SEED + p}`,
      ).toBeNull();
      if (!isTiny) expect(got.filter((x) => x !== 0 && Number.isFinite(x)).length).toBeGreaterThan(got.length / 2);
    },
  );
});
