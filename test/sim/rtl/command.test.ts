// lutra rtl: the files that it writes, that they simulate, and what it refuses.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

import { folder, lutra, place } from "../../app/lutra.ts";
import { testWith } from "../../oracle/oracle.ts";
import { icarus } from "./simulate.ts";

const FILES = ["design.v", "testbench.v", "vectors.hex", "config.json", "README.txt"];

testWith(
  icarus(),
  "both examples are written, and their testbenches pass with the command that README.txt names",
  () => {
    for (const [name, top] of [
      ["lut-m2n64k4-int8.json", "lutra_lut_m2n64k4"],
      ["mac-fp16.json", "lutra_mac_m1n1k4"],
    ] as const) {
      const out = join(folder, top);
      const ended = lutra(["rtl", name, "-o", out, "--vectors", "50", "--json"]);
      expect([ended.code, ended.err]).toEqual([0, ""]);
      const facts = JSON.parse(ended.out) as { top: string; files: string[]; config: object; latency_cycles: number };
      expect(facts).toMatchObject({ top, files: FILES.map((file) => join(out, file)), latency_cycles: 2 });
      expect(JSON.parse(readFileSync(join(out, "config.json"), "utf8"))).toEqual(facts.config);
      const readme = readFileSync(join(out, "README.txt"), "utf8");
      const shown = readme.split("\n").find((line) => line.includes("iverilog"))!;
      expect(execFileSync("sh", ["-c", shown], { cwd: out, encoding: "utf8" })).toMatch(/^lutra: PASS, \d+ checks\n$/);
    }
  },
);

test("a configuration that it wrote makes the same files again, and only --force replaces them", () => {
  const [first, second] = [join(folder, "first"), join(folder, "second")];
  const own = place("own.json", '{ "kind": "unpu", "activation": "int8", "k": 2 }');
  expect(lutra(["rtl", own, "-o", first, "--vectors", "10"]).code).toBe(0);
  expect(lutra(["rtl", join(first, "config.json"), "-o", second, "--vectors", "10"]).code).toBe(0);
  for (const file of FILES) expect(readFileSync(join(second, file))).toEqual(readFileSync(join(first, file)));
  writeFileSync(join(first, "design.v"), "mine");
  const again = lutra(["rtl", own, "-o", first, "--vectors", "10"]);
  const refused = `lutra: ${join(first, "design.v")}: is there already; --force replaces it\n`;
  expect(again).toEqual({ code: 1, out: "", err: refused });
  expect(readFileSync(join(first, "design.v"), "utf8")).toBe("mine");
  expect(lutra(["rtl", own, "-o", first, "--vectors", "10", "--force"]).code).toBe(0);
  expect(readFileSync(join(first, "design.v"))).toEqual(readFileSync(join(second, "design.v")));
});

test("--kinds names every field, and no other", () => {
  const { fields } = JSON.parse(lutra(["rtl", "--kinds", "--json"]).out) as { fields: { name: string }[] };
  const named = fields.flatMap(({ name }) => name.split(", "));
  const out = join(folder, "fields");
  expect(lutra(["rtl", "mac-fp16.json", "-o", out, "--vectors", "0"]).code).toBe(0);
  const whole = JSON.parse(readFileSync(join(out, "config.json"), "utf8")) as Record<string, unknown>;
  const steps = { reinterpretation: true, offlineNegation: true, precomputeSplit: true };
  const paths = Object.entries({ ...whole, steps }).flatMap(([name, value]) =>
    typeof value === "object" && value !== null ? Object.keys(value).map((inner) => `${name}.${inner}`) : [name],
  );
  expect(named.toSorted()).toEqual(paths.toSorted());
});

test("what cannot be built is refused in one line, and nothing is written", () => {
  const bad = place("bad.json", '{ "kind": "lut", "activation": "int8", "steps": { "split": true } }');
  const text = place("text.json", "kind: lut");
  const wide = place("wide.json", '{ "kind": "lut", "activation": "int8", "m": 8, "n": 512 }');
  const out = join(folder, "none");
  const file = place("a-file", "");
  for (const [args, code, reason] of [
    [["rtl"], 2, "no configuration; name a file, as in lutra rtl mac-fp16.json -o mac"],
    [["rtl", bad], 2, "-o: no value; name the folder that the files shall lie in"],
    [
      ["rtl", bad, "-o", out],
      1,
      `${bad}: steps.split: there is no such field; fields are reinterpretation, offlineNegation, precomputeSplit`,
    ],
    [
      ["rtl", wide, "-o", out, "--vectors", "5000"],
      2,
      "--vectors: 5000; 4096 lanes are tried with at most 2048, as in --vectors 100",
    ],
    [["rtl", "mac-fp16.json", "-o", file], 1, `${file}: there is a file of that name; name a folder`],
    [
      ["rtl", "mac-fp16.json", "-o", join(out, "below")],
      1,
      `${join(out, "below")}: no folder can be made there (ENOENT); the folder above it must be there`,
    ],
  ] as const)
    expect(lutra(args)).toEqual({ code, out: "", err: `lutra: ${reason}\n` });
  const notJson = lutra(["rtl", text, "-o", out]);
  expect(notJson.err).toMatch(/^lutra: .*text\.json: no JSON: .*\n$/);
  expect(existsSync(out)).toBe(false);
});
