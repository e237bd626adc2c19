// Sampling: one token from its logits.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>
#include "llmc/base/philox.h"

struct SamplerOptions {
    float temperature = 1;  // 0: always the most likely token
    int top_k = 0;          // only the k most likely; 0: all
    float top_p = 1;  // only the most likely that together have probability p: the nucleus  (Holtzman et al. 2020)
    float min_p = 0;  // only those with at least min_p times the probability of the likeliest  (Nguyen et al. 2024)
    float repetition_penalty =
        1;  // logits of tokens that are in the text: x > 0 ? x / penalty : x * penalty  (Keskar et al. 2019)
    uint64_t seed = 1337;
};

// The repetition penalty: of each id in `text`, once.
inline void penalise_repetition(float* logits, std::span<const int> text, float penalty) {
    std::vector<int> ids(text.begin(), text.end());
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    for (int id : ids)
        if (id >= 0) logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
}

// log softmax(logits (V))[id]
inline float log_probability(const float* logits, int V, int id) {
    const float top = *std::max_element(logits, logits + V);
    double sum = 0;
    for (int i = 0; i < V; i++) sum += std::exp(static_cast<double>(logits[i] - top));
    return static_cast<float>(static_cast<double>(logits[id] - top) - std::log(sum));
}

// One token id from logits (V). `random` is a uniform number in [0, 1). Temperature comes first, then the k likeliest,
// of those the nucleus, of that what min_p leaves.
inline int sample_token(const float* logits, int V, const SamplerOptions& o, float random) {
    if (o.temperature <= 0) return static_cast<int>(std::max_element(logits, logits + V) - logits);
    std::vector<int> ids(static_cast<size_t>(V));
    std::iota(ids.begin(), ids.end(), 0);
    auto likelier = [&](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
    if (o.top_k > 0 && o.top_k < V) {
        std::nth_element(ids.begin(), ids.begin() + o.top_k, ids.end(), likelier);
        ids.resize(static_cast<size_t>(o.top_k));
    }
    const float top = logits[*std::min_element(ids.begin(), ids.end(), likelier)];
    const auto weight = [&](int id) { return std::exp(static_cast<double>((logits[id] - top) / o.temperature)); };
    if (o.top_p < 1) {
        double sum = 0, kept = 0;
        for (int id : ids) sum += weight(id);
        size_t n = 0, sorted = 0;
        while (n < ids.size() && (n == 0 || kept < static_cast<double>(o.top_p) * sum)) {
            if (n == sorted) {  // a little more of it in order: a nucleus is small
                sorted = std::min(ids.size(), 8 * sorted + 32);
                std::partial_sort(ids.begin() + static_cast<std::ptrdiff_t>(n),
                                  ids.begin() + static_cast<std::ptrdiff_t>(sorted), ids.end(), likelier);
            }
            kept += weight(ids[n++]);
        }
        ids.resize(n);
    }
    if (o.min_p > 0) std::erase_if(ids, [&](int id) { return weight(id) < static_cast<double>(o.min_p); });
    std::vector<double> p;
    for (int id : ids) p.push_back(weight(id));
    double target = static_cast<double>(random) * std::accumulate(p.begin(), p.end(), 0.0), running = 0;
    for (size_t i = 0; i < p.size(); i++)
        if ((running += p[i]) > target) return ids[i];
    return ids.back();  // rounding: the last one
}
