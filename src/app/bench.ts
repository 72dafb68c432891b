// lutra bench: how fast the CPU backend's matrix product is on this machine, beside a plain read of the same bytes.
// One vector (gemv) is bound by memory, so its share of the read is what counts; many (gemm) by arithmetic.

import process from "node:process";

import { Placements } from "../cpu/layout.ts";
import { loadAddon, processorName, usableCores } from "../cpu/native.ts";
import { aheadOf, AVERAGING, caseOf, type MatrixCase, methodsFor, staticKernel } from "../cpu/tuner.ts";
import type { Method } from "../gpu/method.ts";
import type { Type } from "../ladder/type.ts";
import { findType, standardProgram } from "../library.ts";
import { unlessAborted } from "../model/interrupt.ts";
import { benchAblation } from "./bench-ablation.ts";
import { benchCompare } from "./bench-compare.ts";
import { timeOnGpu } from "./bench-gpu.ts";
import { benchModel } from "./bench-model.ts";
import { typesOf } from "./bench-product.ts";
import { command, type Command, UsageError, refuseCpuOptions, type Values } from "./command.ts";
import { FAST_AGGREGATION, fastAggregation } from "./engine.ts";
import { printJson } from "./terminal.ts";

/** More than any cache holds. */
const POOL_BYTES = 2 ** 30;

const OPTIONS = {
  bits: { kind: "integer", about: "bits of a weight as kernels store it: 1 to 6, or 8", min: 1, max: 8, fallback: 4 },
  group: { kind: "integer", about: "weights that share a scale, a multiple of 16", min: 16, max: 4096, fallback: 128 },
  m: { kind: "integer", about: "rows of the matrix", min: 1, max: 2 ** 20, fallback: 4096 },
  type: { kind: "text", about: "weights of that number type, as the backend keeps them, in place of bits and group" },
  "types-from": { kind: "text", about: "a .ladder file that declares the type" },
  k: { kind: "integer", about: "columns, a multiple of the group", min: 16, max: 2 ** 20, fallback: 4096 },
  batch: { kind: "integer", about: "vectors at once, for gemm", min: 1, max: 1024, fallback: 32 },
  device: { kind: "choice", about: "where to run", choices: ["cpu", "gpu"], fallback: "cpu" },
  threads: { kind: "integer", about: "threads; one a physical core if not given", min: 1, max: 256, fallback: null },
  isa: { kind: "text", about: "instruction set, of those that doctor names; the best if not given" },
  kernel: {
    kind: "choice",
    about: "kernels; decode is the GPU's",
    choices: ["best", "dot", "lookup", "ternary", "decode"],
    fallback: "best",
  },
  ahead: { kind: "integer", about: "bytes to fetch ahead of reading", min: 0, max: 65_536, fallback: null },
  "fast-aggregation": FAST_AGGREGATION,
  activations: { kind: "choice", about: "what vectors come as", choices: ["f32", "f16"], fallback: "f32" },
  rounds: { kind: "integer", about: "rounds through 1 GiB of weights", min: 1, max: 1000, fallback: 5 },
  json: { kind: "flag", about: "one JSON object on stdout" },
} as const;

const matrix: Command = command({
  name: "bench",
  usage: ["bench gemv|gemm [options]"],
  about: [
    "Times the product of a random low-bit matrix with one vector (gemv) or several (gemm), activations quantised",
    "in it. Copies of the matrix, 1 GiB in all, are used in turn, so that weights come from memory each time;",
    "before and after each round the same bytes are read and nothing else, which is the limit of gemv.",
    "With --device gpu 256 MiB of different matrices are multiplied in one step.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra bench gemv --bits 4 --group 32", "4096 x 4096 weights of 4 bits"],
    ["lutra bench gemv --bits 2 --kernel ternary", "three levels, in 13 bytes for 64 weights"],
    ["lutra bench gemm --batch 128 --json", "for programs"],
    ["lutra bench gemv --bits 2 --device gpu --kernel lookup", "on a GPU, by table"],
  ],
  positionals: 1,
  run: measure,
});

/** What has a table of options of its own. */
const OTHERS: Readonly<Record<string, Command>> = {
  model: benchModel,
  compare: benchCompare,
  ablation: benchAblation,
};

