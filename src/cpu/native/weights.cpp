// From a file's bytes to the layouts of weights.h: executes the compiler's descriptor, knows no format.
#include "weights.h"

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
void gatherCodes(const Codes& codes, const uint8_t* block, uint32_t count, uint8_t* out) {
  for (const Run& r : codes.runs) {
    const uint32_t mask = (1u << r.width) - 1;
    uint8_t* to = out + r.first;
    uint32_t j = 0, bit = r.bit;
    if (r.step == 8) {  // one byte for each code: eight at a time, whose shifted bits the mask keeps apart
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
      to[j] = uint8_t((r.shift ? to[j] : 0) | (block[bit / 8] >> bit % 8 & mask) << r.shift);
  }
  if (codes.flip)
    for (uint32_t j = 0; j < count; j++) out[j] ^= uint8_t(codes.flip);
}

/// Bytes of one row's scales of a block of `groups` groups.
uint32_t rowTermBytes(Scales scales, uint32_t groups) {
  return scales == Scales::TwoLevel ? 2 + groups : groups * (scales == Scales::Half ? 2 : 4);
}

/// The terms of one row's block: f16 or f32 a group, or f16 and then an int8 a group. `codes` is room for one a group.
void groupTerms(const GroupTerm& term, Scales scales, const uint8_t* block, uint32_t groups, uint8_t* codes,
                uint8_t* out) {
  if (scales == Scales::Half) {
    for (uint32_t g = 0; g < groups; g++) std::memcpy(out + 2 * g, block + term.fields[0].byte, 2);
    return;
  }
  if (term.codes) gatherCodes(*term.codes, block, groups, codes);
  if (scales == Scales::TwoLevel) {
    std::memcpy(out, block + term.fields[0].byte, 2);
    if (term.constant < 0) out[1] ^= 0x80;  // the sign of an f16
    for (uint32_t g = 0; g < groups; g++) out[2 + g] = uint8_t(codes[g] - term.bias);
    return;
  }
  double common = term.constant;
  for (const FloatField& f : term.fields) common *= loadFloat(f.format, block + f.byte);
  for (uint32_t g = 0; g < groups; g++) {
    const double code = !term.codes ? 1 : (term.map.empty() ? double(codes[g]) : term.map[codes[g]]) - term.bias;
    const float value = float(common * code);
    std::memcpy(out + 4 * g, &value, 4);
  }
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
  std::vector<uint8_t> codes, groupCodes, scales, offsets;

  void unpack(const Affine& type, Scales form, const uint8_t* row, uint32_t k) {
    const uint32_t groups = type.blockSize / type.groupSize, blocks = k / type.blockSize;
    const uint32_t size = rowTermBytes(form, groups);
    codes.resize(k);
    groupCodes.resize(groups);
    scales.resize(size_t(blocks) * size);
    offsets.resize(scales.size());
    for (uint32_t b = 0; b < blocks; b++, row += type.blockBytes) {
      uint8_t* to = &codes[size_t(b) * type.blockSize];
      gatherCodes(type.codes, row, type.blockSize, to);
      if (!type.remap.empty())
        for (uint32_t i = 0; i < type.blockSize; i++) to[i] = type.remap[to[i]];
      groupTerms(type.scale, form, row, groups, groupCodes.data(), &scales[size_t(b) * size]);
      if (type.offset) groupTerms(*type.offset, form, row, groups, groupCodes.data(), &offsets[size_t(b) * size]);
    }
  }
};

/// Puts one row's scales of a block in memory (from: rowTermBytes) into their places.
void placeTerms(const Matrix& m, const uint8_t* from, uint32_t row, uint8_t* term) {
  if (m.scales == Scales::Float) {
    std::memcpy(term + row * 4, from, 4);
    return;
  }
  std::memcpy(term + row * 2, from, 2);
  if (m.scales == Scales::TwoLevel)
    for (uint32_t g = 0; g < m.blockGroups; g++) term[kTileRows * (2 + g) + row] = from[2 + g];
}

/// Writes the codes of one row into its places of a group: from is (group) codes.
template <uint32_t BITS>
void placeCodes(const uint8_t* from, uint32_t group, uint32_t row, uint8_t* out) {
  constexpr uint32_t span = 32 / BITS;  // values of k in one register
  for (uint32_t k = 0; k < group; k += span, out += kTileRows * 4) {
    uint32_t word = 0;
    for (uint32_t c = 0; c < span / 4; c++) {
      uint32_t four;
      std::memcpy(&four, from + k + 4 * c, 4);
      word |= four << (c * BITS);
    }
    std::memcpy(out + row * 4, &word, 4);
  }
}

}  // namespace

