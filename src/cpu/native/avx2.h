// What the files of AVX2 kernels share.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"

// Empty where the instructions are emulated, in tests.
#ifndef AVX2_TARGET
#define AVX2_TARGET target("avx2,fma,f16c")
#endif
#define AVX2 __attribute__((AVX2_TARGET))
#define AVX2_INLINE __attribute__((AVX2_TARGET, always_inline)) inline

namespace lutra {

inline int32_t fourAt(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return four;
}

/// The scales of eight rows from 8 * e on in group g of a block, whose scales (or offsets) begin at `term`, in a part
/// of ROWS rows.
template <uint32_t ROWS>
AVX2_INLINE __m256 scalesAt(const Matrix& m, const uint8_t* term, uint32_t g, uint32_t e) {
  if (m.scales == Scales::Float) return _mm256_loadu_ps(reinterpret_cast<const float*>(term) + g * ROWS + e * 8);
  if (m.scales == Scales::Half)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(term + (g * ROWS + e * 8) * 2)));
  const __m256 block = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(term + e * 16)));
  const uint8_t* fine = term + ROWS * (2 + g) + e * 8;
  const __m256i codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(fine)));
  return _mm256_mul_ps(block, _mm256_cvtepi32_ps(codes));
}

/// sum + (product - zero * one) * scale + one * offset, for the eight rows and group that scalesAt names.
template <uint32_t ROWS>
AVX2_INLINE __m256 withTerms(const Matrix& m, const uint8_t* header, const Walk& walk, uint32_t g, uint32_t e,
                             __m256 zero, float one, __m256 product, __m256 sum) {
  const __m256 ones = _mm256_set1_ps(one);
  sum = _mm256_fmadd_ps(_mm256_fnmadd_ps(zero, ones, product), scalesAt<ROWS>(m, header, g, e), sum);
  return walk.hasOffset ? _mm256_fmadd_ps(scalesAt<ROWS>(m, header + walk.term, g, e), ones, sum) : sum;
}

void lookupTile256(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out);
void tabulate256(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums);

}  // namespace lutra
