// lutra fmt as people and editors call it: what is written, what is named, and what is left alone.

import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import { folder, lutra, place, root } from "./lutra.ts";

const MESSY = 'import "float.ladder"\nblock  A[2]{d:F16\n\n\n  value[i]=d// both\n}';
const TIDY = 'import "float.ladder"\nblock A[2] {\n  d : F16\n\n  value[i] = d // both\n}\n';
const WRONG = "block A[2] { d F16 }\n";
const FINDING = `wrong.ladder:1:16: error[syntax]: expected ":" in this field, found "F16"
   1 | block A[2] { d F16 }
     |                ^^^

`;

test("files that differ are rewritten and named, others are not touched", () => {
  const messy = place("messy.ladder", MESSY);
  const tidy = place("tidy.ladder", TIDY);
  const before = statSync(tidy).mtimeMs;
  expect(lutra(["fmt", messy, tidy])).toEqual({ code: 0, out: `${messy}\n`, err: "" });
  expect(readFileSync(messy, "utf8")).toBe(TIDY);
  expect(statSync(tidy).mtimeMs).toBe(before);
  expect(lutra(["fmt", messy, tidy])).toEqual({ code: 0, out: "", err: "" });
});

test("--check changes nothing, names what differs, and ends with 1", () => {
  const messy = place("checked.ladder", MESSY);
  const tidy = place("tidy.ladder", TIDY);
  expect(lutra(["fmt", "--check", messy, tidy])).toEqual({ code: 1, out: `${messy}\n`, err: "" });
  expect(readFileSync(messy, "utf8")).toBe(MESSY);
  expect(lutra(["fmt", "--check", tidy])).toEqual({ code: 0, out: "", err: "" });
});

test("a text with errors of syntax is left as it is, and the others are formatted", () => {
  const wrong = place("wrong.ladder", WRONG);
  const messy = place("messy.ladder", MESSY);
  expect(lutra(["fmt", wrong, messy])).toEqual({ code: 1, out: `${messy}\n`, err: FINDING });
  expect(readFileSync(wrong, "utf8")).toBe(WRONG);
  expect(readFileSync(messy, "utf8")).toBe(TIDY);
});

test("a file that cannot be replaced is not named as one that was", () => {
  // There is room for this path, and none for that of a new file beside it.
  let deep = folder;
  while (deep.length < 4080) deep = join(deep, "x".repeat(Math.min(200, Math.max(1, 4079 - deep.length))));
  mkdirSync(deep, { recursive: true });
  const path = join(deep, "a.ladder");
  writeFileSync(path, MESSY);
  const { code, out, err } = lutra(["fmt", path]);
  expect([code, out, err.replace(path, "FILE")]).toEqual([
    1,
    "",
    "lutra: FILE: the name is too long; nothing was written\n",
  ]);
  expect(readFileSync(path, "utf8")).toBe(MESSY);
});

test("- takes stdin to stdout", () => {
  expect(lutra(["fmt", "-"], { input: MESSY })).toEqual({ code: 0, out: TIDY, err: "" });
  expect(lutra(["fmt", "-"], { input: "" })).toEqual({ code: 0, out: "", err: "" });
  expect(lutra(["fmt", "-", "--check"], { input: MESSY })).toEqual({ code: 1, out: "stdin\n", err: "" });
  expect(lutra(["fmt", "-"], { input: WRONG })).toEqual({
    code: 1,
    out: "",
    err: FINDING.replace("wrong.ladder", "stdin"),
  });
  expect(lutra(["fmt", "-"], { input: Buffer.from([0xff, 0x0a]) })).toEqual({
    code: 1,
    out: "",
    err: "lutra: stdin: bytes that are no UTF-8; a .ladder file is text\n",
  });
  expect(lutra(["fmt", "-"], { input: " ".repeat(2 ** 20 + 1) })).toEqual({
    code: 1,
    out: "",
    err: "lutra: stdin: more than 1048576 bytes; a .ladder file has at most as many\n",
  });
});

test("--json says the same in one object, with places that an editor can use", () => {
  const wrong = place("wrong.ladder", WRONG);
  const messy = place("messy.ladder", MESSY);
  const { code, out, err } = lutra(["fmt", "--json", "--check", wrong, messy]);
  expect([code, err]).toEqual([1, ""]);
  expect(JSON.parse(out)).toEqual({
    files: [{ file: "messy.ladder", path: messy, formatted: false, text: null }],
    diagnostics: [
      {
        code: "syntax",
        severity: "error",
        message: 'expected ":" in this field, found "F16"',
        file: "wrong.ladder",
        span: { start: { line: 1, column: 16, offset: 15 }, end: { line: 1, column: 19, offset: 18 } },
        notes: [],
        suggestion: null,
        path: wrong,
      },
    ],
  });
  const piped = JSON.parse(lutra(["fmt", "--json", "-"], { input: MESSY }).out);
  expect(piped.files).toEqual([{ file: "stdin", path: null, formatted: false, text: TIDY }]);
});

describe("wrong usage and files that cannot be used are told in one line:", () => {
  test.each([
    [[], 2, "no file; name one, as in lutra fmt mine.ladder"],
    [["-", "x.ladder"], 2, "-: stdin is formatted alone; leave out the other files"],
    [["/nowhere/x.ladder"], 1, "/nowhere/x.ladder: no such file"],
  ])("lutra fmt %j", (args, code, reason) => {
    expect(lutra(["fmt", ...args])).toEqual({ code, out: "", err: `lutra: ${reason}\n` });
  });
});

test("the library is formatted", () => {
  const files = readdirSync(join(root, "dsl")).filter((file) => file.endsWith(".ladder"));
  expect(lutra(["fmt", "--check", ...files.map((file) => join(root, "dsl", file))])).toEqual({
    code: 0,
    out: "",
    err: "",
  });
});

test("the help is what the golden file shows", async () => {
  const { code, out } = lutra(["fmt", "--help"]);
  expect(code).toBe(0);
  await expect(out).toMatchFileSnapshot("../golden/app/help-fmt.txt");
  for (const line of out.split("\n")) expect(line.length, line).toBeLessThanOrEqual(110);
});
