// Static timing of a mapped netlist: when each net has surely risen and fallen after the clock's edge, and the path that
// takes longest. A cell's delay is its line at the load that its output drives; edges follow the functions, so that
// an inverter's output falls when its input rises.
// Not here: delays of wires other than by a stated capacitance, slews (one input transition for all, library.ts),
// false paths, hold times. The method is the usual one: longest path over arcs in topological order.

import { senseOf } from "./expression.ts";
import type { Arc, Cell, Library, Line } from "./library.ts";
import { type Instance, type Netlist, NetlistError, readersOf } from "./netlist.ts";

type Edge = "rise" | "fall";

/** One cell on a path. */
export interface PathStep {
  readonly cell: string;
  readonly kind: string;
  readonly from: string;
  readonly to: string;
  readonly edge: Edge;
  readonly delayPs: number;
  readonly loadFf: number;
  /** When the cell's output has turned. */
  readonly atPs: number;
}

export interface Timing {
  /** The shortest clock period: the longest path, with the set-up time where it ends in a register. */
  readonly periodPs: number;
  /** An input port or a register's name, where the path begins. */
  readonly start: string;
  /** An output port or a register, where it ends. */
  readonly end: string;
  readonly setupPs: number;
  /** The period less the set-up time and the delay from the clock to the register's output: what logic alone takes. */
  readonly logicPs: number;
  readonly path: readonly PathStep[];
  /** Arrival at each output port's latest bit. */
  readonly outputsPs: Readonly<Record<string, number>>;
}

/** What the netlist alone does not say. */
export interface TimingAssumptions {
  /** Capacitance of the wire at each cell's output, added for each pin that it reaches. */
  readonly wireFfPerPin: number;
  /** Load at output ports. */
  readonly outputFf: number;
  /** Pins beyond which a net is taken as driven through ideal buffers of its cell: more load slows it no further. */
  readonly maxFanout: number;
}

/** No wires, the load of the library's median input pin at outputs, and eight pins as the most that a net is slowed by. */
export function usualAssumptions({ cells }: Library): TimingAssumptions {
  const caps = cells.flatMap(({ inputs }) => inputs.map(({ capFf }) => capFf));
  return { wireFfPerPin: 0, outputFf: caps.toSorted((a, b) => a - b)[Math.floor(caps.length / 2)] ?? 0, maxFanout: 8 };
}

/** The capacitance that each net's driver sees, by net, in fF. */
export function loadsFf(netlist: Netlist<Cell>, wireFfPerPin: number, outputFf: number): Float64Array {
  const loads = new Float64Array(netlist.netNames.length);
  for (const [net, readers] of readersOf(netlist).entries())
    for (const { instance, pin } of readers) loads[net]! += capOf(instance.model, pin) + wireFfPerPin;
  for (const port of netlist.outputs) for (const net of port.nets) loads[net]! += outputFf + wireFfPerPin;
  return loads;
}

function capOf({ inputs }: Cell, pin: string): number {
  return inputs.find(({ name }) => name === pin)!.capFf;
}

interface Cause {
  readonly instance: Instance<Cell>;
  readonly arc: Arc;
  readonly to: string;
  readonly edge: Edge;
  readonly delayPs: number;
  readonly loadFf: number;
  /** Node that it came from: net * 2, + 1 for a falling edge; -1 where the path begins. */
  readonly before: number;
}

/**
 * The longest path from an input port or a register to an output port or a register.
 * @throws NetlistError where there is no path at all
 */
