#include "llmc/cuda/adamw.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(adamw_update);
