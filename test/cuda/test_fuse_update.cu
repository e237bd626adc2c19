// The update within the backward pass, captured with it: the same bits as at the end of a step, and beside what is offloaded.
#include "llmc/cuda/machine.cuh"
#include "test/cuda/device_test.h"
#include "test/fused_test.h"

namespace {

TEST(FuseUpdate, HasTheSameBits) {
    StepOptions o;
    o.optimizer = Optimizer::muon, o.state_type = StateType::int8;
    expect_fused_is_unfused<float, Gpu>(o);
}

TEST(FuseUpdate, BesideWhatIsOffloaded) {
    StepOptions o;
    o.recompute = 3;
    o.offload = {.optimizer = true, .masters = true, .activations = true, .weights = true};
    expect_fused_is_unfused<bf16, Gpu>(o);
}

}  // namespace
