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

/// Of a row in a file, whose bytes have four more behind them.
struct Blocks {
  const uint8_t* row;
  uint32_t count, bytes;
};

/// A run of a byte for each code: eight at a time, whose shifted bits the mask keeps apart.
void gatherEights(const Run& r, const Blocks& blocks, uint32_t perBlock, uint8_t* out) {
  const uint64_t lanes = 0x0101010101010101ull * ((1u << r.width) - 1);
  const uint32_t down = r.bit % 8, whole = r.count / 8 * 8;
  const uint8_t* from = blocks.row + r.bit / 8;
  uint8_t* to = out + r.first;
  for (uint32_t b = 0; b < blocks.count; b++, from += blocks.bytes, to += perBlock)
    for (uint32_t j = 0; j < whole; j += 8) {
      uint64_t bits, have = 0;
      std::memcpy(&bits, from + j, 8);
      if (r.shift) std::memcpy(&have, to + j, 8);
      have |= (bits >> down & lanes) << r.shift;
      std::memcpy(to + j, &have, 8);
    }
}

/// Codes of blocks into out(blocks, perBlock). Runs ascend by shift, and those of shift 0 fill every code. Blocks are
/// an inner loop, since a run is often of a few codes.
template <class T>
void gatherCodes(const Codes& codes, const Blocks& blocks, uint32_t perBlock, T* out) {
  for (const Run& r : codes.runs) {
    uint32_t done = 0;
    if constexpr (sizeof(T) == 1)
      if (r.step == 8) {
        gatherEights(r, blocks, perBlock, out);
        done = r.count / 8 * 8;
      }
    if (done == r.count) continue;
    const uint32_t mask = uint32_t((uint64_t(1) << r.width) - 1), start = r.bit + done * uint32_t(r.step);
    const uint8_t* from = blocks.row;
    T* to = out + r.first;
    for (uint32_t b = 0; b < blocks.count; b++, from += blocks.bytes, to += perBlock)
      for (uint32_t j = done, bit = start; j < r.count; j++, bit += uint32_t(r.step)) {
        uint32_t bits;
        std::memcpy(&bits, from + bit / 8, 4);
        to[j] = T((r.shift ? to[j] : 0) | (bits >> bit % 8 & mask) << r.shift);
      }
  }
  const T flip = T(codes.flip);
  const uint32_t all = blocks.count * perBlock;
  if (flip)
    for (uint32_t j = 0; j < all; j++) out[j] ^= flip;
}

/// With runs put together that lie together, as those of the bytes of a float do.
Codes joined(const Codes& codes) {
  Codes out{{}, codes.bits, codes.flip};
  for (const Run& run : codes.runs) {
    Run* last = out.runs.empty() ? nullptr : &out.runs.back();
    if (last && run.first == last->first && run.count == last->count && run.step == last->step && run.step % 8 == 0 &&
        run.bit == last->bit + last->width && run.shift == last->shift + last->width &&
        last->bit % 8 + last->width + run.width <= 32)
      last->width += run.width;
    else
      out.runs.push_back(run);
  }
  return out;
}

