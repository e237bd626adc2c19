#include "llmc/cuda/attention.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(attention_forward);
LLMC_INSTANTIATE_CUDA(attention_backward);

size_t attention_forward_workspace_bytes(const AttentionShape& s) {
    return attention_is_cudnn<bf16>(s, nullptr, {}) ? attention_cudnn_workspace_bytes(s, false) : 0;
}
size_t attention_backward_workspace_bytes(const AttentionShape& s) {
    const size_t bytes = attention_own_backward_workspace_bytes(s);
    return attention_is_cudnn<bf16>(s, nullptr, {}) ? std::max(bytes, attention_cudnn_workspace_bytes(s, true)) : bytes;
}
