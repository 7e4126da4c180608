// The inner loops for whatever the compiler takes for granted.
#define SF_ISA baseline
#include "kernels.inc"
