// A testbench that checks itself: vectors of a design's golden model, and the module that plays them in any simulator of
// Verilog-2005, for the design or for a netlist of it.
// Not here: the model (golden.ts). Random numbers are of Marsaglia's xorshift, so that vectors follow from their seed.

import { FLOATS } from "../../src/lutcore/number.ts";
import { type Codes, codesOf } from "./aligned.ts";
import { type Format, formatOf, type RtlConfig } from "./config.ts";
import type { Design, Port } from "./design.ts";
import type { Vector } from "./golden.ts";

/** One edge of the clock, and whether outputs behind it follow from what has been given since power-up. */
export interface Step {
  readonly inputs: Vector;
  readonly outputs: Vector;
  readonly checked: boolean;
}

/** Numbers below 2^bits. */
type Random = (bits: number) => bigint;

function randomOf(seed: number): Random {
  let state = BigInt(seed) * 0x9e3779b97f4a7c15n + 0x2545f4914f6cdd1dn;
  const word = (): bigint => {
    state = BigInt.asUintN(64, state ^ (state << 13n));
    state ^= state >> 7n;
    state = BigInt.asUintN(64, state ^ (state << 17n));
    return state >> 16n;
  };
  return (bits) => {
    let x = 0n;
    for (let have = 0; have < bits; have += 48) x = (x << 48n) | word();
    return BigInt.asUintN(bits, x);
  };
}

/**
 * What the golden model says to corner values and then to `count` random steps: first as many as fill all registers, which
 * are not checked. Operands are random bits, small numbers, neighbours of the same size, or corners of their format.
 * @param seed a whole number; equal ones give equal vectors
 */
export function vectorsOf(design: Design, count: number, seed: number): readonly Step[] {
  const random = randomOf(seed);
  const golden = design.golden();
  const inputs = design.ports.filter(({ dir }) => dir === "input");
  const corners = cornersOf(design.config);
  const fill = design.latency + design.interleave + 3;
  const steps: Step[] = [];
  const take = (vector: Vector, checked: boolean): void => {
    steps.push({ inputs: vector, outputs: golden.step(vector), checked });
  };
  const first = Object.fromEntries(
    inputs.map(({ name }) => [
      name,
      name === "a" || name === "entries" || name === "w" || name === "plane" || name === "subtract" || name === "double"
        ? 0n
        : 1n,
    ]),
  );
  for (let i = 0; i < fill; i++) take(first, false);
  // Every corner of activations with every one of weights, the same in all places, twice: onto a sum and on its own.
  for (const a of corners.operands) {
    for (const w of corners.weights) {
      for (const clear of [1n, 0n]) {
        const vector = inputs.map(
          ({ name, width }) => [name, cornerOf(name, width, { a, w, clear }, corners, random, design.config)] as const,
        );
        take(Object.fromEntries(vector), true);
      }
    }
  }
  for (let i = 0; i < count; i++) {
    const kind = Number(random(3));
    const before = steps.at(-1)!.inputs;
    // A step looks up one entry of a table: one that the array makes stays for four on average, as its use is.
    const stays = design.config.steps?.precomputeSplit === false && design.config.table !== null && random(2) !== 0n;
    const inputOf = (port: Port): bigint =>
      stays && port.name === "a" ? before["a"]! : randomInput(port, kind, corners, random, design.config);
    take(Object.fromEntries(inputs.map((port) => [port.name, inputOf(port)])), true);
  }
  return steps;
}

/** Numbers of each operand that are worth a try, and how wide one is. */
interface Corners {
  readonly format: Format;
  readonly operands: readonly bigint[];
  readonly weightBits: number;
  readonly weights: readonly bigint[];
}

function cornersOf(config: RtlConfig): Corners {
  const ready = config.table !== null && config.steps?.precomputeSplit === true;
  const format = formatOf(ready ? config.table : config.activation);
  const operands = cornersOfFormat(format, config);
  if (config.kind !== "mac") return { format, operands, weightBits: 1, weights: [0n, 1n] };
  const own: Format = format.kind === "int" ? { kind: "int", bits: config.weightBits } : format;
  return { format, operands, weightBits: config.weightBits, weights: cornersOfFormat(own, config) };
}

function cornersOfFormat(format: Format, { float: options }: RtlConfig): readonly bigint[] {
  if (format.kind === "int") {
    const half = 1n << BigInt(format.bits - 1);
    return [0n, 1n, half - 1n, half, half + 1n, 2n * half - 1n];
  }
  const codes: Codes = codesOf(format.float, options!);
  const one = 1n << BigInt(codes.fractionBits);
  const all = (one << BigInt(codes.exponentBits)) - 1n;
  // Zero, the ends of subnormals and of normal numbers, 1 and its neighbour, the highest exponent, all bits.
  const sizes = [
    0n,
    1n,
    one - 1n,
    one,
    BigInt(codes.bias) * one,
    BigInt(codes.bias) * one + 1n,
    all & ~(one - 1n),
    (all & ~(one - 1n)) - 1n,
    all - 1n,
    all,
  ];
  return [...new Set(sizes)].flatMap((size) => [size, size + all + 1n]);
}

function repeated(x: bigint, width: number, total: number): bigint {
  let all = 0n;
  for (let at = 0; at < total; at += width) all |= x << BigInt(at);
  return BigInt.asUintN(total, all);
}

interface Chosen {
  readonly a: bigint;
  readonly w: bigint;
  readonly clear: bigint;
}

function cornerOf(
  name: string,
  width: number,
  { a, w, clear }: Chosen,
  corners: Corners,
  random: Random,
  config: RtlConfig,
): bigint {
  if (name === "a" || name === "entries") return repeated(a, corners.format.bits, width);
  if (name === "w") return repeated(w, corners.weightBits, width);
  if (name === "clear") return clear;
  if (name === "plane") return random(16) % BigInt(config.weightBits);
  return name === "subtract" || name === "double" ? random(width) : 1n;
}

