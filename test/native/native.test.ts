// The native code without Node, under sanitizers, emulated, and on another processor: every kernel of every instruction
// set against float64, the pool, the loader, the executor. See harness.cpp for what is checked.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

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

/** The functions of a program that have instructions of AVX or later, whose names, and no others, begin with v or k. */
async function functionsWithAvx(program: string): Promise<readonly string[]> {
  const objdump = spawn("objdump", ["--disassemble", "--no-show-raw-insn", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(objdump, "close");
  const found = new Set<string>();
  let name = "";
  for await (const line of createInterface({ input: objdump.stdout })) {
    name = /^[0-9a-f]+ <(.*)>:$/.exec(line)?.[1] ?? name;
    if (/^ +[0-9a-f]+:\t[vk]/.test(line)) found.add(name);
  }
  expect(await ended).toEqual([0, null]);
  return [...found];
}

function expectClean({ status, checks, err }: Ended, parts: readonly string[]): void {
  expect(err).toBe("");
  expect(status).toBe(0);
  expect([...checks.keys()]).toEqual(parts);
  for (const count of checks.values()) expect(count).toBeGreaterThan(50);
}

const compiler = process.env["CXX"] ?? "g++";
const ALL = ["kernels", "pool", "loader", "executor", "ablation"];

function sanitized(name: string, sanitizers: string): ReturnType<typeof usable> {
  const flags = [`-fsanitize=${sanitizers}`, "-fno-sanitize-recover=all"];
  return usable({ name, compiler, flags, runner: [] }, "a g++ or clang++ with its sanitizers is needed");
}

describe("the native code", () => {
  const memory = sanitized("memory", "address,undefined");
  testWith(
    memory,
    "is right, reads and writes nothing but its own memory, leaks none, and has no undefined behaviour",
    async (toolchain) => expectClean(await harness(toolchain, ALL), ALL),
  );

  testWith(sanitized("threads", "thread"), "has no data race", async (toolchain) => {
    const parts = ["pool", "loader", "executor"];
    expectClean(await harness(toolchain, parts), parts);
  });

  // Instructions are functions here, for the first processors of 64-bit x86, which say that they have them all. The
  // flags are what is compiled fastest: checks of addresses are calls, and vectors are passed as nobody else does.
  const emulated = usable(
    {
      name: "emulated",
      compiler,
      flags: [
        "-isystem",
        fileURLToPath(new URL("simde", import.meta.url)),
        "-march=x86-64",
        "-DAVX2_TARGET=",
        "-DAVX512_TARGET=",
        "-DVBMI_TARGET=",
        "-D__builtin_cpu_supports(x)=true",
        "-fsanitize=address",
        "--param=asan-instrumentation-with-call-threshold=0",
        "-Og",
        "-g0",
        "-Wno-psabi",
      ],
      runner: [],
    },
    "Debian and Ubuntu: apt-get install libsimde-dev",
  );

  testWith(emulated, "is right with every instruction set of x86, whatever this machine has", async (toolchain) => {
    const parts = ["kernels", "executor", "ablation"];
    const ended = await harness(toolchain, parts);
    expectClean(ended, parts);
    expect(ended.isas).toEqual(["avx512-vbmi", "avx512-vnni", "avx2", "scalar"]);
  });

  const both = "unavailable" in emulated ? emulated : "unavailable" in memory ? memory : { emulated, memory };
  testWith(both, "has none of the instructions that are emulated", async (toolchains) => {
    expect(await functionsWithAvx(await build(toolchains.emulated))).toEqual([]);
    // They would be seen where they are.
    expect(await functionsWithAvx(await build(toolchains.memory))).not.toEqual([]);
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
    expect(ended.isas).toEqual(["neon", "scalar"]);
  });
});
