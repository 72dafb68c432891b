// AVX-512 with VNNI: dpbusd sums four products of an unsigned code and a signed activation into each 32-bit lane,
// a lane being a row of the tile. What is neither a matrix product nor attention is AVX2's.
#if defined(__x86_64__)
// GCC 12 warns of its own _mm512_undefined_*() headers (its bug 105593) wherever they are inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "avx512.h"

#include <algorithm>
#include <type_traits>

namespace lutra {

namespace {

constexpr uint32_t kPartRows = 32;  // of Layout::Dot

/// Moves each byte's bits up by N places, or down; what crosses into a neighbour must be masked off.
template <int N>
AVX512_INLINE __m512i shifted(__m512i v) {
  if constexpr (N > 0) return _mm512_slli_epi16(v, N);
  if constexpr (N < 0) return _mm512_srli_epi16(v, -N);
  return v;
}

/// codes | (plane & mask); just the latter if it is the FIRST plane.
template <bool FIRST>
AVX512_INLINE __m512i with(__m512i codes, __m512i plane, int mask) {
  const __m512i bits = _mm512_set1_epi8(char(mask));
  return FIRST ? _mm512_and_si512(plane, bits) : _mm512_ternarylogic_epi32(codes, plane, bits, 0xf8);
}

/// Codes of values 4f .. 4f + 3 of a chunk for 16 rows, which begins at `at`.
template <int BITS, int F>
AVX512_INLINE __m512i codesOf(const uint8_t* at) {
  if constexpr (BITS == 8) return _mm512_loadu_si512(at + 128 * F);
  constexpr int four = BITS & 4, two = BITS & 2, one = BITS & 1;
  __m512i codes{};
  if constexpr (four)
    codes = _mm512_and_si512(shifted<-4 * (F % 2)>(_mm512_loadu_si512(at + dotPlace(BITS, 4, 0, F / 2))),
                             _mm512_set1_epi8(15));
  if constexpr (two)
    codes = with<four == 0>(codes, shifted<four - 2 * (F % 4)>(_mm512_loadu_si512(at + dotPlace(BITS, 2, four, F / 4))),
                            3 << four);
  if constexpr (one)
    codes = with<four + two == 0>(
        codes, shifted<four + two - F>(_mm512_loadu_si512(at + dotPlace(BITS, 1, four + two, 0))), 1 << (four + two));
  return codes;
}

/// Adds the products of the 16 values of one half of a chunk, from the four `F` on, for 2 x 16 rows.
template <int BITS, bool STEPPED, int F, int NT>
AVX512_INLINE void addProducts(const uint8_t* at, uint32_t ahead, __m512i steps, const int8_t* x, size_t stride,
                               __m512i (&acc)[2][NT]) {
  __m512i first = codesOf<BITS, F>(at), second = codesOf<BITS, F>(at + 64);
  if (ahead) {
    const char* soon = reinterpret_cast<const char*>(at) + ahead;
    for (int line = F * BITS / 4; line < (F + 1) * BITS / 4; line++) _mm_prefetch(soon + line * 64, _MM_HINT_T0);
  }
  if constexpr (STEPPED) {
    first = _mm512_shuffle_epi8(steps, first);
    second = _mm512_shuffle_epi8(steps, second);
  }
#pragma GCC unroll 4
  for (int t = 0; t < NT; t++) {
    int32_t four;
    std::memcpy(&four, x + t * stride + 4 * F, 4);
    const __m512i a = _mm512_set1_epi32(four);
    acc[0][t] = _mm512_dpbusd_epi32(acc[0][t], first, a);
    acc[1][t] = _mm512_dpbusd_epi32(acc[1][t], second, a);
  }
  if constexpr (F % 4 != 3) addProducts<BITS, STEPPED, F + 1, NT>(at, ahead, steps, x, stride, acc);
}

/// A part of a tile, 2 x 16 rows, by NT tokens. SMALL: groups of 16 values.
template <int BITS, bool STEPPED, bool SMALL, int NT>
AVX512 void block(const Matrix& m, const Walk& walk, const uint8_t* part, const Activations& x, float* out) {
  const size_t stride = x.k, groups = x.k / kActGroup;
  const uint32_t ahead = m.ahead;
  const __m512i steps = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(m.steps)));
  Sums<2, NT> sum;
  clear(sum.all);
  const uint8_t* header = part;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    beginBlock(m, sum);
    const uint8_t* span = header + walk.firstSpan;
    for (uint32_t s = 0; s < walk.spans; s++, span += walk.span) {
      const uint8_t* at = span + walk.header;
      __m512 products[2][NT];
      float total[NT];
      if constexpr (!SMALL)
#pragma GCC unroll 4
        for (int t = 0; t < NT; t++) {
          total[t] = sumOf(x.sums + t * groups + 2 * chunk, 2 * walk.chunks);
          products[0][t] = products[1][t] = _mm512_set1_ps(-m.zero * total[t]);
        }
      for (uint32_t c = 0; c < (SMALL ? 1 : walk.chunks); c++, chunk++) {
        const float *scales = x.scales + 2 * chunk, *ones = x.sums + 2 * chunk;
        const int8_t* from = x.codes + chunk * kChunk;
        // Not a loop over the halves: the compiler would keep the sums in memory.
        const auto addHalf = [&]<uint32_t HALF>(std::integral_constant<uint32_t, HALF>) AVX512_LAMBDA {
          __m512i acc[2][NT];
          for (int t = 0; t < NT; t++) acc[0][t] = acc[1][t] = _mm512_setzero_si512();
          addProducts<BITS, STEPPED, 4 * HALF, NT>(at, ahead, steps, from, stride, acc);
#pragma GCC unroll 8
          for (int t = 0; t < NT; t++) {
            const __m512 scale = _mm512_set1_ps(scales[t * groups + HALF]);
            if constexpr (SMALL) {
              total[t] = ones[t * groups + HALF];
              products[0][t] = products[1][t] = _mm512_set1_ps(-m.zero * total[t]);
            }
#pragma GCC unroll 2
            for (int r = 0; r < 2; r++)
              products[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][t]), scale, products[r][t]);
          }
          if constexpr (SMALL) addTerms<kPartRows, 2, NT>(m, span, walk, HALF, 0, total, products, sum);
        };
        addHalf(std::integral_constant<uint32_t, 0>());
        addHalf(std::integral_constant<uint32_t, 1>());
        at += 128 * BITS;
      }
      if constexpr (!SMALL) addTerms<kPartRows, 2, NT>(m, span, walk, 0, 0, total, products, sum);
    }
    endBlock(m, header, walk, 0, sum);
  }
  for (int r = 0; r < 2; r++)
    for (int t = 0; t < NT; t++)
      _mm512_storeu_ps(out + t * kTileRows + r * 16, _mm512_mul_ps(sum.all[r][t], _mm512_set1_ps(m.factor)));
}