function randomInput(
  { name, width }: Port,
  kind: number,
  corners: Corners,
  random: Random,
  { weightBits, kind: unit }: RtlConfig,
): bigint {
  switch (name) {
    case "a":
    case "entries":
      return randomOperand(corners.format, corners.operands, width, kind, random);
    case "w": {
      const own: Format = corners.format.kind === "int" ? { kind: "int", bits: corners.weightBits } : corners.format;
      return unit === "mac" ? randomOperand(own, corners.weights, width, kind, random) : random(width);
    }
    case "plane":
      return random(16) % BigInt(weightBits);
    case "clear":
      return random(4) === 0n ? 1n : 0n;
    case "double":
    case "subtract":
      return random(2) === 0n ? 1n : 0n;
    default:
      // Loads and enables, of which few are left out.
      return random(3) === 0n ? 0n : 1n;
  }
}

/** @param kind 0: random bits; 1: corners among them; 2, 3: small integers, or floats of similar size; else bits again */
function randomOperand(
  format: Format,
  corners: readonly bigint[],
  width: number,
  kind: number,
  random: Random,
): bigint {
  if (kind !== 1 && kind !== 2 && kind !== 3) return random(width);
  const { bits } = format;
  const around = random(16);
  let all = 0n;
  for (let at = 0; at < width; at += bits) {
    let x = random(bits);
    if (kind === 1 && random(1) === 0n) x = corners[Number(random(16) % BigInt(corners.length))]!;
    else if (kind > 1) x = similar(format, x, around);
    all |= x << BigInt(at);
  }
  return all;
}

/** A number of few bits, or a float whose exponent is one of four neighbours. */
function similar(format: Format, x: bigint, around: bigint): bigint {
  if (format.kind === "int") return BigInt.asUintN(format.bits, BigInt.asIntN(Math.min(3, format.bits), x));
  const fraction = BigInt(FLOATS[format.float].fractionBits);
  const field = BigInt(format.bits - 1) - fraction;
  const exponent = BigInt.asUintN(Number(field), around + ((x >> fraction) & 3n));
  const low = x & ((1n << fraction) - 1n);
  return ((((x >> BigInt(format.bits - 1)) << field) | exponent) << fraction) | low;
}

/** Texts to be written beside each other. */
export interface Testbench {
  /** Verilog; it reads `vectorsName` from where the simulator runs. */
  readonly testbench: string;
  /** One step a line in hexadecimal: inputs, outputs and whether they are checked, the lowest bits first in `ports`. */
  readonly vectors: string;
}

/**
 * A testbench that ends with one line, `lutra: PASS, n checks` or `lutra: FAIL, e of n checks`, and names the first ten
 * differences.
 * @param vectorsName the name of the file that the vectors will lie in
 */
export function testbenchOf({ top, ports }: Design, steps: readonly Step[], vectorsName: string): Testbench {
  const width = ports.reduce((sum, port) => sum + port.width, 1);
  let low = 0;
  const places = ports.map((port) => {
    const place = { ...port, low };
    low += port.width;
    return place;
  });
  const range = (bits: number): string => `[${bits - 1}:0]`;
  const [inputs, outputs] = [places.filter(({ dir }) => dir === "input"), places.filter(({ dir }) => dir === "output")];
  const checks = outputs.map(
    ({ name, width: bits, low: from }) => `      if (${name} !== vector[${from + bits - 1}:${from}]) begin
        errors = errors + 1;
        if (errors <= 10) $display("step %0d: ${name} is %h, not %h", step, ${name}, vector[${from + bits - 1}:${from}]);
      end`,
  );
  const testbench = `// Plays ${vectorsName} against ${top}: ${steps.length} steps.
// Inputs change while the clock is low; outputs are read while it is high. Differences are counted, X among them.
module testbench;
  reg clk;
  reg ${range(width)} vectors [0:${steps.length - 1}];
  reg ${range(width)} vector;
  integer step, errors, checks;
${inputs.map(({ name, width: bits }) => `  reg ${range(bits)} ${name};`).join("\n")}
${outputs.map(({ name, width: bits }) => `  wire ${range(bits)} ${name};`).join("\n")}

  ${top} dut(.clk(clk), ${places.map(({ name }) => `.${name}(${name})`).join(", ")});

  initial begin
    $readmemh("${vectorsName}", vectors);
    clk = 0;
    errors = 0;
    checks = 0;
    for (step = 0; step < ${steps.length}; step = step + 1) begin
      vector = vectors[step];
${inputs.map(({ name, width: bits, low: from }) => `      ${name} = vector[${from + bits - 1}:${from}];`).join("\n")}
      #5 clk = 1;
      #4;
      if (vector[${width - 1}] !== 1'b0) begin
        checks = checks + 1;
${checks.map((text) => text.replaceAll("\n", "\n  ").replace(/^/, "  ")).join("\n")}
      end
      #1 clk = 0;
    end
    if (errors == 0) $display("lutra: PASS, %0d checks", checks);
    else $display("lutra: FAIL, %0d of %0d checks", errors, checks * ${outputs.length});
    $finish;
  end
endmodule
`;
  const digits = Math.ceil(width / 4);
  const lines = steps.map(({ inputs: given, outputs: expected, checked }) => {
    let all = checked ? 1n << BigInt(width - 1) : 0n;
    for (const { name, dir, low: from } of places) all |= (dir === "input" ? given : expected)[name]! << BigInt(from);
    return all.toString(16).padStart(digits, "0");
  });
  return { testbench, vectors: `${lines.join("\n")}\n` };
}
