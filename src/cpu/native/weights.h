// Weights as the native backend holds them, and the descriptor by which a file's bytes become them.
// The descriptor (Tiling) is derived by the Ladder compiler from a type's declaration; nothing here knows a format by
// name. Tiles are the layout of all kernels for codes: 64 rows, codes and scales in one stream.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lutra {

enum class FloatFormat : uint8_t { F16, BF16, F32 };

inline size_t floatBytes(FloatFormat f) { return f == FloatFormat::F32 ? 4 : 2; }

float halfToFloat(uint16_t h);
uint16_t floatToHalf(float x);
float loadFloat(FloatFormat f, const uint8_t* p);

/// Element first + j takes `width` bits at bit `bit + j * step` of the block, placed at `shift` of its code.
struct Run {
  uint32_t first, count, bit;
  int32_t step;
  uint32_t width, shift;
};

struct Codes {
  std::vector<Run> runs;
  uint32_t bits, flip;
};

/// One of the codes that choose a level: digits[code * lanes + lane[i]], or the code itself where there are no digits.
struct Part {
  Codes codes;  // one for each value of a block
  uint32_t lanes;
  std::vector<uint8_t> lane;  // of each value; empty for one lane
  std::vector<uint16_t> digits;
};

/// A stored number of each group: an unsigned integer, a float, or an entry of a table.
struct GroupNumber {
  Codes codes;
  std::optional<FloatFormat> format;
  std::vector<double> table;
};

/// constant * product of numbers.
struct Product {
  double constant;
  std::vector<uint32_t> factors;
};

/// How the scales of a block lie in memory: one f16 or one f32 a group; or, of two levels, one f16 for the block and an
/// integer a group, whose product is the scale: an int8, or, as Nibbles, one from 0 to 15 in the lower half of a byte
/// whose upper half is the offset's.
enum class Scales : uint8_t { Half, Float, TwoLevel, Nibbles };

/// Where a scale (or offset) comes from. Half: number `field`. Two levels: number `field` for the block, and multiplier
/// * number `code` + addend for a group, `code` being -1 for none; as a nibble, where none of a type's is above 0, both
/// have the other sign. Float: the sum of the products.
struct Term {
  int32_t field, code, multiplier, addend;
  std::vector<Product> products;
};

/// From blocks of a file to tiles: value = factor * (scale(g) * level(i) + offset(g)), g = i / group. The parts' digits
/// add up to an index into `remap`, which has the code in memory; where it is empty they are the code.
struct Tiling {
  uint32_t blockSize, blockBytes;
  std::vector<Part> parts;
  std::vector<uint8_t> remap;
  uint32_t bits, group;
  bool integers;
  float zero;                  // level = step(code) - zero, for integers
  std::vector<uint8_t> steps;  // step of each code; the code itself where there are none
  std::vector<float> table;    // level of each code, where they are no integers
  std::vector<GroupNumber> numbers;
  Scales scales;
  Term scale;
  std::optional<Term> offset;
  float factor;
};

/// What the codes of tiles are laid out for. A part of a tile is a sequence of blocks along k; a block is what its
/// groups share (of two levels, the f16 of the scales, then of the offsets), then spans, each a group, or two of 16
/// values. A span is its scales, its offsets where there are any, then the codes of its chunks, so that memory is read
/// on and on: with the scales of a whole block before all codes Zen 4 took twice as long for Q2_K. All layouts but the
/// last have the same size.
enum class Layout : uint8_t {
  /// Dot products, and tables. Parts of 32 rows; a chunk is pairs of registers of 16 rows, of planes: of the lowest 8
  /// or 4 bits, of the next 2, of the next 1, as the width has them. In a plane of w bits, byte j of a row holds values
  /// j, j + 4, j + 8 ... of the register's 32 / w, from the low bits up. See dotPlace for the order.
  Dot,
  /// Lookups with four tables in a register (vpermb). Parts of 64 rows; a chunk is, for each bit, four registers of 16
  /// rows; byte j of a row holds the bits of values 4j .. 4j + 3, and above them those of the values 16 further on.
  Lookup4,
  /// Lookups with one table in a register (pshufb, tbl). Parts of 64 rows; a chunk is, for each 32 rows, for each bit,
  /// four registers of one byte a row; that of register j holds the bits of values 8j .. 8j + 7.
  Lookup1,
  /// Lookups of five codes below 3 at once. Parts of 64 rows; a chunk is of 64 values: 13 registers of one byte a row.
  /// That of register j holds values j, j + 13 ... j + 52 (the 65th being none), each less 1, as digits of a number in
  /// base 3, from the lowest on: its magnitude, and in the highest bit whether it is below 0. The bytes of rows r and
  /// r + 32 lie side by side.
  Ternary,
};

