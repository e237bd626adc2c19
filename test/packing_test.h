// Several documents in a row, and the same documents alone: equal losses and gradients, on any machine.
#pragma once
#include "test/model_test.h"

struct PackedDocuments {
    Batch rows;                // (2,T): three documents and padding; two documents
    std::vector<Batch> alone;  // each document, (1,length)
};

inline PackedDocuments packed_documents(int T, int V, uint64_t seed) {
    const int s = static_cast<int>(seed % 3);
    const std::vector<std::vector<int>> lengths = {{5 + s, 1, T - 10}, {T - 3 - s, 3 + s}};
    PackedDocuments out;
    out.rows = random_batch(2, T, V, seed);
    out.rows.weights.assign(out.rows.inputs.size(), 0), out.rows.doc_start.resize(out.rows.inputs.size());
    std::mt19937_64 generator(seed);
    for (size_t b = 0; b < 2; b++) {
        int start = 0;
        for (int length : lengths[b]) {
            Batch& one = out.alone.emplace_back();
            one.sequences = 1, one.T = length;
            for (int t = start; t < start + length; t++) {
                const size_t i = b * static_cast<size_t>(T) + static_cast<size_t>(t);
                if (t == start + length - 1) out.rows.targets[i] = -1;  // not the first token of the next document
                out.rows.weights[i] = static_cast<float>(generator() % 4) / 2;
                out.rows.doc_start[i] = start;
                one.inputs.push_back(out.rows.inputs[i]), one.targets.push_back(out.rows.targets[i]);
                one.weights.push_back(out.rows.weights[i]), one.doc_start.push_back(0);
            }
            start += length;
        }
        for (size_t i = b * static_cast<size_t>(T) + static_cast<size_t>(start); i < (b + 1) * static_cast<size_t>(T);
             i++)
            out.rows.targets[i] = -1, out.rows.doc_start[i] = start;
    }
    return out;
}

// A label at the last token of each document.
inline void add_labels(PackedDocuments& documents, int K) {
    Batch& rows = documents.rows;
    rows.labels.assign(rows.inputs.size(), kNoLabel), rows.partners.assign(rows.inputs.size(), -1);
    size_t at = 0, row = 1;
    for (size_t i = 0; i < documents.alone.size(); i++) {
        Batch& one = documents.alone[i];
        if (i == 3) at = static_cast<size_t>(rows.T) * row;  // the second row's
        at += one.inputs.size();
        const float label = K == 1 ? 0.5f * static_cast<float>(i) - 1 : static_cast<float>(static_cast<int>(i) % K);
        one.labels.assign(one.inputs.size(), kNoLabel), one.partners.assign(one.inputs.size(), -1);
        one.labels.back() = rows.labels[at - 1] = label;
    }
}

// What a step without an update gives.
struct StepResult {
    double loss = 0;
    Doubles gradients;
};
template <typename X, class Machine>
StepResult step_of(GPT2<X, Machine>& model, const Batch& batch, float normaliser) {
    StepState state = step_state(batch, 0, 0.0f);
    state.loss_normaliser = normaliser, state.skip_loss_above = -1e30f;
    model.step(batch, &state);
    StepResult result{state.sums[0], {}};
    if constexpr (std::is_base_of_v<Plain, typename Machine::Stream>) result.gradients = gradients_of(model);
    else result.gradients = widen(model.machine().download(model.gradients(), model.arena_elements()));
    return result;
}

// Three times, with borders at other places: a GPU replays the micro-step that it captured the second time.
template <typename X, class Machine>
void check_packing(double tolerance, int recompute, int scores = 0) {
    constexpr int T = 21, V = 31;
    ModelConfig config{2, 3, 24, T, V};
    config.head.outputs = scores;
    StepOptions options;
    options.B = 2, options.T = T, options.examples = true, options.labels = scores > 0, options.recompute = recompute;
    auto model = random_model<X, Machine>(config, options);
    for (uint64_t seed : {1, 2, 3}) {
        SCOPED_TRACE(seed);
        PackedDocuments documents = packed_documents(T, V, seed);
        if (scores > 0) add_labels(documents, scores);
        const float normaliser = step_state(documents.rows, 0, 0).loss_normaliser;
        const StepResult packed = step_of(*model, documents.rows, normaliser);
        StepResult sum{0, Doubles(packed.gradients.size())};
        Doubles losses;
        for (const Batch& one : documents.alone) {
            const StepResult result = step_of(*model, one, normaliser);
            sum.loss += result.loss;
            for (size_t i = 0; i < sum.gradients.size(); i++) sum.gradients[i] += result.gradients[i];
            std::vector<float> own(one.inputs.size());
            Batch whole = one;
            whole.doc_start.clear();
            model->token_losses(own.data(), whole);
            losses.insert(losses.end(), own.begin(), own.end());
        }
        EXPECT_GT(sum.loss, 10);
        EXPECT_NEAR(packed.loss / sum.loss, 1, tolerance);
        EXPECT_LT(largest_error(model->table(), packed.gradients, sum.gradients), 20 * tolerance);
        std::vector<float> got(documents.rows.inputs.size());
        model->token_losses(got.data(), documents.rows);
        const int padding = 4 - static_cast<int>(seed % 3);  // of the first row
        got.erase(got.begin() + T - padding, got.begin() + T);
        EXPECT_LT(relative_error(widen(got), losses), std::max(tolerance, 1e-7));
    }
}
