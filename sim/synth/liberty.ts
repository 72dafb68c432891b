// Liberty, the text in which foundries ship standard cells: read into a Library, and written from one. The reader takes
// what files in the wild have: nested groups, comments, continued lines, statements without semicolons, tables with
// their indices in a template, several conditional arcs; what it cannot use it names, with the line.
// Not here: what cells are (library.ts), who calls synthesis with the text (yosys.ts).
// Grammar, units and attributes: Liberty User Guide, volume 1. A table of delays becomes a line through the loads of one
// and of four inputs of the library's smallest NAND, at the input transition of a NAND that drives four of them.

import { type Expression, parseExpression, pinsOf, printExpression, truthTable } from "./expression.ts";
import { type Group, LibertyError, parseGroups } from "./liberty-groups.ts";
import {
  type Arc,
  type Cell,
  type FlipFlop,
  type InputPin,
  type Library,
  type Line,
  MAX_CELLS,
  type OutputPin,
} from "./library.ts";

/** What a liberty file gives: its cells, and those that were left out, each with the reason. */
export interface LibertyFile {
  readonly library: Library;
  readonly skipped: readonly { readonly cell: string; readonly line: number; readonly reason: string }[];
}

/**
 * What the tools alone leave open where the facts are a foundry's own: areas differ by up to 19 % between versions of
 * Yosys; delays are taken at one slew, without wires; energies at one slew and load, without wires and clock tree.
 */
const TOOL_UNCERTAINTY = { areaPercent: 19, delayPercent: 25, energyPercent: 40 } as const;

/**
 * Reads a liberty file.
 * @param file names it in errors
 * @throws LibertyError where it is no liberty text, or has no cell that can be used
 */
export function readLiberty(text: string, file: string): LibertyFile {
  const root = parseGroups(text, file);
  if (root.kind !== "library")
    throw new LibertyError(`${file}:${root.line}: ${root.kind} (...) where library (name) { is needed`);
  const units = unitsOf(root, file);
  const templates = new Map(
    root.groups.filter(({ kind }) => kind.endsWith("_template")).map((group) => [group.args[0] ?? "", group]),
  );
  const groups = root.groups.filter(({ kind }) => kind === "cell");
  if (groups.length > MAX_CELLS)
    throw new LibertyError(`${file}: ${groups.length} cells; at most ${MAX_CELLS} are read`);
  const nand = smallestNand(groups, units);
  const stated = Number(root.attributes.get("lutra_input_transition"));
  const fallback = nand === null ? Number.NaN : transitionOf(nand, units, templates);
  const corner: Corner = {
    units,
    templates,
    transitionPs: stated > 0 ? stated : fallback,
    loadFf: nand?.capFf ?? Number.NaN,
  };
  if (nand === null || !(corner.transitionPs >= 0))
    throw new LibertyError(
      `${file}: no two-input NAND with capacitances and tables of transitions, by which delays and areas are measured; ` +
        "one is needed",
    );
  const cells: Cell[] = [];
  const skipped: LibertyFile["skipped"][number][] = [];
  for (const group of groups) {
    const made = cellOf(group, corner, file);
    if (typeof made === "string") skipped.push({ cell: group.args[0] ?? "", line: group.line, reason: made });
    else cells.push(made);
  }
  if (cells.length === 0)
    throw new LibertyError(`${file}: none of its ${groups.length} cells can be used; the first: ${skipped[0]?.reason}`);
  const node = Number(root.attributes.get("lutra_node"));
  const library: Library = {
    name: root.args[0] ?? "unnamed",
    nodeNm: node > 0 ? node : null,
    process: root.attributes.get("default_operating_conditions") ?? root.attributes.get("lutra_process") ?? "nominal",
    voltageV: numberOf(root, "nom_voltage", file),
    temperatureC: numberOf(root, "nom_temperature", file),
    inputTransitionPs: corner.transitionPs,
    provenance: "liberty file",
    source: file,
    uncertainty: TOOL_UNCERTAINTY,
    cells,
  };
  return { library, skipped };
}

