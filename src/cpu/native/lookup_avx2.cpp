// Bit-serial lookup with AVX2, as T-MAC has it (EuroSys'25): pshufb looks up a byte for each of 32 rows, and they are
// summed in 16 bits, exactly: sums of whole 16-bit lanes (even rows and 256 times the odd ones) beside sums of the odd
// rows alone, from which the even ones follow. No averaging, which loses bits ("fast aggregation") and gains no time
// where memory is the limit.
#if defined(__x86_64__)
#include "avx2.h"

namespace lutra {

namespace {

constexpr int kParts = 4;  // eight rows each, of 32

AVX2_INLINE __m256i bytesAt(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

/// The table of four values in both lanes, as numbers from 0 up.
AVX2_INLINE __m256i tableAt(const int8_t* p) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_xor_si256(table, _mm256_set1_epi8(char(0x80)));
}

/// Sums of the even rows and of the odd ones, 16 bits each.
struct Sums {
  __m256i even, odd;
};

/// What the bits of 32 rows find in the tables of a chunk, or of one half of it.
template <int BITS, bool HALF>
AVX2_INLINE Sums lookups(const uint8_t* at, const int8_t* tables, int half) {
  constexpr int count = HALF ? 2 : 4;  // registers of a plane
  at += half * 64;
  tables += half * 64;
  Sums sums{_mm256_setzero_si256(), _mm256_setzero_si256()};
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int p = BITS - 1; p >= 0; p--) {  // from the highest plane, doubling on the way
    sums.even = _mm256_add_epi16(sums.even, sums.even);
    sums.odd = _mm256_add_epi16(sums.odd, sums.odd);
    __m256i both = _mm256_setzero_si256(), odd = both;
    for (int j = 0; j < count; j++) {
      const __m256i w = bytesAt(at + (p * 4 + j) * 32);
      const __m256i a = _mm256_shuffle_epi8(tableAt(tables + 32 * j), _mm256_and_si256(w, nibble));
      const __m256i b =
          _mm256_shuffle_epi8(tableAt(tables + 32 * j + 16), _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble));
      both = _mm256_add_epi16(both, _mm256_add_epi16(a, b));
      odd = _mm256_add_epi16(odd, _mm256_add_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)));
    }
    sums.odd = _mm256_add_epi16(sums.odd, odd);
    sums.even = _mm256_add_epi16(sums.even, _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8)));
  }
  // Each lookup was 128 too large.
  const __m256i excess = _mm256_set1_epi16(short(128 * 2 * count * ((1 << BITS) - 1)));
  return {_mm256_sub_epi16(sums.even, excess), _mm256_sub_epi16(sums.odd, excess)};
}

/// The sums of 32 rows in order, as floats, eight rows a register.
AVX2_INLINE void floatsOf(const Sums& sums, __m256 (&out)[kParts]) {
  const __m256i low = _mm256_unpacklo_epi16(sums.even, sums.odd), high = _mm256_unpackhi_epi16(sums.even, sums.odd);
  const __m128i eights[kParts] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high),
                                  _mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1)};
  for (int e = 0; e < kParts; e++) out[e] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eights[e]));
}

/// Rows 32 * h to 32 * h + 31 of a tile for one token. SMALL: groups of 16 values.
template <int BITS, bool SMALL>
AVX2 void block(const Matrix& m, const uint8_t* tile, uint32_t h, const Activations& x, float* out) {
  const Walk walk(m);
  const uint32_t ahead = m.ahead;
  const __m256 zero = _mm256_set1_ps(m.zero - 0.5f * float((1 << BITS) - 1));  // see kernels_scalar.cpp
  __m256 sum[kParts], found[kParts];
  for (int e = 0; e < kParts; e++) sum[e] = _mm256_setzero_ps();
  const uint8_t* header = tile;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    const uint8_t* at = header + walk.header + h * 128 * BITS;
    for (uint32_t s = 0; s < walk.spans; s++) {
      __m256 products[kParts];
      for (int e = 0; e < kParts; e++) products[e] = _mm256_setzero_ps();
      float total = 0;
      for (uint32_t c = 0; c < (SMALL ? 1 : walk.chunks); c++, chunk++, at += 256 * BITS) {
        for (int i = 0; i < 2 * BITS; i++)
          _mm_prefetch(reinterpret_cast<const char*>(at) + i * 64 + ahead, _MM_HINT_T0);
        const int8_t* tables = x.tables + chunk * 128;
        const __m256 scale = _mm256_set1_ps(x.tableScales[chunk]);
        const float* ones = x.tableSums + 2 * chunk;
        if constexpr (SMALL) {
          for (int half = 0; half < 2; half++) {
            floatsOf(lookups<BITS, true>(at, tables, half), found);
            for (int e = 0; e < kParts; e++)
              sum[e] = withTerms<kTileRows>(m, header, walk, 2 * s + half, 4 * h + e, zero, ones[half],
                                            _mm256_mul_ps(found[e], scale), sum[e]);
          }
        } else {
          floatsOf(lookups<BITS, false>(at, tables, 0), found);
          for (int e = 0; e < kParts; e++) products[e] = _mm256_fmadd_ps(found[e], scale, products[e]);
          total += ones[0] + ones[1];
        }
      }
      if constexpr (!SMALL)
        for (int e = 0; e < kParts; e++)
          sum[e] = withTerms<kTileRows>(m, header, walk, s, 4 * h + e, zero, total, products[e], sum[e]);
    }
  }
  for (int e = 0; e < kParts; e++)
    _mm256_storeu_ps(out + h * 32 + e * 8, _mm256_mul_ps(sum[e], _mm256_set1_ps(m.factor)));
}

