// What a dot product unit, or an array of them, is to be: a record that is whole and legal once it has been read.
// out(m,n) += a(m,k) . w(n,k)^T for M rows and N columns with K values each; the unit of one (m,n) is a lane.
// Not here: what the choices become in Verilog (lane.ts, design.ts) and what they compute (golden.ts).
// Kinds and steps are those of LUT Tensor Core (ISCA'25), 3.1.1, 3.1.2, figure 12 and table 2.

import { didYouMean } from "../../src/ladder/diagnostic.ts";
import { FLOATS, type Float } from "../../src/lutcore/number.ts";

/**
 * mac: products of whole weights, summed. add: one plane of weight bits a cycle, activations added or subtracted.
 * lut: a plane's K bits look a sum of activations up. lut-conventional and unpu are lut with other steps as defaults:
 * without any of them (a table of all 2^K sums), and with half a table, negated and made at run time.
 */
export const KINDS = ["mac", "add", "lut", "lut-conventional", "unpu"] as const;
export type Kind = (typeof KINDS)[number];
export const ACTIVATIONS = ["fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "int16", "int8"] as const;
export type Activation = (typeof ACTIVATIONS)[number];
const ACCUMULATORS = ["int16", "int20", "int24", "int32", "int48", "fp16", "fp32"] as const;
export type Accumulator = (typeof ACCUMULATORS)[number];
const SHIFTS = ["accumulator", "exponent", "operand"] as const;

/** How a number is stored: two's complement, or a float of the machine. */
export type Format =
  | { readonly kind: "int"; readonly bits: number }
  | { readonly kind: "float"; readonly float: Float; readonly bits: number };

/** How floats are summed. */
export interface FloatOptions {
  readonly rounding: "nearest-even" | "toward-zero";
  /** flush: those that arrive are zeros, and results below the least normal number become zeros. */
  readonly subnormals: "flush" | "keep";
  /**
   * none: the highest exponent holds ordinary numbers, and sums beyond the largest become the largest. infinity: it is an
   * infinity whatever the fraction; opposite ones give the positive one. ieee: infinities and NaN, as IEEE 754.
   */
  readonly specials: "none" | "infinity" | "ieee";
  /** Places kept below the leading one of the largest term when terms are aligned. */
  readonly window: number;
  /** Whether the last of these places is set where any bit was lost below it. */
  readonly sticky: boolean;
  /** field: a plane's power is added to the exponent field alone, modulo its size and to zeros too, as public RTL does. */
  readonly planeAdd: "exact" | "field";
}

/** The paper's optimisations of a unit that looks up, 3.1.1 and 3.1.2. */
export interface Steps {
  /** Planes stand for +1 and -1, so that half a table is enough; else for 1 and 0, the highest one subtracted. */
  readonly reinterpretation: boolean;
  /** Weights arrive with the index already inverted where the sign is set (equation 6). */
  readonly offlineNegation: boolean;
  /** Tables arrive ready; else the array makes them from activations. */
  readonly precomputeSplit: boolean;
}

/** Which registers are part of the unit. */
export interface Registers {
  /** Of activations. */
  readonly operands: boolean;
  readonly tables: boolean;
  /** Of one plane, or of all bits of the weights. */
  readonly weights: "none" | "plane" | "all";
  /** Without it a lane gives what it would add. */
  readonly accumulator: boolean;
  /** Each register of operands, tables and weights has another one in front of it, which is loaded meanwhile. */
  readonly doubleBuffer: boolean;
}

/** null: what the kind does not have. */
export interface RtlConfig {
  readonly kind: Kind;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly weightBits: number;
  readonly activation: Activation;
  /** The format of an entry: a float, or int2 to int24. */
  readonly table: string | null;
  readonly accumulator: Accumulator;
  /** Where a plane's power of two is applied: doubled sums, the exponent of a float, or a shifter of integers. */
  readonly shift: (typeof SHIFTS)[number] | null;
  /** How the last two rows of a sum are added. */
  readonly adder: "ripple" | "prefix";
  /** Registers on the way through a lane, the accumulator not among them. */
  readonly pipeline: number;
  /** null where all is integer. */
  readonly float: FloatOptions | null;
  readonly steps: Steps | null;
  readonly registers: Registers;
}

/** A configuration that cannot be built: the field by its path, what it is, what would be legal. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  /** As in `steps.reinterpretation`; empty for the whole. */
  readonly path: string;
  constructor(path: string, message: string) {
    super(path === "" ? message : `${path}: ${message}`);
    this.path = path;
  }
}

