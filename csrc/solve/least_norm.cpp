// A basis of the directions in which the loss changes, and the nearest point to the origin along the others.
#include "least_norm.h"

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace scorefusion::solve {

namespace {

// An orthonormal basis U, (rank, n), of the row space of A[T, T]: a Cholesky factor with diagonal pivoting down to
// rounding, its columns made orthonormal by Gram–Schmidt, repeated where a column lost half of its length.
std::vector<double> row_space(const ActiveSet::Matrix& Q, const std::vector<std::size_t>& T) {
  const std::size_t n = T.size();
  std::vector<double> columns, left(n);
  for (std::size_t i = 0; i < n; ++i) left[i] = Q.row(T[i])[T[i]] + Q.shift;
  for (std::size_t rank = 0; rank < n; ++rank) {
    const std::size_t pivot = std::size_t(std::max_element(left.begin(), left.end()) - left.begin());
    if (!(left[pivot] > 4 * Q.flat)) break;
    columns.resize((rank + 1) * n);
    double* const column = &columns[rank * n];
    for (std::size_t i = 0; i < n; ++i) column[i] = Q.row(T[pivot])[T[i]] + Q.shift;
    for (std::size_t r = 0; r < rank; ++r) add_multiple(column, -columns[r * n + pivot], &columns[r * n], n);
    const double scale = 1 / std::sqrt(left[pivot]);
    for (std::size_t i = 0; i < n; ++i) {
      column[i] *= scale;
      left[i] -= column[i] * column[i];
    }
    left[pivot] = 0;
  }
  for (std::size_t r = 0; r * n < columns.size(); ++r) {
    double* const column = &columns[r * n];
    double before, after = dot(column, column, n);
    do {
      before = after;
      for (std::size_t q = 0; q < r; ++q) add_multiple(column, -dot(&columns[q * n], column, n), &columns[q * n], n);
      after = dot(column, column, n);
    } while (after > 0 && after < 0.25 * before);
    const double scale = after > 0 ? 1 / std::sqrt(after) : 0;
    for (std::size_t i = 0; i < n; ++i) column[i] *= scale;
  }
  return columns;
}

}  // namespace

// With P the projector onto the null space of A[T, T], and x₀ = (1 - P) λ the point of smallest norm without the
// bounds, the answer is x = x₀ + Pμ, where μ >= 0 pushes exactly those weights that would be negative up to 0. Lawson
// and Hanson's form of it is bounded and has a positive semidefinite matrix: minimise μᵀ(P + x₀x₀ᵀ)μ + 2x₀ᵀμ over the
// orthant; then x = h / Σh with h its slopes.
bool least_norm(const ActiveSet::Matrix& Q, const double* h, double precision, double smallest_pivot,
                std::vector<double>& weights) {
  const double lowest = *std::min_element(h, h + Q.k);
  std::vector<std::size_t> T;
  std::size_t positive = 0;
  for (std::size_t i = 0; i < Q.k; ++i) {
    if (h[i] - lowest <= precision || weights[i] > 0) T.push_back(i);
    positive += weights[i] > 0;
  }
  const std::size_t n = T.size();
  constexpr double surely = 1e-6;  // rounding grows by the reciprocals of pivots, as these come in any order
  if (n == positive && smallest_pivot > surely * Q.shift) return false;
  const std::vector<double> U = row_space(Q, T);
  const std::size_t rank = U.size() / n;
  if (rank == n) return false;

  std::vector<double> x(n, 0.0);
  for (std::size_t r = 0; r < rank; ++r) {
    double along = 0;
    for (std::size_t i = 0; i < n; ++i) along += U[r * n + i] * weights[T[i]];
    add_multiple(x.data(), along, &U[r * n], n);
  }

  constexpr double rounding = 1e-14;
  if (*std::min_element(x.begin(), x.end()) < -rounding) {
    std::vector<double> K(n * n);
    for (std::size_t i = 0; i < n; ++i) {
      K[i * n + i] = 1;
      add_multiple(&K[i * n], x[i], x.data(), n);
      for (std::size_t r = 0; r < rank; ++r) add_multiple(&K[i * n], -U[r * n + i], &U[r * n], n);
    }
    std::vector<double> memory(ActiveSet::memory(n));
    std::vector<std::size_t> index_memory(ActiveSet::index_memory(n));
    ActiveSet pushes({K.data(), n, 0, 1e-14}, x.data(), Region::orthant, memory.data(), index_memory.data());
    pushes.start();
    pushes.descend(rounding, 20 * n);  // a failure shows in the caller's certificate
    pushes.refine();
    for (std::size_t i = 0; i < n; ++i) x[i] = pushes.weights()[i] > 0 ? 0 : pushes.slopes()[i];
  }

  double total = 0;
  for (double& entry : x) total += entry = entry > 1e-15 ? entry : 0;
  if (!(total > 0)) return false;
  std::fill(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < n; ++i) weights[T[i]] = x[i] / total;
  return true;
}

}  // namespace scorefusion::solve
