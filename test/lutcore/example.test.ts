// The programs of the manual, run on data for which every step of the arithmetic is exact, so that all modes give what the
// real product is; where a step rounds, the reference rounds at the same place.

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";

import { assemble } from "../../src/lutcore/asm.ts";
import { decode, encode } from "../../src/lutcore/binary.ts";
import { load } from "../../src/lutcore/exec.ts";
import { type Mode, STAGE1 } from "../../src/lutcore/mode.ts";
import { packTile, reinterpreted } from "../../src/lutcore/weights.ts";

const MODES: readonly Mode[] = [{ kind: "ideal" }, { kind: "paper" }, { kind: "rtl", quirks: STAGE1 }];

/** Runs an example in a mode, by way of its bytes. */
function run(name: string, mode: Mode, buffers: readonly Uint8Array[], parameters: readonly number[] = []): void {
  const assembled = assemble(readFileSync(new URL(`example/${name}.lmma`, import.meta.url), "utf8"));
  if (assembled.kind !== "program") throw new Error(JSON.stringify(assembled.findings));
  const decoded = decode(encode(assembled.program));
  if (decoded.kind !== "program") throw new Error(decoded.problem.message);
  load(decoded.program, mode)({ parameters, buffers });
}

function bytes(array: Float32Array | Int8Array | Uint16Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Small integers in fp16: sign, exponent and mantissa of what has at most 11 bits. */
function halves(values: ArrayLike<number>): Uint16Array {
  return Uint16Array.from(values, (x) => {
    if (x === 0) return 0;
    const exponent = Math.floor(Math.log2(Math.abs(x)));
    return (x < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | ((Math.abs(x) / 2 ** exponent - 1) * 1024);
  });
}

/** `count` whole numbers from least to most, by a fixed recurrence of the seed. */
function numbers(seed: number, count: number, least: number, most: number): number[] {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return least + (Math.floor(state / 2 ** 8) % (most - least + 1));
  });
}

/** Tiles of 64 columns, one behind the other. */
function tiles(codes: readonly number[], weight: "int2" | "int4" | "ternary", n: number, k: number): Uint8Array {
  const parts = Array.from({ length: n / 64 }, (_, t) =>
    packTile(Uint8Array.from(codes.slice(t * 64 * k, (t + 1) * 64 * k)), { weight, n: 64, k }),
  );
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

test("gemv: the dequantised product of int8 activations and 2-bit weights, with scales and zero points of groups", () => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const [n, k, groups] = [128, 128, 4];
      const a = numbers(seed, k, -128, 127);
      const q = numbers(seed + 1, n * k, 0, 3);
      const zeros = numbers(seed + 2, n * groups, 0, 3);
      // Powers of two: every product and sum is exact in fp32.
      const scales = numbers(seed + 3, n * groups, -3, 3).map((power) => 2 ** power);
      const ofA = numbers(seed + 4, groups, -3, 3).map((power) => 2 ** power);
      const [half, correction] = [new Float32Array(groups * n), new Float32Array(groups * n)];
      for (const [at, s] of scales.entries()) {
        const { scale, zero } = reinterpreted("int2", s, zeros[at]!);
        half[at] = scale;
        correction[at] = -scale * zero;
      }
      const meant = Float32Array.from({ length: n }, (_, column) =>
        a.reduce((sum, x, i) => {
          const [g, at] = [Math.floor(i / 32), Math.floor(i / 32) * n + column];
          return sum + ofA[g]! * x * scales[at]! * (q[column * k + i]! - zeros[at]!);
        }, 0),
      );
      for (const mode of MODES) {
        const out = new Float32Array(n);
        run("gemv", mode, [
          bytes(Int8Array.from(a)),
          bytes(Float32Array.from(ofA)),
          tiles(q, "int2", n, k),
          bytes(half),
          bytes(correction),
          bytes(out),
        ]);
        expect(out).toEqual(meant);
      }
    }),
    { numRuns: 10 },
  );
});

