// Vectors of float, double and 32-bit words for the instruction set that the including file is compiled for.
//
// Every kernel is written once on these names and compiled once per instruction set (isa_*.cpp), each in a
// namespace of its own, SF_ISA. Elementwise results cannot depend on the width; sums are shaped by hand into
// eight lanes (csrc/ops/reductions.h), so they do not either. Nothing here may call a function that is not
// always inlined: the linker would keep one instruction set's copy of it for all.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../math/convert.h"
#include "../math/normal.h"

namespace scorefusion::SF_ISA {

#define SF_SIMD inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define SF_SCALAR_WORDS 0

constexpr int width = 16;  // floats in Floats; Doubles holds half as many
using Floats = __m512;
using Doubles = __m512d;
struct Words {
  __m512i v;
  Words(__m512i v) : v(v) {}
  explicit Words(uint32_t w) : v(_mm512_set1_epi32(int(w))) {}
};
using Mask = __mmask16;

SF_SIMD Floats broadcast(float a) { return _mm512_set1_ps(a); }
SF_SIMD Doubles broadcast(double a) { return _mm512_set1_pd(a); }
SF_SIMD Floats load(const float* p) { return _mm512_loadu_ps(p); }
SF_SIMD Doubles load(const double* p) { return _mm512_loadu_pd(p); }
SF_SIMD void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
SF_SIMD void store(double* p, Doubles a) { _mm512_storeu_pd(p, a); }
SF_SIMD void stream(float* p, Floats a) { _mm512_stream_ps(p, a); }
SF_SIMD void stream(double* p, Doubles a) { _mm512_stream_pd(p, a); }
SF_SIMD Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
SF_SIMD Doubles fused(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a, b, c); }
SF_SIMD Doubles load_doubles(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }

SF_SIMD Words load_halves(const uint16_t* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
using Halves = __m256i;  // `width` 16-bit numbers
SF_SIMD Halves pack_halves(Words a) { return _mm512_cvtepi32_epi16(a.v); }
SF_SIMD Halves round_float16(Floats a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SF_SIMD void store_halves(void* p, Halves a) { _mm256_storeu_si256((__m256i*)p, a); }
SF_SIMD void stream_halves(void* p, Halves a) { _mm256_stream_si256((__m256i*)p, a); }
SF_SIMD Floats load_float16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }

SF_SIMD Floats square_root(Floats a) { return _mm512_sqrt_ps(a); }
SF_SIMD Floats to_real(Words a) { return _mm512_cvtepi32_ps(a.v); }
SF_SIMD Words as_word(Floats a) { return _mm512_castps_si512(a); }
SF_SIMD Floats as_real(Words a) { return _mm512_castsi512_ps(a.v); }
SF_SIMD Words operator+(Words a, Words b) { return _mm512_add_epi32(a.v, b.v); }
SF_SIMD Words operator-(Words a, Words b) { return _mm512_sub_epi32(a.v, b.v); }
SF_SIMD Words operator&(Words a, Words b) { return _mm512_and_si512(a.v, b.v); }
SF_SIMD Words operator|(Words a, Words b) { return _mm512_or_si512(a.v, b.v); }
SF_SIMD Words operator^(Words a, Words b) { return _mm512_xor_si512(a.v, b.v); }
SF_SIMD Words operator~(Words a) { return _mm512_ternarylogic_epi32(a.v, a.v, a.v, 0x55); }
SF_SIMD Words operator<<(Words a, int bits) { return _mm512_slli_epi32(a.v, bits); }
SF_SIMD Words operator>>(Words a, int bits) { return _mm512_srli_epi32(a.v, bits); }
SF_SIMD Words shift_right_signed(Words a, int bits) { return _mm512_srai_epi32(a.v, bits); }
SF_SIMD Mask top_bit(Words a) { return _mm512_movepi32_mask(a.v); }
SF_SIMD Mask less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SF_SIMD Mask less_unsigned(Words a, Words b) { return _mm512_cmplt_epu32_mask(a.v, b.v); }
SF_SIMD Floats select(Mask mask, Floats yes, Floats no) { return _mm512_mask_blend_ps(mask, no, yes); }
SF_SIMD Words select(Mask mask, Words yes, Words no) { return _mm512_mask_blend_epi32(mask, no.v, yes.v); }
SF_SIMD Mask is_nan(Floats a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }

// Philox works on words that lie alone in 64-bit lanes: a product then leaves its low word where the next
// multiplication reads it, and nothing has to be shuffled (upper halves may hold anything).
using Wide = __m512i;
SF_SIMD Wide wide(uint32_t w) { return _mm512_set1_epi64(int64_t(uint64_t(w))); }
SF_SIMD Wide wide_product(Wide a, Wide b) { return _mm512_mul_epu32(a, b); }
SF_SIMD Wide wide_high(Wide a) { return _mm512_srli_epi64(a, 32); }
SF_SIMD Wide wide_xor(Wide a, Wide b, Wide c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
SF_SIMD Wide wide_even(Words a) { return a.v; }
SF_SIMD Wide wide_odd(Words a) { return _mm512_srli_epi64(a.v, 32); }
SF_SIMD Words interleave(Wide even, Wide odd) {
  return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

// Lane p of 128-bit quarter h holds counter p·(number of quarters) + h, so that transposing the 4×4 block of each
// quarter leaves the elements of consecutive counters side by side.
SF_SIMD Words counter_offsets() { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); }
// Four floats from each of p, p + stride, … side by side.
SF_SIMD Floats load_quarters(const float* p, int64_t stride) {
  const __m256 low = _mm256_loadu2_m128(p + stride, p), high = _mm256_loadu2_m128(p + 3 * stride, p + 2 * stride);
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
SF_SIMD void store_quarters(float* p, int64_t stride, Floats a) {
  _mm_storeu_ps(p, _mm512_castps512_ps128(a));
  _mm_storeu_ps(p + stride, _mm512_extractf32x4_ps(a, 1));
  _mm_storeu_ps(p + 2 * stride, _mm512_extractf32x4_ps(a, 2));
  _mm_storeu_ps(p + 3 * stride, _mm512_extractf32x4_ps(a, 3));
}
SF_SIMD Floats unpack_low(Floats a, Floats b) { return _mm512_unpacklo_ps(a, b); }
SF_SIMD Floats unpack_high(Floats a, Floats b) { return _mm512_unpackhi_ps(a, b); }
SF_SIMD Floats low_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x44); }
SF_SIMD Floats high_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xEE); }

