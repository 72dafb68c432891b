// A design: the Verilog of an array of M x N lanes with the registers that they share, its ports, and its golden model.
// Operands come in one cycle before they are used where they have a register, two where it is doubled; all else is told
// in the cycle in which operands are used.
// Not here: what a lane is (lane.ts), files and testbenches (testbench.ts, the command).

import { select } from "./arithmetic.ts";
import { type Bit, Circuit, type Net, verilogOf } from "./circuit.ts";
import { controlsOf, depthOf, entryCount, exactBits, formatOf, hasTable, type RtlConfig } from "./config.ts";
import { goldenOf, type Golden } from "./golden.ts";
import { laneOf, rowWidth, slicesOf, tableMakerOf, weightWidth } from "./lane.ts";

/** A port beside the clock `clk`. */
export interface Port {
  readonly name: string;
  readonly dir: "input" | "output";
  readonly width: number;
  /** What it carries and how it is laid out, lowest bits first. */
  readonly what: string;
}

export interface Design {
  readonly config: RtlConfig;
  /** The name of the module to instantiate. */
  readonly top: string;
  readonly verilog: string;
  readonly ports: readonly Port[];
  /** Edges of the clock from operands at the ports to the result at the ports; 0 where there is no register. */
  readonly latency: number;
  /** How many independent sums take turns, one a cycle, since a sum is ready for its next term only so much later. */
  readonly interleave: number;
  /** A new model in the state after power-up, which is 0 everywhere: see `step`. */
  golden(): Golden;
}

/** The design of a configuration that `readConfig` has returned. */
export function designOf(config: RtlConfig): Design {
  const { kind, m, n, k, registers } = config;
  const ports = portsOf(config);
  const top = `lutra_${kind.replaceAll("-", "_")}_m${m}n${n}k${k}`;
  const c = new Circuit(top, [`${m} x ${n} lanes; ports are described in README.txt and by designOf().`]);
  const inputs = new Map(
    ports.filter(({ dir }) => dir === "input").map(({ name, width }) => [name, c.input(name, width)] as const),
  );
  const widths = new Map([...inputs].map(([name, net]) => [name, net.length]));
  const port = (name: string): Net => inputs.get(name) ?? [];
  const swap = port("swap")[0] ?? null;
  const made = hasTable(config) && config.steps?.precomputeSplit === false;
  const takesActivations = made || !hasTable(config);
  const arriving = takesActivations ? port("a") : port("entries");
  const isHeld = takesActivations ? registers.operands : registers.tables;
  const held = isHeld
    ? stored(c, takesActivations ? "a_held" : "table_held", arriving, port("load")[0]!, swap)
    : arriving;
  const weights = registers.weights === "none" ? port("w") : stored(c, "w_held", port("w"), port("load_w")[0]!, swap);
  const rows = made
    ? madeTables(c, config, held, port("load_table")[0] ?? null, swap)
    : slicesOf(held, rowWidth(config));
  const planes = registers.weights === "all" && kind !== "mac" ? slicesOf(weights, n * k) : [weights];
  const plane = port("plane");
  const columns = slicesOf(select(c, planes, plane), weightWidth(config));
  const lane = laneOf(config);
  const controls = Object.fromEntries(
    lane.inputs.flatMap(({ name, width }) =>
      inputs.has(name) && !["a", "entries", "w"].includes(name) ? [[name, port(name).slice(0, width)]] : [],
    ),
  );
  const results = rows.flatMap((row, y) =>
    columns.map((w, x) =>
      c.instance(lane, `lane_${y}_${x}`, { [hasTable(config) ? "entries" : "a"]: row, w, ...controls }),
    ),
  );
  for (const { name, dir } of ports)
    if (dir === "output")
      c.output(
        name,
        results.flatMap((result) => result[name]!),
      );
  const { joins, ends } = depthOf(config);
  const depth = Number(registers.doubleBuffer) + 1;
  const inputDepth = Math.max(
    (isHeld ? depth : 0) + (made && registers.tables ? depth : 0),
    registers.weights === "none" ? 0 : depth,
  );
  return {
    config,
    top,
    verilog: verilogOf(c.module()),
    ports,
    latency: inputDepth + ends + Number(registers.accumulator),
    interleave: registers.accumulator ? ends - joins + 1 : 1,
    golden: () => goldenOf(config, widths),
  };
}

