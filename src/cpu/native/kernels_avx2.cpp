// AVX2 + FMA + F16C. Integer products by maddubs: codes of at most 4 bits are summed in 16 bits for a whole group of
// activations (15 * 127 * 2 * 4 < 2^15); 8-bit codes, and steps of 4-bit codes, as |step - 128| times the activation
// with its sign, widened at each step.
#if defined(__x86_64__)
#include "avx2.h"

#include <type_traits>

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

constexpr uint32_t kPartRows = 32;  // of Layout::Dot

/// Moves each byte's bits up by N places, or down; what crosses into a neighbour must be masked off.
template <int N>
AVX2_INLINE __m256i shifted(__m256i v) {
  if constexpr (N > 0) return _mm256_slli_epi16(v, N);
  if constexpr (N < 0) return _mm256_srli_epi16(v, -N);
  return v;
}

AVX2_INLINE __m256i bytesAt(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

/// Codes of values 4f .. 4f + 3 of a chunk for 8 rows, which begins at `at`.
template <int BITS, int F>
AVX2_INLINE __m256i codesOf(const uint8_t* at) {
  if constexpr (BITS == 8) return bytesAt(at + 128 * F);
  constexpr int four = BITS & 4, two = BITS & 2, one = BITS & 1;
  __m256i codes = _mm256_setzero_si256();
  if constexpr (four)
    codes = _mm256_and_si256(shifted<-4 * (F % 2)>(bytesAt(at + dotPlace(BITS, 4, 0, F / 2))), _mm256_set1_epi8(15));
  if constexpr (two) {
    const __m256i plane = shifted<four - 2 * (F % 4)>(bytesAt(at + dotPlace(BITS, 2, four, F / 4)));
    codes = _mm256_or_si256(codes, _mm256_and_si256(plane, _mm256_set1_epi8(3 << four)));
  }
  if constexpr (one) {
    const __m256i plane = shifted<four + two - F>(bytesAt(at + dotPlace(BITS, 1, four + two, 0)));
    codes = _mm256_or_si256(codes, _mm256_and_si256(plane, _mm256_set1_epi8(1 << (four + two))));
  }
  return codes;
}

/// Adds the products of the 16 values of one half of a chunk, from the four `F` on, in 32 bits. Pairs of products lie
/// in 16 bits, where all eight of codes below 32 have room, four of those below 64 (63 * 127 * 4 < 2^15), and two of
/// |code - 128|, whose sign the activations take.
template <int BITS, bool STEPPED, int F, int NT>
AVX2_INLINE void addProducts(const uint8_t* at, __m256i steps, const int8_t* x, size_t stride, __m256i (&acc)[NT]) {
  constexpr bool centres = BITS == 8 || STEPPED;
  constexpr int together = centres ? 1 : BITS <= 5 ? 4 : 2;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i pairs[NT];
  for (int t = 0; t < NT; t++) pairs[t] = _mm256_setzero_si256();
  const auto add = [&]<int I>(std::integral_constant<int, I>) AVX2 {
    __m256i codes = codesOf<BITS, F + I>(at);
    if constexpr (STEPPED) codes = _mm256_shuffle_epi8(steps, codes);
    const __m256i centred = _mm256_xor_si256(codes, _mm256_set1_epi8(char(0x80)));
    for (int t = 0; t < NT; t++) {
      const __m256i a = _mm256_set1_epi32(fourAt(x + t * stride + 4 * (F + I)));
      pairs[t] = _mm256_add_epi16(pairs[t],
                                  centres ? _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(a, centred))
                                          : _mm256_maddubs_epi16(codes, a));
    }
  };
  add(std::integral_constant<int, 0>());
  if constexpr (together > 1) add(std::integral_constant<int, 1>());
  if constexpr (together > 2) {
    add(std::integral_constant<int, 2>());
    add(std::integral_constant<int, 3>());
  }
  for (int t = 0; t < NT; t++) acc[t] = _mm256_add_epi32(acc[t], _mm256_madd_epi16(pairs[t], ones));
  if constexpr ((F + together) % 4 != 0) addProducts<BITS, STEPPED, F + together, NT>(at, steps, x, stride, acc);
}

