// The plain definition of every kernel, for machines without a faster table and as the measure of the others.
#include <cmath>
#include <cstdlib>
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

/// By tables, with T-MAC's "fast aggregation" (EuroSys'25): lookups of a bit, as bytes from 0 up, in a tree of averages
/// (a + b + 1) / 2 over n of them, which n times the last stands for. Where a + b is odd an average is 1/2 too large,
/// so with random low bits 1/4 on the whole; each of the log2(n) levels adds its own, whence n * log2(n) / 4 is taken
/// off. What is left has mean 0 and variance n * (n - 1) / 8 in a sum of n, where rounding the table itself left n
/// / 12. T-MAC's own correction rounds log2(n) / 4 down, and on x86 its averages take signed bytes for unsigned ones.
/// A tree over 8 is all of a chunk, and is counted for the first of its halves.
Sums averagedOf(const Matrix& m, const Activations& x, uint32_t k, const uint8_t* codes) {
  const uint32_t n = m.group == kActGroup ? std::min(m.average, 4u) : m.average;
  const uint32_t lookups = n == 8 ? (k % kChunk == 0 ? 8 : 0) : 4;
  int32_t sum = 0;
  for (uint32_t p = 0; p < m.bits; p++)
    for (uint32_t first = 0; first < lookups; first += n) {
      uint32_t found[8], levels = 0;
      for (uint32_t f = 0; f < n; f++) {
        const uint32_t at = 4 * (first + f);
        uint32_t entry = 0;
        for (uint32_t j = 0; j < 4; j++) entry |= (codes[at + j] >> p & 1u) << j;
        found[f] = uint32_t(x.tables[size_t(k + at) * 4 + entry] + 128);
      }
      for (uint32_t left = n / 2; left; left /= 2, levels++)
        for (uint32_t f = 0; f < left; f++) found[f] = (found[2 * f] + found[2 * f + 1] + 1) / 2;
      // In quarters, since one average of two is half a unit too large; two of them are whole.
      sum += (int32_t(4 * n * found[0]) - int32_t(4 * n * 128 + n * levels)) << p;
    }
  const float ones = x.tableSums[k / kActGroup];
  return {float(sum / 4) * x.tableScales[k / kChunk] + 0.5f * float((1u << m.bits) - 1) * ones, ones};
}

/// By tables of five ternary digits, which are the codes less 1: what that takes off comes back with the ones. A chunk
/// is of 64 values, and is counted for the first sixteen.
Sums ternaryOf(const Activations& x, uint32_t k, const uint8_t* codes) {
  if (k % kTernaryChunk) return {0, 0};
  const uint8_t* tables = x.fives + k / kTernaryChunk * kFiveBytes;
  int32_t sum = 0;
  for (uint32_t f = 0; f < kFives; f++) {
    int32_t number = 0;
    for (uint32_t v = f, power = 1; v < kTernaryChunk; v += kFives, power *= 3)
      number += (int32_t(codes[v]) - 1) * int32_t(power);
    const int32_t found = tables[128 * f + uint32_t(std::abs(number))] - 128;
    sum += number < 0 ? -found : found;
  }
  const float ones = x.fiveSums[k / kTernaryChunk];
  return {float(sum) * x.fiveScales[k / kTernaryChunk] + ones, ones};
}

/// Calls sixteen(row, k, codes, scale, offset) for every row and sixteen values of a stretch, in order; k counts in it.
template <class Sixteen>
void walkTile(const Matrix& m, const Stretch& stretch, Sixteen sixteen) {
  const Walk walk(m, stretch);
  for (uint32_t row = 0; row < kTileRows; row++) {
    const uint32_t lane = row % m.partRows();
    const uint8_t* block = stretch.codes + row / m.partRows() * walk.partBytes();
    const uint32_t chunk = m.chunkValues();
    uint8_t codes[kTernaryChunk];
    for (uint32_t k0 = 0; k0 < stretch.count; k0 += m.blockValues(), block += m.blockBytes())
      for (uint32_t i = 0; i < m.blockValues() && k0 + i < stretch.count; i += kActGroup) {
        if (i % chunk == 0) takeChunk(m, m.chunkAt(block, i), lane, codes);
        const auto [scale, offset] = m.termsOf(block, i / m.group, lane);
        sixteen(row, k0 + i, codes + i % chunk, scale, offset);
      }
  }
}

void integerTile(const Matrix& m, const Stretch& stretch, const Activations& all, uint32_t tokens, float* out) {
  for (uint32_t i = 0; i < tokens * kTileRows; i++) out[i] = 0;
  walkTile(m, stretch, [&](uint32_t row, uint32_t k, const uint8_t* codes, float scale, float offset) {
    for (uint32_t t = 0; t < tokens; t++) {
      const Activations x = all.from(t);
      const Sums sums = m.layout == Layout::Dot       ? dotOf(m, x, k, codes)
                        : m.layout == Layout::Ternary ? ternaryOf(x, k, codes)
                        : m.average                   ? averagedOf(m, x, k, codes)
                                                      : lookupOf(m, x, k, codes);
      out[t * kTileRows + row] += (sums.steps - m.zero * sums.ones) * scale + sums.ones * offset;
    }
  });
  for (uint32_t i = 0; i < tokens * kTileRows; i++) out[i] *= m.factor;
}

void tableTile(const Matrix& m, const Stretch& stretch, const float* x, uint32_t tokens, float* out) {
  for (uint32_t i = 0; i < tokens * kTileRows; i++) out[i] = 0;
  walkTile(m, stretch, [&](uint32_t row, uint32_t k, const uint8_t* codes, float scale, float offset) {
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

void tabulateFives(const float* x, uint32_t k, uint8_t* tables, float* scales, float* sums) {
  constexpr uint32_t kDigits = 5;
  for (uint32_t i = 0; i < k; i += kTernaryChunk, x += kTernaryChunk, tables += kFiveBytes) {
    float largest = 0, poison = 0, total = 0;
    for (uint32_t v = 0; v < kTernaryChunk; v++) {
      poison += x[v] * 0.0f;  // NaN once any value is not finite
      total += x[v];
    }
    for (uint32_t f = 0; f < kFives; f++) {
      float size = 0;
      for (uint32_t v = f; v < kTernaryChunk; v += kFives) size += std::fabs(x[v]);
      largest = size > largest ? size : largest;
    }
    // In units of scale / 128 no sum is larger than 127 * 128 and what five roundings add.
    const float fine = largest > 0 ? 127.0f / largest * 128.0f : 0.0f;
    const bool usable = poison == 0 && std::isfinite(fine);
    *scales++ = poison != 0 ? std::numeric_limits<float>::quiet_NaN() : usable ? largest / 127.0f : 0.0f;
    *sums++ = total;
    for (uint32_t f = 0; f < kFives; f++) {
      int32_t values[kDigits] = {};
      for (uint32_t d = 0, v = f; usable && v < kTernaryChunk; d++, v += kFives)
        values[d] = int32_t(std::nearbyint(x[v] * fine));
      for (int32_t n = 0; n <= 121; n++) {
        int32_t sum = 0, left = n;
        for (const int32_t value : values) {
          const int32_t digit = (left + 1) % 3 - 1;
          sum += digit * value;
          left = (left - digit) / 3;
        }
        tables[128 * f + uint32_t(n)] = uint8_t(((sum + 64) >> 7) + 128);
      }
    }
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

const Kernels scalarKernels = {"scalar",      Layout::Lookup1, integerTile, tableTile, floatTile, quantize, tabulate,
                               tabulateFives, rmsNorm,         siluMul,     attend,    toHalf,    readLines};

}  // namespace lutra
