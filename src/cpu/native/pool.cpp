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

// Long enough to cover the gap between two tokens' ops, short enough that an idle process takes no time and
// that a worker whose peer has lost its core gives its own back: some 50 to 100 microseconds.
constexpr int kSpins = 2000;

/// Waits until `value` is no longer `old`: spins, then sleeps in the kernel.
void await(std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(uint32_t threads) : count_(threads) {
  for (uint32_t worker = 1; worker < count_; worker++) workers_.emplace_back([this, worker] { serve(worker); });
}

Pool::~Pool() {
  stop_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void Pool::run(const std::function<void(uint32_t)>& job) {
  const std::lock_guard<std::mutex> lock(caller_);
  job_ = &job;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  job(0);
  barrier();
}

void Pool::serve(uint32_t worker) {
  for (uint32_t seen = 0;;) {
    await(epoch_, seen);
    seen++;
    if (stop_) return;
    (*job_)(worker);
    barrier();
  }
}

void Pool::barrier() {
  if (count_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  } else {
    await(phase_, phase);
  }
}

}  // namespace lutra
