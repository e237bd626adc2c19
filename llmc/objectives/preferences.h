// Preferences without a reward model: DPO                  (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7)
//
//   loss = -log sigmoid(beta ((log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected))))
//
// p: the model; q: the reference, which it began as. The formula of the tokens' weights: preference_weights,
// llmc/plain/objectives.h. A batch has pairs (batch.h: labels are log q), StepOptions say `labels` and `objective`.
#pragma once

template <class M>
void learn_preferences(M& model, float beta) {
    model.follow([&model, beta](const auto& tokens, int B, int T) {
        const auto to = model.token_numbers();
        preference_weights(to.weights, to.losses, model.lm_losses(tokens, B * T), tokens, beta, B * T, T,
                           model.stream());
        model.add_to_sum(0, to.losses, nullptr, B * T);
        model.lm_gradient(tokens, to.weights, B * T);
    });
}
