// The arrays of an ActivationRoom one after another, and the last chunk of a row that is no multiple of it.
#include "activations.h"

#include <bit>
#include <cstring>

#include "kernels.h"

namespace lutra {

namespace {

size_t aligned(size_t bytes) { return (bytes + 63) & ~size_t(63); }

}  // namespace

void fromHalves(const uint16_t* halves, uint32_t count, float* out) {
  // Without a branch, so that the compiler vectorises it: an f16's bits with the exponent of an f32 are 2^-112 times
  // its value, subnormals included, and only the exponent of what is no number has to be put in.
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t half = halves[i], magnitude = half & 0x7fff;
    float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    const uint32_t special = magnitude >= 0x7c00 ? 0x7f800000 : 0;
    out[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | (half & 0x8000) << 16);
  }
}

size_t ActivationRoom::bytesFor(size_t values, Forms forms) {
  const size_t groups = aligned(values / kActGroup * sizeof(float));
  return (forms.codes ? aligned(values) + 2 * groups : 0) +
         (forms.tables ? aligned(4 * values) + aligned(values / kChunk * sizeof(float)) + groups : 0) +
         (forms.fives ? values / kTernaryChunk * kFiveBytes + 2 * aligned(values / kTernaryChunk * sizeof(float)) : 0);
}

ActivationRoom::ActivationRoom(uint8_t* base, size_t values, Forms forms) {
  const auto take = [&](bool wanted, size_t bytes) {
    uint8_t* at = base;
    if (wanted) base += aligned(bytes);
    return at;
  };
  const size_t groups = values / kActGroup * sizeof(float);
  codes_ = reinterpret_cast<int8_t*>(take(forms.codes, values));
  scales_ = reinterpret_cast<float*>(take(forms.codes, groups));
  sums_ = reinterpret_cast<float*>(take(forms.codes, groups));
  tables_ = reinterpret_cast<int8_t*>(take(forms.tables, 4 * values));
  tableScales_ = reinterpret_cast<float*>(take(forms.tables, values / kChunk * sizeof(float)));
  tableSums_ = reinterpret_cast<float*>(take(forms.tables, groups));
  const size_t chunks = values / kTernaryChunk;
  fives_ = take(forms.fives, chunks * kFiveBytes);
  fiveScales_ = reinterpret_cast<float*>(take(forms.fives, chunks * sizeof(float)));
  fiveSums_ = reinterpret_cast<float*>(take(forms.fives, chunks * sizeof(float)));
}

void ActivationRoom::put(const Kernels& kernels, Forms forms, uint32_t row, const float* x, uint32_t k) const {
  const size_t start = size_t(row) * paddedTo(k);
  if (forms.fives) {
    const size_t chunk = start / kTernaryChunk;
    kernels.tabulateFives(x, k, fives_ + chunk * kFiveBytes, fiveScales_ + chunk, fiveSums_ + chunk);
  }
  const auto some = [&](const float* from, uint32_t first, uint32_t count) {
    const size_t at = start + first, group = at / kActGroup;
    if (forms.codes) kernels.quantize(from, count, codes_ + at, scales_ + group, sums_ + group);
    if (forms.tables) kernels.tabulate(from, count, tables_ + 4 * at, tableScales_ + at / kChunk, tableSums_ + group);
  };
  const uint32_t whole = k / kChunk * kChunk;
  some(x, 0, whole);
  if (whole == k) return;
  float last[kChunk] = {};
  std::memcpy(last, x + whole, (k - whole) * sizeof(float));
  some(last, whole, kChunk);
}

}  // namespace lutra
