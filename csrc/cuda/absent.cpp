// A build without CUDA: nothing is available, and whoever still asks for a launch is told so.
#if !SCOREFUSION_CUDA

#include "runtime.h"

#include "../array/errors.h"
#include "../ops/combine.h"
#include "../ops/gram.h"
#include "../ops/resample.h"
#include "../ops/residual.h"
#include "../ops/superpose.h"

namespace scorefusion {

namespace cuda {

namespace {
constexpr const char* reason = "scorefusion was built without CUDA";
}

bool available() { return false; }
std::string why_not() { return reason; }
const char* architectures() { return ""; }
int runtime_version() { return 0; }
int driver_version() { return 0; }
int device_count() { return 0; }
DeviceGuard::DeviceGuard(int) { throw CudaError(reason); }
DeviceGuard::~DeviceGuard() = default;
void order_after(void*, void*) { throw CudaError(reason); }
void fill_zero(void*, int64_t, void*) { throw CudaError(reason); }
void wait(void*) { throw CudaError(reason); }

}  // namespace cuda

void combine_cuda(const Batch&, const Coefficients&, const Output&, double*, void*) { throw CudaError(cuda::reason); }
void gram_cuda(const Batch&, const Coefficients&, const Output&, double*, double*, void*) {
  throw CudaError(cuda::reason);
}
void residual_cuda(const Batch&, const Coefficients&, const Output&, double*, double*, double*, void*) {
  throw CudaError(cuda::reason);
}
void resample_cuda(const Resampling&, double*, void*) { throw CudaError(cuda::reason); }
void superpose_cuda(Superpose, const Superposed&, const SuperposeArrays&, int64_t, void*) {
  throw CudaError(cuda::reason);
}
int64_t combine_workspace(const Batch&, const Coefficients&) { return 0; }
int64_t gram_workspace(const Batch&, const Coefficients&, const Output&) { return 0; }
int64_t residual_workspace(const Batch&, const Coefficients&) { return 0; }
int64_t resample_workspace(const Resampling&) { return 0; }

}  // namespace scorefusion

#endif
