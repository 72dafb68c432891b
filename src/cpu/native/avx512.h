// What the files of AVX-512 kernels share.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"

// Empty where the instructions are emulated, in tests.
#ifndef AVX512_TARGET
#define AVX512_TARGET target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#define VBMI_TARGET target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")
#endif
#define AVX512 __attribute__((AVX512_TARGET))
#define AVX512_INLINE __attribute__((AVX512_TARGET, always_inline)) inline
#define AVX512_LAMBDA __attribute__((AVX512_TARGET, always_inline))
#define VBMI __attribute__((VBMI_TARGET))
#define VBMI_INLINE __attribute__((VBMI_TARGET, always_inline)) inline
#define VBMI_LAMBDA __attribute__((VBMI_TARGET, always_inline))

namespace lutra {

AVX512_INLINE __m512 halvesAt(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

/// What the scales or offsets of groups are in memory.
enum class Stored { Half, Float, Byte, LowerNibble, UpperNibble };

/// Sixteen of them, from number `first` on.
template <Stored FORM>
AVX512_INLINE __m512 storedAt(const uint8_t* at, uint32_t first) {
  if constexpr (FORM == Stored::Half) return halvesAt(at + first * 2);
  if constexpr (FORM == Stored::Float) return _mm512_loadu_ps(at + first * 4);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + first));
  if constexpr (FORM == Stored::Byte) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  const __m512i both = _mm512_cvtepu8_epi32(bytes);
  if constexpr (FORM == Stored::UpperNibble) return _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4));
  return _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
}

/// The scales (or offsets) of register `r` of 16 rows in group g of a span, in a part of ROWS rows.
template <uint32_t ROWS>
AVX512_INLINE __m512 scalesAt(const Matrix& m, const TermsAt& terms, uint32_t g, uint32_t r) {
  const uint32_t first = g * ROWS + r * 16;
  if (m.scales == Scales::Float) return storedAt<Stored::Float>(terms.own, first);
  if (m.scales == Scales::Half) return storedAt<Stored::Half>(terms.own, first);
  const __m512 own = m.scales == Scales::TwoLevel ? storedAt<Stored::Byte>(terms.own, first)
                     : terms.shift                ? storedAt<Stored::UpperNibble>(terms.own, first)
                                                  : storedAt<Stored::LowerNibble>(terms.own, first);
  return _mm512_mul_ps(halvesAt(terms.shared + r * 32), own);
}

/// The sum of some numbers, in order.
inline float sumOf(const float* x, uint32_t count) {
  float sum = 0;
  for (uint32_t i = 0; i < count; i++) sum += x[i];
  return sum;
}

/// The sums of R registers of rows by NT tokens. Where scales are of two levels, those of a block are summed apart, by
/// the integers of its groups alone: what a block shares is multiplied with at its end.
template <int R, int NT>
struct Sums {
  __m512 all[R][NT], block[R][NT], offsets[R][NT];
};

template <int R, int NT>
AVX512_INLINE void clear(__m512 (&sums)[R][NT]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int t = 0; t < NT; t++) sums[r][t] = _mm512_setzero_ps();
}

/// Adds terms * products.
template <int R, int NT>
AVX512_INLINE void addTimes(const __m512 (&terms)[R], const __m512 (&products)[R][NT], __m512 (&sum)[R][NT]) {
#pragma GCC unroll 4
  for (int t = 0; t < NT; t++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[r][t] = _mm512_fmadd_ps(products[r][t], terms[r], sum[r][t]);
}

/// Adds terms * one.
template <int R, int NT>
AVX512_INLINE void addOnes(const __m512 (&terms)[R], const float (&one)[NT], __m512 (&sum)[R][NT]) {
#pragma GCC unroll 4
  for (int t = 0; t < NT; t++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[r][t] = _mm512_fmadd_ps(terms[r], _mm512_set1_ps(one[t]), sum[r][t]);
}

/// Adds product * scale + one * offset for rows from register `first` on and group g of a span. One look at the form of
/// the scales serves all.
template <uint32_t ROWS, int R, int NT>
AVX512_INLINE void addTerms(const Matrix& m, const uint8_t* span, const Walk& walk, uint32_t g, uint32_t first,
                            const float (&one)[NT], const __m512 (&products)[R][NT], Sums<R, NT>& sums) {
  const uint32_t row = g * ROWS + first * 16;
  const auto add = [&]<Stored SCALE, Stored OFFSET>(auto& scaled, auto& offset) AVX512_LAMBDA {
    __m512 terms[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) terms[r] = storedAt<SCALE>(span, row + uint32_t(r) * 16);
    addTimes(terms, products, scaled);
    if (!walk.hasOffset) return;
    const uint8_t* offsets = SCALE == OFFSET ? span + walk.term : span;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) terms[r] = storedAt<OFFSET>(offsets, row + uint32_t(r) * 16);
    addOnes(terms, one, offset);
  };
  switch (m.scales) {
    case Scales::Half:
      return add.template operator()<Stored::Half, Stored::Half>(sums.all, sums.all);
    case Scales::Float:
      return add.template operator()<Stored::Float, Stored::Float>(sums.all, sums.all);
    case Scales::TwoLevel:
      return add.template operator()<Stored::Byte, Stored::Byte>(sums.block, sums.offsets);
    case Scales::Nibbles:
      return add.template operator()<Stored::LowerNibble, Stored::UpperNibble>(sums.block, sums.offsets);
  }
}

template <int R, int NT>
AVX512_INLINE void beginBlock(const Matrix& m, Sums<R, NT>& sums) {
  if (!m.twoLevels()) return;
  clear(sums.block);
  clear(sums.offsets);
}

/// `header`: where the block begins.
template <int R, int NT>
AVX512_INLINE void endBlock(const Matrix& m, const uint8_t* header, const Walk& walk, uint32_t first,
                            Sums<R, NT>& sums) {
  if (!m.twoLevels()) return;
  __m512 shared[R];
  const auto load = [&](const uint8_t* term) AVX512_LAMBDA {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) shared[r] = halvesAt(term + (first + r) * 32);
  };
  load(header);
  addTimes(shared, sums.block, sums.all);
  if (!walk.hasOffset) return;
  load(header + walk.shared);
  addTimes(shared, sums.offsets, sums.all);
}

void lookupTile512(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out);
void tabulate512(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums);
void ternaryTile512(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out);
void tabulateFives512(const float* x, uint32_t k, uint8_t* tables, float* scales, float* sums);

}  // namespace lutra
