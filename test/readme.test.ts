// Runs every command of the README's console blocks and compares what it prints with what the README shows:
// line by line, where "..." stands for anything; and its program, as it stands. The two commands of set-up and test are
// run by .ci/run, and the test here is only that it runs those very ones.

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

import { modelFile, testWith } from "./oracle/oracle.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const readme = readFileSync(join(root, "README.md"), "utf8");

interface Shown {
  readonly command: string;
  readonly output: readonly string[];
}

const shown: readonly Shown[] = [...readme.matchAll(/^```console\n([^]*?)^```/gm)].flatMap(([, block]) =>
  (block as string)
    .trimEnd()
    .split(/^\$ /m)
    .slice(1)
    .map((part) => {
      const lines = part.replace(/\n$/, "").split("\n");
      const [, end] = /<<'(\w+)'$/.exec(lines[0] ?? "") ?? [];
      const length = end === undefined ? 1 : lines.indexOf(end) + 1; // a here-document belongs to its command
      return { command: lines.slice(0, length).join("\n"), output: lines.slice(length) };
    }),
);

/** Whether the lines are those of the pattern; a pattern line "..." stands for any number of lines. */
function matches(lines: readonly string[], pattern: readonly string[]): boolean {
  const [first, ...rest] = pattern;
  if (first === undefined) return lines.length === 0;
  if (first === "...") return lines.some((_, i) => matches(lines.slice(i), rest)) || matches([], rest);
  const parts = first.split("...").map((text) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return lines[0] !== undefined && new RegExp(`^${parts.join(".*")}$`).test(lines[0]) && matches(lines.slice(1), rest);
}

describe("the README", () => {
  test("shows commands at all", () => expect(shown.length).toBeGreaterThan(4));

  test("names the two commands that .ci/run runs", () => {
    const commands = [...readme.matchAll(/^```sh\n([^]*?)\n```/gm)].map(([, text]) => text as string);
    const script = readFileSync(join(root, ".ci/run"), "utf8").split("\n");
    expect(commands.slice(0, 2)).toEqual(["npm ci && npm start", "npm test"]);
    for (const command of commands.slice(0, 2)) expect(script).toContain(command);
  });

  test("has no place that is still to be filled", () => {
    const open = readme.split("\n").filter((line) => /^\s*[A-Z]{3,}\s*$|TODO|FIXME|TBD/.test(line));
    expect(open).toEqual([]);
  });

  test("shows a program that runs", () => {
    const [, program] = /^```js\n([^]*?)^```/m.exec(readme) ?? [];
    mkdirSync(join(root, "build"), { recursive: true });
    const file = join(root, "build/readme-example.mjs"); // inside the package, so that "lutra" is this one
    writeFileSync(file, program as string);
    const result = spawnSync(process.execPath, [file], { cwd: root, encoding: "utf8" });
    rmSync(file);
    expect(result.stderr).toBe("");
    expect(result.stdout.length).toBeGreaterThan(20);
  });

  for (const { command, output } of shown) {
    // The README takes LUTRA_MODELS for one folder, which is what most people have there.
    const [, file] = /\$LUTRA_MODELS\/(\S+)/.exec(command) ?? [];
    const needs = file === undefined ? { path: "" } : modelFile(file);
    testWith(needs, `shows what this prints: ${command.split("\n", 1)[0]}`, ({ path }) => {
      const folder = dirname(path);
      const result = spawnSync("bash", ["-c", command], {
        cwd: root,
        encoding: "utf8",
        env: { ...process.env, LUTRA_MODELS: folder, npm_config_loglevel: "error" },
      });
      expect(result.status, result.stderr).toBe(0);
      const lines = result.stdout === "" ? [] : result.stdout.replace(/\n$/, "").split("\n");
      if (!matches(lines, output)) expect(lines).toEqual(output);
    });
  }
});
