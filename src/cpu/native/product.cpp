// See product.h. Stretches are added up here: kernels know one at a time.
#include "product.h"

namespace lutra {

namespace {

/// One stretch of a tile by rows [from, from + tokens), at most kMaxTokens.
void stretchProduct(const Kernels& kernels, const Matrix& m, const Stretch& stretch, const Operand& x, uint32_t from,
                    uint32_t tokens, float* out) {
  if (m.family == Family::Tables)
    kernels.tableTile(m, stretch, x.rows + size_t(from) * m.k + stretch.first, tokens, out);
  else
    kernels.integerTile(m, stretch, x.activations.from(from).after(stretch.first), tokens, out);
}

}  // namespace

void multiply(const Kernels& kernels, const Matrix& m, uint32_t first, uint32_t tiles, const Operand& x, uint32_t from,
              uint32_t tokens, float* out) {
  const auto each = [&](const auto& some) {
    for (uint32_t tile = 0; tile < tiles; tile++)
      for (uint32_t t = 0; t < tokens; t += kMaxTokens)
        some(first + tile, from + t, std::min(kMaxTokens, tokens - t), out + (size_t(tile) * tokens + t) * kTileRows);
  };
  if (m.family == Family::Rows)
    return each([&](uint32_t tile, uint32_t t, uint32_t count, float* to) {
      const uint32_t rows = std::min(kTileRows, m.n - tile * kTileRows);
      kernels.floatTile(m, m.rows(tile), rows, x.rows + size_t(t) * m.k, count, to);
    });
  each([&](uint32_t tile, uint32_t t, uint32_t count, float* to) {
    stretchProduct(kernels, m, m.stretch(tile, 0), x, t, count, to);
  });
  for (uint32_t s = 1; s < m.stretches(); s++)
    each([&](uint32_t tile, uint32_t t, uint32_t count, float* to) {
      alignas(64) float more[kMaxTokens * kTileRows];
      stretchProduct(kernels, m, m.stretch(tile, s), x, t, count, more);
      for (uint32_t i = 0; i < count * kTileRows; i++) to[i] += more[i];
    });
}

}  // namespace lutra
