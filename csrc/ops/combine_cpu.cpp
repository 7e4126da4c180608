// combine on the CPU: (m + 1)·samples·size elements cross memory once.
#include "combine.h"
#include "pass_cpu.h"

namespace scorefusion {
namespace {

// More streams than this at a time and a core's prefetching fails it: sums of the first are added to the next.
constexpr int most_streams = 12;
constexpr int64_t turn_size = 4096;  // elements of that sum: it stays near, and each stream is read for a while

// Bit for bit one chain: the sum so far goes on with coefficient 1. `sum` has room for n elements.
template <class T>
void combine_in_turns(const T* const* u, const T* c, int m, T* y, int64_t n, bool streaming, T* sum) {
  const auto combine = of<T>(kernels()).combine;
  if (m <= most_streams) return combine(u, c, m, y, n, streaming);
  combine(u, c, most_streams, sum, n, false);
  const T* v[most_streams];
  T a[most_streams];
  for (int first = most_streams, count; first < m; first += count) {
    count = std::min(m - first, most_streams - 1);
    v[0] = sum, a[0] = 1;
    std::copy_n(u + first, count, v + 1);
    std::copy_n(c + first, count, a + 1);
    const bool last = first + count == m;
    combine(v, a, count + 1, last ? y : sum, n, last && streaming);
  }
}

template <class T>
void combine_rows(const Batch& batch, const Coefficients& c, const Output& y, const Work& work) {
  const bool streaming = y.dtype == dtype_of<T> && is_streamed(batch, y);
  const Cut cut(batch);
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
    T* buffer = scratch<T>(Stage<T>::room(batch) + block_size + turn_size);
    T *made = buffer + Stage<T>::room(batch), *sum = made + block_size;
    Stage<T> stage(batch, buffer);
    const int64_t most = batch.m <= most_streams ? chunk_size : turn_size;
    const int64_t step = stage.in_place() && y.dtype == dtype_of<T> ? most : block_size;
    T c_b[max_operands];
    if (c.shared()) read_coefficients(c, batch.m, 0, c_b);
    for (int64_t item = first; item < last; ++item) {
      cut.walk(item, [&](int64_t b, int64_t, int64_t begin, int64_t n) {
        if (!c.shared()) read_coefficients(c, batch.m, b, c_b);
        for (int64_t d = begin; d < begin + n; d += step) {
          const int64_t length = std::min(step, begin + n - d);
          const Written<T> to(y, b, d, made);
          combine_in_turns(stage.block(b, d, length), c_b, batch.m, to.at(), length, streaming, sum);
          to.finish(length);
        }
      });
    }
  });
}

template <class T>
void combine_narrow(const Batch& batch, const Coefficients& c, const Output& y, const Work& work) {
  const Cut cut(batch);
  const int64_t at_once = Narrow<T>::groups_of(batch, batch.size) * narrow_lanes;
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
    T* buffer = scratch<T>(Narrow<T>::room(batch) + Narrow<T>::row);
    T* result = buffer + Narrow<T>::room(batch);
    Narrow<T> narrow(batch, c, buffer);
    for (int64_t item = first; item < last; ++item) {
      walk_narrow(cut, item, at_once, [&](int64_t b, int64_t count) {
        narrow.gather(b, count);
        narrow.combine(result);
        narrow.scatter(result, y, b, count);
      });
    }
  });
}

// Everything of one 16-bit type: no blocks of floats in between.
template <class E, class Kernel>
void combine_halves(const Batch& batch, const Coefficients& c, const Output& y, const Work& work, Kernel kernel) {
  const bool streaming = is_streamed(batch, y);
  const Cut cut(batch);
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
    float c_b[max_operands];
    const E* u[max_operands];
    for (int64_t item = first; item < last; ++item) {
      cut.walk(item, [&](int64_t b, int64_t, int64_t d, int64_t n) {
        read_coefficients(c, batch.m, b, c_b);
        for (int j = 0; j < batch.m; ++j) u[j] = static_cast<const E*>(element_of(batch.u[j], b, d));
        kernel(u, c_b, batch.m, static_cast<E*>(element_of(y, b, d)), n, streaming);
      });
    }
  });
}

bool all_of_type(DType dtype, const Batch& batch, const Output& y) {
  for (int j = 0; j < batch.m; ++j)
    if (batch.u[j].is_noise() || batch.u[j].dtype != dtype) return false;
  return y.dtype == dtype;
}

}  // namespace

void combine_cpu(const Batch& given, const Coefficients& c, const Output& given_y, const Work& work) {
  Batch batch = given;
  Output y = given_y;
  merge_samples(batch, c, y);
  const bool in_float64 = works_in_float64(batch, y);
  // Few samples fill no vector side by side, and elementwise results do not depend on the way.
  if (is_narrow(batch) && batch.samples >= narrow_lanes)
    in_float64 ? combine_narrow<double>(batch, c, y, work) : combine_narrow<float>(batch, c, y, work);
  else if (all_of_type(DType::bfloat16, batch, y))
    combine_halves<bfloat16>(batch, c, y, work, kernels().combine_bfloat16);
  else if (all_of_type(DType::float16, batch, y))
    combine_halves<float16>(batch, c, y, work, kernels().combine_float16);
  else
    in_float64 ? combine_rows<double>(batch, c, y, work) : combine_rows<float>(batch, c, y, work);
}

}  // namespace scorefusion
