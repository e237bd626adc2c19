// A rank's part of each step: which of the step's sequences it works on.
//
// Each rank has an equal share; if the sequences do not divide equally, the first ranks have one more. All ranks need
// the same number of micro-batches, because they meet in each of them: a rank that has one too few gets a sequence more,
// whose losses do not count.
#pragma once
#include <algorithm>
#include <string>
#include <vector>
#include "llmc/text/dataloader.h"

class RankBatches {
  public:
    // sequences: of a step, over all ranks; B: of a micro-batch.
    RankBatches(DataLoader& data, int64_t sequences, int B, int rank, int world)
        : data_(data), sequences_(sequences), B_(B), rank_(rank), world_(world) {}

    // Number of this rank's first sequence within a step.
    int64_t first() const { return sequences_ / world_ * rank_ + std::min<int64_t>(rank_, sequences_ % world_); }

    // This rank's part of the step that begins at sample `at`. read_on: that of the step after it is read in the
    // background. Valid until the next call.
    const Batch* load(int64_t at, bool read_on) {
        const int64_t share = sequences_ / world_ + (rank_ < sequences_ % world_), begin = at + first();
        const Batch& loaded = data_.load(begin, static_cast<int>(share), read_on ? begin + sequences_ : -1);
        const int64_t most = (sequences_ + world_ - 1) / world_;
        if (micro_batches(share) == micro_batches(most)) return &loaded;
        padded_ = loaded;
        padded_.sequences++;
        padded_.inputs.resize(padded_.inputs.size() + static_cast<size_t>(padded_.T), 0);
        padded_.targets.resize(padded_.inputs.size(), -1);
        if (!padded_.weights.empty())
            padded_.weights.resize(padded_.inputs.size(), 0), padded_.doc_start.resize(padded_.inputs.size(), 0);
        if (!padded_.labels.empty())
            padded_.labels.resize(padded_.inputs.size(), kNoLabel), padded_.partners.resize(padded_.inputs.size(), -1);
        if (!padded_.signals.empty()) padded_.signals.resize(padded_.inputs.size());
        return &padded_;
    }

  private:
    int64_t micro_batches(int64_t n) const { return (n + B_ - 1) / B_; }

    DataLoader& data_;
    int64_t sequences_;
    int B_, rank_, world_;
    Batch padded_;
};
