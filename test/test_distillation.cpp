// Distillation: the layer against PyTorch, differences and the plain loops; a student and a teacher as whole models.
#include <array>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/plain/distill_loss.h"
#include "llmc/objectives/distillation.h"
#include "test/layer_test.h"
#include "test/model_test.h"

namespace {

// One number, the loss of a step: sum of the losses times their weights and the normaliser.
struct Distillation {
    int N, V, Vp;
    float t, mix;

    NamedDoubles inputs() const { return {{"logits", random_vector(N * Vp, 1, 2)}}; }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {
        StepState state;
        state.loss_normaliser = 0.125f;
        std::vector<int> targets;
        std::vector<acc_t<X>> weights, losses = unwritten<acc_t<X>>(N);
        for (int n = 0; n < N; n++) targets.push_back(n % 4 == 3 ? -1 : n * 7 % V), weights.push_back(0.25f * (n % 5));
        auto logits = narrow<X>(in.at("logits"));
        const auto teacher = narrow<X>(widen(narrow<bf16>(random_vector(N * Vp, 2, 2))));
        distill_loss<X>(logits.data(), losses.data(), teacher.data(), targets.data(), weights.data(), &state, t, mix, N,
                        V, Vp, !d.empty(), on);
        if (!d.empty()) {
            Doubles gradient = widen(logits);
            for (double& g : gradient) g *= d.at("loss")[0];
            return {{"logits", gradient}};
        }
        EXPECT_EQ(widen(logits), widen(narrow<X>(in.at("logits")))) << "changed without a gradient to write";
        double loss = 0;
        for (int n = 0; n < N; n++)
            if (targets[n] >= 0) loss += losses[n] * weights[n] * 0.125;
        return {{"loss", {loss}}, {"kept losses", widen(losses)}};
    }
};

// test/fixtures/distillation.json: written by dev/make_distillation_fixture.py with torch 2.15.0
template <typename X, class On>
void check_fixture(On on, double tolerance) {
    const Json fixture = parse_json(read_file("test/fixtures/distillation.json"));
    ASSERT_EQ(fixture["cases"].size(), 4u);
    for (const Json& c : fixture["cases"]) {
        const auto values = [&](const char* name) { return c[name].get<Doubles>(); };
        const int V = c["V"], N = static_cast<int>(c["targets"].size());
        const std::vector<int> targets = c["targets"];
        std::vector<X> logits = narrow<X>(values("logits")), teacher = narrow<X>(values("teacher"));
        std::vector<acc_t<X>> weights = narrow<acc_t<X>>(values("weights")), losses = unwritten<acc_t<X>>(N);
        StepState state;
        state.loss_normaliser = c["normaliser"];
        for (bool write : {false, true}) {
            distill_loss<X>(logits.data(), losses.data(), teacher.data(), targets.data(), weights.data(), &state,
                            c["temperature"], c["mix"], N, V, V, write, on);
            EXPECT_LT(relative_error(widen(losses), values("losses")), tolerance);
        }
        EXPECT_LT(relative_error(widen(logits), values("gradient")), tolerance);
    }
}

}  // namespace

TEST(Distillation, LossAndGradientArePyTorchs) {
    check_fixture<double>(Plain{}, 1e-12);
    check_fixture<double>(CpuStream{}, 1e-12);
    check_fixture<float>(Plain{}, 2e-6);
    check_fixture<float>(CpuStream{}, 2e-6);
}

TEST(Distillation, AgreesWithPlain) {
    for (auto [t, mix] : {std::pair{1.0f, 0.0f}, {2.0f, 0.25f}, {0.5f, 1.0f}})
        for (auto [N, V, Vp] : {std::array{3, 2, 8}, {9, 31, 32}, {7, 64, 64}, {5, 2503, 2560}}) {
            SCOPED_TRACE(testing::Message() << "N " << N << ", V " << V << ", Vp " << Vp << ", t " << t);
            check_layer(Distillation{N, V, Vp, t, mix});
        }
}

// What agrees with its teacher has nothing to learn: no rounding is left that an optimizer would make much of.
template <typename X, class On>
void check_same(On on) {
    const int N = 3, V = 1999, Vp = 2048;
    const auto teacher = random_values<X>(N * Vp, 1, 5);
    auto logits = teacher;
    const std::vector<int> targets = {5, 6, 7};
    std::vector<acc_t<X>> losses(N);
    StepState state;
    state.loss_normaliser = 0.37f;
    distill_loss<X>(logits.data(), losses.data(), teacher.data(), targets.data(), nullptr, &state, 3, 0, N, V, Vp, true,
                    on);
    for (const auto loss : losses) EXPECT_NEAR(double(loss), 0, 1e-12);
    for (const X& d : logits) ASSERT_EQ(static_cast<float>(d), 0);
}
TEST(Distillation, NothingToLearnIsNoGradient) {
    check_same<float>(CpuStream{});
    check_same<bf16>(CpuStream{});
    check_same<double>(CpuStream{});
    check_same<double>(Plain{});
}