export function timingOf(netlist: Netlist<Cell>, assumptions: TimingAssumptions): Timing {
  const loads = loadsFf(netlist, assumptions.wireFfPerPin, assumptions.outputFf);
  const limits = fanoutLimits(netlist, loads, assumptions.maxFanout);
  const at = new Float64Array(2 * netlist.netNames.length).fill(-Infinity);
  const causes: (Cause | null)[] = Array.from({ length: at.length }, () => null);
  for (const port of netlist.inputs)
    if (port.name !== netlist.clock?.port) for (const net of port.nets) at[2 * net] = at[2 * net + 1] = 0;
  const propose = (net: number, cause: Cause): void => {
    const node = 2 * net + (cause.edge === "rise" ? 0 : 1);
    const time = (cause.before < 0 ? 0 : at[cause.before]!) + cause.delayPs;
    if (time > at[node]!) {
      at[node] = time;
      causes[node] = cause;
    }
  };
  const apply = (instance: Instance<Cell>, isClocked: boolean): void => {
    for (const output of instance.model.outputs) {
      const net = instance.nets.get(output.name)!;
      const loadFf = Math.min(loads[net]!, limits[net]!);
      for (const arc of output.arcs) {
        const sense = isClocked ? "both" : senses(instance.model, output.name, arc.from);
        const source = instance.nets.get(arc.from)!;
        for (const edge of ["rise", "fall"] as const) {
          const line: Line = edge === "rise" ? arc.risePs : arc.fallPs;
          const delayPs = line.intrinsic + line.perFf * loadFf;
          const step = { instance, arc, to: output.name, edge, delayPs, loadFf };
          if (isClocked) {
            propose(net, { ...step, before: -1 });
            continue;
          }
          const same = 2 * source + (edge === "rise" ? 0 : 1);
          if (sense !== "negative" && at[same]! > -Infinity) propose(net, { ...step, before: same });
          if (sense !== "positive" && at[same ^ 1]! > -Infinity) propose(net, { ...step, before: same ^ 1 });
        }
      }
    }
  };
  for (const instance of netlist.flipFlops) apply(instance, true);
  for (const instance of netlist.gates) apply(instance, false);

  const ends = [
    ...netlist.outputs.flatMap(({ name, nets }) =>
      nets.map((net, i) => ({ net, end: nets.length === 1 ? name : `${name}[${i}]`, setupPs: 0 })),
    ),
    ...netlist.flipFlops.flatMap(({ model, nets }) =>
      model.inputs
        .filter(({ name }) => name !== model.flipFlop!.clock)
        .map(({ name }) => ({
          net: nets.get(name)!,
          end: registerName(netlist, model, nets),
          setupPs: model.flipFlop!.setupPs,
        })),
    ),
  ];
  const reached = ends
    .flatMap(({ net, end, setupPs }) => [2 * net, 2 * net + 1].map((node) => ({ node, end, setupPs })))
    .filter(({ node }) => at[node]! > -Infinity);
  const [first] = reached;
  if (first === undefined)
    throw new NetlistError(`${netlist.name}: no output or register depends on an input or a register`);
  const worst = reached.reduce((a, b) => (at[b.node]! + b.setupPs > at[a.node]! + a.setupPs ? b : a), first);
  const { node, end, setupPs } = worst;
  const periodPs = at[node]! + setupPs;
  const latest = (nets: readonly number[]): number => Math.max(0, ...nets.flatMap((n) => [at[2 * n]!, at[2 * n + 1]!]));
  const { start, path, clockedPs } = pathTo(netlist, node, at, causes);
  return {
    periodPs,
    start,
    end,
    setupPs,
    logicPs: periodPs - setupPs - clockedPs,
    path,
    outputsPs: Object.fromEntries(netlist.outputs.map((port) => [port.name, latest(port.nets)])),
  };
}

/** The load of the largest `most` pins of a net, where it has more. */
function fanoutLimits(netlist: Netlist<Cell>, loads: Float64Array, most: number): Float64Array {
  const limits = new Float64Array(loads.length).fill(Infinity);
  for (const [net, readers] of readersOf(netlist).entries())
    if (readers.length > most) limits[net] = (loads[net]! / readers.length) * most;
  return limits;
}

const SENSES = new WeakMap<Cell, Map<string, ReturnType<typeof senseOf>>>();

function senses(cell: Cell, output: string, input: string): ReturnType<typeof senseOf> {
  const key = `${output} ${input}`;
  const known = SENSES.get(cell) ?? new Map<string, ReturnType<typeof senseOf>>();
  SENSES.set(cell, known);
  let sense = known.get(key);
  if (sense === undefined)
    known.set(key, (sense = senseOf(cell.outputs.find(({ name }) => name === output)!.function, input)));
  return sense;
}

/** A register is known by the net of its first output, which keeps the name it had in the Verilog. */
function registerName(netlist: Netlist<Cell>, model: Cell, nets: ReadonlyMap<string, number>): string {
  return netlist.netNames[nets.get(model.outputs[0]!.name)!]!;
}

function pathTo(
  netlist: Netlist<Cell>,
  node: number,
  at: Float64Array,
  causes: readonly (Cause | null)[],
): { readonly start: string; readonly path: readonly PathStep[]; readonly clockedPs: number } {
  const path: PathStep[] = [];
  let here = node;
  for (let cause = causes[here] ?? null; cause !== null; cause = here < 0 ? null : (causes[here] ?? null)) {
    const { instance, arc, to, edge, delayPs, loadFf, before } = cause;
    path.unshift({
      cell: instance.name,
      kind: instance.kind,
      from: arc.from,
      to,
      edge,
      delayPs,
      loadFf,
      atPs: at[here]!,
    });
    if (before < 0) return { start: registerName(netlist, instance.model, instance.nets), path, clockedPs: delayPs };
    here = before;
  }
  return { start: netlist.netNames[here >> 1]!, path, clockedPs: 0 };
}
