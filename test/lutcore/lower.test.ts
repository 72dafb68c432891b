// Products as programs: what they compute against float64, that all lowerings agree, what they count, what they may fill.

import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { decode } from "../../src/ladder/emit/codec.ts";
import { addCounts, type Counts, NO_COUNTS } from "../../src/lutcore/counts.ts";
import { load } from "../../src/lutcore/exec.ts";
import { countsOfProgram, lowerings } from "../../src/lutcore/lower.ts";
import { type Matrix, matrixOf, rightOf } from "../../src/lutcore/matrix.ts";
import { STAGE1 } from "../../src/lutcore/mode.ts";
import { PREPARE_BUFFERS, prepareProgram } from "../../src/lutcore/prepare.ts";
import { PRODUCT_BUFFERS } from "../../src/lutcore/product.ts";
import { checkProgram, type Program } from "../../src/lutcore/program.ts";
import { type Arithmetic, bitsOf, paddedRows, type Right } from "../../src/lutcore/tiling.ts";
import { Random, randomBytes, typeNamed } from "../small-plan.ts";

const ARITHMETICS: readonly Arithmetic[] = (["int8", "fp16"] as const).flatMap((activation) =>
  (["exact", "int8-table", "int8-group"] as const).flatMap((tables) =>
    (["ideal", "paper", "rtl"] as const).map((mode) => ({ mode, activation, tables })),
  ),
);
/** Planes of every width with and without corrections, groups from 16 up; bytes; floats. */
const TYPES = ["TQ2_0", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "IQ4_NL", "Q6_K", "Q8_0", "F16", "BF16"];

interface Case {
  readonly name: string;
  readonly n: number;
  readonly k: number;
  readonly tokens: number;
  readonly bytes: Uint8Array;
  readonly x: Float32Array;
}

function caseOf(name: string, n: number, k: number, tokens: number, seed: number): Case {
  const random = new Random(seed);
  const bytes = randomBytes(typeNamed(name), n * k, random);
  return { name, n, k, tokens, bytes, x: random.normals(tokens * k) };
}

function matrixIn({ name, n, k, bytes }: Case): Matrix {
  const matrix = matrixOf({ type: typeNamed(name), shape: [n, k] }, bytes);
  if (matrix.kind === "none") throw new Error(`${name}: ${matrix.reason}`);
  return matrix;
}

const view = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** Runs the programs of a lowering, with a norm that leaves activations as they are; the rows of its tokens. */
function runLowering(
  { right, codes, scales, corrections }: Matrix,
  programs: readonly { readonly program: Program }[],
  { x, k, n, tokens }: Case,
  arithmetic: Arithmetic,
): { readonly out: readonly Float32Array[]; readonly counts: Counts } {
  const rows = paddedRows(tokens);
  const mode = arithmetic.mode === "rtl" ? ({ kind: "rtl", quirks: STAGE1 } as const) : { kind: arithmetic.mode };
  const padded = new Float32Array(rows * k);
  padded.set(x);
  const at = PREPARE_BUFFERS;
  // More room than any of them needs.
  const left: Uint8Array[] = Object.values(at).map(() => new Uint8Array(rows * k * 8));
  left[at.x] = view(padded);
  left[at.factors] = view(new Float32Array(rows).fill(1));
  left[at.norm] = view(new Float32Array(k).fill(1));
  let counts = NO_COUNTS;
  for (const { program } of programs.slice(0, -1))
    counts = addCounts(counts, load(program, mode)({ parameters: [], buffers: left }));
  const out = new Float32Array(rows * right.n);
  const isTabled =
    right.form.kind === "planes" && programs.some(({ program }) => program.code.some((i) => i.kind === "st.tab"));
  const element = right.form.kind === "floats" ? right.form.element : arithmetic.activation;
  const buffers: Uint8Array[] = [];
  buffers[PRODUCT_BUFFERS.left] = left[isTabled ? at.tables : at[element]]!;
  buffers[PRODUCT_BUFFERS.tableScales] = left[at.tableScales]!;
  buffers[PRODUCT_BUFFERS.scales] = left[at.scales]!;
  buffers[PRODUCT_BUFFERS.sums] = left[at.sums]!;
  buffers[PRODUCT_BUFFERS.codes] = codes;
  buffers[PRODUCT_BUFFERS.weightScales] = scales;
  buffers[PRODUCT_BUFFERS.corrections] = corrections;
  buffers[PRODUCT_BUFFERS.out] = view(out);
  counts = addCounts(counts, load(programs.at(-1)!.program, mode)({ parameters: [], buffers }));
  return { out: Array.from({ length: tokens }, (_, t) => out.slice(t * right.n, t * right.n + n)), counts };
}

