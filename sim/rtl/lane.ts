// One dot product unit as a module: K activations or a table, the weights of one column, and the sum so far.
// Ports: a (k values) or entries, w, what controlsOf names, clear (the sum so far counts as 0) and enable; acc, or
// without an accumulator sum, and for integer tables carry, a 1 that is to be added to it.
// Not here: how lanes share operands (design.ts), what they compute in numbers (golden.ts).

import {
  add,
  type Columns,
  columnsOf,
  compress,
  cutColumns,
  include,
  includeSigned,
  includeSignedProduct,
  inverted,
  select,
  shiftLeft,
  total,
} from "./arithmetic.ts";
import { codesOf } from "./aligned.ts";
import { type Bit, Circuit, constant, type Module, type Net, signExtended, timeOf } from "./circuit.ts";
import {
  controlsOf,
  type Cut,
  cutsOf,
  depthOf,
  entryCount,
  exactBits,
  type Format,
  formatOf,
  hasTable,
  type RtlConfig,
} from "./config.ts";
import { type Floats, product, scaled, sum, type Terms, unpacked } from "./float.ts";
import { type Sums, tableOf } from "./table.ts";

/** The weights that a lane takes in a cycle: whole ones, or one bit of each. */
export function weightWidth({ kind, k, weightBits }: RtlConfig): number {
  return kind === "mac" ? k * weightBits : k;
}

/** Bits of the activations or of the table of one row. */
export function rowWidth(config: RtlConfig): number {
  if (!hasTable(config)) return config.k * formatOf(config.activation).bits;
  return entryCount(config) * formatOf(config.table!).bits;
}

/** Slices of `width` bits. */
export function slicesOf(x: Net, width: number): readonly Net[] {
  return Array.from({ length: x.length / width }, (_, i) => x.slice(i * width, (i + 1) * width));
}

/** The module of one lane. */
export function laneOf(config: RtlConfig): Module {
  const c = new Circuit("lutra_lane", [`One lane: ${config.kind}, K = ${config.k}, ${config.activation}.`]);
  const { registers, accumulator, steps } = config;
  const controls = controlsOf(config);
  const { joins } = depthOf(config);
  const row = c.input(hasTable(config) ? "entries" : "a", rowWidth(config));
  const w = c.input("w", weightWidth(config));
  const plane = controls.plane > 0 ? c.input("plane", controls.plane) : [];
  const subtract = controls.subtract ? c.input("subtract", 1)[0]! : null;
  const operands: Operands = { row, w, plane, subtract, reinterpreted: steps?.reinterpretation === true };
  const floats = floatsOf(c, config);
  const isFloat = formatOf(accumulator).kind === "float";
  if (!registers.accumulator) {
    const outputs = isFloat ? floatLane(config, floats!, operands, null) : integerLane(c, config, operands, null);
    for (const [name, net] of Object.entries(outputs)) c.output(name, net);
    return c.module();
  }
  const { bits } = formatOf(accumulator);
  const clear = c.input("clear", 1, joins)[0]!;
  const double = controls.double ? c.input("double", 1, joins)[0]! : 0;
  const enable = c.input("enable", 1, config.pipeline)[0]!;
  const state = c.state("total", bits, joins);
  const stays = c.not([clear])[0]!;
  const now = c.and(
    state.now,
    state.now.map(() => stays),
    "so_far",
  );
  const before: Before = { now, double };
  const { sum: next } = isFloat
    ? floatLane(config, floats!, operands, before)
    : integerLane(c, config, operands, before);
  c.drive(state, next!, enable);
  c.output("acc", state.now);
  return c.module();
}

interface Operands {
  readonly row: Net;
  readonly w: Net;
  readonly plane: Net;
  readonly subtract: Bit | null;
  /** Bits of planes stand for +1 and -1. */
  readonly reinterpreted: boolean;
}

/** The sum so far, cleared already, and whether it is doubled. */
interface Before {
  readonly now: Net;
  readonly double: Bit;
}

