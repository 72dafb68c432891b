// From a file's bytes to the layouts of weights.h: executes the compiler's descriptor, knows no format.
#include "weights.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <unistd.h>

namespace lutra {

float halfToFloat(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | mantissa << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {  // zero or subnormal: mantissa * 2^-24 is exact in f32
    const float value = std::ldexp(float(mantissa), -24);
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

uint16_t floatToHalf(float x) {  // round to nearest even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // rounds past 65504
  if (magnitude < 0x38800000) {                       // subnormal half: units of 2^-24
    float value;
    std::memcpy(&value, &magnitude, 4);
    return sign | uint16_t(std::nearbyint(std::ldexp(value, 24)));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return sign | uint16_t((rounded - 0x38000000) >> 13);
}

float loadFloat(FloatFormat format, const uint8_t* p) {
  if (format == FloatFormat::F32) {
    float value;
    std::memcpy(&value, p, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, p, 2);
  if (format == FloatFormat::F16) return halfToFloat(half);
  const uint32_t bits = uint32_t(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

namespace {

/// Codes of one block of bytes into out[0, count). Runs ascend by shift, and those of shift 0 fill every code.
template <class T>
void gatherCodes(const Codes& codes, const uint8_t* block, uint32_t count, T* out) {
  for (const Run& r : codes.runs) {
    const uint32_t mask = (1u << r.width) - 1;
    T* to = out + r.first;
    uint32_t j = 0, bit = r.bit;
    if (sizeof(T) == 1 &&
        r.step == 8) {  // a byte for each code: eight at a time, whose shifted bits the mask keeps apart
      const uint8_t* from = block + r.bit / 8;
      const uint64_t lanes = 0x0101010101010101ull * mask;
      const uint32_t down = r.bit % 8;
      for (; j + 8 <= r.count; j += 8) {
        uint64_t bits, have = 0;
        std::memcpy(&bits, from + j, 8);
        if (r.shift) std::memcpy(&have, to + j, 8);
        have |= (bits >> down & lanes) << r.shift;
        std::memcpy(to + j, &have, 8);
      }
      bit += 8 * j;
    }
    for (; j < r.count; j++, bit += r.step)
      to[j] = T((r.shift ? to[j] : 0) | T(block[bit / 8] >> bit % 8 & mask) << r.shift);
  }
  if (codes.flip)
    for (uint32_t j = 0; j < count; j++) out[j] ^= T(codes.flip);
}

/// Bytes of one row's scales of a block of `groups` groups.
uint32_t rowTermBytes(Scales scales, uint32_t groups) {
  return scales == Scales::TwoLevel ? 2 + groups : groups * (scales == Scales::Half ? 2 : 4);
}

void readExactly(const Source& source, uint64_t begin, size_t length, uint8_t* out) {
  size_t done = 0;
  while (done < length) {
    const ssize_t got = pread(source.fd, out + done, length - done, off_t(source.byteOffset + begin + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw std::runtime_error("tensor " + source.name + ": cannot read: " + std::strerror(errno));
    if (got == 0)
      throw std::runtime_error("tensor " + source.name + ": the file ends at byte " +
                               std::to_string(source.byteOffset + begin + done) +
                               ", before the tensor does: it has shrunk since it was opened");
    done += size_t(got);
  }
}

/// A row taken apart: k codes, and for each block of the file its scales and offsets (rowTermBytes each).
struct Unpacked {
  std::vector<uint8_t> codes, scales, offsets;

  void unpack(const Tiling& type, const uint8_t* row, uint32_t k) {
    const bool constant = type.numbers.empty();
    const uint32_t blocks = k / type.blockSize, groups = constant ? k / type.group : type.blockSize / type.group;
    const uint32_t size = rowTermBytes(type.scales, groups);
    codes.resize(k);
    scales.resize(size_t(constant ? 1 : blocks) * size);
    offsets.resize(scales.size());
    for (uint32_t b = 0; b < blocks; b++, row += type.blockBytes) {
      unpackCodes(type, row, &codes[size_t(b) * type.blockSize]);
      if (constant && b > 0) continue;
      stored_.resize(type.numbers.size() * groups);
      for (size_t n = 0; n < type.numbers.size(); n++)
        gatherCodes(type.numbers[n].codes, row, groups, &stored_[n * groups]);
      putTerm(type, type.scale, groups, &scales[size_t(b) * size]);
      if (type.offset) putTerm(type, *type.offset, groups, &offsets[size_t(b) * size]);
    }
  }

 private:
  std::vector<uint32_t> stored_;  // (numbers, groups) of one block
  std::vector<uint16_t> raw_, sums_;

  void unpackCodes(const Tiling& type, const uint8_t* block, uint8_t* to) {
    const uint32_t count = type.blockSize;
    const Part& first = type.parts.front();
    if (type.parts.size() == 1 && first.digits.empty() && first.lanes == 1 && first.codes.bits <= 8) {
      gatherCodes(first.codes, block, count, to);
      if (!type.remap.empty())
        for (uint32_t i = 0; i < count; i++) to[i] = type.remap[to[i]];
      return;
    }
    raw_.resize(count);
    sums_.assign(count, 0);
    for (const Part& part : type.parts) {
      gatherCodes(part.codes, block, count, raw_.data());
      for (uint32_t i = 0; i < count; i++) {
        const uint32_t place = part.lane.empty() ? raw_[i] : raw_[i] * part.lanes + part.lane[i];
        sums_[i] = uint16_t(sums_[i] + (part.digits.empty() ? place : part.digits[place]));
      }
    }
    for (uint32_t i = 0; i < count; i++) to[i] = type.remap[sums_[i]];
  }

  double numberAt(const GroupNumber& number, uint32_t code) const {
    if (!number.table.empty()) return number.table[code];
    if (!number.format) return code;
    uint8_t bytes[4];
    std::memcpy(bytes, &code, 4);
    return loadFloat(*number.format, bytes);
  }

  void putTerm(const Tiling& type, const Term& term, uint32_t groups, uint8_t* out) const {
    for (uint32_t g = 0; g < groups; g++) {
      const auto stored = [&](size_t n) { return stored_[n * groups + g]; };
      if (type.scales == Scales::Half) {
        const uint16_t half = uint16_t(stored(size_t(term.field)));
        std::memcpy(out + 2 * g, &half, 2);
      } else if (type.scales == Scales::TwoLevel) {
        const uint16_t half = uint16_t(stored(size_t(term.field)));
        std::memcpy(out, &half, 2);
        const int32_t code = term.code < 0 ? 0 : int32_t(stored(size_t(term.code)));
        out[2 + g] = uint8_t(term.multiplier * code + term.addend);
      } else {
        double sum = 0;
        for (const Product& product : term.products) {
          double one = product.constant;
          for (const uint32_t n : product.factors) one *= numberAt(type.numbers[n], stored(n));
          sum += one;
        }
        const float value = float(sum);
        std::memcpy(out + 4 * g, &value, 4);
      }
    }
  }
};

/// Puts the scales of one row of a part, for block b, into their places. `from` holds one row's terms as Unpacked has
/// them; a file's group of 48 values, say, comes as three of 16 here.
void placeTerms(const Matrix& m, uint32_t fileGroup, const std::vector<uint8_t>& from, uint32_t b, uint32_t row,
                uint8_t* term) {
  const uint32_t rows = m.partRows();
  if (m.scales == Scales::TwoLevel) {
    const uint8_t* block = &from[size_t(b) * rowTermBytes(m.scales, m.blockGroups)];
    std::memcpy(term + row * 2, block, 2);
    for (uint32_t g = 0; g < m.blockGroups; g++) term[rows * (2 + g) + row] = block[2 + g];
    return;
  }
  const uint32_t size = rowTermBytes(m.scales, 1);
  for (uint32_t g = 0; g < m.blockGroups; g++) {
    const uint32_t at = (b * m.blockGroups + g) * m.group;
    if (at < m.k) std::memcpy(term + (g * rows + row) * size, &from[size_t(at / fileGroup) * size], size);
  }
}

}  // namespace

Matrix planMatrix(const Source& source) {
  Matrix m{};
  m.name = source.name;
  m.n = source.n;
  m.k = source.k;
  m.format = source.format;
  m.factor = 1;
  if (source.tiling) {
    const Tiling& t = *source.tiling;
    m.family = t.integers ? Family::Integers : Family::Tables;
    m.bits = t.bits;
    m.layout = source.layout;
    m.ahead = source.ahead;
    m.group = t.group % kChunk == 0 ? t.group : kActGroup;
    m.factor = t.factor;
    m.zero = t.zero;
    m.stepped = !t.steps.empty();
    std::copy(t.steps.begin(), t.steps.end(), m.steps);
    m.hasOffset = t.offset.has_value();
    m.scales = t.scales;
    m.blockGroups = m.scales == Scales::TwoLevel ? t.blockSize / t.group : m.group % kChunk == 0 ? 1 : 2;
    if (!t.integers) setTable(m, t.table);
  }
  m.stride = m.tileBytes();
  return m;
}

void setTable(Matrix& m, const std::vector<float>& levels) {
  m.table.resize(256);
  m.planes.resize(4 * 256);
  m.bfloats = true;
  for (uint32_t i = 0; i < 256; i++) {
    const uint32_t code = i & ((1u << m.bits) - 1);
    const float level = code < levels.size() ? levels[code] : 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &level, 4);
    m.table[i] = level;
    m.bfloats = m.bfloats && (bits & 0xffff) == 0;
    for (uint32_t p = 0; p < 4; p++) m.planes[256 * p + i] = uint8_t(bits >> 8 * p);
  }
}

void loadTile(const Source& source, const Matrix& m, uint32_t tile, uint8_t* out, std::vector<uint8_t>& scratch) {
  const size_t rowBytes = source.rowBytes();
  const uint32_t first = tile * kTileRows, rows = std::min(kTileRows, m.n - first);
  if (!m.packed()) return readExactly(source, first * rowBytes, rows * rowBytes, out);

  scratch.resize(rows * rowBytes);
  readExactly(source, first * rowBytes, scratch.size(), scratch.data());
  Unpacked u;
  for (uint32_t r = 0; r < rows; r++) {  // rows past n stay as they are: code 0, scale 0
    u.unpack(*source.tiling, scratch.data() + r * rowBytes, m.k);
    u.codes.resize(size_t(m.blocks()) * m.blockValues());  // past k: code 0, as the activations there
    const uint32_t row = r % m.partRows();
    const uint8_t* codes = u.codes.data();
    uint8_t* block = out + r / m.partRows() * m.partBytes();
    for (uint32_t b = 0; b < m.blocks(); b++, block += m.blockBytes()) {
      placeTerms(m, source.tiling->group, u.scales, b, row, block);
      if (m.hasOffset) placeTerms(m, source.tiling->group, u.offsets, b, row, block + m.termBytes());
      uint8_t* chunk = block + m.headerBytes();
      for (uint32_t i = 0; i < m.blockValues(); i += kChunk, codes += kChunk, chunk += m.chunkBytes())
        placeChunk(m, codes, row, chunk);
    }
  }
}

void loadVector(const Source& source, float* out, std::vector<uint8_t>& scratch) {
  scratch.resize(source.rowBytes());
  readExactly(source, 0, scratch.size(), scratch.data());
  for (uint32_t i = 0; i < source.k; i++) out[i] = loadFloat(source.format, &scratch[i * floatBytes(source.format)]);
}

void gatherRow(const Matrix& m, uint32_t row, float* out) {
  if (!m.packed()) {
    const size_t size = floatBytes(m.format);
    const uint8_t* p = m.tile(row / kTileRows) + size_t(row % kTileRows) * m.k * size;
    for (uint32_t i = 0; i < m.k; i++) out[i] = loadFloat(m.format, p + i * size);
    return;
  }
  const uint32_t lane = row % kTileRows % m.partRows();
  const uint8_t* block = m.tile(row / kTileRows) + row % kTileRows / m.partRows() * m.partBytes();
  uint8_t codes[kChunk];
  for (uint32_t k0 = 0; k0 < m.k; block += m.blockBytes())
    for (uint32_t i = 0; i < m.blockValues() && k0 < m.k; i++, k0++) {
      if (i % kChunk == 0) takeChunk(m, block + m.headerBytes() + i / kChunk * m.chunkBytes(), lane, codes);
      const float scale = m.scaleOf(block, i / m.group, lane);
      const float offset = m.hasOffset ? m.scaleOf(block + m.termBytes(), i / m.group, lane) : 0.0f;
      out[k0] = m.factor * (scale * m.levelOf(codes[i % kChunk]) + offset);
    }
}

}  // namespace lutra
