// ARM NEON: dot products by sdot (the dotprod extension of ARMv8.2) on signed bytes, so that codes of 8 bits are
// centred; bit-serial lookups by tbl, 16 rows at a time, summed in 16 bits. What is no matrix product of codes is the
// scalar table's, which the compiler vectorises where the order of sums allows it.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstring>

#include "kernels.h"

#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define DOTPROD_INLINE __attribute__((target("arch=armv8.2-a+dotprod"), always_inline)) inline
#define NEON_INLINE __attribute__((always_inline)) inline

namespace lutra {

namespace {

constexpr uint32_t kPartRows = 32;  // of Layout::Dot
constexpr int kQuads = 4;           // registers of 4 rows: 16 rows at a time

NEON_INLINE float32x4_t halvesAt(const uint8_t* p) {
  uint16x4_t bits;
  std::memcpy(&bits, p, 8);
  return vcvt_f32_f16(vreinterpret_f16_u16(bits));
}

/// The scales (or offsets) of four rows from `row` on in group g of a span, in a part of `rows`.
NEON_INLINE float32x4_t scalesAt(const Matrix& m, const TermsAt& terms, uint32_t rows, uint32_t g, uint32_t row) {
  const uint32_t first = g * rows + row;
  if (m.scales == Scales::Float) return vld1q_f32(reinterpret_cast<const float*>(terms.own) + first);
  if (m.scales == Scales::Half) return halvesAt(terms.own + first * 2);
  uint32_t four;
  std::memcpy(&four, terms.own + first, 4);
  if (m.scales == Scales::Nibbles) four = four >> terms.shift & 0x0f0f0f0f;
  const int16x8_t integers = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
  return vmulq_f32(halvesAt(terms.shared + row * 2), vcvtq_f32_s32(vmovl_s16(vget_low_s16(integers))));
}

/// sum + (product - zero * one) * scale + one * offset, for four rows and a group as scalesAt has them.
NEON_INLINE float32x4_t withTerms(const Matrix& m, const Walk& walk, const uint8_t* header, const uint8_t* span,
                                  uint32_t rows, uint32_t g, uint32_t row, float zero, float one, float32x4_t product,
                                  float32x4_t sum) {
  const float32x4_t level = vsubq_f32(product, vdupq_n_f32(zero * one));
  sum = vfmaq_f32(sum, level, scalesAt(m, walk.scales(header, span), rows, g, row));
  return walk.hasOffset ? vfmaq_n_f32(sum, scalesAt(m, walk.offsets(header, span), rows, g, row), one) : sum;
}

/// Moves each byte's bits down by N places, or up.
template <int N>
NEON_INLINE uint8x16_t shifted(uint8x16_t v) {
  if constexpr (N > 0) return vshlq_n_u8(v, N);
  if constexpr (N < 0) return vshrq_n_u8(v, -N);
  return v;
}

/// Codes of values 4f .. 4f + 3 of a chunk for four rows, which begins at `at`.
template <int BITS, int F>
NEON_INLINE uint8x16_t codesOf(const uint8_t* at) {
  if constexpr (BITS == 8) return vld1q_u8(at + 128 * F);
  constexpr int four = BITS & 4, two = BITS & 2, one = BITS & 1;
  uint8x16_t codes = vdupq_n_u8(0);
  if constexpr (four)
    codes = vandq_u8(shifted<-4 * (F % 2)>(vld1q_u8(at + dotPlace(BITS, 4, 0, F / 2))), vdupq_n_u8(15));
  if constexpr (two) {
    const uint8x16_t plane = shifted<four - 2 * (F % 4)>(vld1q_u8(at + dotPlace(BITS, 2, four, F / 4)));
    codes = vorrq_u8(codes, vandq_u8(plane, vdupq_n_u8(3 << four)));
  }
  if constexpr (one) {
    const uint8x16_t plane = shifted<four + two - F>(vld1q_u8(at + dotPlace(BITS, 1, four + two, 0)));
    codes = vorrq_u8(codes, vandq_u8(plane, vdupq_n_u8(1 << (four + two))));
  }
  return codes;
}

/// Adds the products of the 16 values of one half of a chunk, from the four `F` on, for 16 rows.
template <int BITS, bool STEPPED, int F, int NT>
DOTPROD_INLINE void addProducts(const uint8_t* at, uint8x16_t steps, const int8_t* x, size_t stride,
                                int32x4_t (&acc)[kQuads][NT]) {
  int8x16_t signedCodes[kQuads];
  for (int q = 0; q < kQuads; q++) {
    uint8x16_t codes = codesOf<BITS, F>(at + 16 * q);
    if constexpr (STEPPED) codes = vqtbl1q_u8(steps, codes);
    if constexpr (STEPPED || BITS == 8) codes = veorq_u8(codes, vdupq_n_u8(0x80));
    signedCodes[q] = vreinterpretq_s8_u8(codes);
  }
  for (int t = 0; t < NT; t++) {
    int32_t four;
    std::memcpy(&four, x + t * stride + 4 * F, 4);
    const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int q = 0; q < kQuads; q++) acc[q][t] = vdotq_s32(acc[q][t], signedCodes[q], a);
  }
  if constexpr (F % 4 != 3) addProducts<BITS, STEPPED, F + 1, NT>(at, steps, x, stride, acc);
}

/// Rows 16 * r to 16 * r + 15 of a part of a tile by NT tokens. SMALL: groups of 16 values.
template <int BITS, bool STEPPED, bool SMALL, int NT>
DOTPROD void dotBlock(const Matrix& m, const Walk& walk, const uint8_t* part, uint32_t r, const Activations& x,
                      float* out) {
  const size_t stride = x.k, groups = x.k / kActGroup;
  const float zero = BITS == 8 || STEPPED ? m.zero - 128 : m.zero;
  const uint8x16_t steps = vld1q_u8(m.steps);
  float32x4_t sum[kQuads][NT];
  for (int q = 0; q < kQuads; q++)
    for (int t = 0; t < NT; t++) sum[q][t] = vdupq_n_f32(0);
  const uint8_t* header = part;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    const uint8_t* span = header + walk.firstSpan;
    for (uint32_t s = 0; s < walk.spans; s++, span += walk.span) {
      const uint8_t* at = span + walk.header + r * 64;
      float32x4_t products[kQuads][NT];
      float total[NT];
      for (int t = 0; t < NT; t++) {
        total[t] = 0;
        for (int q = 0; q < kQuads; q++) products[q][t] = vdupq_n_f32(0);
      }
      for (uint32_t c = 0; c < (SMALL ? 1 : walk.chunks); c++, chunk++, at += 128 * BITS) {
        for (int i = 0; i < BITS; i++) __builtin_prefetch(at + m.ahead + i * 128);
        const float *scales = x.scales + 2 * chunk, *ones = x.sums + 2 * chunk;
        const int8_t* from = x.codes + chunk * kChunk;
        for (int half = 0; half < 2; half++) {
          int32x4_t acc[kQuads][NT];
          for (int q = 0; q < kQuads; q++)
            for (int t = 0; t < NT; t++) acc[q][t] = vdupq_n_s32(0);
          half ? addProducts<BITS, STEPPED, 4, NT>(at, steps, from, stride, acc)
               : addProducts<BITS, STEPPED, 0, NT>(at, steps, from, stride, acc);
          for (int q = 0; q < kQuads; q++)
            for (int t = 0; t < NT; t++) {
              const float32x4_t product = vcvtq_f32_s32(acc[q][t]);
              const float scale = scales[t * groups + half];
              if constexpr (SMALL)
                sum[q][t] = withTerms(m, walk, header, span, kPartRows, uint32_t(half), 16 * r + 4 * q, zero,
                                      ones[t * groups + half], vmulq_n_f32(product, scale), sum[q][t]);
              else
                products[q][t] = vfmaq_n_f32(products[q][t], product, scale);
            }
        }
        for (int t = 0; t < NT; t++) total[t] += ones[t * groups] + ones[t * groups + 1];
      }
      if constexpr (!SMALL)
        for (int q = 0; q < kQuads; q++)
          for (int t = 0; t < NT; t++)
            sum[q][t] = withTerms(m, walk, header, span, kPartRows, 0, 16 * r + 4 * q, zero, total[t], products[q][t],
                                  sum[q][t]);
    }
  }
  for (int q = 0; q < kQuads; q++)
    for (int t = 0; t < NT; t++) vst1q_f32(out + t * kTileRows + 16 * r + 4 * q, vmulq_n_f32(sum[q][t], m.factor));
}

