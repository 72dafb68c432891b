// What the tests of the prover share: claims of a text of one's own, proved, and what a person is told of them.

import { renderDiagnostic } from "../../src/ladder/diagnostic.ts";
import { type Proof, prove, type Refutation, refutationDiagnostic } from "../../src/ladder/prove/prove.ts";
import type { Claim, Program } from "../../src/ladder/type.ts";
import { programWith } from "./program.ts";

/** Imports of the whole standard library, on one line so that line 2 is the first of one's own. */
export const imports: string = ["float", "int", "table", "gguf", "iq", "bitnet", "checkpoint", "mx"]
  .map((name) => `import "${name}.ladder"`)
  .join(" ");

export interface Proved {
  readonly program: Program;
  readonly claim: Claim;
  readonly result: Proof | Refutation;
}

/** The claims of a text, proved. */
export function provedIn(text: string): readonly Proved[] {
  const program = programWith(`${imports}\n${text}`);
  const own = program.claims.filter(({ span }) => span.file === "own.ladder");
  return own.map((claim) => ({ program, claim, result: prove(claim, program) }));
}

/** The one claim of a text. */
export function provedOne(text: string): Proved {
  const [one, ...more] = provedIn(text);
  if (one === undefined || more.length > 0) throw new Error(`${text}: ${1 + more.length} claims, and one is meant`);
  return one;
}

/** What a person is told of a claim: the method of its proof, or the finding. */
export function told(text: string): string {
  const { claim, result } = provedOne(text);
  if (result.kind === "proof") return `proved: ${result.method}`;
  return renderDiagnostic(refutationDiagnostic(claim, result), new Map([["own.ladder", `${imports}\n${text}`]]));
}
