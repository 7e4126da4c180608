// The launcher of gram and combine_gram on a GPU.
#include "gram_cuda.cuh"

#include "combine.h"
#include "gram.h"

namespace scorefusion {

namespace {

int64_t gram_partials(const Batch& batch) {
  return cuda::partial_sums(cuda::shape_of(batch.size), batch.samples, pair_count(batch.m));
}

}  // namespace

void gram_cuda(const Batch& batch, const Coefficients& c, const Output& y, double* G, double* workspace, void* stream) {
  using namespace cuda;
  if (batch.samples == 0) return;
  double* const partials = workspace;
  const Coefficients there =
      y.data ? on_device(c, batch.samples, batch.m, workspace + gram_partials(batch), stream) : Coefficients{};
  const bool one_pass = one_group(batch);
  const Output y_here = one_pass ? y : Output{};
  dispatch(pack_size(batch, y), one_pass ? batch.m : 0,
           [&]<int V, int M>() { launch_gram<V, M>(batch, there, y_here, G, partials, stream); });
  launch_finish<GramResult>({{G, batch.m}, partials, shape_of(batch.size).pieces, int(pair_count(batch.m))},
                            batch.samples, stream);
  // y may lie where an operand does, so it is written when all products have been read.
  if (y.data && !one_pass) combine_cuda(batch, there, y, nullptr, stream);
}

int64_t gram_workspace(const Batch& batch, const Coefficients& c, const Output& y) {
  return gram_partials(batch) + (y.data ? cuda::coefficient_workspace(c, batch.samples, batch.m) : 0);
}

}  // namespace scorefusion
