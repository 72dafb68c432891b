// Where each code lies in the layouts of weights.h: the only place that knows, beside the kernels that read it. A row's
// chunk is first put together as words of four bytes, as many as a code has bits, eight codes at a time; then the words
// of all rows of a part are laid out side by side, one place in memory after the other: loading waits for both.
#include <bit>
#include <array>
#include <cstring>

#include "weights.h"

namespace lutra {

namespace {

constexpr uint32_t kEights = kChunk / 8;
constexpr uint64_t kOnes = 0x0101010101010101;  // times a byte: that byte eight times

uint64_t eightAt(const uint8_t* p) {
  uint64_t eight;
  std::memcpy(&eight, p, 8);
  return eight;
}

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

/// The word of a chunk in the dot layout that holds four `f` of a plane.
constexpr uint32_t dotWord(uint32_t bits, uint32_t width, uint32_t low, uint32_t f) {
  return dotPlace(bits, width, low, f * width / 8) / 128;
}

/// One plane of the dot layout. Byte j of a word holds the plane's bits of value j of several fours, from the low bits
/// up.
template <uint32_t BITS, uint32_t WIDTH, uint32_t LOW>
void packPlane(const uint8_t* codes, uint32_t* words) {
  if constexpr (WIDTH == 8) {
    std::memcpy(words, codes, kChunk);
  } else {
    constexpr uint64_t mask = kOnes * ((1u << WIDTH) - 1);
    constexpr uint32_t together = 4 / WIDTH;  // eights that share a word
    constexpr std::array<uint32_t, WIDTH> places = [] {
      std::array<uint32_t, WIDTH> list{};
      for (uint32_t w = 0; w < WIDTH; w++) list[w] = dotWord(BITS, WIDTH, LOW, 2 * together * w);
      return list;
    }();
#pragma GCC unroll 4
    for (uint32_t w = 0; w < WIDTH; w++) {
      uint32_t word = 0;
#pragma GCC unroll 4
      for (uint32_t i = 0; i < together; i++) {
        const uint64_t eight = eightAt(codes + 8 * (w * together + i)) >> LOW & mask;
        word |= uint32_t(eight | eight >> (32 - WIDTH)) << 2 * WIDTH * i;
      }
      words[places[w]] = word;
    }
  }
}

/// Bit p of the eight codes at `codes`, the first lowest: no two products meet in a bit.
uint32_t bitsOf(const uint8_t* codes, uint32_t p) {
  return uint32_t((eightAt(codes) >> p & kOnes) * 0x0102040810204080 >> 56);
}

/// The reverse: bit i as byte i. Byte i of the product keeps bit i alone, and is made 1 where that is set.
uint64_t eightOf(uint8_t bits) { return ((bits * kOnes & 0x8040201008040201) + 0x7f7f7f7f7f7f7f7f) >> 7 & kOnes; }

/// Exchanges what `mask` has with what lies `apart` bits above it.
uint32_t exchanged(uint32_t word, uint32_t mask, uint32_t apart) {
  const uint32_t other = (word ^ word >> apart) & mask;
  return word ^ other ^ other << apart;
}

/// From nibbles in the order of values to nibble j of the lower and of the upper half side by side, and back.
uint32_t halvesTogether(uint32_t word) { return exchanged(exchanged(word, 0xff00, 8), 0x00f000f0, 4); }
uint32_t halvesApart(uint32_t word) { return exchanged(exchanged(word, 0x00f000f0, 4), 0xff00, 8); }

template <Layout LAYOUT, uint32_t BITS>
void packRowOf(const uint8_t* codes, uint32_t chunks, uint32_t* words) {
  for (uint32_t c = 0; c < chunks; c++, codes += kChunk, words += BITS) {
    if constexpr (LAYOUT == Layout::Dot) {
      if constexpr (BITS & 8) packPlane<BITS, 8, 0>(codes, words);
      if constexpr (BITS & 4) packPlane<BITS, 4, 0>(codes, words);
      if constexpr (BITS & 2) packPlane<BITS, 2, BITS & 4>(codes, words);
      if constexpr (BITS & 1) packPlane<BITS, 1, BITS & 6>(codes, words);
    } else {
      for (uint32_t p = 0; p < BITS; p++) {
        uint32_t word = 0;
        for (uint32_t e = 0; e < kEights; e++) word |= bitsOf(codes + 8 * e, p) << 8 * e;
        words[p] = LAYOUT == Layout::Lookup4 ? halvesTogether(word) : word;
      }
    }
  }
}

using PackRow = void (*)(const uint8_t* codes, uint32_t chunks, uint32_t* words);

template <Layout LAYOUT>
constexpr PackRow packRows[9] = {nullptr,
                                 packRowOf<LAYOUT, 1>,
                                 packRowOf<LAYOUT, 2>,
                                 packRowOf<LAYOUT, 3>,
                                 packRowOf<LAYOUT, 4>,
                                 packRowOf<LAYOUT, 5>,
                                 packRowOf<LAYOUT, 6>,
                                 nullptr,
                                 packRowOf<LAYOUT, 8>};

/// Where byte j of a row's word `w` lies in a chunk.
size_t byteAt(const Matrix& m, uint32_t row, uint32_t w, uint32_t j) {
  if (m.layout == Layout::Lookup1) return size_t((row / 32 * m.bits + w) * 4 + j) * 32 + row % 32;
  return size_t(w * m.partRows() + row) * 4 + j;
}

/// Where the byte of a row lies in a register of the ternary layout.
uint32_t ternaryPlace(uint32_t row) { return 2 * (row % 32) + row / 32; }

/// 13 numbers of five digits from 64 codes below 3, and three bytes that nobody reads.
void packFives(const uint8_t* codes, uint32_t chunks, uint32_t* words) {
  for (; chunks-- > 0; codes += kTernaryChunk, words += 4) {
    uint8_t digits[kTernaryChunk + 16], bytes[16];
    std::memcpy(digits, codes, kTernaryChunk);
    std::memset(digits + kTernaryChunk, 1, 16);
    for (uint32_t j = 0; j < 16; j++) {
      uint8_t number = 0;  // less the 121 of all digits 1, modulo 256
      for (uint32_t d = 5; d-- > 0;) number = uint8_t(3 * number + digits[d * kFives + j]);
      number = uint8_t(number - 121);
      const uint8_t below = uint8_t(-(number >> 7));  // all bits, where it is below 0
      bytes[j] = uint8_t(((number ^ below) - below) | (below & 0x80));
    }
    std::memcpy(words, bytes, 16);
  }
}

void takeFives(const uint8_t* chunk, uint32_t row, uint8_t* codes) {
  for (uint32_t j = 0; j < kFives; j++) {
    const uint8_t byte = chunk[j * kTileRows + ternaryPlace(row)];
    uint32_t number = uint32_t(121 + (byte & 0x80 ? -(byte & 0x7f) : byte));
    for (uint32_t v = j; v < kTernaryChunk; v += kFives, number /= 3) codes[v] = uint8_t(number % 3);
  }
}

template <uint32_t ROWS>
void placeWords(uint32_t bits, const uint32_t* words, size_t stride, uint8_t* chunk) {
  for (uint32_t w = 0; w < bits; w++, chunk += 4 * ROWS)
    for (uint32_t row = 0; row < ROWS; row++) std::memcpy(chunk + 4 * row, &words[row * stride + w], 4);
}

}  // namespace

void packRow(const Matrix& m, const uint8_t* codes, uint32_t chunks, uint32_t* words) {
  if (m.layout == Layout::Ternary) return packFives(codes, chunks, words);
  const auto& pack = m.layout == Layout::Dot       ? packRows<Layout::Dot>
                     : m.layout == Layout::Lookup4 ? packRows<Layout::Lookup4>
                                                   : packRows<Layout::Lookup1>;
  pack[m.bits](codes, chunks, words);
}

void placeChunk(const Matrix& m, const uint32_t* words, size_t stride, uint8_t* chunk) {
  if (m.layout == Layout::Dot) return placeWords<32>(m.bits, words, stride, chunk);
  if (m.layout == Layout::Lookup4) return placeWords<64>(m.bits, words, stride, chunk);
  if (m.layout == Layout::Ternary) {
    for (uint32_t j = 0; j < kFives; j++, chunk += kTileRows)
      for (uint32_t row = 0; row < kTileRows; row++)
        chunk[ternaryPlace(row)] = uint8_t(words[row * stride + j / 4] >> j % 4 * 8);
    return;
  }
  for (uint32_t first = 0; first < 64; first += 32)
    for (uint32_t p = 0; p < m.bits; p++, chunk += 4 * 32)
      for (uint32_t row = 0; row < 32; row++) {
        const uint32_t word = words[(first + row) * stride + p];
        for (uint32_t j = 0; j < 4; j++) chunk[32 * j + row] = uint8_t(word >> 8 * j);
      }
}

void takeChunk(const Matrix& m, const uint8_t* chunk, uint32_t row, uint8_t* codes) {
  if (m.layout == Layout::Ternary) return takeFives(chunk, row, codes);
  uint32_t words[8];
  for (uint32_t w = 0; w < m.bits; w++) {
    words[w] = 0;
    for (uint32_t j = 0; j < 4; j++) words[w] |= uint32_t(chunk[byteAt(m, row, w, j)]) << 8 * j;
  }
  uint64_t eights[kEights] = {};
  if (m.layout == Layout::Dot) {
    dotPlanes(m.bits, [&](uint32_t width, uint32_t low) {
      const uint32_t mask = uint32_t(kOnes) * ((1u << width) - 1);
      for (uint32_t f = 0; f < 2 * kEights; f++) {
        const uint32_t four = words[dotWord(m.bits, width, low, f)] >> f * width % 8 & mask;
        eights[f / 2] |= uint64_t(four) << low << f % 2 * 32;
      }
    });
  } else {
    for (uint32_t p = 0; p < m.bits; p++) {
      const uint32_t word = m.layout == Layout::Lookup4 ? halvesApart(words[p]) : words[p];
      for (uint32_t e = 0; e < kEights; e++) eights[e] |= eightOf(uint8_t(word >> 8 * e)) << p;
    }
  }
  std::memcpy(codes, eights, kChunk);
}

}  // namespace lutra
