// Timing of one kernel on weights that come from memory: the measure behind `lutra bench gemv` and `gemm`,
// and what that of ablation.h has in common with it.
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
  Layout layout;  // one that the kernels take
  uint32_t ahead;
  uint32_t rounds;
  size_t poolBytes;      // copies of the matrix fill so much, all that the caches hold and more
  uint32_t average = 0;  // of Matrix
  bool halves = false;   // whether vectors come as f16
};

struct BenchTimes {
  std::vector<double> kernelUs;  // one product of the matrix with all tokens, activations prepared in it
  std::vector<double> readUs;    // a plain read of the same bytes in the same rotation, before and after each round
  size_t bytes;                  // of the matrix
};

/// Microseconds of a clock that never goes back.
double nowUs();

/// A plain read of memory, by all threads.
void readAll(Pool& pool, const Kernels& kernels, const uint8_t* data, size_t bytes);

/// Rotates through copies of a random matrix, at least `poolBytes` in all, so that no copy is in any cache when its
/// turn comes. Rounds of a full rotation each, reads and kernel in turn. Throws std::bad_alloc.
BenchTimes benchProduct(Pool& pool, const Kernels& kernels, const BenchCase& what);

}  // namespace lutra
