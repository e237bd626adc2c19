// Objectives as weights: of the tokens' log-probabilities a weight for each is made, and the gradient of the objective is that
// of the weighted losses.
#pragma once
#include <algorithm>
#include <cmath>
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/head_config.h"
#include "llmc/model/objectives.h"
#include "llmc/model/step_state.h"

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

// ---- rewards: a policy learns from what it wrote ----------- (PPO: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, equation 7;
//                                                              GRPO: Shao et al. 2024, https://arxiv.org/abs/2402.03300, equations 3 and 4)
//
//   r = p / p_old                                                       p_old: by the policy as it was when it wrote the token
//   loss = -min(r A, clip(r, 1 - clip, 1 + clip) A) + kl (q/p - log(q/p) - 1)          q: the reference, A: the advantage
//   weight = [r A, unless it is clipped] - kl (1 - q/p)                 = -d loss / d log p
//
// times tokens.weights. q/p - log(q/p) - 1 estimates KL(p || q) without bias from what p has written, and is never negative
// (Schulman 2020, http://joschu.net/blog/kl-approx.html). losses, clipped (1 or 0) and changes, that estimate of KL(p_old || p),
// (N), join the step's sums. token_losses (N): -log p.
template <typename A>
void policy_weights(PolicyNumbers<A> to, const A* token_losses, const MicroBatch<A>& tokens, RewardOptions o, int N,
                    Plain) {
    for (int64_t n = 0; n < N; n++) {
        const A weight = tokens.weights[n];
        if (weight == 0) continue;
        const TokenSignals& s = tokens.signals[n];
        const A log_p = -token_losses[n], log_r = log_p - A(s.log_p), r = std::exp(log_r), gain = A(s.advantage);
        const A inside = std::min(std::max(r, 1 - A(o.clip)), 1 + A(o.clip));
        const bool clipped = inside * gain < r * gain;
        A loss = -std::min(r * gain, inside * gain), d = clipped ? A(0) : r * gain;
        if (o.kl > 0) {
            const A log_q = A(s.log_q) - log_p;
            loss += A(o.kl) * (std::exp(log_q) - log_q - 1), d -= A(o.kl) * (1 - std::exp(log_q));
        }
        to.weights[n] = d * weight, to.losses[n] = loss * weight;
        to.clipped[n] = clipped, to.changes[n] = r - 1 - log_r;
    }
}

// The value head, which learns what to expect: a squared error whose clipped form does not reward moving far from the value
// as it was (the code of Schulman et al. 2017; Ouyang et al. 2022 use it too).
//
//   loss = weight / 2 max((v - target)^2, (value + clip(v - value, -value_clip, value_clip) - target)^2)      v: scores (N,Kp)[n,0]
//
// times tokens.weights; dscores (N,Kp): its gradient, times the step's normaliser. losses (N).
template <typename X>
void value_loss(X* dscores, acc_t<X>* losses, const X* scores, const MicroBatch<acc_t<X>>& tokens, RewardOptions o,
                const StepState* state, int N, int Kp, Plain) {
    using A = acc_t<X>;
    for (int64_t n = 0; n < N; n++) {
        std::fill_n(dscores + n * Kp, Kp, X(0));
        const A weight = tokens.weights[n] * A(o.value_weight);
        losses[n] = 0;
        if (weight == 0) continue;
        const TokenSignals& s = tokens.signals[n];
        const A v = A(scores[n * Kp]), moved = v - A(s.value), limit = A(o.value_clip), target = A(s.target);
        const A inside = A(s.value) + std::min(std::max(moved, -limit), limit), error = v - target,
                held = inside - target;
        const bool clipped = held * held > error * error;
        losses[n] = weight / 2 * (clipped ? held * held : error * error);
        dscores[n * Kp] = X(clipped ? A(0) : weight * A(state->loss_normaliser) * error);
    }
}
