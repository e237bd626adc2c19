// In which order a model goes: captured work first, then the communicator, then the memory that took part in it.
//
// NCCL's communicator waits at its end for graphs that captured its operations, and may still let go of memory then
// (llmc/ranks/nccl.cuh). No CPU can show that, so the model runs here on a machine that writes down what goes when.
#include <gtest/gtest.h>
#include <algorithm>
#include <string>
#include <vector>
#include "llmc/cpu/machine.h"
#include "llmc/gpt2.h"

namespace {

std::vector<std::string> gone;

struct LoggingCpu : Cpu {
    struct Arena : Cpu::Arena {
        ~Arena() { gone.push_back("memory"); }
    };
    struct Communicator : Cpu::Communicator {
        using Cpu::Communicator::Communicator;
        ~Communicator() { gone.push_back("communicator"); }
    };
    struct Work : Cpu::Work {
        ~Work() { gone.push_back("work"); }
    };
};

TEST(Lifetimes, WorkThenCommunicatorThenMemory) {
    ModelConfig config;
    config.L = 1, config.NH = 1, config.C = 8, config.T = 4, config.V = 16;
    StepOptions options;
    options.B = 1, options.T = 4;
    Group group(Ranks{}, 1);
    {
        GPT2<float, LoggingCpu> model(config, options, std::make_unique<LoggingCpu::Communicator>(group));
        model.init_weights(1);
        Batch batch;
        batch.sequences = 1, batch.T = 4, batch.inputs = {1, 2, 3, 4}, batch.targets = {2, 3, 4, 5};
        StepState state;
        state.loss_normaliser = 0.25f;
        model.step(batch, &state);
        gone.clear();
    }
    ASSERT_EQ(std::count(gone.begin(), gone.end(), "communicator"), 1);
    EXPECT_EQ(std::count(gone.begin(), gone.end(), "work"), 2) << "a micro-step, the update";
    auto communicator = std::find(gone.begin(), gone.end(), "communicator");
    EXPECT_EQ(std::find(communicator, gone.end(), "work"), gone.end()) << "work that was captured goes before it";
    EXPECT_EQ(std::count(communicator, gone.end(), "memory"), 4) << "weights, gradients, optimizer, buffers of a step";
}

}  // namespace
