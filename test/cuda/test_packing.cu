// Steps of examples on a GPU: a packed row is the sum of its documents, and what the CPU makes of it.
#include "llmc/cuda/machine.cuh"
#include "test/cuda/device_test.h"
#include "test/packing_test.h"

namespace {

TEST(Packing, ARowIsTheSumOfItsDocuments) {
    check_packing<float, Gpu>(3e-6, 0);
    check_packing<float, Gpu>(3e-6, 3);
    check_packing<bf16, Gpu>(2e-2, 0);
    check_packing<float, Gpu>(3e-6, 0, 3);
    check_packing<bf16, Gpu>(2e-2, 0, 1);
}

TEST(Packing, LossesAndGradientsAreTheCpus) {
    StepOptions options;
    options.B = 1, options.T = 21, options.examples = true;
    const ModelConfig config{2, 3, 24, 21, 31};
    auto cpu = random_model<float, Cpu>(config, options);
    auto gpu = random_model<float, Gpu>(config, options);
    for (uint64_t seed : {4, 5, 6}) {
        const Batch rows = packed_documents(21, 31, seed).rows;
        const StepResult want = step_of(*cpu, rows, 0.1f), got = step_of(*gpu, rows, 0.1f);
        EXPECT_NEAR(got.loss / want.loss, 1, 1e-6);
        EXPECT_LT(largest_error(cpu->table(), got.gradients, want.gradients), 1e-4);
    }
}

}  // namespace
