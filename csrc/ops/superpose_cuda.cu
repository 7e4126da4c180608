// superpose on a GPU: a thread for a sample, whose matrices are a few numbers wide.
#include "../cuda/portable.cuh"
#include "superpose.h"

namespace scorefusion {

namespace cuda {

namespace {

constexpr int superpose_threads = 64;

struct SuperposeArguments {
  Superposed p;
  SuperposeArrays at;
  int64_t samples;
  Superpose what;
};
static_assert(sizeof(SuperposeArguments) <= 4096);

template <int most>
__global__ void __launch_bounds__(superpose_threads) superpose_kernel(GRID_CONSTANT SuperposeArguments a) {
  const int64_t b = int64_t(blockIdx.x) * superpose_threads + threadIdx.x;
  if (b < a.samples) superpose_sample<most>(a.what, a.p, a.at, b);
}

}  // namespace

}  // namespace cuda

void superpose_cuda(Superpose what, const Superposed& p, const SuperposeArrays& at, int64_t samples, void* stream) {
  using namespace cuda;
  if (samples == 0) return;
  const SuperposeArguments a = {p, at, samples, what};
  const int64_t blocks = (samples + superpose_threads - 1) / superpose_threads;
  launch(p.k <= 4 ? superpose_kernel<4> : superpose_kernel<max_superposed>, blocks, superpose_threads, 0, stream, a);
}

}  // namespace scorefusion
