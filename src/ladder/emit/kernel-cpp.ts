// A matrix product as one C++17 text without headers of ours: the emitted decode of each side, constants, and a body
// that is the same for all types. The compiler turns its loops into vectors (g++ -O3 -march=native); nothing in it is
// for one machine, but for the order of bytes. A caller divides the rows of w among threads by `first` and `last`.
// Not here: how a value is decoded (emit.ts), the order of packed codes (packing.ts), what the manifest says (compile.ts),
// the CPU backend's own kernels (src/cpu/native), which are written for each machine by hand.

import { emit } from "./emit.ts";
import type { Kernel, KernelBuffer, KernelEntry, Product, Side } from "./kernel.ts";
import { limitsOf } from "./kernel-wgsl.ts";
import type { Run } from "../layout.ts";
import { type IntegerOperand, type Packing, packingOf, pieceOf } from "./packing.ts";
import type { Element } from "../type.ts";

/** Values of a row of w that are decoded before they are multiplied: they stay in the first cache. */
const CHUNK = 1024;
/** Products of bytes that are summed in integers before they are scaled: such sums are whole numbers of f32. */
const LONGEST_PIECE = 256;
/** Neighbours that lie in the same bits of as many bytes: a vector of the narrowest machine. */
const STRIDE = 16;
const ORDER = { stride: STRIDE, dense: true, tileRows: 1 } as const;
/** Partial sums of a product of floats, which the compiler keeps in vector registers. */
const LANES = 16;

/**
 * @param name of the function; letters, digits and underscores
 * @param about what the text says of itself, line by line
 */
