#include "llmc/cuda/attention_decode.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(attention_decode);
LLMC_INSTANTIATE_CUDA(append_to_cache);
LLMC_INSTANTIATE_CUDA(take_last_rows);
