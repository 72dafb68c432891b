// Memory by mmap: page-aligned, zero until it is touched, back to the system when it is freed; huge pages where asked
// for, since weights are read from end to end and small pages would cost a look-up every 4 KiB.
#include "memory.h"

#include <sys/mman.h>

#include <new>

namespace lutra {

Memory::Memory(size_t bytes, bool hugePages) : data_(nullptr), size_(bytes) {
  if (!bytes) return;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (hugePages) madvise(at, bytes, MADV_HUGEPAGE);
#else
  (void)hugePages;
#endif
  data_ = static_cast<uint8_t*>(at);
}

Memory::~Memory() {
  if (data_) munmap(data_, size_);
}

}  // namespace lutra
