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

/// The scales (or offsets) of eight rows from 8 * e on in group g of a span, in a part of ROWS rows.
template <uint32_t ROWS>
AVX2_INLINE __m256 scalesAt(const Matrix& m, const TermsAt& terms, uint32_t g, uint32_t e) {
  const uint32_t first = g * ROWS + e * 8;
  if (m.scales == Scales::Float) return _mm256_loadu_ps(reinterpret_cast<const float*>(terms.own) + first);
  if (m.scales == Scales::Half)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(terms.own + first * 2)));
  const __m256 shared = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(terms.shared + e * 16)));
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(terms.own + first));
  const __m256i integers =
      m.scales == Scales::Nibbles
          ? _mm256_and_si256(_mm256_srli_epi32(_mm256_cvtepu8_epi32(bytes), terms.shift), _mm256_set1_epi32(15))
          : _mm256_cvtepi8_epi32(bytes);
  return _mm256_mul_ps(shared, _mm256_cvtepi32_ps(integers));
}

/// sum + (product - zero * one) * scale + one * offset, for eight rows and a group as scalesAt has them.
template <uint32_t ROWS>
AVX2_INLINE __m256 withTerms(const Matrix& m, const Walk& walk, const uint8_t* header, const uint8_t* span, uint32_t g,
                             uint32_t e, __m256 zero, float one, __m256 product, __m256 sum) {
  const __m256 ones = _mm256_set1_ps(one);
  sum = _mm256_fmadd_ps(_mm256_fnmadd_ps(zero, ones, product), scalesAt<ROWS>(m, walk.scales(header, span), g, e), sum);
  if (!walk.hasOffset) return sum;
  return _mm256_fmadd_ps(scalesAt<ROWS>(m, walk.offsets(header, span), g, e), ones, sum);
}

void lookupTile256(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out);
void tabulate256(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums);

}  // namespace lutra
