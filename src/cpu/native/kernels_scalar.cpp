// The plain definition of every kernel, for machines without a faster table and as the measure of the others.
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"

namespace lutra {

namespace {

/// The loops run over rows innermost, as the bytes lie, so that the compiler can use what vectors there are.
void integerTile(const Matrix& m, const uint8_t* tile, const Activations& all, uint32_t tokens, float* out) {
  const uint32_t span = 32 / m.bits, mask = (1u << m.bits) - 1;
  uint8_t steps[256];
  for (uint32_t code = 0; code <= mask; code++) steps[code] = m.stepped ? m.steps[code] : uint8_t(code);
  for (uint32_t t = 0; t < tokens; t++) {
    const Activations x = all.from(t);
    float* sum = out + t * kTileRows;
    for (uint32_t r = 0; r < kTileRows; r++) sum[r] = 0;
    const uint8_t* block = tile;
    for (uint32_t k0 = 0; k0 < m.k; block += m.blockBytes())
      for (uint32_t g = 0; g < m.blockGroups; g++, k0 += m.group) {
        const uint8_t* at = block + m.headerBytes() + g * m.codeBytes();
        float products[kTileRows] = {}, ones = 0;
        for (uint32_t p = 0; p < m.group; p += kActGroup) {
          int32_t codes[kTileRows] = {};
          for (uint32_t i = p; i < p + kActGroup; i += 4) {
            const uint8_t* bytes = at + i / span * (kTileRows * 4);
            const uint32_t down = i % span / 4 * m.bits;
            const int8_t* a = x.codes + k0 + i;
            for (uint32_t r = 0; r < kTileRows; r++)
              for (uint32_t j = 0; j < 4; j++) codes[r] += int32_t(steps[bytes[r * 4 + j] >> down & mask]) * a[j];
          }
          const float scale = x.scales[(k0 + p) / kActGroup];
          for (uint32_t r = 0; r < kTileRows; r++) products[r] += float(codes[r]) * scale;
          ones += x.sums[(k0 + p) / kActGroup];
        }
        for (uint32_t r = 0; r < kTileRows; r++) {
          sum[r] += (products[r] - m.zero * ones) * m.scaleOf(block, g, r);
          if (m.hasOffset) sum[r] += ones * m.scaleOf(block + m.termBytes(), g, r);
        }
      }
    for (uint32_t r = 0; r < kTileRows; r++) sum[r] *= m.factor;
  }
}

void tableTile(const Matrix& m, const uint8_t* tile, const float* all, uint32_t tokens, float* out) {
  const uint32_t span = 32 / m.bits, mask = (1u << m.bits) - 1;
  for (uint32_t t = 0; t < tokens; t++) {
    const float* x = all + size_t(t) * m.k;
    float* sum = out + t * kTileRows;
    for (uint32_t r = 0; r < kTileRows; r++) sum[r] = 0;
    const uint8_t* block = tile;
    for (uint32_t k0 = 0; k0 < m.k; block += m.blockBytes())
      for (uint32_t g = 0; g < m.blockGroups; g++, k0 += m.group) {
        const uint8_t* at = block + m.headerBytes() + g * m.codeBytes();
        float products[kTileRows] = {}, ones = 0;
        for (uint32_t i = 0; i < m.group; i++) {
          const uint8_t* bytes = at + i / span * (kTileRows * 4) + i % 4;
          const uint32_t down = i % span / 4 * m.bits;
          for (uint32_t r = 0; r < kTileRows; r++) products[r] += m.table[bytes[r * 4] >> down & mask] * x[k0 + i];
          ones += x[k0 + i];
        }
        for (uint32_t r = 0; r < kTileRows; r++) {
          sum[r] += products[r] * m.scaleOf(block, g, r);
          if (m.hasOffset) sum[r] += ones * m.scaleOf(block + m.termBytes(), g, r);
        }
      }
    for (uint32_t r = 0; r < kTileRows; r++) sum[r] *= m.factor;
  }
}

void floatTile(const Matrix& m, const uint8_t* rows, uint32_t count, const float* x, uint32_t tokens, float* out) {
  const size_t size = floatBytes(m.format);
  for (uint32_t t = 0; t < tokens; t++)
    for (uint32_t r = 0; r < count; r++) {
      const uint8_t* w = rows + size_t(r) * m.k * size;
      float sum = 0;
      for (uint32_t i = 0; i < m.k; i++) sum += loadFloat(m.format, w + i * size) * x[size_t(t) * m.k + i];
      out[t * kTileRows + r] = sum;
    }
}

void quantize(const float* x, uint32_t k, int8_t* codes, float* scales, float* sums) {
  for (uint32_t g = 0; g < k / kActGroup; g++, x += kActGroup, codes += kActGroup) {
    float largest = 0, poison = 0;
    for (uint32_t i = 0; i < kActGroup; i++) {
      largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
      poison += x[i] * 0.0f;  // NaN once any value is not finite
    }
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    const bool finite = poison == 0 && std::isfinite(inverse);
    scales[g] = poison != 0 ? std::numeric_limits<float>::quiet_NaN() : finite ? largest / 127.0f : 0.0f;
    int32_t sum = 0;
    for (uint32_t i = 0; i < kActGroup; i++) {
      codes[i] = finite ? int8_t(std::nearbyint(x[i] * inverse)) : int8_t(0);
      sum += codes[i];
    }
    sums[g] = scales[g] * float(sum);
  }
}

void rmsNorm(const float* x, const float* weight, float eps, uint32_t n, float* out) {
  float sum = 0;
  for (uint32_t i = 0; i < n; i++) sum += x[i] * x[i];
  const float factor = 1.0f / std::sqrt(sum / float(n) + eps);
  for (uint32_t i = 0; i < n; i++) out[i] = x[i] * factor * weight[i];
}

void siluMul(const float* gate, const float* up, uint32_t n, float* out) {
  for (uint32_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void attend(const float* q, const KeyValues& kv, float* scores, float* out) {
  const uint32_t d = kv.headDim;
  float largest = -std::numeric_limits<float>::infinity(), total = 0;
  for (uint32_t p = 0; p < kv.length; p++) {
    float dot = 0;
    for (uint32_t i = 0; i < d; i++) dot += q[i] * halfToFloat(kv.keys[size_t(p) * d + i]);
    scores[p] = dot;
    largest = dot > largest ? dot : largest;
  }
  for (uint32_t p = 0; p < kv.length; p++) total += scores[p] = std::exp(scores[p] - largest);
  for (uint32_t i = 0; i < d; i++) out[i] = 0;
  for (uint32_t p = 0; p < kv.length; p++)
    for (uint32_t i = 0; i < d; i++) out[i] += scores[p] * halfToFloat(kv.values[size_t(p) * d + i]);
  for (uint32_t i = 0; i < d; i++) out[i] /= total;
}

void toHalf(const float* x, uint32_t n, uint16_t* out) {
  for (uint32_t i = 0; i < n; i++) out[i] = floatToHalf(x[i]);
}

void readLines(const uint8_t* data, size_t lines) {
  uint64_t sum = 0;
  for (size_t i = 0; i < lines * 8; i++) {
    uint64_t word;
    std::memcpy(&word, data + 8 * i, 8);
    sum += word;
  }
  volatile uint64_t sink = sum;
  (void)sink;
}

}  // namespace

const Kernels scalarKernels = {"scalar", integerTile, tableTile, floatTile, quantize,
                               rmsNorm,  siluMul,     attend,    toHalf,    readLines};

}  // namespace lutra