/// P x 8 rows of a part of a tile, from eight `first` on, by NT tokens. SMALL: groups of 16 values.
template <int BITS, bool STEPPED, bool SMALL, int NT, int P>
AVX2 void block(const Matrix& m, const Walk& walk, const uint8_t* part, uint32_t first, const Activations& x,
                float* out) {
  const size_t stride = x.k, groups = x.k / kActGroup;
  const uint32_t ahead = m.ahead;
  const __m256 zero = _mm256_set1_ps(BITS == 8 || STEPPED ? m.zero - 128 : m.zero);
  const __m256i steps = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(m.steps)));
  __m256 sum[P][NT];
  for (int r = 0; r < P; r++)
    for (int t = 0; t < NT; t++) sum[r][t] = _mm256_setzero_ps();
  const uint8_t* header = part;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    const uint8_t* span = header + walk.firstSpan;
    for (uint32_t s = 0; s < walk.spans; s++, span += walk.span) {
      const uint8_t* at = span + walk.header;
      __m256 products[P][NT];
      float total[NT];
      for (int t = 0; t < NT; t++) {
        total[t] = 0;
        for (int r = 0; r < P; r++) products[r][t] = _mm256_setzero_ps();
      }
      for (uint32_t c = 0; c < (SMALL ? 1 : walk.chunks); c++, chunk++, at += 128 * BITS) {
        const float *scales = x.scales + 2 * chunk, *ones = x.sums + 2 * chunk;
        const int8_t* from = x.codes + chunk * kChunk;
#pragma GCC unroll 4
        for (int r = 0; r < P; r++) {
          const uint8_t* eight = at + (first + r) * 32;
          if (r % 2 == 0)
            for (int i = 0; i < BITS; i++)
              _mm_prefetch(reinterpret_cast<const char*>(eight + ahead) + i * 128, _MM_HINT_T0);
#pragma GCC unroll 2
          for (int half = 0; half < 2; half++) {
            __m256i acc[NT];
            for (int t = 0; t < NT; t++) acc[t] = _mm256_setzero_si256();
            half ? addProducts<BITS, STEPPED, 4, NT>(eight, steps, from, stride, acc)
                 : addProducts<BITS, STEPPED, 0, NT>(eight, steps, from, stride, acc);
            for (int t = 0; t < NT; t++) {
              const __m256 scale = _mm256_set1_ps(scales[t * groups + half]);
              if constexpr (SMALL)
                sum[r][t] = withTerms<kPartRows>(m, walk, header, span, uint32_t(half), first + r, zero,
                                                 ones[t * groups + half],
                                                 _mm256_mul_ps(_mm256_cvtepi32_ps(acc[t]), scale), sum[r][t]);
              else
                products[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[t]), scale, products[r][t]);
            }
          }
        }
        for (int t = 0; t < NT; t++) total[t] += ones[t * groups] + ones[t * groups + 1];
      }
      if constexpr (!SMALL)
#pragma GCC unroll 4
        for (int r = 0; r < P; r++)
#pragma GCC unroll 2
          for (int t = 0; t < NT; t++)
            sum[r][t] =
                withTerms<kPartRows>(m, walk, header, span, 0, first + r, zero, total[t], products[r][t], sum[r][t]);
    }
  }
  for (int r = 0; r < P; r++)
    for (int t = 0; t < NT; t++)
      _mm256_storeu_ps(out + t * kTileRows + (first + r) * 8, _mm256_mul_ps(sum[r][t], _mm256_set1_ps(m.factor)));
}

template <int BITS, bool STEPPED, bool SMALL>
void dotTile(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  const Walk walk(m, stretch);
  const uint8_t* part = stretch.codes;
  for (uint32_t row = 0; row < kTileRows; row += kPartRows, part += walk.partBytes(), out += kPartRows) {
    uint32_t t = 0;
    for (; t + 2 <= tokens; t += 2)  // 2 tokens by 16 rows fill the registers
      for (uint32_t first : {0u, 2u})
        block<BITS, STEPPED, SMALL, 2, 2>(m, walk, part, first, x.from(t), out + t * kTileRows);
    for (; t < tokens; t++) block<BITS, STEPPED, SMALL, 1, 4>(m, walk, part, 0, x.from(t), out + t * kTileRows);
  }
}

template <int BITS>
constexpr IntegerKernel dotKernels[2][2] = {
    {dotTile<BITS, false, false>, dotTile<BITS, false, true>},
    {dotTile<BITS, BITS <= 4, false>, dotTile<BITS, BITS <= 4, true>}};  // [stepped][small groups]

