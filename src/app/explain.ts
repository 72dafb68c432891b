// lutra explain: how a matrix product in some number type is computed on some machine: the plan that is chosen, with
// its proofs and its estimated time, the plans that were not, and what was refused, with a counter-example.
// Tables and JSON go to stdout; what is wrong with a .ladder file goes to stderr, as a finding with its place.
// Not here: how plans are made and ranked (ladder/schedule/schedule.ts).

import process from "node:process";

import { conversionGraph } from "../ladder/schedule/convert.ts";
import type { Refutation } from "../ladder/prove/prove.ts";
import { resolveProgram } from "../ladder/resolve.ts";
import type { Gemm, RefusedPlan } from "../ladder/schedule/route.ts";
import { type Edge, type Schedule, schedule, type Scheduled, type Step } from "../ladder/schedule/schedule.ts";
import type { DeviceModel } from "../ladder/type.ts";
import { showExact } from "../ladder/prove/window.ts";
import { command, type Command, type Values } from "./command.ts";
import { lmmaProduct, type LmmaTraffic } from "./lmma.ts";
import { printFindings } from "./findings.ts";
import { named, PRODUCT_OPTIONS, productNamed, readTexts } from "./program.ts";
import { escaped, makeProgress, printJson, table } from "./terminal.ts";

const OPTIONS = {
  type: { kind: "text", about: "number type of the weights, such as Q4_0 or I2_S.x86_128" },
  ...PRODUCT_OPTIONS,
  device: { kind: "text", about: "machine, as a device of a .ladder file names it" },
  accept: {
    kind: "choice",
    about: "which plans may be chosen",
    choices: ["exact", "rounded"],
    fallback: "exact",
  },
  top: { kind: "integer", about: "plans that are shown beside the chosen one", min: 0, max: 1000, fallback: 8 },
  json: { kind: "flag", about: "one JSON object on stdout: the chosen plan, the others, what was refused" },
} as const;

export const explain: Command = command({
  name: "explain",
  usage: ["explain --type name --device name [options] [file.ladder]"],
  about: [
    "Says how out(m,n) = activations(m,k) . weights(n,k)^T would be computed on a machine: every plan that the",
    "machine's description and the proved conversions allow, ranked by estimated time; the chosen one in full,",
    "with its tiles, its steps and its proofs; and what was refused, with the reason and a counter-example. A",
    "plan may decode weights to floats, multiply integer codes (dot), or look sums of activations up. With",
    "--accept exact, plans that round weights or activations before they are multiplied are a last resort; with",
    "--accept rounded, the cheapest plan is chosen. A .ladder file may declare types, conversions and devices of",
    "your own.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra explain --type Q4_0 --device x86_avx512_vnni", "one token on a CPU"],
    ["lutra explain --type Q4_K --device a100 --m 4096", "a prompt on a GPU"],
    ["lutra explain --type TQ2_0 --activation Q8_0 --device lut_tensor_core --json", "for programs"],
    ["lutra explain mine.ladder --type Mine --device mine", "your own format and machine"],
  ],
  positionals: 1,
  run: explainPlan,
});

// oxlint-disable-next-line require-await -- every command is asynchronous
async function explainPlan(values: Values<typeof OPTIONS>, paths: readonly string[]): Promise<number> {
  const [path] = paths;
  const { texts } = readTexts(path === undefined ? [] : [path]);
  const resolution = resolveProgram(texts);
  if (resolution.kind === "rejected") {
    printFindings(resolution.diagnostics, texts);
    return 1;
  }
  const { program } = resolution;
  const device = named("device", values.device, program.devices);
  const gemm: Gemm = {
    ...productNamed(values, program),
    accept: values.accept === "exact" ? "exact" : "rounded",
  };
  const scheduled = withProgress(device, (progress) => schedule(gemm, device, conversionGraph(program), progress));
  const traffic = lmmaProduct(gemm, device)?.traffic ?? null;
  if (values.json) printJson({ ...json(scheduled), ...(traffic !== null && { lmma: traffic }) });
  else {
    const parts = [text(scheduled, values.top), ...(traffic === null ? [] : [trafficText(traffic)])];
    process.stdout.write(`${parts.join("\n\n").split("\n").map(escaped).join("\n")}\n`);
  }
  return scheduled.kind === "schedule" ? 0 : 1;
}

