// e^x and ln x in float64, the same bits on every machine; what log weights need of them.
//
// Taylor series on reduced arguments, by explicit fused multiply-adds and without a branch, so that loops over them
// become vector code. Both are within 2 units in the last place.
#pragma once

#include "host_device.h"

namespace scorefusion {

namespace exponential {
constexpr double log2_e = 0x1.71547652b82fep+0;
constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;  // high·k is exact for |k| < 2¹¹
constexpr double smallest = -708.0;                    // below it e^x leaves the normal numbers
constexpr double round_to_integer = 0x1.8p52;          // added, the last bits of a sum are its integer part
constexpr uint64_t root_half = 0x3FE6A09E667F3BCDull;  // the bits of √½
constexpr uint64_t mantissa = 0x000FFFFFFFFFFFFFull;
}  // namespace exponential

// e^x for x ≤ 0: 0 below −708, NaN for NaN.
SF_INLINE double exp_of_nonpositive(double x) {
  using namespace exponential;
  const double clamped = x < smallest ? smallest : x;
  const double shifted = fused(clamped, log2_e, round_to_integer);
  const double k = shifted - round_to_integer;
  double r = fused(k, -ln2_high, clamped);
  r = fused(k, -ln2_low, r);  // |r| ≤ ½ ln 2
  double p = 1.0 / 6227020800;
  p = fused(p, r, 1.0 / 479001600);
  p = fused(p, r, 1.0 / 39916800);
  p = fused(p, r, 1.0 / 3628800);
  p = fused(p, r, 1.0 / 362880);
  p = fused(p, r, 1.0 / 40320);
  p = fused(p, r, 1.0 / 5040);
  p = fused(p, r, 1.0 / 720);
  p = fused(p, r, 1.0 / 120);
  p = fused(p, r, 1.0 / 24);
  p = fused(p, r, 1.0 / 6);
  p = fused(p, r, 0.5);
  p = fused(p, r, 1.0);
  p = fused(p, r, 1.0);
  const double scaled = bits_as<double>(bits_as<uint64_t>(p) + (bits_as<uint64_t>(shifted) << 52));
  return x < smallest ? 0.0 : scaled;
}

// ln x for a positive normal number x.
SF_INLINE double log_of_normal(double x) {
  using namespace exponential;
  // x = 2^k (1 + f), 1 + f in [√½, √2)
  const uint64_t shifted = bits_as<uint64_t>(x) - root_half;
  const double k = double(int64_t(shifted) >> 52);
  const double f = bits_as<double>((shifted & mantissa) + root_half) - 1.0;
  // ln(1 + f) = 2 artanh(s), s = f/(2 + f), |s| < .172; what s lacks by rounding is put back by f − s (2 + f).
  const double s = f / (2.0 + f), z = s * s;
  double p = 2.0 / 23;
  p = fused(p, z, 2.0 / 21);
  p = fused(p, z, 2.0 / 19);
  p = fused(p, z, 2.0 / 17);
  p = fused(p, z, 2.0 / 15);
  p = fused(p, z, 2.0 / 13);
  p = fused(p, z, 2.0 / 11);
  p = fused(p, z, 2.0 / 9);
  p = fused(p, z, 2.0 / 7);
  p = fused(p, z, 2.0 / 5);
  p = fused(p, z, 2.0 / 3);
  const double lacking = fused(-s, f, fused(-2.0, s, f)) / (2.0 + f);
  const double small = fused(s * z, p, fused(k, ln2_low, 2.0 * lacking));
  return fused(k, ln2_high, fused(2.0, s, small));
}

}  // namespace scorefusion
