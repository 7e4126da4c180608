// Q and q are checked, scaled by a power of two, minimised, shared out among equal minima and certified.
#include "simplex.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "../array/errors.h"
#include "active_set.h"
#include "least_norm.h"
#include "vectors.h"

namespace scorefusion::solve {

namespace {

constexpr double eps = std::numeric_limits<double>::epsilon();

std::string text(double number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.6g", number);
  return digits;
}

std::string entry(std::size_t i, std::size_t j, double value) {
  return "Q[" + std::to_string(i) + ", " + std::to_string(j) + "] = " + text(value);
}

double largest(const double* values, std::size_t n) {
  double most = 0;
  for (std::size_t i = 0; i < n; ++i) most = std::max(most, std::abs(values[i]));
  return most;
}

bool all_finite(const double* values, std::size_t n) {
  double sum = 0;  // of zeros, or NaN: 0 * inf
  for (std::size_t i = 0; i < n; ++i) sum += 0 * values[i];
  return sum == 0;
}

void check_finite(const Quadratic& problem) {
  const std::size_t k = problem.k;
  if (!all_finite(problem.Q, k * k)) {
    for (std::size_t i = 0; i < k; ++i)
      for (std::size_t j = 0; j < k; ++j)
        if (!std::isfinite(problem.Q[i * k + j]))
          throw ValueError("every entry of Q must be finite, but " + entry(i, j, problem.Q[i * k + j]));
  }
  if (problem.q && !all_finite(problem.q, k)) {
    for (std::size_t i = 0; i < k; ++i)
      if (!std::isfinite(problem.q[i]))
        throw ValueError("every entry of q must be finite, but q[" + std::to_string(i) + "] = " + text(problem.q[i]));
  }
}

void check_symmetric(const Quadratic& problem, double allowed) {
  const std::size_t k = problem.k;
  double worst = allowed;
  std::size_t at = 0;
  for (std::size_t i = 0; i < k; ++i)
    for (std::size_t j = 0; j < i; ++j) {
      const double difference = std::abs(problem.Q[i * k + j] - problem.Q[j * k + i]);
      if (difference > worst) worst = difference, at = i * k + j;
    }
  if (at == 0) return;
  const std::size_t i = at % k, j = at / k;
  throw ValueError("Q must be symmetric, but " + entry(i, j, problem.Q[i * k + j]) + " and " +
                   entry(j, i, problem.Q[j * k + i]));
}

// Is the symmetric A + allowed·1 positive definite? Else: which row of its Cholesky factor has no pivot, and in
// `direction` a v with vᵀAv < 0.
std::size_t failing_row(const double* A, std::size_t k, double allowed, std::vector<double>& direction) {
  std::vector<double> L(k * k);
  for (std::size_t r = 0; r < k; ++r) {
    double* const row = &L[r * k];
    for (std::size_t c = 0; c < r; ++c)
      row[c] = (0.5 * (A[r * k + c] + A[c * k + r]) - dot(row, &L[c * k], c)) / L[c * k + c];
    const double pivot = A[r * k + r] + allowed - dot(row, row, r);
    if (!(pivot > 0)) {
      direction.assign(k, 0.0);  // (-L⁻ᵀ row, 1)
      direction[r] = 1;
      for (std::size_t c = 0; c < r; ++c) direction[c] = -row[c];
      for (std::size_t c = r; c-- > 0;) {
        direction[c] /= L[c * k + c];
        add_multiple(direction.data(), -direction[c], &L[c * k], c);
      }
      return r;
    }
    row[r] = std::sqrt(pivot);
  }
  return k;
}

void check_semidefinite(const Quadratic& problem, double allowed) {
  const std::size_t k = problem.k;
  const double* const Q = problem.Q;
  std::vector<double> direction;
  const std::size_t row = failing_row(Q, k, allowed, direction);
  if (row == k) return;
  const std::string rule = "Q must be positive semidefinite, but ";
  for (std::size_t i = 0; i <= row; ++i)
    if (Q[i * k + i] < -allowed) throw ValueError(rule + entry(i, i, Q[i * k + i]) + " is negative");
  for (std::size_t i = 0; i <= row; ++i)
    for (std::size_t j = 0; j < i; ++j) {
      const double a = Q[i * k + i] + allowed, b = Q[j * k + j] + allowed, c = Q[j * k + i];
      if (std::abs(c) > std::sqrt(a) * std::sqrt(b))
        throw ValueError(rule + entry(j, i, c) + " is larger than the root of " + entry(j, j, Q[j * k + j]) +
                         " times " + entry(i, i, Q[i * k + i]));
    }
  double vQv = 0;
  for (std::size_t i = 0; i < k; ++i) vQv += direction[i] * dot(Q + i * k, direction.data(), k);
  throw ValueError(rule + "its entries up to Q[" + std::to_string(row) + ", " + std::to_string(row) +
                   "] already have an eigenvalue of " + text(vQv / dot(direction.data(), direction.data(), k)) +
                   " or less");
}

// Q and q/2 with the largest entry between 1/2 and 1, by a power of two; q moved so that its least entry is zero, which
// changes the value alone.
struct Scaled {
  explicit Scaled(const Quadratic& problem) : k(problem.k), Q(k * k), b(k, 0.0) {
    const double most = largest(problem.Q, k * k), most_q = problem.q ? largest(problem.q, k) : 0;
    std::frexp(std::max(most, most_q), &exponent);
    const double down = std::ldexp(1.0, -exponent / 2), rest = std::ldexp(1.0, -exponent + exponent / 2);
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t j = 0; j < i; ++j)
        Q[i * k + j] = Q[j * k + i] = 0.5 * (problem.Q[i * k + j] * down * rest + problem.Q[j * k + i] * down * rest);
      Q[i * k + i] = problem.Q[i * k + i] * down * rest;
    }
    if (problem.q) {
      offset = *std::min_element(problem.q, problem.q + k) * down * rest;
      for (std::size_t i = 0; i < k; ++i) b[i] = 0.5 * (problem.q[i] * down * rest - offset);
    }
    Q_size = largest(Q.data(), k * k);
    size = std::max(Q_size, 2 * largest(b.data(), k));
  }

