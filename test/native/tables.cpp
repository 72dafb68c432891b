// The tables of activations that lookups read: those of every instruction set are the scalar kernel's bit for bit, and
// its are the sums that they stand for.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"

namespace harness {

using namespace lutra;

namespace {

/// Tables equal the scalar kernel's bit for bit, whatever the activations.
void tabulators(const Kernels& kernels, Random& random) {
  const auto named = [&](const char* what) { return std::string(kernels.isa) + " " + what; };
  for (int round = 0; round < 200; round++) {
    const uint32_t k = kChunk * random.whole(1, 6);
    std::vector<float> x = random.normals(k);
    const float size = std::ldexp(1.0f, int(random.whole(0, 250)) - 135);
    for (float& value : x) value = random.whole(0, 9) ? value * size : 0.0f;
    if (random.coin()) std::fill(x.begin(), x.begin() + kChunk, 0.0f);
    if (round % 8 == 0) x[random.whole(0, k - 1)] = round % 16 ? NAN : -INFINITY;
    struct Tables {
      std::vector<int8_t> entries;
      std::vector<float> scales, sums;
    };
    const auto by = [&](const Kernels& table) {
      Tables t{std::vector<int8_t>(4 * k), std::vector<float>(k / kChunk), std::vector<float>(k / 16)};
      table.tabulate(x.data(), k, t.entries.data(), t.scales.data(), t.sums.data());
      return t;
    };
    const Tables want = by(scalarKernels), got = by(kernels);
    check(want.entries == got.entries, named("tabulate: entries"));
    for (uint32_t i = 0; i < k / kChunk; i++) checkNear(got.scales[i], want.scales[i], 0, named("tabulate: scales"));
    for (uint32_t i = 0; i < k / 16; i++) {
      double sum = 0, magnitude = 0;
      for (uint32_t j = 0; j < 16; j++) sum += x[16 * i + j], magnitude += std::fabs(x[16 * i + j]);
      // An infinity may come as such or as NaN.
      if (std::isfinite(sum)) checkNear(got.sums[i], sum, 16 * kEpsilon * magnitude, named("tabulate: sums"));
    }
  }
}

/// Tables of five equal the scalar kernel's, whose entries are right to half a unit and what rounding the values adds.
void fiveTabulators(const Kernels& kernels, Random& random) {
  const auto named = [&](const char* what) { return std::string(kernels.isa) + " " + what; };
  for (int round = 0; round < 100; round++) {
    const uint32_t chunks = random.whole(1, 4), k = kTernaryChunk * chunks;
    std::vector<float> x = random.normals(k);
    const float size = std::ldexp(1.0f, int(random.whole(0, 250)) - 135);
    for (float& value : x) value = random.whole(0, 9) ? value * size : 0.0f;
    if (random.coin()) std::fill(x.begin(), x.begin() + kTernaryChunk, 0.0f);
    if (round % 8 == 0) x[random.whole(0, k - 1)] = round % 16 ? NAN : -INFINITY;
    struct Tables {
      std::vector<uint8_t> entries;
      std::vector<float> scales, sums;
    };
    const auto by = [&](const Kernels& table) {
      Tables t{std::vector<uint8_t>(chunks * kFiveBytes), std::vector<float>(chunks), std::vector<float>(chunks)};
      table.tabulateFives(x.data(), k, t.entries.data(), t.scales.data(), t.sums.data());
      return t;
    };
    const Tables want = by(scalarKernels), got = by(kernels);
    for (uint32_t c = 0; c < chunks; c++) {
      checkNear(got.scales[c], want.scales[c], 0, named("tabulateFives: scales"));
      double sum = 0, magnitude = 0;
      for (uint32_t i = 0; i < kTernaryChunk; i++) {
        sum += x[kTernaryChunk * c + i];
        magnitude += std::fabs(x[kTernaryChunk * c + i]);
      }
      if (std::isfinite(sum))
        checkNear(got.sums[c], sum, kTernaryChunk * kEpsilon * magnitude, named("tabulateFives: sums"));
      for (uint32_t f = 0; f < kFives; f++) {
        const size_t at = size_t(c) * kFiveBytes + 128 * f;
        check(!std::memcmp(want.entries.data() + at, got.entries.data() + at, 122), named("tabulateFives: entries"));
        if (!(want.scales[c] > 0)) continue;
        for (int n = 0, left = n; n <= 121; left = ++n) {
          double exact = 0;
          for (uint32_t v = f; v < kTernaryChunk; v += kFives, left = (left + 1) / 3)
            exact += ((left + 1) % 3 - 1) * double(x[kTernaryChunk * c + v]);
          checkNear(got.entries.data()[at + uint32_t(n)] - 128, exact / want.scales[c], 0.5 + 2.5 / 128 + 0x1p-10,
                    named("tabulateFives: an entry is its sum"));
        }
      }
    }
  }
}

}  // namespace

void checkTables(const Kernels& kernels, Random& random) {
  tabulators(kernels, random);
  if (kernels.tabulateFives) fiveTabulators(kernels, random);
}

}  // namespace harness
