// superpose on the CPU: samples in chunks, which threads share.
#include "../cpu/threads.h"
#include "superpose.h"

namespace scorefusion {

void superpose_cpu(Superpose what, const Superposed& p, const SuperposeArrays& at, int64_t samples, const Work& work) {
  constexpr int64_t chunk = 64;  // samples
  const int64_t touched = samples * p.m * p.m * (what == Superpose::equalise ? p.k : 1);
  parallel_for((samples + chunk - 1) / chunk, touched > worth_threads, work, [&](int64_t first, int64_t last) {
    const int64_t end = last * chunk < samples ? last * chunk : samples;
    for (int64_t b = first * chunk; b < end; ++b)
      if (p.k <= 4)
        superpose_sample<4>(what, p, at, b);
      else
        superpose_sample<max_superposed>(what, p, at, b);
  });
}

}  // namespace scorefusion
