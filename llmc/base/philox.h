// Philox4x32-10, a counter-based random generator.  (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
//
// philox(key, counter) is a pure function: no state to save, no order to keep. Every random number of the program is
// addressed by what it is for, (seed, step, global sample or parameter index, site), so that it does not depend on the
// number of ranks, threads or micro-batches, and a dropout mask is recomputed in the backward pass instead of being
// stored.
#pragma once
#include <cmath>
#include <cstdint>

#include "llmc/base/host_device.h"

struct Philox4 {
    uint32_t v[4];
};

// What a random number is for; goes into the counter so that no two uses share numbers.
enum class Use : uint32_t {
    init = 1,
    dropout = 2,
    shuffle = 3,
    sample = 4,
    stochastic_rounding = 5,
    state_rounding = 6
};

HOST_DEVICE inline Philox4 philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = static_cast<uint32_t>(p1), c2 = n2, c3 = static_cast<uint32_t>(p0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 24 bits; never 1.
HOST_DEVICE inline float uniform01(uint32_t bits) { return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f); }

// Two standard normals from two words (Box-Muller).
HOST_DEVICE inline void normal2(uint32_t a, uint32_t b, float* x, float* y) {
    float radius = sqrtf(-2.0f * logf((static_cast<float>(a >> 8) + 0.5f) * (1.0f / 16777216.0f)));
    float angle = 6.283185307179586f * uniform01(b);
    *x = radius * cosf(angle), *y = radius * sinf(angle);
}
