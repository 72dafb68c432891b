// The LMMA machine in WGSL against the one in TypeScript, which is the definition: what programs leave in memory and
// registers, what they count, and where and why they stop. On lavapipe; integers are the same on any adapter.

import fc from "fast-check";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { LMMA_BODIES, lmmaMachine, type LmmaMachine, type Run } from "../../src/gpu/lmma.ts";
import { lmmaPrelude } from "../../src/gpu/prelude.ts";
import { load as loadModel } from "../../src/load.ts";
import { assemble, disassemble } from "../../src/lutcore/asm.ts";
import { openLmma, workOf } from "../../src/lutcore/backend.ts";
import type { Counts } from "../../src/lutcore/counts.ts";
import { load } from "../../src/lutcore/exec.ts";
import { type Launch, MachineStop } from "../../src/lutcore/launch.ts";
import { type Mode, type Quirks, STAGE1, STAGE2 } from "../../src/lutcore/mode.ts";
import type { Program } from "../../src/lutcore/program.ts";
import type { Arithmetic } from "../../src/lutcore/tiling.ts";
import { checker, errorsOf, lavapipe } from "../gpu.ts";
import { embeddedModel, testWith } from "../oracle/oracle.ts";
import { PAPER, programOf } from "./machine.ts";
import { allTypes, poolFrom, type RandomRun, randomRun } from "./random-programs.ts";

const body = LMMA_BODIES.map((name) =>
  readFileSync(new URL(`../../shaders/${name}.wgsl`, import.meta.url), "utf8"),
).join("");

test("the bodies are valid with the prelude that is made from the tables", async () => {
  expect(await errorsOf(await checker(), lmmaPrelude() + body, "lmma")).toEqual([]);
});

const device = await lavapipe();
let made: Promise<LmmaMachine> | null = null;

/** One machine for all tests: lavapipe takes seconds to compile it where its cache is empty. */
function machineOn(gpu: GPUDevice): Promise<LmmaMachine> {
  return (made ??= lmmaMachine(gpu, body));
}

/** Counts, or the address and the message of a stop, as text. */
function outcome(result: Counts | MachineStop): string {
  return result instanceof MachineStop ? `${result.at}: ${result.message}` : JSON.stringify(result);
}

function runHere({ program, launch }: Run, mode: Mode): Counts | MachineStop {
  try {
    return load(program, mode)(launch);
  } catch (error) {
    if (error instanceof MachineStop) return error;
    throw error;
  }
}

/** The same with buffers of its own, but for the first, which is only read. */
function twin({ program, launch }: Run): Run {
  const buffers = launch.buffers.map((bytes, b) => (b === 0 ? bytes : bytes.slice()));
  return { program, launch: { ...launch, buffers } };
}

/** The first difference between two runs of a program, or null. */
function difference(here: Run, there: Run): string | null {
  for (const [b, bytes] of here.launch.buffers.entries()) {
    const [a, c] = [Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), Buffer.from(there.launch.buffers[b]!)];
    if (a.equals(c)) continue;
    const at = a.findIndex((byte, i) => byte !== c[i]) & ~3;
    return `word ${at} of g${b}: 0x${a.readUInt32LE(at).toString(16)}, and 0x${c.readUInt32LE(at).toString(16)} on the GPU`;
  }
  return null;
}

const rtl = (quirks: Quirks): Mode => ({ kind: "rtl", quirks });
const anyQuirks: fc.Arbitrary<Quirks> = fc.record({
  narrowSums: fc.boolean(),
  exponentAdd: fc.boolean(),
  zeroEntries: fc.boolean(),
  firstSign: fc.boolean(),
  flush: fc.boolean(),
  wordShift: fc.boolean(),
});
const [some, others, more] = fc.sample(anyQuirks, { seed: 7, numRuns: 3 }) as [Quirks, Quirks, Quirks];

/** Each has its share of the 10,000 programs. */
const MODES: readonly (readonly [string, Mode])[] = [
  ["paper", PAPER],
  ["paper, others", PAPER],
  ["rtl, stage 1", rtl(STAGE1)],
  ["rtl, stage 1, others", rtl(STAGE1)],
  ["rtl, stage 2", rtl(STAGE2)],
  ["rtl, some quirks", rtl(some)],
  ["rtl, other quirks", rtl(others)],
  ["rtl, more quirks", rtl(more)],
];
const BATCHES = 2;
const BATCH = 10_000 / MODES.length / BATCHES;

