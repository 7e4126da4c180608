// CUDA kernels on a CPU, for tests: the same sources, compiled by g++, run here thread by thread.
//
// Blocks run one after another. The threads of a block are fibers, switched by hand wherever a thread has to wait
// (barrier, shuffle, vote), so any order that CUDA allows can be tried: a setting says which warp and which lane go
// first, and one that may go on does go on, as far as it can. Unfair on purpose: what works only because threads
// usually keep pace fails here.
//
// Shared memory is allocated afresh for each block, exactly as large as declared, and filled with NaN. Mistakes that
// CUDA leaves undefined are errors that name block, thread and line: a shuffle that not all lanes of its mask reach,
// that reads a lane outside the mask or is called from outside it, a barrier that some threads do not reach.
// Indexing is left to AddressSanitizer, alignment to UndefinedBehaviorSanitizer, races to ThreadSanitizer, all three
// of which are told about the fibers.
//
// It proves nothing about speed, and nothing about memory order between blocks, of which the kernels need none.
// One thread of the host may launch at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <string>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define GRID_CONSTANT const
#define SHARED(name, ...)                   \
  static const char name##_declaration = 0; \
  using name##_type = __VA_ARGS__;          \
  name##_type& name = *static_cast<name##_type*>(::emulation::shared(&name##_declaration, sizeof(name##_type)))

struct EmulatedIndex {
  unsigned x = 0;
};
inline EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

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

// Every kernel that a launcher could start, and those that were started: tests ask whether one never was.
struct Kernels {
  std::map<const void*, std::string> known;
  std::set<const void*> started;
};
inline Kernels kernels;

constexpr int warp_size = 32;
constexpr unsigned every_lane = 0xFFFFFFFFu;

// ---- emulation.cpp
// ---------------------------------------------------------------------------------------------------

void run_grid(unsigned blocks, int threads, void (*body)(const void*), const void* context);
void barrier(int line);
void* shared(const void* declaration, size_t bytes);  // of this block

// Waits for all lanes of the mask and gives what lane `source` brought ...
uint64_t exchange(const char* name, unsigned mask, uint64_t bits, int source, int line);
// ... or bit 0 of what each of them brought.
unsigned ballot(const char* name, unsigned mask, bool vote, int line);

// ---- Launches
// --------------------------------------------------------------------------------------------------------

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
  emulation::kernels.started.insert(reinterpret_cast<const void*>(kernel));
  const auto body = [&] { kernel(parameter); };
  emulation::run_grid(
      unsigned(grid.blocks), threads, [](const void* context) { (*static_cast<decltype(&body)>(context))(); }, &body);
}

template <auto kernel>
int resident_blocks(int) {
  (void)&emulation::Known<kernel>::at_load;
  return emulation::settings.resident_blocks;
}

}  // namespace scorefusion::cuda

// ---- What threads call
// -----------------------------------------------------------------------------------------------

namespace emulation {

inline int lane() { return int(threadIdx.x) % warp_size; }
// The lane asked for if it is in the same section of `width` lanes, else one's own.
inline int within(int source, int width) { return source >= 0 && source / width == lane() / width ? source : lane(); }

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, int line) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(name, mask, bits, source, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation

inline void __syncthreads(int line = __builtin_LINE()) { emulation::barrier(line); }
inline void __syncwarp(unsigned mask = emulation::every_lane, int line = __builtin_LINE()) {
  emulation::exchange("__syncwarp", mask, 0, emulation::lane(), line);
}
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
  return emulation::ballot("__ballot_sync", mask, predicate != 0, line);
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return emulation::ballot("__any_sync", mask, predicate != 0, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return emulation::ballot("__all_sync", mask, predicate != 0, line) == mask;
}
