// Preferences without a reward model: DPO                  (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7)
//
//   loss = -log sigmoid(beta ((log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected))))
//
// p: the model; q: the reference, which it began as. The formula of the tokens' weights: preference_weights,
// llmc/plain/objectives.h. A batch has pairs (batch.h: labels are log q), StepOptions say `labels` and `rule`.
#pragma once

template <class M>
void learn_preferences(M& model, float beta) {
    model.follow(
        [&model, beta](auto* weights, auto* losses, const auto* token_losses, const auto& tokens, int B, int T) {
            preference_weights(weights, losses, token_losses, tokens, beta, B * T, T, model.stream());
        });
}
