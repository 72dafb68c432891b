// Lookups with AVX2 with one of T-MAC's means taken away or added: what they cost is what the means are worth. All but
// those by float tables give the numbers of lookup_avx2.cpp bit for bit. Not here: fast aggregation, which that file
// has. There is no such file for AVX-512: vpermb takes a table register from the cache at no cost, so that half tables
// would save nothing there, and the sign of each byte found would cost two instructions beside two of a lookup.
#if defined(__x86_64__)
#include "ablation.h"
#include "lookup_avx2.h"

namespace lutra {

namespace {

/// A stretch as lookup_avx2.cpp walks it, by what FIND finds in a chunk for 8 * FIND::kEights rows at once.
template <class FIND, int BITS>
AVX2 void stretchBy(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t, float* out) {
  constexpr int eights = FIND::kEights;
  const Walk walk(m, stretch);
  const __m256 zero = _mm256_set1_ps(m.zero - 0.5f * float((1 << BITS) - 1));  // see kernels_scalar.cpp
  __m256 sum[8], products[8], found[eights];
  for (__m256& of : sum) of = _mm256_setzero_ps();
  const uint8_t* header = stretch.codes;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    const uint8_t* at = header + walk.header;
    for (__m256& of : products) of = _mm256_setzero_ps();
    float total = 0;
    for (uint32_t c = 0; c < walk.chunks; c++, chunk++) {
      const int8_t* tables = x.tables + chunk * FIND::kTableBytes;
      const __m256 scale = _mm256_set1_ps(x.tableScales[chunk]);
      for (int first = 0; first < 8; first += eights, at += 32 * eights * BITS) {
        for (int i = 0; i < eights * BITS / 2; i++)
          _mm_prefetch(reinterpret_cast<const char*>(at) + i * 64 + m.ahead, _MM_HINT_T0);
        FIND::template find<BITS>(at, tables, found);
        for (int e = 0; e < eights; e++) products[first + e] = _mm256_fmadd_ps(found[e], scale, products[first + e]);
      }
      total += x.tableSums[2 * chunk] + x.tableSums[2 * chunk + 1];
    }
    for (int e = 0; e < 8; e++)
      sum[e] = withTerms<kTileRows>(m, walk, header, header, 0, e, zero, total, products[e], sum[e]);
  }
  for (int e = 0; e < 8; e++) _mm256_storeu_ps(out + 8 * e, sum[e]);
}

/// Without the interleaving of weights: a byte has the same four of two neighbouring rows, as rows come, so that what
/// its nibbles are has to be put in order before each lookup.
struct InPairs {
  static constexpr int kEights = 8;
  static constexpr size_t kTableBytes = 128;

  template <int BITS>
  AVX2_INLINE static void find(const uint8_t* at, const int8_t* tables, __m256 (&found)[kEights]) {
    Sums low = noSums(), high = noSums();  // of rows 0-15 and 32-47, and of the others
    for (int p = BITS - 1; p >= 0; p--) {
      ByteSums lows{}, highs{};
      for (int f = 0; f < 8; f += 2) {
        __m256i a[2], b[2];
        for (int i = 0; i < 2; i++) {
          const __m256i w = bytesAt(at + (p * 8 + f + i) * 32), table = tableAt(tables + 16 * (f + i));
          const __m256i even = lowNibbles(w), odd = highNibbles(w);
          a[i] = _mm256_shuffle_epi8(table, _mm256_unpacklo_epi8(even, odd));
          b[i] = _mm256_shuffle_epi8(table, _mm256_unpackhi_epi8(even, odd));
        }
        lows.add(a[0], a[1]);
        highs.add(b[0], b[1]);
      }
      low = lows.below(low);
      high = highs.below(high);
    }
    constexpr int excess = 128 * 8 * ((1 << BITS) - 1);
    __m256 halves[2][kParts];
    floatsOf(less(low, excess), halves[0]);
    floatsOf(less(high, excess), halves[1]);
    // Eights of rows 0, 1, 4, 5 and 2, 3, 6, 7.
    for (int e = 0; e < kEights; e++) found[e] = halves[e / 2 % 2][e / 4 * 2 + e % 2];
  }
};

/// With mirror consolidation: of a table the eight entries in which the fourth value has a plus; a weight's own bit
/// says whether the sum has a minus. Half the memory and the work of tables; the sign is two instructions more a
/// lookup.
struct Mirrored {
  static constexpr int kEights = kParts;
  static constexpr size_t kTableBytes = 64;

