// AVX2 + FMA + F16C. Integer products by maddubs: codes of at most 4 bits are summed in 16 bits for a whole group of
// activations (15 * 127 * 2 * 4 < 2^15); 8-bit codes, and steps of 4-bit codes, as |step - 128| times the activation
// with its sign, widened at each step.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX2_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace lutra {

namespace {

AVX2_INLINE float sumOf(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

AVX2_INLINE int32_t sumOf(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

AVX2_INLINE float maxOf(__m256 v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/// exp(x) for x <= 88; below -87 the result is 0. Range reduction by ln 2 in two parts, then a polynomial of
/// degree 6 on [-ln2/2, ln2/2] (Taylor's terms; the first one left out is below 2^-25 of the sum).
AVX2_INLINE __m256 expOf(__m256 x) {
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), 8);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.0f / 720);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  const __m256 y = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
  const __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
  return _mm256_blendv_ps(_mm256_andnot_ps(tiny, y), x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

inline int32_t fourAt(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return four;
}

/// The scales of 8 rows in group g of a block, whose scales (or offsets) begin at `term`.
AVX2_INLINE __m256 scalesAt(const Matrix& m, const uint8_t* term, uint32_t g, uint32_t part) {
  if (m.scales == Scales::Float) return _mm256_loadu_ps(reinterpret_cast<const float*>(term) + part * 8);
  const __m256 block = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(term + part * 16)));
  if (m.scales == Scales::Half) return block;
  const uint8_t* fine = term + kTileRows * (2 + g) + part * 8;
  const __m256i codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(fine)));
  return _mm256_mul_ps(block, _mm256_cvtepi32_ps(codes));
}

/// PARTS x 8 rows of a tile, from part `first`, by NT tokens.
template <int BITS, bool STEPPED, int NT, int PARTS>
AVX2 void block(const Matrix& m, const uint8_t* tile, uint32_t first, const Activations& x, float* out) {
  constexpr uint32_t span = 32 / BITS;
  constexpr bool centres = BITS == 8 || STEPPED;
  const __m256i mask = _mm256_set1_epi8(char((1 << BITS) - 1)), ones = _mm256_set1_epi16(1);
  const __m256i steps = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(m.steps)));
  const float zero = centres ? m.zero - 128 : m.zero;
  const size_t groups = x.k / kActGroup, header = m.headerBytes(), codeBytes = m.codeBytes();
  const size_t blockBytes = m.blockBytes();
  __m256 sum[PARTS][NT];
  for (int h = 0; h < PARTS; h++)
    for (int t = 0; t < NT; t++) sum[h][t] = _mm256_setzero_ps();
  const uint8_t* block = tile;
  uint32_t inBlock = 0;
  for (uint32_t k0 = 0; k0 < m.k; k0 += m.group) {
    const uint8_t* group = block + header + inBlock * codeBytes;
    __m256 products[PARTS][NT];
    float total[NT];
    for (int t = 0; t < NT; t++) {
      total[t] = 0;
      for (int h = 0; h < PARTS; h++) products[h][t] = _mm256_setzero_ps();
    }
    for (uint32_t p = 0; p < m.group; p += kActGroup) {
      const size_t g = (k0 + p) / kActGroup;
      __m256i acc[PARTS][NT];
      for (int t = 0; t < NT; t++)
        for (int h = 0; h < PARTS; h++) acc[h][t] = _mm256_setzero_si256();
      for (uint32_t i = p; i < p + kActGroup; i += span)
        for (int h = 0; h < PARTS; h++) {
          const uint8_t* at = group + i / span * (kTileRows * 4) + (first + h) * 32;
          const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
          if (h % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T0);
          for (int c = 0; c < 8 / BITS; c++) {
            const int8_t* from = x.codes + k0 + i + 4 * c;
            if constexpr (centres) {
              __m256i codes = w;
              if constexpr (STEPPED)
                codes = _mm256_shuffle_epi8(steps, _mm256_and_si256(_mm256_srli_epi16(w, c * BITS), mask));
              const __m256i centred = _mm256_xor_si256(codes, _mm256_set1_epi8(char(0x80)));
              const __m256i magnitude = _mm256_abs_epi8(centred);
              for (int t = 0; t < NT; t++) {
                const __m256i a = _mm256_set1_epi32(fourAt(from + size_t(t) * x.k));
                const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(a, centred));
                acc[h][t] = _mm256_add_epi32(acc[h][t], _mm256_madd_epi16(pairs, ones));
              }
            } else {
              const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(w, c * BITS), mask);
              for (int t = 0; t < NT; t++) {
                const __m256i a = _mm256_set1_epi32(fourAt(from + size_t(t) * x.k));
                acc[h][t] = _mm256_add_epi16(acc[h][t], _mm256_maddubs_epi16(codes, a));
              }
            }
          }
        }
      for (int t = 0; t < NT; t++) {
        const __m256 scale = _mm256_set1_ps(x.scales[t * groups + g]);
        total[t] += x.sums[t * groups + g];
        for (int h = 0; h < PARTS; h++) {
          const __m256i wide = centres ? acc[h][t] : _mm256_madd_epi16(acc[h][t], ones);
          products[h][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide), scale, products[h][t]);
        }
      }
    }
    for (int h = 0; h < PARTS; h++) {
      const __m256 scale = scalesAt(m, block, inBlock, first + h);
      for (int t = 0; t < NT; t++) {
        const __m256 centred = _mm256_sub_ps(products[h][t], _mm256_set1_ps(zero * total[t]));
        sum[h][t] = _mm256_fmadd_ps(centred, scale, sum[h][t]);
      }
      if (m.hasOffset) {
        const __m256 offset = scalesAt(m, block + m.termBytes(), inBlock, first + h);
        for (int t = 0; t < NT; t++) sum[h][t] = _mm256_fmadd_ps(offset, _mm256_set1_ps(total[t]), sum[h][t]);
      }
    }
    if (++inBlock == m.blockGroups) {
      inBlock = 0;
      block += blockBytes;
    }
  }
  for (int h = 0; h < PARTS; h++)
    for (int t = 0; t < NT; t++)
      _mm256_storeu_ps(out + t * kTileRows + (first + h) * 8, _mm256_mul_ps(sum[h][t], _mm256_set1_ps(m.factor)));
}

