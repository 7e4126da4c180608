// The one header between kernels and the machine they run on: CUDA under nvcc, and under a plain C++ compiler the
// test-only emulation (tests/cuda_emulation), which runs the same sources on a CPU.
//
// What a kernel may use so that both accept it: blockIdx, threadIdx, blockDim, gridDim (x alone), __syncthreads,
// __shfl_xor_sync on doubles, SHARED for shared memory, GRID_CONSTANT for its one parameter, and launch(...) for
// <<<>>>.
#pragma once

#if defined(SCOREFUSION_CUDA_EMULATION)

#include <cuda_emulation.h>

#else

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>

#include "check.h"

// SHARED(sums, double[4][6]) declares sums, one per block.
#define SHARED(name, ...)          \
  using name##_type = __VA_ARGS__; \
  __shared__ name##_type name

// A parameter that stays where the launch put it: indexing it makes no local copy.
#define GRID_CONSTANT const __grid_constant__

namespace scorefusion::cuda {

// A number of blocks that remembers where it was written, for errors.
struct Grid {
  unsigned blocks;
  const char* file;
  int line;
  Grid(int64_t count, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : blocks(unsigned(count)), file(file), line(line) {}
};

template <class Parameter>
void launch(void (*kernel)(Parameter), Grid grid, int threads, size_t shared_bytes, void* stream,
            const Parameter& parameter) {
  // clang-format off: it would tear >>> apart
  kernel<<<grid.blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(parameter);
  // clang-format on
  check(cudaGetLastError(), "kernel launch", grid.file, grid.line);
}

// How many blocks of this kernel the current device holds at a time; asked once per kernel and device.
template <auto kernel>
int resident_blocks(int threads) {
  constexpr int devices = 64;
  static std::atomic<int> known[devices];
  int device = 0;
  SF_CUDA_CHECK(cudaGetDevice(&device));
  int blocks = device < devices ? known[device].load(std::memory_order_relaxed) : 0;
  if (blocks == 0) {
    int processors = 0, per_processor = 0;
    SF_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    SF_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, threads, 0));
    blocks = processors * (per_processor > 0 ? per_processor : 1);
    if (device < devices) known[device].store(blocks, std::memory_order_relaxed);
  }
  return blocks;
}

}  // namespace scorefusion::cuda

#endif

namespace scorefusion::cuda {

constexpr int warp_size = 32;

}  // namespace scorefusion::cuda
