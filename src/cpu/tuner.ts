// Which of the kernels that can run a matrix does: by a rule that was measured on two machine classes, or by measuring
// here. Results of one family do not depend on how many vectors are multiplied at once, so the choice is one for each
// matrix; families differ by rounding alone. After T-MAC's tuner (EuroSys'25), without its compiler.

import { isTernary, type Method, type Tiles } from "./layout.ts";
import type { BenchCase, NativeEngine } from "./native.ts";

/** How a matrix of tiles is run. */
export interface Kernel {
  readonly method: Method;
  /** Bytes that are fetched ahead of reading; 0 leaves that to the processor. */
  readonly ahead: number;
}

interface Rule {
  /** Lookups up to so many bits of a weight; null where the instruction set has no kernels for them. */
  readonly lookupBits: number | null;
  /** Whether a register has one table, so that sums of lookups may be averages of bytes ("fast aggregation"). */
  readonly canAverage: boolean;
  /** Whether there are kernels for five ternary weights at once. */
  readonly hasTernary: boolean;
  readonly ahead: Readonly<Record<Method, number>>;
}

/**
 * Lookups cost as much for each bit of a weight, dot products the same for all widths but for putting bits together;
 * where they meet depends on how many bytes the processor looks up in a cycle, and on what widening their sums costs.
 * Cycles for 64 x 1024 weights in groups of 128 from cache on Zen 4, lookup and dot: avx512 W1 990 and 2130, W2 1480 and
 * 2050, W4 2530 and 2040 (8 vectors: 5790 and 11750, 9070 and 11410, 16020 and 11750); microseconds for 256 x 4096 weights
 * with avx2 W1 9.7 and 13.7, W2
 * 15.7 and 13.7. By count of instructions NEON, with two lookups a cycle beside one dot product, is like avx512.
 * Fetching ahead: Emerald Rapids and Zen 3 gain 20 to 50 % by it; Zen 4 loses a tenth of its speed with 512 bits, whose
 * loops its own prefetcher follows, and gains a little with 256.
 * Five ternary weights at once read a fifth less than two bits a weight, for two registers of table to each of weights:
 * 1.3 times as long as lookups on Zen 4, whose memory is not slow enough for that. Only a measurement picks them.
 */
const RULES: Readonly<Record<string, Rule>> = {
  "avx512-vbmi": {
    lookupBits: 3,
    canAverage: false,
    hasTernary: true,
    ahead: { dot: 4096, lookup: 1024, ternary: 4096 },
  },
  "avx512-vnni": {
    lookupBits: null,
    canAverage: false,
    hasTernary: false,
    ahead: { dot: 4096, lookup: 0, ternary: 0 },
  },
  avx2: { lookupBits: 1, canAverage: true, hasTernary: false, ahead: { dot: 4096, lookup: 4096, ternary: 0 } },
  neon: { lookupBits: 2, canAverage: true, hasTernary: false, ahead: { dot: 1024, lookup: 1024, ternary: 0 } },
  scalar: { lookupBits: 0, canAverage: true, hasTernary: true, ahead: { dot: 0, lookup: 0, ternary: 0 } },
};

/** Of a matrix of tiles, what decides which kernels can run it. */
export interface Codes {
  readonly bits: number;
  /** Codes are the integers themselves, with neither steps nor a table. */
  readonly plain: boolean;
  /** As isTernary has it. */
  readonly ternary: boolean;
}

export function codesOf(tiles: Tiles): Codes {
  const { bits, product } = tiles;
  return { bits, plain: product.kind === "integer" && product.steps === null, ternary: isTernary(tiles) };
}

/** The methods that an instruction set has for such codes. */
export function methodsFor(isa: string, { bits, plain, ternary }: Codes): readonly Method[] {
  const rule = RULES[isa];
  if (rule === undefined) return ["dot"];
  const can: Readonly<Record<Method, boolean>> = {
    dot: true,
    lookup: plain && bits <= 4 && rule.lookupBits !== null,
    ternary: ternary && rule.hasTernary,
  };
  return (["dot", "lookup", "ternary"] as const).filter((method) => can[method]);
}

/** Instruction sets whose lookups may be summed by averages; a register of theirs has one table. */
export const AVERAGING: readonly string[] = Object.keys(RULES).filter((isa) => RULES[isa]?.canAverage);

/**
 * Without measuring: for an instruction set and the processor's name, as the system gives it.
 * @param looksUp whether lookups are taken wherever there are some, however fast
 */