type Outputs = Readonly<Record<string, Net>>;

/** What all blocks of floats share; null where the unit has none. */
function floatsOf(c: Circuit, config: RtlConfig): Floats | null {
  if (config.float === null) return null;
  const cuts = cutter(c, config);
  return { circuit: c, options: config.float, style: config.adder, cut: (at, x) => cuts.net(at, x) };
}

/** Registers where the configuration has cuts. */
function cutter(
  c: Circuit,
  config: RtlConfig,
): {
  net(at: Cut, x: Net): Net;
  columns(at: Cut, x: Columns): Columns;
} {
  const used = cutsOf(config).slice(0, config.pipeline);
  return {
    net: (at, x) => (used.includes(at) ? c.cut(x) : x),
    columns: (at, x) => (used.includes(at) ? cutColumns(c, x) : x),
  };
}

/** Which entry is looked up, and whether it is subtracted. */
function looked(
  c: Circuit,
  { row, w, subtract }: Operands,
  config: RtlConfig,
  bits: number,
): { entry: Net; negative: Bit } {
  const entries = slicesOf(row, bits);
  if (subtract !== null) return { entry: select(c, entries, w), negative: subtract };
  const negative = w.at(-1)!;
  const low = w.slice(0, -1);
  const index = config.steps?.offlineNegation === true ? low : inverted(c, low, negative, "index");
  return { entry: select(c, entries, index), negative };
}

function integerLane(c: Circuit, config: RtlConfig, operands: Operands, before: Before | null): Outputs {
  const { adder, shift, weightBits } = config;
  const cuts = cutter(c, config);
  const accBits = formatOf(config.accumulator).bits;
  const soFar = before === null ? null : c.mux(before.double, [0, ...before.now.slice(0, -1)], before.now, "doubled");
  if (hasTable(config)) {
    const { bits } = formatOf(config.table!);
    const { entry, negative } = looked(c, operands, config, bits);
    const flipped = inverted(c, entry, negative);
    // The places that a shift frees are filled with the sign, so that adding it at place 0 negates what was shifted.
    const moved =
      shift === "operand"
        ? shiftLeft(c, signExtended(flipped, bits + weightBits - 1), operands.plane, negative)
        : flipped;
    const cut = cuts.net("terms", [...moved, negative]);
    const [value, carry] = [cut.slice(0, -1), cut.at(-1)!];
    if (soFar === null) return { sum: value, carry: [carry] };
    return { sum: add(c, soFar, signExtended(value, accBits), carry, adder).slice(0, -1) };
  }
  const exact = exactBits(config);
  const shifted = shift === "operand" && operands.plane.length > 0;
  const width = soFar === null || shifted ? exact : accBits;
  const columns = columnsOf(width);
  if (config.kind === "mac") addProducts(c, columns, operands, config);
  else addActivations(c, columns, operands, formatOf(config.activation).bits);
  if (shifted) {
    const one = total(c, columns, adder);
    const moved = cuts.net("terms", shiftLeft(c, signExtended(one, exact + weightBits - 1), operands.plane, 0));
    if (soFar === null) return { sum: moved };
    return { sum: add(c, soFar, signExtended(moved, accBits), 0, adder).slice(0, -1) };
  }
  if (config.pipeline === 0) {
    if (soFar !== null) include(columns, soFar);
    return { sum: total(c, columns, adder) };
  }
  // Half of the compressor's stages on each side of the cut: they lower by two thirds each.
  const height = Math.max(...columns.bits.map(({ length }) => length));
  const upper = config.pipeline > 1 ? cuts.columns("tree", compress(c, columns, Math.sqrt(2 * height))) : columns;
  const rows = cuts.columns("terms", compress(c, upper));
  if (soFar !== null) include(rows, soFar);
  return { sum: total(c, rows, adder) };
}

