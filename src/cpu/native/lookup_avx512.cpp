// Bit-serial lookup with AVX-512 VBMI, as T-MAC has it (EuroSys'25) but for wider registers: the tables of four times
// four activations fill a register, vpermb looks 64 entries up, and dpbusd with the weight of the bit plane sums the
// four of a row straight into 32 bits. The byte position names the table, so that no bit of a weight is spent on it.
#if defined(__x86_64__)
// GCC 12 warns of its own _mm512_undefined_*() headers (its bug 105593) wherever they are inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "avx512.h"

namespace lutra {

namespace {

/// R registers of 16 rows from register `first` on, by NT tokens. SMALL: groups of 16 values.
template <int BITS, bool SMALL, int R, int NT>
VBMI void block(const Matrix& m, const Stretch& stretch, uint32_t first, const Activations& x, float* out) {
  const __m512i nibble = _mm512_set1_epi8(15), table = _mm512_set1_epi32(0x30201000);
  const size_t tableStride = 4 * size_t(x.k), scaleStride = x.k / kChunk, sumStride = x.k / kActGroup;
  const Walk walk(m, stretch);
  const uint32_t ahead = m.ahead;
  // A bit b counts b = (1 + sign) / 2: the halves of the ones are what a product lacks.
  const float zero = m.zero - 0.5f * float((1 << BITS) - 1);
  Sums<R, NT> sum;
  clear(sum.all);
  const uint8_t* header = stretch.codes;
  size_t chunk = 0;
  for (uint32_t b = 0; b < walk.blocks; b++, header += walk.block) {
    beginBlock(m, sum);
    const uint8_t* span = header + walk.firstSpan;
    for (uint32_t s = 0; s < walk.spans; s++, span += walk.span) {
      const uint8_t* at = span + walk.header + first * 64;
      __m512 products[R][NT];
      float total[NT];
      const auto begin = [&](int t, float ones) VBMI_LAMBDA {
        total[t] = ones;
        for (int r = 0; r < R; r++) products[r][t] = _mm512_set1_ps(-zero * ones);
      };
      if constexpr (!SMALL)
#pragma GCC unroll 4
        for (int t = 0; t < NT; t++) begin(t, sumOf(x.tableSums + t * sumStride + 2 * chunk, 2 * walk.chunks));
      for (uint32_t c = 0; c < (SMALL ? 1 : walk.chunks); c++, chunk++) {
        __m512i low[R][NT], high[R][NT];  // sums of values 0 to 15 and 16 to 31
        for (int r = 0; r < R; r++)
          for (int t = 0; t < NT; t++) low[r][t] = high[r][t] = _mm512_setzero_si512();
        const int8_t* tables = x.tables + chunk * 128;
#pragma GCC unroll 4
        for (int p = 0; p < BITS; p++, at += 256) {
          const __m512i weight = _mm512_set1_epi8(char(1 << p));
          if (ahead)
            for (int r = 0; r < R; r++) _mm_prefetch(reinterpret_cast<const char*>(at) + ahead + r * 64, _MM_HINT_T0);
#pragma GCC unroll 4
          for (int r = 0; r < R; r++) {
            const __m512i w = _mm512_loadu_si512(at + r * 64);
            const __m512i a = _mm512_ternarylogic_epi32(w, nibble, table, 0xea);  // (w & nibble) | table
            const __m512i b = _mm512_ternarylogic_epi32(_mm512_srli_epi16(w, 4), nibble, table, 0xea);
#pragma GCC unroll 4
            for (int t = 0; t < NT; t++) {
              const int8_t* from = tables + t * tableStride;
              const __m512i found = _mm512_permutexvar_epi8(a, _mm512_loadu_si512(from));
              low[r][t] = _mm512_dpbusd_epi32(low[r][t], weight, found);
              const __m512i above = _mm512_permutexvar_epi8(b, _mm512_loadu_si512(from + 64));
              __m512i& upper = SMALL ? high[r][t] : low[r][t];
              upper = _mm512_dpbusd_epi32(upper, weight, above);
            }
          }
        }
        const float* scales = x.tableScales + chunk;
        if constexpr (SMALL) {
          // Not a loop over the halves: the compiler would keep their sums in memory.
          const auto addHalf = [&](uint32_t half, const __m512i(&found)[R][NT]) VBMI_LAMBDA {
#pragma GCC unroll 4
            for (int t = 0; t < NT; t++) {
              begin(t, x.tableSums[t * sumStride + 2 * chunk + half]);
              const __m512 scale = _mm512_set1_ps(scales[t * scaleStride]);
#pragma GCC unroll 4
              for (int r = 0; r < R; r++)
                products[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(found[r][t]), scale, products[r][t]);
            }
            addTerms<kTileRows, R, NT>(m, span, walk, half, first, total, products, sum);
          };
          addHalf(0, low);
          addHalf(1, high);
        } else {
#pragma GCC unroll 4
          for (int t = 0; t < NT; t++) {
            const __m512 scale = _mm512_set1_ps(scales[t * scaleStride]);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
              products[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low[r][t]), scale, products[r][t]);
          }
        }
      }
      if constexpr (!SMALL) addTerms<kTileRows, R, NT>(m, span, walk, 0, first, total, products, sum);
    }
    endBlock(m, header, walk, first, sum);
  }
  for (int r = 0; r < R; r++)
    for (int t = 0; t < NT; t++)
      _mm512_storeu_ps(out + t * kTileRows + (first + r) * 16, _mm512_mul_ps(sum.all[r][t], _mm512_set1_ps(m.factor)));
}

template <int BITS, bool SMALL>
void tileOf(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  uint32_t t = 0;
  for (; t + 2 <= tokens; t += 2)  // 2 tokens by 64 rows fill the registers
    block<BITS, SMALL, 4, 2>(m, stretch, 0, x.from(t), out + t * kTileRows);
  for (; t < tokens; t++) block<BITS, SMALL, 4, 1>(m, stretch, 0, x.from(t), out + t * kTileRows);
}

}  // namespace

