// Every kernel of every instruction set against float64, on random shapes and on extremes. The bounds count roundings:
// a sum of n floats in any order is off by at most n * 2^-24 of the sum of their magnitudes.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <type_traits>

#include "check.h"
#include "isa.h"
#include "product.h"

namespace harness {

using namespace lutra;

namespace {

std::string named(const Kernels& kernels, const char* kernel) { return std::string(kernels.isa) + " " + kernel; }

/// What kernels have code of their own for.
struct Form {
  Family family;
  Layout layout;
  uint32_t bits;
  bool small;    // groups of 16 values
  bool stepped;  // of integers
  bool bfloats;  // of tables
};

std::vector<Form> integerForms(Layout layout) {
  if (layout == Layout::Ternary) return {{Family::Integers, layout, 2, false, false, false}};
  std::vector<Form> forms;
  for (const uint32_t bits : {1u, 2u, 3u, 4u, 5u, 6u, 8u})
    for (const bool small : {false, true}) {
      if (layout == Layout::Dot || bits <= 4) forms.push_back({Family::Integers, layout, bits, small, false, false});
      if (layout == Layout::Dot && bits <= 4) forms.push_back({Family::Integers, layout, bits, small, true, false});
    }
  return forms;
}

std::vector<Form> tableForms() {
  std::vector<Form> forms;
  for (const uint32_t bits : {2u, 4u, 8u})
    for (const bool small : {false, true})
      for (const bool bfloats : {false, true})
        forms.push_back({Family::Tables, Layout::Dot, bits, small, false, bfloats});
  return forms;
}

constexpr uint32_t kPasses = 4;  // tiles of each form

/// In the first pass as many as need every step in which kernels take tokens: 4, 2 and 1.
uint32_t tokensIn(uint32_t pass, Random& random) { return pass ? random.whole(1, kMaxTokens) : 7; }

/// A packed matrix of one tile, with random codes and scales of usual sizes.
Matrix randomTile(Random& random, const Form& form) {
  Matrix m{};
  m.n = kTileRows;
  m.family = form.family;
  m.layout = form.layout;
  m.bits = form.bits;
  m.group = form.small ? 16 : m.chunkValues() * random.whole(1, 4);
  m.scales = Scales(random.whole(0, 3));
  const uint32_t shared = m.twoLevels() ? random.whole(1, 4) : 1;  // blocks are of 32 values
  m.blockGroups = m.group == 16 ? 2 * shared : shared;
  m.k = m.blockValues() * random.whole(1, 4);
  if (m.group == 16 && !m.twoLevels() && random.coin()) m.k -= 16;
  m.ahead = 1024 * random.whole(0, 4);
  m.hasOffset = m.scales == Scales::Nibbles || random.coin();
  m.factor = std::ldexp(1.0f, int(random.whole(0, 8)) - 4);
  if (form.family == Family::Tables) {
    std::vector<float> levels = random.normals(size_t(1) << m.bits);
    if (form.bfloats)
      for (float& level : levels) {
        uint32_t bits;
        std::memcpy(&bits, &level, 4);
        bits &= 0xffff0000;
        std::memcpy(&level, &bits, 4);
      }
    setTable(m, levels);
  } else {
    m.zero = float(random.whole(0, 1u << m.bits)) / (random.coin() ? 1 : 2);
    m.stepped = form.stepped;
    for (uint8_t& step : m.steps) step = uint8_t(random.bits());
  }
  return m;
}

/// Byte i of a matrix, random where it is of codes; an extreme one is of the largest, or, where they have one, of
/// either sign.
uint8_t randomByte(const Matrix& m, size_t i, Random& random, bool extreme) {
  const uint32_t bits = random.bits();
  if (m.layout != Layout::Ternary) return uint8_t(extreme ? 0xff : bits);
  const size_t inSpan = (i % m.blockBytes() - m.firstSpan()) % m.spanBytes();
  const bool isLast = (inSpan - m.headerBytes()) / kTileRows % kFives == kFives - 1;
  const uint32_t most = isLast ? 40 : 121;  // the last number has four digits
  const uint32_t number = extreme ? most : (bits & 0xff) % (most + 1);
  return uint8_t(number ? number | (bits >> 8 & 0x80) : 0);
}

void fillTile(const Matrix& m, uint8_t* tile, Random& random, bool extreme) {
  for (size_t i = 0; i < m.tileBytes(); i++) tile[i] = randomByte(m, i, random, extreme);
  for (uint8_t* block = tile; block < tile + m.tileBytes(); block += m.blockBytes())
    for (uint32_t term = 0; term < (m.hasOffset ? 2 : 1); term++)
      for (uint32_t r = 0; r < m.partRows() * (m.twoLevels() ? 1 : m.blockGroups); r++) {
        uint8_t* at = block + term * (m.twoLevels() ? m.sharedBytes() : m.termBytes());
        const uint16_t half = random.half();
        const float value = halfToFloat(half);
        if (m.scales == Scales::Float) {
          std::memcpy(at + 4 * r, &value, 4);
        } else {
          std::memcpy(at + 2 * r, &half, 2);
        }
      }
}

/// The product of a row with x in float64, and the sum of the magnitudes of its terms.
struct Product64 {
  double value, size;
};

/// What sixteen values add: over their levels and over ones, and the magnitudes that went into each.
struct Sixteen {
  double products = 0, size = 0, ones = 0, onesSize = 0;
};

/// `sixteen(k, codes)`: of the codes of values k .. k + 15.
Product64 product64(const Matrix& m, const uint8_t* tile, uint32_t row,
                    const std::function<Sixteen(uint32_t, const uint8_t*)>& sixteen) {
  const uint32_t lane = row % m.partRows();
  const uint8_t* block = tile + row / m.partRows() * m.blocks() * m.blockBytes();
  Product64 total{0, 0};
  const uint32_t chunk = m.chunkValues();
  uint8_t codes[kTernaryChunk];
  for (uint32_t k0 = 0; k0 < m.k; k0 += m.blockValues(), block += m.blockBytes())
    for (uint32_t i = 0; i < m.blockValues() && k0 + i < m.k; i += 16) {
      if (i % chunk == 0) takeChunk(m, m.chunkAt(block, i), lane, codes);
      const Sixteen s = sixteen(k0 + i, codes + i % chunk);
      const auto [scale, offset] = m.termsOf(block, i / m.group, lane);
      total.value += double(scale) * s.products + double(offset) * s.ones;
      total.size += std::fabs(scale) * s.size + std::fabs(offset) * s.onesSize;
    }
  return {total.value * m.factor, total.size * m.factor};
}

/// By activations that are numbers.
Sixteen dot64(const Matrix& m, uint32_t k, const uint8_t* codes, const std::function<double(uint32_t)>& x) {
  Sixteen s;
  for (uint32_t i = 0; i < 16; i++) {
    const double at = x(k + i), level = m.levelOf(codes[i]);
    s.products += level * at;
    // Codes and the zero point are summed apart.
    s.size += (std::fabs(level) + (m.family == Family::Tables ? 0 : 2 * m.zero)) * std::fabs(at);
    s.ones += at;
    s.onesSize += std::fabs(at);
  }
  return s;
}

/// By tables of the sums of four.
Sixteen lookup64(const Matrix& m, uint32_t k, const uint8_t* codes, const Activations& x) {
  Sixteen s;
  for (uint32_t i = 0; i < 16; i += 4)
    for (uint32_t p = 0; p < m.bits; p++) {
      uint32_t entry = 0;
      for (uint32_t j = 0; j < 4; j++) entry |= (codes[i + j] >> p & 1u) << j;
      const double found = std::ldexp(double(x.tables[(k + i) * 4 + entry]), int(p)) * x.tableScales[k / kChunk];
      s.products += found;
      s.size += std::fabs(found);
    }
  s.ones = x.tableSums[k / 16];
  s.onesSize = std::fabs(s.ones);
  const double middle = double((1u << m.bits) - 1) / 2;
  s.products += (middle - m.zero) * s.ones;
  s.size += (middle + std::fabs(m.zero)) * s.onesSize;
  return s;
}

/// By tables of the sums of five, all of a chunk with its first sixteen values.
Sixteen ternary64(const Matrix& m, uint32_t k, const uint8_t* codes, const Activations& x) {
  Sixteen s;
  if (k % kTernaryChunk) return s;
  for (uint32_t f = 0; f < kFives; f++) {
    int number = 0, power = 1;
    for (uint32_t v = f; v < kTernaryChunk; v += kFives, power *= 3) number += (int(codes[v]) - 1) * power;
    const int found = x.fives[k / kTernaryChunk * kFiveBytes + 128 * f + uint32_t(std::abs(number))] - 128;
    const double worth = double(number < 0 ? -found : found) * x.fiveScales[k / kTernaryChunk];
    s.products += worth;
    s.size += std::fabs(worth);
  }
  s.ones = x.fiveSums[k / kTernaryChunk];
  s.onesSize = std::fabs(s.ones);
  s.products += (1 - m.zero) * s.ones;
  s.size += (1 + std::fabs(m.zero)) * s.onesSize;
  return s;
}

/// Roundings on the way of one term of a product of length k, in any order: sums of the terms, then a few factors.
double productBound(uint32_t k, double size) { return (k + 16) * kEpsilon * size; }

/// The activations of `tokens` rows, in a room of the harness's own.
struct Prepared {
  uint32_t tokens, k;
  Forms forms;
  Exact memory;
  ActivationRoom room;

