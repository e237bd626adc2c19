// Makes a run fit into memory, by the measures that cost least time: micro-batch, recomputation, checkpoints without a copy,
// offload, types of the optimizer's state.
//
// What the command line names stays. What changes the loss comes last, and only under a --memory-limit: nothing that changes
// arithmetic depends on what happens to be free. Times are the roofline's (plan.h): of them only ratios decide.
#pragma once
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>
#include "llmc/run/plan.h"

struct Options;
struct Run;

using MemoryDemand = std::function<double(const PlanSetup&)>;  // bytes
using Names = std::set<std::string>;                           // of options that stay

// Those that the command line names.
Names named_measures(const Options& options);
// The cheapest change of `asked` that needs at most `limit` bytes; none: nothing does.
std::optional<PlanSetup> cheapest_fit(const PlanSetup& asked, const Names& fixed, double limit,
                                      const MemoryDemand& demand);
// What was chosen and what each of it costs: "--recompute 2 saves 12.58 MB for 4.1% more time; ...". "": nothing.
std::string chosen_text(const PlanSetup& chosen, const PlanSetup& asked, const MemoryDemand& demand);
// Where nothing fits, the smallest change that does: options, or words.
std::string change_text(const PlanSetup& asked, const Names& fixed, double limit, const MemoryDemand& demand);

// Of a run that is left to itself: its setup with what was chosen, and what there is to say of that. `there_is`: bytes that
// it could have. Error: nothing fits, or --memory-limit is more than there is.
struct FittedRun {
    PlanSetup setup;
    std::vector<std::string> lines;
};
FittedRun fit_run(const Run& run, bool cpu, double peak_flops, double there_is, const MemoryDemand& demand);
