#include "llmc/cuda/encoder.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(encoder_forward);
LLMC_INSTANTIATE_CUDA(encoder_backward);
