// What every kernel is given: m operands flattened to (samples, size), coefficients, and places for results.
//
// Plain data: no Python, no ownership, no CUDA runtime. A pointer is a host pointer for the *_cpu launchers
// and a device pointer for the *_cuda launchers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../array/dtype.h"
#include "../math/convert.h"

namespace scorefusion {

constexpr int max_operands = 64;

// Element `index` of an array of any type.
SF_INLINE double element_of(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::float16: return to_double(static_cast<const float16*>(data)[index]);
    case DType::bfloat16: return to_double(static_cast<const bfloat16*>(data)[index]);
    case DType::float32: return to_double(static_cast<const float*>(data)[index]);
    default: return static_cast<const double*>(data)[index];
  }
}

// One operand u_j. Sample b of an array lies at data + b·stride, its elements one after another; stride is in
// elements and may be 0 (an expanded batch) or negative. A noise operand has data == nullptr and regenerates
// element d of sample b as normal(seed, stream, e) with e = offset + id_b·size + d (csrc/math/normal.h).
struct Operand {
  const void* data = nullptr;    // (samples, size), or nullptr: noise
  int64_t stride = 0;            // elements from one sample to the next
  DType dtype = DType::float32;  // of data; noise is float32
  uint64_t seed = 0;
  uint64_t stream = 0;
  uint64_t first = 0;            // noise without ids: id_b = first + b
  uint64_t offset = 0;           // of the element index; only launchers that merge samples set it
  const int64_t* ids = nullptr;  // (samples,) or nullptr
  int64_t ids_stride = 1;        // elements from one id to the next

  bool is_noise() const { return data == nullptr; }
};

// The m operands of one call. Room for all 64 costs little: only m are copied, and `unfilled` leaves them as they are
// (together .15 µs of a small call, which takes .4).
struct Batch {
  int64_t samples = 0;  // B
  int64_t size = 0;     // D, elements per sample
  int m = 0;            // 1 .. max_operands
  union {
    Operand u[max_operands];
  };

  Batch() { std::fill_n(u, max_operands, Operand{}); }
  struct Unfilled {};
  explicit Batch(Unfilled) {}
  Batch(const Batch& other) : samples(other.samples), size(other.size), m(other.m) { std::copy_n(other.u, m, u); }
  Batch& operator=(const Batch& other) = delete;
};

// c_bj = values[j] when shared, else element (b·stride + j·step) of data. Rounded once, to the arithmetic type.
struct Coefficients {
  double values[max_operands] = {};  // shared, known on the host (data == nullptr)
  const void* data = nullptr;        // in memory: (m,) with stride 0, or (samples, m)
  DType dtype = DType::float64;      // of data
  int64_t stride = 0;                // elements from one sample's coefficients to the next; 0: shared
  int64_t step = 1;                  // elements from one coefficient to the next
  bool on_host = true;               // is data a host pointer?  (always true for *_cpu)

  bool shared() const { return data == nullptr || stride == 0; }
};

// Where an elementwise result goes: sample b at data + b·stride. May be one of the operands exactly.
struct Output {
  void* data = nullptr;  // (samples, size); nullptr: not wanted
  int64_t stride = 0;
  DType dtype = DType::float32;
};

// Where the same result comes from one row of samples·size elements (coefficients are shared and samples follow one
// another everywhere), makes it that row.
inline void merge_samples(Batch& batch, const Coefficients& c, Output& y) {
  if (batch.samples == 1 || !c.shared()) return;
  if (y.data && y.stride != batch.size) return;
  for (int j = 0; j < batch.m; ++j) {
    const Operand& u = batch.u[j];
    if (u.is_noise() ? u.ids != nullptr : u.stride != batch.size) return;
  }
  for (int j = 0; j < batch.m; ++j) {
    Operand& u = batch.u[j];
    u.offset += u.first * uint64_t(batch.size);
    u.first = 0;
  }
  batch.size *= batch.samples;
  batch.samples = 1;
}

// combine works in float32, or in float64 if an operand or the output is float64.
inline bool works_in_float64(const Batch& batch, const Output& y) {
  if (y.data && y.dtype == DType::float64) return true;
  for (int j = 0; j < batch.m; ++j)
    if (!batch.u[j].is_noise() && batch.u[j].dtype == DType::float64) return true;
  return false;
}

}  // namespace scorefusion
