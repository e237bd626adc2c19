#include "llmc/cuda/dropout.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(dropout_apply);
