// The small work of a superposition's step, sample by sample: κ, the step's coefficients, the gain of every log
// density.
#pragma once

#include "../cpu/work.h"
#include "../math/superposition.h"

namespace scorefusion {

enum class Superpose {
  weigh,     // κ = softmax(temperature · gained + bias), and the coefficients
  advance,   // κ is given, for all samples or for each: the gain
  equalise,  // κ of "and", the coefficients and the gain
};

struct SuperposeArrays {
  const double* G = nullptr;       // (B, m, m), of advance and equalise
  const double* tau = nullptr;     // (B, k), or nullptr
  const double* gained = nullptr;  // (B, k)
  const double* known = nullptr;   // (B, k), κ of advance; nullptr: Superposed::each
  double* kappa = nullptr;         // (B, k), of weigh and equalise
  double* c = nullptr;             // (B, m), of weigh and equalise
  double* gained_next = nullptr;   // (B, k), of advance and equalise
};

// Sample b; `most` is max_superposed, or less where p.k is.
template <int most>
SF_HOST_DEVICE void superpose_sample(Superpose what, const Superposed& p, const SuperposeArrays& at, int64_t b) {
  double kappa[most];
  const double* const gained = at.gained + b * p.k;
  if (what == Superpose::weigh) {
    softmax(p, gained, kappa);
  } else {
    const double* const G = at.G + b * p.m * p.m;
    const double* const tau = at.tau ? at.tau + b * p.k : nullptr;
    const SuperposedGram<most> g(p, G);
    if (what == Superpose::equalise) {
      equalise<most>(p, g, G, tau, kappa);
    } else {
      for (int i = 0; i < p.k; ++i) kappa[i] = at.known ? at.known[b * p.k + i] : p.each[i];
    }
    double* const next = at.gained_next + b * p.k;
    for (int i = 0; i < p.k; ++i) next[i] = gained[i];
    advance<most>(p, g, kappa, tau, next);
    if (what == Superpose::advance) return;
  }
  for (int i = 0; i < p.k; ++i) at.kappa[b * p.k + i] = kappa[i];
  step_coefficients(p, kappa, at.c + b * p.m);
}

void superpose_cpu(Superpose what, const Superposed& p, const SuperposeArrays& at, int64_t samples, const Work& work);
void superpose_cuda(Superpose what, const Superposed& p, const SuperposeArrays& at, int64_t samples, void* stream);

}  // namespace scorefusion
