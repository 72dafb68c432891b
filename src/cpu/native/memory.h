// Anonymous memory of the system, for what is large: weights, cache, scratch.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lutra {

/// Zeroed, 64-byte aligned, freed with the object; a page of it costs nothing until it is touched.
/// Throws std::bad_alloc.
class Memory {
 public:
  explicit Memory(size_t bytes, bool hugePages = false);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_;
  size_t size_;
};

}  // namespace lutra