  Prepared(const std::vector<float>& x, uint32_t tokens, uint32_t k)
      : tokens(tokens),
        k(k),
        forms{true, true, k % kTernaryChunk == 0},
        memory(ActivationRoom::bytesFor(size_t(tokens) * paddedTo(k), forms)),
        room(memory.data(), size_t(tokens) * paddedTo(k), forms) {
    for (uint32_t t = 0; t < tokens; t++) room.put(scalarKernels, forms, t, &x[size_t(t) * k], k);
  }
};

const char* nameOf(Layout layout) {
  return layout == Layout::Dot ? "dot" : layout == Layout::Ternary ? "ternary" : "lookup";
}

void integerTile(const Kernels& kernels, Random& random, const Form& form, uint32_t pass) {
  const std::string name = named(kernels, nameOf(form.layout));
  const bool extreme = pass == 3;
  const Matrix m = randomTile(random, form);
  const Exact tile(m.tileBytes());
  fillTile(m, tile.data(), random, extreme);
  const uint32_t tokens = tokensIn(pass, random);
  std::vector<float> x = random.normals(size_t(tokens) * m.k);
  if (extreme)
    for (float& value : x) value = value < 0 ? -1.0f : 1.0f;  // codes of -127 and 127 alone
  const Prepared prepared(x, tokens, m.k);
  const Activations all = prepared.room.rows(m.k);
  const Exact out(size_t(tokens) * kTileRows * 4);
  float* products = reinterpret_cast<float*>(out.data());
  kernels.integerTile(m, {tile.data(), 0, m.k}, all, tokens, products);
  for (uint32_t t = 0; t < tokens; t++) {
    const Activations one = all.from(t);
    const auto x64 = [&](uint32_t i) { return double(one.codes[i]) * one.scales[i / kActGroup]; };
    for (uint32_t r = 0; r < kTileRows; r++) {
      const Product64 want = product64(m, tile.data(), r, [&](uint32_t k, const uint8_t* codes) {
        return m.layout == Layout::Dot       ? dot64(m, k, codes, x64)
               : m.layout == Layout::Ternary ? ternary64(m, k, codes, one)
                                             : lookup64(m, k, codes, one);
      });
      checkNear(products[t * kTileRows + r], want.value, productBound(m.k, want.size), name);
    }
    // Nothing of a token depends on those beside it.
    float alone[kTileRows];
    kernels.integerTile(m, {tile.data(), 0, m.k}, one, 1, alone);
    check(!std::memcmp(alone, products + t * kTileRows, sizeof alone), name + " of one token");
  }
}

/// With scales and activations that are small integers every sum of a kernel is exact, so all orders give the same.
void exactTile(const Kernels& kernels, Random& random, const Form& form, uint32_t pass) {
  Matrix m = randomTile(random, form);
  m.scales = Scales::Half;
  m.blockGroups = m.group == 16 ? 2 : 1;
  m.k = m.blockValues() * (1 + 128 / m.blockValues());
  m.zero = std::floor(m.zero);
  m.factor = 1;
  const Exact tile(m.tileBytes());
  fillTile(m, tile.data(), random, pass == 1);
  for (uint8_t* block = tile.data(); block < tile.data() + m.tileBytes(); block += m.blockBytes())
    for (uint32_t i = 0; i < m.headerBytes() / 2; i++) {
      const uint16_t half = floatToHalf(float(random.whole(0, 4)) - 2);
      std::memcpy(block + 2 * i, &half, 2);
    }
  const uint32_t tokens = tokensIn(pass, random), k = paddedTo(m.k);
  const Prepared prepared(std::vector<float>(size_t(tokens) * m.k), tokens, m.k);
  const Activations all = prepared.room.rows(m.k);
  const auto fill = [&](auto* from, size_t count, auto make) {
    auto* to = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(from)>>*>(from);
    for (size_t i = 0; i < count; i++) to[i] = make(i);
  };
  const int end = pass == 1 ? 127 : pass == 2 ? -127 : 0;  // all at one end, or any
  const auto byte = [&](size_t) { return int8_t(end ? end : int(random.whole(0, 254)) - 127); };
  fill(all.codes, size_t(tokens) * k, byte);
  fill(all.tables, size_t(tokens) * k * 4, byte);
  fill(all.scales, size_t(tokens) * k / 16, [](size_t) { return 1.0f; });
  fill(all.tableScales, size_t(tokens) * k / 32, [](size_t) { return 1.0f; });
  if (prepared.forms.fives) {
    fill(all.fives, size_t(tokens) * k / 64 * kFiveBytes, [&](size_t i) { return uint8_t(byte(i) + 128); });
    fill(all.fiveScales, size_t(tokens) * k / 64, [](size_t) { return 1.0f; });
    fill(all.fiveSums, size_t(tokens) * k / 64, [&](size_t) { return float(random.whole(0, 8)) - 4; });
  }
  fill(all.tableSums, size_t(tokens) * k / 16, [&](size_t) { return 2 * (float(random.whole(0, 8)) - 4); });
  fill(all.sums, size_t(tokens) * k / 16, [&](size_t g) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += all.codes[16 * g + i];
    return sum;
  });
  float want[kMaxTokens * kTileRows], got[kMaxTokens * kTileRows];
  scalarKernels.integerTile(m, {tile.data(), 0, m.k}, all, tokens, want);
  kernels.integerTile(m, {tile.data(), 0, m.k}, all, tokens, got);
  check(!std::memcmp(want, got, tokens * kTileRows * sizeof(float)),
        named(kernels, nameOf(m.layout)) + " of integers equals the scalar kernel");
}

/// Products of several tiles of a matrix whose rows are longer than a stretch. All are of small integers, so that every
/// sum is exact: what comes must be the products of rows as they are gathered.
void products(const Kernels& kernels, Random& random, const Form& form) {
  Matrix m = randomTile(random, form);
  m.scales = Scales::Half;
  m.blockGroups = m.group == 16 ? 2 : 1;
  m.n = random.whole(1, 20 * kTileRows);
  m.k = m.blockValues() * random.whole(1, 3 * kStretchValues / m.blockValues());
  m.zero = 1;
  m.factor = 1;
  const Exact data(m.bytes());
  for (size_t i = 0; i < data.size(); i++) data.data()[i] = randomByte(m, i, random, false);
  for (uint8_t* block = data.data(); block < data.data() + data.size(); block += m.blockBytes())
    for (uint32_t i = 0; i < m.headerBytes() / 2; i++) {
      const uint16_t half = floatToHalf(float(random.whole(0, 2)) - 1);
      std::memcpy(block + 2 * i, &half, 2);
    }
  m.data = data.data();

  const uint32_t tokens = random.whole(1, 9), k = paddedTo(m.k);
  const Prepared prepared(std::vector<float>(size_t(tokens) * m.k), tokens, m.k);
  const Activations x = prepared.room.rows(m.k);
  int8_t *codes = const_cast<int8_t*>(x.codes), *tables = const_cast<int8_t*>(x.tables);
  for (size_t i = 0; i < size_t(tokens) * k; i++) codes[i] = int8_t(int(random.whole(0, 4)) - 2);
  for (size_t g = 0; g < size_t(tokens) * k / 16; g++) {
    const_cast<float*>(x.scales)[g] = 1;
    const_cast<float*>(x.tableScales)[g / 2] = 0.5f;
    float& sum = const_cast<float*>(x.sums)[g];
    sum = 0;
    for (int i = 0; i < 16; i++) sum += codes[16 * g + i];
    const_cast<float*>(x.tableSums)[g] = sum;
    for (int f = 0; f < 4; f++)
      for (int c = 0; c < 16; c++) {
        int entry = 0;
        for (int j = 0; j < 4; j++) entry += c >> j & 1 ? codes[16 * g + 4 * f + j] : -codes[16 * g + 4 * f + j];
        tables[64 * g + 16 * f + c] = int8_t(entry);
      }
  }
  for (size_t f = 0; prepared.forms.fives && f < size_t(tokens) * k / 64 * kFives; f++) {
    const size_t chunk = f / kFives;
    const int8_t* values = codes + chunk * kTernaryChunk;
    uint8_t* entries = const_cast<uint8_t*>(x.fives) + 128 * f;
    for (int n = 0; n <= 121; n++) {
      int entry = 128, left = n;
      for (uint32_t v = f % kFives; v < kTernaryChunk; v += kFives, left = (left + 1) / 3)
        entry += ((left + 1) % 3 - 1) * values[v];
      entries[n] = uint8_t(entry);
    }
    const_cast<float*>(x.fiveScales)[chunk] = 1;
    const_cast<float*>(x.fiveSums)[chunk] = float(std::accumulate(values, values + kTernaryChunk, 0));
  }
  const std::string name = named(kernels, "products by ") + nameOf(form.layout);
  const uint32_t most = std::min(kProducts / tokens, m.tiles()), first = random.whole(0, m.tiles() - most);
  std::vector<float> got(size_t(most) * tokens * kTileRows), row(m.k);
  multiply(kernels, m, first, most, {x, nullptr}, 0, tokens, got.data());
  for (uint32_t tile = 0; tile < most; tile++)
    for (uint32_t r = random.whole(0, 15); r < kTileRows && (first + tile) * kTileRows + r < m.n; r += 16) {
      gatherRow(m, (first + tile) * kTileRows + r, row.data());
      for (uint32_t t = 0; t < tokens; t++) {
        double want = 0;
        for (uint32_t i = 0; i < m.k; i++) want += double(row[i]) * codes[size_t(t) * k + i];
        checkNear(got[(size_t(tile) * tokens + t) * kTileRows + r], want, 0, name);
      }
    }
}

void places(Random& random, const Form& form) {
  const Matrix m = randomTile(random, form);
  const Exact chunk(m.chunkBytes());
  std::memset(chunk.data(), 0, chunk.size());
  const uint32_t values = m.chunkValues(), size = m.chunkWords();
  std::vector<uint8_t> codes(m.partRows() * values), back(codes.size());
  for (uint8_t& code : codes) code = uint8_t(random.bits() % (m.layout == Layout::Ternary ? 3 : 1u << m.bits));
  std::vector<uint32_t> words(m.partRows() * size);
  for (uint32_t row = 0; row < m.partRows(); row++) packRow(m, &codes[row * values], 1, &words[row * size]);
  placeChunk(m, words.data(), size, chunk.data());
  for (uint32_t row = 0; row < m.partRows(); row++) takeChunk(m, chunk.data(), row, &back[row * values]);
  check(codes == back, "codes come back from where they are placed");
}

void tableTile(const Kernels& kernels, Random& random, const Form& form, uint32_t pass) {
  const Matrix m = randomTile(random, form);
  const Exact tile(m.tileBytes());
  fillTile(m, tile.data(), random, false);
  const uint32_t tokens = tokensIn(pass, random);
  const Exact input(size_t(tokens) * m.k * 4), out(size_t(tokens) * kTileRows * 4);
  float *x = reinterpret_cast<float*>(input.data()), *products = reinterpret_cast<float*>(out.data());
  for (size_t i = 0; i < size_t(tokens) * m.k; i++) x[i] = random.normal();
  kernels.tableTile(m, {tile.data(), 0, m.k}, x, tokens, products);
  for (uint32_t t = 0; t < tokens; t++) {
    for (uint32_t r = 0; r < kTileRows; r++) {
      const Product64 want = product64(m, tile.data(), r, [&](uint32_t k, const uint8_t* codes) {
        return dot64(m, k, codes, [&](uint32_t i) { return double(x[size_t(t) * m.k + i]); });
      });
      checkNear(products[t * kTileRows + r], want.value, productBound(m.k, want.size), named(kernels, "tableTile"));
    }
    float alone[kTileRows];
    kernels.tableTile(m, {tile.data(), 0, m.k}, x + size_t(t) * m.k, 1, alone);
    check(!std::memcmp(alone, products + t * kTileRows, sizeof alone), named(kernels, "tableTile of one token"));
  }
}

void floatTiles(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 30; round++) {
    Matrix m{};
    m.family = Family::Rows;
    m.format = FloatFormat(round % 3);
    m.k = random.whole(1, 200);
    m.n = random.whole(1, kTileRows);
    const size_t size = floatBytes(m.format);
    const uint32_t tokens = round % 2 ? kMaxTokens : random.whole(1, kMaxTokens);  // eight have code of their own
    const Exact rows(size_t(m.n) * m.k * size), input(size_t(tokens) * m.k * 4), out(size_t(tokens) * kTileRows * 4);
    for (size_t i = 0; i < size_t(m.n) * m.k; i++) {
      const float value = random.normal();
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint16_t half = m.format == FloatFormat::F16 ? random.half() : uint16_t(bits >> 16);
      std::memcpy(rows.data() + i * size, size == 4 ? static_cast<const void*>(&value) : &half, size);
    }
    float *x = reinterpret_cast<float*>(input.data()), *products = reinterpret_cast<float*>(out.data());
    for (size_t i = 0; i < size_t(tokens) * m.k; i++) x[i] = random.normal();
    kernels.floatTile(m, rows.data(), m.n, x, tokens, products);
    for (uint32_t t = 0; t < tokens; t++)
      for (uint32_t r = 0; r < m.n; r++) {
        double want = 0, magnitude = 0;
        for (uint32_t i = 0; i < m.k; i++) {
          const double term = double(loadFloat(m.format, rows.data() + (size_t(r) * m.k + i) * size)) * x[t * m.k + i];
          want += term;
          magnitude += std::fabs(term);
        }
        checkNear(products[t * kTileRows + r], want, productBound(m.k, magnitude), named(kernels, "floatTile"));
      }
  }
}

