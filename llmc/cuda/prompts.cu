#include "llmc/cuda/prompts.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(lstm_forward);
LLMC_INSTANTIATE_CUDA(lstm_backward);
LLMC_INSTANTIATE_CUDA(relu_forward);
LLMC_INSTANTIATE_CUDA(relu_backward);
template decltype(prompt_backward<float, float>) prompt_backward<float, float>;
template decltype(prompt_backward<bf16, float>) prompt_backward<bf16, float>;
template decltype(prompt_backward<bf16, bf16>) prompt_backward<bf16, bf16>;
