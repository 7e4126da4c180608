// The inner loops with AVX-512.
#define SF_ISA avx512
#if !defined(__clang__)
// GCC 12 takes the deliberately undefined pass-through operands of its own intrinsics for mistakes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "kernels.inc"