template <int BITS, bool SMALL>
void tileOf(const Matrix& m, const uint8_t* tile, const Activations& x, uint32_t tokens, float* out) {
  for (uint32_t t = 0; t < tokens; t++)
    for (uint32_t h : {0u, 1u}) block<BITS, SMALL>(m, tile, h, x.from(t), out + t * kTileRows);
}

}  // namespace

void lookupTile256(const Matrix& m, const uint8_t* tile, const Activations& x, uint32_t tokens, float* out) {
  constexpr IntegerKernel kernels[4][2] = {{tileOf<1, false>, tileOf<1, true>},
                                           {tileOf<2, false>, tileOf<2, true>},
                                           {tileOf<3, false>, tileOf<3, true>},
                                           {tileOf<4, false>, tileOf<4, true>}};
  kernels[m.bits - 1][m.group == kActGroup](m, tile, x, tokens, out);
}

AVX2 void tabulate256(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums) {
  // Lane c of sign j is -1 or 1, as bit j of c says; the upper half of the entries differ in the sign of j = 3 alone.
  alignas(32) float sign[3][8];
  for (int j = 0; j < 3; j++)
    for (int c = 0; c < 8; c++) sign[j][c] = c >> j & 1 ? 1.0f : -1.0f;
  const __m256 none = _mm256_setzero_ps();
  for (uint32_t i = 0; i < k; i += kChunk, x += kChunk, tables += 4 * kChunk) {
    __m256 eights[4], largest = none, poison = none, low[8], high[8];
    for (int e = 0; e < 4; e++) {
      eights[e] = _mm256_loadu_ps(x + 8 * e);
      poison = _mm256_fmadd_ps(eights[e], none, poison);
    }
    for (int half = 0; half < 2; half++) {
      alignas(32) float both[8];
      _mm256_store_ps(both, _mm256_add_ps(eights[2 * half], eights[2 * half + 1]));
      *sums++ = ((both[0] + both[4]) + (both[2] + both[6])) + ((both[1] + both[5]) + (both[3] + both[7]));
    }
    const bool finite = _mm256_movemask_ps(_mm256_cmp_ps(poison, none, _CMP_EQ_OQ)) == 0xff;
    for (int f = 0; f < 8; f++) {
      __m256 e = _mm256_mul_ps(_mm256_set1_ps(x[4 * f]), _mm256_load_ps(sign[0]));
      for (int j = 1; j < 3; j++) e = _mm256_fmadd_ps(_mm256_set1_ps(x[4 * f + j]), _mm256_load_ps(sign[j]), e);
      low[f] = _mm256_sub_ps(e, _mm256_set1_ps(x[4 * f + 3]));
      high[f] = _mm256_add_ps(e, _mm256_set1_ps(x[4 * f + 3]));
      largest = _mm256_max_ps(largest, _mm256_max_ps(low[f], high[f]));  // each entry is there with either sign
    }
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, largest);
    float most = 0;
    for (const float lane : lanes) most = lane > most ? lane : most;
    const float inverse = most > 0 ? 127.0f / most : 0.0f;
    const bool usable = finite && std::isfinite(inverse);
    *scales++ = !finite ? std::numeric_limits<float>::quiet_NaN() : usable ? most / 254.0f : 0.0f;
    const __m256 factor = _mm256_set1_ps(inverse);
    for (int f = 0; f < 8; f++) {
      const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(low[f], factor));
      const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(high[f], factor));
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
      const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(tables + 16 * f), usable ? bytes : _mm_setzero_si128());
    }
  }
}

}  // namespace lutra
#endif