/** Plans are found product by product, in the order of the machine's text; those of one start with its name. */
function withProgress(device: DeviceModel, work: (progress: (plan: string) => void) => Scheduled): Scheduled {
  const bar = makeProgress("proving");
  const total = device.multiplies.length + device.lookups.length;
  const seen = new Set<string>();
  try {
    return work((plan) => {
      seen.add(plan.split(/,| by | of /, 1)[0]!);
      bar.update(Math.min(seen.size, total), total, escaped(plan));
    });
  } finally {
    bar.clear();
  }
}

// --- for people -----------------------------------------------------------------------------------------------------

function text(scheduled: Scheduled, top: number): string {
  const { refused } = scheduled;
  const parts: string[] = [];
  if (scheduled.kind === "schedule") {
    const { chosen, others } = scheduled;
    parts.push(planText(chosen));
    if (others.length > 0 && top > 0) {
      const shown = others.slice(0, top);
      const rows = shown.map((plan) => [plan.name, roundingText(plan), plan.cost.bound, microseconds(plan.cost.total)]);
      parts.push(table([["other plans", "rounds", "waits for", "us"], ...rows]).trimEnd());
      if (others.length > shown.length) parts.push(`and ${others.length - shown.length} more; --top shows them`);
    }
  } else parts.push("there is no plan");
  if (refused.length > 0) parts.push(["refused", ...refusedLines(refused)].join("\n"));
  return parts.join("\n\n");
}

const STAGES: Readonly<Record<LmmaTraffic["kind"], string>> = {
  repeated: "tables made by each tile of columns",
  split: "tables made once, by a program of their own",
  fused: "that fused into the norm before it",
};

/** What the programs move; the last line are those that the lmma backend runs. */
function trafficText(traffic: readonly LmmaTraffic[]): string {
  const head = ["programs of the LMMA machine", "tables", "bytes read", "bytes written"];
  const rows = traffic.map(({ kind, tables, read, written }) => [STAGES[kind], tables, read, written]);
  const change = (from: number, to: number, unit: string): string =>
    to <= from ? `saves ${from - to} ${unit}` : `takes ${to - from} ${unit} more`;
  const [repeated, split, fused] = traffic.map(({ tables, read, written }) => ({ tables, moved: read + written }));
  const tables = change(repeated!.tables, split!.tables, "tables");
  const [bySplit, byFusion] = [repeated!.moved - split!.moved, split!.moved - fused!.moved].map((bytes) =>
    change(bytes, 0, "bytes"),
  );
  return `${table([head, ...rows])}the split ${tables} and ${bySplit}; the fusion ${byFusion}`;
}

function planText(plan: Schedule): string {
  const { gemm, product, lookup, padded, tiles, cost, accumulation, guards, fallback } = plan;
  const facts: (readonly [string, string])[] = [
    ["product", `${gemm.activation} x ${gemm.weight}, m ${gemm.m}, n ${gemm.n}, k ${gemm.k}, on ${plan.device}`],
    ["plan", plan.name],
    ["multiplies", `${product.activation} x ${product.weight}, ${product.m} x ${product.n} x ${product.k} at once`],
    ["rounds", roundingText(plan)],
    ["sums", sumsText(accumulation, gemm)],
  ];
  if (lookup !== null) {
    const of = lookup.kind === "planes" ? `sums of ${lookup.k} activations, ${lookup.planes} bit planes` : "products";
    facts.push(["tables", `${lookup.entries} entries of ${lookup.entry}: ${of}`]);
  }
  for (const { memory, m, n, k } of tiles) facts.push([`tile in ${memory}`, `m ${m}, n ${n}, k ${k}`]);
  facts.push(["padded", `m ${padded.m}, n ${padded.n}, k ${padded.k}`]);
  if (guards.length > 0) {
    const texts = guards.map((r) =>
      r.kind === "finite" ? `${r.field ?? "code"} finite` : `${r.field ?? "code"} in ${r.low} .. ${r.high}`,
    );
    facts.push(["where", texts.join(", ")], ["else", fallback ?? "there is no plan"]);
  }
  const times: (readonly [string, number])[] = [
    ...cost.memories.map(({ memory, ns, bytes }) => [`reading ${memory}, ${bytes} bytes`, ns] as const),
    ["products", cost.compute.products],
    ["conversions", cost.compute.conversions],
    ["scales", cost.compute.scales],
    ["start", cost.start],
    ["in all, most of it at the same time", cost.total],
  ];
  return [
    table(facts).trimEnd(),
    table([["estimated time", "us"], ...times.map(([what, ns]) => [what, microseconds(ns)])]).trimEnd(),
    table([["at", "operand", "step", ""], ...plan.steps.map((step) => stepRow(step, plan))]).trimEnd(),
  ].join("\n\n");
}

