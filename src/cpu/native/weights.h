// Weights as the native backend holds them, and the descriptor by which a file's bytes become them.
// The descriptor (Affine) is derived by the Ladder compiler from a type's declaration; nothing here knows a
// format by name. Packed is the layout of every integer kernel: 32-row tiles, codes and scales in one stream.
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

struct FloatField {
  FloatFormat format;
  uint32_t byte;
};

/// constant * product of fields * (code[g] - bias); absent factors count as 1. A code stands for map[code] where there
/// is a map (a scale in a small float format), else for itself.
struct GroupTerm {
  double constant;
  std::vector<FloatField> fields;
  std::optional<Codes> codes;
  std::vector<double> map;
  int32_t bias;

  /// The term is one f16 field as it stands, so that f16 holds it exactly.
  bool isHalf() const {
    return constant == 1.0 && fields.size() == 1 && fields[0].format == FloatFormat::F16 && !codes;
  }
  /// One f16 field, with either sign, times an integer of 8 bits a group.
  bool isTwoLevel() const {
    return (constant == 1.0 || constant == -1.0) && fields.size() == 1 && fields[0].format == FloatFormat::F16 &&
           codes && map.empty() && bias >= 0 && bias <= 128 && int32_t(1u << codes->bits) - 1 - bias <= 127;
  }
};

/// value(i) = scale(g) * (code(i) - zero) + offset(g), g = i / groupSize.
struct Affine {
  uint32_t blockSize, blockBytes, groupSize;
  int32_t zero;
  Codes codes;
  /// What each stored code becomes in memory, where the format's codes stand for integers through a table.
  std::vector<uint8_t> remap;
  uint32_t bits;  // of a code in memory
  GroupTerm scale;
  std::optional<GroupTerm> offset;
};

/// One matrix or vector in a file. `affine` is empty for plain float elements.
struct Source {
  std::string name;
  int fd;
  uint64_t byteOffset;
  uint32_t n, k;  // n rows of k values
  FloatFormat format;
  std::optional<Affine> affine;

  size_t rowBytes() const {
    return affine ? size_t(k) / affine->blockSize * affine->blockBytes : size_t(k) * floatBytes(format);
  }
};

constexpr uint32_t kTileRows = 32;
/// Activations: one int8 scale for 16 values. With 32, as ggml has it, the divergence from exact arithmetic is 1.8
/// times as large, and the kernels are hardly faster.
constexpr uint32_t kActGroup = 16;

/// How the scales of a block lie in memory: one f16 or one f32 a group; or one f16 for the block and an int8 a group,
/// whose product is the scale.
enum class Scales : uint8_t { Half, Float, TwoLevel };

/// A weight matrix in memory. Float matrices keep the file's rows. Integer ones are tiles of 32 rows; a tile is a
/// sequence of blocks along k; a block is its scales, its offsets where there are any, then the codes of its groups.
/// Scales (and offsets): 32 of f16 or f32; for two levels 32 of f16, then 32 of int8 for each group.
/// Codes: 64-byte registers of 16 rows x 4 bytes, the two halves of the tile in turn. With b bits a register spans
/// 32/b values of k: byte j of a row holds values j, j+4, j+8 ... from the low bits up.
struct Matrix {
  std::string name;
  uint32_t n, k;
  bool packed;         // integer tiles, else plain float rows
  FloatFormat format;  // of float rows
  uint32_t bits;       // 2, 4 or 8
  uint32_t group;
  uint32_t blockGroups;  // groups of a block: 1 but for two levels
  int32_t zero;
  Scales scales;
  bool hasOffset;
  const uint8_t* data;
  size_t stride;  // from one tile to the next: its bytes, or more where two matrices lie tile by tile in turn

  uint32_t tiles() const { return (n + kTileRows - 1) / kTileRows; }
  size_t codeBytes() const { return size_t(group) * bits / 8 * kTileRows; }
  /// Of the scales of a block, or of its offsets, which come after them.
  size_t termBytes() const {
    return kTileRows * (scales == Scales::Half ? 2 : scales == Scales::Float ? 4 : 2 + blockGroups);
  }
  size_t headerBytes() const { return termBytes() * (hasOffset ? 2 : 1); }
  size_t blockBytes() const { return headerBytes() + blockGroups * codeBytes(); }
  size_t tileBytes() const {
    return packed ? size_t(k) / (group * blockGroups) * blockBytes() : size_t(kTileRows) * k * floatBytes(format);
  }
  size_t bytes() const { return tiles() * tileBytes(); }
  const uint8_t* tile(uint32_t index) const { return data + index * stride; }
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

/// Reads a whole vector (n = 1) as f32.
void loadVector(const Source& source, float* out, std::vector<uint8_t>& scratch);

/// Row `row` of the matrix as f32 values.
void gatherRow(const Matrix& matrix, uint32_t row, float* out);

}  // namespace lutra
