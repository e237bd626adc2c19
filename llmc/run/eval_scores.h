// Log-likelihoods of answers, many at a time, and what a model writes by itself.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>
#include "llmc/ranks/group.h"
#include "llmc/run/model.h"
#include "llmc/text/tasks.h"

// scores[i] of rank owner(i), for all; in all ranks the same.
template <class Owner>
void share_scores(Group& group, std::vector<double>& scores, Owner owner) {
    if (group.world() == 1) return;
    const auto* bytes = reinterpret_cast<const char*>(scores.data());
    const std::vector<std::string> all = group.exchange(std::string(bytes, scores.size() * sizeof(double)));
    for (size_t i = 0; i < scores.size(); i++)
        std::memcpy(&scores[i], all[static_cast<size_t>(owner(i))].data() + i * sizeof(double), sizeof(double));
}

// score(i) for each i below n, dealt to the ranks in turn.
template <class Score, class Progress>
std::vector<double> scores_of(int64_t n, Group& group, Score score, Progress progress) {
    std::vector<double> scores(static_cast<size_t>(n));
    const auto owner = [&](size_t i) { return static_cast<int>(static_cast<int64_t>(i) % group.world()); };
    for (int64_t i = 0; i < n; i++) {
        if (owner(static_cast<size_t>(i)) != group.rank()) continue;
        scores[static_cast<size_t>(i)] = score(i);
        progress(i + 1, n);
    }
    share_scores(group, scores, owner);
    return scores;
}

// Cut on the left, behind trained prompts, to what a model of T tokens sees, and the one after it. Whether something was lost.
inline bool fit(Continuation& c, int T) {
    const size_t room = static_cast<size_t>(T) + 1;
    if (c.ids.size() <= room) return false;
    const auto text = std::find_if(c.ids.begin(), c.ids.end(), [](int id) { return id >= 0; });
    const size_t prompts = static_cast<size_t>(text - c.ids.begin()), cut = c.ids.size() - room;
    c.ids.erase(text, text + static_cast<std::ptrdiff_t>(cut));
    c.begin = std::max(std::max<size_t>(1, prompts), c.begin - std::min(cut, c.begin));
    return true;
}

// Sum of the log-probabilities of each answer's tokens. Rows of similar length go together, the longest first, so many as
// have room in B rows of T; the batches are the same whatever the number of ranks, which all call it and take them in turn.
// What is asked twice has one answer: rounding must not decide between equal choices.
template <class M, class Progress>
std::vector<double> log_likelihoods(M& model, const std::vector<Continuation>& all, int B, int T, Group& group,
                                    Progress progress) {
    std::map<std::pair<size_t, std::vector<int>>, size_t> seen;
    std::vector<size_t> order, same(all.size());
    for (size_t i = 0; i < all.size(); i++) {
        same[i] = seen.try_emplace({all[i].begin, all[i].ids}, i).first->second;
        if (same[i] == i) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return all[a].ids.size() > all[b].ids.size(); });
    std::vector<size_t> begins;
    for (size_t at = 0; at < order.size();) {
        begins.push_back(at);
        at += static_cast<size_t>(B) * static_cast<size_t>(T) / (all[order[at]].ids.size() - 1);
    }
    std::vector<double> sums(all.size());
    std::vector<int> owners(all.size());
    std::vector<float> losses(static_cast<size_t>(B) * static_cast<size_t>(T));
    const size_t world = static_cast<size_t>(group.world()), rank = static_cast<size_t>(group.rank());
    for (size_t turn = 0; turn < begins.size(); turn += world) {
        // A rank that has none left works on the first batch again, in vain: at ZeRO's stage 3 all must work together.
        const bool counts = turn + rank < begins.size();
        const size_t first = begins[counts ? turn + rank : 0];
        const auto after = std::upper_bound(begins.begin(), begins.end(), first);
        const size_t n = (after == begins.end() ? order.size() : *after) - first, L = all[order[first]].ids.size() - 1;
        Batch batch;
        batch.sequences = static_cast<int>(n), batch.T = static_cast<int>(L);
        batch.inputs.assign(n * L, 0), batch.targets.assign(n * L, -1);
        for (size_t b = 0; b < n; b++) {
            const Continuation& c = all[order[first + b]];
            std::copy(c.ids.begin(), c.ids.end() - 1, batch.inputs.begin() + static_cast<std::ptrdiff_t>(b * L));
            std::copy(c.ids.begin() + static_cast<std::ptrdiff_t>(c.begin), c.ids.end(),
                      batch.targets.begin() + static_cast<std::ptrdiff_t>(b * L + c.begin - 1));
        }
        model.token_losses(losses.data(), batch);
        for (size_t b = 0; counts && b < n; b++)
            for (size_t t = 0; t < L; t++) sums[order[first + b]] -= static_cast<double>(losses[b * L + t]);
        for (size_t i = 0; i < begins.size() - turn && i < world; i++) {
            const size_t from = begins[turn + i],
                         to = turn + i + 1 < begins.size() ? begins[turn + i + 1] : order.size();
            for (size_t k = from; k < to; k++) owners[order[k]] = static_cast<int>(i);
            progress(static_cast<int64_t>(to), std::ssize(order));
        }
    }
    share_scores(group, sums, [&](size_t i) { return owners[i]; });
    for (size_t i = 0; i < all.size(); i++) sums[i] = sums[same[i]];
    return sums;
}

// Whether the answer is what the model writes if it always takes the likeliest token.
template <class Decoder>
bool is_greedy(Decoder& decoder, const Continuation& c) {
    const float* logits = decoder.decode(c.ids.data(), static_cast<int>(c.begin), true);
    for (size_t i = c.begin; i < c.ids.size(); i++) {
        if (std::max_element(logits, logits + decoder.config().words()) - logits != c.ids[i]) return false;
        if (i + 1 < c.ids.size()) logits = decoder.decode(&c.ids[i], 1, false);
    }
    return true;
}

// How many tokens are likelier than the answer, which is one, and 1: of equal ones the first in the vocabulary is.
template <class Decoder>
int64_t rank_of_token(Decoder& decoder, const Continuation& c) {
    const float* logits = decoder.decode(c.ids.data(), static_cast<int>(c.ids.size()) - 1, true);
    const int id = c.ids.back();
    int64_t before = 0;
    for (int i = 0; i < decoder.config().words(); i++)
        before += logits[i] > logits[id] || (i < id && !(logits[i] < logits[id]));
    return before + 1;
}
