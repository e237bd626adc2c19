// Objectives as weights of tokens: gradients against finite differences, losses against the formula.
#include "llmc/objectives/preferences.h"
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "test/model_test.h"

namespace {

const ModelConfig kTiny = {2, 2, 8, 9, 11};

// Three pairs in rows of 8: prompts do not count, nor what is left over at the end of a row.
Batch pairs() {
    Batch batch = random_batch(3, 8, 11, 5);
    const size_t n = batch.inputs.size();
    batch.weights.assign(n, 1), batch.doc_start.assign(n, 0);
    batch.labels.assign(n, kNoLabel), batch.partners.assign(n, -1);
    const int second[] = {3, 4, 5}, end[] = {7, 8, 8};
    for (int row = 0; row < 3; row++) {
        const int at = row * 8, a = second[row] - 1, b = end[row] - 1;
        for (int t = 0; t < 8; t++)
            batch.doc_start[at + t] = t < second[row] ? 0 : t < end[row] ? second[row] : end[row];
        batch.weights[at] = batch.weights[at + second[row]] = 0;
        for (int last : {a, b}) batch.targets[at + last] = -1, batch.weights[at + last] = 0;
        for (int t = end[row]; t < 8; t++) batch.targets[at + t] = -1, batch.weights[at + t] = 0;
        batch.labels[at + a] = -4.5f - 0.3f * static_cast<float>(row), batch.labels[at + b] = -5.0f;
        batch.partners[at + a] = b, batch.partners[at + b] = a;
    }
    return batch;
}
StepOptions options(int B) {
    StepOptions o;
    o.B = B, o.T = 8, o.examples = o.labels = o.objective = true;
    return o;
}

}  // namespace

TEST(PreferenceGradients, OfATinyModel) {
    for (float beta : {0.3f, 2.0f}) {
        const auto prefer = [=](auto& model) { learn_preferences(model, beta); };
        check_model_gradients<Cpu>(kTiny, options(2), pairs(), 200, prefer);
        check_model_gradients<PlainCpu>(kTiny, options(2), pairs(), 24, prefer);
    }
    StepOptions o = options(2);
    o.adapters = {AdapterConfig{.lora = {.rank = 2, .alpha = 6}}};
    o.dropout = 0.1f;
    check_model_gradients<Cpu>(kTiny, o, pairs(), 200, [](auto& model) { learn_preferences(model, 0.7f); });
}

// -log sigmoid(beta (gain of what was chosen - gain of what was rejected)), by the losses that evaluation gives.
TEST(Preferences, LossIsThatOfTheFormula) {
    const Batch batch = pairs();
    auto model = random_model<double>(kTiny, options(3));
    learn_preferences(*model, 0.4f);
    std::vector<float> losses(batch.inputs.size());
    model->token_losses(losses.data(), batch);
    double want = 0;
    for (int row = 0; row < 3; row++) {
        double gains[2];
        for (int k = 0; k < 2; k++) {
            const int second[] = {3, 4, 5}, end[] = {7, 8, 8};
            const int from = k == 0 ? 0 : second[row], to = k == 0 ? second[row] : end[row];
            gains[k] = -static_cast<double>(batch.labels[row * 8 + to - 1]);
            for (int t = from; t < to; t++)
                gains[k] -= static_cast<double>(losses[row * 8 + t] * batch.weights[row * 8 + t]);
        }
        want += std::log1p(std::exp(-0.4 * (gains[0] - gains[1])));
    }
    StepState state = step_state(batch, 0, 0);
    model->step(batch, &state);
    EXPECT_NEAR(state.sums[0], want, 1e-5);
}

// test/fixtures/rewards.json: written by dev/make_rewards_fixture.py with torch 2.15.0
TEST(Preferences, WeightsArePyTorchs) {
    const Json f = parse_json(read_file("test/fixtures/rewards.json"))["dpo"];
    int doc_start[] = {0, 0, 0, 0, 4, 4, 4, 4, 4}, partners[] = {-1, -1, -1, 8, -1, -1, -1, -1, 3};
    double mask[] = {1, 1, 1, 0, 1, 1, 1, 1, 0}, token_losses[9] = {}, weights[9] = {}, losses[9] = {};
    float labels[9];
    std::fill_n(labels, 9, kNoLabel);
    labels[3] = f["q_chosen"].get<float>(), labels[8] = f["q_rejected"].get<float>();
    for (size_t t = 0; t < 3; t++) token_losses[t] = -f["chosen"][t].get<double>();
    for (size_t t = 0; t < 4; t++) token_losses[4 + t] = -f["rejected"][t].get<double>();
    preference_weights<double>(weights, losses, token_losses,
                               {nullptr, nullptr, mask, doc_start, nullptr, labels, partners}, f["beta"].get<float>(),
                               9, 9, Plain{});
    EXPECT_NEAR(losses[3] + losses[8], f["loss"].get<double>(), 1e-7);
    for (size_t t = 0; t < 3; t++) EXPECT_NEAR(weights[t], -f["dchosen"][t].get<double>(), 1e-7);
    for (size_t t = 0; t < 4; t++) EXPECT_NEAR(weights[4 + t], -f["drejected"][t].get<double>(), 1e-7);
    EXPECT_EQ(weights[3] + weights[8], 0);
}
