// Per-sample coefficients that the caller keeps on the host.
#pragma once

#include "../ops/batch.h"

namespace scorefusion::cuda {

// Must these be brought to the device?
inline bool lie_on_host(const Coefficients& c) { return c.data && c.on_host && !c.shared(); }

// Doubles of workspace that this takes.
inline int64_t coefficient_workspace(const Coefficients& c, int64_t samples, int m) {
  return lie_on_host(c) ? samples * m : 0;
}

// The same coefficients on the device, in `workspace`; others are returned as they are. The values travel as
// kernel parameters, by as many small launches as it takes: the host waits for nothing, its memory is free again when
// this returns, and a CUDA graph may capture it.
Coefficients on_device(const Coefficients& c, int64_t samples, int m, double* workspace, void* stream);

}  // namespace scorefusion::cuda
