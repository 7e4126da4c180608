#include "combine_cuda.cuh"

#include "combine.h"

namespace scorefusion {

namespace cuda {

namespace {

bool lie_joined(const Operand& u, int64_t size) { return u.is_noise() ? u.ids == nullptr : u.stride == size; }

// Samples that lie one after another, under the same coefficients, are one long sample: vectors cross their borders.
Batch join(const Batch& batch, const Coefficients& c, const Output& y) {
  const bool joined =
      c.shared() && y.stride == batch.size &&
      std::all_of(batch.u, batch.u + batch.m, [&](const Operand& u) { return lie_joined(u, batch.size); });
  if (!joined) return batch;
  Batch one = batch;
  one.samples = 1;
  one.size = batch.samples * batch.size;
  return one;
}

}  // namespace

void combine_in_float64(const Batch& batch, const Coefficients& c, const Output& y, void* stream) {
  if (batch.samples == 0 || batch.size == 0) return;
  launch_combine<2, 0>(join(batch, c, y), batch.size, c, y, stream);
}

}  // namespace cuda

void combine_cuda(const Batch& batch, const Coefficients& c, const Output& y, double* workspace, void* stream) {
  using namespace cuda;
  if (batch.samples == 0 || batch.size == 0) return;
  const Coefficients c_there = on_device(c, batch.samples, batch.m, workspace, stream);
  const Batch joined = join(batch, c, y);
  dispatch(pack_size(batch, y), one_group(batch) ? batch.m : 0,
           [&]<int V, int M>() { launch_combine<V, M>(joined, batch.size, c_there, y, stream); });
}

int64_t combine_workspace(const Batch& batch, const Coefficients& c) {
  return cuda::coefficient_workspace(c, batch.samples, batch.m);
}

}  // namespace scorefusion
