// lutra explain: what it prints, what it exits with, and that its JSON says the same.

import { expect, test } from "vitest";

import { lutra, place } from "./lutra.ts";

const own = place(
  "mine.ladder",
  `import "float.ladder"
import "int.ladder"

block Mine[16] {
  d : BF16
  q : U8[8]
  code c[i < 16] = q[i div 2].bits(4 * (i mod 2) +: 4)
  value[i] = d * c[i]
}
device mine {
  memory main(granularity: 32, bandwidth: 1000)
  memory register(granularity: 32, capacity: 1024)
  cores (count: 4)
  native (of: F32)
  multiply (activation: F32, weight: F32, accumulate: F32, n: 8, rate: 2000)
  operate (of: U8, rate: 8000)
  operate (of: F32, rate: 2000)
}
`,
);

test("a plan is shown with its tiles, steps and proofs, then the others, then what was refused and why", async () => {
  const { code, out, err } = lutra(["explain", own, "--type", "Mine", "--device", "mine", "--n", "100", "--k", "250"]);
  expect([code, err]).toEqual([0, ""]);
  await expect(out).toMatchFileSnapshot("../golden/app/explain-mine.txt");
});

test("--help says what there is", async () => {
  const { code, out } = lutra(["explain", "--help"]);
  expect(code).toBe(0);
  await expect(out).toMatchFileSnapshot("../golden/app/help-explain.txt");
});

test("--json has the whole plan, and each refusal with its counter-example", () => {
  const { code, out } = lutra(["explain", own, "--type", "Mine", "--device", "mine", "--json"]);
  expect(code).toBe(0);
  const { chosen, others, refused } = JSON.parse(out);
  expect(chosen).toMatchObject({
    device: "mine",
    method: "decode",
    gemm: { activation: "F16", weight: "Mine", accumulate: "F32", out: "F32", m: 1, n: 4096, k: 4096 },
    guarantee: { weights: "structure", activations: "value", rounding: "none" },
  });
  expect(chosen.weights.chain.map(({ from, to }: { from: string; to: string }) => `${from} ${to}`)).toEqual([
    "Mine U4",
    "U4 F32",
  ]);
  expect(others.length).toBeGreaterThan(0);
  expect(refused).toEqual([]);
  const report = JSON.parse(lutra(["explain", "--type", "Q4_1", "--device", "x86_avx2", "--json"]).out);
  expect(report.refused).toContainEqual({
    name: "decode F32 x F32 by value",
    reason: expect.stringMatching(/^Q4_1 -> F32 : value: not every value of Q4_1 is a number of F32/),
    counterexample: expect.stringMatching(/^d = \d+, .*\(raw codes\) make .*; it becomes /),
  });
});

test("where there is no plan, the exit code is 1 and the reasons are shown", () => {
  const { code, out } = lutra(["explain", "--type", "F16", "--device", "lut_tensor_core"]);
  expect([code, out]).toEqual([
    1,
    `there is no plan

refused
  lookup F16 x U1 and 1 more
    F16 -> I8 : structure: F16 has no integer codes: it is a plain float
`,
  ]);
});

test("names that nobody has are refused with those that there are", () => {
  const devices = "webgpu, webgpu_f16, x86_avx2, x86_avx512_vnni, arm_neon, a100, lut_tensor_core";
  expect(lutra(["explain", "--type", "Q4_0"])).toEqual({
    code: 2,
    out: "",
    err: `lutra: --device: no value; there are ${devices}\n`,
  });
  expect(lutra(["explain", "--type", "Q4_0", "--device", "a10"])).toEqual({
    code: 2,
    out: "",
    err: `lutra: --device: "a10"; did you mean "a100"?\n`,
  });
  const { code, err } = lutra(["explain", "--type", "Q4_9", "--device", "a100"]);
  expect(code).toBe(2);
  expect(err).toMatch(/^lutra: --type: "Q4_9"; did you mean "Q4_[01K]"\?\n$/);
});

test("a file that is wrong is a finding, and ends with 1", () => {
  const wrong = place(
    "wrong.ladder",
    'import "int.ladder"\ndevice d { lookup (index: U4, entry: I8, lanes: 4, k: 7) }\n',
  );
  const { code, out, err } = lutra(["explain", wrong, "--type", "Q4_0", "--device", "d"]);
  expect([code, out]).toEqual([1, ""]);
  expect(err).toContain("an index of 4 bits stands for 4, or 5 where a table is symmetric, activations, not 7");
});
