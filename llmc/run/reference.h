// DPO's reference: the log-probabilities of both answers of each pair by the model that a run began with, computed once. They
// are kept beside the checkpoints, OUT/reference.f32, because a resumed run no longer has that model:
//
//   int32 magic 20261127, version 1, pairs to train on, pairs to validate on; then two floats a pair. Little endian.
#pragma once
#include <array>
#include <cstring>
#include <string>
#include <vector>
#include "llmc/base/files.h"
#include "llmc/run/eval_head.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"

// beta (log p - log q) at the last token of each text, of which log q is the label (relative) or 0.
template <Model M>
void text_gains(M& model, const Batch& batch, double beta, bool relative, std::vector<float>& gains) {
    std::vector<float> losses(batch.inputs.size());
    model.token_losses(losses.data(), batch);
    gains.assign(losses.size(), 0);
    for (size_t i = 0; i < losses.size(); i++) {
        if (!has_label(batch.labels[i])) continue;
        const size_t T = static_cast<size_t>(batch.T);
        double sum = relative ? -static_cast<double>(batch.labels[i]) : 0;
        for (size_t t = i - i % T + static_cast<size_t>(batch.doc_start[i]); t <= i; t++)
            sum -= static_cast<double>(batch.weights[t]) * static_cast<double>(losses[t]);
        gains[i] = static_cast<float>(beta * sum);
    }
}

// Of pairs beside a reference, as head_answers of eval_head.h.
template <Model M, class Progress>
HeadAnswers preference_answers(M& model, const PackedExamples& data, DataLoader& loader, double beta, bool relative,
                               int64_t windows, int B, Group& group, Progress progress) {
    const auto score = [&](const Batch& batch, std::vector<float>& out) {
        text_gains(model, batch, beta, relative, out);
    };
    return score_documents(score, data, loader, 2, 1, windows, B, group, progress);
}

constexpr int32_t kReferenceMagic = 20261127;

template <Model M, class Progress>
void add_reference(M& model, Run& run, int B, Group& group, Progress progress) {
    const std::string path = run.output + "/reference.f32";
    PackedExamples* sets[] = {run.train_examples.get(), run.val_examples.get()};
    std::array<int32_t, 4> header = {kReferenceMagic, 1, 0, 0};
    for (int i = 0; i < 2; i++)
        header[static_cast<size_t>(2 + i)] = sets[i] ? static_cast<int32_t>(sets[i]->examples()) : 0;
    std::vector<float> values;
    if (run.resume_from.empty()) {
        const bool without = !run.adapters.empty() && run.adapters[0].path.empty();  // a new adapter
        if (without) model.use_adapter(SIZE_MAX);
        for (int i = 0; i < 2; i++) {
            if (!sets[i]) continue;
            DataLoader loader(i == 0 ? run.train_examples : run.val_examples);
            const HeadAnswers answers =
                preference_answers(model, *sets[i], loader, 1, false, loader.samples_per_epoch(), B, group, progress);
            values.insert(values.end(), answers.scores.begin(), answers.scores.end());
        }
        if (without) model.use_adapter(0);
        if (group.rank() == 0) {
            std::string bytes(sizeof header + values.size() * sizeof(float), '\0');
            std::memcpy(bytes.data(), header.data(), sizeof header);
            std::memcpy(bytes.data() + sizeof header, values.data(), values.size() * sizeof(float));
            write_file(path, bytes);
        }
    } else {
        const std::string bytes = read_file(path);
        values.resize(2 * static_cast<size_t>(header[2] + header[3]));
        if (bytes.size() != sizeof header + values.size() * sizeof(float) ||
            std::memcmp(bytes.data(), header.data(), sizeof header) != 0)
            throw Error(path + ": is not the reference of these pairs; go on with the data that the run began with");
        std::memcpy(values.data(), bytes.data() + sizeof header, values.size() * sizeof(float));
    }
    auto at = values.begin();
    for (PackedExamples* set : sets)
        for (int64_t i = 0; set && i < set->examples(); i++, at += 2) set->set_label(i, at[0], at[1]);
}
