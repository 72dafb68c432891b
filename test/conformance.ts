// What every backend is held to, op by op, against the reference: products with weights of every type, embeddings, codes
// and activations at their ends, NaN and infinity, rope, attention, and which rows come back. A suite over machines, each
// of which says how it computes; tolerances are derived from that (products.ts).
// Not here: what one backend alone has, which its own tests hold it to.

import { describe, expect, test } from "vitest";

import type { Backend, Chunk, Unavailable, WeightSource } from "../src/backend.ts";
import { decode } from "../src/ladder/emit/codec.ts";
import { type GroupTerm, structureOf } from "../src/ladder/layout.ts";
import type { Type } from "../src/ladder/type.ts";
import { encode } from "../src/model/encode.ts";
import type { Attention, Rope } from "../src/ops.ts";
import type { Plan } from "../src/plan.ts";
import { openReference } from "../src/reference.ts";
import { programWith } from "./ladder/program.ts";
import {
  type Arithmetic,
  type Around,
  EPSILON,
  type GemmBounds,
  gemmBounds,
  gemmCase,
  productBound,
  type Shape,
  weightBytes,
} from "./products.ts";
import {
  f32Weight,
  LARGEST_FIELD,
  PLAIN_GEMM,
  Random,
  randomBytes,
  smallPlan,
  type SmallWeight,
  typeNamed,
  weightFile,
} from "./small-plan.ts";

export const SEED = 20_261_123;

/** A backend under test, and what it promises. */
export interface Machine {
  readonly name: string;
  /** Machines of a kin sum the same integers, and differ by the order of float operations alone; null: it has none. */
  readonly kin: string | null;
  /** The same backend each time; who made the machine ends it. */
  readonly open: () => Promise<Backend>;
  /** How products of a shape with a matrix of a type are computed. */
  readonly arithmetic: (type: Type, shape: Shape) => Arithmetic;
  /** Whether weights of a type are tried: kernels of some machines take long to compile. */
  readonly tries: (type: Type) => boolean;
  /** Whether rows of an (n, k) embedding are the nearest f32 of what the type says; else a few operations are rounded. */
  readonly readsExactly: (type: Type, n: number, k: number) => boolean;
}

/** What of it is tried. */
export interface Extent {
  /** Of embeddings, with so many rows of so many values. */
  readonly embeddings: readonly { readonly type: Type; readonly rows: number; readonly k: number }[];
  /** Of matrices. */
  readonly types: readonly Type[];
  /** Products for each type; all of a type's draw from one sequence of random numbers. */
  readonly products: readonly (Around & { readonly shape: (type: Type, random: Random) => Shape })[];
  readonly heads: readonly Pick<Attention, "heads" | "kvHeads" | "headDim">[];
}

/** Heads of models, and sizes that are no power of two. */
export const USUAL_HEADS: Extent["heads"] = [
  { heads: 9, kvHeads: 3, headDim: 64 },
  { heads: 4, kvHeads: 4, headDim: 20 },
  { heads: 6, kvHeads: 2, headDim: 8 },
  { heads: 2, kvHeads: 1, headDim: 100 },
  { heads: 4, kvHeads: 2, headDim: 128 },
  { heads: 3, kvHeads: 1, headDim: 80 },
];

/** The results of some steps of a session of its own. */
export async function run(
  backend: Backend,
  plan: Plan,
  weights: WeightSource,
  batches: readonly (readonly Chunk[])[],
): Promise<Float32Array[]> {
  await using session = await backend.prepare(plan, weights);
  const out: Float32Array[] = [];
  for (const batch of batches) out.push(...(await session.step(batch)));
  return out;
}

/** Tokens of one sequence, all of whose logits are wanted. */
export function chunk(tokens: readonly number[], pos = 0, slot = 0): Chunk {
  return { slot, pos, tokens: Int32Array.from(tokens), logits: "all" };
}

export const range = (count: number, first = 0): number[] => Array.from({ length: count }, (_, i) => first + i);

