// The scheduler: which thread of a block goes on, and who waits for whom.
//
// For ThreadSanitizer this file alone is compiled without it (with EMULATION_TSAN defined): what the scheduler writes
// down is no business of the threads, and nothing orders them but what is said here by release and acquire.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_emulation.h"
#include "fiber.h"

namespace emulation {

namespace {

enum class State { ready, at_barrier, at_exchange, done };

struct Thread {
  State state = State::ready;
  int line = 0;               // where it waits
  const char* exchange = "";  // for a shuffle or a vote: its name,
  unsigned mask = 0;          // its mask,
  uint64_t brought = 0;       // the value
  int source = 0;             // the lane whose value it takes,
  uint64_t received = 0;      // that value
  unsigned votes = 0;         // and bit 0 of what all of them brought
  int exchanges = 0;          // so many so far
  uint64_t meeting[2];        // of the warp that this thread is the first of
  Fiber* fiber = nullptr;
};

std::vector<std::unique_ptr<Fiber>> all_fibers;  // kept from block to block
std::mt19937 random_order(1);

std::string place(unsigned block, int thread, int line) {
  return " (block " + std::to_string(block) + ", thread " + std::to_string(thread) + ", line " + std::to_string(line) +
         ")";
}

class Block {
 public:
  Block(unsigned index, int threads, void (*body)(const void*), const void* context)
      : index_(index), threads_(size_t(threads)), body_(body), context_(context) {}

  void run() {
    const int warps = (int(threads_.size()) + warp_size - 1) / warp_size;
    std::vector<int> order = some_order(warps);
    const auto ended = [](const Thread& thread) { return thread.state == State::done; };
    while (!std::all_of(threads_.begin(), threads_.end(), ended)) {
      // The first warp that can go on goes as far as it can; then the search starts again at the first.
      if (std::any_of(order.begin(), order.end(), [&](int warp) { return run_warp(warp); })) continue;
      release_barrier();
      order = some_order(warps);
    }
    acquire(&end_);
  }

  // ---- called by threads

  // Barriers take turns with two meeting points: who is late to leave one must not learn of what was done on the way
  // to the next. The same for the exchanges of a warp.
  void barrier(int line) {
    uint64_t* const meeting = &meeting_[barriers_ % 2];
    release(meeting);
    wait(State::at_barrier, line);
    acquire(meeting);
  }

  const Thread& exchange(const char* name, unsigned mask, uint64_t brought, int source, int line) {
    const int lane = now_ % warp_size;
    if (!(mask >> lane & 1))
      throw Error(name + std::string(" with a mask without its own lane") + place(index_, now_, line));
    if (!(mask >> source & 1))
      throw Error(name + std::string(" reads lane ") + std::to_string(source) + ", which is not in its mask" +
                  place(index_, now_, line));
    Thread& thread = current();
    thread.exchange = name;
    thread.mask = mask;
    thread.brought = brought;
    thread.source = source;
    uint64_t* const meeting = &threads_[size_t(now_ - lane)].meeting[thread.exchanges++ % 2];
    release(meeting);
    wait(State::at_exchange, line);
    acquire(meeting);
    return thread;
  }

  void* shared(const void* declaration, size_t bytes) {
    auto& storage = shared_[declaration];
    if (!storage) {
      storage.reset(static_cast<char*>(std::malloc(bytes)));
      std::memset(storage.get(), 0xFF, bytes);  // NaN, read as float, double or half
      release(storage.get());
    }
    acquire(storage.get());
    return storage.get();
  }

 private:
  Thread& current() { return threads_[size_t(now_)]; }

  std::vector<int> some_order(int count) {
    std::vector<int> order(size_t(count), 0);
    std::iota(order.begin(), order.end(), 0);
    if (settings.order == Order::reverse) std::reverse(order.begin(), order.end());
    if (settings.order == Order::shuffled) std::shuffle(order.begin(), order.end(), random_order);
    return order;
  }

  // Every lane of it that is ready, each until it waits. Could any go on?
  bool run_warp(int warp) {
    const int first = warp * warp_size, count = std::min(warp_size, int(threads_.size()) - first);
    bool went = false;
    for (const int lane : some_order(count)) {
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
      t.fiber->start([](void* block) { static_cast<Block*>(block)->run_body(); }, this);
    }
    if (t.fiber->resume()) {
      t.state = State::done;
      // A thread that never had to wait hands its stack to the next; ThreadSanitizer would see them meet there.
      if (!has_tsan) idle_.push_back(t.fiber);
      t.fiber = nullptr;
    }
    if (!error_.empty()) throw Error(error_);
  }

  // On the thread's own stack.
  void run_body() {
    acquire(&all_fibers);  // what the host and earlier blocks did
    try {
      body_(context_);
    } catch (const Error& error) {
      error_ = error.what();
    }
    release(&end_);
  }

