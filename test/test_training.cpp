// Training: where two ways must lead to the same result they do, bf16 follows float, and what is no number ends nothing.
#include "llmc/run/first_non_finite.h"
#include "test/model_test.h"

template <typename X>
void check_recompute(float dropout) {
    Batch batch = random_batch(3, 19, 131, 4);
    Doubles gradients, weights;
    float loss = 0;
    for (int level = 0; level <= 3; level++) {
        SCOPED_TRACE(testing::Message() << "level " << level << ", dropout " << dropout);
        StepOptions options;
        options.B = 2, options.T = 19, options.dropout = dropout, options.recompute = level;
        auto model = random_model<X>({3, 3, 30, 19, 131}, options);
        float last = 0;
        for (int step = 0; step < 2; step++) {
            StepState state = step_state(batch, step, 1e-3f);
            model->step(batch, &state);
            last = state.loss;
        }
        if (level == 0) loss = last, gradients = gradients_of(*model), weights = weights_of(*model);
        EXPECT_EQ(last, loss);
        EXPECT_EQ(gradients_of(*model), gradients);
        EXPECT_EQ(weights_of(*model), weights);
    }
}

TEST(ModelRecompute, LevelsGiveTheSameBits) {
    for (float dropout : {0.0f, 0.2f}) {
        check_recompute<float>(dropout);
        check_recompute<bf16>(dropout);
        check_recompute<double>(dropout);
    }
}

template <typename X>
void check_accumulation(double tolerance, double loss_tolerance) {
    Batch batch = random_batch(6, 19, 131, 5);
    batch.targets[3] = batch.targets[40] = -1;
    Doubles whole;
    double loss = 0;
    for (int B : {6, 6, 3, 2, 1, 4, 5}) {  // 4 and 5: the last micro-batch is smaller
        SCOPED_TRACE(testing::Message() << "B " << B);
        StepOptions options;
        options.B = B, options.T = 19, options.dropout = 0.1f;
        auto model = random_model<X>({2, 3, 30, 19, 131}, options);
        StepState state = step_state(batch, 0, 1e-3f);
        model->step(batch, &state);
        Doubles gradients = gradients_of(*model);
        if (whole.empty()) {
            whole = gradients, loss = static_cast<double>(state.loss);
        } else if (B == 6) {
            EXPECT_EQ(gradients, whole);
            EXPECT_EQ(static_cast<double>(state.loss), loss);
        }
        EXPECT_LT(largest_error(model->table(), gradients, whole), tolerance);
        EXPECT_NEAR(static_cast<double>(state.loss) / loss, 1, loss_tolerance);
    }
}

TEST(ModelAccumulation, Float) { check_accumulation<float>(1e-5, 1e-6); }
TEST(ModelAccumulation, Double) { check_accumulation<double>(1e-11, 1e-7); }
TEST(ModelAccumulation, Bf16) { check_accumulation<bf16>(2e-3, 1e-4); }

TEST(ModelLmHead, ChunksOfRowsGiveTheSameGradients) {
    Batch batch = random_batch(2, 19, 131, 6);
    Doubles whole;
    for (int64_t chunk : {38, 37, 19, 7, 1}) {
        StepOptions options;
        options.B = 2, options.T = 19;
        auto model = random_model<double>({1, 3, 30, 19, 131}, options);
        ASSERT_GE(model->activations().chunk, 38);
        model->activations().chunk = chunk;
        StepState state = step_state(batch, 0, 0.0f);
        model->step(batch, &state);
        if (whole.empty()) whole = gradients_of(*model);
        EXPECT_LT(largest_error(model->table(), gradients_of(*model), whole), 1e-12) << chunk;
    }
}

