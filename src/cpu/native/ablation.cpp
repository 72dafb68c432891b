// The orders of codes that ablations read, and the measure behind `lutra bench ablation`. Not here: kernels.
#include "ablation.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>

#include "bench.h"
#include "memory.h"
#include "product.h"

namespace lutra {

namespace {

constexpr uint64_t kSeed = 0x9e3779b97f4a7c15;

/// Words of a chunk's bits, with the nibbles c >= 8 as c - 8, and the others, whose entries are those of 15 - c with a
/// minus, as 8 + (7 - c).
uint32_t mirrored(uint32_t word) {
  const uint32_t lower = (~word & 0x88888888) >> 3;  // 1 in the nibbles that are
  return (word ^ 0x88888888) ^ lower * 7;
}

/// Writes a chunk of Order::Pairs; of row r it gets the words from words + r * stride on, one a bit.
void placePairs(const Matrix& m, const uint32_t* words, size_t stride, uint8_t* chunk) {
  for (uint32_t row = 0; row < kTileRows; row++)
    for (uint32_t p = 0; p < m.bits; p++)
      for (uint32_t f = 0; f < 8; f++) {
        uint8_t& byte = chunk[(p * 8 + f) * 32 + row / 2];
        byte = uint8_t(byte | (words[row * stride + p] >> 4 * f & 15) << row % 2 * 4);
      }
}

/// Copies of one matrix.
struct Copies {
  size_t bytes = 0, stride = 0;
  uint32_t count = 0;
  std::unique_ptr<Memory> memory;