template <int BITS, bool STEPPED, bool SMALL>
void dotTile(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  const Walk walk(m, stretch);
  const uint8_t* part = stretch.codes;
  for (uint32_t row = 0; row < kTileRows; row += kPartRows, part += walk.partBytes(), out += kPartRows)
    for (uint32_t r : {0u, 1u}) {
      uint32_t t = 0;
      for (; t + 2 <= tokens; t += 2)  // 2 tokens by 16 rows fill the registers
        dotBlock<BITS, STEPPED, SMALL, 2>(m, walk, part, r, x.from(t), out + t * kTileRows);
      for (; t < tokens; t++) dotBlock<BITS, STEPPED, SMALL, 1>(m, walk, part, r, x.from(t), out + t * kTileRows);
    }
}

/// Sums of 16 rows in 16 bits.
struct Sums {
  int16x8_t low, high;
};

/// What the bits of 16 rows find in the tables of a chunk, or of one half of it; registers lie 32 bytes apart. TREE: so
/// many lookups are summed by averages, in the order of kernels_scalar.cpp; 1: all are summed exactly.
template <int BITS, bool HALF, int TREE>
NEON_INLINE Sums lookups(const uint8_t* at, const int8_t* tables, int half) {
  constexpr int count = HALF ? 2 : 4;  // registers of a plane, of two lookups each
  constexpr int tree = TREE > 2 * count ? 2 * count : TREE;
  constexpr int levels = tree == 8 ? 3 : tree == 4 ? 2 : tree == 2 ? 1 : 0;
  at += half * 64;
  tables += half * 64;
  Sums sums{vdupq_n_s16(0), vdupq_n_s16(0)};
  const auto add = [&](int8x16_t found) {
    sums = {vaddw_s8(sums.low, vget_low_s8(found)), vaddw_s8(sums.high, vget_high_s8(found))};
  };
  for (int p = BITS - 1; p >= 0; p--) {  // from the highest plane, doubling on the way
    sums = {vshlq_n_s16(sums.low, 1), vshlq_n_s16(sums.high, 1)};
    int8x16_t average[count];
    for (int j = 0; j < count; j++) {
      const uint8x16_t w = vld1q_u8(at + (p * 4 + j) * 32);
      const int8x16_t a = vqtbl1q_s8(vld1q_s8(tables + 32 * j), vandq_u8(w, vdupq_n_u8(15)));
      const int8x16_t b = vqtbl1q_s8(vld1q_s8(tables + 32 * j + 16), vshrq_n_u8(w, 4));
      if constexpr (tree == 1) {
        add(a);
        add(b);
      } else {
        average[j] = vrhaddq_s8(a, b);
      }
    }
    if constexpr (tree > 1) {
      for (int step = 1; step < tree / 2; step *= 2)
        for (int j = 0; j < count; j += 2 * step) average[j] = vrhaddq_s8(average[j], average[j + step]);
      for (int j = 0; j < count; j += tree / 2) add(average[j]);
    }
  }
  if constexpr (tree > 1) {
    // On the whole a quarter too large for each lookup and level of averages.
    const int16x8_t excess = vdupq_n_s16(2 * count * levels / 4 * ((1 << BITS) - 1));
    sums = {vsubq_s16(vshlq_n_s16(sums.low, levels), excess), vsubq_s16(vshlq_n_s16(sums.high, levels), excess)};
  }
  return sums;
}