/** @throws Error at the first output that differs from the reference's by more than it may */
export function expectWithin(got: Float32Array, want: Float32Array, bound: Float64Array, what: string): void {
  expect(got.length, what).toBe(want.length);
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    if (!(error <= bound[i]!))
      throw new Error(`${what}: output ${i} is ${got[i]}, the reference ${want[i]}; they may differ by ${bound[i]}`);
  }
}

/** The tests of all ops; skipped with the reason where there are no machines. */
export function conformance(title: string, machines: readonly Machine[] | Unavailable, extent: Extent): void {
  const why = "unavailable" in machines ? `; skipped: ${machines.unavailable}` : "";
  const all = "unavailable" in machines ? [] : machines;
  describe.skipIf(why !== "")(`${title} (seed ${SEED})${why}`, () => {
    products(all, extent);
    embeddings(all, extent.embeddings);
    extremes(all);
    ownTypes(all);
    specials(all);
    rope(all);
    attention(all, extent.heads);
    wantedRows(all);
  });
}

function products(machines: readonly Machine[], extent: Extent): void {
  test.each(extent.types.map((type) => [type.name, type] as const))(
    "gemm with weights of type %s, norm, bias and epilogues",
    async (_, type) => {
      const trying = machines.filter((machine) => machine.tries(type));
      const random = new Random(SEED + type.name.length * 7 + type.blockBytes);
      for (const { shape, ...around } of extent.products) {
        const c = gemmCase(type, shape(type, random), around, random);
        using weights = weightFile(c.weights);
        const batch = [[chunk(range(c.tokens))]];
        const [want] = (await run(openReference(), c.plan, weights, batch)) as [Float32Array];
        const known = new Map<string, GemmBounds>();
        const firsts = new Map<string, { readonly got: Float32Array; readonly name: string }>();
        for (const { name, kin, open, arithmetic } of trying) {
          const what = `${name}, ${around.epilogue}, (${c.tokens}, ${c.n}, ${c.k})`;
          const [got] = (await run(await open(), c.plan, weights, batch)) as [Float32Array];
          const way = arithmetic(type, c);
          const key = JSON.stringify(way);
          const bounds = known.get(key) ?? gemmBounds(c, way);
          known.set(key, bounds);
          expectWithin(got, want, bounds.all, what);
          // After a norm an activation at a tie may round the other way.
          if (kin === null || around.norm) continue;
          const first = firsts.get(kin) ?? { got, name };
          firsts.set(kin, first);
          const twice = bounds.rounding.map((r) => 2 * r);
          expectWithin(got, first.got, twice, `${what} against ${first.name}`);
        }
      }
    },
  );
}

function embeddings(machines: readonly Machine[], extent: Extent["embeddings"]): void {
  test.each(extent.map((one) => [one.type.name, one] as const))(
    "rows of an embedding of type %s are read as far as f32 goes",
    async (_, { type, rows, k }) => {
      const random = new Random(SEED + 2);
      const table: SmallWeight = { name: "e", type, shape: [rows, k], bytes: weightBytes(type, rows * k, random) };
      using weights = weightFile([table]);
      const plan = smallPlan([table], [], [], [], 0);
      const tokens = [0, 31, 32, 33, 5, rows - 1];
      const [want] = (await run(openReference(), plan, weights, [[chunk(tokens)]])) as [Float32Array];
      const largest = want.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      for (const { name, open, readsExactly } of machines.filter(({ tries }) => tries(type))) {
        const [got] = (await run(await open(), plan, weights, [[chunk(tokens)]])) as [Float32Array];
        // Scale, product and sum are rounded, of terms up to 4 x the largest.
        const off = readsExactly(type, rows, k) ? 0 : 12 * EPSILON * largest;
        expectWithin(got, want, new Float64Array(want.length).fill(off), name);
      }
    },
  );
}

