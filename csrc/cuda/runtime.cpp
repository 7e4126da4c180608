// What host operations ask of CUDA, in a build that has it; csrc/cuda/absent.cpp answers where it is missing.
#if SCOREFUSION_CUDA

#include "runtime.h"

#include "check.h"

#ifndef SCOREFUSION_CUDA_ARCHITECTURES
#define SCOREFUSION_CUDA_ARCHITECTURES "unknown"
#endif

namespace scorefusion::cuda {

namespace {

struct Found {
  int devices = 0;
  std::string why_not;
};

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Found look() {
  Found found;
  int devices = 0;  // stays untouched when there is no driver
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices > 0) {
    found.devices = devices;
    return found;
  }
  cudaGetLastError();
  if (error == cudaErrorNoDevice || error == cudaSuccess) {
    found.why_not = "no CUDA device is visible";
  } else if (driver_version() == 0) {
    found.why_not = "no NVIDIA driver is installed";
  } else if (error == cudaErrorInsufficientDriver) {
    found.why_not = "the NVIDIA driver serves CUDA up to " + version_text(driver_version()) + ", this build needs " +
                    version_text(runtime_version());
  } else {
    found.why_not = std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  }
  return found;
}

const Found& found() {
  static const Found once = look();
  return once;
}

}  // namespace

bool available() { return found().devices > 0; }
std::string why_not() { return found().why_not; }
int device_count() { return found().devices; }
const char* architectures() { return SCOREFUSION_CUDA_ARCHITECTURES; }

int runtime_version() {
  int version = 0;
  return cudaRuntimeGetVersion(&version) == cudaSuccess ? version : 0;
}

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

DeviceGuard::DeviceGuard(int device) {
  int current = -1;
  SF_CUDA_CHECK(cudaGetDevice(&current));
  if (current == device) return;
  SF_CUDA_CHECK(cudaSetDevice(device));
  former_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (former_ >= 0) cudaSetDevice(former_);
}

void order_after(void* stream, void* other) {
  if (stream == other) return;
  cudaEvent_t event;
  SF_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  cudaError_t error = cudaEventRecord(event, static_cast<cudaStream_t>(other));
  if (error == cudaSuccess) error = cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event, 0);
  cudaEventDestroy(event);  // lives on until the wait is over
  SF_CUDA_CHECK(error);
}

void fill_zero(void* data, int64_t bytes, void* stream) {
  SF_CUDA_CHECK(cudaMemsetAsync(data, 0, size_t(bytes), static_cast<cudaStream_t>(stream)));
}

void wait(void* stream) { SF_CUDA_CHECK(cudaStreamSynchronize(static_cast<cudaStream_t>(stream))); }

}  // namespace scorefusion::cuda

#endif
