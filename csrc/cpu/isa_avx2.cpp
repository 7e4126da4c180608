#define SF_ISA avx2
#include "kernels.inc"
