// lutra ppa: what a dot product unit, or an array of them, costs in silicon: power, performance and area of its Verilog,
// mapped by Yosys to published facts of standard cells or to a liberty file. Every figure says its node, clock and
// boundary, where it comes from, and how far it may be off.
// Not here: what designs there are (sim/rtl), how they are measured (sim/synth).

import { existsSync } from "node:fs";
import process from "node:process";

import type { RtlConfig } from "../../sim/rtl/config.ts";
import { type Design, designOf } from "../../sim/rtl/design.ts";
import type { Activity } from "../../sim/synth/energy.ts";
import { breakdownSvg } from "../../sim/synth/figure.ts";
import { Field } from "../../sim/synth/field.ts";
import { readLiberty } from "../../sim/synth/liberty.ts";
import { type Library, readLibrary } from "../../sim/synth/library.ts";
import { type Netlist, readNetlist } from "../../sim/synth/netlist.ts";
import { type Figure, type MaybeFigure, type Report, reportOf } from "../../sim/synth/report.ts";
import type { Flow } from "../../sim/synth/script.ts";
import type { PathStep } from "../../sim/synth/timing.ts";
import { nodeFromTable, readNode, readScaling, type ScaledNode } from "../../sim/synth/scaling.ts";
import { cacheFolder, type Limits, type Netlisted, openYosys, synthesise } from "../../sim/synth/yosys.ts";
import { createFile, packageFile } from "../files.ts";
import { command, type Command, UsageError, type Values } from "./command.ts";
import { escaped, makeProgress, note, printJson, table } from "./terminal.ts";
import { configOf, jsonOf, textOf } from "./unit-config.ts";

const OPTIONS = {
  node: { kind: "text", about: "45nm, 7nm, another one as 28nm, or a file of cells or factors (45nm)" },
  liberty: { kind: "text", about: "a liberty file of yours, in place of --node" },
  voltage: { kind: "number", about: "of a scaled node, in V (0.9)", min: 0.3, max: 2, fallback: null },
  clock: {
    kind: "number",
    about: "period in ns (the shortest that the longest path allows)",
    min: 0.001,
    max: 1e6,
    fallback: null,
  },
  activity: {
    kind: "choice",
    about: "each net turns 0.1 times a cycle, or as operands make it",
    choices: ["default", "random"],
    fallback: "random",
  },
  glitches: { kind: "flag", about: "count what turns more than once a cycle, each gate one step behind its inputs" },
  cycles: { kind: "integer", about: "that are simulated, 32 streams each", min: 1, max: 100_000, fallback: 200 },
  seed: { kind: "integer", about: "of random operands", min: 0, max: 2 ** 31 - 1, fallback: 1 },
  adders: {
    kind: "choice",
    about: "what adders become: full adders of the library, or gates",
    choices: ["cells", "gates"],
    fallback: "cells",
  },
  native: { kind: "flag", about: "yosys on PATH, in place of the package @yowasp/yosys" },
  limit: { kind: "integer", about: "seconds that each synthesis may take", min: 1, max: 86_400, fallback: 600 },
  svg: { kind: "text", about: "a file for the breakdown by module, drawn" },
  json: { kind: "flag", about: "one JSON object on stdout" },
} as const;

export const ppa: Command = command({
  name: "ppa",
  usage: ["ppa config.json [options]"],
  about: [
    "Synthesises the unit that a configuration describes, as lutra rtl writes it, and says what it costs: area in",
    "um2 and in gate equivalents (NAND2), the longest path, energy a cycle with its parts, leakage, density, and",
    "the area by module. Cells of 45nm and 7nm come with Lutra; other nodes from 45 to 7 nm are scaled from 45nm",
    "by published factors, which say nothing of delay and leakage, so that these are left out. A node of yours is a",
    "JSON file of cells, or of factors. Wires, clock tree and placement are not counted. Results of Yosys are kept",
    "in ~/.cache/lutra/synthesis.",
  ],
  options: OPTIONS,
  examples: [
    ["lutra ppa mac-fp16.json", "an example: at 45 nm, at its own longest path"],
    ["lutra ppa unit.json --node 28nm --clock 1", "area and energy scaled to 28 nm, 1 GHz"],
    ["lutra ppa unit.json --liberty cells.lib --svg unit.svg", "with cells of yours, and drawn"],
  ],
  positionals: 1,
  run: measure,
});

