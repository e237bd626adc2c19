#include "llmc/cuda/classifier.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(fused_classifier);
