// What a process takes of the host's memory at its peak, part by part; of a training run on a CPU that is all it takes.
// Measured against the kernel's count (VmHWM) at many sizes: dev/bench/memory_table.sh.
#pragma once
#include <string>
#include "llmc/model/activations.h"
#include "llmc/model/config.h"
#include "llmc/model/step_state.h"

struct HostMemory {        // bytes
    double program = 0;    // the process before there is a model, data and vocabulary included, and its libraries' code
    double model = 0;      // arenas, those of models beside it and of sampling included
    double products = 0;   // working memory of the layers (cpu/workspaces.h)
    double offloaded = 0;  // of a model on a GPU (--offload)
    double messages = 0;   // copies of gradients on their way to other ranks, and the rest that MPI takes
    double batches = 0;    // the tokens of a step, and of the next one
    double checkpoint = 0;  // the copy that a checkpoint is written from (checkpoint_writer.h)
    double writing = 0;     // what passes through while a checkpoint is written
    double beginning = 0;   // the peak of the beginning, when weights are drawn or read, tensor by tensor
    double steps() const { return program + model + products + offloaded + messages + batches + checkpoint + writing; }
    double peak() const { return steps() > beginning ? steps() : beginning; }
    std::string text() const;  // "1.23 GB at the peak: program 17.05 MB, model ..."
};

// With memory of a model of these sizes (`beside`: of others), a step of `tokens` of this rank, checkpoints that are copied or
// not, in a process that now has `program` bytes. on_cpu: the model is there, too.
struct HostSetup {
    ModelConfig model;
    StepOptions options;
    bool bf16 = false, on_cpu = true, copy = false;
    int64_t tokens = 0;
    double beside = 0, program = 0;
};
HostMemory host_memory(const HostSetup& setup, const MemoryPlan& plan);
double checkpoint_copy_bytes(const ModelConfig& model, const StepOptions& options, bool bf16);