#elif defined(__AVX2__)
#define SF_SCALAR_WORDS 0

constexpr int width = 8;
using Floats = __m256;
using Doubles = __m256d;
struct Words {
  __m256i v;
  Words(__m256i v) : v(v) {}
  explicit Words(uint32_t w) : v(_mm256_set1_epi32(int(w))) {}
};
struct Mask {
  __m256 v;
};

SF_SIMD Floats broadcast(float a) { return _mm256_set1_ps(a); }
SF_SIMD Doubles broadcast(double a) { return _mm256_set1_pd(a); }
SF_SIMD Floats load(const float* p) { return _mm256_loadu_ps(p); }
SF_SIMD Doubles load(const double* p) { return _mm256_loadu_pd(p); }
SF_SIMD void store(float* p, Floats a) { _mm256_storeu_ps(p, a); }
SF_SIMD void store(double* p, Doubles a) { _mm256_storeu_pd(p, a); }
SF_SIMD void stream(float* p, Floats a) { _mm256_stream_ps(p, a); }
SF_SIMD void stream(double* p, Doubles a) { _mm256_stream_pd(p, a); }
SF_SIMD Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
SF_SIMD Doubles fused(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
SF_SIMD Doubles load_doubles(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }

SF_SIMD Words load_halves(const uint16_t* p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); }
using Halves = __m128i;
SF_SIMD Halves pack_halves(Words a) {
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(a.v, a.v), 0x08));
}
SF_SIMD Halves round_float16(Floats a) { return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SF_SIMD void store_halves(void* p, Halves a) { _mm_storeu_si128((__m128i*)p, a); }
SF_SIMD void stream_halves(void* p, Halves a) { _mm_stream_si128((__m128i*)p, a); }
SF_SIMD Floats load_float16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }

