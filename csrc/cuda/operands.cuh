// How kernels read operands and coefficients and write elementwise results.
//
// A pack is V consecutive elements of one sample, held by one thread; V is 16 bytes of the widest element type in
// the call (8, 4 or 2), so that a pack is at most 16 bytes of any operand and one vector load brings it. A group is a
// few operands that are read together: every load of a group is on its way before the first value is converted.
// At most one operand of a group is noise, so that the code that makes noise stands once in a kernel and runs while
// the loads are under way.
#pragma once

#include <cstdint>

#include "../math/convert.h"
#include "../math/normal.h"
#include "../ops/batch.h"
#include "portable.cuh"

namespace scorefusion::cuda {

// ---- Constants ---------------------------------------------------------------------------------------------------

constexpr int pack_bytes = 16;     // the widest load there is
constexpr int group_capacity = 8;  // 8 packs of 16 bytes are 32 registers

// A whole parameter block fits what every driver accepts.
constexpr int parameter_bytes = 4096;

// The type that a pack of V elements is computed in: float64 exactly where float64 takes part.
template <int V>
struct ElementOf {
  using type = float;
};
template <>
struct ElementOf<2> {
  using type = double;
};
template <int V>
using Element = typename ElementOf<V>::type;

// ---- What a kernel is told ---------------------------------------------------------------------------------------

enum class Kind : uint32_t { float16, bfloat16, float32, float64, noise };  // DType, and noise

// One operand. Element d of sample b: of an array, data[b·stride + d]; of noise, the normal of index
// origin + id·size + d, with id = data[b·stride] (int64) or b where data is null.
struct Source {
  const void* data;
  int64_t stride;
  uint64_t origin;
  uint64_t seed;
  uint64_t stream;
  Kind kind;
};

struct Group {
  int8_t first;  // operand
  int8_t count;
  int8_t noise;  // which of the count is noise; -1: none
};

template <int N>
struct Sources {
  Source u[N];
  Group group[N];
  int groups;
  bool vectors;   // may packs be loaded and stored as vectors? (everything is aligned)
  uint64_t size;  // D, of a sample of noise
};

// c_bj: values[j], or element (b·stride + j·step) of device memory.
template <class T, int N>
struct CoefficientsOf {
  T values[N];
  const void* data;
  int64_t stride;
  int64_t step;
  DType dtype;
};

// ---- Helpers: one element ----------------------------------------------------------------------------------------

// float16 by the conversion instruction where there is one: a tenth of the integer arithmetic, the same values.
SF_INLINE float widen(float16 x) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  return to_float(x);
#endif
}
SF_INLINE float widen(bfloat16 x) { return to_float(x); }

template <class To, class From>
SF_INLINE To narrow(From x) {
  return Narrowed<To>::from(x);
}
#if defined(__CUDA_ARCH__)
template <>
SF_INLINE float16 narrow<float16, float>(float x) {
  float16 value;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
  return value;
}
template <>
SF_INLINE float16 narrow<float16, double>(double x) {
  return narrow<float16>(round_to_odd(x));
}
#endif

// ---- Helpers: one pack -------------------------------------------------------------------------------------------

// A pack as it lies in memory.
struct alignas(pack_bytes) Raw {
  uint32_t word[4];
};

SF_INLINE uint16_t half_word(const Raw& raw, int i) { return uint16_t(raw.word[i / 2] >> (16 * (i % 2))); }
SF_INLINE uint64_t double_word(const Raw& raw, int i) {
  return uint64_t(raw.word[2 * i]) | uint64_t(raw.word[2 * i + 1]) << 32;
}

template <int bytes>
struct alignas(bytes) Words {
  uint32_t word[bytes / 4];
};

// One vector load.
template <int bytes>
__device__ __forceinline__ void load_words(const char* from, Raw& raw) {
  const Words<bytes> words = *reinterpret_cast<const Words<bytes>*>(from);
  for (int i = 0; i < bytes / 4; ++i) raw.word[i] = words.word[i];
}

// One load per element: for what is not aligned, and for the end of a sample.
template <int V, class Bits>
__device__ __forceinline__ void load_elements(const char* from, int n, Raw& raw) {
  const Bits* bits = reinterpret_cast<const Bits*>(from);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (v >= n) break;
    if constexpr (sizeof(Bits) == 2) raw.word[v / 2] |= uint32_t(bits[v]) << (16 * (v % 2));
    if constexpr (sizeof(Bits) == 4) raw.word[v] = bits[v];
    if constexpr (sizeof(Bits) == 8) raw.word[2 * v] = uint32_t(bits[v]), raw.word[2 * v + 1] = uint32_t(bits[v] >> 32);
  }
}

template <int V, class Bits>
__device__ __forceinline__ void load_pack(const void* data, int64_t index, int n, bool vectors, Raw& raw) {
  const char* from = static_cast<const char*>(data) + index * int64_t(sizeof(Bits));
  if (vectors && n == V)
    load_words<V * sizeof(Bits)>(from, raw);
  else
    load_elements<V, Bits>(from, n, raw);
}

// Elements d .. d + n − 1 of sample b of an array; the types are told apart by size alone here.
template <int V>
__device__ __forceinline__ Raw load(const Source& u, int64_t b, int64_t d, int n, bool vectors) {
  Raw raw = {};
  const int64_t index = b * u.stride + d;
  if (u.kind == Kind::float32) {
    if constexpr (4 * V <= pack_bytes) load_pack<V, uint32_t>(u.data, index, n, vectors, raw);
  } else if (u.kind == Kind::float64) {
    if constexpr (8 * V <= pack_bytes) load_pack<V, uint64_t>(u.data, index, n, vectors, raw);
  } else {
    load_pack<V, uint16_t>(u.data, index, n, vectors, raw);
  }
  return raw;
}

