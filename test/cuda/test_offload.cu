// What is offloaded changes no bit: every combination, with copies that land late and streams that run in any order.
#include "llmc/cuda/machine.cuh"
#include "test/cuda/device_test.h"
#include "test/model_test.h"

namespace {

constexpr ModelConfig kConfig{3, 1, 4, 3, 31};
constexpr int kBatch = 2, kSequences = 3;  // micro-batches of 2 and 1

Offload combination(int bits) {
    return {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0, (bits & 16) != 0};
}

// Losses, norms, weights, masters and moments after two steps, of which a GPU captures the second.
template <typename X>
std::vector<float> after_two_steps(StepOptions o, uint64_t schedule) {
#ifdef CUDAHOST
    cudahost::set_seed(schedule);
#endif
    o.B = kBatch, o.T = kConfig.T, o.recompute = 3, o.dropout = 0.1f;
    auto model = random_model<X, Gpu>(kConfig, o);
    std::vector<float> all;
    for (int step = 0; step < 2; step++) {
        const Batch batch = random_batch(kSequences, kConfig.T, kConfig.V, 7 + static_cast<uint64_t>(step));
        StepState state = step_state(batch, step, 1e-2f);
        if (step == 1 && o.optimizer != Optimizer::adamw)
            state.skip_loss_above = -1;  // what travelled comes back as it was
        model->step(batch, &state);
        all.push_back(state.loss), all.push_back(state.grad_norm);
        if (step > 0) continue;
        std::vector<float> losses(kBatch * kConfig.T);
        model->token_losses(losses.data(), random_batch(kBatch, kConfig.T, kConfig.V, 99));  // between steps
        all.insert(all.end(), losses.begin(), losses.end());
    }
    append_state(model->tensors(), o.optimizer, &all);
    return all;
}

template <typename X>
void expect_same_bits(const StepOptions& o, const std::vector<int>& combinations) {
    const std::vector<float> want = after_two_steps<X>(o, 0);
    EXPECT_NE(want[0], want[1]);
    for (int bits : combinations) {
        SCOPED_TRACE(testing::Message() << "combination " << bits);
        StepOptions away = o;
        away.offload = combination(bits);
        EXPECT_TRUE(after_two_steps<X>(away, static_cast<uint64_t>(bits)) == want);
    }
}

TEST(Offload, EveryCombinationHasTheSameBits) {
    std::vector<int> all;
#ifdef __SANITIZE_ADDRESS__  // slow, and they read and write the same places
    const int step = 5;
#else
    const int step = 1;
#endif
    for (int bits = 1; bits < 32; bits += step) all.push_back(bits);
    expect_same_bits<bf16>({}, all);
}

// Without masters; and what an optimizer keeps of some tensors alone (v of Muon's, no m of Adagrad's), at any type.
TEST(Offload, EveryOptimizerHasTheSameBits) {
    StepOptions o;
    expect_same_bits<float>(o, {1 | 4 | 8 | 16});
    o.state_type = StateType::int8, o.master_weights = false, o.stochastic_rounding = true;
    expect_same_bits<bf16>(o, {1 | 4 | 8 | 16});
    o.optimizer = Optimizer::adagrad, o.state_type = StateType::bf16;
    expect_same_bits<bf16>(o, {1 | 4});
    o.master_weights = true, o.optimizer = Optimizer::muon;
    expect_same_bits<bf16>(o, {1 | 2 | 8 | 16});
    o.optimizer = Optimizer::sgd;
    expect_same_bits<bf16>(o, {1 | 2 | 4 | 16});
}

// The words from 20 on alone are trained; then everything, with an optimizer that begins anew.
TEST(Offload, AnOptimizerIsClearedWhereItLies) {
    std::vector<float> results[2];
    for (int away = 0; away < 2; away++) {
        StepOptions o;
        o.B = kBatch, o.T = kConfig.T, o.offload = combination(away ? 3 : 0);
        auto model = random_model<bf16, Gpu>(kConfig, o);
        for (int step = 0; step < 4; step++) {
            if (step == 0) model->train_words_from(20);
            if (step == 2) model->train_words_from(0), model->clear_optimizer();
            const Batch batch = random_batch(kBatch, kConfig.T, kConfig.V, 3);
            StepState state = step_state(batch, step, 1e-2f);
            model->step(batch, &state);
            results[away].push_back(state.grad_norm);
        }
    }
    EXPECT_EQ(results[0], results[1]);
}

// A frozen model's weights come block by block under an adapter.
TEST(Offload, UnderAnAdapter) {
    std::vector<float> results[2];
    for (int away = 0; away < 2; away++) {
        StepOptions o;
        o.B = kBatch, o.T = kConfig.T, o.recompute = 3, o.adapters = {AdapterConfig{.lora = {.rank = 3}}};
        o.offload = combination(away ? 1 | 2 | 8 | 16 : 0);
        auto model = random_model<bf16, Gpu>(kConfig, o);
        for (int step = 0; step < 3; step++) {
            const Batch batch = random_batch(3, kConfig.T, kConfig.V, 3);
            StepState state = step_state(batch, step, 1e-2f);
            model->step(batch, &state);
            results[away].push_back(state.loss), results[away].push_back(state.grad_norm);
        }
    }
    EXPECT_EQ(results[0], results[1]);
}

// The device has no room for what is away: two blocks of so many, two pieces of the optimizer's state.
TEST(Offload, TheDeviceIsFreed) {
    StepOptions o;
    o.B = 1, o.T = kConfig.T, o.recompute = 3;
    const MemoryPlan here = GPT2<bf16, Gpu>::memory_plan({12, 3, 36, 19, 67}, o);
    o.offload = combination(31);
    const MemoryPlan away = GPT2<bf16, Gpu>::memory_plan({12, 3, 36, 19, 67}, o);
    EXPECT_EQ(here.host, 0u);
    EXPECT_EQ(away.optimizer, 0u);
    EXPECT_LT(away.parameters, here.parameters / 3);
    EXPECT_LT(away.gradients, here.gradients / 3);
    EXPECT_LT(away.activations, here.activations);
    EXPECT_GT(away.host, here.parameters + here.gradients + here.optimizer - 4096);
}

}  // namespace
