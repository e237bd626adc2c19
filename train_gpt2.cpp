// GPT-2 / GPT-3-style models on a CPU: llmc/gpt2.h is the model and its training step, llmc/cpu/ has the layers.
#include "llmc/cpu/machine.h"
#include "llmc/gpt2.h"
#include "llmc/run/program.h"

template <typename X>
using CpuGPT2 = GPT2<X, Cpu>;

int main(int argc, char** argv) {
    return run_program<CpuGPT2, bf16>(argc, argv, {"train_gpt2", "L6:H6:C384:T256", "fp32", 16 * 256});
}