function roundingText({ guarantee: { rounding, weights, activations }, lookup }: Schedule): string {
  if (rounding === "none") return "nothing";
  const sides = [...(weights === "rounded" ? ["weights"] : []), ...(activations === "rounded" ? ["activations"] : [])];
  return sides.length === 0 ? (lookup === null ? "nothing" : "tables") : sides.join(", ");
}

function sumsText({ element, exact, segment }: Schedule["accumulation"], { accumulate }: Schedule["gemm"]): string {
  const own = exact === null ? `in ${element}` : `in ${element}, exact for ${exact} products`;
  return element === accumulate ? own : `${own}; after ${segment} in ${accumulate}`;
}

function stepRow(step: Step, plan: Schedule): readonly string[] {
  const { at, operand, kind } = step;
  return [at, operand, kind, stepText(step, plan)];
}

function stepText(step: Step, { weights, activations, proofs }: Schedule): string {
  switch (step.kind) {
    case "slice":
      return `${step.rows} rows, k ${step.k}`;
    case "pad":
      return `${step.dimension} ${step.from} to ${step.to}`;
    case "map": {
      const parameters = Object.entries(step.parameters).map(([name, value]) => `${name} ${value}`);
      return [step.map, ...parameters].join(", ");
    }
    case "convert": {
      const proof = proofs.find(({ id }) => id === step.proof);
      const edge = [...weights.chain, ...activations.chain].find((one: Edge) => one.proof === step.proof);
      const origin = edge?.origin === "claimed" ? "claimed, " : "";
      return `${proof?.claim}; ${origin}proof ${step.proof}: ${proof?.method}`;
    }
  }
}

/** One line for each reason, with the plans that it rules out, and what shows it. */
function refusedLines(refused: readonly RefusedPlan[]): readonly string[] {
  const reasons = new Map<string, { names: string[]; refutation: Refutation | null }>();
  for (const { name, reason, refutation } of refused) {
    const known = reasons.get(reason) ?? { names: [], refutation };
    known.names.push(name);
    reasons.set(reason, known);
  }
  return [...reasons].flatMap(([reason, { names, refutation }]) => {
    const [first] = names;
    const more = names.length > 1 ? ` and ${names.length - 1} more` : "";
    const shown = witnessText(refutation);
    return [`  ${first}${more}`, `    ${reason}`, ...(shown === null ? [] : [`    ${shown}`])];
  });
}

function witnessText(refutation: Refutation | null): string | null {
  if (refutation === null || refutation.witness === null) return null;
  const { codes, value, instead } = refutation.witness;
  const made = codes.map(({ label, code }) => `${label} = ${code}`).join(", ");
  const becomes = instead === null ? "there is nothing for it" : `it becomes ${showExact(instead)}`;
  return `${made} (raw codes) make ${showExact(value)}; ${becomes}`;
}

/** Three digits, and no exponent. */
function microseconds(ns: number): number {
  const us = ns / 1000;
  return us === 0 ? 0 : Number(us.toPrecision(Math.max(3, Math.ceil(Math.log10(us)))));
}

// --- for programs ---------------------------------------------------------------------------------------------------

function json(scheduled: Scheduled): object {
  const refused = scheduled.refused.map(({ name, reason, refutation }) => {
    return { name, reason, counterexample: witnessText(refutation) };
  });
  return scheduled.kind === "schedule"
    ? { chosen: scheduled.chosen, others: scheduled.others, refused }
    : { chosen: null, others: [], refused };
}
