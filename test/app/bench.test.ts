// lutra bench: what it prints and refuses; the figures themselves are not tested, since machines differ.

import { expect, test } from "vitest";

import { loadAddon } from "../../src/cpu/native.ts";
import { testWith } from "../oracle/oracle.ts";
import { lutra } from "./lutra.ts";

testWith(loadAddon(), "gemv --json has every figure, and they agree with each other", (addon) => {
  const { code, out, err } = lutra(["bench", "gemv", "--bits", "8", "--rounds", "2", "--threads", "1", "--json"]);
  expect([code, err]).toEqual([0, ""]);
  const figures = JSON.parse(out) as Record<string, number> & { time_us: Record<string, number> };
  expect(figures).toMatchObject({ kernel: "gemv", isa: addon.isas()[0], bits: 8, group: 128, m: 4096, k: 4096, n: 1 });
  const { min, median, max } = figures.time_us as { min: number; median: number; max: number };
  expect(min).toBeLessThanOrEqual(median);
  expect(median).toBeLessThanOrEqual(max);
  const bytes = 4096 * 4096 * (1 + 2 / 128);
  expect(figures["gbps"]).toBeCloseTo(bytes / median / 1000, 6);
  expect(figures["gops"]).toBeCloseTo((2 * 4096 * 4096) / median / 1000, 6);
  expect(figures["share"]).toBeCloseTo((figures["gbps"] as number) / (figures["read_gbps"] as number), 6);
});

testWith(loadAddon(), "vectors of f16 and averaged lookups are timed, and said", (addon) => {
  const isa = addon.isas().find((name) => !name.startsWith("avx512"))!;
  const matrix = ["bench", "gemv", "--isa", isa, "--bits", "2", "--m", "64", "--k", "256", "--rounds", "1"];
  const { code, out, err } = lutra([...matrix, "--activations", "f16", "--fast-aggregation", "4", "--json"]);
  expect([code, err]).toEqual([0, ""]);
  expect(JSON.parse(out)).toMatchObject({ isa, family: "lookup", activations: "f16", fast_aggregation: 4 });
});

testWith(loadAddon(), "ternary kernels are timed in 13 bytes for 64 weights", () => {
  const matrix = ["bench", "gemv", "--isa", "scalar", "--bits", "2", "--m", "64", "--k", "256", "--rounds", "1"];
  const { code, out, err } = lutra([...matrix, "--kernel", "ternary", "--json"]);
  expect([code, err]).toEqual([0, ""]);
  const { family, gbps, time_us } = JSON.parse(out) as { family: string; gbps: number; time_us: { median: number } };
  expect(family).toBe("ternary");
  expect(1000 * gbps * time_us.median).toBeCloseTo((64 * 256 * 13) / 64 + (64 * 256 * 2) / 128, 3); // and f16 scales
});

testWith(loadAddon(), "ablation has a line for each of T-MAC's means, timed or unavailable", (addon) => {
  const args = ["bench", "ablation", "--m", "100", "--k", "256", "--group", "64", "--rounds", "1"];
  for (const isa of addon.isas().filter((name) => !name.startsWith("avx512"))) {
    const { code, out, err } = lutra([...args, "--isa", isa, "--json"]);
    expect([code, err], isa).toEqual([0, ""]);
    const lines = out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, number | string>);
    expect(lines.map(({ ablation }) => ablation)).toEqual([
      "full",
      "tiles",
      "rows",
      "pairs",
      "float-tables",
      "half-tables",
      "averages-2",
      "averages-4",
      "averages-8",
    ]);
    const [full] = lines as [Record<string, number>];
    expect(full).toMatchObject({ isa, bits: 2, group: 64, m: 100, k: 256, threads: 1, ratio: 1 });
    for (const line of lines) {
      const name = String(line["ablation"]);
      const isThere = isa === "avx2" || name === "full" || name === "tiles" || name.startsWith("averages");
      if (!isThere) {
        expect(line["unavailable"]).toBe(`written for avx2, not for ${isa}`);
        continue;
      }
      expect(Number(line["bytes"]), name).toBeGreaterThanOrEqual(100 * 256 * (2 / 8 + 2 / 64));
      expect(Number(line["ratio_min"]), name).toBeLessThanOrEqual(Number(line["ratio_max"]));
      // Tables of bytes, of f32, and averages, which lose more the more lookups they are of.
      const error = Number(line["nmse"]) / full["nmse"]!;
      if (name === "float-tables") expect(error).toBeLessThan(1e-6);
      else if (name.startsWith("averages")) expect(error).toBeGreaterThan(1.5);
      else expect(error).toBeCloseTo(1, 3);
    }
    if (isa === "scalar") continue; // which is slow
    const people = lutra([...args, "--isa", isa]);
    expect(people.code).toBe(0);
    expect(people.out.split("\n")[2]).toMatch(
      /^as models run it +[\d.]+ {2}1\.00 \(1\.00 to 1\.00\) +\d+ % +\d\.\de-5 *$/,
    );
  }
});

testWith(loadAddon(), "ablation names the instruction sets that it is for", (addon) => {
  const usable = addon.isas().filter((name) => !name.startsWith("avx512"));
  const { code, err } = lutra(["bench", "ablation", "--isa", "avx512-vbmi"]);
  expect([code, err]).toEqual([
    2,
    "lutra: --isa: avx512-vbmi; ablations are of lookups with one table in a register, which " +
      `${usable.join(", ")} of this processor ${usable.length === 1 ? "has" : "have"}\n`,
  ]);
});

test.each([
  [["bench"], 'what to measure: ""; gemv, gemm, model, compare or ablation'],
  [["bench", "gemv", "--bits", "7"], "--bits: 7; 1 to 6, or 8"],
  [
    ["bench", "gemv", "--bits", "5", "--isa", "scalar", "--kernel", "lookup"],
    "--kernel: lookup; scalar has no lookups for 5 bits",
  ],
  [
    ["bench", "gemv", "--bits", "2", "--group", "32", "--isa", "scalar", "--kernel", "ternary"],
    "--kernel: ternary; it is for three levels (--bits 2) in groups of a multiple of 64 with avx512-vbmi or scalar, not " +
      "for 2 bits in groups of 32 with scalar",
  ],
  [
    ["bench", "gemv", "--isa", "scalar", "--bits", "4", "--kernel", "dot", "--fast-aggregation", "4"],
    "--fast-aggregation: 4; it is for lookups of 1 to 4 bits with --isa avx2, neon, scalar, not for dot kernels of scalar",
  ],
  [
    ["bench", "gemv", "--isa", "scalar", "--bits", "6", "--fast-aggregation", "2"],
    "--fast-aggregation: 2; it is for lookups of 1 to 4 bits with --isa avx2, neon, scalar, not for dot kernels of scalar",
  ],
  [["bench", "gemv", "--fast-aggregation", "3"], '--fast-aggregation: "3"; one of off, 2, 4, 8 is needed'],
  [["bench", "ablation", "--bits", "5"], '--bits: "5"; a whole number from 1 to 4 is needed'],
  [["bench", "ablation", "--group", "48"], "--group: 48; a multiple of 32"],
  [["bench", "ablation", "--k", "4000"], "--k: 4000; a multiple of the group, which is 128"],
  [["bench", "gemv", "--group", "40"], "--group: 40; a multiple of 16"],
  [["bench", "gemm", "--k", "100"], "--k: 100; a multiple of the group, which is 128"],
])("%j is wrong usage", (args, message) => {
  expect(lutra(args)).toEqual({ code: 2, out: "", err: `lutra: ${message}\n` });
});
