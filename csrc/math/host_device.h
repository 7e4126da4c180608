// The few words that let one source be a CPU function, a SIMD function and a CUDA device function.
//
// Everything in csrc/math is header only, free of Python and of CUDA's runtime, and written on explicit
// fused multiply-adds, so that every compiler gives the same bits (-ffp-contract=off on the host,
// --fmad=false on the device).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SF_HOST_DEVICE __host__ __device__
#else
#define SF_HOST_DEVICE
#endif

#define SF_INLINE SF_HOST_DEVICE inline __attribute__((always_inline))

namespace scorefusion {

// The bits of one value read as another type of the same size.
template <class To, class From>
SF_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits_as keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// a*b + c, rounded once.
SF_INLINE float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}
SF_INLINE double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// The correctly rounded square root.
SF_INLINE float square_root(float a) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}
SF_INLINE double square_root(double a) {
#if defined(__CUDA_ARCH__)
  return __dsqrt_rn(a);
#else
  return __builtin_sqrt(a);
#endif
}

}  // namespace scorefusion
