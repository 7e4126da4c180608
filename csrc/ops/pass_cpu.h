// What the CPU launchers share: how (samples, size) is cut into items of work, and samples too narrow for a loop
// of their own laid side by side.
#pragma once

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <algorithm>
#include <fstream>

#include "../cpu/stage.h"
#include "../cpu/threads.h"

namespace scorefusion {

// Items of about chunk_size elements: several samples each, or one chunk of a sample.
struct Cut {
  int64_t samples, size;
  int64_t samples_per_item;  // 1 where samples are cut into chunks
  int64_t chunks;            // per sample

  explicit Cut(const Batch& batch)
      : samples(batch.samples),
        size(batch.size),
        samples_per_item(std::max<int64_t>(1, chunk_size / std::max<int64_t>(1, size) / narrow_lanes * narrow_lanes)),
        chunks(samples_per_item > 1 ? 1 : (size + chunk_size - 1) / chunk_size) {}

  int64_t items() const { return (samples + samples_per_item - 1) / samples_per_item * chunks; }

  // Calls each(b, chunk, d, n) for the samples and the stretch [d, d + n) that make up an item.
  template <class Each>
  void walk(int64_t item, Each&& each) const {
    const int64_t chunk = item % chunks, first = item / chunks * samples_per_item;
    const int64_t last = std::min(samples, first + samples_per_item), d = chunk * chunk_size;
    for (int64_t b = first; b < last; ++b) each(b, chunk, d, chunks > 1 ? std::min(chunk_size, size - d) : size);
  }
};

inline bool worth_several(const Batch& batch) { return batch.samples * batch.size * batch.m >= worth_threads; }

// Bytes of the last-level cache that one core can fill. sysconf, asked where Linux does not tell, adds up all of them
// that an AMD package has.
inline int64_t cache_size() {
  static const int64_t size = [] {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");  // "32768K"
    if (int64_t kibibytes; file >> kibibytes) return kibibytes << 10;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    if (const int64_t bytes = sysconf(_SC_LEVEL3_CACHE_SIZE); bytes > 0) return bytes;
#endif
    return int64_t(32) << 20;
  }();
  return size;
}

// Should y go past the cache? Yes where the next call would find little of this one there, unless y overwrites what was
// just read.
inline bool is_streamed(const Batch& batch, const Output& y) {
  int64_t bytes = size_of(y.dtype);
  for (int j = 0; j < batch.m; ++j) {
    if (batch.u[j].data == y.data) return false;
    if (!batch.u[j].is_noise()) bytes += size_of(batch.u[j].dtype);
  }
  return batch.samples * batch.size * bytes > cache_size();
}

// Writes n results to [d, d + n) of sample b: in place where types agree, else through `made` and one rounding.
template <class T>
class Written {
 public:
  Written(const Output& y, int64_t b, int64_t d, T* made)
      : to_(element_of(y, b, d)), dtype_(y.dtype), at_(dtype_ == dtype_of<T> ? static_cast<T*>(to_) : made) {}
  T* at() const { return at_; }
  void finish(int64_t n) const {
    if (dtype_ != dtype_of<T>) of<T>(kernels()).round(at_, dtype_, to_, n);
  }

 private:
  void* to_;
  DType dtype_;
  T* at_;
};

inline bool is_narrow(const Batch& batch) { return batch.size <= narrow_size; }

// Tiles of narrow samples laid side by side, in groups of narrow_lanes, so that one vector holds one element of many
// samples: element d of lane L of group g is at (g·size + d)·narrow_lanes + L. C is the type of the coefficients.
template <class T, class C = T>
class Narrow {
 public:
  static constexpr int64_t row = narrow_size * narrow_lanes;  // of one operand
  static constexpr int64_t flat = row + noise_slack;

  // Elements of T for the operands of a tile, and for their samples one after another.
  static int64_t room(const Batch& batch) { return batch.m * row + 2 * flat; }
  // Groups in a tile: as many as leave it in the first-level cache, with `results` numbers made of each sample.
  static int64_t groups_of(const Batch& batch, int64_t results) {
    return std::max<int64_t>(1, narrow_size / std::max({batch.size, int64_t(batch.m), results}));
  }

  Narrow(const Batch& batch, const Coefficients& c, T* buffer) : batch_(batch), c_(c), flat_(buffer + batch.m * row) {
    for (int j = 0; j < batch.m; ++j) u_[j] = buffer + j * row;
    if (!c.shared()) return;
    read_coefficients(c, batch.m, 0, c_rows_);
    for (int j = 0; j < batch.m; ++j) std::fill_n(coefficients_ + j * narrow_lanes, narrow_lanes, c_rows_[j]);
  }

  const T* const* u() const { return u_; }
  const C* coefficients() const { return coefficients_; }
  int64_t coefficients_step() const { return c_.shared() ? 0 : batch_.m * narrow_lanes; }  // from group to group
  int64_t groups() const { return groups_; }

