// Rotations through copies of one matrix, timed as a whole: the time of a product is that of a rotation divided by
// the copies, so that the clock is read seldom and no copy is in a cache when its turn comes.
#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "memory.h"
#include "product.h"

namespace lutra {

namespace {

/// Random codes, and scales near 2^-8 that keep every product finite.
void fill(const Matrix& m, uint8_t* data) {
  uint64_t state = 0x9e3779b97f4a7c15ull;
  const auto next = [&] {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  for (size_t i = 0; i + 8 <= m.bytes(); i += 8) {
    const uint64_t bits = next();
    std::memcpy(data + i, &bits, 8);
  }
  if (m.layout == Layout::Ternary)  // five digits of base 3
    for (size_t i = 0; i < m.bytes(); i++) data[i] = uint8_t((data[i] & 0x80) | (data[i] & 0x7f) % 122);
  for (uint8_t* block = data; block < data + m.bytes(); block += m.blockBytes())
    for (uint32_t term = 0; term < (m.hasOffset ? 2 : 1); term++)
      for (uint32_t i = 0; i < m.partRows() * (m.twoLevels() ? 1 : m.blockGroups); i++) {
        uint8_t* to = block + term * (m.twoLevels() ? m.sharedBytes() : m.termBytes());
        const uint16_t half = uint16_t(0x1c00 | (next() & 0x3ff));
        const float single = halfToFloat(half);
        if (m.scales == Scales::Float)
          std::memcpy(to + 4 * i, &single, 4);
        else
          std::memcpy(to + 2 * i, &half, 2);
      }
}

}  // namespace

double nowUs() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void readAll(Pool& pool, const Kernels& kernels, const uint8_t* data, size_t bytes) {
  pool.run(1, [&](Worker& worker) {
    const uint32_t pieces = 8 * pool.threads();
    worker.each(pieces, 1, [&](uint32_t begin, uint32_t) {
      const size_t from = bytes / 64 * begin / pieces, to = bytes / 64 * (begin + 1) / pieces;
      kernels.readLines(data + from * 64, to - from);
    });
  });
}

BenchTimes benchProduct(Pool& pool, const Kernels& kernels, const BenchCase& c) {
  Matrix m{};
  m.n = c.n;
  m.k = c.k;
  m.family = c.table.empty() ? Family::Integers : Family::Tables;
  m.bits = c.bits;
  m.group = c.group;
  m.blockGroups = c.blockGroups > 1 || c.group % kChunk == 0 ? c.blockGroups : 2;
  m.layout = c.layout;
  m.ahead = c.ahead;
  m.average = c.average;
  m.factor = 1;
  m.zero = float(1 << (c.bits - 1));
  m.stepped = !c.steps.empty();
  std::copy(c.steps.begin(), c.steps.end(), m.steps);
  if (!c.table.empty()) setTable(m, c.table);
  m.scales = c.scales;
  m.hasOffset = c.offset;
  const size_t bytes = m.bytes(), stride = (bytes + 4095) & ~size_t(4095);
  const uint32_t copies = uint32_t((c.poolBytes + stride - 1) / stride);
  Memory memory(stride * copies, true);
  fill(m, memory.data());
  for (uint32_t i = 1; i < copies; i++) std::memcpy(memory.data() + i * stride, memory.data(), bytes);
  std::vector<Matrix> turns(copies, m);
  for (uint32_t i = 0; i < copies; i++) turns[i].data = memory.data() + i * stride;

  const uint32_t padded = m.tiles() * kTileRows;
  std::vector<float> x(size_t(c.tokens) * c.k), out(size_t(c.tokens) * padded);
  Forms forms;
  forms.add(m);
  const size_t values = size_t(c.tokens) * paddedTo(c.k);
  Memory prepared(ActivationRoom::bytesFor(values, forms));
  const ActivationRoom activations(prepared.data(), values, forms);
  for (size_t i = 0; i < x.size(); i++) x[i] = float(int(uint32_t(i) * 2654435761u >> 20) - 2048) / 1024.0f;
  std::vector<uint16_t> halves(c.halves ? x.size() : 0);
  for (size_t i = 0; i < halves.size(); i++) halves[i] = floatToHalf(x[i]);

  const auto product = [&](const Matrix& matrix) {
    pool.run(2, [&](Worker& worker) {
      worker.each(c.tokens, 1, [&](uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++) {
          float* row = &x[size_t(t) * c.k];
          if (c.halves) fromHalves(&halves[size_t(t) * c.k], c.k, row);
          activations.put(kernels, forms, t, row, c.k);
        }
      });
      worker.each(m.tiles(), grainOfTiles(m.tiles(), pool.threads()), [&](uint32_t begin, uint32_t end) {
        alignas(64) float products[kProducts * kTileRows];
        const uint32_t tokens = std::min(c.tokens, kProducts), tiles = kProducts / tokens;
        const Operand operand{activations.rows(c.k), x.data()};
        for (uint32_t tile = begin; tile < end; tile += tiles)
          for (uint32_t t = 0; t < c.tokens; t += tokens) {
            const uint32_t some = std::min(tiles, end - tile), count = std::min(tokens, c.tokens - t);
            multiply(kernels, matrix, tile, some, operand, t, count, products);
            for (uint32_t i = 0; i < some * count; i++)
              std::memcpy(&out[size_t(t + i % count) * padded + (tile + i / count) * kTileRows],
                          products + i * kTileRows, kTileRows * 4);
          }
      });
    });
  };
  const auto read = [&](const Matrix& matrix) { readAll(pool, kernels, matrix.data, bytes); };
  const auto rotation = [&](const auto& run) {
    const double start = nowUs();
    for (const Matrix& matrix : turns) run(matrix);
    return (nowUs() - start) / copies;
  };

  BenchTimes times{{}, {}, bytes};
  rotation(read);
  for (uint32_t round = 0; round < c.rounds; round++) {
    times.readUs.push_back(rotation(read));
    times.kernelUs.push_back(rotation(product));
  }
  times.readUs.push_back(rotation(read));
  return times;
}

}  // namespace lutra
