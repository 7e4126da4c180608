// The launcher of combine on a GPU.
#include "combine_cuda.cuh"

#include "combine.h"

namespace scorefusion {

namespace cuda {

void combine_in_float64(const Batch& batch, const Coefficients& c, const Output& y, void* stream) {
  if (batch.samples == 0 || batch.size == 0) return;
  launch_combine<2, 0>(batch, c, y, stream);
}

}  // namespace cuda

void combine_cuda(const Batch& batch, const Coefficients& c, const Output& y, double* workspace, void* stream) {
  using namespace cuda;
  if (batch.samples == 0 || batch.size == 0) return;
  const Coefficients c_there = on_device(c, batch.samples, batch.m, workspace, stream);
  dispatch(pack_size(batch, y), one_group(batch) ? batch.m : 0,
           [&]<int V, int M>() { launch_combine<V, M>(batch, c_there, y, stream); });
}

int64_t combine_workspace(const Batch& batch, const Coefficients& c) {
  return cuda::coefficient_workspace(c, batch.samples, batch.m);
}

}  // namespace scorefusion
