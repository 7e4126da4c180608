// The launcher of residual on a GPU.
#include "residual_cuda.cuh"

#include "combine_cuda.cuh"
#include "residual.h"

namespace scorefusion {

namespace {

int64_t residual_partials(const Batch& batch) {
  return cuda::partial_sums(cuda::shape_of(batch.size), batch.samples, 1 + batch.m);
}

}  // namespace

void residual_cuda(const Batch& batch, const Coefficients& c, const Output& r, double* loss, double* grad,
                   double* workspace, void* stream) {
  using namespace cuda;
  if (batch.samples == 0) return;
  const Coefficients there = on_device(c, batch.samples, batch.m, workspace + residual_partials(batch), stream);
  const Sink<ResidualResult> sink = {{loss, grad, batch.m}, workspace, shape_of(batch.size).pieces, 1 + batch.m};
  const bool one_pass = one_group(batch);
  const Output r_here = one_pass ? r : Output{};
  dispatch(pack_size(batch, Output{}), one_pass ? batch.m : 0,
           [&]<int V, int M>() { launch_residual<V, M>(batch, there, r_here, sink, stream); });
  launch_finish(sink, batch.samples, stream);
  if (r.data && !one_pass) combine_in_float64(batch, there, r, stream);
}

int64_t residual_workspace(const Batch& batch, const Coefficients& c) {
  return residual_partials(batch) + cuda::coefficient_workspace(c, batch.samples, batch.m);
}

}  // namespace scorefusion
