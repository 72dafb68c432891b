// lutra check: what .ladder files declare, and a proof or a counter-example for everything that they claim.
// The table of types and the JSON object go to stdout, what is wrong goes to stderr, as a finding with its place.
// Not here: how anything is proved (ladder/prove/prove.ts), the files that come with Lutra (files.ts).

import { join } from "node:path";
import process from "node:process";
import { setImmediate } from "node:timers/promises";

import type { Declaration } from "../ladder/ast.ts";
import { type Diagnostic, diagnosticJson } from "../ladder/diagnostic.ts";
import type { Guard } from "../ladder/prove/exactness.ts";
import { parse } from "../ladder/grammar.ts";
import { type Fit, type Profile, profileOf } from "../ladder/prove/profile.ts";
import { claimText, type Proof, prove, type Refutation, refutationDiagnostic } from "../ladder/prove/prove.ts";
import { resolveProgram } from "../ladder/resolve.ts";
import type { Claim, Element, Endpoint, Program, Restriction } from "../ladder/type.ts";
import { showExact } from "../ladder/prove/window.ts";
import { standardProgram } from "../library.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { printFindings } from "./findings.ts";
import { readTexts } from "./program.ts";
import { makeProgress, printJson, table } from "./terminal.ts";

const OPTIONS = {
  json: { kind: "flag", about: "one JSON object on stdout: types, claims with counter-examples, findings" },
} as const;

/** What a type may be exact in: columns of the table, and names in JSON. */
const TARGETS = ["F16", "BF16", "F32", "F64"] as const;

/** More files than anyone has. */
const MAX_FILES = 4096;

export const check: Command = command({
  name: "check",
  usage: ["check [options] file.ladder..."],
  about: [
    "Reads .ladder files together with what they import, and proves every claim in them: convert A -> B : value and",
    "so on. A claim that does not hold is shown with its place, the smallest counter-example that was found, and",
    "what would work; the exit code is 1 then. A claim that can neither be proved nor refuted counts as not proved.",
    "The table says of each type: bits for a value, the range of the values, in which elements all of them are",
    'exact, and its integer codes, which table lookups and integer products take ("-" where it has none). In place',
    "of yes there may be how many codes are exact, or the codes of a scale for which all values are; behind a slash",
    "those for which none is a subnormal either, which some machines flush to zero.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra check mine.ladder", "a format of your own"],
    ["lutra check dsl/*.ladder", "all that comes with Lutra"],
    ["lutra check mine.ladder --json", "for programs"],
  ],
  positionals: MAX_FILES,
  run: checkFiles,
});

async function checkFiles(
  values: Values<typeof OPTIONS>,
  paths: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (paths.length === 0) throw new UsageError("no file; name one, as in lutra check mine.ladder");
  const startMs = performance.now();
  const { texts, folders } = readTexts(paths);
  const own = new Set(folders.keys());
  const resolution = resolveProgram(texts, own);
  const report: Report = { types: [], claims: [], diagnostics: [] };
  if (resolution.kind === "rejected") report.diagnostics.push(...resolution.diagnostics);
  else if (!(await examine(resolution.program, texts, own, report, signal))) {
    process.stderr.write("interrupted\n");
    return 130;
  }
  const ms = Math.round(performance.now() - startMs);
  if (values.json) {
    const diagnostics = report.diagnostics.map((diagnostic) => {
      const folder = folders.get(diagnostic.span.file);
      const path = folder === undefined ? null : join(folder, diagnostic.span.file);
      return { ...diagnosticJson(diagnostic, texts), path };
    });
    printJson({ types: report.types.map(typeJson), claims: report.claims.map(claimJson), diagnostics, ms });
  } else {
    printFindings(report.diagnostics, texts);
    if (resolution.kind === "program") process.stdout.write(summary(report, ms));
  }
  return report.diagnostics.length === 0 ? 0 : 1;
}

// --- facts ----------------------------------------------------------------------------------------------------------

interface Checked {
  readonly claim: Claim;
  readonly result: Proof | Refutation;
}

interface Report {
  readonly types: Profile[];
  readonly claims: Checked[];
  readonly diagnostics: Diagnostic[];
}

/** Fills the report; false where the signal has ended it. */
async function examine(
  program: Program,
  texts: ReadonlyMap<string, string>,
  own: ReadonlySet<string>,
  report: Report,
  signal: AbortSignal,
): Promise<boolean> {
  const standard = standardProgram(["float.ladder", "int.ladder"]).elements;
  const targets = TARGETS.map((name) => standard.get(name)!);
  // What would work may be an element that the file does not import.
  const wider = { ...program, elements: new Map<string, Element>([...standard, ...program.elements]) };
  const claims = program.claims.filter(({ span }) => own.has(span.file));
  const types = declaredIn(program, texts, own);
  const progress = makeProgress("proving");
  const total = claims.length + types.length;
  try {
    for (const [n, claim] of claims.entries()) {
      progress.update(n, total, claimText(claim));
      await setImmediate();
      if (signal.aborted) return false;
      const result = prove(claim, wider);
      report.claims.push({ claim, result });
      if (result.kind === "refutation") report.diagnostics.push(refutationDiagnostic(claim, result));
    }
    for (const [n, type] of types.entries()) {
      const profile = profileOf(type, targets);
      report.types.push(profile);
      progress.update(claims.length + n, total, profile.name);
      await setImmediate();
      if (signal.aborted) return false;
    }
  } finally {
    progress.clear();
  }
  return true;
}

