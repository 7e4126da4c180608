// A call of the CUDA runtime that fails becomes a CudaError that says what, where and why.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "../array/errors.h"
#include "runtime.h"

namespace scorefusion::cuda {

[[noreturn]] inline void fail(cudaError_t error, const char* what, const char* file, int line) {
  std::string text = std::string(file) + ":" + std::to_string(line) + ": " + what + ": " + cudaGetErrorName(error) +
                     ": " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    text += std::string(" (built for ") + architectures() + ")";
  throw CudaError(text);
}

inline void check(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears it, so that the next call does not report it again
  fail(error, what, file, line);
}

}  // namespace scorefusion::cuda

#define SF_CUDA_CHECK(call) ::scorefusion::cuda::check((call), #call, __FILE__, __LINE__)
