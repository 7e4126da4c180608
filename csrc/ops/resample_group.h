// One group resampled, by whoever does the work: one thread of a CPU, or the threads of a block of a GPU.
//
// It is written once, so that both give the same bits. A Crew offers
//   each(count, f)       f(i) for all i < count, in any order; then all see what was written
//   once(f)              f(), by one of the crew; then all see what was written
//   meet()               all have done what stands before
//   largest(values, n)   the largest of values[i], +∞ if one of them is NaN
//   search(count, sorted, size, key, store)   store(j, #{i: sorted[i] ≤ key(j)}) for all j < count; key does not
//   decrease
#pragma once

#include "../math/exponential.h"
#include "../math/philox.h"
#include "batch.h"
#include "resample.h"

namespace scorefusion {

// Sums run over chunks one after the other, and over a chunk's elements in order: a shape that n alone decides.
constexpr int64_t resample_chunk = 32;

SF_INLINE int64_t chunks_of(int64_t count) { return (count + resample_chunk - 1) / resample_chunk; }
SF_INLINE int64_t end_of_chunk(int64_t chunk, int64_t count) {
  return (chunk + 1) * resample_chunk < count ? (chunk + 1) * resample_chunk : count;
}

// What one group needs, in doubles.
struct ResampleRoom {
  double* weights;    // (n,)
  double* of_chunks;  // (chunks of n + 1,)
  double* points;     // (n + 1,), for residual and multinomial
  double* counts;     // (n,), for residual
  double* drawn;      // (n,), for residual

