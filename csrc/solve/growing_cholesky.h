// L Lᵀ = A[S, S] for a list S of indices that grows at its end and shrinks anywhere, in O(|S|²) each.
#pragma once

#include <cstddef>

namespace scorefusion::solve {

class GrowingCholesky {
 public:
  // Doubles of memory for at most k indices.
  static std::size_t memory(std::size_t k) { return k * stride(k) + k; }
  GrowingCholesky(double* memory, std::size_t k) : L_(memory), u_(memory + k * stride(k)), stride_(stride(k)) {}

  std::size_t size() const { return size_; }
  double smallest_pivot() const;  // the least L_rr², which rounding has raised where A[S, S] is singular
  void clear() { size_ = 0; }

  // w = L⁻¹ w
  void solve_lower(double* w /* (size,) */) const;
  // w = L⁻ᵀ w
  void solve_upper(double* w /* (size,) */) const;
  // L⁻¹ 1, kept up to date; its square is the sum of all entries of A[S, S]⁻¹.
  const double* u() const { return u_; }

  // One more index, whose column of A is L w, with d > 0 left of its diagonal: d = A_jj − |w|².
  void append(const double* w /* (size,) */, double d);
  // The index at this place leaves; those behind it move up.
  void remove(std::size_t place);

 private:
  // One cache line more than k: entries of a column, which `remove` walks along, shall not share a cache set.
  static std::size_t stride(std::size_t k) { return k + 8; }
  double* row(std::size_t r) const { return L_ + r * stride_; }

  double *L_, *u_;
  std::size_t stride_, size_ = 0;
};

}  // namespace scorefusion::solve