// ----------------------------------------------------------------------------------------------------------- facts

interface Units {
  readonly ps: number;
  readonly ff: number;
  readonly nw: number;
  /** Energy is in capacitance times voltage squared. */
  readonly fj: number;
}

interface Corner {
  readonly units: Units;
  readonly templates: ReadonlyMap<string, Group>;
  readonly transitionPs: number;
  /** One load; lines go through it and four times it. */
  readonly loadFf: number;
}

const EXPONENTS: Readonly<Record<string, number>> = { "": 0, m: -3, u: -6, n: -9, p: -12, f: -15, a: -18 };

function unitsOf(root: Group, file: string): Units {
  /** How many of 10^exponent the unit is. */
  const scale = (text: string, unit: string, exponent: number, name: string): number => {
    const match = /^\s*([\d.eE+-]+)\s*([munpfa]?)([a-z]+)\s*$/i.exec(text);
    const value = match?.[3]?.toLowerCase() === unit ? Number(match[1]) : Number.NaN;
    if (!(value > 0))
      throw new LibertyError(`${file}:${root.line}: ${name} is ${JSON.stringify(text)}; as in 1n${unit}`);
    return value * 10 ** ((EXPONENTS[match![2]!.toLowerCase()] ?? 0) - exponent);
  };
  const attribute = (name: string, fallback: string, unit: string, exponent: number): number =>
    scale(root.attributes.get(name) ?? fallback, unit, exponent, name);
  const [count, cap] = root.calls.get("capacitive_load_unit") ?? ["1", "pf"];
  const ff = scale(`${count}${cap}`, "f", -15, "capacitive_load_unit");
  const volt = attribute("voltage_unit", "1V", "v", 0);
  return {
    ps: attribute("time_unit", "1ns", "s", -12),
    ff,
    nw: attribute("leakage_power_unit", "1nW", "w", -9),
    fj: ff * volt * volt,
  };
}

function numberOf(group: Group, name: string, file: string): number {
  const text = group.attributes.get(name);
  const value = Number(text);
  if (text === undefined || !Number.isFinite(value))
    throw new LibertyError(`${file}:${group.line}: ${name} is ${text ?? "missing"}; a number is needed`);
  return value;
}

function pinsIn(cell: Group): readonly (readonly [string, Group])[] {
  return cell.groups
    .filter(({ kind }) => kind === "pin")
    .flatMap((pin) => pin.args.map((name) => [name, pin] as const));
}

function capOf(pin: Group, { ff }: Units): number {
  const value = (name: string): number => Number(pin.attributes.get(name) ?? Number.NaN);
  const cap = value("capacitance");
  return ff * (Number.isFinite(cap) ? cap : (value("rise_capacitance") + value("fall_capacitance")) / 2);
}

interface Nand {
  readonly cell: Group;
  readonly output: Group;
  readonly capFf: number;
}

function smallestNand(cells: readonly Group[], units: Units): Nand | null {
  let best: (Nand & { readonly area: number }) | null = null;
  for (const cell of cells) {
    const pins = pinsIn(cell);
    const inputs = pins.filter(([, pin]) => pin.attributes.get("direction") === "input");
    const outputs = pins.filter(([, pin]) => pin.attributes.get("direction") === "output");
    const output = outputs[0]?.[1];
    const text = output?.attributes.get("function");
    if (inputs.length !== 2 || outputs.length !== 1 || output === undefined || text === undefined) continue;
    if (cell.groups.some(({ kind }) => STATEFUL.has(kind))) continue;
    const names = inputs.map(([name]) => name);
    const parsed = tryParse(text);
    if (parsed === null || pinsOf(parsed).some((pin) => !names.includes(pin))) continue;
    const area = Number(cell.attributes.get("area"));
    const capFf = (capOf(inputs[0]![1], units) + capOf(inputs[1]![1], units)) / 2;
    if (truthTable(parsed, names).join("") !== "1110" || !(area > 0) || !(capFf > 0)) continue;
    if (best === null || area < best.area) best = { cell, output, capFf, area };
  }
  return best;
}

