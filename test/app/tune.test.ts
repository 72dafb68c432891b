// lutra tune, and the file in which it keeps what it finds: that a run uses it, and that no damage to it is seen.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { adapterChoices, addChoices, type Kept, processorChoices, readChoices } from "../../src/app/tuned.ts";
import { packageVersion } from "../../src/app/version.ts";
import type { Methods } from "../../src/gpu/method.ts";
import { bestOf, type GpuTimes } from "../../src/gpu/tuner.ts";
import { loadAddon, processorName } from "../../src/cpu/native.ts";
import type { Kernel } from "../../src/cpu/tuner.ts";
import { softwareGpu } from "../gpu.ts";
import { embeddedModel, testWith } from "../oracle/oracle.ts";
import { folder, lutra, place } from "./lutra.ts";
import { tiny } from "./tiny-model.ts";

const dot: Kernel = { method: "dot", ahead: 1024 };
const lookup: Kernel = { method: "lookup", ahead: 0 };

describe("the file of choices", () => {
  const keptIn = (name: string, machine = "cpu"): Kept<Kernel> => ({
    ...processorChoices(machine),
    file: join(folder, "choices", name, "kernels.json"),
  });

  test("keeps what is added, and what was there", () => {
    const kept = keptIn("kept");
    expect(readChoices(kept)).toEqual(new Map());
    addChoices(kept, new Map([["a", dot]]));
    addChoices(kept, new Map([["b", lookup]]));
    expect(readChoices(kept)).toEqual(
      new Map([
        ["a", dot],
        ["b", lookup],
      ]),
    );
    expect(readdirSync(join(kept.file, ".."))).toEqual(["kernels.json"]); // nothing temporary is left
  });

  test("counts as none on another processor and in another version, and is replaced then", () => {
    const kept = keptIn("foreign");
    const path = kept.file;
    addChoices(kept, new Map([["a", dot]]));
    expect(readChoices(keptIn("foreign", "another cpu"))).toEqual(new Map());
    const old = JSON.parse(readFileSync(path, "utf8")) as object;
    writeFileSync(path, JSON.stringify({ ...old, version: "0.0.0" }));
    expect(readChoices(kept)).toEqual(new Map());
    addChoices(kept, new Map([["b", lookup]]));
    expect(readChoices(kept)).toEqual(new Map([["b", lookup]]));
  });

  test("is taken as far as it holds kernels, whatever is in it", () => {
    const kept = keptIn("damaged");
    const path = kept.file;
    mkdirSync(join(path, ".."), { recursive: true });
    const whole = JSON.stringify({ version: packageVersion(), machine: "cpu", kernels: { a: dot } });
    const texts = fc.oneof(
      fc.string(),
      fc.json(),
      fc.nat(whole.length - 1).map((length) => whole.slice(0, length)),
      fc.jsonValue().map((kernels) => JSON.stringify({ version: packageVersion(), machine: "cpu", kernels })),
      fc.jsonValue().map((a) => JSON.stringify({ version: packageVersion(), machine: "cpu", kernels: { a } })),
    );
    fc.assert(
      fc.property(texts, (text) => {
        writeFileSync(path, text);
        for (const kernel of readChoices(kept).values()) {
          expect(["dot", "lookup", "ternary"]).toContain(kernel.method);
          expect(Number.isInteger(kernel.ahead) && kernel.ahead >= 0 && kernel.ahead <= 65_536).toBe(true);
        }
      }),
      { seed: 20_261_123, numRuns: 300 },
    );
    writeFileSync(path, whole.padEnd(2 ** 21));
    expect(readChoices(kept)).toEqual(new Map()); // nobody's tuner wrote so much
  });

  test("of a GPU is one for each adapter, and has methods", () => {
    const env = process.env["XDG_CACHE_HOME"];
    process.env["XDG_CACHE_HOME"] = join(folder, "adapters");
    const [one, other] = [adapterChoices("one adapter"), adapterChoices("another")];
    if (env === undefined) delete process.env["XDG_CACHE_HOME"];
    else process.env["XDG_CACHE_HOME"] = env;
    addChoices(one, new Map([["a", { one: "dot", more: "decode" }]]));
    expect(readChoices(one)).toEqual(new Map([["a", { one: "dot", more: "decode" }]]));
    expect(readChoices(other)).toEqual(new Map());
    // Even where the names of files were to meet.
    expect(readChoices({ ...other, file: one.file })).toEqual(new Map());
    writeFileSync(one.file, readFileSync(one.file, "utf8").replace("decode", "ternary"));
    expect(readChoices(one)).toEqual(new Map());
  });
});

