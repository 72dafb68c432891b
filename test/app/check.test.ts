// lutra check: what it prints, what it exits with, and that its JSON says the same.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

import { folder, lutra, place, root } from "./lutra.ts";

const own = place(
  "mine.ladder",
  `import "float.ladder"
import "int.ladder"
import "base.ladder"

// Five levels in three bits.
element Five = table(bits: 3, rest: nan) [-2, -1, 0, 1, 2]
block Mine[16] {
  d : Scale
  q : U8[8]
  code c[i < 16] = q[i div 2].bits(4 * (i mod 2) +: 4)
  value[i] = d * c[i]
}
convert Mine -> F32 : value
convert Mine -> U4 : structure
convert Mine -> F16 : value
convert Five -> I4 : value
`,
);
place("base.ladder", 'import "float.ladder"\ntype Scale = BF16\nconvert Scale -> F32 : value\n');

/** The last line tells a time. */
function timeless(text: string): string {
  return text.replace(/\d+\.\d s\n$/, "0.0 s\n");
}

test("claims that do not hold are shown with place, counter-example and what would work, and end with 1", async () => {
  const { code, out, err } = lutra(["check", own]);
  expect(code).toBe(1);
  await expect(`${err}--\n${timeless(out)}`).toMatchFileSnapshot("../golden/app/check-mine.txt");
});

test("--json says the same in one object", () => {
  const { code, out, err } = lutra(["check", own, "--json"]);
  expect([code, err]).toEqual([1, ""]);
  const report = JSON.parse(out);
  expect(Object.keys(report)).toEqual(["types", "claims", "diagnostics", "ms"]);
  expect(report.types).toContainEqual({
    name: "Mine",
    bits_per_value: 5,
    min: -15 * (2 - 2 ** -7) * 2 ** 127,
    max: 15 * (2 - 2 ** -7) * 2 ** 127,
    exact_in: ["f64"],
    exact_codes: {},
    exact_when: {},
    lut: true,
    codes: { min: 0, max: 15, group: 16, offset: false },
    no_codes_because: null,
  });
  const summary = report.claims.map((claim: Record<string, unknown>) => [
    claim["claim"],
    claim["guarantee"],
    claim["status"],
    claim["domain"],
  ]);
  expect(summary).toEqual([
    ["Mine -> F32 : value", "value", "refuted", null],
    ["Mine -> U4 : structure", "structure", "proved", null],
    ["Mine -> F16 : value", "value", "refuted", null],
    ["Five -> I4 : value", "value", "refuted", null],
    ["Scale -> F32 : value", "value", "proved", null],
  ]);
  expect(report.claims[3]).toMatchObject({
    decided: true,
    proof: null,
    reason: "not every value of Five is a number of I4",
    counterexample: {
      index: 0,
      codes: [{ name: "code", code: "5", value: "NaN" }],
      block: null,
      value: "NaN",
      instead: null,
    },
    holds_for: { field: "code", low: 0, high: 4 },
  });
  expect(report.claims[1]).toMatchObject({
    proof: expect.stringMatching(/^[0-9a-f]{16}$/),
    counterexample: null,
    reason: null,
  });
  expect(report.diagnostics).toHaveLength(3);
  expect(report.diagnostics[0]).toMatchObject({
    code: "claim",
    severity: "error",
    file: "mine.ladder",
    path: own,
    span: { start: { line: 13, column: 1, offset: 273 }, end: { line: 13, column: 28, offset: 300 } },
  });
});

test("what is right ends with 0 and no word on stderr", () => {
  const right = place(
    "right.ladder",
    'import "mx.ladder"\nimport "float.ladder"\nconvert OCP_MXFP4 -> F16 : value when s in 104 .. 140\n',
  );
  const { code, out, err } = lutra(["check", right]);
  expect([code, timeless(out), err]).toEqual([0, "1 of 1 claims proved, 0 types, 0.0 s\n", ""]);
  const [claim] = JSON.parse(lutra(["check", right, "--json"]).out).claims;
  expect(claim).toMatchObject({ status: "proved", domain: [{ field: "s", low: 104, high: 140 }] });
});

test("a text that is wrong is a finding, in words and in JSON", () => {
  const wrong = place("wrong.ladder", 'import "float.ladder"\nblock A[2] { d : F61 value[i] = d }\n');
  expect(lutra(["check", wrong])).toEqual({
    code: 1,
    out: "",
    err: `wrong.ladder:2:18: error[unknown-name]: there is no element F61
   2 | block A[2] { d : F61 value[i] = d }
     |                  ^^^
     = did you mean "F64"?

`,
  });
  const report = JSON.parse(lutra(["check", wrong, "--json"]).out);
  expect(report).toMatchObject({
    types: [],
    claims: [],
    diagnostics: [
      {
        code: "unknown-name",
        severity: "error",
        file: "wrong.ladder",
        path: wrong,
        span: { start: { line: 2, column: 18, offset: 39 }, end: { line: 2, column: 21, offset: 42 } },
        message: "there is no element F61",
        notes: [],
        suggestion: 'did you mean "F64"?',
      },
    ],
  });
});

test("wrong usage ends with 2, a file that is not there with 1", () => {
  expect(lutra(["check"])).toEqual({
    code: 2,
    out: "",
    err: "lutra: no file; name one, as in lutra check mine.ladder\n",
  });
  expect(lutra(["check", "/nowhere/x.ladder"])).toEqual({
    code: 1,
    out: "",
    err: "lutra: /nowhere/x.ladder: no such file\n",
  });
  expect(lutra(["check", own, join(root, "dsl", "..", "dsl", "mx.ladder"), join(root, "dsl", "mx.ladder")]).code).toBe(
    1,
  );
});

test("the help is what the golden file shows", async () => {
  const { code, out } = lutra(["check", "--help"]);
  expect(code).toBe(0);
  await expect(out).toMatchFileSnapshot("../golden/app/help-check.txt");
  for (const line of out.split("\n")) expect(line.length, line).toBeLessThanOrEqual(110);
});

test("the standard library: every claim is proved, in time, and the table of types is that of the golden file", async () => {
  const files = readdirSync(join(root, "dsl")).filter((file) => file.endsWith(".ladder"));
  const startMs = performance.now();
  const { code, out, err } = lutra(["check", ...files.map((file) => join(root, "dsl", file))]);
  expect([code, err]).toEqual([0, ""]);
  await expect(timeless(out)).toMatchFileSnapshot("../golden/app/check-library.txt");
  // 20 s is what is promised for a machine that does nothing else.
  expect(performance.now() - startMs).toBeLessThan(40_000);
});

test("a file that has gone from its folder is not looked for elsewhere", () => {
  const lone = place("lone.ladder", 'import "../base.ladder"\nimport "gone.ladder"\n');
  const { code, err } = lutra(["check", lone]);
  expect(code).toBe(1);
  expect(err).toContain('an import is the name of a file beside this one, without a folder, and not "../base.ladder"');
  expect(err).toContain('there is no file "gone.ladder" among the files given');
  expect(err).not.toContain(folder);
});
