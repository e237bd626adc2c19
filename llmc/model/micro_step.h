// The micro-batches of a step, in their order: first of the rows that its objective is about, then of the plain text beside
// them (batch.h). The last of either may be smaller; the loss normaliser is that of the whole step.
#pragma once
#include <algorithm>
#include <compare>
#include <vector>
#include "llmc/model/batch.h"

// What happens to a bucket's gradients when they are complete: nothing, but that ranks add them up; their norm is taken; what they are of
// is updated; both, one after the other.
enum class Pass { gradients, norm, update, norm_and_update };

struct MicroStep {
    int B, T;          // sequences, and their length
    bool first, last;  // of the step
    bool text;
    int skip;  // numbers of samples between its last row and the next one, which are other ranks'
    Pass pass = Pass::gradients;
    auto operator<=>(const MicroStep&) const = default;
};

inline std::vector<MicroStep> micro_steps_of(const Batch& batch, int most, Pass pass = Pass::gradients) {
    std::vector<MicroStep> all;
    const int objective = batch.sequences - batch.text;
    for (int row = 0; row < batch.sequences; row += all.back().B) {
        const bool text = row >= objective;
        const int end = text ? batch.sequences : objective, B = std::min(most, end - row);
        const bool turns = !text && row + B == objective && batch.text > 0;
        all.push_back({B, text ? batch.text_T : batch.T, row == 0, row + B == batch.sequences, text,
                       turns ? batch.text_skip : 0, pass});
    }
    return all;
}
