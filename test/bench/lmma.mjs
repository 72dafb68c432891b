// How fast the LMMA machine runs in JavaScript, on one core: a row of 4096 activations times 4096 x 4096 weights, from
// activations to sums, as two programs: tables once, then products that look them up. Prints a Markdown table.
//   node test/bench/lmma.mjs [words of a row's name]
// A median of rounds of processor time, that of the garbage collector and compiler included, after a warm-up; not a test,
// since machines are shared. Not here: what is right (test/lutcore).

import { load } from "../../dist/src/lutcore/exec.js";
import { STAGE1 } from "../../dist/src/lutcore/mode.js";

const SIZE = 4096;
const ROUNDS = 9;
/** K of one instruction; with 256 columns of 2 planes or 128 of 4, it takes 8 KiB, the most that a fragment holds. */
const K = 128;
const NIL = 31;
const BX = 28;

const settings = { gridY: 1, swizzle: 1, warps: 1, registers: 256, shared: 0, buffers: 3 };
const at = (space, base) => ({ space, base, offset: 0, stride: 0 });
const lea = (to, left, factor, right, addend) => ({ kind: "lea", to, left, factor, right, addend });
const loop = (times, ...body) => [{ kind: "loop", count: NIL, times }, ...body, { kind: "end" }];

/** Tables of all activations, and their int8 form with a scale for each 8 where the product takes that. */
function tablesProgram(activation, entry, share) {
  const [activationBytes, entryBytes] = [bytesOf(activation) * K, (bytesOf(share === 0 ? entry : "int8") * K * 8) / 4];
  const scaleBytes = share === 0 ? 0 : K / share;
  return {
    ...settings,
    gridX: 1,
    code: loop(
      SIZE / K,
      { kind: "ld.mat", rows: 1, columns: K, element: activation, order: "rows", to: 0, ...at("g0", 0) },
      { kind: "lut", m: 1, k: K, activation, entry, to: 8, from: 0 },
      ...(share === 0
        ? []
        : [
            { kind: "lutq", m: 1, k: K, entry, share, to: 40, scales: 60, from: 8 },
            { kind: "st.mat", rows: 1, columns: K / 4 / share, element: "fp32", from: 60, ...at("g2", 2) },
          ]),
      { kind: "st.tab", m: 1, k: K, entry: share === 0 ? entry : "int8", from: share === 0 ? 8 : 40, ...at("g1", 1) },
      lea(0, 0, 1, NIL, activationBytes),
      lea(1, 1, 1, NIL, entryBytes),
      lea(2, 2, 1, NIL, scaleBytes),
    ),
  };
}

/** A block for each n columns: their sums over all k stay in registers. */
function productProgram({ activation, weight, entry, accumulate, share }) {
  const n = 512 / planesOf(weight);
  const types = { m: 1, n, k: K, activation, weight, accumulate, out: accumulate };
  const step = (n * K * planesOf(weight)) / 8;
  const registers = { to: 200, table: 0, weights: 100, addend: 200 };
  const product =
    share === 0
      ? { kind: "lmma", ...types, entry, ...registers }
      : { kind: "lmmaq", ...types, share, scales: 60, ...registers };
  const table = share === 0 ? entry : "int8";
  return {
    ...settings,
    gridX: SIZE / n,
    buffers: 4,
    code: [
      lea(0, BX, (step * SIZE) / K, NIL, 0),
      lea(1, BX, n * bytesOf(accumulate), NIL, 0),
      { kind: "clr", rows: 1, columns: n, element: accumulate, to: 200 },
      ...loop(
        SIZE / K,
        { kind: "ld.tab", m: 1, k: K, entry: table, to: 0, ...at("g1", 2) },
        { kind: "ld.wgt", n, k: K, weight, to: 100, space: "g0", base: 0, offset: 0 },
        ...(share === 0
          ? []
          : [
              {
                kind: "ld.mat",
                rows: 1,
                columns: K / 4 / share,
                element: "fp32",
                order: "rows",
                to: 60,
                ...at("g2", 3),
              },
            ]),
        product,
        lea(0, 0, 1, NIL, step),
        lea(2, 2, 1, NIL, (bytesOf(table) * K * 8) / 4),
        lea(3, 3, 1, NIL, share === 0 ? 0 : K / share),
      ),
      { kind: "st.mat", rows: 1, columns: n, element: accumulate, from: 200, ...at("g3", 1) },
    ],
  };
}

