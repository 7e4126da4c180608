// combine on the CPU: (m + 1)·samples·size elements cross memory once.
#include "combine.h"
#include "pass_cpu.h"

namespace scorefusion {
namespace {

template <class T>
void combine_rows(const Batch& batch, const Coefficients& c, const Output& y, const Work& work) {
  const bool streaming = is_streamed(batch, y);
  const Cut cut(batch);
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
    T* buffer = scratch<T>(Stage<T>::room(batch) + block_size);
    T* made = buffer + Stage<T>::room(batch);
    Stage<T> stage(batch, buffer);
    const int64_t step = stage.in_place() && y.dtype == dtype_of<T> ? chunk_size : block_size;
    T c_b[max_operands];
    if (c.shared()) read_coefficients(c, batch.m, 0, c_b);
    for (int64_t item = first; item < last; ++item) {
      cut.walk(item, [&](int64_t b, int64_t, int64_t begin, int64_t n) {
        if (!c.shared()) read_coefficients(c, batch.m, b, c_b);
        for (int64_t d = begin; d < begin + n; d += step) {
          const int64_t length = std::min(step, begin + n - d);
          const Written<T> to(y, b, d, made);
          of<T>(kernels()).combine(stage.block(b, d, length), c_b, batch.m, to.at(), length, streaming);
          to.finish(length, streaming);
        }
      });
    }
  });
}

template <class T>
void combine_narrow(const Batch& batch, const Coefficients& c, const Output& y, const Work& work) {
  const Cut cut(batch);
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
    T* buffer = scratch<T>(Narrow<T>::room(batch) + Narrow<T>::row);
    T* result = buffer + Narrow<T>::room(batch);
    Narrow<T> narrow(batch, c, buffer);
    for (int64_t item = first; item < last; ++item) {
      walk_narrow(cut, item, [&](int64_t b, int64_t count) {
        narrow.gather(b, count);
        of<T>(kernels()).narrow_combine(narrow.u(), narrow.coefficients(), batch.m, result, narrow.elements());
        narrow.scatter(result, y, b, count);
      });
    }
  });
}

template <class T>
void combine_as(const Batch& batch, const Coefficients& c, const Output& y, const Work& work) {
  // Few samples fill no vector side by side, and elementwise results do not depend on the way.
  if (is_narrow(batch) && batch.samples >= narrow_lanes)
    combine_narrow<T>(batch, c, y, work);
  else
    combine_rows<T>(batch, c, y, work);
}

}  // namespace

void combine_cpu(const Batch& given, const Coefficients& c, const Output& given_y, const Work& work) {
  Batch batch = given;
  Output y = given_y;
  merge_samples(batch, c, y);
  if (works_in_float64(batch, y))
    combine_as<double>(batch, c, y, work);
  else
    combine_as<float>(batch, c, y, work);
}

}  // namespace scorefusion