template <int BITS, bool STEPPED, bool SMALL>
void dotTile(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  const Walk walk(m, stretch);
  // With the sums of 4 tokens by 32 rows the registers are full; where offsets are summed apart, with those of 2.
  const bool fits = !(m.twoLevels() && m.hasOffset);
  const uint8_t* part = stretch.codes;
  for (uint32_t row = 0; row < kTileRows; row += kPartRows, part += walk.partBytes(), out += kPartRows) {
    uint32_t t = 0;
    const auto some = [&]<int NT>(std::integral_constant<int, NT>) {
      for (; t + NT <= tokens; t += NT) block<BITS, STEPPED, SMALL, NT>(m, walk, part, x.from(t), out + t * kTileRows);
    };
    if (fits) some(std::integral_constant<int, 4>());
    some(std::integral_constant<int, 2>());
    some(std::integral_constant<int, 1>());
  }
}

template <int BITS>
constexpr IntegerKernel dotKernels[2][2] = {
    {dotTile<BITS, false, false>, dotTile<BITS, false, true>},
    {dotTile<BITS, BITS <= 4, false>, dotTile<BITS, BITS <= 4, true>}};  // [stepped][small groups]

void integerTile(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  if (m.layout == Layout::Ternary) return ternaryTile512(m, stretch, x, tokens, out);
  if (m.layout != Layout::Dot) return lookupTile512(m, stretch, x, tokens, out);
  constexpr decltype(&dotKernels<1>) byBits[9] = {nullptr,        &dotKernels<1>, &dotKernels<2>,
                                                  &dotKernels<3>, &dotKernels<4>, &dotKernels<5>,
                                                  &dotKernels<6>, nullptr,        &dotKernels<8>};
  (*byBits[m.bits])[m.stepped][m.group == kActGroup](m, stretch, x, tokens, out);
}

