// The default prelude: plain F32 activations, weights and outputs of a small product, and for the integer bodies I8
// codes with one F32 scale for each group. It makes every body in this folder a module that validates on its own; bodies
// whose names end in -subgroup want `enable subgroups;` before it.
// The compiler puts a prelude of the same names and types in its place (src/ladder/emit/side-wgsl.ts, kernel-wgsl.ts); a
// body knows nothing of formats beyond it, and takes what it calls from here: the others do no harm.
// Throughout: out(m, n) = a(m, k) . w(n, k)^T, all row-major.

const N = 10u;
const K = 64u;
/** Rows of a, which need not be known before a kernel is run. */
fn rows() -> u32 { return 3u; }
/** Rows of a that one workgroup multiplies its weights by: of gemv 1 to 4, of gemm-subgroup and
 * dot-subgroup 1 to 8, of dot 1 to 16. */
const M_TILE = 2u;
/** Lanes along n and, for each of them, a power of two of lanes that share k: of dot. */
const TILE = 32u;
const SHARES = 2u;
/** What products are summed in. */
alias Acc = f32;

// --- decode: four values at once; k is a multiple of 4, and what lies beyond the row is 0 ----------------------------

@group(0) @binding(0) var<storage, read> a_words: array<f32>;
@group(0) @binding(1) var<storage, read> w_words: array<f32>;

fn a_load4(m: u32, k: u32) -> vec4f {
  let at = m * K + k;
  return vec4f(a_words[at], a_words[at + 1u], a_words[at + 2u], a_words[at + 3u]);
}

fn w_load4(n: u32, k: u32) -> vec4f {
  let at = n * K + k;
  return vec4f(w_words[at], w_words[at + 1u], w_words[at + 2u], w_words[at + 3u]);
}

// --- packed: integer codes of four neighbouring rows of w, whose first is n, a multiple of 4; value = scale * code + offset.
// Rows lie in tiles, those of a tile side by side, so that neighbouring lanes read neighbouring bytes ------------------

@group(0) @binding(4) var<storage, read> w_units_of: array<vec4u>;
@group(0) @binding(5) var<storage, read> w_scales: array<vec4f>;
@group(0) @binding(6) var<storage, read> w_offsets: array<vec4f>;

/** Values of k in a unit, a multiple of 16. */
const W_UNIT = 16u;
const W_OFFSET = true;

/** One unit of each row. */
struct Units { r0: vec4u, r1: vec4u, r2: vec4u, r3: vec4u }
/** 16 codes of each row as signed bytes: k0 has those of the first four values of k, its x those of the first row. */
struct Codes { k0: vec4u, k1: vec4u, k2: vec4u, k3: vec4u }
/** The same as values: column j of k0 is value j of k of the four rows. */
struct Values { k0: mat4x4f, k1: mat4x4f, k2: mat4x4f, k3: mat4x4f }

fn w_units(n: u32, unit: u32) -> Units {
  let at = (n / 32u * (K / W_UNIT) + unit) * 32u + n % 32u;
  return Units(w_units_of[at], w_units_of[at + 1u], w_units_of[at + 2u], w_units_of[at + 3u]);
}

/** The scales and offsets at value k. */
fn w_scale4(n: u32, k: u32) -> vec4f { return w_scales[(n / 32u * (K / 32u) + k / 32u) * 8u + n % 32u / 4u]; }
fn w_offset4(n: u32, k: u32) -> vec4f { return w_offsets[(n / 32u * (K / 32u) + k / 32u) * 8u + n % 32u / 4u]; }

/** Values 16 * part and on of the units. */
fn w_codes(units: Units, part: u32) -> Codes {
  return Codes(
    vec4u(units.r0.x, units.r1.x, units.r2.x, units.r3.x),
    vec4u(units.r0.y, units.r1.y, units.r2.y, units.r3.y),
    vec4u(units.r0.z, units.r1.z, units.r2.z, units.r3.z),
    vec4u(units.r0.w, units.r1.w, units.r2.w, units.r3.w),
  );
}

/** 16 values from k on, a multiple of 16, of the units in which they are. */
fn w_values(units: Units, n: u32, k: u32) -> Values {
  let codes = w_codes(units, 0u);
  let scale = w_scale4(n, k);
  let offset = w_offset4(n, k);
  return Values(
    numbers(codes.k0, scale, offset),
    numbers(codes.k1, scale, offset),
    numbers(codes.k2, scale, offset),
    numbers(codes.k3, scale, offset),
  );
}

fn numbers(words: vec4u, scale: vec4f, offset: vec4f) -> mat4x4f {
  return mat4x4f(
    vec4f(extractBits(bitcast<vec4i>(words), 0u, 8u)) * scale + offset,
    vec4f(extractBits(bitcast<vec4i>(words), 8u, 8u)) * scale + offset,
    vec4f(extractBits(bitcast<vec4i>(words), 16u, 8u)) * scale + offset,
    vec4f(extractBits(bitcast<vec4i>(words), 24u, 8u)) * scale + offset,
  );
}

