// --text: plain text beside what an objective learns from, so that the language model stays one (PPO-ptx: Ouyang et al. 2022,
// https://arxiv.org/abs/2203.02155, section 3.5).
//
//   loss of an update = the objective's + text_weight * mean cross entropy of the text's tokens
//
// An update has as many rows of text as of its own, divided over the ranks in the same way. Which ones follows from the
// number of its first row: a resumed run has nothing to remember.
#pragma once
#include <optional>
#include "llmc/model/step_state.h"
#include "llmc/ranks/group.h"
#include "llmc/run/rank_batches.h"
#include "llmc/run/run.h"

class TextBeside {
  public:
    TextBeside(const Run& run, const Group& group, int B)
        : weight_(run.options.text_weight), sequences_(run.rows_of_update()) {
        if (!run.text) return;
        data_ = std::make_unique<DataLoader>(run.text);
        batches_ = std::make_unique<RankBatches>(*data_, sequences_, B, group.rank(), group.world());
    }

    // This rank's rows of an update, and behind them its text from row `at` on. weight: what the update's own rows weigh, all
    // ranks together. Valid until the next call; without --text these rows themselves.
    const Batch* beside(const Batch& rows, int64_t at, double weight) {
        if (!data_) return &rows;
        const Batch& text = *batches_->load(at, true);
        const float each = static_cast<float>(weight_ * weight / data_->rows().weight(at, sequences_));
        all_ = rows;
        all_.text = text.sequences, all_.text_T = text.T,
        all_.text_skip = static_cast<int>(sequences_) - rows.sequences;
        all_.sequences += text.sequences;
        all_.inputs.insert(all_.inputs.end(), text.inputs.begin(), text.inputs.end());
        all_.targets.insert(all_.targets.end(), text.targets.begin(), text.targets.end());
        const size_t n = all_.inputs.size();
        all_.weights.resize(n, each), all_.doc_start.resize(n, 0);
        if (!rows.labels.empty()) all_.labels.resize(n, kNoLabel), all_.partners.resize(n, -1);
        if (!rows.signals.empty()) all_.signals.resize(n);
        return &all_;
    }

    // Since it was last asked for: the mean loss of the text's tokens in these updates.
    void count(const StepState& update) { sum_ += update.sums[kTextSum], updates_++; }
    std::optional<double> mean_loss() {
        std::optional<double> mean;
        if (data_) mean = sum_ / data_->rows().weight(0, sequences_ * updates_);
        sum_ = 0, updates_ = 0;
        return mean;
    }

  private:
    double weight_, sum_ = 0;
    int64_t sequences_, updates_ = 0;
    std::unique_ptr<DataLoader> data_;
    std::unique_ptr<RankBatches> batches_;
    Batch all_;
};
