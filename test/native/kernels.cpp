// Every kernel of every instruction set against float64, on random shapes and on extremes. The bounds count roundings:
// a sum of n floats in any order is off by at most n * 2^-24 of the sum of their magnitudes.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "check.h"

namespace harness {

using namespace lutra;

namespace {

std::string named(const Kernels& kernels, const char* kernel) { return std::string(kernels.isa) + " " + kernel; }

/// A packed matrix of one tile, with random codes and scales of usual sizes.
Matrix randomTile(Random& random, Family family) {
  Matrix m{};
  m.n = kTileRows;
  m.family = family;
  m.bits = 1u << random.whole(1, 3);
  m.group = 16 * random.whole(1, 8);
  m.scales = Scales(random.whole(0, 2));
  m.blockGroups = m.scales == Scales::TwoLevel ? random.whole(1, 8) : 1;
  m.k = m.group * m.blockGroups * random.whole(1, 4);
  m.hasOffset = random.coin();
  m.factor = std::ldexp(1.0f, int(random.whole(0, 8)) - 4);
  if (family == Family::Tables) {
    std::vector<float> levels = random.normals(size_t(1) << m.bits);
    if (random.coin())  // bf16 levels, which have kernels of their own
      for (float& level : levels) {
        uint32_t bits;
        std::memcpy(&bits, &level, 4);
        bits &= 0xffff0000;
        std::memcpy(&level, &bits, 4);
      }
    setTable(m, levels);
  } else {
    m.zero = float(random.whole(0, 1u << m.bits)) / (random.coin() ? 1 : 2);
    m.stepped = m.bits <= 4 && random.coin();
    for (uint8_t& step : m.steps) step = uint8_t(random.bits());
  }
  m.stride = m.tileBytes();
  return m;
}

void fillTile(const Matrix& m, uint8_t* tile, Random& random, bool extreme) {
  for (size_t i = 0; i < m.tileBytes(); i++) tile[i] = extreme ? 0xff : uint8_t(random.bits());
  for (uint8_t* block = tile; block < tile + m.tileBytes(); block += m.blockBytes())
    for (uint32_t term = 0; term < (m.hasOffset ? 2 : 1); term++)
      for (uint32_t r = 0; r < kTileRows; r++) {
        uint8_t* at = block + term * m.termBytes();
        const uint16_t half = random.half();
        const float value = halfToFloat(half);
        if (m.scales == Scales::Float) {
          std::memcpy(at + 4 * r, &value, 4);
        } else {
          std::memcpy(at + 2 * r, &half, 2);
        }
      }
}

/// The product of a row with x in float64, the sum of the magnitudes of its terms, and x's own sum.
struct Product64 {
  double value, size;
};

/// `x(i)`: the activations; `ones`: the sum of those of a group and the sum of the magnitudes that went into it.
Product64 product64(const Matrix& m, const uint8_t* tile, uint32_t row, const std::function<double(uint32_t)>& x) {
  const uint32_t span = 32 / m.bits, mask = (1u << m.bits) - 1;
  Product64 total{0, 0};
  const uint8_t* block = tile;
  for (uint32_t k0 = 0; k0 < m.k; block += m.blockBytes())
    for (uint32_t g = 0; g < m.blockGroups; g++, k0 += m.group) {
      const uint8_t* codes = block + m.headerBytes() + g * m.codeBytes();
      double products = 0, ones = 0, size = 0, onesSize = 0;
      for (uint32_t i = 0; i < m.group; i++) {
        const uint8_t byte = codes[i / span * (kTileRows * 4) + row * 4 + i % 4];
        const uint32_t code = byte >> (i % span / 4 * m.bits) & mask;
        const double at = x(k0 + i);
        products += m.levelOf(code) * at;
        // Codes and the zero point are summed apart.
        size += (m.family == Family::Tables ? std::fabs(m.levelOf(code)) : std::fabs(m.levelOf(code)) + 2 * m.zero) *
                std::fabs(at);
        ones += at;
        onesSize += std::fabs(at);
      }
      const double scale = m.scaleOf(block, g, row);
      total.value += scale * products;
      total.size += std::fabs(scale) * size;
      if (m.hasOffset) {
        const double offset = m.scaleOf(block + m.termBytes(), g, row);
        total.value += offset * ones;
        total.size += std::fabs(offset) * onesSize;
      }
    }
  return {total.value * m.factor, total.size * m.factor};
}

/// Roundings on the way of one term of a product of length k, in any order: sums of the terms, then a few factors.
double productBound(uint32_t k, double size) { return (k + 16) * kEpsilon * size; }

void integerTiles(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 24; round++) {
    const bool extreme = round % 4 == 3;
    const Matrix m = randomTile(random, Family::Integers);
    const Exact tile(m.tileBytes());
    fillTile(m, tile.data(), random, extreme);
    const uint32_t tokens = random.whole(1, kMaxTokens), groups = m.k / kActGroup;
    std::vector<float> x = random.normals(size_t(tokens) * m.k);
    if (extreme)
      for (float& value : x) value = value < 0 ? -1.0f : 1.0f;  // codes of -127 and 127 alone
    const Exact codes(x.size()), scales(size_t(tokens) * groups * 4), sums(scales.size());
    const Activations all{reinterpret_cast<int8_t*>(codes.data()), reinterpret_cast<float*>(scales.data()),
                          reinterpret_cast<float*>(sums.data()), m.k};
    for (uint32_t t = 0; t < tokens; t++)
      scalarKernels.quantize(&x[size_t(t) * m.k], m.k, const_cast<int8_t*>(all.from(t).codes),
                             const_cast<float*>(all.from(t).scales), const_cast<float*>(all.from(t).sums));
    const Exact out(size_t(tokens) * kTileRows * 4);
    float* products = reinterpret_cast<float*>(out.data());
    kernels.integerTile(m, tile.data(), all, tokens, products);
    for (uint32_t t = 0; t < tokens; t++) {
      const Activations one = all.from(t);
      for (uint32_t r = 0; r < kTileRows; r++) {
        const Product64 want =
            product64(m, tile.data(), r, [&](uint32_t i) { return double(one.codes[i]) * one.scales[i / kActGroup]; });
        checkNear(products[t * kTileRows + r], want.value, productBound(m.k, want.size), named(kernels, "integerTile"));
      }
      // Nothing of a token depends on those beside it.
      float alone[kTileRows];
      kernels.integerTile(m, tile.data(), one, 1, alone);
      check(!std::memcmp(alone, products + t * kTileRows, sizeof alone), named(kernels, "integerTile of one token"));
    }
  }
}

void tableTiles(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 24; round++) {
    const Matrix m = randomTile(random, Family::Tables);
    const Exact tile(m.tileBytes());
    fillTile(m, tile.data(), random, false);
    const uint32_t tokens = random.whole(1, kMaxTokens);
    const Exact input(size_t(tokens) * m.k * 4), out(size_t(tokens) * kTileRows * 4);
    float *x = reinterpret_cast<float*>(input.data()), *products = reinterpret_cast<float*>(out.data());
    for (size_t i = 0; i < size_t(tokens) * m.k; i++) x[i] = random.normal();
    kernels.tableTile(m, tile.data(), x, tokens, products);
    for (uint32_t t = 0; t < tokens; t++) {
      for (uint32_t r = 0; r < kTileRows; r++) {
        const Product64 want = product64(m, tile.data(), r, [&](uint32_t i) { return double(x[size_t(t) * m.k + i]); });
        checkNear(products[t * kTileRows + r], want.value, productBound(m.k, want.size), named(kernels, "tableTile"));
      }
      float alone[kTileRows];
      kernels.tableTile(m, tile.data(), x + size_t(t) * m.k, 1, alone);
      check(!std::memcmp(alone, products + t * kTileRows, sizeof alone), named(kernels, "tableTile of one token"));
    }
  }
}

