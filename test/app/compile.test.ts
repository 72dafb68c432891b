// lutra compile as a person uses it: a type of one's own becomes files, their names and sums are in the manifest, and
// what cannot be had is one line with what would work.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import { folder, lutra, place } from "./lutra.ts";

const OWN = `import "float.ladder"
import "int.ladder"

// Five levels in three bits, by fours, with a scale for 32.
block Penta[32] {
  d  : F16
  qs : U3[32]
  code q[i < 32] = qs[i].bits(0 +: 3)
  value[i] = d * (q[i] - 2)
}
`;
const own = place("penta.ladder", OWN);

function manifestIn(path: string) {
  return JSON.parse(readFileSync(join(path, "manifest.json"), "utf8"));
}

test.each([
  ["wgsl", ["kernel.wgsl", "manifest.json"]],
  ["cpu", ["kernel.cpp", "manifest.json"]],
  ["lmma", ["manifest.json", "norm-and-tables.lmma", "product.lmma"]],
])("a type of one's own for %s: the files, with their sums", (target, names) => {
  const out = join(folder, target);
  const { code, err } = lutra([
    "compile",
    own,
    "--type",
    "Penta",
    "--n",
    "64",
    "--k",
    "96",
    "--target",
    target,
    "-o",
    out,
  ]);
  expect([code, err]).toEqual([0, ""]);
  expect(readdirSync(out).toSorted()).toEqual(names);
  const manifest = manifestIn(out);
  expect(manifest.gemm).toMatchObject({ activation: "F16", weight: "Penta", m: 1, n: 64, k: 96 });
  for (const file of manifest.files) {
    const text = readFileSync(join(out, file.name));
    expect(file).toEqual({
      name: file.name,
      bytes: text.length,
      sha256: createHash("sha256").update(text).digest("hex"),
    });
  }
});

test("what is printed says what is computed, what rounds, the proofs and the files", () => {
  const out = join(folder, "said");
  const args = ["--type", "Penta", "--activation", "Q8_0", "--method", "dot", "--n", "64", "--k", "96"];
  const { out: said } = lutra(["compile", own, ...args, "-o", out]);
  expect(said.replaceAll(folder, "F").replaceAll(/proof [0-9a-f]{16}/g, "proof ID"))
    .toBe(`out(1,64) in F32 = Q8_0(1,96) . Penta(64,96)^T, summed in F32
method dot
integer codes are multiplied and summed in I32, exactly, as far as scales are the same; sums are scaled and added in F32; error at most 7.2e-7 of sum over k of (|s_a q_a| + |o_a|) (|s_w q_w| + |o_w|)
weights 3.8 KiB, activations 108 bytes, out 256 bytes
proof ID  Q8_0 -> I8 : structure
proof ID  Penta -> I4 : structure
written: F/said/kernel.wgsl, F/said/manifest.json
`);
});

test("a result that is rounded after it is summed is said not to be within the bound", () => {
  const args = ["compile", "--type", "Q4_0", "--out", "E4M3FN", "--n", "4", "--k", "64", "-o", join(folder, "narrow")];
  expect(lutra(args).out.split("\n")[2]).toMatch(
    /; error at most \S+ of sum over k of \|a w\|, before the sum goes to E4M3FN: to the nearest, ties to even; off by 2\^-4 of itself at most, /,
  );
});

test("scales that may be subnormals are in the error that is printed, and in the manifest", () => {
  const out = join(folder, "small");
  const said = lutra(["compile", "--type", "OCP_MXFP4", "--method", "decode", "--n", "4", "--k", "64", "-o", out]).out;
  expect(said.split("\n")[2]).toMatch(
    /; error at most \S+ \(1 \+ max over k of \|a\|\) \+ \S+ of sum over k of \|a w\|$/,
  );
  expect(manifestIn(out).guarantee.absolute_magnitude).toBe("1 + max over k of |a|");
});

