#include "llmc/cuda/gelu.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(gelu_forward);
LLMC_INSTANTIATE_CUDA(gelu_backward);
