// residual on the CPU: m·samples·size elements are read once; r is written on the way if wanted.
#include "residual.h"
#include "sums_cpu.h"

namespace scorefusion {
namespace {

template <class T>
void residual_rows(const Batch& batch, const Coefficients& c, const Output& r, double* loss, double* grad,
                   const Work& work) {
  const int m = batch.m;
  sum_rows<T>(
      batch, 1 + m, 2 * block_size, work,
      [&](T* memory) {
        return [&, r_block = reinterpret_cast<double*>(memory)](Stage<T>&, const T* const* u, int64_t b, int64_t d,
                                                                int64_t n, double* lanes) {
          double c_b[max_operands];
          read_coefficients(c, m, b, c_b);
          of<T>(kernels()).residual(u, c_b, m, n, r_block, lanes);
          if (r.data) kernels().f64.round(r_block, r.dtype, element_of(r, b, d), n);
        };
      },
      [&](int64_t b, const double* sums) {
        loss[b] = sums[0];
        for (int j = 0; j < m; ++j) grad[b * m + j] = 2 * sums[1 + j];
      });
}

template <class T>
void residual_narrow(const Batch& batch, const Coefficients& c, const Output& r, double* loss, double* grad,
                     const Work& work) {
  const int m = batch.m;
  for_narrow<T, double>(batch, c, 1 + m, Narrow<T>::row, work, [&](double* r_tile) {
    return [&, r_tile](Narrow<T, double>& narrow, double* sums, int64_t b, int64_t count) {
      double *const losses = sums, *const grads = sums + narrow.groups() * narrow_lanes;
      of<T>(kernels()).narrow_residual(narrow.u(), narrow.coefficients(), narrow.coefficients_step(), m, batch.size,
                                       narrow.groups(), r_tile, losses, grads);
      kernels().f64.narrow_scatter(losses, 1, count, loss + b, 1);
      kernels().f64.narrow_scatter(grads, m, count, grad + b * m, m);
      if (r.data) narrow.scatter(r_tile, r, b, count);
    };
  });
}

template <class T>
void residual_as(const Batch& batch, const Coefficients& c, const Output& r, double* loss, double* grad,
                 const Work& work) {
  if (is_narrow(batch))
    residual_narrow<T>(batch, c, r, loss, grad, work);
  else
    residual_rows<T>(batch, c, r, loss, grad, work);
}

}  // namespace

void residual_cpu(const Batch& batch, const Coefficients& c, const Output& r, double* loss, double* grad,
                  const Work& work) {
  // r is float64 whatever the operands are: they are read as double only where one of them is.
  if (works_in_float64(batch, Output{}))
    residual_as<double>(batch, c, r, loss, grad, work);
  else
    residual_as<float>(batch, c, r, loss, grad, work);
}

}  // namespace scorefusion
