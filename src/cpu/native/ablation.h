// What each means of T-MAC (EuroSys'25) is worth: the product by lookups as models run it, and kernels with one of its
// means taken away or added, timed in turn. No model runs those: they are kept apart from the kernels that models run
// with, in ablation_*.cpp, and take plain codes of 1 to 4 bits in groups of a multiple of 32 values, a scale of f16
// each.
#pragma once
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace lutra {

/// How the codes of a matrix lie in memory.
enum class Order : uint8_t {
  Panels,    // as models have them: Layout::Lookup1, stretches of k of a panel of tiles one after the other
  Mirrored,  // the same, but a nibble's upper bit says minus, and the others name an entry of a table's upper half
  Pairs,     // panels in which a byte has the same four of two rows: (bits, 8 fours, 32 pairs of rows)
  Tiles,     // each tile in one piece, with all of k
  Rows,      // bit planes, row by row: (bits, n, k / 8), the first value lowest; then the scales, (n, k / group)
};

size_t orderedBytes(Order order, const Matrix& m);

/// The stretches in which a tile is read, and one of them. That of rows is all of k, from the tile's first row on.
uint32_t stretchesOf(Order order, const Matrix& m);
Stretch stretchOf(Order order, const Matrix& m, uint32_t tile, uint32_t index);

/// Writes tile `tile` of m.data, where zeros are: codes (64, k) and scales (64, k / group) of f16.
void putTile(Order order, const Matrix& m, uint32_t tile, const uint8_t* codes, const uint16_t* scales);

struct Ablation {
  const char* name;
  Order order;
  uint32_t average;   // of Matrix
  size_t tableBytes;  // of 32 activations
  /// As in Kernels; k is a multiple of 32.
  void (*tabulate)(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums);
  IntegerKernel tile;  // of one token; x.tables are its own; what it gives past the last row means nothing
};

/// The kernel that models run, "full", then what there is for this instruction set beside it; nothing where it has no
/// lookups with one table in a register.
std::vector<Ablation> ablationsOf(const Kernels& kernels);

/// out(tiles, 64): tiles [first, first + tiles) by one vector, in the order of product.h.
void multiplyBy(const Ablation& ablation, const Matrix& m, uint32_t first, uint32_t tiles, const Activations& x,
                float* out);

/// A matrix of that shape for lookups, its zero point in the middle; no data.
Matrix ablationMatrix(uint32_t bits, uint32_t group, uint32_t n, uint32_t k);

struct AblationCase {
  uint32_t bits, group, n, k;
  uint32_t ahead;  // of Matrix
  uint32_t rounds;
  size_t poolBytes;  // copies of the matrix fill so much, in equal parts for each order that is needed
};

struct AblationTimes {
  const char* name;
  std::vector<double> kernelUs;  // one product with one vector, tables made in it
  std::vector<double> readUs;    // a plain read of the same bytes just before
  size_t bytes;                  // of the matrix in its order
  double nmse;                   // of the product against float64 with the same codes, scales and activations
};

/// Rounds of all ablations in turn, forwards and backwards, each a rotation through the copies. Codes are uniform,
/// activations normal, the same in every call. Throws std::bad_alloc.
std::vector<AblationTimes> ablate(Pool& pool, const Kernels& kernels, const AblationCase& what);

#if defined(__x86_64__)
extern const Ablation avx2Ablations[4];
#endif

}  // namespace lutra
