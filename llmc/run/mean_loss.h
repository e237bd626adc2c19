// The validation loss.
#pragma once
#include <algorithm>
#include <vector>
#include "llmc/ranks/group.h"
#include "llmc/run/model.h"
#include "llmc/text/dataloader.h"

// Sequences of what --val-batches and --limit count: fixed, so that the loss is over the same text whatever fits at a time.
constexpr int kValidationBatch = 16;

inline int64_t validation_windows(const DataLoader& data, int64_t batches) {  // batches 0: all
    const int64_t all = data.samples_per_epoch();
    return batches > 0 && batches <= all / kValidationBatch ? batches * kValidationBatch : all;
}

struct MeanLoss {
    double loss;
    double bytes;  // of text that the targets stand for, by weight
};

// Mean loss, by weight, over the first `windows` rows of `data`, B at a time, the batches dealt to the ranks in turn; all
// ranks call it. token_bytes: how many each token stands for; may be empty. progress(done, all) after each batch.
template <Model M, class Progress>
MeanLoss mean_loss(M& model, DataLoader& data, int64_t windows, int B, int T, Group& group,
                   const std::vector<int>& token_bytes, Progress progress) {
    std::vector<float> losses(static_cast<size_t>(B) * static_cast<size_t>(T));
    double sum = 0, bytes = 0;
    int64_t step = int64_t(B) * group.world();
    for (int64_t i = B * group.rank(), begin = 0; begin < windows; i += step, begin += step) {
        // A rank that has none left works on the first batch again, in vain: at ZeRO's stage 3 all must work together.
        bool counts = i < windows;
        int64_t at = counts ? i : 0;
        int n = static_cast<int>(std::min<int64_t>(B, windows - at));
        const Batch& batch = data.load(at, n, i + step < windows ? i + step : -1);
        model.token_losses(losses.data(), batch);
        for (size_t j = 0; counts && j < batch.targets.size(); j++) {
            const double weight = batch.weights.empty() ? 1.0 : static_cast<double>(batch.weights[j]);
            sum += static_cast<double>(losses[j]) * weight;
            if (batch.targets[j] >= 0 && !token_bytes.empty())
                bytes += weight * token_bytes[static_cast<size_t>(batch.targets[j])];
        }
        progress(std::min(begin + step, windows), windows);
    }
    return {group.sum(sum) / data.rows().weight(0, windows), group.sum(bytes)};
}
