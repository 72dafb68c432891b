// A persistent thread pool with a spinning barrier. The caller is worker 0; a job runs once on every worker,
// which meet at barriers inside it. Workers spin briefly for the next job, then sleep.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lutra {

class Pool {
 public:
  explicit Pool(uint32_t threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  uint32_t threads() const { return count_; }

  /// Runs job(worker) on every worker and returns when all are done; one caller at a time. A job must not throw.
  void run(const std::function<void(uint32_t)>& job);

  /// To be called by every worker of the running job, the same number of times.
  void barrier();

 private:
  void serve(uint32_t worker);

  const uint32_t count_;
  std::mutex caller_;
  const std::function<void(uint32_t)>* job_ = nullptr;
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint32_t> epoch_{0};    // one more for each job
  alignas(64) std::atomic<uint32_t> arrived_{0};  // at the current barrier
  alignas(64) std::atomic<uint32_t> phase_{0};    // one more for each barrier passed
  bool stop_ = false;
};

}  // namespace lutra
