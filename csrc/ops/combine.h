// y_b = Σ_j c_bj u_bj, and the same pass that also carries G_b (combine_gram).
#pragma once

#include "../cpu/work.h"
#include "batch.h"

namespace scorefusion {

// combine: a chain of fused multiply-adds in operand order (the first term is a product), in float32 or float64.
void combine_cpu(const Batch& batch, const Coefficients& c, const Output& y, const Work& work);
void combine_cuda(const Batch& batch, const Coefficients& c, const Output& y,
                  double* workspace /* combine_workspace(...) elements, or nullptr if 0 */, void* stream);

// How many doubles combine_cuda wants: room for per-sample coefficients that come from the host, else 0.
int64_t combine_workspace(const Batch& batch, const Coefficients& c);

}  // namespace scorefusion