function extremes(machines: readonly Machine[]): void {
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
          // scale * zero and offset apart.
          const largest = (term: GroupTerm): number =>
            Math.abs(term.constant) * LARGEST_FIELD ** term.fields.length * (term.codes ? 2 ** term.codes.bits : 1);
          const codes = 2 ** structure.codes.bits + Math.abs(structure.zero);
          const term = largest(structure.scale) * codes + (structure.offset ? largest(structure.offset) : 0);
          // In tables of their sums, of step 12 / 127, half a step for each four, halved for the signs of each bit;
          // and of step 15 / 127 for each five, with their values rounded to a 128th of it.
          const most = codes * largest(structure.scale);
          const quantisation = {
            f32: 0,
            sums: 0,
            int8: 0,
            fours: ((k / 4) * (12 / 127 / 2) * most) / 2,
            fives: ((k * 13) / 64) * (15 / 127) * (1 / 2 + 5 / 2 / 128) * most,
          };
          for (const machine of machines.filter(({ tries }) => tries(type))) {
            const { activations, additions, roundings } = machine.arithmetic(type, { tokens: 1, n: 33, k });
            const rounding = (additions + roundings) * EPSILON * k * 3 * term;
            const bound = new Float64Array(33).fill(rounding + quantisation[activations]);
            const [got] = (await run(await machine.open(), plan, weights, [[chunk([0])]])) as [Float32Array];
            expectWithin(got, want, bound, `${name}, fill ${fill}, sign ${sign}, ${machine.name}`);
          }
        }
      }
    }
  });
}

/** Six bits into a table of the person's own, evenly spaced in their cubes; and two digits below 11 in seven bits. */
const OWN_TYPES = `
import "float.ladder"
element Cubic6 = table(bits: 6, rounding: f32) [${range(64)
  .map((c) => Math.fround(((c - 31.5) / 31.5) ** 3))
  .join(", ")}]
element Pair11 = digits(base: 11, count: 2, bits: 7, order: first, zero: 5)
element Bits6  = int(bits: 6, coding: unsigned)
element Bits7  = int(bits: 7, coding: unsigned)
block OwnTable[64] { d : F16  qs : Bits6[64]
  code q[i < 64] = qs[i]
  value[i] = d * Cubic6(q[i]) }
block OwnPair[32] { d : F16  qs : Bits7[16]
  code q[v < 16] = qs[v]
  value[i] = d * Pair11(q[i div 2], i mod 2) }`;

/** Types of a person's own with the largest relative error of the encoder's. */
export const ownTypes50x256: readonly { readonly type: Type; readonly error: number }[] = (() => {
  const { types } = programWith(OWN_TYPES);
  const errors = { OwnTable: 0.1, OwnPair: 0.2 };
  return Object.entries(errors).map(([name, error]) => ({ type: types.get(name) as Type, error }));
})();

function ownTypes(machines: readonly Machine[]): void {
  test("types of a person's own, quantised by the encoder", async () => {
    for (const { type, error } of ownTypes50x256) {
      const [n, k] = [50, 256];
      const random = new Random(SEED + 7);
      const values = Float64Array.from(random.normals(n * k));
      const bytes = new Uint8Array(((n * k) / type.blockSize) * type.blockBytes);
      const squares = values.reduce((sum, x) => sum + x * x, 0);
      expect(Math.sqrt(encode(type, values, bytes) / squares), type.name).toBeLessThan(error);
      const x = random.normals(3 * k);
      const inputs = [f32Weight("x", [3, k], x)];
      const others: SmallWeight[] = [{ name: "w", type, shape: [n, k], bytes }];
      const plan = smallPlan(inputs, others, [n], [PLAIN_GEMM], 1);
      using weights = weightFile([...inputs, ...others]);
      const [want] = (await run(openReference(), plan, weights, [[chunk(range(3))]])) as [Float32Array];
      const decoded = new Float64Array(n * k);
      decode(type, bytes, decoded);
      const largest = decoded.reduce((most, w) => Math.max(most, Math.abs(w)), 0);
      for (const machine of machines) {
        const way = machine.arithmetic(type, { tokens: 3, n, k });
        const bound = Float64Array.from({ length: 3 * n }, (_, at) => {
          const row = decoded.subarray((at % n) * k, ((at % n) + 1) * k);
          const t = Math.floor(at / n);
          const b = productBound(row, Float64Array.from(x.subarray(t * k, (t + 1) * k)), way, largest);
          return b.quantisation * 1.001 + b.rounding;
        });
        const [got] = (await run(await machine.open(), plan, weights, [[chunk(range(3))]])) as [Float32Array];
        expectWithin(got, want, bound, `${type.name} ${machine.name}`);
      }
    }
  });
}

