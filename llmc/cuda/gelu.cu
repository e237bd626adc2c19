#include "llmc/cuda/gelu.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(gelu_forward);
LLMC_INSTANTIATE_CUDA(gelu_backward);
LLMC_INSTANTIATE_CUDA(gelu_erf_forward);
LLMC_INSTANTIATE_CUDA(gelu_erf_backward);