export function cppKernel(
  product: Product,
  name: string,
  about: readonly string[],
): Kernel | { readonly kind: "refused"; readonly reason: string } {
  const { m, n, k, a, w, method, accumulate, out } = product;
  const sum = accumulate.kind === "int" ? "int32_t" : "float";
  const head = [
    ...about.map((line) => `// ${line}`),
    "// For little-endian machines; thread-safe, each call with memory of its own.",
    "#include <cstddef>\n#include <cstdint>\n#include <cstring>\n#include <limits>\n#include <vector>\n",
    `static constexpr size_t M = ${m}, N = ${n}, K = ${k};`,
    `using Sum = ${sum};`,
  ];
  const outBytes = (n * out.bits) / 8;
  const buffer = (
    binding: number,
    of: string,
    role: KernelBuffer["role"],
    bytes: number,
    layout: KernelBuffer["layout"],
  ): KernelBuffer => ({
    binding,
    name: of,
    role,
    bytes,
    layout,
  });
  const fileBuffer = (binding: number, role: "activations" | "weights", side: Side): KernelBuffer =>
    buffer(binding, role === "weights" ? "w" : "a", role, side.bytes, { kind: "file", type: side.type.name });
  const outBuffer = buffer(2, "out", "out", m * outBytes, { kind: "rows", element: out.name, row_bytes: outBytes });
  const parts = [...head, ...storing(out)];
  const done = (more: Pick<Kernel, "entries" | "buffers" | "packings" | "additions" | "scratch">): Kernel => {
    const text = `${parts.join("\n")}\n`.replaceAll("KERNEL", name);
    return { kind: "kernel", file: "kernel.cpp", text, dispatch: null, exceptions: [], ...more };
  };

  const bytesOf = (of: string) => ({ name: of, type: "const uint8_t*" });
  const outType = out.kind !== "float" ? "int32_t" : out.bits === 32 ? "float" : `uint${out.bits}_t`;
  const rows = ["first", "last"].map((of) => ({ name: of, type: "size_t" }));
  const entry: KernelEntry = {
    name,
    role: "kernel",
    arguments: [bytesOf("a"), bytesOf("w"), { name: "out", type: `${outType}*` }, ...rows],
  };

  if (method.kind === "dot") {
    const piece = pieceOf(k, LONGEST_PIECE, 1, [method.a, method.w]);
    const packings = {
      activations: packingOf(method.a, a.type, m, k, ORDER),
      weights: packingOf(method.w, w.type, n, k, ORDER),
    };
    parts.push(PACKING, operandText("a", packings.activations, method.a), operandText("w", packings.weights, method.w));
    parts.push(`static constexpr size_t PIECE = ${piece};`, scaledFunction(accumulate, method.a, method.w), DOT);
    const sizes = partSizes(packings.weights);
    const packed = buffer(1, "w", "weights", sizes.codes + sizes.scales + sizes.offsets, {
      kind: "packed",
      packing: "weights",
      part: "codes, then scales, then offsets",
    });
    const own = partSizes(packings.activations);
    return done({
      entries: [
        entry,
        { name: `${name}_pack`, role: "pack", arguments: [bytesOf("w"), { name: "packed", type: "uint8_t*" }] },
      ],
      buffers: [fileBuffer(0, "activations", a), packed, outBuffer],
      packings: { weights: packings.weights },
      additions: k / piece + 3,
      scratch: own.codes + own.scales + own.offsets + (m + 1) * k,
    });
  }

  if (method.kind !== "decode") return { kind: "refused", reason: "a lookup is no method of C++ kernels" };
  const texts: string[] = [];
  for (const [prefix, { type }] of [["a", a] as const, ["w", w] as const]) {
    const emission = emit(type, { kind: "cpp", name: prefix });
    if (emission.kind === "refused") return { kind: "refused", reason: `${type.name}: ${emission.reason}` };
    texts.push(emission.text);
  }
  parts.push(...texts);
  // A matrix format is decoded whole, once, into plain F32, since its rows need not lie together.
  const isMatrix = w.type.blockSize === n * k && w.type.blockSize > k;
  const [values, bytes] = isMatrix ? [1, 4] : [w.type.blockSize, w.type.blockBytes];
  const chunk = values * Math.max(1, Math.floor(Math.min(CHUNK, k) / values));
  parts.push(
    `static constexpr size_t A_BLOCKS = ${(m * k) / a.type.blockSize};`,
    `static constexpr size_t W_VALUES = ${values}, W_BYTES = ${bytes}, CHUNK = ${chunk}, LANES = ${LANES};`,
  );
  if (isMatrix) parts.push(LOAD);
  else
    parts.push(
      "static inline void w_values(const uint8_t* w, size_t blocks, float* out) { w_decode(w, blocks, out); }",
    );
  parts.push(DECODE);
  const weights = isMatrix
    ? buffer(1, "w", "weights", 4 * n * k, { kind: "rows", element: "F32", row_bytes: 4 * k })
    : fileBuffer(1, "weights", w);
  const load = {
    name: `${name}_load`,
    role: "load",
    arguments: [bytesOf("w"), { name: "values", type: "float*" }],
  } as const;
  return done({
    entries: isMatrix ? [entry, load] : [entry],
    buffers: [fileBuffer(0, "activations", a), weights, outBuffer],
    packings: {},
    // Each lane adds its share of every chunk, a tree joins the lanes, what is left is added one by one.
    additions: Math.ceil(k / chunk) * (1 + Math.ceil(chunk / LANES) + Math.log2(LANES) + (chunk % LANES)),
    scratch: 4 * (m * k + chunk),
  });
}

/** Bytes of the parts of a packed operand, as the text below lays them out. */
function partSizes({ rows, columns, units_per_row, unit_bytes, group_values, offset }: Packing): {
  readonly codes: number;
  readonly scales: number;
  readonly offsets: number;
} {
  const groups = group_values === null ? 0 : (4 * rows * columns) / group_values;
  // Floats are read where they lie.
  const codes = Math.ceil((rows * units_per_row * unit_bytes) / 4) * 4;
  return { codes, scales: groups, offsets: offset.length === 0 ? 0 : groups };
}

// --- data of the text -----------------------------------------------------------------------------------------------

function double(x: number | string): string {
  if (x === "NaN") return "std::numeric_limits<double>::quiet_NaN()";
  if (typeof x === "string") return `${x.startsWith("-") ? "-" : ""}std::numeric_limits<double>::infinity()`;
  return Object.is(x, -0) ? "-0.0" : `${x}${/[.e]/.test(String(x)) ? "" : ".0"}`;
}

