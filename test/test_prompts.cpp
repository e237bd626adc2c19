// Trained prompts: their gradients against finite differences, their encoder against PyTorch, what stays frozen.
#include "test/model_test.h"

namespace {

const ModelConfig kTiny = {2, 2, 8, 9, 11};

StepOptions options_with(PromptConfig prompts, int B = 2, int T = 7) {
    StepOptions o;
    o.B = B, o.T = T, o.adapters = {AdapterConfig{.prompts = prompts}};
    return o;
}
// Prompts in front of the first sequence, within the second, one of them twice, and none in the others.
Batch batch_with_prompts(int sequences, int T, int V, int P) {
    Batch batch = random_batch(sequences, T, V, 1);
    for (int p = 0; p < P; p++) batch.inputs[p] = -1 - p;
    batch.inputs[T + 2] = batch.inputs[T + 4] = -P;
    for (int& target : batch.targets) target = target % 5 == 0 ? -1 : target;
    return batch;
}

}  // namespace

TEST(PromptGradients, EveryWeightOfATinyModel) {
    for (bool encoder : {false, true})
        for (float dropout : {0.0f, 0.3f})
            for (int recompute : {0, 3}) {
                SCOPED_TRACE(
                    strf("encoder %d, dropout %g, recompute %d", encoder, static_cast<double>(dropout), recompute));
                StepOptions o = options_with({3, encoder});
                o.dropout = dropout, o.recompute = recompute;
                check_model_gradients(kTiny, o, batch_with_prompts(3, 7, 11, 3), 10'000);  // micro-batches of 2 and 1
            }
    check_model_gradients<PlainCpu>(kTiny, options_with({2, true}), batch_with_prompts(3, 7, 11, 2), 10'000);
    check_model_gradients({2, 1, 5, 9, 11}, options_with({1, true}), batch_with_prompts(3, 7, 11, 1), 10'000);
}

// PyTorch 2.15: nn.LSTM(4, 2, num_layers=2, bidirectional=True), Linear(4, 4), ReLU, Linear(4, 4) on 3 rows, all weights
// sin(i) of their number in the arena; dev/interop/check_prompts.py prints these figures.
TEST(TrainedPrompts, EncoderIsPyTorchs) {
    const ModelConfig m = {1, 2, 4, 9, 11};
    GPT2<double, Cpu> model(m, options_with({3, true}));
    model.init_weights(1);
    int64_t i = 0;
    ModelTensors tensors = model.adapter_tensors(0);
    for (const Parameter& p : tensors.table) {
        if (!p.trainable) continue;
        std::vector<float> x(static_cast<size_t>(p.size()));
        for (float& v : x) v = static_cast<float>(std::sin(static_cast<double>(i++)));
        tensors.write(Buffer::weights, p.offset, p.size(), x.data());
    }
    model.encode_prompts();
    std::vector<float> got(12);
    tensors.read(Buffer::weights, 0, 12, got.data());
    const Doubles want = {-0.170067561, 0.366673726,  0.438607769,  -2.444220405, -0.250233879, 0.493180187,
                          0.353393799,  -2.459327728, -0.156678475, 0.388940727,  0.396109309,  -2.410929713};
    EXPECT_LT(relative_error(widen(got), want), 1e-6);
}

TEST(TrainedPrompts, BeginAsWordsAndAreTrainedAlone) {
    const ModelConfig m = {2, 2, 16, 9, 31};
    for (bool encoder : {false, true}) {
        SCOPED_TRACE(encoder);
        GPT2<float, Cpu> model(m, options_with({4, encoder}, 2, 9));
        model.init_weights(1);
        model.init_adapter(0, 2);
        const Batch batch = batch_with_prompts(2, 9, 31, 4);
        const Doubles base = weights_of(model);
        auto adapter = [&] { return widen(model.trained().memory.weights, model.trained().memory.size); };
        if (!encoder)
            for (int p = 0; p < 4; p++) {
                const Doubles all = adapter(), row(all.begin() + p * 16, all.begin() + p * 16 + 16);
                bool found = false;
                for (int v = 0; v < 31; v++)
                    found = found || Doubles(base.begin() + v * 16, base.begin() + v * 16 + 16) == row;
                EXPECT_TRUE(found) << p;
            }
        const Doubles before = adapter();
        float first = 0, last = 0;
        for (int step = 0; step < 40; step++) {
            StepState s = step_state(batch, step, 3e-2f);
            model.step(batch, &s);
            (step ? last : first) = s.loss;
        }
        EXPECT_LT(last, 0.99f * first);
        EXPECT_EQ(weights_of(model), base);
        EXPECT_NE(adapter(), before);
        // What files get is what the encoder makes of the last weights.
        std::vector<float> saved(64), computed(64);
        model.trained_tensors().read(Buffer::weights, 0, 64, saved.data());
        model.encode_prompts();
        model.adapter_tensors(0).read(Buffer::weights, 0, 64, computed.data());
        EXPECT_EQ(saved, computed);
        EXPECT_NE(Doubles(before.begin(), before.begin() + 64), widen(saved));
    }
}

// A text in pieces, prompts among them, gives the same logits as all of it at once; so do finished prompts without their encoder.
TEST(TrainedPrompts, InSamplingAndWithoutTheirEncoder) {
    const ModelConfig m = {2, 2, 16, 12, 31};
    auto model = random_model<float>(m, options_with({4, true}, 1, 12));
    const Batch batch = batch_with_prompts(2, 12, 31, 4);
    Batch one = batch;
    one.sequences = 1, one.inputs.resize(12), one.targets.resize(12);
    std::vector<float> losses(12), again(12);
    model->token_losses(losses.data(), one);
    StepOptions o = options_with({4, false}, 1, 12);
    o.training = false;
    auto finished = random_model<float>(m, o);
    std::vector<float> prompts(64);
    model->trained_tensors().read(Buffer::weights, 0, 64, prompts.data());
    finished->adapter_tensors(0).write(Buffer::weights, 0, 64, prompts.data());
    finished->token_losses(again.data(), one);
    EXPECT_EQ(losses, again);
    const auto logits = all_logits(*finished, batch.inputs.data(), 1, 12);
    for (auto* any : {model.get(), finished.get()}) {
        Decoder decoder(*any, 1, 12);
        decoder.decode(batch.inputs.data(), 7, true);
        const float* last = decoder.decode(batch.inputs.data() + 7, 5, false);
        EXPECT_LT(relative_error(widen(last, 31), widen(logits.data() + 11 * m.Vp(), 31)), 5e-6);
    }
}

TEST(TrainedPrompts, NothingButWeightsOfWhatIsFrozen) {
    const ModelConfig m = {2, 2, 64, 32, 500};
    const MemoryPlan plan = GPT2<bf16, Cpu>::memory_plan(m, options_with({8, false}, 1, 32));
    EXPECT_NEAR(static_cast<double>(plan.gradients), 4.0 * 8 * 64, 4096);
    EXPECT_NEAR(static_cast<double>(plan.optimizer), 12.0 * 8 * 64, 3 * 4096);
}
