// Minimises λᵀQλ + 2bᵀλ over the simplex, or over the orthant λ >= 0, by raising one weight at a time.
//
// S holds the indices whose weights are positive and whose slopes h = Qλ + b agree (on the orthant: are zero). An index
// j with a lower slope is raised, and the weights of S follow so that their slopes stay equal:
//     p_j = 1,  (A p)_S constant,  Σp = 0 (simplex),     A = Q + shift 11ᵀ,
// until the slope of j has risen to theirs, where j joins S, or a weight of S reaches zero and leaves. Q enters only
// along such p, so the shift changes nothing but makes A[S, S] positive definite where the problem on S has one
// solution. Every step is strictly downhill because all weights in S are positive: no set comes twice, nothing cycles.
// A direction without curvature is followed to the end of the region.
#pragma once

#include <cstddef>

#include "growing_cholesky.h"

namespace scorefusion::solve {

enum class Region { simplex, orthant };

class ActiveSet {
 public:
  struct Matrix {
    const double* entries;  // (k, k), symmetric
    std::size_t k;
    double shift;  // of A; 0 on the orthant
    double flat;   // curvature that counts as none: its rounding

    const double* row(std::size_t i) const { return entries + i * k; }
  };

  // Doubles and indices of memory that the caller lends.
  static std::size_t memory(std::size_t k) { return GrowingCholesky::memory(k) + 5 * k; }
  static std::size_t index_memory(std::size_t k) { return k; }
  ActiveSet(const Matrix& Q, const double* b /* (k,) */, Region region, double* memory, std::size_t* index_memory);

  // On the orthant from 0. On the simplex from a guess of S: all indices, then those that were positive; from the best
  // vertex where that leads nowhere. A good guess saves most of the steps (k = 256: 2 ms of 5).
  void start();
  // Raises weights until no slope is lower than those of S by more than `precision`. False: stopped by the limit of
  // steps, or (orthant) the minimum is -infinity.
  bool descend(double precision, std::size_t most_steps);
  // Newton's step on S from slopes taken anew in extended precision: what rounding left of differences is removed.
  void refine();

  const double* weights() const { return weights_; }  // (k,)
  const double* slopes() const { return slopes_; }    // (k,), h = Qλ + b
  double level() const;                               // the slope on S; 0 on the orthant
  std::size_t support_size() const { return factor_.size(); }
  const std::size_t* support() const { return support_; }
  double smallest_pivot() const { return factor_.smallest_pivot(); }
  std::size_t steps() const { return steps_; }

 private:
  void start_at_vertex();
  bool start_from_guess();
  bool on_simplex() const;
  void factor_support();
  bool raise(std::size_t j);
  double longest_step(double most) const;
  void move(double t);
  void drop_zeros();
  void take_slopes();

  Matrix Q_;
  const double* b_;
  Region region_;
  GrowingCholesky factor_;
  std::size_t* support_;  // in the order of the factor
  double *weights_, *slopes_, *w_, *p_, *Qp_;
  std::size_t steps_ = 0;
};

// h = Qλ + b in extended precision, rounded once.
void slopes(const double* Q /* (k, k) */, const double* b /* (k,) */, const double* weights /* (k,) */, std::size_t k,
            double* h /* (k,) */);

}  // namespace scorefusion::solve
