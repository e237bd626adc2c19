// GPT-2 / GPT-3-style models on an NVIDIA GPU: llmc/gpt2.h is the model and its training step, llmc/cuda/ has the kernels.
#include "llmc/cuda/machine.cuh"
#include "llmc/gpt2.h"
#include "llmc/run/program.h"

template <typename X>
using CudaGPT2 = GPT2<X, Gpu>;

int main(int argc, char** argv) {
    return run_program<CudaGPT2, bf16>(argc, argv, {"train_gpt2cu", "d12", "bf16", 524288});
}
