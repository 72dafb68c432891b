// Lookup of five ternary weights at once with AVX-512 VBMI, as bitnet.cpp's TL2 has it for three (ACL'25), but with the
// half table of 122 sums in two registers, which vpermi2b reads by the low seven bits of a weight byte: 1.625 bits a
// weight, and nothing to mask off. Found bytes of 64 rows are summed as 16-bit pairs, exactly.
#if defined(__x86_64__)
// GCC 12 warns of its own _mm512_undefined_*() headers (its bug 105593) wherever they are inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "avx512.h"

namespace lutra {

namespace {

/// A stretch of a tile by NT tokens.
template <int NT>
VBMI void block(const Matrix& m, const Stretch& stretch, const Activations& x, float* out) {
  const size_t chunks = x.k / kTernaryChunk;
  const Walk walk(m, stretch);
  const uint32_t ahead = m.ahead, spanChunks = m.group / kTernaryChunk;
  // Digits are the codes less 1.
  const float zero = m.zero - 1.0f;
  // A found byte is its sum plus 128, and all that is added to one of 16 bits is taken off in advance.
  const __m512i bias = _mm512_set1_epi16(-128 * int(kFives)), pairBias = _mm512_set1_epi16(short(-128 * kFives * 257));
  Sums<4, NT> sum;
  clear(sum.all);
  const uint8_t* header = stretch.codes;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    beginBlock(m, sum);
    const uint8_t* span = header + walk.firstSpan;
    for (uint32_t s = 0; s < walk.spans; s++, span += walk.span) {
      const uint8_t* at = span + walk.header;
      __m512 products[4][NT];
      float total[NT];
      for (int t = 0; t < NT; t++) {
        total[t] = sumOf(x.fiveSums + t * chunks + chunk, spanChunks);
        for (int r = 0; r < 4; r++) products[r][t] = _mm512_set1_ps(-zero * total[t]);
      }
      for (uint32_t c = 0; c < spanChunks; c++, chunk++) {
        const uint8_t* tables = x.fives + chunk * kFiveBytes;
        __m512i pairs[NT], upper[NT];  // sums of both bytes of a pair, the upper times 256, and of the upper alone
        for (int t = 0; t < NT; t++) {
          pairs[t] = pairBias;
          upper[t] = bias;
        }
#pragma GCC unroll 13
        for (uint32_t f = 0; f < kFives; f++, at += 64) {
          const __m512i w = _mm512_loadu_si512(at);
          if (ahead) _mm_prefetch(reinterpret_cast<const char*>(at) + ahead, _MM_HINT_T0);
          const __mmask64 below = _mm512_movepi8_mask(w);
#pragma GCC unroll 2
          for (int t = 0; t < NT; t++) {
            const uint8_t* table = tables + t * chunks * kFiveBytes + 128 * f;
            __m512i found = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), w, _mm512_loadu_si512(table + 64));
            found = _mm512_mask_sub_epi8(found, below, _mm512_setzero_si512(), found);  // 128 - sum
            pairs[t] = _mm512_add_epi16(pairs[t], found);
            upper[t] = _mm512_add_epi16(upper[t], _mm512_srli_epi16(found, 8));
          }
        }
#pragma GCC unroll 2
        for (int t = 0; t < NT; t++) {
          const size_t one = t * chunks + chunk;
          const __m512i lower = _mm512_sub_epi16(pairs[t], _mm512_slli_epi16(upper[t], 8));
          const __m512 scale = _mm512_set1_ps(x.fiveScales[one]);
          const auto add = [&](int r, __m256i rows) VBMI_LAMBDA {
            products[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(rows)), scale, products[r][t]);
          };
          add(0, _mm512_castsi512_si256(lower));
          add(1, _mm512_extracti64x4_epi64(lower, 1));
          add(2, _mm512_castsi512_si256(upper[t]));
          add(3, _mm512_extracti64x4_epi64(upper[t], 1));
        }
      }
      addTerms<kTileRows, 4, NT>(m, span, walk, 0, 0, total, products, sum);
    }
    endBlock(m, header, walk, 0, sum);
  }
  for (int r = 0; r < 4; r++)
    for (int t = 0; t < NT; t++)
      _mm512_storeu_ps(out + t * kTileRows + r * 16, _mm512_mul_ps(sum.all[r][t], _mm512_set1_ps(m.factor)));
}

