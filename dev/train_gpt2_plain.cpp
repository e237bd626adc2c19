// train_gpt2 with the layers of llmc/plain/, the loops that say what a layer is: the same commands, and the losses of
// ./train_gpt2 but for rounding. For tiny models: it is hundreds of times slower.
#include "llmc/cpu/machine.h"
#include "llmc/gpt2.h"
#include "llmc/run/program.h"

template <typename X>
using PlainGPT2 = GPT2<X, PlainCpu>;

int main(int argc, char** argv) {
    return run_program<PlainGPT2, bf16>(argc, argv, {"train_gpt2_plain", "L2:H2:C64:T64", "fp32", 4 * 64});
}
