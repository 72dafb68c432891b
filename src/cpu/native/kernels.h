// The table of kernels that each instruction set fills in. kernels_scalar.cpp is the definition; the others sum the
// same integer products of codes and differ only in the order of float operations. Results for one token never
// depend on how many tokens are computed together.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "activations.h"
#include "weights.h"

namespace lutra {

constexpr uint32_t kMaxTokens = 8;  // tokens of one kernel call

/// A stretch of one sequence's cache for one layer and key head: `length` rows of `headDim` halves each.
struct KeyValues {
  const uint16_t* keys;
  const uint16_t* values;
  uint32_t length;
  uint32_t headDim;
};

/// Where the scales of a span lie, or its offsets: what the block's groups share of them, and the groups' own; of
/// nibbles, by how many bits these are to be shifted down.
struct TermsAt {
  const uint8_t *shared, *own;
  int shift;
};

/// The numbers that a kernel walks one part of a stretch by: blocks of spans of chunks.
struct Walk {
  uint32_t blocks, spans, chunks;
  size_t header, block, term, shared, firstSpan, span;
  bool hasOffset, nibbles;

  Walk(const Matrix& m, const Stretch& stretch)
      : blocks(m.blocksOf(stretch)),
        spans(m.blockValues() / m.spanValues()),
        chunks(m.spanValues() / kChunk),
        header(m.headerBytes()),
        block(m.blockBytes()),
        term(m.termBytes()),
        shared(m.sharedBytes()),
        firstSpan(m.firstSpan()),
        span(m.spanBytes()),
        hasOffset(m.hasOffset),
        nibbles(m.scales == Scales::Nibbles) {}

  /// From one part of the stretch to the next.
  size_t partBytes() const { return blocks * block; }
  /// Of a span of the block whose header is given.
  TermsAt scales(const uint8_t* header, const uint8_t* span) const { return {header, span, 0}; }
  TermsAt offsets(const uint8_t* header, const uint8_t* span) const {
    return {header + shared, nibbles ? span : span + term, 4};
  }
};

/// Where in the codes of a span the register lies that begins with value v, in a plane of all BITS: that of the first
/// 16 rows, with the other's behind it.
template <uint32_t BITS>
size_t registerAt(uint32_t v) {
  return v / kChunk * 128 * BITS + v % kChunk / (32 / BITS) * 128;
}

/// `x` are activations from the stretch on.
using IntegerKernel = void (*)(const Matrix& m, const Stretch& stretch, const Activations& x, uint32_t tokens,
                               float* out);

struct Kernels {
  const char* isa;
  /// The layout of lookups that integerTile takes beside Dot; Dot where it takes no other.
  Layout lookup;
  /// out(t, 64): the products of a stretch of integers with `tokens` <= 8 rows.
  IntegerKernel integerTile;
  /// The same for codes into a table, by rows of m.k floats, from the stretch on.
  void (*tableTile)(const Matrix& m, const Stretch& stretch, const float* x, uint32_t tokens, float* out);
  /// out(t, 64): the products of `rows` <= 64 plain float rows with `tokens` <= 8 rows of k floats.
  void (*floatTile)(const Matrix& m, const uint8_t* rows, uint32_t count, const float* x, uint32_t tokens, float* out);
  /// One row of k values, k a multiple of 16: codes = round(x / scale), scale = max|x| / 127 of each group.
  /// A group with a NaN or an infinity gets a NaN scale, so that it shows in every product.
  void (*quantize)(const float* x, uint32_t k, int8_t* codes, float* scales, float* sums);
  /// One row of k values, k a multiple of 32, as tables of all sums of four with either sign, in int8: entry =
  /// round(sum / (2 * scale)), 2 * scale = max|sum| / 127 in each 32 values; scale is NaN as above.
  void (*tabulate)(const float* x, uint32_t k, int8_t* tables, float* scales, float* sums);
  /// One row of k values, k a multiple of 64, as tables of the sums of five with digits -1, 0 or 1, as Layout::Ternary
  /// has them: of n from 0 to 121. Values are rounded to scale / 128, scale = max sum / 127 in each 64 values, and the
  /// sums of those to scale; scale is NaN as above. Null where integerTile does not take that layout.
  void (*tabulateFives)(const float* x, uint32_t k, uint8_t* tables, float* scales, float* sums);
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
extern const Kernels avx512VbmiKernels;
#elif defined(__aarch64__)
extern const Kernels neonKernels;
#endif

}  // namespace lutra