  Copies() = default;
  Copies(size_t bytes, size_t room)
      : bytes(bytes),
        stride((bytes + 4095) & ~size_t(4095)),
        count(uint32_t((room + stride - 1) / stride)),
        memory(std::make_unique<Memory>(stride * count, true)) {}
  uint8_t* at(uint32_t index) const { return memory->data() + index * stride; }
};

/// |out - right|^2 / |right|^2
double errorOf(const std::vector<float>& out, const std::vector<double>& right) {
  double error = 0, size = 0;
  for (size_t i = 0; i < right.size(); i++) {
    error += (out[i] - right[i]) * (out[i] - right[i]);
    size += right[i] * right[i];
  }
  return error / size;
}

}  // namespace

Matrix ablationMatrix(uint32_t bits, uint32_t group, uint32_t n, uint32_t k) {
  Matrix m{};
  m.n = n;
  m.k = k;
  m.family = Family::Integers;
  m.layout = Layout::Lookup1;
  m.bits = bits;
  m.group = group;
  m.blockGroups = 1;
  m.scales = Scales::Half;
  m.factor = 1;
  m.zero = float(1u << (bits - 1));
  return m;
}

size_t orderedBytes(Order order, const Matrix& m) {
  return order == Order::Rows ? size_t(m.n) * (m.k / 8 * m.bits + m.k / m.group * 2) : m.bytes();
}

uint32_t stretchesOf(Order order, const Matrix& m) {
  return order == Order::Rows || order == Order::Tiles ? 1 : m.stretches();
}

Stretch stretchOf(Order order, const Matrix& m, uint32_t tile, uint32_t index) {
  if (order == Order::Rows) return {m.data + size_t(tile) * kTileRows * m.k / 8, 0, m.k};
  if (order == Order::Tiles) return {m.data + tile * m.tileBytes(), 0, m.k};
  return m.stretch(tile, index);
}

void putTile(Order order, const Matrix& m, uint32_t tile, const uint8_t* codes, const uint16_t* scales) {
  uint8_t* const data = const_cast<uint8_t*>(m.data);
  const uint32_t chunks = m.k / kChunk, groups = m.k / m.group, rowWords = chunks * m.bits;
  std::vector<uint32_t> words(size_t(kTileRows) * rowWords);
  for (uint32_t row = 0; row < kTileRows; row++)
    packRow(m, codes + size_t(row) * m.k, chunks, &words[size_t(row) * rowWords]);
  if (order == Order::Rows) {
    const size_t rowBytes = m.k / 8;
    for (uint32_t row = 0; row < kTileRows && tile * kTileRows + row < m.n; row++) {
      const size_t at = tile * kTileRows + row;
      for (uint32_t p = 0; p < m.bits; p++)
        for (uint32_t c = 0; c < chunks; c++)
          std::memcpy(data + (p * size_t(m.n) + at) * rowBytes + 4 * c, &words[row * rowWords + c * m.bits + p], 4);
      std::memcpy(data + m.bits * m.n * rowBytes + at * groups * 2, scales + size_t(row) * groups, groups * 2);
    }
    return;
  }
  if (order == Order::Mirrored)
    for (uint32_t& word : words) word = mirrored(word);
  for (uint32_t s = 0; s < stretchesOf(order, m); s++) {
    const Stretch stretch = stretchOf(order, m, tile, s);
    uint8_t* block = data + (stretch.codes - data);
    for (uint32_t k = stretch.first; k < stretch.first + stretch.count; k += m.group, block += m.blockBytes()) {
      for (uint32_t row = 0; row < kTileRows; row++)
        std::memcpy(block + 2 * row, scales + size_t(row) * groups + k / m.group, 2);
      uint8_t* chunk = block + m.headerBytes();
      for (uint32_t c = k / kChunk; c < (k + m.group) / kChunk; c++, chunk += m.chunkBytes())
        if (order == Order::Pairs)
          placePairs(m, &words[c * m.bits], rowWords, chunk);
        else
          placeChunk(m, &words[c * m.bits], rowWords, chunk);
    }
  }
}

std::vector<Ablation> ablationsOf(const Kernels& kernels) {
  if (kernels.lookup != Layout::Lookup1) return {};
  const auto asModels = [&](const char* name, Order order, uint32_t average) {
    return Ablation{name, order, average, 4 * kChunk, kernels.tabulate, kernels.integerTile};
  };
  std::vector<Ablation> list{asModels("full", Order::Panels, 0), asModels("tiles", Order::Tiles, 0)};
#if defined(__x86_64__)
  if (&kernels == &avx2Kernels) list.insert(list.end(), std::begin(avx2Ablations), std::end(avx2Ablations));
#endif
  for (const auto& [name, n] : {std::pair{"averages-2", 2u}, {"averages-4", 4u}, {"averages-8", 8u}})
    list.push_back(asModels(name, Order::Panels, n));
  return list;
}

void multiplyBy(const Ablation& ablation, const Matrix& m, uint32_t first, uint32_t tiles, const Activations& x,
                float* out) {
  for (uint32_t s = 0; s < stretchesOf(ablation.order, m); s++)
    for (uint32_t tile = 0; tile < tiles; tile++) {
      const Stretch stretch = stretchOf(ablation.order, m, first + tile, s);
      Activations from = x.after(stretch.first);
      from.tables = x.tables + stretch.first / kChunk * ablation.tableBytes;
      float* const to = out + size_t(tile) * kTileRows;
      if (s == 0) {
        ablation.tile(m, stretch, from, 1, to);
        continue;
      }
      alignas(64) float more[kTileRows];
      ablation.tile(m, stretch, from, 1, more);
      for (uint32_t row = 0; row < kTileRows; row++) to[row] += more[row];
    }
}

std::vector<AblationTimes> ablate(Pool& pool, const Kernels& kernels, const AblationCase& c) {
  const std::vector<Ablation> ablations = ablationsOf(kernels);
  Matrix shape = ablationMatrix(c.bits, c.group, c.n, c.k);
  shape.ahead = c.ahead;
  std::map<Order, Copies> copies;
  for (const Ablation& ablation : ablations) copies.try_emplace(ablation.order);
  for (auto& [order, of] : copies) of = Copies(orderedBytes(order, shape), c.poolBytes / copies.size());

  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  std::vector<float> x(c.k), out(size_t(shape.tiles()) * kTileRows);
  for (float& value : x) value = normal(random);
  std::vector<double> right;  // of each row
  std::vector<uint8_t> codes(size_t(kTileRows) * c.k);
  std::vector<uint16_t> scales(codes.size() / c.group);
  for (uint32_t tile = 0; tile < shape.tiles(); tile++) {
    for (uint8_t& code : codes) code = uint8_t(random() >> 32 & ((1u << c.bits) - 1));
    for (uint16_t& scale : scales) scale = uint16_t(0x1c00 | (random() >> 32 & 0x3ff));  // near 2^-8
    for (auto& [order, of] : copies) {
      shape.data = of.at(0);
      putTile(order, shape, tile, codes.data(), scales.data());
    }
    for (uint32_t row = 0; row < kTileRows && right.size() < c.n; row++) {
      double sum = 0;
      for (size_t i = 0; i < c.k; i++) {
        const size_t at = size_t(row) * c.k + i;
        sum += (double(codes[at]) - shape.zero) * halfToFloat(scales[at / c.group]) * x[i];
      }
      right.push_back(sum);
    }
  }
  for (auto& [order, of] : copies)
    for (uint32_t i = 1; i < of.count; i++) std::memcpy(of.at(i), of.at(0), of.bytes);

  size_t tableBytes = 0;
  for (const Ablation& ablation : ablations) tableBytes = std::max(tableBytes, ablation.tableBytes);
  Memory tables(c.k / kChunk * tableBytes);
  std::vector<float> tableScales(c.k / kChunk), tableSums(c.k / kActGroup);
  Activations made{};
  made.k = c.k;
  made.tables = reinterpret_cast<int8_t*>(tables.data());
  made.tableScales = tableScales.data();
  made.tableSums = tableSums.data();

  const auto product = [&](const Ablation& ablation, const uint8_t* data) {
    Matrix m = shape;
    m.average = ablation.average;
    m.data = data;
    pool.run(2, [&](Worker& worker) {
      worker.each(1, 1, [&](uint32_t, uint32_t) {
        ablation.tabulate(x.data(), c.k, reinterpret_cast<int8_t*>(tables.data()), tableScales.data(),
                          tableSums.data());
      });
      worker.each(m.tiles(), grainOfTiles(m.tiles(), pool.threads()), [&](uint32_t begin, uint32_t end) {
        multiplyBy(ablation, m, begin, end - begin, made, &out[size_t(begin) * kTileRows]);
      });
    });
  };
  const auto rotation = [](const Copies& of, const auto& run) {
    const double start = nowUs();
    for (uint32_t i = 0; i < of.count; i++) run(of.at(i));
    return (nowUs() - start) / of.count;
  };
  const auto read = [&](const Copies& of) {
    return rotation(of, [&](const uint8_t* data) { readAll(pool, kernels, data, of.bytes); });
  };

  std::vector<AblationTimes> times;
  for (const Ablation& ablation : ablations) {
    const Copies& of = copies[ablation.order];
    product(ablation, of.at(0));
    times.push_back({ablation.name, {}, {}, of.bytes, errorOf(out, right)});
  }
  for (const auto& [order, of] : copies) read(of);
  for (uint32_t round = 0; round < c.rounds; round++)
    for (size_t turn = 0; turn < ablations.size(); turn++) {
      const size_t i = round % 2 ? ablations.size() - 1 - turn : turn;
      const Copies& of = copies[ablations[i].order];
      times[i].readUs.push_back(read(of));
      times[i].kernelUs.push_back(rotation(of, [&](const uint8_t* data) { product(ablations[i], data); }));
    }
  return times;
}

}  // namespace lutra