// Padding is not read, whatever it holds; a NaN that counts does not stay hidden.
TEST(Distillation, PaddingDoesNotCount) {
    const int N = 2, V = 37, Vp = 128;
    auto logits = unwritten<float>(N * Vp), teacher = unwritten<float>(N * Vp);
    for (int v = 0; v < V; v++)
        logits[v] = 3e4f * static_cast<float>(v == 5), teacher[v] = -3e4f * static_cast<float>(v != 5);
    const std::vector<int> targets = {5, -1};
    std::vector<float> losses(N);
    StepState state;
    auto again = logits;
    distill_loss<float>(logits.data(), losses.data(), teacher.data(), targets.data(), nullptr, &state, 2, 0.5f, N, V,
                        Vp, true, CpuStream{});
    EXPECT_EQ(losses[0], 0);
    EXPECT_EQ(losses[1], 0);
    for (float d : logits) ASSERT_NEAR(d, 0, 1e-30);
    teacher[3] = std::numeric_limits<float>::quiet_NaN();
    distill_loss<float>(again.data(), losses.data(), teacher.data(), targets.data(), nullptr, &state, 2, 0.5f, N, V, Vp,
                        false, CpuStream{});
    EXPECT_TRUE(std::isnan(losses[0]));
}

// ---- a student and a teacher of another size ----

namespace {

const ModelConfig kStudent = {2, 2, 8, 9, 11}, kTeacher = {3, 3, 12, 10, 11};

StepOptions options(int B, bool training = true) {
    StepOptions o;
    o.B = B, o.T = 8, o.training = training, o.examples = true;
    return o;
}
// Two documents a row, of which some tokens do not count.
Batch documents(int rows) {
    Batch batch = random_batch(rows, 8, 11, 5);
    for (int i = 0; i < rows * 8; i++)
        batch.doc_start.push_back(i % 8 < 3 ? 0 : 3), batch.weights.push_back(i % 8 == 3 ? 0.0f : 0.5f);
    return batch;
}
template <typename X, class Machine>
std::shared_ptr<GPT2<X, Machine>> teacher(const ModelConfig& config, StepOptions o) {
    std::shared_ptr<GPT2<X, Machine>> model = random_model<X, Machine>(config, o, 0.4);
    return model;
}

}  // namespace

TEST(DistillationGradients, OfATinyModel) {
    const auto learn = [](float t, float mix) {
        return [=]<class M>(M& model) {
            learn_from_teacher(model, teacher<double, typename M::Device>(kTeacher, options(2, false)), t, mix);
            model.activations().chunk = 6;
        };
    };
    check_model_gradients<Cpu>(kStudent, options(2), documents(3), 24, learn(2, 0.3f));
    check_model_gradients<PlainCpu>({1, 2, 8, 9, 11}, options(2), documents(1), 0, learn(1, 0));
    StepOptions o = options(2);
    o.adapters = {AdapterConfig{.lora = {.rank = 2, .alpha = 6}}};
    o.dropout = 0.1f, o.recompute = 3;
    check_model_gradients<Cpu>({1, 2, 8, 9, 11}, o, documents(2), 32, learn(3, 0.2f));
}

// The loss of a step by the formula, from the logits that each of the two gives alone.
TEST(Distillation, LossIsThatOfTheFormula) {
    const float t = 2, mix = 0.25f;
    for (bool adapted : {false, true}) {
        StepOptions o = options(2, false);
        if (adapted) o.adapters = {AdapterConfig{.lora = {.rank = 2, .alpha = 6}}};
        const Batch batch = documents(3);
        auto model = random_model<double>(kStudent, options(2));
        auto beside = teacher<double, Cpu>(kTeacher, o);
        double want = 0;
        for (int row = 0; row < 3; row++) {
            Batch one = batch;
            one.sequences = 1;
            const auto part = [&](auto& all) { all.assign(all.begin() + row * 8, all.begin() + row * 8 + 8); };
            part(one.inputs), part(one.targets), part(one.weights), part(one.doc_start);
            std::vector<float> losses(8);
            Doubles logits[2];
            int which = 0;
            for (auto* m : {model.get(), beside.get()}) {
                m->token_losses(losses.data(), one);  // leaves the logits: they are one chunk
                logits[which++] = widen(m->activations().logits, 8 * m->config().Vp());
            }
            Doubles of_tokens(8);
            StepState state;
            distill_loss<double>(logits[0].data(), of_tokens.data(), logits[1].data(), one.targets.data(), nullptr,
                                 &state, t, mix, 8, 11, kStudent.Vp(), false, Plain{});
            for (int i = 0; i < 8; i++) want += of_tokens[i] * one.weights[i];
        }
        learn_from_teacher(*model, beside, t, mix);
        model->activations().chunk = 5;  // rows at a time: the last micro-batch has 8
        StepState state = step_state(batch, 0, 0);
        model->step(batch, &state);
        EXPECT_NEAR(state.sums[0], want, 1e-9);
    }
}