void quantizers(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 40; round++) {
    const uint32_t groups = random.whole(1, 12), k = groups * kActGroup;
    const Exact input(k * 4), codes(k), scales(groups * 4), sums(groups * 4);
    float* x = reinterpret_cast<float*>(input.data());
    for (uint32_t i = 0; i < k; i++) x[i] = std::ldexp(random.normal(), int(random.whole(0, 60)) - 30);
    const uint32_t bad = random.whole(0, k - 1);
    const float special[] = {std::numeric_limits<float>::quiet_NaN(),  std::numeric_limits<float>::infinity(), 0, -0.0f,
                             std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max()};
    if (round % 2) x[bad] = special[round / 2 % 6];
    if (round % 5 == 0) std::fill(x, x + kActGroup, round % 10 ? 0.0f : std::numeric_limits<float>::denorm_min());
    std::vector<int8_t> wantCodes(k);
    std::vector<float> wantScales(groups), wantSums(groups);
    scalarKernels.quantize(x, k, wantCodes.data(), wantScales.data(), wantSums.data());
    kernels.quantize(x, k, reinterpret_cast<int8_t*>(codes.data()), reinterpret_cast<float*>(scales.data()),
                     reinterpret_cast<float*>(sums.data()));
    check(!std::memcmp(codes.data(), wantCodes.data(), k), named(kernels, "quantize: codes"));
    for (uint32_t g = 0; g < groups; g++) {
      checkNear(reinterpret_cast<float*>(scales.data())[g], wantScales[g], 0, named(kernels, "quantize: scales"));
      checkNear(reinterpret_cast<float*>(sums.data())[g], wantSums[g], 0, named(kernels, "quantize: sums"));
    }
  }
}