VBMI void lookupTile512(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens, float* out) {
  constexpr IntegerKernel kernels[4][2] = {{tileOf<1, false>, tileOf<1, true>},
                                           {tileOf<2, false>, tileOf<2, true>},
                                           {tileOf<3, false>, tileOf<3, true>},
                                           {tileOf<4, false>, tileOf<4, true>}};
  kernels[m.bits - 1][m.group == kActGroup](m, stretch, x, tokens, out);
}

VBMI void tabulate512(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums) {
  // Lane c of sign j: -1 or 1, as bit j of c says.
  __m512 sign[4];
  for (int j = 0; j < 4; j++) {
    const __mmask16 bits[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
    sign[j] = _mm512_mask_blend_ps(bits[j], _mm512_set1_ps(-1.0f), _mm512_set1_ps(1.0f));
  }
  for (uint32_t i = 0; i < k; i += kChunk, x += kChunk, tables += 4 * kChunk) {
    const __m512 first = _mm512_loadu_ps(x), second = _mm512_loadu_ps(x + 16);
    *sums++ = _mm512_reduce_add_ps(first);
    *sums++ = _mm512_reduce_add_ps(second);
    const __m512 none = _mm512_setzero_ps();
    const bool finite =
        _mm512_cmp_ps_mask(_mm512_fmadd_ps(first, none, _mm512_mul_ps(second, none)), none, _CMP_EQ_OQ) == 0xffff;
    __m512 entries[8], largest = none;
    for (int f = 0; f < 8; f++) {
      const float* four = x + 4 * f;
      __m512 e = _mm512_mul_ps(_mm512_set1_ps(four[0]), sign[0]);
      for (int j = 1; j < 4; j++) e = _mm512_fmadd_ps(_mm512_set1_ps(four[j]), sign[j], e);
      entries[f] = e;
      largest = _mm512_max_ps(largest, e);  // each entry is there with either sign
    }
    const float most = _mm512_reduce_max_ps(largest), inverse = most > 0 ? 127.0f / most : 0.0f;
    const bool usable = finite && std::isfinite(inverse);
    *scales++ = !finite ? std::numeric_limits<float>::quiet_NaN() : usable ? most / 254.0f : 0.0f;
    const __m512 factor = _mm512_set1_ps(inverse);
    for (int f = 0; f < 8; f++) {
      const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(entries[f], factor));
      const __m128i bytes = usable ? _mm512_cvtepi32_epi8(rounded) : _mm_setzero_si128();
      _mm_storeu_si128(reinterpret_cast<__m128i*>(tables + 16 * f), bytes);
    }
  }
}

}  // namespace lutra
#endif