  Fiber* free_fiber() {
    if (idle_.empty()) {
      if (used_ == all_fibers.size()) all_fibers.push_back(std::make_unique<Fiber>());
      idle_.push_back(all_fibers[used_++].get());
    }
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  void wait(State state, int line) {
    Thread& thread = current();
    thread.state = state;
    thread.line = line;
    thread.fiber->pause();
  }

  [[noreturn]] void fail(int thread, const std::string& what) const {
    throw Error(what + place(index_, thread, threads_[size_t(thread)].line));
  }

  // Exchanges of which all lanes have arrived take place.
  bool complete_exchanges(int first, int count) {
    bool completed = false;
    Thread* const warp = &threads_[size_t(first)];
    for (int lane = 0; lane < count; ++lane) {
      if (warp[lane].state != State::at_exchange || !has_arrived(first, count, lane)) continue;
      const unsigned mask = warp[lane].mask;
      unsigned votes = 0;
      for (int from = 0; from < count; ++from)
        if (mask >> from & 1) votes |= unsigned(warp[from].brought & 1) << from;
      for (int to = 0; to < count; ++to) {
        if (!(mask >> to & 1)) continue;
        warp[to].received = warp[warp[to].source].brought;
        warp[to].votes = votes;
        warp[to].state = State::ready;
      }
      completed = true;
    }
    return completed;
  }

  // Are all lanes of this lane's mask at the same exchange?
  bool has_arrived(int first, int count, int lane) const {
    const Thread& mine = threads_[size_t(first + lane)];
    const auto name = [&] { return std::string(mine.exchange); };
    const auto thread = [&](int other) { return "thread " + std::to_string(first + other); };
    for (int other = 0; other < warp_size; ++other) {
      if (!(mine.mask >> other & 1)) continue;
      if (other >= count) fail(first + lane, "the mask of " + name() + " has lanes that are no threads");
      const Thread& theirs = threads_[size_t(first + other)];
      if (theirs.state == State::done) fail(first + lane, name() + " waits for " + thread(other) + ", which has ended");
      if (theirs.state != State::at_exchange) return false;
      if (theirs.line != mine.line || theirs.mask != mine.mask ||
          (theirs.exchange != mine.exchange && std::strcmp(theirs.exchange, mine.exchange) != 0))
        fail(first + lane, "divergent " + name() + ": " + thread(other) + " of its mask is at " + theirs.exchange +
                               " in line " + std::to_string(theirs.line));
    }
    return true;
  }

  // Nobody can go on: all must be at one barrier.
  void release_barrier() {
    const auto at_barrier = [](const Thread& thread) { return thread.state == State::at_barrier; };
    const int waiting = int(std::find_if(threads_.begin(), threads_.end(), at_barrier) - threads_.begin());
    for (int i = 0; i < int(threads_.size()); ++i) {
      const Thread& t = threads_[size_t(i)];
      const std::string thread = "thread " + std::to_string(i);
      if (t.state == State::at_exchange)
        fail(i, std::string("divergent ") + t.exchange + ": not all lanes of its mask arrive");
      if (t.state == State::done) fail(waiting, "__syncthreads waits for " + thread + ", which has ended");
      if (t.line != threads_[size_t(waiting)].line)
        fail(waiting, "divergent __syncthreads: " + thread + " is at the one in line " + std::to_string(t.line));
    }
    for (Thread& t : threads_) t.state = State::ready;
    ++barriers_;
  }

  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  const unsigned index_;
  std::vector<Thread> threads_;
  void (*const body_)(const void*);
  const void* const context_;
  int now_ = 0;      // the thread that runs
  size_t used_ = 0;  // of all_fibers
  std::vector<Fiber*> idle_;
  std::map<const void*, std::unique_ptr<char, Free>> shared_;
  std::string error_;
  int barriers_ = 0;
  uint64_t meeting_[2] = {}, end_ = 0;  // addresses that ThreadSanitizer knows
};

Block* block = nullptr;

}  // namespace

void run_grid(unsigned blocks, int threads, void (*body)(const void*), const void* context) {
  gridDim.x = blocks;
  blockDim.x = unsigned(threads);
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    release(&all_fibers);
    Block here(blockIdx.x, threads, body, context);
    block = &here;
    try {
      here.run();
    } catch (...) {
      all_fibers.clear();  // some hold threads that never ended
      throw;
    }
  }
}

void barrier(int line) { block->barrier(line); }
void* shared(const void* declaration, size_t bytes) { return block->shared(declaration, bytes); }

uint64_t exchange(const char* name, unsigned mask, uint64_t bits, int source, int line) {
  return block->exchange(name, mask, bits, source, line).received;
}

unsigned ballot(const char* name, unsigned mask, bool vote, int line) {
  return block->exchange(name, mask, vote, lane(), line).votes;
}

}  // namespace emulation
