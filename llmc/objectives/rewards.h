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
#include "llmc/model/objectives.h"
#include "llmc/model/step_state.h"

enum RewardSum { kClipped = 1, kChange = 2, kValueLoss = 3 };

template <class M>
void learn_rewards(M& model, const RewardOptions& o, bool values) {
    model.follow([&model, o, values](const auto& tokens, int B, int T) {
        const int N = B * T;
        const auto to = model.token_numbers();
        policy_weights(to, model.lm_losses(tokens, N), tokens, o, N, model.stream());
        model.add_to_sum(0, to.losses, nullptr, N);
        model.add_to_sum(kClipped, to.clipped, nullptr, N);
        model.add_to_sum(kChange, to.changes, nullptr, N);
        model.lm_gradient(tokens, to.weights, N);
        if (!values) return;
        const auto& head = model.head_scores(N);
        value_loss(head.dscores, to.losses, head.scores, tokens, o, model.state(), N, model.head().Kp, model.stream());
        model.add_to_sum(0, to.losses, nullptr, N);
        model.add_to_sum(kValueLoss, to.losses, nullptr, N);
        model.head_gradient(N, true);
    });
}