Matrix planMatrix(const Source& source) {
  Matrix m{};
  m.name = source.name;
  m.n = source.n;
  m.k = source.k;
  m.packed = source.affine.has_value();
  m.format = source.format;
  if (source.affine) {
    const Affine& a = *source.affine;
    m.bits = a.bits;
    m.group = a.groupSize;
    m.zero = a.zero;
    m.hasOffset = a.offset.has_value();
    const auto both = [&](auto holds) { return holds(a.scale) && (!a.offset || holds(*a.offset)); };
    m.scales = both([](const GroupTerm& t) { return t.isHalf(); })       ? Scales::Half
               : both([](const GroupTerm& t) { return t.isTwoLevel(); }) ? Scales::TwoLevel
                                                                         : Scales::Float;
    m.blockGroups = m.scales == Scales::TwoLevel ? a.blockSize / a.groupSize : 1;
  }
  m.stride = m.tileBytes();
  return m;
}

void loadTile(const Source& source, const Matrix& m, uint32_t tile, uint8_t* out, std::vector<uint8_t>& scratch) {
  const size_t rowBytes = source.rowBytes();
  const uint32_t first = tile * kTileRows, rows = std::min(kTileRows, m.n - first);
  if (!m.packed) return readExactly(source, first * rowBytes, rows * rowBytes, out);

  scratch.resize(rows * rowBytes);
  readExactly(source, first * rowBytes, scratch.size(), scratch.data());
  const auto place = m.bits == 2 ? placeCodes<2> : m.bits == 4 ? placeCodes<4> : placeCodes<8>;
  Unpacked u;
  const uint32_t size = rowTermBytes(m.scales, m.blockGroups);
  for (uint32_t r = 0; r < rows; r++) {  // rows past n stay as they are: code 0, scale 0
    u.unpack(*source.affine, m.scales, scratch.data() + r * rowBytes, m.k);
    const uint8_t* codes = u.codes.data();
    uint8_t* block = out;
    for (uint32_t b = 0; b < m.k / (m.group * m.blockGroups); b++, block += m.blockBytes()) {
      placeTerms(m, &u.scales[size_t(b) * size], r, block);
      if (m.hasOffset) placeTerms(m, &u.offsets[size_t(b) * size], r, block + m.termBytes());
      for (uint32_t g = 0; g < m.blockGroups; g++, codes += m.group)
        place(codes, m.group, r, block + m.headerBytes() + g * m.codeBytes());
    }
  }
}

void loadVector(const Source& source, float* out, std::vector<uint8_t>& scratch) {
  scratch.resize(source.rowBytes());
  readExactly(source, 0, scratch.size(), scratch.data());
  if (!source.affine) {
    for (uint32_t i = 0; i < source.k; i++) out[i] = loadFloat(source.format, &scratch[i * floatBytes(source.format)]);
    return;
  }
  const Affine& type = *source.affine;
  Unpacked u;
  u.unpack(type, Scales::Float, scratch.data(), source.k);
  for (uint32_t i = 0; i < source.k; i++) {
    const uint32_t g = i / type.groupSize * 4;
    const float scale = loadFloat(FloatFormat::F32, &u.scales[g]), offset = loadFloat(FloatFormat::F32, &u.offsets[g]);
    out[i] = scale * float(int32_t(u.codes[i]) - type.zero) + offset;
  }
}

void gatherRow(const Matrix& m, uint32_t row, float* out) {
  if (!m.packed) {
    const size_t size = floatBytes(m.format);
    const uint8_t* p = m.tile(row / kTileRows) + size_t(row % kTileRows) * m.k * size;
    for (uint32_t i = 0; i < m.k; i++) out[i] = loadFloat(m.format, p + i * size);
    return;
  }
  const uint32_t lane = row % kTileRows, mask = (1u << m.bits) - 1, span = 32 / m.bits;
  const uint8_t* block = m.tile(row / kTileRows);
  for (uint32_t k0 = 0; k0 < m.k; block += m.blockBytes())
    for (uint32_t g = 0; g < m.blockGroups; g++, k0 += m.group) {
      const float scale = m.scaleOf(block, g, lane);
      const float offset = m.hasOffset ? m.scaleOf(block + m.termBytes(), g, lane) : 0.0f;
      const uint8_t* codes = block + m.headerBytes() + g * m.codeBytes();
      for (uint32_t i = 0; i < m.group; i++) {
        const uint32_t inside = i % span;
        const uint8_t byte = codes[i / span * (kTileRows * 4) + lane * 4 + inside % 4];
        const int32_t code = byte >> (inside / 4 * m.bits) & mask;
        out[k0 + i] = scale * float(code - m.zero) + offset;
      }
    }
}

}  // namespace lutra
