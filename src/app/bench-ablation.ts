// lutra bench ablation: what each means of T-MAC (EuroSys'25) is worth here, in time and in error: the product by lookups
// as models run it, and with one of its means taken away or added.
// Not here: the kernels and the measure (native/ablation.h), the product as such (bench.ts).

import process from "node:process";

import { type AblationTimes, availableMemory, loadAddon, processorName } from "../cpu/native.ts";
import { AVERAGING, staticKernel } from "../cpu/tuner.ts";
import { unlessAborted } from "../model/interrupt.ts";
import { spread } from "./bench-model.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { printJson } from "./terminal.ts";

/** Of all orders of codes together, which are used in turn: more than any cache holds. */
const POOL_BYTES = 2 ** 30;
/** Orders of codes that there are at most, each with copies of its own. */
const ORDERS = 5;

const OPTIONS = {
  bits: { kind: "integer", about: "bits of a weight", min: 1, max: 4, fallback: 2 },
  group: { kind: "integer", about: "weights that share a scale, a multiple of 32", min: 32, max: 4096, fallback: 128 },
  m: { kind: "integer", about: "rows of the matrix", min: 1, max: 65_536, fallback: 4096 },
  k: { kind: "integer", about: "columns, a multiple of the group", min: 32, max: 65_536, fallback: 4096 },
  threads: { kind: "integer", about: "threads", min: 1, max: 256, fallback: 1 },
  isa: { kind: "text", about: `one of ${AVERAGING.join(", ")}; the best of those here if not given` },
  ahead: { kind: "integer", about: "bytes to fetch ahead of reading", min: 0, max: 65_536, fallback: null },
  rounds: { kind: "integer", about: "rounds of all in turn", min: 1, max: 1000, fallback: 5 },
  json: { kind: "flag", about: "one JSON object a case on stdout" },
} as const;

export const benchAblation: Command = command({
  name: "bench ablation",
  usage: ["bench ablation [options]"],
  about: [
    "Times the product of a matrix with one vector by lookups, as models run it, and by kernels with one of T-MAC's",
    "means taken away or added, in rounds of all in turn. Weights come from memory, as in bench gemv. Beside each",
    "time are its ratio to that of the full kernel in the same round, its share of a plain read of the same bytes,",
    "and the error (NMSE) of the product against float64. Kernels without a means are for AVX2 alone.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra bench ablation", "2 bits in groups of 128, one thread"],
    ["lutra bench ablation --m 64 --bits 4 --json", "for programs"],
  ],
  positionals: 0,
  run: measure,
});

/** What the names of native/ablation.cpp stand for, in the order in which they are shown. */
const MEANS: Readonly<Record<string, string>> = {
  full: "as models run it",
  tiles: "without tiling of k",
  rows: "without permutation and tiling",
  pairs: "without interleaving",
  "float-tables": "without table quantisation",
  "half-tables": "with mirror consolidation",
  "averages-2": "with fast aggregation of 2",
  "averages-4": "with fast aggregation of 4",
  "averages-8": "with fast aggregation of 8",
};

async function measure(values: Values<typeof OPTIONS>, _: readonly string[], signal: AbortSignal): Promise<number> {
  const { bits, group, m, k, threads, rounds } = values;
  if (group % 32 !== 0) throw new UsageError(`--group: ${group}; a multiple of 32`);
  if (k % group !== 0) throw new UsageError(`--k: ${k}; a multiple of the group, which is ${group}`);
  const addon = loadAddon();
  if ("unavailable" in addon) throw new Error(addon.unavailable);
  const usable = addon.isas().filter((name) => AVERAGING.includes(name));
  const isa = values.isa ?? usable[0]!;
  if (!usable.includes(isa))
    throw new UsageError(
      `--isa: ${isa}; ablations are of lookups with one table in a register, which ${usable.join(", ")} of this ` +
        `processor ${usable.length === 1 ? "has" : "have"}`,
    );
  const matrixBytes = m * k * (bits / 8 + 2 / group);
  const available = availableMemory();
  const needed = Math.max(POOL_BYTES, ORDERS * matrixBytes);
  if (needed > available)
    throw new Error(
      `${mib(needed)} MiB are needed for copies of the matrix, but ${mib(available)} MiB of memory are available; ` +
        `a smaller --m or --k needs less`,
    );
  const { ahead: usual } = staticKernel(isa, processorName(), { bits, plain: true, ternary: false }, true);
  const ahead = values.ahead ?? usual;

  const engine = new addon.Engine(isa, threads);
  const times = await unlessAborted(
    engine.ablate({ bits, group, n: m, k, ahead, rounds, poolBytes: POOL_BYTES }),
    signal,
  );
  if (times === "aborted") return 130;
  engine.close();
  const lines = linesOf(times, isa);
  if (values.json) {
    for (const line of lines) printJson({ ...line, isa, bits, group, m, k, threads, ahead });
    return 0;
  }
  process.stdout.write(
    `lookups of W${bits} g${group} ${m} x ${k} by one vector, ${isa}, ${threads} ` +
      `${threads === 1 ? "thread" : "threads"}, medians of ${rounds} ${rounds === 1 ? "round" : "rounds"}:\n` +
      `${"".padEnd(34)}${"us".padStart(8)}  ratio to the first     of a read     NMSE\n`,
  );
  for (const line of lines) process.stdout.write(describe(line));
  return 0;
}

/** One case in JSON's names. */
type Line =
  | {
      readonly ablation: string;
      readonly means: string;
      readonly time_us: { readonly median: number; readonly min: number; readonly max: number };
      /** Of times, round by round: above 1 where the full kernel is faster. */
      readonly ratio: number;
      readonly ratio_min: number;
      readonly ratio_max: number;
      readonly bytes: number;
      readonly gbps: number;
      readonly read_gbps: number;
      readonly share: number;
      readonly nmse: number;
    }
  | { readonly ablation: string; readonly means: string; readonly unavailable: string };

function linesOf(times: readonly AblationTimes[], isa: string): readonly Line[] {
  const byName = new Map(times.map((one) => [one.name, one]));
  const full = byName.get("full")!;
  return Object.entries(MEANS).map(([ablation, means]) => {
    const one = byName.get(ablation);
    if (one === undefined) return { ablation, means, unavailable: `written for avx2, not for ${isa}` };
    const { kernelUs, readUs, bytes, nmse } = one;
    const time = spread(kernelUs);
    const ratios = spread(kernelUs.map((us, round) => us / full.kernelUs[round]!));
    const shares = spread(kernelUs.map((us, round) => readUs[round]! / us));
    return {
      ablation,
      means,
      time_us: time,
      ratio: ratios.median,
      ratio_min: ratios.min,
      ratio_max: ratios.max,
      bytes,
      gbps: bytes / time.median / 1000,
      read_gbps: bytes / spread(readUs).median / 1000,
      share: shares.median,
      nmse,
    };
  });
}

/** A row of the table under the header above. */
function describe(line: Line): string {
  const name = line.means.padEnd(34);
  if ("unavailable" in line) return `${name}unavailable: ${line.unavailable}\n`;
  const { time_us: time, ratio, ratio_min: least, ratio_max: most, share, nmse } = line;
  const us = time.median.toFixed(time.median < 100 ? 1 : 0).padStart(8);
  const ratios = `${ratio.toFixed(2)} (${least.toFixed(2)} to ${most.toFixed(2)})`.padEnd(21);
  return `${name}${us}  ${ratios}${`${(100 * share).toFixed(0)} %`.padStart(9)}  ${nmse.toExponential(1).padStart(9)}\n`;
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}