function runText({ first, count, bit, step, width, shift }: Run): string {
  return `{${first}, ${count}, ${bit}, ${step}, ${width}, ${shift}}`;
}

/** One operand's packing as constants: tables of runs, maps and terms, which the body below walks. */
function operandText(prefix: string, packing: Packing, { step, least }: IntegerOperand): string {
  const { codes, scale, offset } = packing;
  const lines: string[] = [];
  let tables = 0;
  const codesText = (of: Packing["codes"] | NonNullable<Packing["scale"][number]["codes"]>): string => {
    const name = `${prefix}_table${tables++}`;
    lines.push(`static const Run ${name}_runs[] = {${of.runs.map(runText).join(", ")}};`);
    if (of.map !== null) lines.push(`static const double ${name}_map[] = {${of.map.map(double).join(", ")}};`);
    return `{${name}_runs, ${of.runs.length}, ${of.flip}u, ${of.map === null ? "nullptr" : `${name}_map`}}`;
  };
  const termsText = (name: string, terms: Packing["scale"]): string => {
    const items = terms.map(({ constant, fields, codes: of }) => {
      const kinds = { f16: 0, bf16: 1, f32: 2 };
      const list = Array.from({ length: 3 }, (_, f) => fields[f]).map((f) =>
        f ? `{${kinds[f.format]}, ${f.byte}}` : "{0, 0}",
      );
      const own = of === null ? "{nullptr, 0, 0u, nullptr}" : codesText(of);
      return `{${double(constant)}, {${list.join(", ")}}, ${fields.length}, ${own}, ${double(of?.bias ?? 0)}}`;
    });
    // An array has at least one entry.
    lines.push(
      `static const Term ${prefix}_${name}[] = {${items.join(", ") || "{0.0, {{0, 0}, {0, 0}, {0, 0}}, 0, {nullptr, 0, 0u, nullptr}, 0.0}"}};`,
    );
    return `${prefix}_${name}, ${terms.length}`;
  };
  const main = codesText(codes);
  const [scales, offsets] = [termsText("scales", scale), termsText("offsets", offset)];
  const numbers = [packing.rows, packing.block_values, packing.block_bytes].join(", ");
  const order = [
    packing.times,
    packing.subtract,
    packing.width,
    packing.width === 8 ? 1 : step,
    packing.width === 8 ? 0 : least,
  ];
  const { units_per_row, group_values } = packing;
  const group = group_values ?? 0;
  lines.push(
    `static const Operand ${prefix}_operand = {${numbers}, ${main}, ${order.join(", ")}, ${units_per_row}, ${group}, ${scales}, ${offsets}};`,
  );
  return lines.join("\n");
}

function scaledFunction(accumulate: Element, a: IntegerOperand, w: IntegerOperand): string {
  const head =
    "static inline Sum scaled(int32_t products, int32_t a_sum, int32_t w_sum, float a_scale, float a_offset, float w_scale, float w_offset) {";
  const consts = `static constexpr bool A_OFFSET = ${a.offset.length > 0}, W_OFFSET = ${w.offset.length > 0};`;
  if (accumulate.kind === "int") {
    const unused = "(void)a_sum, (void)w_sum, (void)a_scale, (void)a_offset, (void)w_scale, (void)w_offset;";
    return `${consts}\n${head}\n  ${unused}\n  return products;\n}`;
  }
  return `${consts}
${head}
  // A whole number times a scale is no smaller than the scale: only the last product of each term may underflow.
  float sum = (float)products * a_scale * w_scale;
  if (W_OFFSET) sum += (float)a_sum * a_scale * w_offset;
  if (A_OFFSET) sum += (float)w_sum * w_scale * a_offset;
  if (A_OFFSET && W_OFFSET) sum += (float)PIECE * a_offset * w_offset;
  return sum;
}`;
}

