// The native backend against the reference, op by op: every type, random shapes with ragged sizes, every instruction
// set that this machine has, one thread and two. Tolerances are derived where they are used.

import { afterAll, describe, expect, test } from "vitest";

import type { Backend, Chunk, WeightSource } from "../../src/backend.ts";
import { openCpu } from "../../src/cpu/backend.ts";
import { loadAddon } from "../../src/cpu/native.ts";
import { codesOf, type Kernel, methodsFor } from "../../src/cpu/tuner.ts";
import { type Placement, Placements, type Tiles } from "../../src/cpu/layout.ts";
import { decode } from "../../src/ladder/emit/codec.ts";
import { encode } from "../../src/model/encode.ts";
import { type GroupTerm, mappedStructureOf, structureOf } from "../../src/ladder/layout.ts";
import type { Type } from "../../src/ladder/type.ts";
import type { Gemm, Op, Rope } from "../../src/ops.ts";
import type { Plan } from "../../src/plan.ts";
import { openReference } from "../../src/reference.ts";
import {
  PLAIN_GEMM,
  LARGEST_FIELD,
  f32Weight,
  Random,
  randomBytes,
  type SmallWeight,
  smallPlan,
  typeNamed,
  weightFile,
} from "../small-plan.ts";
import { oddTypes, programWith } from "../ladder/program.ts";

const SEED = 20_261_123;
const ACTIVATION_GROUP = 16; // values that share one int8 scale
const EPSILON = 2 ** -24; // half a unit in the last place of f32

const addon = loadAddon();
const isas = "unavailable" in addon ? [] : addon.isas();
/** Kernels for integers; a matrix that those of a family cannot run is multiplied by dot products. */
const families = ["dot", "lookup", "ternary"] as const;
const machines = isas.flatMap((isa) =>
  families
    .filter((family) => methodsFor(isa, { bits: 2, plain: true, ternary: true }).includes(family))
    .flatMap((family) => [1, 2].map((threads) => ({ isa, threads, family, name: `${isa} ${family}` }))),
);
type Machine = (typeof machines)[number];
const backends = new Map<string, Backend>();

function cpu({ isa, threads, family }: Omit<Machine, "name">): Backend {
  const key = `${isa}/${threads}/${family}`;
  let backend = backends.get(key);
  if (backend === undefined) {
    const choose = (tiles: Tiles): Kernel => ({
      method: methodsFor(isa, codesOf(tiles)).includes(family) ? family : "dot",
      ahead: family === "dot" ? 0 : 1024,
    });
    const opened = openCpu({ isa, threads, choose });
    if ("unavailable" in opened) throw new Error(opened.unavailable);
    backends.set(key, (backend = opened));
  }
  return backend;
}

afterAll(async () => {
  for (const backend of backends.values()) await backend[Symbol.asyncDispose]();
});

async function run(
  backend: Backend,
  plan: Plan,
  weights: WeightSource,
  batches: readonly (readonly Chunk[])[],
): Promise<Float32Array[]> {
  const session = await backend.prepare(plan, weights);
  const out: Float32Array[] = [];
  for (const batch of batches) out.push(...(await session.step(batch)));
  await session[Symbol.asyncDispose]();
  return out;
}

