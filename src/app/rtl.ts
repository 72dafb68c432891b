// lutra rtl: a dot product unit, or an array of them, as Verilog with a testbench that checks itself, in a folder.
// Files appear whole, and none before all are written; what is there already stays, unless it is to be replaced.
// Not here: the designs and their vectors (sim/rtl).

import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";

import { ACTIVATIONS, KINDS } from "../../sim/rtl/config.ts";
import { designOf, type Design } from "../../sim/rtl/design.ts";
import { testbenchOf, vectorsOf } from "../../sim/rtl/testbench.ts";
import { FileError } from "../files.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { writeAll } from "./folder.ts";
import { escaped, printJson } from "./terminal.ts";
import { configOf } from "./unit-config.ts";

const OPTIONS = {
  output: { kind: "text", about: "folder for the files; made if it is not there", short: "o" },
  vectors: {
    kind: "integer",
    about: "random steps of the testbench, behind the corner values",
    min: 0,
    max: 1_000_000,
    fallback: 1000,
  },
  seed: { kind: "integer", about: "of the random steps", min: 0, max: 2 ** 32 - 1, fallback: 1 },
  force: { kind: "flag", about: "replace files that are there" },
  kinds: { kind: "flag", about: "the fields of a configuration with their legal values" },
  json: { kind: "flag", about: "one JSON object on stdout: files, ports, latency and the whole configuration" },
} as const;

export const rtl: Command = command({
  name: "rtl",
  usage: ["rtl config.json -o folder [options]", "rtl --kinds"],
  about: [
    "Writes design.v, testbench.v with vectors.hex, config.json with all that was left out filled in, and",
    "README.txt, which names the ports and the command that simulates. A unit multiplies and sums (mac), adds plane",
    "by plane of the weights' bits (add), or looks sums of activations up (lut, lut-conventional, unpu); an array",
    "has m x n of them. The Verilog is of 2005, synchronous, with adders, compressor trees and multiplexers spelled",
    "out, for Yosys and Icarus Verilog alike; full and half adders are modules of their own. Vectors come from a",
    "model that computes in exact integers. Two examples come with Lutra, and are named without a folder.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra rtl lut-m2n64k4-int8.json -o array", "the paper's array, for weights of 2 bits"],
    ["lutra rtl mac-fp16.json -o mac --vectors 20000", "a multiplier of floats, tried longer"],
    ["lutra rtl --kinds", "what a configuration can say"],
  ],
  positionals: 1,
  run: writeDesign,
});

const FIELDS: readonly (readonly [name: string, values: string])[] = [
  ["kind", KINDS.join(", ")],
  ["activation", ACTIVATIONS.join(", ")],
  ["m, n", "1 to 64 rows, 1 to 512 columns (1, 1); m n k at most 16384"],
  ["k", "1 to 64 values, or 1 to 8 of a table (4)"],
  ["weightBits", "1 to 8 planes (1); of a mac 2 to 16, or as a float has (the activation's)"],
  ["table", "int2 to int24, fp16, bf16, fp32, fp8-e4m3, fp8-e5m2 (holds what it must)"],
  ["accumulator", "int16, int20, int24, int32, int48, fp16, fp32 (int32; int48 of int16; fp32 of floats)"],
  ["shift", "accumulator, exponent, operand: where a plane's power goes (accumulator; exponent of floats)"],
  ["adder", "ripple, prefix (ripple)"],
  ["pipeline", "registers on the way: 0 to 4 of floats, 3 of an add, 2 of an integer mac, else 1 (0)"],
  ["float.rounding", "nearest-even, toward-zero (nearest-even)"],
  ["float.subnormals", "flush, keep (flush)"],
  ["float.specials", "none, infinity, ieee (none)"],
  ["float.window", "4 to 64 places below the largest term's leading one (as an exact sum of two needs)"],
  ["float.sticky", "true, false: whether lost places are noted in the last one (true of tables)"],
  ["float.planeAdd", "exact, field: field wraps and raises zeros too, as the public circuit does (exact)"],
  ["steps.reinterpretation", "true, false: bits are +1 and -1, and half a table is enough (lut, add, unpu: true)"],
  ["steps.offlineNegation", "true, false: indices arrive inverted (lut: true)"],
  ["steps.precomputeSplit", "true, false: tables arrive ready (lut: true)"],
  ["registers.operands", "true, false: of activations (true of mac and add)"],
  ["registers.tables", "true, false (true)"],
  ["registers.weights", "none, plane, all (plane; all of a mac)"],
  ["registers.accumulator", "true, false (true)"],
  ["registers.doubleBuffer", "true, false: another register in front of each of these (false)"],
];

/** Values of all lanes together that a model computes in some seconds. */
const MOST_LANE_STEPS = 2 ** 23;

