// min λᵀQλ + qᵀλ over the simplex {λ >= 0, Σλ = 1}, exactly, with a certificate. Double precision, host only.
#pragma once

#include <cstddef>
#include <vector>

namespace scorefusion::solve {

struct Quadratic {
  const double* Q;  // (k, k), symmetric and positive semidefinite up to rounding
  const double* q;  // (k,), or nullptr: zeros
  std::size_t k;
};

struct SimplexMinimum {
  std::vector<double> weights;  // (k,)
  double value;
  double gap;  // max_i(λᵀ∇ - ∇_i) >= value - the minimum, with ∇ = 2Qλ + q;  never negative
  std::size_t iterations;
};

// Throws ValueError, naming the entry, where Q or q is not finite, or Q not symmetric or not positive semidefinite to
// within `rounding` max|Q|.
void check(const Quadratic& problem, double rounding);

// The minimum of smallest norm. `tolerance`: the gap, relative to max(|Q|, |q|), at which the search may end; what it
// finds is then refined to rounding.
SimplexMinimum minimize_on_simplex(const Quadratic& problem, double tolerance);

}  // namespace scorefusion::solve
