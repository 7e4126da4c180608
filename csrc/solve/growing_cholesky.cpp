// A row is appended by a triangular solve, and removed by rotations.
#include "growing_cholesky.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "vectors.h"

namespace scorefusion::solve {

double GrowingCholesky::smallest_pivot() const {
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t r = 0; r < size_; ++r) least = std::min(least, row(r)[r] * row(r)[r]);
  return least;
}

void GrowingCholesky::solve_lower(double* w) const {
  for (std::size_t r = 0; r < size_; ++r) w[r] = (w[r] - dot(row(r), w, r)) / row(r)[r];
}

void GrowingCholesky::solve_upper(double* w) const {
  for (std::size_t r = size_; r-- > 0;) {
    w[r] /= row(r)[r];
    add_multiple(w, -w[r], row(r), r);
  }
}

void GrowingCholesky::append(const double* w, double d) {
  const double pivot = std::sqrt(d);
  std::copy(w, w + size_, row(size_));
  row(size_)[size_] = pivot;
  u_[size_] = (1 - dot(w, u_, size_)) / pivot;
  ++size_;
}

// Without its row, L has one column too many. Rotations of neighbouring columns make it triangular again; u turns with
// them, as L u = 1 stays true.
void GrowingCholesky::remove(std::size_t place) {
  --size_;
  for (std::size_t r = place; r < size_; ++r) {
    double *const from = row(r + 1), *const to = row(r);
    std::copy(from, from + r + 2, to);  // row r has room for stride >= size_ + 1 entries
  }
  for (std::size_t c = place; c < size_; ++c) {
    const double a = row(c)[c], b = row(c)[c + 1], norm = std::hypot(a, b);
    const double cosine = a / norm, sine = b / norm;
    for (std::size_t r = c; r < size_; ++r) {
      double* const pair = row(r) + c;
      const double x = pair[0], y = pair[1];
      pair[0] = cosine * x + sine * y;
      pair[1] = cosine * y - sine * x;
    }
    row(c)[c] = norm;
    const double x = u_[c], y = u_[c + 1];
    u_[c] = cosine * x + sine * y;
    u_[c + 1] = cosine * y - sine * x;
  }
}

}  // namespace scorefusion::solve
