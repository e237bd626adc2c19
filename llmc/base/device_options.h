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

// Whether cuDNN's attention is taken where the command line does not say. Our kernels are made of mma.sync, which on Hopper
// and the B200 reaches 0.6 of the tensor cores' rate and less; at head size 64 and T = 1024 FlashAttention-3's figure has
// cuDNN a quarter above the best that mma.sync does there (flash3_fp16_fwd.png: 288 to 229 TFLOP/s).
inline bool wants_cudnn(int capability) { return capability >= 90 && capability < 110; }
