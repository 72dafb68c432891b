// Weight files of the harness: random descriptors that the compiler of types might derive, random bytes for them, and
// what a row of those means, read bit by bit.
#pragma once
#include "check.h"

namespace harness {

/// A file under a name that nobody has any more, closed with the object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::vector<uint8_t>& bytes);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  int descriptor() const { return fd_; }
  void cut(size_t length) const;

 private:
  int fd_;
};

/// A source of n rows of k values behind the bytes that are there already, which get its own.
/// Where lookups can run it, perhaps in the layout of either kind.
lutra::Source appendTiles(Random& random, uint32_t n, uint32_t k, uint32_t blockSize, std::vector<uint8_t>& file);
lutra::Source appendFloats(Random& random, lutra::FloatFormat format, uint32_t n, uint32_t k, bool positive,
                           std::vector<uint8_t>& file);

/// Row `row` of a source of tiles, out(k).
void decodeRow(const lutra::Source& source, const std::vector<uint8_t>& file, uint32_t row, float* out);

}  // namespace harness
