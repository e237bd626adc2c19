// Adapters: their gradients against finite differences, what stays frozen, several over one model.
#include "test/model_test.h"

namespace {

const ModelConfig kTiny = {2, 2, 8, 7, 11};

AdapterConfig lora(int rank, unsigned linears = 0b1111, float dropout = 0) {
    AdapterConfig c;
    c.lora.rank = rank, c.lora.alpha = 6, c.lora.linears = linears, c.lora.dropout = dropout;
    return c;
}
StepOptions options_with(std::vector<AdapterConfig> adapters, int B = 2, int T = 5) {
    StepOptions o;
    o.B = B, o.T = T, o.adapters = std::move(adapters);
    return o;
}
template <typename X, class Machine>
Doubles adapter_weights(GPT2<X, Machine>& model) {
    return widen(model.trained().memory.weights, model.trained().memory.size);
}

}  // namespace

TEST(LoraGradients, EveryWeightOfATinyModel) {
    for (unsigned linears : {0b1111u, 0b0001u, 0b0010u, 0b0100u, 0b1000u})
        for (float dropout : {0.0f, 0.3f}) {
            SCOPED_TRACE(strf("layers %u, dropout %g", linears, static_cast<double>(dropout)));
            StepOptions o = options_with({lora(3, linears, dropout)});
            o.dropout = dropout / 2;
            check_model_gradients(kTiny, o, random_batch(3, 5, 11, 1), 10'000);  // micro-batches of 2 and 1
        }
    check_model_gradients<PlainCpu>(kTiny, options_with({lora(2, 0b1111, 0.3f)}), random_batch(3, 5, 11, 1), 10'000);
}

TEST(LoraGradients, WithRecomputationGeluAndSomeBlocks) {
    for (int recompute = 0; recompute <= 3; recompute++) {
        SCOPED_TRACE(strf("recompute %d", recompute));
        ModelConfig m = {3, 3, 30, 17, 61};
        m.activation = recompute % 2 ? Activation::gelu_tanh : Activation::gelu;
        AdapterConfig c = lora(5, 0b1101, 0.2f);
        c.lora.alpha = 2, c.lora.layers = {0, 2}, c.lora.rank_stabilised = true;
        StepOptions o = options_with({c}, 2, 17);
        o.recompute = recompute;
        check_model_gradients(m, o, random_batch(2, 17, 61, 2), 0);
    }
}

// What the formula says: with y = x (W + s B A)^T the model is the one whose weights are W + s B A.
TEST(Lora, IsTheModelWithTheProductAddedToItsWeights) {
    const ModelConfig m = {2, 3, 24, 19, 61};
    const AdapterConfig c = lora(4);
    auto model = random_model<double>(m, options_with({c}, 2, 19));
    const Batch batch = random_batch(2, 19, 61, 5);
    const auto with = all_logits(*model, batch.inputs.data(), 2, 19);
    model->use_adapter(GPT2<double, Cpu>::kNoAdapter);
    const auto without = all_logits(*model, batch.inputs.data(), 2, 19);
    std::map<std::string, const Parameter*> rows;
    for (const Parameter& p : model->table()) rows[p.name] = &p;
    const auto& adapter = model->trained().memory;
    for (size_t i = 0; i < adapter.table.size(); i += 2) {
        const Parameter &a = adapter.table[i], &b = adapter.table[i + 1];
        double* w = model->weights() + rows.at(a.name.substr(0, a.name.find(".lora_A")) + ".weight")->offset;
        for (int64_t o = 0; o < b.rows; o++)
            for (int64_t k = 0; k < a.cols; k++)
                for (int64_t r = 0; r < c.lora.rank; r++)
                    w[o * a.cols + k] += 6.0 / 4 * adapter.weights[b.offset + o * c.lora.rank + r] *
                                         adapter.weights[a.offset + r * a.cols + k];
    }
    const auto merged = all_logits(*model, batch.inputs.data(), 2, 19);
    EXPECT_LT(relative_error(widen(merged), widen(with)), 1e-6);
    EXPECT_GT(relative_error(widen(merged), widen(without)), 0.1);
}

TEST(Lora, BeginsAsTheModelAndTrainsItselfAlone) {
    const ModelConfig m = {2, 2, 16, 9, 31};
    auto model = std::make_unique<GPT2<float, Cpu>>(m, options_with({lora(4)}, 2, 9));
    model->init_weights(1);
    model->init_adapter(0, 2);
    const Batch batch = random_batch(2, 9, 31, 3);
    const auto with = all_logits(*model, batch.inputs.data(), 2, 9);
    model->use_adapter(GPT2<float, Cpu>::kNoAdapter);
    EXPECT_EQ(all_logits(*model, batch.inputs.data(), 2, 9), with);
    model->use_adapter(0);
    const Doubles base = weights_of(*model), before = adapter_weights(*model);
    float first = 0, last = 0;
    for (int step = 0; step < 40; step++) {
        StepState s = step_state(batch, step, 1e-2f);
        model->step(batch, &s);
        (step ? last : first) = s.loss;
    }
    EXPECT_LT(last, 0.95f * first);
    EXPECT_EQ(weights_of(*model), base);
    EXPECT_NE(adapter_weights(*model), before);
}

TEST(Lora, SeveralOverOneModel) {
    const ModelConfig m = {2, 2, 16, 9, 31};
    StepOptions o = options_with({lora(4), lora(2, 0b1010)}, 2, 9);
    o.training = false;
    auto model = random_model<float>(m, o);
    const Batch batch = random_batch(2, 9, 31, 3);
    auto logits = [&](size_t which) {
        model->use_adapter(which);
        return all_logits(*model, batch.inputs.data(), 2, 9);
    };
    const auto none = logits(GPT2<float, Cpu>::kNoAdapter), one = logits(0), two = logits(1);
    EXPECT_GT(relative_error(widen(one), widen(none)), 0.01);
    EXPECT_GT(relative_error(widen(two), widen(one)), 0.01);
    EXPECT_EQ(logits(0), one);
    // The cache of a text belongs to the adapter that computed it; each gives its own last logits.
    Decoder decoder(*model, 1, 9);
    for (size_t which : {size_t(0), size_t(1)}) {
        model->use_adapter(which);
        const float* last = decoder.decode(batch.inputs.data(), 9, true);
        const auto& want = which ? two : one;
        EXPECT_LT(relative_error(widen(last, 31), widen(want.data() + 8 * m.Vp(), 31)), 1e-5) << which;
    }
}

TEST(Lora, NothingButWeightsOfWhatIsFrozen) {
    const ModelConfig m = {2, 2, 64, 32, 500};
    StepOptions o;
    o.B = 1, o.T = 32;
    const MemoryPlan full = GPT2<bf16, Cpu>::memory_plan(m, o);
    o.adapters = {lora(4)};
    const MemoryPlan adapted = GPT2<bf16, Cpu>::memory_plan(m, o);
    size_t rows = 0;
    for (const Parameter& p : adapter_table(m, o.adapters[0])) rows += static_cast<size_t>(p.size());
    EXPECT_NEAR(static_cast<double>(adapted.gradients), 4.0 * static_cast<double>(rows), 4096);
    EXPECT_NEAR(static_cast<double>(adapted.optimizer), 12.0 * static_cast<double>(rows), 3 * 4096);
    EXPECT_NEAR(static_cast<double>(adapted.parameters - full.parameters), 2.0 * static_cast<double>(rows), 4096);
}
