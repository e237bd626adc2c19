// Keys and values of the tokens seen so far, for sampling.
#pragma once
#include <vector>
#include "llmc/model/config.h"

template <typename X, class Arena>
struct KVCache {
    std::vector<X*> k, v;                         // L of (capacity, C)
    int *tokens = nullptr, *positions = nullptr;  // (chunk) those that are being fed
    int* length = nullptr;                        // in the machine's memory; layers read and advance it
    int capacity = 0, used = 0;                   // the host's own count
    Arena arena;

    void allocate(const ModelConfig& m, int chunk) {
        k.resize(static_cast<size_t>(m.L)), v.resize(static_cast<size_t>(m.L));
        for (size_t l = 0; l < k.size(); l++)
            arena.add(&k[l], int64_t(m.T) * m.C), arena.add(&v[l], int64_t(m.T) * m.C);
        arena.add(&tokens, chunk), arena.add(&positions, chunk), arena.add(&length, 1);
        arena.allocate("the cache of keys and values", false);
        capacity = m.T;
    }
};
