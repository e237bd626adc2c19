// From what a launch asks of a GPU to how long each part of the GPU takes over it, at the rates of a card.
#pragma once
#include "llmc/run/gpus.h"
#include "test/ptx/counters.h"

namespace ptx {

enum class Limit { issue, tensor, special, shared, l2, dram, count };
constexpr const char* kLimitNames[] = {"issue slots", "tensor cores", "MUFU", "shared memory", "L2", "DRAM"};

// A card of gpus.h, and what that has not. Of each multiprocessor and cycle: four instructions are issued, 16 special functions
// computed (CUDA C++ Programming Guide, "Arithmetic Instructions"), 128 bytes of shared memory moved (one wavefront).
struct Card {
    GpuSheet sheet;
    double clock;       // Hz, at which the sheet's fp32 rate is reached by 64 (A100) or 128 lanes, two FLOPs each
    double mma_share;   // of the tensor cores' rate that mma.sync reaches
    double l2_clock;    // bytes a cycle out of the L2 cache
    const char* notes;  // where the last two come from
};
const Card& card(const std::string& name);

// Copies reach 0.9 of the sheet's rate (plan_command.cpp, too).
constexpr double kDramShare = 0.9;
// What is not hidden behind the limiter, of the sum of the other limits' times. Fitted to one published number,
// FlashAttention-2 on an A100 (report.cu); what the others then say is in the report.
constexpr double kUnhidden = 0.30;
constexpr double kLaunchSeconds = 3e-6;  // a kernel's start and tail, in a graph

struct Times {
    double at[static_cast<int>(Limit::count)] = {};
    Limit limiter() const;
    double predicted() const;  // without kLaunchSeconds
};
// of `blocks` blocks. They go round the multiprocessors: 109 blocks take twice what 108 do on as many.
Times times(const Card& card, const Totals& t, double blocks);

}  // namespace ptx