// --- dot, dot-subgroup: codes of a of 8 bits, two's complement, four in a word ---------------------------------------------------------

/** Values that are scaled at once: 16, or 4 where scales or offsets are of fewer values than 16. */
const PIECE = 16u;
/** Whether a value of a has an offset: then the codes of w are summed as well. */
const A_OFFSET = false;

@group(0) @binding(2) var<storage, read> a_codes: array<vec4u>;
@group(0) @binding(3) var<storage, read> a_scales: array<f32>;

/** 16 codes from k on, a multiple of 16; what lies beyond the row is 0. */
fn a_bytes(m: u32, k: u32) -> vec4u { return a_codes[(m * K + k) / 16u]; }
/** The scale at value k. */
fn a_scale(m: u32, k: u32) -> f32 { return a_scales[(m * K + k) / 32u]; }

/** What a piece at k adds: the sums of the products of its codes, and the sums of either side's codes alone. */
fn scaled(products: vec4i, a_sum: i32, w_sums: vec4i, m: u32, n: u32, k: u32) -> vec4<Acc> {
  let codes = vec4f(products) * w_scale4(n, k) + f32(a_sum) * w_offset4(n, k);
  return codes * a_scale(m, k);
}

// --- sums: codes of w as dot-subgroup multiplies them, and 16 products of each of four rows summed ------------------------

/** Values with the same scale and offset, a multiple of 16. */
const W_GROUP = 32u;

/** Four codes of a as products take them: here one in a word. Types of few bits have two values of k in one. */
alias Input = vec4i;
/** What those are multiplied by for the sums of four rows: four values of k, and 16 of them. */
struct Four { k0: vec4i, k1: vec4i, k2: vec4i, k3: vec4i }
struct Factors { q0: Four, q1: Four, q2: Four, q3: Four }

/** Values 16 * part and on of the units. */
fn w_factors(units: Units, part: u32) -> Factors {
  let codes = w_codes(units, part);
  return Factors(w_four(codes.k0), w_four(codes.k1), w_four(codes.k2), w_four(codes.k3));
}

fn w_four(words: vec4u) -> Four {
  let codes = bitcast<vec4i>(words);
  return Four(extractBits(codes, 0u, 8u), extractBits(codes, 8u, 8u), extractBits(codes, 16u, 8u), extractBits(codes, 24u, 8u));
}

fn w_input(codes: u32) -> Input {
  let word = bitcast<i32>(codes);
  return Input(extractBits(word, 0u, 8u), extractBits(word, 8u, 8u), extractBits(word, 16u, 8u), extractBits(word, 24u, 8u));
}

/** Products of four values of k, summed; sums of 16 values wrap. */
fn w_products(a: Input, w: Four) -> vec4i { return w.k0 * a[0] + w.k1 * a[1] + w.k2 * a[2] + w.k3 * a[3]; }

/** What sums begin with: factors may differ from codes by a constant, which is multiplied by the sum of the codes of a. */
fn w_seed(a_sum: i32) -> i32 { return 0i; }

/** Of a sum of 16 products that began with the seed, what was wanted. */
fn w_sums(sums: vec4i) -> vec4i { return sums; }

// --- lookup: weights as bit planes; value = scale * (sum of 2^p * (2 bit_p - 1)) + offset -----------------------------

const PLANES = 8u;
/** Values with the same scale that lie in one word of a plane; 4, 8, 16 or 32. */
const SEGMENT = 32u;

@group(0) @binding(8) var<storage, read> w_words_of: array<u32>;

/** The words of a plane that have the bits of value k of four rows, at place k mod 32. */
fn w_planes(n: u32, k: u32, p: u32) -> vec4u {
  let at = ((n / 32u * (K / 32u) + k / 32u) * 32u + n % 32u) * PLANES + p;
  return vec4u(w_words_of[at], w_words_of[at + PLANES], w_words_of[at + 2u * PLANES], w_words_of[at + 3u * PLANES]);
}

// --- out: four neighbours of a row at once; n is a multiple of 4, and those beyond the row are left out ----------------

@group(0) @binding(7) var<storage, read_write> out_words: array<f32>;

fn store4(m: u32, n: u32, sums: vec4<Acc>) {
  for (var i = 0u; i < 4u; i++) {
    if (n + i < N) { out_words[m * N + n + i] = sums[i]; }
  }
}

// --- round: the float of the outputs, where it is narrower than F32: here F16 -------------------------------------------

const OUT_BITS = 16u;
const OUT_MANTISSA = 10u;
const OUT_BIAS = 15;
/** The first code, without its sign, that is no finite number; and what becomes of numbers from there on. */
const OUT_END = 0x7c00u;
const OUT_BEYOND = 0x7c00u;
const OUT_INFINITY = 0x7c00u;
const OUT_NAN = 0x7e00u;
const OUT_MINUS_ZERO = true;