/** The same product without tables, of int8 weights: an ordinary instruction of 64 columns. */
function denseProgram() {
  const columns = 64;
  return {
    ...settings,
    gridX: SIZE / columns,
    buffers: 4,
    code: [
      lea(0, BX, SIZE * columns, NIL, 0),
      lea(1, BX, columns * 4, NIL, 0),
      { kind: "clr", rows: 1, columns, element: "int32", to: 200 },
      ...loop(
        SIZE / K,
        { kind: "ld.mat", rows: 1, columns: K, element: "int8", order: "rows", to: 0, ...at("g1", 2) },
        {
          kind: "ld.mat",
          rows: columns,
          columns: K,
          element: "int8",
          order: "rows",
          to: 100,
          ...at("g0", 0),
          stride: SIZE,
        },
        {
          kind: "mma",
          m: 1,
          n: columns,
          k: K,
          activation: "int8",
          weight: "int8",
          accumulate: "int32",
          out: "int32",
          to: 200,
          left: 0,
          right: 100,
          addend: 200,
        },
        lea(0, 0, 1, NIL, K),
        lea(2, 2, 1, NIL, K),
      ),
      { kind: "st.mat", rows: 1, columns, element: "int32", from: 200, ...at("g3", 1) },
    ],
  };
}

function bytesOf(element) {
  return element.endsWith("32") ? 4 : element.endsWith("16") ? 2 : 1;
}

function planesOf(weight) {
  return weight === "ternary" ? 2 : Number(weight.slice(3));
}

const ideal = { kind: "ideal" };
const paper = { kind: "paper" };
const rtl = { kind: "rtl", quirks: STAGE1 };
const whole = { activation: "int8", entry: "int16", accumulate: "int32", share: 0 };
const half = { activation: "fp16", entry: "fp16", share: 0 };
const rows = [
  ["integers, ideal, W2A8", ideal, { ...whole, weight: "int2" }, 0.05],
  ["integers, paper, W2A8", paper, { ...whole, weight: "int2" }, 0.05],
  ["integers, rtl, W2A8", rtl, { ...whole, weight: "int2" }, 0.05],
  ["integers, paper, ternary", paper, { ...whole, weight: "ternary" }, null],
  ["integers, paper, W4A8", paper, { ...whole, weight: "int4" }, null],
  ["int8 tables, paper, W2, fp16", paper, { ...half, weight: "int2", accumulate: "fp32", share: 8 }, null],
  ["rtl, W2, fp16, fp16 sums", rtl, { ...half, weight: "int2", accumulate: "fp16" }, 0.3],
  ["paper, W2, fp16, fp32 sums", paper, { ...half, weight: "int2", accumulate: "fp32" }, null],
  ["paper, W2, fp16, fp16 sums", paper, { ...half, weight: "int2", accumulate: "fp16" }, null],
  ["ideal, W2, fp16, fp32 sums", ideal, { ...half, weight: "int2", accumulate: "fp32" }, null],
  ["mma, W8A8", paper, null, null],
];

/** Processor time of this process so far. */
function processorMs() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Bytes that look random and are the same each time. */
function bytes(count) {
  return Uint8Array.from({ length: count }, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 17) & 255);
}

/** Of fp16: from 2^-3 to 2 in size, so that sums neither vanish nor overflow. */
function halves() {
  const codes = Uint16Array.from(
    bytes(SIZE * 2).filter((_, i) => i % 2 === 0),
    (x, i) => 0x3000 + x * 15 + ((i & 1) << 15),
  );
  return new Uint8Array(codes.buffer);
}

const wanted = process.argv.slice(2);
const chosen = rows.filter((row) => wanted.every((word) => row[0].includes(word)));
console.log("| a row times 4096 x 4096 | ms | target ms | lookups or products | ns each |\n|---|---|---|---|---|");
for (const [name, mode, types, target] of chosen) {
  const out = new Uint8Array(SIZE * 4);
  const activations = types?.activation === "fp16" ? halves() : bytes(SIZE);
  const launches = [];
  if (types === null) {
    const product = load(denseProgram(), mode);
    const weights = bytes(SIZE * SIZE);
    launches.push(() => product({ parameters: [], buffers: [weights, activations, new Uint8Array(0), out] }));
  } else {
    const make = load(tablesProgram(types.activation, types.entry, types.share), mode);
    const product = load(productProgram(types), mode);
    const [table, scales] = [new Uint8Array(SIZE * 8), new Uint8Array(SIZE)];
    const weights = bytes((SIZE * SIZE * planesOf(types.weight)) / 8);
    launches.push(() => make({ parameters: [], buffers: [activations, table, scales] }));
    launches.push(() => product({ parameters: [], buffers: [weights, table, scales, out] }));
  }
  const times = [];
  let done = 0;
  for (let round = -2; round < ROUNDS; round++) {
    const start = processorMs();
    const counts = launches.map((launch) => launch());
    if (round >= 0) times.push(processorMs() - start);
    done = counts.reduce((sum, { lookups, products }) => sum + lookups + products, 0);
  }
  const ms = times.toSorted((a, b) => a - b)[ROUNDS >> 1];
  const cells = [name, ms.toFixed(1), target === null ? "" : target * 1000, done, ((ms * 1e6) / done).toFixed(2)];
  console.log(`| ${cells.join(" | ")} |`);
}
