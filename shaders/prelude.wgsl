// The default prelude: plain F32 activations, weights and outputs of a small product, and for the integer bodies I8
// codes with one F32 scale for each group. It makes every body in this folder a module that validates on its own.
// The compiler puts a prelude of the same names and types in its place (src/ladder/emit/kernel-wgsl.ts); a body knows
// nothing of formats beyond it, and takes what it calls from here: the others do no harm.
// Throughout: out(m, n) = a(m, k) . w(n, k)^T, all row-major.

const M = 3u;
const N = 10u;
const K = 64u;
/** Rows of a that one workgroup of gemv, dot and lookup multiplies its weights by. */
const M_TILE = 2u;
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

// --- dot: four codes of 8 bits, two's complement, in a word; value = scale * code + offset ---------------------------

/** Values between two changes of a scale on either side, or a part of them: what is summed before it is scaled. */
const PIECE = 32u;
/** Whether a value has an offset: then the codes of the other side are summed as well. */
const A_OFFSET = false;
const W_OFFSET = true;

@group(0) @binding(2) var<storage, read> a_codes: array<u32>;
@group(0) @binding(3) var<storage, read> a_scales: array<f32>;
@group(0) @binding(4) var<storage, read> w_codes: array<u32>;
@group(0) @binding(5) var<storage, read> w_scales: array<f32>;
@group(0) @binding(6) var<storage, read> w_offsets: array<f32>;

fn a_quad(m: u32, k: u32) -> u32 { return a_codes[(m * K + k) / 4u]; }
fn w_quad(n: u32, k: u32) -> u32 { return w_codes[(n * K + k) / 4u]; }
fn a_scale(m: u32, k: u32) -> f32 { return a_scales[(m * K + k) / 32u]; }
fn a_offset(m: u32, k: u32) -> f32 { return 0; }
fn w_scale(n: u32, k: u32) -> f32 { return w_scales[(n * K + k) / 32u]; }
fn w_offset(n: u32, k: u32) -> f32 { return w_offsets[(n * K + k) / 32u]; }

/** What a piece at k adds: the sum of the products of its codes, and the sums of either side's codes alone. */
fn scaled(products: i32, a_sum: i32, w_sum: i32, m: u32, n: u32, k: u32) -> Acc {
  let codes = f32(products) * w_scale(n, k) + f32(a_sum) * w_offset(n, k);
  return codes * a_scale(m, k);
}

// --- lookup: weights as bit planes; value = scale * (sum of 2^p * (2 bit_p - 1)) + offset -----------------------------

const PLANES = 8u;
/** Values with the same scale that lie in one word of a plane; 4, 8, 16 or 32. */
const SEGMENT = 32u;

/** The word of a plane that has the bit of value k, at place k mod 32. */
fn w_plane(n: u32, k: u32, p: u32) -> u32 { return w_codes[(n * K + k) / 32u * PLANES + p]; }

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
