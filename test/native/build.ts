// Builds the harness of this folder with the native sources, all but the addon, which needs Node. What has been built
// from the same sources with the same compiler and flags is taken as it is, from build/harness.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

import type { Unavailable } from "../../src/backend.ts";

const root: string = fileURLToPath(new URL("../../", import.meta.url));
const folders = ["src/cpu/native", "test/native"].map((folder) => join(root, folder));
/** As build.mjs has them, and quick to compile. */
const FLAGS = "-std=c++20 -O1 -g -ffp-contract=off -pthread -Wall -Wextra -Werror".split(" ");

/** What the harness is built with, and what its executables are started with. */
export interface Toolchain {
  readonly name: string;
  readonly compiler: string;
  readonly flags: readonly string[];
  readonly runner: readonly string[];
}

/** As few lines as show whether a toolchain works, with a header that may be one of its own. */
const PROBE = `#ifdef __x86_64__
#include <immintrin.h>
#endif
int main() { return 0; }
`;

/** The toolchain, or why it cannot be used: a program of a few lines is built and run with it. */
export function usable(toolchain: Toolchain, remedy: string): Toolchain | Unavailable {
  const { compiler, flags, runner } = toolchain;
  const folder = mkdtempSync(join(tmpdir(), "lutra-toolchain-"));
  try {
    const [source, program] = [join(folder, "a.cpp"), join(folder, "a.out")];
    writeFileSync(source, PROBE);
    const [first, ...rest] = [...runner, program];
    const steps = [
      { command: compiler, args: [...FLAGS, ...flags, source, "-o", program] },
      { command: first, args: rest },
    ];
    for (const { command, args } of steps) {
      const { status, error, stderr } = spawnSync(command, args, { encoding: "utf8", timeout: 60_000 });
      if (status === 0) continue;
      const said = (): string => stderr.split("\n").find((line) => /error/i.test(line)) ?? stderr.trim();
      const reason = error?.message ?? `exit status ${status}: ${said()}`;
      return { unavailable: `${command}: ${reason}; ${remedy}` };
    }
    return toolchain;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The path of the harness. Rejects with what the compiler says. */
export async function build({ name, compiler, flags }: Toolchain): Promise<string> {
  const files = folders
    .flatMap((folder) => readdirSync(folder, { encoding: "utf8", recursive: true }).map((file) => join(folder, file)))
    .filter((file) => /\.(cpp|h)$/.test(file) && basename(file) !== "addon.cpp");
  const options = [...FLAGS, ...flags, ...folders.flatMap((folder) => ["-I", folder])];
  const hash = createHash("sha256").update(JSON.stringify([compiler, options]));
  for (const file of files) hash.update(file).update(readFileSync(file));
  const home = join(root, "build/harness");
  const program = join(home, `${name}-${hash.digest("hex").slice(0, 16)}`);
  if (existsSync(program)) return program;
  mkdirSync(home, { recursive: true });
  const work = mkdtempSync(join(home, `${name}.work-`));
  try {
    const sources = files.filter((file) => file.endsWith(".cpp"));
    const objects = sources.map((_, i) => join(work, `${i}.o`));
    const queue = sources.map((source, i) => ["-c", source, "-o", objects[i]!]);
    await Promise.all(
      Array.from({ length: availableParallelism() }, async () => {
        for (let args = queue.shift(); args; args = queue.shift()) await run(compiler, [...options, ...args]);
      }),
    );
    const linked = join(work, "harness");
    await run(compiler, [...options, ...objects, "-o", linked]);
    for (const old of readdirSync(home)) if (new RegExp(`^${name}-[0-9a-f]{16}$`).test(old)) rmSync(join(home, old));
    renameSync(linked, program);
    return program;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function run(command: string, args: readonly string[]): Promise<void> {
  return new Promise((fulfil, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
    let err = "";
    child.stderr.on("data", (part: Buffer) => (err += String(part)));
    child.on("error", reject);
    child.on("close", (code) => (code === 0 ? fulfil() : reject(new Error(`${command} ${args.join(" ")}\n${err}`))));
  });
}
