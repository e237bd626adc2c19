// The tokens of a step, or of an evaluation, on the host.
#pragma once
#include <cstdint>
#include <vector>
#include "llmc/model/head_config.h"

// Of a token that a policy has written, what is known since then (llmc/objectives/rewards.h).
struct TokenSignals {
    float log_p = 0;      // by the policy as it was when it wrote it
    float log_q = 0;      // by the reference
    float advantage = 0;  // by how much it was better than what was expected
    float value = 0;      // what was expected, by the value head as it was
    float target = 0;     // what that head should have said
};

struct Batch {
    int64_t first = 0;  // number of the first sample
    int sequences = 0, T = 0;
    std::vector<int> inputs, targets;  // (sequences, T); target -1: not counted
    // (sequences, T), or empty: every target counts alike, and a sequence is one document. A step takes them where
    // StepOptions::examples says so.
    std::vector<float> weights;  // of each target's loss
    std::vector<int> doc_start;  // first position of the document that position t belongs to: t sees nothing before it

    // (sequences, T), or empty: of a document that has a label, that label at its last token, else kNoLabel: the number
    // of a class, or a value. And of a pair that stands there in both orders, or of which one text was preferred (labels 1 and
    // -1), at the last token of each the position in the row of the other's, else -1. A step takes them where StepOptions::labels says so.
    std::vector<float> labels = {};
    std::vector<int> partners = {};
    // (sequences, T), or empty: where a policy learns of rewards. A step takes them where StepOptions::signals says so.
    std::vector<TokenSignals> signals = {};

    // So many of the sequences, the last ones, are plain text beside what an objective is about, of text_T tokens each: their
    // loss is the language model's, each token's by its weight. Samples are numbered over all ranks, and text after all
    // others: text_skip numbers lie between this rank's.
    int text = 0, text_T = 0, text_skip = 0;

    // Where each token stands in its document, (sequences, T); empty where doc_start is.
    std::vector<int> positions() const {
        std::vector<int> all(doc_start.size());
        for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<int>(i) % T - doc_start[i];
        return all;
    }
};