function tryParse(text: string): Expression | null {
  try {
    return parseExpression(text);
  } catch {
    return null;
  }
}

/** Transition at the output of a NAND that drives four such inputs, in a chain of them: the fixed point of its tables. */
function transitionOf({ output, capFf }: Nand, units: Units, templates: ReadonlyMap<string, Group>): number {
  const tables = output.groups
    .filter(({ kind }) => kind === "timing")
    .flatMap(({ groups }) => groups.filter(({ kind }) => kind === "rise_transition" || kind === "fall_transition"))
    .map((group) => tableOf(group, templates))
    .filter((table) => table !== null);
  let ps = 0;
  for (let i = 0; i < 20; i++)
    ps = units.ps * mean(tables.map((table) => lookUp(table, ps / units.ps, (4 * capFf) / units.ff)));
  return ps;
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

const STATEFUL: ReadonlySet<string> = new Set(["ff", "ff_bank", "latch", "latch_bank", "statetable"]);
const GROUNDS: ReadonlySet<string> = new Set(["primary_ground", "backup_ground", "internal_ground"]);

/** A cell, or why it is left out. */
function cellOf(group: Group, corner: Corner, file: string): Cell | string {
  const { units } = corner;
  const [name = ""] = group.args;
  if (!/^[A-Za-z_][A-Za-z0-9_]{0,63}$/.test(name)) return "its name has other than letters, digits and _";
  if (group.attributes.get("dont_use") === "true") return "marked dont_use";
  const state = group.groups.find(({ kind }) => STATEFUL.has(kind));
  if (state !== undefined && state.kind !== "ff") return `a ${state.kind}; only flip-flops hold state here`;
  if (group.groups.some(({ kind }) => kind === "bus" || kind === "bundle")) return "its pins are a bus";
  const areaUm2 = Number(group.attributes.get("area"));
  if (!(areaUm2 >= 0)) return "no area";
  const pins = pinsIn(group);
  const inputs: InputPin[] = [];
  for (const [pin, facts] of pins) {
    const direction = facts.attributes.get("direction");
    if (direction === "internal") continue;
    if (direction !== "input" && direction !== "output") return `${pin} is ${direction ?? "of no direction"}`;
    if (facts.attributes.has("three_state")) return `${pin} can be switched off`;
    if (direction === "input") {
      const capFf = capOf(facts, units);
      if (!(capFf >= 0)) return `${pin} has no capacitance`;
      inputs.push({ name: pin, capFf });
    }
  }
  if (inputs.length === 0) return "no input";
  const known = new Set(inputs.map((pin) => pin.name));
  const grounds = new Set(
    group.groups
      .filter((pg) => pg.kind === "pg_pin" && GROUNDS.has(pg.attributes.get("pg_type") ?? ""))
      .flatMap(({ args }) => args),
  );
  const flipFlop = state === undefined ? null : flipFlopOf(state, pins, known, grounds, corner);
  if (typeof flipFlop === "string") return flipFlop;
  const readable = flipFlop === null ? known : new Set([flipFlop.state, flipFlop.inverse]);
  const outputs: OutputPin[] = [];
  for (const [pin, facts] of pins.filter(([, { attributes }]) => attributes.get("direction") === "output")) {
    const text = facts.attributes.get("function");
    if (text === undefined) return `${pin} has no function`;
    let parsed: Expression;
    try {
      parsed = parseExpression(text);
    } catch (error) {
      throw new LibertyError(`${file}:${facts.line}: ${name}.${pin}: ${(error as Error).message}`, { cause: error });
    }
    const used = pinsOf(parsed);
    const stranger = used.find((other) => !readable.has(other));
    if (stranger !== undefined) return `the function of ${pin} uses ${stranger}`;
    const arcs: Arc[] = [];
    const sources =
      flipFlop === null ? inputs.map((input) => input.name).filter((input) => used.includes(input)) : [flipFlop.clock];
    for (const from of sources) {
      const arc = arcOf(facts, from, flipFlop !== null, corner);
      if (arc === null) return `no delay from ${from} to ${pin}`;
      arcs.push(arc);
    }
    const energy = energyOf(facts, grounds, corner);
    if (energy === null) return `no internal_power at ${pin}`;
    outputs.push({ name: pin, function: parsed, internalFj: energy, arcs });
  }
  if (outputs.length === 0) return "no output";
  const leakageNw = leakageOf(group, grounds) * units.nw;
  if (!(leakageNw >= 0)) return "no leakage power";
  return { name, areaUm2, leakageNw, inputs, outputs, flipFlop, basis: "liberty file" };
}

function flipFlopOf(
  ff: Group,
  pins: readonly (readonly [string, Group])[],
  known: ReadonlySet<string>,
  grounds: ReadonlySet<string>,
  corner: Corner,
): FlipFlop | string {
  for (const extra of ["clear", "preset", "clocked_on_also"])
    if (ff.attributes.has(extra)) return `a flip-flop with ${extra}; plain ones are used here`;
  const [state = "IQ", inverse = "IQN"] = ff.args;
  const clock = ff.attributes.get("clocked_on")?.replace(/[()\s]/g, "") ?? "";
  if (!known.has(clock)) return `clocked on ${JSON.stringify(clock)}; the rising edge of a pin is needed`;
  const next = tryParse(ff.attributes.get("next_state") ?? "");
  if (next === null || pinsOf(next).some((pin) => !known.has(pin))) return "its next_state is no function of its pins";
  const setups = pins.flatMap(([, { groups }]) =>
    groups
      .filter(({ kind, attributes }) => kind === "timing" && attributes.get("timing_type") === "setup_rising")
      .flatMap((timing) => timing.groups)
      .map((group) => tableOf(group, corner.templates))
      .filter((table) => table !== null)
      .map(
        (table) =>
          corner.units.ps * lookUp(table, corner.transitionPs / corner.units.ps, corner.transitionPs / corner.units.ps),
      ),
  );
  if (setups.length === 0) return "no set-up time";
  const facts = pins.find(([name]) => name === clock)?.[1];
  const clockFj = facts === undefined ? null : energyOf(facts, grounds, corner);
  if (clockFj === null) return `no internal_power at ${clock}`;
  return { state, inverse, clock, next, setupPs: Math.max(...setups), clockFj };
}

/** The worst of all conditional arcs from a pin, at each of the two loads that the line goes through. */
function arcOf(
  output: Group,
  from: string,
  isClock: boolean,
  { units, templates, transitionPs, loadFf }: Corner,
): Arc | null {
  const timings = output.groups.filter(({ kind, attributes }) => {
    const type = attributes.get("timing_type") ?? "combinational";
    const related = (attributes.get("related_pin") ?? "").split(/\s+/);
    const isMeant = isClock ? type === "rising_edge" : type.startsWith("combinational");
    return kind === "timing" && isMeant && related.includes(from);
  });
  const line = (kind: string): Line | null => {
    const tables = timings
      .flatMap(({ groups }) => groups.filter((group) => group.kind === kind))
      .map((group) => tableOf(group, templates))
      .filter((table) => table !== null);
    if (tables.length === 0) return null;
    const worst = (fF: number): number =>
      units.ps * Math.max(...tables.map((table) => lookUp(table, transitionPs / units.ps, fF / units.ff)));
    const perFf = (worst(4 * loadFf) - worst(loadFf)) / (3 * loadFf);
    return { intrinsic: worst(loadFf) - perFf * loadFf, perFf };
  };
  const [risePs, fallPs] = [line("cell_rise"), line("cell_fall")];
  return risePs === null || fallPs === null ? null : { from, risePs, fallPs };
}

/** Mean over edges and conditions at one load; without the share of the ground pin, which is not the supply's. */
function energyOf(
  pin: Group,
  grounds: ReadonlySet<string>,
  { units, templates, transitionPs, loadFf }: Corner,
): number | null {
  const values = pin.groups
    .filter(({ kind, attributes }) => kind === "internal_power" && !grounds.has(attributes.get("related_pg_pin") ?? ""))
    .flatMap(({ groups }) => groups)
    .map((group) => tableOf(group, templates))
    .filter((table) => table !== null)
    .map((table) => units.fj * lookUp(table, transitionPs / units.ps, loadFf / units.ff));
  return values.length === 0 ? null : mean(values);
}

function leakageOf(cell: Group, grounds: ReadonlySet<string>): number {
  const stated = cell.attributes.get("cell_leakage_power");
  if (stated !== undefined) return Number(stated);
  const states = cell.groups.filter(
    ({ kind, attributes }) => kind === "leakage_power" && !grounds.has(attributes.get("related_pg_pin") ?? ""),
  );
  const value = (group: Group): number => Number(group.attributes.get("value"));
  const whole = states.find(({ attributes }) => !attributes.has("when"));
  return whole === undefined ? mean(states.map(value)) : value(whole);
}

// ---------------------------------------------------------------------------------------------------------- tables

/** Values over transitions (rows) and loads (columns); an axis of one entry is one that the values do not depend on. */
interface Table {
  readonly transitions: readonly number[];
  readonly loads: readonly number[];
  /** (transitions, loads), row-major. */
  readonly values: readonly number[];
}

const LOADS: ReadonlySet<string> = new Set(["total_output_net_capacitance", "related_pin_transition"]);

function tableOf(group: Group, templates: ReadonlyMap<string, Group>): Table | null {
  const template = templates.get(group.args[0] ?? "");
  const list = (name: string): readonly number[] =>
    (group.calls.get(name) ?? template?.calls.get(name) ?? []).flatMap((text) =>
      text
        .split(/[\s,]+/)
        .filter((part) => part !== "")
        .map(Number),
    );
  const values = list("values");
  let [first, second] = [list("index_1"), list("index_2")];
  if (values.length === 1) [first, second] = [[0], [0]];
  const swapped = LOADS.has(template?.attributes.get("variable_1") ?? "");
  if (second.length === 0) second = [0];
  if (
    first.length * second.length !== values.length ||
    [...first, ...second, ...values].some((v) => !Number.isFinite(v))
  )
    return null;
  if (!swapped) return { transitions: first, loads: second, values };
  const turned = second.flatMap((_, s) => first.map((__, f) => values[f * second.length + s]!));
  return { transitions: second, loads: first, values: turned };
}

/** Linear between the entries around the point, and beyond the last ones. */
function lookUp({ transitions, loads, values }: Table, transition: number, load: number): number {
  const [t, tShare] = place(transitions, transition);
  const [l, lShare] = place(loads, load);
  const at = (i: number, j: number): number => values[i * loads.length + j]!;
  const row = (i: number): number => (lShare === 0 ? at(i, l) : at(i, l) * (1 - lShare) + at(i, l + 1) * lShare);
  return tShare === 0 ? row(t) : row(t) * (1 - tShare) + row(t + 1) * tShare;
}

function place(axis: readonly number[], value: number): readonly [index: number, share: number] {
  if (axis.length === 1) return [0, 0];
  let i = 0;
  while (i < axis.length - 2 && axis[i + 1]! <= value) i++;
  return [i, (value - axis[i]!) / (axis[i + 1]! - axis[i]!)];
}

// --------------------------------------------------------------------------------------------------------- writing

/** Loads of the tables that are written: lines are the same between any two. */
const WRITTEN_LOADS = [0, 100] as const;

/** The library as liberty text that `readLiberty` reads back to the same facts, and that Yosys and ABC read. */
export function writeLiberty(library: Library): string {
  const lines: string[] = [
    `library (${library.name.replaceAll(/\W/g, "_").replace(/^(?=\d)/, "_")}) {`,
    "  delay_model : table_lookup;",
    '  time_unit : "1ps";',
    '  voltage_unit : "1V";',
    '  current_unit : "1mA";',
    '  pulling_resistance_unit : "1kohm";',
    '  leakage_power_unit : "1nW";',
    "  capacitive_load_unit (1, ff);",
    "  nom_process : 1;",
    `  nom_voltage : ${library.voltageV};`,
    `  nom_temperature : ${library.temperatureC};`,
    '  define ("lutra_input_transition", "library", "float");',
    '  define ("lutra_node", "library", "float");',
    '  define ("lutra_process", "library", "string");',
    `  lutra_input_transition : ${library.inputTransitionPs};`,
    ...(library.nodeNm === null ? [] : [`  lutra_node : ${library.nodeNm};`]),
    `  lutra_process : "${library.process}";`,
    "  lu_table_template (lines) {",
    "    variable_1 : input_net_transition;",
    "    variable_2 : total_output_net_capacitance;",
    '    index_1 ("0, 1000");',
    `    index_2 ("${WRITTEN_LOADS.join(", ")}");`,
    "  }",
  ];
  for (const cell of library.cells) lines.push(...cellText(cell));
  return `${[...lines, "}"].join("\n")}\n`;
}

function cellText({ name, areaUm2, leakageNw, inputs, outputs, flipFlop }: Cell): readonly string[] {
  const lines = [`  cell (${name}) {`, `    area : ${areaUm2};`, `    cell_leakage_power : ${leakageNw};`];
  const constant = (fj: number): readonly string[] => [
    `      internal_power () { rise_power (scalar) { values ("${fj}"); } fall_power (scalar) { values ("${fj}"); } }`,
  ];
  if (flipFlop !== null) {
    lines.push(`    ff (${flipFlop.state}, ${flipFlop.inverse}) {`);
    lines.push(
      `      next_state : "${printExpression(flipFlop.next)}";`,
      `      clocked_on : "${flipFlop.clock}";`,
      "    }",
    );
  }
  for (const pin of inputs) {
    lines.push(`    pin (${pin.name}) {`, "      direction : input;", `      capacitance : ${pin.capFf};`);
    if (pin.name === flipFlop?.clock) lines.push("      clock : true;", ...constant(flipFlop.clockFj));
    else if (flipFlop !== null) {
      const setup = `(scalar) { values ("${flipFlop.setupPs}"); }`;
      lines.push(`      timing () { related_pin : "${flipFlop.clock}"; timing_type : setup_rising;`);
      lines.push(`        rise_constraint ${setup} fall_constraint ${setup} }`);
    }
    lines.push("    }");
  }
  for (const output of outputs) {
    lines.push(
      `    pin (${output.name}) {`,
      "      direction : output;",
      `      function : "${printExpression(output.function)}";`,
    );
    for (const { from, risePs, fallPs } of output.arcs) {
      const type = flipFlop === null ? "" : " timing_type : rising_edge;";
      lines.push(`      timing () { related_pin : "${from}";${type}`);
      for (const [kind, line] of [
        ["rise", risePs],
        ["fall", fallPs],
      ] as const) {
        const row = `"${WRITTEN_LOADS.map((load) => line.intrinsic + line.perFf * load).join(", ")}"`;
        const slow = '"0, 0"';
        lines.push(`        cell_${kind} (lines) { values (${row}, ${row}); }`);
        lines.push(`        ${kind}_transition (lines) { values (${slow}, ${slow}); }`);
      }
      lines.push("      }");
    }
    lines.push(...constant(output.internalFj), "    }");
  }
  return [...lines, "  }"];
}