  double back(double value) const { return std::ldexp(value, exponent); }

  std::size_t k;
  std::vector<double> Q, b;  // (k, k), (k,)
  double offset = 0, Q_size, size;
  int exponent;
};

// Σ λ_j (∇_j - min ∇), with ∇ = 2h: a sum of what is not negative.
double certificate(const double* h, const double* weights, std::size_t k) {
  const double lowest = *std::min_element(h, h + k);
  long double sum = 0;
  for (std::size_t j = 0; j < k; ++j) sum += (long double)weights[j] * ((long double)h[j] - lowest);
  return double(2 * sum);
}

}  // namespace

void check(const Quadratic& problem, double rounding) {
  check_finite(problem);
  constexpr double denormal = std::numeric_limits<double>::min();  // below it every operation loses digits
  const double most = largest(problem.Q, problem.k * problem.k);
  if (most == 0) return;
  const double allowed = std::max(rounding * most, denormal);
  check_symmetric(problem, allowed);
  check_semidefinite(problem, allowed);
}

SimplexMinimum minimize_on_simplex(const Quadratic& problem, double tolerance) {
  const Scaled scaled(problem);
  const std::size_t k = scaled.k;
  const double Q_size = scaled.Q_size > 0 ? scaled.Q_size : 1;  // where Q is zero, the shift alone gives curvature
  const double rounding = 8 * (8 + std::sqrt(double(k))) * eps;
  const double precision = rounding * scaled.size;

  std::vector<double> memory(ActiveSet::memory(k));
  std::vector<std::size_t> index_memory(ActiveSet::index_memory(k));
  const ActiveSet::Matrix Q{scaled.Q.data(), k, Q_size, rounding * Q_size};
  ActiveSet search(Q, scaled.b.data(), Region::simplex, memory.data(), index_memory.data());
  search.start();
  constexpr int attempts = 5;  // slopes taken anew may show one more that is too low, by a rounding or two
  for (int attempt = 0; attempt < attempts; ++attempt) {
    const std::size_t before = search.steps();
    search.descend(std::max(tolerance / 2 * scaled.size, precision), 100 + 20 * k);
    if (attempt && search.steps() == before) break;
    search.refine();
  }

  SimplexMinimum minimum{std::vector<double>(search.weights(), search.weights() + k), 0, 0, search.steps()};
  std::vector<double> h(search.slopes(), search.slopes() + k);
  minimum.gap = certificate(h.data(), minimum.weights.data(), k);
  std::vector<double> shared = minimum.weights;
  if (least_norm(Q, h.data(), 2 * precision, search.smallest_pivot(), shared)) {
    std::vector<double> shared_h(k);
    slopes(scaled.Q.data(), scaled.b.data(), shared.data(), k, shared_h.data());
    const double gap = certificate(shared_h.data(), shared.data(), k);
    if (gap <= std::max(minimum.gap, 4 * precision)) {
      minimum.weights.swap(shared);
      minimum.gap = gap;
      h.swap(shared_h);
    }
  }

  long double value = scaled.offset;
  for (std::size_t i = 0; i < k; ++i) value += (long double)minimum.weights[i] * ((long double)h[i] + scaled.b[i]);
  minimum.value = scaled.back(double(value));
  minimum.gap = scaled.back(minimum.gap);
  return minimum;
}

}  // namespace scorefusion::solve
