// The order in which a product of tiles with rows is made: stretch of k by stretch, and in each tile after tile, so
// that what is read again and again, the activations of a stretch, stays in the first-level cache.
#pragma once
#include "kernels.h"

namespace lutra {

/// Tiles times rows of one call at most: their products, 64 floats each, are on the caller's stack.
constexpr uint32_t kProducts = 64;

/// Tiles that a worker takes at once: a panel, unless there are too few of them for all to have several.
inline uint32_t grainOfTiles(uint32_t tiles, uint32_t workers) {
  return std::clamp(tiles / (4 * workers), 1u, kPanelTiles);
}

/// Rows of activations as the families read them.
struct Operand {
  Activations activations;  // of integers
  const float* rows;        // of all others, (tokens, m.k)
};

/// out(tile, token, 64): tiles [first, first + tiles) of a matrix by rows [from, from + tokens) of x;
/// tiles * tokens <= kProducts. What a row gives does not depend on the others, nor on how many tiles there are.
void multiply(const Kernels& kernels, const Matrix& m, uint32_t first, uint32_t tiles, const Operand& x, uint32_t from,
              uint32_t tokens, float* out);

}  // namespace lutra