function storing(out: Element): readonly string[] {
  if (out.kind !== "float") return ["using Out = int32_t;", "static inline Out stored(Sum x) { return x; }"];
  if (out.bits === 32) return ["using Out = float;", "static inline Out stored(Sum x) { return x; }"];
  const { end, beyond, infinity, nan } = limitsOf(out);
  const { bits, mantissa, bias, special } = out;
  return [
    `using Out = uint${bits}_t;`,
    `static constexpr uint32_t OUT_BITS = ${bits}, OUT_MANTISSA = ${mantissa}, OUT_END = ${end}, OUT_BEYOND = ${beyond}, OUT_INFINITY = ${infinity}, OUT_NAN = ${nan};`,
    `static constexpr int32_t OUT_BIAS = ${bias};`,
    `static constexpr bool OUT_MINUS_ZERO = ${special !== "fnuz"};`,
    ROUND,
  ];
}

// --- bodies: fixed text, which knows types by the constants and functions above it alone --------------------------------

const ROUND = `
// To the nearest code, ties to even; codes from OUT_END on are no finite numbers.
static inline Out stored(Sum sum) {
  const float x = (float)sum;
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  const uint32_t size = word & 0x7fffffffu, sign = (word >> 31) << (OUT_BITS - 1);
  if (size > 0x7f800000u) return (Out)OUT_NAN;
  if (size == 0x7f800000u) return (Out)(OUT_INFINITY | sign);
  const uint32_t power = size >> 23;
  const uint32_t significand = (size & 0x7fffffu) | (power > 0 ? 0x800000u : 0u);
  const int32_t wanted = (int32_t)(power > 0 ? power : 1) - 127 + OUT_BIAS;
  const int32_t field = wanted > 1 ? wanted : 1;
  const uint32_t drop = (uint32_t)(field - wanted) + 23 - OUT_MANTISSA;
  uint32_t kept = 0;
  if (drop < 32) {
    kept = significand >> drop;
    const uint32_t rest = significand - (kept << drop), middle = 1u << (drop - 1);
    if (rest > middle || (rest == middle && (kept & 1))) kept++;
  }
  const uint32_t code = ((uint32_t)(field - 1) << OUT_MANTISSA) + kept;
  if (code >= OUT_END) return (Out)(OUT_BEYOND | sign);
  return (Out)(code == 0 && !OUT_MINUS_ZERO ? 0 : code | sign);
}`;

const LOAD = `
// Weights as a file has them to what the kernel reads: the matrix in F32, row by row.
extern "C" void KERNEL_load(const uint8_t* w, float* values) { w_decode(w, 1, values); }

static inline void w_values(const uint8_t* w, size_t values, float* out) { std::memcpy(out, w, values * sizeof(float)); }
`;

const DECODE = `
static inline float product(const float* __restrict a, const float* __restrict w, size_t count) {
  float lanes[LANES] = {};
  const size_t whole = count / LANES * LANES;
  for (size_t k = 0; k < whole; k += LANES) {
    for (size_t j = 0; j < LANES; j++) lanes[j] += a[k + j] * w[k + j];
  }
  for (size_t half = LANES / 2; half > 0; half /= 2) {
    for (size_t j = 0; j < half; j++) lanes[j] += lanes[j + half];
  }
  float sum = lanes[0];
  for (size_t k = whole; k < count; k++) sum += a[k] * w[k];
  return sum;
}

// out(m, n) = a(m, k) . w(n, k)^T for the rows first <= n < last of w; out is (M, N).
extern "C" void KERNEL(const uint8_t* a, const uint8_t* w, Out* out, size_t first, size_t last) {
  std::vector<float> panel(M * K), sums(M);
  a_decode(a, A_BLOCKS, panel.data());
  float tile[CHUNK];
  for (size_t n = first; n < last; n++) {
    const uint8_t* row = w + n * (K / W_VALUES) * W_BYTES;
    for (size_t m = 0; m < M; m++) sums[m] = 0;
    for (size_t k = 0; k < K; k += CHUNK) {
      const size_t count = K - k < CHUNK ? K - k : CHUNK;
      w_values(row + k / W_VALUES * W_BYTES, count / W_VALUES, tile);
      for (size_t m = 0; m < M; m++) sums[m] += product(&panel[m * K + k], tile, count);
    }
    for (size_t m = 0; m < M; m++) out[m * N + n] = stored(sums[m]);
  }
}`;

