// A persistent thread pool whose jobs are sequences of parallel loops. Every worker has a range of a loop's work, which
// it takes piece by piece in order, since memory is fastest when it is read on and on; who is done takes pieces from
// the others' ranges. A loop ends when the pieces are done, whoever did them: a worker that has lost its processor, or
// has not woken yet, holds up nobody but for the piece in its hands. The caller is one of the workers. Idle workers
// spin briefly, then sleep.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lutra {

/// A number that one worker changes often, alone in its cache line.
struct alignas(64) Counter {
  std::atomic<uint32_t> value{0};
};

class Pool;

/// A worker's place in the running job.
class Worker {
 public:
  /// 0 for the caller, up to threads - 1.
  const uint32_t index;

  /// A parallel loop: body(begin, end) for pieces of [0, total) of at most `grain`, each once, by some worker; returns
  /// when all are done. Every worker of a job makes the same calls of `each` in the same order.
  template <class Body>
  void each(uint32_t total, uint32_t grain, Body&& body) {
    // How much is done, then how much of each worker's range is taken.
    Counter* loop = counters_ + size_t(used_++) * (1 + workers_);
    const uint32_t pieces = (total + grain - 1) / grain;
    for (uint32_t i = 0; i < workers_; i++) {
      const uint32_t owner = (index + i) % workers_;
      const uint32_t first = uint32_t(uint64_t(pieces) * owner / workers_) * grain;
      const uint32_t last = std::min(uint32_t(uint64_t(pieces) * (owner + 1) / workers_) * grain, total);
      for (;;) {
        const uint32_t begin = first + loop[1 + owner].value.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= last) break;
        const uint32_t end = std::min(begin + grain, last);
        body(begin, end);
        finish(loop->value, end - begin, total);
      }
    }
    awaitAll(loop->value, total);
  }

 private:
  friend class Pool;
  Worker(uint32_t index, uint32_t workers, Counter* counters) : index(index), workers_(workers), counters_(counters) {}
  static void finish(std::atomic<uint32_t>& done, uint32_t count, uint32_t total);
  static void awaitAll(std::atomic<uint32_t>& done, uint32_t total);

  const uint32_t workers_;
  Counter* const counters_;
  uint32_t used_ = 0;
};

class Pool {
 public:
  /// Throws std::system_error when the system gives no more threads.
  explicit Pool(uint32_t threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  uint32_t threads() const { return count_; }

  /// Runs job on the caller and on every other worker that comes in time; returns when the caller's call and theirs
  /// have returned. The job makes at most `loops` calls of `each`, and does all its work inside them. It must not
  /// throw. Callers on several threads take turns.
  void run(uint32_t loops, const std::function<void(Worker&)>& job);

 private:
  void serve(uint32_t index);
  bool enter();
  void stop();

  const uint32_t count_;
  std::mutex caller_;
  const std::function<void(Worker&)>* job_ = nullptr;
  std::vector<Counter> counters_;
  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> epoch_{0};    // one more for each job
  alignas(64) std::atomic<uint32_t> present_{0};  // workers inside the job; the highest bit: closed to more
};

}  // namespace lutra
