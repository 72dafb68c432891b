// What a design computes, cycle by cycle, in integers and floats of the machine: the model that its Verilog must equal.
// Registers are 0 at power-up here and unknown there; both are the same once they have been loaded and cleared.
// Not here: the sum of floats (aligned.ts), how tables are made of activations (table.ts).

import { codesOf, decoded, product, scaled, sum, type Value } from "./aligned.ts";
import {
  controlsOf,
  depthOf,
  entryCount,
  exactBits,
  type Format,
  formatOf,
  hasTable,
  type RtlConfig,
} from "./config.ts";
import { type Sums, tableOf } from "./table.ts";

/** Values of ports by name. */
export type Vector = Readonly<Record<string, bigint>>;

export interface Golden {
  /**
   * One edge of the clock with these inputs, and the outputs right behind it, with the inputs still there.
   * @throws RangeError where an input is missing, is no number of its width, or names a plane that weights do not have
   */
  step(inputs: Vector): Vector;
}

/** What lanes use in a cycle. */
interface Source {
  readonly rows: readonly (readonly bigint[])[];
  /** One for each column: whole weights, or one bit of each. */
  readonly columns: readonly bigint[];
  readonly plane: number;
  readonly subtract: boolean;
  readonly clear: boolean;
  readonly double: boolean;
  readonly enable: boolean;
}

/** Registers of operands: null where there is none. */
interface Held {
  readonly next: bigint;
  readonly now: bigint;
}

/** @param widths of the inputs, by name */
export function goldenOf(config: RtlConfig, widths: ReadonlyMap<string, number>): Golden {
  const { m, n, k, registers, accumulator, steps } = config;
  const { joins, ends } = depthOf(config);
  const { subtract, double } = controlsOf(config);
  const made = hasTable(config) && steps?.precomputeSplit === false;
  const takesActivations = made || !hasTable(config);
  const lane = laneArithmetic(config);
  const isHeld = takesActivations ? registers.operands : registers.tables;
  let first: Held = { next: 0n, now: 0n };
  let tables: Held = { next: 0n, now: 0n };
  let weights: Held = { next: 0n, now: 0n };
  let sums: readonly bigint[] = Array.from({ length: m * n }, () => 0n);
  /** Of the cycles before, the latest one first. */
  let sources: readonly Source[] = [];
  let results: readonly (readonly bigint[])[] = [];

  const took = (held: Held, load: bigint, x: bigint, swap: bigint): Held => {
    const next = load === 1n ? x : held.next;
    if (!registers.doubleBuffer) return { next, now: next };
    return { next, now: swap === 1n ? held.next : held.now };
  };
  const entryBits = formatOf(hasTable(config) ? config.table! : config.activation).bits;
  const perRow = hasTable(config) ? entryCount(config) : k;
  const madeOf = (a: bigint): bigint =>
    joined(
      slices(a, m * k, formatOf(config.activation).bits, k).flatMap((row) => makeTable(config, row)),
      entryBits,
    );

  /** What lanes see with registers as they are. */
  const sourceOf = (inputs: Vector): Source => {
    const arriving = isHeld ? first.now : inputs[takesActivations ? "a" : "entries"]!;
    const operands = !made ? arriving : registers.tables ? tables.now : madeOf(arriving);
    const w = registers.weights === "none" ? inputs["w"]! : weights.now;
    const plane = Number(inputs["plane"] ?? 0n);
    const width = config.kind === "mac" ? k * config.weightBits : k;
    // Planes beyond the highest are those that a tree of choices finds for them.
    const from = registers.weights === "all" && config.kind !== "mac" ? plane * n * k : 0;
    return {
      rows: slices(operands, m * perRow, entryBits, perRow),
      columns: slices(w >> BigInt(from), n, width, n)[0]!,
      plane,
      subtract: subtract && inputs["subtract"] === 1n,
      clear: inputs["clear"] === 1n,
      double: double && inputs["double"] === 1n,
      enable: inputs["enable"] === 1n,
    };
  };
  const lanes = (
    source: Source | undefined,
    one: (row: readonly bigint[], w: bigint, at: number) => bigint,
  ): bigint[] =>
    source === undefined
      ? Array.from({ length: m * n }, () => 0n)
      : source.rows.flatMap((row, y) => source.columns.map((w, x) => one(row, w, y * n + x)));

  return {
    step(inputs) {
      for (const [name, width] of widths) {
        const value = inputs[name] ?? -1n;
        if (value >> BigInt(width) !== 0n || (name === "plane" && value >= BigInt(config.weightBits)))
          throw new RangeError(`${name}: ${inputs[name] ?? "no value"}; ${legal(name, width, config)} is needed`);
      }
      const source = sourceOf(inputs);
      const past = [source, ...sources];
      if (registers.accumulator) {
        const joining = past[joins];
        const result = lanes(joining, (row, w, at) => lane.next(row, w, joining!, joining!.clear ? 0n : sums[at]!));
        const late = [result, ...results];
        if (past[ends]?.enable === true) sums = late[ends - joins] ?? sums;
        results = late.slice(0, ends - joins);
      }
      sources = past.slice(0, Math.max(joins, ends));
      const swap = inputs["swap"] ?? 0n;
      const before = first.now;
      const x = inputs[takesActivations ? "a" : "entries"]!;
      const load = inputs["load"] ?? 0n;
      if (made && registers.tables) tables = took(tables, inputs["load_table"]!, madeOf(isHeld ? before : x), swap);
      first = took(first, load, x, swap);
      weights = took(weights, inputs["load_w"] ?? 0n, inputs["w"]!, swap);
      if (registers.accumulator) return { acc: joined(sums, formatOf(accumulator).bits) };
      const given = [sourceOf(inputs), ...sources][ends];
      const outputs = lanes(given, (row, w) => lane.alone(row, w, given!));
      const carries = lanes(given, (_, w) => (lane.negative(w, given!) ? 1n : 0n));
      const out = { sum: joined(outputs, lane.width) };
      return hasTable(config) && lane.isInteger ? { ...out, carry: joined(carries, 1) } : out;
    },
  };
}