/** The format of a name: int and a number of bits, fp16, bf16, fp32, fp8-e4m3 or fp8-e5m2. */
export function formatOf(name: string): Format {
  const int = /^int(\d+)$/.exec(name);
  if (int !== null) return { kind: "int", bits: Number(int[1]) };
  const float = name.replace("fp8-", "") as Float;
  const { exponentBits, fractionBits } = FLOATS[float];
  return { kind: "float", float, bits: 1 + exponentBits + fractionBits };
}

export function hasTable({ kind }: { readonly kind: Kind }): boolean {
  return kind !== "mac" && kind !== "add";
}

/** Entries of a table of K: half of all patterns of bits where planes stand for +1 and -1. */
export function entryCount({ k, steps }: RtlConfig): number {
  return steps?.reinterpretation === true ? 2 ** (k - 1) : 2 ** k;
}

/** The smallest b with 2^b >= x. */
export function bitsFor(x: number): number {
  return Math.ceil(Math.log2(x));
}

/** Where a lane can be cut, in the order in which more registers are used; those behind `sum` make sums take longer. */
export function cutsOf({ kind, accumulator, registers }: CutConfig): readonly Cut[] {
  const isFloat = formatOf(accumulator).kind === "float";
  if (kind === "mac") return isFloat ? ["terms", "sum", "align", "normalise"] : ["terms", "tree"];
  if (kind === "add") return isFloat ? ["sum", "align", "normalise"] : ["terms"];
  // Without an accumulator what is looked up is the result.
  return isFloat && registers.accumulator ? ["terms", "sum", "align", "normalise"] : ["terms"];
}
type CutConfig = Pick<RtlConfig, "kind" | "accumulator" | "registers">;
/**
 * terms: what is to be summed, behind multipliers or tables. tree: within the compressor tree. align: behind the shifters
 * that align floats. sum: behind their addition. normalise: before they are rounded.
 */
export type Cut = "terms" | "tree" | "align" | "sum" | "normalise";

const STEPS_OF: Readonly<Record<"lut" | "lut-conventional" | "unpu", Steps>> = {
  lut: { reinterpretation: true, offlineNegation: true, precomputeSplit: true },
  "lut-conventional": { reinterpretation: false, offlineNegation: false, precomputeSplit: false },
  unpu: { reinterpretation: true, offlineNegation: false, precomputeSplit: false },
};
/** Lanes times K: what a synthesiser of today takes as one design. */
const MOST_VALUES = 2 ** 14;

/** The fields of one object, each asked for once; `done` refuses those that nobody asked for. */
interface Fields {
  readonly path: (name: string) => string;
  integer(name: string, least: number, most: number, fallback: number | null): number;
  choice<T extends string>(name: string, choices: readonly T[], fallback: T | null): T;
  flag(name: string, fallback: boolean): boolean;
  text(name: string, fallback: string): string;
  /** An object within, {} where there is none; it must be left out where there is nothing to choose. */
  object(name: string, applies: boolean, why: string): Fields;
  /** Refuses a field that is given, and is not null, where it means nothing. */
  absent(name: string, why: string): null;
  done(): void;
}

