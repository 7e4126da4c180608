#include "threads.h"

#include <pthread.h>
#include <sched.h>

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

// One call's work, cut into as many equal shares as threads take part; each share is walked item by item.
struct Job {
  int64_t items;
  int shares;
  detail::Item part;
  void* context;
  Stop& stop;
  std::exception_ptr failure;
  std::mutex failure_mutex;

  void walk(int share, bool calling_thread) {
    const int64_t first = items * share / shares, last = items * (share + 1) / shares;
    try {
      for (int64_t i = first; i < last; ++i) {
        if (calling_thread ? stop.ask() : stop.requested()) return;
        part(context, i, i + 1);
      }
    } catch (...) {
      std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }
};

// Workers live as long as the process and are detached: no destructor has to wait for them at exit.
class Pool {
 public:
  // False if the pool serves another call: then nothing was done.
  bool try_run(Job& job, Stop& stop) {
    std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    while (workers_ < job.shares - 1) {
      std::thread([this, index = workers_] { serve(index); }).detach();
      ++workers_;
    }
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      left_ = job.shares - 1;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.walk(0, true);
    for (int spin = 0; spin < spins && left_.load(std::memory_order_acquire) != 0; ++spin) pause();
    std::unique_lock lock(mutex_);
    while (!done_.wait_for(lock, std::chrono::milliseconds(50), [this] { return left_.load() == 0; })) {
      lock.unlock();
      stop.ask();
      lock.lock();
    }
    job_ = nullptr;
    return true;
  }

 private:
  static constexpr int spins = 4000;  // some tens of microseconds: the next call often comes within them

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < spins && generation_.load(std::memory_order_acquire) == seen; ++spin) pause();
      Job* job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
        seen = generation_.load();
        job = job_;
        if (!job || index + 1 >= job->shares) continue;  // not waited for: the job may be gone after the lock
      }
      job->walk(index + 1, false);
      {
        std::lock_guard lock(mutex_);
        left_.fetch_sub(1, std::memory_order_release);
      }
      done_.notify_one();
    }
  }

  std::mutex busy_;   // held by the call that is being served
  std::mutex mutex_;  // guards job_
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> left_{0};
  Job* job_ = nullptr;
  int workers_ = 0;
};

std::atomic<int> wanted_threads{0};  // 0: not yet asked for
std::atomic<bool> forked{false};

Pool& pool() {
  static Pool* const instance = [] {
    pthread_atfork(nullptr, nullptr, [] { forked = true; });  // the child has no workers and unknown locks
    return new Pool;
  }();
  return *instance;
}

}  // namespace

int num_threads() {
  if (forked) return 1;
  if (wanted_threads == 0) wanted_threads = initial_threads();
  return wanted_threads;
}

void set_num_threads(int n) { wanted_threads = std::max(1, n); }

void detail::run(int64_t items, bool threads, const Work& work, Item part, void* context) {
  Stop stop(work);
  const int shares = threads ? int(std::min<int64_t>(items, num_threads())) : 1;
  Job job{items, shares, part, context, stop, nullptr, {}};
  if (shares <= 1 || !pool().try_run(job, stop)) {
    job.shares = 1;
    job.walk(0, true);
  }
  if (job.failure) std::rethrow_exception(job.failure);
  if (stop.requested()) throw Interrupted{};
}

}  // namespace scorefusion
