// Random descriptors through the loader: what comes out of a tile is what the bytes of the file mean, bit by bit, for
// codes in any order, reversed, planar, in two fields, through tables, and scales in each of their forms.
#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "sources.h"

namespace harness {

using namespace lutra;

TemporaryFile::TemporaryFile(const std::vector<uint8_t>& bytes) {
  char name[] = "/tmp/lutra-harness-XXXXXX";
  fd_ = mkstemp(name);
  if (fd_ < 0) throw std::runtime_error("no temporary file in /tmp");
  unlink(name);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t wrote = write(fd_, bytes.data() + done, bytes.size() - done);
    if (wrote <= 0) throw std::runtime_error("cannot write a temporary file in /tmp");
    done += size_t(wrote);
  }
}

TemporaryFile::~TemporaryFile() { close(fd_); }

void TemporaryFile::cut(size_t length) const {
  if (ftruncate(fd_, off_t(length))) throw std::runtime_error("cannot cut a temporary file");
}

namespace {

/// Puts `count` fields of `width` bits behind byte `byte`, in an order of its own; returns the byte after them.
uint32_t place(Random& random, uint32_t count, uint32_t width, uint32_t shift, uint32_t byte, Codes& codes) {
  const uint32_t perByte = 8 / width, bytes = (count + perByte - 1) / perByte;
  const uint32_t order = count % perByte ? 0 : random.whole(0, 2);
  if (order == 0)  // one after the other
    codes.runs.push_back({0, count, byte * 8, int32_t(width), width, shift});
  else if (order == 1)  // from the last to the first
    codes.runs.push_back({0, count, (byte + bytes) * 8 - width, -int32_t(width), width, shift});
  else  // the low bits of all bytes, then the next
    for (uint32_t p = 0; p < perByte; p++)
      codes.runs.push_back({p * bytes, bytes, byte * 8 + p * width, 8, width, shift});
  return byte + bytes;
}

Codes randomCodes(Random& random, uint32_t count, uint32_t& byte, uint32_t most) {
  Codes codes{};
  const uint32_t low = 1u << random.whole(0, most == 8 ? 3 : 2);
  byte = place(random, count, low, 0, byte, codes);
  codes.bits = low;
  if (low < 8 && low * 2 <= most && random.coin()) {
    const uint32_t high = low == 4 ? 1u << random.whole(0, 2) : low;
    byte = place(random, count, high, low, byte, codes);
    codes.bits += high;
  }
  codes.flip = random.coin() ? random.bits() & ((1u << codes.bits) - 1) : 0;
  return codes;
}

/// A float of each group, or one for all of them.
GroupNumber floatNumber(FloatFormat format, uint32_t groups, bool shared, uint32_t& byte) {
  const uint32_t size = uint32_t(floatBytes(format));
  GroupNumber number{{{}, size * 8, 0}, format, {}};
  for (uint32_t part = 0; part < size; part++)
    number.codes.runs.push_back({0, groups, (byte + part) * 8, shared ? 0 : int32_t(size * 8), 8, part * 8});
  byte += shared ? size : size * groups;
  return number;
}

uint32_t codeAt(const Codes& codes, const uint8_t* block, uint32_t index) {
  uint32_t code = 0;
  for (const Run& run : codes.runs) {
    if (index < run.first || index >= run.first + run.count) continue;
    for (uint32_t b = 0; b < run.width; b++) {
      const uint32_t bit = uint32_t(int32_t(run.bit) + int32_t(index - run.first) * run.step) + b;
      code |= uint32_t(block[bit / 8] >> bit % 8 & 1) << (run.shift + b);
    }
  }
  return code ^ codes.flip;
}

double numberOf(const GroupNumber& number, const uint8_t* block, uint32_t group) {
  const uint32_t code = codeAt(number.codes, block, group);
  if (!number.table.empty()) return number.table[code];
  if (!number.format) return code;
  uint8_t bytes[4];
  std::memcpy(bytes, &code, 4);
  return loadFloat(*number.format, bytes);
}

float termOf(const Tiling& type, const Term& term, const uint8_t* block, uint32_t group) {
  if (type.scales == Scales::Float) {
    double sum = 0;
    for (const Product& product : term.products) {
      double one = product.constant;
      for (const uint32_t n : product.factors) one *= numberOf(type.numbers[n], block, group);
      sum += one;
    }
    return float(sum);
  }
  const float half = float(numberOf(type.numbers[size_t(term.field)], block, group));
  if (type.scales == Scales::Half) return half;
  const int32_t code = term.code < 0 ? 0 : int32_t(codeAt(type.numbers[size_t(term.code)].codes, block, group));
  return half * float(int8_t(term.multiplier * code + term.addend));
}

Term randomTerm(Random& random, Tiling& type, uint32_t groups, uint32_t& byte) {
  Term term{-1, -1, 0, 0, {}};
  const auto add = [&](GroupNumber number) {
    type.numbers.push_back(std::move(number));
    return uint32_t(type.numbers.size() - 1);
  };
  const auto small = [&] { return GroupNumber{randomCodes(random, groups, byte, 4), std::nullopt, {}}; };
  switch (type.scales) {
    case Scales::Half:
      term.field = int32_t(add(floatNumber(FloatFormat::F16, groups, false, byte)));
      break;
    case Scales::TwoLevel:
    case Scales::Nibbles:
      term.field = int32_t(add(floatNumber(FloatFormat::F16, groups, true, byte)));
      if (random.coin()) term.code = int32_t(add(small()));
      term.multiplier = random.coin() ? 1 : -1;
      term.addend = type.scales == Scales::TwoLevel ? int32_t(random.whole(0, 64)) - 32
                    : term.code < 0                 ? int32_t(random.whole(0, 15)) * term.multiplier
                                                    : 0;
      break;
    case Scales::Float: {
      const uint32_t scale =
          add(floatNumber(random.coin() ? FloatFormat::F32 : FloatFormat::BF16, groups, false, byte));
      GroupNumber code = small();
      if (random.coin())
        for (uint32_t i = 0; i < 1u << code.codes.bits; i++) code.table.push_back(random.normal());
      term.products.push_back({0.5, {scale, add(std::move(code))}});
      if (random.coin()) term.products.push_back({-1.0, {scale}});
      break;
    }
  }
  return term;
}

}  // namespace

