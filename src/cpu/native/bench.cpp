// Rotations through copies of one matrix, timed as a whole: the time of a product is that of a rotation divided by
// the copies, so that the clock is read seldom and no copy is in a cache when its turn comes.
#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "memory.h"

namespace lutra {

namespace {

double nowUs() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

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
  for (uint8_t* block = data; block < data + m.bytes(); block += m.blockBytes())
    for (uint32_t term = 0; term < (m.hasOffset ? 2 : 1); term++)
      for (uint32_t i = 0; i < m.partRows() * (m.scales == Scales::TwoLevel ? 1 : m.blockGroups); i++) {
        uint8_t* to = block + term * m.termBytes();
        const uint16_t half = uint16_t(0x1c00 | (next() & 0x3ff));
        const float single = halfToFloat(half);
        if (m.scales == Scales::Float)
          std::memcpy(to + 4 * i, &single, 4);
        else
          std::memcpy(to + 2 * i, &half, 2);
      }
}

}  // namespace

BenchTimes benchProduct(Pool& pool, const Kernels& kernels, const BenchCase& c) {
  Matrix m{};
  m.n = c.n;
  m.k = c.k;
  m.family = c.table.empty() ? Family::Integers : Family::Tables;
  m.bits = c.bits;
  m.group = c.group;
  m.blockGroups = c.blockGroups > 1 || c.group % kChunk == 0 ? c.blockGroups : 2;
  m.layout = c.lookup ? kernels.lookup : Layout::Dot;
  m.ahead = c.ahead;
  m.factor = 1;
  m.zero = float(1 << (c.bits - 1));
  m.stepped = !c.steps.empty();
  std::copy(c.steps.begin(), c.steps.end(), m.steps);
  if (!c.table.empty()) setTable(m, c.table);
  m.scales = c.scales;
  m.hasOffset = c.offset;
  m.stride = m.tileBytes();
  const size_t bytes = m.bytes(), stride = (bytes + 4095) & ~size_t(4095);
  const uint32_t copies = uint32_t((c.poolBytes + stride - 1) / stride);
  Memory memory(stride * copies, true);
  fill(m, memory.data());
  for (uint32_t i = 1; i < copies; i++) std::memcpy(memory.data() + i * stride, memory.data(), bytes);

  const uint32_t padded = m.tiles() * kTileRows;
  std::vector<float> x(size_t(c.tokens) * c.k), out(size_t(c.tokens) * padded);
  Forms forms;
  forms.add(m);
  const size_t values = size_t(c.tokens) * paddedTo(c.k);
  Memory prepared(ActivationRoom::bytesFor(values, forms));
  const ActivationRoom activations(prepared.data(), values, forms);
  for (size_t i = 0; i < x.size(); i++) x[i] = float(int(uint32_t(i) * 2654435761u >> 20) - 2048) / 1024.0f;

  const auto product = [&](const uint8_t* data) {
    pool.run(2, [&](Worker& worker) {
      worker.each(c.tokens, 1, [&](uint32_t begin, uint32_t end) {
        for (uint32_t t = begin; t < end; t++) activations.put(kernels, forms, t, &x[size_t(t) * c.k], c.k);
      });
      worker.each(m.tiles(), std::max(1u, m.tiles() / (8 * pool.threads())), [&](uint32_t begin, uint32_t end) {
        alignas(64) float products[kMaxTokens * kTileRows];
        const Activations all = activations.rows(c.k);
        for (uint32_t tile = begin; tile < end; tile++)
          for (uint32_t t = 0; t < c.tokens; t += kMaxTokens) {
            const uint32_t count = std::min(kMaxTokens, c.tokens - t);
            if (m.family == Family::Tables)
              kernels.tableTile(m, data + tile * m.tileBytes(), &x[size_t(t) * c.k], count, products);
            else
              kernels.integerTile(m, data + tile * m.tileBytes(), all.from(t), count, products);
            for (uint32_t j = 0; j < count; j++)
              std::memcpy(&out[size_t(t + j) * padded + tile * kTileRows], products + j * kTileRows, kTileRows * 4);
          }
      });
    });
  };
  const auto read = [&](const uint8_t* data) {
    pool.run(1, [&](Worker& worker) {
      const uint32_t pieces = 8 * pool.threads();
      worker.each(pieces, 1, [&](uint32_t begin, uint32_t) {
        const size_t from = bytes / 64 * begin / pieces, to = bytes / 64 * (begin + 1) / pieces;
        kernels.readLines(data + from * 64, to - from);
      });
    });
  };
  const auto rotation = [&](const auto& run) {
    const double start = nowUs();
    for (uint32_t i = 0; i < copies; i++) run(memory.data() + i * stride);
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
