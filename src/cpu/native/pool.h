// A persistent thread pool whose jobs are sequences of parallel loops. Loops hand out their work piece by piece and
// end when the pieces are done, whoever did them: a worker that has lost its processor, or has not woken yet, holds
// up nobody but for the piece in its hands. The caller is one of the workers. Idle workers spin briefly, then sleep.
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

/// One parallel loop of a job: pieces handed out, and pieces done.
struct Loop {
  alignas(64) std::atomic<uint32_t> next{0};
  alignas(64) std::atomic<uint32_t> done{0};
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
    Loop& loop = loops_[used_++];
    for (;;) {
      const uint32_t begin = loop.next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= total) break;
      const uint32_t end = std::min(begin + grain, total);
      body(begin, end);
      finish(loop, end - begin, total);
    }
    awaitAll(loop, total);
  }

 private:
  friend class Pool;
  Worker(uint32_t index, Loop* loops) : index(index), loops_(loops) {}
  static void finish(Loop& loop, uint32_t count, uint32_t total);
  static void awaitAll(Loop& loop, uint32_t total);

  Loop* const loops_;
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
  std::unique_ptr<Loop[]> loops_;
  uint32_t capacity_ = 0;
  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> epoch_{0};    // one more for each job
  alignas(64) std::atomic<uint32_t> present_{0};  // workers inside the job; the highest bit: closed to more
};

}  // namespace lutra
