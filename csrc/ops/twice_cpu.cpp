// combine_twice on the CPU: each operand crosses memory once, and so do r and y.
#include "twice.h"

#include "combine.h"
#include "pass_cpu.h"

namespace scorefusion {
namespace {

constexpr int most_streams = 12;     // at a time, as in combine
constexpr int64_t near_size = 2048;  // elements of r that are in the first-level cache when y reads them

template <class T>
void combine_twice_rows(const Batch& batch, const Coefficients& c, const Twice& twice, const Work& work) {
  const bool streaming = is_streamed(batch, twice.r) && is_streamed(batch, twice.y);
  const auto combine = of<T>(kernels()).combine;
  const int first = twice.first, others = batch.m - first;
  T of_r[max_operands], of_y[max_operands];
  read_coefficients(c, batch.m, 0, of_r);
  of_y[0] = T(twice.share);
  std::copy_n(of_r + first, others, of_y + 1);
  const Cut cut(batch);
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t begin, int64_t end) {
    T* buffer = scratch<T>(Stage<T>::room(batch) + near_size);
    Stage<T> stage(batch, buffer);
    const int64_t step = stage.in_place() ? near_size : block_size;
    T* const made = buffer + Stage<T>::room(batch);  // r, where its own memory is not to be read again
    const T* v[1 + max_operands];
    const T one = 1;
    for (int64_t item = begin; item < end; ++item) {
      cut.walk(item, [&](int64_t b, int64_t, int64_t d, int64_t n) {
        for (const int64_t stop = d + n; d < stop; d += step) {
          const int64_t length = std::min(step, stop - d);
          const T* const* u = stage.block(b, d, length);
          T *const r = static_cast<T*>(element_of(twice.r, b, d)), *const near = streaming ? made : r;
          combine(u, of_r, first, near, length, false);
          v[0] = near;
          if (streaming) combine(v, &one, 1, r, length, true);
          std::copy_n(u + first, others, v + 1);
          combine(v, of_y, 1 + others, static_cast<T*>(element_of(twice.y, b, d)), length, streaming);
        }
      });
    }
  });
}

}  // namespace

void combine_twice_cpu(const Batch& given, const Coefficients& c, const Twice& twice, const Work& work) {
  Batch batch = given;
  Twice merged = twice;
  if (twice.r.stride == batch.size) merge_samples(batch, c, merged.y);
  const bool in_float64 = works_in_float64(batch, twice.y);
  const bool precise = twice.y.dtype == (in_float64 ? DType::float64 : DType::float32);
  const bool narrow = is_narrow(batch) && batch.samples >= narrow_lanes;
  // In place r would be written where an operand is read still.
  const auto overwrites = [&](const Output& y) {
    return std::any_of(batch.u, batch.u + batch.m, [&](const Operand& u) { return u.data == y.data; });
  };
  if (!precise || narrow || batch.m > most_streams || overwrites(twice.r) || overwrites(twice.y))
    combine_twice_by(given, c, twice, [&](const Batch& batch, const Coefficients& c, const Output& y) {
      combine_cpu(batch, c, y, work);
    });
  else if (in_float64)
    combine_twice_rows<double>(batch, c, merged, work);
  else
    combine_twice_rows<float>(batch, c, merged, work);
}

}  // namespace scorefusion
