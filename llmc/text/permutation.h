// A random permutation of [0, n) without a table: where it takes i.
//
// A small-domain Feistel cipher keyed by Philox (Black & Rogaway 2002), cycle-walked. Four rounds permute the numbers of
// 2 * half_bits bits, of which there are at most 4n; a result that is not below n is permuted again until it is. The
// rounds are keyed by (seed, epoch, what).
#pragma once
#include <cstdint>
#include "llmc/base/philox.h"

inline int64_t permute(int64_t i, int64_t n, uint64_t seed, int64_t epoch, uint32_t what) {
    if (n == 1) return 0;
    int half_bits = 1;
    while (half_bits < 31 && (int64_t{1} << (2 * half_bits)) < n) half_bits++;
    const uint32_t mask = (uint32_t{1} << half_bits) - 1;
    do {
        uint32_t left = static_cast<uint32_t>(i >> half_bits), right = static_cast<uint32_t>(i) & mask;
        for (uint32_t round = 0; round < 4; round++) {
            const uint32_t counter = static_cast<uint32_t>(Use::shuffle) << 24 | round;
            const uint32_t key = philox(seed, right, static_cast<uint32_t>(epoch), what, counter).v[0];
            const uint32_t mixed = left ^ (key & mask);
            left = right, right = mixed;
        }
        i = static_cast<int64_t>(left) << half_bits | right;
    } while (i >= n);
    return i;
}
