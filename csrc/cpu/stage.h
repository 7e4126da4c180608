// Operands as the inner loops want them: blocks of one arithmetic type T (float or double).
//
// An operand of type T is read where it lies. Others, and noise, are made one block at a time in a scratch buffer
// that stays in the first-level cache.
#pragma once

#include <cstring>
#include <new>
#include <type_traits>

#include "../math/convert.h"
#include "../math/normal.h"
#include "../ops/batch.h"
#include "../ops/reductions.h"
#include "isa.h"

namespace scorefusion {

constexpr int64_t block_size = 512;  // elements: 8 operands of float32 blocks fill half a first-level cache

template <class T>
constexpr DType dtype_of = sizeof(T) == 8 ? DType::float64 : DType::float32;

// Memory of one thread, kept between calls; each launcher takes what it needs at once.
template <class T>
T* scratch(int64_t elements) {
  static constexpr std::align_val_t line{64};
  struct Buffer {
    void* data = nullptr;
    int64_t bytes = 0;
    ~Buffer() { ::operator delete(data, line); }
  };
  static thread_local Buffer buffer;
  const int64_t bytes = (elements * int64_t(sizeof(T)) + 63) / 64 * 64;
  if (bytes > buffer.bytes) {
    ::operator delete(buffer.data, line);
    buffer.data = nullptr, buffer.bytes = 0;  // should the next line throw
    buffer.data = ::operator new(size_t(bytes), line);
    buffer.bytes = bytes;
  }
  return static_cast<T*>(buffer.data);
}

// The coefficients of sample b, rounded once to T.
template <class T>
void read_coefficients(const Coefficients& c, int m, int64_t b, T* to) {
  if (!c.data) {
    for (int j = 0; j < m; ++j) to[j] = T(c.values[j]);
    return;
  }
  const auto read = [&](auto from) {
    for (int j = 0; j < m; ++j) to[j] = Narrowed<T>::from(to_double(from[b * c.stride + j * c.step]));
  };
  switch (c.dtype) {
    case DType::float16: return read(static_cast<const float16*>(c.data));
    case DType::bfloat16: return read(static_cast<const bfloat16*>(c.data));
    case DType::float32: return read(static_cast<const float*>(c.data));
    case DType::float64: return read(static_cast<const double*>(c.data));
  }
}

inline const void* element_of(const Operand& u, int64_t b, int64_t d) {
  return static_cast<const char*>(u.data) + (b * u.stride + d) * size_of(u.dtype);
}
inline void* element_of(const Output& y, int64_t b, int64_t d) {
  return static_cast<char*>(y.data) + (b * y.stride + d) * size_of(y.dtype);
}

// The index of element d of sample b in the standard normal tensor.
inline uint64_t noise_index(const Operand& u, int64_t size, int64_t b, int64_t d) {
  const uint64_t id = u.ids ? uint64_t(u.ids[b * u.ids_stride]) : u.first + uint64_t(b);
  return noise_element(u.offset, id, uint64_t(size), uint64_t(d));
}

// n normals from index e on, somewhere in `buffer` (room for n + noise_slack floats).
inline const float* normals_from(const Operand& u, uint64_t e, int64_t n, float* buffer) {
  const int64_t before = int64_t(e % 4);
  kernels().normals(u.seed, u.stream, e, (before + n + 3) / 4, buffer);
  return buffer + before;
}

template <class T>
class Stage {
 public:
  static constexpr int64_t row = block_size + noise_slack;

  // Room that `buffer` must have, in elements of T.
  static int64_t room(const Batch& batch) { return (batch.m + 1) * row + batch.m * sum_lanes; }

  Stage(const Batch& batch, T* buffer) : batch_(batch), buffer_(buffer) {
    for (int j = 0; j < batch.m; ++j) in_place_ &= is_in_place(batch.u[j]);
  }

  // Is every operand read where it lies? Then blocks may be of any length.
  bool in_place() const { return in_place_; }

  // Where the n (<= block_size) elements from d on of sample b are, for every operand.
  const T* const* block(int64_t b, int64_t d, int64_t n) {
    for (int j = 0; j < batch_.m; ++j) {
      const Operand& u = batch_.u[j];
      if (is_in_place(u))
        u_[j] = static_cast<const T*>(element_of(u, b, d));
      else
        u_[j] = made(u, b, d, n, buffer_ + j * row);
    }
    return u_;
  }

  // The n < 8 elements of the last block from its element `first` on, followed by zeros up to eight.
  const T* const* padded(int64_t first, int64_t n) {
    T* to = buffer_ + (batch_.m + 1) * row;
    for (int j = 0; j < batch_.m; ++j, to += sum_lanes) {
      for (int64_t e = 0; e < sum_lanes; ++e) to[e] = e < n ? u_[j][first + e] : T(0);
      padded_[j] = to;
    }
    return padded_;
  }

 private:
  static bool is_in_place(const Operand& u) { return !u.is_noise() && u.dtype == dtype_of<T>; }

  const T* made(const Operand& u, int64_t b, int64_t d, int64_t n, T* to) {
    if (!u.is_noise()) {
      of<T>(kernels()).widen(element_of(u, b, d), u.dtype, to, n);
      return to;
    }
    const uint64_t e = noise_index(u, batch_.size, b, d);
    if constexpr (std::is_same_v<T, float>) {
      return normals_from(u, e, n, to);
    } else {
      const float* z = normals_from(u, e, n, reinterpret_cast<float*>(buffer_ + batch_.m * row));
      kernels().f64.widen(z, DType::float32, to, n);
      return to;
    }
  }

  const Batch& batch_;
  T* buffer_;
  bool in_place_ = true;
  const T* u_[max_operands];
  const T* padded_[max_operands];
};

}  // namespace scorefusion
