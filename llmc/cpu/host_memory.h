// What a process takes of the host's memory at its peak, part by part; of a training run on a CPU that is all it takes.
// Measured against the kernel's count (VmHWM) at many sizes: dev/bench/memory_table.sh.
#pragma once
#include <algorithm>
#include <string>
#include <vector>
#include "llmc/base/human.h"
#include "llmc/base/parallel.h"
#include "llmc/cpu/workspaces.h"
#include "llmc/model/activations.h"
#include "llmc/model/adapter.h"
#include "llmc/model/config.h"
#include "llmc/model/optimizer.h"
#include "llmc/model/parameters.h"
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

// Pages of code and tables of the program and its libraries that a first step touches.
inline constexpr double kHostCodeBytes = 4 << 20;
// Of what is read or written a piece at a time: elements of a piece, and bytes of a file's buffer.
inline constexpr int64_t kFilePiece = 1 << 20;
inline constexpr double kFileBuffers = 2 << 20;
inline constexpr double kMpiBytes = 2 << 20;  // Open MPI's own, once messages travel

inline std::vector<Parameter> trained_table(const ModelConfig& model, const StepOptions& o) {
    return o.adapters.empty() ? parameter_table(model) : adapter_table(model, o.adapters[0]);
}

inline double checkpoint_copy_bytes(const ModelConfig& model, const StepOptions& o, bool bf16) {
    double elements = 0;
    for (const Parameter& p : trained_table(model, o))
        elements += static_cast<double>(p.size()) *
                    (1 + (bf16 && o.master_weights) + keeps_m(o.optimizer) + keeps_v(o.optimizer, p.matrices));
    return 4 * elements;
}

inline HostMemory host_memory(const HostSetup& s, const MemoryPlan& plan) {
    const StepOptions& o = s.options;
    HostMemory h;
    h.program = s.program + kHostCodeBytes;
    int64_t largest = 0, trained = 0, transposed = 0;
    for (const Parameter& p : parameter_table(s.model)) largest = std::max(largest, p.size());
    for (const Parameter& p : trained_table(s.model, o)) {
        trained = std::max(trained, p.size());
        if (p.transposed_in_file && p.cols > 1) transposed = std::max(transposed, p.size());
    }
    const int64_t piece = std::min(trained, kFilePiece);
    if (s.on_cpu) {
        h.model = static_cast<double>(plan.total()) + s.beside;
        h.products = static_cast<double>(
            cpu_products_bytes(s.model, o, s.bf16 ? 2 : 4, thread_count(), s.tokens % (int64_t(o.B) * o.T) ? 2 : 1));
    }
    h.offloaded = static_cast<double>(plan.host);
    if (s.on_cpu && o.world > 1) h.messages = static_cast<double>(plan.gradients) + kMpiBytes;
    // inputs and targets; of examples weights, beginnings, labels and partners, too: ints and floats
    h.batches = static_cast<double>(s.tokens) * 2 * 4 * (o.examples ? 6 : 2);
    h.checkpoint = s.copy ? checkpoint_copy_bytes(s.model, o, s.bf16) : 0;
    // a piece, and another where what the optimizer keeps is unpacked
    h.writing = 4.0 * static_cast<double>(std::max(piece, transposed) + (o.state_type == StateType::fp32 ? 0 : piece)) +
                kFileBuffers;
    const double kept = s.on_cpu ? static_cast<double>(plan.parameters + plan.optimizer) + s.beside : 0;
    h.beginning = h.program + kept + 4.0 * static_cast<double>(std::max(largest, 2 * piece)) + kFileBuffers;
    return h;
}

inline std::string HostMemory::text() const {
    std::string parts;
    const auto part = [&](const char* name, double bytes) {
        if (bytes > 0) parts += (parts.empty() ? "" : ", ") + std::string(name) + " " + human_bytes(bytes);
    };
    part("program", program), part("model", model), part("working memory", products), part("offloaded", offloaded),
        part("messages", messages), part("batches", batches);
    part("copy for checkpoints", checkpoint), part("files", writing);
    if (beginning > steps()) part("and more at the beginning", beginning - steps());
    return human_bytes(peak()) + " at the peak: " + parts;
}