function fieldsOf(value: unknown, prefix: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new ConfigError(prefix, `${shown(value)}; an object is needed, as in {"kind": "mac"}`);
  const given = new Map<string, unknown>(Object.entries(value));
  const known: string[] = [];
  const path = (name: string): string => (prefix === "" ? name : `${prefix}.${name}`);
  const take = (name: string): unknown => {
    known.push(name);
    const taken = given.get(name);
    return taken === null ? undefined : taken;
  };
  const refuse = (name: string, taken: unknown, legal: string): never => {
    throw new ConfigError(path(name), taken === undefined ? `not given; ${legal}` : `${shown(taken)}; ${legal}`);
  };
  return {
    path,
    integer(name, least, most, fallback) {
      const taken = take(name) ?? fallback ?? undefined;
      if (typeof taken === "number" && Number.isInteger(taken) && taken >= least && taken <= most) return taken;
      return refuse(
        name,
        taken,
        least === most ? `${least} is needed` : `a whole number from ${least} to ${most} is needed`,
      );
    },
    choice(name, choices, fallback) {
      const taken = take(name) ?? fallback ?? undefined;
      const found = choices.find((choice) => choice === taken);
      const few = choices.length === 1 ? `${choices[0]} is needed` : `one of ${choices.join(", ")} is needed`;
      return found ?? refuse(name, taken, few);
    },
    flag(name, fallback) {
      const taken = take(name) ?? fallback;
      return typeof taken === "boolean" ? taken : refuse(name, taken, "true or false is needed");
    },
    text(name, fallback) {
      const taken = take(name) ?? fallback;
      return typeof taken === "string" ? taken : refuse(name, taken, "a text is needed");
    },
    object(name, applies, why) {
      const taken = take(name);
      if (taken !== undefined && !applies) throw new ConfigError(path(name), `${why}; leave it out`);
      return fieldsOf(taken ?? {}, path(name));
    },
    absent(name, why) {
      const taken = take(name);
      if (taken !== undefined) throw new ConfigError(path(name), `${shown(taken)}; ${why}; leave it out`);
      return null;
    },
    done() {
      const other = [...given.keys()].find((name) => !known.includes(name));
      if (other === undefined) return;
      const hint = didYouMean(other, known) ?? `fields are ${known.join(", ")}`;
      throw new ConfigError(path(other.slice(0, 60)), `there is no such field; ${hint}`);
    },
  };
}

/** A value as a person wrote it, cut short. */
function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

/**
 * A configuration from what a JSON file holds; what it leaves out is filled in, as the documentation of each field says.
 * Needed are `kind` and `activation`. Reading what it returns gives the same again.
 * @throws ConfigError for the first field that is not legal
 */
export function readConfig(value: unknown): RtlConfig {
  const f = fieldsOf(value, "");
  const kind = f.choice("kind", KINDS, null);
  const activation = f.choice("activation", ACTIVATIONS, null);
  const format = formatOf(activation);
  const table = hasTable({ kind });
  const [m, n] = [f.integer("m", 1, 64, 1), f.integer("n", 1, 512, 1)];
  const k = f.integer("k", 1, table ? 8 : 64, 4);
  if (m * n * k > MOST_VALUES)
    throw new ConfigError(
      "n",
      `${m} x ${n} lanes of ${k} values are ${m * n * k}; at most ${MOST_VALUES} can be built`,
    );
  const weightBits =
    kind !== "mac"
      ? f.integer("weightBits", 1, 8, 1)
      : format.kind === "int"
        ? f.integer("weightBits", 2, 16, format.bits)
        : f.integer("weightBits", format.bits, format.bits, format.bits);
  const steps = readSteps(f, kind);
  const entry = readTable(f, kind, k, format, steps);
  const isFloat = (entry ?? format).kind === "float";
  const accumulators = ACCUMULATORS.filter((name) => (formatOf(name).kind === "float") === isFloat);
  const accumulator = f.choice(
    "accumulator",
    accumulators,
    isFloat ? "fp32" : activation === "int16" ? "int48" : "int32",
  );
  const shift =
    kind === "mac"
      ? f.absent("shift", "weights of a mac arrive whole")
      : f.choice(
          "shift",
          SHIFTS.filter((name) => name !== (isFloat ? "operand" : "exponent")),
          isFloat ? "exponent" : "accumulator",
        );
  const adder = f.choice("adder", ["ripple", "prefix"], "ripple");
  const registers = readRegisters(f, kind, steps);
  const pipeline = f.integer("pipeline", 0, cutsOf({ kind, accumulator, registers }).length, 0);
  const needsFloat = isFloat || (steps?.precomputeSplit === false && format.kind === "float");
  const summed = [entry ?? format, formatOf(accumulator)];
  const float = readFloat(f, needsFloat, { table, shift, weightBits, summed });
  if (float?.planeAdd === "field" && (!table || shift !== "exponent"))
    throw new ConfigError("float.planeAdd", `"field"; only tables of floats whose shift is "exponent" have that`);
  f.done();
  return {
    kind,
    m,
    n,
    k,
    weightBits,
    activation,
    table: entry === null ? null : nameOf(entry),
    accumulator,
    shift,
    adder,
    pipeline,
    float,
    steps,
    registers,
  };
}