SF_SIMD Floats square_root(Floats a) { return _mm256_sqrt_ps(a); }
SF_SIMD Floats to_real(Words a) { return _mm256_cvtepi32_ps(a.v); }
SF_SIMD Words as_word(Floats a) { return _mm256_castps_si256(a); }
SF_SIMD Floats as_real(Words a) { return _mm256_castsi256_ps(a.v); }
SF_SIMD Words operator+(Words a, Words b) { return _mm256_add_epi32(a.v, b.v); }
SF_SIMD Words operator-(Words a, Words b) { return _mm256_sub_epi32(a.v, b.v); }
SF_SIMD Words operator&(Words a, Words b) { return _mm256_and_si256(a.v, b.v); }
SF_SIMD Words operator|(Words a, Words b) { return _mm256_or_si256(a.v, b.v); }
SF_SIMD Words operator^(Words a, Words b) { return _mm256_xor_si256(a.v, b.v); }
SF_SIMD Words operator~(Words a) { return _mm256_xor_si256(a.v, _mm256_set1_epi32(-1)); }
SF_SIMD Words operator<<(Words a, int bits) { return _mm256_slli_epi32(a.v, bits); }
SF_SIMD Words operator>>(Words a, int bits) { return _mm256_srli_epi32(a.v, bits); }
SF_SIMD Words shift_right_signed(Words a, int bits) { return _mm256_srai_epi32(a.v, bits); }
SF_SIMD Mask top_bit(Words a) { return {_mm256_castsi256_ps(a.v)}; }  // blendv looks at the top bit alone
SF_SIMD Mask less(Floats a, Floats b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
SF_SIMD Mask less_unsigned(Words a, Words b) {
  const __m256i flip = _mm256_set1_epi32(int(0x80000000u));
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_xor_si256(b.v, flip), _mm256_xor_si256(a.v, flip)))};
}
SF_SIMD Floats select(Mask mask, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, mask.v); }
SF_SIMD Words select(Mask mask, Words yes, Words no) { return as_word(select(mask, as_real(yes), as_real(no))); }
SF_SIMD Mask is_nan(Floats a) { return {_mm256_cmp_ps(a, a, _CMP_UNORD_Q)}; }

using Wide = __m256i;  // see the AVX-512 part
SF_SIMD Wide wide(uint32_t w) { return _mm256_set1_epi64x(int64_t(uint64_t(w))); }
SF_SIMD Wide wide_product(Wide a, Wide b) { return _mm256_mul_epu32(a, b); }
SF_SIMD Wide wide_high(Wide a) { return _mm256_srli_epi64(a, 32); }
SF_SIMD Wide wide_xor(Wide a, Wide b, Wide c) { return _mm256_xor_si256(a, _mm256_xor_si256(b, c)); }
SF_SIMD Wide wide_even(Words a) { return a.v; }
SF_SIMD Wide wide_odd(Words a) { return _mm256_srli_epi64(a.v, 32); }
SF_SIMD Words interleave(Wide even, Wide odd) { return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA); }

SF_SIMD Words counter_offsets() { return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); }
SF_SIMD Floats load_quarters(const float* p, int64_t stride) { return _mm256_loadu2_m128(p + stride, p); }
SF_SIMD void store_quarters(float* p, int64_t stride, Floats a) { _mm256_storeu2_m128(p + stride, p, a); }
SF_SIMD Floats unpack_low(Floats a, Floats b) { return _mm256_unpacklo_ps(a, b); }
SF_SIMD Floats unpack_high(Floats a, Floats b) { return _mm256_unpackhi_ps(a, b); }
SF_SIMD Floats low_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x44); }
SF_SIMD Floats high_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xEE); }

#else

// Any machine: 16-byte vectors of the compiler's own. Conversions and noise are scalar here (SF_SCALAR_WORDS).
#define SF_SCALAR_WORDS 1

constexpr int width = 4;
typedef float Floats __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));