/** Activations as the machine has them: int8 with the nearest f32 scale for each 16, or of 16 bits. */
function activationsOf(x: Float32Array, { activation }: Arithmetic, { form }: Right): Float64Array {
  const out = Float64Array.from(x);
  if (form.kind === "floats" || activation === "fp16") {
    const bits = form.kind === "floats" && form.element === "bf16" ? 8 : 11;
    return out.map((v) => roundTo(v, bits));
  }
  for (let g = 0; g < x.length; g += 16) {
    const largest = x.subarray(g, g + 16).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    const [scale, inverse] = [Math.fround(largest / 127), Math.fround(127 / largest)];
    for (let i = g; i < g + 16; i++) {
      const scaled = Math.fround(x[i]! * inverse);
      const whole = Math.round(scaled);
      out[i] = scale * (Math.abs(scaled - Math.trunc(scaled)) === 0.5 && whole % 2 !== 0 ? whole - 1 : whole);
    }
  }
  return out;
}

/** Of a normal number of that format, to so many bits. */
function roundTo(x: number, bits: number): number {
  if (x === 0) return 0;
  const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x))), bits === 11 ? -14 : -126) - bits + 1);
  const [low, high] = [Math.floor(x / unit), Math.ceil(x / unit)];
  const nearer =
    x / unit - low < high - x / unit ? low : high - x / unit < x / unit - low ? high : low % 2 === 0 ? low : high;
  return nearer * unit;
}

describe.each(ARITHMETICS)("$activation activations, $tables tables, $mode", (arithmetic) => {
  test.each(TYPES)("products of %s are those of its values, up to what the machine rounds", (name) => {
    for (const [n, k, tokens, seed] of [
      [24, 256, 1, 1],
      [320, 512, 3, 2],
      [72, 768, 19, 3],
    ] as const) {
      const given = caseOf(name, n, k, tokens, seed);
      const matrix = matrixIn(given);
      const { programs } = lowerings(matrix.right, tokens, arithmetic).at(-1)!;
      const { out } = runLowering(matrix, programs, given, arithmetic);
      const weights = new Float64Array(n * k);
      decode(typeNamed(name), given.bytes, weights);
      const a = activationsOf(given.x, arithmetic, matrix.right);
      const unit = unitOf(arithmetic, matrix.right);
      for (let t = 0; t < tokens; t++) {
        for (let c = 0; c < n; c++) {
          let [sum, size] = [0, 0];
          for (let i = 0; i < k; i++) {
            sum += a[t * k + i]! * weights[c * k + i]!;
            size += largestAround(a, t * k + i) * largestAround(weights, c * k + i);
          }
          expect(Math.abs(out[t]![c]! - sum), `token ${t}, column ${c}, ${sum}`).toBeLessThanOrEqual(unit * size);
        }
      }
    }
  });
});

