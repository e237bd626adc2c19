// What plan assumes about the CUDA program (llmc/run/plan.cpp): the sizes of workspaces, the peaks of data sheets.
#include <cstdio>
#include "llmc/cuda/device.cuh"
#include "llmc/model/activations.h"
#include "llmc/model/memory.h"
#include "llmc/run/gpus.h"
#include "llmc/run/options.h"
#include "llmc/run/plan.h"
#include "llmc/run/plan_machine.h"
#include "test/cuda/device_test.h"

namespace {

// The one workspace whose size is not known without a GPU.
TEST(CudaPlanFigures, SortingTakesWhatIsPlanned) {
    if (is_cudahost) GTEST_SKIP() << "sorting is CUB's, which needs a GPU";
    for (int N : {96, 1024, 4096, 65536, 1 << 20}) {
        size_t real = encoder_backward_workspace_bytes(N, sort_scratch_bytes(N));
        EXPECT_LE(real, encoder_backward_workspace_bytes(N, planned_sort_bytes(N)) + (1 << 20)) << N;
    }
}

template <typename X>
class CudaPlan : public testing::Test {};
TYPED_TEST_SUITE(CudaPlan, StorageTypes);

// At every stage of ZeRO, with any number of ranks; in the tests on the CPU, a gap follows each tensor.
TYPED_TEST(CudaPlan, MemoryIsThatOfTheArenas) {
    using X = TypeParam;
    PlanSetup s;
    s.model.L = 3, s.model.NH = 4, s.model.C = 132, s.model.V = 1000, s.T = 100, s.B = 3;
    s.bf16 = std::is_same_v<X, bf16>;
    auto near = [&](size_t planned, size_t real, int tensors) {
        EXPECT_LE(planned, real);
        EXPECT_LE(real, planned + static_cast<size_t>(tensors * ARENA_GAP));
    };
    for (s.gpus = 1; s.gpus <= 4; s.gpus++)
        for (s.zero_stage = 0; s.zero_stage <= 3; s.zero_stage++)
            for (s.recompute = 0; s.recompute <= 3; s.recompute++) {
                SCOPED_TRACE(strf("%d ranks, stage %d, recompute %d", s.gpus, s.zero_stage, s.recompute));
                StepOptions o;
                o.world = s.gpus, o.zero_stage = s.zero_stage;
                ModelMemory<X, DeviceArena> model([&](int world) { return parameter_table(s.model, world); }, s.model.L,
                                                  o, true, o.zero_stage);
                const int64_t N = int64_t(s.B) * s.T, chunk = kGpuLogits.chunk(N, s.model.Vp());
                Activations<X, DeviceArena> acts(s.model, N, chunk, true, s.recompute, {});
                MemoryPlan planned = plan_memory(s);
                near(planned.parameters, model.parameters.bytes(), 5);
                near(planned.gradients, model.gradients.bytes(), 6);
                near(planned.optimizer, model.optimizer.bytes(), 3);
                near(planned.activations, acts.arena.bytes(), 13 * (s.model.L + 1) + 3);
            }
}

TEST(CudaPlanFigures, DataSheetsAndRecordsAreThoseOfTheProgram) {
    EXPECT_EQ(sizeof(OptimizerSegment), 40u);
    CudaDevice before = device();
    const struct {
        const char *option, *name;  // the driver's
    } gpus[] = {{"a100", "NVIDIA A100-SXM4-80GB"}, {"h100", "NVIDIA H100 80GB HBM3"},
                {"h200", "NVIDIA H200"},           {"b200", "NVIDIA B200"},
                {"l40s", "NVIDIA L40S"},           {"rtx4090", "NVIDIA GeForce RTX 4090"}};
    EXPECT_EQ(gpu_names().size(), std::size(gpus) + 1);  // and the CPU
    for (auto& gpu : gpus) {
        snprintf(device().name, sizeof device().name, "%s", gpu.name);
        Options o;
        o.model = "d12", o.gpu = gpu.option;
        PlanSetup s = plan_setup(o);
        EXPECT_EQ(s.peak, device_peak_flops(true)) << gpu.name;
        device().capability = s.capability;
        PlanSetup own = s;
        s.B = own.B = 1, own.own_matmul = true;
        EXPECT_EQ(plan_memory(s).buffers - plan_memory(own).buffers, cublaslt_workspace_bytes()) << gpu.name;
    }
    device() = before;
}

}  // namespace
