// What a synthesised design costs, as figures that each say their unit, where they come from and how far they may be off:
// area, timing, energy, leakage, density, and the area by module. Figures at a node without cells are scaled.
// Not here: running Yosys (yosys.ts), how the figures are shown (the command).

import { type Activity, energyOf, moduleOfCell, turnsOf } from "./energy.ts";
import { type Cell, gateAreaUm2, type Library } from "./library.ts";
import type { Netlist } from "./netlist.ts";
import type { ScaledNode } from "./scaling.ts";
import type { Delays } from "./simulate.ts";
import { type Timing, timingOf, usualAssumptions } from "./timing.ts";

/** A figure that stands for itself: no bare number leaves this file. */
export interface Figure {
  readonly value: number;
  readonly unit: "um2" | "GE" | "ns" | "fJ/cycle" | "uW" | "TOPS/mm2" | "TOPS/W" | "toggles/cycle";
  readonly provenance: "synthesised" | "simulated" | "assumed rate" | "scaled";
  readonly uncertaintyPercent: number;
}

/** A figure, or why there is none. */
export type MaybeFigure = Figure | { readonly unavailable: string };

export interface CellCount {
  readonly kind: string;
  readonly count: number;
  readonly areaUm2: number;
}

export interface Report {
  readonly node: string;
  readonly voltageV: number;
  /** The period that energies and densities hold for. */
  readonly clockNs: number;
  readonly area: Figure;
  readonly gateEquivalents: Figure;
  readonly sequentialArea: Figure;
  readonly period: MaybeFigure;
  readonly energy: Figure;
  readonly energyParts: Readonly<Record<"internalFj" | "switchingFj" | "clockFj", number>>;
  readonly leakage: MaybeFigure;
  readonly turns: Figure;
  readonly density: MaybeFigure;
  readonly efficiency: Figure;
  /** Before scaling, as all that follows. */
  readonly timing: Timing;
  readonly cells: readonly CellCount[];
  /** Area by module where modules were mapped apart; its total is larger than the flat one's. */
  readonly modules: readonly CellCount[];
}

export interface Question {
  readonly library: Library;
  /** Mapped as a whole: every figure but the breakdown. */
  readonly netlist: Netlist<Cell>;
  /** Mapped with modules apart: the breakdown. */
  readonly apart: Netlist<Cell>;
  readonly scaled: ScaledNode | null;
  /** null: the shortest period that the timing allows. */
  readonly clockNs: number | null;
  readonly activity: Activity;
  readonly delays: Delays;
  /** Additions and multiplications that the design does in a cycle, together. */
  readonly operationsPerCycle: number;
}

/**
 * All figures of a design.
 * @throws FactError where the library has no NAND to count gates in; NetlistError where the netlist has no path
 */
