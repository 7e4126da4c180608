// The error of the normals against float64: every step-th 32-bit word as a radius and as an angle, and both ends.
//
//   g++ -std=c++20 -O2 -mfma -ffp-contract=off -pthread tests/cpp/normal_accuracy.cpp -o normal_accuracy
//   ./normal_accuracy 1        # all 2³² words, some minutes; prints one JSON line
//
// z = r·(cos, sin) is off by at most |r̂ − r| + r·|direction error| + half a unit of the product.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../../csrc/math/normal.h"

using namespace scorefusion;

struct Worst {
  double radius = 0, direction = 0;
  uint32_t radius_word = 0, direction_word = 0;

  void look_at(uint32_t w) {
    // ln u through the complement where u > ½: 1 − u is exact in float64, and so is log1p's argument.
    const double u = (double(w) + 1) * 0x1p-32, rest = double(uint32_t(~w)) * 0x1p-32;
    const double true_radius = std::sqrt(-2 * (w < 0x80000000u ? std::log(u) : std::log1p(-rest)));
    const double radius_error = std::abs(double(normal_radius<float>(w)) - true_radius);
    if (radius_error > radius) radius = radius_error, radius_word = w;

    float cosine, sine;
    normal_direction<float>(w, cosine, sine);
    const double angle = 2 * M_PI * (double(int32_t(w)) * 0x1p-32);
    const double direction_error = std::max(std::abs(cosine - std::cos(angle)), std::abs(sine - std::sin(angle)));
    if (direction_error > direction) direction = direction_error, direction_word = w;
  }

  void merge(const Worst& other) {
    if (other.radius > radius) radius = other.radius, radius_word = other.radius_word;
    if (other.direction > direction) direction = other.direction, direction_word = other.direction_word;
  }
};

int main(int argc, char** argv) {
  const uint64_t step = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1, words = uint64_t(1) << 32;
  const unsigned shares = std::max(1u, std::thread::hardware_concurrency());
  std::vector<Worst> worst(shares);
  std::vector<std::thread> threads;
  for (unsigned share = 0; share < shares; ++share)
    threads.emplace_back([&, share] {
      Worst mine;
      for (uint64_t w = share * step; w < words; w += shares * step) mine.look_at(uint32_t(w));
      worst[share] = mine;
    });
  for (auto& thread : threads) thread.join();

  Worst all;
  for (const Worst& one : worst) all.merge(one);
  for (uint32_t w = 0; w < 4096; ++w)  // both ends, the middle, and the quarter turns
    for (uint32_t base : {0u, 0x20000000u, 0x40000000u, 0x80000000u, 0xB504F333u, 0xC0000000u})
      all.look_at(base + w - 2048);

  constexpr double largest_radius = 6.6604;  // √(−2 ln 2⁻³²)
  std::printf(
      "{\"step\": %llu, \"radius_error\": %.3e, \"radius_word\": %u, \"direction_error\": %.3e, \"direction_word\": "
      "%u, "
      "\"normal_error_bound\": %.3e}\n",
      static_cast<unsigned long long>(step), all.radius, all.radius_word, all.direction, all.direction_word,
      all.radius + largest_radius * all.direction + 0x1p-22);
}
