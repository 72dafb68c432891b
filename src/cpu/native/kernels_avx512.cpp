// AVX-512 with VNNI: dpbusd sums four products of an unsigned code and a signed activation into each 32-bit lane,
// a lane being a row of the tile. Everything that is not a matrix product or attention is AVX2's.
#if defined(__x86_64__)
// GCC 12 warns of its own _mm512_undefined_*() headers (its bug 105593) wherever they are inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cmath>
#include <limits>

#include "kernels.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#define AVX512_INLINE \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"), always_inline)) inline

namespace lutra {

namespace {

AVX512_INLINE __m512 scalesAt(const Matrix& m, const uint8_t* p, uint32_t half) {
  return m.halfScales ? _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + half * 32)))
                      : _mm512_loadu_ps(reinterpret_cast<const float*>(p) + half * 16);
}

/// The 2 x 16 rows of a tile by NT tokens.
template <int BITS, int NT>
AVX512 void block(const Matrix& m, const uint8_t* tile, const Activations& x, float* out) {
  constexpr uint32_t span = 32 / BITS;
  const __m512i mask = _mm512_set1_epi8(char((1 << BITS) - 1));
  const size_t groups = x.k / kActGroup;
  const float zero = float(m.zero);
  __m512 sum[2][NT];
  for (int h = 0; h < 2; h++)
    for (int t = 0; t < NT; t++) sum[h][t] = _mm512_setzero_ps();
  const uint8_t* group = tile;
  for (uint32_t k0 = 0; k0 < m.k; k0 += m.group, group += m.groupBytes()) {
    __m512 products[2][NT];
    float total[NT];
    for (int t = 0; t < NT; t++) {
      total[t] = 0;
      for (int h = 0; h < 2; h++) products[h][t] = _mm512_setzero_ps();
    }
    for (uint32_t p = 0; p < m.group; p += kActGroup) {
      const size_t g = (k0 + p) / kActGroup;
      __m512i acc[2][NT];
      for (int t = 0; t < NT; t++)
        for (int h = 0; h < 2; h++) acc[h][t] = _mm512_setzero_si512();
      for (uint32_t i = p; i < p + kActGroup; i += span)
        for (int h = 0; h < 2; h++) {
          const uint8_t* at = group + i / span * (kTileRows * 4) + h * 64;
          const __m512i w = _mm512_loadu_si512(at);
          _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T0);
          for (int c = 0; c < 8 / BITS; c++) {
            const __m512i codes = BITS == 8 ? w : _mm512_and_si512(_mm512_srli_epi16(w, c * BITS), mask);
            for (int t = 0; t < NT; t++) {
              const int8_t* from = x.codes + size_t(t) * x.k + k0 + i + 4 * c;
              const __m512i a = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(from));
              acc[h][t] = _mm512_dpbusd_epi32(acc[h][t], codes, a);
            }
          }
        }
      for (int t = 0; t < NT; t++) {
        const __m512 scale = _mm512_set1_ps(x.scales[t * groups + g]);
        total[t] += x.sums[t * groups + g];
        for (int h = 0; h < 2; h++)
          products[h][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[h][t]), scale, products[h][t]);
      }
    }
    const uint8_t* scales = group + m.codeBytes();
    for (int h = 0; h < 2; h++) {
      const __m512 scale = scalesAt(m, scales, h);
      for (int t = 0; t < NT; t++) {
        const __m512 centred = _mm512_sub_ps(products[h][t], _mm512_set1_ps(zero * total[t]));
        sum[h][t] = _mm512_fmadd_ps(centred, scale, sum[h][t]);
      }
      if (m.hasOffset) {
        const __m512 offset = scalesAt(m, scales + m.scaleBytes(), h);
        for (int t = 0; t < NT; t++) sum[h][t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(total[t]), sum[h][t]);
      }
    }
  }
  for (int h = 0; h < 2; h++)
    for (int t = 0; t < NT; t++) _mm512_storeu_ps(out + t * kTileRows + h * 16, sum[h][t]);
}

template <int BITS>
void tileOf(const Matrix& m, const uint8_t* tile, const Activations& x, uint32_t tokens, float* out) {
  for (uint32_t t = 0; t < tokens;) {
    const Activations from = x.from(t);
    float* to = out + t * kTileRows;
    if (tokens - t >= 4) {  // with the sums of 4 tokens by 32 rows the registers are full
      block<BITS, 4>(m, tile, from, to);
      t += 4;
    } else {
      block<BITS, 1>(m, tile, from, to);
      t += 1;
    }
  }
}

void packedTile(const Matrix& m, const uint8_t* tile, const Activations& x, uint32_t tokens, float* out) {
  (m.bits == 2 ? tileOf<2> : m.bits == 4 ? tileOf<4> : tileOf<8>)(m, tile, x, tokens, out);
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

AVX512 void readLines(const uint8_t* data, size_t lines) {
  __m512i a = _mm512_setzero_si512(), b = a;
  for (size_t i = 0; i + 2 <= lines; i += 2, data += 128) {
    a = _mm512_xor_si512(a, _mm512_loadu_si512(data));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(data + 64));
  }
  volatile int32_t sink = _mm512_reduce_add_epi32(_mm512_xor_si512(a, b));
  (void)sink;
}

}  // namespace

const Kernels avx512Kernels = {"avx512-vnni",        packedTile,          floatTile,
                               avx2Kernels.quantize, avx2Kernels.rmsNorm, avx2Kernels.siluMul,
                               avx2Kernels.attend,   avx2Kernels.toHalf,  readLines};

}  // namespace lutra
#endif
