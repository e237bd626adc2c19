#include "llmc/run/memory_limit.h"

#include <algorithm>
#include <cmath>
#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/cpu/host_memory.h"
#include "llmc/run/options.h"
#include "llmc/run/run.h"

// ---- measures ------------------------------------------------------------------------------------------------------

// What a run can do for less memory, in steps of more and more: level 0, and up to `most`. A further measure is a row more.
struct Measure {
    const char* option;
    bool changes_loss;
    int most;
    int (*level)(const PlanSetup&);
    void (*set)(PlanSetup&, int);
    std::string (*text)(const PlanSetup&);
};
static const Measure kMeasures[] = {
    {"recompute", false, 3, [](const PlanSetup& s) { return s.recompute; },
     [](PlanSetup& s, int level) { s.recompute = level; },
     [](const PlanSetup& s) { return strf("--recompute %d", s.recompute); }},
    {"checkpoint copy", false, 1,
     [](const PlanSetup& s) { return s.checkpoint_every > 0 && s.copy_checkpoints ? 0 : 1; },
     [](PlanSetup& s, int level) { s.copy_checkpoints = level == 0; },
     [](const PlanSetup&) {
         return std::string("checkpoints without a copy (training waits while they are written)");
     }},
    {"fuse-update", false, 1,  // last-norm changes the loss: only the command line chooses it
     [](const PlanSetup& s) { return s.fuse_update == FuseUpdate::off ? 0 : 1; },
     [](PlanSetup& s, int level) {  // a step is one micro-batch then
         const bool has_place = s.B == 0 || s.B >= s.own_sequences();
         s.fuse_update = level > 0 && has_place ? FuseUpdate::two_passes : FuseUpdate::off;
     },
     [](const PlanSetup&) { return std::string("--fuse-update two-passes"); }},
    {"offload", false, 5,
     [](const PlanSetup& s) {
         const Offload& o = s.offload;
         return o.gradients ? 5 : o.weights ? 4 : o.activations ? 3 : o.masters ? 2 : o.optimizer ? 1 : 0;
     },
     [](PlanSetup& s, int level) {  // what of it has a place (check_offload)
         if (s.cpu) return;
         const bool alone = s.gpus == 1;
         s.offload = {level >= 1, level >= 2 && s.bf16 && s.master_weights,
                      level >= 5 && alone && s.adapters.empty() && s.optimizer != Optimizer::muon &&
                          s.fuse_update == FuseUpdate::off,
                      level >= 3 && s.recompute == 3, level >= 4 && (alone || s.zero_stage == 3)};
     },
     [](const PlanSetup& s) { return "--offload " + offload_text(s.offload); }},
    {"state-type", true, 2, [](const PlanSetup& s) { return static_cast<int>(s.state_type); },
     [](PlanSetup& s, int level) { s.state_type = static_cast<StateType>(level); },
     [](const PlanSetup& s) { return "--state-type " + kStateTypes[static_cast<size_t>(s.state_type)]; }},
};

// Seconds of a step. A checkpoint that is not copied is written while training waits, at a disk's 1 GB/s.
static double seconds_of(const PlanSetup& s) {
    double seconds = s.timed() ? predict_step(s).total : 0;
    if (s.checkpoint_every > 0 && !s.copy_checkpoints)
        seconds +=
            1e-9 * checkpoint_copy_bytes(s.model, step_options(s), s.bf16) / static_cast<double>(s.checkpoint_every);
    return seconds;
}

// How many levels of what changes the loss `s` has more than was asked for, and then its time.
using Cost = std::pair<int, double>;
static Cost cost_of(const PlanSetup& s, const PlanSetup& asked) {
    int loss = 0;
    for (const Measure& m : kMeasures) loss += m.changes_loss ? m.level(s) - m.level(asked) : 0;
    return {loss, seconds_of(s)};
}

Names named_measures(const Options& o) {
    Names names;
    for (const char* option : {"micro-batch-size", "recompute", "offload", "state-type", "fuse-update"})
        if (o.was_given(option)) names.insert(option);
    // what does not, or not all of it, go with that
    if (o.new_rows_first > 0) names.merge(Names{"offload", "fuse-update"});
    if (!o.text.empty() || offload_of(o).gradients) names.insert("fuse-update");
    return names;
}

std::optional<PlanSetup> cheapest_fit(const PlanSetup& asked, const Names& fixed, double limit,
                                      const MemoryDemand& demand) {
    std::optional<PlanSetup> best;
    Cost best_cost;
    const std::function<void(PlanSetup, size_t)> choose = [&](PlanSetup s, size_t measure) {
        if (measure < std::size(kMeasures)) {
            const Measure& m = kMeasures[measure];
            const int from = m.level(asked);
            for (int level = from; level <= (fixed.count(m.option) ? from : m.most); level++) {
                if (level != m.level(s)) m.set(s, level);
                if (level == m.level(s)) choose(s, measure + 1);  // else it has no place
            }
            return;
        }
        if (!fixed.count("micro-batch-size")) s.B = largest_micro_batch(s, limit, demand);
        if (s.B == 0 || demand(s) > limit) return;
        const Cost cost = cost_of(s, asked);
        if (!best || cost < best_cost) best = s, best_cost = cost;
    };
    choose(asked, 0);
    return best;
}

