// The shape of every sum over a sample: fixed by the sample's size alone, never by threads, batches or
// instruction sets.
//
// Small samples (size <= narrow_size): one running sum over the elements in order.
// Others: element d of a chunk of chunk_size elements belongs to lane d mod 8; each lane is a running sum, the
// eight lanes are added in a fixed tree, and the sums of the chunks are added in order.
// (CUDA has its own fixed shape; see csrc/cuda/reduce.cuh.)
#pragma once

#include <cstdint>

#include "../math/host_device.h"

namespace scorefusion {

constexpr int64_t narrow_size = 64;
constexpr int64_t chunk_size = 16384;
constexpr int sum_lanes = 8;

inline double sum_of_lanes(const double lane[sum_lanes]) {
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

// Pairs (i, j) with j <= i of an m×m symmetric matrix, stored row by row.
SF_HOST_DEVICE constexpr int64_t pair_count(int64_t m) { return m * (m + 1) / 2; }
SF_HOST_DEVICE constexpr int64_t pair_index(int64_t i, int64_t j) { return i * (i + 1) / 2 + j; }

}  // namespace scorefusion