void floatTiles(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 30; round++) {
    Matrix m{};
    m.family = Family::Rows;
    m.format = FloatFormat(round % 3);
    m.k = random.whole(1, 200);
    m.n = random.whole(1, kTileRows);
    const size_t size = floatBytes(m.format);
    const uint32_t tokens = random.whole(1, kMaxTokens);
    const Exact rows(size_t(m.n) * m.k * size), input(size_t(tokens) * m.k * 4), out(size_t(tokens) * kTileRows * 4);
    for (size_t i = 0; i < size_t(m.n) * m.k; i++) {
      const float value = random.normal();
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint16_t half = m.format == FloatFormat::F16 ? random.half() : uint16_t(bits >> 16);
      std::memcpy(rows.data() + i * size, size == 4 ? static_cast<const void*>(&value) : &half, size);
    }
    float *x = reinterpret_cast<float*>(input.data()), *products = reinterpret_cast<float*>(out.data());
    for (size_t i = 0; i < size_t(tokens) * m.k; i++) x[i] = random.normal();
    kernels.floatTile(m, rows.data(), m.n, x, tokens, products);
    for (uint32_t t = 0; t < tokens; t++)
      for (uint32_t r = 0; r < m.n; r++) {
        double want = 0, magnitude = 0;
        for (uint32_t i = 0; i < m.k; i++) {
          const double term = double(loadFloat(m.format, rows.data() + (size_t(r) * m.k + i) * size)) * x[t * m.k + i];
          want += term;
          magnitude += std::fabs(term);
        }
        checkNear(products[t * kTileRows + r], want, productBound(m.k, magnitude), named(kernels, "floatTile"));
      }
  }
}

