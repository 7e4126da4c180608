// multiples on the CPU: operands cross memory once, and so does each result; r stays in the first-level cache.
#include "multiples.h"

#include <memory>

#include "combine.h"
#include "pass_cpu.h"

namespace scorefusion {
namespace {

bool are_streamed(const Batch& batch, const Multiples& results) {
  Batch with_results = batch;
  for (size_t i = 1; i < results.size() && with_results.m < max_operands; ++i) {
    Operand& other = with_results.u[with_results.m++];
    other = Operand{};
    other.data = results[i].y.data;
    other.dtype = results[i].y.dtype;
  }
  return is_streamed(with_results, results[0].y);
}

template <class T>
void multiples_rows(const Batch& batch, const Coefficients& c, const Coefficients& f, int factors,
                    const Multiples& results, const Work& work) {
  const bool streaming = are_streamed(batch, results);
  const auto combine = of<T>(kernels()).combine;
  const Cut cut(batch);
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
    T* buffer = scratch<T>(Stage<T>::room(batch) + 2 * block_size);
    T *r = buffer + Stage<T>::room(batch), *made = r + block_size;
    Stage<T> stage(batch, buffer);
    T c_b[max_operands], f_b[max_operands];
    for (int64_t item = first; item < last; ++item) {
      cut.walk(item, [&](int64_t b, int64_t, int64_t begin, int64_t n) {
        read_coefficients(c, batch.m, b, c_b);
        read_coefficients(f, factors, b, f_b);
        for (int64_t d = begin; d < begin + n; d += block_size) {
          const int64_t length = std::min(block_size, begin + n - d);
          combine(stage.block(b, d, length), c_b, batch.m, r, length, false);
          for (const Multiple& result : results) {
            const Written<T> to(result.y, b, d, made);
            combine(&r, &f_b[result.k], 1, to.at(), length, streaming && result.y.dtype == dtype_of<T>);
            to.finish(length);
          }
        }
      });
    }
  });
}

template <class T>
void multiples_as(const Batch& batch, const Coefficients& c, const Coefficients& f, const Multiples& results,
                  const Work& work) {
  if (is_narrow(batch) && batch.samples >= narrow_lanes && !(c.shared() && f.shared())) {  // laid side by side
    const std::unique_ptr<T[]> memory(new T[batch.samples * batch.size]);
    return multiples_of_stored(
        batch, c, f, results, {memory.get(), batch.size, dtype_of<T>},
        [&](const Batch& batch, const Coefficients& c, const Output& y) { combine_cpu(batch, c, y, work); });
  }
  int factors = 0;
  for (const Multiple& result : results) factors = std::max(factors, result.k + 1);
  multiples_rows<T>(batch, c, f, factors, results, work);
}

}  // namespace

void multiples_cpu(const Batch& given, const Coefficients& c, const Coefficients& f, const Multiples& results,
                   const Work& work) {
  if (results.empty()) return;
  Batch batch = given;
  Output y = results[0].y;
  if (f.shared()) merge_samples(batch, c, y);
  if (in_float64(batch, results))
    multiples_as<double>(batch, c, f, results, work);
  else
    multiples_as<float>(batch, c, f, results, work);
}

}  // namespace scorefusion
