#include "llmc/run/host_memory.h"

#include <algorithm>
#include "llmc/base/human.h"
#include "llmc/base/parallel.h"
#include "llmc/cpu/workspaces.h"
#include "llmc/model/adapter.h"
#include "llmc/model/optimizer.h"
#include "llmc/model/parameters.h"

// Pages of code and tables of the program and its libraries that a first step touches.
static constexpr double kCodeBytes = 4 << 20;
// Of what is read or written a piece at a time: elements of a piece, and bytes of a file's buffer.
static constexpr int64_t kPieceElements = 1 << 20;
static constexpr double kFileBytes = 2 << 20;
static constexpr double kMpiBytes = 2 << 20;  // Open MPI's own, once messages travel

static std::vector<Parameter> trained_table(const ModelConfig& model, const StepOptions& o) {
    return o.adapters.empty() ? parameter_table(model) : adapter_table(model, o.adapters[0]);
}

double checkpoint_copy_bytes(const ModelConfig& model, const StepOptions& o, bool bf16) {
    double elements = 0;
    for (const Parameter& p : trained_table(model, o))
        elements += static_cast<double>(p.size()) *
                    (1 + (bf16 && o.master_weights) + keeps_m(o.optimizer) + keeps_v(o.optimizer, p.matrices));
    return 4 * elements;
}

HostMemory host_memory(const HostSetup& s, const MemoryPlan& plan) {
    const StepOptions& o = s.options;
    HostMemory h;
    h.program = s.program + kCodeBytes;
    int64_t largest = 0, trained = 0, transposed = 0;
    for (const Parameter& p : parameter_table(s.model)) largest = std::max(largest, p.size());
    for (const Parameter& p : trained_table(s.model, o)) {
        trained = std::max(trained, p.size());
        if (p.transposed_in_file && p.cols > 1) transposed = std::max(transposed, p.size());
    }
    const int64_t piece = std::min(trained, kPieceElements);
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
                kFileBytes;
    const double kept = s.on_cpu ? static_cast<double>(plan.parameters + plan.optimizer) + s.beside : 0;
    h.beginning = h.program + kept + 4.0 * static_cast<double>(std::max(largest, 2 * piece)) + kFileBytes;
    return h;
}

std::string HostMemory::text() const {
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
