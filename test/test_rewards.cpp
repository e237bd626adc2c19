// Learning from rewards: gradients against finite differences, formulas against PyTorch and against what they promise.
#include "llmc/objectives/rewards.h"
#include "llmc/objectives/advantages.h"
#include "test/model_test.h"

namespace {

ModelConfig tiny(bool values) {
    ModelConfig m = {2, 2, 8, 9, 11};
    if (values) m.head = {.outputs = 1, .value = true};
    return m;
}
StepOptions options(int B) {
    StepOptions o;
    o.B = B, o.T = 8, o.examples = o.signals = o.objective = true;
    return o;
}

// Three answers behind prompts of three tokens, written by a policy that was a little different: probabilities that have moved by
// up to a half, so that with clip 0.2 some are clipped on either side.
Batch answers(const ModelConfig& m, const StepOptions& o) {
    Batch batch = random_batch(3, 8, 11, 5);
    const size_t n = batch.inputs.size();
    batch.weights.assign(n, 0), batch.doc_start.assign(n, 0), batch.signals.resize(n);
    for (int row = 0; row < 3; row++)
        for (int t = 2; t < 8 - row; t++) batch.weights[row * 8 + t] = 1.0f / static_cast<float>(3 + row);
    auto model = random_model<double>(m, o);
    std::vector<float> losses(n), scores(n * 8);
    for (int row = 0; row < 3; row++) {
        Batch one;
        one.sequences = 1, one.T = 8;
        one.inputs.assign(&batch.inputs[row * 8], &batch.inputs[row * 8] + 8);
        one.targets.assign(&batch.targets[row * 8], &batch.targets[row * 8] + 8);
        model->forward_only(one, &losses[row * 8], m.head.outputs ? &scores[row * 64] : nullptr);
    }
    const Doubles noise = random_vector(4 * static_cast<int64_t>(n), 9, 1);
    for (size_t i = 0; i < n; i++) {
        TokenSignals& s = batch.signals[i];
        s.log_p = -losses[i] + 0.3f * static_cast<float>(std::tanh(noise[4 * i]));
        s.log_q = -losses[i] + 0.5f * static_cast<float>(noise[4 * i + 1]);
        s.advantage = static_cast<float>(noise[4 * i + 2]);
        s.value = scores[i * 8] + 0.3f * static_cast<float>(noise[4 * i + 3]), s.target = s.value + s.advantage;
    }
    return batch;
}

}  // namespace

TEST(RewardGradients, OfATinyModel) {
    for (bool values : {false, true})
        for (float kl : {0.0f, 0.3f}) {
            const ModelConfig m = tiny(values);
            const auto learn = [=](auto& model) {
                learn_rewards(model, {.clip = 0.2f, .kl = kl, .value_clip = 0.2f, .value_weight = 0.7f}, values);
            };
            check_model_gradients<Cpu>(m, options(2), answers(m, options(2)), 200, learn);
            if (values && kl > 0) check_model_gradients<PlainCpu>(m, options(2), answers(m, options(2)), 24, learn);
        }
}
TEST(RewardGradients, OfAnAdapterWithAValueHead) {
    StepOptions o = options(2);
    o.adapters = {AdapterConfig{.lora = {.rank = 2, .alpha = 6}, .head = {.outputs = 1, .value = true}}};
    check_model_gradients<Cpu>(tiny(false), o, answers(tiny(true), options(2)), 200,
                               [](auto& model) { learn_rewards(model, {.value_weight = 0.5f}, true); });
}

// With one step from the policy that wrote, PPO and GRPO are the policy gradient: the language model's gradient, each token
// weighed by its advantage.
TEST(Rewards, OneStepIsThePolicyGradient) {
    const ModelConfig m = tiny(false);
    Batch batch = answers(m, options(3));
    auto policy = random_model<double>(m, options(3)), weighted = random_model<double>(m, options(3));
    std::vector<float> losses(batch.inputs.size());
    policy->token_losses(losses.data(), batch);
    Batch plain = batch;
    for (size_t i = 0; i < losses.size(); i++) {
        batch.signals[i].log_p = -losses[i];
        plain.weights[i] *= batch.signals[i].advantage;
    }
    StepState state = step_state(batch, 0, 0.0f), same = state;
    learn_rewards(*policy, {}, false);
    policy->step(batch, &state);
    weighted->step(plain, &same);
    EXPECT_LT(relative_error(gradients_of(*policy), gradients_of(*weighted)), 1e-6);
    EXPECT_GT(std::sqrt(dot(gradients_of(*policy), gradients_of(*policy))), 1e-3);
    EXPECT_EQ(state.sums[kClipped], 0);
    EXPECT_NEAR(state.sums[kChange], 0, 1e-9);
}
