// to[i] = slab.values[i]: parameters become memory. One thread per value; 8 bytes read and written for each.
#pragma once

#include "portable.cuh"

#include <cstdint>

namespace scorefusion::cuda {

constexpr int small_slab = 256;   // doubles: a launch with few parameters is faster
constexpr int large_slab = 3968;  // 31 KiB of the 32,764 bytes that parameters may take
constexpr int slab_threads = 256;

template <int capacity>
struct Slab {
  double values[capacity];
  int count;
  double* to;
};

template <int capacity>
__global__ void store_slab_kernel(GRID_CONSTANT Slab<capacity> slab) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < slab.count) slab.to[i] = slab.values[i];
}

template <int capacity>
void launch_store_slab(const Slab<capacity>& slab, void* stream) {
  launch(store_slab_kernel<capacity>, (slab.count + slab_threads - 1) / slab_threads, slab_threads, 0, stream, slab);
}

}  // namespace scorefusion::cuda