void rows(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 40; round++) {
    const uint32_t n = random.whole(1, 300);
    const Exact input(n * 4), weight(n * 4), out(n * 4), halves(n * 2);
    float *x = reinterpret_cast<float*>(input.data()), *w = reinterpret_cast<float*>(weight.data()),
          *y = reinterpret_cast<float*>(out.data());
    for (uint32_t i = 0; i < n; i++) {
      x[i] = std::ldexp(random.normal(), int(random.whole(0, 8)) - 4);
      w[i] = random.normal();
    }
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) squares += double(x[i]) * x[i];
    const double factor = 1 / std::sqrt(squares / n + double(1e-5f));
    kernels.rmsNorm(x, w, 1e-5f, n, y);
    for (uint32_t i = 0; i < n; i++)
      checkNear(y[i], x[i] * factor * w[i], (n + 8) * kEpsilon * std::fabs(x[i] * factor * w[i]),
                named(kernels, "rmsNorm"));
    kernels.siluMul(x, w, n, y);
    for (uint32_t i = 0; i < n; i++)  // exponentials are within 2^-20, and there is one
      checkNear(y[i], x[i] / (1 + std::exp(-double(x[i]))) * w[i], 0x1p-19 * std::fabs(double(x[i]) * w[i]),
                named(kernels, "siluMul"));
    for (uint32_t i = 0; i < n; i++) {
      const uint32_t any = random.bits();
      std::memcpy(&x[i], &any, 4);
    }
    uint16_t* half = reinterpret_cast<uint16_t*>(halves.data());
    kernels.toHalf(x, n, half);
    for (uint32_t i = 0; i < n; i++)
      check(std::isnan(x[i]) ? std::isnan(halfToFloat(half[i])) : half[i] == floatToHalf(x[i]),
            named(kernels, "toHalf"));
    const Exact lines(64 * random.whole(0, 40));
    std::memset(lines.data(), 1, lines.size());
    kernels.readLines(lines.data(), lines.size() / 64);
  }
}