  /// In both halves of both lanes, so that the fourth bit of an index does not matter.
  AVX2_INLINE static __m256i halfTableAt(const int8_t* p) {
    return _mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  /// What was found, with a minus where a byte of `signs` has its highest bit, as bytes from 0 up.
  AVX2_INLINE static __m256i withSign(__m256i found, __m256i signs) {
    const __m256i notZero = _mm256_or_si256(signs, _mm256_set1_epi8(1));  // vpsignb makes zeros of what has zero there
    return _mm256_xor_si256(_mm256_sign_epi8(found, notZero), _mm256_set1_epi8(char(0x80)));
  }

  template <int BITS>
  AVX2_INLINE static void find(const uint8_t* at, const int8_t* tables, __m256 (&found)[kEights]) {
    Sums sums = noSums();
    for (int p = BITS - 1; p >= 0; p--) {
      ByteSums bytes{};
      for (int j = 0; j < 4; j++) {
        const __m256i w = bytesAt(at + (p * 4 + j) * 32);
        const __m256i a = _mm256_shuffle_epi8(halfTableAt(tables + 16 * j), lowNibbles(w));
        const __m256i b = _mm256_shuffle_epi8(halfTableAt(tables + 16 * j + 8), highNibbles(w));
        bytes.add(withSign(a, _mm256_slli_epi16(w, 4)), withSign(b, w));
      }
      sums = bytes.below(sums);
    }
    floatsOf(less(sums, 128 * 8 * ((1 << BITS) - 1)), found);
  }
};

/// Without table quantisation: tables of f32, looked up eight rows at a time in two registers of eight entries.
struct FloatTables {
  static constexpr int kEights = kParts;
  static constexpr size_t kTableBytes = 512;

  AVX2_INLINE static __m256 lookup(__m256 low, __m256 high, __m256i index, __m256i upper) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                            _mm256_castsi256_ps(upper));
  }

  template <int BITS>
  AVX2_INLINE static void find(const uint8_t* at, const int8_t* tables, __m256 (&found)[kEights]) {
    const float* entries = reinterpret_cast<const float*>(tables);
    for (int e = 0; e < kEights; e++) found[e] = _mm256_setzero_ps();
    for (int j = 0; j < 4; j++, entries += 32) {
      const __m256 a0 = _mm256_loadu_ps(entries), a1 = _mm256_loadu_ps(entries + 8);
      const __m256 b0 = _mm256_loadu_ps(entries + 16), b1 = _mm256_loadu_ps(entries + 24);
      for (int p = 0; p < BITS; p++)
        for (int e = 0; e < kEights; e++) {
          const uint8_t* eight = at + (p * 4 + j) * 32 + 8 * e;
          const __m256i w = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(eight)));
          const __m256 a = lookup(a0, a1, w, _mm256_slli_epi32(w, 28));
          const __m256 b = lookup(b0, b1, _mm256_srli_epi32(w, 4), _mm256_slli_epi32(w, 24));
          found[e] = _mm256_fmadd_ps(_mm256_add_ps(a, b), _mm256_set1_ps(float(1 << p)), found[e]);
        }
    }
  }
};

/// Sixteen f16 scales of rows that lie `stride` bytes apart would fill a line each: eight, one by one.
AVX2_INLINE __m256 scalesFrom(const uint8_t* (&rows)[32], int e, uint32_t g) {
  alignas(16) uint16_t halves[8];
  for (int i = 0; i < 8; i++) std::memcpy(&halves[i], rows[8 * e + i] + 2 * g, 2);
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(halves)));
}