export function staticKernel(isa: string, processor: string, codes: Codes, looksUp = false): Kernel {
  const rule = RULES[isa];
  const methods = methodsFor(isa, codes);
  const lookup = methods.includes("lookup") && (looksUp || codes.bits <= (rule?.lookupBits ?? 0));
  const method = lookup ? "lookup" : "dot";
  return { method, ahead: aheadOf(isa, processor, method) };
}

/** How far ahead the kernels of a method are to fetch, without measuring. */
export function aheadOf(isa: string, processor: string, method: Method): number {
  return followsItself(isa, processor) ? 0 : (RULES[isa]?.ahead[method] ?? 0);
}

/** Whether the processor's own prefetcher follows loops of an instruction set best where nothing else is fetched. */
function followsItself(isa: string, processor: string): boolean {
  return isa.startsWith("avx512") && processor.includes("AMD");
}

/** A matrix as the benchmark makes one, without what is measured. */
export type MatrixCase = Pick<BenchCase, "bits" | "group" | "n" | "k" | "offset"> & Required<Pick<BenchCase, "layout">>;

export function caseOf(tiles: Tiles, n: number, k: number): MatrixCase {
  const { bits, group, product, scales, blockSize } = tiles;
  const layout = {
    steps: product.kind === "integer" ? product.steps : null,
    table: product.kind === "table" ? product.table : null,
    scales: scales.kind,
    blockGroups: scales.kind === "two-level" || scales.kind === "nibbles" ? blockSize / group : 1,
    ternary: isTernary(tiles),
  };
  return { bits, group, n, k, offset: scales.offset !== null, layout };
}

/**
 * What a choice depends on, as text; files of choices use it. Threads are not part of it: families round in their own
 * ways, and one seed is to give one text on any number of threads.
 */
export function caseName(isa: string, { bits, group, n, k, offset, layout }: MatrixCase): string {
  const { table, steps, ternary } = layout;
  const family = table !== null ? "table" : steps !== null ? "steps" : ternary ? "ternary" : "plain";
  const terms = `${layout.scales}${layout.blockGroups > 1 ? layout.blockGroups : ""}${offset ? "+offset" : ""}`;
  return `${isa}: ${bits} bits ${family}, groups of ${group} ${terms}, ${n} x ${k}`;
}

/** Distances of a kernel's own fetching that were best somewhere. */
const DISTANCES: readonly number[] = [0, 1024, 4096];
/** Several times what a processor caches, so that weights come from memory. */
const POOL_BYTES = 96 * 2 ** 20;
/** Rows of a tall matrix are all alike. */
const MAX_ROWS = 16_384;
const ROUNDS = 3;
/** Of the time; less is noise, and the rule was measured with more patience. */
const WORTHWHILE = 0.04;

/** One choice, with microseconds of a product by the rule's kernel and by the chosen one. */
export interface Tuned {
  readonly name: string;
  readonly kernel: Kernel;
  readonly ruleUs: number;
  readonly us: number;
}

/**
 * Measures the kernels that can run each matrix, products with one vector, and yields the choice for one after the
 * other until time is up: those whose rest is not measured are left to the rule.
 * @param untilMs of performance.now()
 */
export async function* tune(
  engine: Pick<NativeEngine, "bench">,
  isa: string,
  processor: string,
  cases: readonly MatrixCase[],
  untilMs: number,
): AsyncGenerator<Tuned> {
  for (const matrix of cases) {
    const { steps, table, ternary } = matrix.layout;
    const codes = { bits: matrix.bits, plain: steps === null && table === null, ternary };
    const rule = staticKernel(isa, processor, codes);
    const methods = methodsFor(isa, codes).toSorted((a, b) => Number(b === rule.method) - Number(a === rule.method));
    const others = methods.flatMap((method) => DISTANCES.map((ahead) => ({ method, ahead })));
    const time = async (kernel: Kernel): Promise<number> => {
      const what = { ...matrix, ...kernel, n: Math.min(matrix.n, MAX_ROWS), tokens: 1 };
      const { kernelUs } = await engine.bench({ ...what, rounds: ROUNDS, poolBytes: POOL_BYTES });
      return kernelUs.toSorted((a, b) => a - b)[ROUNDS >> 1] ?? NaN;
    };
    if (performance.now() > untilMs) return;
    const ruleUs = await time(rule);
    let best = { kernel: rule, us: ruleUs };
    for (const kernel of others) {
      if (kernel.method === rule.method && kernel.ahead === rule.ahead) continue;
      if (performance.now() > untilMs) return;
      const us = await time(kernel);
      if (us < best.us && us < ruleUs * (1 - WORTHWHILE)) best = { kernel, us };
    }
    yield { name: caseName(isa, matrix), ...best, ruleUs };
  }
}
