// The few vector verbs that the solvers are written in. Sums run in a fixed number of lanes, so that compilers may
// vectorise them and every machine adds in the same order.
#pragma once

#include <cstddef>

namespace scorefusion::solve {

inline double dot(const double* a /* (n,) */, const double* b /* (n,) */, std::size_t n) {
  constexpr std::size_t lanes = 8;
  double sums[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  double rest = 0;
  for (; i < n; ++i) rest += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])) + rest;
}

// y += t x
inline void add_multiple(double* y /* (n,) */, double t, const double* x /* (n,) */, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] += t * x[i];
}

}  // namespace scorefusion::solve
