// r_b = Σ_j c_bj u_bj, loss_b = |r_b|², grad_bj = 2 <u_bj, r_b>, in one pass and in float64 throughout.
#pragma once

#include "../cpu/work.h"
#include "batch.h"

namespace scorefusion {

// r.data == nullptr: r is not written. Sums use the unrounded r.
void residual_cpu(const Batch& batch, const Coefficients& c, const Output& r, double* loss /* (samples,) */,
                  double* grad /* (samples, m) */, const Work& work);
void residual_cuda(const Batch& batch, const Coefficients& c, const Output& r, double* loss /* (samples,) */,
                   double* grad /* (samples, m) */,
                   double* workspace /* residual_workspace(...) elements, or nullptr if 0 */, void* stream);

// How many doubles residual_cuda wants, for the partial sums of its first stage and for per-sample coefficients that
// come from the host; 0 when it needs neither.
int64_t residual_workspace(const Batch& batch, const Coefficients& c);

}  // namespace scorefusion
