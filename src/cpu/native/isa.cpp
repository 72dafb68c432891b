// See isa.h. On x86 the compiler's CPUID builtins, which also know whether the system keeps the wider registers; on ARM
// what the kernel tells each process (getauxval(3)).
#include "isa.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace lutra {

std::vector<const Kernels*> usableKernels() {
  std::vector<const Kernels*> usable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    if (__builtin_cpu_supports("avx512vbmi")) usable.push_back(&avx512VbmiKernels);
    usable.push_back(&avx512Kernels);
  }
  if (avx2) usable.push_back(&avx2Kernels);
#elif defined(__aarch64__)
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) usable.push_back(&neonKernels);
#elif defined(__APPLE__)
  usable.push_back(&neonKernels);  // every Apple silicon has the dotprod extension
#endif
#endif
  usable.push_back(&scalarKernels);
  return usable;
}

}  // namespace lutra
