// Dividing work among threads: one pool for the process, asleep between calls, safe to fork.
//
// Results never depend on how work is divided (csrc/ops/reductions.h). A call that finds the pool busy, or that
// is made in a forked child, runs on its own thread alone.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "work.h"

namespace scorefusion {

int num_threads();
void set_num_threads(int n);  // n >= 1
bool in_forked_child();       // whose threads are the caller alone

// The calling thread, one of ours, never takes a processor from whoever wakes it: where others are busy (another
// library's threads spin between its calls), it would be given that one.
void give_way();

// As long as it lives, work of this thread is not shared with others.
class WithoutThreads {
 public:
  WithoutThreads();
  ~WithoutThreads();
};

// Below this many elements touched, waking a thread costs more than it saves.
constexpr int64_t worth_threads = 64 * 1024;

// Has the work been given up? Asked between items; the calling thread alone asks the outside, and seldom.
class Stop {
 public:
  explicit Stop(const Work& work) : work_(work) {
    if (work.interrupted) last_asked_ = std::chrono::steady_clock::now();
  }
  bool requested() const { return requested_.load(std::memory_order_relaxed); }
  // On the calling thread.
  bool ask() {
    if (!work_.interrupted) return false;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_asked_ > std::chrono::milliseconds(50)) {
      last_asked_ = now;
      if (work_.interrupted(work_.context)) requested_.store(true, std::memory_order_relaxed);
    }
    return requested();
  }

 private:
  const Work& work_;
  std::chrono::steady_clock::time_point last_asked_;
  std::atomic<bool> requested_{false};
};

namespace detail {
using Item = void (*)(void* context, int64_t first, int64_t last);
void run(int64_t items, bool threads, const Work& work, Item part, void* context);
}  // namespace detail

// Calls body(first, last) until the ranges cover [0, items), each at most a few items long; on several threads
// if `threads`. Throws Interrupted when the work was given up, and what the body threw.
template <class Body>
void parallel_for(int64_t items, bool threads, const Work& work, Body&& body) {
  detail::run(
      items, threads, work,
      [](void* context, int64_t first, int64_t last) {
        (*static_cast<std::remove_reference_t<Body>*>(context))(first, last);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace scorefusion