template <int BITS, bool STEPPED>
void tileOf(const Matrix& m, const uint8_t* tile, const Activations& x, uint32_t tokens, float* out) {
  for (uint32_t t = 0; t < tokens;) {
    const Activations from = x.from(t);
    float* to = out + t * kTileRows;
    if (tokens - t >= 2) {  // 2 tokens by 16 rows fill the registers
      block<BITS, STEPPED, 2, 2>(m, tile, 0, from, to);
      block<BITS, STEPPED, 2, 2>(m, tile, 2, from, to);
      t += 2;
    } else {
      block<BITS, STEPPED, 1, 4>(m, tile, 0, from, to);
      t += 1;
    }
  }
}

void integerTile(const Matrix& m, const uint8_t* tile, const Activations& x, uint32_t tokens, float* out) {
  if (m.stepped) return (m.bits == 2 ? tileOf<2, true> : tileOf<4, true>)(m, tile, x, tokens, out);
  (m.bits == 2 ? tileOf<2, false> : m.bits == 4 ? tileOf<4, false> : tileOf<8, false>)(m, tile, x, tokens, out);
}

/// Eight entries of a table by the low bits of each lane. Up to 16 entries lie in two registers, 256 in memory.
template <int BITS>
struct Table {
  const float* levels;
  __m256 low, high;
  AVX2_INLINE explicit Table(const Matrix& m)
      : levels(m.table.data()), low(_mm256_loadu_ps(levels)), high(_mm256_loadu_ps(levels + 8)) {}
  AVX2_INLINE __m256 at(__m256i codes) const {
    if constexpr (BITS == 8) return _mm256_i32gather_ps(levels, _mm256_and_si256(codes, _mm256_set1_epi32(255)), 4);
    const __m256 below = _mm256_permutevar8x32_ps(low, codes);
    if constexpr (BITS == 2) return below;  // the table is repeated
    const __m256 above = _mm256_permutevar8x32_ps(high, codes);
    return _mm256_blendv_ps(below, above, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
  }
};

/// As block, with codes into a table: a lane is a row.
template <int BITS, int NT, int PARTS>
AVX2 void tableBlock(const Matrix& m, const uint8_t* tile, uint32_t first, const float* x, float* out) {
  constexpr uint32_t span = 32 / BITS;
  const Table<BITS> table(m);
  const size_t header = m.headerBytes(), codeBytes = m.codeBytes(), blockBytes = m.blockBytes();
  __m256 sum[PARTS][NT];
  for (int h = 0; h < PARTS; h++)
    for (int t = 0; t < NT; t++) sum[h][t] = _mm256_setzero_ps();
  const uint8_t* block = tile;
  uint32_t inBlock = 0;
  for (uint32_t k0 = 0; k0 < m.k; k0 += m.group) {
    const uint8_t* group = block + header + inBlock * codeBytes;
    __m256 products[PARTS][NT];
    for (int t = 0; t < NT; t++)
      for (int h = 0; h < PARTS; h++) products[h][t] = _mm256_setzero_ps();
    for (uint32_t i = 0; i < m.group; i += span)
      for (int h = 0; h < PARTS; h++) {
        const uint8_t* at = group + i / span * (kTileRows * 4) + (first + h) * 32;
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        if (h % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T0);
        for (uint32_t c = 0; c < 8 / BITS; c++)
          for (uint32_t j = 0; j < 4; j++) {
            const __m256 levels = table.at(_mm256_srli_epi32(w, int(8 * j + c * BITS)));
            const float* from = x + k0 + i + 4 * c + j;
            for (int t = 0; t < NT; t++)
              products[h][t] = _mm256_fmadd_ps(levels, _mm256_broadcast_ss(from + size_t(t) * m.k), products[h][t]);
          }
      }
    for (int h = 0; h < PARTS; h++) {
      const __m256 scale = scalesAt(m, block, inBlock, first + h);
      for (int t = 0; t < NT; t++) sum[h][t] = _mm256_fmadd_ps(products[h][t], scale, sum[h][t]);
    }
    if (m.hasOffset) {
      for (int t = 0; t < NT; t++) {
        __m256 total = _mm256_setzero_ps();
        for (uint32_t i = 0; i < m.group; i += 8)
          total = _mm256_add_ps(total, _mm256_loadu_ps(x + size_t(t) * m.k + k0 + i));
        const __m256 ones = _mm256_set1_ps(sumOf(total));
        for (int h = 0; h < PARTS; h++)
          sum[h][t] = _mm256_fmadd_ps(scalesAt(m, block + m.termBytes(), inBlock, first + h), ones, sum[h][t]);
      }
    }
    if (++inBlock == m.blockGroups) {
      inBlock = 0;
      block += blockBytes;
    }
  }
  for (int h = 0; h < PARTS; h++)
    for (int t = 0; t < NT; t++)
      _mm256_storeu_ps(out + t * kTileRows + (first + h) * 8, _mm256_mul_ps(sum[h][t], _mm256_set1_ps(m.factor)));
}

template <int BITS>
void tableTileOf(const Matrix& m, const uint8_t* tile, const float* x, uint32_t tokens, float* out) {
  for (uint32_t t = 0; t < tokens;) {
    const float* from = x + size_t(t) * m.k;
    float* to = out + t * kTileRows;
    if (tokens - t >= 4) {  // 4 tokens by 8 rows
      for (uint32_t part = 0; part < 4; part++) tableBlock<BITS, 4, 1>(m, tile, part, from, to);
      t += 4;
    } else {
      tableBlock<BITS, 1, 4>(m, tile, 0, from, to);
      t += 1;
    }
  }
}

void tableTile(const Matrix& m, const uint8_t* tile, const float* x, uint32_t tokens, float* out) {
  (m.bits == 2 ? tableTileOf<2> : m.bits == 4 ? tableTileOf<4> : tableTileOf<8>)(m, tile, x, tokens, out);
}

AVX2_INLINE __m256 loadEight(FloatFormat format, const uint8_t* p) {
  if (format == FloatFormat::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  if (format == FloatFormat::F16) return _mm256_cvtph_ps(raw);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}

template <int NT>
AVX2 void floatRow(const Matrix& m, const uint8_t* w, const float* x, float* out) {
  const size_t size = floatBytes(m.format);
  __m256 sum[NT];
  for (int t = 0; t < NT; t++) sum[t] = _mm256_setzero_ps();
  uint32_t i = 0;
  for (; i + 8 <= m.k; i += 8) {
    const __m256 eight = loadEight(m.format, w + i * size);
    for (int t = 0; t < NT; t++) sum[t] = _mm256_fmadd_ps(eight, _mm256_loadu_ps(x + size_t(t) * m.k + i), sum[t]);
  }
  for (int t = 0; t < NT; t++) {
    float total = sumOf(sum[t]);
    for (uint32_t j = i; j < m.k; j++) total += loadFloat(m.format, w + j * size) * x[size_t(t) * m.k + j];
    out[t * kTileRows] = total;
  }
}

void floatTile(const Matrix& m, const uint8_t* rows, uint32_t count, const float* x, uint32_t tokens, float* out) {
  const size_t rowBytes = m.k * floatBytes(m.format);
  for (uint32_t t = 0; t < tokens;) {
    const uint32_t step = tokens - t >= 4 ? 4 : 1;
    for (uint32_t r = 0; r < count; r++) {
      float* to = out + t * kTileRows + r;
      const uint8_t* w = rows + r * rowBytes;
      const float* from = x + size_t(t) * m.k;
      step == 4 ? floatRow<4>(m, w, from, to) : floatRow<1>(m, w, from, to);
    }
    t += step;
  }
}

AVX2 void quantize(const float* x, uint32_t k, int8_t* codes, float* scales, float* sums) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (uint32_t g = 0; g < k / kActGroup; g++, x += kActGroup, codes += kActGroup) {
    const __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8);
    const float top = maxOf(_mm256_max_ps(_mm256_and_ps(a, magnitude), _mm256_and_ps(b, magnitude)));
    const float nan = sumOf(_mm256_mul_ps(_mm256_add_ps(a, b), _mm256_setzero_ps()));
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
    const bool finite = nan == 0 && std::isfinite(inverse);
    scales[g] = nan != 0 ? std::numeric_limits<float>::quiet_NaN() : finite ? top / 127.0f : 0.0f;
    __m256i p = _mm256_setzero_si256(), q = p;
    if (finite) {
      p = _mm256_cvtps_epi32(_mm256_mul_ps(a, _mm256_set1_ps(inverse)));
      q = _mm256_cvtps_epi32(_mm256_mul_ps(b, _mm256_set1_ps(inverse)));
    }
    sums[g] = scales[g] * float(sumOf(_mm256_add_epi32(p, q)));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(p, q), 0xd8);  // undoes the pack's lane order
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes),
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
}

