// Runs every command of the README's console blocks and compares what it prints with what the README shows:
// line by line, where "..." stands for anything; and its program, as it stands. The two commands of set-up and test are
// run by .ci/run, and the test here is only that it runs those very ones.

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";

import { commandsOf, root, testCommands, textOf } from "./shown.ts";

const readme = textOf("README.md");
const shown = commandsOf(readme);

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

  testCommands(shown);
});