Source appendTiles(Random& random, uint32_t n, uint32_t k, uint32_t blockSize, std::vector<uint8_t>& file) {
  Tiling type{};
  type.blockSize = blockSize;
  type.group = 16;
  while (random.coin() && blockSize % (2 * type.group) == 0) type.group *= 2;
  type.scales = Scales(random.whole(0, 3));
  // Two levels are kept for whole chunks alone.
  const bool whole = blockSize % kChunk == 0 && (type.group == 16 || type.group % kChunk == 0);
  if (type.scales >= Scales::TwoLevel && !whole) type.scales = Scales::Float;
  type.integers = random.coin();
  type.factor = std::ldexp(1.0f, int(random.whole(0, 4)) - 2);
  uint32_t byte = random.whole(0, 3);
  Part part{randomCodes(random, blockSize, byte, 8), 1, {}, {}};
  const uint32_t stored = part.codes.bits;
  type.bits = stored == 7 ? 8 : stored;
  if (!type.integers) type.bits = stored <= 2 ? 2 : stored <= 4 ? 4 : 8;
  const uint32_t count = 1u << stored;
  if (random.coin())
    for (uint32_t code = 0; code < count; code++) type.remap.push_back(uint8_t(random.bits() % (1u << type.bits)));
  if (!type.remap.empty() && random.coin()) {  // through digits, of one or two lanes
    part.lanes = random.whole(1, 2);
    if (part.lanes == 2)
      for (uint32_t i = 0; i < blockSize; i++) part.lane.push_back(uint8_t(random.coin()));
    for (uint32_t i = 0; i < count * part.lanes; i++) part.digits.push_back(uint16_t(random.bits() % count));
  }
  const bool isTernary = type.integers && type.group % kTernaryChunk == 0 && random.coin();
  if (isTernary) {
    type.bits = 2;
    type.remap.resize(count);
    for (uint8_t& code : type.remap) code = uint8_t(random.bits() % 3);
  }
  type.parts.push_back(std::move(part));
  if (type.integers) {
    type.zero = float(random.whole(0, 1u << type.bits)) / 2;
    if (type.bits <= 4 && !isTernary && random.coin())
      for (uint32_t i = 0; i < 1u << type.bits; i++) type.steps.push_back(uint8_t(random.bits()));
  } else {
    type.table = random.normals(size_t(1) << type.bits);
  }
  const uint32_t groups = blockSize / type.group;
  type.scale = randomTerm(random, type, groups, byte);
  if (type.scales == Scales::Nibbles || random.coin()) type.offset = randomTerm(random, type, groups, byte);
  type.blockBytes = byte + random.whole(0, 3);

  Source source{"tiles", -1, file.size(), n, k, false, FloatFormat::F32, type, Layout::Dot, 0};
  if (type.integers && type.steps.empty() && type.bits <= 4) source.layout = Layout(random.whole(0, 2));
  if (isTernary) source.layout = Layout::Ternary;
  file.resize(file.size() + size_t(n) * source.rowBytes());
  for (size_t i = source.byteOffset; i < file.size(); i++) file[i] = uint8_t(random.bits());
  for (size_t block = source.byteOffset; block < file.size(); block += type.blockBytes)
    for (const GroupNumber& number : type.numbers) {
      if (!number.format) continue;
      for (uint32_t g = 0; g < groups; g++) {  // random bytes are no numbers of usual sizes
        const uint16_t half = random.half();
        const float value = halfToFloat(half);
        const size_t size = floatBytes(*number.format);
        const size_t at = block + number.codes.runs[0].bit / 8 + g * size_t(number.codes.runs[0].step) / 8;
        uint8_t bytes[4];
        std::memcpy(bytes, &value, 4);
        std::memcpy(&file[at], *number.format == FloatFormat::F16 ? static_cast<const void*>(&half) : bytes + 4 - size,
                    size);
      }
    }
  return source;
}