/** What the messages of stops have in common with no other. */
const FAULTS = [
  "the limit of this launch",
  "nothing was written to it",
  "the launch has no buffer",
  "which is no multiple of 4",
  "it takes bytes",
  "of the block has ended",
  "of the block waits",
] as const;

describe("10,000 random programs of 8 to 200 instructions", () => {
  const types = new Map<string, number>();
  const faults = new Map<string, number>();
  const count = (map: Map<string, number>, key: string): unknown => map.set(key, (map.get(key) ?? 0) + 1);

  for (const [m, [name, mode]] of MODES.entries()) {
    testWith(
      device,
      `leave the memory, registers, counts and stops that they leave in TypeScript: ${name}`,
      async (gpu) => {
        const machine = await machineOn(gpu);
        for (let batch = m * BATCHES; batch < (m + 1) * BATCHES; batch++) {
          const pool = poolFrom(batch);
          const runs = Array.from({ length: BATCH }, (_, i): RandomRun => randomRun(batch * BATCH + i, pool));
          const twins = runs.map(twin);
          const there = await machine.runAll(twins, mode);
          for (const [i, run] of runs.entries()) {
            const { length } = run.program.code;
            if (length < 8 || length > 200) throw new Error(`${length} instructions`);
            const here = runHere(run, mode);
            const different =
              outcome(here) === outcome(there[i]!)
                ? difference(run, twins[i]!)
                : `${outcome(here)}\nand on the GPU\n${outcome(there[i]!)}`;
            const where = `seed ${batch * BATCH + i} on the pool of seed ${batch}, ${JSON.stringify(mode)}`;
            expect(different, `${where}\n${different === null ? "" : disassemble(run.program)}`).toBe(null);
            if (here instanceof MachineStop)
              count(faults, FAULTS.find((words) => here.message.includes(words)) ?? "other");
            else for (const type of run.types) count(types, type);
          }
        }
      },
    );
  }

  testWith(device, "execute every opcode and type at least 100 times, and meet every fault", () => {
    const all = allTypes();
    expect(all.length).toBeGreaterThan(300);
    expect(all.filter((type) => (types.get(type) ?? 0) < 100)).toEqual([]);
    expect([...faults.keys()].toSorted()).toEqual(FAULTS.toSorted());
  });
});

function programFrom(text: string): Program {
  const assembled = assemble(text);
  if (assembled.kind === "program") return assembled.program;
  throw new Error(JSON.stringify(assembled.findings));
}

/** Adds the numbers of g0 to themselves, over and over. */
const LONG = `.registers 4
.buffers 2
ld.mat.2x8.int16.rows r0, [g0 + nil + 0], 16
clr.2x1.int32 r1
loop s0 + 0
  asum.m2k8.int16 r1, r0, r1
  lea s1, s1 * 1 + nil + 4
end
st.mat.2x1.int32 r1, [g1 + nil + 0], 4
`;

testWith(device, "a launch that takes many dispatches goes on where it left off", async (gpu) => {
  const machine = await machineOn(gpu);
  const numbers = Int16Array.from({ length: 16 }, (_, i) => 1000 * i - 9000);
  const launch = (): Launch => ({ parameters: [5000], buffers: [new Uint8Array(numbers.buffer), new Uint8Array(8)] });
  const program = programFrom(LONG);
  const [here, there] = [launch(), launch()];
  const counts = load(program, PAPER)(here);
  expect(await machine.load(program, PAPER)(there)).toEqual(counts);
  expect(counts.instructions.asum).toBe(5000);
  expect(there.buffers[1]).toEqual(here.buffers[1]);
  // 5000 times the sums of -9000 to -2000 and of -1000 to 6000.
  expect([...new Int32Array(there.buffers[1]!.buffer)]).toEqual([-220_000_000, 100_000_000]);
});

testWith(
  device,
  "a program that stops throws what it throws in TypeScript, and leaves what it had stored",
  async (gpu) => {
    const text = `.registers 2\n.buffers 2\nclr.1x4.fp16 r0\nst.mat.1x4.fp16 r0, [g1 + nil + 0], 0\nst.mat.1x4.fp16 r0, [g1 + s0 + 8], 0\n`;
    const program = programFrom(text);
    const launch = (): Launch => ({ parameters: [4], buffers: [new Uint8Array(4), new Uint8Array(16).fill(7)] });
    const [here, there] = [launch(), launch()];
    const stop = runHere({ program, launch: here }, PAPER);
    await expect((await machineOn(gpu)).load(program, PAPER)(there)).rejects.toThrow(stop);
    expect(there.buffers[1]).toEqual(here.buffers[1]);
    expect([...there.buffers[1]!]).toEqual([...Array(8).fill(0), ...Array(8).fill(7)]);
  },
);

