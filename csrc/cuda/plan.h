// Host side of operands.cuh: from a Batch to what a kernel is told.
#pragma once

#include <algorithm>
#include <cstdint>

#include "coefficients.h"
#include "operands.cuh"

namespace scorefusion::cuda {

inline int64_t blocks_for(int64_t threads, int per_block, int resident) {
  return std::clamp<int64_t>((threads + per_block - 1) / per_block, 1, resident);
}

// V: as many elements as 16 bytes hold of the widest array. Noise alone counts as float32.
inline int pack_size(const Batch& batch, const Output& y) {
  int64_t widest = y.data ? size_of(y.dtype) : 0;
  for (int j = 0; j < batch.m; ++j)
    if (!batch.u[j].is_noise()) widest = std::max(widest, size_of(batch.u[j].dtype));
  return int(pack_bytes / (widest ? widest : size_of(DType::float32)));
}

// Does every pack of every sample start where a vector may be loaded or stored?
inline bool aligned(const void* data, int64_t stride, DType dtype, int64_t samples, int V) {
  const int64_t bytes = std::min<int64_t>(pack_bytes, V * size_of(dtype));
  return reinterpret_cast<uintptr_t>(data) % bytes == 0 && (samples <= 1 || stride * size_of(dtype) % bytes == 0);
}

inline bool all_aligned(const Batch& batch, const Output& y, int V) {
  if (y.data && !aligned(y.data, y.stride, y.dtype, batch.samples, V)) return false;
  for (int j = 0; j < batch.m; ++j) {
    const Operand& u = batch.u[j];
    if (!u.is_noise() && !aligned(u.data, u.stride, u.dtype, batch.samples, V)) return false;
  }
  return true;
}

inline Source source_of(const Operand& u, int64_t size) {
  if (!u.is_noise()) return {u.data, u.stride, 0, 0, 0, Kind(u.dtype)};
  if (u.ids) return {u.ids, u.ids_stride, u.offset, u.seed, u.stream, Kind::noise};
  return {nullptr, 0, u.offset + u.first * uint64_t(size), u.seed, u.stream, Kind::noise};
}

// Operands in groups of at most `capacity`, at most one of each being noise.
template <int N>
Sources<N> sources_of(const Batch& batch, const Output& y, int V, int capacity) {
  Sources<N> s = {};
  s.vectors = all_aligned(batch, y, V);
  s.size = uint64_t(batch.size);
  for (int j = 0; j < batch.m; ++j) {
    s.u[j] = source_of(batch.u[j], batch.size);
    const bool noise = batch.u[j].is_noise();
    const bool full = s.groups > 0 && s.group[s.groups - 1].count == capacity;
    const bool second_noise = s.groups > 0 && noise && s.group[s.groups - 1].noise >= 0;
    if (s.groups == 0 || full || second_noise) s.group[s.groups++] = {int8_t(j), 0, -1};
    Group& group = s.group[s.groups - 1];
    if (noise) group.noise = group.count;
    ++group.count;
  }
  return s;
}

// One group of exactly m operands, so that the kernel made for m can take them?
inline bool one_group(const Batch& batch) {
  const auto noises = std::count_if(batch.u, batch.u + batch.m, [](const Operand& u) { return u.is_noise(); });
  return batch.m <= group_capacity && noises <= 1;
}

// c as a kernel wants it; per-sample values on the host must have been brought to the device before.
template <class T, int N>
CoefficientsOf<T, N> coefficients_of(const Coefficients& c, int m) {
  CoefficientsOf<T, N> to = {};
  const bool in_memory = c.data && !c.on_host;
  if (in_memory) {
    to.data = c.data, to.stride = c.stride, to.step = c.step, to.dtype = c.dtype;
  } else {
    for (int j = 0; j < m; ++j) to.values[j] = T(c.data ? element_of(c.data, c.dtype, j * c.step) : c.values[j]);
  }
  return to;
}

// Calls body.template operator()<V, M>() for a pack size and a number of operands; M = 0: any number of groups.
template <class Body>
void dispatch(int V, int M, Body body) {
  const auto with_size = [&]<int v>() {
    switch (M) {
      case 1: return body.template operator()<v, 1>();
      case 2: return body.template operator()<v, 2>();
      case 3: return body.template operator()<v, 3>();
      case 4: return body.template operator()<v, 4>();
      case 5: return body.template operator()<v, 5>();
      case 6: return body.template operator()<v, 6>();
      case 7: return body.template operator()<v, 7>();
      case 8: return body.template operator()<v, 8>();
      default: return body.template operator()<v, 0>();
    }
  };
  switch (V) {
    case 8: return with_size.template operator()<8>();
    case 4: return with_size.template operator()<4>();
    default: return with_size.template operator()<2>();
  }
}

}  // namespace scorefusion::cuda