template <class Vector, class T>
SF_SIMD Vector load_as(const T* p) {
  Vector a;
  memcpy(&a, p, sizeof(a));
  return a;
}
SF_SIMD Floats broadcast(float a) { return Floats{a, a, a, a}; }
SF_SIMD Doubles broadcast(double a) { return Doubles{a, a}; }
SF_SIMD Floats load(const float* p) { return load_as<Floats>(p); }
SF_SIMD Doubles load(const double* p) { return load_as<Doubles>(p); }
SF_SIMD void store(float* p, Floats a) { memcpy(p, &a, sizeof(a)); }
SF_SIMD void store(double* p, Doubles a) { memcpy(p, &a, sizeof(a)); }
SF_SIMD void stream(float* p, Floats a) { store(p, a); }
SF_SIMD void stream(double* p, Doubles a) { store(p, a); }
SF_SIMD Floats fused(Floats a, Floats b, Floats c) {
  return Floats{scorefusion::fused(a[0], b[0], c[0]), scorefusion::fused(a[1], b[1], c[1]),
                scorefusion::fused(a[2], b[2], c[2]), scorefusion::fused(a[3], b[3], c[3])};
}
SF_SIMD Doubles fused(Doubles a, Doubles b, Doubles c) {
  return Doubles{scorefusion::fused(a[0], b[0], c[0]), scorefusion::fused(a[1], b[1], c[1])};
}
SF_SIMD Doubles load_doubles(const float* p) { return Doubles{p[0], p[1]}; }

#endif

#if !SF_SCALAR_WORDS

// Floats with the constructors and operators that csrc/math/normal.h asks of a Real.
struct Reals {
  Floats v;
  Reals(Floats v) : v(v) {}
  explicit Reals(float a) : v(broadcast(a)) {}
  Reals() = default;
};
SF_SIMD Reals operator+(Reals a, Reals b) { return a.v + b.v; }
SF_SIMD Reals operator-(Reals a, Reals b) { return a.v - b.v; }
SF_SIMD Reals operator*(Reals a, Reals b) { return a.v * b.v; }
SF_SIMD Reals fused(Reals a, Reals b, Reals c) { return fused(a.v, b.v, c.v); }
SF_SIMD Reals square_root(Reals a) { return square_root(a.v); }
SF_SIMD Words as_word(Reals a) { return as_word(a.v); }
SF_SIMD Mask less(Reals a, Reals b) { return less(a.v, b.v); }
SF_SIMD Reals select(Mask mask, Reals yes, Reals no) { return select(mask, yes.v, no.v); }

// float16 and bfloat16 are loaded as the floats that they are, and stored rounded to nearest even.
SF_SIMD Floats load(const float16* p) { return load_float16(&p->bits); }
SF_SIMD Floats load(const bfloat16* p) { return as_real(load_halves(&p->bits) << 16); }
SF_SIMD Halves rounded_to(const float16*, Floats a) { return round_float16(a); }
SF_SIMD Halves rounded_to(const bfloat16*, Floats a) {
  const Words bits = as_word(a);
  const Words rounded = (bits + Words(0x7FFFu) + ((bits >> 16) & Words(1u))) >> 16;
  return pack_halves(select(is_nan(a), (bits >> 16) | Words(0x0040u), rounded));
}
template <class Half>
SF_SIMD void store(Half* p, Floats a) {
  store_halves(p, rounded_to(p, a));
}
template <class Half>
SF_SIMD void stream(Half* p, Floats a) {
  stream_halves(p, rounded_to(p, a));
}

// Transposes the 4×4 block in each 128-bit quarter of four vectors.
SF_SIMD void transpose_quarters(Reals z[4]) {
  const Floats a = unpack_low(z[0].v, z[1].v), b = unpack_high(z[0].v, z[1].v);
  const Floats c = unpack_low(z[2].v, z[3].v), d = unpack_high(z[2].v, z[3].v);
  z[0] = low_pairs(a, c), z[1] = high_pairs(a, c), z[2] = low_pairs(b, d), z[3] = high_pairs(b, d);
}

#endif

SF_SIMD Doubles load_doubles(const double* p) { return load(p); }

// a*b + c where a and b were float32 or narrower: their product is exact in float64, so one rounding is all
// there is, with or without an instruction for it.
SF_SIMD Doubles fused_exact(Doubles a, Doubles b, Doubles c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return fused(a, b, c);
#else
  return a * b + c;
#endif
}

// What T is computed in: its vector, and how many of T that takes.
template <class T>
struct Vector {
  using type = Floats;
  static constexpr int lanes = width;
};
template <>
struct Vector<double> {
  using type = Doubles;
  static constexpr int lanes = width / 2;
};

}  // namespace scorefusion::SF_ISA
