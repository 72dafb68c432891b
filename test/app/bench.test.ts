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

test.each([
  [["bench"], 'what to measure: ""; gemv, gemm, model or compare'],
  [["bench", "gemv", "--bits", "7"], "--bits: 7; 1 to 6, or 8"],
  [
    ["bench", "gemv", "--bits", "5", "--isa", "scalar", "--kernel", "lookup"],
    "--kernel: lookup; scalar has no lookups for 5 bits",
  ],
  [["bench", "gemv", "--group", "40"], "--group: 40; a multiple of 16"],
  [["bench", "gemm", "--k", "100"], "--k: 100; a multiple of the group, which is 128"],
])("%j is wrong usage", (args, message) => {
  expect(lutra(args)).toEqual({ code: 2, out: "", err: `lutra: ${message}\n` });
});