// oxlint-disable-next-line require-await -- every command is asynchronous
async function writeDesign(values: Values<typeof OPTIONS>, [path]: readonly string[]): Promise<number> {
  if (values.kinds) {
    if (values.json) printJson({ fields: FIELDS.map(([name, legal]) => ({ name, values: legal })) });
    else process.stdout.write(FIELDS.map(([name, legal]) => `${name.padEnd(24)}${legal}\n`).join(""));
    return 0;
  }
  if (path === undefined) throw new UsageError("no configuration; name a file, as in lutra rtl mac-fp16.json -o mac");
  if (values.output === null) throw new UsageError("-o: no value; name the folder that the files shall lie in");
  const config = configOf(path);
  const lanes = config.m * config.n;
  const most = Math.floor(MOST_LANE_STEPS / lanes);
  if (values.vectors > most)
    throw new UsageError(
      `--vectors: ${values.vectors}; ${lanes} lanes are tried with at most ${most}, as in --vectors ${Math.min(most, 100)}`,
    );
  const design = designOf(config);
  const steps = vectorsOf(design, values.vectors, values.seed);
  const { testbench, vectors } = testbenchOf(design, steps, "vectors.hex");
  const files = [
    { name: "design.v", text: design.verilog },
    { name: "testbench.v", text: testbench },
    { name: "vectors.hex", text: vectors },
    { name: "config.json", text: `${JSON.stringify(config, null, 2)}\n` },
    { name: "README.txt", text: readmeOf(design, steps.length, values.seed) },
  ];
  const names = files.map(({ name }) => name);
  makeRoom(values.output, names, values.force);
  writeAll(values.output, files, values.force ? [] : [path]);
  const written = names.map((name) => join(values.output!, name));
  const { top, ports, latency, interleave } = design;
  if (values.json) {
    const facts = { top, latency_cycles: latency, interleave, vectors: steps.length, seed: values.seed };
    printJson({ ...facts, files: written, ports, config });
    return 0;
  }
  const lines = [
    `${top}: ${lanes} lane${lanes === 1 ? "" : "s"} of ${config.kind}, k ${config.k}, ${config.activation}`,
    `latency ${latency} cycles${interleave === 1 ? "" : `, ${interleave} sums take turns`}; ${steps.length} steps of vectors, seed ${values.seed}`,
    `written: ${written.join(", ")}`,
    `simulate: ${simulation(values.output)}`,
  ];
  process.stdout.write(lines.map((line) => `${escaped(line)}\n`).join(""));
  return 0;
}

function simulation(folder: string): string {
  const quoted = /^[\w./-]+$/.test(folder) ? folder : `'${folder.replaceAll("'", "'\\''")}'`;
  return `cd ${quoted} && iverilog -g2005 -o sim design.v testbench.v && vvp sim`;
}

/** Makes sure that the folder is there and that nothing in it is replaced unasked. */
function makeRoom(folder: string, names: readonly string[], force: boolean): void {
  const there = statSync(folder, { throwIfNoEntry: false });
  if (there !== undefined && !there.isDirectory())
    throw new FileError(`${folder}: there is a file of that name; name a folder`);
  const taken = names.find((name) => statSync(join(folder, name), { throwIfNoEntry: false }) !== undefined);
  if (taken !== undefined && !force)
    throw new FileError(`${join(folder, taken)}: is there already; --force replaces it`);
  if (there === undefined) makeFolder(folder);
}

function makeFolder(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    throw new FileError(`${path}: no folder can be made there (${code}); the folder above it must be there`, {
      cause: error,
    });
  }
}

function readmeOf(design: Design, steps: number, seed: number): string {
  const { config, top, ports, latency, interleave } = design;
  const turns =
    interleave === 1
      ? []
      : [
          `${interleave} independent sums take turns, one a cycle: a sum meets its next term ${interleave} cycles later.`,
        ];
  return [
    `${top}: ${config.m} x ${config.n} lanes of ${config.kind}, K = ${config.k}, written by lutra rtl.`,
    "",
    "design.v     the design, Verilog-2005; modules lutra_fa and lutra_ha are a full and a half adder",
    "testbench.v  plays vectors.hex and compares each output behind each edge of the clock",
    "config.json  the whole configuration; lutra rtl config.json makes the same design again",
    "",
    "Simulate:",
    "  iverilog -g2005 -o sim design.v testbench.v && vvp sim",
    `which ends with "lutra: PASS" and the number of checks (${steps} steps, seed ${seed}).`,
    "",
    `Latency: ${latency} edges of the clock from operands to the result.`,
    ...turns,
    "Operands are taken in the cycle before they are used where they have a register, two cycles before where it is",
    "doubled; what else is told belongs to the cycle in which operands are used.",
    "",
    "Ports beside clk, each laid out from the lowest bit up, the last index fastest:",
    ...ports.map(
      ({ name, dir, width, what }) => `  ${dir.padEnd(7)}${name.padEnd(11)}${String(width).padStart(6)} bits  ${what}`,
    ),
    "",
  ].join("\n");
}
