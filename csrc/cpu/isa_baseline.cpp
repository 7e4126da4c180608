#define SF_ISA baseline
#include "kernels.inc"
