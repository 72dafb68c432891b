// Energy of a mapped netlist by counting: each turn of a net costs what its driver's cell takes inside and half C V^2 of
// what it drives; the clock turns twice a cycle at every flip-flop; leakage flows all the time.
// Not here: memories, wires beyond a stated capacitance, the clock tree. What turns is counted by simulate.ts, or taken
// as a rate; the rate of 0.1 a net and cycle is what synthesis tools assume without a switching file.

import type { Cell, Library } from "./library.ts";
import type { Netlist } from "./netlist.ts";
import { type Delays, makeSimulator, pack, STREAMS } from "./simulate.ts";
import { loadsFf } from "./timing.ts";

/** What happens at the inputs. */
export type Activity =
  /** Every net turns so often a cycle; nothing is simulated. */
  | { readonly kind: "rate"; readonly turnsPerCycle: number }
  /**
   * New random values each cycle, on 32 streams; but ports in `held` keep a value, and those in `pulsed` are 1 in the
   * first of so many cycles and 0 in the others.
   */
  | {
      readonly kind: "random";
      readonly seed: number;
      readonly cycles: number;
      readonly held: Readonly<Record<string, bigint>>;
      readonly pulsed: Readonly<Record<string, number>>;
    }
  /** The values of each port, cycle by cycle; ports that are not named stay 0. */
  | { readonly kind: "trace"; readonly cycles: readonly Readonly<Record<string, bigint>>[] };

/** Energy of one cycle, in fJ; shares add up to the total. */
export interface Energy {
  readonly totalFj: number;
  /** Inside cells at their outputs' turns. */
  readonly internalFj: number;
  /** Half C V^2 of nets. */
  readonly switchingFj: number;
  /** Clock pins of flip-flops, with what is inside them. */
  readonly clockFj: number;
  readonly leakageFj: number;
  readonly leakageNw: number;
  /** Mean turns of a net in a cycle. */
  readonly turnsPerCycle: number;
  /** Without leakage, by the first part of the cells' paths ("" is the outermost module), largest first. */
  readonly byModule: readonly { readonly module: string; readonly dynamicFj: number }[];
}

/** Turns of each net in one cycle of one stream. */
export function turnsOf(netlist: Netlist<Cell>, activity: Activity, delays: Delays): Float64Array {
  if (activity.kind === "rate") {
    const turns = new Float64Array(netlist.netNames.length).fill(activity.turnsPerCycle);
    for (const still of [0, 1, netlist.clock?.net ?? 0]) turns[still] = 0;
    return turns;
  }
  const simulator = makeSimulator(netlist, delays);
  const ports = netlist.inputs.filter(({ name }) => name !== netlist.clock?.port);
  const everywhere = (value: bigint, width: number): Int32Array =>
    pack(
      Array.from({ length: STREAMS }, () => value),
      width,
    );
  if (activity.kind === "random") {
    const random = randomWords(activity.seed);
    for (let cycle = 0; cycle <= activity.cycles; cycle++) {
      const words = ports.map(({ name, nets }): [string, Int32Array] => {
        const period = activity.pulsed[name];
        const held = period === undefined ? activity.held[name] : cycle % period === 0 ? 1n : 0n;
        return [name, held === undefined ? Int32Array.from(nets, random) : everywhere(held, nets.length)];
      });
      simulator.settle(Object.fromEntries(words));
      simulator.tick();
    }
    return simulator.turns.map((turns) => turns / (simulator.cycles * STREAMS));
  }
  for (const values of activity.cycles) {
    simulator.settle(
      Object.fromEntries(ports.map(({ name, nets }) => [name, everywhere(values[name] ?? 0n, nets.length)])),
    );
    simulator.tick();
  }
  return simulator.turns.map((turns) => turns / (Math.max(1, simulator.cycles) * STREAMS));
}

/**
 * Energy of a cycle.
 * @param turns of each net in a cycle, as `turnsOf` gives them
 * @param periodPs of the clock, for leakage
 */
export function energyOf(
  netlist: Netlist<Cell>,
  { voltageV }: Library,
  turns: Float64Array,
  periodPs: number,
  wireFfPerPin: number,
): Energy {
  const loads = loadsFf(netlist, wireFfPerPin, 0);
  const halfSquare = 0.5 * voltageV * voltageV;
  const modules = new Map<string, number>();
  const charge = (cell: string, fj: number): void => {
    const module = moduleOfCell(cell);
    modules.set(module, (modules.get(module) ?? 0) + fj);
  };
  let [internalFj, switchingFj, clockFj, leakageNw] = [0, 0, 0, 0];
  for (const { name, model, nets } of [...netlist.gates, ...netlist.flipFlops]) {
    leakageNw += model.leakageNw;
    let fj = 0;
    for (const output of model.outputs) {
      const net = nets.get(output.name)!;
      const inside = turns[net]! * output.internalFj;
      const outside = turns[net]! * halfSquare * loads[net]!;
      internalFj += inside;
      switchingFj += outside;
      fj += inside + outside;
    }
    if (model.flipFlop !== null) {
      const { clock, clockFj: inside } = model.flipFlop;
      const capFf = model.inputs.find((pin) => pin.name === clock)!.capFf + wireFfPerPin;
      const both = 2 * (inside + halfSquare * capFf);
      clockFj += both;
      fj += both;
    }
    charge(name, fj);
  }
  for (const port of netlist.inputs)
    for (const net of port.nets) {
      const fj = turns[net]! * halfSquare * loads[net]!;
      switchingFj += fj;
      charge("", fj);
    }
  const leakageFj = leakageNw * periodPs * 1e-6; // nW times ps is 1e-21 J
  const live = turns.subarray(2);
  return {
    totalFj: internalFj + switchingFj + clockFj + leakageFj,
    internalFj,
    switchingFj,
    clockFj,
    leakageFj,
    leakageNw,
    turnsPerCycle: live.length === 0 ? 0 : live.reduce((a, b) => a + b, 0) / live.length,
    byModule: [...modules]
      .map(([module, dynamicFj]) => ({ module, dynamicFj }))
      .toSorted((a, b) => b.dynamicFj - a.dynamicFj),
  };
}

/** The first part of a cell's path; "" for cells of the outermost module, whose names Yosys made up or a person gave. */
export function moduleOfCell(cell: string): string {
  const dot = cell.indexOf(".");
  const dollar = cell.indexOf("$");
  return dot < 0 || (dollar >= 0 && dollar < dot) ? "" : cell.slice(0, dot);
}

/** Random words by Steele's splitmix32; the same for the same seed. */
function randomWords(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return z ^ (z >>> 15);
  };
}
