// A flat netlist as Yosys writes it in JSON: nets by number, cells with what they compute, in the order in which signals
// pass. Unmapped, its cells are Yosys's own gates; mapped, those of a library, with their facts.
// Not here: values on nets (simulate.ts), times (timing.ts), energies (energy.ts), how it was made (yosys.ts).
// Format: Yosys manual, write_json. Bits that Yosys leaves undefined ("x") are read as 0, as a mapped netlist ties them.

import { type Expression, parseExpression, pinsOf } from "./expression.ts";

/** What a cell computes; a library's Cell is one. */
export interface Model {
  readonly inputs: readonly { readonly name: string }[];
  readonly outputs: readonly { readonly name: string; readonly function: Expression }[];
  readonly flipFlop: {
    readonly state: string;
    readonly inverse: string;
    readonly clock: string;
    readonly next: Expression;
  } | null;
}

export interface Instance<M extends Model> {
  /** With the path of its module before it, as in "lane0.u_acc.$abc$12". */
  readonly name: string;
  readonly kind: string;
  readonly model: M;
  /** The net at each pin; outputs that nothing reads have nets too. */
  readonly nets: ReadonlyMap<string, number>;
}

export interface Port {
  readonly name: string;
  /** Nets of its bits, the least significant first. */
  readonly nets: readonly number[];
}

export interface Netlist<M extends Model> {
  readonly name: string;
  /** Nets 0 and 1 are the constants. */
  readonly netNames: readonly string[];
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** Combinational cells, each behind those that it reads. */
  readonly gates: readonly Instance<M>[];
  readonly flipFlops: readonly Instance<M>[];
  /** Of all flip-flops; null where there is none. */
  readonly clock: { readonly port: string; readonly net: number } | null;
}

/** JSON that is no netlist, or a netlist that cannot be simulated: which net or cell, and why. */
export class NetlistError extends Error {
  override readonly name = "NetlistError";
}

const MAX_CHARS = 2 ** 29;
const MAX_CELLS = 4_000_000;

/** Yosys's own gates: internal cell library, `help $_AND_` and so on. */
const GATES: Readonly<Record<string, string>> = {
  $_BUF_: "A",
  $_NOT_: "!A",
  $_AND_: "A & B",
  $_NAND_: "!(A & B)",
  $_OR_: "A | B",
  $_NOR_: "!(A | B)",
  $_XOR_: "A ^ B",
  $_XNOR_: "!(A ^ B)",
  $_ANDNOT_: "A & !B",
  $_ORNOT_: "A | !B",
  $_MUX_: "(S & B) | (!S & A)",
  $_NMUX_: "!((S & B) | (!S & A))",
  $_AOI3_: "!((A & B) | C)",
  $_OAI3_: "!((A | B) & C)",
  $_AOI4_: "!((A & B) | (C & D))",
  $_OAI4_: "!((A | B) & (C | D))",
};

/** Models of Yosys's own gates and its rising-edge flip-flop, by kind. */
export const YOSYS_GATES: ReadonlyMap<string, Model> = new Map<string, Model>([
  ...Object.entries(GATES).map(([kind, text]): [string, Model] => {
    const f = parseExpression(text);
    const inputs = pinsOf(f).map((name) => ({ name }));
    return [kind, { inputs, outputs: [{ name: "Y", function: f }], flipFlop: null }];
  }),
  [
    "$_DFF_P_",
    {
      inputs: [{ name: "C" }, { name: "D" }],
      outputs: [{ name: "Q", function: { op: "pin", name: "IQ" } }],
      flipFlop: { state: "IQ", inverse: "IQN", clock: "C", next: { op: "pin", name: "D" } },
    },
  ],
]);

/**
 * Reads the one module of a flat netlist.
 * @param models what cells compute, by kind
 * @throws NetlistError where the text is no such netlist, a kind is unknown, a net has no driver or several, flip-flops
 *   have several clocks, or gates form a loop
 */