const PACKING = `
// Where bits of codes lie: code i of a block has, for each run with first <= i < first + count, 'width' bits from bit
// 'bit + (i - first) * step' of the block at its bit 'shift'.
struct Run { uint32_t first, count, bit; int32_t step; uint32_t width, shift; };
struct Codes { const Run* runs; size_t count; uint32_t flip; const double* map; };
struct Field { uint32_t format, byte; };  // 0: f16, 1: bf16, 2: f32
struct Term { double constant; Field fields[3]; size_t count; Codes codes; double bias; };
struct Operand {
  size_t rows, block_values, block_bytes;
  Codes codes;
  int32_t times, subtract;    // stored = (times * v - subtract) mod 2^width
  uint32_t width;
  int32_t step, least;        // q = step * stored + least; of whole bytes what is stored, with its sign
  size_t units, group;        // units in a row; values of a group, or 0 where scale and offset are constants
  const Term* scales; size_t scale_count;
  const Term* offsets; size_t offset_count;
};

static constexpr size_t STRIDE = ${STRIDE};

static inline uint32_t bits_at(const uint8_t* block, size_t bit, uint32_t width) {
  uint32_t word = 0;
  for (uint32_t done = 0; done < width;) {
    const uint32_t from = (bit + done) % 8, take = width - done < 8 - from ? width - done : 8 - from;
    word |= (((uint32_t)block[(bit + done) / 8] >> from) & ((1u << take) - 1)) << done;
    done += take;
  }
  return word;
}

// What code i stands for; i of a block's values, or of its groups.
static inline double number_at(const Codes& codes, const uint8_t* block, size_t i) {
  uint32_t code = 0;
  for (size_t r = 0; r < codes.count; r++) {
    const Run& run = codes.runs[r];
    if (i < run.first || i >= (size_t)run.first + run.count) continue;
    const int64_t bit = run.bit + (int64_t)(i - run.first) * run.step;
    code |= bits_at(block, (size_t)bit, run.width) << run.shift;
  }
  code ^= codes.flip;
  return codes.map == nullptr ? (double)code : codes.map[code];
}

static inline double field_at(const Field& field, const uint8_t* block) {
  const uint8_t* at = block + field.byte;
  if (field.format != 0) {
    uint32_t word = 0;
    std::memcpy(reinterpret_cast<uint8_t*>(&word) + (field.format == 1 ? 2 : 0), at, field.format == 1 ? 2 : 4);
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  }
  const uint32_t half = at[0] | (uint32_t)at[1] << 8, power = half >> 10 & 31;
  const double sign = half >> 15 ? -1.0 : 1.0, mantissa = half & 1023;
  if (power == 31) return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  double unit = 5.9604644775390625e-08;  // 2^-24
  for (uint32_t p = 1; p < power; p++) unit *= 2;
  return sign * unit * (power > 0 ? mantissa + 1024 : mantissa);
}

static inline float terms_at(const Term* terms, size_t count, const uint8_t* block, size_t group) {
  double sum = 0;
  for (size_t t = 0; t < count; t++) {
    double term = terms[t].constant;
    for (size_t f = 0; f < terms[t].count; f++) term *= field_at(terms[t].fields[f], block);
    if (terms[t].codes.runs != nullptr) term *= number_at(terms[t].codes, block, group) - terms[t].bias;
    sum += term;
  }
  return (float)sum;
}

static inline size_t code_bytes(const Operand& o) { return (o.rows * o.units * STRIDE + 3) / 4 * 4; }
static inline size_t scale_bytes(const Operand& o) { return o.group == 0 ? 0 : o.rows * (K / o.group) * 4; }

// All codes, then all scales, then all offsets.
static void pack(const Operand& o, const uint8_t* bytes, uint8_t* packed) {
  std::memset(packed, 0, code_bytes(o));
  uint8_t* scales = packed + code_bytes(o);
  uint8_t* offsets = scales + scale_bytes(o);
  const uint32_t per = 8 / o.width, mask = (1u << o.width) - 1;
  for (size_t at = 0; at < o.rows * K; at++) {
    const uint8_t* block = bytes + at / o.block_values * o.block_bytes;
    const size_t i = at % o.block_values, row = at / K, k = at % K;
    const uint32_t stored = (uint32_t)(o.times * (int32_t)number_at(o.codes, block, i) - o.subtract) & mask;
    const size_t unit = row * o.units + k / (STRIDE * per), c = k % (STRIDE * per);
    packed[unit * STRIDE + c % STRIDE] |= (uint8_t)(stored << (o.width * (c / STRIDE)));
    if (o.group == 0 || i % o.group != 0) continue;
    const size_t g = at / o.group;
    const float scale = terms_at(o.scales, o.scale_count, block, i / o.group);
    std::memcpy(scales + 4 * g, &scale, 4);
    if (o.offset_count == 0) continue;
    const float offset = terms_at(o.offsets, o.offset_count, block, i / o.group);
    std::memcpy(offsets + 4 * g, &offset, 4);
  }
}

static inline float part_at(const uint8_t* part, const Operand& o, const Term* terms, size_t count, size_t row, size_t k) {
  if (count == 0) return 0;
  if (o.group == 0) return terms_at(terms, count, nullptr, 0);
  float x;
  std::memcpy(&x, part + 4 * (row * (K / o.group) + k / o.group), 4);
  return x;
}

static inline float scale_at(const uint8_t* packed, const Operand& o, size_t row, size_t k) {
  return part_at(packed + code_bytes(o), o, o.scales, o.scale_count, row, k);
}

static inline float offset_at(const uint8_t* packed, const Operand& o, size_t row, size_t k) {
  return part_at(packed + code_bytes(o) + scale_bytes(o), o, o.offsets, o.offset_count, row, k);
}

// The codes of one row as bytes, K of them.
static inline void unpack(const Operand& o, const uint8_t* packed, size_t row, int8_t* __restrict codes) {
  const uint32_t per = 8 / o.width, mask = (1u << o.width) - 1;
  for (size_t unit = 0; unit < o.units; unit++) {
    const uint8_t* bytes = packed + (row * o.units + unit) * STRIDE;
    for (uint32_t part = 0; part < per; part++) {
      const size_t k = (unit * per + part) * STRIDE, count = k >= K ? 0 : K - k < STRIDE ? K - k : STRIDE;
      for (size_t j = 0; j < count; j++) {
        codes[k + j] = (int8_t)(o.step * (int32_t)((uint32_t)bytes[j] >> (o.width * part) & mask) + o.least);
      }
    }
  }
}
`;