// Elements first .. first + S − 1 of a pack of V.
template <int V, int S>
__device__ __forceinline__ void convert(const Raw& raw, Kind kind, int first, Element<V> (&u)[S]) {
  switch (kind) {
    case Kind::float16:
#pragma unroll
      for (int s = 0; s < S; ++s) u[s] = widen(float16{half_word(raw, first + s)});
      break;
    case Kind::bfloat16:
#pragma unroll
      for (int s = 0; s < S; ++s) u[s] = widen(bfloat16{half_word(raw, first + s)});
      break;
    case Kind::float32:
      if constexpr (4 * V <= pack_bytes) {
#pragma unroll
        for (int s = 0; s < S; ++s) u[s] = bits_as<float>(raw.word[first + s]);
      }
      break;
    default:
      if constexpr (8 * V <= pack_bytes) {
#pragma unroll
        for (int s = 0; s < S; ++s) u[s] = bits_as<double>(double_word(raw, first + s));
      }
  }
}

// Elements d .. d + n − 1 of sample b of a noise operand. Four normals come from each counter; where the first of them
// is not the first of its counter (D need not be a multiple of 4), one counter more is asked and the row is shifted.
template <int V>
__device__ __forceinline__ void make_noise(const Source& u, uint64_t size, int64_t b, int64_t d, int n, float (&z)[V]) {
  constexpr int counters = (3 + V + 3) / 4, row_size = 4 * counters;
  const uint64_t id = u.data ? uint64_t(static_cast<const int64_t*>(u.data)[b * u.stride]) : uint64_t(b);
  const uint64_t e = noise_element(u.origin, id, size, uint64_t(d));
  const int shift = int(e & 3);
  float row[row_size] = {};
#pragma unroll 1  // the code that makes normals stands here once
  for (int k = 0; k < counters; ++k) {
#pragma unroll
    for (int i = 0; i < row_size - 4; ++i) row[i] = row[i + 4];
    if (4 * k < shift + n) normal4(u.seed, u.stream, noise_counter(e, uint64_t(k)), row + row_size - 4);
  }
#pragma unroll
  for (int i = 0; i + 1 < row_size; ++i) row[i] = shift & 1 ? row[i + 1] : row[i];
#pragma unroll
  for (int v = 0; v < V; ++v) z[v] = shift & 2 ? row[v + 2] : row[v];
}

// ---- Helpers: one group ------------------------------------------------------------------------------------------

// A group of up to G operands as it lies in memory, its noise already made.
template <int V, int G>
struct Pack {
  const Source* source;
  int count, noise;
  Raw raw[G];
  float z[V];

  // Elements d .. d + n − 1 of sample b.
  template <int N>
  __device__ __forceinline__ Pack(const Sources<N>& s, Group group, int64_t b, int64_t d, int n)
      : source(s.u + group.first), count(group.count), noise(group.noise) {
#pragma unroll
    for (int j = 0; j < G; ++j)
      if (j < count && j != noise) raw[j] = load<V>(source[j], b, d, n, s.vectors);
    if (noise >= 0) make_noise<V>(source[noise], s.size, b, d, n, z);
  }

  // u[s] = element first + s of operand j.
  template <int S>
  __device__ __forceinline__ void convert(int j, int first, Element<V> (&u)[S]) const {
    if (j != noise) return cuda::convert<V>(raw[j], source[j].kind, first, u);
#pragma unroll
    for (int s = 0; s < S; ++s) u[s] = z[first + s];
  }
};

// c[j] = the coefficient of operand first + j for sample b, rounded once to T.
template <int G, class T, int N>
__device__ __forceinline__ void read_coefficients(const CoefficientsOf<T, N>& from, int first, int count, int64_t b,
                                                  T (&c)[G]) {
#pragma unroll
  for (int j = 0; j < G; ++j) {
    if (j >= count) break;
    c[j] = from.data ? T(element_of(from.data, from.dtype, b * from.stride + (first + j) * from.step))
                     : from.values[first + j];
  }
}

// y = c u where a chain begins, y + c u fused after that.
template <class T>
SF_INLINE void add_term(T c, T u, bool first, T& y) {
  y = first ? c * u : fused(c, u, y);
}

// ---- Helpers: results --------------------------------------------------------------------------------------------

template <int V, class To, class T>
__device__ __forceinline__ void store_pack(void* data, int64_t index, int n, bool vectors, const T (&y)[V]) {
  constexpr int bytes = V * sizeof(To), step = bytes < pack_bytes ? bytes : pack_bytes;
  To* to = static_cast<To*>(data) + index;
  To rounded[V];
#pragma unroll
  for (int v = 0; v < V; ++v) rounded[v] = narrow<To>(y[v]);
  if (vectors && n == V) {
    Words<step> words[bytes / step];
    memcpy(words, rounded, bytes);
#pragma unroll
    for (int i = 0; i < bytes / step; ++i) reinterpret_cast<Words<step>*>(to)[i] = words[i];
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (v < n) to[v] = rounded[v];
  }
}

// Elements d .. d + n − 1 of sample b of the result, rounded once to its type.
template <int V, class T>
__device__ __forceinline__ void write(const Output& y, int64_t b, int64_t d, int n, bool vectors,
                                      const T (&values)[V]) {
  const int64_t index = b * y.stride + d;
  switch (y.dtype) {
    case DType::float16: store_pack<V, float16>(y.data, index, n, vectors, values); break;
    case DType::bfloat16: store_pack<V, bfloat16>(y.data, index, n, vectors, values); break;
    case DType::float32: store_pack<V, float>(y.data, index, n, vectors, values); break;
    default: store_pack<V, double>(y.data, index, n, vectors, values);
  }
}

}  // namespace scorefusion::cuda