/// Digit `power` of n in balanced ternary, of n from -13 to 13 in lanes from 0 on; 0 in the others.
VBMI_INLINE __m512i digits(int power) {
  int16_t lanes[32] = {};
  for (int n = -13; n <= 13; n++) {
    int left = n;
    for (int p = 0;; p++) {
      const int digit = ((left + 1) % 3 + 3) % 3 - 1;
      if (p == power) {
        lanes[n + 13] = int16_t(digit);
        break;
      }
      left = (left - digit) / 3;
    }
  }
  return _mm512_loadu_si512(lanes);
}

}  // namespace

VBMI void ternaryTile512(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  uint32_t t = 0;
  for (; t + 2 <= tokens; t += 2) block<2>(m, stretch, x.from(t), out + t * kTileRows);
  if (t < tokens) block<1>(m, stretch, x.from(t), out + t * kTileRows);
}

VBMI void tabulateFives512(const float* x, uint32_t k, uint8_t* tables, float* scales, float* sums) {
  const __m512i one = digits(0), three = digits(1), nine = digits(2);
  const __m512i bias = _mm512_set1_epi16(128 * 128 + 64);  // of an entry, and for rounding
  for (uint32_t i = 0; i < k; i += kTernaryChunk, x += kTernaryChunk, tables += kFiveBytes) {
    const __m512 none = _mm512_setzero_ps();
    // Lane f of register d: digit d of five f.
    __m512 values[5], size = none, total = none, poison = none;
    for (int d = 0; d < 5; d++) {
      values[d] = _mm512_maskz_loadu_ps(d < 4 ? 0x1fff : 0x0fff, x + d * kFives);
      size = _mm512_add_ps(size, _mm512_abs_ps(values[d]));
      total = _mm512_add_ps(total, values[d]);
      poison = _mm512_fmadd_ps(values[d], none, poison);
    }
    const bool finite = _mm512_cmp_ps_mask(poison, none, _CMP_EQ_OQ) == 0xffff;
    const float largest = _mm512_reduce_max_ps(size), fine = largest > 0 ? 127.0f / largest * 128.0f : 0.0f;
    const bool usable = finite && std::isfinite(fine);
    *scales++ = !finite ? std::numeric_limits<float>::quiet_NaN() : usable ? largest / 127.0f : 0.0f;
    *sums++ = _mm512_reduce_add_ps(total);
    int16_t rounded[5][16] = {};
    for (int d = 0; usable && d < 5; d++) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(values[d], _mm512_set1_ps(fine)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded[d]), _mm512_cvtepi32_epi16(whole));
    }
    for (uint32_t f = 0; f < kFives; f++) {
      const auto times = [&](__m512i digit, int d)
                             VBMI_LAMBDA { return _mm512_mullo_epi16(digit, _mm512_set1_epi16(rounded[d][f])); };
      // Sums of the lower three digits, then those of all: 27 entries around each number that the upper two make.
      const __m512i low =
          _mm512_add_epi16(_mm512_add_epi16(times(one, 0), times(three, 1)), _mm512_add_epi16(times(nine, 2), bias));
      const int16_t fourth = rounded[3][f], fifth = rounded[4][f];
      const int16_t upper[5] = {0, fourth, int16_t(fifth - fourth), fifth, int16_t(fifth + fourth)};
      uint8_t* middle = tables + 128 * f;
      for (int h = 0; h < 5; h++, middle += 27) {
        const __m512i all = _mm512_srli_epi16(_mm512_add_epi16(low, _mm512_set1_epi16(upper[h])), 7);
        const __m256i bytes = _mm512_cvtepi16_epi8(all);
        // The next comes over what is too much; the first begins with its middle.
        if (h == 0)
          _mm256_mask_storeu_epi8(middle - 13, 0x07ffe000, bytes);
        else
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(middle - 13), bytes);
      }
    }
  }
}

}  // namespace lutra
#endif