/// Without permutation and tiling: bit planes as they come, row by row. The 32 rows that a register is for lie in lines
/// of their own, from which the four bytes of each row are gathered and put in the order of Layout::Lookup1.
template <int BITS>
AVX2 void rowsOf(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t, float* out) {
  const size_t rowBytes = m.k / 8;
  const uint32_t tileRow = uint32_t((stretch.codes - m.data) / rowBytes);
  const uint32_t groups = m.k / m.group, chunks = m.group / kChunk;
  const __m256 zero = _mm256_set1_ps(m.zero - 0.5f * float((1 << BITS) - 1));
  const __m256i together = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                            0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (uint32_t half = 0; half < 2; half++) {
    // Past the last row is the last again.
    const uint32_t first = std::min(tileRow + 32 * half, m.n - 1);
    alignas(32) int32_t offsets[kParts][8];
    const uint8_t* scales[32];
    for (uint32_t r = 0; r < 32; r++) {
      const uint32_t row = std::min(first + r, m.n - 1);
      // Register i gets rows 4i .. 4i + 3 in one lane, and those 16 further on in the other.
      offsets[r % 16 / 4][r / 16 * 4 + r % 4] = int32_t((row - first) * rowBytes);
      scales[r] = m.data + m.n * rowBytes * BITS + size_t(row) * groups * 2;
    }
    __m256 sum[kParts], products[kParts], found[kParts];
    for (int e = 0; e < kParts; e++) sum[e] = _mm256_setzero_ps();
    const uint8_t* at = m.data + first * rowBytes;
    size_t chunk = 0;
    for (uint32_t g = 0; g < groups; g++) {
      for (int e = 0; e < kParts; e++) products[e] = _mm256_setzero_ps();
      float total = 0;
      for (uint32_t c = 0; c < chunks; c++, chunk++, at += 4) {
        const int8_t* tables = x.tables + chunk * 128;
        Sums sums = noSums();
        for (int p = BITS - 1; p >= 0; p--) {
          const int* plane = reinterpret_cast<const int*>(at + p * (m.n * rowBytes));
          __m256i fours[kParts], w[4];
          for (int i = 0; i < kParts; i++) {
            const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i*>(offsets[i]));
            fours[i] = _mm256_shuffle_epi8(_mm256_i32gather_epi32(plane, from, 1), together);
          }
          const __m256i a = _mm256_unpacklo_epi32(fours[0], fours[1]), b = _mm256_unpacklo_epi32(fours[2], fours[3]);
          const __m256i d = _mm256_unpackhi_epi32(fours[0], fours[1]), e = _mm256_unpackhi_epi32(fours[2], fours[3]);
          w[0] = _mm256_unpacklo_epi64(a, b);
          w[1] = _mm256_unpackhi_epi64(a, b);
          w[2] = _mm256_unpacklo_epi64(d, e);
          w[3] = _mm256_unpackhi_epi64(d, e);
          ByteSums bytes{};
          for (int j = 0; j < 4; j++)
            bytes.add(_mm256_shuffle_epi8(tableAt(tables + 32 * j), lowNibbles(w[j])),
                      _mm256_shuffle_epi8(tableAt(tables + 32 * j + 16), highNibbles(w[j])));
          sums = bytes.below(sums);
        }
        floatsOf(less(sums, 128 * 8 * ((1 << BITS) - 1)), found);
        const __m256 scale = _mm256_set1_ps(x.tableScales[chunk]);
        for (int e = 0; e < kParts; e++) products[e] = _mm256_fmadd_ps(found[e], scale, products[e]);
        total += x.tableSums[2 * chunk] + x.tableSums[2 * chunk + 1];
      }
      for (int e = 0; e < kParts; e++) {
        const __m256 product = _mm256_fnmadd_ps(zero, _mm256_set1_ps(total), products[e]);
        sum[e] = _mm256_fmadd_ps(product, scalesFrom(scales, e, g), sum[e]);
      }
    }
    for (int e = 0; e < kParts; e++) _mm256_storeu_ps(out + 32 * half + 8 * e, sum[e]);
  }
}

template <class FIND>
void byBits(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  constexpr IntegerKernel kernels[] = {stretchBy<FIND, 1>, stretchBy<FIND, 2>, stretchBy<FIND, 3>, stretchBy<FIND, 4>};
  kernels[m.bits - 1](m, stretch, x, tokens, out);
}

void rowsByBits(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  constexpr IntegerKernel kernels[] = {rowsOf<1>, rowsOf<2>, rowsOf<3>, rowsOf<4>};
  kernels[m.bits - 1](m, stretch, x, tokens, out);
}

/// The upper eight entries of each table of tabulate256.
AVX2 void tabulateHalves(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums) {
  const Signs signs;
  const __m256 minus = _mm256_set1_ps(-0.0f);
  for (uint32_t i = 0; i < k; i += kChunk, x += kChunk, sums += 2) {
    const bool finite = sumsOf(x, sums);
    __m256 largest = _mm256_setzero_ps(), high[8];
    for (int f = 0; f < 8; f++) {
      high[f] = _mm256_add_ps(signs.threesOf(x + 4 * f), _mm256_set1_ps(x[4 * f + 3]));
      largest = _mm256_max_ps(largest, _mm256_andnot_ps(minus, high[f]));
    }
    const ByteScale scale = byteScaleOf(largest, finite);
    *scales++ = scale.scale;
    for (int f = 0; f < 8; f += 2, tables += 16)
      _mm_storeu_si128(
          reinterpret_cast<__m128i*>(tables),
          scale.usable ? bytesOf(high[f], high[f + 1], _mm256_set1_ps(scale.factor)) : _mm_setzero_si128());
  }
}

/// The entries as they are; a scale is the half that each is counted with.
AVX2 void tabulateFloats(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums) {
  const Signs signs;
  float* entries = reinterpret_cast<float*>(tables);
  for (uint32_t i = 0; i < k; i += kChunk, x += kChunk, sums += 2) {
    sumsOf(x, sums);
    *scales++ = 0.5f;
    for (int f = 0; f < 8; f++, entries += 16) {
      const __m256 threes = signs.threesOf(x + 4 * f), fourth = _mm256_set1_ps(x[4 * f + 3]);
      _mm256_storeu_ps(entries, _mm256_sub_ps(threes, fourth));
      _mm256_storeu_ps(entries + 8, _mm256_add_ps(threes, fourth));
    }
  }
}

}  // namespace

const Ablation avx2Ablations[4] = {
    {"rows", Order::Rows, 0, 128, tabulate256, rowsByBits},
    {"pairs", Order::Pairs, 0, InPairs::kTableBytes, tabulate256, byBits<InPairs>},
    {"float-tables", Order::Panels, 0, FloatTables::kTableBytes, tabulateFloats, byBits<FloatTables>},
    {"half-tables", Order::Mirrored, 0, Mirrored::kTableBytes, tabulateHalves, byBits<Mirrored>},
};

}  // namespace lutra
#endif
