// plan: what a training run on given GPUs needs of each of them, how long a step of it takes, and what that costs.
// Needs none of the GPUs.
//
// Both come from the model itself (gpt2.h), run on a machine that counts instead of computing (plan_machine.h). A GPU's memory
// is exact but for the step's tokens (16 bytes for each token of a rank), the cache of sampling, and what CUDA and NCCL take
// for themselves; a CPU's is that of the process (host_memory.h). Time is a prediction: each kernel takes what roofline.h says at the given rates; collectives run beside
// the arithmetic and slow it by nothing, at the slower of two bandwidths: of a GPU within its machine, of a machine to the
// others. No time is counted for latency, launches, data, evaluation, checkpoints.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>
#include "llmc/model/activations.h"
#include "llmc/model/config.h"
#include "llmc/model/adapter_config.h"
#include "llmc/cpu/host_memory.h"
#include "llmc/run/roofline.h"

struct Options;

struct PlanSetup {
    ModelConfig model;
    bool cpu = false, bf16 = true, master_weights = true, own_matmul = false;
    int capability = 90, multiprocessors = 132;  // of a GPU: what its workspaces depend on
    int gpus = 1, gpus_per_node = 8;
    int64_t sequences = 1;     // of a step, all GPUs together
    bool batch_given = false;  // else more GPUs may have more sequences
    int T = 1024, B = 0;       // B: sequences of a micro-batch, 0: the largest that fits
    int recompute = 0, zero_stage = 0;
    Optimizer optimizer = Optimizer::adamw;
    StateType state_type = StateType::fp32;
    Offload offload;
    FuseUpdate fuse_update = FuseUpdate::off;
    double host_bytes = 0;                  // of a machine's memory
    std::vector<AdapterConfig> adapters;    // the one that is trained, if any
    double memory_bytes = 0;                // of a GPU
    double program_bytes = 0;               // cpu: of the process without the model
    int64_t checkpoint_every = 0;           // steps; 0: at the end alone, which needs no copy
    bool copy_checkpoints = true;           // they are written beside training, from a copy in the host's memory
    Rates rates;                            // of a GPU
    double bus = 0, network = 0, peak = 0;  // bytes/s out of a GPU, out of a machine; FLOP/s of the data sheet
    std::string rates_from;

    bool timed() const { return rates.product > 0; }                         // false: no rates are known
    int64_t own_sequences() const { return (sequences + gpus - 1) / gpus; }  // of the GPU that has most
    int64_t micro_steps() const { return (own_sequences() + B - 1) / B; }
};

StepOptions step_options(const PlanSetup& setup);
MemoryPlan plan_memory(const PlanSetup& setup);       // bytes of a GPU
HostMemory plan_host_memory(const PlanSetup& setup);  // cpu
double memory_needed(const PlanSetup& setup);         // of a GPU, or cpu: of the process
bool fits(const PlanSetup& setup);

// The largest equal split of a GPU's sequences that needs no more than `share` of its memory, or than `limit` by `demand`;
// 0: there is none. A fused update needs them all at once. With 0.8 that is what train takes when it is left the choice (memory_limit.h).
int largest_micro_batch(PlanSetup setup, double limit, const std::function<double(const PlanSetup&)>& demand);
int largest_micro_batch(const PlanSetup& setup, double share);

struct PlanStep {                      // seconds
    double total, compute, update;     // arithmetic and update: of one GPU
    double communication, not_hidden;  // of all transfers; that part for which the GPU waits
    double sent;                       // bytes that leave a GPU
    double copying, copied;            // copies from and to host memory (not part of communication): seconds, bytes
};
PlanStep predict_step(const PlanSetup& setup);

// What has to change so that it fits: the fewest of micro-batch, recomputation and ZeRO stage, and among those what
// takes the least predicted time; where none of it is enough, the fewest GPUs more.
std::optional<PlanSetup> smallest_change(const PlanSetup& setup);

// Where nothing was measured, by the GPU that is nearest to this peak; 0: a CPU's, of which only the ratio counts.
Rates nominal_rates(const ModelConfig& model, bool bf16, double peak_flops);

PlanSetup plan_setup(const Options& options);  // UsageError: what cannot be
int plan_command(const Options& options);      // prints the plan; returns the exit code
