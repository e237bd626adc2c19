// Learning from rewards: gradients against finite differences, formulas against PyTorch and against what they promise.
#include "llmc/objectives/rewards.h"
#include "llmc/base/files.h"
#include "llmc/base/json.h"
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

// Text beside it (batch.h), in micro-batches of its own: the gradient is the sum of both.
TEST(RewardGradients, AddThoseOfTextBeside) {
    const ModelConfig m = tiny(true);
    Batch batch = answers(m, options(2)), text = random_batch(4, 6, 11, 21), both = batch;
    const size_t n = text.inputs.size();
    StepState state = step_state(batch, 0, 0.0f), alone = state, plain = state;
    text.targets[5] = -1;
    text.weights.assign(n, 0.75f / (23 * state.loss_normaliser)), text.doc_start.assign(n, 0);
    text.signals.resize(n);
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    append(both.inputs, text.inputs), append(both.targets, text.targets), append(both.weights, text.weights);
    append(both.doc_start, text.doc_start), append(both.signals, text.signals);
    both.sequences = 7, both.text = 4, both.text_T = 6;
    StepOptions without = options(2);
    without.signals = without.objective = false;
    auto model = random_model<double>(m, options(2)), policy = random_model<double>(m, options(2)),
         language = random_model<double>(m, without);
    for (auto* learner : {model.get(), policy.get()}) learn_rewards(*learner, {.value_weight = 0.5f}, true);
    model->step(both, &state), policy->step(batch, &alone), language->step(text, &plain);
    Doubles sum = gradients_of(*policy);
    const Doubles texts = gradients_of(*language);
    for (size_t i = 0; i < sum.size(); i++) sum[i] += texts[i];
    EXPECT_LT(largest_error(model->table(), gradients_of(*model), sum), 1e-12);
    EXPECT_GT(dot(texts, texts), 1e-4);
    EXPECT_EQ(state.loss, alone.loss);
    EXPECT_NEAR(state.sums[kTextSum] * 0.75 / 23, static_cast<double>(plain.loss), 1e-6);
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

// test/fixtures/rewards.json: written by dev/make_rewards_fixture.py with torch 2.15.0
namespace {
struct Fixture {
    Json j = parse_json(read_file("test/fixtures/rewards.json"));
    Doubles operator()(const char* key) const { return j.at(key).get<Doubles>(); }
    double number(const char* key) const { return j.at(key).get<double>(); }
};
void expect_near(const Doubles& got, const Doubles& want, double tolerance) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); i++) EXPECT_NEAR(got[i], want[i], tolerance) << i;
}
}  // namespace

TEST(Rewards, PolicyLossesArePyTorchs) {
    const Fixture f;
    const Doubles log_p = f("log_p"), old = f("old"), reference = f("reference"), advantage = f("advantage");
    const size_t n = log_p.size();
    Doubles token_losses(n), weights(n, 1);
    std::vector<TokenSignals> signals(n);
    for (size_t i = 0; i < n; i++) {
        token_losses[i] = -log_p[i];
        signals[i].log_p = static_cast<float>(old[i]), signals[i].log_q = static_cast<float>(reference[i]);
        signals[i].advantage = static_cast<float>(advantage[i]);
    }
    for (const bool grpo : {false, true}) {
        SCOPED_TRACE(grpo);
        Doubles numbers[4] = {Doubles(n), Doubles(n), Doubles(n), Doubles(n)};
        MicroBatch<double> tokens{};
        tokens.weights = weights.data(), tokens.signals = signals.data();
        RewardOptions o;
        o.clip = static_cast<float>(f.number("clip")), o.kl = grpo ? static_cast<float>(f.number("kl")) : 0;
        policy_weights<double>({numbers[0].data(), numbers[1].data(), numbers[2].data(), numbers[3].data()},
                               token_losses.data(), tokens, o, static_cast<int>(n), Plain{});
        Doubles gradient = numbers[0];
        for (double& x : gradient) x = -x;  // the weights are of -log p
        expect_near(numbers[1], f(grpo ? "grpo" : "ppo"), 2e-7);
        expect_near(gradient, f(grpo ? "dgrpo" : "dppo"), 2e-7);
        double clipped = 0;
        for (double x : numbers[2]) clipped += x;
        EXPECT_GT(clipped, 3);
        EXPECT_LT(clipped, static_cast<double>(n) / 2);
    }
}

