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

/// The scales of register `r` of 16 rows in group g of a block, whose scales (or offsets) begin at `term`, in a part of
/// ROWS rows.
template <uint32_t ROWS>
AVX512_INLINE __m512 scalesAt(const Matrix& m, const uint8_t* term, uint32_t g, uint32_t r) {
  if (m.scales == Scales::Float) return _mm512_loadu_ps(term + (g * ROWS + r * 16) * 4);
  if (m.scales == Scales::Half)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(term + (g * ROWS + r * 16) * 2)));
  const __m512 block = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(term + r * 32)));
  const uint8_t* fine = term + ROWS * (2 + g) + r * 16;
  const __m512i codes = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(fine)));
  return _mm512_mul_ps(block, _mm512_cvtepi32_ps(codes));
}

/// The sum of some numbers, in order.
inline float sumOf(const float* x, uint32_t count) {
  float sum = 0;
  for (uint32_t i = 0; i < count; i++) sum += x[i];
  return sum;
}

/// Adds product * scale + one * offset to the sums of R registers of rows from `first` on by NT tokens, for group g of
/// the block whose header is given. One look at the form of the scales serves all.
template <uint32_t ROWS, int R, int NT>
AVX512_INLINE void addTerms(const Matrix& m, const uint8_t* header, const Walk& walk, uint32_t g, uint32_t first,
                            const float (&one)[NT], const __m512 (&products)[R][NT], __m512 (&sum)[R][NT]) {
  __m512 terms[R];
  const auto load = [&](const uint8_t* term) AVX512_LAMBDA {
    if (m.scales == Scales::Half) {
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
        terms[r] = _mm512_cvtph_ps(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(term + (g * ROWS + (first + r) * 16) * 2)));
    } else {
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) terms[r] = scalesAt<ROWS>(m, term, g, first + r);
    }
  };
  load(header);
#pragma GCC unroll 4
  for (int t = 0; t < NT; t++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[r][t] = _mm512_fmadd_ps(products[r][t], terms[r], sum[r][t]);
  if (!walk.hasOffset) return;
  load(header + walk.term);
#pragma GCC unroll 4
  for (int t = 0; t < NT; t++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[r][t] = _mm512_fmadd_ps(terms[r], _mm512_set1_ps(one[t]), sum[r][t]);
}

void lookupTile512(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out);
void tabulate512(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums);
void ternaryTile512(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out);
void tabulateFives512(const float* x, uint32_t k, uint8_t* tables, float* scales, float* sums);

}  // namespace lutra
