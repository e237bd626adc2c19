// Steps that others have measured and published, which `plan` is held to (test_plan.cpp) and dev/reports/kernels.md lists: llm.c's on
// eight GPUs, ZeRO stage 1, in bf16.
#pragma once
#include "llmc/run/options.h"
#include "llmc/run/plan.h"

struct PublishedStep {
    const char *model, *gpu;
    int B, tokens;
    double seconds;
    const char* source;

    double predicted() const {
        Options o;
        o.model = model, o.gpu = gpu, o.micro_batch_size = B, o.total_batch_size = tokens;
        o.gpus = 8, o.zero_stage = 1;
        return predict_step(plan_setup(o)).total;
    }
};
inline constexpr PublishedStep kPublishedSteps[] = {
    {"d12", "h100", 64, 524288, 0.139, "KellerJordan/modded-nanogpt, records/101324_llmc/README.md"},
    {"d48", "h100", 16, 1048576, 2.80, "karpathy/llm.c, scripts/run_gpt2_1558M.sh"},
    {"d12", "a100", 64, 524288, 0.300, "karpathy/llm.c, scripts/run_gpt2_124M.sh"},
    {"d24", "a100", 64, 524288, 0.820, "karpathy/llm.c, scripts/run_gpt2_350M.sh"},
    {"d36", "a100", 32, 524288, 1.70, "karpathy/llm.c, scripts/run_gpt2_774M.sh"},
};
