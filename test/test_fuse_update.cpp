// The update within the backward pass (FuseUpdate): the same bits as at the end of a step, and what it saves.
#include "test/fused_test.h"

namespace {

TEST(FuseUpdate, EveryOptimizerHasTheSameBits) {
    for (Optimizer optimizer :
         {Optimizer::adamw, Optimizer::muon, Optimizer::sgd, Optimizer::adagrad, Optimizer::adadelta}) {
        SCOPED_TRACE(static_cast<int>(optimizer));
        StepOptions o;
        o.optimizer = optimizer, o.recompute = static_cast<int>(optimizer) % 4;
        expect_fused_is_unfused<float, Cpu>(o);
    }
}

TEST(FuseUpdate, StateTypesAndMasters) {
    StepOptions o;
    expect_fused_is_unfused<bf16, Cpu>(o);
    o.state_type = StateType::int8, o.master_weights = false, o.stochastic_rounding = true;
    expect_fused_is_unfused<bf16, Cpu>(o);
    o.state_type = StateType::bf16;
    expect_fused_is_unfused<float, Cpu>(o);
}

TEST(FuseUpdate, AnAdapters) {
    StepOptions o;
    o.adapters = {AdapterConfig{.lora = {.rank = 3}, .prompts = {.tokens = 2}}};
    expect_fused_is_unfused<float, Cpu>(o);
}

// The scale is that of the norm of the step before, by hand: a step of SGD without momentum is that much of the gradient.
TEST(FuseUpdate, TheLastNormClips) {
    StepOptions o;
    o.B = kFusedRows, o.T = kFusedConfig.T, o.optimizer = Optimizer::sgd, o.momentum = 0, o.weight_decay = 0;
    o.grad_clip = 0.5f;
    const Batch batch = random_batch(kFusedRows, kFusedConfig.T, kFusedConfig.V, 7);
    const auto moved = [&](FuseUpdate how, float last_norm) {
        o.fuse_update = how;
        auto model = random_model<float, Cpu>(kFusedConfig, o);
        const Doubles before = weights_of(*model);
        StepState state = step_state(batch, 0, 1.0f);
        state.last_norm = last_norm;
        model->step(batch, &state);
        Doubles by = weights_of(*model);
        for (size_t i = 0; i < by.size(); i++) by[i] -= before[i];
        return by;
    };
    o.grad_clip = 0;
    Doubles whole = moved(FuseUpdate::off, -1);
    o.grad_clip = 0.5f;
    for (double& x : whole) x *= 0.5 / 8;
    EXPECT_LT(relative_error(moved(FuseUpdate::last_norm, 8), whole), 1e-3);
}

// A gradient that is not finite ends an update before it reaches the block that it is of; a loss that is not, before the first.
TEST(FuseUpdate, NothingNotFiniteIsWritten) {
    StepOptions o;
    o.B = kFusedRows, o.T = kFusedConfig.T, o.grad_clip = 0;
    const Batch batch = random_batch(kFusedRows, kFusedConfig.T, kFusedConfig.V, 7);
    for (FuseUpdate how : {FuseUpdate::last_norm, FuseUpdate::two_passes})
        for (bool loss : {false, true}) {
            SCOPED_TRACE(testing::Message() << static_cast<int>(how) << loss);
            o.fuse_update = how;
            auto model = random_model<float, Cpu>(kFusedConfig, o);
            const ModelTensors tensors = model->tensors();
            for (const Parameter& p : tensors.table) {
                // in the middle block the MLP's output is 0, but its gradient overflows
                for (int64_t i = 0; i < p.size() && !loss; i++) {
                    if (p.name.starts_with("transformer.h.1.mlp.c_fc")) set_weight(*model, p.offset + i, 0);
                    if (p.name == "transformer.h.1.mlp.c_proj.weight") set_weight(*model, p.offset + i, 3e38f);
                }
                if (loss && p.name == "transformer.h.0.ln_1.bias") set_weight(*model, p.offset, NAN);
            }
            const Doubles before = weights_of(*model);
            StepState state = step_state(batch, 0, 1e-2f);
            state.loss_normaliser = 1e4f;
            model->step(batch, &state);
            EXPECT_EQ(std::isfinite(state.loss), !loss);
            EXPECT_FALSE(std::isfinite(state.grad_norm));
            EXPECT_TRUE(state.skip);
            const Doubles after = weights_of(*model);
            const bool half = how == FuseUpdate::last_norm && !loss;
            for (const Parameter& p : tensors.table) {
                const auto at = static_cast<size_t>(p.offset), end = at + static_cast<size_t>(p.size());
                const bool same = std::equal(&after[at], &after[0] + end, &before[at], [](double a, double b) {
                    return a == b || (std::isnan(a) && std::isnan(b));
                });
                EXPECT_EQ(same, !(half && (p.layer == 2 || p.name.starts_with("transformer.ln_f")))) << p.name;
            }
        }
}

// One block's gradients and those of the embeddings and of the final layernorm are all there are.
TEST(FuseUpdate, GradientsOfOneBlockAtATime) {
    const ModelConfig config{12, 3, 36, 19, 67};
    StepOptions o;
    o.B = 1, o.T = config.T;
    const MemoryPlan whole = GPT2<float, Cpu>::memory_plan(config, o);
    o.fuse_update = FuseUpdate::two_passes;
    const MemoryPlan fused = GPT2<float, Cpu>::memory_plan(config, o);
    const Sharding shards(parameter_table(config), config.L, 0, 1);
    EXPECT_NEAR(static_cast<double>(whole.gradients - fused.gradients),
                static_cast<double>((config.L - 1) * shards.largest_block()) * sizeof(float), 1024);
    EXPECT_NEAR(static_cast<double>(whole.total() - whole.gradients),
                static_cast<double>(fused.total() - fused.gradients), 256);
}

}  // namespace