function nameOf(format: Format): string {
  if (format.kind === "int") return `int${format.bits}`;
  return format.bits === 8 ? `fp8-${format.float}` : format.float;
}

function readSteps(f: Fields, kind: Kind): Steps | null {
  const s = f.object("steps", kind !== "mac", "weights of a mac arrive whole");
  if (kind === "mac") return null;
  const preset = STEPS_OF[kind === "add" ? "lut" : kind];
  const reinterpretation = s.flag("reinterpretation", preset.reinterpretation);
  if (kind === "add") {
    for (const name of ["offlineNegation", "precomputeSplit"])
      if (s.flag(name, false)) throw new ConfigError(s.path(name), "true; an add has no table: false is needed");
    s.done();
    return { reinterpretation, offlineNegation: false, precomputeSplit: false };
  }
  const offlineNegation = s.flag("offlineNegation", preset.offlineNegation && reinterpretation);
  const precomputeSplit = s.flag("precomputeSplit", preset.precomputeSplit);
  if (offlineNegation && !reinterpretation)
    throw new ConfigError(
      s.path("offlineNegation"),
      "true; a whole table negates no index: false is needed where steps.reinterpretation is false",
    );
  s.done();
  return { reinterpretation, offlineNegation, precomputeSplit };
}

function readTable(f: Fields, kind: Kind, k: number, activation: Format, steps: Steps | null): Format | null {
  if (steps === null || !hasTable({ kind })) return f.absent("table", `a${kind === "add" ? "n" : ""} ${kind} has none`);
  const exact = activation.bits + bitsFor(k);
  const ints = (least: number, most: number): string[] =>
    Array.from({ length: most - least + 1 }, (_, i) => `int${least + i}`);
  const floats = ["fp16", "bf16", "fp32", "fp8-e4m3", "fp8-e5m2"];
  const made = !steps.precomputeSplit;
  const legal = activation.kind === "int" ? ints(made ? exact : 2, 24) : made ? floats : [...floats, ...ints(2, 24)];
  const words = legal.includes("int24")
    ? `${legal.includes("fp16") ? `one of ${floats.join(", ")} or ` : ""}${legal.find((name) => name.startsWith("int"))} to int24 is needed`
    : `one of ${legal.join(", ")} is needed`;
  const own = activation.kind === "int" ? `int${exact}` : nameOf(activation);
  const name = f.text("table", own);
  if (!legal.includes(name))
    throw new ConfigError("table", `${shown(name)}; ${words}${made ? " where the array makes its tables" : ""}`);
  return formatOf(name);
}

/** What the way floats are summed follows from. */
interface Sum {
  readonly table: boolean;
  readonly shift: RtlConfig["shift"];
  readonly weightBits: number;
  readonly summed: readonly Format[];
}