const DOT = `
// Weights as a file has them to what the kernel reads.
extern "C" void KERNEL_pack(const uint8_t* w, uint8_t* packed) { pack(w_operand, w, packed); }

// out(m, n) = a(m, k) . w(n, k)^T for the rows first <= n < last of w, which KERNEL_pack has packed; out is (M, N).
extern "C" void KERNEL(const uint8_t* a, const uint8_t* w, Out* out, size_t first, size_t last) {
  std::vector<uint8_t> packed(code_bytes(a_operand) + 2 * scale_bytes(a_operand));
  pack(a_operand, a, packed.data());
  std::vector<int8_t> panel(M * K), codes(K);
  for (size_t m = 0; m < M; m++) unpack(a_operand, packed.data(), m, &panel[m * K]);
  for (size_t n = first; n < last; n++) {
    unpack(w_operand, w, n, codes.data());
    for (size_t m = 0; m < M; m++) {
      const int8_t* row = &panel[m * K];
      Sum sum = 0;
      for (size_t k = 0; k < K; k += PIECE) {
        int32_t products = 0, a_sum = 0, w_sum = 0;
        for (size_t j = k; j < k + PIECE; j++) products += (int32_t)row[j] * codes[j];
        if (W_OFFSET) for (size_t j = k; j < k + PIECE; j++) a_sum += row[j];
        if (A_OFFSET) for (size_t j = k; j < k + PIECE; j++) w_sum += codes[j];
        sum += scaled(products, a_sum, w_sum, scale_at(packed.data(), a_operand, m, k), offset_at(packed.data(), a_operand, m, k),
                      scale_at(w, w_operand, n, k), offset_at(w, w_operand, n, k));
      }
      out[m * N + n] = stored(sum);
    }
  }
}`;
