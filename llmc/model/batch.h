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

    // Where each token stands in its document, (sequences, T); empty where doc_start is.
    std::vector<int> positions() const {
        std::vector<int> all(doc_start.size());
        for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<int>(i) % T - doc_start[i];
        return all;
    }
};
