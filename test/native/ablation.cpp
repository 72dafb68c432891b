// Kernels with one of T-MAC's means taken away or added against the full one and float64, the averages of "fast
// aggregation" against their definition in whole numbers, and what those averages lose against what was derived.
#include "ablation.h"

#include <cmath>
#include <cstring>

#include "check.h"
#include "isa.h"
#include "product.h"

namespace harness {

using namespace lutra;

namespace {

/// Tables of one vector that the test fills in, without a byte to spare.
struct Tables {
  Exact entries, scales, sums;
  Activations x{};

  Tables(uint32_t k, size_t chunkBytes) : entries(k / kChunk * chunkBytes), scales(k / kChunk * 4), sums(k / 16 * 4) {
    x.k = k;
    x.tables = reinterpret_cast<int8_t*>(entries.data());
    x.tableScales = reinterpret_cast<float*>(scales.data());
    x.tableSums = reinterpret_cast<float*>(sums.data());
  }
  int8_t* bytes() const { return reinterpret_cast<int8_t*>(entries.data()); }
  float* scaleOf(uint32_t chunk) const { return reinterpret_cast<float*>(scales.data()) + chunk; }
  float* sumOf(uint32_t sixteen) const { return reinterpret_cast<float*>(sums.data()) + sixteen; }
};

/// One bit's lookups as whole numbers from `found` on: n times the last of the rounding averages in a tree over n.
int treeOf(const int* found, uint32_t n) {
  std::vector<int> level(found, found + n);
  while (level.size() > 1) {
    for (size_t i = 0; i < level.size() / 2; i++)
      level[i] = int(std::floor((level[2 * i] + level[2 * i + 1] + 1) / 2.0));
    level.resize(level.size() / 2);
  }
  return int(n) * level[0];
}

/// With scales that are small whole numbers every sum is exact: all kernels give what the definition gives.
void averages(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 96; round++) {
    const uint32_t groups[] = {16, 32, 64, 128};
    Matrix m = ablationMatrix(round / 3 % 4 + 1, groups[round / 12 % 4], kTileRows, 0);
    m.average = 2u << round % 3;
    m.blockGroups = m.group == 16 ? 2 : 1;
    m.k = m.blockValues() * random.whole(1, 4);
    const uint32_t n = m.group == 16 ? std::min(m.average, 4u) : m.average;
    const Exact tile(m.tileBytes());
    for (size_t i = 0; i < tile.size(); i++) tile.data()[i] = uint8_t(random.bits());
    for (uint8_t* block = tile.data(); block < tile.data() + tile.size(); block += m.blockBytes())
      for (uint32_t i = 0; i < m.headerBytes() / 2; i++) {
        const uint16_t half = floatToHalf(float(random.whole(0, 4)) - 2);
        std::memcpy(block + 2 * i, &half, 2);
      }
    const Tables tables(m.k, 128);
    const int end = round % 5 == 0 ? 127 : round % 5 == 1 ? -127 : 0;  // all at one end, or any
    for (size_t i = 0; i < 4 * size_t(m.k); i++)
      tables.bytes()[i] = int8_t(end ? end : int(random.whole(0, 254)) - 127);
    for (uint32_t c = 0; c < m.k / kChunk; c++) *tables.scaleOf(c) = 1;
    for (uint32_t g = 0; g < m.k / 16; g++) *tables.sumOf(g) = 2 * (float(random.whole(0, 8)) - 4);
    const Exact out(kTileRows * 4);
    m.data = tile.data();
    kernels.integerTile(m, m.stretch(0, 0), tables.x, 1, reinterpret_cast<float*>(out.data()));
    for (uint32_t row = 0; row < kTileRows; row++) {
      double want = 0;
      for (uint32_t c = 0; c < m.k / kChunk; c++) {
        const uint8_t* block = tile.data() + c * kChunk / m.blockValues() * m.blockBytes();
        const uint32_t inBlock = c * kChunk % m.blockValues();
        uint8_t codes[kChunk];
        takeChunk(m, m.chunkAt(block, inBlock), row, codes);
        for (uint32_t f = 0; f < 8; f += n) {
          const double scale = m.termsOf(block, (inBlock + 4 * f) / m.group, row).scale;
          for (uint32_t p = 0; p < m.bits; p++) {
            int found[8];
            for (uint32_t i = 0; i < n; i++) {
              uint32_t entry = 0;
              for (uint32_t j = 0; j < 4; j++) entry |= (codes[4 * (f + i) + j] >> p & 1u) << j;
              found[i] = tables.bytes()[(c * 8 + f + i) * 16 + entry];
            }
            want += scale * std::ldexp(treeOf(found, n) - n * std::log2(n) / 4, int(p));
          }
        }
        for (uint32_t half = 0; half < 2; half++) {
          const double scale = m.termsOf(block, (inBlock + 16 * half) / m.group, row).scale;
          want += scale * (((1u << m.bits) - 1) / 2.0 - m.zero) * *tables.sumOf(2 * c + half);
        }
      }
      checkNear(reinterpret_cast<float*>(out.data())[row], want, 0,
                std::string(kernels.isa) + " averages of " + std::to_string(m.average));
    }
  }
}

/// What a tree over n loses has mean 0 and variance n * (n - 1) / 8, as kernels_scalar.cpp derives.
void lossOfAverages(Random& random) {
  Matrix m = ablationMatrix(1, 32, kTileRows, 32 * 512);
  const Exact tile(m.tileBytes());
  for (size_t i = 0; i < tile.size(); i++) tile.data()[i] = uint8_t(random.bits());
  for (uint8_t* block = tile.data(); block < tile.data() + tile.size(); block += m.blockBytes())
    for (uint32_t i = 0; i < m.headerBytes() / 2; i++) std::memcpy(block + 2 * i, "\x00\x3c", 2);  // 1
  const Tables tables(m.k, 128);
  std::memset(tables.sums.data(), 0, tables.sums.size());
  const Stretch whole{tile.data(), 0, m.k};
  const uint32_t chunks = m.k / kChunk;
  float exact[kTileRows], averaged[kTileRows];
  for (const uint32_t n : {2u, 4u, 8u}) {
    double total = 0, squares = 0;
    constexpr int kRounds = 40;
    for (int round = 0; round < kRounds; round++) {
      for (size_t i = 0; i < 4 * size_t(m.k); i++) tables.bytes()[i] = int8_t(int(random.whole(0, 254)) - 127);
      for (uint32_t c = 0; c < chunks; c++) *tables.scaleOf(c) = 1;
      m.average = 0;
      scalarKernels.integerTile(m, whole, tables.x, 1, exact);
      m.average = n;
      scalarKernels.integerTile(m, whole, tables.x, 1, averaged);
      for (uint32_t row = 0; row < kTileRows; row++) {
        const double loss = averaged[row] - exact[row];
        total += loss;
        squares += loss * loss;
      }
    }
    const double trees = 8.0 / n * chunks, variance = trees * n * (n - 1) / 8, samples = kRounds * kTileRows;
    // Rows share tables, and so their losses: no more than all of a round may count as one.
    checkNear(total / samples, 0, 5 * std::sqrt(variance / kRounds), "mean loss of averages of " + std::to_string(n));
    checkNear(squares / samples / variance, 1, 0.2, "variance of the loss of averages of " + std::to_string(n));
    // Which is far from what no correction, or one that is rounded down, would leave.
    check(trees * n * std::log2(n) / 4 > 20 * std::sqrt(variance / kRounds), "the correction is seen");
  }
}

/// Every ablation on a random matrix whose last tile is not full.
void ablations(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 24; round++) {
    const uint32_t group = 32 * random.whole(1, 5), n = random.whole(1, round % 6 ? 200 : 700),
                   k = group * random.whole(1, 12);
    Matrix m = ablationMatrix(round % 4 + 1, group, n, k);
    m.ahead = 1024 * random.whole(0, 4);
    const uint32_t rows = m.tiles() * kTileRows;
    std::vector<uint8_t> codes(size_t(rows) * k);
    std::vector<uint16_t> scales(size_t(rows) * k / group);
    for (uint8_t& code : codes) code = uint8_t(random.bits() & ((1u << m.bits) - 1));
    for (uint16_t& scale : scales) scale = random.half();
    const Exact input(k * 4);
    float* x = reinterpret_cast<float*>(input.data());
    for (uint32_t i = 0; i < k; i++) x[i] = random.normal();
    std::vector<float> full(rows), out(rows);
    for (const Ablation& ablation : ablationsOf(kernels)) {
      const std::string name = std::string(kernels.isa) + " ablation " + ablation.name;
      const Exact data(orderedBytes(ablation.order, m));
      std::memset(data.data(), 0, data.size());
      m.data = data.data();
      for (uint32_t tile = 0; tile < m.tiles(); tile++)
        putTile(ablation.order, m, tile, &codes[size_t(tile) * kTileRows * k],
                &scales[size_t(tile) * kTileRows * k / group]);
      const Tables tables(k, ablation.tableBytes);
      ablation.tabulate(x, k, tables.bytes(), tables.scaleOf(0), tables.sumOf(0));
      m.average = ablation.average;
      for (uint32_t tile = 0; tile < m.tiles(); tile += 2)
        multiplyBy(ablation, m, tile, std::min(2u, m.tiles() - tile), tables.x, &out[tile * kTileRows]);
      const bool isFull = !std::strcmp(ablation.name, "full"), isFloat = !std::strcmp(ablation.name, "float-tables");
      if (isFull) {
        full = out;
        multiply(kernels, m, 0, m.tiles(), {tables.x, nullptr}, 0, 1, full.data());
        check(!std::memcmp(out.data(), full.data(), n * 4), name + " is what models run");
      }
      // Sums of stretches are added up: where others have one only, in another order.
      if (!isFloat && !ablation.average && stretchesOf(ablation.order, m) == m.stretches())
        check(!std::memcmp(out.data(), full.data(), n * 4), name + " equals the full kernel");
      for (uint32_t row = 0; row < n; row++) {
        double want = 0, size = 0, tableError = 0, averageError = 0;
        for (uint32_t c = 0; c < k / kChunk; c++) {
          const double scale = halfToFloat(scales[(size_t(row) * k + c * kChunk) / group]);
          double magnitude = 0;
          for (uint32_t i = c * kChunk; i < (c + 1) * kChunk; i++) {
            want += scale * (codes[size_t(row) * k + i] - double(m.zero)) * x[i];
            magnitude += std::fabs(x[i]);
          }
          // Bits and ones are summed apart: all bits set, less the zero point of as much again.
          size += std::fabs(scale) * magnitude * (2 << m.bits);
          if (isFloat) continue;
          // A byte is off by half of itself; an average by half, at each level, of all that are summed by it.
          const double lookups = 8 * ((1 << m.bits) - 1), unit = std::fabs(scale) * tables.x.tableScales[c];
          tableError += unit * lookups / 2;
          averageError += unit * lookups * std::log2(std::max(1u, ablation.average)) / 2;
        }
        checkNear(out[row], want, tableError + averageError + (k + 64) * kEpsilon * size, name);
      }
    }
  }
}

