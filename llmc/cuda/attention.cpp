#include "llmc/cuda/attention.cuh"
#include "llmc/cuda/instantiate.cuh"

LLMC_INSTANTIATE_CUDA(attention_forward);
LLMC_INSTANTIATE_CUDA(attention_backward);

size_t attention_forward_workspace_bytes([[maybe_unused]] const AttentionShape& s) {
#ifdef USE_CUDNN
    if (attention_cudnn_supports(s, false)) return attention_cudnn_workspace_bytes(s, false);
#endif
    return 0;
}
size_t attention_backward_workspace_bytes(const AttentionShape& s) {
    size_t bytes = attention_own_backward_workspace_bytes(s);
#ifdef USE_CUDNN
    if (attention_cudnn_supports(s, true)) bytes = std::max(bytes, attention_cudnn_workspace_bytes(s, true));
#endif
    return bytes;
}
