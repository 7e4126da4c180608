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

// One call's work. Who takes part takes a few items at a time until none are left, so a thread that is late (its
// processor busy with another library's) costs nothing but its help.
struct Job {
  int64_t items;
  int shares;
  detail::Item part;
  void* context;
  Stop& stop;
  std::atomic<int64_t> next{0};
  std::exception_ptr failure{};
  std::mutex failure_mutex{};

  void walk(bool calling_thread) {
    const int64_t at_once = std::max<int64_t>(1, items / (8 * shares));  // long runs: memory likes them
    try {
      for (;;) {
        const int64_t first = next.fetch_add(at_once, std::memory_order_relaxed);
        for (int64_t i = first; i < std::min(items, first + at_once); ++i) {
          if (calling_thread ? stop.ask() : stop.requested()) return;
          part(context, i, i + 1);
        }
        if (first + at_once >= items) return;
      }
    } catch (...) {
      next = items;
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
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.walk(true);
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
        if (!job || index + 1 >= job->shares) continue;
        ++active_;
      }
      job->walk(false);
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
  Job job{.items = items, .shares = shares, .part = part, .context = context, .stop = stop};
  if (shares <= 1 || !pool().try_run(job, stop)) {
    job.shares = 1;
    job.walk(true);
  }
  if (job.failure) std::rethrow_exception(job.failure);
  if (stop.requested()) throw Interrupted{};
}

}  // namespace scorefusion
