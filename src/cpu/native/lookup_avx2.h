// What bit-serial lookups with AVX2 share: those that models run with, and those of ablations.
#pragma once
#include "avx2.h"

namespace lutra {

constexpr int kParts = 4;  // eight rows each, of 32

AVX2_INLINE __m256i bytesAt(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

/// The table of four values in both lanes.
AVX2_INLINE __m256i signedTableAt(const int8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

/// The same as numbers from 0 up, each 128 larger.
AVX2_INLINE __m256i tableAt(const int8_t* p) {
  return _mm256_xor_si256(signedTableAt(p), _mm256_set1_epi8(char(0x80)));
}

/// The two nibbles of each byte.
AVX2_INLINE __m256i lowNibbles(__m256i w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
AVX2_INLINE __m256i highNibbles(__m256i w) { return lowNibbles(_mm256_srli_epi16(w, 4)); }

/// Sums of the even rows and of the odd ones, 16 bits each.
struct Sums {
  __m256i even, odd;
};

/// Sums of bytes from 0 up: whole 16-bit lanes (even rows and 256 times the odd ones) beside the odd rows alone.
struct ByteSums {
  __m256i both, odd;

  AVX2_INLINE void add(__m256i bytes) {
    both = _mm256_add_epi16(both, bytes);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(bytes, 8));
  }
  AVX2_INLINE void add(__m256i a, __m256i b) {
    both = _mm256_add_epi16(both, _mm256_add_epi16(a, b));
    odd = _mm256_add_epi16(odd, _mm256_add_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)));
  }
  /// 2 * sums + these: from the sums of higher bits to those of one more.
  AVX2_INLINE Sums below(const Sums& sums) const {
    const __m256i twice = _mm256_add_epi16(sums.odd, sums.odd);
    return {_mm256_add_epi16(_mm256_add_epi16(sums.even, sums.even), _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8))),
            _mm256_add_epi16(twice, odd)};
  }
};

AVX2_INLINE Sums noSums() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

AVX2_INLINE Sums less(const Sums& sums, int excess) {
  const __m256i all = _mm256_set1_epi16(short(excess));
  return {_mm256_sub_epi16(sums.even, all), _mm256_sub_epi16(sums.odd, all)};
}

/// The sums of 32 rows in order, as floats, eight rows a register.
AVX2_INLINE void floatsOf(const Sums& sums, __m256* out) {
  const __m256i low = _mm256_unpacklo_epi16(sums.even, sums.odd), high = _mm256_unpackhi_epi16(sums.even, sums.odd);
  const __m128i eights[kParts] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high),
                                  _mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1)};
  for (int e = 0; e < kParts; e++) out[e] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eights[e]));
}

/// Lane c of sign j is -1 or 1, as bit j of c says; entries of 8 and more have a plus before the fourth value.
struct Signs {
  alignas(32) float lanes[3][8];

  Signs() {
    for (int j = 0; j < 3; j++)
      for (int c = 0; c < 8; c++) lanes[j][c] = c >> j & 1 ? 1.0f : -1.0f;
  }
  /// The first three of four values, with the signs of eight entries.
  AVX2_INLINE __m256 threesOf(const float* four) const {
    __m256 e = _mm256_mul_ps(_mm256_set1_ps(four[0]), _mm256_load_ps(lanes[0]));
    for (int j = 1; j < 3; j++) e = _mm256_fmadd_ps(_mm256_set1_ps(four[j]), _mm256_load_ps(lanes[j]), e);
    return e;
  }
};

/// The sums of each half of a chunk; whether all of its values are finite.
AVX2_INLINE bool sumsOf(const float* x, float* sums) {
  const __m256 none = _mm256_setzero_ps();
  __m256 poison = none;
  for (int half = 0; half < 2; half++) {
    const __m256 first = _mm256_loadu_ps(x + 16 * half), second = _mm256_loadu_ps(x + 16 * half + 8);
    poison = _mm256_fmadd_ps(second, none, _mm256_fmadd_ps(first, none, poison));
    alignas(32) float both[8];
    _mm256_store_ps(both, _mm256_add_ps(first, second));
    sums[half] = ((both[0] + both[4]) + (both[2] + both[6])) + ((both[1] + both[5]) + (both[3] + both[7]));
  }
  return _mm256_movemask_ps(_mm256_cmp_ps(poison, none, _CMP_EQ_OQ)) == 0xff;
}

/// How the entries of a chunk become bytes: times `factor`, or all 0. `scale` is half of what one of a byte is worth.
struct ByteScale {
  float factor, scale;
  bool usable;
};

/// By the largest entries, of which each is there with either sign.
AVX2_INLINE ByteScale byteScaleOf(__m256 largest, bool finite) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, largest);
  float most = 0;
  for (const float lane : lanes) most = lane > most ? lane : most;
  const float inverse = most > 0 ? 127.0f / most : 0.0f;
  const bool usable = finite && std::isfinite(inverse);
  return {inverse, !finite ? std::numeric_limits<float>::quiet_NaN() : usable ? most / 254.0f : 0.0f, usable};
}

/// Two registers of numbers times `factor`, rounded to 16 bytes in order.
AVX2_INLINE __m128i bytesOf(__m256 low, __m256 high, __m256 factor) {
  const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(low, factor));
  const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(high, factor));
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

}  // namespace lutra
