// GPT-2 / GPT-3-style models on an NVIDIA GPU: llmc/gpt2.h is the model and its training step, llmc/*.cuh the kernels.
#include "llmc/classifier.cuh"
#include "llmc/dropout.cuh"
#include "llmc/gelu.cuh"
#include "llmc/machine.cuh"
#include "llmc/step.cuh"
#include "llmc/gpt2.h"
#include "llmc/program.h"

template <typename X>
using GPT2 = GPT2On<X, Gpu>;

#ifndef TESTING
int main(int argc, char** argv) { return run_program<GPT2, bf16>(argc, argv, {"train_gpt2cu", "d12", "bf16", 524288}); }
#endif
