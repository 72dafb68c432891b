// Where each code lies in the layouts of weights.h: the only place that knows, beside the kernels that read it.
// Codes are handled four at a time, one a byte; a chunk of a row is eight such fours.
#include <bit>
#include <cstring>

#include "weights.h"

namespace lutra {

namespace {

constexpr uint32_t kFours = kChunk / 4;

uint32_t fourAt(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, 4);
  return four;
}

void putFour(uint8_t* p, uint32_t four) { std::memcpy(p, &four, 4); }

/// The lowest bits of four bytes as a nibble, and back. No two products meet in a bit of the first; in the second the
/// four copies of the nibble lie seven bits apart, so that each byte's lowest bit comes from another of its bits.
uint8_t nibbleOf(uint32_t four) { return uint8_t((four & 0x01010101) * 0x01020408 >> 24 & 15); }
uint32_t fourOf(uint8_t nibble) { return (nibble & 15) * 0x00204081u & 0x01010101; }

/// Calls each(plane's width, lowest bit) for the planes of a code in the dot layout.
template <class Each>
void dotPlanes(uint32_t bits, Each each) {
  uint32_t low = 0;
  for (const uint32_t width : {8u, 4u, 2u, 1u})
    if (bits & width) {
      each(width, low);
      low += width;
    }
}

/// Where the four bytes of a row lie that hold four `f` of a plane in the dot layout, and from which bit on.
size_t dotByte(const Matrix& m, uint32_t row, uint32_t width, uint32_t low, uint32_t f) {
  return dotPlace(m.bits, width, low, f * width / 8) + row / 16 * 64 + row % 16 * 4;
}

/// One plane of a chunk in the dot layout. What shares its bytes is put together first: loading waits for this loop.
template <uint32_t width>
void placePlane(const Matrix& m, const uint8_t* codes, uint32_t row, uint32_t low, uint8_t* chunk) {
  constexpr uint32_t together = 8 / width, mask = 0x01010101u * ((1u << width) - 1);
  for (uint32_t f = 0; f < kFours; f += together) {
    uint32_t four = 0;
    for (uint32_t i = 0; i < together; i++) four |= (fourAt(codes + 4 * (f + i)) >> low & mask) << i * width;
    putFour(chunk + dotByte(m, row, width, low, f), four);
  }
}

/// Where the byte lies that holds the bits p of four `f` in a lookup layout; which nibble of it, goes to `high`.
size_t lookupByte(const Matrix& m, uint32_t row, uint32_t p, uint32_t f, bool& high) {
  if (m.layout == Layout::Lookup4) {
    high = f >= 4;
    return size_t(p * 4 + row / 16) * 64 + row % 16 * 4 + f % 4;
  }
  high = f % 2;
  return size_t((row / 32 * m.bits + p) * 4 + f / 2) * 32 + row % 32;
}

}  // namespace

void placeChunk(const Matrix& m, const uint8_t* codes, uint32_t row, uint8_t* chunk) {
  if (m.layout == Layout::Dot)
    return dotPlanes(m.bits, [&](uint32_t width, uint32_t low) {
      switch (width) {
        case 8:
          return placePlane<8>(m, codes, row, low, chunk);
        case 4:
          return placePlane<4>(m, codes, row, low, chunk);
        case 2:
          return placePlane<2>(m, codes, row, low, chunk);
        default:
          return placePlane<1>(m, codes, row, low, chunk);
      }
    });
  for (uint32_t f = 0; f < kFours; f++)
    for (uint32_t p = 0; p < m.bits; p++) {
      bool high;
      uint8_t& at = chunk[lookupByte(m, row, p, f, high)];
      at = uint8_t(at | nibbleOf(fourAt(codes + 4 * f) >> p) << (high ? 4 : 0));
    }
}

void takeChunk(const Matrix& m, const uint8_t* chunk, uint32_t row, uint8_t* codes) {
  uint32_t fours[kFours] = {};
  if (m.layout == Layout::Dot) {
    dotPlanes(m.bits, [&](uint32_t width, uint32_t low) {
      const uint32_t mask = 0x01010101u * ((1u << width) - 1);
      for (uint32_t f = 0; f < kFours; f++)
        fours[f] |= (fourAt(chunk + dotByte(m, row, width, low, f)) >> f * width % 8 & mask) << low;
    });
  } else {
    for (uint32_t f = 0; f < kFours; f++)
      for (uint32_t p = 0; p < m.bits; p++) {
        bool high;
        const uint8_t byte = chunk[lookupByte(m, row, p, f, high)];
        fours[f] |= fourOf(high ? byte >> 4 : byte) << p;
      }
  }
  for (uint32_t f = 0; f < kFours; f++) putFour(codes + 4 * f, fours[f]);
}

}  // namespace lutra
