// The pool: threads that sleep until there is a share of work; a forked child, which has none, does without.
#include "threads.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

namespace scorefusion {
namespace {

int processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

int initial_threads() {
  for (const char* name : {"SCOREFUSION_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* text = std::getenv(name);
    if (!text || !*text) continue;
    const int n = std::atoi(text);
    if (n >= 1) return n;
    if (std::string(name) == "SCOREFUSION_NUM_THREADS")
      throw std::runtime_error(std::string(name) + " must be a whole number of at least 1, but is '" + text + "'");
  }
  return processors();
}

// One call's work, a run of items for every thread. Each takes its own, a few items at a time, then what is left of the
// others': so a thread that is late (its processor busy with another library's) costs nothing but its help, and calls
// alike in succession find in a core's cache what it had before.
class Job {
 public:
  Job(int64_t items, int shares, detail::Item part, void* context, Stop& stop)
      : shares_(shares),
        runs_(std::min(shares, most_runs)),
        at_once_(std::max<int64_t>(1, items / (8 * shares))),
        part_(part),
        context_(context),
        stop_(stop) {
    for (int r = 0; r < runs_; ++r) {
      run_[r].next = items * r / runs_;
      run_[r].end = items * (r + 1) / runs_;
    }
  }

  int shares() const { return shares_; }

  // Thread 0 is the one that calls.
  void walk(int thread) {
    try {
      for (int r = 0; r < runs_; ++r) {
        Run& run = run_[(thread + r) % runs_];
        for (;;) {
          const int64_t first = run.next.fetch_add(at_once_, std::memory_order_relaxed);
          if (first >= run.end) break;
          for (int64_t i = first; i < std::min(run.end, first + at_once_); ++i) {
            if (thread == 0 ? stop_.ask() : stop_.requested()) return;
            part_(context_, i, i + 1);
          }
        }
      }
    } catch (...) {
      for (int r = 0; r < runs_; ++r) run_[r].next = run_[r].end;
      std::lock_guard lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  static constexpr int most_runs = 64;  // beyond, threads share them

  struct alignas(64) Run {  // a cache line of its own
    std::atomic<int64_t> next;
    int64_t end;
  };

  const int shares_, runs_;
  const int64_t at_once_;  // long runs: memory likes them
  const detail::Item part_;
  void* const context_;
  Stop& stop_;
  Run run_[most_runs];
  std::exception_ptr failure_{};
  std::mutex failure_mutex_{};
};

// Workers live as long as the process and are detached: no destructor has to wait for them at exit.
class Pool {
 public:
  // False if the pool serves another call: then nothing was done.
  bool try_run(Job& job, Stop& stop) {
    std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    while (workers_ < job.shares() - 1) {
      std::thread([this, index = workers_] { serve(index); }).detach();
      ++workers_;
    }
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.walk(0);
    {
      std::lock_guard lock(mutex_);
      job_ = nullptr;  // who has not come by now is not waited for
    }
    for (int spin = 0; spin < spins && active_.load(std::memory_order_acquire) != 0; ++spin) pause();
    std::unique_lock lock(mutex_);
    while (!done_.wait_for(lock, std::chrono::milliseconds(50), [this] { return active_ == 0; })) {
      lock.unlock();
      stop.ask();
      lock.lock();
    }
    return true;
  }

 private:
  static constexpr int spins = 4000;  // some tens of microseconds: the next call often comes within them

  static void pause() {
#if SCOREFUSION_X86
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void serve(int index) {
    give_way();
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < spins && generation_.load(std::memory_order_acquire) == seen; ++spin) pause();
      Job* job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        job = job_;
        if (!job || index + 1 >= job->shares()) continue;
        ++active_;
      }
      job->walk(index + 1);
      {
        std::lock_guard lock(mutex_);
        --active_;
      }
      done_.notify_one();
    }
  }

  std::mutex busy_;   // held by the call that is being served
  std::mutex mutex_;  // guards job_ and active_
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  Job* job_ = nullptr;
  std::atomic<int> active_{0};  // workers inside the job
  int workers_ = 0;
};

std::atomic<int> wanted_threads{0};  // 0: not yet asked for
std::atomic<bool> forked{false};
thread_local bool alone = false;

#if !defined(_WIN32)
// When the library is loaded: a child has no workers, and unknown locks.
[[maybe_unused]] const int told_of_forks = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

int num_threads() {
  if (forked) return 1;
  if (wanted_threads == 0) wanted_threads = initial_threads();
  return wanted_threads;
}

bool in_forked_child() { return forked; }

void give_way() {
#if defined(__linux__)
  const sched_param none{};
  sched_setscheduler(0, SCHED_BATCH, &none);  // may fail: then it is as it was
#endif
}

WithoutThreads::WithoutThreads() { alone = true; }
WithoutThreads::~WithoutThreads() { alone = false; }

void set_num_threads(int n) { wanted_threads = std::max(1, n); }

void detail::run(int64_t items, bool threads, const Work& work, Item part, void* context) {
  Stop stop(work);
  if (const int shares = threads && !alone ? int(std::min<int64_t>(items, num_threads())) : 1; shares > 1) {
    Job job(items, shares, part, context, stop);
    if (!pool().try_run(job, stop)) job.walk(0);
    job.rethrow();
  } else {
    for (int64_t i = 0; i < items && !stop.ask(); ++i) part(context, i, i + 1);
  }
  if (stop.requested()) throw Interrupted{};
}

}  // namespace scorefusion
