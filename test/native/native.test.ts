// The native code without Node, under sanitizers and on another processor: every kernel of every instruction set that
// the machine has against float64, the pool, the loader, the executor. See harness.cpp for what is checked.

import { spawnSync } from "node:child_process";
import process from "node:process";

import { describe, expect, vi } from "vitest";

import { testWith } from "../oracle/oracle.ts";
import { build, type Toolchain, usable } from "./build.ts";

vi.setConfig({ testTimeout: 400_000 }); // compilers are slow where cores are few and busy

/** The longest that all parts may take on a machine that is busy with something else. */
const LIMIT_MS = 300_000;

interface Ended {
  readonly status: number | null;
  /** "kernels", "pool" ... with their number of checks. */
  readonly checks: ReadonlyMap<string, number>;
  readonly isas: readonly string[];
  readonly err: string;
}

async function harness(toolchain: Toolchain, parts: readonly string[]): Promise<Ended> {
  const program = await build(toolchain);
  const [command, ...args] = [...toolchain.runner, program, ...parts] as [string, ...string[]];
  const { status, stdout, stderr } = spawnSync(command, args, {
    encoding: "utf8",
    timeout: LIMIT_MS,
    env: { ...process.env, UBSAN_OPTIONS: "print_stacktrace=1" },
  });
  const checks = new Map([...stdout.matchAll(/^(\w+): (\d+) checks$/gm)].map(([, part, n]) => [part!, Number(n)]));
  const isas = /^instruction sets: (.*)$/m.exec(stdout)?.[1]?.split(" ") ?? [];
  return { status, checks, isas, err: stderr };
}

function expectClean({ status, checks, err }: Ended, parts: readonly string[]): void {
  expect(err).toBe("");
  expect(status).toBe(0);
  expect([...checks.keys()]).toEqual(parts);
  for (const count of checks.values()) expect(count).toBeGreaterThan(50);
}

const compiler = process.env["CXX"] ?? "g++";
const ALL = ["kernels", "pool", "loader", "executor"];

function sanitized(name: string, sanitizers: string): ReturnType<typeof usable> {
  const flags = [`-fsanitize=${sanitizers}`, "-fno-sanitize-recover=all"];
  return usable({ name, compiler, flags, runner: [] }, "a g++ or clang++ with its sanitizers is needed");
}

describe("the native code", () => {
  testWith(
    sanitized("memory", "address,undefined"),
    "is right, reads and writes nothing but its own memory, leaks none, and has no undefined behaviour",
    async (toolchain) => expectClean(await harness(toolchain, ALL), ALL),
  );

  testWith(sanitized("threads", "thread"), "has no data race", async (toolchain) => {
    const parts = ["pool", "loader", "executor"];
    expectClean(await harness(toolchain, parts), parts);
  });

  const arm = {
    name: "aarch64",
    compiler: "aarch64-linux-gnu-g++",
    flags: ["-static"],
    runner: ["qemu-aarch64"],
  };
  const remedy = "Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user";
  testWith(usable(arm, remedy), "is right on 64-bit ARM", async (toolchain) => {
    const ended = await harness(toolchain, ALL);
    expectClean(ended, ALL);
    expect(ended.isas).toContain("scalar");
  });
});
