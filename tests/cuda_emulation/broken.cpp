// Deliberately broken kernels: the emulation and the sanitizers must notice each of these mistakes.
//
//   cuda_emulation_broken <name>     runs one; "sound" runs the kernel that the others were broken from
//
// The exit status is 0 where the result is right under every order of threads and nothing complained.
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>

#include "../../csrc/cuda/portable.cuh"

namespace emulation {

using scorefusion::cuda::launch;

constexpr int threads = 128, warps = threads / warp_size, blocks = 2;

enum class Mistake {
  none,
  off_by_one,
  missing_barrier,
  missing_barrier_before_reuse,
  early_exit,
  divergent_barrier,
  divergent_shuffle,
  wrong_mask,
  source_outside_mask,
  wrong_width,
  misaligned_load,
};

// Sums of rows of n floats: sum[row] = Σ from[row·n + i], blocks taking rows in turn.
struct Sums {
  const float* from;
  double* sum;
  int rows, n;
};

template <Mistake mistake>
double warp_sum(double value) {
  const int lane = int(threadIdx.x) % warp_size;
  const unsigned mask = mistake == Mistake::wrong_mask && lane >= 16 ? 0x0000FFFFu : every_lane;
  const int width = mistake == Mistake::wrong_width ? 16 : warp_size;
  for (int offset = 16; offset > 0; offset /= 2) {
    if constexpr (mistake == Mistake::divergent_shuffle) {
      if (lane < 16)
        value += __shfl_xor_sync(every_lane, value, offset);
      else
        value += __shfl_xor_sync(every_lane, value, offset);
    } else if constexpr (mistake == Mistake::source_outside_mask) {
      if (lane < 16) value += __shfl_xor_sync(0x0000FFFFu, value, offset);
    } else {
      value += __shfl_xor_sync(mask, value, offset, width);
    }
  }
  return value;
}

template <Mistake mistake>
__global__ void sum_kernel(GRID_CONSTANT Sums a) {
  SHARED(scratch, double[warps]);
  const int thread = int(threadIdx.x);
  if (mistake == Mistake::early_exit && thread >= 3 * warp_size) return;
  for (int row = int(blockIdx.x); row < a.rows; row += int(gridDim.x)) {
    double sum = 0;
    const int last = mistake == Mistake::off_by_one ? a.n : a.n - 1;
    for (int i = thread; i <= last; i += threads) sum += double(a.from[row * a.n + i]);
    sum = warp_sum<mistake>(sum);
    if (thread % warp_size == 0) scratch[thread / warp_size] = sum;
    if constexpr (mistake == Mistake::divergent_barrier) {
      if (thread < warp_size)
        __syncthreads();
      else
        __syncthreads();
    } else if constexpr (mistake != Mistake::missing_barrier) {
      __syncthreads();  // every warp has written its sum
    }
    if (thread == 0) {
      double total = 0;
      for (int warp = 0; warp < warps; ++warp) total += scratch[warp];
      a.sum[row] = total;
    }
    if constexpr (mistake != Mistake::missing_barrier_before_reuse) __syncthreads();  // the sums have been read
  }
}

struct alignas(16) Four {
  float value[4];
};

// The same of rows that a vector load may not touch: they need not start at a multiple of 16 bytes.
__global__ void misaligned_kernel(GRID_CONSTANT Sums a) {
  if (threadIdx.x != 0 || blockIdx.x != 0) return;
  for (int row = 0; row < a.rows; ++row) {
    double sum = 0;
    int i = 0;
    for (; i + 4 <= a.n; i += 4) {
      const Four four = *reinterpret_cast<const Four*>(a.from + row * a.n + i);
      for (const float value : four.value) sum += double(value);
    }
    for (; i < a.n; ++i) sum += double(a.from[row * a.n + i]);
    a.sum[row] = sum;
  }
}

bool is_right(void (*kernel)(const Sums)) {
  const int rows = 7, n = 137;
  const auto from = std::make_unique<float[]>(rows * n);
  const auto sum = std::make_unique<double[]>(rows);
  for (int i = 0; i < rows * n; ++i) from[size_t(i)] = float(1 + i % 11);
  for (const Order order : {Order::forward, Order::reverse, Order::shuffled}) {
    settings.order = order;
    launch<Sums>(kernel, blocks, threads, 0, nullptr, Sums{from.get(), sum.get(), rows, n});
    for (int row = 0; row < rows; ++row) {
      double expected = 0;
      for (int i = 0; i < n; ++i) expected += double(from[size_t(row * n + i)]);
      if (sum[size_t(row)] == expected) continue;
      std::printf("wrong sum: %g instead of %g\n", sum[size_t(row)], expected);
      return false;
    }
  }
  return true;
}

int run(const std::string& name) {
  const std::map<std::string, std::function<bool()>> all = {
      {"sound", [] { return is_right(sum_kernel<Mistake::none>); }},
      {"off_by_one", [] { return is_right(sum_kernel<Mistake::off_by_one>); }},
      {"missing_barrier", [] { return is_right(sum_kernel<Mistake::missing_barrier>); }},
      {"missing_barrier_before_reuse", [] { return is_right(sum_kernel<Mistake::missing_barrier_before_reuse>); }},
      {"early_exit", [] { return is_right(sum_kernel<Mistake::early_exit>); }},
      {"divergent_barrier", [] { return is_right(sum_kernel<Mistake::divergent_barrier>); }},
      {"divergent_shuffle", [] { return is_right(sum_kernel<Mistake::divergent_shuffle>); }},
      {"wrong_mask", [] { return is_right(sum_kernel<Mistake::wrong_mask>); }},
      {"source_outside_mask", [] { return is_right(sum_kernel<Mistake::source_outside_mask>); }},
      {"wrong_width", [] { return is_right(sum_kernel<Mistake::wrong_width>); }},
      {"misaligned_load", [] { return is_right(misaligned_kernel); }},
  };
  try {
    return all.at(name)() ? 0 : 1;
  } catch (const Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
}

}  // namespace emulation

int main(int count, char** arguments) { return count > 1 ? emulation::run(arguments[1]) : 2; }
