// Findings about .ladder texts on stderr, for people. Not here: their wording (ladder/diagnostic.ts).

import process from "node:process";

import { type Diagnostic, renderDiagnostic } from "../ladder/diagnostic.ts";
import { escaped } from "./terminal.ts";

/** Writes each finding with an empty line behind it, and with nothing in it that a terminal would obey. */
export function printFindings(diagnostics: readonly Diagnostic[], texts: ReadonlyMap<string, string>): void {
  for (const diagnostic of diagnostics) {
    const lines = renderDiagnostic(diagnostic, texts).split("\n");
    process.stderr.write(`${lines.map(escaped).join("\n")}\n\n`);
  }
}