function readFloat(f: Fields, needs: boolean, { table, shift, weightBits, summed }: Sum): FloatOptions | null {
  const o = f.object("float", needs, "all of this unit is integer");
  if (!needs) return null;
  const rounding = o.choice("rounding", ["nearest-even", "toward-zero"], "nearest-even");
  const subnormals = o.choice("subnormals", ["flush", "keep"], "flush");
  const specials = o.choice("specials", ["none", "infinity", "ieee"], "none");
  const planeAdd = o.choice("planeAdd", ["exact", "field"], "exact");
  // Two terms are summed as if exactly with a guard, a round and a sticky place below the longer one's; a subnormal whose
  // exponent is raised lies by as much below its leading place. Sums of more are cut at the accumulator's guard places.
  const places = summed.map((format) => (format.kind === "float" ? FLOATS[format.float].fractionBits + 1 : 0));
  const raised = subnormals === "keep" ? (shift === "exponent" ? weightBits - 1 : 1) : 0;
  const window = o.integer("window", 4, 64, table ? Math.max(...places) + 2 + raised : places.at(-1)! + 3);
  const sticky = o.flag("sticky", table);
  o.done();
  return { rounding, subnormals, specials, window, sticky, planeAdd };
}

function readRegisters(f: Fields, kind: Kind, steps: Steps | null): Registers {
  const r = f.object("registers", true, "");
  const takesActivations = !hasTable({ kind }) || steps?.precomputeSplit === false;
  if (!takesActivations && r.flag("operands", false))
    throw new ConfigError(r.path("operands"), "true; no activations arrive where tables arrive ready: false is needed");
  if (!hasTable({ kind }) && r.flag("tables", false))
    throw new ConfigError(
      r.path("tables"),
      `true; a${kind === "add" ? "n" : ""} ${kind} has no tables: false is needed`,
    );
  const registers: Registers = {
    operands: takesActivations && r.flag("operands", !hasTable({ kind })),
    tables: hasTable({ kind }) && r.flag("tables", true),
    weights:
      kind === "mac"
        ? r.choice("weights", ["none", "all"], "all")
        : r.choice("weights", ["none", "plane", "all"], "plane"),
    accumulator: r.flag("accumulator", true),
    doubleBuffer: r.flag("doubleBuffer", false),
  };
  if (registers.doubleBuffer && !registers.operands && !registers.tables && registers.weights === "none")
    throw new ConfigError(
      r.path("doubleBuffer"),
      "true; there is no register of operands, tables or weights to double: false is needed",
    );
  r.done();
  return registers;
}

/** What a lane is told in each cycle, beside its operands. */
export interface Controls {
  /** Bits of the number of the plane that a lane takes; 0 where it needs none. */
  readonly plane: number;
  /** Those that the choice of a plane from registers of all weights takes. */
  readonly weightPlane: number;
  /** That this plane is subtracted: the highest one of weights in two's complement. */
  readonly subtract: boolean;
  /** That the sum is doubled before this plane is added. */
  readonly double: boolean;
}

export function controlsOf({ kind, weightBits, shift, steps, float, registers }: RtlConfig): Controls {
  const bits = kind === "mac" ? 0 : bitsFor(weightBits);
  const { accumulator, weights } = registers;
  const raises = shift === "exponent" && (accumulator || kind === "add" || float?.planeAdd === "field");
  return {
    plane: shift === "operand" || raises ? bits : 0,
    weightPlane: weights === "all" ? bits : 0,
    subtract: steps !== null && !steps.reinterpretation,
    double: shift === "accumulator" && accumulator && bits > 0,
  };
}

/** Cycles from a lane's operands to the cycle in which the sum so far joins them, and to its result. */
export function depthOf(config: RtlConfig): { readonly joins: number; readonly ends: number } {
  const used = cutsOf(config).slice(0, config.pipeline);
  return { joins: used.filter((cut) => cut === "terms" || cut === "tree").length, ends: used.length };
}

/** Bits of the sum of K products or activations, exactly. */
export function exactBits({ kind, k, weightBits, activation }: RtlConfig): number {
  const { bits } = formatOf(activation);
  return bits + bitsFor(k) + (kind === "mac" ? weightBits : 1);
}