testWith(device, "what may not run is refused in the words of TypeScript", async (gpu) => {
  const machine = await machineOn(gpu);
  const refusal = (run: () => unknown): string => {
    try {
      run();
    } catch (error) {
      if (error instanceof RangeError) return error.message;
      throw error;
    }
    return "it was not refused";
  };
  const empty = programOf([]);
  const launches: readonly (readonly [Program, Launch])[] = [
    [empty, { parameters: Array.from({ length: 29 }, () => 0), buffers: [] }],
    [empty, { parameters: [0, -1], buffers: [] }],
    [empty, { parameters: [], buffers: [new Uint8Array(4), new Uint8Array(16).subarray(2)] }],
    [empty, { parameters: [], buffers: Array.from({ length: 17 }, () => new Uint8Array(4)) }],
    [programOf([], { gridX: 65535, gridY: 65535, warps: 2 }), { parameters: [], buffers: [] }],
    [programOf([{ kind: "end" }]), { parameters: [], buffers: [] }],
  ];
  for (const [program, launch] of launches) {
    const here = refusal(() => load(program, PAPER)(launch));
    await expect(machine.runAll([{ program, launch }], PAPER)).rejects.toThrow(new RangeError(here));
  }
});

testWith(
  device,
  "the mode ideal, buffers that share bytes, and more memory than the device binds are refused",
  async (gpu) => {
    const machine = await machineOn(gpu);
    expect(() => machine.load(programOf([]), { kind: "ideal" })).toThrow(
      new RangeError("the mode ideal needs numbers that are wider than a GPU's: paper and rtl run there"),
    );
    const program = programFrom(LONG);
    const bytes = new Uint8Array(64);
    const shared = { parameters: [1], buffers: [bytes.subarray(0, 36), bytes.subarray(32)] };
    await expect(machine.load(program, PAPER)(shared)).rejects.toThrow(
      new RangeError("g0 and g1 share bytes of an ArrayBuffer, and one is stored to"),
    );
    const apart = { parameters: [1], buffers: [bytes.subarray(0, 32), bytes.subarray(32)] };
    const twice = [apart, apart].map((launch) => ({ program, launch }));
    await expect(machine.runAll(twice, PAPER)).rejects.toThrow(
      new RangeError("g1 of launch 0 and g1 of launch 1 share bytes of an ArrayBuffer, and one is stored to"),
    );
    await machine.load(program, PAPER)(apart);
    expect([...new Int32Array(bytes.buffer, 32, 2)]).toEqual([0, 0]);
    const large = { parameters: [1], buffers: [new Uint8Array(2 ** 27 + 4), new Uint8Array(8)] };
    await expect(machine.load(program, PAPER)(large)).rejects.toThrow(
      new RangeError("the launch needs 134217740 bytes of buffers, and this device binds 134217728 at once"),
    );
  },
);

for (const arithmetic of [
  { mode: "paper", activation: "int8", tables: "exact" },
  { mode: "rtl", activation: "fp16", tables: "exact" },
  { mode: "paper", activation: "fp16", tables: "int8-group" },
] as const satisfies readonly Arithmetic[]) {
  const { mode, activation, tables } = arithmetic;
  testWith(
    device,
    `the embedded model's logits and counts are those in TypeScript, bit for bit: ${mode}, ${activation}, ${tables}`,
    async (gpu) => {
      const model = loadModel(embeddedModel);
      const machine = await machineOn(gpu);
      await using here = await openLmma(arithmetic).prepare(model.plan, model.weights);
      await using there = await openLmma(arithmetic, machine.load).prepare(model.plan, model.weights);
      let tokens = (await model.tokenizer()).encode("Emma was", { special: false });
      for (let [pos, step] = [0, 0]; step < 3; step++) {
        const chunk = { slot: 0, pos, tokens, logits: "last" } as const;
        const [[mine], [theirs]] = [await here.step([chunk]), await there.step([chunk])];
        expect(theirs).toEqual(mine);
        pos += tokens.length;
        tokens = Int32Array.of(mine!.indexOf(Math.max(...mine!)));
      }
      expect(workOf(there)).toEqual(workOf(here));
      model.close();
    },
  );
}
