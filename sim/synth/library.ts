// A library of standard cells: area, function, pins, capacitances, energies, leakage and delays, each with its unit, and
// the one reader of such facts from JSON (sim/data/cells, or a person's own file), which checks them and names the field.
// Not here: liberty text (liberty.ts), what is made of cells (netlist.ts, timing.ts, energy.ts).
// Delays are lines, intrinsic + slope times load, at one input transition: what remains of a liberty table when the
// slews along a path are taken as alike. The library says at which transition its lines were taken.

import { type Expression, pinsOf, truthTable } from "./expression.ts";
import { FactError, Field } from "./field.ts";

/** Delay to an output edge at a load of c fF: intrinsic + perFf * c, in ps. */
export interface Line {
  readonly intrinsic: number;
  readonly perFf: number;
}

/** Delay from an input pin to the rising and the falling edge of an output. */
export interface Arc {
  readonly from: string;
  readonly risePs: Line;
  readonly fallPs: Line;
}

export interface InputPin {
  readonly name: string;
  readonly capFf: number;
}

export interface OutputPin {
  readonly name: string;
  /** Of input pins, or of a flip-flop's state. */
  readonly function: Expression;
  /** Inside the cell at one transition of this output, mean of rise and fall, at a light load. */
  readonly internalFj: number;
  /** One for each input that the function, or the clock for a flip-flop, depends on. */
  readonly arcs: readonly Arc[];
}

/** A flip-flop that takes `next` at the rising edge of `clock`. */
export interface FlipFlop {
  /** Names that output functions use for the state and its complement. */
  readonly state: string;
  readonly inverse: string;
  readonly clock: string;
  readonly next: Expression;
  readonly setupPs: number;
  /** Inside the cell at one edge of the clock pin, whether or not the state changes. */
  readonly clockFj: number;
}

export interface Cell {
  readonly name: string;
  readonly areaUm2: number;
  readonly leakageNw: number;
  readonly inputs: readonly InputPin[];
  readonly outputs: readonly OutputPin[];
  readonly flipFlop: FlipFlop | null;
  /** "read", or what was derived and how. */
  readonly basis: string;
}

/** In percent to either side, with what it rests on in the library's source. */
export interface Uncertainty {
  readonly areaPercent: number;
  readonly delayPercent: number;
  readonly energyPercent: number;
}

export interface Library {
  readonly name: string;
  /** Null where a liberty file does not say. */
  readonly nodeNm: number | null;
  readonly process: string;
  readonly voltageV: number;
  readonly temperatureC: number;
  /** Input transition that the delays hold for. */
  readonly inputTransitionPs: number;
  readonly provenance: "literature" | "liberty file";
  readonly source: string;
  /** How far figures that follow from these facts may be off. */
  readonly uncertainty: Uncertainty;
  readonly cells: readonly Cell[];
}

/** What gate equivalents are counted in: the area of the smallest two-input NAND. Throws a FactError without one. */
export function gateAreaUm2({ name, cells }: Library): number {
  const areas = cells.filter(isNand2).map(({ areaUm2 }) => areaUm2);
  if (areas.length === 0)
    throw new FactError(`${name}: no two-input NAND, which gate equivalents are counted in; add one, as in "!(A & B)"`);
  return Math.min(...areas);
}

function isNand2({ inputs, outputs: [output], flipFlop }: Cell): boolean {
  if (flipFlop !== null || inputs.length !== 2 || output === undefined) return false;
  const pins = inputs.map(({ name }) => name);
  return truthTable(output.function, pins).join("") === "1110";
}

/** More than the libraries of today have. */
export const MAX_CELLS = 5000;
const MAX_PINS = 12;

/**
 * A library from parsed JSON, of the form that sim/data/cells/45nm.json shows.
 * @param file names the file in errors
 * @throws FactError with the path of the first field that is wrong, its value and what it should be
 */
export function readLibrary(json: unknown, file: string): Library {
  const root = new Field(json, file, "");
  const cells = root.at("cells").list(MAX_CELLS).map(readCell);
  const names = new Set<string>();
  for (const { name } of cells) {
    if (names.has(name)) throw new FactError(`${file}: two cells are named ${name}; leave one of them out`);
    names.add(name);
  }
  const provenance = root.at("provenance").text();
  if (provenance !== "literature" && provenance !== "liberty file")
    root.at("provenance").fail('"literature" or "liberty file"');
  return {
    name: root.at("name").text(),
    nodeNm: root.at("nodeNm").isNull() ? null : root.at("nodeNm").number(0.1),
    process: root.at("process").text(),
    voltageV: root.at("voltageV").number(0.01),
    temperatureC: root.at("temperatureC").number(-273),
    inputTransitionPs: root.at("inputTransitionPs").number(0),
    provenance: provenance as Library["provenance"],
    source: root.at("source").text(),
    uncertainty: readUncertainty(root.at("uncertainty")),
    cells,
  };
}

/** Uncertainties from JSON: three percentages. */
export function readUncertainty(field: Field): Uncertainty {
  return {
    areaPercent: field.at("areaPercent").number(0),
    delayPercent: field.at("delayPercent").number(0),
    energyPercent: field.at("energyPercent").number(0),
  };
}

function readCell(field: Field): Cell {
  const inputs = field
    .at("inputs")
    .list(MAX_PINS)
    .map((pin) => ({ name: pin.at("name").pinName(), capFf: pin.at("capFf").number(0) }));
  const known = new Set(inputs.map(({ name }) => name));
  const readPin = (pin: Field): string => {
    const name = pin.pinName();
    if (!known.has(name)) pin.fail(`one of the inputs ${[...known].join(", ")}`);
    return name;
  };
  const ff = field.at("flipFlop");
  let flipFlop: FlipFlop | null = null;
  if (!ff.isNull()) {
    flipFlop = {
      state: ff.at("state").pinName(),
      inverse: ff.at("inverse").pinName(),
      clock: readPin(ff.at("clock")),
      next: ff.at("next").expression(known),
      setupPs: ff.at("setupPs").number(),
      clockFj: ff.at("clockFj").number(),
    };
  }
  const readable = flipFlop === null ? known : new Set([flipFlop.state, flipFlop.inverse]);
  const outputs = field
    .at("outputs")
    .list(MAX_PINS)
    .map((output) => ({
      name: output.at("name").pinName(),
      function: output.at("function").expression(readable),
      internalFj: output.at("internalFj").number(),
      arcs: output
        .at("arcs")
        .list(MAX_PINS)
        .map((arc) => ({
          from: readPin(arc.at("from")),
          risePs: readLine(arc.at("risePs")),
          fallPs: readLine(arc.at("fallPs")),
        })),
    }));
  for (const [i, { function: f, arcs }] of outputs.entries()) {
    const from = new Set(arcs.map((arc) => arc.from));
    for (const pin of flipFlop === null ? pinsOf(f) : [flipFlop.clock])
      if (!from.has(pin)) field.at("outputs").list(MAX_PINS)[i]!.at("arcs").fail(`a delay from ${pin} too`);
  }
  return {
    name: field.at("name").pinName(),
    areaUm2: field.at("areaUm2").number(0),
    leakageNw: field.at("leakageNw").number(0),
    inputs,
    outputs,
    flipFlop,
    basis: field.at("basis").text(),
  };
}

function readLine(field: Field): Line {
  return { intrinsic: field.at("intrinsic").number(), perFf: field.at("perFf").number() };
}
