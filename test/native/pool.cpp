// The pool: every piece of every loop is done once, whoever does it; pools that are made, used once and dropped; jobs
// of several callers. What is written in one loop is plain memory that the next one reads, so that ThreadSanitizer
// would see a loop that ends too early.
#include "pool.h"

#include <thread>

#include "check.h"

namespace harness {

using namespace lutra;

namespace {

/// A job of some loops over plain memory: each loop adds one to every cell, and reads its neighbour's of the last loop.
void runJob(Pool& pool, Random& random) {
  const uint32_t loops = random.whole(1, 12), total = random.whole(0, 70), grain = random.whole(1, 9);
  std::vector<uint32_t> a(total, 0), b(total, 0);
  pool.run(loops, [&](Worker& worker) {
    for (uint32_t loop = 0; loop < loops; loop++) {
      std::vector<uint32_t>&from = loop % 2 ? b : a, &to = loop % 2 ? a : b;
      worker.each(total, grain, [&](uint32_t begin, uint32_t end) {
        for (uint32_t i = begin; i < end; i++) to[i] = from[(i + 1) % total] + 1;
      });
    }
  });
  for (const uint32_t cell : loops % 2 ? b : a) check(cell == loops, "a piece was left out, done twice or begun early");
}

}  // namespace

void checkPool(Random& random) {
  for (uint32_t threads = 1; threads <= 4; threads++) {
    Pool pool(threads);
    check(pool.threads() == threads, "the number of threads");
    for (int job = 0; job < 400; job++) runJob(pool, random);
  }
  for (int round = 0; round < 60; round++) {  // a pool may end before its workers have woken
    Pool pool(random.whole(1, 5));
    if (random.coin()) runJob(pool, random);
  }
  Pool pool(3);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; caller++)
    callers.emplace_back([&pool] {
      for (int job = 0; job < 60; job++) {
        std::vector<uint32_t> done(40, 0);
        pool.run(1, [&](Worker& worker) {
          worker.each(40, 1, [&](uint32_t begin, uint32_t end) {
            for (uint32_t i = begin; i < end; i++) done[i]++;
          });
        });
        uint32_t sum = 0;
        for (const uint32_t count : done) sum += count;
        if (sum != 40) std::abort();  // the counts of check() belong to the main thread
      }
    });
  for (std::thread& caller : callers) caller.join();
  check(true, "several callers");
}

}  // namespace harness