/** A register that `load` fills, or two, the second one from the first by `swap`. */
function stored(c: Circuit, name: string, x: Net, load: Bit, swap: Bit | null): Net {
  const first = c.state(swap === null ? name : `${name}_next`, x.length, 0);
  c.drive(first, x, load);
  if (swap === null) return first.now;
  const second = c.state(name, x.length, 0);
  c.drive(second, first.now, swap);
  return second.now;
}

function madeTables(c: Circuit, config: RtlConfig, a: Net, load: Bit | null, swap: Bit | null): readonly Net[] {
  const maker = tableMakerOf(config);
  return slicesOf(a, a.length / config.m).map((row, y) => {
    const { entries } = c.instance(maker, `precompute_${y}`, { a: row });
    return load === null ? entries! : stored(c, `table_held_${y}`, entries!, load, swap);
  });
}

function portsOf(config: RtlConfig): readonly Port[] {
  const { kind, m, n, k, weightBits, activation, table, accumulator, registers, steps } = config;
  const controls = controlsOf(config);
  const bits = formatOf(activation).bits;
  const ports: Port[] = [];
  const input = (name: string, width: number, what: string): unknown => ports.push({ name, dir: "input", width, what });
  const made = hasTable(config) && steps?.precomputeSplit === false;
  if (made || !hasTable(config)) input("a", m * k * bits, `activations (m, k) of ${activation}`);
  else input("entries", m * rowWidth(config), `tables (m, ${entryCount(config)} entries) of ${table}`);
  const taken = weightsPort(config);
  input("w", taken.width, taken.what);
  if (made ? registers.operands : registers.operands || registers.tables)
    input("load", 1, `${made || !hasTable(config) ? "a is" : "entries are"} taken into a register`);
  if (made && registers.tables) input("load_table", 1, "the table made of the activations is taken into its register");
  if (registers.weights !== "none") input("load_w", 1, "w is taken into its register");
  if (registers.doubleBuffer) input("swap", 1, "registers in front are taken into those behind them");
  const planeBits = Math.max(controls.plane, controls.weightPlane);
  if (planeBits > 0) input("plane", planeBits, `the number of the plane, 0 for the lowest, at most ${weightBits - 1}`);
  if (controls.subtract) input("subtract", 1, "this plane is subtracted: the highest one of two's complement");
  if (registers.accumulator) {
    input("clear", 1, "the sum so far counts as 0");
    if (controls.double) input("double", 1, "the sum so far is doubled, before a plane one lower is added");
    input("enable", 1, "the sum is kept");
  }
  const outputs = outputsOf(config);
  const output = (name: string, width: number, what: string): unknown =>
    ports.push({ name, dir: "output", width: m * n * width, what: `${what} (m, n)` });
  if (registers.accumulator) output("acc", formatOf(accumulator).bits, `sums of ${accumulator}`);
  else output("sum", outputs.sum, `what each lane of ${kind} would add`);
  if (outputs.carry) output("carry", 1, "1 that is to be added to sum");
  return ports;
}

function weightsPort({ kind, n, k, weightBits, registers, steps, activation }: RtlConfig): {
  readonly width: number;
  readonly what: string;
} {
  if (kind === "mac") {
    const type = formatOf(activation).kind === "float" ? activation : `int${weightBits}`;
    return { width: n * k * weightBits, what: `weights (n, k) of ${type}` };
  }
  const index =
    steps?.offlineNegation === true ? ", the highest of each K the sign, the others inverted where it is 1" : "";
  if (registers.weights === "all") return { width: weightBits * n * k, what: `bits of weights (plane, n, k)${index}` };
  return { width: n * k, what: `bits of one plane of weights (n, k)${index}` };
}

/** Widths of what a lane without an accumulator gives. */
function outputsOf(config: RtlConfig): { readonly sum: number; readonly carry: boolean } {
  const { accumulator, table, weightBits, shift, registers } = config;
  const isFloat = formatOf(accumulator).kind === "float";
  const raised = shift === "operand" ? weightBits - 1 : 0;
  if (!hasTable(config))
    return { sum: isFloat ? formatOf(accumulator).bits : exactBits(config) + raised, carry: false };
  return { sum: formatOf(table!).bits + raised, carry: !isFloat && !registers.accumulator };
}
