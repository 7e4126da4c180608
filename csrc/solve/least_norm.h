// Among all minima of λᵀQλ + 2bᵀλ over the simplex the one of smallest norm.
#pragma once

#include <vector>

#include "active_set.h"

namespace scorefusion::solve {

// Moves a minimum `weights`, whose slopes h = Qλ + b are given, within the face of all minima: the λ >= 0 on T, the
// indices whose slope is within `precision` of the lowest, with the same A λ, A = Q + shift 11ᵀ. False where T leaves
// no freedom; weights are then as they were. The caller is to look at the certificate of the new ones.
// smallest_pivot: of a Cholesky factor of A on the positive weights.
bool least_norm(const ActiveSet::Matrix& Q, const double* h /* (k,) */, double precision, double smallest_pivot,
                std::vector<double>& weights /* (k,) */);

}  // namespace scorefusion::solve