function addProducts(c: Circuit, columns: Columns, { row, w }: Operands, { k, weightBits }: RtlConfig): void {
  const weights = slicesOf(w, weightBits);
  for (const [j, a] of slicesOf(row, row.length / k).entries()) includeSignedProduct(c, columns, a, weights[j]!);
}

/** An activation with its bit: that is its sign, or, where a sign for all is given, whether it counts. */
function takenBy(c: Circuit, a: Net, bit: Bit, subtract: Bit | null): { taken: Net; negative: Bit } {
  if (subtract === null) return { taken: a, negative: c.not([bit])[0]! };
  const bits = a.map(() => bit);
  return { taken: c.and(a, bits, "taken"), negative: subtract };
}

/** Each activation once: signs by its bit, or where bits are 1 and 0 all the same sign. */
function addActivations(c: Circuit, columns: Columns, { row, w, subtract }: Operands, bits: number): void {
  for (const [j, a] of slicesOf(row, bits).entries()) {
    const { taken, negative } = takenBy(c, a, w[j]!, subtract);
    includeSigned(c, columns, inverted(c, taken, negative));
    include(columns, [negative]);
  }
}

function floatLane(config: RtlConfig, floats: Floats, operands: Operands, before: Before | null): Outputs {
  const to = formatOf(config.accumulator) as Extract<Format, { kind: "float" }>;
  const terms = hasTable(config)
    ? lookedTerms(config, floats, operands, before === null)
    : macOrAddTerms(config, floats, operands);
  if ("word" in terms) return { sum: terms.word };
  const addend = before === null ? null : scaled(floats, unpacked(floats, before.now, to.float), known(before.double));
  return { sum: sum(floats, terms, addend, to.float) };
}

function known(bit: Bit): Net {
  return bit === 0 ? [] : [bit];
}

/** The entry as the one term; as a word where nothing is added to it. */
function lookedTerms(
  config: RtlConfig,
  floats: Floats,
  operands: Operands,
  asWord: boolean,
): Terms | { readonly word: Net } {
  const { circuit: c, options, style } = floats;
  const { float, bits } = formatOf(config.table!) as Extract<Format, { kind: "float" }>;
  const { bias, fractionBits } = codesOf(float, options);
  const { entry, negative } = looked(c, operands, config, bits);
  const sign = c.xor([entry.at(-1)!], [negative], "sign")[0]!;
  const [fraction, field] = [entry.slice(0, fractionBits), entry.slice(fractionBits, -1)];
  const power = [...operands.plane, ...constant(0n, field.length - operands.plane.length)];
  const raised = options.planeAdd === "field" ? add(c, field, power, 0, style).slice(0, -1) : field;
  const cut = floats.cut("terms", [...fraction, ...raised, sign, ...operands.plane]);
  const [word, plane] = [cut.slice(0, bits), cut.slice(bits)];
  if (asWord) return { word };
  const term = unpacked(floats, word, float);
  const whole = options.planeAdd === "field" ? term : scaled(floats, term, plane);
  return { terms: [whole], offset: bias, places: fractionBits };
}

function macOrAddTerms(config: RtlConfig, floats: Floats, { row, w, plane, subtract }: Operands): Terms {
  const { circuit: c, options } = floats;
  const { float, bits } = formatOf(config.activation) as Extract<Format, { kind: "float" }>;
  const { bias, fractionBits } = codesOf(float, options);
  const activations = slicesOf(row, bits);
  if (config.kind === "mac") {
    const weights = slicesOf(w, bits);
    const products = activations.map((a, j) =>
      product(floats, unpacked(floats, a, float), unpacked(floats, weights[j]!, float)),
    );
    return { terms: cutTerms(floats, products), offset: 2 * bias, places: 2 * fractionBits };
  }
  const terms = activations.map((a, j) => {
    const { taken, negative } = takenBy(c, a, w[j]!, subtract);
    const sign = c.xor([taken.at(-1)!], [negative], "sign")[0]!;
    return scaled(floats, unpacked(floats, [...taken.slice(0, -1), sign], float), plane);
  });
  return { terms, offset: bias, places: fractionBits };
}