// Losses of `steps` steps of a model on three batches in turn.
template <typename X>
std::vector<float> train(const ModelConfig& config, const StepOptions& options, int steps, Doubles* weights = nullptr) {
    auto model = std::make_unique<GPT2<X, Cpu>>(config, options);
    model->init_weights(11);
    std::vector<float> losses;
    for (int step = 0; step < steps; step++) {
        Batch batch = random_batch(6, config.T, config.V, 20 + static_cast<uint64_t>(step % 3));
        for (size_t i = 0; i < batch.targets.size(); i += 2)
            batch.targets[i] = (batch.inputs[i] * 7 + 3) % config.V;  // half can be learned
        StepState state = step_state(batch, step, 2e-3f);
        model->step(batch, &state);
        losses.push_back(state.loss);
    }
    Doubles trained = weights_of(*model);
    for (const Parameter& p : model->table())
        for (int64_t i = p.size(); i < p.padded_size(); i++) EXPECT_EQ(trained[p.offset + i], 0) << "padding";
    if (weights) *weights = trained;
    return losses;
}

TEST(ModelTraining, Bf16FollowsFloat) {
    ModelConfig config{3, 3, 48, 33, 131};
    StepOptions options;
    options.B = 3, options.T = 33, options.dropout = 0.1f;
    auto exact = train<float>(config, options, 50);
    EXPECT_LT(exact.back(), 0.75f * exact.front()) << "the task is learned, else there is little to compare";
    auto half = train<bf16>(config, options, 50);
    for (size_t i = 0; i < 50; i++) EXPECT_NEAR(half[i] / exact[i], 1, 0.01) << "step " << i;
    options.master_weights = false, options.stochastic_rounding = true;
    auto stochastic = train<bf16>(config, options, 50);
    for (size_t i = 0; i < 50; i++)
        EXPECT_NEAR(stochastic[i] / exact[i], 1, 0.03) << "without master weights, step " << i;
}

template <typename X>
void check_same_bits() {
    ModelConfig config{2, 3, 48, 65, 131};
    StepOptions options;
    options.B = 4, options.T = 65, options.dropout = 0.1f;
    Doubles weights[2];
    auto first = train<X>(config, options, 8, &weights[0]), second = train<X>(config, options, 8, &weights[1]);
    EXPECT_EQ(first, second);
    EXPECT_EQ(weights[0], weights[1]);
}

TEST(ModelTraining, SameSeedSameBits) {
    check_same_bits<float>();
    check_same_bits<bf16>();
}

TEST(ModelTraining, SkippedStepChangesNothing) {
    Batch batch = random_batch(2, 9, 31, 8);
    StepOptions options;
    options.B = 2, options.T = 9;
    auto model = random_model<float>({1, 2, 8, 9, 31}, options);
    Doubles before = weights_of(*model);
    for (int way = 0; way < 3; way++) {
        StepState state = step_state(batch, 0, 1e-2f);
        if (way == 0) state.skip_loss_above = 0.5f;
        if (way == 1) state.skip_norm_above = 1e-3f;
        if (way == 2) state.loss_normaliser = std::numeric_limits<float>::quiet_NaN();
        model->step(batch, &state);
        EXPECT_EQ(state.skip, 1) << way;
        EXPECT_EQ(weights_of(*model), before) << way;
    }
    StepState state = step_state(batch, 0, 1e-2f);
    model->step(batch, &state);
    EXPECT_EQ(state.skip, 0);
    EXPECT_NE(weights_of(*model), before);
}

TEST(ModelTraining, NamesTheFirstTensorThatIsNotFinite) {
    Batch batch = random_batch(2, 9, 31, 8);
    StepOptions options;
    options.B = 2, options.T = 9;
    auto model = random_model<float>({2, 2, 8, 9, 31}, options);
    StepState state = step_state(batch, 0, 1e-3f);
    model->step(batch, &state);
    EXPECT_EQ(first_non_finite(*model), "none any more");
    const Parameter& p = model->table()[2 + 12 + 8];
    set_weight(*model, p.offset + 5, NAN);
    state = step_state(batch, 1, 1e-3f);
    model->step(batch, &state);
    EXPECT_TRUE(std::isnan(state.loss));
    EXPECT_EQ(state.skip, 1);
    EXPECT_EQ(first_non_finite(*model), "weight " + p.name);
}