test("precompute and product: a product from tables of int8 that were left in memory, beside a norm", () => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const [m, n, k] = [2, 64, 128];
      const x = numbers(seed, m * k, -20, 20);
      const factor = [0.5, 2];
      const norm = numbers(seed + 1, k, -1, 1).map((power) => 2 ** power);
      const trits = numbers(seed + 2, n * k, 0, 2);
      const half = numbers(seed + 3, n, -3, 3).map((power) => 2 ** power);
      const a = x.map((value, at) => value * factor[Math.floor(at / k)]! * norm[at % k]!);
      // The tables as the manual says: entries exact, then int8 with one scale for 8 tables.
      const entry = (row: number, table: number, i: number): number => {
        const four = a.slice(row * k + 4 * table, row * k + 4 * table + 4);
        return [0, 1, 2].reduce((sum, j) => sum + (2 * ((i >> j) & 1) - 1) * four[j]!, -four[3]!);
      };
      const even = (y: number): number => {
        const low = Math.floor(y);
        return y - low > 0.5 || (y - low === 0.5 && low % 2 !== 0) ? low + 1 : low;
      };
      const meant = new Float32Array(m * n);
      for (let row = 0; row < m; row++)
        for (let column = 0; column < n; column++) {
          let sum = 0;
          for (let share = 0; share < 4; share++) {
            const entries = Array.from({ length: 64 }, (_, e) => entry(row, share * 8 + (e >> 3), e & 7));
            const largest = Math.max(...entries.map(Math.abs));
            const [scale, inverse] = largest === 0 ? [0, 0] : [Math.fround(largest / 127), Math.fround(127 / largest)];
            let whole = 0;
            for (let table = 0; table < 8; table++)
              for (const plane of [0, 1]) {
                const bits = [0, 1, 2, 3].map((j) => (trits[column * k + share * 32 + table * 4 + j]! > plane ? 1 : 0));
                const pattern = bits.reduce<number>((all, bit, j) => all + bit * 2 ** j, 0);
                const index = pattern & 8 ? ~pattern & 7 : pattern;
                whole += (pattern & 8 ? -1 : 1) * even(Math.fround(entries[table * 8 + index]! * inverse));
              }
            sum = Math.fround(sum + Math.fround(whole * scale));
          }
          meant[row * n + column] = Math.fround(sum * half[column]!);
        }
      for (const mode of MODES.slice(1)) {
        const [tables, scales, out] = [new Uint8Array(m * 256), new Float32Array(m * 4), new Float32Array(m * n)];
        run("precompute", mode, [
          bytes(Float32Array.from(x)),
          bytes(Float32Array.from(factor)),
          bytes(Float32Array.from(norm)),
          tables,
          bytes(scales),
        ]);
        run("product", mode, [
          tables,
          bytes(scales),
          tiles(trits, "ternary", n, k),
          bytes(Float32Array.from(half)),
          bytes(out),
        ]);
        expect(out).toEqual(meant);
      }
    }),
    { numRuns: 5 },
  );
});

test("warps: two warps share tables, and sums of small integers are exact in fp16 in every mode", () => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const [m, n, k] = [2, 128, 16];
      // No table entry is 0, which the public array does not take as such, since it has an odd number of odd terms.
      const a = numbers(seed, m * k, -1, 1).map((x, at) => (at % 4 === 0 ? 2 * x + 1 : 2 * x));
      const q = numbers(seed + 1, n * k, 0, 15);
      const meant = Array.from({ length: m * n }, (_, at) => {
        const [row, column] = [Math.floor(at / n), at % n];
        return q
          .slice(column * k, (column + 1) * k)
          .reduce((sum, code, i) => sum + (2 * code - 15) * a[row * k + i]!, 0);
      });
      for (const mode of MODES) {
        const out = new Uint16Array(m * n);
        run("warps", mode, [bytes(halves(a)), tiles(q, "int4", n, k), bytes(out)]);
        expect(out).toEqual(halves(meant));
      }
    }),
    { numRuns: 10 },
  );
});

test("attention: scores of keys, and sums of values that are loaded by columns, over several blocks of positions", () => {
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 0, max: 3 }), (seed, blocks) => {
      const positions = 64 * blocks;
      const q = numbers(seed, 64, -8, 8);
      const keys = numbers(seed + 1, positions * 64, -8, 8);
      const p = numbers(seed + 2, positions, 0, 8);
      const values = numbers(seed + 3, positions * 64, -8, 8);
      const scores = Float32Array.from({ length: positions }, (_, at) =>
        q.reduce((sum, x, i) => sum + x * keys[at * 64 + i]!, 0),
      );
      const outputs = Float32Array.from({ length: 64 }, (_, i) =>
        p.reduce((sum, x, at) => sum + x * values[at * 64 + i]!, 0),
      );
      for (const mode of MODES) {
        const [found, out] = [new Float32Array(positions), new Float32Array(64)];
        const buffers = [halves(q), halves(keys), found, halves(p), halves(values), out].map(bytes);
        run("attention", mode, buffers, [0, blocks]);
        run("attention", mode, buffers, [1, blocks]);
        expect(found).toEqual(scores);
        expect(out).toEqual(outputs.map((x) => x + 0));
      }
    }),
    { numRuns: 10 },
  );
});