function legal(name: string, width: number, { weightBits }: RtlConfig): string {
  return name === "plane" ? `0 to ${weightBits - 1}` : `a number of ${width} bit${width === 1 ? "" : "s"} from 0 up`;
}

/** What one lane does with its operands. */
interface Arithmetic {
  readonly isInteger: boolean;
  /** Bits of `alone`. */
  readonly width: number;
  /** The sum behind this cycle. */
  next(row: readonly bigint[], w: bigint, source: Source, before: bigint): bigint;
  /** What a lane without an accumulator gives. */
  alone(row: readonly bigint[], w: bigint, source: Source): bigint;
  /** Whether an entry is subtracted. */
  negative(w: bigint, source: Source): boolean;
}

function laneArithmetic(config: RtlConfig): Arithmetic {
  const to = formatOf(config.accumulator);
  return to.kind === "int" ? integers(config, to.bits) : floats(config, to);
}

/** Where a lane that looks up finds its entry, and whether it is subtracted. */
function lookedUp({ k, steps }: RtlConfig, w: bigint, subtract: boolean): { index: number; negative: boolean } {
  if (steps?.reinterpretation !== true) return { index: Number(w), negative: subtract };
  const mask = (1n << BigInt(k - 1)) - 1n;
  const negative = w >> BigInt(k - 1) === 1n;
  const low = w & mask;
  return { index: Number(negative && !steps.offlineNegation ? low ^ mask : low), negative };
}

function integers(config: RtlConfig, bits: number): Arithmetic {
  const { kind, k, weightBits, shift, activation, table, steps } = config;
  const width = formatOf(table ?? activation).bits;
  const raised = shift === "operand" ? weightBits - 1 : 0;
  const power = ({ plane }: Source): bigint => (shift === "operand" ? 1n << BigInt(plane) : 1n);
  const bit = (w: bigint, j: number): bigint => (w >> BigInt(j)) & 1n;
  const weightOf = (w: bigint, j: number, subtract: boolean): bigint => {
    if (kind === "mac") return BigInt.asIntN(weightBits, w >> BigInt(j * weightBits));
    if (steps!.reinterpretation) return 2n * bit(w, j) - 1n;
    return subtract ? -bit(w, j) : bit(w, j);
  };
  const term = (row: readonly bigint[], w: bigint, source: Source): bigint => {
    if (table !== null) {
      const { index, negative } = lookedUp(config, w, source.subtract);
      const entry = BigInt.asIntN(width, row[index]!);
      return (negative ? -entry : entry) * power(source);
    }
    let total = 0n;
    for (let j = 0; j < k; j++) total += BigInt.asIntN(width, row[j]!) * weightOf(w, j, source.subtract);
    return total * power(source);
  };
  const negative = (w: bigint, source: Source): boolean =>
    table !== null && lookedUp(config, w, source.subtract).negative;
  const outWidth = (table === null ? exactBits(config) : width) + raised;
  return {
    isInteger: true,
    width: outWidth,
    negative,
    next: (row, w, source, before) =>
      BigInt.asUintN(bits, (source.double ? 2n * before : before) + term(row, w, source)),
    alone: (row, w, source) => BigInt.asUintN(outWidth, term(row, w, source) - (negative(w, source) ? 1n : 0n)),
  };
}