/// A table of floats in registers. 2 and 4 bits: sixteen entries, looked up by the low four bits of a lane.
template <int BITS>
struct Table {
  __m512 entries;

  VBMI_INLINE explicit Table(const Matrix& m) : entries(_mm512_loadu_ps(m.table.data())) {}
  /// Levels of the codes of 16 rows, of one register: levels[v] for value v of k.
  VBMI_INLINE void levelsOf(__m512i w, __m512* levels) const {
    for (uint32_t v = 0; v < 32 / BITS; v++)
      levels[v] = _mm512_permutexvar_ps(_mm512_srli_epi32(w, 8 * (v % 4) + v / 4 * BITS), entries);
  }
};

/// One byte of 256 floats in four registers.
struct Plane {
  __m512i parts[4];

  VBMI_INLINE explicit Plane(const uint8_t* bytes) {
    for (int i = 0; i < 4; i++) parts[i] = _mm512_loadu_si512(bytes + 64 * i);
  }
  /// `top`: the codes from 128 on.
  VBMI_INLINE __m512i at(__m512i codes, __mmask64 top) const {
    const __m512i below = _mm512_permutex2var_epi8(parts[0], codes, parts[1]);
    return _mm512_mask_mov_epi8(below, top, _mm512_permutex2var_epi8(parts[2], codes, parts[3]));
  }
};

/// 8 bits: the bytes of a float are looked up apart and put together; the lower two only where any are not 0.
template <bool WHOLE>
struct Planes {
  Plane three, two, one, zero;

  VBMI_INLINE explicit Planes(const Matrix& m)
      : three(m.planes.data() + 768), two(m.planes.data() + 512), one(m.planes.data() + 256), zero(m.planes.data()) {}
  VBMI_INLINE void levelsOf(__m512i w, __m512* levels) const {
    const __mmask64 top = _mm512_movepi8_mask(w);
    const __m512i low = _mm512_set1_epi32(0xffff), high = _mm512_set1_epi32(int32_t(0xffff0000));
    __m512i even, odd;  // the upper halves of values 0 and 2, 1 and 3
    pair(three.at(w, top), two.at(w, top), even, odd);
    if constexpr (!WHOLE) {
      levels[0] = _mm512_castsi512_ps(_mm512_slli_epi32(even, 16));
      levels[1] = _mm512_castsi512_ps(_mm512_slli_epi32(odd, 16));
      levels[2] = _mm512_castsi512_ps(_mm512_and_si512(even, high));
      levels[3] = _mm512_castsi512_ps(_mm512_and_si512(odd, high));
    } else {
      __m512i evenLow, oddLow;
      pair(one.at(w, top), zero.at(w, top), evenLow, oddLow);
      levels[0] = join(_mm512_slli_epi32(even, 16), _mm512_and_si512(evenLow, low));
      levels[1] = join(_mm512_slli_epi32(odd, 16), _mm512_and_si512(oddLow, low));
      levels[2] = join(_mm512_and_si512(even, high), _mm512_srli_epi32(evenLow, 16));
      levels[3] = join(_mm512_and_si512(odd, high), _mm512_srli_epi32(oddLow, 16));
    }
  }

