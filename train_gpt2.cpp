// GPT-2 / GPT-3-style models on a CPU: llmc/gpt2.h is the model and its training step, llmc/cpu/ has the layers.
//
// This is the reference that every CUDA kernel is checked against, and a trainer of its own.
#include "llmc/cpu/encoder.h"
#include "llmc/cpu/gelu.h"
#include "llmc/cpu/layernorm.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/step.h"
#include "llmc/gpt2.h"
#include "llmc/program.h"

template <typename X>
using GPT2 = GPT2On<X, Cpu>;

#ifndef TESTING
int main(int argc, char** argv) {
    return run_program<GPT2, bf16>(argc, argv, {"train_gpt2", "L6:H6:C384:T256", "fp32", 16 * 256});
}
#endif