const MAX_LIBERTY_BYTES = 2 ** 28;
/** Cycles for which a table of activations is used, as in LUT Tensor Core's evaluation of N = 64. */
const TABLE_CYCLES = 64;
const DEFAULT_TURNS = 0.1;
const DEFAULT_VOLTAGE = 0.9;

async function measure(
  values: Values<typeof OPTIONS>,
  [path]: readonly string[],
  signal: AbortSignal,
): Promise<number> {
  if (path === undefined) throw new UsageError("no configuration; see lutra ppa --help");
  if (values.liberty !== null && values.node !== null)
    throw new UsageError("--liberty: not together with --node; leave one of them out");
  const design = designOf(configOf(path));
  const { library, scaled } = technologyOf(values);
  const yosys = await openYosys(values.native);
  if ("unavailable" in yosys) throw new Error(yosys.unavailable);
  const bar = makeProgress("synthesis");
  const limits: Limits = {
    timeMs: 1000 * values.limit,
    signal,
    progress: (pass, index, of) => bar.update(index, of, pass.toLowerCase()),
  };
  const adders = values.adders as Flow["adders"];
  const models = new Map(library.cells.map((cell) => [cell.name, cell]));
  const mapped = async (keep: "none" | "all"): Promise<readonly [Netlisted, Netlist<Library["cells"][number]>]> => {
    const made = await synthesise(yosys, design, library, { keep, adders }, limits, cacheFolder());
    return [made, readNetlist(made.netlist, models)];
  };
  try {
    const [[made, netlist], [, apart]] = [await mapped("none"), await mapped("all")];
    bar.clear();
    const report = reportOf({
      library,
      netlist,
      apart,
      scaled,
      clockNs: values.clock,
      activity: activityOf(values, design),
      delays: values.glitches ? "unit" : "zero",
      operationsPerCycle: operationsOf(design.config),
    });
    const about = { design, library, scaled, made, boundary: boundaryOf(design.config) };
    if (values.svg !== null) {
      const within = `${report.node}, mapped apart, ${report.area.provenance} within ${report.area.uncertaintyPercent} %; ${about.boundary}`;
      writeText(
        values.svg,
        breakdownSvg(report, `Area by module: ${design.top}`, within, scaled?.areaFactor ?? 1),
        path,
      );
    }
    if (values.json) printJson(asJson(report, about));
    else process.stdout.write(asText(report, about));
    return 0;
  } catch (error) {
    bar.clear();
    if (signal.aborted) return 130;
    throw error;
  }
}

// ------------------------------------------------------------------------------------------------------ what is asked

function writeText(path: string, text: string, input: string): void {
  const content = Buffer.from(text);
  const sink = createFile(path, content.length, [input]);
  try {
    sink.write(content);
    sink.commit();
  } finally {
    sink.abandon();
  }
}

interface Technology {
  readonly library: Library;
  readonly scaled: ScaledNode | null;
}

const SHIPPED = ["45nm", "7nm"] as const;
type Shipped = (typeof SHIPPED)[number];

function shippedLibrary(node: Shipped): Library {
  const file = packageFile(`sim/data/cells/${node}.json`);
  return readLibrary(jsonOf(file), file);
}

function isShipped(node: string): node is Shipped {
  return (SHIPPED as readonly string[]).includes(node);
}

