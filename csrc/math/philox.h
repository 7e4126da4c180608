// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011): a counter and a key in, four random words out.
//
// key = (seed low, seed high), counter = (q low, q high, stream low, stream high). There is no state: word i of
// counter q can be made again by anyone, anywhere, in any order.
#pragma once

#include "host_device.h"

namespace scorefusion {

namespace philox {
constexpr int rounds = 10;
constexpr uint32_t multiplier_0 = 0xD2511F53u, multiplier_1 = 0xCD9E8D57u;  // of counter words 0 and 2
constexpr uint32_t weyl_0 = 0x9E3779B9u, weyl_1 = 0xBB67AE85u;              // added to the key after each round
}  // namespace philox

SF_INLINE void philox4x32(uint64_t seed, uint64_t stream, uint64_t q, uint32_t w[4]) {
  uint32_t key_0 = uint32_t(seed), key_1 = uint32_t(seed >> 32);
  uint32_t c0 = uint32_t(q), c1 = uint32_t(q >> 32), c2 = uint32_t(stream), c3 = uint32_t(stream >> 32);
  for (int round = 0; round < philox::rounds; ++round) {
    const uint64_t product_0 = uint64_t(philox::multiplier_0) * c0;
    const uint64_t product_1 = uint64_t(philox::multiplier_1) * c2;
    c0 = uint32_t(product_1 >> 32) ^ c1 ^ key_0;
    c1 = uint32_t(product_1);
    c2 = uint32_t(product_0 >> 32) ^ c3 ^ key_1;
    c3 = uint32_t(product_0);
    key_0 += philox::weyl_0;
    key_1 += philox::weyl_1;
  }
  w[0] = c0, w[1] = c1, w[2] = c2, w[3] = c3;
}

}  // namespace scorefusion
