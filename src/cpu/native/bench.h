// Timing of one kernel on weights that come from memory: the measure behind `lutra bench gemv` and `gemm`.
#pragma once
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace lutra {

struct BenchCase {
  uint32_t bits, group, n, k, tokens;
  bool offset;
  std::vector<uint8_t> steps;  // what codes stand for, where they are integers through a table
  std::vector<float> table;    // the same for floats
  Scales scales;
  uint32_t blockGroups;
  bool lookup;  // the layout for lookups, else that for dot products
  uint32_t ahead;
  uint32_t rounds;
  size_t poolBytes;  // copies of the matrix fill so much, all that the caches hold and more
};

struct BenchTimes {
  std::vector<double> kernelUs;  // one product of the matrix with all tokens, activations prepared in it
  std::vector<double> readUs;    // a plain read of the same bytes in the same rotation, before and after each round
  size_t bytes;                  // of the matrix
};

/// Rotates through copies of a random matrix, at least `poolBytes` in all, so that no copy is in any cache when its
/// turn comes. Rounds of a full rotation each, reads and kernel in turn. Throws std::bad_alloc.
BenchTimes benchProduct(Pool& pool, const Kernels& kernels, const BenchCase& what);

}  // namespace lutra