describe("lutra tune", () => {
  const env = { XDG_CACHE_HOME: join(folder, "cache") };
  const kept = join(env.XDG_CACHE_HOME, "lutra", "kernels.json");

  testWith(loadAddon(), "measures a model's matrices in seconds, and runs use what it found", (addon) => {
    const model = embeddedModel;
    const began = performance.now();
    const { code, out, err } = lutra(["tune", model, "--threads", "1", "--json"], { env });
    expect([code, err]).toEqual([0, ""]);
    expect(performance.now() - began).toBeLessThan(30_000); // 4.5 s of measuring, on a machine that may be busy
    const { file, matrices, measured } = JSON.parse(out) as {
      file: string;
      matrices: number;
      measured: { name: string; kernel: typeof dot }[];
    };
    expect(file).toBe(kept);
    expect(measured.length).toBeGreaterThan(0);
    expect(measured.length).toBeLessThanOrEqual(matrices);
    const choices = readChoices({ ...processorChoices(processorName()), file: kept });
    for (const { name, kernel } of measured) expect(choices.get(name)).toEqual(kernel);
    expect(measured[0]?.name.startsWith(`${addon.isas()[0]}: `)).toBe(true);
    for (const more of [[], ["--no-tune"]]) {
      const ran = lutra(["run", model, "Once", "--max-tokens", "3", "--threads", "1", "--seed", "1", ...more], { env });
      expect([ran.code, ran.out.length > 0]).toEqual([0, true]);
    }
  });

  test("has nothing to measure where all matrices are plain floats", () => {
    const path = place("tiny.gguf", tiny);
    const { code, out } = lutra(["tune", path, "--json"], { env: { XDG_CACHE_HOME: join(folder, "none") } });
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ matrices: 0, measured: [] });
  });

  testWith(loadAddon(), "says where it cannot keep what it measured; a run does not mind", () => {
    const model = embeddedModel;
    writeFileSync(join(folder, "occupied"), "");
    const occupied = { XDG_CACHE_HOME: join(folder, "occupied") };
    const { code, err } = lutra(["tune", model, "--threads", "1"], { env: occupied });
    const file = join(occupied.XDG_CACHE_HOME, "lutra", "kernels.json");
    expect(code).toBe(1);
    expect(err).toMatch(`lutra: ${file}: cannot keep what was measured: ENOTDIR`);
    expect(existsSync(file)).toBe(false);
    const ran = lutra(["run", model, "Once", "--max-tokens", "1", "--threads", "1"], { env: occupied });
    expect(ran.code).toBe(0);
  });

  testWith(softwareGpu("lavapipe"), "times every method on a GPU, and runs there use what it found", () => {
    // Of one type, for each kind of matrix costs seconds of compiling.
    const path = place("tiny-gpu.gguf", tiny);
    const { code, out, err } = lutra(["tune", path, "--device", "gpu", "--json"], { env });
    expect(code, err).toBe(0);
    const { file, adapter, matrices, measured } = JSON.parse(out) as {
      file: string;
      adapter: string;
      matrices: number;
      measured: { name: string; methods: Methods; times: Record<string, { one: number; more: number }> }[];
    };
    expect(measured).toHaveLength(matrices);
    const choices = readChoices({ ...adapterChoices(adapter), file });
    for (const { name, methods, times } of measured) {
      expect(choices.get(name)).toEqual(methods);
      expect(Object.keys(times)).toEqual(["dot", "decode", "lookup"]);
      expect(bestOf(new Map(Object.entries(times)) as GpuTimes)).toEqual(methods);
      for (const { one, more } of Object.values(times)) expect(Math.min(one, more)).toBeGreaterThan(0);
    }
    const ran = lutra(["run", path, "a", "--max-tokens", "2", "--device", "gpu"], { env });
    expect([ran.code, ran.out.length > 0]).toEqual([0, true]);
  });

  test("takes for one row what is fastest there, and lookups for all rows or none", () => {
    const times = (dot_: number[], decode: number[], lookup_: number[]): GpuTimes =>
      new Map(
        (
          [
            ["dot", dot_],
            ["decode", decode],
            ["lookup", lookup_],
          ] as const
        ).map(([name, [one, more]]) => [name, { one: one!, more: more! }]),
      );
    expect(bestOf(times([1, 5], [2, 4], [3, 3]))).toEqual({ one: "dot", more: "decode" });
    expect(bestOf(times([3, 3], [2, 4], [1, 5]))).toEqual({ one: "lookup", more: "lookup" });
  });
});
