// When the parts of a start-up began and ended, for --verbose: they overlap, so that their sum says little.

import process from "node:process";

import { table } from "./terminal.ts";

/** Milliseconds from the start of the process. */
interface Phase {
  readonly name: string;
  readonly fromMs: number;
  readonly toMs: number;
}

export interface Phases {
  /** A phase from the end of the last `step` (or the start of the process) to now. */
  step(name: string): void;
  /** A phase from now until the work is done. */
  during<T>(name: string, work: Promise<T>): Promise<T>;
  span(name: string, fromMs: number, toMs: number): void;
  /** The table, on stderr, in order of beginning. */
  print(): void;
}

export function makePhases(): Phases {
  const phases: Phase[] = [];
  let lastMs = 0;
  return {
    step(name) {
      const toMs = performance.now();
      phases.push({ name, fromMs: lastMs, toMs });
      lastMs = toMs;
    },
    async during(name, work) {
      const fromMs = performance.now();
      try {
        return await work;
      } finally {
        phases.push({ name, fromMs, toMs: performance.now() });
      }
    },
    span(name, fromMs, toMs) {
      phases.push({ name, fromMs, toMs });
    },
    print() {
      const rows = phases
        .toSorted((a, b) => a.fromMs - b.fromMs)
        .map(({ name, fromMs, toMs }) => [name, ms(fromMs), ms(toMs), ms(toMs - fromMs)]);
      process.stderr.write(table([["phase", " from ms", "   to ms", "    took"], ...rows]));
    },
  };
}

function ms(value: number): string {
  return value.toFixed(1).padStart(8);
}