Source appendFloats(Random& random, FloatFormat format, uint32_t n, uint32_t k, bool positive,
                    std::vector<uint8_t>& file) {
  const size_t size = floatBytes(format);
  Source source{"floats", -1, file.size(), n, k, false, format, std::nullopt, Layout::Dot, 0};
  file.resize(file.size() + size_t(n) * k * size);
  for (size_t i = 0; i < size_t(n) * k; i++) {
    const float value = positive ? 0.5f + float(random.whole(0, 100)) / 100 : random.normal() / 4;
    uint8_t bytes[4];
    std::memcpy(bytes, &value, 4);
    const uint16_t half = floatToHalf(value);
    std::memcpy(&file[source.byteOffset + i * size],
                format == FloatFormat::F16 ? static_cast<const void*>(&half) : bytes + 4 - size, size);
  }
  return source;
}

void decodeRow(const Source& source, const std::vector<uint8_t>& file, uint32_t row, float* out) {
  const Tiling& type = *source.tiling;
  const Part& part = type.parts.front();
  for (uint32_t i = 0; i < source.k; i++) {
    const uint8_t* block = &file[source.byteOffset + row * source.rowBytes() + i / type.blockSize * type.blockBytes];
    const uint32_t at = i % type.blockSize;
    uint32_t code = codeAt(part.codes, block, at);
    if (!part.digits.empty()) code = part.digits[code * part.lanes + (part.lane.empty() ? 0 : part.lane[at])];
    if (!type.remap.empty()) code = type.remap[code];
    const float level =
        type.integers ? float(type.steps.empty() ? code : type.steps[code]) - type.zero : type.table[code];
    const float offset = type.offset ? termOf(type, *type.offset, block, at / type.group) : 0.0f;
    out[i] = type.factor * (termOf(type, type.scale, block, at / type.group) * level + offset);
  }
}

void checkLoader(Random& random) {
  LoadRoom room;  // one for all, so that what a matrix leaves there would show in the next
  for (int round = 0; round < 150; round++) {
    // Now and then rows of several stretches, and more of them than a panel has.
    const bool large = round % 25 == 0;
    const uint32_t blockSize = 16 * random.whole(1, 16), n = large ? random.whole(600, 700) : random.whole(1, 70);
    const uint32_t k = blockSize * random.whole(1, large ? 2500 / blockSize : 3);
    std::vector<uint8_t> file(random.whole(0, 9));
    Source source = appendTiles(random, n, k, blockSize, file);
    const TemporaryFile on(file);
    source.fd = on.descriptor();
    Matrix matrix = planMatrix(source);
    const Exact memory(matrix.bytes());
    std::memset(memory.data(), 0, memory.size());
    matrix.data = memory.data();
    const TileLoader loader(source, matrix);
    for (uint32_t tile = 0; tile < matrix.tiles(); tile++) loader.load(tile, room);
    std::vector<float> got(k), want(k);
    for (uint32_t row = 0; row < n; row++) {
      gatherRow(matrix, row, got.data());
      decodeRow(source, file, row, want.data());
      for (uint32_t i = 0; i < k; i++) checkNear(got[i], want[i], 0, "loader: row " + std::to_string(row));
    }
    on.cut(file.size() - 1);
    std::string said;
    try {
      loader.load(matrix.tiles() - 1, room);
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    check(said == "tensor tiles: the file ends at byte " + std::to_string(file.size() - 1) +
                      ", before the tensor does: it has shrunk since it was opened",
          "loader: a file that was cut: " + said);
  }
}

}  // namespace harness
