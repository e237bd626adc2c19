// Launches on the machine of test/ptx/, counted.
#pragma once
#include <string>
#include <vector>

#include "test/ptx/machine.h"

namespace cudahost {

struct CountedLaunch {
    const ptx::Kernel* kernel = nullptr;
    std::string file;  // of its PTX
    ptx::Dim grid, block;
    size_t shared_bytes = 0;  // dynamic
    ptx::Counters counters;

    uint64_t blocks() const { return uint64_t{grid.x} * grid.y * grid.z; }
    int threads() const { return static_cast<int>(block.x * block.y * block.z); }
    ptx::Totals totals() const { return counters.totals(blocks()); }
};

// Launches from now on are added here; null: no longer. Of each, with large_sizes(), eight blocks run that follow each other: in
// attention, with a device without an L2 cache, all of one head, of which the last has eight times the work of the first (T = 1024).
void count_launches(std::vector<CountedLaunch>* into);

}  // namespace cudahost