  // Lays out samples [b, b + count); lanes beyond them hold zeros.
  void gather(int64_t b, int64_t count) {
    groups_ = (count + narrow_lanes - 1) / narrow_lanes;
    for (int j = 0; j < batch_.m; ++j) {
      int64_t stride;
      const T* from = samples_of(batch_.u[j], b, count, stride);
      of<T>(kernels()).narrow_gather(from, stride, batch_.size, count, u_[j]);
    }
    if (!c_.shared())
      of<C>(kernels()).narrow_gather(coefficients_of(b, count), batch_.m, batch_.m, count, coefficients_);
  }

  // y = Σ_j c_j u_j, side by side too; C is T.
  void combine(T* y) const {
    of<T>(kernels()).narrow_combine(u_, coefficients_, coefficients_step(), batch_.m, batch_.size, groups_, y);
  }

  // Writes results that lie side by side back as samples [b, b + count), rounded once to their type.
  template <class From>
  void scatter(const From* from, const Output& y, int64_t b, int64_t count) {
    const int64_t size = batch_.size;
    const auto& kernel = of<From>(kernels());
    if (y.dtype == dtype_of<From>)
      return kernel.narrow_scatter(from, size, count, static_cast<From*>(element_of(y, b, 0)), y.stride);
    if (sizeof(From) == 8 && y.dtype == DType::float32) {
      kernel.round(from, y.dtype, flat_, groups_ * size * narrow_lanes);
      return scatter(reinterpret_cast<const float*>(flat_), y, b, count);
    }
    From* const rows = reinterpret_cast<From*>(flat_);
    kernel.narrow_scatter(from, size, count, rows, size);
    const int64_t together = y.stride == size ? count : 1;
    for (int64_t s = 0; s < count; s += together)
      kernel.round(rows + s * size, y.dtype, element_of(y, b + s, 0), together * size);
  }

 private:
  // The coefficients of samples [b, b + count), a row of m for each.
  const C* coefficients_of(int64_t b, int64_t count) {
    const int m = batch_.m;
    if (c_.step != 1 || c_.stride != m) {
      for (int64_t s = 0; s < count; ++s) read_coefficients(c_, m, b + s, c_rows_ + s * m);
      return c_rows_;
    }
    const void* from = static_cast<const char*>(c_.data) + b * m * size_of(c_.dtype);
    if (c_.dtype == dtype_of<C>) return static_cast<const C*>(from);
    if (c_.dtype == DType::float64)
      kernels().f64.round(static_cast<const double*>(from), dtype_of<C>, c_rows_, count * m);
    else
      of<C>(kernels()).widen(from, c_.dtype, c_rows_, count * m);
    return c_rows_;
  }

  // The samples as T with `stride` elements from one to the next.
  const T* samples_of(const Operand& u, int64_t b, int64_t count, int64_t& stride) {
    const int64_t size = batch_.size;
    stride = size;
    if (u.is_noise()) {
      float* z = reinterpret_cast<float*>(flat_);
      if (!u.ids) return as_T(normals_from(u, noise_index(u, size, b, 0), count * size, z), count * size);
      float one[narrow_size + noise_slack];
      for (int64_t s = 0; s < count; ++s)
        std::memcpy(z + s * size, normals_from(u, noise_index(u, size, b + s, 0), size, one),
                    size_t(size) * sizeof(float));
      return as_T(z, count * size);
    }
    if (u.dtype == dtype_of<T>) {
      stride = u.stride;
      return static_cast<const T*>(element_of(u, b, 0));
    }
    const auto widen = of<T>(kernels()).widen;
    if (u.stride == size) {
      widen(element_of(u, b, 0), u.dtype, flat_, count * size);
    } else {
      for (int64_t s = 0; s < count; ++s) widen(element_of(u, b + s, 0), u.dtype, flat_ + s * size, size);
    }
    return flat_;
  }

  const T* as_T(const float* z, int64_t n) {
    if constexpr (std::is_same_v<T, float>) {
      return z;
    } else {
      kernels().f64.widen(z, DType::float32, flat_ + flat, n);
      return flat_ + flat;
    }
  }

  const Batch& batch_;
  const Coefficients& c_;
  static_assert(max_operands <= narrow_size, "the coefficients of a tile fit where an operand does");
  C coefficients_[row], c_rows_[row];
  int64_t groups_ = 0;
  T* u_[max_operands];
  T* flat_;
};

// Calls each(b, count) for the tiles of up to `at_once` samples of an item.
template <class Each>
void walk_narrow(const Cut& cut, int64_t item, int64_t at_once, Each&& each) {
  const int64_t first = item * cut.samples_per_item, last = std::min(cut.samples, first + cut.samples_per_item);
  for (int64_t b = first; b < last; b += at_once) each(b, std::min(at_once, last - b));
}

}  // namespace scorefusion
