// Bit-serial lookup with AVX2, as T-MAC has it (EuroSys'25): pshufb looks up a byte for each of 32 rows, and they are
// summed in 16 bits, exactly: sums of whole 16-bit lanes (even rows and 256 times the odd ones) beside sums of the odd
// rows alone, from which the even ones follow. Averages of bytes instead of sums ("fast aggregation") are there for
// those who ask for them: they save a third of the work and lose bits.
#if defined(__x86_64__)
#include "lookup_avx2.h"

namespace lutra {

namespace {

/// What the bits of 32 rows find in the tables of a chunk, or of one half of it. TREE: so many lookups are summed by
/// averages, in the order of kernels_scalar.cpp; 1: all are summed exactly.
template <int BITS, bool HALF, int TREE>
AVX2_INLINE Sums lookups(const uint8_t* at, const int8_t* tables, int half) {
  constexpr int count = HALF ? 2 : 4;  // registers of a plane, of two lookups each
  constexpr int tree = TREE > 2 * count ? 2 * count : TREE;
  constexpr int levels = tree == 8 ? 3 : tree == 4 ? 2 : tree == 2 ? 1 : 0;
  at += half * 64;
  tables += half * 64;
  Sums sums = noSums();
  for (int p = BITS - 1; p >= 0; p--) {  // from the highest plane, doubling on the way
    ByteSums found{};
    __m256i average[count];
    for (int j = 0; j < count; j++) {
      const __m256i w = bytesAt(at + (p * 4 + j) * 32);
      const __m256i a = _mm256_shuffle_epi8(tableAt(tables + 32 * j), lowNibbles(w));
      const __m256i b = _mm256_shuffle_epi8(tableAt(tables + 32 * j + 16), highNibbles(w));
      if constexpr (tree == 1)
        found.add(a, b);
      else
        average[j] = _mm256_avg_epu8(a, b);
    }
    if constexpr (tree > 1) {
      for (int step = 1; step < tree / 2; step *= 2)
        for (int j = 0; j < count; j += 2 * step) average[j] = _mm256_avg_epu8(average[j], average[j + step]);
      for (int j = 0; j < count; j += tree / 2) found.add(average[j]);
    }
    sums = found.below(sums);
  }
  // Each lookup was 128 too large, and on the whole a quarter more for each level of averages.
  constexpr int excess = (128 * 2 * count + 2 * count * levels / 4) * ((1 << BITS) - 1);
  sums = {_mm256_slli_epi16(sums.even, levels), _mm256_slli_epi16(sums.odd, levels)};
  return less(sums, excess);
}

/// The rows of a stretch for one token, 32 after 32 of each chunk, as they lie in memory. SMALL: groups of 16 values.
template <int BITS, bool SMALL, int TREE>
AVX2 void stretchOf(const Matrix& m, const Stretch& stretch, const Activations& x, float* out) {
  const Walk walk(m, stretch);
  const uint32_t ahead = m.ahead;
  const __m256 zero = _mm256_set1_ps(m.zero - 0.5f * float((1 << BITS) - 1));  // see kernels_scalar.cpp
  __m256 sum[2 * kParts], found[kParts];
  for (__m256& of : sum) of = _mm256_setzero_ps();
  const uint8_t* header = stretch.codes;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    const uint8_t* span = header + walk.firstSpan;
    for (uint32_t s = 0; s < walk.spans; s++, span += walk.span) {
      const uint8_t* at = span + walk.header;
      __m256 products[2 * kParts];
      for (__m256& of : products) of = _mm256_setzero_ps();
      float total = 0;
      for (uint32_t c = 0; c < (SMALL ? 1 : walk.chunks); c++, chunk++) {
        const int8_t* tables = x.tables + chunk * 128;
        const __m256 scale = _mm256_set1_ps(x.tableScales[chunk]);
        const float* ones = x.tableSums + 2 * chunk;
        for (int first = 0; first < 2 * kParts; first += kParts, at += 128 * BITS) {
          for (int i = 0; i < 2 * BITS; i++)
            _mm_prefetch(reinterpret_cast<const char*>(at) + i * 64 + ahead, _MM_HINT_T0);
          if constexpr (SMALL) {
            for (int half = 0; half < 2; half++) {
              floatsOf(lookups<BITS, true, TREE>(at, tables, half), found);
              for (int e = 0; e < kParts; e++)
                sum[first + e] = withTerms<kTileRows>(m, walk, header, span, uint32_t(half), first + e, zero,
                                                      ones[half], _mm256_mul_ps(found[e], scale), sum[first + e]);
            }
          } else {
            floatsOf(lookups<BITS, false, TREE>(at, tables, 0), found);
            for (int e = 0; e < kParts; e++)
              products[first + e] = _mm256_fmadd_ps(found[e], scale, products[first + e]);
          }
        }
        total += ones[0] + ones[1];
      }
      if constexpr (!SMALL)
        for (int e = 0; e < 2 * kParts; e++)
          sum[e] = withTerms<kTileRows>(m, walk, header, span, 0, e, zero, total, products[e], sum[e]);
    }
  }
  for (int e = 0; e < 2 * kParts; e++) _mm256_storeu_ps(out + e * 8, _mm256_mul_ps(sum[e], _mm256_set1_ps(m.factor)));
}

template <int BITS, bool SMALL, int TREE>
void tileOf(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  for (uint32_t t = 0; t < tokens; t++) stretchOf<BITS, SMALL, TREE>(m, stretch, x.from(t), out + t * kTileRows);
}

/// By m.average / 2.
template <int BITS, bool SMALL>
constexpr IntegerKernel trees[5] = {tileOf<BITS, SMALL, 1>, tileOf<BITS, SMALL, 2>, tileOf<BITS, SMALL, 4>, nullptr,
                                    tileOf<BITS, SMALL, 8>};

}  // namespace

void lookupTile256(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  constexpr decltype(&trees<1, false>) kernels[4][2] = {{&trees<1, false>, &trees<1, true>},
                                                        {&trees<2, false>, &trees<2, true>},
                                                        {&trees<3, false>, &trees<3, true>},
                                                        {&trees<4, false>, &trees<4, true>}};
  (*kernels[m.bits - 1][m.group == kActGroup])[m.average / 2](m, stretch, x, tokens, out);
}

AVX2 void tabulate256(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums) {
  const Signs signs;
  for (uint32_t i = 0; i < k; i += kChunk, x += kChunk, tables += 4 * kChunk, sums += 2) {
    const bool finite = sumsOf(x, sums);
    __m256 largest = _mm256_setzero_ps(), low[8], high[8];
    for (int f = 0; f < 8; f++) {
      const __m256 threes = signs.threesOf(x + 4 * f), fourth = _mm256_set1_ps(x[4 * f + 3]);
      low[f] = _mm256_sub_ps(threes, fourth);
      high[f] = _mm256_add_ps(threes, fourth);
      largest = _mm256_max_ps(largest, _mm256_max_ps(low[f], high[f]));
    }
    const ByteScale scale = byteScaleOf(largest, finite);
    *scales++ = scale.scale;
    for (int f = 0; f < 8; f++)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(tables + 16 * f),
                       scale.usable ? bytesOf(low[f], high[f], _mm256_set1_ps(scale.factor)) : _mm_setzero_si128());
  }
}

}  // namespace lutra
#endif