/** What of a number is no number. */
const oddOnes = (list: Float32Array): string[] => [...list].map((x) => (Number.isFinite(x) ? "" : String(x)));

function specials(machines: readonly Machine[]): void {
  test("NaN in weights and in scales, and infinite weights, show in the rows that have them and in no other", async () => {
    for (const name of ["E4M3FN", "E5M2", "Posit8", "OCP_MXFP8_E4M3", "OCP_MXFP6_E3M2", "OCP_MXFP4", "OCP_MXINT8"]) {
      const type = typeNamed(name);
      const [n, k] = [40, 64];
      const random = new Random(SEED + 6);
      const bytes = weightBytes(type, n * k, random);
      const rowBytes = (k / type.blockSize) * type.blockBytes;
      // All ones are NaN as E8M0 and E4M3FN; 0x7c and 0x80 infinity as E5M2 and NaN as a posit.
      [3, 31, 32, 39].forEach((row, s) => {
        const usual = s % 2 === 0 ? 255 : bytes[row * rowBytes]!;
        bytes[row * rowBytes] = name === "E5M2" ? 0x7c : name === "Posit8" ? 0x80 : usual;
      });
      const inputs = [f32Weight("x", [5, k], random.normals(5 * k))];
      const others: SmallWeight[] = [{ name: "w", type, shape: [n, k], bytes }];
      const plan = smallPlan(inputs, others, [n], [PLAIN_GEMM], 1);
      using weights = weightFile([...inputs, ...others]);
      const batch = [[chunk(range(5))]];
      const [want] = (await run(openReference(), plan, weights, batch)) as [Float32Array];
      const odd = oddOnes(want);
      expect(
        odd.some((x) => x !== ""),
        name,
      ).toBe(true);
      for (const machine of machines.filter(({ tries }) => tries(type))) {
        const [got] = (await run(await machine.open(), plan, weights, batch)) as [Float32Array];
        expect(oddOnes(got), `${name} ${machine.name}`).toEqual(odd);
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
    const gemm = { ...PLAIN_GEMM, linears: [{ weight: "w", bias: "b" }] };
    const plan = smallPlan(inputs, others, [40], [gemm], 1);
    using weights = weightFile([...inputs, ...others]);
    const batch = [[chunk([0, 1, 2])]];
    const [want] = (await run(openReference(), plan, weights, batch)) as [Float32Array];
    for (const { name, open, arithmetic } of machines) {
      const [got] = (await run(await open(), plan, weights, batch)) as [Float32Array];
      expect(got.subarray(0, 40), name).toEqual(bias);
      expect(got.subarray(40, 80).every(Number.isNaN), name).toBe(true);
      // Infinity has no steps of 1 / 127, and with both signs in sums it is NaN.
      const asIs = arithmetic(type, { tokens: 3, n: 40, k }).activations === "f32";
      const last = asIs ? oddOnes(want.subarray(80)) : Array<string>(40).fill("NaN");
      expect(oddOnes(got.subarray(80)), name).toEqual(last);
    }
  });
}

function rope(machines: readonly Machine[]): void {
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
        const frequencies = range(pairs).map((p) => 0.7 ** p);
        const op: Rope = { kind: "rope", value: 0, heads, headDim, pairing, frequencies, magnitude: 1.25 };
        const plan = smallPlan(inputs, [], [], [op], 0, { layers: 0, width: 0, context: 4000, slots: 1 });
        using weights = weightFile(inputs);
        const batches = [[chunk(range(7), 3000)], [chunk([4], 0)]];
        const want = await run(openReference(), plan, weights, batches);
        for (const { name, open } of machines) {
          const got = await run(await open(), plan, weights, batches);
          // A rounded sine and cosine, two products and a sum of numbers below 1.25 * 6.
          got.forEach((g, i) =>
            expectWithin(
              g,
              want[i]!,
              new Float64Array(g.length).fill(8 * EPSILON * 7.5),
              `${name} ${heads}x${headDim}`,
            ),
          );
        }
      }
    },
  );
}

