// resample on the CPU: a thread for each group. Reads groups·n log weights twice or three times.
#include "resample.h"

#include <atomic>

#include "../cpu/isa.h"
#include "../cpu/stage.h"
#include "../cpu/threads.h"
#include "resample_group.h"

namespace scorefusion {

int64_t resample_cpu(const Resampling& r, const Work& work) {
  std::atomic<int64_t> first_impossible{r.groups};
  parallel_for(r.groups, r.groups * r.n >= worth_threads, work, [&](int64_t first, int64_t last) {
    double* const memory = scratch<double>(ResampleRoom::doubles(r.method, r.n));
    for (int64_t group = first; group < last; ++group) {
      if (kernels().resample(r, group, memory)) continue;
      int64_t known = first_impossible.load();
      while (group < known && !first_impossible.compare_exchange_weak(known, group)) {
      }
    }
  });
  const int64_t found = first_impossible.load();
  return found < r.groups ? found : -1;
}

}  // namespace scorefusion
