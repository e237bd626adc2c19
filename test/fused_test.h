// A fused update beside the one at the end of a step: the same test for the CPU and for CUDA.
#pragma once
#include "test/model_test.h"

inline constexpr ModelConfig kFusedConfig{3, 1, 4, 3, 31};
inline constexpr int kFusedRows = 3;

// Losses, norms, and then weights, masters and moments after three steps, of which a GPU captures the second.
template <typename X, class Machine>
std::vector<float> after_fused_steps(StepOptions o) {
    o.B = kFusedRows, o.T = kFusedConfig.T, o.dropout = 0.1f;
    auto model = random_model<X, Machine>(kFusedConfig, o);
    std::vector<float> all;
    for (int step = 0; step < 3; step++) {
        const Batch batch = random_batch(kFusedRows, kFusedConfig.T, kFusedConfig.V, 7 + static_cast<uint64_t>(step));
        StepState state = step_state(batch, step, 1e-2f);
        if (o.fuse_update == FuseUpdate::last_norm) state.last_norm = step > 0 ? all.back() : -1;
        model->step(batch, &state);
        all.push_back(state.loss), all.push_back(state.grad_norm);
    }
    append_state(o.adapters.empty() ? model->tensors() : model->adapter_tensors(0), o.optimizer, &all);
    return all;
}

// Two passes clip as ever; by the norm of the step before nothing else changes, so that where nothing is clipped both are as unfused.
template <typename X, class Machine>
void expect_fused_is_unfused(StepOptions o) {
    o.fuse_update = FuseUpdate::off, o.grad_clip = 0.05f;
    const Offload away = o.offload;
    o.offload = {};
    const std::vector<float> want = after_fused_steps<X, Machine>(o);
    EXPECT_GT(want[1], o.grad_clip);  // it clips
    o.offload = away, o.fuse_update = FuseUpdate::two_passes;
    EXPECT_TRUE((after_fused_steps<X, Machine>(o) == want));
    o.fuse_update = FuseUpdate::last_norm;
    EXPECT_FALSE((after_fused_steps<X, Machine>(o) == want));
    for (float clip : {0.0f, 1e6f}) {
        o.grad_clip = clip, o.fuse_update = FuseUpdate::off, o.offload = {};
        const std::vector<float> free = after_fused_steps<X, Machine>(o);
        o.fuse_update = FuseUpdate::last_norm, o.offload = away;
        EXPECT_TRUE((after_fused_steps<X, Machine>(o) == free)) << clip;
    }
}
