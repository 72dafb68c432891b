// One product of a plan, on any type and of any shape, and how far from exact arithmetic a machine's result may lie:
// what the conformance tests of all backends share about matrices. Bounds are derived from what a machine says of its
// arithmetic. Not here: the tests themselves (conformance.ts), plans and weights (small-plan.ts).

import { decode } from "../src/ladder/emit/codec.ts";
import { mappedStructureOf } from "../src/ladder/layout.ts";
import type { Type } from "../src/ladder/type.ts";
import type { Epilogue, Gemm } from "../src/ops.ts";
import type { Plan } from "../src/plan.ts";
import { oddTypes, programWith } from "./ladder/program.ts";
import { f32Weight, type Random, randomBytes, type SmallWeight, smallPlan } from "./small-plan.ts";

export const ACTIVATION_GROUP = 16; // values that share one int8 scale
export const EPSILON: number = 2 ** -24; // half a unit in the last place of f32

/** How a machine multiplies activations with a matrix: all that the bounds of its error depend on. */
export interface Arithmetic {
  /**
   * What activations become: int8 with a scale for each 16; int8 sums of four or of five of them, with signs; f32 sums of
   * some of them, with signs; or they stay f32.
   */
  readonly activations: "int8" | "fours" | "fives" | "sums" | "f32";
  /** Rounded sums that a product goes through until it is in the result, in the slowest order of any kernel. */
  readonly additions: number;
  /** All else that is rounded on its way there, in units of EPSILON: weight, scales, products. */
  readonly roundings: number;
  /** Times the largest weight of a row: what the terms come to, that are multiplied and summed in place of weights. */
  readonly terms: number;
  /** What a norm's factor is off by beside its sum, in units of EPSILON. */
  readonly norm: number;
}

/** What a user might declare: fields in another order, codes in two fields or high nibble first, groups of 16 and 48. */
const userTypes = `
block Split3[48] {
  d  : F16
  hi : U8[6]
  lo : U8[12]
  code q[i < 48] = hi[i div 8].bits(i mod 8 +: 1) ++ lo[i mod 12].bits(2 * (i div 12) +: 2)
  value[i] = d * (q[i] - 3)
}
block HighNibble[64] {
  qs : U8[32]
  m  : F16
  sc : I8[4]
  d  : BF16
  code q[i < 64] = qs[i div 2].bits(4 - 4 * (i mod 2) +: 4)
  value[i] = d * sc[i div 16] * q[i] + m
}
block Half7[16] {
  d  : F32
  qs : U8[16]
  code q[i < 16] = qs[15 - i].bits(1 +: 7)
  value[i] = d * (q[i] - 63.5)
}
`;

/** Every type that is declared anywhere: those of dsl/, and odd ones that nobody listed. */
export const matrixTypes: readonly Type[] = [...programWith(oddTypes + userTypes).types.values()].filter(
  ({ name }) => name !== "Constant", // stores nothing to multiply
);

/** Types whose values are more than doubles hold, which only the exact evaluator decodes: for these, small matrices. */
export const wideTypes: ReadonlySet<string> = new Set(["I64", "Wide", "WideProduct", "WideScale", "FarApart"]);

/** The largest weight: two products of it with activations below 10 stay below the end of f32 when they are multiplied. */
const LARGEST_WEIGHT = 2 ** 48;

/** Random bytes of a type: where scales are fields that randomBytes knows, those; else blocks drawn until they are finite. */
export function weightBytes(type: Type, count: number, random: Random): Uint8Array {
  if (["affine", "mapped", "float"].includes(mappedStructureOf(type).kind)) return randomBytes(type, count, random);
  const { blockSize, blockBytes } = type;
  const bytes = Uint8Array.from({ length: (count / blockSize) * blockBytes }, () => random.bits());
  const values = new Float64Array(blockSize);
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const block = bytes.subarray(at, at + blockBytes);
    for (decode(type, block, values); !values.every((x) => Math.abs(x) < LARGEST_WEIGHT); decode(type, block, values)) {
      const last = random.pick([0, 3]); // zeros at the end make wide integers small
      for (let b = 0; b < blockBytes; b++) block[b] = b < blockBytes - last ? random.bits() : 0;
    }
  }
  return bytes;
}

/** What a Gemm does beside its product. */
export interface Around {
  readonly epilogue: Epilogue["kind"];
  readonly norm: boolean;
  readonly bias: boolean;
}