void attentions(const Kernels& kernels, Random& random) {
  for (int round = 0; round < 30; round++) {
    const uint32_t own[] = {64, 80, 96, 128};  // kernels have code of their own for these
    const uint32_t length = random.whole(1, 90), d = round % 2 ? own[round / 2 % 4] : 2 * random.whole(1, 66);
    const Exact query(d * 4), keys(size_t(length) * d * 2), values(keys.size()), scores(length * 4), out(d * 4);
    float *q = reinterpret_cast<float*>(query.data()), *y = reinterpret_cast<float*>(out.data());
    uint16_t *key = reinterpret_cast<uint16_t*>(keys.data()), *value = reinterpret_cast<uint16_t*>(values.data());
    for (uint32_t i = 0; i < d; i++) q[i] = random.normal();
    for (size_t i = 0; i < size_t(length) * d; i++) {
      key[i] = floatToHalf(random.normal());
      value[i] = floatToHalf(random.normal());
    }
    kernels.attend(q, {key, value, length, d}, reinterpret_cast<float*>(scores.data()), y);
    std::vector<double> weight(length);
    double largest = -HUGE_VAL, total = 0, most = 0, size = 0;
    for (uint32_t p = 0; p < length; p++) {
      double magnitude = 0;
      for (uint32_t i = 0; i < d; i++) {
        const double term = q[i] * double(halfToFloat(key[size_t(p) * d + i]));
        weight[p] += term;
        magnitude += std::fabs(term);
        most = std::max(most, std::fabs(double(halfToFloat(value[size_t(p) * d + i]))));
      }
      largest = std::max(largest, weight[p]);
      size = std::max(size, magnitude);
    }
    for (double& score : weight) total += score = std::exp(score - largest);
    // A weight is off by what its score and the largest are, by its exponential's 2^-20, and by the sums' roundings.
    const double relative = 2 * (d + 4) * kEpsilon * size + 0x1p-20 + (length + 4) * kEpsilon;
    for (uint32_t i = 0; i < d; i++) {
      double want = 0;
      for (uint32_t p = 0; p < length; p++) want += weight[p] / total * halfToFloat(value[size_t(p) * d + i]);
      checkNear(y[i], want, 2 * relative * most, named(kernels, "attend"));
    }
  }
}

}  // namespace

void checkKernels(Random& random) {
  for (const Kernels* kernels : usableKernels()) {
    std::set layouts{Layout::Dot, kernels->lookup};
    if (kernels->tabulateFives) layouts.insert(Layout::Ternary);
    for (const Layout layout : layouts)
      for (const Form& form : integerForms(layout))
        for (uint32_t pass = 0; pass < kPasses; pass++) {
          places(random, form);
          integerTile(*kernels, random, form, pass);
          exactTile(*kernels, random, form, pass);
          if (pass == 0) products(*kernels, random, form);
        }
    for (const Form& form : tableForms())
      for (uint32_t pass = 0; pass < kPasses; pass++) tableTile(*kernels, random, form, pass);
    floatTiles(*kernels, random);
    quantizers(*kernels, random);
    checkTables(*kernels, random);
    rows(*kernels, random);
    attentions(*kernels, random);
  }
}

}  // namespace harness
