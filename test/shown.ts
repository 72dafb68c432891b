// What a Markdown file shows: commands with what they print, and fenced examples. For the tests that run them.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";

import { softwareGpu } from "./gpu.ts";
import { modelFile, testWith } from "./oracle/oracle.ts";

export const root: string = fileURLToPath(new URL("../", import.meta.url));

/** The text of a file of the package. */
export function textOf(path: string): string {
  return readFileSync(`${root}${path}`, "utf8");
}

/** A fenced part: the words behind the backticks, and the text between. */
export interface Fence {
  readonly info: string;
  readonly text: string;
}

/** The fenced parts of a Markdown text, in order. */
export function fencesOf(markdown: string): readonly Fence[] {
  return [...markdown.matchAll(/^```(\S.*)\n([^]*?)^```$/gm)].map(([, info, text]) => ({ info: info!, text: text! }));
}

interface Shown {
  readonly command: string;
  readonly output: readonly string[];
}

/** The commands of the console blocks; a here-document belongs to its command. */
export function commandsOf(markdown: string): readonly Shown[] {
  return fencesOf(markdown)
    .filter(({ info }) => info === "console")
    .flatMap(({ text }) =>
      text
        .trimEnd()
        .split(/^\$ /m)
        .slice(1)
        .map((part) => {
          const lines = part.replace(/\n$/, "").split("\n");
          const [, end] = /<<'(\w+)'$/.exec(lines[0] ?? "") ?? [];
          const length = end === undefined ? 1 : lines.indexOf(end) + 1;
          return { command: lines.slice(0, length).join("\n"), output: lines.slice(length) };
        }),
    );
}

/** Whether the lines are those of the pattern; a pattern line "..." stands for any number of lines. */
function matches(lines: readonly string[], pattern: readonly string[]): boolean {
  const [first, ...rest] = pattern;
  if (first === undefined) return lines.length === 0;
  if (first === "...") return lines.some((_, i) => matches(lines.slice(i), rest)) || matches([], rest);
  const parts = first.split("...").map((text) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return lines[0] !== undefined && new RegExp(`^${parts.join(".*")}$`).test(lines[0]) && matches(lines.slice(1), rest);
}

/** A test for each command: it ends well, and prints what is shown. */
export function testCommands(shown: readonly Shown[]): void {
  for (const { command, output } of shown) {
    // The texts take LUTRA_MODELS for one folder, which is what most people have there.
    const [, file] = /\$LUTRA_MODELS\/(\S+)/.exec(command) ?? [];
    const driver = command.includes("gpu") ? softwareGpu("lavapipe") : null;
    const needs =
      driver !== null && "unavailable" in driver ? driver : file === undefined ? { path: "" } : modelFile(file);
    testWith(needs, `shows what this prints: ${command.split("\n", 1)[0]}`, ({ path }) => {
      const result = spawnSync("bash", ["-c", command], {
        cwd: root,
        encoding: "utf8",
        env: { ...process.env, LUTRA_MODELS: dirname(path), npm_config_loglevel: "error" },
      });
      expect(result.status, result.stderr).toBe(0);
      const lines = result.stdout === "" ? [] : result.stdout.replace(/\n$/, "").split("\n");
      if (!matches(lines, output)) expect(lines).toEqual(output);
    });
  }
}