/// Numbers of five ternary digits that hold 64 values.
constexpr uint32_t kFives = 13;
constexpr uint32_t kTernaryChunk = 64;

/// Where in a chunk of the dot layout the pair lies that is register `index` of the plane of `width` bits from bit
/// `low` on. Registers come in the order in which kernels need them, so that they read on and on, as the processor's
/// prefetcher wants: with the halves of a pair 512 bytes apart, Zen 4 lost a third of its speed.
constexpr uint32_t dotPlace(uint32_t bits, uint32_t width, uint32_t low, uint32_t index) {
  const uint32_t first = index * 8 / width;  // four that it begins with
  uint32_t before = 0, otherLow = 0;
  for (const uint32_t other : {8u, 4u, 2u, 1u}) {
    if (!(bits & other)) continue;
    for (uint32_t i = 0; i < other; i++) {
      const uint32_t otherFirst = i * 8 / other;
      before += otherFirst < first || (otherFirst == first && otherLow < low);
    }
    otherLow += other;
  }
  return before * 128;
}

/// One matrix or vector in a file. `tiling` is empty for plain float elements. Those that are `given` are not read
/// here: their rows are handed over when the rest is loaded.
struct Source {
  std::string name;
  int fd;
  uint64_t byteOffset;
  uint32_t n, k;  // n rows of k values
  bool given;
  FloatFormat format;
  std::optional<Tiling> tiling;
  // What may be chosen freely, by rule or by measurement: results differ by rounding alone.
  Layout layout;
  uint32_t ahead;
  uint32_t average = 0;

  size_t rowBytes() const {
    return tiling ? size_t(k) / tiling->blockSize * tiling->blockBytes : size_t(k) * floatBytes(format);
  }
};

constexpr uint32_t kTileRows = 64;
/// Values of k of a stretch, about: so few that the activations of a stretch are still in the first-level cache when
/// the next tile comes to it, whatever weights have passed through in between. With rows of 4096 values in one piece
/// Zen 4 lost two fifths of its speed at one bit a weight, a fifth at two.
constexpr uint32_t kStretchValues = 1024;
/// The same where activations are 26 bytes a value.
constexpr uint32_t kTernaryStretchValues = 256;
/// Tiles whose stretches lie together: enough to read on and on, few enough to share out.
constexpr uint32_t kPanelTiles = 8;
/// Values of k whose codes lie together: with one bit a code, four bytes a row.
constexpr uint32_t kChunk = 32;
/// Activations: one int8 scale for 16 values. With 32, as ggml has it, the divergence from exact arithmetic is 1.8
/// times as large, and the kernels are hardly faster.
constexpr uint32_t kActGroup = 16;

/// Rows are plain floats. Integers and Tables are tiles of codes: for small integers, which activations of int8 are
/// multiplied with, or into a table of floats.
enum class Family : uint8_t { Rows, Integers, Tables };

/// A part of k of one tile: its codes, and the values [first, first + count) of a row that they stand for.
struct Stretch {
  const uint8_t* codes;
  uint32_t first, count;
};