function chunk(tokens: readonly number[], pos = 0, slot = 0): Chunk {
  return { slot, pos, tokens: Int32Array.from(tokens), logits: "all" };
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

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
const program = programWith(oddTypes + userTypes);
const matrixTypes = [...program.types.values()].filter(({ name }) => name !== "Constant"); // stores nothing to multiply

/** How an (n, k) matrix of a type is kept. */
function placementOf(type: Type, n: number, k: number): Placement {
  return new Placements().of({ name: "w", type, shape: [n, k], file: 0, byteOffset: 0, byteLength: 0 }, "matrix");
}

/** Types whose values are more than doubles hold, which only the exact evaluator decodes: for these, small matrices. */
const wideTypes = new Set(["I64", "Wide", "WideProduct", "WideScale", "FarApart"]);

/** The largest weight: two products of it with activations below 10 stay below the end of f32 when they are multiplied. */
const LARGEST_WEIGHT = 2 ** 48;

/** Random bytes of a type: where scales are fields that randomBytes knows, those; else blocks drawn until they are finite. */
function weightBytes(type: Type, count: number, random: Random): Uint8Array {
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

/** Rounded sums that a product goes through until it is in the result, in the slowest order of any kernel. */
function additions(placement: Placement, k: number): number {
  if (placement.kind === "rows") return k;
  const { group, product } = placement;
  return (product.kind === "table" ? group : group / ACTIVATION_GROUP) + k / group;
}

interface GemmCase {
  readonly plan: Plan;
  readonly weights: readonly SmallWeight[];
  readonly tokens: number;
  readonly type: Type;
  readonly n: number;
  readonly k: number;
  readonly x: Float32Array;
  readonly gemm: Gemm;
}

/** One Gemm of a random shape: input 0, what is added 1, then the output. */
function gemmCase(
  type: Type,
  epilogue: "store" | "add" | "silu-mul",
  withNorm: boolean,
  withBias: boolean,
  random: Random,
): GemmCase {
  // Rows whose length is a multiple of 16, and others where blocks let them.
  const step = random.pick([type.blockSize, Math.max(type.blockSize, ACTIVATION_GROUP)]);
  const isWide = wideTypes.has(type.name);
  const n = random.integer(1, isWide ? 5 : 100);
  const k = step * random.integer(1, Math.max(2, Math.floor((isWide ? 40 : 600) / step)));
  const tokens = random.integer(1, 19);
  const x = random.normals(tokens * k);
  x[random.integer(0, x.length - 1)] = 9; // an outlier
  const inputs = [f32Weight("x", [tokens, k], x), f32Weight("from", [tokens, n], random.normals(tokens * n))];
  const linears = range(epilogue === "silu-mul" ? 2 : 1);
  const others = [
    ...linears.map((i) => ({ name: `w${i}`, type, shape: [n, k], bytes: weightBytes(type, n * k, random) })),
    ...linears.map((i) => f32Weight(`b${i}`, [n], random.normals(n))),
    f32Weight("norm", [k], random.normals(k)),
  ];
  const gemm: Gemm = {
    kind: "gemm",
    input: 0,
    norm: withNorm ? { weight: "norm", eps: 1e-5 } : null,
    linears: linears.map((i) => ({ weight: `w${i}`, bias: withBias ? `b${i}` : null })),
    epilogue: epilogue === "add" ? { kind: "add", from: 1 } : { kind: epilogue },
    out: [2],
  };
  const plan = smallPlan(inputs, others, [n], [gemm], 2);
  return { plan, weights: [...inputs, ...others], tokens, type, n, k, x, gemm };
}

/** What one product w . x may differ by between exact arithmetic and a kernel. */
interface ProductBound {
  /** Rounding of activations to int8: half a step of its group for every value, step = max|x| / 127. */
  readonly quantisation: number;
  /** Float operations in the order of the kernel, on terms of this total size. */
  readonly rounding: number;
}

/** Whether the kernels of a family run a matrix that is kept so. */
function runs(placement: Placement, family: Machine["family"]): boolean {
  return placement.kind === "tiles" && methodsFor("scalar", codesOf(placement)).includes(family);
}

/** @param largest of the matrix: no two of its weights lie further apart than twice that */
function productBound(
  row: Float64Array,
  x: Float64Array,
  placement: Placement,
  family: Machine["family"],
  largest: number,
): ProductBound {
  const k = row.length;
  const quantised = placement.kind === "tiles" && placement.product.kind === "integer";
  let quantisation = 0;
  let size = 0;
  let largestWeight = 0;
  for (const w of row) largestWeight = Math.max(largestWeight, Math.abs(w));
  for (let g = 0; g < k; g += ACTIVATION_GROUP) {
    let greatest = 0;
    let weights = 0;
    for (let i = g; i < Math.min(g + ACTIVATION_GROUP, k); i++) {
      greatest = Math.max(greatest, Math.abs(x[i] as number));
      weights += Math.abs(row[i] as number);
      size += Math.abs(x[i] as number);
    }
    if (quantised) quantisation += ((greatest / 127) * weights) / 2;
  }
  if (family === "ternary" && runs(placement, family)) {
    // A table's step is 1 / 127 of the largest sum of five |x| in its 64, of which value i is one of five i mod 13. An
    // entry is off by half of that and by what rounding its five values to 1 / 128 of a step adds.
    quantisation = 0;
    for (let i = 0; i < k; i += 64) {
      const sums = new Float64Array(13);
      for (let j = 0; j < 64; j++) sums[j % 13]! += Math.abs(x[i + j] as number);
      quantisation += 13 * (Math.max(...sums) / 127) * (1 / 2 + 5 / 2 / 128) * largest;
    }
  }
  if (family === "lookup" && runs(placement, family)) {
    // A table's step is 1 / 127 of the largest sum of four |x| in its 32; an entry is off by half of that, for the signs
    // of each bit, which count half: in all half the distance of the ends of the codes, for each four.
    quantisation = 0;
    for (let i = 0; i < k; i += 32) {
      let most = 0;
      for (let f = i; f < Math.min(i + 32, k); f += 4)
        most = Math.max(
          most,
          [0, 1, 2, 3].reduce((sum, j) => sum + Math.abs(x[f + j] as number), 0),
        );
      quantisation += 8 * (most / 127 / 2) * ((2 * largest) / 2);
    }
  }
  // Tiles sum scale * code, scale * zero and offset apart. Each may exceed the weight itself, but with random codes in
  // every group the three come to no more than 4 x the row's largest weight. Weight, scale and product are rounded too.
  const terms = placement.kind === "tiles" ? 4 : 1;
  return { quantisation, rounding: (additions(placement, k) + 6) * EPSILON * terms * largestWeight * size };
}

/** Largest allowed |native - reference| for each output of the case, (tokens, n). */
function gemmBounds(c: GemmCase, family: Machine["family"]): { bound: Float64Array; rounding: Float64Array } {
  const { n, k, tokens, type, gemm } = c;
  const placement = placementOf(type, n, k);
  const find = (name: string): SmallWeight => c.weights.find((w) => w.name === name) as SmallWeight;
  const matrix = (name: string): Float64Array => {
    const out = new Float64Array(n * k);
    decode(type, find(name).bytes, out);
    return out;
  };
  const norm = new Float32Array(find("norm").bytes.slice().buffer);
  const bound = new Float64Array(tokens * n);
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
      x = x.map((v, i) => v * factor * (norm[i] as number));
      normError = (k / 8 + 16) * EPSILON;
    }
    for (let r = 0; r < n; r++) {
      const parts = matrices.map((m, l) => {
        const row = m.subarray(r * k, (r + 1) * k);
        const b = productBound(row, x, placement, family, largest[l] as number);
        const product = row.reduce((s, w, i) => s + w * (x[i] as number), biases[l]?.[r] ?? 0);
        const size = row.reduce((s, w, i) => s + Math.abs(w * (x[i] as number)), Math.abs(product));
        const extra = normError * size * 2 + 4 * EPSILON * size;
        return { product, all: b.quantisation * 1.001 + b.rounding + extra, rounding: b.rounding + extra };
      });
      const [first, second] = parts as [(typeof parts)[0], (typeof parts)[0] | undefined];
      const at = t * n + r;
      if (second === undefined) {
        bound[at] = first.all + 8 * EPSILON;
        rounding[at] = first.rounding + 8 * EPSILON;
        continue;
      }
      // silu has slope at most 1.1, |silu(g)| <= |g|; the native exponential is within 2^-20.
      const combine = (g: number, u: number): number =>
        1.1 * g * (Math.abs(second.product) + u) +
        Math.abs(first.product) * u +
        2 ** -20 * Math.abs(first.product * second.product);
      bound[at] = combine(first.all, second.all) + 8 * EPSILON;
      rounding[at] = combine(first.rounding, second.rounding) + 8 * EPSILON;
    }
  }
  return { bound, rounding };
}

