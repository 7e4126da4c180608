// Sums over each sample, in the fixed shape of reductions.h: the frame that gram and residual fill in.
#pragma once

#include <vector>

#include "pass_cpu.h"

namespace scorefusion {

// For samples wider than narrow_size. Every sample has `count` sums.
//   add(stage, u, b, d, n, lanes): adds to lanes[count][8] what the elements [d, d + n) of sample b give; u points at
//       them in the stage;
//   write(b, sums): takes the finished sums[count] of sample b.
// extra: elements of scratch memory of T that make_add is given, once per thread.
template <class T, class MakeAdd, class Write>
void sum_rows(const Batch& batch, int64_t count, int64_t extra, const Work& work, MakeAdd&& make_add, Write&& write) {
  const Cut cut(batch);
  // Samples cut into chunks keep the sums of every chunk until all are there, as many samples at a time as fit.
  constexpr int64_t kept_sums = 1 << 20;
  const bool chunked = cut.chunks > 1;
  const int64_t at_once =
      chunked ? std::clamp<int64_t>(kept_sums / (cut.chunks * count), 1, batch.samples) : batch.samples;
  std::vector<double> kept(chunked ? size_t(at_once * cut.chunks * count) : 0);

  for (int64_t from = 0; from < batch.samples; from += at_once) {
    Cut now = cut;
    now.samples = std::min(batch.samples - from, at_once);
    parallel_for(now.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
      const int64_t lane_room = count * sum_lanes, sum_room = count;
      double* lanes = scratch<double>(lane_room + sum_room + Stage<T>::room(batch) + extra);
      double* sums = lanes + lane_room;
      T* buffer = reinterpret_cast<T*>(sums + sum_room);
      Stage<T> stage(batch, buffer);
      auto add = make_add(buffer + Stage<T>::room(batch));
      for (int64_t item = first; item < last; ++item) {
        now.walk(item, [&](int64_t b_in_group, int64_t chunk, int64_t begin, int64_t n) {
          const int64_t b = from + b_in_group;
          std::fill_n(lanes, lane_room, 0.0);
          for (int64_t d = begin; d < begin + n; d += block_size) {
            const int64_t length = std::min(block_size, begin + n - d);
            add(stage, stage.block(b, d, length), b, d, length, lanes);
          }
          double* to = chunked ? kept.data() + (b_in_group * cut.chunks + chunk) * count : sums;
          for (int64_t k = 0; k < count; ++k) to[k] = sum_of_lanes(lanes + k * sum_lanes);
          if (!chunked) write(b, sums);
        });
      }
    });
    if (!chunked) continue;
    for (int64_t b = 0; b < now.samples; ++b) {
      double* total = kept.data() + b * cut.chunks * count;  // the sums of the first chunk
      for (int64_t chunk = 1; chunk < cut.chunks; ++chunk)
        for (int64_t k = 0; k < count; ++k) total[k] += total[chunk * count + k];
      write(from + b, total);
    }
  }
}

// For samples of at most narrow_size elements, many side by side.
//   each(narrow, sums, b, count): the samples [b, b + count) are laid out in narrow, and `count` sums of each are zero.
// extra: as above, in elements of double.
template <class T, class C, class MakeEach>
void for_narrow(const Batch& batch, const Coefficients& c, int64_t sums, int64_t extra, const Work& work,
                MakeEach&& make_each) {
  const Cut cut(batch);
  const int64_t at_once = Narrow<T, C>::groups_of(batch, sums) * narrow_lanes;
  parallel_for(cut.items(), worth_several(batch), work, [&](int64_t first, int64_t last) {
    double* memory = scratch<double>(sums * at_once + extra + Narrow<T, C>::room(batch));
    Narrow<T, C> narrow(batch, c, reinterpret_cast<T*>(memory + sums * at_once + extra));
    auto each = make_each(memory + sums * at_once);
    for (int64_t item = first; item < last; ++item)
      walk_narrow(cut, item, at_once, [&](int64_t b, int64_t count) {
        std::fill_n(memory, sums * at_once, 0.0);
        narrow.gather(b, count);
        each(narrow, memory, b, count);
      });
  });
}

}  // namespace scorefusion