test("--json is the manifest; files of an earlier call are replaced", () => {
  const out = join(folder, "json");
  lutra(["compile", "--type", "Q4_0", "--n", "32", "--k", "64", "-o", out]);
  const { code, out: said } = lutra(["compile", "--type", "Q8_0", "--n", "32", "--k", "64", "-o", out, "--json"]);
  expect(code).toBe(0);
  expect(JSON.parse(said)).toEqual(manifestIn(out));
  expect(manifestIn(out).gemm.weight).toBe("Q8_0");
  expect(readdirSync(out)).toHaveLength(2);
});

describe("what is wrong is one line", () => {
  test.each([
    [["--type", "Q4_0"], 2, "-o: no value; name the folder that the files shall lie in"],
    [["-o", "x", "--type", "Q4_O"], 2, '--type: "Q4_O"; did you mean "Q4_0"?'],
    [
      ["-o", "x", "--type", "Q4_0", "--k", "100"],
      1,
      "weights: k of 100 is no whole number of the 32 values of a block of Q4_0; 96 and 128 would be",
    ],
    [
      ["-o", "x", "--type", "Q4_0", "--acc", "F16"],
      1,
      "webgpu does not sum in F16; sum in F32, or compile for webgpu_f16",
    ],
    [
      ["-o", "x", "--type", "Q4_0", "--acc", "I32", "--method", "dot"],
      1,
      "I32 sums products of integers, and F16 has none: it is a plain float; sum in F32",
    ],
    [["-o", "x", "--type", "Q4_0", "--m", "0"], 2, '--m: "0"; a whole number from 1 to 16777216 is needed'],
  ])("%j", (args, code, line) => {
    const ended = lutra(["compile", ...args], { cwd: folder });
    expect([ended.code, ended.err, ended.out]).toEqual([code, `lutra: ${line}\n`, ""]);
    expect(existsSync(join(folder, "x"))).toBe(false);
  });

  test("a file in place of the folder", () => {
    const path = join(folder, "taken");
    writeFileSync(path, "mine");
    const { code, err } = lutra(["compile", "--type", "Q4_0", "-o", path, "--n", "32", "--k", "64"]);
    expect([code, err]).toEqual([1, `lutra: ${path}: there is a file of that name; name a folder\n`]);
    expect(readFileSync(path, "utf8")).toBe("mine");
  });

  test("a folder that cannot be made, where Node's own recursion would not end", () => {
    if (!existsSync("/proc/self")) return expect(process.platform).not.toBe("linux");
    const { code, err } = lutra(["compile", "--type", "Q4_0", "-o", "/proc/x/y", "--n", "32", "--k", "64"]);
    expect([code, err]).toEqual([1, "lutra: /proc/x/y: no folder can be made there (ENOENT)\n"]);
  });

  test("one of the files cannot be written: the others are not there either", () => {
    const path = join(folder, "half");
    const manifest = join(path, "manifest.json");
    mkdirSync(manifest, { recursive: true });
    const { code, err } = lutra(["compile", "--type", "Q4_0", "-o", path, "--n", "32", "--k", "64"]);
    expect([code, err]).toEqual([1, `lutra: ${manifest}: is a directory; name a file in it\n`]);
    expect(readdirSync(path)).toEqual(["manifest.json"]);
  });

  test("a .ladder file with a mistake is a finding with its place", () => {
    const path = place("wrong.ladder", OWN.replace("U3[32]", "U9[32]"));
    const { code, err } = lutra(["compile", path, "--type", "Penta", "-o", join(folder, "y")]);
    expect(code).toBe(1);
    expect(err).toMatch(/wrong\.ladder:7:\d+/);
  });
});

test("--help shows the options and an example for each target", () => {
  const { out } = lutra(["compile", "--help"]);
  for (const part of [
    "--activation",
    "--method",
    "-o",
    "--target cpu",
    "--target lmma",
    "lutra compile --type Q4_0 -o q4",
  ])
    expect(out).toContain(part);
});
