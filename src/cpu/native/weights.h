// Weights as the native backend holds them, and the descriptor by which a file's bytes become them.
// The descriptor (Tiling) is derived by the Ladder compiler from a type's declaration; nothing here knows a format by
// name. Packed is the layout of all kernels for codes: 32-row tiles, codes and scales in one stream.
#pragma once
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

/// How the scales of a block lie in memory: one f16 or one f32 a group; or one f16 for the block and an int8 a group,
/// whose product is the scale.
enum class Scales : uint8_t { Half, Float, TwoLevel };

/// Where a scale (or offset) comes from. Half: number `field`. Two levels: number `field` for the block, and multiplier
/// * number `code` + addend for a group, `code` being -1 for none. Float: the sum of the products.
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

  size_t rowBytes() const {
    return tiling ? size_t(k) / tiling->blockSize * tiling->blockBytes : size_t(k) * floatBytes(format);
  }
};

constexpr uint32_t kTileRows = 32;
/// Activations: one int8 scale for 16 values. With 32, as ggml has it, the divergence from exact arithmetic is 1.8
/// times as large, and the kernels are hardly faster.
constexpr uint32_t kActGroup = 16;

/// Rows are plain floats. Integers and Tables are tiles of codes: for small integers, which activations of int8 are
/// multiplied with, or into a table of floats.
enum class Family : uint8_t { Rows, Integers, Tables };

/// A weight matrix in memory. Those of rows keep the file's order. The others are tiles of 32 rows; a tile is a
/// sequence of blocks along k; a block is its scales, its offsets where there are any, then the codes of its groups.
/// Scales (and offsets): 32 of f16 or f32; for two levels 32 of f16, then 32 of int8 for each group.
/// Codes: 64-byte registers of 16 rows x 4 bytes, the two halves of the tile in turn. With b bits a register spans
/// 32/b values of k: byte j of a row holds values j, j+4, j+8 ... from the low bits up.
struct Matrix {
  std::string name;
  uint32_t n, k;
  Family family;
  FloatFormat format;  // of rows
  uint32_t bits;       // 2, 4 or 8
  uint32_t group;
  uint32_t blockGroups;  // groups of a block: 1 but for two levels
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
  const uint8_t* data;
  size_t stride;  // from one tile to the next: its bytes, or more where two matrices lie tile by tile in turn

  bool packed() const { return family != Family::Rows; }
  uint32_t tiles() const { return (n + kTileRows - 1) / kTileRows; }
  size_t codeBytes() const { return size_t(group) * bits / 8 * kTileRows; }
  /// Of the scales of a block, or of its offsets, which come after them.
  size_t termBytes() const {
    return kTileRows * (scales == Scales::Half ? 2 : scales == Scales::Float ? 4 : 2 + blockGroups);
  }
  size_t headerBytes() const { return termBytes() * (hasOffset ? 2 : 1); }
  size_t blockBytes() const { return headerBytes() + blockGroups * codeBytes(); }
  size_t tileBytes() const {
    return packed() ? size_t(k) / (group * blockGroups) * blockBytes() : size_t(kTileRows) * k * floatBytes(format);
  }
  size_t bytes() const { return tiles() * tileBytes(); }
  const uint8_t* tile(uint32_t index) const { return data + index * stride; }
  float levelOf(uint32_t code) const {
    return family == Family::Tables ? table[code] : float(stepped ? steps[code] : code) - zero;
  }
  /// The scale of one row in group g of a block; `term` is where the block's scales (or offsets) begin.
  float scaleOf(const uint8_t* term, uint32_t g, uint32_t row) const {
    if (scales == Scales::Float) return loadFloat(FloatFormat::F32, term + row * 4);
    const float half = loadFloat(FloatFormat::F16, term + row * 2);
    return scales == Scales::Half ? half : half * float(int8_t(term[kTileRows * (2 + g) + row]));
  }
};

/// The layout that a source gets, its tiles one after another; `data` is still null.
Matrix planMatrix(const Source& source);

/// Reads rows [tile * 32, ...) of the source from its file and writes that tile. `scratch` grows as needed.
/// Throws std::runtime_error when the file no longer has the bytes.
void loadTile(const Source& source, const Matrix& matrix, uint32_t tile, uint8_t* out, std::vector<uint8_t>& scratch);

/// Fills in what follows from the table; the codes of `bits` bits are its indices.
void setTable(Matrix& matrix, const std::vector<float>& levels);

/// Reads a whole vector (n = 1) of plain floats as f32.
void loadVector(const Source& source, float* out, std::vector<uint8_t>& scratch);

/// Row `row` of the matrix as f32 values.
void gatherRow(const Matrix& matrix, uint32_t row, float* out);

}  // namespace lutra