NEON_INLINE void floatsOf(const Sums& sums, float32x4_t (&out)[kQuads]) {
  out[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(sums.low)));
  out[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(sums.low)));
  out[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(sums.high)));
  out[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(sums.high)));
}

/// The rows of a stretch for one token, 16 after 16 of each chunk, as they lie in memory. SMALL: groups of 16 values.
template <int BITS, bool SMALL, int TREE>
void lookupStretch(const Matrix& m, const Stretch& stretch, const Activations& x, float* out) {
  constexpr int quads = kTileRows / 4;
  const Walk walk(m, stretch);
  const float zero = m.zero - 0.5f * float((1 << BITS) - 1);  // see kernels_scalar.cpp
  float32x4_t sum[quads], found[kQuads];
  for (float32x4_t& of : sum) of = vdupq_n_f32(0);
  const uint8_t* header = stretch.codes;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    const uint8_t* span = header + walk.firstSpan;
    for (uint32_t s = 0; s < walk.spans; s++, span += walk.span) {
      const uint8_t* at = span + walk.header;
      float32x4_t products[quads];
      for (float32x4_t& of : products) of = vdupq_n_f32(0);
      float total = 0;
      for (uint32_t c = 0; c < (SMALL ? 1 : walk.chunks); c++, chunk++, at += 256 * BITS) {
        for (int i = 0; i < 4 * BITS; i++) __builtin_prefetch(at + m.ahead + i * 64);
        const int8_t* tables = x.tables + chunk * 128;
        const float scale = x.tableScales[chunk];
        const float* ones = x.tableSums + 2 * chunk;
        for (int first = 0; first < quads; first += kQuads) {
          const uint8_t* rows = at + first / 8 * 128 * BITS + first % 8 * 4;  // 8 quads are 32 rows
          if constexpr (SMALL) {
            for (int half = 0; half < 2; half++) {
              floatsOf(lookups<BITS, true, TREE>(rows, tables, half), found);
              for (int q = 0; q < kQuads; q++)
                sum[first + q] = withTerms(m, walk, header, span, kTileRows, uint32_t(half), 4 * (first + q), zero,
                                           ones[half], vmulq_n_f32(found[q], scale), sum[first + q]);
            }
          } else {
            floatsOf(lookups<BITS, false, TREE>(rows, tables, 0), found);
            for (int q = 0; q < kQuads; q++) products[first + q] = vfmaq_n_f32(products[first + q], found[q], scale);
          }
        }
        total += ones[0] + ones[1];
      }
      if constexpr (!SMALL)
        for (int q = 0; q < quads; q++)
          sum[q] = withTerms(m, walk, header, span, kTileRows, 0, 4 * q, zero, total, products[q], sum[q]);
    }
  }
  for (int q = 0; q < quads; q++) vst1q_f32(out + 4 * q, vmulq_n_f32(sum[q], m.factor));
}

