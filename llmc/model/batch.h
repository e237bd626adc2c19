// The tokens of a step, or of an evaluation, on the host.
#pragma once
#include <cstdint>
#include <vector>

struct Batch {
    int64_t first = 0;  // number of the first sample
    int sequences = 0, T = 0;
    std::vector<int> inputs, targets;  // (sequences, T); target -1: not counted
    // (sequences, T), or empty: every target counts alike, and a sequence is one document. A step takes them where
    // StepOptions::examples says so.
    std::vector<float> weights;  // of each target's loss
    std::vector<int> doc_start;  // first position of the document that position t belongs to: t sees nothing before it
};