/** out(tokens, n) = x(tokens, k) . w(n, k)^T */
export interface Shape {
  readonly tokens: number;
  readonly n: number;
  readonly k: number;
}

export interface GemmCase extends Shape {
  readonly plan: Plan;
  readonly weights: readonly SmallWeight[];
  readonly type: Type;
  readonly x: Float32Array;
  readonly gemm: Gemm;
}

/** A random shape: rows whose length is a multiple of 16, and others where blocks let them. */
export function anyShape(type: Type, random: Random): Shape {
  const step = random.pick([type.blockSize, Math.max(type.blockSize, ACTIVATION_GROUP)]);
  const isWide = wideTypes.has(type.name);
  const n = random.integer(1, isWide ? 5 : 100);
  const k = step * random.integer(1, Math.max(2, Math.floor((isWide ? 40 : 600) / step)));
  return { n, k, tokens: random.integer(1, 19) };
}

/** One Gemm: input 0, what is added 1, then the output. */
export function gemmCase(type: Type, { tokens, n, k }: Shape, around: Around, random: Random): GemmCase {
  const x = random.normals(tokens * k);
  x[random.integer(0, x.length - 1)] = 9; // an outlier
  const inputs = [f32Weight("x", [tokens, k], x), f32Weight("from", [tokens, n], random.normals(tokens * n))];
  const linears = around.epilogue === "silu-mul" ? [0, 1] : [0];
  const others = [
    ...linears.map((i) => ({ name: `w${i}`, type, shape: [n, k], bytes: weightBytes(type, n * k, random) })),
    ...linears.map((i) => f32Weight(`b${i}`, [n], random.normals(n))),
    f32Weight("norm", [k], random.normals(k)),
  ];
  const gemm: Gemm = {
    kind: "gemm",
    input: 0,
    norm: around.norm ? { weight: "norm", eps: 1e-5 } : null,
    linears: linears.map((i) => ({ weight: `w${i}`, bias: around.bias ? `b${i}` : null })),
    epilogue: around.epilogue === "add" ? { kind: "add", from: 1 } : { kind: around.epilogue },
    out: [2],
  };
  const plan = smallPlan(inputs, others, [n], [gemm], 2);
  return { plan, weights: [...inputs, ...others], tokens, type, n, k, x, gemm };
}

/** What one product w . x may differ by between exact arithmetic and a kernel. */
export interface ProductBound {
  /** What rounding activations, or sums of them, to int8 adds. */
  readonly quantisation: number;
  /** Float operations in the order of the kernel, on terms of this total size. */
  readonly rounding: number;
}

/** @param largest of the matrix: no two of its weights lie further apart than twice that */
export function productBound(
  row: Float64Array,
  x: Float64Array,
  arithmetic: Arithmetic,
  largest: number,
): ProductBound {
  const size = x.reduce((sum, value) => sum + Math.abs(value), 0);
  const largestWeight = row.reduce((most, w) => Math.max(most, Math.abs(w)), 0);
  // Tiles sum scale * code, scale * zero and offset apart. Each may exceed the weight itself, but with random codes in
  // every group the three come to no more than 4 x the row's largest weight. Weight, scale and product are rounded too.
  const { additions, roundings, terms } = arithmetic;
  const rounding = (additions + roundings) * EPSILON * terms * largestWeight * size;
  return { quantisation: QUANTISATION[arithmetic.activations](x, row, largest), rounding };
}

const QUANTISATION: Readonly<
  Record<Arithmetic["activations"], (x: Float64Array, row: Float64Array, largest: number) => number>