function technologyOf({ node: named, liberty, voltage }: Values<typeof OPTIONS>): Technology {
  if (liberty !== null) {
    if (voltage !== null) throw new UsageError("--voltage: not together with --liberty, which states its own");
    const { library, skipped } = readLiberty(textOf(liberty, MAX_LIBERTY_BYTES), liberty);
    const [first] = skipped;
    if (first !== undefined)
      note(
        `${liberty}: ${skipped.length} cells are not used; the first, ${escaped(first.cell)}: ${escaped(first.reason)}`,
      );
    return { library, scaled: null };
  }
  const node = named ?? "45nm";
  const nm = isShipped(node) ? undefined : /^(\d+(?:\.\d+)?)nm$/.exec(node)?.[1];
  if (voltage !== null && nm === undefined)
    throw new UsageError("--voltage: it is for nodes that are scaled, as with --node 28nm; others state their own");
  if (isShipped(node)) return { library: shippedLibrary(node), scaled: null };
  if (nm !== undefined) {
    const library = shippedLibrary("45nm");
    const file = packageFile("sim/data/scaling.json");
    const from = { name: library.name, nodeNm: library.nodeNm!, voltageV: library.voltageV };
    const scaling = readScaling(new Field(jsonOf(file), file, ""));
    return { library, scaled: nodeFromTable(scaling, from, Number(nm), voltage ?? DEFAULT_VOLTAGE) };
  }
  if (!existsSync(node))
    throw new UsageError(
      `--node: ${JSON.stringify(node)}; one of ${SHIPPED.join(", ")}, another one as 28nm, or a JSON file is needed`,
    );
  const json = jsonOf(node);
  const root = new Field(json, node, "");
  if (!root.at("cells").isNull()) return { library: readLibrary(json, node), scaled: null };
  const scaled = readNode(root);
  if (!isShipped(scaled.from)) return root.at("from").fail(`one of ${SHIPPED.join(", ")}`);
  return { library: shippedLibrary(scaled.from), scaled };
}

/** Controls do their part: sums are kept and emptied, tables stay for their cycles; operands and the rest are random. */
function activityOf({ activity, cycles, seed }: Values<typeof OPTIONS>, { ports }: Design): Activity {
  if (activity === "default") return { kind: "rate", turnsPerCycle: DEFAULT_TURNS };
  const has = (name: string): boolean => ports.some((port) => port.name === name);
  const some = <T>(given: Readonly<Record<string, T>>): Readonly<Record<string, T>> =>
    Object.fromEntries(Object.entries(given).filter(([name]) => has(name)));
  return {
    kind: "random",
    seed,
    cycles,
    held: some({ enable: 1n, load_w: 1n, ...(has("load_table") || has("table") ? {} : { load: 1n, swap: 1n }) }),
    pulsed: some({
      clear: TABLE_CYCLES,
      ...(has("load_table") || has("table")
        ? { load: TABLE_CYCLES, load_table: TABLE_CYCLES, swap: TABLE_CYCLES }
        : {}),
    }),
  };
}

/** A multiplication and an addition for each value; a bit-serial unit takes as many cycles as weights have bits. */
function operationsOf({ kind, m, n, k, weightBits }: RtlConfig): number {
  return (2 * m * n * k) / (kind === "mac" ? 1 : weightBits);
}

function boundaryOf({
  registers: { operands, tables, weights, accumulator, doubleBuffer },
  pipeline,
}: RtlConfig): string {
  const parts = ["datapath"];
  if (pipeline > 0) parts.push(`${pipeline} pipeline registers`);
  if (accumulator) parts.push("accumulator");
  if (operands) parts.push("activation registers");
  if (tables) parts.push("table registers");
  if (weights !== "none") parts.push(`weight registers (${weights})`);
  if (doubleBuffer) parts.push("double buffers");
  return parts.join(" + ");
}

// ------------------------------------------------------------------------------------------------------ what is shown

interface About {
  readonly design: Design;
  readonly library: Library;
  readonly scaled: ScaledNode | null;
  readonly made: Netlisted;
  readonly boundary: string;
}

function asJson(report: Report, { design, library, scaled, made, boundary }: About): object {
  const { version, hashes, cached } = made;
  return {
    config: design.config,
    boundary,
    ...report,
    library: { name: library.name, provenance: library.provenance, source: library.source },
    scaling: scaled,
    synthesis: { tool: version, hashes, cached },
  };
}

const SHOWN_CELLS = 8;
const SHOWN_MODULES = 12;
const SHOWN_STRETCHES = 24;

