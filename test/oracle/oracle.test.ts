// The oracles answer, and in the form that the tests that use them expect.

import { describe, expect } from "vitest";

import { embeddedModel, llama, python, testWith } from "./oracle.ts";

// oxlint-disable vitest/no-standalone-expect -- testWith is a test
describe("the outside oracles", () => {
  testWith(python(), "Python has gguf, ml_dtypes and numpy, and passes bytes through", (peer) => {
    const script = "import sys, gguf, ml_dtypes, numpy\nsys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])";
    expect([...peer.run(script, Uint8Array.of(1, 2, 255))]).toEqual([255, 2, 1]);
    expect(() => peer.run("raise SystemExit('why')")).toThrow(/exit status 1\nwhy/);
  });

  testWith(llama(), "llama.cpp gives whole distributions, and the likeliest token is its greedy one", (peer) => {
    const [view] = peer.vocabularies([embeddedModel], ["It is a truth universally acknowledged"]);
    const tokens = [0, ...(view?.plain[0] ?? [])];
    const all = peer.probabilities(embeddedModel, tokens, 2048);
    expect(all).toHaveLength(tokens.length);
    for (const distribution of all) {
      expect(distribution).toHaveLength(2048);
      expect(distribution.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 3);
    }
    const last = all.at(-1) ?? new Float32Array();
    const [first] = peer.greedy(embeddedModel, tokens, 3, 1);
    expect(last.indexOf(Math.max(...last))).toBe(first);
    expect(peer.firstTokenMs(embeddedModel, "Emma was not", 1)).toBeGreaterThan(10);
  });
});
