#include "llmc/cuda/distill_loss.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(distill_loss);