function cutTerms(floats: Floats, terms: Terms["terms"]): Terms["terms"] {
  return terms.map(({ sign, exponent, mantissa, nonzero, infinite, nan }) => {
    const cut = floats.cut("terms", [sign, nonzero, infinite, nan, ...exponent, ...mantissa]);
    const middle = 4 + exponent.length;
    return {
      sign: cut[0]!,
      nonzero: cut[1]!,
      infinite: cut[2]!,
      nan: cut[3]!,
      exponent: cut.slice(4, middle),
      mantissa: cut.slice(middle),
    };
  });
}

/** The module that makes the table of one row of activations. */
export function tableMakerOf(config: RtlConfig): Module {
  const c = new Circuit("lutra_precompute", [`A table of ${config.k} activations: ${config.table}.`]);
  const activation = formatOf(config.activation);
  const entry = formatOf(config.table!);
  const a = slicesOf(c.input("a", config.k * activation.bits), activation.bits);
  const half = config.steps?.reinterpretation === true;
  const entries =
    entry.kind === "int" || activation.kind === "int"
      ? tableOf(
          a.map((x) => signExtended(x, entry.bits)),
          half,
          integerSums(c, config, entry.bits),
        )
      : tableOf(
          a.map((word): Word => ({ word, float: activation.float })),
          half,
          floatSums({ ...floatsOf(c, config)!, cut: (_, x) => x }, entry),
        ).map(({ word }) => word);
  c.output("entries", entries.flat());
  if (timeOf(entries.flat()) > 0) throw new Error("tables are made within one cycle");
  return c.module();
}

function integerSums(c: Circuit, { adder }: RtlConfig, width: number): Sums<Net> {
  const sumOf = (terms: readonly (readonly [Net, boolean])[]): Net => {
    const columns = columnsOf(width);
    for (const [x, negative] of terms) {
      include(columns, negative ? c.not(x) : x);
      if (negative) columns.constant += 1n;
    }
    return total(c, columns, adder);
  };
  return {
    add: (x, negativeX, y, negativeY) =>
      sumOf([
        [x, negativeX],
        [y, negativeY],
      ]),
    alone: (x, negative) => (negative ? sumOf([[x, true]]) : x),
    zero: constant(0n, width),
  };
}

/** A code, and of which format. */
interface Word {
  readonly word: Net;
  readonly float: Extract<Format, { kind: "float" }>["float"];
}

function floatSums(floats: Floats, { float: to }: Extract<Format, { kind: "float" }>): Sums<Word> {
  const { circuit: c, options } = floats;
  const signed = (word: Net, negative: boolean): Net =>
    negative ? [...word.slice(0, -1), ...c.not([word.at(-1)!])] : word;
  const termsOf = (words: readonly Word[]): Terms => {
    const { bias, fractionBits } = codesOf(words[0]!.float, options);
    return { terms: words.map(({ word, float }) => unpacked(floats, word, float)), offset: bias, places: fractionBits };
  };
  const alone = ({ word, float }: Word, negative: boolean): Word => ({
    word:
      float === to ? signed(word, negative) : sum(floats, termsOf([{ word: signed(word, negative), float }]), null, to),
    float: to,
  });
  return {
    add: (x, negativeX, y, negativeY) => {
      // Sums of terms of one format: an activation beside a sum is made one of the table's first.
      const [left, right] = x.float === y.float ? [x, y] : [alone(x, false), alone(y, false)];
      const terms = termsOf([
        { ...left, word: signed(left.word, negativeX) },
        { ...right, word: signed(right.word, negativeY) },
      ]);
      return { word: sum(floats, terms, null, to), float: to };
    },
    alone,
    zero: { word: constant(0n, 1 + codesOf(to, options).exponentBits + codesOf(to, options).fractionBits), float: to },
  };
}
