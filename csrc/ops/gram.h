// G_bij = <u_bi, u_bj>, products and sums in float64; alone, or in one read with y = Σ_j c_j u_j.
#pragma once

#include "../cpu/work.h"
#include "batch.h"

namespace scorefusion {

// y.data == nullptr: the Gram alone (c is not looked at). Else y is, bit for bit, what combine gives.
void gram_cpu(const Batch& batch, const Coefficients& c, const Output& y, double* G /* (samples, m, m) */,
              const Work& work);
void gram_cuda(const Batch& batch, const Coefficients& c, const Output& y, double* G /* (samples, m, m) */,
               double* workspace /* gram_workspace(...) elements, or nullptr if 0 */, void* stream);

// How many doubles gram_cuda wants, for the partial sums of its first stage and for per-sample coefficients that
// come from the host; 0 when it needs neither.
int64_t gram_workspace(const Batch& batch, const Coefficients& c, const Output& y);

}  // namespace scorefusion