function asText(report: Report, { design: { config }, library, scaled, made, boundary }: About): string {
  const { timing } = report;
  const lines = (rows: readonly string[]): string => rows.map((line) => `${escaped(line)}\n`).join("");
  const figures: [string, MaybeFigure][] = [
    ["area", report.area],
    ["  in gates", report.gateEquivalents],
    ["  registers", report.sequentialArea],
    ["longest path", report.period],
    ["energy", report.energy],
    ["leakage", report.leakage],
    ["density", report.density],
    ["efficiency", report.efficiency],
  ];
  const { internalFj, switchingFj, clockFj } = report.energyParts;
  const parts = { "in cells": internalFj, "on nets": switchingFj, clock: clockFj };
  const stretches = stretchesOf(timing.path);
  const hidden = Math.max(0, stretches.length - SHOWN_STRETCHES);
  const total = report.modules.reduce((sum, { areaUm2 }) => sum + areaUm2, 0);
  return [
    lines([
      `${config.kind}, ${config.m} x ${config.n} lanes of ${config.k}, ${config.activation}, weights of ${config.weightBits} bits, sums of ${config.accumulator}`,
      `node ${report.node} (${report.voltageV} V${scaled === null ? `, ${library.temperatureC} C, ${library.process}` : `, scaled from ${scaled.from}`}), clock ${significant(report.clockNs)} ns, boundary: ${boundary}`,
      `cells: ${library.provenance}, ${library.name}; ${made.version}${made.cached ? ", kept from before" : ""}`,
      "",
    ]),
    table([["", "value", "unit", "provenance", "within"], ...figures.map(([name, figure]) => row(name, figure))]),
    lines([
      "",
      `energy ${Object.entries(parts)
        .map(([name, fj]) => `${name} ${significant(fj)} fJ`)
        .join(", ")}; ${significant(report.turns.value)} turns a net and cycle (${report.turns.provenance})`,
      `the longest path goes from ${timing.start} to ${timing.end} through ${timing.path.length} cells${scaled === null ? "" : `, at ${library.name}`}${hidden === 0 ? "" : `; its first ${hidden} stretches are in --json`}`,
    ]),
    table([
      ["  until ns", "cells", "kind", "pins", "edge"],
      ...stretches
        .slice(hidden)
        .map(({ count, last }) => [
          `  ${(last.atPs / 1000).toFixed(3)}`,
          String(count),
          last.kind,
          `${last.from} -> ${last.to}`,
          last.edge,
        ]),
    ]),
    lines([
      "",
      `cells: ${report.cells
        .slice(0, SHOWN_CELLS)
        .map(({ kind, count }) => `${count} ${kind}`)
        .join(", ")}`,
    ]),
    lines(["", "area by module, mapped apart:"]),
    table([
      ["  module", "cells", "um2", "share"],
      ...report.modules
        .slice(0, SHOWN_MODULES)
        .map(({ kind, count, areaUm2 }) => [
          `  ${kind || "(top)"}`,
          String(count),
          significant(areaUm2 * (scaled?.areaFactor ?? 1)),
          `${((100 * areaUm2) / total).toFixed(1)} %`,
        ]),
    ]),
  ].join("");
}

/** Cells on a path that do the same one behind the other, as a carry's, as one. */
function stretchesOf(path: readonly PathStep[]): readonly { readonly count: number; readonly last: PathStep }[] {
  const stretches: { count: number; last: PathStep }[] = [];
  const what = ({ kind, from, to, edge }: PathStep): string => [kind, from, to, edge].join(" ");
  for (const step of path) {
    const before = stretches.at(-1);
    if (before !== undefined && what(before.last) === what(step)) {
      before.count++;
      before.last = step;
    } else stretches.push({ count: 1, last: step });
  }
  return stretches;
}

function row(name: string, figure: MaybeFigure): readonly string[] {
  if ("unavailable" in figure) return [name, "-", "", figure.unavailable, ""];
  const { value, unit, provenance, uncertaintyPercent }: Figure = figure;
  return [name, significant(value), unit, provenance, `${uncertaintyPercent} %`];
}

/** Four significant digits, as more would claim more than is known. */
function significant(value: number): string {
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(4);
}
