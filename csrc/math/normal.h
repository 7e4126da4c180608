// Box–Muller on float32, the same bits on every machine: z = √(−2 ln u)·(cos, sin)(2πv).
//
// u = (w + 1)·2⁻³² from one word and v = w·2⁻³² from another. The functions are templates over a Real and a Word
// type so that one source serves a scalar (float, uint32_t: CUDA and plain C++) and a SIMD vector of them
// (csrc/cpu/simd.h); both need fused, square_root, to_real, as_word, as_real, select and comparisons.
// The polynomials are minimax fits with float32 coefficients: relative error 3.0e-8 for −2 ln u, absolute errors
// 5.1e-9 (sine) and 3.3e-8 (cosine). Over all 2³² words |z − its float64 value| stays below 2e-6.
#pragma once

#include "host_device.h"
#include "philox.h"

namespace scorefusion {

SF_INLINE float to_real(uint32_t word) { return float(int32_t(word)); }  // of the word read as signed
SF_INLINE uint32_t as_word(float real) { return bits_as<uint32_t>(real); }
SF_INLINE float as_real(uint32_t word) { return bits_as<float>(word); }
SF_INLINE uint32_t shift_right_signed(uint32_t word, int bits) { return uint32_t(int32_t(word) >> bits); }
SF_INLINE bool top_bit(uint32_t word) { return int32_t(word) < 0; }
SF_INLINE bool less(float a, float b) { return a < b; }
SF_INLINE float select(bool mask, float yes, float no) { return mask ? yes : no; }
SF_INLINE uint32_t select(bool mask, uint32_t yes, uint32_t no) { return mask ? yes : no; }

// √(−2 ln u), u = (w + 1)·2⁻³².
template <class Real, class Word>
SF_INLINE Real normal_radius(Word w) {
  // Near u = 1 the logarithm needs 1 − u = (2³² − 1 − w)·2⁻³²; both ways read an integer below 2³¹.
  const auto above_half = top_bit(w);
  const Real k = to_real(select(above_half, ~w, w));

  // u ≤ ½: u = 2^exponent·(1 + f), 1 + f in [√½, √2).
  const Word root_half = Word(0x3F3504F3u);  // the bits of √½
  const Word shifted = as_word(k + Real(1.0f)) - root_half;
  const Real f_low = as_real((shifted & Word(0x007FFFFFu)) + root_half) - Real(1.0f);
  const Real exponent_low = to_real(shift_right_signed(shifted, 23)) - Real(32.0f);

  // u > ½: u = 1 + t, or, below √½, u = ½(1 + (2t + 1)); 2t + 1 is exact.
  const Real t = k * Real(-0x1p-32f);
  const auto below_root_half = less(t, Real(-0.29289323f));
  const Real f_high = select(below_root_half, fused(Real(2.0f), t, Real(1.0f)), t);
  const Real exponent_high = select(below_root_half, Real(-1.0f), Real(0.0f));

  const Real f = select(above_half, f_high, f_low);
  const Real exponent = select(above_half, exponent_high, exponent_low);

  // −2 ln(1 + f) = −2f + f²·p(f)
  Real p = Real(-0x1.65f14cp-3f);
  p = fused(p, f, Real(0x1.2505c6p-2f));
  p = fused(p, f, Real(-0x1.317ca6p-2f));
  p = fused(p, f, Real(0x1.535c28p-2f));
  p = fused(p, f, Real(-0x1.98d3a0p-2f));
  p = fused(p, f, Real(0x1.0004a8p-1f));
  p = fused(p, f, Real(-0x1.5556f0p-1f));
  p = fused(p, f, Real(0x1.fffffap-1f));
  const Real squared = fused(exponent, Real(-0x1.62e430p+0f) /* −2 ln 2 */, fused(f * f, p, f * Real(-2.0f)));
  return square_root(squared);
}

// (cos, sin)(2π·w·2⁻³²).
template <class Real, class Word>
SF_INLINE void normal_direction(Word w, Real& cosine, Real& sine) {
  // The nearest quarter turn, and what is left of the angle in units of an eighth turn, y in [−1, 1).
  const Word quarter = (w + Word(0x20000000u)) >> 30;
  const Real y = to_real(w - (quarter << 30)) * Real(0x1p-29f);
  const Real z = y * y;

  Real s = Real(-0x1.2a7638p-15f);  // sin(πy/4) = y·s(y²)
  s = fused(s, z, Real(0x1.46496cp-9f));
  s = fused(s, z, Real(-0x1.4abb68p-4f));
  s = fused(s, z, Real(0x1.921fb4p-1f));
  s = s * y;
  Real c = Real(-0x1.4eb112p-12f);  // cos(πy/4) = 1 + y²·c(y²)
  c = fused(c, z, Real(0x1.03b18ep-6f));
  c = fused(c, z, Real(-0x1.3bd3a2p-2f));
  c = fused(c, z, Real(1.0f));

  // Turn by the quarters: 1 swaps and negates the cosine, 2 negates both, 3 swaps and negates the sine.
  const auto odd = top_bit(quarter << 31);
  const Word cosine_sign = ((quarter + Word(1u)) << 30) & Word(0x80000000u);
  const Word sine_sign = (quarter << 30) & Word(0x80000000u);
  cosine = as_real(as_word(select(odd, s, c)) ^ cosine_sign);
  sine = as_real(as_word(select(odd, c, s)) ^ sine_sign);
}

// The four normals of one counter's words, in the order of their element indices e = 4q, 4q + 1, 4q + 2, 4q + 3.
template <class Real, class Word>
SF_INLINE void box_muller(const Word w[4], Real z[4]) {
  for (int pair = 0; pair < 4; pair += 2) {
    const Real radius = normal_radius<Real>(w[pair]);
    Real cosine, sine;
    normal_direction<Real>(w[pair + 1], cosine, sine);
    z[pair] = radius * cosine;
    z[pair + 1] = radius * sine;
  }
}

// Elements are numbered modulo 2⁶⁴, and counters, of four elements each, modulo 2⁶².
constexpr uint64_t counter_mask = ~uint64_t(0) / 4;

// The number of element d of the sample with number id; origin is that of the sample with number 0.
SF_INLINE uint64_t noise_element(uint64_t origin, uint64_t id, uint64_t size, uint64_t d) {
  return origin + id * size + d;
}

// The counter g after that of element e.
SF_INLINE uint64_t noise_counter(uint64_t e, uint64_t g) { return (e / 4 + g) & counter_mask; }

// Elements 4q .. 4q + 3 of the standard normal tensor (seed, stream).
SF_INLINE void normal4(uint64_t seed, uint64_t stream, uint64_t q, float z[4]) {
  uint32_t w[4];
  philox4x32(seed, stream, q, w);
  box_muller<float>(w, z);
}

}  // namespace scorefusion