> = {
  f32: () => 0,
  sums: () => 0,
  // Half a step of its group for every value, step = max|x| / 127.
  int8: (x, row) => {
    let sum = 0;
    for (let g = 0; g < x.length; g += ACTIVATION_GROUP) {
      let [greatest, weights] = [0, 0];
      for (let i = g; i < Math.min(g + ACTIVATION_GROUP, x.length); i++) {
        greatest = Math.max(greatest, Math.abs(x[i]!));
        weights += Math.abs(row[i]!);
      }
      sum += ((greatest / 127) * weights) / 2;
    }
    return sum;
  },
  // A table's step is 1 / 127 of the largest sum of four |x| in its 32; an entry is off by half of that, for the signs
  // of each bit, which count half: in all half the distance of the ends of the codes, for each four.
  fours: (x, _, largest) => {
    let sum = 0;
    for (let i = 0; i < x.length; i += 32) {
      let most = 0;
      for (let f = i; f < Math.min(i + 32, x.length); f += 4)
        most = Math.max(
          most,
          [0, 1, 2, 3].reduce((total, j) => total + Math.abs(x[f + j]!), 0),
        );
      sum += 8 * (most / 127 / 2) * ((2 * largest) / 2);
    }
    return sum;
  },
  // A table's step is 1 / 127 of the largest sum of five |x| in its 64, of which value i is one of five i mod 13. An
  // entry is off by half of that and by what rounding its five values to 1 / 128 of a step adds.
  fives: (x, _, largest) => {
    let sum = 0;
    for (let i = 0; i < x.length; i += 64) {
      const sums = new Float64Array(13);
      for (let j = 0; j < 64; j++) sums[j % 13]! += Math.abs(x[i + j]!);
      sum += 13 * (Math.max(...sums) / 127) * (1 / 2 + 5 / 2 / 128) * largest;
    }
    return sum;
  },
};

/** Largest allowed differences from the reference for each output of a case, (tokens, n): all, and without quantisation. */
export interface GemmBounds {
  readonly all: Float64Array;
  readonly rounding: Float64Array;
}

export function gemmBounds(c: GemmCase, arithmetic: Arithmetic): GemmBounds {
  const { n, k, tokens, type, gemm } = c;
  const find = (name: string): SmallWeight => c.weights.find((w) => w.name === name) as SmallWeight;
  const matrix = (name: string): Float64Array => {
    const out = new Float64Array(n * k);
    decode(type, find(name).bytes, out);
    return out;
  };
  const norm = new Float32Array(find("norm").bytes.slice().buffer);
  const all = new Float64Array(tokens * n);
  const rounding = new Float64Array(tokens * n);
  const matrices = gemm.linears.map((l) => matrix(l.weight));
  const largest = matrices.map((m) => m.reduce((most, w) => Math.max(most, Math.abs(w)), 0));
  const biases = gemm.linears.map((l) =>
    l.bias === null ? null : new Float32Array(find(l.bias).bytes.slice().buffer),
  );
  for (let t = 0; t < tokens; t++) {
    let x = Float64Array.from(c.x.subarray(t * k, (t + 1) * k));
    let normError = 0; // relative: the mean of squares, a root, a quotient, two products
    if (gemm.norm !== null) {
      const factor = 1 / Math.sqrt(x.reduce((s, v) => s + v * v, 0) / k + gemm.norm.eps);
      x = x.map((v, i) => v * factor * norm[i]!);
      normError = (k / 8 + arithmetic.norm) * EPSILON;
    }
    for (let r = 0; r < n; r++) {
      const parts = matrices.map((m, l) => {
        const row = m.subarray(r * k, (r + 1) * k);
        const b = productBound(row, x, arithmetic, largest[l]!);
        const product = row.reduce((s, w, i) => s + w * x[i]!, biases[l]?.[r] ?? 0);
        const size = row.reduce((s, w, i) => s + Math.abs(w * x[i]!), Math.abs(product));
        const extra = normError * size * 2 + 4 * EPSILON * size;
        return { product, all: b.quantisation * 1.001 + b.rounding + extra, rounding: b.rounding + extra };
      });
      const [first, second] = parts as [(typeof parts)[0], (typeof parts)[0] | undefined];
      const at = t * n + r;
      if (second === undefined) {
        all[at] = first.all + 8 * EPSILON;
        rounding[at] = first.rounding + 8 * EPSILON;
        continue;
      }
      // silu has slope at most 1.1, |silu(g)| <= |g|. An exponential that is off by e moves it by |g| e / (1 + exp(|g|)):
      // with 2^-20, and with the 3 + 2 |g| units in the last place of WGSL, it stays within 2^-20 |g|.
      const combine = (g: number, u: number): number =>
        1.1 * g * (Math.abs(second.product) + u) +
        Math.abs(first.product) * u +
        2 ** -20 * Math.abs(first.product * second.product);
      all[at] = combine(first.all, second.all) + 8 * EPSILON;
      rounding[at] = combine(first.rounding, second.rounding) + 8 * EPSILON;
    }
  }
  return { all, rounding };
}
