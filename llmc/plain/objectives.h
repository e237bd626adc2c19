// Objectives as weights: a rule makes of the tokens' log-probabilities a weight for each, and the gradient of the objective is
// that of the weighted losses.
#pragma once
#include <algorithm>
#include <cmath>
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/head_config.h"

// ---- preferences without a reward model: DPO -------------------------------------------- (Rafailov et al. 2023, equation 7)
//
//   margin = beta ((log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected)))          q: the reference
//   loss = -log sigmoid(margin),   weight of a token = +-beta sigmoid(-margin): + in what was chosen, - in what was not
//
// A text's log p is the sum over its tokens that count (tokens.weights), of which token_losses (N) has -log p. Both texts stand
// in one row, the chosen one first: at the last token of each, labels has log q and partners the other's last token. weights and
// losses (N), which come as zeros: the weights, and of each text half the pair's loss at its last token.
template <typename A>
void preference_weights(A* weights, A* losses, const A* token_losses, const MicroBatch<A>& tokens, float beta, int N,
                        int T, Plain) {
    const auto first = [&](int64_t last) { return last - last % T + tokens.doc_start[last]; };
    const auto gain = [&](int64_t last) {
        A sum = -A(tokens.labels[last]);
        for (int64_t t = first(last); t <= last; t++) sum -= tokens.weights[t] * token_losses[t];
        return sum;
    };
    for (int64_t n = 0; n < N; n++) {
        if (!has_label(tokens.labels[n])) continue;
        const int64_t other = tokens.partners[n];
        const A sign = n < other ? A(1) : A(-1), margin = sign * A(beta) * (gain(n) - gain(other));
        losses[n] = (std::max(-margin, A(0)) + std::log1p(std::exp(-std::abs(margin)))) / 2;
        for (int64_t t = first(n); t <= n; t++)
            weights[t] = sign * A(beta) / (1 + std::exp(margin)) * tokens.weights[t];
    }
}
