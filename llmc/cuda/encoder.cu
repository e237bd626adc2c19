#include "llmc/cuda/encoder.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(encoder_forward);
LLMC_INSTANTIATE_CUDA(encoder_backward);

size_t encoder_backward_workspace_bytes(int N) { return encoder_backward_workspace_bytes(N, sort_scratch_bytes(N)); }
