// Rewards: a policy learns from what it wrote               (PPO: Schulman et al. 2017, https://arxiv.org/abs/1707.06347;
//                                                           GRPO: Shao et al. 2024, https://arxiv.org/abs/2402.03300)
//
// The formulas of the losses: policy_weights and value_loss, llmc/plain/objectives.h; of what each token has been worth:
// advantages.h. A batch has signals (batch.h), StepOptions say `signals` and `objective`; with values (PPO) there is a head of
// one number, whose score of a token is what was expected where it was written.
//
// Sums of a step beside its losses, each over all tokens: kClipped, how many were clipped; kChange, KL(policy as it was ||
// policy); kValueLoss.
#pragma once
#include "llmc/lm_head.h"
#include "llmc/model/objectives.h"

enum RewardSum { kClipped = 1, kChange = 2, kValueLoss = 3 };

// A token's weight follows from its own loss: while its logits are there.
template <class M>
void learn_rewards(M& model, const RewardOptions& o, bool values) {
    using X = typename M::Storage;
    model.follow([&model, o, values](const auto& tokens, int B, int T) {
        const int N = B * T;
        const auto to = model.token_numbers();
        const auto losses = model.activations().losses;
        const LmHead<X> words = model.words();
        const auto learn = [&](X* logits, int64_t r, int n) {
            auto some = tokens;
            some.targets += r, some.weights += r, some.signals += r;
            const auto classify = [&](const auto* weights, bool gradient) {
                fused_classifier<X>(logits, losses + r, some.targets, weights, model.state(), n, words.V, words.Vp,
                                    gradient, model.stream());
            };
            classify(some.weights, false);
            policy_weights({to.weights + r, to.losses + r, to.clipped + r, to.changes + r}, losses + r, some, o, n,
                           model.stream());
            classify(to.weights + r, true);
        };
        lm_head_by_chunks<X>(model.final_gradient(), words, model.final_stream(), N,
                             model.trained().exchange.add_gradients(), model.stream(), learn);
        model.add_to_sum(0, to.losses, nullptr, N);
        model.add_to_sum(kClipped, to.clipped, nullptr, N);
        model.add_to_sum(kChange, to.changes, nullptr, N);
        if (!values) return;
        const auto& head = model.head_scores(N);
        value_loss(head.dscores, to.losses, head.scores, tokens, o, model.state(), N, model.head().Kp, model.stream());
        model.add_to_sum(0, to.losses, nullptr, N);
        model.add_to_sum(kValueLoss, to.losses, nullptr, N);
        model.head_gradient(N, true);
    });
}
