// The table of kernels that each instruction set fills in. kernels_scalar.cpp is the definition; the others sum the
// same integer products of codes and differ only in the order of float operations. Results for one token never
// depend on how many tokens are computed together.
#pragma once
#include <cstddef>
#include <cstdint>

#include "weights.h"

namespace lutra {

constexpr uint32_t kMaxTokens = 8;  // tokens of one kernel call

/// Activations of some tokens as int8 codes: x ~ scale[k / 16] * code.
struct Activations {
  const int8_t* codes;  // (t, k)
  const float* scales;  // (t, k / 16)
  const float* sums;    // (t, k / 16), scale times the sum of the codes of a group
  uint32_t k;

  Activations from(uint32_t token) const {
    const size_t groups = size_t(token) * (k / kActGroup);
    return {codes + size_t(token) * k, scales + groups, sums + groups, k};
  }
};

/// A stretch of one sequence's cache for one layer and key head: `length` rows of `headDim` halves each.
struct KeyValues {
  const uint16_t* keys;
  const uint16_t* values;
  uint32_t length;
  uint32_t headDim;
};

struct Kernels {
  const char* isa;
  /// out(t, 32): the products of one tile of integers with `tokens` <= 8 rows.
  void (*integerTile)(const Matrix& m, const uint8_t* tile, const Activations& x, uint32_t tokens, float* out);
  /// The same for a tile of codes into a table, by rows of k floats.
  void (*tableTile)(const Matrix& m, const uint8_t* tile, const float* x, uint32_t tokens, float* out);
  /// out(t, 32): the products of `rows` <= 32 plain float rows with `tokens` <= 8 rows of k floats.
  void (*floatTile)(const Matrix& m, const uint8_t* rows, uint32_t count, const float* x, uint32_t tokens, float* out);
  /// One row of k values, k a multiple of 16: codes = round(x / scale), scale = max|x| / 127 of each group.
  /// A group with a NaN or an infinity gets a NaN scale, so that it shows in every product.
  void (*quantize)(const float* x, uint32_t k, int8_t* codes, float* scales, float* sums);
  /// out = x * weight / sqrt(mean(x^2) + eps)
  void (*rmsNorm)(const float* x, const float* weight, float eps, uint32_t n, float* out);
  /// out = gate / (1 + exp(-gate)) * up
  void (*siluMul)(const float* gate, const float* up, uint32_t n, float* out);
  /// Softmax attention of one query head, already scaled: q, out (headDim). `scores` is room for kv.length floats.
  void (*attend)(const float* q, const KeyValues& kv, float* scores, float* out);
  void (*toHalf)(const float* x, uint32_t n, uint16_t* out);
  /// Loads `lines` of 64 bytes and does nothing with them: the limit that memory sets.
  void (*readLines)(const uint8_t* data, size_t lines);
};

extern const Kernels scalarKernels;
#if defined(__x86_64__)
extern const Kernels avx2Kernels;
extern const Kernels avx512Kernels;
#endif

}  // namespace lutra
