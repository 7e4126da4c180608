// A weight is raised until its slope is that of the others; those that reach 0 on the way are dropped.
#include "active_set.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "vectors.h"

namespace scorefusion::solve {

namespace {

constexpr double eps = std::numeric_limits<double>::epsilon();
constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

void slopes(const double* Q, const double* b, const double* weights, std::size_t k, double* h) {
  for (std::size_t i = 0; i < k; ++i) {
    const double* const row = Q + i * k;
    long double sum = b[i];
    for (std::size_t j = 0; j < k; ++j)
      if (weights[j] != 0) sum += (long double)row[j] * weights[j];
    h[i] = double(sum);
  }
}

ActiveSet::ActiveSet(const Matrix& Q, const double* b, Region region, double* memory, std::size_t* index_memory)
    : Q_(Q),
      b_(b),
      region_(region),
      factor_(memory, Q.k),
      support_(index_memory),
      weights_(memory + GrowingCholesky::memory(Q.k)),
      slopes_(weights_ + Q.k),
      w_(slopes_ + Q.k),
      p_(w_ + Q.k),
      Qp_(p_ + Q.k) {}

void ActiveSet::start() {
  if (region_ == Region::simplex) {
    if (!start_from_guess()) start_at_vertex();
  } else {
    factor_.clear();
    std::fill(weights_, weights_ + Q_.k, 0.0);
    std::copy(b_, b_ + Q_.k, slopes_);
  }
}

void ActiveSet::start_at_vertex() {
  const std::size_t k = Q_.k;
  std::size_t best = 0;
  const auto value = [&](std::size_t i) { return Q_.row(i)[i] + 2 * b_[i]; };
  for (std::size_t i = 1; i < k; ++i)
    if (value(i) < value(best)) best = i;
  std::fill(weights_, weights_ + k, 0.0);
  weights_[best] = 1;
  support_[0] = best;
  factor_.clear();
  factor_.append(w_, Q_.row(best)[best] + Q_.shift);
  take_slopes();
}

bool ActiveSet::start_from_guess() {
  constexpr int guesses = 4;
  const std::size_t k = Q_.k;
  std::fill(weights_, weights_ + k, 1.0);
  for (int guess = 0; guess < guesses; ++guess) {
    factor_support();
    const std::size_t size = factor_.size();

    // The minimum on S, signs free: A λ = ν1 - b with Σλ = 1.
    for (std::size_t r = 0; r < size; ++r) p_[r] = -b_[support_[r]];
    factor_.solve_lower(p_);
    const double* const u = factor_.u();
    add_multiple(p_, (1 - dot(p_, u, size)) / dot(u, u, size), u, size);
    factor_.solve_upper(p_);

    std::fill(weights_, weights_ + k, 0.0);
    std::size_t positive = 0;
    for (std::size_t r = 0; r < size; ++r) {
      weights_[support_[r]] = std::max(0.0, p_[r]);
      positive += p_[r] > 0;
    }
    if (positive == size) {
      refine();
      return on_simplex();  // not where b dwarfs Q, and rounding of L⁻¹b the weights
    }
    if (positive == 0) return false;
  }
  return false;
}

bool ActiveSet::on_simplex() const {
  double total = 0;
  for (std::size_t i = 0; i < Q_.k; ++i) total += weights_[i];
  return std::abs(total - 1) < 1e-9;
}

// S and its factor from the indices of positive weights; one that the others before it make singular gets weight 0.
void ActiveSet::factor_support() {
  factor_.clear();
  for (std::size_t j = 0; j < Q_.k; ++j) {
    if (!(weights_[j] > 0)) continue;
    const double* const column = Q_.row(j);
    const std::size_t size = factor_.size();
    for (std::size_t r = 0; r < size; ++r) w_[r] = column[support_[r]] + Q_.shift;
    factor_.solve_lower(w_);
    const double d = column[j] + Q_.shift - dot(w_, w_, size);
    if (!(d > Q_.flat)) continue;
    factor_.append(w_, d);
    support_[size] = j;
  }
}

double ActiveSet::level() const {
  if (region_ == Region::orthant) return 0;
  double sum = 0, total = 0;  // weighted, as the certificate is; total < 1 while a weight is being raised
  for (std::size_t r = 0; r < factor_.size(); ++r) {
    sum += weights_[support_[r]] * slopes_[support_[r]];
    total += weights_[support_[r]];
  }
  return sum / total;
}

bool ActiveSet::descend(double precision, std::size_t most_steps) {
  for (const std::size_t last = steps_ + most_steps;;) {
    const double level = this->level();
    std::size_t j = Q_.k;
    for (std::size_t i = 0; i < Q_.k; ++i)
      if (weights_[i] == 0 && (j == Q_.k || slopes_[i] < slopes_[j])) j = i;
    if (j == Q_.k || !(slopes_[j] < level - precision)) return true;
    if (steps_ >= last) return false;
    if (!raise(j)) return false;
  }
}

bool ActiveSet::raise(std::size_t j) {
  const double* const column = Q_.row(j);
  for (;;) {
    ++steps_;
    const std::size_t size = factor_.size();
    for (std::size_t r = 0; r < size; ++r) w_[r] = column[support_[r]] + Q_.shift;
    factor_.solve_lower(w_);
    const double d = column[j] + Q_.shift - dot(w_, w_, size);

    // p_S = -L⁻ᵀ(w + βu), with β such that Σp = 0
    const double* const u = factor_.u();
    const double uu = region_ == Region::simplex ? dot(u, u, size) : 0;
    const double beta = uu > 0 ? (1 - dot(w_, u, size)) / uu : 0;
    for (std::size_t r = 0; r < size; ++r) p_[r] = -(w_[r] + beta * u[r]);
    factor_.solve_upper(p_);

    const double curvature = d + beta * beta * uu;
    const bool flat = !(d > Q_.flat);
    const double rise = level() - slopes_[j];  // what the slope of j lacks
    if (!(rise > 0) && !flat) {                // reached, by rounding, in the step before
      factor_.append(w_, d);
      support_[size] = j;
      return true;
    }
    const double wanted = flat ? infinity : rise / curvature;
    const double t = longest_step(wanted);
    if (t == infinity) {  // no end in sight: unbounded, or rounding that says so
      if (weights_[j] > 0) {
        factor_.append(w_, std::max(d, Q_.flat));
        support_[size] = j;
      }
      return false;
    }

    std::copy(column, column + Q_.k, Qp_);
    for (std::size_t r = 0; r < size; ++r) add_multiple(Qp_, p_[r], Q_.row(support_[r]), Q_.k);
    weights_[j] += t;
    move(t);
    if (t == wanted) {
      factor_.append(w_, d);
      support_[size] = j;
      return true;
    }
    drop_zeros();
    if (region_ == Region::simplex && factor_.size() == 0) {
      weights_[j] = 1;
      support_[0] = j;
      factor_.append(w_, Q_.row(j)[j] + Q_.shift);
      return true;
    }
  }
}

// Until the first weight of S is zero; `most` where none gets there before.
double ActiveSet::longest_step(double most) const {
  for (std::size_t r = 0; r < factor_.size(); ++r)
    if (p_[r] < 0) most = std::min(most, weights_[support_[r]] / -p_[r]);
  return most;
}

// λ_S += t p, h += t Qp. Weights that end within rounding of zero are zero.
void ActiveSet::move(double t) {
  for (std::size_t r = 0; r < factor_.size(); ++r) {
    double& weight = weights_[support_[r]];
    const double change = t * p_[r], moved = weight + change;
    weight = moved > 2 * eps * std::abs(change) ? moved : 0;
  }
  add_multiple(slopes_, t, Qp_, Q_.k);
}

void ActiveSet::drop_zeros() {
  for (std::size_t r = factor_.size(); r-- > 0;) {
    if (weights_[support_[r]] > 0) continue;
    factor_.remove(r);
    std::copy(support_ + r + 1, support_ + factor_.size() + 1, support_ + r);
  }
}

void ActiveSet::take_slopes() { scorefusion::solve::slopes(Q_.entries, b_, weights_, Q_.k, slopes_); }

// On S: A δ = -(h - ν), with ν such that Σ(λ + δ) = 1 (orthant: ν = 0).
void ActiveSet::refine() {
  constexpr int rounds = 4;
  for (int round = 0; round < rounds; ++round) {
    take_slopes();
    const std::size_t size = factor_.size();
    if (size == 0) return;
    const double level = this->level();
    double spread = 0, largest_slope = 0;
    long double total = 0;
    for (std::size_t r = 0; r < size; ++r) {
      const double slope = slopes_[support_[r]];
      w_[r] = level - slope;
      spread = std::max(spread, std::abs(w_[r]));
      largest_slope = std::max(largest_slope, std::abs(slope));
      total += weights_[support_[r]];
    }
    const bool sums_to_one = region_ == Region::orthant || std::abs(1 - total) < eps;
    if (spread <= eps * largest_slope && sums_to_one) return;  // a step would follow the rounding of slopes
    factor_.solve_lower(w_);
    if (region_ == Region::simplex) {
      const double* const u = factor_.u();
      const double missing = double(1 - total);
      const double beta = (missing - dot(w_, u, size)) / dot(u, u, size);
      add_multiple(w_, beta, u, size);
    }
    std::copy(w_, w_ + size, p_);
    factor_.solve_upper(p_);
    double largest = 0;
    for (std::size_t r = 0; r < size; ++r) largest = std::max(largest, std::abs(p_[r]));
    if (largest == 0) return;
    const double t = longest_step(1);
    for (std::size_t r = 0; r < size; ++r) {
      double& weight = weights_[support_[r]];
      weight = t < 1 && weight <= t * -p_[r] ? 0 : std::max(0.0, weight + t * p_[r]);
    }
    drop_zeros();
    if (t == 1 && largest <= eps) break;
  }
  take_slopes();
}

}  // namespace scorefusion::solve