/** Elements, types and tensors of the files, in the order of the texts; those with parameters are none yet. */
function declaredIn(
  program: Program,
  texts: ReadonlyMap<string, string>,
  own: ReadonlySet<string>,
): readonly Endpoint[] {
  const found: Endpoint[] = [];
  for (const file of own) {
    const result = parse(file, texts.get(file)!);
    const declarations: readonly Declaration[] = result.kind === "parsed" ? result.ast.declarations : [];
    for (const declaration of declarations) {
      if (declaration.kind === "convert") continue;
      const { text: name } = declaration.name;
      const element = program.elements.get(name);
      const type = program.types.get(name);
      const tensor = program.tensors.get(name);
      if (element !== undefined) found.push({ kind: "element", element });
      else if (type !== undefined) found.push({ kind: "type", type });
      else if (tensor !== undefined)
        found.push(...tensor.storages.map((storage) => ({ kind: "tensor", tensor, storage }) as const));
    }
  }
  return found;
}

// --- for people -----------------------------------------------------------------------------------------------------

function summary({ types, claims }: Report, ms: number): string {
  const head = ["type", "bits", "range", ...TARGETS.map((name) => name.toLowerCase()), "codes"];
  const rows = types.map((profile) => [
    profile.name,
    shortNumber(profile.bitsPerValue, 5),
    rangeText(profile),
    ...profile.fits.map(fitText),
    codesText(profile),
  ]);
  const refuted = claims.filter(({ result }) => result.kind === "refutation").length;
  const proved = claims.length - refuted;
  const counts = `${proved} of ${claims.length} claims proved, ${types.length} types, ${(ms / 1000).toFixed(1)} s\n`;
  return `${types.length === 0 ? "" : `${table([head, ...rows])}\n`}${counts}`;
}

function rangeText({ low, high }: Profile): string {
  if (!(low <= high)) return "?";
  return low === -high ? `+-${shortNumber(high, 4)}` : `${shortNumber(low, 4)} .. ${shortNumber(high, 4)}`;
}

/** Few digits, and no exponent where none is needed. */
function shortNumber(x: number, digits: number): string {
  // Rounded up, the largest double is infinity.
  return Math.abs(x) >= 1e6 ? x.toExponential(digits - 1).replace("e+", "e") : String(Number(x.toPrecision(digits)));
}

function fitText(fit: Fit): string {
  switch (fit.kind) {
    case "exact":
      return "yes";
    case "some":
      return `${fit.exact}/${fit.finite}`;
    case "run": {
      const normal = fit.normal === null ? "none" : `${fit.normal.low}-${fit.normal.high}`;
      return `${fit.run.field} ${fit.run.low}-${fit.run.high} / ${normal}`;
    }
    case "no":
      return "no";
    case "open":
      return "?";
  }
}

function codesText({ integers }: Profile): string {
  if ("reason" in integers) return "-";
  const { low, high, groupSize, offset } = integers;
  return `${low} .. ${high} by ${groupSize}${offset ? ", offset" : ""}`;
}

// --- for programs ---------------------------------------------------------------------------------------------------

function typeJson({ name, bitsPerValue, low, high, fits, integers }: Profile): object {
  const named = TARGETS.map((target, t) => [target.toLowerCase(), fits[t]!] as const);
  const some = named.flatMap(([target, fit]) => (fit.kind === "some" ? [[target, [fit.exact, fit.finite]]] : []));
  const runs = named.flatMap(([target, fit]) =>
    fit.kind === "run" ? [[target, { ...fit.run, without_subnormals: fit.normal }]] : [],
  );
  return {
    name,
    bits_per_value: bitsPerValue,
    min: Number.isFinite(low) ? low : null,
    max: Number.isFinite(high) ? high : null,
    exact_in: named.filter(([, fit]) => fit.kind === "exact").map(([target]) => target),
    exact_codes: Object.fromEntries(some),
    exact_when: Object.fromEntries(runs),
    lut: !("reason" in integers),
    codes:
      "reason" in integers
        ? null
        : { min: integers.low, max: integers.high, group: integers.groupSize, offset: integers.offset },
    no_codes_because: "reason" in integers ? integers.reason : null,
  };
}

function claimJson({ claim, result }: Checked): object {
  const proof = result.kind === "proof" ? result : null;
  const refutation = result.kind === "refutation" ? result : null;
  return {
    claim: result.claim,
    guarantee: claim.guarantee,
    status: proof === null ? "refuted" : "proved",
    decided: refutation?.verdict !== "undecided",
    domain: claim.domain.length === 0 ? null : claim.domain.map(restrictionJson),
    proof: proof?.id ?? null,
    method: proof?.method ?? null,
    accumulation: proof?.accumulation ?? null,
    reason: refutation?.reason ?? null,
    counterexample: counterexampleJson(refutation),
    holds_for: refutation === null ? null : runJson(refutation.run, refutation.normalRun),
    suggestion: refutation?.suggestion ?? null,
  };
}

function restrictionJson(restriction: Restriction): object {
  const field = restriction.field ?? "code";
  return restriction.kind === "finite"
    ? { field, finite: true }
    : { field, low: restriction.low, high: restriction.high };
}

function runJson(run: Guard | null, normal: Guard | null): object | null {
  if (run === null) return null;
  return {
    field: run.field ?? "code",
    low: run.low,
    high: run.high,
    without_subnormals: normal && { low: normal.low, high: normal.high },
  };
}

function counterexampleJson(refutation: Refutation | null): object | null {
  if (refutation === null || refutation.witness === null) return null;
  const { at, codes, block, value, instead } = refutation.witness;
  return {
    index: at,
    // Codes of up to 64 bits are more than a number of JSON holds everywhere.
    codes: codes.map(({ label, code, value: number }) => ({
      name: label,
      code: String(code),
      value: showExact(number),
    })),
    block: block === null ? null : Array.from(block, (byte) => byte.toString(16).padStart(2, "0")).join(""),
    value: showExact(value),
    instead: instead && showExact(instead),
  };
}