export function readNetlist<M extends Model>(text: string, models: ReadonlyMap<string, M>): Netlist<M> {
  const { name, module } = moduleOf(text);
  const netNames: string[] = ["0", "1"];
  const known = new Map<number, number>();
  const named = namesOf(module);
  const net = (bit: unknown, where: string): number => {
    if (bit === "0" || bit === "x" || bit === "z") return 0;
    if (bit === "1") return 1;
    if (typeof bit !== "number" || !Number.isSafeInteger(bit))
      throw new NetlistError(`${where}: the bit ${JSON.stringify(bit)}`);
    let index = known.get(bit);
    if (index === undefined) {
      index = netNames.length;
      known.set(bit, index);
      netNames.push(named.get(bit) ?? `net ${bit}`);
    }
    return index;
  };
  const inputs: Port[] = [];
  const outputs: Port[] = [];
  for (const [port, facts] of entriesOf(module["ports"], `${name}.ports`)) {
    const { direction, bits } = recordOf(facts, port);
    const nets = listOf(bits, `${port}.bits`).map((bit) => net(bit, port));
    if (direction !== "input" && direction !== "output")
      throw new NetlistError(`the port ${port} is ${JSON.stringify(direction)}`);
    (direction === "input" ? inputs : outputs).push({ name: port, nets });
  }
  // Yosys notes where modules were flattened by cells without pins, and in the names of cells.
  const cells = entriesOf(module["cells"], `${name}.cells`)
    .filter(([cell, facts]) => recordOf(facts, cell)["type"] !== "$scopeinfo")
    .map(([cell, facts]) => [cell.replaceAll("$flatten\\", ""), facts] as const);
  if (cells.length > MAX_CELLS) throw new NetlistError(`${name}: ${cells.length} cells; at most ${MAX_CELLS} are read`);
  const instances = cells.map(([cell, facts]): Instance<M> => {
    const { type, connections } = recordOf(facts, cell);
    const model = models.get(String(type));
    if (model === undefined)
      throw new NetlistError(`the cell ${cell} is a ${String(type)}, which none of ${models.size} known kinds is`);
    const wires = recordOf(connections, `${cell}.connections`);
    const nets = new Map<string, number>();
    for (const pin of model.inputs)
      nets.set(pin.name, net(listOf(wires[pin.name], `${cell}.${pin.name}`)[0], `${cell}.${pin.name}`));
    for (const pin of model.outputs) {
      const [bit] = wires[pin.name] === undefined ? [] : listOf(wires[pin.name], `${cell}.${pin.name}`);
      if (bit === undefined) {
        nets.set(pin.name, netNames.length);
        netNames.push(`${cell}.${pin.name}`);
      } else nets.set(pin.name, net(bit, `${cell}.${pin.name}`));
    }
    return { name: cell, kind: String(type), model, nets };
  });
  const flipFlops = instances.filter(({ model }) => model.flipFlop !== null);
  const drivers = driversOf(instances, inputs, netNames);
  const gates = inOrder(
    instances.filter(({ model }) => model.flipFlop === null),
    drivers,
    netNames,
  );
  const reads = [
    ...instances.flatMap((i) => i.model.inputs.map((pin) => i.nets.get(pin.name)!)),
    ...outputs.flatMap((o) => o.nets),
  ];
  for (const read of reads)
    if (read > 1 && drivers[read] === null) throw new NetlistError(`${netNames[read]} is read, and nothing drives it`);
  return { name, netNames, inputs, outputs, gates, flipFlops, clock: clockOf(flipFlops, inputs, netNames) };
}

/** What reads each net: pins of cells, and ports. */
export function readersOf<M extends Model>({
  gates,
  flipFlops,
  netNames,
}: Netlist<M>): readonly (readonly { readonly instance: Instance<M>; readonly pin: string }[])[] {
  const readers: { readonly instance: Instance<M>; readonly pin: string }[][] = netNames.map(() => []);
  for (const instance of [...gates, ...flipFlops])
    for (const { name: pin } of instance.model.inputs) readers[instance.nets.get(pin)!]!.push({ instance, pin });
  return readers;
}

function moduleOf(text: string): { readonly name: string; readonly module: Readonly<Record<string, unknown>> } {
  if (text.length > MAX_CHARS)
    throw new NetlistError(`a netlist of ${text.length} characters; at most ${MAX_CHARS} are read`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new NetlistError(`a netlist that is no JSON: ${(error as Error).message}`, { cause: error });
  }
  const modules = entriesOf(recordOf(json, "the netlist")["modules"], "modules");
  const used = modules.filter(
    ([, module]) => Object.keys(recordOf(recordOf(module, "a module")["ports"] ?? {}, "ports")).length > 0,
  );
  const [only] = used;
  if (only === undefined || used.length > 1)
    throw new NetlistError(
      `${used.length} modules with ports (${used
        .map(([n]) => n)
        .slice(0, 5)
        .join(", ")}); a flat netlist has one`,
    );
  return { name: only[0], module: recordOf(only[1], only[0]) };
}