AVX2 void rmsNorm(const float* x, const float* weight, float eps, uint32_t n, float* out) {
  __m256 sums = _mm256_setzero_ps();
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    sums = _mm256_fmadd_ps(v, v, sums);
  }
  float sum = sumOf(sums);
  for (; i < n; i++) sum += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(sum / float(n) + eps);
  for (i = 0; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(v, _mm256_loadu_ps(weight + i)));
  }
  for (; i < n; i++) out[i] = x[i] * factor * weight[i];
}

AVX2 void siluMul(const float* gate, const float* up, uint32_t n, float* out) {
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 g = _mm256_loadu_ps(gate + i);
    // exp(-g) past the float range would make 0 * inf; at -88 the quotient is already below 2^-120 of |g|.
    const __m256 e = expOf(_mm256_min_ps(_mm256_set1_ps(88.0f), _mm256_sub_ps(_mm256_setzero_ps(), g)));
    const __m256 y = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(y, _mm256_loadu_ps(up + i)));
  }
  for (; i < n; i++) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

AVX2_INLINE __m256 halves(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

AVX2 void attend(const float* q, const KeyValues& kv, float* scores, float* out) {
  const uint32_t d = kv.headDim, n = kv.length;
  float largest = -std::numeric_limits<float>::infinity();
  for (uint32_t p = 0; p < n; p++) {
    const uint16_t* key = kv.keys + size_t(p) * d;
    __m256 sums = _mm256_setzero_ps();
    uint32_t i = 0;
    for (; i + 8 <= d; i += 8) sums = _mm256_fmadd_ps(_mm256_loadu_ps(q + i), halves(key + i), sums);
    float dot = sumOf(sums);
    for (; i < d; i++) dot += q[i] * halfToFloat(key[i]);
    scores[p] = dot;
    largest = dot > largest ? dot : largest;
  }
  __m256 totals = _mm256_setzero_ps();
  uint32_t p = 0;
  for (; p + 8 <= n; p += 8) {
    const __m256 e = expOf(_mm256_sub_ps(_mm256_loadu_ps(scores + p), _mm256_set1_ps(largest)));
    _mm256_storeu_ps(scores + p, e);
    totals = _mm256_add_ps(totals, e);
  }
  float total = sumOf(totals);
  for (; p < n; p++) total += scores[p] = std::exp(scores[p] - largest);
  const float share = 1.0f / total;
  uint32_t i = 0;
  for (; i + 32 <= d; i += 32) {
    __m256 acc[4];
    for (int j = 0; j < 4; j++) acc[j] = _mm256_setzero_ps();
    for (p = 0; p < n; p++) {
      const uint16_t* value = kv.values + size_t(p) * d + i;
      const __m256 weight = _mm256_set1_ps(scores[p]);
      for (int j = 0; j < 4; j++) acc[j] = _mm256_fmadd_ps(weight, halves(value + 8 * j), acc[j]);
    }
    for (int j = 0; j < 4; j++) _mm256_storeu_ps(out + i + 8 * j, _mm256_mul_ps(acc[j], _mm256_set1_ps(share)));
  }
  for (; i < d; i++) {
    float sum = 0;
    for (p = 0; p < n; p++) sum += scores[p] * halfToFloat(kv.values[size_t(p) * d + i]);
    out[i] = sum * share;
  }
}

AVX2 void toHalf(const float* x, uint32_t n, uint16_t* out) {
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
  for (; i < n; i++) out[i] = floatToHalf(x[i]);
}

AVX2 void readLines(const uint8_t* data, size_t lines) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (size_t i = 0; i < lines; i++, data += 64) {
    a = _mm256_xor_si256(a, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
    b = _mm256_xor_si256(b, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + 32)));
  }
  volatile int32_t sink = sumOf(_mm256_xor_si256(a, b));
  (void)sink;
}

}  // namespace

const Kernels avx2Kernels = {"avx2",  integerTile, tableTile, floatTile, quantize,
                             rmsNorm, siluMul,     attend,    toHalf,    readLines};

}  // namespace lutra
#endif
