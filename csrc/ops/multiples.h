// y_k = f_bk r_b for several k, r_b = Σ_j c_bj u_bj: what the gradients of a combination and of its norm are.
#pragma once

#include <vector>

#include "../cpu/work.h"
#include "batch.h"

namespace scorefusion {

struct Multiple {
  Output y;
  int k;  // its factor
};
using Multiples = std::vector<Multiple>;

// r is rounded to the type of the arithmetic (float32, or float64 if an operand or a result is). Results lie one sample
// after another, apart from all operands.
void multiples_cpu(const Batch& batch, const Coefficients& c, const Coefficients& f, const Multiples& results,
                   const Work& work);

inline bool in_float64(const Batch& batch, const Multiples& results) {
  for (const Multiple& result : results)
    if (works_in_float64(batch, result.y)) return true;
  return works_in_float64(batch, Output{});
}

// The same with r in memory, which may be that of the last result, by combine(batch, c, y).
template <class Combine>
void multiples_of_stored(const Batch& batch, const Coefficients& c, const Coefficients& f, const Multiples& results,
                         const Output& r, const Combine& combine) {
  combine(batch, c, r);
  Batch one;
  one.samples = batch.samples;
  one.size = batch.size;
  one.m = 1;
  one.u[0].data = r.data;
  one.u[0].stride = r.stride;
  one.u[0].dtype = r.dtype;
  for (const Multiple& result : results) {
    Coefficients factor = f;
    if (f.data)
      factor.data = static_cast<const char*>(f.data) + result.k * f.step * size_of(f.dtype);
    else
      factor.values[0] = f.values[result.k];
    combine(one, factor, result.y);
  }
}

}  // namespace scorefusion