 private:
  VBMI_INLINE static __m512 join(__m512i upper, __m512i lower) {
    return _mm512_castsi512_ps(_mm512_or_si512(upper, lower));
  }

  /// 16 bits each of the values of even and of odd bytes.
  VBMI_INLINE static void pair(__m512i upper, __m512i lower, __m512i& even, __m512i& odd) {
    const __m512i bytes = _mm512_set1_epi16(0x00ff);
    even = _mm512_or_si512(_mm512_slli_epi16(upper, 8), _mm512_and_si512(lower, bytes));
    odd = _mm512_or_si512(_mm512_andnot_si512(bytes, upper), _mm512_srli_epi16(lower, 8));
  }
};

/// As block, with codes into a table. Even and odd values of k are summed apart, so that sums wait less for each other.
template <int BITS, class Lookup, int NT>
VBMI void tableBlock(const Matrix& m, const Walk& walk, uint32_t count, const uint8_t* part, const float* x,
                     float* out) {
  constexpr uint32_t values = 32 / BITS;  // of a register
  const Lookup table(m);
  __m512 sum[2][NT];
  for (int h = 0; h < 2; h++)
    for (int t = 0; t < NT; t++) sum[h][t] = _mm512_setzero_ps();
  const uint8_t* header = part;
  for (uint32_t k0 = 0, g = 0; k0 < count; k0 += m.group) {
    const uint8_t* span = m.spanAt(header, g / m.spanGroups());
    const uint32_t own = g % m.spanGroups();  // the group in its span
    __m512 products[2][2][NT];
    for (int h = 0; h < 2; h++)
      for (int t = 0; t < NT; t++) products[h][0][t] = products[h][1][t] = _mm512_setzero_ps();
    for (uint32_t i = 0; i < m.group; i += values)
      for (int h = 0; h < 2; h++) {
        const uint8_t* at = span + walk.header + registerAt<BITS>(own * m.group + i) + h * 64;
        const __m512i w = _mm512_loadu_si512(at);
        _mm_prefetch(reinterpret_cast<const char*>(at) + m.ahead, _MM_HINT_T0);
        __m512 levels[values];
        table.levelsOf(w, levels);
        for (uint32_t v = 0; v < values; v++)
          for (int t = 0; t < NT; t++) {
            const __m512 one = _mm512_set1_ps(x[size_t(t) * m.k + k0 + i + v]);
            products[h][v % 2][t] = _mm512_fmadd_ps(levels[v], one, products[h][v % 2][t]);
          }
      }
    for (int h = 0; h < 2; h++) {
      const __m512 scale = scalesAt<kPartRows>(m, walk.scales(header, span), own, h);
      for (int t = 0; t < NT; t++)
        sum[h][t] = _mm512_fmadd_ps(_mm512_add_ps(products[h][0][t], products[h][1][t]), scale, sum[h][t]);
    }
    if (m.hasOffset) {
      for (int t = 0; t < NT; t++) {
        __m512 total = _mm512_setzero_ps();
        for (uint32_t i = 0; i < m.group; i += 16)
          total = _mm512_add_ps(total, _mm512_loadu_ps(x + size_t(t) * m.k + k0 + i));
        const __m512 ones = _mm512_set1_ps(_mm512_reduce_add_ps(total));
        for (int h = 0; h < 2; h++)
          sum[h][t] = _mm512_fmadd_ps(scalesAt<kPartRows>(m, walk.offsets(header, span), own, h), ones, sum[h][t]);
      }
    }
    if (++g == m.blockGroups) {
      g = 0;
      header += walk.block;
    }
  }
  for (int h = 0; h < 2; h++)
    for (int t = 0; t < NT; t++)
      _mm512_storeu_ps(out + t * kTileRows + h * 16, _mm512_mul_ps(sum[h][t], _mm512_set1_ps(m.factor)));
}