/// A weight matrix in memory. Those of rows keep the file's order, the others are tiles of 64 rows: of some tiles, a
/// panel, the first stretch of k one after the other, then the second, in the order in which a product reads them. Two
/// matrices that a product reads in turn are still each by itself: with their tiles side by side Zen 4 took twice as
/// long.
struct Matrix {
  std::string name;
  uint32_t n, k;
  Family family;
  FloatFormat format;  // of rows
  /// Lookups: of integers that are not stepped, of up to 4 bits; Ternary: of those with 2 bits whose codes are below 3,
  /// in groups of a multiple of 64.
  Layout layout;
  uint32_t bits;         // 1 to 6 or 8; in tables 2, 4 or 8
  uint32_t group;        // 16 or a multiple of 32
  uint32_t blockGroups;  // groups of a block, which is a multiple of 32 values
  Scales scales;
  bool hasOffset;
  bool stepped;       // integers: whether a code stands for one of `steps`
  bool bfloats;       // tables: whether all are bf16
  float factor;       // of every value
  float zero;         // integers: level = step - zero
  uint8_t steps[16];  // integers of up to 4 bits: the step of each code
  /// Tables: the level of every byte whose low bits are a code, and byte p of each as planes + 256 * p.
  std::vector<float> table;
  std::vector<uint8_t> planes;
  /// How many bytes ahead of its reading a kernel fetches into the cache; 0 leaves that to the processor.
  uint32_t ahead;
  /// Of Lookup1: 2, 4 or 8, where lookups of a bit are summed by trees of rounding averages over so many, which loses
  /// their lowest bits (see kernels_scalar.cpp), in groups of 16 values over 4 at most; 0 for exact sums.
  uint32_t average;
  const uint8_t* data;

  bool packed() const { return family != Family::Rows; }
  uint32_t tiles() const { return (n + kTileRows - 1) / kTileRows; }
  uint32_t partRows() const { return layout == Layout::Dot ? 32 : 64; }
  uint32_t blockValues() const { return group * blockGroups; }
  uint32_t blocks() const { return (k + blockValues() - 1) / blockValues(); }
  uint32_t chunkValues() const { return layout == Layout::Ternary ? kTernaryChunk : kChunk; }
  /// Codes of one chunk of a part.
  size_t chunkBytes() const { return partRows() * (layout == Layout::Ternary ? kFives : kChunk / 8 * bits); }
  /// Words of four bytes in which packRow has the codes of one row of a chunk.
  uint32_t chunkWords() const { return layout == Layout::Ternary ? (kFives + 3) / 4 : bits; }
  bool twoLevels() const { return scales == Scales::TwoLevel || scales == Scales::Nibbles; }
  uint32_t spanValues() const { return std::max(group, kChunk); }
  uint32_t spanGroups() const { return spanValues() / group; }
  /// Of what the groups of a block share of their scales, or of their offsets, which comes after it.
  size_t sharedBytes() const { return twoLevels() ? partRows() * 2 : 0; }
  /// Of the scales of a span, or of its offsets, which come after them: group by group, a number for each row.
  size_t termBytes() const { return partRows() * spanGroups() * (twoLevels() ? 1 : scales == Scales::Half ? 2 : 4); }
  /// Of a span, before its codes.
  size_t headerBytes() const { return termBytes() * (hasOffset && scales != Scales::Nibbles ? 2 : 1); }
  size_t spanBytes() const { return headerBytes() + spanValues() / chunkValues() * chunkBytes(); }
  /// Where the spans of a block begin.
  size_t firstSpan() const { return sharedBytes() * (hasOffset ? 2 : 1); }
  size_t blockBytes() const { return firstSpan() + blockValues() / spanValues() * spanBytes(); }
  const uint8_t* spanAt(const uint8_t* block, uint32_t index) const {
    return block + firstSpan() + index * spanBytes();
  }
  /// The chunk with value `value` of a block.
  const uint8_t* chunkAt(const uint8_t* block, uint32_t value) const {
    const uint32_t inSpan = value % spanValues();
    return spanAt(block, value / spanValues()) + headerBytes() + inSpan / chunkValues() * chunkBytes();
  }
  size_t tileBytes() const {
    return packed() ? kTileRows / partRows() * blocks() * blockBytes() : size_t(kTileRows) * k * floatBytes(format);
  }
  size_t bytes() const { return tiles() * tileBytes(); }
  uint32_t blocksOf(const Stretch& stretch) const { return (stretch.count + blockValues() - 1) / blockValues(); }
  /// The codes of part `index` of a stretch.
  const uint8_t* partOf(const Stretch& stretch, uint32_t index) const {
    return stretch.codes + index * blocksOf(stretch) * blockBytes();
  }
  /// Rows of a matrix of rows, from row 64 * index on.
  const uint8_t* rows(uint32_t index) const { return data + index * tileBytes(); }