TEST(Rewards, ValueLossIsPyTorchs) {
    const Fixture f;
    const Doubles v = f("v"), value = f("value"), target = f("target");
    const size_t n = v.size();
    constexpr int Kp = 8;
    Doubles scores(n * Kp, 5), dscores(n * Kp, 5), losses(n), weights(n, 1);
    std::vector<TokenSignals> signals(n);
    for (size_t i = 0; i < n; i++) {
        scores[i * Kp] = v[i];
        signals[i].value = static_cast<float>(value[i]), signals[i].target = static_cast<float>(target[i]);
    }
    MicroBatch<double> tokens{};
    tokens.weights = weights.data(), tokens.signals = signals.data();
    StepState state;
    state.loss_normaliser = 0.25f;
    RewardOptions o;
    o.value_clip = static_cast<float>(f.number("value_clip")),
    o.value_weight = static_cast<float>(f.number("value_weight"));
    value_loss<double>(dscores.data(), losses.data(), scores.data(), tokens, o, &state, static_cast<int>(n), Kp,
                       Plain{});
    expect_near(losses, f("value_loss"), 2e-7);
    Doubles gradient;
    for (size_t i = 0; i < n; i++) {
        gradient.push_back(4 * dscores[i * Kp]);
        for (int k = 1; k < Kp; k++) EXPECT_EQ(dscores[i * Kp + static_cast<size_t>(k)], 0);
    }
    expect_near(gradient, f("dv"), 5e-7);
}

TEST(Rewards, GeneralisedAdvantagesAreTheirDefinition) {
    const Fixture f;
    const Json& g = f.j.at("gae");
    std::vector<TokenSignals> answer(5);
    for (size_t t = 0; t < 5; t++) {
        answer[t].log_p = g["log_p"][t].get<float>(), answer[t].log_q = g["log_q"][t].get<float>();
        answer[t].value = g["value"][t].get<float>();
    }
    generalised_advantages(answer, g["reward"].get<double>(), g["kl"].get<double>(), g["lambda"].get<double>());
    std::vector<TokenSignals*> all;
    double mean = 0, squares = 0;
    for (size_t t = 0; t < 5; t++) {
        EXPECT_NEAR(answer[t].advantage, g["advantage"][t].get<double>(), 1e-6);
        EXPECT_NEAR(answer[t].target, answer[t].advantage + answer[t].value, 1e-6);
        all.push_back(&answer[t]);
    }
    whiten_advantages(all);
    for (const TokenSignals& s : answer) mean += s.advantage / 5.0, squares += s.advantage * s.advantage / 5.0;
    EXPECT_NEAR(mean, 0, 1e-6);
    EXPECT_NEAR(squares, 1, 1e-5);
}

// With what is paid for each token a reward beyond that changes no advantage's sign or size in a group: what counts is the
// difference to the others.
TEST(Rewards, AShiftOfAllRewardsChangesNoGroupAdvantage) {
    const std::vector<double> rewards = {1, 2, 4, 1, 0.5, 0.5, 0.5, 0.5};
    const std::vector<float> advantages = group_advantages(rewards, 4);
    EXPECT_NEAR(advantages[2], (4 - 2) / std::sqrt(1.5), 1e-3);
    EXPECT_NEAR(advantages[0] + advantages[1] + advantages[2] + advantages[3], 0, 1e-6);
    for (size_t i = 4; i < 8; i++) EXPECT_EQ(advantages[i], 0) << "equal rewards teach nothing";
    for (double shift : {-3.0, 0.1, 1000.0}) {
        std::vector<double> moved = rewards;
        for (double& r : moved) r += shift;
        const std::vector<float> same = group_advantages(moved, 4);
        for (size_t i = 0; i < 8; i++) EXPECT_NEAR(same[i], advantages[i], 1e-5) << shift;
    }
}

// The mean of q/p - log(q/p) - 1 over what p has written is KL(p || q): over all outcomes of a distribution, each as often as p
// has it, it is so exactly. Its gradient with what PPO's part brings for no advantage is that of the KL, too.
TEST(Rewards, TheKlEstimateIsUnbiased) {
    const Doubles p = {0.5, 0.2, 0.2, 0.07, 0.03}, q = {0.1, 0.4, 0.2, 0.25, 0.05};
    double want = 0;
    for (size_t i = 0; i < p.size(); i++) want += p[i] * std::log(p[i] / q[i]);
    const int n = static_cast<int>(p.size());
    Doubles token_losses, weights(p.size(), 1),
        numbers[4] = {Doubles(p.size()), Doubles(p.size()), Doubles(p.size()), Doubles(p.size())};
    std::vector<TokenSignals> signals(p.size());
    for (size_t i = 0; i < p.size(); i++) {
        token_losses.push_back(-std::log(p[i]));
        signals[i].log_p = static_cast<float>(std::log(p[i])), signals[i].log_q = static_cast<float>(std::log(q[i]));
    }
    MicroBatch<double> tokens{};
    tokens.weights = weights.data(), tokens.signals = signals.data();
    policy_weights<double>({numbers[0].data(), numbers[1].data(), numbers[2].data(), numbers[3].data()},
                           token_losses.data(), tokens, {.kl = 1}, n, Plain{});
    double got = 0;
    for (size_t i = 0; i < p.size(); i++) {
        got += p[i] * numbers[1][i];
        EXPECT_GE(numbers[1][i], 0);
    }
    EXPECT_NEAR(got, want, 1e-6);
}