template <int BITS, class Lookup>
void tableTileOf(const Matrix& m, const Stretch& stretch, const float* x, uint32_t tokens, float* out) {
  const Walk walk(m, stretch);
  const uint8_t* part = stretch.codes;
  for (uint32_t row = 0; row < kTileRows; row += kPartRows, part += walk.partBytes(), out += kPartRows) {
    const auto some = [&]<int NT>(std::integral_constant<int, NT>, uint32_t t) {
      tableBlock<BITS, Lookup, NT>(m, walk, stretch.count, part, x + size_t(t) * m.k, out + t * kTileRows);
    };
    uint32_t t = 0;
    for (; t + 4 <= tokens; t += 4) some(std::integral_constant<int, 4>(), t);
    for (; t < tokens; t++) some(std::integral_constant<int, 1>(), t);
  }
}

void tableTile(const Matrix& m, const Stretch& stretch, const float* x, uint32_t tokens, float* out) {
  if (m.bits == 2) return tableTileOf<2, Table<2>>(m, stretch, x, tokens, out);
  if (m.bits == 4) return tableTileOf<4, Table<4>>(m, stretch, x, tokens, out);
  (m.bfloats ? tableTileOf<8, Planes<false>> : tableTileOf<8, Planes<true>>)(m, stretch, x, tokens, out);
}

AVX512_INLINE __m512 loadSixteen(FloatFormat format, const uint8_t* p) {
  if (format == FloatFormat::F32) return _mm512_loadu_ps(p);
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  if (format == FloatFormat::F16) return _mm512_cvtph_ps(raw);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}

template <int NT>
AVX512 void floatRow(const Matrix& m, const uint8_t* w, const float* x, float* out) {
  const size_t size = floatBytes(m.format);
  __m512 sum[NT];
  for (int t = 0; t < NT; t++) sum[t] = _mm512_setzero_ps();
  uint32_t i = 0;
  for (; i + 16 <= m.k; i += 16) {
    const __m512 sixteen = loadSixteen(m.format, w + i * size);
    for (int t = 0; t < NT; t++) sum[t] = _mm512_fmadd_ps(sixteen, _mm512_loadu_ps(x + size_t(t) * m.k + i), sum[t]);
  }
  for (int t = 0; t < NT; t++) {
    float total = _mm512_reduce_add_ps(sum[t]);
    for (uint32_t j = i; j < m.k; j++) total += loadFloat(m.format, w + j * size) * x[size_t(t) * m.k + j];
    out[t * kTileRows] = total;
  }
}

void floatTile(const Matrix& m, const uint8_t* rows, uint32_t count, const float* x, uint32_t tokens, float* out) {
  const size_t rowBytes = m.k * floatBytes(m.format);
  for (uint32_t t = 0; t < tokens;) {
    const uint32_t step = tokens - t >= 8 ? 8 : 1;
    for (uint32_t r = 0; r < count; r++) {
      float* to = out + t * kTileRows + r;
      const uint8_t* w = rows + r * rowBytes;
      const float* from = x + size_t(t) * m.k;
      step == 8 ? floatRow<8>(m, w, from, to) : floatRow<1>(m, w, from, to);
    }
    t += step;
  }
}

/// Sums of the 16 numbers in each of four registers.
AVX512_INLINE __m128 sumsOf(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/// exp(x), as AVX2's expOf: below -87 the result is 0, a NaN stays one.
AVX512_INLINE __m512 expOf(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ), p, n);
}

