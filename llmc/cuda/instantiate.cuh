// At the end of a layer's .cu file: compiles it for each storage type.
#pragma once
#include "llmc/base/bf16.h"

#define LLMC_INSTANTIATE_CUDA(layer)              \
    template decltype(layer<float>) layer<float>; \
    template decltype(layer<bf16>) layer<bf16>