function floats(config: RtlConfig, { float: to, bits: toBits }: Extract<Format, { kind: "float" }>): Arithmetic {
  const { kind, shift, activation, table, steps } = config;
  const options = config.float!;
  const { float, bits } = formatOf(table ?? activation) as Extract<Format, { kind: "float" }>;
  const sign = 1n << BigInt(bits - 1);
  const { exponentBits, fractionBits } = codesOf(float, options);
  const power = ({ plane }: Source): number => (shift === "exponent" ? plane : 0);
  const wordOf = (row: readonly bigint[], w: bigint, source: Source): bigint => {
    const { index, negative } = lookedUp(config, w, source.subtract);
    const word = negative ? row[index]! ^ sign : row[index]!;
    if (options.planeAdd !== "field") return word;
    const mask = ((1n << BigInt(exponentBits)) - 1n) << BigInt(fractionBits);
    return (word & ~mask) | ((word + (BigInt(source.plane) << BigInt(fractionBits))) & mask);
  };
  const termsOf = (row: readonly bigint[], w: bigint, source: Source): readonly Value[] => {
    if (table !== null) {
      const value = decoded(wordOf(row, w, source), float, options);
      return [options.planeAdd === "field" ? value : scaled(value, power(source))];
    }
    return row.map((a, j) => {
      if (kind === "mac") {
        const weight = BigInt.asUintN(bits, w >> BigInt(j * bits));
        return product(decoded(a, float, options), decoded(weight, float, options), options);
      }
      const isSet = ((w >> BigInt(j)) & 1n) === 1n;
      const taken = steps!.reinterpretation || isSet ? a : 0n;
      const negative = steps!.reinterpretation ? !isSet : source.subtract;
      return scaled(decoded(negative ? taken ^ sign : taken, float, options), power(source));
    });
  };
  return {
    isInteger: false,
    width: table === null ? toBits : bits,
    negative: () => false,
    next: (row, w, source, before) =>
      sum(termsOf(row, w, source), scaled(decoded(before, to, options), source.double ? 1 : 0), to, options),
    alone: (row, w, source) =>
      table === null ? sum(termsOf(row, w, source), null, to, options) : wordOf(row, w, source),
  };
}

/** The table of a row of K activations, as codes. */
function makeTable({ table, activation, steps, float: options }: RtlConfig, row: readonly bigint[]): readonly bigint[] {
  const [entry, from] = [formatOf(table!), formatOf(activation)];
  const half = steps?.reinterpretation === true;
  if (entry.kind === "int" || from.kind === "int") {
    const sums: Sums<bigint> = {
      add: (x, negativeX, y, negativeY) => (negativeX ? -x : x) + (negativeY ? -y : y),
      alone: (x, negative) => (negative ? -x : x),
      zero: 0n,
    };
    const values = row.map((a) => BigInt.asIntN(from.bits, a));
    return tableOf(values, half, sums).map((x) => BigInt.asUintN(entry.bits, x));
  }
  interface Word {
    readonly word: bigint;
    readonly format: typeof from;
  }
  const valueOf = ({ word, format }: Word, negative: boolean): Value =>
    decoded(negative ? word ^ (1n << BigInt(format.bits - 1)) : word, format.float, options!);
  const alone = (x: Word, negative: boolean): Word => {
    const isThere = x.format.float === entry.float;
    const turned = negative ? x.word ^ (1n << BigInt(x.format.bits - 1)) : x.word;
    return { word: isThere ? turned : sum([valueOf(x, negative)], null, entry.float, options!), format: entry };
  };
  const sums: Sums<Word> = {
    add: (x, negativeX, y, negativeY) => {
      const isSame = x.format.float === y.format.float;
      const [left, right] = isSame ? [x, y] : [alone(x, false), alone(y, false)];
      const terms = [valueOf(left, negativeX), valueOf(right, negativeY)];
      return { word: sum(terms, null, entry.float, options!), format: entry };
    },
    alone,
    zero: { word: 0n, format: entry },
  };
  const words = row.map((word): Word => ({ word, format: from }));
  return tableOf(words, half, sums).map(({ word }) => word);
}

/** `count` slices of `width` bits, in rows of `perRow`. */
function slices(x: bigint, count: number, width: number, perRow: number): bigint[][] {
  return Array.from({ length: count / perRow }, (_, row) =>
    Array.from({ length: perRow }, (_unused, i) => BigInt.asUintN(width, x >> BigInt((row * perRow + i) * width))),
  );
}

function joined(parts: readonly bigint[], width: number): bigint {
  return parts.reduceRight((all, part) => (all << BigInt(width)) | part, 0n);
}