export function reportOf(question: Question): Report {
  const { library, netlist, scaled, activity, delays, operationsPerCycle } = question;
  const { areaPercent, delayPercent, energyPercent } = library.uncertainty;
  const wider = (percent: number): number =>
    scaled === null ? percent : Math.round(100 * ((1 + percent / 100) * (1 + scaled.uncertaintyPercent / 100) - 1));
  const provenance = <P extends Figure["provenance"]>(own: P): P | "scaled" => (scaled === null ? own : "scaled");
  const cells = [...netlist.gates, ...netlist.flipFlops];
  const flatUm2 = sum(cells.map(({ model }) => model.areaUm2));
  const areaUm2 = flatUm2 * (scaled?.areaFactor ?? 1);
  const area = (value: number): Figure => ({
    value,
    unit: "um2",
    provenance: provenance("synthesised"),
    uncertaintyPercent: wider(areaPercent),
  });
  const timing = timingOf(netlist, usualAssumptions(library));
  const delayFactor = scaled === null ? 1 : scaled.delayFactor;
  const periodNs = delayFactor === null ? null : (timing.periodPs / 1000) * delayFactor;
  const period: MaybeFigure =
    periodNs === null
      ? { unavailable: `no factor of delay from ${library.name} to ${scaled?.name}; a node file can state one` }
      : { value: periodNs, unit: "ns", provenance: provenance("synthesised"), uncertaintyPercent: wider(delayPercent) };
  const clockNs = question.clockNs ?? periodNs ?? timing.periodPs / 1000;
  const turns = turnsOf(netlist, activity, delays);
  const counted = energyOf(netlist, library, turns, 1000 * clockNs, 0);
  const factor = scaled?.energyFactor ?? 1;
  const leakageFactor = scaled === null ? 1 : scaled.leakageFactor;
  const leakageNw = leakageFactor === null ? null : counted.leakageNw * leakageFactor;
  const dynamicFj = (counted.totalFj - counted.leakageFj) * factor;
  const energyFj = dynamicFj + (leakageNw ?? 0) * clockNs * 1e-3; // nW times ns is 1e-18 J
  const simulated = activity.kind === "rate" ? "assumed rate" : "simulated";
  const energyFigure = (value: number, unit: Figure["unit"], percent: number): Figure => ({
    value,
    unit,
    provenance: provenance(simulated),
    uncertaintyPercent: percent,
  });
  const isTooFast = periodNs !== null && clockNs < periodNs;
  return {
    node: scaled?.name ?? library.name,
    voltageV: scaled?.voltageV ?? library.voltageV,
    clockNs,
    area: area(areaUm2),
    gateEquivalents: {
      ...area(flatUm2 / gateAreaUm2(library)),
      unit: "GE",
      provenance: "synthesised",
      uncertaintyPercent: areaPercent,
    },
    sequentialArea: area(sum(netlist.flipFlops.map(({ model }) => model.areaUm2)) * (scaled?.areaFactor ?? 1)),
    period,
    energy: energyFigure(energyFj, "fJ/cycle", wider(energyPercent)),
    energyParts: {
      internalFj: counted.internalFj * factor,
      switchingFj: counted.switchingFj * factor,
      clockFj: counted.clockFj * factor,
    },
    leakage:
      leakageNw === null
        ? { unavailable: `no factor of leakage from ${library.name} to ${scaled?.name}; a node file can state one` }
        : energyFigure(leakageNw / 1000, "uW", wider(energyPercent)),
    turns: { value: counted.turnsPerCycle, unit: "toggles/cycle", provenance: simulated, uncertaintyPercent: 0 },
    density: isTooFast
      ? { unavailable: `its longest path takes ${periodNs.toFixed(3)} ns, more than the clock's ${clockNs} ns` }
      : {
          value: (operationsPerCycle / clockNs / areaUm2) * 1e3, // operations a ns and um2
          unit: "TOPS/mm2",
          provenance: provenance("synthesised"),
          uncertaintyPercent: wider(areaPercent),
        },
    efficiency: energyFigure((operationsPerCycle / energyFj) * 1e3, "TOPS/W", wider(energyPercent)),
    timing,
    cells: countBy(cells, ({ kind }) => kind),
    modules: countBy([...question.apart.gates, ...question.apart.flipFlops], ({ name }) =>
      moduleOfCell(name).replace(/(_\d+)+$/, "_*"),
    ),
  };
}

type Placed = { readonly name: string; readonly kind: string; readonly model: Cell };

/** Cells by what `keyOf` says, the largest area first. */
function countBy(cells: readonly Placed[], keyOf: (cell: Placed) => string): readonly CellCount[] {
  const counts = new Map<string, { count: number; areaUm2: number }>();
  for (const cell of cells) {
    const entry = counts.get(keyOf(cell)) ?? { count: 0, areaUm2: 0 };
    counts.set(keyOf(cell), { count: entry.count + 1, areaUm2: entry.areaUm2 + cell.model.areaUm2 });
  }
  return [...counts].map(([kind, entry]) => ({ kind, ...entry })).toSorted((a, b) => b.areaUm2 - a.areaUm2);
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
