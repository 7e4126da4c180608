// The launcher of resampling on a GPU.
#include "resample_cuda.cuh"

namespace scorefusion {

void resample_cuda(const Resampling& r, double* workspace, void* stream) {
  if (r.groups > 0 && r.n > 0) cuda::launch_resample(r, workspace, stream);
}

int64_t resample_workspace(const Resampling& r) {
  if (r.groups == 0 || r.n == 0) return 0;
  return cuda::resample_grid(r) * ResampleRoom::doubles(r.method, r.n);
}

}  // namespace scorefusion