export const bench: Command = {
  help: [matrix, ...Object.values(OTHERS)].map(({ help }) => help).join("\n"),
  run([what, ...rest], signal) {
    const other = what !== undefined && Object.hasOwn(OTHERS, what) ? OTHERS[what] : undefined;
    return other === undefined
      ? matrix.run(what === undefined ? rest : [what, ...rest], signal)
      : other.run(rest, signal);
  },
};

async function measure(
  values: Values<typeof OPTIONS>,
  positionals: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  const [kernel] = positionals;
  if (kernel !== "gemv" && kernel !== "gemm")
    throw new UsageError(`what to measure: ${JSON.stringify(kernel ?? "")}; gemv, gemm, model, compare or ablation`);
  if (values.device === "gpu") return measureOnGpu(kernel, values, signal);
  if (values.kernel === "decode") throw new UsageError("--kernel: decode; it is for --device gpu");
  const { m, k, rounds } = values;
  const typed = values.type === null ? null : typedCase(values.type, values["types-from"], m, k);
  const { bits, group, offset } = typed ?? { ...values, offset: false };
  if (bits === 7) throw new UsageError(`--bits: ${bits}; 1 to 6, or 8`);
  if (group % 16 !== 0) throw new UsageError(`--group: ${group}; a multiple of 16`);
  if (k % group !== 0) throw new UsageError(`--k: ${k}; a multiple of the group, which is ${group}`);
  const addon = loadAddon();
  if ("unavailable" in addon) throw new Error(addon.unavailable);
  const isa = values.isa ?? addon.isas()[0];
  if (!addon.isas().includes(isa)) throw new UsageError(`--isa: ${isa}; this processor has ${addon.isas().join(", ")}`);
  const threads = values.threads ?? usableCores();
  const n = kernel === "gemv" ? 1 : values.batch;

  const plain = typed === null || (typed.layout.steps === null && typed.layout.table === null);
  // Weights of no type are ternary where that is asked for.
  const ternary = typed === null ? values.kernel === "ternary" && bits === 2 && group % 64 === 0 : typed.layout.ternary;
  const codes = { bits, plain, ternary };
  const { fastAggregation: average } = fastAggregation(values["fast-aggregation"]);
  const rule = staticKernel(isa, processorName(), codes, average !== undefined);
  const method = values.kernel === "best" ? rule.method : methodsFor(isa, codes).find((name) => name === values.kernel);
  if (method === undefined)
    throw new UsageError(
      values.kernel === "lookup"
        ? `--kernel: lookup; ${isa} has no lookups for ${bits} bits${plain ? "" : " through a table"}`
        : `--kernel: ternary; it is for three levels (--bits 2) in groups of a multiple of 64 with avx512-vbmi or ` +
            `scalar, not for ${bits} bits in groups of ${group} with ${isa}`,
    );
  const lookup = method === "lookup";
  if (average !== undefined && !(lookup && AVERAGING.includes(isa)))
    throw new UsageError(
      `--fast-aggregation: ${average}; it is for lookups of 1 to 4 bits with --isa ${AVERAGING.join(", ")}, not for ` +
        `${method} kernels of ${isa}`,
    );
  const ahead = values.ahead ?? aheadOf(isa, processorName(), method);

  const engine = new addon.Engine(isa, threads);
  const times = await unlessAborted(
    engine.bench({
      bits,
      group,
      n: m,
      k,
      tokens: n,
      offset,
      rounds,
      method,
      ahead,
      poolBytes: POOL_BYTES,
      activations: values.activations === "f16" ? "f16" : "f32",
      ...(average !== undefined && { average }),
      ...(typed && { layout: typed.layout }),
    }),
    signal,
  );
  if (times === "aborted") return 130;
  engine.close();
  const timeUs = spread(times.kernelUs);
  const gbps = times.bytes / timeUs.median / 1000;
  const readGbps = times.bytes / spread(times.readUs).median / 1000;
  const gops = (2 * m * k * n) / timeUs.median / 1000;
  const family = typed?.layout.table ? "table" : method;
  const facts = {
    kernel,
    isa,
    family,
    ahead,
    bits,
    group,
    m,
    k,
    n,
    threads,
    activations: values.activations,
    fast_aggregation: average ?? null,
    time_us: timeUs,
    gbps,
    read_gbps: readGbps,
  };
  if (values.json) {
    printJson({ ...facts, share: gbps / readGbps, gops });
  } else {
    process.stdout.write(
      `${kernel} W${bits} g${group} ${m} x ${k}, ${n} at once, ${isa} ${described(family, average)}, ${threads} threads: ` +
        `${timeUs.median.toFixed(0)} us (${timeUs.min.toFixed(0)} to ${timeUs.max.toFixed(0)}), ` +
        `${gbps.toFixed(1)} GB/s, ${((100 * gbps) / readGbps).toFixed(0)} % of a plain read's ` +
        `${readGbps.toFixed(1)}, ${gops.toFixed(0)} GOPS\n`,
    );
  }
  return 0;
}

