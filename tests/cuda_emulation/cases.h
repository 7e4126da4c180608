// Random calls of the operations: operands with every layout, type and alignment that a launcher may be given.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cuda/operands.cuh"
#include "../../csrc/ops/batch.h"

namespace emulation {

using namespace scorefusion;

struct Random {
  std::mt19937_64 engine;
  explicit Random(uint64_t seed) : engine(seed) {}
  int64_t below(int64_t n) { return int64_t(engine() % uint64_t(n)); }
  bool chance(double p) { return double(engine() >> 11) * 0x1p-53 < p; }
  template <class T>
  T one_of(std::initializer_list<T> list) {
    return list.begin()[below(int64_t(list.size()))];
  }
};

// Exactly so many bytes, `offset` bytes after an address that is a multiple of 16: AddressSanitizer sees the first byte
// too many.
class Memory {
 public:
  Memory() = default;
  Memory(int64_t bytes, int64_t offset)
      : block_(static_cast<char*>(std::malloc(size_t(bytes + offset))), std::free), bytes_(bytes), offset_(offset) {
    std::memset(block_.get(), 0x5A, size_t(bytes + offset));
  }
  char* data() const { return block_.get() + offset_; }
  int64_t bytes() const { return bytes_; }
  Memory copy() const {
    Memory other(bytes_, offset_);
    std::memcpy(other.data(), data(), size_t(bytes_));
    return other;
  }

 private:
  std::shared_ptr<char> block_;
  int64_t bytes_ = 0, offset_ = 0;
};

inline void put(void* data, DType dtype, int64_t index, double value) {
  switch (dtype) {
    case DType::float16: static_cast<float16*>(data)[index] = Narrowed<float16>::from(value); break;
    case DType::bfloat16: static_cast<bfloat16*>(data)[index] = Narrowed<bfloat16>::from(value); break;
    case DType::float32: static_cast<float*>(data)[index] = float(value); break;
    case DType::float64: static_cast<double*>(data)[index] = value; break;
  }
}

// (samples, size) of one type in some layout.
struct Place {
  Memory memory;
  DType dtype;
  int64_t stride, start;  // elements