AVX512_INLINE __m512 halves(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

/// D / 16 registers hold the query, then the result.
template <int D>
AVX512 void attendOf(const float* q, const KeyValues& kv, float* scores, float* out) {
  constexpr int N = D / 16;
  const uint32_t n = kv.length;
  __m512 query[N];
  for (int j = 0; j < N; j++) query[j] = _mm512_loadu_ps(q + 16 * j);
  uint32_t p = 0;
  for (; p < n; p += 4) {  // past the end the last key is taken again
    __m512 dots[4];
    for (uint32_t i = 0; i < 4; i++) {
      const uint16_t* key = kv.keys + size_t(std::min(p + i, n - 1)) * D;
      dots[i] = _mm512_mul_ps(query[0], halves(key));
      for (int j = 1; j < N; j++) dots[i] = _mm512_fmadd_ps(query[j], halves(key + 16 * j), dots[i]);
    }
    float four[4];
    _mm_storeu_ps(four, sumsOf(dots[0], dots[1], dots[2], dots[3]));
    for (uint32_t i = p; i < std::min(p + 4, n); i++) scores[i] = four[i - p];
  }

  __m512 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  const auto rest = [n](uint32_t at) { return n - at >= 16 ? __mmask16(0xffff) : __mmask16((1u << (n - at)) - 1); };
  for (p = 0; p < n; p += 16)
    largest = _mm512_mask_max_ps(largest, rest(p), largest, _mm512_maskz_loadu_ps(rest(p), scores + p));
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  __m512 totals = _mm512_setzero_ps();
  for (p = 0; p < n; p += 16) {
    const __m512 e = expOf(_mm512_sub_ps(_mm512_maskz_loadu_ps(rest(p), scores + p), top));
    _mm512_mask_storeu_ps(scores + p, rest(p), e);
    totals = _mm512_mask_add_ps(totals, rest(p), totals, e);
  }
  const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(totals));

  __m512 even[N], odd[N];
  for (int j = 0; j < N; j++) even[j] = odd[j] = _mm512_setzero_ps();
  for (p = 0; p + 2 <= n; p += 2) {
    const uint16_t* value = kv.values + size_t(p) * D;
    const __m512 a = _mm512_set1_ps(scores[p]), b = _mm512_set1_ps(scores[p + 1]);
    for (int j = 0; j < N; j++) {
      even[j] = _mm512_fmadd_ps(a, halves(value + 16 * j), even[j]);
      odd[j] = _mm512_fmadd_ps(b, halves(value + D + 16 * j), odd[j]);
    }
  }
  for (; p < n; p++)
    for (int j = 0; j < N; j++)
      even[j] = _mm512_fmadd_ps(_mm512_set1_ps(scores[p]), halves(kv.values + size_t(p) * D + 16 * j), even[j]);
  for (int j = 0; j < N; j++) _mm512_storeu_ps(out + 16 * j, _mm512_mul_ps(_mm512_add_ps(even[j], odd[j]), share));
}

void attend(const float* q, const KeyValues& kv, float* scores, float* out) {
  switch (kv.headDim) {  // those of models in use
    case 64:
      return attendOf<64>(q, kv, scores, out);
    case 80:
      return attendOf<80>(q, kv, scores, out);
    case 96:
      return attendOf<96>(q, kv, scores, out);
    case 128:
      return attendOf<128>(q, kv, scores, out);
    default:
      avx2Kernels.attend(q, kv, scores, out);
  }
}

AVX512 void readLines(const uint8_t* data, size_t lines) {
  __m512i a = _mm512_setzero_si512(), b = a;
  for (size_t i = 0; i + 2 <= lines; i += 2, data += 128) {
    a = _mm512_xor_si512(a, _mm512_loadu_si512(data));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(data + 64));
  }
  volatile int32_t sink = _mm512_reduce_or_epi32(_mm512_xor_si512(a, b));
  (void)sink;
}

}  // namespace

const Kernels avx512Kernels = {"avx512-vnni",
                               Layout::Dot,
                               integerTile,
                               avx2Kernels.tableTile,
                               floatTile,
                               avx2Kernels.quantize,
                               avx2Kernels.tabulate,
                               nullptr,
                               avx2Kernels.rmsNorm,
                               avx2Kernels.siluMul,
                               attend,
                               avx2Kernels.toHalf,
                               readLines};

// Byte lookups in registers (VBMI) came with Ice Lake and Zen 4.
const Kernels avx512VbmiKernels = {
    "avx512-vbmi", Layout::Lookup4,  integerTile,         tableTile,           floatTile, avx2Kernels.quantize,
    tabulate512,   tabulateFives512, avx2Kernels.rmsNorm, avx2Kernels.siluMul, attend,    avx2Kernels.toHalf,
    readLines};

}  // namespace lutra
#endif
