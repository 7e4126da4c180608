// The inner loops with AVX2, FMA and F16C.
#define SF_ISA avx2
#include "kernels.inc"
