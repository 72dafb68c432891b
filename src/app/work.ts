// What the LMMA machine did in a run, for people: a line for each block of the model.
// Not here: the counting (lutcore/counts.ts).

import type { Session } from "../backend.ts";
import type { Work } from "../lutcore/backend.ts";
import type { Engine } from "./engine.ts";
import { bytes } from "./figures.ts";
import { table } from "./terminal.ts";

/** What the machine did for a session; nothing where it ran on another. */
export async function workFor({ backend }: Engine, session: Session): Promise<readonly Work[]> {
  return backend.name === "lmma" ? (await import("../lutcore/backend.ts")).workOf(session) : [];
}

/** Lines for the blocks, for what is in none, and for all together. */
export function workTable(work: readonly Work[]): string {
  const isOther = (block: string): number => (block === "" ? 1 : 0);
  const blocks = [...new Set(work.map(({ block }) => block))].toSorted((a, b) => isOther(a) - isOther(b));
  const head = ["", "launches", "instructions", "tables", "lookups", "passes", "products", "read", "written", "shared"];
  const lines = [
    ...blocks.map((block) =>
      line(
        block === "" ? "others" : block,
        work.filter((one) => one.block === block),
      ),
    ),
    line("all", work),
  ];
  return table([head, ...lines]);
}

function line(name: string, work: readonly Work[]): readonly (string | number)[] {
  const sum = (of: (one: Work) => number): number => work.reduce((total, one) => total + of(one), 0);
  const all = ({ counts }: Work): number => Object.values(counts.instructions).reduce((a, b) => a + b, 0);
  return [
    name,
    sum(({ launches }) => launches),
    sum(all),
    sum(({ counts }) => counts.tables),
    sum(({ counts }) => counts.lookups),
    sum(({ counts }) => counts.passes),
    sum(({ counts }) => counts.products),
    bytes(sum(({ counts }) => counts.bytes.global.read)),
    bytes(sum(({ counts }) => counts.bytes.global.written)),
    bytes(sum(({ counts }) => counts.bytes.shared.read)),
  ];
}
