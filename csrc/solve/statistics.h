// What rows of inner products add to the sums that λ is learned from.
#pragma once

#include <cstddef>
#include <cstdint>

namespace scorefusion::solve {

// Rows of k networks' outputs u_i, perhaps the state x, and a target e; σ s_i − e is v_i − e up to a sign, with
// v_i = scale_i u_i + shift_i x.
struct Rows {
  std::size_t rows, k, m;    // m = k + 1, or k + 2 with x
  const double* G;           // (rows, m, m): inner products of (u_0, …, u_{k−1}, [x,] e)
  const double* scale;       // (rows, k)
  const double* shift;       // (rows, k), or null without x
  const double* weight;      // (rows,)
  const std::int64_t* cell;  // (rows,): which of the sums a row belongs to
};

// Adds each row to the sums of its cell, one row after the other: w times the upper triangle of the Gram matrix of
// (r_0, d_1, …, d_{k−1}), r_0 = v_0 + e, d_i = v_i − v_0; then w mean_i |v_i|²; then 1. Returns −1; or, and nothing is
// added then, the first of the operands' squared norms that is not finite, as row·m + operand.
std::int64_t add_rows(const Rows& rows, double* sums /* (cells, k(k+1)/2 + 2) */);

}  // namespace scorefusion::solve
