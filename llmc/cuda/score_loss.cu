#include "llmc/cuda/score_loss.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(score_loss);
