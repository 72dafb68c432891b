// The plain definition of every kernel, for machines without a faster table and as the measure of the others.
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"

namespace lutra {

namespace {

/// What sixteen values of k add to a product: the sum over their levels, but for the zero point, and over ones.
struct Sums {
  float steps, ones;
};

/// By int8 activations, as Layout::Dot has it.
Sums dotOf(const Matrix& m, const Activations& x, uint32_t k, const uint8_t* codes) {
  int32_t sum = 0;
  for (uint32_t i = 0; i < kActGroup; i++) sum += int32_t(m.stepped ? m.steps[codes[i]] : codes[i]) * x.codes[k + i];
  return {float(sum) * x.scales[k / kActGroup], x.sums[k / kActGroup]};
}

/// By tables. A bit is (1 + sign) / 2, so a code is the sum of 2^p / 2 * (1 + sign_p) over its bits p: the halves are
/// in the table's scale, and the ones come to (2^bits - 1) / 2 times the sum of the activations.
Sums lookupOf(const Matrix& m, const Activations& x, uint32_t k, const uint8_t* codes) {
  int32_t sum = 0;
  for (uint32_t i = 0; i < kActGroup; i += 4)
    for (uint32_t p = 0; p < m.bits; p++) {
      uint32_t entry = 0;
      for (uint32_t j = 0; j < 4; j++) entry |= (codes[i + j] >> p & 1u) << j;
      sum += int32_t(x.tables[size_t(k + i) * 4 + entry]) << p;
    }
  const float ones = x.tableSums[k / kActGroup];
  return {float(sum) * x.tableScales[k / kChunk] + 0.5f * float((1u << m.bits) - 1) * ones, ones};
}

/// Calls sixteen(row, k, codes, scale, offset) for every row and sixteen values of a tile, in order.
template <class Sixteen>
void walkTile(const Matrix& m, const uint8_t* tile, Sixteen sixteen) {
  for (uint32_t row = 0; row < kTileRows; row++) {
    const uint32_t lane = row % m.partRows();
    const uint8_t* block = tile + row / m.partRows() * m.partBytes();
    uint8_t codes[kChunk];
    for (uint32_t k0 = 0; k0 < m.k; k0 += m.blockValues(), block += m.blockBytes())
      for (uint32_t i = 0; i < m.blockValues() && k0 + i < m.k; i += kActGroup) {
        if (i % kChunk == 0) takeChunk(m, block + m.headerBytes() + i / kChunk * m.chunkBytes(), lane, codes);
        const float scale = m.scaleOf(block, i / m.group, lane);
        const float offset = m.hasOffset ? m.scaleOf(block + m.termBytes(), i / m.group, lane) : 0.0f;
        sixteen(row, k0 + i, codes + i % kChunk, scale, offset);
      }
  }
}

void integerTile(const Matrix& m, const uint8_t* tile, const Activations& all, uint32_t tokens, float* out) {
  for (uint32_t i = 0; i < tokens * kTileRows; i++) out[i] = 0;
  walkTile(m, tile, [&](uint32_t row, uint32_t k, const uint8_t* codes, float scale, float offset) {
    for (uint32_t t = 0; t < tokens; t++) {
      const Activations x = all.from(t);
      const Sums sums = m.layout == Layout::Dot ? dotOf(m, x, k, codes) : lookupOf(m, x, k, codes);
      out[t * kTileRows + row] += (sums.steps - m.zero * sums.ones) * scale + sums.ones * offset;
    }
  });
  for (uint32_t i = 0; i < tokens * kTileRows; i++) out[i] *= m.factor;
}

void tableTile(const Matrix& m, const uint8_t* tile, const float* x, uint32_t tokens, float* out) {
  for (uint32_t i = 0; i < tokens * kTileRows; i++) out[i] = 0;
  walkTile(m, tile, [&](uint32_t row, uint32_t k, const uint8_t* codes, float scale, float offset) {
    for (uint32_t t = 0; t < tokens; t++) {
      float product = 0, ones = 0;
      for (uint32_t i = 0; i < kActGroup; i++) {
        const float one = x[size_t(t) * m.k + k + i];
        product += m.table[codes[i]] * one;
        ones += one;
      }
      out[t * kTileRows + row] += product * scale;
      if (m.hasOffset) out[t * kTileRows + row] += ones * offset;
    }
  });
  for (uint32_t i = 0; i < tokens * kTileRows; i++) out[i] *= m.factor;
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

void tabulate(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums) {
  for (uint32_t i = 0; i < k; i += kChunk, x += kChunk, tables += 4 * kChunk) {
    float largest = 0, poison = 0, total[2] = {}, entries[4 * kChunk];
    for (uint32_t j = 0; j < kChunk; j++) {
      poison += x[j] * 0.0f;  // NaN once any value is not finite
      total[j / kActGroup] += x[j];
    }
    for (uint32_t e = 0; e < 4 * kChunk; e++) {
      const float* four = x + e / 16 * 4;
      float entry = e & 1 ? four[0] : -four[0];
      for (uint32_t j = 1; j < 4; j++) entry += e >> j & 1 ? four[j] : -four[j];
      entries[e] = entry;
      largest = entry > largest ? entry : largest;  // each is there with either sign
    }
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    const bool usable = poison == 0 && std::isfinite(inverse);
    *scales++ = poison != 0 ? std::numeric_limits<float>::quiet_NaN() : usable ? largest / 254.0f : 0.0f;
    for (uint32_t e = 0; e < 4 * kChunk; e++)
      tables[e] = usable ? int8_t(std::nearbyint(entries[e] * inverse)) : int8_t(0);
    for (const float sum : total) *sums++ = sum;
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

const Kernels scalarKernels = {"scalar", Layout::Lookup1, integerTile, tableTile, floatTile, quantize,
                               tabulate, rmsNorm,         siluMul,     attend,    toHalf,    readLines};

}  // namespace lutra