void quantizers(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 40; round++) {
    const uint32_t groups = random.whole(1, 12), k = groups * kActGroup;
    const Exact input(k * 4), codes(k), scales(groups * 4), sums(groups * 4);
    float* x = reinterpret_cast<float*>(input.data());
    for (uint32_t i = 0; i < k; i++) x[i] = std::ldexp(random.normal(), int(random.whole(0, 60)) - 30);
    const uint32_t bad = random.whole(0, k - 1);
    const float special[] = {std::numeric_limits<float>::quiet_NaN(),  std::numeric_limits<float>::infinity(), 0, -0.0f,
                             std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max()};
    if (round % 2) x[bad] = special[round / 2 % 6];
    if (round % 5 == 0) std::fill(x, x + kActGroup, round % 10 ? 0.0f : std::numeric_limits<float>::denorm_min());
    std::vector<int8_t> wantCodes(k);
    std::vector<float> wantScales(groups), wantSums(groups);
    scalarKernels.quantize(x, k, wantCodes.data(), wantScales.data(), wantSums.data());
    kernels.quantize(x, k, reinterpret_cast<int8_t*>(codes.data()), reinterpret_cast<float*>(scales.data()),
                     reinterpret_cast<float*>(sums.data()));
    check(!std::memcmp(codes.data(), wantCodes.data(), k), named(kernels, "quantize: codes"));
    for (uint32_t g = 0; g < groups; g++) {
      checkNear(reinterpret_cast<float*>(scales.data())[g], wantScales[g], 0, named(kernels, "quantize: scales"));
      checkNear(reinterpret_cast<float*>(sums.data())[g], wantSums[g], 0, named(kernels, "quantize: sums"));
    }
  }
}

