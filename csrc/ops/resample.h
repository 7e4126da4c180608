// Resampling: ancestors a_j of n particles with log weights l_i, so that E[#{j: a_j = i}] = n w_i, w = softmax(l).
//
// Particles come in groups, each resampled for itself. Points p_j, increasing, are looked up in the cumulated weights:
// a_j = the first i with w_0 + … + w_i > p_j.
//   systematic    p_j = (j + u)/n           stratified    p_j = (j + u_j)/n
//   multinomial   p_j = the j-th smallest of n uniforms
//   residual      ⌊n w_i⌋ copies of i; what is missing is drawn from n w_i − ⌊n w_i⌋ as by multinomial
// So ancestors do not decrease. The uniforms of group g are Philox's of (seed, stream) at the counters 2⁶³ + g·2³² + j,
// where no noise has its own: the result depends on neither threads, nor device, nor how groups are batched.
#pragma once

#include <cstdint>

#include "../array/dtype.h"
#include "../cpu/work.h"

namespace scorefusion {

enum class ResampleMethod { systematic, stratified, residual, multinomial };

constexpr int64_t most_groups = int64_t(1) << 31, most_particles = int64_t(1) << 32;  // what the counters have room for

struct Resampling {
  const void* log_weights = nullptr;  // (groups, n), any number but NaN and +∞; need not be normalised
  DType dtype = DType::float64;       // of log_weights
  int64_t groups = 0, n = 0;
  int64_t group_stride = 0, stride = 1;  // elements

  ResampleMethod method = ResampleMethod::systematic;
  double threshold =
      0;  // groups whose effective sample size (Σw)²/Σw² is below it are resampled, others left as they are
  uint64_t seed = 0, stream = 0, first_group = 0;

  int64_t* ancestors = nullptr;  // (groups, n)
  bool in_batch = false;         // do they count from the first particle of all, or from that of the group?
  double* carried = nullptr;     // (groups, n): log weights afterwards, −ln n where resampled, else l − log_sum
  double* log_sum = nullptr;     // (groups,): ln Σ_i exp(l_i)
  double* ess = nullptr;         // (groups,): before resampling
};
// The last three may be nullptr, all of them: not wanted.
// A group whose largest log weight is not a number, or infinite, cannot be resampled: its ancestors are itself, and its
// other results are NaN.

// Returns the first such group, or −1.
int64_t resample_cpu(const Resampling& r, const Work& work);
void resample_cuda(const Resampling& r, double* workspace /* resample_workspace(r) elements */, void* stream);

// How many doubles resample_cuda wants.
int64_t resample_workspace(const Resampling& r);

}  // namespace scorefusion
