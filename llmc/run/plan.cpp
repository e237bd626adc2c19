#include "llmc/run/plan.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include "llmc/gpt2.h"
#include "llmc/run/plan_machine.h"

// ---- the model on a machine that counts ----------------------------------------------------------------------------

StepOptions step_options(const PlanSetup& s) {
    StepOptions o;
    o.B = s.B, o.T = s.T, o.recompute = s.recompute, o.world = s.gpus, o.zero_stage = s.zero_stage;
    o.master_weights = s.master_weights, o.adapters = s.adapters, o.optimizer = s.optimizer,
    o.state_type = s.state_type, o.offload = s.offload, o.fuse_update = s.fuse_update;
    return o;
}
static void set_device(const PlanSetup& s) {
    PlannedDevice& d = planned_device();
    d.multiprocessors = s.multiprocessors, d.capability = s.capability, d.own_matmul = s.own_matmul;
    d.rates = s.rates, d.form = StepForm::program, d.ranks = s.gpus;
    d.wire = s.gpus > s.gpus_per_node ? std::min(s.bus, s.network) : s.bus;
}

template <typename X>
static MemoryPlan memory_of(const PlanSetup& s) {
    return s.cpu ? GPT2<X, PlannedCpu>::memory_plan(s.model, step_options(s))
                 : GPT2<X, PlannedGpu>::memory_plan(s.model, step_options(s));
}
MemoryPlan plan_memory(const PlanSetup& s) {
    set_device(s);
    return s.bf16 ? memory_of<bf16>(s) : memory_of<float>(s);
}
HostMemory plan_host_memory(const PlanSetup& s) {
    return host_memory({s.model, step_options(s), s.bf16, s.cpu, s.checkpoint_every > 0 && s.copy_checkpoints,
                        s.own_sequences() * s.T, 0, s.program_bytes},
                       plan_memory(s));
}
double memory_needed(const PlanSetup& s) {
    const MemoryPlan m = plan_memory(s);
    // What is known of the host's, in which the ranks of a machine have their parts: more than there is, nothing helps.
    const double host = static_cast<double>(m.host) * std::min(s.gpus, s.gpus_per_node);
    if (s.host_bytes > 0 && host > s.host_bytes) return HUGE_VAL;
    return s.cpu ? plan_host_memory(s).peak() : static_cast<double>(m.total());
}
bool fits(const PlanSetup& s) { return memory_needed(s) <= s.memory_bytes; }

int largest_micro_batch(const PlanSetup& s, double share) {
    return largest_micro_batch(s, share * s.memory_bytes, memory_needed);
}
int largest_micro_batch(PlanSetup s, double limit, const std::function<double(const PlanSetup&)>& demand) {
    int64_t own = s.own_sequences(), low = 0, high = own;  // low fits, nothing above high does
    if (s.fuse_update != FuseUpdate::off) return s.B = static_cast<int>(own), demand(s) <= limit ? s.B : 0;
    while (low < high) {
        s.B = static_cast<int>((low + high + 1) / 2);
        if (demand(s) <= limit) low = s.B;
        else high = s.B - 1;
    }
    int64_t parts = low > 0 ? (own + low - 1) / low : 1;
    return low > 0 ? static_cast<int>((own + parts - 1) / parts) : 0;
}

// One step of rank 0, which has most sequences.
template <typename X, class Machine>
static PlanClock walk_step(const ModelConfig& m, const StepOptions& o, int sequences) {
    GPT2<X, Machine> model(m, o, std::make_unique<PlanCommunicator>());
    Batch batch;
    batch.sequences = sequences, batch.T = o.T;
    StepState state;
    state.last_norm = 1;  // some steps after the first one
    model.step(batch, &state);
    return model.machine().clock();
}
PlanStep predict_step(const PlanSetup& s) {
    set_device(s);
    const int sequences = static_cast<int>(s.own_sequences());
    PlanClock c = s.bf16 ? walk_step<bf16, PlannedGpu>(s.model, step_options(s), sequences)
                         : walk_step<float, PlannedGpu>(s.model, step_options(s), sequences);
    PlanStep step{std::max(c.now, c.wire), c.compute, c.update, c.communication, 0, c.sent, c.copying, c.copied};
    step.not_hidden = s.gpus > 1 || s.offload.any() ? step.total - step.compute - step.update : 0;
    return step;
}

double step_floor_seconds(const ModelConfig& m, int B, int T, int micro_steps, bool bf16_storage, const Rates& rates,
                          StepForm form) {
    PlannedDevice before = planned_device();
    planned_device() = PlannedDevice{};
    planned_device().rates = rates, planned_device().form = form;
    StepOptions o;
    o.B = B, o.T = T;
    PlanClock c = bf16_storage ? walk_step<bf16, WholeGpu>(m, o, B * micro_steps)
                               : walk_step<float, WholeGpu>(m, o, B * micro_steps);
    planned_device() = before;
    return c.now;
}

// ---- what would fit ------------------------------------------------------------------------------------------------

// The fewest changes of `asked` that let `s`, which differs from it in the number of GPUs alone, fit.
static std::optional<PlanSetup> best_change(const PlanSetup& s, const PlanSetup& asked) {
    std::optional<PlanSetup> best;
    std::pair<int, double> best_cost;
    for (int stage = asked.zero_stage; stage <= (s.gpus > 1 ? 3 : asked.zero_stage); stage++)
        for (int level = asked.recompute; level <= 3; level++) {
            PlanSetup c = s;
            c.zero_stage = stage, c.recompute = level;
            int changes = (stage > asked.zero_stage) + (level > asked.recompute);
            if (asked.B == 0) c.B = largest_micro_batch(c, 0.8);
            else c.B = static_cast<int>(std::min<int64_t>(asked.B, c.own_sequences()));
            if (c.B == 0 || !fits(c)) c.B = largest_micro_batch(c, 1), changes++;
            if (c.B == 0) continue;
            std::pair<int, double> cost{changes, c.timed() ? predict_step(c).total : 0};
            if (!best || cost < best_cost) best = c, best_cost = cost;
        }
    return best;
}

std::optional<PlanSetup> smallest_change(const PlanSetup& asked) {
    auto with = [&](int64_t gpus) {
        PlanSetup s = asked;
        s.gpus = static_cast<int>(gpus);
        if (!s.batch_given) s.sequences = std::max(s.sequences, gpus);
        return s;
    };
    if (auto found = best_change(asked, asked)) return found;
    // More GPUs: one by one up to a whole machine, then machine by machine.
    int64_t machine = asked.gpus_per_node, whole = std::max<int64_t>(1, asked.gpus / machine) * machine;
    int64_t single = std::max<int64_t>(0, machine - asked.gpus), most = asked.batch_given ? asked.sequences : 1 << 16;
    auto gpus = [&](int64_t i) { return i <= single ? asked.gpus + i : whole + (i - single) * machine; };
    auto possible = [&](int64_t i) {
        if (gpus(i) > most) return true;  // the search ends here
        PlanSetup s = with(gpus(i));
        s.B = 1, s.recompute = 3;
        for (s.zero_stage = asked.zero_stage; s.zero_stage <= 3; s.zero_stage++)
            if (fits(s)) return true;
        return false;
    };
    int64_t low = 0, high = most;  // gpus(low) are too few
    while (high - low > 1) {
        int64_t i = (low + high) / 2;
        (possible(i) ? high : low) = i;
    }
    return gpus(high) <= most ? best_change(with(gpus(high)), asked) : std::nullopt;
}