/** A name for each bit: the shortest of its wires, with its place in it; what Yosys made up itself only where it must. */
function namesOf(module: Readonly<Record<string, unknown>>): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  for (const [wire, facts] of entriesOf(module["netnames"] ?? {}, "netnames")) {
    const bits = listOf(recordOf(facts, wire)["bits"], `${wire}.bits`);
    for (const [i, bit] of bits.entries()) {
      if (typeof bit !== "number") continue;
      const name = bits.length === 1 ? wire : `${wire}[${i}]`;
      const known = names.get(bit);
      const isBetter =
        known === undefined ||
        (known.includes("$") && !name.includes("$")) ||
        (known.includes("$") === name.includes("$") && name.length < known.length);
      if (isBetter) names.set(bit, name);
    }
  }
  return names;
}

function recordOf(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new NetlistError(`${what} is no object`);
  return value as Readonly<Record<string, unknown>>;
}

function entriesOf(value: unknown, what: string): readonly (readonly [string, unknown])[] {
  return Object.entries(recordOf(value, what));
}

function listOf(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new NetlistError(`${what} is no list of bits`);
  return value;
}

type Driver<M extends Model> = Instance<M> | Port | null;

function driversOf<M extends Model>(
  instances: readonly Instance<M>[],
  inputs: readonly Port[],
  netNames: readonly string[],
): readonly Driver<M>[] {
  const drivers: Driver<M>[] = netNames.map(() => null);
  const drive = (net: number, driver: Instance<M> | Port): void => {
    if (net < 2) throw new NetlistError(`${driver.name} drives the constant ${net}`);
    const other = drivers[net];
    if (other !== null && other !== undefined)
      throw new NetlistError(`${netNames[net]} is driven by ${other.name} and by ${driver.name}`);
    drivers[net] = driver;
  };
  for (const port of inputs) for (const net of port.nets) drive(net, port);
  for (const instance of instances)
    for (const pin of instance.model.outputs) drive(instance.nets.get(pin.name)!, instance);
  return drivers;
}

/** Topological order; a loop of gates is an error that names it. */
function inOrder<M extends Model>(
  gates: readonly Instance<M>[],
  drivers: readonly Driver<M>[],
  netNames: readonly string[],
): readonly Instance<M>[] {
  const isGate = new Set<Driver<M>>(gates);
  const waits = new Map<Instance<M>, number>();
  const followers = new Map<Instance<M>, Instance<M>[]>();
  const before = (gate: Instance<M>): readonly Instance<M>[] =>
    gate.model.inputs
      .map((pin) => drivers[gate.nets.get(pin.name)!] ?? null)
      .filter((driver): driver is Instance<M> => driver !== null && isGate.has(driver));
  for (const gate of gates) {
    const sources = before(gate);
    waits.set(gate, sources.length);
    for (const source of sources) {
      const list = followers.get(source);
      if (list === undefined) followers.set(source, [gate]);
      else list.push(gate);
    }
  }
  const order = gates.filter((gate) => waits.get(gate) === 0);
  for (let i = 0; i < order.length; i++)
    for (const follower of followers.get(order[i]!) ?? []) {
      const left = waits.get(follower)! - 1;
      waits.set(follower, left);
      if (left === 0) order.push(follower);
    }
  if (order.length === gates.length) return order;
  const done = new Set(order);
  const seen: Instance<M>[] = [];
  let gate = gates.find((g) => !done.has(g))!;
  while (!seen.includes(gate)) {
    seen.push(gate);
    gate = before(gate).find((g) => !done.has(g))!;
  }
  const loop = seen.slice(seen.indexOf(gate)).toReversed();
  const shown = loop
    .slice(0, 8)
    .map(({ name, model, nets }) => `${netNames[nets.get(model.outputs[0]!.name)!]} (${name})`);
  throw new NetlistError(
    `gates form a loop without a flip-flop: ${shown.join(" -> ")}${loop.length > 8 ? " -> ..." : ""}; put a register into it`,
  );
}

function clockOf<M extends Model>(
  flipFlops: readonly Instance<M>[],
  inputs: readonly Port[],
  netNames: readonly string[],
): Netlist<M>["clock"] {
  const nets = new Set(flipFlops.map(({ model, nets: own }) => own.get(model.flipFlop!.clock)!));
  const [net] = nets;
  if (net === undefined) return null;
  if (nets.size > 1) {
    const names = [...nets].map((n) => netNames[n]);
    throw new NetlistError(`flip-flops have ${nets.size} clocks (${names.slice(0, 5).join(", ")}); one is simulated`);
  }
  const port = inputs.find((input) => input.nets.includes(net));
  if (port === undefined) throw new NetlistError(`the clock ${netNames[net]} is made by a gate; it must be an input`);
  return { port: port.name, net };
}