function attention(machines: readonly Machine[], sizes: Extent["heads"]): void {
  test("attention over grouped heads, several sequences, and positions that came in pieces", async () => {
    const random = new Random(SEED + 5);
    for (const { heads, kvHeads, headDim } of sizes) {
      const rows = 40;
      const width = kvHeads * headDim;
      const inputs = [
        f32Weight("q", [rows, heads * headDim], random.normals(rows * heads * headDim)),
        f32Weight("k", [rows, width], random.normals(rows * width)),
        f32Weight("v", [rows, width], random.normals(rows * width)),
      ];
      const scale = 1 / Math.sqrt(headDim);
      const op: Attention = { kind: "attention", layer: 1, q: 0, k: 1, v: 2, out: 3, heads, kvHeads, headDim, scale };
      const cache = { layers: 2, width, context: 50, slots: 3 };
      const plan = smallPlan(inputs, [], [heads * headDim], [op], 3, cache);
      using weights = weightFile(inputs);
      const batches = [
        [chunk(range(17), 0, 2), chunk([30, 31, 32], 0, 0)],
        [chunk([33], 3, 0), chunk(range(20, 17), 17, 2)],
        [chunk([39, 38], 5, 2)], // positions written again: what came after them is forgotten
      ];
      const want = await run(openReference(), plan, weights, batches);
      // Keys and values are kept as halves (2^-11 relative): a score moves by at most 2^-11 sum|q||k| scale < d, the
      // weights of the softmax by twice that, on values below 6.
      const scoreError = 2 ** -11 * 6 * Math.sqrt(headDim);
      const bound = (2 * scoreError + 2 ** -11 + 2 ** -18) * 6;
      const mean = (a: Float32Array, b: Float32Array): number =>
        a.reduce((sum, v, j) => sum + (v - b[j]!) ** 2, 0) / a.length;
      for (const { name, open } of machines) {
        const got = await run(await open(), plan, weights, batches);
        const what = `${name} ${heads}/${kvHeads}x${headDim}`;
        got.forEach((g, i) => expectWithin(g, want[i]!, new Float64Array(g.length).fill(bound), what));
        // Rounding errors are as often up as down: the mean square must lie far below the worst case.
        got.forEach((g, i) => expect(mean(g, want[i]!), what).toBeLessThan((2 ** -9) ** 2));
      }
    }
  });
}

function wantedRows(machines: readonly Machine[]): void {
  test("only the wanted rows come back, in the order of the chunks", async () => {
    const inputs = [f32Weight("x", [600, 3], Float32Array.from(range(1800)))];
    const plan = smallPlan(inputs, [], [], [], 0, { layers: 0, width: 0, context: 600, slots: 2 });
    using weights = weightFile(inputs);
    const batch: Chunk[] = [
      { slot: 0, pos: 0, tokens: Int32Array.from(range(300)), logits: "last" }, // longer than one pass
      { slot: 1, pos: 0, tokens: Int32Array.of(500, 501), logits: "none" },
      { slot: 1, pos: 2, tokens: Int32Array.of(502, 503), logits: "all" },
    ];
    for (const { name, open } of machines) {
      const got = await run(await open(), plan, weights, [batch]);
      expect(
        got.map((g) => [...g]),
        name,
      ).toEqual([[897, 898, 899], [], [1506, 1507, 1508, 1509, 1510, 1511]]);
    }
  });
}
