// Heads: their gradients against finite differences, packed texts against the same texts alone, what a head learns.
#include "test/packing_test.h"

namespace {

ModelConfig with_head(ModelConfig m, int outputs) {
    m.head.outputs = outputs;
    return m;
}
const ModelConfig kTiny = {2, 2, 8, 9, 11};

// Three rows of documents: labels of classes, or numbers; in the second row a pair in both orders.
Batch labelled_batch(int T, int V, int K, float lambda) {
    Batch batch = random_batch(3, T, V, 5);
    const size_t n = batch.inputs.size(), t = static_cast<size_t>(T);
    batch.weights.assign(n, lambda / 4), batch.doc_start.assign(n, 0), batch.labels.assign(n, kNoLabel);
    batch.partners.assign(n, -1);
    const auto document = [&](size_t row, size_t begin, size_t end, float label) {
        const size_t last = row * t + end - 1;
        std::fill_n(&batch.doc_start[row * t + begin], end - begin, static_cast<int>(begin));
        batch.targets[last] = -1;
        batch.labels[last] = K == 1 ? label - 0.7f : static_cast<float>(static_cast<int>(label) % K);
        return static_cast<int>(end) - 1;
    };
    document(0, 0, 3, 1), document(0, 3, t - 1, 0);
    std::fill_n(&batch.doc_start[t - 1], 1, T - 1);
    const int a = document(1, 0, 4, 2), b = document(1, 4, t, 2);
    batch.partners[t + static_cast<size_t>(a)] = b, batch.partners[t + static_cast<size_t>(b)] = a;
    document(2, 0, t, 2);
    return batch;
}
StepOptions labelled(int recompute = 0, bool language = true) {
    StepOptions o;
    o.B = 2, o.T = 8, o.examples = o.labels = true, o.recompute = recompute, o.language = language;
    return o;
}

}  // namespace

TEST(HeadGradients, OfATinyModel) {
    for (int K : {1, 3})
        for (bool language : {false, true}) {
            SCOPED_TRACE(strf("%d scores, language %d", K, language));
            check_model_gradients(with_head(kTiny, K), labelled(0, language), labelled_batch(8, 11, K, 0.5f), 24);
        }
    check_model_gradients<PlainCpu>(with_head(kTiny, 3), labelled(), labelled_batch(8, 11, 3, 0.5f), 24);
}

TEST(HeadGradients, WithRecomputationAndAnLmHeadOfItsOwn) {
    for (int recompute = 0; recompute <= 3; recompute++) {
        SCOPED_TRACE(strf("recompute %d", recompute));
        ModelConfig m = with_head({2, 2, 8, 9, 11}, 3);
        m.untied = recompute % 2;
        StepOptions o = labelled(recompute, recompute < 2);
        o.dropout = 0.1f;
        check_model_gradients(m, o, labelled_batch(8, 11, 3, 0.5f), 24);
    }
}

// Two pairs of which the first text was preferred, and their losses.
TEST(HeadGradients, OfPreferences) {
    Batch batch = labelled_batch(8, 11, 1, 0.5f);
    for (float& label : batch.labels) label = kNoLabel;
    std::fill(batch.partners.begin(), batch.partners.end(), -1);
    for (int row : {0, 1}) {
        const int a = row * 8 + (row == 0 ? 2 : 3), b = row * 8 + (row == 0 ? 6 : 7);
        batch.labels[a] = 1, batch.labels[b] = -1, batch.partners[a] = b % 8, batch.partners[b] = a % 8;
    }
    StepOptions o =
        labelled();  // with the tokens' loss: without, the final layernorm's bias, in all scores alike, has no part
    o.preferred = true;
    check_model_gradients(with_head(kTiny, 1), o, batch, 24);
    o.language = false, o.B = 3;
    auto model = random_model<double>(with_head(kTiny, 1), o);
    std::vector<float> s(batch.inputs.size() * 8);
    model->scores(s.data(), batch);
    const auto loss = [&](int a, int b) { return std::log(1 + std::exp(static_cast<double>(s[b * 8] - s[a * 8]))); };
    StepState state = step_state(batch, 0, 0);
    model->step(batch, &state);
    EXPECT_NEAR(state.sums[0], loss(2, 6) + loss(11, 15), 1e-6);
}

TEST(Head, PackedTextsAreAsAlone) {
    for (int scores : {1, 3}) check_packing<double, Cpu>(1e-9, scores - 1, scores);
}

// The loss is that of the formula, computed here from the scores that evaluation gives.
TEST(Head, LossIsThatOfTheScores) {
    for (int K : {1, 3}) {
        SCOPED_TRACE(K);
        const Batch batch = labelled_batch(8, 11, K, 0.5f);
        StepOptions o = labelled();
        o.B = 3;
        auto model = random_model<double>(with_head(kTiny, K), o);
        const size_t Kp = 8;
        std::vector<float> scores(batch.inputs.size() * Kp), losses(batch.inputs.size());
        model->scores(scores.data(), batch);
        const auto loss_of = [&](double s0, double s1, double s2, double label) {
            if (K == 1) return (s0 - label) * (s0 - label);
            const double s[] = {s0, s1, s2};
            return std::log(std::exp(s0) + std::exp(s1) + std::exp(s2)) - s[static_cast<int>(label)];
        };
        double want = 0;
        for (size_t last : {size_t(2), size_t(6), size_t(23)}) {
            const float* s = &scores[last * Kp];
            want += loss_of(s[0], s[1], s[2], batch.labels[last]);
        }
        const float *s = &scores[11 * Kp], *r = &scores[15 * Kp];
        want += loss_of(s[0] + r[0], s[1] + r[1], s[2] + r[2], batch.labels[11]);
        model->token_losses(losses.data(), batch);
        for (size_t i = 0; i < losses.size(); i++) want += static_cast<double>(losses[i] * batch.weights[i]);
        StepState state = step_state(batch, 0, 0);
        EXPECT_FLOAT_EQ(state.loss_normaliser, 0.25f);
        model->step(batch, &state);
        EXPECT_NEAR(state.sums[0], want, 1e-5);
    }
}

// Without the language model's loss nothing is left of it from the step before, in wte or in an LM head of its own.
TEST(Head, LanguageLossIsLeftOut) {
    for (bool untied : {false, true}) {
        ModelConfig m = with_head(kTiny, 2);
        m.untied = untied;
        StepOptions o = labelled(0, false);
        auto model = random_model<float>(m, o);
        std::fill_n(model->gradients(), model->arena_elements(), 7.0f);
        const Batch batch = labelled_batch(8, 11, 2, 0);
        StepState state = step_state(batch, 0, 0);
        model->step(batch, &state);
        const Doubles gradients = gradients_of(*model);
        const Parameter& head = untied ? model->table()[model->table().size() - 2] : model->table()[0];
        const auto row = [&](int word) {
            const auto at = gradients.begin() + head.offset + word * head.cols;
            return Doubles(at, at + head.cols);
        };
        for (int word = 0; word < m.V; word++) {
            const bool read = !untied && std::count(batch.inputs.begin(), batch.inputs.end(), word) > 0;
            EXPECT_TRUE(read || dot(row(word), row(word)) == 0) << word;
        }
        EXPECT_GT(dot(gradients, gradients), 0);
    }
}