/// Bytes of one row's scales of a block of `groups` groups.
uint32_t rowTermBytes(Scales scales, uint32_t groups) {
  if (scales == Scales::Half) return 2 * groups;
  return scales == Scales::Float ? 4 * groups : 2 + groups;
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

double numberAt(const GroupNumber& number, uint32_t code) {
  if (!number.table.empty()) return number.table[code];
  if (!number.format) return code;
  uint8_t bytes[4];
  std::memcpy(bytes, &code, 4);
  return loadFloat(*number.format, bytes);
}

/// One term of all blocks of a row, from the numbers (number, block, group) that are stored.
void putTerm(const Tiling& type, const Term& term, const uint32_t* numbers, uint32_t blocks, uint32_t groups,
             uint8_t* out) {
  const size_t all = size_t(blocks) * groups;
  const auto stored = [&](size_t n) { return numbers + n * all; };
  switch (type.scales) {
    case Scales::Half:
      for (size_t i = 0; i < all; i++) {
        const uint16_t half = uint16_t(stored(size_t(term.field))[i]);
        std::memcpy(out + 2 * i, &half, 2);
      }
      return;
    case Scales::TwoLevel:
    case Scales::Nibbles: {
      const bool negated = type.scales == Scales::Nibbles && (term.multiplier < 0 || term.addend < 0);
      for (uint32_t b = 0; b < blocks; b++, out += 2 + groups) {
        const uint16_t half = uint16_t(stored(size_t(term.field))[b * groups] ^ (negated ? 0x8000 : 0));
        std::memcpy(out, &half, 2);
        for (uint32_t g = 0; g < groups; g++) {
          const int32_t code = term.code < 0 ? 0 : int32_t(stored(size_t(term.code))[b * groups + g]);
          const int32_t number = term.multiplier * code + term.addend;
          out[2 + g] = uint8_t(negated ? -number : number);
        }
      }
      return;
    }
    case Scales::Float:
      for (size_t i = 0; i < all; i++) {
        double sum = 0;
        for (const Product& product : term.products) {
          double one = product.constant;
          for (const uint32_t n : product.factors) one *= numberAt(type.numbers[n], stored(n)[i]);
          sum += one;
        }
        const float value = float(sum);
        std::memcpy(out + 4 * i, &value, 4);
      }
  }
}

/// Puts the scales of a part for block b, and then its offsets, into their places. `from` holds the rows' terms as
/// putTerm has them, `stride` apart; a file's group of 48 values, say, comes as three of 16 here.
void placeTerms(const Matrix& m, uint32_t fileGroup, const uint8_t* from, size_t stride, uint32_t b, bool offsets,
                uint8_t* block) {
  const uint32_t rows = m.partRows();
  if (m.twoLevels()) {
    from += b * rowTermBytes(m.scales, m.blockGroups);
    uint8_t* shared = block + (offsets ? m.sharedBytes() : 0);
    for (uint32_t row = 0; row < rows; row++) std::memcpy(shared + row * 2, from + row * stride, 2);
    from += 2;
  }
  const uint32_t inSpan = m.spanGroups();
  const size_t before = offsets && m.scales != Scales::Nibbles ? m.termBytes() : 0,
               size = m.termBytes() / rows / inSpan;
  for (uint32_t g = 0; g < m.blockGroups; g++) {
    const uint32_t at = (b * m.blockGroups + g) * m.group;
    if (at >= m.k) break;
    uint8_t* to = const_cast<uint8_t*>(m.spanAt(block, g / inSpan)) + before + g % inSpan * rows * size;
    const uint8_t* own = from + (m.twoLevels() ? g : at / fileGroup * size);
    if (m.scales == Scales::Nibbles)
      for (uint32_t row = 0; row < rows; row++)
        to[row] = offsets ? uint8_t(to[row] | own[row * stride] << 4) : own[row * stride];
    else if (m.scales == Scales::TwoLevel)
      for (uint32_t row = 0; row < rows; row++) to[row] = own[row * stride];
    else if (m.scales == Scales::Half)
      for (uint32_t row = 0; row < rows; row++) std::memcpy(to + row * 2, own + row * stride, 2);
    else
      for (uint32_t row = 0; row < rows; row++) std::memcpy(to + row * 4, own + row * stride, 4);
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
    m.average = source.average;
    m.group = t.group % kChunk == 0 ? t.group : kActGroup;
    m.factor = t.factor;
    m.zero = t.zero;
    m.stepped = !t.steps.empty();
    std::copy(t.steps.begin(), t.steps.end(), m.steps);
    m.hasOffset = t.offset.has_value();
    m.scales = t.scales;
    m.blockGroups = m.twoLevels() ? t.blockSize / t.group : m.spanGroups();
    if (!t.integers) setTable(m, t.table);
  }
  return m;
}

Matrix::Terms Matrix::termsOf(const uint8_t* block, uint32_t g, uint32_t row) const {
  const uint8_t* scale = spanAt(block, g / spanGroups());
  const uint32_t index = g % spanGroups() * partRows() + row;
  const auto number = [&](const uint8_t* shared, const uint8_t* own, uint32_t shift) {
    if (scales == Scales::Float) return loadFloat(FloatFormat::F32, own + index * 4);
    if (scales == Scales::Half) return loadFloat(FloatFormat::F16, own + index * 2);
    const int32_t integer = scales == Scales::Nibbles ? own[index] >> shift & 15 : int8_t(own[index]);
    return loadFloat(FloatFormat::F16, shared + row * 2) * float(integer);
  };
  const uint8_t* offset = scales == Scales::Nibbles ? scale : scale + termBytes();
  return {number(block, scale, 0), hasOffset ? number(block + sharedBytes(), offset, 4) : 0.0f};
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

TileLoader::TileLoader(const Source& source, const Matrix& matrix) : source_(source), matrix_(matrix) {
  if (!source.tiling) return;
  const Tiling& type = *source.tiling;
  for (const GroupNumber& number : type.numbers)
    numbers_.push_back(number.codes.bits <= 8 ? number.codes : joined(number.codes));
  if (type.remap.empty() || type.parts.size() != 1 || type.parts.front().codes.bits > 8) return;
  const Part& part = type.parts.front();
  direct_.resize(256 * part.lanes);
  for (uint32_t lane = 0; lane < part.lanes; lane++)
    for (uint32_t code = 0; code < 1u << part.codes.bits; code++) {
      const uint32_t place = code * part.lanes + lane;
      direct_[256 * lane + code] = type.remap[part.digits.empty() ? place : part.digits[place]];
    }
  if (part.lane.empty()) return;
  for (uint32_t i = 0; i < matrix.k; i++) lanes_.push_back(uint16_t(256 * part.lane[i % type.blockSize]));
}

void TileLoader::load(uint32_t tile, LoadRoom& room) const {
  const Matrix& m = matrix_;
  const size_t rowBytes = source_.rowBytes();
  const uint32_t first = tile * kTileRows, rows = std::min(kTileRows, m.n - first);
  if (!m.packed()) return readExactly(source_, first * rowBytes, rows * rowBytes, const_cast<uint8_t*>(m.rows(tile)));

  room.file.resize(rows * rowBytes + 4);
  readExactly(source_, first * rowBytes, rows * rowBytes, room.file.data());
  const Tiling& type = *source_.tiling;
  const uint32_t chunks = m.blocks() * m.blockValues() / m.chunkValues();
  // An odd number of cache lines apart, so that what is read together does not compete for a place in the cache.
  const size_t stride = (chunks * m.chunkWords() + 15) / 16 * 16 | 16;
  const bool constant = type.numbers.empty();
  const uint32_t blocks = constant ? 1 : m.k / type.blockSize, groups = (constant ? m.k : type.blockSize) / type.group;
  const size_t terms = size_t(blocks) * rowTermBytes(type.scales, groups);
  // Past n and past k codes and scales are 0.
  room.codes.assign(size_t(chunks) * m.chunkValues(), 0);
  room.words.resize(kTileRows * stride);
  room.scales.resize(kTileRows * terms);
  room.offsets.resize(kTileRows * terms);
  const size_t each = size_t(blocks) * groups;
  room.small.resize(each);
  room.numbers.resize(numbers_.size() * each);
  if (rows < kTileRows) {
    std::fill(room.words.begin() + ptrdiff_t(rows * stride), room.words.end(), 0);
    std::fill(room.scales.begin() + ptrdiff_t(rows * terms), room.scales.end(), 0);
    std::fill(room.offsets.begin() + ptrdiff_t(rows * terms), room.offsets.end(), 0);
  }
  for (uint32_t r = 0; r < rows; r++) {
    const uint8_t* row = room.file.data() + r * rowBytes;
    unpackCodes(row, room);
    packRow(m, room.codes.data(), chunks, &room.words[r * stride]);
    for (size_t n = 0; n < numbers_.size(); n++) {
      uint32_t* to = &room.numbers[n * each];
      if (numbers_[n].bits > 8) {
        gatherCodes(numbers_[n], {row, blocks, type.blockBytes}, groups, to);
      } else {
        gatherCodes(numbers_[n], {row, blocks, type.blockBytes}, groups, room.small.data());
        std::copy(room.small.begin(), room.small.end(), to);
      }
    }
    putTerm(type, type.scale, room.numbers.data(), blocks, groups, &room.scales[r * terms]);
    if (type.offset) putTerm(type, *type.offset, room.numbers.data(), blocks, groups, &room.offsets[r * terms]);
  }
  for (uint32_t s = 0; s < m.stretches(); s++) {
    const Stretch stretch = m.stretch(tile, s);
    const uint32_t before = stretch.first / m.blockValues();
    uint8_t* out = const_cast<uint8_t*>(stretch.codes);
    for (uint32_t row = 0; row < kTileRows; row += m.partRows()) {
      const uint32_t* words = &room.words[row * stride + stretch.first / m.chunkValues() * m.chunkWords()];
      for (uint32_t b = before; b < before + m.blocksOf(stretch); b++) {
        placeTerms(m, type.group, &room.scales[row * terms], terms, b, false, out);
        if (m.hasOffset) placeTerms(m, type.group, &room.offsets[row * terms], terms, b, true, out);
        for (uint32_t i = 0; i < m.blockValues(); i += m.chunkValues()) {
          placeChunk(m, words, stride, const_cast<uint8_t*>(m.chunkAt(out, i)));
          words += m.chunkWords();
        }
        out += m.blockBytes();
      }
    }
  }
}

void TileLoader::unpackCodes(const uint8_t* row, LoadRoom& room) const {
  const Tiling& type = *source_.tiling;
  const uint32_t k = matrix_.k, perBlock = type.blockSize;
  const Blocks blocks{row, k / perBlock, type.blockBytes};
  uint8_t* to = room.codes.data();
  if (!direct_.empty() || type.remap.empty()) {
    gatherCodes(type.parts.front().codes, blocks, perBlock, to);
    const uint8_t* direct = direct_.data();
    const uint16_t* lanes = lanes_.data();
    if (!lanes_.empty())
      for (uint32_t i = 0; i < k; i++) to[i] = direct[lanes[i] + to[i]];
    else if (!direct_.empty())
      for (uint32_t i = 0; i < k; i++) to[i] = direct[to[i]];
    return;
  }
  room.wide.resize(k);
  room.sums.assign(k, 0);
  for (const Part& part : type.parts) {
    gatherCodes(part.codes, blocks, perBlock, room.wide.data());
    for (uint32_t k0 = 0; k0 < k; k0 += perBlock)
      for (uint32_t i = 0; i < perBlock; i++) {
        const uint32_t code = room.wide[k0 + i];
        const uint32_t place = part.lane.empty() ? code : code * part.lanes + part.lane[i];
        room.sums[k0 + i] = uint16_t(room.sums[k0 + i] + (part.digits.empty() ? place : part.digits[place]));
      }
  }
  for (uint32_t i = 0; i < k; i++) to[i] = type.remap[room.sums[i]];
}

void loadVector(const Source& source, float* out, LoadRoom& room) {
  room.file.resize(source.rowBytes());
  readExactly(source, 0, room.file.size(), room.file.data());
  for (uint32_t i = 0; i < source.k; i++) out[i] = loadFloat(source.format, &room.file[i * floatBytes(source.format)]);
}

void gatherRow(const Matrix& m, uint32_t row, float* out) {
  if (!m.packed()) {
    const size_t size = floatBytes(m.format);
    const uint8_t* p = m.rows(row / kTileRows) + size_t(row % kTileRows) * m.k * size;
    for (uint32_t i = 0; i < m.k; i++) out[i] = loadFloat(m.format, p + i * size);
    return;
  }
  const uint32_t lane = row % kTileRows % m.partRows();
  const uint32_t chunk = m.chunkValues();
  uint8_t codes[kTernaryChunk];
  for (uint32_t s = 0; s < m.stretches(); s++) {
    const Stretch stretch = m.stretch(row / kTileRows, s);
    const uint8_t* block = m.partOf(stretch, row % kTileRows / m.partRows());
    for (uint32_t at = 0; at < stretch.count; block += m.blockBytes())
      for (uint32_t i = 0; i < m.blockValues() && at < stretch.count; i++, at++) {
        if (i % chunk == 0) takeChunk(m, m.chunkAt(block, i), lane, codes);
        const auto [scale, offset] = m.termsOf(block, i / m.group, lane);
        out[stretch.first + at] = m.factor * (scale * m.levelOf(codes[i % chunk]) + offset);
      }
  }
}

}  // namespace lutra
