// float16 and bfloat16 from and to float32 and float64: exact up, rounded once to nearest even down.
//
// Integer arithmetic only, so that every machine agrees; hardware conversions (F16C, the GPU's) give the same.
#pragma once

#include "host_device.h"

namespace scorefusion {

struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

SF_INLINE float to_float(float x) { return x; }
SF_INLINE float to_float(bfloat16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }
SF_INLINE float to_float(float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = uint32_t(x.bits & 0x7FFFu) << 13;
  // Read as float32 the exponent is 112 too small; the product mends it, subnormals included.
  float value = bits_as<float>(rest) * 0x1p112f;
  if (rest >= 0x0F800000u) value = bits_as<float>(rest | 0x7F800000u);  // inf and NaN, which
  if (rest > 0x0F800000u) value = bits_as<float>(rest | 0x7FC00000u);   // becomes a quiet one
  return bits_as<float>(bits_as<uint32_t>(value) | sign);
}

// A float32 that rounds to any narrower type as x itself would: inexact values get an odd last bit.
SF_INLINE float round_to_odd(double x) {
  const float nearest = float(x);
  const double back = double(nearest);
  if (back == x || x != x) return nearest;
  uint32_t bits = bits_as<uint32_t>(nearest);
  if ((x < 0 ? -back : back) > (x < 0 ? -x : x)) bits -= 1;  // toward zero
  return bits_as<float>(bits | 1u);
}

template <class T>
struct Narrowed;  // Narrowed<T>::from(x): x rounded once to T

template <>
struct Narrowed<double> {
  static SF_INLINE double from(double x) { return x; }
};
template <>
struct Narrowed<float> {
  static SF_INLINE float from(float x) { return x; }
  static SF_INLINE float from(double x) { return float(x); }
};
template <>
struct Narrowed<bfloat16> {
  static SF_INLINE bfloat16 from(float x) {
    const uint32_t bits = bits_as<uint32_t>(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {uint16_t((bits >> 16) | 0x0040u)};  // a NaN stays one
    return {uint16_t((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
  }
  static SF_INLINE bfloat16 from(double x) { return from(round_to_odd(x)); }
};
template <>
struct Narrowed<float16> {
  static SF_INLINE float16 from(float x) {
    const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7FFFFFFFu;
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
    if (magnitude > 0x7F800000u) return {uint16_t(sign | 0x7E00u | ((magnitude >> 13) & 0x01FFu))};
    if (magnitude >= 0x477FF000u) return {uint16_t(sign | 0x7C00u)};  // 65520 and more: infinite
    if (magnitude < 0x38800000u) {
      // Below 2⁻¹⁴ the unit is 2⁻²⁴: adding ½ makes the float's own rounding do it.
      const float shifted = bits_as<float>(magnitude) + 0.5f;
      return {uint16_t(sign | (bits_as<uint32_t>(shifted) - bits_as<uint32_t>(0.5f)))};
    }
    return {uint16_t(sign | ((magnitude - 0x38000000u + 0x0FFFu + ((magnitude >> 13) & 1u)) >> 13))};
  }
  static SF_INLINE float16 from(double x) { return from(round_to_odd(x)); }
};

SF_INLINE double to_double(double x) { return x; }
template <class T>
SF_INLINE double to_double(T x) {
  return double(to_float(x));
}

}  // namespace scorefusion