template <int BITS, bool SMALL, int TREE>
void lookupTile(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  for (uint32_t t = 0; t < tokens; t++) lookupStretch<BITS, SMALL, TREE>(m, stretch, x.from(t), out + t * kTileRows);
}

template <int BITS>
constexpr IntegerKernel dotKernels[2][2] = {
    {dotTile<BITS, false, false>, dotTile<BITS, false, true>},
    {dotTile<BITS, BITS <= 4, false>, dotTile<BITS, BITS <= 4, true>}};  // [stepped][small groups]

/// By m.average / 2.
template <int BITS, bool SMALL>
constexpr IntegerKernel trees[5] = {lookupTile<BITS, SMALL, 1>, lookupTile<BITS, SMALL, 2>, lookupTile<BITS, SMALL, 4>,
                                    nullptr, lookupTile<BITS, SMALL, 8>};

void integerTile(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  constexpr decltype(&trees<1, false>) lookups[4][2] = {{&trees<1, false>, &trees<1, true>},
                                                        {&trees<2, false>, &trees<2, true>},
                                                        {&trees<3, false>, &trees<3, true>},
                                                        {&trees<4, false>, &trees<4, true>}};
  constexpr decltype(&dotKernels<1>) byBits[9] = {nullptr,        &dotKernels<1>, &dotKernels<2>,
                                                  &dotKernels<3>, &dotKernels<4>, &dotKernels<5>,
                                                  &dotKernels<6>, nullptr,        &dotKernels<8>};
  const bool small = m.group == kActGroup;
  (m.layout == Layout::Dot ? (*byBits[m.bits])[m.stepped][small] : (*lookups[m.bits - 1][small])[m.average / 2])(
      m, stretch, x, tokens, out);
}

}  // namespace

const Kernels neonKernels = [] {
  Kernels kernels = scalarKernels;
  kernels.isa = "neon";
  kernels.lookup = Layout::Lookup1;
  kernels.tabulateFives = nullptr;
  kernels.integerTile = integerTile;
  return kernels;
}();

}  // namespace lutra
#endif