std::string chosen_text(const PlanSetup& chosen, const PlanSetup& asked, const MemoryDemand& demand) {
    std::string text;
    const double seconds = seconds_of(chosen), bytes = demand(chosen);
    const auto add = [&](const std::string& what, const PlanSetup& without, bool changes_loss) {
        const double more = seconds_of(without) > 0 ? 100 * (seconds / seconds_of(without) - 1) : 0;
        const double saved = demand(without) - bytes;  // infinite: the host has too little without it
        text += strf("%s%s saves %s for %.1f%% %s time%s", text.empty() ? "" : "; ", what.c_str(),
                     std::isfinite(saved) ? human_bytes(saved).c_str() : "what the host has not", std::abs(more),
                     more < 0 ? "less" : "more", changes_loss ? ", and changes the loss a little" : "");
    };
    PlanSetup whole = chosen;
    whole.B = static_cast<int>(asked.B > 0 ? asked.B : asked.own_sequences());
    if (chosen.B != whole.B) add(strf("--micro-batch-size %d", chosen.B), whole, false);
    for (const Measure& m : kMeasures) {
        PlanSetup without = chosen;
        m.set(without, m.level(asked));
        if (m.level(chosen) != m.level(asked)) add(m.text(chosen), without, m.changes_loss);
    }
    return text;
}

std::string change_text(const PlanSetup& asked, const Names& fixed, double limit, const MemoryDemand& demand) {
    const auto changes = [&](const PlanSetup& to) {
        std::string text;
        if (to.B != asked.B && fixed.count("micro-batch-size")) text += strf(" --micro-batch-size %d", to.B);
        for (const Measure& m : kMeasures)
            if (m.level(to) != m.level(asked) && fixed.count(m.option)) text += " " + m.text(to);
        return text.substr(1);
    };
    // one of what the command line names, else all of it
    std::optional<PlanSetup> best;
    for (const std::string& name : fixed) {
        Names others = fixed;
        others.erase(name);
        const auto found = cheapest_fit(asked, others, limit, demand);
        if (found && (!best || cost_of(*found, asked) < cost_of(*best, asked))) best = found;
    }
    if (!best) best = cheapest_fit(asked, {}, limit, demand);
    if (best) return "it fits with " + changes(*best);
    // then everything at its least, and shorter sequences or more memory
    PlanSetup least = asked;
    const bool fused = asked.fuse_update != FuseUpdate::off;
    least.B = fused ? static_cast<int>(asked.own_sequences()) : 1;
    for (const Measure& m : kMeasures) m.set(least, m.most);
    const std::string more = "it needs " + human_bytes(demand(least)) + " at the least";
    for (int T = asked.T / 2; T >= 16; T /= 2) {
        PlanSetup shorter = asked;
        shorter.T = T, shorter.sequences = asked.sequences * asked.T / T, shorter.B = 0;
        if (cheapest_fit(shorter, {}, limit, demand)) return more + strf("; it fits with --seq-len %d", T);
    }
    return more + "; give it so much, or a smaller --model" + (fused ? " or --total-batch-size (-d)" : "");
}

// ---- of a run ------------------------------------------------------------------------------------------------------

static PlanSetup setup_of(const Run& run, bool cpu, double peak_flops) {
    const Options& o = run.options;
    PlanSetup s;
    s.model = run.config, s.cpu = cpu, s.bf16 = run.bf16, s.master_weights = o.master_weights;
    s.gpus = run.world, s.gpus_per_node = std::max(1, run.world), s.bus = 1e11;
    s.sequences = run.rows_of_update(), s.T = run.T, s.B = o.micro_batch_size;
    s.recompute = o.recompute, s.zero_stage = o.zero_stage;
    s.optimizer = optimizer_of(o), s.state_type = state_type_of(o), s.offload = offload_of(o);
    s.fuse_update = fuse_update_of(o);
    for (const AdapterInfo& adapter : run.adapters) s.adapters.push_back(adapter.config);
    s.rates = nominal_rates(s.model, s.bf16, peak_flops);
    s.checkpoint_every = o.checkpoint_every > 0 ? o.checkpoint_every : run.keeps_best() ? o.val_every : 0;
    return s;
}

FittedRun fit_run(const Run& run, bool cpu, double peak_flops, double there_is, const MemoryDemand& demand) {
    const Options& o = run.options;
    const bool limited = !o.memory_limit.empty();
    const double given = limited ? parse_memory_limit(o.memory_limit) : there_is;
    if (given > there_is)
        throw Error(strf("--memory-limit %s is more than there is: %s of %s memory are free; give at most that",
                         o.memory_limit.c_str(), human_bytes(there_is).c_str(), cpu ? "this machine's" : "the GPU's"));
    FittedRun fitted{setup_of(run, cpu, peak_flops), {}};
    const PlanSetup asked = fitted.setup;
    Names fixed = named_measures(o);
    if (!run.resume_from.empty())
        fixed.merge(Names{"micro-batch-size", "recompute", "state-type", "fuse-update"});  // as it began
    if (asked.B == 0) fixed.erase("micro-batch-size");
    if (!limited) fixed.insert("state-type");
    // What is free may soon be less, for others want memory, too.
    const double limit = limited || fixed.count("micro-batch-size") ? given : 0.8 * given;
    const auto found = cheapest_fit(asked, fixed, limit, demand);
    if (!found) {
        PlanSetup first = asked;
        first.B = std::max(1, asked.B);
        throw Error(strf("not enough memory: %d sequence(s) of %d tokens at a time need %s, and the limit is %s; %s",
                         first.B, run.T, human_bytes(demand(first)).c_str(), human_bytes(limit).c_str(),
                         change_text(asked, fixed, limit, demand).c_str()));
    }
    fitted.setup = *found;
    // micro-batches alone, of what is free, are said in the line of the batch
    const bool other = std::any_of(std::begin(kMeasures), std::end(kMeasures),
                                   [&](const Measure& m) { return m.level(*found) != m.level(asked); });
    if (!limited && !other) return fitted;
    const std::string text = chosen_text(*found, asked, demand);
    fitted.lines.push_back(
        strf("memory limit: %s; %s", human_bytes(limit).c_str(), text.empty() ? "all fits as it is" : text.c_str()));
    return fitted;
}
