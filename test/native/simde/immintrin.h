// Found instead of the compiler's own where kernels are built for a processor that lacks their instructions: SIMDe has
// a function for each (Debian: libsimde-dev). Here is what its version 0.7 lacks, and what it does otherwise than the
// instruction: it rounds a product before its sum, reads and writes lanes that are masked off, and scales by rounded
// powers. The meaning is that of Intel's Intrinsics Guide, lane by lane. Not here: anything fast.
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#define SIMDE_NO_INLINE  // a kernel of calls is compiled in seconds, one that they are pasted into in minutes
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

typedef simde__mmask16 __mmask16;
typedef simde__mmask32 __mmask32;
typedef simde__mmask64 __mmask64;

// Macros of later versions, and those of this one that are replaced.
#undef _mm256_fmadd_ps
#undef _mm256_fnmadd_ps
#undef _mm256_mask_storeu_epi8
#undef _mm512_cvtepi16_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_epi32
#undef _mm512_extractf32x8_ps
#undef _mm512_fmadd_ps
#undef _mm512_fnmadd_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_loadu_ps
#undef _mm512_maskz_scalef_ps
#undef _mm512_reduce_add_ps
#undef _mm512_reduce_max_ps
#undef _mm512_reduce_or_epi32

namespace emulated {

template <class Lane, class Vector>
using Lanes = std::array<Lane, sizeof(Vector) / sizeof(Lane)>;

template <class Lane, class Vector>
Lanes<Lane, Vector> lanesOf(const Vector& a) {
  return std::bit_cast<Lanes<Lane, Vector>>(a);
}

/// Lane i is of(i).
template <class Vector, class Lane, class Of>
Vector lanes(Of of) {
  Lanes<Lane, Vector> all;
  for (size_t i = 0; i < all.size(); i++) all[i] = of(i);
  return std::bit_cast<Vector>(all);
}

/// Lanes of one type as those of another, by C++'s conversion.
template <class Vector, class To, class From, class Source>
Vector converted(const Source& a) {
  const auto from = lanesOf<From>(a);
  return lanes<Vector, To>([&](size_t i) { return To(from[i]); });
}

/// +-a * b + c, rounded once.
template <class Vector>
Vector fused(float sign, const Vector& a, const Vector& b, const Vector& c) {
  const auto x = lanesOf<float>(a), y = lanesOf<float>(b), z = lanesOf<float>(c);
  return lanes<Vector, float>([&](size_t i) { return std::fma(sign * x[i], y[i], z[i]); });
}

/// The upper half of the lanes into the lower one, until one is left.
template <class Lane, class Vector, class Join>
Lane reduced(const Vector& a, Join join) {
  auto all = lanesOf<Lane>(a);
  for (size_t half = all.size() / 2; half; half /= 2)
    for (size_t i = 0; i < half; i++) all[i] = join(all[i], all[half + i]);
  return all[0];
}

/// Memory of lanes that are masked off is not read; they are 0.
template <class Vector, class Lane>
Vector loaded(uint64_t mask, const void* from) {
  return lanes<Vector, Lane>([&](size_t i) {
    Lane lane{};
    if (mask >> i & 1) std::memcpy(&lane, static_cast<const Lane*>(from) + i, sizeof lane);
    return lane;
  });
}

/// Memory of lanes that are masked off is not written.
template <class Lane, class Vector>
void stored(void* to, uint64_t mask, const Vector& a) {
  const auto all = lanesOf<Lane>(a);
  for (size_t i = 0; i < all.size(); i++)
    if (mask >> i & 1) std::memcpy(static_cast<Lane*>(to) + i, &all[i], sizeof all[i]);
}

}  // namespace emulated

#define EMULATED [[gnu::noinline]] inline

EMULATED __m256 _mm256_fmadd_ps(__m256 a, __m256 b, __m256 c) { return emulated::fused(1, a, b, c); }
EMULATED __m256 _mm256_fnmadd_ps(__m256 a, __m256 b, __m256 c) { return emulated::fused(-1, a, b, c); }
EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) { return emulated::fused(1, a, b, c); }
EMULATED __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) { return emulated::fused(-1, a, b, c); }

EMULATED __m128i _mm512_cvtepi32_epi8(__m512i a) { return emulated::converted<__m128i, int8_t, int32_t>(a); }
EMULATED __m256i _mm512_cvtepi32_epi16(__m512i a) { return emulated::converted<__m256i, int16_t, int32_t>(a); }
EMULATED __m512i _mm512_cvtepi8_epi32(__m128i a) { return emulated::converted<__m512i, int32_t, int8_t>(a); }
EMULATED __m512i _mm512_cvtepu8_epi32(__m128i a) { return emulated::converted<__m512i, int32_t, uint8_t>(a); }
EMULATED __m512i _mm512_cvtepi16_epi32(__m256i a) { return emulated::converted<__m512i, int32_t, int16_t>(a); }
EMULATED __m512i _mm512_cvtepu16_epi32(__m256i a) { return emulated::converted<__m512i, int32_t, uint16_t>(a); }
EMULATED __m512 _mm512_cvtepi32_ps(__m512i a) { return emulated::converted<__m512, float, int32_t>(a); }

/// To the nearest, halves to even; what does not fit, and a NaN, to the least integer.
EMULATED __m512i _mm512_cvtps_epi32(__m512 a) {
  const auto x = emulated::lanesOf<float>(a);
  return emulated::lanes<__m512i, int32_t>(
      [&](size_t i) { return std::fabs(x[i]) < 0x1p31f ? int32_t(std::nearbyint(x[i])) : INT32_MIN; });
}

EMULATED __m512 _mm512_cvtph_ps(__m256i a) {
  const auto eights = emulated::lanesOf<__m128i>(a);
  return std::bit_cast<__m512>(std::array<__m256, 2>{_mm256_cvtph_ps(eights[0]), _mm256_cvtph_ps(eights[1])});
}

EMULATED __m256 _mm512_extractf32x8_ps(__m512 a, int half) { return emulated::lanesOf<__m256>(a)[half & 1]; }

EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* from) {
  return emulated::loaded<__m512, float>(mask, from);
}
EMULATED void _mm512_mask_storeu_ps(void* to, __mmask16 mask, __m512 a) { emulated::stored<float>(to, mask, a); }
EMULATED void _mm256_mask_storeu_epi8(void* to, __mmask32 mask, __m256i a) { emulated::stored<int8_t>(to, mask, a); }

/// a * 2^floor(b), 0 where masked off.
EMULATED __m512 _mm512_maskz_scalef_ps(__mmask16 mask, __m512 a, __m512 b) {
  const auto x = emulated::lanesOf<float>(a), y = emulated::lanesOf<float>(b);
  return emulated::lanes<__m512, float>(
      [&](size_t i) { return mask >> i & 1 ? float(x[i] * std::exp2(double(std::floor(y[i])))) : 0.0f; });
}

EMULATED float _mm512_reduce_add_ps(__m512 a) {
  return emulated::reduced<float>(a, [](float x, float y) { return x + y; });
}
EMULATED float _mm512_reduce_max_ps(__m512 a) {
  return emulated::reduced<float>(a, [](float x, float y) { return x > y ? x : y; });
}
EMULATED int32_t _mm512_reduce_or_epi32(__m512i a) {
  return emulated::reduced<int32_t>(a, [](int32_t x, int32_t y) { return x | y; });
}