void rows(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 40; round++) {
    const uint32_t n = random.whole(1, 300);
    const Exact input(n * 4), weight(n * 4), out(n * 4), halves(n * 2);
    float *x = reinterpret_cast<float*>(input.data()), *w = reinterpret_cast<float*>(weight.data()),
          *y = reinterpret_cast<float*>(out.data());
    for (uint32_t i = 0; i < n; i++) {
      x[i] = std::ldexp(random.normal(), int(random.whole(0, 8)) - 4);
      w[i] = random.normal();
    }
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += double(x[i]) * x[i];
    const double factor = 1 / std::sqrt(squares / n + double(1e-5f));
    kernels.rmsNorm(x, w, 1e-5f, n, y);
    for (uint32_t i = 0; i < n; i++)
      checkNear(y[i], x[i] * factor * w[i], (n + 8) * kEpsilon * std::fabs(x[i] * factor * w[i]),
                named(kernels, "rmsNorm"));
    kernels.siluMul(x, w, n, y);
    for (uint32_t i = 0; i < n; i++)  // exponentials are within 2^-20, and there is one
      checkNear(y[i], x[i] / (1 + std::exp(-double(x[i]))) * w[i], 0x1p-19 * std::fabs(double(x[i]) * w[i]),
                named(kernels, "siluMul"));
    for (uint32_t i = 0; i < n; i++) {
      const uint32_t any = random.bits();
      std::memcpy(&x[i], &any, 4);
    }
    uint16_t* half = reinterpret_cast<uint16_t*>(halves.data());
    kernels.toHalf(x, n, half);
    for (uint32_t i = 0; i < n; i++)
      check(std::isnan(x[i]) ? std::isnan(halfToFloat(half[i])) : half[i] == floatToHalf(x[i]),
            named(kernels, "toHalf"));
    const Exact lines(64 * random.whole(0, 40));
    std::memset(lines.data(), 1, lines.size());
    kernels.readLines(lines.data(), lines.size() / 64);
  }
}

void attentions(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 30; round++) {
    const uint32_t length = random.whole(1, 90), d = 2 * random.whole(1, 66);
    const Exact query(d * 4), keys(size_t(length) * d * 2), values(keys.size()), scores(length * 4), out(d * 4);
    float *q = reinterpret_cast<float*>(query.data()), *y = reinterpret_cast<float*>(out.data());
    uint16_t *key = reinterpret_cast<uint16_t*>(keys.data()), *value = reinterpret_cast<uint16_t*>(values.data());
    for (uint32_t i = 0; i < d; i++) q[i] = random.normal();
    for (size_t i = 0; i < size_t(length) * d; i++) {
      key[i] = floatToHalf(random.normal());
      value[i] = floatToHalf(random.normal());
    }
    kernels.attend(q, {key, value, length, d}, reinterpret_cast<float*>(scores.data()), y);
    std::vector<double> weight(length);
    double largest = -HUGE_VAL, total = 0, most = 0, size = 0;
    for (uint32_t p = 0; p < length; p++) {
      double magnitude = 0;
      for (uint32_t i = 0; i < d; i++) {
        const double term = q[i] * double(halfToFloat(key[size_t(p) * d + i]));
        weight[p] += term;
        magnitude += std::fabs(term);
        most = std::max(most, std::fabs(double(halfToFloat(value[size_t(p) * d + i]))));
      }
      largest = std::max(largest, weight[p]);
      size = std::max(size, magnitude);
    }
    for (double& score : weight) total += score = std::exp(score - largest);
    // A weight is off by what its score and the largest are, by its exponential's 2^-20, and by the sums' roundings.
    const double relative = 2 * (d + 4) * kEpsilon * size + 0x1p-20 + (length + 4) * kEpsilon;
    for (uint32_t i = 0; i < d; i++) {
      double want = 0;
      for (uint32_t p = 0; p < length; p++) want += weight[p] / total * halfToFloat(value[size_t(p) * d + i]);
      checkNear(y[i], want, 2 * relative * most, named(kernels, "attend"));
    }
  }
}

}  // namespace

void checkKernels(Random& random) {
  for (const Kernels* kernels : tables()) {
    integerTiles(*kernels, random);
    tableTiles(*kernels, random);
    floatTiles(*kernels, random);
    quantizers(*kernels, random);
    rows(*kernels, random);
    attentions(*kernels, random);
  }
}

}  // namespace harness