/// The measure itself, on a matrix that fits anywhere.
void measure(const Kernels& kernels) {
  Pool pool(2);
  const AblationCase what{2, 64, 200, 512, 1024, 3, 1 << 20};
  const std::vector<AblationTimes> times = ablate(pool, kernels, what);
  const auto ablations = ablationsOf(kernels);
  check(times.size() == ablations.size(), "each ablation is measured");
  for (size_t i = 0; i < times.size(); i++) {
    const AblationTimes& one = times[i];
    const std::string name = std::string(kernels.isa) + " measured " + one.name;
    check(!std::strcmp(one.name, ablations[i].name) && one.kernelUs.size() == 3 && one.readUs.size() == 3, name);
    for (const double us : one.kernelUs) check(us > 0, name);
    check(one.bytes >= 200 * 512 / 4 + 200 * 512 / 64 * 2, name + ": bytes");
    // Tables of f32 are off by float32's rounding alone; those of bytes by 1/12 of a unit squared a lookup, to which
    // averages over n add (n - 1) / 8: 2.5, 5.5 and 11.5 times as much. Between the neighbours' geometric means.
    const double base = times[0].nmse;
    check(base > 1e-6 && base < 1e-4, name + ": the full kernel's error");
    const double ratio = one.nmse / base;
    if (ablations[i].average == 2) check(ratio > 1.6 && ratio < 3.7, name + ": error");
    if (ablations[i].average == 4) check(ratio > 3.7 && ratio < 7.9, name + ": error");
    if (ablations[i].average == 8) check(ratio > 7.9 && ratio < 16, name + ": error");
    if (!ablations[i].average && std::strcmp(one.name, "float-tables")) check(one.nmse == base, name + ": error");
    if (!std::strcmp(one.name, "float-tables")) check(one.nmse < 1e-12, name + ": error");
  }
}

void halves() {
  std::vector<uint16_t> all(1 << 16);
  for (size_t i = 0; i < all.size(); i++) all[i] = uint16_t(i);
  std::vector<float> out(all.size());
  fromHalves(all.data(), uint32_t(all.size()), out.data());
  for (size_t i = 0; i < all.size(); i++) {
    const float want = halfToFloat(all[i]);
    check(std::isnan(want) ? std::isnan(out[i]) : !std::memcmp(&out[i], &want, 4), "an f16 as f32");
  }
}

}  // namespace

void checkAblation(Random& random) {
  halves();
  lossOfAverages(random);
  for (const Kernels* kernels : usableKernels()) {
    if (kernels->lookup != Layout::Lookup1) {
      check(ablationsOf(*kernels).empty(), "no ablations without lookups of one table a register");
      continue;
    }
    averages(*kernels, random);
    ablations(*kernels, random);
    measure(*kernels);
  }
}

}  // namespace harness
