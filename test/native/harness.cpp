// The native code without Node, so that it can be built with sanitizers or for another processor:
//   harness [kernels] [pool] [loader] [executor] [ablation]
// Built and run by native.test.ts. Prints one line for each part, and ends with 1 where a check failed.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "check.h"
#include "isa.h"

namespace harness {

namespace {
uint64_t checks = 0, failures = 0;
constexpr uint64_t kSeed = 20261123;
}  // namespace

void check(bool holds, const std::string& what) {
  checks++;
  if (!holds && failures++ < 20)
    std::fprintf(stderr, "failed (seed %llu): %s\n", (unsigned long long)kSeed, what.c_str());
}

void checkNear(double got, double want, double bound, const std::string& what) {
  const bool holds = std::isnan(want) ? std::isnan(got) : got == want || std::fabs(got - want) <= bound;
  check(holds, holds ? ""
                     : what + ": " + std::to_string(got) + " where " + std::to_string(want) + " is right, within " +
                           std::to_string(bound));
}

}  // namespace harness

int main(int count, char** arguments) {
  using namespace harness;
  const struct {
    const char* name;
    void (*run)(Random&);
  } parts[] = {{"kernels", checkKernels},
               {"pool", checkPool},
               {"loader", checkLoader},
               {"executor", checkExecutor},
               {"ablation", checkAblation}};
  for (int i = 1; i < count; i++)
    for (const auto& part : parts) {
      if (std::strcmp(arguments[i], part.name)) continue;
      const uint64_t before = checks;
      Random random(kSeed);
      part.run(random);
      std::printf("%s: %llu checks\n", part.name, (unsigned long long)(checks - before));
    }
  std::printf("instruction sets:");
  for (const lutra::Kernels* table : lutra::usableKernels()) std::printf(" %s", table->isa);
  std::printf("\n%llu failed\n", (unsigned long long)failures);
  return failures || !checks;
}