void integerTile(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  if (m.layout != Layout::Dot) return lookupTile256(m, stretch, x, tokens, out);
  constexpr decltype(&dotKernels<1>) byBits[9] = {nullptr,        &dotKernels<1>, &dotKernels<2>,
                                                  &dotKernels<3>, &dotKernels<4>, &dotKernels<5>,
                                                  &dotKernels<6>, nullptr,        &dotKernels<8>};
  (*byBits[m.bits])[m.stepped][m.group == kActGroup](m, stretch, x, tokens, out);
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
template <int BITS, int NT, int P>
AVX2 void tableBlock(const Matrix& m, const Walk& walk, uint32_t count, const uint8_t* part, uint32_t first,
                     const float* x, float* out) {
  constexpr uint32_t values = 32 / BITS;  // of a register
  const Table<BITS> table(m);
  __m256 sum[P][NT];
  for (int h = 0; h < P; h++)
    for (int t = 0; t < NT; t++) sum[h][t] = _mm256_setzero_ps();
  const uint8_t* header = part;
  for (uint32_t k0 = 0, g = 0; k0 < count; k0 += m.group) {
    const uint8_t* span = m.spanAt(header, g / m.spanGroups());
    const uint32_t own = g % m.spanGroups();  // the group in its span
    __m256 products[P][NT];
    for (int t = 0; t < NT; t++)
      for (int h = 0; h < P; h++) products[h][t] = _mm256_setzero_ps();
    for (uint32_t i = 0; i < m.group; i += values)
      for (int h = 0; h < P; h++) {
        const uint8_t* at = span + walk.header + registerAt<BITS>(own * m.group + i) + (first + h) * 32;
        const __m256i w = bytesAt(at);
        if (h % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(at) + m.ahead, _MM_HINT_T0);
        for (uint32_t c = 0; c < 8 / BITS; c++)
          for (uint32_t j = 0; j < 4; j++) {
            const __m256 levels = table.at(_mm256_srli_epi32(w, int(8 * j + c * BITS)));
            const float* from = x + k0 + i + 4 * c + j;
            for (int t = 0; t < NT; t++)
              products[h][t] = _mm256_fmadd_ps(levels, _mm256_broadcast_ss(from + size_t(t) * m.k), products[h][t]);
          }
      }
    for (int h = 0; h < P; h++) {
      const __m256 scale = scalesAt<kPartRows>(m, walk.scales(header, span), own, first + h);
      for (int t = 0; t < NT; t++) sum[h][t] = _mm256_fmadd_ps(products[h][t], scale, sum[h][t]);
    }
    if (m.hasOffset) {
      for (int t = 0; t < NT; t++) {
        __m256 total = _mm256_setzero_ps();
        for (uint32_t i = 0; i < m.group; i += 8)
          total = _mm256_add_ps(total, _mm256_loadu_ps(x + size_t(t) * m.k + k0 + i));
        const __m256 ones = _mm256_set1_ps(sumOf(total));
        for (int h = 0; h < P; h++)
          sum[h][t] =
              _mm256_fmadd_ps(scalesAt<kPartRows>(m, walk.offsets(header, span), own, first + h), ones, sum[h][t]);
      }
    }
    if (++g == m.blockGroups) {
      g = 0;
      header += walk.block;
    }
  }
  for (int h = 0; h < P; h++)
    for (int t = 0; t < NT; t++)
      _mm256_storeu_ps(out + t * kTileRows + (first + h) * 8, _mm256_mul_ps(sum[h][t], _mm256_set1_ps(m.factor)));
}

template <int BITS>
void tableTileOf(const Matrix& m, const Stretch& stretch, const float* x, uint32_t tokens, float* out) {
  const Walk walk(m, stretch);
  const uint32_t count = stretch.count;
  const uint8_t* part = stretch.codes;
  for (uint32_t row = 0; row < kTileRows; row += kPartRows, part += walk.partBytes(), out += kPartRows) {
    uint32_t t = 0;
    for (; t + 4 <= tokens; t += 4)  // 4 tokens by 8 rows
      for (uint32_t first = 0; first < 4; first++)
        tableBlock<BITS, 4, 1>(m, walk, count, part, first, x + size_t(t) * m.k, out + t * kTileRows);
    for (; t < tokens; t++) tableBlock<BITS, 1, 4>(m, walk, count, part, 0, x + size_t(t) * m.k, out + t * kTileRows);
  }
}

void tableTile(const Matrix& m, const Stretch& stretch, const float* x, uint32_t tokens, float* out) {
  (m.bits == 2 ? tableTileOf<2> : m.bits == 4 ? tableTileOf<4> : tableTileOf<8>)(m, stretch, x, tokens, out);
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

const Kernels avx2Kernels = {"avx2",  Layout::Lookup1, integerTile, tableTile, floatTile, quantize, tabulate256,
                             nullptr, rmsNorm,         siluMul,     attend,    toHalf,    readLines};

}  // namespace lutra
#endif
