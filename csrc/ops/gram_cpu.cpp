// gram and combine_gram on the CPU: m·samples·size elements are read once; y is written on the way.
#include "gram.h"
#include "sums_cpu.h"

namespace scorefusion {
namespace {

// Both halves of G_b.
void write_gram(const double* pairs, int m, double* G) {
  for (int i = 0; i < m; ++i)
    for (int j = 0; j <= i; ++j) G[i * m + j] = G[j * m + i] = pairs[pair_index(i, j)];
}

template <class T>
void gram_rows(const Batch& batch, const Coefficients& c, const Output& y, double* G, const Work& work) {
  const int m = batch.m;
  const bool streaming = y.data && y.dtype == dtype_of<T> && is_streamed(batch, y);
  sum_rows<T>(
      batch, pair_count(m), block_size, work,
      [&](T* made) {
        return [&, made](Stage<T>& stage, const T* const* u, int64_t b, int64_t d, int64_t n, double* lanes) {
          const auto& kernel = of<T>(kernels());
          const int64_t whole = n / sum_lanes * sum_lanes;
          // The copy of the tail is made before y, which may overwrite an operand.
          const T* const* tail = whole < n ? stage.padded(whole, n - whole) : nullptr;
          if (y.data) {
            T c_b[max_operands];
            read_coefficients(c, m, b, c_b);
            const Written<T> to(y, b, d, made);
            kernel.combine_gram(u, c_b, m, to.at(), n, streaming, lanes);
            to.finish(n);
          } else {
            kernel.gram(u, m, whole, lanes);
          }
          if (tail) kernel.gram(tail, m, sum_lanes, lanes);
        };
      },
      [&](int64_t b, const double* sums) { write_gram(sums, m, G + b * m * m); });
}

template <class T>
void gram_narrow(const Batch& batch, const Coefficients& c, const Output& y, double* G, const Work& work) {
  const int m = batch.m;
  for_narrow<T, T>(batch, c, pair_count(m), Narrow<T>::row, work, [&](double* memory) {
    return [&, result = reinterpret_cast<T*>(memory)](Narrow<T>& narrow, double* pairs, int64_t b, int64_t count) {
      of<T>(kernels()).narrow_gram(narrow.u(), m, batch.size, narrow.groups(), pairs);
      kernels().narrow_mirror(pairs, m, count, G + b * m * m);
      if (!y.data) return;
      narrow.combine(result);
      narrow.scatter(result, y, b, count);
    };
  });
}

template <class T>
void gram_as(const Batch& batch, const Coefficients& c, const Output& y, double* G, const Work& work) {
  if (is_narrow(batch))
    gram_narrow<T>(batch, c, y, G, work);
  else
    gram_rows<T>(batch, c, y, G, work);
}

}  // namespace

void gram_cpu(const Batch& batch, const Coefficients& c, const Output& y, double* G, const Work& work) {
  if (works_in_float64(batch, y))
    gram_as<double>(batch, c, y, G, work);
  else
    gram_as<float>(batch, c, y, G, work);
}

}  // namespace scorefusion
