// The table of inner loops, compiled once per instruction set and chosen once, when the module is loaded.
//
// All sets give the same bits. Inner loops see raw pointers of one element type; who converts, cuts into blocks
// and divides among threads is csrc/cpu/stage.h and the *_cpu.cpp launchers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../array/dtype.h"
#include "../math/convert.h"

namespace scorefusion {

struct Resampling;

constexpr int narrow_lanes = 16;  // samples side by side in the loops for narrow samples

// The loops that exist for float and for double blocks.
template <class T>
struct KernelsOf {
  // y_e = Σ_j c_j u_je; streaming: past the cache.
  void (*combine)(const T* const* u, const T* c, int m, T* y, int64_t n, bool streaming);
  // lanes[pair][8] += products over a block; n is a multiple of 8.
  void (*gram)(const T* const* u, int m, int64_t n, double* lanes);
  // Both, with the sums of the whole groups of 8 elements alone; y may be one of the operands.
  void (*combine_gram)(const T* const* u, const T* c, int m, T* y, int64_t n, bool streaming, double* lanes);
  // r_e = Σ_j c_j u_je; lanes[0][8] += r², lanes[1 + j][8] += u_j r.
  void (*residual)(const T* const* u, const double* c, int m, int64_t n, double* r, double* lanes);
  // to T exactly; from T rounded once
  void (*widen)(const void* from, DType dtype, T* to, int64_t n);
  void (*round)(const T* from, DType dtype, void* to, int64_t n);
  // The same for narrow samples side by side, in groups of narrow_lanes: what has `size` elements for each sample holds
  // element d of lane L of group g at (g·size + d)·narrow_lanes + L.
  void (*narrow_gather)(const T* from, int64_t stride, int64_t size, int64_t samples, T* to);
  void (*narrow_scatter)(const T* from, int64_t size, int64_t samples, T* to, int64_t stride);
  // c: m for each sample, c_step elements from one group's to the next (0: the first group's for all)
  void (*narrow_combine)(const T* const* u, const T* c, int64_t c_step, int m, int64_t size, int64_t groups, T* y);
  // adds to the pairs of each sample
  void (*narrow_gram)(const T* const* u, int m, int64_t size, int64_t groups, double* pairs);
  // the one loss and the m derivatives of each sample, which are zero before
  void (*narrow_residual)(const T* const* u, const double* c, int64_t c_step, int m, int64_t size, int64_t groups,
                          double* r, double* loss, double* grad);
};

struct Kernels {
  const char* name;
  KernelsOf<float> f32;
  KernelsOf<double> f64;
  // G (samples, m, m) from the pairs of narrow samples side by side
  void (*narrow_mirror)(const double* pairs, int m, int64_t samples, double* G);
  // combine where all is of one 16-bit type, in float32
  void (*combine_float16)(const float16* const* u, const float* c, int m, float16* y, int64_t n, bool streaming);
  void (*combine_bfloat16)(const bfloat16* const* u, const float* c, int m, bfloat16* y, int64_t n, bool streaming);
  // The 4·groups normals from the counter of element e on; `to` has room for whole vectors (noise_slack floats more).
  void (*normals)(uint64_t seed, uint64_t stream, uint64_t e, int64_t groups, float* to);
  // A group of particles (csrc/ops/resample_group.h); false where it has no weights.
  bool (*resample)(const Resampling& r, int64_t group, double* memory);
};

constexpr int64_t noise_slack = 64;

template <class T>
const KernelsOf<T>& of(const Kernels& kernels) {
  if constexpr (sizeof(T) == 4)
    return kernels.f32;
  else
    return kernels.f64;
}

const Kernels& kernels();                  // the chosen table
const char* isa_name();                    // its name: baseline, avx2 or avx512
std::vector<std::string> isa_available();  // what this build has and this machine can run, best last

}  // namespace scorefusion
