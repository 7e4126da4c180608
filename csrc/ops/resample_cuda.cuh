// Resampling: one block for each group, in turn. It reads the log weights three times, and works on n to 4 n doubles of
// its workspace, which mostly stay in the second-level cache; ancestors are found by bisection.
#pragma once

#include "../cuda/portable.cuh"
#include "resample_group.h"

namespace scorefusion::cuda {

// ---- Constants ---------------------------------------------------------------------------------------------------

constexpr int resample_threads = 256;
constexpr int resample_blocks = 2;  // to a processor: left to itself ptxas wants three, and spills
constexpr int resample_warps = resample_threads / warp_size;

// ---- Helpers -----------------------------------------------------------------------------------------------------

// The threads of a block.
struct Block {
  double* warps;  // (resample_warps,), shared

  template <class F>
  __device__ void each(int64_t count, const F& f) const {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) f(i);
    __syncthreads();  // all is written before anyone goes on to read it
  }
  template <class F>
  __device__ void once(const F& f) const {
    if (threadIdx.x == 0) f();
    __syncthreads();  // the one has done it before anyone goes on
  }
  __device__ void meet() const { __syncthreads(); }
  __device__ double largest(const double* values, int64_t n) const {
    const double infinite = bits_as<double>(uint64_t(0x7FF0000000000000));
    double top = -infinite;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      if (!(values[i] <= top)) top = values[i] == values[i] ? values[i] : infinite;
    for (int offset = warp_size / 2; offset > 0; offset /= 2) {
      const double other = __shfl_xor_sync(0xFFFFFFFFu, top, offset);
      top = other > top ? other : top;
    }
    if (threadIdx.x % warp_size == 0) warps[threadIdx.x / warp_size] = top;
    __syncthreads();  // every warp has written its largest before they are compared
    top = warps[0];
    for (int warp = 1; warp < resample_warps; ++warp) top = warps[warp] > top ? warps[warp] : top;
    __syncthreads();  // all have read them before the next group's overwrite them
    return top;
  }
  template <class Key, class Store>
  __device__ void search(int64_t count, const double* sorted, int64_t size, const Key& key, const Store& store) const {
    each(count, [&](int64_t j) {
      const double k = key(j);
      int64_t low = 0, high = size;
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sorted[middle] <= k)
          low = middle + 1;
        else
          high = middle;
      }
      store(j, low);
    });
  }
};

struct ResampleArguments {
  Resampling r;
  double* workspace;  // (blocks, doubles)
  int64_t doubles;
};

// ---- Kernel ------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(resample_threads, resample_blocks)
    resample_kernel(GRID_CONSTANT ResampleArguments a) {
  SHARED(warps, double[resample_warps]);
  for (int64_t group = blockIdx.x; group < a.r.groups; group += gridDim.x) {
    resample_group(Block{warps}, a.r, group, a.workspace + blockIdx.x * a.doubles);
    __syncthreads();  // all are through with the workspace before the next group's weights go there
  }
}

// ---- Launcher ----------------------------------------------------------------------------------------------------

inline int64_t resample_grid(const Resampling& r) {
  const int64_t resident = resident_blocks<resample_kernel>(resample_threads);
  return r.groups < resident ? r.groups : resident;
}

inline void launch_resample(const Resampling& r, double* workspace, void* stream) {
  const ResampleArguments a = {r, workspace, ResampleRoom::doubles(r.method, r.n)};
  launch(resample_kernel, resample_grid(r), resample_threads, 0, stream, a);
}

}  // namespace scorefusion::cuda
