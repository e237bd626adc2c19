// HellaSwag: four endings of a sentence, which one is right?    (Zellers et al. 2019, https://arxiv.org/abs/1905.07830)
//
// A model's answer is the ending with the highest likelihood: by the sum of its tokens' log-probabilities (accuracy),
// or by their mean (normalised accuracy, which does not favour short endings; the figure that is usually reported).
#pragma once
#include <algorithm>
#include <string>
#include <vector>
#include "llmc/model/batch.h"
#include "llmc/text/tokenizer.h"

struct MultipleChoice {
    std::vector<int> context;
    std::vector<std::vector<int>> endings;  // tokens of " ending"
    int label = 0;
};

// Reads hellaswag_val.jsonl (fields ctx, endings, label). Error names file and line. limit 0: all.
std::vector<MultipleChoice> read_hellaswag(const std::string& path, const Tokenizer& tokenizer, int64_t limit);

struct ChoiceResult {
    int64_t questions = 0, right = 0, right_normalised = 0;
};

// Model: token_losses(losses, batch) with room for rows of max_T tokens, max_B of them. Contexts too
// long lose their beginning.
template <class Model, class Progress>
ChoiceResult evaluate_choices(Model& model, const std::vector<MultipleChoice>& questions, int max_B, int max_T,
                              Progress progress) {
    ChoiceResult result;
    for (const MultipleChoice& q : questions) {
        std::vector<double> sum(q.endings.size()), mean(q.endings.size());
        for (size_t first = 0; first < q.endings.size(); first += static_cast<size_t>(max_B)) {
            size_t B = std::min(q.endings.size() - first, static_cast<size_t>(max_B)), T = 0;
            std::vector<std::vector<int>> rows(B);
            std::vector<size_t> begins(B);  // of the ending within the row
            for (size_t b = 0; b < B; b++) {
                const std::vector<int>& ending = q.endings[first + b];
                rows[b] = q.context;
                rows[b].insert(rows[b].end(), ending.begin(), ending.end());
                size_t room = static_cast<size_t>(max_T) + 1;
                if (rows[b].size() > room)
                    rows[b].erase(rows[b].begin(), rows[b].end() - static_cast<std::ptrdiff_t>(room));
                begins[b] = rows[b].size() - std::min(ending.size(), rows[b].size() - 1);
                T = std::max(T, rows[b].size() - 1);
            }
            Batch batch;
            batch.sequences = static_cast<int>(B), batch.T = static_cast<int>(T);
            batch.inputs.assign(B * T, 0), batch.targets.assign(B * T, -1);
            std::vector<float> losses(B * T);
            for (size_t b = 0; b < B; b++)
                for (size_t t = 0; t + 1 < rows[b].size(); t++) {
                    batch.inputs[b * T + t] = rows[b][t];
                    if (t + 1 >= begins[b]) batch.targets[b * T + t] = rows[b][t + 1];
                }
            model.token_losses(losses.data(), batch);
            for (size_t b = 0; b < B; b++) {
                for (size_t t = 0; t < T; t++) sum[first + b] += static_cast<double>(losses[b * T + t]);
                mean[first + b] = sum[first + b] / static_cast<double>(rows[b].size() - begins[b]);
            }
        }
        auto best = [](const std::vector<double>& x) {
            return static_cast<int>(std::min_element(x.begin(), x.end()) - x.begin());
        };
        result.right += best(sum) == q.label;
        result.right_normalised += best(mean) == q.label;
        result.questions++;
        progress(result.questions, static_cast<int64_t>(questions.size()));
    }
    return result;
}
