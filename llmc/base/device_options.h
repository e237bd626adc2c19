// What a user may choose about the device that a model runs on. A CPU has none of these choices.
#pragma once
#include <string>

struct DeviceOptions {
    std::string matmul = "cublaslt";  // cublaslt|own: NVIDIA's library, or the kernels of matmul_own.cuh
    std::string attention = "auto";   // of bf16, auto|own|cudnn; auto: the machine says
    std::string algorithms =
        "timed";                   // of cuBLASLt, timed|first: by the clock in a run's first step, or the heuristic's
    std::string timed_algorithms;  // what was timed, as checkpoints record it (llmc/cuda/cublaslt_choice.h)
    bool tf32 = true;              // fp32 products may round their operands to TF32
    int gelu_fusion = -1;  // GELU in bf16 products' epilogues: 0 no, 1 forward, 2 and backward; -1: the machine says
};