/** The largest of the values that share a scale or a table with one. */
function largestAround(values: Float64Array, at: number): number {
  const first = at - (at % 32);
  let largest = 0;
  for (let i = first; i < first + 32; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
}

/**
 * How much of the sum of the largest products may be lost: a rounding to f32 of scales, of corrections, and for each of at
 * most 48 + 48 steps of a sum; of fp16 in rtl, for each of 64 / 4 * 4 additions of a segment; of int8 tables, half a step of
 * 1 / 127 of the largest entry for each of 4 planes' looked up entries. Weights from planes are sums of up to 15 halves of a
 * step, and their correction may be as large again: four times.
 */
function unitOf({ mode, activation, tables }: Arithmetic, { form }: Right): number {
  const singles = 4 * 128 * 2 ** -24;
  if (form.kind !== "planes") return singles;
  const halves = mode === "rtl" && activation === "fp16" && tables === "exact" ? 4 * 64 * 2 ** -11 : 0;
  return singles + halves + (tables === "exact" ? 0 : 4 / 127);
}

test("tables made by each tile, once, and in the norm's program give the same bits", () => {
  for (const arithmetic of ARITHMETICS) {
    for (const name of ["TQ2_0", "Q4_1", "Q2_K"]) {
      const given = caseOf(name, 192, 512, 3, 4);
      const matrix = matrixIn(given);
      const [first, ...others] = lowerings(matrix.right, 3, arithmetic).map(
        ({ programs }) => runLowering(matrix, programs, given, arithmetic).out,
      );
      for (const other of others) expect(other, `${name} ${JSON.stringify(arithmetic)}`).toEqual(first);
    }
  }
});

test("what a program does is read off its text as it is counted in a run", () => {
  for (const arithmetic of ARITHMETICS.filter(({ mode }) => mode === "paper")) {
    for (const name of ["TQ2_0", "Q4_1", "Q8_0"]) {
      const given = caseOf(name, 320, 512, 5, 5);
      const matrix = matrixIn(given);
      for (const { programs } of lowerings(matrix.right, 5, arithmetic)) {
        const read = programs.reduce((sum, { program }) => addCounts(sum, countsOfProgram(program)), NO_COUNTS);
        expect(read).toEqual(runLowering(matrix, programs, given, arithmetic).counts);
      }
    }
  }
});

test("the split makes each table once, and the fusion stores and loads activations once less", () => {
  const right = rightOf(typeNamed("Q4_0"), 4096, 4096);
  if ("kind" in right) throw new Error(right.reason);
  const [repeated, split, fused] = lowerings(right, 1, { mode: "paper", activation: "fp16", tables: "exact" }).map(
    ({ programs }) => programs.reduce((sum, { program }) => addCounts(sum, countsOfProgram(program)), NO_COUNTS),
  );
  expect(split!.tables).toBe(4096 / 4);
  expect(repeated!.tables).toBe((right.n / right.tile) * (4096 / 4));
  expect(fused!.tables).toBe(split!.tables);
  expect(split!.bytes.global.written - fused!.bytes.global.written).toBe(2 * 4096);
  expect(split!.bytes.global.read - fused!.bytes.global.read).toBe(2 * 4096);
});

test("sums stay where they are while k rises: each is stored once, and none is loaded", () => {
  for (const name of [...TYPES, "F32"]) {
    const right = rightOf(typeNamed(name), 700, 1024);
    if ("kind" in right) throw new Error(right.reason);
    for (const arithmetic of ARITHMETICS) {
      for (const { programs } of lowerings(right, 40, arithmetic)) {
        const { program } = programs.at(-1)!;
        const ofOut = program.code.filter((i) => "space" in i && i.space === `g${PRODUCT_BUFFERS.out}`);
        expect(ofOut.map(({ kind }) => kind)).toEqual(["st.mat"]);
        expect(countsOfProgram(program).bytes.global.written).toBe(4 * 48 * right.n);
      }
    }
  }
});

test.each([
  ["Q4_0", 16_384, 8192],
  ["Q8_0", 49_152, 576],
  ["TQ2_0", 256, 256],
])("blocks of %s run in strips of columns whose weights half of an A100's cache holds", (name, n, k) => {
  const right = rightOf(typeNamed(name), n, k);
  if ("kind" in right) throw new Error(right.reason);
  const { program } = lowerings(right, 64, { mode: "paper", activation: "int8", tables: "exact" })
    .at(-1)!
    .programs.at(-1)!;
  const columnBytes = (k * bitsOf(right.form)) / 8;
  const stripBytes = program.swizzle * program.warps * right.tile * columnBytes;
  expect(program.gridY).toBeGreaterThan(1);
  expect(stripBytes).toBeLessThanOrEqual(20 * 2 ** 20);
  const wider = stripBytes + program.warps * right.tile * columnBytes;
  expect(program.swizzle === program.gridX || wider > 20 * 2 ** 20).toBe(true);
});

test.each([
  ["norm", ["ld.mat", "ld.mat", "ld.mat", "sacc", "cvt", "lut", "st.tab"]],
  ["gate", ["ld.mat", "ld.mat", "sacc", "cvt", "lut", "st.tab"]],
] as const)(
  "tables are made in the program of the %s before them, whose results go to no memory",
  (producer, kinds) => {
    const left = { tables: { entry: "fp32", share: null }, dense: [], sums: null } as const;
    const arithmetic = { mode: "paper", activation: "fp16", tables: "exact" } as const;
    const { code } = prepareProgram({ rows: 1, k: 512, producer, left }, arithmetic);
    expect(code.map(({ kind }) => kind).filter((kind) => !["lea", "loop", "end"].includes(kind))).toEqual(kinds);
  },
);

test("programs of any shape keep the machine's limits", () => {
  const names = fc.constantFrom(...TYPES, "F32", "IQ2_XXS");
  const shape = { n: fc.integer({ min: 1, max: 2000 }), blocks: fc.integer({ min: 1, max: 40 }) };
  const property = fc.property(
    fc.record({ name: names, ...shape, tokens: fc.integer({ min: 1, max: 200 }), a: fc.constantFrom(...ARITHMETICS) }),
    ({ name, n, blocks, tokens, a }) => {
      const type = typeNamed(name);
      const right = rightOf(type, n, blocks * Math.max(16, type.blockSize));
      if ("kind" in right) throw new Error(right.reason);
      expect(right.n % right.tile).toBe(0);
      for (const { programs } of lowerings(right, tokens, a))
        for (const { program } of programs) {
          expect(checkProgram(program)).toBeNull();
          expect(program.gridX * program.warps * right.tile === right.n || program.gridX === 1).toBe(true);
        }
    },
  );
  fc.assert(property, { numRuns: 200 });
});

test("what has no place on the machine is refused with the reason", () => {
  expect(rightOf(typeNamed("F16"), 8, 24)).toEqual({
    kind: "none",
    reason: "its rows have 24 values, and the machine's are multiples of 16",
  });
});
