// The tokens of a step, on the host.
#pragma once
#include <cstdint>
#include <vector>

struct Batch {
    int64_t first = 0;  // number of the first sample
    int sequences = 0, T = 0;
    std::vector<int> inputs, targets;  // (sequences, T)
};