async function measureOnGpu(
  kernel: "gemv" | "gemm",
  values: Values<typeof OPTIONS>,
  signal: AbortSignal,
): Promise<number> {
  const { bits, group, m, k, rounds, type: name, threads, isa, ahead } = values;
  refuseCpuOptions({ threads, isa, ahead, "fast-aggregation": values["fast-aggregation"] });
  if (values.activations === "f16") throw new UsageError("--activations: f16; it is for --device cpu");
  if (values.kernel === "ternary") throw new UsageError("--kernel: ternary; it is for --device cpu");
  if (name === null && ![1, 2, 4, 8].includes(bits)) throw new UsageError(`--bits: ${bits}; 1, 2, 4 or 8 on a GPU`);
  const made = name === null ? typesOf(bits, group) : null;
  const type = made?.matrix ?? namedType(name ?? "", values["types-from"]);
  if (k % type.blockSize !== 0)
    throw new UsageError(
      `--k: ${k}; a multiple of ${name === null ? `the group, which is ${group}` : `the block of ${name}, ${type.blockSize}`}`,
    );
  const n = kernel === "gemv" ? 1 : values.batch;
  const method = values.kernel === "best" ? null : (values.kernel as Method);
  const floats = made?.floats ?? namedType("F32", null);
  const times = await timeOnGpu({ type, floats, n: m, k, batch: n, method, rounds }, signal);
  if (times === null) return 130;
  const { adapter, timeUs, bytes, readGbps, matrices } = times;
  const gbps = bytes / timeUs.median / 1000;
  const gops = (2 * m * k * n) / timeUs.median / 1000;
  const what = {
    type: name,
    bits: name === null ? bits : (8 * type.blockBytes) / type.blockSize,
    group: name === null ? group : null,
  };
  const share = gbps / readGbps;
  if (values.json)
    printJson({
      kernel,
      adapter,
      method: values.kernel,
      ...what,
      m,
      k,
      n,
      matrices,
      time_us: timeUs,
      gbps,
      read_gbps: readGbps,
      share,
      gops,
    });
  else
    process.stdout.write(
      `${kernel} ${name ?? `W${bits} g${group}`} ${m} x ${k}, ${n} at once, ${adapter}, ${values.kernel}: ` +
        `${timeUs.median.toFixed(0)} us (${timeUs.min.toFixed(0)} to ${timeUs.max.toFixed(0)}), ` +
        `${gbps.toFixed(1)} GB/s, ${(100 * share).toFixed(0)} % of a plain read's ${readGbps.toFixed(1)}, ${gops.toFixed(0)} GOPS\n`,
    );
  return 0;
}

function described(family: string, average: number | undefined): string {
  return average === undefined ? family : `${family} with averages of ${average}`;
}

/** The tiles in which an (m, k) matrix of a type is kept. */
function typedCase(name: string, from: string | null, m: number, k: number): MatrixCase {
  const type = namedType(name, from);
  if (k % type.blockSize !== 0)
    throw new UsageError(`--k: ${k}; a multiple of the block of ${name}, ${type.blockSize}`);
  const tensor = { name, type, shape: [m, k], file: 0, byteOffset: 0, byteLength: 0 };
  const placement = new Placements().of(tensor, "matrix");
  if (placement.kind === "rows")
    throw new UsageError(
      `--type: ${name} is kept as plain ${placement.format}, which has no kernel of its own to measure`,
    );
  return caseOf(placement, m, k);
}

function namedType(name: string, from: string | null): Type {
  const found = findType(name, from, standardProgram());
  if (found.kind === "rejected") throw new UsageError(found.diagnostics.join("\n"));
  if (found.kind === "unknown") throw new UsageError(`--type: ${found.reason}`);
  return found.type;
}

function spread(list: readonly number[]): { min: number; median: number; max: number } {
  const sorted = list.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.floor(share * (sorted.length - 1))] ?? NaN;
  return { min: at(0), median: at(0.5), max: at(1) };
}