  SF_INLINE ResampleRoom(double* memory, int64_t n)
      : weights(memory),
        of_chunks(weights + n),
        points(of_chunks + chunks_of(n + 1)),
        counts(points + n + 1),
        drawn(counts + n) {}
  static SF_INLINE int64_t doubles(ResampleMethod method, int64_t n) {
    const int64_t always = n + chunks_of(n + 1), points = n + 1, rest = 2 * n;
    if (method == ResampleMethod::residual) return always + points + rest;
    return method == ResampleMethod::multinomial ? always + points : always;
  }
};

// The j-th uniform of a group, an odd multiple of 2⁻⁵³: never 0, never 1.
SF_INLINE double uniform_of_group(const Resampling& r, int64_t group, int64_t j) {
  uint32_t w[4];
  philox4x32(r.seed, r.stream, uint64_t(1) << 63 | (r.first_group + uint64_t(group)) << 32 | uint64_t(j), w);
  const uint64_t bits = (uint64_t(w[1]) << 32 | w[0]) >> 12;
  return double(int64_t(2 * bits + 1)) * 0x1p-53;
}

// p, or the largest number below `total` > 0 where rounding has reached it.
SF_INLINE double below(double total, double p) { return p < total ? p : bits_as<double>(bits_as<uint64_t>(total) - 1); }

// values[i] = values[0] + … + values[i]
template <class Crew>
SF_HOST_DEVICE void accumulate(const Crew& crew, double* values, int64_t count, double* of_chunks) {
  crew.each(chunks_of(count), [&](int64_t chunk) {
    double sum = 0;
    for (int64_t i = chunk * resample_chunk; i < end_of_chunk(chunk, count); ++i) values[i] = sum += values[i];
    of_chunks[chunk] = sum;
  });
  crew.once([&] {
    double before = 0;
    for (int64_t chunk = 0; chunk < chunks_of(count); ++chunk) {
      const double sum = of_chunks[chunk];
      of_chunks[chunk] = before;
      before += sum;
    }
  });
  crew.each(count, [&](int64_t i) { values[i] = of_chunks[i / resample_chunk] + values[i]; });
}

// Σ values[i]²
template <class Crew>
SF_HOST_DEVICE double sum_of_squares(const Crew& crew, const double* values, int64_t count, double* of_chunks) {
  crew.each(chunks_of(count), [&](int64_t chunk) {
    double sum = 0;
    for (int64_t i = chunk * resample_chunk; i < end_of_chunk(chunk, count); ++i)
      sum = fused(values[i], values[i], sum);
    of_chunks[chunk] = sum;
  });
  crew.once([&] {
    for (int64_t chunk = 1; chunk < chunks_of(count); ++chunk) of_chunks[0] += of_chunks[chunk];
  });
  const double total = of_chunks[0];
  crew.meet();  // all have read it before the memory is used again
  return total;
}

// points[j] = the j-th smallest of `count` uniforms below `total`: sums of exponential variables, which are spaced so.
template <class Crew>
SF_HOST_DEVICE void make_points(const Crew& crew, const Resampling& r, int64_t group, int64_t count, double total,
                                const ResampleRoom& room) {
  crew.each(count + 1, [&](int64_t j) { room.points[j] = -log_of_normal(uniform_of_group(r, group, j)); });
  accumulate(crew, room.points, count + 1, room.of_chunks);
  const double whole = room.points[count];
  crew.each(count, [&](int64_t j) { room.points[j] = below(total, room.points[j] / whole * total); });
}

// The ancestors of a group; room.weights holds its cumulated weights, weight(i) = one of them.
template <class Crew, class Weight>
SF_HOST_DEVICE void choose_ancestors(const Crew& crew, const Resampling& r, int64_t group, const Weight& weight,
                                     const ResampleRoom& room) {
  const int64_t n = r.n;
  const double total = room.weights[n - 1];
  int64_t* const ancestors = r.ancestors + group * n;
  const int64_t first = r.in_batch ? group * n : 0;
  const auto set_ancestor = [&](int64_t j, int64_t i) { ancestors[j] = first + i; };

  switch (r.method) {
    case ResampleMethod::systematic: {
      const double u = uniform_of_group(r, group, 0);
      const auto point = [&](int64_t j) { return below(total, (double(j) + u) / double(n) * total); };
      return crew.search(n, room.weights, n, point, set_ancestor);
    }
    case ResampleMethod::stratified: {
      const auto point = [&](int64_t j) {
        return below(total, (double(j) + uniform_of_group(r, group, j)) / double(n) * total);
      };
      return crew.search(n, room.weights, n, point, set_ancestor);
    }
    case ResampleMethod::multinomial: {
      make_points(crew, r, group, n, total, room);
      const auto point = [&](int64_t j) { return room.points[j]; };
      return crew.search(n, room.weights, n, point, set_ancestor);
    }
    case ResampleMethod::residual: {
      crew.meet();  // all have read the total before the weights are written over
      crew.each(n, [&](int64_t i) {
        const double expected = double(n) * weight(i) / total, copies = double(int64_t(expected));
        room.counts[i] = copies;
        room.weights[i] = expected - copies;
      });
      accumulate(crew, room.counts, n, room.of_chunks);  // integers: exact
      accumulate(crew, room.weights, n, room.of_chunks);
      const int64_t missing = n - int64_t(room.counts[n - 1]);
      if (missing > 0) {
        make_points(crew, r, group, missing, room.weights[n - 1], room);
        const auto point = [&](int64_t j) { return room.points[j]; };
        crew.search(missing, room.weights, n, point, [&](int64_t j, int64_t i) { room.drawn[j] = double(i); });
      }
      crew.meet();  // all have read how many are missing before the counts change
      const auto number = [](int64_t i) { return double(i); };
      crew.search(n, room.drawn, missing, number, [&](int64_t i, int64_t drawn) { room.counts[i] += double(drawn); });
      return crew.search(n, room.counts, n, number, set_ancestor);
    }
  }
}

// Returns whether the group could be resampled. `memory`: ResampleRoom::doubles(r.method, r.n) doubles.
template <class Crew>
SF_HOST_DEVICE bool resample_group(const Crew& crew, const Resampling& r, int64_t group, double* memory) {
  const int64_t n = r.n;
  const ResampleRoom room(memory, n);
  const auto log_weight = [&](int64_t i) {
    return element_of(r.log_weights, r.dtype, group * r.group_stride + i * r.stride);
  };
  double* const w = room.weights;
  crew.each(n, [&](int64_t i) { w[i] = log_weight(i); });
  const double top = crew.largest(w, n);
  const bool possible = top - top == 0;  // finite
  double log_sum = top - top, ess = log_sum;
  if (possible) {
    crew.each(n, [&](int64_t i) { w[i] = exp_of_nonpositive(w[i] - top); });
    const double squares = sum_of_squares(crew, w, n, room.of_chunks);
    accumulate(crew, w, n, room.of_chunks);
    log_sum = top + log_of_normal(w[n - 1]);
    ess = w[n - 1] * w[n - 1] / squares;
  }

  const bool resampled = ess < r.threshold;
  if (r.carried) {
    const double mean = -log_of_normal(double(n));
    crew.each(n, [&](int64_t i) { r.carried[group * n + i] = resampled ? mean : log_weight(i) - log_sum; });
    crew.once([&] { r.log_sum[group] = log_sum, r.ess[group] = ess; });
  }
  if (resampled)
    choose_ancestors(crew, r, group, [&](int64_t i) { return exp_of_nonpositive(log_weight(i) - top); }, room);
  else
    crew.each(n, [&](int64_t i) { r.ancestors[group * n + i] = (r.in_batch ? group * n : 0) + i; });
  return possible;
}

}  // namespace scorefusion
