// The pool's waiting: for loops to be done, for workers to leave a job, for the next job. See pool.h for the rules.
#include "pool.h"

namespace lutra {

namespace {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Long enough to cover the gap between two tokens' steps, short enough that an idle process takes no time and that
// a worker whose peer has lost its processor gives its own back: some 50 to 100 microseconds.
constexpr int kSpins = 2000;

/// Waits until holds(value): spins, then sleeps until the value is changed and notified.
template <class Holds>
void await(std::atomic<uint32_t>& value, Holds holds) {
  for (int i = 0; i < kSpins; i++) {
    if (holds(value.load(std::memory_order_acquire))) return;
    pause();
  }
  for (uint32_t seen = value.load(std::memory_order_acquire); !holds(seen);
       seen = value.load(std::memory_order_acquire))
    value.wait(seen, std::memory_order_acquire);
}

constexpr uint32_t kClosed = 1u << 31;

}  // namespace

void Worker::finish(std::atomic<uint32_t>& done, uint32_t count, uint32_t total) {
  if (done.fetch_add(count, std::memory_order_acq_rel) + count == total) done.notify_all();
}

void Worker::awaitAll(std::atomic<uint32_t>& done, uint32_t total) {
  await(done, [total](uint32_t reached) { return reached >= total; });
}

Pool::Pool(uint32_t threads) : count_(threads) {
  present_.store(kClosed);
  try {
    for (uint32_t index = 1; index < count_; index++) workers_.emplace_back([this, index] { serve(index); });
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stop_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void Pool::run(uint32_t loops, const std::function<void(Worker&)>& job) {
  const std::lock_guard<std::mutex> lock(caller_);
  const size_t used = size_t(loops) * (1 + count_);
  if (used > counters_.size()) counters_ = std::vector<Counter>(used);  // nobody is inside a job here
  for (size_t i = 0; i < used; i++) counters_[i].value.store(0, std::memory_order_relaxed);
  job_ = &job;
  present_.store(0, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  Worker self(0, count_, counters_.data());
  job(self);
  present_.fetch_or(kClosed, std::memory_order_acq_rel);
  await(present_, [](uint32_t present) { return present == kClosed; });
}

/// Counts this worker in, unless the job is over.
bool Pool::enter() {
  uint32_t present = present_.load(std::memory_order_acquire);
  while (!(present & kClosed))
    if (present_.compare_exchange_weak(present, present + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void Pool::serve(uint32_t index) {
  for (uint32_t seen = 0;;) {
    await(epoch_, [seen](uint32_t epoch) { return epoch != seen; });
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_) return;
    if (!enter()) continue;
    Worker self(index, count_, counters_.data());
    (*job_)(self);
    if (present_.fetch_sub(1, std::memory_order_acq_rel) - 1 == kClosed) present_.notify_all();
  }
}

}  // namespace lutra