  uint32_t stretchValues() const { return layout == Layout::Ternary ? kTernaryStretchValues : kStretchValues; }
  /// Blocks of each stretch but the last, which may have fewer.
  uint32_t stretchBlocks() const {
    const uint32_t wanted = (k + stretchValues() - 1) / stretchValues();
    return (blocks() + wanted - 1) / wanted;
  }
  uint32_t stretches() const { return (blocks() + stretchBlocks() - 1) / stretchBlocks(); }
  Stretch stretch(uint32_t tile, uint32_t index) const {
    const uint32_t before = index * stretchBlocks(), count = std::min(stretchBlocks(), blocks() - before);
    const size_t block = kTileRows / partRows() * blockBytes(), first = before * blockValues();
    const uint32_t panel = tile / kPanelTiles * kPanelTiles, size = std::min(kPanelTiles, tiles() - panel);
    const uint8_t* at = data + panel * tileBytes() + (size_t(before) * size + (tile - panel) * count) * block;
    return {at, uint32_t(first), std::min(count * blockValues(), k - uint32_t(first))};
  }
  float levelOf(uint32_t code) const {
    return family == Family::Tables ? table[code] : float(stepped ? steps[code] : code) - zero;
  }
  /// The scale and the offset, 0 where there are none, of one row of a part in group g of a block.
  struct Terms {
    float scale, offset;
  };
  Terms termsOf(const uint8_t* block, uint32_t g, uint32_t row) const;
};

/// The codes of `chunks` chunks of one row, each below 2^bits, as they lie in memory: words(chunks, chunkWords).
void packRow(const Matrix& matrix, const uint8_t* codes, uint32_t chunks, uint32_t* words);
/// Writes one chunk of a part: of row r it gets the words from words + r * stride on.
void placeChunk(const Matrix& matrix, const uint32_t* words, size_t stride, uint8_t* chunk);
/// The codes of one row's chunk, chunkValues of them; `row` counts in the part.
void takeChunk(const Matrix& matrix, const uint8_t* chunk, uint32_t row, uint8_t* codes);

/// The layout that a source gets, its tiles one after another; `data` is still null.
Matrix planMatrix(const Source& source);

/// What loading works on, kept from tile to tile: the file's bytes, then each row's codes and terms. All grow as
/// needed.
struct LoadRoom {
  std::vector<uint8_t> file, codes, scales, offsets, small;
  std::vector<uint16_t> wide, sums;
  std::vector<uint32_t> numbers, words;
};

/// Loads a matrix tile by tile; what follows from the descriptor is worked out once. Source and matrix outlive it.
class TileLoader {
 public:
  TileLoader(const Source& source, const Matrix& matrix);
  /// Reads rows [tile * 64, ...) of the source from its file and writes that tile: past n, codes and scales of 0.
  /// Throws std::runtime_error when the file no longer has the bytes.
  void load(uint32_t tile, LoadRoom& room) const;

 private:
  /// The k codes of a row into room.codes.
  void unpackCodes(const uint8_t* row, LoadRoom& room) const;

  const Source& source_;
  const Matrix& matrix_;
  std::vector<Codes> numbers_;   // of the type's numbers
  std::vector<uint8_t> direct_;  // (lane, 256): the code in memory of each code of 8 bits at most; else empty
  std::vector<uint16_t> lanes_;  // of each value of a row, where direct_ has its lane; empty for one lane
};

/// Fills in what follows from the table; the codes of `bits` bits are its indices.
void setTable(Matrix& matrix, const std::vector<float>& levels);

/// Reads a whole vector (n = 1) of plain floats as f32.
void loadVector(const Source& source, float* out, LoadRoom& room);

/// Row `row` of the matrix as f32 values.
void gatherRow(const Matrix& matrix, uint32_t row, float* out);

}  // namespace lutra
