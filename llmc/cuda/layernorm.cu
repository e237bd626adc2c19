#include "llmc/cuda/layernorm.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(layernorm_forward);
LLMC_INSTANTIATE_CUDA(residual_layernorm_forward);
LLMC_INSTANTIATE_CUDA(layernorm_backward);
