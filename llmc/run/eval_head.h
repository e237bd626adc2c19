// What a model's head says of labelled texts, and what that is worth.
#pragma once
#include <algorithm>
#include <functional>
#include <string>
#include <vector>
#include "llmc/model/head_config.h"
#include "llmc/run/eval_report.h"
#include "llmc/run/eval_scores.h"
#include "llmc/text/dataloader.h"
#include "llmc/text/packing.h"

// Of each text of the rows that were read: its place in the data, its label, and its K scores. Of a pair of which the first
// text was preferred, the scores of both, so that class 0 is right: the loss of preferences is that of these two classes.
struct HeadAnswers {
    LabelOf of = LabelOf::text;
    size_t K = 0;
    std::vector<int64_t> texts;
    std::vector<float> labels;
    std::vector<double> scores;
};

// Loss of each text; the class with the highest score, of equal ones the first, or the number.
std::vector<double> head_losses(const HeadAnswers& answers);
std::vector<double> head_predictions(const HeadAnswers& answers);
// loss and accuracy, precision, recall, F1; or loss, which is the mean squared error, and correlations; of preferences loss,
// accuracy and by how much the score of what was preferred is higher; without labels what the scores are.
Report head_report(const HeadAnswers& answers, const HeadConfig& head);
// Each text in the order of the data as a line of JSON.
std::string head_answers_json(const HeadAnswers& answers, const HeadConfig& head,
                              const std::function<std::string(int64_t, bool second)>& text);

// Over the first `windows` rows of the data, B at a time, the batches dealt to the ranks in turn; all ranks call it, and all
// have the whole of the answers. In the order of the data.
// score(batch, scores): (n,Kp) of its tokens, of which those with labels count.
template <class Score, class Progress>
HeadAnswers score_documents(Score score, const PackedExamples& data, DataLoader& loader, size_t K, size_t Kp,
                            int64_t windows, int B, Group& group, Progress progress) {
    HeadAnswers all;
    all.of = data.labels_of();
    const bool pairs = all.of == LabelOf::pair;
    all.K = K;
    all.texts = data.dealt(0, windows);
    all.labels.resize(all.texts.size()), all.scores.resize(all.texts.size() * K);
    std::vector<int> owners(all.texts.size());
    size_t first = 0;  // text of the batch
    std::vector<float> scores;
    const int64_t step = int64_t(B) * group.world();
    for (int64_t begin = 0; begin < windows; begin += step) {
        for (int rank = 0; rank < group.world(); rank++) {
            const int64_t at = begin + int64_t(B) * rank;
            const bool counts = at < windows, mine = rank == group.rank();
            if (!counts && !mine) continue;
            const int64_t from = counts ? at : 0;  // a rank that has none left works on the first batch again, in vain
            const int n = static_cast<int>(std::min<int64_t>(B, windows - from));
            const size_t texts = data.dealt(from, n).size();
            if (mine) {
                const Batch& batch = loader.load(from, n);
                score(batch, scores);
                size_t text = first;
                for (size_t i = 0; counts && i < batch.labels.size(); i++) {
                    if (!has_label(batch.labels[i])) continue;
                    const size_t t = static_cast<size_t>(batch.T), row = i / t * t;
                    const int partner = batch.partners[i];
                    if (partner >= 0 && row + static_cast<size_t>(partner) < i) continue;  // counted with the first
                    all.labels[text] = pairs ? 0 : batch.labels[i];
                    for (size_t k = 0; k < (pairs ? 0 : K); k++) {
                        double& s = all.scores[text * K + k] = static_cast<double>(scores[i * Kp + k]);
                        if (partner >= 0)
                            s += static_cast<double>(scores[(row + static_cast<size_t>(partner)) * Kp + k]);
                    }
                    if (pairs) {
                        all.scores[text * 2] = static_cast<double>(scores[i * Kp]);
                        all.scores[text * 2 + 1] =
                            static_cast<double>(scores[(row + static_cast<size_t>(partner)) * Kp]);
                    }
                    text++;
                }
            }
            if (!counts) continue;
            std::fill_n(owners.begin() + static_cast<std::ptrdiff_t>(first), texts, rank);
            first += texts;
        }
        progress(std::min(begin + step, windows), windows);
    }
    share_scores(group, all.scores, [&](size_t i) { return owners[i / K]; });
    std::vector<double> labels(all.labels.begin(), all.labels.end());
    share_scores(group, labels, [&](size_t i) { return owners[i]; });
    std::vector<size_t> order(all.texts.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return all.texts[a] < all.texts[b]; });
    HeadAnswers sorted{all.of, K, {}, {}, {}};
    for (size_t i : order) {
        sorted.texts.push_back(all.texts[i]), sorted.labels.push_back(static_cast<float>(labels[i]));
        sorted.scores.insert(sorted.scores.end(), all.scores.begin() + static_cast<std::ptrdiff_t>(i * K),
                             all.scores.begin() + static_cast<std::ptrdiff_t>((i + 1) * K));
    }
    return sorted;
}

template <class M, class Progress>
HeadAnswers head_answers(M& model, const PackedExamples& data, DataLoader& loader, const HeadConfig& head,
                         int64_t windows, int B, Group& group, Progress progress) {
    const size_t Kp = static_cast<size_t>(head.padded());
    const auto score = [&](const Batch& batch, std::vector<float>& scores) {
        scores.resize(batch.inputs.size() * Kp);
        model.scores(scores.data(), batch);
    };
    const size_t K = data.labels_of() == LabelOf::pair ? 2 : static_cast<size_t>(head.outputs);
    return score_documents(score, data, loader, K, Kp, windows, B, group, progress);
}
