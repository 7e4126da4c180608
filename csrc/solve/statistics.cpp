// Inner products of a row become those of residuals, which are added in the order of rows.
#include "statistics.h"

#include <cmath>
#include <vector>

namespace scorefusion::solve {

namespace {

// V_ij = <v_i, v_j> for i <= j < k, and V_ik = <v_i, e>; the same numbers for equal models, whichever is i.
void inner_products(std::size_t k, std::size_t m, const double* G /* (m, m) */, const double* a /* (k,) scale */,
                    const double* b /* (k,) shift, or null */, double* V /* (k + 1, k + 1) */) {
  const double* const x = G + k * m;
  for (std::size_t i = 0; i < k; ++i) {
    const double* const g = G + i * m;
    double* const v = V + i * (k + 1);
    for (std::size_t j = i; j < k; ++j) v[j] = a[i] * a[j] * g[j];
    v[k] = a[i] * g[m - 1];
    if (!b) continue;
    for (std::size_t j = i; j < k; ++j) v[j] += (b[i] * a[j] * x[j] + a[i] * b[j] * x[i]) + b[i] * b[j] * x[k];
    v[k] += b[i] * x[m - 1];
  }
  V[k * (k + 1) + k] = G[m * m - 1];
}

void add_row(std::size_t k, const double* V, double w, double* sum) {
  const double* const first = V;
  const double size = first[0], with_target = first[k];
  *sum++ += w * (size + 2 * with_target + V[k * (k + 1) + k]);
  for (std::size_t j = 1; j < k; ++j) *sum++ += w * ((first[j] - size) + (V[j * (k + 1) + k] - with_target));
  for (std::size_t i = 1; i < k; ++i)
    for (std::size_t j = i; j < k; ++j) *sum++ += w * ((V[i * (k + 1) + j] - first[i]) - (first[j] - size));
  double sizes = 0;
  for (std::size_t i = 0; i < k; ++i) sizes += V[i * (k + 1) + i];
  *sum++ += w * (sizes / double(k));
  *sum += 1;
}

std::int64_t not_finite(const Rows& rows) {
  const std::size_t m = rows.m;
  for (std::size_t r = 0; r < rows.rows; ++r)
    for (std::size_t i = 0; i < m; ++i)
      if (!std::isfinite(rows.G[r * m * m + i * m + i])) return std::int64_t(r * m + i);
  return -1;
}

}  // namespace

std::int64_t add_rows(const Rows& rows, double* sums) {
  if (const std::int64_t bad = not_finite(rows); bad >= 0) return bad;
  const std::size_t k = rows.k, m = rows.m, width = k * (k + 1) / 2 + 2;
  std::vector<double> V((k + 1) * (k + 1));
  for (std::size_t r = 0; r < rows.rows; ++r) {
    const double* const G = rows.G + r * m * m;
    inner_products(k, m, G, rows.scale + r * k, rows.shift ? rows.shift + r * k : nullptr, V.data());
    add_row(k, V.data(), rows.weight[r], sums + std::size_t(rows.cell[r]) * width);
  }
  return -1;
}

}  // namespace scorefusion::solve
