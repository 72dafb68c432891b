// What the parts of the harness share: random draws, blocks of memory without a byte to spare, and the count of checks.
// Not here: what is checked (the other files of this folder).
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

namespace harness {

/// Counts; a failure is printed with the seed of the run, and the harness ends with 1.
void check(bool holds, const std::string& what);

/// `got` and `want` are within `bound` of each other, or both NaN.
void checkNear(double got, double want, double bound, const std::string& what);

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint32_t bits() { return uint32_t(engine_()); }
  /// Uniform in [low, high].
  uint32_t whole(uint32_t low, uint32_t high) { return low + bits() % (high - low + 1); }
  bool coin() { return bits() & 1; }
  float normal() { return normal_(engine_); }
  std::vector<float> normals(size_t count) {
    std::vector<float> out(count);
    for (float& x : out) x = normal();
    return out;
  }
  /// Of magnitude 2^-7 to 2^-3, either sign.
  uint16_t half() { return uint16_t((coin() ? 0x8000 : 0) | (8 + whole(0, 3)) << 10 | (bits() & 1023)); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

/// Bytes at a cache line, and not one more: AddressSanitizer sees a kernel that reads past them.
class Exact {
 public:
  explicit Exact(size_t bytes) : size_(bytes) {
    if (posix_memalign(reinterpret_cast<void**>(&data_), 64, bytes ? bytes : 1)) throw std::bad_alloc();
  }
  ~Exact() { std::free(data_); }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_;
  size_t size_;
};

constexpr double kEpsilon = 0x1p-24;  // half a unit in the last place of f32

void checkKernels(Random& random);
/// A part of it: the tables that lookups read.
void checkTables(const lutra::Kernels& kernels, Random& random);
void checkPool(Random& random);
void checkLoader(Random& random);
void checkExecutor(Random& random);
void checkAblation(Random& random);

}  // namespace harness