  void* data() const { return memory.data() + start * size_of(dtype); }
  Output output() const { return {data(), stride, dtype}; }
};

inline Place some_place(Random& random, DType dtype, int64_t samples, int64_t size, bool may_repeat) {
  Place place;
  place.dtype = dtype;
  const int64_t padding = random.one_of<int64_t>({0, 0, 0, 1, 3, 8, 16 - size % 8});
  place.stride = size + padding;
  if (may_repeat && random.chance(0.1)) place.stride = 0;
  const int64_t extent = (samples - 1) * place.stride + size;
  place.start = 0;
  if (random.chance(0.1)) place.start = (samples - 1) * place.stride, place.stride = -place.stride;
  const int64_t offset = random.chance(0.6) ? 0 : size_of(dtype) * random.below(16 / size_of(dtype));
  place.memory = Memory(extent * size_of(dtype), offset);
  return place;
}

// Element d of sample b of operand u, the slow way.
inline double value_of(const Operand& u, int64_t size, int64_t b, int64_t d) {
  if (!u.is_noise()) return element_of(u.data, u.dtype, b * u.stride + d);
  const uint64_t id = u.ids ? uint64_t(u.ids[b * u.ids_stride]) : u.first + uint64_t(b);
  const uint64_t e = noise_element(u.offset, id, uint64_t(size), uint64_t(d));
  float z[4];
  normal4(u.seed, u.stream, e / 4, z);
  return z[e % 4];
}

enum class Types { sixteen_bits, up_to_float32, all };

struct Case {
  std::string text;
  Batch batch;
  Coefficients host_c, device_c;  // the same values, as the CPU and as the GPU are given them
  Place result;                   // where an elementwise result goes
  int result_operand = -1;        // or the operand that it overwrites
  std::vector<Memory> owned;
};

inline DType some_type(Random& random, Types types) {
  if (types == Types::sixteen_bits) return random.one_of({DType::float16, DType::bfloat16});
  if (types == Types::up_to_float32)
    return random.one_of({DType::float16, DType::bfloat16, DType::float32, DType::float32});
  return random.one_of({DType::float16, DType::bfloat16, DType::float32, DType::float64, DType::float64});
}

inline double some_value(Random& random, bool special) {
  if (special && random.chance(0.01))
    return random.one_of({double(INFINITY), -double(INFINITY), double(NAN), 1e100, 1e-300, -0.0});
  return (double(random.below(2001)) - 1000) / 256.0 * (random.chance(0.1) ? 1e-3 : 1.0);
}

inline Operand some_noise(Random& random, Case& c) {
  Operand u;
  u.seed = random.engine();
  u.stream = random.engine();
  const uint64_t last = ~uint64_t(0) / uint64_t(c.batch.size);  // the elements of this sample reach 2⁶⁴ and begin anew
  u.first = random.one_of<uint64_t>({0, 0, 1, 3, uint64_t(1) << 33, uint64_t(1) << 49, last, last - 1});
  if (!random.chance(0.4)) return u;
  u.ids_stride = random.one_of<int64_t>({1, 2, -1, 0});
  const int64_t samples = c.batch.samples, count = (samples - 1) * std::abs(u.ids_stride) + 1;
  const Memory memory(count * 8, 0);
  int64_t* ids = reinterpret_cast<int64_t*>(memory.data());
  for (int64_t i = 0; i < count; ++i) ids[i] = int64_t(random.chance(0.1) ? last : random.engine() >> random.below(60));
  u.ids = u.ids_stride < 0 ? ids + count - 1 : ids;
  c.owned.push_back(memory);
  return u;
}

inline void make_coefficients(Random& random, Case& c, bool special) {
  const int m = c.batch.m;
  Coefficients& from = c.host_c;
  const int form = int(random.below(6));
  c.text += " c" + std::to_string(form);
  if (form == 0) {  // plain numbers
    for (int j = 0; j < m; ++j) from.values[j] = some_value(random, special);
    c.device_c = from;
    return;
  }
  const bool shared = form <= 2, on_host = form % 2 == 1;
  const int64_t rows = shared ? 1 : c.batch.samples;
  from.dtype = some_type(random, Types::all);
  from.step = random.one_of<int64_t>({1, 1, 2, rows});
  from.stride = shared ? 0 : from.step == rows ? 1 : m * from.step + random.below(2);
  const int64_t count = (rows - 1) * from.stride + (m - 1) * from.step + 1;
  const Memory memory(count * size_of(from.dtype), 0);
  for (int64_t i = 0; i < count; ++i) put(memory.data(), from.dtype, i, some_value(random, special));
  from.data = memory.data();
  c.owned.push_back(memory);
  c.device_c = from;
  c.device_c.on_host = on_host;
}

constexpr int any_number = -1;

inline DType widest_of(Types types) {
  return types == Types::sixteen_bits    ? DType::bfloat16
         : types == Types::up_to_float32 ? DType::float32
                                         : DType::float64;
}

// A call with m operands of (samples, size), so many of them noise; `special`: some elements are infinite or NaN.
inline Case some_case_of(Random& random, int64_t samples, int64_t size, int m, Types types, int noises, bool special) {
  Case c;
  Batch& batch = c.batch;
  batch.samples = samples, batch.size = size, batch.m = m;
  c.text = "B=" + std::to_string(batch.samples) + " D=" + std::to_string(batch.size) + " m=" + std::to_string(m) + " [";
  const bool plain = random.chance(0.4);  // all dense and aligned, so that vectors and joined samples get their share
  const bool has_widest = noises != any_number;  // so that tests can be sure to meet a kernel
  if (noises == any_number) noises = random.chance(0.5) ? 0 : random.chance(0.7) ? 1 : int(1 + random.below(m));
  const int first_noise = int(random.below(m));
  for (int j = 0; j < m; ++j) {
    if (j >= first_noise && j < first_noise + noises) {
      batch.u[j] = some_noise(random, c);
      c.text += batch.u[j].ids ? " ids" : " noise";
      continue;
    }
    const DType dtype = has_widest ? widest_of(types) : some_type(random, types);
    Place place = some_place(random, dtype, batch.samples, batch.size, true);
    if (plain) {
      place.stride = batch.size, place.start = 0;
      place.memory = Memory(batch.samples * batch.size * size_of(dtype), 0);
    }
    for (int64_t i = 0; i < place.memory.bytes() / size_of(dtype); ++i)
      put(place.memory.data(), dtype, i, some_value(random, special));
    batch.u[j].data = place.data();
    batch.u[j].stride = place.stride;
    batch.u[j].dtype = dtype;
    c.owned.push_back(place.memory);
    c.text +=
        std::string(" ") + name_of(dtype) + (place.stride == batch.size ? "" : "/" + std::to_string(place.stride));
    const bool distinct = batch.samples == 1 || place.stride != 0;
    if (distinct && c.result_operand < 0 && random.chance(0.1)) c.result_operand = j, c.result = place;
  }
  c.text += " ]";
  make_coefficients(random, c, special);
  if (c.result_operand < 0) {
    c.result = some_place(random, some_type(random, types), batch.samples, batch.size, false);
    if (plain) {
      c.result.stride = batch.size, c.result.start = 0;
      c.result.memory = Memory(batch.samples * batch.size * size_of(c.result.dtype), 0);
    }
  }
  c.text += std::string(" -> ") + name_of(c.result.dtype) + (c.result_operand < 0 ? "" : " in place");
  return c;
}

// The same of some shape: tails, one over a vector, over a warp's share, over a block's, several pieces.
inline Case some_case(Random& random, int m, Types types, int noises, bool special) {
  const int64_t most = m <= 9 ? 12000 : 2500;  // elements per operand
  const int64_t size =
      std::min(most, random.one_of<int64_t>({1,  2,  3,   4,   5,   7,    8,    9,    13,   16,   31,   32,   33,
                                             64, 65, 137, 255, 256, 1023, 1024, 1025, 1032, 2000, 4096, 4097, 9001}));
  const int64_t samples =
      std::min(random.one_of<int64_t>({1, 2, 3, 5, 17, 33, 130, 400}), std::max<int64_t>(1, most / size));
  return some_case_of(random, samples, size, m, types, noises, special);
}

}  // namespace emulation