function expectWithin(got: Float32Array, want: Float32Array, bound: Float64Array, what: string): void {
  expect(got.length, what).toBe(want.length);
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs((got[i] as number) - (want[i] as number));
    if (!(error <= (bound[i] as number)))
      throw new Error(`${what}: output ${i} is ${got[i]}, the reference ${want[i]}; they may differ by ${bound[i]}`);
  }
}

const why = "unavailable" in addon ? `; skipped: ${addon.unavailable}` : "";

describe.skipIf(why !== "")(`native ops equal the reference's (seed ${SEED})${why}`, () => {
  describe.each(matrixTypes.map((type) => [type.name, type] as const))("gemm with weights of type %s", (_, type) => {
    test("on random shapes, with norm, bias and every epilogue", async () => {
      const random = new Random(SEED + type.name.length * 7 + type.blockBytes);
      for (const epilogue of ["store", "add", "silu-mul"] as const)
        for (const [withNorm, withBias] of [
          [false, false],
          [true, false],
          [true, true],
        ] as const) {
          const c = gemmCase(type, epilogue, withNorm, withBias, random);
          using weights = weightFile(c.weights);
          const batch = [[chunk(range(c.tokens))]];
          const [want] = (await run(openReference(), c.plan, weights, batch)) as [Float32Array];
          const bounds = {
            dot: gemmBounds(c, "dot"),
            lookup: gemmBounds(c, "lookup"),
            ternary: gemmBounds(c, "ternary"),
          };
          const firsts = new Map<string, Float32Array>();
          for (const machine of machines) {
            const { isa, threads, family } = machine;
            const what = `${isa} ${family}, ${threads} threads, ${epilogue}, (${c.tokens}, ${c.n}, ${c.k})`;
            const [got] = (await run(cpu(machine), c.plan, weights, batch)) as [Float32Array];
            const { bound, rounding } = bounds[family];
            expectWithin(got, want, bound, what);
            // All kernels of a family share the integers: what they differ by is the order of float operations alone.
            // (After a norm an activation at a tie may round the other way, so only without.)
            const first = firsts.get(family) ?? got;
            firsts.set(family, first);
            if (!withNorm)
              expectWithin(
                got,
                first,
                rounding.map((r) => 2 * r),
                `${what} against ${isas[0]}`,
              );
          }
        }
    });

    test("gives the same bits for a token alone or among others, on any number of threads", async () => {
      const random = new Random(SEED + 1);
      const c = gemmCase(type, "store", true, false, random);
      using weights = weightFile(c.weights);
      for (const machine of machines.filter(({ threads }) => threads === 2)) {
        const [together] = (await run(cpu(machine), c.plan, weights, [[chunk(range(c.tokens))]])) as [Float32Array];
        const alone = await run(
          cpu({ ...machine, threads: 1 }),
          c.plan,
          weights,
          range(c.tokens).map((t) => [chunk([t])]),
        );
        expect(Buffer.concat(alone.map((a) => Buffer.from(a.buffer, a.byteOffset, a.byteLength)))).toEqual(
          Buffer.from(together.buffer, together.byteOffset, together.byteLength),
        );
      }
    });

    test("reads rows of an embedding exactly as far as f32 goes", async () => {
      const random = new Random(SEED + 2);
      const k = type.blockSize * Math.ceil(64 / type.blockSize);
      const rows = 70;
      const table: SmallWeight = { name: "e", type, shape: [rows, k], bytes: weightBytes(type, rows * k, random) };
      using weights = weightFile([table]);
      const plan = smallPlan([table], [], [], [], 0);
      const tokens = [0, 69, 31, 32, 33, 5];
      const [want] = (await run(openReference(), plan, weights, [[chunk(tokens)]])) as [Float32Array];
      // A half times a code of 8 bits is exact. Else scale, product and sum are rounded, of terms up to 4 x the largest.
      const structure = structureOf(type);
      const placement = placementOf(type, rows, k);
      const exact =
        structure.kind === "float" ||
        (placement.kind === "rows" && placement.format !== "f32") ||
        (structure.kind === "affine" &&
          placement.kind === "tiles" &&
          structure.offset === null &&
          Number.isInteger(structure.zero) &&
          structure.scale.fields.every((f) => f.format !== "f32"));
      const largest = want.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      const bound = new Float64Array(want.length).fill(exact ? 0 : 12 * EPSILON * largest);
      for (const machine of machines) {
        const [got] = (await run(cpu(machine), plan, weights, [[chunk(tokens)]])) as [Float32Array];
        expectWithin(got, want, bound, machine.name);
      }
    });
  });

  test("extremes: codes at their ends against activations at theirs do not overflow", async () => {
    for (const name of ["Q1_0", "TQ2_0", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_1", "Q6_K", "Q8_0"]) {
      const type = typeNamed(name);
      const k = 512;
      for (const fill of [0x00, 0xff, 0x7f, 0x80]) {
        const bytes = randomBytes(type, 33 * k, new Random(SEED));
        const structure = structureOf(type);
        if (structure.kind !== "affine") throw new Error(name);
        const scales = new Set(
          [...structure.scale.fields, ...(structure.offset?.fields ?? [])].flatMap((f) => [f.byte, f.byte + 1]),
        );
        bytes.forEach((_, i) => {
          if (!scales.has(i % type.blockBytes)) bytes[i] = fill;
        });
        for (const sign of [1, -1]) {
          const inputs = [f32Weight("x", [1, k], new Float32Array(k).fill(sign * 3))];
          const others: SmallWeight[] = [{ name: "w", type, shape: [33, k], bytes }];
          const plan = smallPlan(inputs, others, [33], [PLAIN_GEMM], 1);
          using weights = weightFile([...inputs, ...others]);
          const [want] = (await run(openReference(), plan, weights, [[chunk([0])]])) as [Float32Array];
          // Equal activations quantise without error (127 steps), so only float rounding is left: of scale * code,
          // scale * zero and offset apart, each in at most k / 16 additions, a product and a conversion.
          const largest = (term: GroupTerm): number =>
            Math.abs(term.constant) * LARGEST_FIELD ** term.fields.length * (term.codes ? 2 ** term.codes.bits : 1);
          const codes = 2 ** structure.codes.bits + Math.abs(structure.zero);
          const term = largest(structure.scale) * codes + (structure.offset ? largest(structure.offset) : 0);
          const rounding = (k / 16 + 4) * EPSILON * k * 3 * term;
          // In tables of their sums, of step 12 / 127, half a step for each four, halved for the signs of each bit.
          const tables = ((k / 4) * (12 / 127 / 2) * codes * largest(structure.scale)) / 2;
          // And of step 15 / 127 for each five, with their values rounded to a 128th of it.
          const fives = ((k * 13) / 64) * (15 / 127) * (1 / 2 + 5 / 2 / 128) * codes * largest(structure.scale);
          for (const machine of machines) {
            const { family } = machine;
            const isRun = runs(placementOf(type, 33, k), family);
            const error = isRun && family !== "dot" ? { lookup: tables, ternary: fives }[family] : 0;
            const bound = new Float64Array(33).fill(rounding + error);
            const [got] = (await run(cpu(machine), plan, weights, [[chunk([0])]])) as [Float32Array];
            expectWithin(got, want, bound, `${name}, fill ${fill}, sign ${sign}, ${machine.name}`);
          }
        }
      }
    }
  });

  test("types of a person's own, quantised by the encoder, run in the family that their numbers ask for", async () => {
    // Six bits into a table of the person's own, evenly spaced in their cubes; and two digits below 11 in seven bits.
    const cubes = Array.from({ length: 64 }, (_, c) => Math.fround(((c - 31.5) / 31.5) ** 3));
    const own = programWith(`
import "float.ladder"
element Cubic6 = table(bits: 6, rounding: f32) [${cubes.join(", ")}]
element Pair11 = digits(base: 11, count: 2, bits: 7, order: first, zero: 5)
element Bits6  = int(bits: 6, coding: unsigned)
element Bits7  = int(bits: 7, coding: unsigned)
block OwnTable[64] { d : F16  qs : Bits6[64]
  code q[i < 64] = qs[i]
  value[i] = d * Cubic6(q[i]) }
block OwnPair[32] { d : F16  qs : Bits7[16]
  code q[v < 16] = qs[v]
  value[i] = d * Pair11(q[i div 2], i mod 2) }`);
    const expected = { OwnTable: ["table", 8, 0.1], OwnPair: ["integer", 4, 0.2] } as const;
    for (const [name, [family, bits, error]] of Object.entries(expected)) {
      const type = own.types.get(name) as Type;
      const [n, k] = [50, 256];
      const placement = placementOf(type, n, k);
      expect(placement, name).toMatchObject({ kind: "tiles", bits, product: { kind: family } });
      const random = new Random(SEED + 7);
      const values = Float64Array.from(random.normals(n * k));
      const bytes = new Uint8Array(((n * k) / type.blockSize) * type.blockBytes);
      const squares = values.reduce((sum, x) => sum + x * x, 0);
      expect(Math.sqrt(encode(type, values, bytes) / squares), name).toBeLessThan(error);
      const x = random.normals(3 * k);
      const inputs = [f32Weight("x", [3, k], x)];
      const others: SmallWeight[] = [{ name: "w", type, shape: [n, k], bytes }];
      const gemm: Op = {
        kind: "gemm",
        input: 0,
        norm: null,
        linears: [{ weight: "w", bias: null }],
        epilogue: { kind: "store" },
        out: [1],
      };
      const plan = smallPlan(inputs, others, [n], [gemm], 1);
      using weights = weightFile([...inputs, ...others]);
      const [want] = (await run(openReference(), plan, weights, [[chunk(range(3))]])) as [Float32Array];
      const decoded = new Float64Array(n * k);
      decode(type, bytes, decoded);
      const bound = Float64Array.from({ length: 3 * n }, (_, at) => {
        const row = decoded.subarray((at % n) * k, ((at % n) + 1) * k);
        const t = Math.floor(at / n);
        const vector = Float64Array.from(x.subarray(t * k, (t + 1) * k));
        const b = productBound(row, vector, placement, "dot", 0); // neither can be looked up
        return b.quantisation * 1.001 + b.rounding;
      });
      for (const machine of machines) {
        const [got] = (await run(cpu(machine), plan, weights, [[chunk(range(3))]])) as [Float32Array];
        expectWithin(got, want, bound, `${name} ${machine.name}`);
      }
    }
  });

  test("NaN in weights and in scales, and infinite weights, show in the rows that have them and in no other", async () => {
    for (const name of ["E4M3FN", "E5M2", "Posit8", "OCP_MXFP8_E4M3", "OCP_MXFP6_E3M2", "OCP_MXFP4", "OCP_MXINT8"]) {
      const type = typeNamed(name);
      const [n, k] = [40, 64];
      const random = new Random(SEED + 6);
      const bytes = weightBytes(type, n * k, random);
      const rowBytes = (k / type.blockSize) * type.blockBytes;
      const special = [3, 31, 32, 39];
      // All ones are NaN as E8M0 and E4M3FN; 0x7c and 0x80 infinity as E5M2 and NaN as a posit.
      special.forEach(
        (row, s) =>
          (bytes[row * rowBytes] =
            name === "E5M2" ? 0x7c : name === "Posit8" ? 0x80 : s % 2 === 0 ? 255 : bytes[row * rowBytes]!),
      );
      const inputs = [f32Weight("x", [5, k], random.normals(5 * k))];
      const others: SmallWeight[] = [{ name: "w", type, shape: [n, k], bytes }];
      const gemm: Op = {
        kind: "gemm",
        input: 0,
        norm: null,
        linears: [{ weight: "w", bias: null }],
        epilogue: { kind: "store" },
        out: [1],
      };
      const plan = smallPlan(inputs, others, [n], [gemm], 1);
      using weights = weightFile([...inputs, ...others]);
      const batch = [[chunk(range(5))]];
      const [want] = (await run(openReference(), plan, weights, batch)) as [Float32Array];
      const odd = [...want].map((x) => (Number.isFinite(x) ? "" : String(x)));
      expect(
        odd.some((x) => x !== ""),
        name,
      ).toBe(true);
      for (const machine of machines) {
        const [got] = (await run(cpu(machine), plan, weights, batch)) as [Float32Array];
        expect(
          [...got].map((x) => (Number.isFinite(x) ? "" : String(x))),
          `${name} ${machine.name}`,
        ).toEqual(odd);
      }
    }
  });

  test("zero activations give the bias alone; NaN and infinity reach every output", async () => {
    const type = typeNamed("Q4_1");
    const k = 64;
    const random = new Random(SEED + 3);
    const x = new Float32Array(3 * k);
    x[k + 5] = NaN;
    x[2 * k + 40] = Infinity;
    const inputs = [f32Weight("x", [3, k], x)];
    const bias = random.normals(40);
    const others = [
      { name: "w", type, shape: [40, k], bytes: randomBytes(type, 40 * k, random) },
      f32Weight("b", [40], bias),
    ];
    const gemm: Op = {
      kind: "gemm",
      input: 0,
      norm: null,
      linears: [{ weight: "w", bias: "b" }],
      epilogue: { kind: "store" },
      out: [1],
    };
    const plan = smallPlan(inputs, others, [40], [gemm], 1);
    using weights = weightFile([...inputs, ...others]);
    for (const machine of machines) {
      const [got] = (await run(cpu(machine), plan, weights, [[chunk([0, 1, 2])]])) as [Float32Array];
      expect(got.subarray(0, 40), machine.name).toEqual(bias);
      expect(got.subarray(40).every(Number.isNaN), machine.name).toBe(true);
    }
  });

  test.each(["adjacent", "split"] as const)(
    "rope turns %s pairs and leaves the rest of a head alone",
    async (pairing) => {
      const random = new Random(SEED + 4);
      for (const [heads, headDim, pairs] of [
        [3, 64, 32],
        [5, 20, 6],
        [1, 2, 1],
      ] as const) {
        const inputs = [f32Weight("x", [7, heads * headDim], random.normals(7 * heads * headDim))];
        const op: Rope = {
          kind: "rope",
          value: 0,
          heads,
          headDim,
          pairing,
          frequencies: range(pairs).map((p) => 0.7 ** p),
          magnitude: 1.25,
        };
        const plan = smallPlan(inputs, [], [], [op], 0, { layers: 0, width: 0, context: 4000, slots: 1 });
        using weights = weightFile(inputs);
        const batches = [[chunk(range(7), 3000)], [chunk([4], 0)]];
        const want = await run(openReference(), plan, weights, batches);
        for (const machine of machines) {
          const got = await run(cpu(machine), plan, weights, batches);
          // A rounded sine and cosine, two products and a sum of numbers below 1.25 * 6.
          got.forEach((g, i) =>
            expectWithin(g, want[i] as Float32Array, new Float64Array(g.length).fill(8 * EPSILON * 7.5), machine.name),
          );
        }
      }
    },
  );

  test("attention over grouped heads, several sequences, and positions that came in pieces", async () => {
    const random = new Random(SEED + 5);
    for (const [heads, kvHeads, headDim] of [
      [9, 3, 64],
      [4, 4, 20],
      [6, 2, 8],
      [2, 1, 100],
      [4, 2, 128],
      [3, 1, 80],
    ] as const) {
      const rows = 40;
      const inputs = [
        f32Weight("q", [rows, heads * headDim], random.normals(rows * heads * headDim)),
        f32Weight("k", [rows, kvHeads * headDim], random.normals(rows * kvHeads * headDim)),
        f32Weight("v", [rows, kvHeads * headDim], random.normals(rows * kvHeads * headDim)),
      ];
      const scale = 1 / Math.sqrt(headDim);
      const op: Op = { kind: "attention", layer: 1, q: 0, k: 1, v: 2, out: 3, heads, kvHeads, headDim, scale };
      const plan = smallPlan(inputs, [], [heads * headDim], [op], 3, {
        layers: 2,
        width: kvHeads * headDim,
        context: 50,
        slots: 3,
      });
      using weights = weightFile(inputs);
      const batches = [
        [chunk(range(17), 0, 2), chunk([30, 31, 32], 0, 0)],
        [
          chunk([33], 3, 0),
          chunk(
            range(20).map((i) => i + 17),
            17,
            2,
          ),
        ],
        [chunk([39, 38], 5, 2)], // positions written again: what came after them is forgotten
      ];
      const want = await run(openReference(), plan, weights, batches);
      // Keys and values are kept as halves (2^-11 relative): a score moves by at most 2^-11 sum|q||k| scale < d, the
      // weights of the softmax by twice that, on values below 6.
      const scoreError = 2 ** -11 * 6 * Math.sqrt(headDim);
      const bound = (2 * scoreError + 2 ** -11 + 2 ** -18) * 6;
      for (const machine of machines) {
        const got = await run(cpu(machine), plan, weights, batches);
        got.forEach((g, i) =>
          expectWithin(
            g,
            want[i] as Float32Array,
            new Float64Array(g.length).fill(bound),
            `${machine.name} ${heads}/${kvHeads}x${headDim}`,
          ),
        );
        const mean = (a: Float32Array, b: Float32Array): number =>
          a.reduce((s, v, j) => s + (v - (b[j] as number)) ** 2, 0) / a.length;
        // Rounding errors are as often up as down: the mean square must lie far below the worst case.
        got.forEach((g, i) => expect(mean(g, want[i] as Float32Array), machine.name).toBeLessThan((2 ** -9) ** 2));
      }
    }
  });

  test("only the wanted rows come back, in the order of the chunks", async () => {
    const inputs = [f32Weight("x", [600, 3], Float32Array.from(range(1800)))];
    const plan = smallPlan(inputs, [], [], [], 0, { layers: 0, width: 0, context: 600, slots: 2 });
    using weights = weightFile(inputs);
    const batch: Chunk[] = [
      { slot: 0, pos: 0, tokens: Int32Array.from(range(300)), logits: "last" }, // longer than one pass
      { slot: 1, pos: 0, tokens: Int32Array.of(500, 501), logits: "none" },
      { slot: 1, pos: 2, tokens: Int32Array.of(502, 503), logits: "all" },
    ];
    for (const machine of machines) {
      const got = await run(cpu(machine), plan, weights, [batch]);
      expect(got.map((g) => [...g])).toEqual([[897, 898, 899], [], [1506, 1507, 1508, 1509, 1510, 1511]]);
    }
  });
});
