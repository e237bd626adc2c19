// Steps of examples: weights of tokens, and several documents in a row.
#include "test/packing_test.h"

namespace {

constexpr int kT = 21, kV = 31;
const ModelConfig kModel{2, 3, 24, kT, kV};

StepOptions options_of(int B) {
    StepOptions options;
    options.B = B, options.T = kT, options.examples = true;
    return options;
}

// Weights, borders and dropout in two micro-batches; at level 3 the block runs twice.
TEST(Packing, GradientsAreThoseOfTheWeightedLoss) {
    for (int recompute : {0, 3}) {
        StepOptions options = options_of(1);
        options.recompute = recompute, options.dropout = 0.1f;
        check_model_gradients(kModel, options, packed_documents(kT, kV, 1).rows, 0);
    }
    StepOptions tiny;
    tiny.B = 2, tiny.T = 13, tiny.examples = true;
    check_model_gradients({1, 2, 8, 13, 7}, tiny, packed_documents(13, 7, 2).rows, 10'000);
}

TEST(Packing, ARowIsTheSumOfItsDocuments) {
    check_packing<double, PlainCpu>(1e-12, 0);
    check_packing<double, Cpu>(1e-12, 3);
    check_packing<float, PlainCpu>(3e-6, 0);
    check_packing<float, Cpu>(3e-6, 2);
    check_packing<bf16, Cpu>(2e-2, 0);
}

TEST(Packing, PlainAndFastLayersAgree) {
    const Batch rows = packed_documents(kT, kV, 4).rows;
    auto plain = random_model<float, PlainCpu>(kModel, options_of(2));
    auto fast = random_model<float, Cpu>(kModel, options_of(2));
    const StepResult want = step_of(*plain, rows, 0.1f), got = step_of(*fast, rows, 0.1f);
    EXPECT_NEAR(got.loss / want.loss, 1, 1e-6);
    EXPECT_LT(largest_error(plain->table(), got.gradients, want.gradients), 1e-4);
}

// What is no completion teaches nothing: neither loss nor gradient sees its target.
TEST(Packing, ATargetOfWeightZeroIsNotSeen) {
    Batch rows = packed_documents(kT, kV, 1).rows;
    auto model = random_model<float>(kModel, options_of(2));
    const StepResult before = step_of(*model, rows, 0.1f);
    int changed = 0;
    for (size_t i = 0; i < rows.targets.size(); i++)
        if (rows.targets[i] >= 0 && rows.weights[i] == 0) rows.targets[i] = (rows.targets[i] + 1) % kV, changed++;
    EXPECT_GT(changed, 3);
    const StepResult after = step_of(*model, rows, 0.1f);
    EXPECT_EQ(after.loss, before.loss);
    EXPECT_EQ(after.gradients, before.gradients);
}

TEST(Packing, TheMicroBatchChangesNothing) {
    const Batch rows = packed_documents(kT, kV, 2).rows;
    auto together = random_model<double>(kModel, options_of(2)), one = random_model<double>(kModel, options_of(1));
    const StepResult want = step_of(*together, rows, 0.1f), got = step_of(*one, rows, 0.1f);
    EXPECT_NEAR(got.loss / want.loss, 1, 1e-12);
    EXPECT_LT(largest_error(one->table(), got.gradients, want.gradients), 1e-10);
}

}  // namespace
