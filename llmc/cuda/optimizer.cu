#include "llmc/cuda/optimizer.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(optimizer_update);
LLMC_INSTANTIATE_CUDA(divide_by_norm);
LLMC_INSTANTIATE_CUDA(newton_schulz_polynomial);
LLMC_INSTANTIATE_CUDA(scaled_copy);
