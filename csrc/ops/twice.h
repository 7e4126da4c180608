// r_b = Σ_{j < first} c_bj u_bj and y_b = share·r_b + Σ_{j ≥ first} c_bj u_bj, both stored: a step that remembers x̂₀.
#pragma once

#include "../cpu/work.h"
#include "batch.h"

namespace scorefusion {

struct Twice {
  int first;     // operands of r, 1 to m
  double share;  // of r in y
  Output r, y;   // of one dtype, apart from each other
};

// To the bit what two calls of combine give, of which the second reads r.
void combine_twice_cpu(const Batch& batch, const Coefficients& c, const Twice& twice, const Work& work);

// The two calls: combine(batch, c, y). Coefficients are numbers on the host.
template <class Combine>
void combine_twice_by(const Batch& batch, const Coefficients& c, const Twice& twice, const Combine& combine) {
  Batch of_r = batch, of_y = batch;
  of_r.m = twice.first;
  combine(of_r, c, twice.r);
  of_y.m = 1 + batch.m - twice.first;
  of_y.u[0] = Operand{twice.r.data, twice.r.stride, twice.r.dtype};
  Coefficients d;
  d.values[0] = twice.share;
  for (int j = 1; j < of_y.m; ++j) {
    of_y.u[j] = batch.u[twice.first + j - 1];
    d.values[j] = c.values[twice.first + j - 1];
  }
  combine(of_y, d, twice.y);
}

}  // namespace scorefusion
