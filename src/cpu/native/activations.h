// Activations as integer kernels read them, and the room in which they are prepared: once for all matrices that a
// vector is multiplied with.
#pragma once
#include <cstddef>
#include <cstdint>

#include "weights.h"

namespace lutra {

struct Kernels;

/// Values of a row with the zeros that complete its last chunk.
inline uint32_t paddedTo(uint32_t k) { return (k + kChunk - 1) / kChunk * kChunk; }

/// Tables of the fives of 64 values.
constexpr uint32_t kFiveBytes = kFives * 128;

/// Activations of some tokens in the forms that integer kernels read; k is a multiple of kChunk here, with
/// zeros past the values of the model.
struct Activations {
  uint32_t k;
  const int8_t* codes;       // (t, k): x ~ scale[k / 16] * code, for dot products
  const float* scales;       // (t, k / 16)
  const float* sums;         // (t, k / 16), scale times the sum of the codes of a group
  const int8_t* tables;      // (t, k / 4, 16): entry c of four values is their sum, with a minus where c has a 0
  const float* tableScales;  // (t, k / 32): half of what one of an entry is worth
  const float* tableSums;    // (t, k / 16), of the values as they are
  // For Layout::Ternary, where k is a multiple of 64:
  const uint8_t* fives;     // (t, k / 64, 13, 128): entry n of five values is their sum by the digits of n, plus 128
  const float* fiveScales;  // (t, k / 64): what one of an entry is worth
  const float* fiveSums;    // (t, k / 64), of the values as they are

  /// Without the values before `first`, a multiple of the chunk.
  Activations after(size_t first) const {
    const size_t groups = first / kActGroup, chunks = first / kTernaryChunk;
    return {k,
            codes + first,
            scales + groups,
            sums + groups,
            tables + 4 * first,
            tableScales + first / kChunk,
            tableSums + groups,
            fives + chunks * kFiveBytes,
            fiveScales + chunks,
            fiveSums + chunks};
  }

  Activations from(uint32_t token) const { return after(size_t(token) * k); }
};

/// Which forms the matrices at hand read.
struct Forms {
  bool codes = false, tables = false, fives = false;

  void add(const Matrix& m) {
    if (m.family != Family::Integers) return;
    (m.layout == Layout::Dot ? codes : m.layout == Layout::Ternary ? fives : tables) = true;
  }
};

/// A row of f16 as f32, exactly: what kernels take is f32.
void fromHalves(const uint16_t* halves, uint32_t count, float* out);

/// Memory for the activations of some rows, all of the same length at a time.
class ActivationRoom {
 public:
  /// For so many values, those of all rows together, in these forms.
  static size_t bytesFor(size_t values, Forms forms);
  ActivationRoom() = default;
  /// Over memory of that size, 64-byte aligned.
  ActivationRoom(uint8_t* base, size_t values, Forms forms);

  /// Prepares row `row`, of k values.
  void put(const Kernels& kernels, Forms forms, uint32_t row, const float* x, uint32_t k) const;

  /// All rows, of k values each.
  Activations rows(uint32_t k) const {
    return {paddedTo(k), codes_, scales_, sums_, tables_, tableScales_, tableSums_, fives_, fiveScales_, fiveSums_};
  }

 private:
  int8_t* codes_;
  float *scales_, *sums_;
  int8_t* tables_;
  float *tableScales_, *tableSums_;
  uint8_t* fives_;
  float *fiveScales_, *fiveSums_;
};

}  // namespace lutra
