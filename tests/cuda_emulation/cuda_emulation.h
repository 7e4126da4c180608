// CUDA kernels on a CPU, for tests: the same sources, compiled by g++, run here thread by thread.
//
// Blocks run one after another. The threads of a block are fibers, switched by hand wherever a thread has to wait
// (barrier, shuffle, vote), so any order of execution that CUDA allows can be tried: a Schedule says which warp and
// which lane goes first, and one that may go on does go on, as far as it can. Unfair on purpose: what works only
// because threads usually keep pace fails here.
//
// Shared memory is allocated afresh for each block, exactly as large as declared, and filled with NaN. Mistakes that CUDA
// leaves undefined are errors that name block, thread and line: a shuffle that not all lanes of its mask
// reach, that reads a lane outside the mask or is called from outside it, a barrier that some threads do not reach.
// Indexing is left to AddressSanitizer, alignment to UndefinedBehaviorSanitizer, races to ThreadSanitizer, all three of
// which are told about the fibers.
//
// It proves nothing about speed, and nothing about memory order between blocks, of which the kernels need none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define GRID_CONSTANT const
#define SHARED(name, ...)                                  \
  static const char name##_declaration = 0;                \
  using name##_type = __VA_ARGS__;                         \
  name##_type& name = *static_cast<name##_type*>(          \
      ::emulation::block->shared(&name##_declaration, sizeof(name##_type)))

namespace emulation {

struct Index {
  unsigned x = 0;
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Which of those that may go on goes first.
enum class Order { forward, reverse, shuffled };

struct Settings {
  Order order = Order::forward;
  int resident_blocks = 3;  // so few that grid-stride loops take several turns
};
inline Settings settings;

constexpr int warp_size = 32;
constexpr unsigned every_lane = 0xFFFFFFFFu;

}  // namespace emulation

inline emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// ---- A block and its threads -----------------------------------------------------------------------------------------

enum class State { ready, at_barrier, at_exchange, done };

// What a lane brings to a shuffle or a vote, and the lane whose value it takes away.
struct Exchange {
  const char* name;
  unsigned mask;
  uint64_t bits;  // the value
  int source;     // lane
};

struct Thread {
  State state = State::ready;
  int line = 0;  // where it waits
  Exchange exchange{};
  uint64_t received[warp_size];  // all values of the warp, once the exchange has taken place
  Fiber* fiber = nullptr;
};

class Block {
 public:
  Block(unsigned index, int threads, std::vector<std::unique_ptr<Fiber>>& fibers, std::mt19937& random)
      : index_(index), threads_(threads), fibers_(fibers), random_(random) {}

  // Runs all threads to their end.
  template <class Body>
  void run(const Body& body) {
    start_ = [](const void* context) { (*static_cast<const Body*>(context))(); };
    context_ = &body;
    const int warps = (int(threads_.size()) + warp_size - 1) / warp_size;
    std::vector<int> order = some_order(warps);
    while (!all(State::done)) {
      // The first warp that can go on goes as far as it can; then the search starts again at the first.
      const bool went = std::any_of(order.begin(), order.end(), [&](int warp) { return run_warp(warp); });
      if (went) continue;
      release_barrier();
      order = some_order(warps);
    }
    shared_.clear();
  }

  // ---- called by threads

  void barrier(int line) {
    sync_release(this);
    wait(State::at_barrier, line);
    sync_acquire(this);
  }

  // Brings a value; gives back what each lane of the mask brought.
  const uint64_t* exchange(const Exchange& mine, int line) {
    Thread& thread = current();
    const unsigned lane = unsigned(now_ % warp_size);
    if (!(mine.mask >> lane & 1)) fail(now_, line, std::string(mine.name) + " with a mask without its own lane");
    if (!(mine.mask >> mine.source & 1))
      fail(now_, line, std::string(mine.name) + " reads lane " + std::to_string(mine.source) + ", which is not in its mask");
    thread.exchange = mine;
    sync_release(warp_of(now_));
    wait(State::at_exchange, line);
    sync_acquire(warp_of(now_));
    return thread.received;
  }

  void* shared(const void* declaration, size_t bytes) {
    auto& storage = shared_[declaration];
    if (!storage) {
      storage.reset(static_cast<char*>(std::malloc(bytes)));
      std::memset(storage.get(), 0xFF, bytes);  // NaN, read as float, double or half
    }
    return storage.get();
  }

 private:
  Thread& current() { return threads_[size_t(now_)]; }
  void* warp_of(int thread) { return &threads_[size_t(thread / warp_size * warp_size)]; }
  bool all(State state) const {
    return std::all_of(threads_.begin(), threads_.end(), [&](const Thread& t) { return t.state == state; });
  }

  std::vector<int> some_order(int count) {
    std::vector<int> order(size_t(count), 0);
    std::iota(order.begin(), order.end(), 0);
    if (settings.order == Order::reverse) std::reverse(order.begin(), order.end());
    if (settings.order == Order::shuffled) std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  bool run_warp(int warp) {
    const int first = warp * warp_size, count = std::min(warp_size, int(threads_.size()) - first);
    bool went = false;
    for (int lane : some_order(count)) {
      if (threads_[size_t(first + lane)].state != State::ready) continue;
      run_thread(first + lane);
      went = true;
    }
    return complete_exchanges(first, count) || went;
  }

  void run_thread(int thread) {
    now_ = thread;
    threadIdx.x = unsigned(thread);
    Thread& t = current();
    if (!t.fiber) {
      t.fiber = free_fiber();
      t.fiber->start(start_, context_);
    }
    if (t.fiber->resume()) {
      t.state = State::done;
      idle_.push_back(t.fiber);  // a thread that never had to wait hands its stack to the next
      t.fiber = nullptr;
    }
    if (!error_.empty()) throw Error(error_);
  }

  Fiber* free_fiber() {
    if (idle_.empty()) {
      if (used_ == fibers_.size()) fibers_.push_back(std::make_unique<Fiber>());
      idle_.push_back(fibers_[used_++].get());
    }
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  void wait(State state, int line) {
    current().state = state;
    current().line = line;
    Fiber* fiber = current().fiber;
    fiber->pause();
  }

  [[noreturn]] void fail(int thread, int line, const std::string& what) {
    error_ = what + " (block " + std::to_string(index_) + ", thread " + std::to_string(thread) + ", line " +
             std::to_string(line) + ")";
    current().fiber->pause();  // never to be resumed
    std::abort();
  }
  [[noreturn]] void fail_outside(int thread, const std::string& what) const {
    throw Error(what + " (block " + std::to_string(index_) + ", thread " + std::to_string(thread) + ", line " +
                std::to_string(threads_[size_t(thread)].line) + ")");
  }

  // Exchanges whose mask has fully arrived take place.
  bool complete_exchanges(int first, int count) {
    bool completed = false;
    for (int lane = 0; lane < count; ++lane) {
      const Thread& leader = threads_[size_t(first + lane)];
      if (leader.state != State::at_exchange || !has_arrived(first, count, lane)) continue;
      const unsigned mask = leader.exchange.mask;
      uint64_t values[warp_size] = {};
      for (int other = 0; other < count; ++other)
        if (mask >> other & 1) values[other] = threads_[size_t(first + other)].exchange.bits;
      for (int other = 0; other < count; ++other) {
        if (!(mask >> other & 1)) continue;
        Thread& t = threads_[size_t(first + other)];
        std::copy_n(values, warp_size, t.received);
        t.state = State::ready;
      }
      completed = true;
    }
    return completed;
  }

  // Are all lanes of this lane's mask at the same exchange?
  bool has_arrived(int first, int count, int lane) const {
    const Thread& mine = threads_[size_t(first + lane)];
    for (int other = 0; other < warp_size; ++other) {
      if (!(mine.exchange.mask >> other & 1)) continue;
      if (other >= count) fail_outside(first + lane, "the mask of " + std::string(mine.exchange.name) + " has lanes that are no threads");
      const Thread& t = threads_[size_t(first + other)];
      if (t.state == State::done)
        fail_outside(first + lane, std::string(mine.exchange.name) + " waits for thread " + std::to_string(first + other) + ", which has ended");
      if (t.state != State::at_exchange) return false;
      if (t.line != mine.line || t.exchange.mask != mine.exchange.mask || t.exchange.name != mine.exchange.name)
        fail_outside(first + lane, std::string("divergent ") + mine.exchange.name + ": thread " + std::to_string(first + other) +
                                       " of its mask is at " + t.exchange.name + " in line " + std::to_string(t.line));
    }
    return true;
  }

  // Nobody can go on: all must be at one barrier.
  void release_barrier() {
    const auto waiting = std::find_if(threads_.begin(), threads_.end(), [](const Thread& t) { return t.state == State::at_barrier; });
    for (size_t i = 0; i < threads_.size(); ++i) {
      const Thread& t = threads_[i];
      const int thread = int(i);
      if (t.state == State::at_exchange) fail_outside(thread, std::string("divergent ") + t.exchange.name + ": not all lanes of its mask arrive");
      const int other = int(waiting - threads_.begin());
      if (t.state == State::done) fail_outside(other, "__syncthreads waits for thread " + std::to_string(thread) + ", which has ended");
      if (t.line != waiting->line) fail_outside(other, "divergent __syncthreads: thread " + std::to_string(thread) + " is at line " + std::to_string(t.line));
    }
    for (Thread& t : threads_) t.state = State::ready;
  }

  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  unsigned index_;
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<Fiber>>& fibers_;
  size_t used_ = 0;
  std::vector<Fiber*> idle_;
  std::mt19937& random_;
  std::map<const void*, std::unique_ptr<char, Free>> shared_;
  void (*start_)(const void*) = nullptr;
  const void* context_ = nullptr;
  int now_ = 0;
  std::string error_;
};

inline Block* block = nullptr;

// ---- Launches --------------------------------------------------------------------------------------------------------

// Every kernel that a launcher could start, and those that were started: tests ask whether one never was.
struct Kernels {
  std::map<const void*, std::string> known;
  std::set<const void*> started;
};
inline Kernels kernels;

template <auto kernel>
struct Known {
  Known() { kernels.known[reinterpret_cast<const void*>(kernel)] = name(); }
  static std::string name() {
    const std::string text = __PRETTY_FUNCTION__;
    const size_t from = text.find("kernel = ") + 9;
    return text.substr(from, text.find(';', from) - from);
  }
  static inline const Known at_load{};
};

template <class Parameter>
void run_grid(void (*kernel)(Parameter), unsigned blocks, int threads, const Parameter& parameter) {
  static std::vector<std::unique_ptr<Fiber>> fibers;
  static std::mt19937 random(1);
  kernels.started.insert(reinterpret_cast<const void*>(kernel));
  gridDim.x = blocks;
  blockDim.x = unsigned(threads);
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    Block here(blockIdx.x, threads, fibers, random);
    block = &here;
    try {
      here.run([&] { kernel(parameter); });
    } catch (...) {
      fibers.clear();  // some hold threads that never ended
      throw;
    }
  }
}

}  // namespace emulation

namespace scorefusion::cuda {

struct Grid {
  int64_t blocks;
  const char* file;
  int line;
  Grid(int64_t count, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : blocks(count), file(file), line(line) {}
};

template <class Parameter>
void launch(void (*kernel)(Parameter), Grid grid, int threads, size_t, void*, const Parameter& parameter) {
  static_assert(sizeof(Parameter) <= 32764, "CUDA takes no more parameters");
  if (grid.blocks < 1 || grid.blocks > 0x7FFFFFFF || threads < 1 || threads > 1024)
    throw emulation::Error(std::string(grid.file) + ":" + std::to_string(grid.line) + ": " +
                           std::to_string(grid.blocks) + " blocks of " + std::to_string(threads) + " threads");
  emulation::run_grid(kernel, unsigned(grid.blocks), threads, parameter);
}

template <auto kernel>
int resident_blocks(int) {
  (void)&emulation::Known<kernel>::at_load;
  return emulation::settings.resident_blocks;
}

}  // namespace scorefusion::cuda

// ---- What threads call -----------------------------------------------------------------------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { emulation::block->barrier(line); }

namespace emulation {

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, int line) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* received = block->exchange({name, mask, bits, source}, line);
  std::memcpy(&value, received + source, sizeof(T));
  return value;
}

inline int lane() { return int(threadIdx.x) % warp_size; }
// The lane asked for if it is in the same section of `width` lanes, else one's own.
inline int within(int source, int width) { return source >= 0 && source / width == lane() / width ? source : lane(); }

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE()) {
  const int section = emulation::lane() / width * width;
  return emulation::shuffle("__shfl_sync", mask, value, section + source % width, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, int line = __builtin_LINE()) {
  return emulation::shuffle("__shfl_xor_sync", mask, value, emulation::within(emulation::lane() ^ with, width), line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  return emulation::shuffle("__shfl_down_sync", mask, value, emulation::within(emulation::lane() + by, width), line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32, int line = __builtin_LINE()) {
  return emulation::shuffle("__shfl_up_sync", mask, value, emulation::within(emulation::lane() - by, width), line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const uint64_t* votes =
      emulation::block->exchange({"__ballot_sync", mask, uint64_t(predicate != 0), emulation::lane()}, line);
  unsigned ballot = 0;
  for (int lane = 0; lane < emulation::warp_size; ++lane) ballot |= unsigned(votes[lane] & 1) << lane;
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) == mask;
}
inline void __syncwarp(unsigned mask = emulation::every_lane, int line = __builtin_LINE()) {
  emulation::block->exchange({"__syncwarp", mask, 0, emulation::lane()}, line);
}
